"""Comparisons of groups of runs that differ in one setting, and how sure each is."""

import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from rnnlab import tasks
from rnnlab.machine.disk import AnyPath
from rnnlab.results import measures, predictions, statistics
from rnnlab.results.load import DATA, settings

MOST_VALUES = 8  # of a setting, for every pair of them to be compared


def compare(
  runs: pd.DataFrame, workdir: AnyPath | None = None, over: Sequence[str] = ('model.cell',)
) -> pd.DataFrame:
  """A row for each pair of groups that differ in just one setting of `over`, and each epoch.

  Settings of which each cell has a single value of its own, such as sizes that make parameters
  equal, count as a part of the cell.

  `over=settings(runs)` compares every pair of settings. If a setting other than the cell takes more
  than MOST_VALUES values, each is compared only with the next. The columns, NaN where there are too
  few seeds, are:
  the data and settings that the pair shares; those that differ are '' for the cell and NaN for
    another setting, so that `label` names what they share;
  setting: the one that differs; a, b: its values, a being LSTM if it takes part, and the smaller of
    two numbers;
  metric: the column compared, the first metric on the test split at the epoch of best validation
    or after the last epoch, or one that is known once; primary: whether it is
    `measures.primary_column`;
  difference: b's mean minus a's over seeds; low, high: its 95% Welch interval; p: of Welch's test;
    p_holm: adjusted for all primary rows, or for all secondary ones (in a report, for those that
    compare the same setting, over all tasks);
  p_greater: P(b > a) for one seed of each (P(a is better) if lower is better), with its 95%
    interval, p_greater_low to p_greater_high;
  seeds_needed: seeds per group that would detect a difference this large, given the spread seen,
    with a power of 80%; n_a, n_b: numbers of seeds;
  items_low, items_high: the 95% interval over seeds and test items (`statistics.two_way`),
    and p_items: p over test items alone (`statistics.paired`), if `workdir` is given and holds the
    predictions of all the runs.
  """
  runs, names = measures.of_now(runs), settings(runs)
  runs = runs.assign(group=runs.groupby(DATA + names, sort=False, dropna=False).ngroup())
  pairs = [pair for name in over for pair in _pairs(runs, DATA + names, name)]
  values = {
    (group, column): part[['id', column]].dropna()
    for group, part in runs.groupby('group')
    for column in _columns(measures.metrics_of(part))
  }
  wanted = {group for _, _, pair in pairs for group in pair.values()}
  found = resampled(workdir, {k: v for k, v in values.items() if k[0] in wanted}, runs)
  rows = []
  for shared, name, pair in pairs:
    metrics = measures.from_json(shared['metrics'])
    primary = measures.primary_column(metrics, shared['validation_is_test'])
    for column in _columns(metrics):
      sides = [(group, column) for group in pair.values()]
      x, y = (values[side][column] for side in sides)
      if len(x) and len(y):
        a, b = pair
        what = {'setting': name, 'a': a, 'b': b, 'metric': column, 'primary': column == primary}
        rows.append(shared | what | _compared(x, y, *map(found.get, sides)))
  words = 'setting a b metric primary difference low high items_low items_high p_items p_greater'
  columns = [*words.split(), 'p_greater_low', 'p_greater_high', 'p', 'seeds_needed', 'n_a', 'n_b']
  table = pd.DataFrame(rows, columns=[*DATA, *names, *columns]).astype({'primary': bool})
  p_holm = table.groupby('primary')['p'].transform(statistics.holm)
  table.insert(table.columns.get_loc('p') + 1, 'p_holm', p_holm)
  return table


def _compared(x, y, of_x, of_y):
  """The numbers of a row of `compare`. x, y: values of a and b. of_x, of_y: see `resampled`."""
  difference, low, high, p = statistics.welch(x, y)
  greater = statistics.probability_greater(x, y)
  items, p_items = statistics.Estimate(difference, np.nan, np.nan), np.nan
  if of_x and of_y and of_x[0] == of_y[0]:
    items = statistics.two_way(of_x[1], of_y[1])
    p_items = statistics.paired(of_x[1], of_y[1])
  return {
    **{'difference': difference, 'low': low, 'high': high, 'p': p},
    **{'items_low': items.low, 'items_high': items.high, 'p_items': p_items},
    **{'p_greater': greater.value, 'p_greater_low': greater.low, 'p_greater_high': greater.high},
    'seeds_needed': statistics.seeds_needed(x, y, difference),
    **{'n_a': len(x), 'n_b': len(y)},
  }


def _pairs(runs, names, name):
  """(what they share, `name`, {value: group number} of both) for groups that differ only in `name`.

  runs: have their group's number as `group`. names: all columns that tell groups apart.
  """
  pairs = []
  for _, same in runs.groupby(DATA, sort=False, dropna=False):
    tied = _tied(same, names) if name == 'model.cell' else []
    shared = [other for other in names if other != name and other not in tied]
    # What differs is '' for a cell, which is always named, and NaN for another setting.
    differing = dict.fromkeys(tied, np.nan) | {name: '' if name == 'model.cell' else np.nan}
    pairs += _pairs_of(same, shared, differing, name)
  return pairs


