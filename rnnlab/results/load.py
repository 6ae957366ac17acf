"""The runs of a workdir as tables, read from their files; damaged runs are left out and named."""

import json
import pathlib
import shlex
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from absl import logging

from rnnlab.machine import disk
from rnnlab.machine.disk import AnyPath
from rnnlab.results import measures
from rnnlab.runs import configs as configuration
from rnnlab.runs import folder as run_files

COUNTS = ['parameters', 'recurrent_parameters']  # the same for every seed
TIMES = ['seconds_per_epoch', 'seconds']
# Runs that differ here are never averaged.
DATA = ['task', 'metrics', 'source', 'title', 'validation_is_test']
CONFIG = {'model': {'cell': str}, 'seed': int}  # the form of a run's files, as far as rows need it
RESULT = {
  'task?': str,
  'overrides': dict,
  'data': {
    **{'source': str, 'title': str, 'validation_is_test': bool, 'fingerprint': str},
    'sizes': {'train': int, 'validation': int, 'test': int},
  },
  'final': dict,
  'best': (dict, type(None)),
  **dict.fromkeys(COUNTS + TIMES, disk.NUMBER),
  **{'versions': dict, 'device': str, 'commit': (str, type(None)), 'command': str},
  'finished': str,
}
NO_RESULT = 'no result, or a damaged one; launch again to do the run'


def load_runs(workdir: AnyPath) -> pd.DataFrame:
  """A DataFrame with a row per finished run of `workdir`, in the order of its sweep.

  Columns: id; settings under dotted names (model.cell and every config field that was swept or
  differs among the runs); seed; task, and its metrics as JSON, the primary one first; source,
  title, validation_is_test; the metrics of the run's task after the last epoch and, as best_*, at
  the best-validation epoch (NaN if validation is the test split, and for the metrics of other
  tasks); parameters, seconds, and what made the run; stage: 'search' for the trials of a search,
  which are not to be compared, else ''. A run whose files are damaged is left out with a warning,
  and so is a run whose config equals that of another, as it would count as one more seed. Raises
  FileNotFoundError without the folder, ValueError without a finished run.

  >>> runs = rnnlab.load_runs('runs/imdb')
  >>> means = runs.groupby('model.cell')['best_test_loss'].mean()
  >>> means.gt(0).all().item()
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
  # All runs of a task get the same units and formats, even if older versions wrote other ones.
  names = rows['metrics'].map(measures.names)
  rows['metrics'] = rows.groupby(['task', names])['metrics'].transform('last')
  measured = measures.columns_of(rows)
  rows[measured] = rows[measured].where(np.isfinite(rows[measured]))  # infinities become NaN
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


def load_metrics(workdir: AnyPath) -> pd.DataFrame:
  """A DataFrame with a row per epoch of each finished run: id, settings, seed, data, metrics.

  A damaged line of a metrics.jsonl is left out with a warning. Raises what `load_runs` raises.

  >>> metrics = rnnlab.load_metrics('runs/imdb')
  >>> curves = metrics.pivot_table('validation_loss', 'epoch', 'model.cell')
  >>> curves.index.tolist()
  [1, 2]
  """
  return epochs_of(workdir, load_runs(workdir))


def epochs_of(workdir: AnyPath, runs: pd.DataFrame) -> pd.DataFrame:
  """`load_metrics`, for runs that have been read already."""
  rows = [
    row | {'id': run}
    for run in runs['id']
    for row in run_files.read_metrics(pathlib.Path(workdir) / run)
  ]
  named = measures.last(measures.metrics_of(runs))
  measured = [name for name in named if not name.startswith('test')] + ['epoch', 'step', 'seconds']
  metrics = pd.DataFrame(rows)
  metrics = metrics.reindex(columns=dict.fromkeys(['id', *metrics, *measured]))
  metrics[measured] = metrics[measured].apply(pd.to_numeric, errors='coerce')
  metrics[measured] = metrics[measured].replace([np.inf, -np.inf], np.nan)
  names = [
    name for name in runs if name in ('id', 'group', 'seed', 'stage', *DATA, *settings(runs))
  ]
  return runs[names].merge(metrics.dropna(subset='epoch'), on='id')


def settings(frame: pd.DataFrame) -> list[str]:
  """The columns that hold settings: only their names have a dot."""
  return [name for name in frame if '.' in name]


def missing_runs(workdir: AnyPath, finished: Collection[str]) -> list[tuple[str, str, str]]:
  """(id, error, traceback) of each run without a result that the sweep names or that failed.

  Trials that a search left behind are not missing, unless they failed.
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


