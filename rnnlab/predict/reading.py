"""The examples in a file, for a model to answer.

A table is CSV, TSV, JSONL (a JSON object per line) or Parquet; series are .npz; tokens, one per
line with their tags, are .conll, .bio, .iob or .txt. Files are read in blocks, and a table is never
in memory as a whole. Rows are kept as they are written, so only the column that the model reads
need be known.
"""

import codecs
import collections
import csv
import json
import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from rnnlab.console.words import near
from rnnlab.predict.predictor import Predictor, features, is_text, reads_texts

ROWS = 1024  # in a block
FIELD = 2**24  # the most characters of a field in a CSV; an unclosed quotation mark takes the rest
TABLES = {'.csv': ',', '.tsv': '\t', '.tab': '\t', '.jsonl': '', '.ndjson': '', '.parquet': ''}
TOKENS = '.conll', '.bio', '.iob', '.txt'
BOM = codecs.BOM_UTF8


class Block(NamedTuple):
  """Some rows of a file.

  rows: the content of each: a dict for a table, the lines for tokens, None for series.
  examples: what the model is to read. If the examples are windows of a long series, no window ends
    at the first rows, so there are fewer examples than rows.
  """

  rows: list[Any]
  examples: list[Any]


def blocks(path: str | os.PathLike, member: Predictor, column: str = '') -> Iterator[Block]:
  """Reads the examples of a file for a model, block by block, in order.

  column: the column of the text in a table; '': data.text of the model's config, else 'text'.

  Raises OSError, and ValueError for people, with the file and the row, for anything malformed or
  unfit for the model.
  """
  path = pathlib.Path(path)
  ending = kind(path)
  window = member.config.data.get('window', 0)
  series = not is_text(member) and not window
  if series != (ending == '.npz') or (window and ending not in TABLES):
    reads = 'series, as in an .npz' if series else 'the rows of a table, as in a .csv'
    reads = reads if series or window else 'texts or tokens, as in a .csv'
    raise ValueError(f'{path}: this model reads {reads}')
  if window:
    found = _windows(path, window, member)
  elif ending == '.npz':
    found = _series(path, member)
  elif ending in TOKENS:
    if not member.outputs.steps:
      raise ValueError(f'{path}: this model gives one answer per text, not one for each token')
    found = _sentences(path)
  else:
    found = _texts(
      path, _records(path), column or member.config.data.get('text', '') or 'text', member
    )
  empty = True
  for block in _in_blocks(found):
    empty = False
    yield block
  if empty:
    raise ValueError(f'{path} has no rows')


def kind(path: pathlib.Path) -> str:
  """The extension of a file. Raises ValueError for a folder, and for an unknown extension."""
  if path.is_dir():
    raise ValueError(f'{path} is a folder: give a file')
  known = *TABLES, *TOKENS, '.npz'
  if (ending := path.suffix.lower()) not in known:
    raise ValueError(f'{path}: the name must end in one of {", ".join(known)}')
  return ending


def _in_blocks(pairs):
  block = Block([], [])
  for row, example in pairs:
    block.rows.append(row)
    if example is not None:
      block.examples.append(example)
    if len(block.rows) == ROWS:
      yield block
      block = Block([], [])
  if block.rows:
    yield block


def text_lines(path: pathlib.Path) -> Iterator[str]:
  """The lines of a text file with their ends. Raises ValueError if one is not UTF-8."""
  with open(path, 'rb') as f:
    for number, line in enumerate(f, 1):
      if number == 1 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(
          f'{path} is in UTF-16 and must be in UTF-8: convert it, for example by'
          ' `iconv -f UTF-16 -t UTF-8 FILE`'
        )
      try:
        yield (line.removeprefix(BOM) if number == 1 else line).decode()
      except UnicodeDecodeError as error:
        raise ValueError(
          f'{path}, line {number}: byte {error.start + 1}, {line[error.start]:#04x}, is not UTF-8:'
          ' convert the file, or remove the line'
        ) from None