def _tied(runs, names):
  """The settings that go with the cell: each cell has one value of them, and not all the same."""
  others = [name for name in names if name not in (*DATA, 'model.cell')]
  of_cell = runs.groupby('model.cell', sort=False)
  return [
    name
    for name in others
    if (of_cell[name].nunique(dropna=False) == 1).all() and runs[name].nunique(dropna=False) > 1
  ]


def _pairs_of(runs, shared, differing, name):
  pairs = []
  for key, part in runs.groupby(shared, sort=False, dropna=False):
    groups = part.groupby(name, sort=name != 'model.cell')['group'].first().to_dict()
    order = sorted(groups, key=lambda cell: cell != 'lstm') if name == 'model.cell' else [*groups]
    many = name != 'model.cell' and len(order) > MOST_VALUES
    for a, b in itertools.pairwise(order) if many else itertools.combinations(order, 2):
      pairs.append(
        (dict(zip(shared, key, strict=True)) | differing, name, {a: groups[a], b: groups[b]})
      )
  return pairs


def _columns(metrics):
  """The columns that are compared."""
  return [*measures.test_columns(metrics), *measures.once_columns(metrics)]


def resampled(
  workdir: AnyPath | None, groups: Mapping[tuple[Any, str], pd.DataFrame], runs: pd.DataFrame
) -> dict[tuple[Any, str], tuple[bytes, statistics.Resampled]]:
  """{name: (test split, Resampled)} for the `groups` whose predictions are all there.

  groups: {name: runs, with columns id and the metric}; a name is (group, column). runs: a frame
  that contains these. A group is left out if its metric is not a mean of what `_scores` gives, such
  as a mean over classes. Groups with different test splits share no items.
  """
  if workdir is None:
    return {}
  wanted = runs[runs['id'].isin({run for part in groups.values() for run in part['id']})]
  columns = {column for (_, column), part in groups.items() if len(part)}
  scores = {
    run: _scores(pathlib.Path(workdir) / run, task, measures.from_json(metrics), columns)
    for run, task, metrics in wanted[['id', 'task', 'metrics']].itertuples(index=False)
  }
  splits = {}
  for name, part in groups.items():
    found = [scores[run].get(name[1]) for run in part['id']]
    if found and all(found) and found[0][0] and len({split for split, _ in found}) == 1:
      items = np.stack([items for _, items in found])
      apart = np.abs(items.mean(axis=1) - part[name[1]])
      # A share of right items is right to an item; a mean over classes may be almost as near.
      most = 1 / items.shape[1] if items.dtype == bool else 1e-3
      if (apart <= most * np.maximum(1, part[name[1]])).all():
        splits.setdefault(found[0][0], {})[name] = items
  return {
    name: (split, resampled)
    for split, groups in splits.items()
    for name, resampled in zip(groups, statistics.resample([*groups.values()]), strict=True)
  }


def _classes(logits):
  """The class predicted for each item, from logits: `[N]`, of the second of two, or `[N, C]`."""
  return logits > 0 if logits.ndim == 1 else logits.argmax(axis=-1)


def _scores(folder, task, metrics, columns):
  """{column: (targets of the test split as bytes, a score for each item)} of a run.

  The metric is the mean of the scores. For a share, the score is whether an item is right, bool
  `[N]`; for the exponential of a mean over the tokens of a stream, what `statistics.of_blocks`
  gives; for what the task computes from sums, what `statistics.of_sums` gives. Other columns are
  left out.
  """
  first, of_task = metrics[0], _sums_of(task)
  if not (of_task or first.unit == '%' or first.link == 'exp'):
    return {}
  found = predictions.read(folder)
  asked = found.get('targets' if of_task or first.link == 'exp' else 'labels')
  if asked is None:
    return {}
  scores = {}
  for at, prefix in (('final', 'test_'), ('best', 'best_test_')):
    if at not in found:
      continue
    outputs, items = found[at], {}
    if of_task:
      made = of_task(found, outputs).items()
      items = {n: statistics.of_sums(*of) for n, of in made if f'{prefix}{n}' in columns}
    elif first.link == 'exp':
      if outputs.shape == asked.shape:
        items[first.name] = statistics.of_blocks(outputs)
    elif asked.ndim == 1 and asked.dtype.kind in 'biu':
      predicted = _classes(outputs)
      if predicted.shape == asked.shape:
        items[first.name] = predicted == asked
    scores |= {f'{prefix}{n}': (asked.tobytes(), of) for n, of in items.items() if len(of)}
  return scores


def _sums_of(task):
  try:
    return tasks.find(task).sums
  except ValueError:  # a task of another program
    return None
