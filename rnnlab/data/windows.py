"""A long series cut into windows, each with what follows it."""

from collections.abc import Mapping

import numpy as np

from rnnlab.data import DataError
from rnnlab.data.base import Examples


def windows(
  inputs: np.ndarray, targets: np.ndarray, rows: np.ndarray, window: int, horizon: int, each: bool
) -> Examples:
  """All windows of `window` steps, with the targets `horizon` steps on.

  inputs: float `[R, D]`. targets: float `[R, V]`.
  rows: where each step is in its source, int `[R]`.
  each: whether there are targets for each step of a window, `[window, V]`, not for its last, `[V]`.

  Of the examples, rows are those of their first steps.
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
  """Cuts `steps` steps in time: the train part first, then those of `fractions`, in their order.

  Raises DataError where a part would be empty.
  """
  ends, end = {}, steps
  for name, fraction in reversed([*fractions.items()]):
    ends[name] = slice(end - round(fraction * steps), end)
    end = ends[name].start
  parts = {'train': slice(0, end), **{name: ends[name] for name in fractions}}
  for name, part in parts.items():
    if part.stop <= part.start:
      raise DataError(f'of {steps:,} steps none are left for {name}')
  return parts
