"""Comparisons of groups of runs that differ in one setting, and how sure each is."""

import itertools
import pathlib
from collections.abc import Sequence

import numpy as np
import pandas as pd

from rnnlab.machine.disk import AnyPath
from rnnlab.results import measures, predictions, statistics
from rnnlab.results.load import DATA, settings

MOST_VALUES = 8  # of a setting, for every pair of them to be compared


def compare(
  runs: pd.DataFrame, workdir: AnyPath | None = None, over: Sequence[str] = ('model.cell',)
) -> pd.DataFrame:
  """A row for each pair of groups that differ in just one setting of `over`, and each epoch.

  `over=settings(runs)` compares every pair of settings. If a setting other than the cell takes more
  than MOST_VALUES values, each is compared only with the next. The columns, NaN where there are too
  few seeds, are:
  the data and settings that the pair shares; the one that differs is '' for the cell and NaN for
    another setting, so that `label` names what they share;
  setting: the one that differs; a, b: its values, a being LSTM if it takes part, and the smaller of
    two numbers;
  metric: the column compared, the first metric on the test split at the epoch of best validation
    or after the last epoch; primary: whether it is `measures.primary_column`;
  difference: b's mean minus a's over seeds; low, high: its 95% Welch interval; p: of Welch's test;
    p_holm: adjusted for all primary rows, or for all secondary ones;
  p_greater: P(b > a) for one seed of each (P(a is better) if lower is better), with its 95%
    interval, p_greater_low to p_greater_high;
  seeds_needed: seeds per group that would detect a difference this large, given the spread seen,
    with a power of 80%; n_a, n_b: numbers of seeds;
  items_low, items_high: the 95% interval over seeds and test items (`statistics.two_way`), if
    `workdir` is given and holds the predictions of all the runs.
  """
  runs, names = measures.of_now(runs), settings(runs)
  runs = runs.assign(group=runs.groupby(DATA + names, sort=False, dropna=False).ngroup())
  pairs = [pair for name in over for pair in _pairs(runs, DATA + names, name)]
  values = {
    (group, column): part[['id', column]].dropna()
    for group, part in runs.groupby('group')
    for column in measures.test_columns(measures.metrics_of(part))
  }
  first = {group: measures.metrics_of(part)[0] for group, part in runs.groupby('group')}
  # There are intervals over test items for means over them, such as shares, or exponentials of one.
  means = {group for group, metric in first.items() if metric.unit == '%' or metric.link == 'exp'}
  wanted = means & {group for _, _, pair in pairs for group in pair.values()}
  resampled = _resampled(workdir, {k: v for k, v in values.items() if k[0] in wanted}, first)
  rows = []
  for shared, name, pair in pairs:
    metrics = measures.from_json(shared['metrics'])
    primary = measures.primary_column(metrics, shared['validation_is_test'])
    for column in measures.test_columns(metrics):
      sides = [(group, column) for group in pair.values()]
      x, y = (values[side][column] for side in sides)
      if len(x) and len(y):
        a, b = pair
        what = {'setting': name, 'a': a, 'b': b, 'metric': column, 'primary': column == primary}
        rows.append(shared | what | _compared(x, y, *map(resampled.get, sides)))
  words = 'setting a b metric primary difference low high items_low items_high p_greater'
  columns = [*words.split(), 'p_greater_low', 'p_greater_high', 'p', 'seeds_needed', 'n_a', 'n_b']
  found = pd.DataFrame(rows, columns=[*DATA, *names, *columns]).astype({'primary': bool})
  p_holm = found.groupby('primary')['p'].transform(statistics.holm)
  found.insert(found.columns.get_loc('p') + 1, 'p_holm', p_holm)
  return found


