"""Results to tables, statistics and one page: what the runs of a workdir say, and how surely."""

import html
import itertools
import json
import os
import pathlib
import string
import warnings

import numpy as np
import pandas as pd
from scipy import stats

LAST = ('test_accuracy', 'test_loss', 'validation_accuracy', 'validation_loss', 'train_accuracy',
        'train_loss')
BEST = ('epoch', 'test_accuracy', 'test_loss', 'validation_accuracy', 'validation_loss')
METRICS = (*LAST, *(f'best_{name}' for name in BEST))
DATA = ['source', 'title', 'validation_is_test']  # in every group's key: never averaged across
CELL_NAMES = {'lstm': 'LSTM', 'gru': 'GRU', 'elman': 'Elman'}
EPOCHS = {'test_accuracy': 'after the last epoch',
          'best_test_accuracy': 'at the epoch of best validation accuracy'}
NOTES = ('Intervals are 95% t intervals of a mean over seeds, for differences Welch\'s. They hold '
         'the chance of the seed, not that of which examples were drawn for testing, and are not '
         'corrected for the number of comparisons. P(A > B) is the share of pairs of seeds in '
         'which A is ahead, ties counted half.')
ANCHORS = ('For scale, on the official test set: NB-SVM on bigrams, a linear model trained in '
           'minutes, 91.2 to 91.6%; LSTM from random initialisation 86.5% (Dai and Le 2015); at '
           'length 200, four runs each, LSTM 84.3 and GRU 84.5% (Campos et al. 2018).')


def load_runs(workdir):
  """A DataFrame with a row per finished run of `workdir`, in the order of its sweep.

  Columns: id, then settings under dotted names (model.cell and every config field that was swept
  or differs among the runs), seed, source, title, validation_is_test, the metrics after the last
  epoch and, as best_*, at the best-validation epoch (NaN where validation is the test split),
  parameters, times in seconds, and what made the run. A run whose files are damaged is left out
  with a warning. Raises FileNotFoundError without a folder, ValueError without a finished run.
  """
  workdir = pathlib.Path(workdir)
  if not workdir.is_dir():
    raise FileNotFoundError(f'{workdir}: no such folder. Train first: python launch.py '
                            f'--workdir={workdir}')
  sweep = _sweep(workdir)
  order = {run['id']: i for i, run in enumerate(sweep['runs'])}
  folders = sorted((path.parent for path in workdir.glob('*/result.json')),
                   key=lambda folder: (order.get(folder.name, len(order)), folder.name))
  read = [row for folder in folders if (row := _read_run(folder)) is not None]
  if not read:
    failed = [error for _, error, _ in _missing(workdir, ())]
    raise ValueError(f'{workdir}: no finished run. Start or resume it: '
                     + (sweep['command'] or f'python launch.py --workdir={workdir}')
                     + (f'\n{len(failed)} failed or unfinished, the first: {failed[0]}'
                        if failed else ''))
  configs, overrides, rows = zip(*read, strict=True)
  configs = _flatten(configs)
  swept = {name for override in overrides for name in override}
  settings = [name for name in configs if name not in ('model.cell', 'seed')
              and (name in swept or configs[name].nunique(dropna=False) > 1)]
  configs = configs[['model.cell', *settings, 'seed']].rename(
      columns={name: f'config.{name}' for name in settings if '.' not in name})
  rows = pd.DataFrame(rows)
  return pd.concat([rows[['id']], configs, rows.drop(columns='id')], axis=1)


def load_metrics(workdir):
  """A DataFrame with a row per epoch of each finished run: id, settings, seed, data, metrics.

  A damaged line of a metrics.jsonl is left out with a warning.
  """
  return _load_metrics(workdir, load_runs(workdir))


