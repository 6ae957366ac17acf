"""Writes the rows of a file again, with a model's answer added to each."""

import contextlib
import csv
import json
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from rnnlab.predict.reading import BOM, TABLES, TOKENS, Block, arrays, kind, parquet

PREFIX = 'predicted_'

Write = Callable[[Block, dict[str, Sequence[Any]]], None]


@contextlib.contextmanager
def writing(path: str | os.PathLike, source: str | os.PathLike) -> Iterator[Write]:
  """Opens a file for the rows of `source` with predictions; it appears once it is complete.

  Yields a function that takes a block and the columns of its predictions. The extension gives the
  format of the file: CSV, TSV or JSONL for a table, or the same as that of `source`.

  Raises ValueError for an extension that does not go with the source's, and for the source itself;
  the function raises it for a column that the source already has.
  """
  path, source = pathlib.Path(path), pathlib.Path(source)
  ending, given = path.suffix.lower(), kind(source)
  plain = ('.csv', '.tsv', '.tab', '.jsonl', '.ndjson')
  fitting = TOKENS if given in TOKENS else plain if given in TABLES else ()
  if ending not in (*fitting, given):
    raise ValueError(
      f'--out={path}: for a {given} it must end in {", ".join(dict.fromkeys((*fitting, given)))}'
    )
  if path.exists() and source.exists() and path.samefile(source):
    raise ValueError(f'--out={path} is the input itself: give another file')
  path.parent.mkdir(parents=True, exist_ok=True)
  descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.')
  os.close(descriptor)
  try:
    with contextlib.ExitStack() as stack:
      yield _writer(stack, name, ending, source)
    os.chmod(name, 0o644)
    os.replace(name, path)
  finally:
    pathlib.Path(name).unlink(missing_ok=True)


def _writer(stack, name, ending, source) -> Write:
  if ending == '.npz':
    return _to_npz(stack, name, source)
  if ending == '.parquet':
    return _to_parquet(stack, name, source)
  f = stack.enter_context(open(name, 'w', encoding='utf-8', newline=''))
  if ending in TOKENS:
    return lambda block, columns: f.writelines(_tagged(block, columns))
  if ending in ('.jsonl', '.ndjson'):
    return lambda block, columns: f.writelines(
      json.dumps(row, ensure_ascii=False, default=str) + '\n' for row in _rows(block, columns, True)
    )
  if source.suffix.lower() == ending:
    with open(source, 'rb') as given:  # keeps a BOM, by which spreadsheets recognise UTF-8
      f.write('\ufeff' * given.read(len(BOM)).startswith(BOM))
  writer, begun = csv.writer(f, delimiter=TABLES[ending], lineterminator='\n'), []

  def write(block, columns):
    for row in _rows(block, columns, False):
      if not begun:
        begun.extend(row)
        writer.writerow(begun)
      if [*row] != begun:
        raise ValueError(f'{source}: rows have different columns, which only .jsonl can have')
      writer.writerow(row.values())

  return write


def _rows(block, columns, nested) -> Iterable[dict[str, Any]]:
  """The rows of a table with their predictions; nested: whether lists may stay lists."""
  for i, row in enumerate(block.rows):
    added = {f'{PREFIX}{name}': _cell(values[i], nested) for name, values in columns.items()}
    if there := [name for name in added if name in row]:
      raise ValueError(f'there is a column {there[0]} already: remove or rename it')
    yield row | added


def _cell(value, nested):
  value = value.tolist() if hasattr(value, 'tolist') else value
  if isinstance(value, list | tuple):
    cells = [_cell(of, nested) for of in value]
    return cells if nested else ' '.join('_' if of is None else str(of) for of in cells)
  return float(f'{value:.7g}') if isinstance(value, float) else value


def _to_parquet(stack, name, source) -> Write:
  pyarrow = parquet()
  files = []

  def write(block, columns):
    rows = [*_rows(block, columns, True)]
    if not files:
      given = pyarrow.parquet.read_schema(source)
      added = pyarrow.Table.from_pylist(
        [{n: row[n] for n in row if n.startswith(PREFIX) and n not in given.names} for row in rows]
      )
      schema = pyarrow.schema([*given, *added.schema], metadata=given.metadata)
      files.append(stack.enter_context(pyarrow.parquet.ParquetWriter(name, schema)))
    files[0].write_table(pyarrow.Table.from_pylist(rows, schema=files[0].schema))

  return write


def _tagged(block, columns):
  """The lines of tokens with the answer as the last field, and a blank line after each sentence."""
  first = next(iter(columns.values()))
  for lines, tags in zip(block.rows, first, strict=True):
    for i, line in enumerate(lines):
      separator = '\t' if '\t' in line else ' '
      yield f'{line}{separator}{"_" if tags[i] is None else tags[i]}\n'
    yield '\n'


def _to_npz(stack, name, source) -> Write:
  found: dict[str, list] = {}

  def write(block, columns):
    for column, values in columns.items():
      found.setdefault(f'{PREFIX}{column}', []).extend(_cell(v, True) for v in values)

  def save():
    whole = arrays(source)
    if there := [column for column in found if column in whole]:
      raise ValueError(f'{source} has an array {there[0]} already')
    with open(name, 'wb') as f:
      np.savez(f, **whole, **{column: _array(values) for column, values in found.items()})

  stack.push(lambda kind, *_: save() if kind is None else None)
  return write


def _array(values):
  """Values as an array; lists of different lengths are padded with NaN or ''."""
  if not any(isinstance(value, list) for value in values):
    return np.array(values)
  longest = max(map(len, values))
  rest = '' if any(isinstance(of, str) for value in values for of in value) else np.nan
  filled = [[rest if of is None else of for of in value] for value in values]
  return np.array([value + [rest] * (longest - len(value)) for value in filled])
