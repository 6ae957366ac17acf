"""The results of a workdir as tables, and their statistics: what the runs say, and how surely."""

import itertools
import json
import pathlib
import shlex
import zipfile
import zlib

import numpy as np
import pandas as pd
from absl import logging
from scipy import stats

from rnnlab.console.words import near
from rnnlab.machine import disk
from rnnlab.results import statistics
from rnnlab.runs import configs
from rnnlab.runs import folder as run_files

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
COUNTS = ['parameters', 'recurrent_parameters']  # which no seed changes
TIMES = ['seconds_per_epoch', 'seconds']
DATA = ['source', 'title', 'validation_is_test']  # runs that differ here are never averaged
CONFIG = {'model': {'cell': str}, 'seed': int}  # of a run's files, as far as a row needs it
RESULT = {
  'overrides': dict,
  'data': {
    **{'source': str, 'title': str, 'validation_is_test': bool, 'fingerprint': str},
    'sizes': {'train': int, 'validation': int, 'test': int},
  },
  'final': dict.fromkeys(LAST, disk.NUMBER),
  'best': (dict, type(None)),
  **dict.fromkeys(COUNTS + TIMES, disk.NUMBER),
  **{'versions': dict, 'device': str, 'commit': (str, type(None)), 'command': str},
  'finished': str,
}
# The primary metric of a protocol, by `validation_is_test`, is settled before any run: it alone
# makes headlines and verdicts. Beside it, the accuracy after the last epoch is secondary.
PRIMARY = {False: 'best_test_accuracy', True: 'test_accuracy'}
EPOCHS = {
  'best_test_accuracy': 'at the epoch of best validation accuracy',
  'test_accuracy': 'after the last epoch',
}
PREDICTIONS = {'test_accuracy': 'final', 'best_test_accuracy': 'best'}  # as in predictions.npz
MOST_VALUES = 8  # of a setting, to compare each with each
MAX_SETTINGS = 8  # whose response is drawn at most
SOME = 4  # a setting of more values than this has a response to be drawn
SAYS = ('b > a', 'b < a', 'b = a', 'b >= a')
NEEDS_MARGIN = ('b = a', 'b >= a')
NO_RESULT = 'no result, or a damaged one; launch again to do it'


def load_runs(workdir):
  """A DataFrame with a row per finished run of `workdir`, in the order of its sweep.

  Columns: id; settings under dotted names (model.cell and every config field that was swept or
  differs among the runs); seed; source, title, validation_is_test; the metrics after the last
  epoch and, as best_*, at the best-validation epoch (NaN where validation is the test split);
  parameters, seconds, and what made the run; stage: 'search' for the trials of a search, which are
  not to be compared, and ''. A run whose files are damaged is left out with a warning, as is a run
  whose config is that of another: it would count as another seed. Raises FileNotFoundError without
  the folder, ValueError without a finished run.

  >>> runs = rnnlab.load_runs('runs/imdb')
  >>> means = runs.groupby('model.cell')['best_test_accuracy'].mean()
  >>> means.between(0, 1).all().item()
  True
  """
  workdir = pathlib.Path(workdir)
  start = shlex.join(['python', 'launch.py', f'--workdir={workdir}'])
  if not workdir.is_dir():
    raise FileNotFoundError(f'{workdir}: no such folder; to make one by training: {start}')
  sweep = sweep_of(workdir)
  order = {run['id']: i for i, run in enumerate(sweep['runs'])}
  folders = sorted(
    run_files.folders(workdir, run_files.RESULT),
    key=lambda folder: (order.get(folder.name, len(order)), folder.name),
  )
  read = _distinct(run for folder in folders if (run := _read_run(folder)))
  if not read:
    errors = [f'{run}: {error}' for run, error, _ in missing_runs(workdir, ())]
    raise ValueError(
      f'{workdir}: no finished run; to start or go on: {sweep["command"] or start}'
      + (f'\n{len(errors)} have no result: {errors[0]}' if errors else '')
    )
  configs, overrides, rows = zip(*read, strict=True)
  configs, rows = flatten(configs), pd.DataFrame(map(legible, rows))
  rows[METRICS] = rows[METRICS].where(np.isfinite(rows[METRICS]))  # NaN is no number either
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

  >>> metrics = rnnlab.load_metrics('runs/imdb')
  >>> curves = metrics.pivot_table('validation_accuracy', 'epoch', 'model.cell')
  >>> curves.index.tolist()
  [1, 2]
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
      groups[COUNTS].first(),
      groups[TIMES].mean(),
    ],
    axis=1,
  ).reset_index()
  summary.insert(0, 'group', label(summary))
  return summary


