"""Tables: CSV, TSV, JSONL and Parquet as columns, with the row of each entry in its file."""

import codecs
import csv
import io
import json
import math
import pathlib
from typing import Any, NamedTuple

import numpy as np

from rnnlab.console.words import near
from rnnlab.data import DataError

SEPARATORS = {'.csv': ',', '.tsv': '\t', '.tab': '\t'}
ENDINGS = (*SEPARATORS, '.jsonl', '.ndjson', '.parquet')


class Table(NamedTuple):
  """path: where it was read. columns: entries by a column's name. rows: an entry's line, int `[N]`.

  Of a Parquet file rows are counted from 1.
  """

  path: str
  columns: dict[str, list[Any]]
  rows: np.ndarray

  def column(self, name: str) -> list[Any]:
    """The entries of a column; raises DataError, naming the near match, where there is none."""
    if name not in self.columns:
      raise DataError(
        f'{self.path}: there is no column {name!r}{near(name, self.columns)}; columns:'
        f' {", ".join(self.columns)}'
      )
    return self.columns[name]

  def numbers(self, name: str) -> np.ndarray:
    """A column as finite numbers, float64 `[N]`; raises DataError, with the row, for another."""
    found = np.empty(len(self.rows))
    for i, entry in enumerate(self.column(name)):
      try:
        found[i] = entry
      except (TypeError, ValueError):
        found[i] = math.nan
      if not math.isfinite(found[i]):
        raise DataError(
          f'{self.path}: row {self.rows[i]}: {entry!r:.60} in column {name!r} is no finite number'
        )
    return found

  def texts(self, name: str) -> list[str]:
    """A column as texts; raises DataError, with the row, for what is no text or an empty one."""
    found = self.column(name)
    for row, entry in zip(self.rows, found, strict=True):
      if not isinstance(entry, str) or not entry.strip():
        what = 'is empty' if isinstance(entry, str) else f'holds {entry!r:.60}, which is no text'
        raise DataError(f'{self.path}: row {row}: column {name!r} {what}')
    return list(found)


def read(path: str) -> Table:
  """The table of a file, by its ending; entries of CSV and TSV are texts as they are written.

  Empty lines are passed over. Raises DataError, with the row, for what is no such table.
  """
  file = pathlib.Path(path).expanduser()
  if not file.is_file():
    raise DataError(f'{path}: there is no such file' + ', but a folder' * file.is_dir())
  ending = file.suffix.lower()
  if ending not in ENDINGS:
    raise DataError(f'{path}: a table is a file that ends in {", ".join(ENDINGS)}')
  if ending == '.parquet':
    columns, rows = _parquet(file)
  elif ending in SEPARATORS:
    columns, rows = _separated(path, text(path), SEPARATORS[ending])
  else:
    columns, rows = _json_lines(path, text(path))
  if not rows:
    raise DataError(f'{path}: there are no rows' + ' under the header' * bool(columns))
  return Table(str(path), columns, np.array(rows, np.int64))


def text(path: str) -> str:
  """The content of a file in UTF-8; raises DataError, with the line, where it is in none."""
  content = pathlib.Path(path).expanduser().read_bytes()
  if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
    raise DataError(
      f'{path}: the file is in UTF-16 and must be in UTF-8: convert it, as by'
      ' `iconv -f UTF-16 -t UTF-8 FILE`'
    )
  try:
    found = content.decode('utf-8-sig')
  except UnicodeDecodeError as error:
    row = content.count(b'\n', 0, error.start) + 1
    raise DataError(f'{path}: row {row}: a byte {content[error.start]:#x} is not UTF-8') from None
  if '\0' in found:
    row = found.count('\n', 0, found.index('\0')) + 1
    raise DataError(f'{path}: row {row}: a byte 0: this is no text file')
  return found


def _separated(path, content, separator):
  reader = csv.reader(io.StringIO(content, newline=''), delimiter=separator, strict=True)
  entries, rows, header, before = [], [], None, 0
  try:
    for entry in reader:
      row, before = before + 1, reader.line_num
      if not entry:
        continue
      if header is None:
        header = _header(path, row, entry)
      elif len(entry) != len(header):
        raise DataError(f'{path}: row {row}: {len(entry)} fields, and the header has {len(header)}')
      else:
        entries.append(entry)
        rows.append(row)
  except csv.Error as error:
    raise DataError(f'{path}: row {before + 1}: {error}. Is a quotation mark left open?') from None
  columns = zip(*entries, strict=True) if entries else [()] * len(header or ())
  return dict(zip(header or (), map(list, columns), strict=True)), rows


def _header(path, row, names):
  for name in names:
    if not name or names.count(name) > 1:
      raise DataError(f'{path}: row {row}: the column {name!r} must have a name of its own')
  return names


def _json_lines(path, content):
  columns, rows = {}, []
  for row, line in enumerate(content.split('\n'), start=1):
    if not line.strip():
      continue
    try:
      entry = json.loads(line)
    except ValueError as error:
      raise DataError(f'{path}: row {row}: no JSON: {error}') from None
    if not isinstance(entry, dict):
      raise DataError(f'{path}: row {row}: an object {{...}} must be here, not {line:.40}')
    columns = columns or {name: [] for name in entry}
    if wrong := columns.keys() ^ entry.keys():
      raise DataError(
        f'{path}: row {row}: the first row has the keys {", ".join(columns)}; of these and this'
        f" row's {', '.join(sorted(wrong))} is not in both"
      )
    for name, value in entry.items():
      columns[name].append(value)
    rows.append(row)
  return columns, rows


def _parquet(path):
  import pandas as pd

  try:
    frame = pd.read_parquet(path)
  except ImportError as error:
    raise DataError(f'{path}: to read Parquet, `pip install pyarrow`: {error}') from None
  except Exception as error:  # pyarrow's own kinds, for a damaged file
    raise DataError(f'{path}: no Parquet file, or a damaged one: {error}') from None
  return {str(name): frame[name].tolist() for name in frame}, range(1, len(frame) + 1)