def sweep_of(workdir: AnyPath) -> dict[str, Any]:
  """The content of sweep.json, with nothing in it if it is missing or damaged."""
  return run_files.read_sweep(workdir)


def config_of(folder: AnyPath, form: Any = None) -> dict[str, Any] | None:
  """A run's config in the terms of this version; None if it is damaged or not of the form."""
  config = run_files.read_config(folder, form)
  return config and configuration.present(config)


def flatten(configs: Iterable[dict[str, Any] | None]) -> pd.DataFrame:
  """Nested configs as rows under dotted names; lists become JSON, so that they compare and hash."""
  return pd.json_normalize(list(map(legible, configs))).map(
    lambda value: json.dumps(value) if isinstance(value, (list, dict)) else value
  )


def legible(value: Any) -> Any:
  """A JSON value with its strings made fit for UTF-8, as paths on a disk need not be."""
  if isinstance(value, dict):
    return {name: legible(v) for name, v in value.items()}
  if isinstance(value, (list, tuple)):
    return type(value)(map(legible, value))
  return value.encode(errors='backslashreplace').decode() if isinstance(value, str) else value


def _distinct(read):
  """The runs of `read` without those whose config an earlier run has; a warning names these."""
  found = {}
  for config, overrides, row in read:
    first = found.setdefault(run_files.canonical(config), (config, overrides, row))[2]['id']
    if first != row['id']:
      logging.warning('%s has the config of %s: it is the same run, left out', row['id'], first)
  return list(found.values())


def _read_run(folder):
  """(config, overrides, row) of a finished run; None, with a warning, if a file is damaged."""
  path = folder / run_files.RESULT
  try:
    if damaged := run_files.verify(folder, quick=True):
      raise ValueError(path := folder / damaged[0])
    path, config = folder / run_files.CONFIG, config_of(folder, CONFIG)
    config['model']['cell'], config['seed']
    path, result = folder / run_files.RESULT, run_files.read_result(folder, RESULT)
    metrics, final = measures.read(result.get('metrics')), result['final']
    data, overrides = result['data'], dict(result['overrides'])
    # If the test split doubles as validation, the metrics of its best epoch are biased: no result.
    best = {} if data['validation_is_test'] else result['best'] or {}
    once = {f'test_{metric.name}' for metric in metrics if metric.once}
    return (
      config,
      overrides,
      {
        'id': folder.name,
        'task': measures.task(result.get('task')),
        'metrics': measures.as_json(metrics),
        **{name: data[name] for name in ('source', 'title', 'validation_is_test')},
        **{name: _value(final, name, once) for name in measures.last(metrics)},
        **{
          f'best_{name}': _value(best, name, once) if best else np.nan
          for name in measures.best(metrics)
        },
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


def _value(given, name, once):
  """A metric of a split; NaN if it is absent and may be.

  The train split has only metrics that are means. once: the names of those that are computed only
  for the parameters that a run keeps.
  """
  may_miss = name.startswith('train_') or name in once
  return float(given.get(name, np.nan) if may_miss else given[name])


def check_references(references: Any) -> list:
  """The published figures that an experiment gives, as a list.

  A reference is a sentence, or, if it applies only to certain data, a dict: says, the sentence;
  title, how the title of the data begins; test_examples, how many there are. Raises ValueError, for
  people, if one has another form.
  """
  form = {'says': str, 'title?': str, 'test_examples?': int}
  if not isinstance(references, list | tuple):
    raise ValueError(f'references must be a list, not {references!r}')
  for number, reference in enumerate(references, 1):
    known = isinstance(reference, str) or (
      disk.fits(reference, form) and {*reference} <= {name.rstrip('?') for name in form}
    )
    if not known:
      raise ValueError(
        f'reference {number} must be a sentence, or a dict of says (a sentence), title (a text)'
        f' and test_examples (a whole number), not {reference!r}'
      )
  return list(references)


def references_of(sweep: Mapping[str, Any]) -> list:
  """The references in sweep.json; none, with a warning, if they have another form."""
  try:
    return check_references(sweep.get('references') or [])
  except ValueError as error:
    logging.warning('sweep.json: %s; they are left out of the report', error)
    return []


def reference_for(reference: str | Mapping[str, Any], runs: pd.DataFrame) -> str:
  """What a reference says if it applies to the data of all these runs, else ''."""
  if isinstance(reference, str):
    return reference
  title, examples = reference.get('title', ''), reference.get('test_examples')
  same = runs['title'].str.startswith(title).all()
  same &= examples is None or (runs['test_examples'] == examples).all()
  return reference['says'] if same else ''