def summarise(runs):
  """A row per group: every setting but the seed, `runs` (how many), and for each metric its mean,
  std (n - 1), and 95% t interval as _mean, _std, _low and _high (NaN where one seed gives none).

  Runs on different data, or under different protocols, are never in one group.
  """
  names = DATA + _settings(runs)
  groups = runs.groupby(names, sort=False, dropna=False)
  metrics = list(METRICS)
  mean, std, n = groups[metrics].mean(), groups[metrics].std(), groups[metrics].count()
  half = stats.t.ppf(0.975, n - 1) * std / np.sqrt(n)
  parts = {'mean': mean, 'std': std, 'low': mean - half, 'high': mean + half}
  columns = {f'{metric}_{part}': frame[metric] for metric in metrics
             for part, frame in parts.items()}
  once = groups[['parameters', 'recurrent_parameters']].first()
  times = groups[['seconds_per_epoch', 'seconds']].mean()
  summary = pd.concat([groups.size().rename('runs'), pd.DataFrame(columns), once, times], axis=1)
  summary = summary.reset_index()
  summary.insert(0, 'group', label(summary))
  return summary


def compare(runs):
  """A row per pair of cells A and B under otherwise equal settings and equal data, and per metric:
  the difference of means B - A (A is LSTM where it takes part) with its 95% Welch interval low to
  high, p_greater = P(B > A) over pairs of seeds with ties as half, and n_a, n_b.
  """
  names = DATA + [name for name in _settings(runs) if name != 'model.cell']
  rows = []
  for key, part in runs.groupby(names, sort=False, dropna=False):
    cells = sorted(part['model.cell'].unique(), key=lambda cell: cell != 'lstm')
    for (a, b), metric in itertools.product(itertools.combinations(cells, 2), EPOCHS):
      xs, ys = (part.loc[part['model.cell'] == cell, metric].dropna() for cell in (a, b))
      if len(xs) and len(ys):
        rows.append(dict(zip(names, key, strict=True), a=a, b=b, metric=metric,
                         **_difference(xs, ys), n_a=len(xs), n_b=len(ys)))
  return pd.DataFrame(rows, columns=[*names, 'a', 'b', 'metric', 'difference', 'low', 'high',
                                     'p_greater', 'n_a', 'n_b'])


def table(runs):
  """What the runs found, as a rich renderable that also reads well in a log 100 columns wide."""
  from rich import box
  from rich.console import Group
  from rich.table import Table
  from rich.text import Text
  parts = []
  for caption, block, sentences in _blocks(runs):
    header, rows = _group_table(block, wide=False)
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for i, name in enumerate(header):
      grid.add_column(name, justify='right' if i else 'left', vertical='bottom', overflow='fold')
    for row in rows:
      grid.add_row(*map(Text, row))
    parts += [Text(caption), grid, *map(Text, sentences), Text('')]
  return Group(*parts[:-1])


def write(workdir):
  """Writes summary.csv, runs.csv, summary.md, figures/*.png and report.html into `workdir`.

  Returns `table` of the runs. Raises as `load_runs`.
  """
  from rnnlab import figures
  workdir = pathlib.Path(workdir)
  runs, sweep = load_runs(workdir), _sweep(workdir)
  summary, missing = summarise(runs), _missing(workdir, set(runs['id']))
  _write_atomic(workdir / 'summary.csv', summary.to_csv(index=False))
  _write_atomic(workdir / 'runs.csv', runs.to_csv(index=False))
  labelled = runs.assign(group=label(runs))
  metrics = _load_metrics(workdir, labelled)
  word = figures.validation_word(runs)
  data = '\n'.join(dict.fromkeys(caption for caption, _, _ in _blocks(runs)))
  drawings = {}
  for name in figures.CAPTIONS:
    frames = (labelled, summary) if name == 'test_accuracy' else (metrics,)
    if any(frame.empty for frame in frames):
      continue
    caption = figures.CAPTIONS[name].format(validation=word, Validation=word.capitalize())
    png, svg = figures.render(getattr(figures, name), *frames, note=f'{caption}\n{data}')
    drawings[name] = caption, svg
    (workdir / 'figures').mkdir(exist_ok=True)
    _write_atomic(workdir / 'figures' / f'{name}.png', png)
  done, count = len(runs), len(runs) + len(missing)
  title = f'{sweep["experiment"] or workdir.name}{":" if sweep["preset"] else ""}{sweep["preset"]}'
  title = f'{title}: {done} of {count} run{"s" if count > 1 else ""}'
  made_by = _made_by(workdir, runs, sweep)
  _write_atomic(workdir / 'summary.md', _markdown(title, runs, missing, drawings, made_by))
  _write_atomic(workdir / 'report.html', _page(title, runs, missing, drawings, made_by))
  return table(runs)


