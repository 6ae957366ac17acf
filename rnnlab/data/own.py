"""A user's own examples: read as a config's `data` part says, split, and described."""

import itertools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rnnlab.data import DataError, arrays, columns, cut, sets, table
from rnnlab.data.base import Examples

SPLITS = 'train', 'validation', 'test'
FORMATS = 'table', 'arrays', 'columns'
OF_TABLES = 'group', 'time', 'separator'  # fields of some tasks
NOT_READ = 'validation: not read, as --config.data.validation_fraction=0'


def source(config: Any) -> str:
  """The value of data.source; 'auto' goes by data.path's ending. Raises DataError if unknown."""
  if config.source != 'auto':
    return config.source
  if not config.path:
    raise DataError(
      'which data? Give a file, --config.data.path=FILE, or the name of a set,'
      f' --config.data.source={next(iter(sets.SETS))}'
    )
  ending = pathlib.Path(config.path).suffix.lower()
  if ending in table.READERS:
    return 'table'
  if ending == '.npz':
    return 'arrays'
  if ending in ('.conll', '.bio', '.iob', '.txt'):
    return 'columns'
  raise DataError(
    f'{config.path}: which format is it in? Give --config.data.source={", ".join(FORMATS)}'
  )


def read(
  config: Any, of_table: Callable[[pathlib.Path], tuple[Examples, Sequence[Any]]]
) -> tuple[str, dict[str, tuple[Examples, Sequence[Any]]], list[str]]:
  """Reads the splits that are given, 'train' at least, before anything is cut.

  of_table: returns the examples in a table's file, and the group of each (whose examples must stay
    together).

  Returns a title, the examples and their groups for each split, and lines for people on what was
  left out: empty texts. Raises DataError, also for a field that this source does not depend on.
  """
  kind = source(config)
  is_set = kind in sets.SETS
  for name in (
    *(OF_TABLES if kind != 'table' else ()),
    *(('path', 'validation_path', 'test_path') if is_set else ()),
  ):
    if config.get(name, ''):
      raise DataError(
        f'--config.data.{name}={config[name]} is for '
        + ('a file' if name.endswith('path') else 'a table')
        + f', but --config.data.source={kind} is '
        + ('a published set' if is_set else 'none')
      )
  if is_set:
    found = sets.SETS[kind]
    return found.title, {name: (one, _keys(one)) for name, one in found.load().items()}, []
  given: dict[str, tuple[Examples, Sequence[Any]]] = {}
  notes: list[str] = []
  for name, path in files(config).items():
    if kind == 'table':
      given[name] = _with_texts(path, *of_table(path), notes)
      continue
    parts = {'': columns.read(path)} if kind == 'columns' else arrays.read(path)
    if name != 'train' and [*parts] != ['']:
      raise DataError(f'{path}: a file of one split has x and y, not x_train or x_test.')
    for part, one in parts.items():
      if (part or name) in given:
        raise DataError(f'{path}: the {part or name} split is given twice.')
      given[part or name] = one, _keys(one)
  if 'train' not in given:
    raise DataError(f'{config.path} has no train split.')
  return pathlib.Path(config.path).name, given, notes


def _with_texts(path, examples, groups, notes):
  """The examples of a table whose texts are not empty; a note reports what is left out."""
  full = [not isinstance(one, str) or bool(one.strip()) for one in examples.inputs]
  if all(full):
    return examples, groups
  if not any(full):
    raise DataError(f'{path}: all {len(full):,} texts are empty.')
  empty = examples.rows[~np.array(full)].tolist()
  notes.append(f'left out of {path.name}, because the text is empty: {table.some_rows(empty)}')
  return take(examples, np.flatnonzero(full)), [*itertools.compress(groups, full)]


def files(config: Any) -> dict[str, pathlib.Path]:
  """The files that a config gives, by split. Raises DataError if there is none."""
  if not config.path:
    raise DataError('which file? --config.data.path=FILE')
  paths = {'train': config.path, 'validation': config.validation_path, 'test': config.test_path}
  return {name: pathlib.Path(path).expanduser() for name, path in paths.items() if path}


