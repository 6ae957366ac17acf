"""Pairs of texts for translation: token ids of both sides, and the references to score against.

Ids of a side: PAD, BOS and EOS are not tokens, UNK is any token outside the vocabulary, and from
FIRST on come the tokens of train, by falling count. A split has

- 'inputs': {'source': int32 `[N, S]`, tokens and EOS; 'target': int32 `[N, T + 1]`, BOS, tokens and
  EOS}, both padded at the end. A decoder with teacher forcing reads target[:, :-1];
- 'targets': int32 `[N, T]`, target[:, 1:], what it must predict there;
- 'references', only of validation and test: uint8 `[N, R, L]`, the correct translations of each
  example as UTF-8, padded at the end with 0; see `references`.

The encoding says how both sides are read: {'source': ..., 'target': ..., 'shared': whether they
have one vocabulary}, each side's as in `rnnlab.data.units`, with 'vocabulary', a list in the order
of ids. A pair whose source or target is longer than data.max_len is left out of train only, so that
the test split does not depend on it.
"""

import collections
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from rnnlab.data import DataError, aligned, batching, cache, own, units
from rnnlab.data.base import Dataset
from rnnlab.data.text import listed

PAD, BOS, EOS, UNK, FIRST = range(5)
SPECIAL = '<pad>', '<bos>', units.END, units.UNKNOWN
UNITS = 'word', 'character', 'subword'
SIDES = 'source', 'target'


class Spec(NamedTuple):
  """What a model must know: how many ids each side has, and whether they are the same ids."""

  source: int
  target: int
  shared: bool


def load(config: Any) -> Dataset:
  """The pairs that a config's `data` part describes, from the disk cache if they are there.

  The vocabulary is that of the target side; the spec is a Spec. Raises DataError if data are
  missing, damaged, or too few.
  """
  kind = aligned.source(config)
  try:
    found = aligned.files(config)
    there = {name: cache.identity(path) for name, path in found.items()}
  except OSError as error:
    raise DataError(f'{config.path}: {error.strerror}') from error
  path = cache.path('pairs', dict(config.items()) | {'source': kind}, there)
  made = cache.dataset(path, lambda: _dataset(kind, aligned.read(config, found), config))
  splits = {name: dict(made.splits[name]) for name in own.SPLITS if name in made.splits}
  texts = splits['test'].pop('texts')
  for split in splits.values():
    split['targets'] = split['inputs']['target'][:, 1:]

  def shown(rows):
    return from_bytes(texts[rows])

  return made._replace(splits=splits, spec=spec(made.encoding), shown=shown)


def spec(encoding: Mapping[str, Any]) -> Spec:
  """What a model must know about data with this encoding."""
  source, target = (len(encoding[side]['vocabulary']) for side in SIDES)
  return Spec(source, target, encoding['shared'])


def encode(texts: Sequence[str], encoding: Mapping[str, Any]) -> np.ndarray:
  """Texts of the source side as inputs of a model: int32 `[N, S]`, with S for the longest.

  Raises TypeError, with the position, for anything but a list of texts.
  """
  return _ids(_tokens(listed(texts), encoding['source']), encoding['source']['vocabulary'], [])


def decode(ids: Iterable[int], side: Mapping[str, Any]) -> str:
  """The text of ids up to the first EOS, for people; side: encoding['source'] or ['target'].

  Words that were split at punctuation are joined as in print. An unknown one is units.UNKNOWN.
  """
  tokens = itertools.takewhile(lambda i: i != EOS, ids)
  return units.decode((i for i in tokens if i >= UNK), side, side['vocabulary'])


def references(split: Mapping[str, Any]) -> list[list[str]]:
  """The correct translations of each example of a split, at least one each."""
  return [[text for text in from_bytes(of) if text] for of in np.asarray(split['references'])]


def from_bytes(array: np.ndarray) -> list[str]:
  """The texts in uint8 `[N, L]`, as encoded by `as_bytes`."""
  return [row.tobytes().rstrip(b'\0').decode() for row in array]


def as_bytes(texts: Sequence[str]) -> np.ndarray:
  """Texts as uint8 `[N, L]`, UTF-8, padded at the end with 0."""
  found = np.array([text.encode(errors='replace') for text in texts], np.bytes_)
  return found.view(np.uint8).reshape(len(found), -1)


# From texts to arrays


