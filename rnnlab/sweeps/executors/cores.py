"""One run after another, each on all cores, with its batch split over them."""

import contextlib
from collections.abc import Callable, Generator

import jax

from rnnlab.machine import devices
from rnnlab.machine.disk import AnyPath
from rnnlab.runs.configs import RunSpec
from rnnlab.runs.run import Event
from rnnlab.sweeps.executors import serial


def execute(
  runs: list[RunSpec], workdir: AnyPath, stop: Callable[[], bool] = lambda: False
) -> Generator[Event, None, None]:
  """Does `runs` in order; see `rnnlab.sweeps.executors`. Call `devices.use_cores` before it."""
  mesh = devices.mesh()
  with contextlib.closing(serial.execute(runs, workdir, stop)) as events:
    while True:
      with jax.set_mesh(mesh):
        event = next(events, None)
      if event is None:
        return
      yield event
