"""Series of numbers as arrays, and their scale."""

from collections.abc import Iterable, Sequence

import numpy as np


def pad(series: Sequence[np.ndarray], steps: int, truncation: str = 'pre') -> dict[str, np.ndarray]:
  """Arrays `[T, D]` of any lengths T as 'xs', float32 `[N, steps, D]`, and 'lengths', int32 `[N]`.

  Padding is 0, at the end. Longer series lose steps at the start ('pre') or the end ('post').
  Raises ValueError for another word.
  """
  if truncation not in ('pre', 'post'):
    raise ValueError(f"truncation must be 'pre' or 'post', not {truncation!r}")
  features = series[0].shape[-1] if len(series) else 0
  xs = np.zeros((len(series), steps, features), np.float32)
  lengths = np.array([min(len(one), steps) for one in series], np.int32)
  for row, one, length in zip(xs, series, lengths, strict=True):
    row[:length] = one[len(one) - length :] if truncation == 'pre' else one[:length]
  return {'xs': xs, 'lengths': lengths}


def scale_of(series: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
  """The mean and the standard deviation of each feature over all steps, float64 `[D]`.

  The deviation of a feature that never changes is returned as 1.

  series: arrays `[T, D]`.
  """
  steps = np.concatenate([np.asarray(one, np.float64) for one in series])
  mean, std = steps.mean(axis=0), steps.std(axis=0)
  # For equal numbers the mean, and so the deviation, may be off by rounding.
  return mean, np.where(std > 1e-12 * np.abs(mean), std, 1.0)
