"""A corpus for language models: streams of token ids, from files, a package of texts, or TFDS.

A split is a stream of N tokens. 'targets', int32 `[N]`, are its tokens, including ends of lines;
'inputs', int32 `[N]`, are the tokens one place before, the first being an end of line;
'characters', int32 `[N]`, is how many characters of the text a target stands for, so that

    bits per character = sum of -log p / ln 2 / sum of characters

A word counts together with the space or the end of line after it, an empty line as its end, an
unknown word with its own letters, and a file has one space between words. With words='punctuation'
a mark counts as a word, so a text has more characters than its file, and its bits per character are
lower than those over other units. For bytes, characters are bytes.
"""

import collections
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from rnnlab.data import DataError, cache, corpora, units
from rnnlab.data.base import Dataset
from rnnlab.data.units import decode, encode

__all__ = ['decode', 'encode', 'load', 'source']

RAW = 0.03  # of words that end with punctuation: twice the share of abbreviations in Penn Treebank
_BLOCK = 2**20  # characters of a text that are tokenised at once, so that few words are in memory


def source(config: Any) -> str:
  """The value of data.source; 'auto' is a corpus if data.path is given, else the package."""
  return config.source if config.source != 'auto' else 'corpus' if config.path else 'package'


def load(config: Any) -> Dataset:
  """The corpus that a config's `data` part describes, from the disk cache if it is there.

  The spec is V, the number of words in the vocabulary. See `rnnlab.data.units` for the encoding.
  Raises DataError if data are missing, damaged, or too few.
  """
  kind = source(config)
  files, read = corpora.SOURCES[kind]
  try:
    found = files(config)
    there = {name: cache.identity(path) for name, path in found.items()}
  except OSError as error:
    raise DataError(f'{config.path}: {error.strerror}') from error
  path = cache.path('corpus', dict(config.items()) | {'source': kind}, there)
  made = cache.dataset(path, lambda: _dataset(kind, read(config, found), config))
  splits, end = {}, made.encoding['end']
  for name in corpora.SPLITS:
    if name in made.splits:
      tokens, characters = (made.splits[name][of] for of in ('tokens', 'characters'))
      stream = np.concatenate([[end], tokens], dtype=np.int32)
      splits[name] = {
        'inputs': stream[:-1],
        'targets': stream[1:],
        'characters': characters.astype(np.int32),
      }
  return made._replace(splits=splits, spec=len(made.vocabulary))


def _dataset(kind, texts, config):
  """The dataset of texts; its splits have 'tokens' and 'characters', in the fewest bytes."""
  encoding = _encoding(kind, texts.splits['train'], config)
  # Each distinct token has a number, in the order of appearance.
  number: dict[str, int] = collections.defaultdict(itertools.count().__next__)
  given = len([number[token] for token in units.given(encoding)])
  streams = {
    name: _numbers(text, encoding, number)[: config.max_tokens or None]
    for name, text in texts.splits.items()
  }
  there = [*number]
  counts = np.bincount(streams['train'], minlength=len(there))
  unknown = number[units.UNKNOWN] if config.unit in ('word', 'character') else None
  kept = _kept(counts, given, unknown, config)
  if unknown is not None and len(kept) == given:
    raise DataError(
      f'{texts.title}: the vocabulary has 0 {config.unit}s, as none occurs in'
      f' train {config.min_count:,} times (--config.data.min_count={config.min_count})'
    )
  id_of = np.full(len(there), 0 if unknown is None else np.flatnonzero(kept == unknown)[0])
  id_of[kept] = np.arange(len(kept))
  end = int(id_of[number[units.end(config.unit)]])
  length = units.lengths(there, config.unit)
  splits = {}
  for name, stream in streams.items():
    tokens, characters = id_of[stream], length[stream]
    if config.unit == 'word':  # the last word of a line has no space after it
      characters[:-1] -= (tokens[1:] == end) & (tokens[:-1] != end)
    splits[name] = {'tokens': _small(tokens), 'characters': _small(characters)}
  vocabulary = units.names((there[i] for i in kept), config.unit)
  encoding |= {'end': end, 'unknown': None if unknown is None else int(id_of[unknown])}
  arrays = {f'{name}/{of}': array for name, one in splits.items() for of, array in one.items()}
  words = np.frombuffer('\n'.join(vocabulary).encode(), np.uint8)
  sizes = ', '.join(f'{len(one["tokens"]):,} {name}' for name, one in splits.items())
  return Dataset(
    splits=splits,
    title=f'{texts.title}, {len(kept):,} {config.unit}s{", lower case" * config.lowercase}',
    line=f'{sizes} tokens',
    source=kind,
    fingerprint=cache.fingerprint(arrays | {'vocabulary': words}),
    vocabulary=vocabulary,
    encoding=encoding,
    notes=(*texts.notes, *_notes(splits, encoding, vocabulary, np.count_nonzero(counts))),
  )


