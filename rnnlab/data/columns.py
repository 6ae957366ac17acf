"""Tagged texts, a token a line, as those of the CoNLL shared tasks."""

import pathlib

import numpy as np

from rnnlab.data import DataError, table
from rnnlab.data.base import Examples


def read(path: str) -> Examples:
  """Sentences as lists of tokens, with their tags: of each line the first field, and the last.

  Fields are parted by tabs, or else by spaces; an empty line ends a sentence. Lines that begin with
  -DOCSTART- are passed over. rows are those of the first tokens.
  Raises DataError, with the row, where a line has one field, or not as many as the first one.
  """
  if not pathlib.Path(path).expanduser().is_file():
    raise DataError(f'{path}: there is no such file')
  content, inputs, targets, rows = table.text(path), [], [], []
  separator = '\t' if '\t' in content else None
  count, ended = None, True
  for row, line in enumerate(content.split('\n'), start=1):
    line = line.removesuffix('\r')
    if not line.strip() or line.startswith('-DOCSTART-'):
      ended = True
      continue
    fields = line.split(separator)
    count = count or len(fields)
    if len(fields) != count or count < 2 or not fields[0] or not fields[-1]:
      wanted = f'{max(count, 2)} fields' + ' or more' * (count < 2)
      raise DataError(f'{path}: row {row}: there must be {wanted}, a token first and its tag last')
    if ended:
      inputs.append([])
      targets.append([])
      rows.append(row)
      ended = False
    inputs[-1].append(fields[0])
    targets[-1].append(fields[-1])
  if not inputs:
    raise DataError(f'{path}: there is no tagged token')
  return Examples(inputs, targets, np.array(rows, np.int64))
