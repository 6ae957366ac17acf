"""Files with a token and its tag in each line, and an empty line after each sentence (CoNLL)."""

from pathlib import Path

import numpy as np

from rnnlab.data import DataError, table
from rnnlab.data.base import Examples


def read(path: Path, labelled: bool = True) -> Examples:
  """The sentences of a file: lists of tokens, the first field of a line, and of tags, the last.

  Fields are separated by tabs, or else by spaces. Lines that begin with -DOCSTART- are left out,
  and end a sentence as empty lines do.
  Rows are the numbers of the sentences' first lines. labelled: whether there must be tags. Raises
  DataError, with the line, for one whose number of fields differs from the first.
  """
  if not path.exists():
    raise DataError(f'{path}: no such file.')
  if not path.is_file():
    raise DataError(f'{path} is a folder: give a file in it.')
  content = table.text_of(path)
  tokens, tags, rows, width, began = [], [], [], 0, False
  for number, line in enumerate(content.split('\n'), start=1):
    line = line.rstrip('\r')
    if not line.strip():
      began = False
      continue
    if line.startswith('-DOCSTART-'):
      began = False
      continue
    fields = line.split('\t') if '\t' in line else line.split()
    width = width or len(fields)
    if len(fields) != width:
      raise DataError(
        f'{path}, line {number}: it has {len(fields)} fields, and the lines before it {width}.'
      )
    if labelled and width < 2:
      raise DataError(f'{path}, line {number}: there is a token and no tag: {line!r:.60}.')
    if not fields[0].strip() or not fields[-1].strip():
      raise DataError(f'{path}, line {number}: a field is empty: {line!r:.60}.')
    if not began:
      tokens.append([])
      tags.append([])
      rows.append(number)
      began = True
    tokens[-1].append(fields[0].strip())
    tags[-1].append(fields[-1].strip())
  if not tokens:
    raise DataError(f'{path} has no sentences.')
  return Examples(tokens, tags if labelled else [None] * len(tokens), np.array(rows))
