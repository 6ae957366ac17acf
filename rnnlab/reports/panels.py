"""The panels that a task has for a report: gathered from the runs' predictions, and in words."""

import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from absl import logging

from rnnlab import tasks
from rnnlab.machine import disk
from rnnlab.results import predictions
from rnnlab.runs import folder as run_files
from rnnlab.tasks.base import Panel

MOST_POINTS = 2000  # in a scatter plot: more would hide one another and make the page slow
TOLD = 3  # values that stand out, in a figure's text alternative


class Shown(NamedTuple):
  """One panel for each of some groups of runs; all have the same kind, title and caption.

  Panels of kind 'tokens' have the decoded 'text' in place of ids.

  groups: (group, its cell, its panel), in the order of the summary.
  """

  kind: str
  title: str
  caption: str
  groups: list[tuple[str, str, Panel]]


def of_task(workdir: pathlib.Path, task: str, runs: pd.DataFrame) -> Iterator[Shown]:
  """The panels of the runs of one task, for each group whose runs all kept their predictions.

  runs: has a column `group`. A group's panels are of all its seeds together. Panels of several
  groups that share a title are shown side by side.
  """
  found: dict[tuple[str, str], list] = {}
  try:
    of = tasks.find(task)
  except ValueError as error:
    logging.warning('%s: the report has no panels of its runs', error)
    return
  if of.panels is None:
    return
  for group, part in runs.groupby('group', sort=False):
    folders = [pathlib.Path(workdir) / run for run in part['id']]
    kept = [predictions.read(folder) for folder in folders]
    if not all(kept):
      continue
    encoding = disk.read_json(folders[0] / run_files.ENCODING, dict) or {}
    try:
      made = [_legible(panel, of, folders[0], encoding) for panel in of.panels(kept, encoding)]
    except Exception as error:  # a user's own task, or predictions of an older version
      logging.warning(
        'the report leaves out the panels of %s, as the task %s failed to make them from its'
        ' predictions: %s: %s',
        group,
        task,
        type(error).__name__,
        error,
      )
      continue
    for panel in made:
      entry = group, part['model.cell'].iloc[0], panel
      found.setdefault((panel.kind, panel.title), []).append(entry)
  for (kind, title), groups in found.items():
    yield Shown(kind, title, groups[0][2].caption, groups)


def _legible(panel, task, folder, encoding):
  """The panel; if it is one of token ids, with their text in place of them."""
  if panel.kind != 'tokens' or 'text' in panel.data:
    return panel
  words = (folder / run_files.VOCABULARY).read_text(encoding='utf-8').split('\n')[:-1]
  return panel._replace(data={'text': task.join(panel.data['ids'], encoding, words)})


def caption(shown: Shown) -> str:
  """How to read the figure that shows these panels."""
  text = shown.caption.strip()
  most = max(len(np.ravel(panel.data.get('x', ()))) for _, _, panel in shown.groups)
  if shown.kind == 'scatter' and most > MOST_POINTS:
    text += f' Drawn are {MOST_POINTS:,} of {most:,} points, chosen at random.'
  if shown.kind == 'matrix':
    text += (
      ' Colours and percentages are shares of a row, whose total stands beside its name; the count'
      ' is below each percentage where there is room.'
    )
  return text


def alternative(shown: Shown) -> Iterator[str]:
  """A text alternative to the figure: its kind, then what it shows of each group."""
  kinds = {'curve': 'Line plot', 'scatter': 'Scatter plot'}
  yield f'{kinds.get(shown.kind, "Heat map")}: {shown.title}'
  for group, _, panel in shown.groups:
    yield f'{group}: {_TOLD[shown.kind](panel.data)}'


def _matrix(data):
  counts = np.asarray(data['counts'], float)
  totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
  shares, labels = counts / totals, list(map(str, data['labels']))
  right = np.trace(counts) / max(counts.sum(), 1)
  off = np.where(np.eye(len(counts), dtype=bool), -1, shares)
  said = [
    f'{shares[i, j]:.0%} of {labels[i]} as {labels[j]}'
    for i, j in (np.unravel_index(k, off.shape) for k in np.argsort(-off, axis=None, kind='stable'))
    if off[i, j] > 0
  ]
  most = f'; most often confused: {", ".join(said[:TOLD])}' if said else ''
  return f'{right:.1%} on the diagonal{most}'


def _curve(data):
  x, y = (np.asarray(data[name], float) for name in 'xy')
  known = np.isfinite(x) & np.isfinite(y)
  if not known.any():
    return 'no points'
  names = data.get('ticks') or [f'{a:.3g}' for a in x]
  points = [(names[i], y[i]) for i in np.flatnonzero(known)]
  ends = [points[i] for i in sorted({0, len(points) // 2, len(points) - 1})]
  said = ', '.join(f'{b:.3g} at {a}' for a, b in ends)
  return f'{data.get("y_label", "y")} against {data.get("x_label", "x")}: {said}'


def _scatter(data):
  x, y = (np.ravel(np.asarray(data[name], float)) for name in 'xy')
  said = f'{len(x):,} points, {data.get("y_label", "y")} against {data.get("x_label", "x")}'
  if len(x) > 1 and np.std(x) > 0 and np.std(y) > 0:
    said += f', correlation {np.corrcoef(x, y)[0, 1]:.2f}'
  return said


def _attention(data):
  said = []
  for one in data['each'][:TOLD]:
    most = np.argmax(one['weights'], axis=1)
    pairs = [f'{to} from {one["source"][i]}' for to, i in zip(one['target'], most, strict=True)]
    said.append(', '.join(pairs))
  return '; '.join(said)


_TOLD = {'matrix': _matrix, 'attention': _attention, 'curve': _curve, 'scatter': _scatter}
