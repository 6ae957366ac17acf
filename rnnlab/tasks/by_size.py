"""Up to which size of string a model is right at every step: the metric and the curve.

For problems that ask for sets: outputs, log-odds `[N, T, S]`; targets, bool `[N, T, S]`; mask, bool
`[N, T]`, the steps that count; size, int32 `[N]`, the size of a string in its problem's measure.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rnnlab.tasks.base import Panel

POINTS = 50  # of a curve, at most


def right(outputs: Any, arrays: Mapping[str, Any]) -> Any:
  """Whether the predicted set of each string is the true one at every step, bool `[N]`."""
  steps = ((outputs > 0) == arrays['targets']).all(axis=-1)
  return (steps | ~arrays['mask']).all(axis=-1)


def score(outputs: Any, split: Mapping[str, Any]) -> dict[str, Any]:
  """The greatest size up to which all strings of a split are right, 0 if there is none."""
  import jax.numpy as jnp

  size = split['size']
  wrong = jnp.where(right(outputs, split), jnp.inf, size).min()
  return {'right_up_to': jnp.where(size < wrong, size, 0).max().astype(jnp.float32)}


def panels(predictions: Sequence[Mapping[str, Any]], encoding: Mapping[str, Any]) -> list[Panel]:
  """The share of right strings by size, over all runs together."""
  del encoding
  if 'size' not in predictions[0]:
    return []
  sizes = np.concatenate([of['size'] for of in predictions])
  found = np.concatenate([right(of.get('best', of['final']), of) for of in predictions])
  there = np.unique(sizes)
  groups = np.array_split(there, min(len(there), POINTS))
  place = np.searchsorted([group[-1] for group in groups], sizes)
  counts = np.bincount(place)
  data = {
    'x': np.array([group.mean() for group in groups]),
    'y': np.bincount(place, found) / counts,
    'counts': counts,
    'counted': 'strings',
    'x_label': 'size of the string',
    'y_label': 'share of right strings',
  }
  caption = (
    'The strings of the test split by size, over all seeds together. A string is right if, at every'
    ' step, the symbols that the model considers possible are exactly those that are. Below is the'
    ' number of strings behind each point.'
  )
  return [Panel('curve', 'Strings that are right by their size', caption, data)]