def compare(runs, workdir=None, over=('model.cell',)):
  """A row per pair of groups that differ in one setting of `over` alone, and per test accuracy.

  `over=settings(runs)` compares every pair of settings. Of a setting that takes more than
  MOST_VALUES values, cells apart, each is compared with the next alone. Columns: data and settings
  that the pair shares ('' for the cell and NaN for another setting where that is what differs, so
  that `label` names what they share); setting, the one that differs, and its values a and b (a is
  LSTM where it takes part, the less of two numbers); metric, and primary, whether it is the primary
  one (see `primary`); and of b against a, over seeds: difference in mean, its 95% Welch interval
  low to high, p of Welch's test and p_holm, adjusted for all primary rows, or for all secondary
  ones; p_greater, P(b > a) for a seed of each, with its 95% interval p_greater_low to
  p_greater_high; seeds_needed a group to tell a difference as large, with the
  spread seen, in four of five tries; n_a and n_b seeds. items_low to items_high is the 95%
  interval over seeds and test items (`statistics.two_way`), where `workdir` is given and holds
  all the runs' predictions. NaN where there are too few seeds.
  """
  names = settings(runs)
  runs = runs.assign(group=runs.groupby(DATA + names, sort=False, dropna=False).ngroup())
  pairs = [pair for name in over for pair in _pairs(runs, DATA + names, name)]
  values = {
    (group, metric): part[['id', metric]].dropna()
    for group, part in runs.groupby('group')
    for metric in EPOCHS
  }
  wanted = {group for _, _, pair in pairs for group in pair.values()}
  resampled = _resampled(workdir, {k: v['id'] for k, v in values.items() if k[0] in wanted})
  rows = []
  for (shared, name, pair), metric in itertools.product(pairs, EPOCHS):
    (a, b), (of_a, of_b) = pair, ((group, metric) for group in pair.values())
    x, y = values[of_a][metric], values[of_b][metric]
    if x.empty or y.empty:
      continue
    difference, low, high, p = statistics.welch(x, y)
    greater = statistics.probability_greater(x, y)
    items = statistics.Estimate(difference, np.nan, np.nan)
    if of_a in resampled and of_b in resampled and resampled[of_a][0] == resampled[of_b][0]:
      items = statistics.two_way(resampled[of_a][1], resampled[of_b][1])
    rows.append(
      shared
      | {'setting': name, 'a': a, 'b': b, 'metric': metric}
      | {'primary': metric == PRIMARY[bool(shared['validation_is_test'])]}
      | {'difference': difference, 'low': low, 'high': high}
      | {'items_low': items.low, 'items_high': items.high, 'p_greater': greater.value}
      | {'p_greater_low': greater.low, 'p_greater_high': greater.high, 'p': p}
      | {'seeds_needed': statistics.seeds_needed(x, y, difference), 'n_a': len(x), 'n_b': len(y)}
    )
  columns = (
    'setting a b metric primary difference low high items_low items_high p_greater p_greater_low'
  )
  columns = [*DATA, *names, *columns.split(), 'p_greater_high', 'p', 'seeds_needed', 'n_a', 'n_b']
  found = pd.DataFrame(rows, columns=columns).astype({'primary': bool})
  found.insert(
    found.columns.get_loc('p') + 1,
    'p_holm',
    found.groupby('primary')['p'].transform(statistics.holm),
  )
  return found


def primary(frame, part=''):
  """The primary metric of each row of runs, or, with `part` as 'mean' or 'low', of a summary.

  It is the test accuracy at the epoch that validation chose; where validation is the test split, so
  that choosing by it would be no result, the test accuracy after the last epoch.
  """
  ends = f'_{part}' * bool(part)
  last, best = (frame[f'{PRIMARY[tutorial]}{ends}'] for tutorial in (True, False))
  return last.where(frame['validation_is_test'].astype(bool), best)


def epoch_words(frame):
  """At which epoch the primary metric of these rows is taken; nothing where they differ in it."""
  metrics = {PRIMARY[bool(tutorial)] for tutorial in frame['validation_is_test']}
  return EPOCHS[metrics.pop()] if len(metrics) == 1 else ''


