"""The results of a workdir as tables, and their statistics: what the runs say, and how surely."""

import itertools
import json
import pathlib

import numpy as np
import pandas as pd
from absl import logging
from scipy import stats

from rnnlab import runlog

LAST = (
  'test_accuracy',
  'test_loss',
  'validation_accuracy',
  'validation_loss',
  'train_accuracy',
  'train_loss',
)
BEST = ('epoch', 'test_accuracy', 'test_loss', 'validation_accuracy', 'validation_loss')
METRICS = [*LAST, *(f'best_{name}' for name in BEST)]
DATA = ['source', 'title', 'validation_is_test']  # runs that differ here are never averaged
EPOCHS = {
  'test_accuracy': 'after the last epoch',
  'best_test_accuracy': 'at the epoch of best validation accuracy',
}
NO_RESULT = 'no result, or a damaged one; launch again to do it'


def load_runs(workdir):
  """A DataFrame with a row per finished run of `workdir`, in the order of its sweep.

  Columns: id; settings under dotted names (model.cell and every config field that was swept or
  differs among the runs); seed; source, title, validation_is_test; the metrics after the last
  epoch and, as best_*, at the best-validation epoch (NaN where validation is the test split);
  parameters, seconds, and what made the run; stage: 'search' for the trials of a search, which are
  not to be compared, and ''. A run whose files are damaged is left out with a
  warning. Raises FileNotFoundError without the folder, ValueError without a finished run.
  """
  workdir = pathlib.Path(workdir)
  start = f'python launch.py --workdir={workdir}'
  if not workdir.is_dir():
    raise FileNotFoundError(f'{workdir}: no such folder; to make one by training: {start}')
  sweep = sweep_of(workdir)
  order = {run['id']: i for i, run in enumerate(sweep['runs'])}
  folders = sorted(
    (path.parent for path in workdir.glob('*/result.json')),
    key=lambda folder: (order.get(folder.name, len(order)), folder.name),
  )
  read = [run for folder in folders if (run := _read_run(folder))]
  if not read:
    errors = [f'{run}: {error}' for run, error, _ in missing_runs(workdir, ())]
    raise ValueError(
      f'{workdir}: no finished run; to start or go on: {sweep["command"] or start}'
      + (f'\n{len(errors)} have no result: {errors[0]}' if errors else '')
    )
  configs, overrides, rows = zip(*read, strict=True)
  configs, rows = flatten(configs), pd.DataFrame(rows)
  stages = {run['id']: run.get('stage', '') for run in sweep['runs']}
  rows['stage'] = [stages.get(run, '') for run in rows['id']]
  swept = set().union(*overrides)
  names = [
    name
    for name in configs
    if name not in ('model.cell', 'seed')
    and (name in swept or configs[name].nunique(dropna=False) > 1)
  ]
  if 'data.source' in names and (configs['data.source'] == rows['source']).all():
    names.remove('data.source')
  configs = configs[['model.cell', *names, 'seed']].rename(
    columns={name: f'config.{name}' for name in names if '.' not in name}
  )
  return pd.concat([rows[['id']], configs, rows.drop(columns='id')], axis=1)


def load_metrics(workdir):
  """A DataFrame with a row per epoch of each finished run: id, settings, seed, data, metrics.

  A damaged line of a metrics.jsonl is left out with a warning. Raises as `load_runs`.
  """
  return metrics_of(workdir, load_runs(workdir))


def summarise(runs):
  """A row per group of runs, which share data and every setting but the seed.

  Columns: group (a name), data and settings, runs (how many), for each metric its _mean, _std
  (n - 1) and 95% t interval, _low to _high (NaN for a single seed), parameters, mean seconds.
  """
  groups = runs.groupby(DATA + settings(runs), sort=False, dropna=False)
  mean, std, n = groups[METRICS].mean(), groups[METRICS].std(), groups[METRICS].count()
  half = stats.t.ppf(0.975, n - 1) * std / np.sqrt(n)
  parts = {'mean': mean, 'std': std, 'low': mean - half, 'high': mean + half}
  metrics = {
    f'{metric}_{part}': values[metric] for metric in METRICS for part, values in parts.items()
  }
  summary = pd.concat(
    [
      groups.size().rename('runs'),
      pd.DataFrame(metrics),
      groups[['parameters', 'recurrent_parameters']].first(),
      groups[['seconds_per_epoch', 'seconds']].mean(),
    ],
    axis=1,
  ).reset_index()
  summary.insert(0, 'group', label(summary))
  return summary


