"""A user's own tables: CSV, TSV, JSON Lines and Parquet, read by pandas, checked row by row.

Rows are counted as in a spreadsheet: the header is row 1. In JSON Lines and Parquet, which have no
header, the first is row 1.
"""

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnlab.console.words import near
from rnnlab.data import DataError

if TYPE_CHECKING:
  import pandas as pd

# pandas is imported where it is used, so that --help and --status answer at once.

SHOWN = 5  # rows that an error names


def read(path: Path) -> tuple['pd.DataFrame', np.ndarray]:
  """A table, and the number of each of its rows, int `[N]`.

  Cells of CSV and TSV are texts as they are written, '' if empty; those of JSON Lines and Parquet
  have the types of the file, None if empty. Raises DataError, with the row, for anything but a
  table.
  """
  ending = path.suffix.lower()
  if ending not in READERS:
    raise DataError(
      f'{path}: the name of a file of examples must end in {", ".join(READERS)}, not in'
      f' {ending or "nothing"!r}.'
    )
  if not path.exists():
    raise DataError(f'{path}: no such file.')
  if not path.is_file():
    raise DataError(f'{path} is a folder: give a file in it.')
  if not path.stat().st_size:
    raise DataError(f'{path} is empty.')
  try:
    frame, rows = READERS[ending](path)
  except OSError as error:
    raise DataError(f'{path} cannot be read: {error.strerror or error}.') from error
  if not len(frame):
    raise DataError(f'{path} has no rows, only {", ".join(map(str, frame)) or "nothing"}.')
  return frame, rows


def _separated(separator):
  def read(path):
    import pandas as pd

    csv.field_size_limit(2**31 - 1)
    content = io.StringIO(text_of(path), newline='')
    header, kept, rows, row = [], [], [], 0
    try:
      for row, fields in enumerate(csv.reader(content, delimiter=separator, strict=True), start=1):
        if not fields:
          continue
        if not header:
          header = fields
          _check_header(path, row, header)
        elif len(fields) != len(header):
          raise DataError(
            f'{path}, row {row}: it has {len(fields)} fields, and the header {len(header)}'
            f' ({", ".join(header)}): a text that contains the separator must be between quotation'
            ' marks (").'
          )
        else:
          kept.append(fields)
          rows.append(row)
    except csv.Error as error:
      if 'end of data' in str(error):
        raise DataError(
          f'{path}, row {row + 1}: a quotation mark (") is opened and never closed.'
        ) from None
      raise DataError(f'{path}, row {row + 1}: {error}.') from error
    return pd.DataFrame(kept, columns=header, dtype=object), np.array(rows, np.int64)

  return read


def _check_header(path, row, header):
  if twice := [name for i, name in enumerate(header) if name in header[:i]]:
    raise DataError(f'{path}, row {row}: the column {twice[0]!r} occurs twice.')
  if any(not name.strip() for name in header):
    raise DataError(f'{path}, row {row}: a column has no name; is it a header: {header!r:.100}?')


def text_of(path: Path) -> str:
  """The content of a text file in UTF-8, or in UTF-16 with a byte order mark.

  Raises DataError, with the line, for anything else.
  """
  content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
  if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
    encoding = 'utf-16'
  else:
    encoding = 'utf-8'
    if (place := content.find(b'\0')) >= 0:
      line = content.count(b'\n', 0, place) + 1
      raise DataError(f'{path}, line {line}: there is a zero byte: this is not a text file.')
  try:
    return content.decode(encoding)
  except UnicodeDecodeError as error:
    line = content.count(b'\n', 0, error.start) + 1
    name = 'UTF-16' if encoding == 'utf-16' else 'UTF-8'
    raise DataError(
      f'{path}, line {line}: byte {content[error.start]:#04x} is not {name}. If the file has'
      ' another encoding, convert it, as with `iconv -f LATIN1 -t UTF-8`.'
    ) from None


