"""Series of numbers: padding to one array, and the mean and standard deviation of features."""

from collections.abc import Iterable, Sequence

import numpy as np


def pad(series: Sequence[np.ndarray], steps: int, truncation: str = 'pre') -> dict[str, np.ndarray]:
  """Pads or truncates series `[T, D]` of any lengths T to `steps`.

  Returns 'xs', float32 `[N, steps, D]`, with zeros after the end of a series, and 'lengths', int32
  `[N]`: how many steps of each series are kept. A series of more than `steps` loses its first ones
  if truncation is 'pre', its last ones if 'post'; another truncation raises ValueError.
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
  """Mean and standard deviation of each feature over all steps of all series, float64 `[D]`.

  For a feature that never changes the deviation is given as 1, so that it can be divided by.

  series: arrays `[T, D]`.
  """
  steps = np.concatenate([np.asarray(one, np.float64) for one in series])
  mean, std = steps.mean(axis=0), steps.std(axis=0)
  # By rounding, equal numbers can have a deviation that is not quite 0.
  return mean, np.where(std > 1e-12 * np.abs(mean), std, 1.0)