def _records(path) -> Iterator[tuple[int, dict[str, Any]]]:
  """The rows of a table, each with the number of the line where it begins."""
  ending = path.suffix.lower()
  if ending == '.parquet':
    return _of_parquet(path)
  return _of_csv(path, TABLES[ending]) if TABLES[ending] else _of_jsonl(path)


def _of_csv(path, separator):
  csv.field_size_limit(FIELD)
  reader = csv.reader(text_lines(path), delimiter=separator, strict=True)
  header, begins = None, 1
  while True:
    begins = reader.line_num + 1
    try:
      fields = next(reader)
    except StopIteration:
      break
    except csv.Error as error:
      hint = ': is a quotation mark not closed?' if 'end of data' in str(error) else ''
      hint = hint or (': is an earlier one not closed?' if 'field larger' in str(error) else '')
      raise ValueError(f'{path}, row at line {begins}: {error}{hint}') from None
    if not fields:
      continue
    if header is None:
      header = fields
      if twice := sorted({name for name in header if header.count(name) > 1}):
        raise ValueError(f'{path}: two columns are called {twice[0]!r}')
    elif len(fields) != len(header):
      raise ValueError(
        f'{path}, row at line {begins}: it has {len(fields)} fields, but the header'
        f' {len(header)} ({", ".join(header)[:200]})'
      )
    else:
      yield begins, dict(zip(header, fields, strict=True))
  if header is None:
    raise ValueError(f'{path} is empty: its first line must name the columns')


def _of_jsonl(path):
  for number, line in enumerate(text_lines(path), 1):
    if not line.strip():
      continue
    try:
      row = json.loads(line)
    except (ValueError, RecursionError) as error:
      raise ValueError(f'{path}, line {number} is not JSON: {error}') from None
    if not isinstance(row, dict):
      raise ValueError(f'{path}, line {number} is {line.strip():.60}, but must be a JSON object')
    yield number, row


def parquet() -> Any:
  """pyarrow, with its Parquet. Raises ValueError, for people, if it is not installed."""
  try:
    import pyarrow.parquet
  except ImportError:
    raise ValueError('a Parquet file needs the package pyarrow: pip install pyarrow') from None
  return pyarrow


def _of_parquet(path):
  pyarrow = parquet()
  number = 0
  try:
    with pyarrow.parquet.ParquetFile(path) as file:
      for batch in file.iter_batches(ROWS):
        for row in batch.to_pylist():
          number += 1
          yield number, row
  except pyarrow.ArrowException as error:
    raise ValueError(f'{path} is damaged, or not a Parquet file: {error}') from None


def _texts(path, records, name, member):
  for i, (number, row) in enumerate(records):
    if name not in row:
      which = f'line {number}: ' if i else ''
      raise ValueError(
        f'{path}: {which}there is no column {name!r}{near(name, row)}, but {", ".join(row)[:300]}.'
        ' Give the column of the text with --column'
      )
    value = row[name]
    if not isinstance(value, str):
      raise ValueError(f'{path}, row {number}: {name} is {value!r:.60}, but must be a text')
    yield row, value if reads_texts(member) else value.split()


def _windows(path, window, member):
  """The rows of a long series, each with the window that ends there."""
  columns, time = member.encoding['columns'], member.config.data.time
  steps, before = collections.deque(maxlen=window), None
  for number, row in _records(path):
    if missing := [name for name in columns if name not in row]:
      raise ValueError(
        f'{path}, row {number}: there is no column {missing[0]!r}{near(missing[0], row)}, but'
        f' {", ".join(row)[:300]}'
      )
    step = [_number(row[name]) for name in columns]
    if not np.isfinite(step).all():
      name = columns[int(np.isfinite(step).argmin())]
      raise ValueError(f'{path}, row {number}: {name} is {row[name]!r:.60}, not a finite number')
    if time and time in row:
      now = row[time] if np.isnan(_number(row[time])) else _number(row[time])
      if before is not None and (type(now) is not type(before) or now < before):
        raise ValueError(f'{path}, row {number}: {time} decreases: rows must be in its order')
      before = now
    steps.append(step)
    yield row, np.array(steps) if len(steps) == window else None


