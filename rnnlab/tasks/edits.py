"""Error rates of texts, by the edits that would make them right; on the host.

The score of a whole split comes from sums over its sentences, so a bootstrap only has to add up
other rows of `statistics`: `score(statistics(hypotheses, references)[rows].sum(axis=0))`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np


def statistics(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
  """What `score` needs of each sentence: int64 `[N, 4]`.

  The edits of a sentence, the length of its reference, whether it is wrong at all, and 1. If there
  are several references, the first of those with the fewest edits counts.

  hypotheses: N texts, whose tokens are separated by white space. references: for each, its right
    texts, at least one, in the same form.
  """
  flat = [(row, one.split()) for row, right in enumerate(references) for one in right]
  tokens = [text.split() for text in hypotheses]
  edits = distances([tokens[row] for row, _ in flat], [one for _, one in flat])
  found = np.zeros((len(tokens), 4), np.int64)
  found[:, 3] = 1
  best = [-1] * len(tokens)
  for (row, one), count in zip(flat, edits.tolist(), strict=True):
    if best[row] < 0 or count < best[row]:
      best[row] = count
      found[row, :3] = count, len(one), count > 0
  if without := [row for row, count in enumerate(best) if count < 0]:
    raise ValueError(f'the sentence at position {without[0]}, counted from 0, has no reference')
  return found


def score(sums: Any) -> tuple[Any, Any]:
  """The error rate of tokens, edits per reference token, and that of sentences; as shares.

  For phonemes these are the phoneme and the word error rate. sums: of rows of `statistics`,
  `[4]`, or several such sums, `[M, 4]`.
  """
  edits, tokens, wrong, sentences = np.moveaxis(np.asarray(sums, float), -1, 0)
  return edits / np.maximum(tokens, 1), wrong / np.maximum(sentences, 1)


def distances(
  hypotheses: Sequence[Sequence[str]], references: Sequence[Sequence[str]]
) -> np.ndarray:
  """The fewest tokens to insert, delete or replace (Levenshtein 1966), for N pairs: int `[N]`."""
  id_of: dict[str, int] = {}
  ours, right = (_padded(texts, id_of, gap) for texts, gap in ((hypotheses, -1), (references, -2)))
  lengths = np.array([*map(len, hypotheses)], int)
  places = np.arange(right.shape[1] + 1)
  row = np.tile(places, (len(ours), 1))  # from the empty text to each prefix of the right one
  for step in range(ours.shape[1]):
    replaced = row[:, :-1] + (ours[:, step, None] != right)
    new = np.concatenate([row[:, :1] + 1, np.minimum(row[:, 1:] + 1, replaced)], axis=1)
    # Insertions: the minimum of new[k] + j - k over k up to j.
    new = np.minimum.accumulate(new - places, axis=1) + places
    row = np.where((step < lengths)[:, None], new, row)
  return row[np.arange(len(row)), [*map(len, references)]]


def _padded(texts, id_of, gap):
  ids = np.full((len(texts), max(map(len, texts), default=0)), gap)
  for row, text in zip(ids, texts, strict=True):
    row[: len(text)] = [id_of.setdefault(token, len(id_of)) for token in text]
  return ids