def _compared(x, y, of_x, of_y):
  """The numbers of a row of `compare`. x, y: values of a and b. of_x, of_y: see `_resampled`."""
  difference, low, high, p = statistics.welch(x, y)
  greater = statistics.probability_greater(x, y)
  items = statistics.Estimate(difference, np.nan, np.nan)
  if of_x and of_y and of_x[0] == of_y[0]:
    items = statistics.two_way(of_x[1], of_y[1])
  return {
    **{'difference': difference, 'low': low, 'high': high, 'p': p},
    **{'items_low': items.low, 'items_high': items.high},
    **{'p_greater': greater.value, 'p_greater_low': greater.low, 'p_greater_high': greater.high},
    'seeds_needed': statistics.seeds_needed(x, y, difference),
    **{'n_a': len(x), 'n_b': len(y)},
  }


def _pairs(runs, names, name):
  """(what they share, `name`, {value: group number} of both) for groups that differ only in `name`.

  runs: have their group's number as `group`. names: all columns that tell groups apart.
  """
  pairs = []
  shared = [other for other in names if other != name]
  # What differs is '' for a cell, which is always named, and NaN for another setting.
  differing = {name: '' if name == 'model.cell' else np.nan}
  for key, part in runs.groupby(shared, sort=False, dropna=False):
    groups = part.groupby(name, sort=name != 'model.cell')['group'].first().to_dict()
    order = sorted(groups, key=lambda cell: cell != 'lstm') if name == 'model.cell' else [*groups]
    many = name != 'model.cell' and len(order) > MOST_VALUES
    for a, b in itertools.pairwise(order) if many else itertools.combinations(order, 2):
      pairs.append(
        (dict(zip(shared, key, strict=True)) | differing, name, {a: groups[a], b: groups[b]})
      )
  return pairs


def _resampled(workdir, groups, metrics):
  """{name: (test split, Resampled)} for the `groups` whose predictions are all there.

  groups: {name: runs, with columns id and the metric}; a name is (group, column). metrics: the
  first metric of each group. A group is left out if its metric is not a mean of what `_scores`
  gives, such as a mean over classes. Groups with different test splits share no items.
  """
  if workdir is None:
    return {}
  wanted = {run: metrics[group] for (group, _), part in groups.items() for run in part['id']}
  scores = {run: _scores(pathlib.Path(workdir) / run, metric) for run, metric in wanted.items()}
  splits = {}
  for name, part in groups.items():
    at = 'best' if name[1].startswith('best_') else 'final'  # as predictions.npz names it
    found = [scores[run].get(at) for run in part['id']]
    if found and all(found) and found[0][0] and len({split for split, _ in found}) == 1:
      items = np.stack([items for _, items in found])
      apart = np.abs(items.mean(axis=1) - part[name[1]])
      if (apart <= 1e-3 * np.maximum(1, part[name[1]])).all():
        splits.setdefault(found[0][0], {})[name] = items
  return {
    name: (split, resampled)
    for split, groups in splits.items()
    for name, resampled in zip(groups, statistics.resample([*groups.values()]), strict=True)
  }


def _classes(logits):
  """The class predicted for each item, from logits: `[N]`, of the second of two, or `[N, C]`."""
  return logits > 0 if logits.ndim == 1 else logits.argmax(axis=-1)


def _scores(folder, metric):
  """{'final': (targets of the test split as bytes, a score for each item), 'best': ...} of a run.

  For a share, the score is whether an item is right, bool `[N]`; for the exponential of a mean over
  the tokens of a stream, what `statistics.of_blocks` gives. Empty if a run's predictions allow
  neither.
  """
  found = predictions.read(folder)
  outputs = {name: found[name] for name in ('final', 'best') if name in found}
  if metric.link == 'exp':
    targets = found.get('targets')
    if targets is None:
      return {}
    of_each = {n: statistics.of_blocks(o) for n, o in outputs.items() if o.shape == targets.shape}
    return {name: (targets.tobytes(), blocks) for name, blocks in of_each.items() if len(blocks)}
  labels = found.get('labels')
  if labels is None or labels.ndim != 1 or labels.dtype.kind not in 'biu':
    return {}
  return {
    name: (labels.tobytes(), predicted == labels)
    for name, logits in outputs.items()
    if (predicted := _classes(logits)).shape == labels.shape
  }