def check_claims(claims, config=None):
  """The claims in plain Python; raises ValueError, for people, unless they can be tested.

  A claim is a dict: claim, its words; a and b, overrides that pick the runs of either side; metric,
  a number of `load_runs`; says, one of SAYS; and margin, in the metric's unit, for those of
  NEEDS_MARGIN alone. With `config`, of which the runs are to be made, nothing may be there that is
  of no use: a margin of another claim, fields that no config has, values that no run may have.
  """
  if not isinstance(claims, list | tuple):
    raise ValueError(f'claims must be a list of claims, not {configs.words(claims)}')
  take = configs.take if config else lambda _, value: configs.plain(value)
  checked = [_checked(f'claim {number}', claim, take) for number, claim in enumerate(claims, 1)]
  for number, claim in enumerate(checked if config else (), 1):
    if claim['says'] not in NEEDS_MARGIN and 'margin' in claim:
      raise ValueError(
        f'claim {number}, {configs.words(claim["claim"])}: {claim["says"]!r} is tested without a'
        ' margin: leave it out'
      )
  return checked


def _checked(where, claim, take):
  if not isinstance(claim, dict):
    raise ValueError(f'{where}: must be a dict, not {configs.words(claim)}')
  known = 'claim', 'a', 'b', 'metric', 'says', 'margin'
  checked = {}
  for name, value in claim.items():
    _one_of(where, 'entry', name, known)
    if name in ('a', 'b'):
      if not isinstance(value, dict):
        raise ValueError(f"{where}: {name} must be overrides, as {{'model.cell': 'gru'}}")
      checked[name] = _side(where, name, value, take)
      continue
    try:
      checked[name] = configs.plain(value)
    except ValueError as error:
      raise ValueError(f'{where}: {name}={error}') from None
    if name != 'margin' and not isinstance(checked[name], str):
      raise ValueError(f'{where}: {name} must be a text, not {configs.words(value)}')
  for name in known[:-1]:
    if not checked.get(name):
      raise ValueError(f'{where}: has no {name!r}; a claim has {", ".join(known)}')
  where += f', {configs.words(checked["claim"])}'
  _one_of(where, 'metric', checked['metric'], METRICS + COUNTS + TIMES)
  _one_of(where, 'says', checked['says'], SAYS)
  if checked['a'] == checked['b']:
    raise ValueError(f'{where}: a and b pick the same runs')
  margin = checked.get('margin')
  is_margin = type(margin) in (int, float) and 0 < margin < np.inf
  if checked['says'] in NEEDS_MARGIN and not is_margin:
    raise ValueError(
      f'{where}: {checked["says"]!r} needs a margin above 0, in the unit of {checked["metric"]}, '
      f'and has {configs.words(margin)}'
    )
  return checked


def _side(where, side, overrides, take):
  """Overrides of a claim as JSON has them, lists for tuples."""
  checked = {}
  for name, value in overrides.items():
    try:
      kept = take(name, value)
    except ValueError as error:
      raise ValueError(f'{where}: {side}: {error}') from None
    checked[name] = list(kept) if isinstance(kept, tuple) else kept
  return checked


def claims(workdir, runs):
  """A row per claim recorded in sweep.json before the runs, and what `runs` have to say to it.

  Columns: claim; verdict: supported, refuted or undecided; sentence, for people, with the numbers;
  a and b, in words; metric, says, margin; difference of b's mean less a's, low to high its 95%
  Welch interval; p; p_holm, adjusted for all claims; n_a and n_b seeds. 'b > a' and 'b < a' are
  Welch's test against 0; 'b >= a' is non-inferiority: the same against -margin. 'b = a' is
  equivalence: TOST where the difference is within the margin, and where it is not, Welch's test
  against the margin's nearer end. A verdict is where p_holm is below 5%, for or against by the
  side on which the difference lies. Numbers of parameters need no test. A claim is undecided while
  runs of it have yet to be done, as looking early would count as another try, where one side is
  runs of several settings, and where `check_claims` refuses it.
  """
  workdir = pathlib.Path(workdir)
  recorded = sweep_of(workdir).get('claims') or []
  recorded = recorded if isinstance(recorded, list) else [recorded]
  configs = flatten(run_files.read_config(workdir / run) for run in runs['id'])
  configs = configs[[name for name in configs if name not in runs]].set_index(runs.index)
  every = pd.concat([runs, configs], axis=1)
  missing = {run: error for run, error, _ in missing_runs(workdir, set(runs['id']))}
  undone = [
    run | {'failed': missing[run['id']] != NO_RESULT}
    for run in sweep_of(workdir)['runs']
    if run['id'] in missing and run.get('stage') != 'search'
  ]
  rows = [_tested(claim, every, undone) for claim in recorded]
  # What can't be tested yet stays in the family, so that no verdict falls when it is.
  adjusted = statistics.holm([1.0 if np.isnan(row['p']) else row['p'] for row in rows])
  for row, p_holm in zip(rows, adjusted, strict=True):
    row['p_holm'] = np.nan if np.isnan(row['p']) else p_holm
    if row['p_holm'] < 0.05:
      row['verdict'] = 'supported' if _is_so(row) else 'refuted'
    row['sentence'] = _sentence(row, len(rows))
  columns = 'claim verdict sentence a b metric says margin difference low high p p_holm n_a n_b'
  return pd.DataFrame(rows, columns=columns.split())


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
  failed = [path.name for path in run_files.folders(workdir, run_files.ERROR)]
  missing = []
  for run in dict.fromkeys(named + failed):
    if run not in finished:
      error = run_files.failure(workdir / run) or {}
      missing.append((run, error.get('error', NO_RESULT), error.get('traceback', '')))
  return missing


