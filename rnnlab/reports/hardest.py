"""The test examples that a setting's seeds find hardest, as a table with their content."""

import pathlib
from typing import Any, NamedTuple

import pandas as pd

from rnnlab.runs import folder as run_files

MOST = 10  # of a setting
WIDTH, HEIGHT = 160, 28  # of a sparkline, in pixels


class Hard(NamedTuple):
  """A hard example.

  row: its number in the test split, from 1. seeds: how many seeds have it among their hardest.
  loss: the mean over those seeds. true, predicted: in words, '' where they are not known; the
  predictions of several seeds are separated by ' / '. text: what it says, or ''. lines: for a
  series, the points of each feature's line in SVG's notation.
  """

  row: int
  seeds: int
  loss: float
  true: str
  predicted: str
  text: str
  lines: list[str]


def of_group(workdir: pathlib.Path, runs: pd.DataFrame) -> list[Hard]:
  """The hardest examples (at most MOST) of the runs of one setting: those hard for most seeds.

  Each run lists its examples of highest test loss. For equal numbers of seeds, the highest mean
  loss comes first.
  """
  found: dict[int, list[dict[str, Any]]] = {}
  for run in runs['id']:
    for example in run_files.read_hardest(pathlib.Path(workdir) / run):
      found.setdefault(example['row'], []).append(example)
  hard = [
    Hard(
      row + 1,
      len(seeds),
      sum(seed['loss'] for seed in seeds) / len(seeds),
      seeds[0]['true'],
      ' / '.join(dict.fromkeys(seed['predicted'] for seed in seeds)),
      *_content(seeds[0]['shown']),
    )
    for row, seeds in found.items()
  ]
  return sorted(hard, key=lambda example: (-example.seeds, -example.loss, example.row))[:MOST]


def _content(shown):
  """(text, lines of a sparkline)."""
  if isinstance(shown, str):
    return shown, []
  series = [line for line in shown if isinstance(line, list) and line]
  numbers = [x for line in series for x in line if isinstance(x, (int, float))]
  if len(numbers) != sum(map(len, series)) or not numbers:
    return '', []
  low, high = min(numbers), max(numbers)
  down = (HEIGHT - 4) / (high - low or 1)
  return '', [
    ' '.join(
      f'{i * WIDTH / max(len(line) - 1, 1):.1f},{HEIGHT - 2 - down * (x - low):.1f}'
      for i, x in enumerate(line)
    )
    for line in series
  ]
