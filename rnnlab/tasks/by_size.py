"""How large strings may be that a model has right at every step: the figure and the curve.

Of problems that ask for sets: outputs, log-odds `[N, T, S]`; targets, bool `[N, T, S]`; mask, bool
`[N, T]`, the steps that count; size, int32 `[N]`, how large a string is in its problem's measure.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rnnlab.tasks.base import Panel

POINTS = 50  # of a curve, at most


def right(outputs: Any, arrays: Mapping[str, Any]) -> Any:
  """Whether each string's set is the true one at each of its steps, bool `[N]`."""
  steps = ((outputs > 0) == arrays['targets']).all(axis=-1)
  return (steps | ~arrays['mask']).all(axis=-1)


def score(outputs: Any, split: Mapping[str, Any]) -> dict[str, Any]:
  """The greatest size up to which all strings of a split are right, 0 where there is none."""
  import jax.numpy as jnp

  size = split['size']
  wrong = jnp.where(right(outputs, split), jnp.inf, size).min()
  return {'right_up_to': jnp.where(size < wrong, size, 0).max().astype(jnp.float32)}


def panels(predictions: Sequence[Mapping[str, Any]], encoding: Mapping[str, Any]) -> list[Panel]:
  """The share of strings that are right by their size, of all runs together."""
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
    'y_label': 'share that is right',
  }
  caption = (
    'The strings of the test split by their size, of all seeds together. A string is right if, at'
    ' each of its steps, the symbols that the model takes for possible are those that are. Below is'
    ' how many strings a point stands for.'
  )
  return [Panel('curve', 'Strings that are right by their size', caption, data)]