def sweep_of(workdir):
  """sweep.json, with nothing in it where it is missing or damaged."""
  return run_files.read_sweep(workdir)


def flatten(configs):
  """Nested configs as rows under dotted names; lists as JSON, so that values compare and hash."""
  return pd.json_normalize(list(map(legible, configs))).map(
    lambda value: json.dumps(value) if isinstance(value, (list, dict)) else value
  )


def legible(value):
  """A value of JSON whose texts can be written as UTF-8, which paths on a disk need not be."""
  if isinstance(value, dict):
    return {name: legible(v) for name, v in value.items()}
  if isinstance(value, (list, tuple)):
    return type(value)(map(legible, value))
  return value.encode(errors='backslashreplace').decode() if isinstance(value, str) else value


def cell_name(name):
  """A cell\'s name for people."""
  return {'lstm': 'LSTM', 'gru': 'GRU', 'elman': 'Elman'}.get(str(name), str(name))


def value_words(value):
  """A setting\'s value for people."""
  return f'{value:g}' if isinstance(value, float) else str(value)


def _distinct(read):
  """Those of `read` whose config no run before them has; the others are told."""
  found = {}
  for config, overrides, row in read:
    first = found.setdefault(run_files.canonical(config), (config, overrides, row))[2]['id']
    if first != row['id']:
      logging.warning('%s has the config of %s: it is the same run and left out', row['id'], first)
  return list(found.values())


def _read_run(folder):
  """(config, overrides, row) of a finished run; None, with a warning, where a file is damaged."""
  path = folder / run_files.RESULT
  try:
    if damaged := run_files.verify(folder, quick=True):
      raise ValueError(path := folder / damaged[0])
    path, config = folder / run_files.CONFIG, run_files.read_config(folder, CONFIG)
    config['model']['cell'], config['seed']
    path, result = folder / run_files.RESULT, run_files.read_result(folder, RESULT)
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
        **{name: result[name] + 0 for name in COUNTS + TIMES},
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
      folder / run_files.RESULT,
    )
    return None


def metrics_of(workdir, runs):
  """`load_metrics`, for runs that have been read already."""
  rows = [
    row | {'id': run}
    for run in runs['id']
    for row in run_files.read_metrics(pathlib.Path(workdir) / run)
  ]
  measured = [name for name in LAST if not name.startswith('test')] + ['epoch', 'step', 'seconds']
  metrics = pd.DataFrame(rows)
  metrics = metrics.reindex(columns=dict.fromkeys(['id', *metrics, *measured]))
  metrics[measured] = metrics[measured].apply(pd.to_numeric, errors='coerce')
  metrics[measured] = metrics[measured].replace([np.inf, -np.inf], np.nan)
  names = [
    name for name in runs if name in ('id', 'group', 'seed', 'stage', *DATA, *settings(runs))
  ]
  return runs[names].merge(metrics.dropna(subset='epoch'), on='id')


def settings(frame):
  """The columns that hold settings: they, and they alone, have a dot in their name."""
  return [name for name in frame if '.' in name]


def many_valued(runs):
  """The numeric settings that take many values: those that vary most, MAX_SETTINGS at most."""
  counts = {
    name: runs[name].nunique()
    for name in settings(runs)
    if pd.api.types.is_numeric_dtype(runs[name]) and not pd.api.types.is_bool_dtype(runs[name])
  }
  most = sorted(counts, key=counts.get, reverse=True)[:MAX_SETTINGS]
  return [name for name in counts if name in most and counts[name] > SOME]


