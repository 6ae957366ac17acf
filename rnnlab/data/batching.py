"""From ragged sequences to arrays."""

from collections.abc import Sequence

import numpy as np


def pad(
  sequences: Sequence[Sequence[int]], max_len: int, padding: str = 'pre', truncation: str = 'pre'
) -> np.ndarray:
  """Sequences as rows of an int32 array [N, max_len], filled up with 0.

  `padding` and `truncation` say where zeros go and ids are dropped: 'pre' at the start, 'post' at
  the end. Raises ValueError for any other word, for a max_len that is not an integer or below 1,
  and for rows that do not fit into memory.
  """
  for name, value in (('padding', padding), ('truncation', truncation)):
    if value not in ('pre', 'post'):
      raise ValueError(f"{name} must be 'pre' or 'post', not {value!r}.")
  if not isinstance(max_len, int | np.integer) or isinstance(max_len, bool):
    raise ValueError(f'max_len must be an integer, not {max_len!r}.')
  if max_len < 1:
    raise ValueError(f'max_len must be at least 1, not {max_len}.')
  try:
    padded = np.zeros((len(sequences), max_len), np.int32)
  except (MemoryError, ValueError, OverflowError):  # depending on how much too large it is
    raise ValueError(
      f'max_len={max_len:,} is too long: {len(sequences):,} rows would take'
      f' {4e-9 * len(sequences) * max_len:,.0f} GB of memory.'
    ) from None
  for row, ids in zip(padded, sequences, strict=True):
    ids = ids[-max_len:] if truncation == 'pre' else ids[:max_len]
    start = max_len - len(ids) if padding == 'pre' else 0
    row[start : start + len(ids)] = ids
  return padded


def widths(lengths: np.ndarray, count: int) -> tuple[int, ...]:
  """Up to `count` widths for rows of these `lengths` (int [N]), where a row uses the next width up.

  Ascending; the last is the longest row's length, at least 1. Of all such widths, the ones with
  which the rows take the fewest steps in total. Raises ValueError for count below 1 and for no
  rows.
  """
  if count < 1 or not len(lengths):
    raise ValueError(f'there must be a width and a row: count={count}, {len(lengths)} rows')
  values, rows = np.unique(np.maximum(lengths, 1), return_counts=True)
  values, below = np.append(0, values), np.append(0, np.cumsum(rows))
  # bucket[i, j]: the steps of one bucket for the rows longer than values[i], up to values[j].
  bucket = np.where(values[:, None] <= values, (below - below[:, None]) * values, np.inf)
  steps, starts = bucket[0], []  # of the best buckets for the rows up to values[j]
  for _ in range(count - 1):
    several = steps[:, None] + bucket
    starts.append(several.argmin(axis=0))
    steps = several.min(axis=0)
  chosen, end = [], len(values) - 1
  for start in [*reversed(starts), np.zeros(len(values), int)]:
    if start[end] < end:
      chosen.append(int(values[end]))
    end = start[end]
  return tuple(reversed(chosen))
