"""A long series cut into windows, each with the values that follow it."""

from collections.abc import Mapping

import numpy as np

from rnnlab.data import DataError
from rnnlab.data.base import Examples


def windows(
  inputs: np.ndarray, targets: np.ndarray, rows: np.ndarray, window: int, horizon: int, each: bool
) -> Examples:
  """All windows of `window` steps, with the targets `horizon` steps later.

  inputs: float `[R, D]`. targets: float `[R, V]`.
  rows: the place of each step in its source, int `[R]`.
  each: whether there are targets for every step of a window, `[window, V]`, or its last, `[V]`.

  The rows of the examples are those of their first steps.
  """
  starts = range(len(inputs) - window - horizon + 1)
  ends = [start + window for start in starts]
  wanted = [
    targets[start + horizon : end + horizon] if each else targets[end + horizon - 1]
    for start, end in zip(starts, ends, strict=True)
  ]
  found = [inputs[start:end] for start, end in zip(starts, ends, strict=True)]
  return Examples(found, wanted, rows[: len(starts)])


def by_time(steps: int, fractions: Mapping[str, float]) -> dict[str, slice]:
  """Cuts `steps` steps in time: the train part first, then those of `fractions`, in order.

  Raises DataError if a part would be empty.
  """
  ends, end = {}, steps
  for name, fraction in reversed([*fractions.items()]):
    ends[name] = slice(end - round(fraction * steps), end)
    end = ends[name].start
  parts = {'train': slice(0, end), **{name: ends[name] for name in fractions}}
  for name, part in parts.items():
    if part.stop <= part.start:
      raise DataError(f'none of the {steps:,} steps are left for {name}')
  return parts
