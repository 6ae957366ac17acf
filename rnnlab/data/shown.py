"""Examples for people to read, reconstructed from the inputs of a model."""

from typing import Any

import numpy as np

from rnnlab.data.base import Dataset
from rnnlab.data.text import FIRST_WORD, START

LETTERS, POINTS, FEATURES = 300, 64, 3  # of a text, and of a series, that are shown


def shown(dataset: Dataset, rows: np.ndarray) -> list[Any]:
  """Examples of the test split, a text or the list of a series' features, each a list of numbers.

  rows: int `[K]`, which examples. A text is made of its tokens, with … for a word out of
  vocabulary, and cut to LETTERS. A series is thinned to POINTS steps of its first FEATURES
  features. Examples of another kind are ''.
  """
  if dataset.shown:
    return [text[:LETTERS] for text in dataset.shown(rows)]
  inputs = dataset.splits['test']['inputs']
  if isinstance(inputs, dict) and {'xs', 'lengths'} <= {*inputs}:
    pairs = zip(inputs['xs'][rows], inputs['lengths'][rows], strict=True)
    return [_series(np.asarray(xs)[:length]) for xs, length in pairs]
  if dataset.vocabulary and getattr(inputs, 'ndim', 0) == 2:
    kind = dataset.encoding.get('tokens')
    return [_text(ids, dataset.vocabulary, kind) for ids in inputs[rows]]
  return [''] * len(rows)


def _series(xs):
  if not len(xs):
    return []
  steps = np.unique(np.linspace(0, len(xs) - 1, POINTS).astype(int))
  return [[float(f'{x:.4g}') for x in xs[steps, d]] for d in range(min(FEATURES, xs.shape[1]))]


def _text(ids, vocabulary, kind):
  known = [int(i) - FIRST_WORD for i in ids if i not in (0, START)]
  words = [vocabulary[i] if 0 <= i < len(vocabulary) else '…' for i in known]
  if kind == 'bytes':
    parts = (word.encode() if word == '…' else bytes.fromhex(word) for word in words)
    text = b''.join(parts).decode(errors='replace')
  else:
    text = ('' if kind == 'characters' else ' ').join(words)
  return text if len(text) <= LETTERS else text[: LETTERS - 1] + '…'