def _encoding(kind, train, config):
  """How texts are tokenised, learnt from the train text."""
  encoding = {'unit': config.unit, 'lowercase': config.lowercase}
  if config.unit == 'word':
    usual = 'punctuation' if kind == 'package' else 'spaces'
    encoding['words'] = usual if config.words == 'auto' else config.words
  if config.unit == 'subword':
    encoding['tokenizer'] = units.trained(_lines(train, config.lowercase), config.vocab_size)
  return encoding


def _lines(text, lowercase) -> Iterator[str]:
  for block in _blocks(text):
    yield from (block.lower() if lowercase else block).split('\n')


def _blocks(text):
  """The text in parts that end at the end of a line."""
  start = 0
  while start < len(text):
    end = text.find('\n', start + _BLOCK) + 1 or len(text)
    yield text[start:end]
    start = end


def _numbers(text, encoding, number):
  """The number of each token of a text, int32 `[N]`; new tokens get new numbers."""
  if encoding['unit'] in ('word', 'subword') and not text.endswith('\n'):
    text += '\n'
  found = [
    np.fromiter(map(number.__getitem__, units.split(block, encoding)), np.int32)
    for block in _blocks(text)
  ]
  return np.concatenate(found)


def _kept(counts, given, unknown, config):
  """The numbers of the vocabulary's tokens, in the order of ids: by falling count, then number.

  The first `given` always belong to it.
  """
  others = given + np.argsort(-counts[given:], kind='stable')
  often = others[counts[others] >= max(config.min_count, 1)]
  chosen = np.sort(often[: max(config.vocab_size - given, 0)])
  if unknown is not None:
    counts = counts.copy()
    counts[unknown] += counts[given:].sum() - counts[chosen].sum()
  kept = np.concatenate([np.arange(given), chosen])
  return kept[np.argsort(-counts[kept], kind='stable')]


def _small(array):
  """The same integers in the smallest type."""
  return array.astype(np.min_scalar_type(array.max()))


def _notes(splits, encoding, vocabulary, types):
  """Lines on what the data are like."""
  train = splits['train']['tokens']
  unit, unknown = encoding['unit'], encoding['unknown']
  notes = [f'vocabulary: {len(vocabulary):,} {unit}s, of {types:,} in train']
  if unknown is not None:
    shares = {name: (one['tokens'] == unknown).mean() for name, one in splits.items()}
    told = ', '.join(f'{share:.2%} of {name}' for name, share in shares.items())
    notes.append(f'unknown: {told}')
    if not shares['train'] and any(shares.values()):
      notes.append(
        f'train has no unknown {unit}, so unknown ones elsewhere are treated as all but'
        ' impossible: --config.data.min_count=2 makes the rarest of train unknown'
      )
  if encoding.get('words') == 'spaces':
    raw = np.array([len(word) > 1 and word[-1] in ',.;:!?' for word in vocabulary])
    if (share := raw[train].mean()) > RAW:
      notes.append(
        f'{share:.1%} of the words of train end with a mark of punctuation:'
        ' --config.data.words=punctuation separates it from them'
      )
  ends = np.flatnonzero(train == encoding['end'])
  if len(ends):
    lengths = np.diff(ends, prepend=-1)
    notes.append(
      f'lines in train: {len(ends):,}, median {int(np.median(lengths)):,} tokens, longest'
      f' {lengths.max():,}'
    )
  if unit in ('word', 'subword'):
    notes.append(f'{splits["train"]["characters"].mean():.2f} characters per token in train')
  return notes
