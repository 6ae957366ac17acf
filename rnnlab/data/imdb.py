"""The IMDB reviews as arrays of token ids, encoded once and then read from a cache on disk."""

import itertools
import math
import os
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from rnnlab.data import DataError, batching, cache, cut, text
from rnnlab.data.sources import SOURCES, Reviews, identity, resolve

TEST_FRACTION = 0.2  # for a source without a test split
SETTINGS = (  # those that the arrays depend on
  *('vocab_size', 'max_len', 'padding', 'truncation'),
  *('validation_fraction', 'split_seed', 'max_examples'),
)


class Split(NamedTuple):
  """ids [N, max_len] int32, 0 where padded; labels [N] int32, 0 negative and 1 positive."""

  ids: np.ndarray
  labels: np.ndarray


class Dataset(NamedTuple):
  """The result of `load`; `validation` is `test` itself if data.validation_fraction is 0."""

  source: str  # 'tfds', 'directory' or 'package'
  title: str  # a line for people
  fingerprint: str  # hex digest of the arrays' content
  vocabulary: tuple[str, ...]  # in id order; the first word has id 4
  train: Split
  validation: Split
  test: Split


def load(data_config: ConfigDict) -> Dataset:
  """The dataset that a config's `data` part describes, from the disk cache if it is there.

  Raises ValueError for a value out of range and DataError if data are missing or damaged.
  """
  _check(data_config)
  source = resolve(data_config)
  path = SOURCES[source].locate(data_config.dir)
  kept = _cache_path(data_config, source, path)
  arrays = cache.read(kept)
  if arrays is None:
    title, reviews = SOURCES[source].read(path)
    splits = _cut(reviews, data_config)
    _check_memory(splits, data_config)
    arrays = _encode(title, splits, data_config)
    cache.write(kept, arrays)
  splits = {
    name: Split(arrays[f'{name}_ids'], arrays[f'{name}_labels'])
    for name in ('train', 'validation', 'test')
    if f'{name}_ids' in arrays
  }
  return Dataset(
    source=source,
    title=str(arrays['title']),
    fingerprint=str(arrays['fingerprint']),
    vocabulary=tuple(arrays['vocabulary'].tobytes().decode().split(' ')),
    **{'validation': splits['test'], **splits},
  )


def _check(config):
  batching.pad((), config.max_len, config.padding, config.truncation)  # raises for these three
  for name, kind, low, high, range_ in (
    ('max_len', int, 1, 2**31, 'an integer from 1 to below 2**31'),
    ('vocab_size', int, text.FIRST_WORD + 1, 2**31, 'an integer above 4 and below 2**31'),
    ('max_examples', int, 0, math.inf, '0 (all) or a greater integer'),
    ('validation_fraction', int | float, 0, 1, 'from 0 to below 1'),
  ):
    value = config[name]
    if not isinstance(value, kind) or isinstance(value, bool) or not low <= value < high:
      raise ValueError(f'data.{name} must be {range_}, not {value!r}.')


def _check_memory(splits, config):
  """Raises ValueError if the arrays of ids would be larger than the machine's memory.

  Linux promises more memory than there is, and kills the process that uses it.
  """
  rows = sum(len(split.texts) for split in splits.values())
  needed = 4 * rows * config.max_len
  if not hasattr(os, 'sysconf'):  # Windows, which promises no more than it has
    return
  if needed > (there := os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')):
    raise ValueError(
      f'data.max_len={config.max_len:,} is too long: the ids of {rows:,} reviews would take'
      f' {needed / 1e9:,.0f} GB, and this machine has {there / 1e9:,.0f} GB of memory.'
    )


def _cut(reviews, config):
  """The reviews of each split: validation is cut from train, and test if there is none."""
  train = reviews['train']
  total = len(train.texts)
  splits = {}
  if 'test' in reviews:
    splits['test'] = reviews['test']
  else:
    splits['test'], train = _draw(train, round(TEST_FRACTION * total), config.split_seed)
  if config.validation_fraction:
    size = round(config.validation_fraction * total)
    splits['validation'], train = _draw(train, size, config.split_seed)
  splits['train'] = train
  if empty := [name for name, split in splits.items() if not split.texts]:
    raise ValueError(
      f'data.validation_fraction={config.validation_fraction} leaves no reviews for'
      f' {empty[0]}: there are {total:,} to cut from.'
    )
  if config.max_examples:
    splits = {
      name: _draw(split, config.max_examples, config.split_seed)[0]
      for name, split in splits.items()
    }
  return splits


def _draw(reviews, size, seed):
  """Splits reviews into `size` drawn ones and the rest: stratified, with no text on both sides."""
  texts, labels = reviews
  drawn = cut.draw(texts, labels, size, seed)
  return tuple(
    Reviews(list(itertools.compress(texts, side)), labels[side]) for side in (drawn, ~drawn)
  )


def _encode(title, splits, config):
  words = text.vocabulary(splits['train'].texts, config.vocab_size)
  if not words:
    raise DataError(f'{title}: there is no word in the {len(splits["train"].texts):,} to train on.')
  arrays = {'vocabulary': np.frombuffer(' '.join(words).encode(), np.uint8)}
  for name, (texts, labels) in splits.items():
    arrays[f'{name}_ids'] = batching.pad(
      text.encode(texts, words), config.max_len, config.padding, config.truncation
    )
    arrays[f'{name}_labels'] = labels
  return {**arrays, 'title': np.array(title), 'fingerprint': np.array(cache.fingerprint(arrays))}


def _cache_path(config, source, path):
  # `identity` covers the content of `dir`; the other fields concern model and training.
  settings = {name: config[name] for name in SETTINGS}
  return cache.path('imdb', settings | {'source': source}, identity(source, path))