def label(frame):
  """A Series of names for people, 'GRU hidden_size=128': the cell and every setting that varies."""
  varying = [name for name in _settings(frame)
             if name != 'model.cell' and frame[name].nunique(dropna=False) > 1]
  lasts = [name.rpartition('.')[2] for name in varying]
  shorts = {name: last if lasts.count(last) == 1 else name
            for name, last in zip(varying, lasts, strict=True)}
  source = 'title' if frame['title'].nunique() > frame['source'].nunique() else 'source'
  data = [source] if frame[source].nunique() > 1 else []

  def words(row):
    yield _cell(row['model.cell'])
    yield from (f'{short}={_value(row[name])}' for name, short in shorts.items()
               if not pd.isna(row[name]))
    yield from (f'({row[name]})' for name in data)
  return pd.Series([' '.join(words(row)) for row in frame.to_dict('records')], index=frame.index, dtype=object)


def _read_run(folder):
  """(config, overrides, row) of a finished run; None, with a warning, where a file is damaged."""
  path = folder / 'config.json'
  try:
    config = json.loads(path.read_text('utf-8'))
    config['model']['cell'], config['seed']
    path = folder / 'result.json'
    result = json.loads(path.read_text('utf-8'))
    data = result['data']
    # Where the test split doubles as validation, its best epoch is no finding.
    best = None if data['validation_is_test'] else result['best']
    return config, result['overrides'], {
        'id': folder.name, **{name: data[name] for name in DATA},
        **{name: float(result['final'][name]) for name in LAST},
        **{f'best_{name}': float(best[name]) if best else np.nan for name in BEST},
        **{name: result[name] for name in (
            'parameters', 'recurrent_parameters', 'seconds_per_epoch', 'seconds')},
        **{f'{split}_examples': n for split, n in data['sizes'].items()},
        'fingerprint': data['fingerprint'], 'device': result['device'],
        'versions': ', '.join(f'{name} {v}' for name, v in result['versions'].items()),
        **{name: result[name] for name in ('commit', 'command', 'finished')}}
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    warnings.warn(f'{path} is damaged ({_reason(error)}): its run is left out of the report. '
                  'Delete that file and launch again to redo the run.', stacklevel=3)
    return None


def _load_metrics(workdir, runs):
  rows = []
  for run in runs['id']:
    path = pathlib.Path(workdir) / run / 'metrics.jsonl'
    try:
      lines = path.read_text('utf-8', errors='replace').splitlines()
    except OSError as error:
      warnings.warn(f'{path} is missing ({_reason(error)}): the run has no curves.', stacklevel=3)
      continue
    for number, line in enumerate(lines, start=1):
      try:
        row = json.loads(line)
        rows.append({**row, 'id': run, 'epoch': int(row['epoch'])})
      except (ValueError, KeyError, TypeError) as error:
        warnings.warn(f'{path}, line {number} is damaged ({_reason(error)}): left out.',
                      stacklevel=3)
  names = [name for name in runs if name in ('id', 'group', 'seed', *DATA, *_settings(runs))]
  # A run that was killed and resumed may have written an epoch twice, with equal figures.
  metrics = pd.DataFrame(rows, columns=None if rows else ['id', 'epoch'])
  return runs[names].merge(metrics.drop_duplicates(['id', 'epoch'], keep='last'), on='id')


def _sweep(workdir):
  """sweep.json, or an empty sweep where there is none or it is damaged."""
  empty = {'experiment': '', 'preset': '', 'command': '', 'runs': []}
  path = pathlib.Path(workdir) / 'sweep.json'
  try:
    sweep = empty | json.loads(path.read_text('utf-8'))
    return sweep | {'runs': [{'id': run['id']} for run in sweep['runs']]}
  except FileNotFoundError:
    return empty
  except (OSError, ValueError, KeyError, TypeError) as error:
    warnings.warn(f'{path} is damaged ({_reason(error)}): runs that failed or are missing may go '
                  'unlisted. Launch again to write it anew.', stacklevel=3)
    return empty