def _pairs(runs, names, name):
  """(what they share, `name`, {value: group number} of two) of groups that differ in `name` alone.

  runs have their group's number as `group`; names are all columns that tell groups apart.
  """
  pairs = []
  shared = [other for other in names if other != name]
  # What differs is '' for a cell, that is always named, and NaN for another setting.
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


def _resampled(workdir, groups):
  """{name: (test split, Resampled)} of the `groups`, {name: ids}, whose predictions are all there.

  A name is (group, metric). Groups of different test splits share no items.
  """
  if workdir is None:
    return {}
  wanted = {run for ids in groups.values() for run in ids}
  predictions = {run: _predictions(pathlib.Path(workdir) / run) for run in wanted}
  splits = {}
  for name, ids in groups.items():
    found = [predictions[run].get(PREDICTIONS[name[1]]) for run in ids]
    if found and all(found) and found[0][0] and len({labels for labels, _ in found}) == 1:
      splits.setdefault(found[0][0], {})[name] = np.stack([right for _, right in found])
  return {
    name: (split, resampled)
    for split, groups in splits.items()
    for name, resampled in zip(groups, statistics.resample([*groups.values()]), strict=True)
  }


def _predictions(folder):
  """{'final': (the test labels as bytes, bool `[N]`: is an item right), 'best': ...} of a run."""
  path = folder / run_files.PREDICTIONS
  try:
    if run_files.PREDICTIONS in run_files.verify(folder):
      raise ValueError
    with np.load(path) as file:
      labels = file['labels']
      return {
        name: (labels.tobytes(), (file[name] > 0) == labels)
        for name in PREDICTIONS.values()
        if name in file
      }
  except FileNotFoundError:
    return {}
  except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error):
    logging.warning('%s is damaged, so intervals of its run leave the test items out', path)
    return {}


def _one_of(where, what, word, words):
  if word not in words:
    hint = near(word, words) or f'; there is {", ".join(sorted(words))}'
    raise ValueError(f'{where}: there is no {what} {configs.words(word)}{hint}')


def _tested(claim, every, undone):
  """`_test`, or, of a claim that cannot be tested as it stands, an undecided row that says why."""
  try:
    check_claims([claim])
    return _test(claim, every, undone)
  except ValueError as error:
    words = str(claim.get('claim', '') if isinstance(claim, dict) else claim) or 'A claim'
    why = str(error).removeprefix('claim 1: ').removeprefix(f'claim 1, {words!r}: ')
    row = {'claim': words, 'verdict': 'undecided', 'why': f'it cannot be tested: {why}'}
    numbers = ('margin', 'difference', 'low', 'high', 'p', 'seeds_needed')
    row |= dict.fromkeys(('a', 'b', 'metric', 'says'), '') | dict.fromkeys(numbers, np.nan)
    return row | {'n_a': 0, 'n_b': 0, 'failed': 0}


def _test(claim, every, undone):
  """A row of `claims`, before it is adjusted for the others. every: runs with all of their config.

  undone: the sweep's runs without a result, as in sweep.json, and whether they have failed.
  """
  for field in {**claim['a'], **claim['b']}:
    _one_of(f'claim {claim["claim"]!r}', 'field', field, [*every])
  metric, margin = claim['metric'], claim.get('margin', np.nan)
  sides = [every[_picked(every, claim[side])].dropna(subset=metric) for side in 'ab']
  x, y = (side[metric].to_numpy(float) for side in sides)
  row = {name: claim[name] for name in ('claim', 'metric', 'says')} | {
    **{side: _side_words(claim[side]) for side in 'ab'},
    **{'verdict': 'undecided', 'margin': margin, 'n_a': len(x), 'n_b': len(y)},
    **dict.fromkeys(('difference', 'low', 'high', 'p', 'seeds_needed'), np.nan),
    'failed': sum(run['failed'] for run in undone if _either(claim, run['overrides'])),
  }
  row['why'] = _why_not(claim, sides, undone)
  if row['why']:
    return row
  if metric in COUNTS:
    difference = y.mean() - x.mean()
    return row | {'difference': difference, 'low': difference, 'high': difference, 'p': 0.0}
  found = statistics.welch(x, y)
  distance = found.value
  if claim['says'] == 'b >= a':
    found, distance = statistics.noninferiority(x, y, margin), found.value + margin
  if claim['says'] == 'b = a':
    distance = margin
    if abs(found.value) < margin:
      found = statistics.equivalence(x, y, margin)
    else:
      found = statistics.welch(x, y, np.copysign(margin, found.value))
  if np.isnan(found.p):
    row['why'] = 'two seeds a side are the least, and some spread'
    if metric in TIMES and min(len(x), len(y)) > 1:
      row['why'] = (
        f'{y.mean():.3g} s against {x.mean():.3g} s are of runs that trained together, as a'
        ' population, and have no spread of their own (--executor=process times each)'
      )
  needed = statistics.seeds_needed(x, y, distance)
  return row | dict(
    zip(('difference', 'low', 'high', 'p'), found, strict=True), seeds_needed=needed
  )