def _dataset(kind, read, config):
  notes = list(read.notes)
  if 'test' not in read.given and not config.test_fraction:
    raise DataError('there is no test split: give --config.data.test_fraction=SHARE')
  given = {name: _whole(name, one, notes) for name, one in read.given.items()}
  keys = {name: [_key(text) for text in one.inputs] for name, one in given.items()}
  with_groups = ConfigDict({**config, 'group': 'source'})  # a source is only on one side of a cut
  both = {name: (given[name], keys[name]) for name in given}
  parts, _ = own.split(with_groups, both)
  notes += _repeated(keys)
  encoding, tokens = _encodings(kind, parts, config)
  keep = _short(parts['train'], [tokens['train'][side] for side in SIDES], config, notes)
  parts['train'] = own.take(parts['train'], keep)
  for side in SIDES:
    tokens['train'][side] = [tokens['train'][side][i] for i in keep]
  _vocabularies(encoding, tokens['train'], config)
  splits, sizes = {}, []
  for name, part in parts.items():
    right = [[target] for target in part.targets]
    if name != 'train' and name not in given:
      rows, right = _together(part)
      if len(rows) < len(part.rows):
        notes.append(
          f'{name}: {len(part.rows):,} pairs have {len(rows):,} sources, since some have several'
          ' translations: all count as correct'
        )
      part = own.take(part, rows)
      tokens[name] = {side: [of[i] for i in rows] for side, of in tokens[name].items()}
    splits[name] = _arrays(tokens[name], encoding)
    if name != 'train':
      splits[name]['references'] = _references(right, encoding['target']['lowercase'])
    if name == 'test':
      splits[name]['texts'] = as_bytes(part.inputs)
    sizes.append(f'{len(part.rows):,} {name}')
  notes += [_told(side, tokens, encoding[side]) for side in SIDES]
  return Dataset(
    splits=splits,
    title=f'{read.title}, {_title(encoding)}',
    line=f'{", ".join(sizes)} pairs',
    source=kind,
    fingerprint=_fingerprint(splits, encoding),
    vocabulary=tuple(encoding['target']['vocabulary']),
    encoding=encoding,
    notes=tuple(notes),
  )


def _fingerprint(splits, encoding):
  flat = {
    f'{name}/{of}': array
    for name, one in splits.items()
    for of, array in {**one['inputs'], 'references': one.get('references', np.empty(0))}.items()
  }
  words = '\n'.join(word for side in SIDES for word in encoding[side]['vocabulary'])
  flat['vocabularies'] = np.frombuffer(words.encode(), np.uint8)
  return cache.fingerprint(flat)


def _title(encoding):
  source, target = (
    f'{len(encoding[side]["vocabulary"]):,} {encoding[side]["unit"]}s' for side in SIDES
  )
  lower = ', lower case' * encoding['source']['lowercase']
  return f'{source} {"shared" if encoding["shared"] else f"to {target}"}{lower}'


def _key(text):
  """The key of a text, which is never on both sides of a cut."""
  return ' '.join(text.casefold().split())


def _whole(name, part, notes):
  """The pairs without an empty side; a note reports what is left out."""
  full = np.array([bool(s.strip() and t.strip()) for s, t in zip(*part[:2], strict=True)])
  if full.all():
    return part
  if not full.any():
    raise DataError(f'{name}: in all {len(full):,} pairs a side is empty')
  lines = part.rows[~full].tolist()
  told = ', '.join(f'{line:,}' for line in lines[:5]) + ', ...' * (len(lines) > 5)
  notes.append(f'left out of {name}, as a side is empty: {_count(len(lines), "pair")}, line {told}')
  return own.take(part, np.flatnonzero(full))


def _count(count, what):
  return f'{count:,} {what}{"s" * (count != 1)}'


def _repeated(keys):
  """Lines on sources that occur more than once, in the splits as they were given."""
  train, notes = {*keys['train']}, []
  if more := len(keys['train']) - len(train):
    notes.append(f'{more:,} of {len(keys["train"]):,} pairs have the source of an earlier one')
  for name in ('validation', 'test'):
    if count := sum(key in train for key in keys.get(name, ())):
      notes.append(f'{count:,} of the {len(keys[name]):,} sources of {name} are also in train')
  return notes


def _together(part):
  """The first row of each source, and its different targets."""
  found = {}
  for row, (text, target) in enumerate(zip(part.inputs, part.targets, strict=True)):
    found.setdefault(_key(text), (row, {}))[1][target] = None
  return [row for row, _ in found.values()], [[*right] for _, right in found.values()]