def compare(runs):
  """A row per pair of cells a, b with equal data and other settings, and per test accuracy.

  difference is b's mean less a's (a is LSTM where it takes part), low to high its 95% Welch
  interval (NaN for a single seed), p_greater is P(b > a) over pairs of seeds (ties half), n_a and
  n_b count seeds.
  """
  names = DATA + [name for name in settings(runs) if name != 'model.cell']
  rows = []
  for key, part in runs.groupby(names, sort=False, dropna=False):
    values = dict(list(part.groupby('model.cell', sort=False)))
    pairs = itertools.combinations(sorted(values, key=lambda cell: cell != 'lstm'), 2)
    for (a, b), metric in itertools.product(pairs, EPOCHS):
      x, y = values[a][metric].dropna(), values[b][metric].dropna()
      if x.empty or y.empty:
        continue
      low, high = np.nan, np.nan
      if min(len(x), len(y)) > 1 and x.nunique() + y.nunique() > 2:
        low, high = stats.ttest_ind(y, x, equal_var=False).confidence_interval()
      greater = stats.mannwhitneyu(y, x).statistic / (len(x) * len(y))
      rows.append([*key, a, b, metric, y.mean() - x.mean(), low, high, greater, len(x), len(y)])
  return pd.DataFrame(
    rows,
    columns=[*names, 'a', 'b', 'metric', 'difference', 'low', 'high', 'p_greater', 'n_a', 'n_b'],
  )


def label(frame):
  """A Series of names for people, as 'GRU hidden_size=128': the cell, and what else varies."""
  varying = [
    name
    for name in settings(frame)
    if name != 'model.cell' and frame[name].nunique(dropna=False) > 1
  ]
  ends = [name.rpartition('.')[2] for name in varying]
  shorts = {
    name: end if ends.count(end) == 1 else name for name, end in zip(varying, ends, strict=True)
  }
  source = 'title' if frame['title'].nunique() > frame['source'].nunique() else 'source'

  def words(row):
    yield cell_name(row['model.cell'])
    yield from (
      f'{short}={value_words(row[name])}'
      for name, short in shorts.items()
      if not pd.isna(row[name])
    )
    if frame[source].nunique() > 1:
      yield f'({row[source]})'

  return pd.Series(
    [' '.join(words(row)) for row in frame.to_dict('records')], index=frame.index, dtype=object
  )


def missing_runs(workdir, finished):
  """(id, error, traceback) of each run that the sweep names, or that failed, and has no result.

  Trials that a search left behind are not missing.
  """
  runs = sweep_of(workdir)['runs']
  named = [run['id'] for run in runs if not run.get('left')]
  failed = sorted(path.parent.name for path in workdir.glob('*/error.json'))
  missing = []
  for run in dict.fromkeys(named + failed):
    if run not in finished:
      error = runlog.read_json(workdir / run / 'error.json') or {}
      missing.append((run, str(error.get('error', NO_RESULT)), error.get('traceback', '')))
  return missing


def sweep_of(workdir):
  """sweep.json, with nothing in it where it is missing or damaged."""
  empty = {'experiment': '', 'preset': '', 'command': '', 'runs': []}
  return empty | (runlog.read_json(pathlib.Path(workdir) / 'sweep.json') or {})


def flatten(configs):
  """Nested configs as rows under dotted names; lists as JSON, so that values compare and hash."""
  return pd.json_normalize(list(configs)).map(
    lambda value: json.dumps(value) if isinstance(value, (list, dict)) else value
  )


def cell_name(name):
  """A cell\'s name for people."""
  return {'lstm': 'LSTM', 'gru': 'GRU', 'elman': 'Elman'}.get(name, name)


def value_words(value):
  """A setting\'s value for people."""
  return f'{value:g}' if isinstance(value, float) else str(value)


def _read_run(folder):
  """(config, overrides, row) of a finished run; None, with a warning, where a file is damaged."""
  try:
    config = runlog.read_json(path := folder / 'config.json')
    config['model']['cell'], config['seed']
    result = runlog.read_json(path := folder / 'result.json')
    data, overrides = result['data'], dict(result['overrides'])
    # Where the test split doubles as validation, its best epoch is no finding.
    best = {} if data['validation_is_test'] else result['best'] or {}
    return (
      config,
      overrides,
      {
        'id': folder.name,
        **{name: data[name] for name in DATA},
        **{name: float(result['final'][name]) for name in LAST},
        **{f'best_{name}': float(best[name]) if best else np.nan for name in BEST},
        **{
          name: result[name] + 0
          for name in ('parameters', 'recurrent_parameters', 'seconds_per_epoch', 'seconds')
        },
        **{f'{split}_examples': data['sizes'][split] for split in ('train', 'validation', 'test')},
        'versions': ', '.join(f'{name} {version}' for name, version in result['versions'].items()),
        **{name: result[name] for name in ('device', 'commit', 'command', 'finished')},
        'fingerprint': data['fingerprint'],
      },
    )
  except (KeyError, TypeError, ValueError, AttributeError):
    logging.warning(
      '%s is missing, damaged or incomplete, so its run is left out of the report; '
      'to do the run again, delete %s and launch',
      path,
      folder / 'result.json',
    )
    return None


def metrics_of(workdir, runs):
  """`load_metrics`, for runs that have been read already."""
  rows = [
    row | {'id': run}
    for run in runs['id']
    for row in runlog.read_rows(pathlib.Path(workdir) / run / 'metrics.jsonl')
  ]
  metrics = pd.DataFrame(rows, columns=None if rows else ['id', 'epoch'])
  names = [
    name for name in runs if name in ('id', 'group', 'seed', 'stage', *DATA, *settings(runs))
  ]
  return runs[names].merge(metrics.dropna(subset='epoch'), on='id')


def settings(frame):
  """The columns that hold settings: they, and they alone, have a dot in their name."""
  return [name for name in frame if '.' in name]
