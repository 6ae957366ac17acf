"""From a set of labelled texts or series to the arrays of a dataset."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rnnlab.data import DataError, batching, text
from rnnlab.data.base import Dataset, Examples
from rnnlab.data.sets import SETS


def load(config: Any) -> Dataset:
  """The set that config.source names, cut and encoded; without its spec.

  config: the data part of a run's config.
  The splits have labels int32 `[N]`, which number the classes as encoding['classes'] lists them,
  and inputs: ids int32 `[N, max_len]`, or of series what `pad` gives.
  Raises DataError where the set's files cannot be had, and ValueError for a split without examples.
  """
  chosen = SETS[config.source]
  parts = cut(chosen.load(), config)
  classes = sorted({*parts['train'].targets})
  if unknown := {*itertools.chain(*(part.targets for part in parts.values()))} - {*classes}:
    raise ValueError(f'{chosen.title}: the train split has no example of {sorted(unknown)}.')
  train = parts['train'].inputs
  encoding: dict[str, Any] = {'classes': classes}
  vocabulary: tuple[str, ...] = ()
  if isinstance(train[0], str):
    vocabulary = text.vocabulary(train, config.vocab_size)
  else:
    encoding |= statistics(train, config.scale)
    encoding['steps'] = max(len(x) for part in parts.values() for x in part.inputs)
  splits = {
    name: {
      'inputs': encode(part.inputs, config, encoding, vocabulary),
      'labels': np.array([classes.index(label) for label in part.targets], np.int32),
    }
    for name, part in parts.items()
  }
  sizes = ', '.join(f'{len(part.targets):,} {name}' for name, part in parts.items())
  counts = Counter(label for part in parts.values() for label in part.targets)
  return Dataset(
    splits=splits,
    title=chosen.title,
    line=f'{sizes} examples of {len(classes)} classes',
    source=config.source,
    fingerprint=_fingerprint(splits),
    vocabulary=vocabulary,
    encoding=encoding,
    notes=(
      'classes: ' + ', '.join(f'{name} {counts[name]:,}' for name in classes),
      f'licence: {chosen.licence}',
    ),
  )


def encode(
  inputs: Sequence[Any], config: Any, encoding: Mapping[str, Any], vocabulary: tuple[str, ...]
) -> Any:
  """Texts or series as a model takes them: see `load`."""
  if 'mean' not in encoding:
    found = text.encode(text.listed(inputs), vocabulary)
    return batching.pad(found, config.max_len, config.padding, config.truncation)
  mean, std = np.float32(encoding['mean']), np.float32(encoding['std'])
  return pad(
    [(np.asarray(series, np.float32) - mean) / std for series in inputs], encoding['steps']
  )


def pad(series: Sequence[np.ndarray], steps: int) -> dict[str, np.ndarray]:
  """Series, each float32 `[T, D]`, as {'xs': float32 `[N, steps, D]`, 'lengths': int32 `[N]`}.

  Zeros follow the last step. Raises DataError for a series of more than `steps`.
  """
  lengths = np.array([len(x) for x in series], np.int32)
  if (lengths > steps).any():
    longest = int(lengths.argmax())
    raise DataError(f'series {longest + 1} has {lengths[longest]} steps; at most {steps} are read.')
  xs = np.zeros((len(series), steps, series[0].shape[1]), np.float32)
  for row, x in zip(xs, series, strict=True):
    row[: len(x)] = x
  return {'xs': xs, 'lengths': lengths}


def statistics(series: Sequence[np.ndarray], scale: bool = True) -> dict[str, list[float]]:
  """The mean and the standard deviation of each feature, over all steps: {'mean', 'std'}.

  A feature that never changes has 1 as its deviation. Where scale is False all are 0 and 1.
  """
  steps = np.concatenate(series).astype(np.float64)
  mean, std = steps.mean(axis=0), steps.std(axis=0)
  if not scale:
    mean, std = np.zeros_like(mean), np.ones_like(std)
  return {'mean': mean.tolist(), 'std': np.where(std == 0, 1, std).tolist()}


def cut(parts: Mapping[str, Examples], config: Any) -> dict[str, Examples]:
  """The splits: test and validation are cut from train, test only where there is none.

  config has test_fraction and validation_fraction, shares of train; split_seed; and max_examples of
  each split, 0 for all. Raises ValueError for a split without examples.
  """
  train, splits, seed = parts['train'], dict(parts), config.split_seed
  total = len(train.targets)
  shares = {'test': config.test_fraction, 'validation': config.validation_fraction}
  for name, share in shares.items():
    if name not in splits and share:
      splits[name], train = draw(train, round(share * total), seed)
  splits['train'] = train
  if empty := [name for name, part in splits.items() if not len(part.targets)]:
    raise ValueError(f'no examples are left for {empty[0]}: there are {total:,} to cut from.')
  if config.max_examples:
    splits = {name: draw(part, config.max_examples, seed)[0] for name, part in splits.items()}
  return {name: splits[name] for name in ('train', 'validation', 'test') if name in splits}


def draw(examples: Examples, size: int, seed: int) -> tuple[Examples, Examples]:
  """Splits examples into about `size` drawn ones and the others: stratified by class.

  Equal inputs are never on both sides, for which there may be a few less. They are ordered by a
  hash of seed and input, so the draw depends neither on the order of the source nor on a library's
  random stream.
  """
  inputs, labels = examples.inputs, examples.targets
  size = min(size, len(labels))
  counts = Counter(labels)
  shares = {label: size * count / len(labels) for label, count in sorted(counts.items())}
  quota = {label: int(share) for label, share in shares.items()}
  by_rest = sorted(shares, key=lambda label: quota[label] - shares[label])
  for label in by_rest[: size - sum(quota.values())]:
    quota[label] += 1
  hashes = [_hash(seed, x) for x in inputs]
  drawn = np.zeros(len(labels), bool)
  order = sorted(range(len(labels)), key=hashes.__getitem__)
  for _, group in itertools.groupby(order, key=hashes.__getitem__):
    rows = list(group)
    label = labels[rows[0]]
    if len(rows) <= quota[label]:
      quota[label] -= len(rows)
      drawn[rows] = True

  def side(keep):
    kept = itertools.compress(inputs, keep), itertools.compress(labels, keep)
    return Examples(*map(list, kept), examples.rows[keep])

  return side(drawn), side(~drawn)


def _hash(seed, x):
  content = x.encode() if isinstance(x, str) else np.asarray(x).tobytes()
  return hashlib.sha256(f'{seed} '.encode() + content).digest()


def _fingerprint(splits):
  digest = hashlib.sha256()
  for name, split in sorted(splits.items()):
    inputs = split['inputs']
    arrays = [*inputs.values()] if isinstance(inputs, dict) else [inputs]
    for array in (*arrays, split['labels']):
      digest.update(f'{name} {array.dtype} {array.shape}\n'.encode())
      digest.update(array.data)
  return digest.hexdigest()
