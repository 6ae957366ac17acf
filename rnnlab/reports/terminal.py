"""A report in a terminal or a log."""

from typing import Any

import pandas as pd

from rnnlab.reports import tables
from rnnlab.reports.content import Block, sentences


def table(blocks: list[Block], claims: pd.DataFrame) -> Any:
  """The verdicts on claims and what the runs found, as a rich renderable.

  It also reads well in a log 100 columns wide.
  """
  from rich import box
  from rich.console import Group
  from rich.table import Table
  from rich.text import Text

  parts = [Text(sentence) for sentence in claims['sentence']]
  parts += [Text('')] * bool(parts)
  for block in blocks:
    header, rows = tables.of_groups(block.summary)
    # Without edges and padding, so that a short row fits on one line of an 80-column terminal.
    grid = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    words = ' '.join(row[0] for row in rows).split()
    for i, name in enumerate(header):
      grid.add_column(
        name,
        justify='right' if i else 'left',
        vertical='bottom',
        min_width=0 if i else max(map(len, words)),
      )
    for row in rows:
      grid.add_row(*map(Text, row))
    parts += [Text(block.caption + '\n'), grid, Text(''), *map(Text, sentences(block)), Text('')]
  return Group(*parts[:-1])
