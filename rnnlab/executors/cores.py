"""One run after the other, each on all cores: the batch is split over them."""

import contextlib
from collections.abc import Callable, Iterator

import jax

from rnnlab import devices
from rnnlab.configs import RunSpec
from rnnlab.executors import serial
from rnnlab.experiment import Event


def execute(
  runs: list[RunSpec], workdir, stop: Callable[[], bool] = lambda: False
) -> Iterator[Event]:
  """Does `runs` in order; see `rnnlab.executors`. After `devices.use_cores`."""
  mesh = devices.mesh()
  with contextlib.closing(serial.execute(runs, workdir, stop)) as events:
    while True:
      with jax.set_mesh(mesh):
        event = next(events, None)
      if event is None:
        return
      yield event
