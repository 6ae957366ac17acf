"""Cuts examples into those that are drawn and the others."""

import hashlib
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np


def draw(keys: Sequence[Any], size: int, seed: int, strata: np.ndarray | None = None) -> np.ndarray:
  """Which of N examples are drawn, bool `[N]`: `size` of them, or somewhat fewer.

  The draw orders keys by a hash of seed and key, so it depends neither on the order that a source
  has nor on a library's random stream.

  keys: what tells examples apart, as their text or the group that they are of: those of one key
    are drawn together or not at all.
  strata: int `[N]` from 0 on, of which each has its share among those that are drawn.
  """
  strata = np.zeros(len(keys), np.int64) if strata is None else strata
  size = min(size, len(keys))
  counts = np.bincount(strata, minlength=2)
  quota, remainder = np.divmod(size * counts, max(len(keys), 1))
  quota[np.argsort(-remainder, kind='stable')[: size - quota.sum()]] += 1
  hashes = [hashlib.sha256(f'{seed} {key}'.encode()).digest() for key in keys]
  drawn = np.zeros(len(keys), bool)
  order = sorted(range(len(keys)), key=hashes.__getitem__)
  for _, group in itertools.groupby(order, key=hashes.__getitem__):
    group = list(group)
    stratum = strata[group[0]]
    if len(group) <= quota[stratum]:
      quota[stratum] -= len(group)
      drawn[group] = True
  return drawn