def _why_not(claim, sides, undone):
  """Why a claim can't be tested, or nothing. sides: the runs of a, and of b."""
  waiting = sum(not run['failed'] and _either(claim, run['overrides']) for run in undone)
  if waiting:
    return f'{waiting} of its runs {"is" if waiting == 1 else "are"} not done yet'
  for side, runs in zip('ab', sides, strict=True):
    words = _side_words(claim[side])
    if runs.empty:
      return f'no run of {words} has a {_metric_words(claim["metric"])}'
    mixed = [name for name in DATA + settings(runs) if runs[name].nunique(dropna=False) > 1]
    if mixed:
      return f'runs of {words} differ in {" and ".join(mixed)}, which the claim does not name'
  if set(sides[0]['id']) & set(sides[1]['id']):
    return 'both sides are the same runs'
  if set(sides[0]['title']) != set(sides[1]['title']):
    return 'its sides are of different data'
  return ''


def _picked(runs, overrides):
  """Which of `runs` have the values of `overrides`."""
  kept = {name: json.dumps(v) if isinstance(v, list) else v for name, v in overrides.items()}
  return np.all([[v == value for v in runs[name]] for name, value in kept.items()], axis=0)


def _either(claim, overrides):
  """Whether a run of these overrides may be of a claim's a or b."""
  return any(
    all(overrides.get(name, value) == value for name, value in claim[side].items()) for side in 'ab'
  )


def _is_so(row):
  """Whether what a claim says is so of the difference that was found."""
  difference, margin = row['difference'], row['margin']
  return {
    'b > a': difference > 0,
    'b < a': difference < 0,
    'b = a': abs(difference) < margin,
    'b >= a': difference > -margin,
  }[row['says']]


def _sentence(row, family):
  """A claim's verdict for people, with the numbers."""
  said = f'{row["claim"]}: {row["verdict"]}'
  failed = f'; {row["failed"]} failed and took no part' if row['failed'] else ''
  if row['why']:
    return f'{said}, as {row["why"]}{failed}.'
  scale, form, unit = 1, '.4g', ' seconds' if row['metric'] in TIMES else ''
  if row['metric'] in COUNTS:
    form = ',.0f'
  elif 'accuracy' in row['metric']:
    scale, form, unit = 100, 'z.2f', ' points'
  difference, low, high = (f'{scale * row[name]:+{form}}' for name in ('difference', 'low', 'high'))
  said += f', {row["b"]} - {row["a"]} in {_metric_words(row["metric"])} is {difference}{unit}'
  words = []
  if row['metric'] not in COUNTS:
    words.append(f'95% interval [{low}, {high}]')
  if row['says'] in NEEDS_MARGIN:
    words.append(f'margin {scale * row["margin"]:{form}}')
  if row['metric'] not in COUNTS:
    words.append(f'p {_p_words(row["p"])}')
    words += [f'adjusted for {family} claims {_p_words(row["p_holm"])}'] * (family > 1)
    words.append(f'{row["n_b"]} and {row["n_a"]} seeds')
  if row['verdict'] == 'undecided' and np.isfinite(row['seeds_needed']):
    what = 'the margin' if row['says'] == 'b = a' else 'as much'
    words.append(f'with this spread {row["seeds_needed"]:,.0f} seeds a side would tell {what}')
  return said + f' ({"; ".join(words)})' * bool(words) + f'{failed}.'


def _metric_words(metric):
  return f'test accuracy {EPOCHS[metric]}' if metric in EPOCHS else metric.replace('_', ' ')


def _side_words(overrides):
  """A claim's side for people, as 'GRU hidden_size=64'."""
  return ' '.join(
    cell_name(value) if name == 'model.cell' else f'{name.rpartition(".")[2]}={value_words(value)}'
    for name, value in overrides.items()
  )


def _p_words(p):
  return '< 0.0001' if p < 1e-4 else f'= {p:.2g}'
