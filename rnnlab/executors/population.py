"""Runs that differ in numbers alone train as one program: see `rnnlab.population`."""

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator

import jax
import numpy as np

from rnnlab import configs, experiment, population
from rnnlab.configs import RunSpec
from rnnlab.executors import serial
from rnnlab.experiment import Event


def execute(
  runs: list[RunSpec], workdir, stop: Callable[[], bool] = lambda: False
) -> Iterator[Event]:
  """Does `runs`, group by group; see `rnnlab.executors`. After `devices.use_cores`.

  A run's seconds are its share of its group's.
  """
  for group in groups(runs):
    while group:
      if stop():
        raise KeyboardInterrupt
      events = _train(group, workdir, stop)
      group = yield from events


def groups(runs: list[RunSpec]) -> list[list[RunSpec]]:
  """The runs that share a program, in the order of their first."""
  found = {}
  for spec in runs:
    shape, _ = configs.split(spec.config)
    found.setdefault(shape, []).append(spec)
  return list(found.values())
