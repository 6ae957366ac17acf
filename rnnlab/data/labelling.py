"""The labels of a user's own examples: read, checked, counted, and as numbers."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rnnlab.data import DataError, own, table
from rnnlab.data.base import Examples

MOST = 20  # classes that a small number of rows may have


def of_table(path: Path, config: Any) -> tuple[Examples, Sequence[str]]:
  """A table's texts and labels as they are written, and their groups, which must not be split.

  In the order of data.time, if that names a column.
  """
  frame, rows = table.read(path)
  column = table.column(frame, config.text, 'data.text', path)
  texts = table.texts(column.tolist(), rows, config.text, path)
  given = table.column(frame, config.label, 'data.label', path).tolist()
  if config.separator:
    labels = [
      _parted(label, config, f'{path}, row {row}') for label, row in zip(given, rows, strict=True)
    ]
  else:
    labels = [(label,) for label in table.labels(given, rows, config.label, path)]
  groups = texts
  if config.group:
    groups = table.column(frame, config.group, 'data.group', path).astype(str).tolist()
  examples = Examples(texts, labels, rows)
  if not config.time:
    return examples, groups
  given = table.column(frame, config.time, 'data.time', path).tolist()
  order = np.argsort(table.times(given, rows, config.time, path), kind='stable')
  return own.take(examples, order), [groups[i] for i in order]


def _parted(label, config, where):
  """The labels of a row: split at the separator, or a list, as JSON and Parquet have."""
  if isinstance(label, np.ndarray):
    label = label.tolist()
  if isinstance(label, dict):
    raise DataError(
      f'{where}: {config.label} must be a label or a list of them, not {label!r:.60}.'
    )
  if table.is_missing(label):
    return ()
  parts = label if isinstance(label, list) else str(label).split(config.separator)
  return tuple(dict.fromkeys(str(part).strip() for part in parts if str(part).strip()))


def labelled(name: str, examples: Examples) -> Examples:
  """The examples with tuples of labels as targets; name: the split's name, for errors."""
  if isinstance(examples.targets[0], tuple):
    return examples
  labels = []
  for row, target in zip(examples.rows, examples.targets, strict=True):
    if isinstance(target, list | np.ndarray) and np.ndim(target):
      flags = np.asarray(target)
      if flags.ndim != 1 or not np.isin(flags, (0, 1)).all():
        raise DataError(
          f'{name} row {row}: several labels are a row of 0 and 1, one for each; not {flags!r:.60}'
        )
      labels.append(tuple(f'{i + 1}' for i in np.flatnonzero(flags)))
      continue
    if isinstance(target, float | np.floating) and not float(target).is_integer():
      raise DataError(
        f'{name} row {row}: {target} is not a class but a number: use the task regression'
      )
    labels.append((str(int(target)) if isinstance(target, np.number) else str(target).strip(),))
  return examples._replace(targets=labels)


def has_several(examples: Examples, config: Any) -> bool:
  """Whether a row may have several labels, or none."""
  return bool(config.separator) or any(len(labels) != 1 for labels in examples.targets)


def classes(examples: Examples, config: Any) -> list[str]:
  """The names of the classes, in numerical order if they are numbers, else alphabetical.

  Raises DataError if there is only one class, or hardly any rows share one.
  """
  names = {label for labels in examples.targets for label in labels}
  rows = len(examples.rows)
  least = 1 if has_several(examples, config) else 2
  if len(names) < least:
    only = f'only one class, {next(iter(names))!r}' if names else 'no label'
    raise DataError(f'the {rows:,} rows have {only}: there is nothing to classify')
  if len(names) > max(MOST, rows // 2):
    raise DataError(
      f'the {rows:,} rows have {len(names):,} different labels, so that hardly any occurs twice: is'
      f' it the right column, --config.data.label={config.label}, or y?'
    )
  is_number = all(re.fullmatch(r'[+-]?\d+', name) for name in names)
  return sorted(names, key=(lambda name: (int(name), name)) if is_number else None)


def counts(parts: Mapping[str, Examples], code: Mapping[str, int]) -> dict[str, int]:
  """How many rows of train have each class. Raises DataError for one that train lacks."""
  found = dict.fromkeys(code, 0)
  for labels in parts['train'].targets:
    for label in labels:
      found[label] += 1
  for name, part in parts.items():
    for row, labels in zip(part.rows, part.targets, strict=True):
      for label in labels:
        if not found.get(label):
          raise DataError(
            f'{name} row {row} has the class {label!r}, of which train has no row: leave it'
            ' out, or give more rows of it'
          )
  return found


def coded(name: str, part: Examples, code: Mapping[str, int], several: bool) -> np.ndarray:
  """Labels as numbers, int32 `[N]`; or several as float32 `[N, C]`, 1 where a row has one.

  name: the split's name. Raises DataError, with the row, if it has not one label but should.
  """
  if not several:
    for row, labels in zip(part.rows, part.targets, strict=True):
      if len(labels) != 1:
        raise DataError(f'{name} row {row} has {len(labels)} labels, and each row of train one')
    return np.array([code[label] for (label,) in part.targets], np.int32)
  flags = np.zeros((len(part.rows), len(code)), np.float32)
  for row, labels in zip(flags, part.targets, strict=True):
    row[[code[label] for label in labels]] = 1
  return flags
