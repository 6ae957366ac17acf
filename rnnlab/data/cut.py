"""Which examples train, which choose an epoch, and which test."""

import hashlib
import itertools
from collections.abc import Sequence

import numpy as np


def draw(keys: Sequence[str], labels: np.ndarray, size: int, seed: int) -> np.ndarray:
  """Draws `size` of N examples, with each label in proportion to its share.

  Examples with equal keys are drawn together or not at all, and count for the label of the first of
  them, so there may be fewer: far fewer if many share a key and their labels differ. The draw
  orders keys by a hash of seed and key, so it does not depend on a library's random stream, nor on
  the order of a source whose equal keys have equal labels. If `size` is N or more, all are drawn.

  keys: what must not be on both sides, such as a text or a group's name. labels: int `[N]`, from 0.

  Returns whether each is drawn, bool `[N]`.
  """
  if size >= len(keys):
    return np.ones(len(keys), bool)
  counts = np.bincount(labels, minlength=2)
  quota, remainder = np.divmod(size * counts, len(keys))
  quota[np.argsort(-remainder, kind='stable')[: size - quota.sum()]] += 1
  hashes = [hashlib.sha256(f'{seed} {key}'.encode(errors='surrogatepass')).digest() for key in keys]
  drawn = np.zeros(len(keys), bool)
  order = sorted(range(len(keys)), key=hashes.__getitem__)
  for _, same in itertools.groupby(order, key=hashes.__getitem__):
    group = list(same)
    label = labels[group[0]]
    if len(group) <= quota[label]:
      quota[label] -= len(group)
      drawn[group] = True
  return drawn