def _missing(workdir, finished):
  """(id, error, traceback) of every run of the sweep, or with an error.json, that has no result."""
  ids = dict.fromkeys([*(run['id'] for run in _sweep(workdir)['runs']),
                       *sorted(path.parent.name for path in workdir.glob('*/error.json'))])
  missing = []
  for run in ids:
    if run in finished:
      continue
    error, trace = 'not finished; launch again to do it', ''
    if (workdir / run / 'result.json').exists():
      error = 'config.json or result.json is damaged; delete result.json and launch again'
    try:
      record = json.loads((workdir / run / 'error.json').read_text('utf-8'))
      error, trace = str(record['error']), str(record.get('traceback', ''))
    except (OSError, ValueError, KeyError, TypeError):
      pass
    missing.append((run, error, trace))
  return missing


def _settings(frame):
  """The columns that hold settings: those, and only those, have a dot in their name."""
  return [name for name in frame if '.' in name]


def _flatten(configs):
  """Nested configs as rows under dotted names; lists as JSON, so that values compare and hash."""
  return pd.json_normalize(list(configs)).map(
      lambda value: json.dumps(value) if isinstance(value, (list, dict)) else value)


def _difference(xs, ys):
  low = high = np.nan
  if min(len(xs), len(ys)) > 1:
    low, high = stats.ttest_ind(ys, xs, equal_var=False).confidence_interval()
  greater = stats.mannwhitneyu(ys, xs).statistic / (len(xs) * len(ys))
  return {'difference': ys.mean() - xs.mean(), 'low': low, 'high': high, 'p_greater': greater}


def _reason(error):
  return f'{type(error).__name__}: {error}'


def _cell(name):
  return CELL_NAMES.get(name, name)


def _value(value):
  return f'{value:g}' if isinstance(value, float) else str(value)


def _number(value, form):
  return '-' if pd.isna(value) else format(value, form)


def _group_table(block, wide):
  """(header, rows) of strings for people; `wide` adds what a log of 100 columns has no room for."""
  best = block['best_test_accuracy_mean'].notna().any()
  accuracies = {'test_accuracy': 'Test accuracy, %'}
  if best:
    accuracies = {'test_accuracy': 'Test accuracy, %, last epoch',
                  'best_test_accuracy': 'Test accuracy, %, best validation'}
  header = ['Group', 'Runs']
  for name in accuracies.values():
    header += [name, '95% interval']
  header += ['Parameters'] + ['Recurrent', 'Train accuracy, %'] * wide + ['Seconds an epoch']
  rows = []
  for row in block.to_dict('records'):
    cells = [row['group'], str(row['runs'])]
    for metric in accuracies:
      mean, std, low, high = (
          _number(100 * row[f'{metric}_{part}'], '.1f') for part in ('mean', 'std', 'low', 'high'))
      cells += [mean if std == '-' else f'{mean} ± {std}', '-' if low == '-' else f'[{low}, {high}]']
    cells += [f'{row["parameters"]:,}']
    if wide:
      cells += [f'{row["recurrent_parameters"]:,}',
                _number(100 * row['train_accuracy_mean'], '.1f')]
    rows.append(cells + [_number(row['seconds_per_epoch'], '.1f')])
  return header, rows


def _blocks(runs):
  """(caption, rows of the summary, sentences) for each set of data and protocol in the runs."""
  summary, pairs = summarise(runs), compare(runs)
  for key, block in summary.groupby(DATA, sort=False):
    source, title, tutorial = key
    part = runs[(runs[DATA] == key).all(axis=1)]
    sizes = part[['train_examples', 'validation_examples', 'test_examples']].drop_duplicates()
    if tutorial:
      protocol = ('Tutorial protocol: validation is the test split, seen at every epoch; only the '
                  'last epoch is reported.')
    else:
      protocol = 'Validation is cut from the train split; nothing was chosen by the test split.'
    caption = f'Data: {title}'
    if len(sizes) == 1:
      train, validation, test = sizes.iloc[0]
      caption += f'\n{train:,} train, {validation:,} validation and {test:,} test examples'.replace(
          f', {validation:,} validation' if tutorial else ' ' * 99, '')
    sentences = [_sentence(row) for row in _named(pairs)
                 if tuple(row[name] for name in DATA) == key]
    if title.startswith('IMDB') and source != 'package' and (sizes['test_examples'] == 25000).all():
      sentences.append(ANCHORS)
    yield f'{caption}\n{protocol}', block, sentences