def _json_lines(path):
  import pandas as pd

  content = text_of(path)
  rows = []
  for number, line in enumerate(content.split('\n'), start=1):
    if not line.strip():
      if line or content[-1:] != '\n' or number <= content.count('\n'):
        raise DataError(f'{path}, line {number}: it is empty; each line must be a JSON object.')
      continue
    try:
      row = json.loads(line, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
      raise DataError(f'{path}, line {number}: it is not JSON: {error}.') from None
    if not isinstance(row, dict):
      raise DataError(
        f'{path}, line {number}: each line must be a JSON object, {{"text": ..., "label": ...}},'
        f' and this is a {type(row).__name__}.'
      )
    if rows and row.keys() != rows[0].keys():
      other = min(row.keys() ^ rows[0].keys())
      where = 'and no other line before it' if other in row else 'as the lines before it have'
      verb = 'has' if other in row else 'does not have'
      raise DataError(f'{path}, line {number}: it {verb} the entry {other!r}, {where}.')
    rows.append(row)
  return pd.DataFrame(rows, dtype=object), np.arange(1, len(rows) + 1)


def _once(pairs):
  """A JSON object in which each entry may occur only once."""
  names = [name for name, _ in pairs]
  if twice := [name for i, name in enumerate(names) if name in names[:i]]:
    raise ValueError(f'the entry {twice[0]!r} occurs twice')
  return dict(pairs)


def _parquet(path):
  import pandas as pd

  try:
    frame = pd.read_parquet(path)
    return frame, np.arange(1, len(frame) + 1)
  except ImportError:
    raise DataError(f'{path}: Parquet needs pyarrow: pip install pyarrow.') from None
  except MemoryError:
    raise
  except Exception as error:  # pyarrow's own, of a dozen kinds
    said = ' '.join(str(error).split())
    raise DataError(f'{path} is damaged, or not Parquet: {said:.200}.') from error


READERS: dict[str, Callable[[Path], tuple['pd.DataFrame', np.ndarray]]] = {
  '.csv': _separated(','),
  '.tsv': _separated('\t'),
  '.tab': _separated('\t'),
  '.jsonl': _json_lines,
  '.parquet': _parquet,
}


def column(frame: 'pd.DataFrame', name: str, field: str, path: Path) -> 'pd.Series':
  """The column of a table that a field of the config names; raises DataError if there is none."""
  if name in frame:
    return frame[name]
  there = [str(column) for column in frame]
  raise DataError(
    f'{path} has no column {name!r}{near(name, there)}; it has {", ".join(there)}. Say which it is'
    f' with --config.{field}=COLUMN.'
  )


def texts(values: Sequence[Any], rows: np.ndarray, name: str, path: Path) -> list[str]:
  """A column's cells as texts, '' if empty; raises DataError for a cell that is not a text."""
  found = []
  for value, row in zip(values, rows, strict=True):
    if is_missing(value):
      value = ''
    if not isinstance(value, str):
      raise DataError(
        f'{path}, row {row}: {name} must be a text, not {value!r:.60} ({type(value).__name__}).'
      )
    found.append(value)
  return found


def labels(values: Sequence[Any], rows: np.ndarray, name: str, path: Path) -> list[str]:
  """A column's cells as names of classes, without the spaces around them.

  Whole numbers are names as they are written, and so is True. Raises DataError, with the rows, for
  a cell that is empty or says nan, none, null or <na>, as programs write an empty one, and for a
  column of numbers some of which are not whole, which are not classes.
  """
  found, missing = [], []
  for value, row in zip(values, rows, strict=True):
    label = '' if is_missing(value) else str(value).strip()
    if isinstance(value, list | dict | np.ndarray):
      raise DataError(f'{path}, row {row}: {name} must be a label, not {value!r:.60}.')
    if label.lower() in ('', 'nan', 'none', 'null', '<na>'):
      missing.append(row)
    found.append(label)
  if missing:
    raise DataError(
      f'{path}: {name} is missing in {some_rows(missing)}, empty or one of nan, none, null, <na>.'
      ' Leave these rows out; or, if that is a class, give it another name.'
    )
  broken = [(label, row) for label, row in zip(found, rows, strict=True) if _is_fraction(label)]
  if broken and all(_is_number(label) for label in {*found}):
    raise DataError(
      f'{path}, row {broken[0][1]}: {name} is {broken[0][0]}, which is not a class but a number. To'
      " predict numbers use the task regression (config.task.name = 'regression'); if they are"
      ' classes, write them without a point.'
    )
  return found


def numbers(values: Sequence[Any], rows: np.ndarray, name: str, path: Path) -> np.ndarray:
  """A column's cells as finite numbers, float64 `[N]`.

  Raises DataError, with the row, for others.
  """
  kind = getattr(getattr(values, 'dtype', None), 'kind', 'O')
  if kind not in 'bmM' and not any(isinstance(value, bool | np.bool_) for value in values):
    try:
      found = np.asarray(values, np.float64)
      if np.isfinite(found).all():
        return found
    except (TypeError, ValueError):
      pass
  for value, row in zip(values, rows, strict=True):
    if isinstance(value, list | dict | bool | np.bool_) or not _is_number(str(value).strip()):
      raise DataError(f'{path}, row {row}: {name} must be a number, not {value!r:.60}.')
  return np.array([float(str(value).strip()) for value in values])


def times(values: Sequence[Any], rows: np.ndarray, name: str, path: Path) -> np.ndarray:
  """A column's cells as points in time, float64 `[N]`: numbers, or dates as pandas reads them.

  Of a date such as 13/02/2023, the column says whether the day or the month is first. Raises
  DataError, with the row, for cells that are neither, and if the column does not say so.
  """
  import pandas as pd

  if all(_is_number(str(value).strip()) for value in values):
    return numbers(values, rows, name, path)
  dates = _month_first(values, rows, name, path)
  found = pd.to_datetime(pd.Series(dates), errors='coerce', utc=True, format='mixed')
  if bad := np.flatnonzero(found.isna()).tolist():
    # Among numbers it is the cell without one.
    place = next((i for i in bad if not _is_number(str(values[i]).strip())), bad[0])
    raise DataError(
      f'{path}, row {rows[place]}: {name} must be a number or a date, not {values[place]!r:.60}.'
    )
  return (found - found.min()).dt.total_seconds().to_numpy()


_DAY_AND_MONTH = re.compile(r'\s*(\d{1,2})([./-])(\d{1,2})\2(?=\d)')


def _month_first(values, rows, name, path):
  """Dates that begin with a day and a month, with the month first, as pandas reads them."""
  found = [_DAY_AND_MONTH.match(value) if isinstance(value, str) else None for value in values]
  pairs = [(int(one[1]), int(one[3])) if one else (0, 0) for one in found]
  over = [next((i for i, pair in enumerate(pairs) if pair[side] > 12), None) for side in (0, 1)]
  if None not in over:
    raise DataError(
      f'{path}: {name} has the day first in row {rows[over[0]]}, {values[over[0]]!r:.60}, and the'
      f' month first in row {rows[over[1]]}, {values[over[1]]!r:.60}. Write dates as 2023-12-31.'
    )
  if over == [None, None]:
    if unclear := [i for i, (first, second) in enumerate(pairs) if first != second]:
      raise DataError(
        f'{path}, row {rows[unclear[0]]}: {name} is {values[unclear[0]]!r:.60}, and no row tells'
        ' whether the day or the month is first. Write dates as 2023-12-31.'
      )
  if over[0] is None:
    return list(values)
  return [
    f'{one[3]}/{one[1]}/{value[one.end() :]}' if one else value
    for one, value in zip(found, values, strict=True)
  ]


def some_rows(rows: Sequence[int]) -> str:
  """Rows in words: the first few, and how many there are."""
  shown = ', '.join(map(str, rows[:SHOWN])) + (', ...' if len(rows) > SHOWN else '')
  return f'row {shown}' if len(rows) == 1 else f'{len(rows):,} rows ({shown})'


def is_missing(value: Any) -> bool:
  """Whether a cell is empty: None, NaN, or pandas's own NA and NaT."""
  if value is None or isinstance(value, float) and np.isnan(value):
    return True
  return type(value).__name__ in ('NAType', 'NaTType')


def _is_number(label):
  try:
    return bool(np.isfinite(float(label)))
  except ValueError:
    return False


def _is_fraction(label):
  return _is_number(label) and not re.fullmatch(r'[+-]?\d+', label)
