"""Ragged sequences to arrays."""

from collections.abc import Sequence

import numpy as np


def pad(
  sequences: Sequence[Sequence[int]], max_len: int, padding: str = 'pre', truncation: str = 'pre'
) -> np.ndarray:
  """Sequences as rows of an int32 array [N, max_len], 0 where a sequence is shorter.

  `padding` and `truncation` say where zeros go and ids are dropped: 'pre' in front, 'post' behind.
  Raises ValueError for any other word and for max_len below 1.
  """
  for name, value in (('padding', padding), ('truncation', truncation)):
    if value not in ('pre', 'post'):
      raise ValueError(f"{name} must be 'pre' or 'post', not {value!r}.")
  if max_len < 1:
    raise ValueError(f'max_len must be at least 1, not {max_len}.')
  padded = np.zeros((len(sequences), max_len), np.int32)
  for row, ids in zip(padded, sequences, strict=True):
    ids = ids[-max_len:] if truncation == 'pre' else ids[:max_len]
    start = max_len - len(ids) if padding == 'pre' else 0
    row[start : start + len(ids)] = ids
  return padded