def _number(value):
  try:
    return float(value)
  except (TypeError, ValueError):
    return math.nan


def _sentences(path):
  """The sentences of a file of tokens: their lines, and the first field of each.

  Lines that begin with -DOCSTART- end a sentence and are left out.
  """
  lines, tokens = [], []
  for line in text_lines(path):
    line = line.rstrip('\r\n')
    if line.strip() and not line.startswith('-DOCSTART-'):
      lines.append(line)
      tokens.append((line.split('\t') if '\t' in line else line.split())[0].strip())
      continue
    if tokens:
      yield lines, tokens
    lines, tokens = [], []
  if tokens:
    yield lines, tokens


def arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
  """The arrays in an .npz. Raises ValueError if it is damaged, or holds pickles."""
  try:
    with np.load(path, allow_pickle=False) as file:
      if not isinstance(file, np.lib.npyio.NpzFile):
        raise ValueError('it holds a single array and is not an .npz')
      return {name: file[name] for name in file.files}
  except OSError as error:
    if error.errno:
      raise
    raise ValueError(f'{path} is damaged, or not an .npz: {error}') from None
  except Exception as error:  # zipfile and NumPy raise many kinds on damaged bytes
    raise ValueError(f'{path} is damaged, or not an .npz of plain arrays: {error}') from None


def _series(path, member):
  """The series in an .npz: x is padded, `[N, T, D]` or `[N, T]`, or all steps, `[sum T, D]`."""
  found = arrays(path)
  if 'x' not in found:
    raise ValueError(f'{path} has no array x, but {", ".join(found) or "none"}')
  x, lengths = found['x'], found.get('lengths')
  channels = features(member)
  if x.dtype.kind not in 'fiub' or x.ndim not in (2, 3):
    raise ValueError(
      f'{path}: x must be numbers [N, T, {channels}], or [sum T, {channels}] with lengths [N]; it'
      f' is {x.dtype} {list(x.shape)}'
    )
  if lengths is not None and (lengths.ndim != 1 or lengths.dtype.kind not in 'iu'):
    raise ValueError(f'{path}: lengths must be whole numbers [N]')
  ragged = x.ndim == 2 and lengths is not None and lengths.sum() == len(x)
  if ragged and x.shape[1] == channels:
    each = np.split(x, np.cumsum(lengths)[:-1]) if len(lengths) else []
  else:
    x = x[..., None] if x.ndim == 2 else x
    lengths = np.full(len(x), x.shape[1]) if lengths is None else lengths
    if len(lengths) != len(x):
      raise ValueError(f'{path}: x has {len(x)} rows, but lengths has {len(lengths)}')
    if wrong := np.flatnonzero((lengths < 1) | (lengths > x.shape[1]))[:1].tolist():
      raise ValueError(
        f'{path}, row {wrong[0] + 1}: its length is {lengths[wrong[0]]}, but must be 1 to'
        f' {x.shape[1]}'
      )
    each = [row[:length] for row, length in zip(x, lengths, strict=True)]
  for row, one in enumerate(each, 1):
    if one.shape[1] != channels or not len(one):
      raise ValueError(f'{path}, row {row}: it is {list(one.shape)}, but must be [T, {channels}]')
    if wrong := np.argwhere(~np.isfinite(one))[:1].tolist():
      step, channel = wrong[0]
      raise ValueError(
        f'{path}, row {row}: x is {one[step, channel]} at step {step + 1}, channel {channel + 1}'
      )
    yield None, one.astype(np.float32)