def _encodings(kind, parts, config):
  """How each side is read, without vocabularies, and the tokens of each split's sides."""
  usual = {'cmudict': ('character', 'word')}.get(kind, ('word', 'word'))
  given = config.unit_source, config.unit_target
  chosen = [unit if one == 'auto' else one for one, unit in zip(given, usual, strict=True)]
  if config.shared_vocabulary and chosen[0] != chosen[1]:
    raise DataError(
      f'--config.data.shared_vocabulary: both sides must have the same unit, and they are'
      f' {chosen[0]}s and {chosen[1]}s: give data.unit_source and data.unit_target'
    )
  encoding = {'shared': config.shared_vocabulary}
  texts = dict(zip(SIDES, parts['train'][:2], strict=True))
  for side, unit in zip(SIDES, chosen, strict=True):
    encoding[side] = {'unit': unit, 'lowercase': config.lowercase}
    if unit == 'word':
      words = 'punctuation' if kind in aligned.SENTENCES else 'spaces'
      encoding[side]['words'] = words if config.words == 'auto' else config.words
    elif unit == 'subword':
      if config.shared_vocabulary and side == 'target':
        encoding[side]['tokenizer'] = encoding['source']['tokenizer']
        continue
      lines = itertools.chain(*texts.values()) if config.shared_vocabulary else texts[side]
      lines = map(str.lower, lines) if config.lowercase else lines
      # EOS is one of its pieces; PAD, BOS and UNK are not.
      if config.vocab_size < (least := units.PIECES + FIRST - 1):
        raise DataError(
          f'--config.data.vocab_size={config.vocab_size}: a vocabulary of pieces holds each byte'
          f' and {FIRST} ids besides, so at least {least}'
        )
      encoding[side]['tokenizer'] = units.trained(lines, config.vocab_size - FIRST + 1)
  return encoding, {
    name: {
      side: _tokens(of, encoding[side]) for side, of in zip(SIDES, part[:2], strict=True)
    }
    for name, part in parts.items()
  }  # fmt: skip


def _tokens(texts, side):
  """The tokens of each text, where any white space counts as one space."""
  texts = [' '.join(text.split()) for text in texts]
  if side['unit'] == 'subword':  # all at once, with one tokeniser
    texts = [text.lower() if side['lowercase'] else text for text in texts]
    return [one.tokens for one in units.tokenizer(side['tokenizer']).encode_batch(texts)]
  return [units.split(text, side) for text in texts]


def _short(train, tokens, config, notes):
  """The rows of train in which no side is longer than data.max_len; a note reports the others."""
  longest = np.array([max(map(len, pair)) for pair in zip(*tokens, strict=True)])
  keep = np.flatnonzero(longest <= config.max_len)
  if not len(keep):
    raise DataError(f'all {len(longest):,} train pairs are longer than {config.max_len} tokens')
  if dropped := len(longest) - len(keep):
    place = longest.argmax()
    notes.append(
      f'left out of train, as a side is longer than data.max_len={config.max_len}:'
      f' {_count(dropped, "pair")}, the longest, line {train.rows[place]:,}, of'
      f' {longest[place]:,} tokens'
    )
  return keep


def _vocabularies(encoding, train, config):
  """Adds each side's vocabulary, from the tokens of train."""
  for side in SIDES:
    of = [*train['source'], *train['target']] if encoding['shared'] else train[side]
    counts = collections.Counter(itertools.chain.from_iterable(of))
    if encoding[side]['unit'] == 'subword':
      counts.update(dict.fromkeys(units.given(encoding[side]), 0))
      chosen = [piece for piece, _ in counts.most_common()]
    else:
      often = itertools.takewhile(lambda one: one[1] >= config.min_count, counts.most_common())
      chosen = [token for token, _ in often]
    chosen = [token for token in chosen if token not in SPECIAL][: config.vocab_size - FIRST]
    if not chosen:
      raise DataError(
        f'no {encoding[side]["unit"]} of the {side} side occurs in train {config.min_count} times:'
        f' --config.data.min_count={config.min_count}'
      )
    encoding[side]['vocabulary'] = [*SPECIAL, *chosen]


def _ids(tokens, vocabulary, before):
  """Rows of ids, with `before` in front and EOS at the end: int32 `[N, T]`, padded at the end."""
  id_of = {token: i for i, token in enumerate(vocabulary[FIRST:], FIRST)}
  rows = [[*before, *(id_of.get(token, UNK) for token in one), EOS] for one in tokens]
  return batching.pad(rows, max(map(len, rows), default=1), 'post')


def _arrays(tokens, encoding):
  source, target = (
    _ids(tokens[side], encoding[side]['vocabulary'], before)
    for side, before in zip(SIDES, ([], [BOS]), strict=True)
  )
  return {'inputs': {'source': source, 'target': target}}


def _references(right, lowercase):
  """The translations of each example, uint8 `[N, R, L]`."""
  many = max(map(len, right))
  flat = [' '.join(text.split()) for of in right for text in [*of, *[''] * (many - len(of))]]
  flat = [text.lower() for text in flat] if lowercase else flat
  return as_bytes(flat).reshape(len(right), many, -1)


def _told(side, tokens, encoding):
  """A line on a side's lengths and unknown tokens."""
  lengths = np.array([*map(len, tokens['train'][side])])
  known = {*encoding['vocabulary'][FIRST:]}
  shares = []
  for name, of in tokens.items():
    flat = [*itertools.chain.from_iterable(of[side])]
    shares.append(f'{sum(token not in known for token in flat) / len(flat):.2%} of {name}')
  longest = max(len(one) for of in tokens.values() for one in of[side])
  return (
    f'{side}: {lengths.mean():.1f} {encoding["unit"]}s on average, the longest'
    f' {lengths.max():,} in train and {longest:,} in all; unknown: {", ".join(shares)}'
  )