def _keys(examples):
  """The content of examples, by which they are told apart."""
  return [
    one.tobytes().hex() if isinstance(one, np.ndarray) else '\n'.join(one) if isinstance(one, list)
    else one
    for one in examples.inputs
  ]  # fmt: skip


def split(
  config: Any,
  given: Mapping[str, tuple[Examples, Sequence[Any]]],
  strata: np.ndarray | None = None,
  by_time: bool = False,
) -> tuple[dict[str, Examples], list[str]]:
  """The splits: test and validation are drawn from train unless they are given.

  Equal examples, or those of one group, are never on both sides of a cut, unless it is by time; a
  note reports those of the given validation and test splits that are in the given train split too.
  A given validation split is left out, with a note, if data.validation_fraction is 0. strata: int
  `[N]` for the train examples, as in `cut.draw`; they do not count if a group of data.group has
  several. by_time: examples are in the order of time; the last are the test split, those before
  them validation. Returns the splits in order, and lines for people. Raises DataError if one is
  empty.
  """
  notes = []
  if not config.validation_fraction and 'validation' in given:
    given = {name: of for name, of in given.items() if name != 'validation'}
    notes.append(NOT_READ)
  keys = {name: keys for name, (_, keys) in given.items()}
  total = len(keys['train'])
  group = config.get('group', '')
  if strata is None or (
    # A group is drawn as a whole, and would use up the quota of one stratum for rows of all.
    group and len({*zip(keys['train'], strata.tolist(), strict=True)}) > len({*keys['train']})
  ):
    strata = np.zeros(total, int)
  rows = {name: np.arange(len(of)) for name, of in keys.items()}
  source = {name: name for name in given}
  for name in ('test', 'validation'):
    fraction = config[f'{name}_fraction']
    if name in given or not fraction:
      continue
    left, source[name] = rows['train'], 'train'
    size = max(1, round(fraction * total))
    if by_time:
      drawn = np.arange(len(left)) >= len(left) - size
    else:
      drawn = _draw(keys['train'], strata, left, size, config)
    rows[name], rows['train'] = left[drawn], left[~drawn]
  if 'test' not in rows:
    raise DataError('there is no test split: give --config.data.test_path or data.test_fraction')
  parts = {}
  for name in (name for name in SPLITS if name in rows):
    of = source[name]
    if config.max_examples:
      layers = strata if of == 'train' else np.zeros(len(keys[of]), int)
      rows[name] = rows[name][_draw(keys[of], layers, rows[name], config.max_examples, config)]
    if not len(rows[name]):
      raise DataError(f'there are no rows left for {name}: there were {total:,} to cut from')
    parts[name] = take(given[of][0], rows[name])
  return parts, [*notes, *_told(keys, group)]


def _told(keys, group):
  """Lines on what occurs more than once."""
  seen, notes = {*keys['train']}, []
  total = len(keys['train'])
  if group:
    notes.append(f'the {total:,} train rows are in {len(seen):,} groups, by {group}')
  elif repeated := total - len(seen):
    notes.append(f'{repeated:,} of the {total:,} train rows equal an earlier one')
  for name in ('validation', 'test'):
    if count := sum(key in seen for key in keys.get(name, ())):
      where = 'of a group in train' if group else 'in train too'
      notes.append(f'{count:,} of the {len(keys[name]):,} {name} rows are {where}')
  return notes


def _draw(keys, strata, rows, size, config):
  """Which of `rows` are drawn, bool."""
  return cut.draw([keys[i] for i in rows], strata[rows], size, config.split_seed)


def take(examples: Examples, rows: np.ndarray | slice) -> Examples:
  """Some of the examples: those at `rows`, ints or a slice."""
  places = np.arange(len(examples.rows))[rows]
  inputs, targets = ([of[i] for i in places] for of in examples[:2])
  return Examples(inputs, targets, examples.rows[places])


def line(parts: Mapping[str, Examples], what: str = 'rows') -> str:
  """How many examples there are, for people."""
  return ', '.join(f'{len(one.rows):,} {name}' for name, one in parts.items()) + f' {what}'
