"""Results to tables, statistics and one page: what the runs of a workdir say, and how surely."""

import html
import itertools
import json
import pathlib
import string
from typing import NamedTuple

import numpy as np
import pandas as pd
from absl import logging
from scipy import stats

from rnnlab import runlog

LAST = ('test_accuracy', 'test_loss', 'validation_accuracy', 'validation_loss', 'train_accuracy',
        'train_loss')
BEST = ('epoch', 'test_accuracy', 'test_loss', 'validation_accuracy', 'validation_loss')
METRICS = [*LAST, *(f'best_{name}' for name in BEST)]
DATA = ['source', 'title', 'validation_is_test']  # runs that differ here are never averaged
EPOCHS = {'test_accuracy': 'after the last epoch',
          'best_test_accuracy': 'at the epoch of best validation accuracy'}
PROTOCOL = {
    True: 'Tutorial protocol: validation is the test split, seen at every epoch; only the last '
          'epoch is reported.',
    False: 'Validation is cut from the train split; the test split chose nothing.'}
ANCHORS = ('For scale, on the same official test set: NB-SVM on bigrams, a linear model trained in '
           'minutes, 91.2 to 91.6%; LSTM from random initialisation 86.5% (Dai and Le 2015); at '
           'length 200, four runs each, LSTM 84.3% and GRU 84.5% (Campos et al. 2018).')
NOTES = ('± is the standard deviation over seeds (n - 1). Intervals are 95% t intervals of a mean '
         "over seeds, Welch's for differences: they cover the chance of the seed, not that of the "
         'examples that the test split holds, and are not corrected for the number of comparisons. '
         'P(A > B) is the share of pairs of seeds in which A is ahead, ties counted half. Seconds '
         'an epoch are the median over the epochs after the first, which compiles.')
NO_RESULT = 'no result, or a damaged one; launch again to do it'


class Block(NamedTuple):
  """The runs of one set of data and one protocol, and what is said of them."""

  caption: str
  summary: pd.DataFrame
  pairs: pd.DataFrame
  runs: pd.DataFrame
  anchors: str


def load_runs(workdir):
  """A DataFrame with a row per finished run of `workdir`, in the order of its sweep.

  Columns: id; settings under dotted names (model.cell and every config field that was swept or
  differs among the runs); seed; source, title, validation_is_test; the metrics after the last
  epoch and, as best_*, at the best-validation epoch (NaN where validation is the test split);
  parameters, seconds, and what made the run. A run whose files are damaged is left out with a
  warning. Raises FileNotFoundError without the folder, ValueError without a finished run.
  """
  workdir = pathlib.Path(workdir)
  start = f'python launch.py --workdir={workdir}'
  if not workdir.is_dir():
    raise FileNotFoundError(f'{workdir}: no such folder; to make one by training: {start}')
  sweep = _sweep(workdir)
  order = {run['id']: i for i, run in enumerate(sweep['runs'])}
  folders = sorted((path.parent for path in workdir.glob('*/result.json')),
                   key=lambda folder: (order.get(folder.name, len(order)), folder.name))
  read = [run for folder in folders if (run := _read_run(folder))]
  if not read:
    errors = [f'{run}: {error}' for run, error, _ in _missing(workdir, ())]
    raise ValueError(f'{workdir}: no finished run; to start or go on: {sweep["command"] or start}'
                     + (f'\n{len(errors)} have no result: {errors[0]}' if errors else ''))
  configs, overrides, rows = zip(*read, strict=True)
  configs, rows = _flatten(configs), pd.DataFrame(rows)
  swept = set().union(*overrides)
  settings = [name for name in configs if name not in ('model.cell', 'seed')
              and (name in swept or configs[name].nunique(dropna=False) > 1)]
  if 'data.source' in settings and (configs['data.source'] == rows['source']).all():
    settings.remove('data.source')
  configs = configs[['model.cell', *settings, 'seed']].rename(
      columns={name: f'config.{name}' for name in settings if '.' not in name})
  return pd.concat([rows[['id']], configs, rows.drop(columns='id')], axis=1)


def load_metrics(workdir):
  """A DataFrame with a row per epoch of each finished run: id, settings, seed, data, metrics.

  A damaged line of a metrics.jsonl is left out with a warning. Raises as `load_runs`.
  """
  return _load_metrics(workdir, load_runs(workdir))


def summarise(runs):
  """A row per group of runs, which share data and every setting but the seed.

  Columns: group (a name), data and settings, runs (how many), for each metric its _mean, _std
  (n - 1) and 95% t interval, _low to _high (NaN for a single seed), parameters, mean seconds.
  """
  groups = runs.groupby(DATA + _settings(runs), sort=False, dropna=False)
  mean, std, n = groups[METRICS].mean(), groups[METRICS].std(), groups[METRICS].count()
  half = stats.t.ppf(0.975, n - 1) * std / np.sqrt(n)
  parts = {'mean': mean, 'std': std, 'low': mean - half, 'high': mean + half}
  metrics = {f'{metric}_{part}': values[metric] for metric in METRICS
             for part, values in parts.items()}
  summary = pd.concat([groups.size().rename('runs'), pd.DataFrame(metrics),
                       groups[['parameters', 'recurrent_parameters']].first(),
                       groups[['seconds_per_epoch', 'seconds']].mean()], axis=1).reset_index()
  summary.insert(0, 'group', label(summary))
  return summary


def compare(runs):
  """A row per pair of cells a, b with equal data and other settings, and per test accuracy.

  difference is b's mean less a's (a is LSTM where it takes part), low to high its 95% Welch
  interval (NaN for a single seed), p_greater is P(b > a) over pairs of seeds (ties half), n_a and
  n_b count seeds.
  """
  names = DATA + [name for name in _settings(runs) if name != 'model.cell']
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
  return pd.DataFrame(rows, columns=[*names, 'a', 'b', 'metric', 'difference', 'low', 'high',
                                     'p_greater', 'n_a', 'n_b'])


def label(frame):
  """A Series of names for people, as 'GRU hidden_size=128': the cell, and what else varies."""
  varying = [name for name in _settings(frame)
             if name != 'model.cell' and frame[name].nunique(dropna=False) > 1]
  ends = [name.rpartition('.')[2] for name in varying]
  shorts = {name: end if ends.count(end) == 1 else name
            for name, end in zip(varying, ends, strict=True)}
  source = 'title' if frame['title'].nunique() > frame['source'].nunique() else 'source'

  def words(row):
    yield _cell(row['model.cell'])
    yield from (f'{short}={_value(row[name])}' for name, short in shorts.items()
                if not pd.isna(row[name]))
    if frame[source].nunique() > 1:
      yield f'({row[source]})'

  return pd.Series([' '.join(words(row)) for row in frame.to_dict('records')], index=frame.index,
                   dtype=object)


def table(runs):
  """What the runs found, as a rich renderable that also reads well in a log 100 columns wide."""
  from rich import box
  from rich.console import Group
  from rich.table import Table
  from rich.text import Text

  parts = []
  for block in _blocks(runs):
    header, rows = _group_rows(block.summary)
    # Bare, so that a short label's row is on one line of a terminal 80 columns wide.
    grid = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    words = ' '.join(row[0] for row in rows).split()
    for i, name in enumerate(header):
      grid.add_column(name, justify='right' if i else 'left', vertical='bottom',
                      min_width=0 if i else max(map(len, words)))
    for row in rows:
      grid.add_row(*map(Text, row))
    parts += [Text(block.caption + '\n'), grid, Text(''), *map(Text, _sentences(block)), Text('')]
  return Group(*parts[:-1])


def write(workdir):
  """Writes summary.csv, runs.csv, summary.md, report.html and figures/*.png into `workdir`.

  Returns `table` of the runs. Raises as `load_runs`.
  """
  from rnnlab import figures

  workdir = pathlib.Path(workdir)
  runs, sweep = load_runs(workdir), _sweep(workdir)
  runlog.write_atomic(workdir / 'runs.csv', runs.to_csv(index=False))
  summary, missing, blocks = summarise(runs), _missing(workdir, set(runs['id'])), _blocks(runs)
  runlog.write_atomic(workdir / 'summary.csv', summary.to_csv(index=False))
  labelled = runs.assign(group=label(runs))
  metrics = _load_metrics(workdir, labelled)
  data = '\n'.join(block.caption for block in blocks)
  drawings = {}
  for name, caption in figures.captions(runs).items():
    frames = (labelled, summary) if name == 'test_accuracy' else (metrics,)
    if not frames[0].empty:
      png, svg = figures.render(getattr(figures, name), *frames, note=f'{caption}\n{data}')
      runlog.write_atomic(workdir / 'figures' / f'{name}.png', png)
      drawings[name] = caption, svg
  name = ':'.join(filter(None, (sweep['experiment'] or workdir.name, sweep['preset'])))
  title = f'{name}, {len(runs)} of {len(runs) + len(missing)} runs'
  told = title, _finding(runs), blocks, drawings, missing, _made_by(workdir, runs, sweep)
  runlog.write_atomic(workdir / 'summary.md', _markdown(*told))
  runlog.write_atomic(workdir / 'report.html', _page(*told))
  return table(runs)


def _read_run(folder):
  """(config, overrides, row) of a finished run; None, with a warning, where a file is damaged."""
  try:
    config = runlog.read_json(path := folder / 'config.json')
    config['model']['cell'], config['seed']
    result = runlog.read_json(path := folder / 'result.json')
    data, overrides = result['data'], dict(result['overrides'])
    # Where the test split doubles as validation, its best epoch is no finding.
    best = {} if data['validation_is_test'] else result['best'] or {}
    return config, overrides, {
        'id': folder.name, **{name: data[name] for name in DATA},
        **{name: float(result['final'][name]) for name in LAST},
        **{f'best_{name}': float(best[name]) if best else np.nan for name in BEST},
        **{name: result[name] + 0 for name in (
            'parameters', 'recurrent_parameters', 'seconds_per_epoch', 'seconds')},
        **{f'{split}_examples': data['sizes'][split] for split in ('train', 'validation', 'test')},
        'versions': ', '.join(f'{name} {version}' for name, version in result['versions'].items()),
        **{name: result[name] for name in ('device', 'commit', 'command', 'finished')},
        'fingerprint': data['fingerprint']}
  except (KeyError, TypeError, ValueError, AttributeError):
    logging.warning('%s is missing, damaged or incomplete, so its run is left out of the report; '
                    'to do the run again, delete %s and launch', path, folder / 'result.json')
    return None


def _load_metrics(workdir, runs):
  rows = [row | {'id': run} for run in runs['id']
          for row in runlog.read_rows(pathlib.Path(workdir) / run / 'metrics.jsonl')]
  metrics = pd.DataFrame(rows, columns=None if rows else ['id', 'epoch'])
  names = [name for name in runs if name in ('id', 'group', 'seed', *DATA, *_settings(runs))]
  return runs[names].merge(metrics.dropna(subset='epoch'), on='id')


def _sweep(workdir):
  """sweep.json, with nothing in it where it is missing or damaged."""
  empty = {'experiment': '', 'preset': '', 'command': '', 'runs': []}
  return empty | (runlog.read_json(pathlib.Path(workdir) / 'sweep.json') or {})


def _missing(workdir, finished):
  """(id, error, traceback) of each run that the sweep names, or that failed, and has no result."""
  named = [run['id'] for run in _sweep(workdir)['runs']]
  failed = sorted(path.parent.name for path in workdir.glob('*/error.json'))
  missing = []
  for run in dict.fromkeys(named + failed):
    if run not in finished:
      error = runlog.read_json(workdir / run / 'error.json') or {}
      missing.append((run, str(error.get('error', NO_RESULT)), error.get('traceback', '')))
  return missing


def _settings(frame):
  """The columns that hold settings: they, and they alone, have a dot in their name."""
  return [name for name in frame if '.' in name]


def _flatten(configs):
  """Nested configs as rows under dotted names; lists as JSON, so that values compare and hash."""
  return pd.json_normalize(list(configs)).map(
      lambda value: json.dumps(value) if isinstance(value, (list, dict)) else value)


def _blocks(runs):
  summary, pairs = summarise(runs), compare(runs)
  pairs['where'] = label(pairs.assign(**{'model.cell': ''})).str.strip()
  blocks = []
  for key, part in runs.groupby(DATA, sort=False):
    summed, paired = (frame[frame[DATA].eq(pd.Series(key, DATA)).all(axis=1)]
                      for frame in (summary, pairs))
    source, title, tutorial = key
    caption = f'Data: {title}'
    sizes = part[[f'{split}_examples' for split in ('train', 'validation', 'test')]]
    if len(sizes.drop_duplicates()) == 1:
      train, validation, test = sizes.iloc[0]
      middle = '' if tutorial else f', {validation:,} validation'
      caption += f'\n{train:,} train{middle} and {test:,} test examples'
    official = (title.startswith('IMDB') and source != 'package'
                and (sizes['test_examples'] == 25_000).all())
    blocks.append(Block(f'{caption}\n{PROTOCOL[tutorial]}', summed, paired, part,
                        ANCHORS if official else ''))
  return blocks


def _sentences(block):
  """What is to be said of a block's pairs of cells, and beside what to see it."""
  for row in block.pairs.to_dict('records'):
    a, b = _cell(row['a']), _cell(row['b'])
    chance = '' if pd.isna(row['low']) else f', P({b} > {a}) = {row["p_greater"]:.2f}'
    yield (f'{row["where"]}{": " if row["where"] else ""}{b} - {a}, test accuracy '
           f'{EPOCHS[row["metric"]]}: {_points(row)}{chance} ({row["n_b"]} and {row["n_a"]} seeds)')
  if block.anchors:
    yield block.anchors


def _finding(runs):
  """The headline: what can be said of the test accuracy after the last epoch."""
  summary, pairs = summarise(runs), compare(runs)
  pairs = pairs[pairs['metric'] == 'test_accuracy']
  if len(pairs) == 1:
    row = pairs.iloc[0]
    a, b = _cell(row['a']), _cell(row['b'])
    if pd.isna(row['low']):
      said = f'Too few seeds to tell {b} from {a} by test accuracy'
    elif row['low'] <= 0 <= row['high']:
      said = f'{b} and {a} are not told apart by test accuracy'
    else:
      ahead, behind = (b, a) if row['low'] > 0 else (a, b)
      said = f'{ahead} is ahead of {behind} in test accuracy'
    return f'{said}: {b} - {a} is {_points(row)}.'
  if len(pairs):
    ahead = [_cell(row.b if row.low > 0 else row.a) for row in pairs.itertuples()
             if row.low > 0 or row.high < 0]
    counts = ', '.join(f'{cell} ahead in {ahead.count(cell)}' for cell in dict.fromkeys(ahead))
    rest = len(pairs) - len(ahead)
    return (f'{len(pairs)} comparisons of test accuracy: {counts}{", " if counts else ""}'
            f'{rest} not told apart.')
  low, high = (summary.loc[summary['test_accuracy_mean'].agg(f)] for f in ('idxmin', 'idxmax'))
  said = f'{low["group"]}: {low["test_accuracy_mean"]:.1%} test accuracy after the last epoch'
  return f'{said}.' if len(summary) == 1 else (
      f'{said}, up to {high["test_accuracy_mean"]:.1%} for {high["group"]}.')


def _points(row):
  interval = _interval(row['low'], row['high'])
  return (f'{100 * row["difference"]:+z.1f} points, '
          + ('no interval' if interval == '-' else f'95% interval {interval}'))


def _interval(low, high):
  return '-' if pd.isna(low) else f'[{100 * low:z.1f}, {100 * high:z.1f}]'


def _cell(name):
  return {'lstm': 'LSTM', 'gru': 'GRU', 'elman': 'Elman'}.get(name, name)


def _value(value):
  return f'{value:g}' if isinstance(value, float) else str(value)


def _number(value, form='.1f'):
  return '-' if pd.isna(value) else format(value, form)


def _group_rows(summary, wide=False):
  """(header, rows) in words; `wide` has what does not fit a log."""
  metrics = {'test_accuracy': 'Test\naccuracy,\n%, last\nepoch',
             'best_test_accuracy': 'Test\naccuracy,\n%, best\nvalidation'}
  if summary['best_test_accuracy_mean'].isna().all():
    del metrics['best_test_accuracy']
  header = ['Group', 'Runs',
            *(name for title in metrics.values() for name in (title, '95% interval')),
            'Parameters', *['Recurrent\nparameters', 'Train\naccuracy, %'] * wide,
            'Seconds\nan epoch']
  rows = []
  for row in summary.to_dict('records'):
    cells = [row['group'], str(row['runs'])]
    for metric in metrics:
      mean, std = (_number(100 * row[f'{metric}_{part}']) for part in ('mean', 'std'))
      cells += [mean if std == '-' else f'{mean} ± {std}',
                _interval(row[f'{metric}_low'], row[f'{metric}_high'])]
    cells.append(f'{row["parameters"]:,}')
    if wide:
      cells += [f'{row["recurrent_parameters"]:,}', _number(100 * row['train_accuracy_mean'])]
    rows.append([*cells, _number(row['seconds_per_epoch'], '.2f')])
  return header, rows


def _pair_rows(pairs):
  """(header, rows) in words, of the comparisons."""
  return ['Test accuracy, A - B', 'Epoch', 'Points', '95% interval', 'P(A > B)', 'Seeds'], [
      [f'{_cell(row["b"])} - {_cell(row["a"])} {row["where"]}'.strip(),
       'last' if row['metric'] == 'test_accuracy' else 'best validation',
       f'{100 * row["difference"]:+z.1f}', _interval(row['low'], row['high']),
       '-' if pd.isna(row['low']) else f'{row["p_greater"]:.2f}', f'{row["n_b"]}, {row["n_a"]}']
      for row in pairs.to_dict('records')]


def _run_rows(runs):
  """(header, rows) in words, of each run."""
  columns = {'id': ('Run', str), 'seed': ('Seed', str)}
  percent = lambda value: _number(100 * value, '.2f')  # noqa: E731
  columns['test_accuracy'] = 'Test accuracy, %, last epoch', percent
  if runs['best_test_accuracy'].notna().any():
    columns['best_test_accuracy'] = 'Test accuracy, %, best validation', percent
    columns['best_epoch'] = 'Best epoch', lambda value: _number(value, '.0f')
    columns['validation_accuracy'] = 'Validation accuracy, %', percent
  columns |= {'train_accuracy': ('Train accuracy, %', percent),
              'seconds_per_epoch': ('Seconds an epoch', lambda value: _number(value, '.2f')),
              'seconds': ('Seconds in all', lambda value: _number(value, '.0f'))}
  return [title for title, _ in columns.values()], [
      [words(row[name]) for name, (_, words) in columns.items()] for row in runs.to_dict('records')]


def _made_by(workdir, runs, sweep):
  """What made the numbers, as name -> lines."""
  configs = _flatten(runlog.read_json(workdir / run / 'config.json') for run in runs['id'])
  distinct = lambda values: [str(value) for value in dict.fromkeys(values) if value]  # noqa: E731
  return {
      'Command': distinct([sweep['command'], *runs['command']]),
      'Commit': distinct(runs['commit'].fillna('')) or ['none: the code was not in a git checkout'],
      'Versions': distinct(runs['versions']), 'Device': distinct(runs['device']),
      'Data': distinct(runs['title'] + ', fingerprint ' + runs['fingerprint'].str[:16]),
      'Finished': distinct([runs['finished'].min(), runs['finished'].max()]),
      'Config': [f'{name} = {" | ".join(map(_value, configs[name].dropna().unique()))}'
                 for name in configs]}


def _markdown(title, finding, blocks, drawings, missing, made_by):
  code = lambda text: f'`{" ".join(text.split()).replace("`", chr(39))}`'  # noqa: E731
  lines = [f'# {title}', '', f'**{finding}**', '']
  for block in blocks:
    header, rows = _group_rows(block.summary, wide=True)
    lines += [*block.caption.splitlines(), '']
    lines += ['| ' + ' | '.join(' '.join(cell.split()) for cell in row) + ' |'
              for row in (header, ['---', *['---:'] * (len(header) - 1)], *rows)]
    lines += ['', *(f'- {sentence}' for sentence in _sentences(block)), '']
  lines += [NOTES, '']
  for name, (caption, _) in drawings.items():
    lines += [f'![{caption}](figures/{name}.png)', '']
  if missing:
    lines += ['## Runs without a result', '',
              *(f'- {code(run)}: {code(error)}' for run, error, _ in missing), '']
  lines += ['## Made by', '', *(f'- {name}: {", ".join(map(code, values))}'
                                for name, values in made_by.items() if name != 'Config')]
  return '\n'.join(lines) + '\n'


def _page(title, finding, blocks, drawings, missing, made_by):
  """report.html: one file, that loads nothing."""
  escape = html.escape

  def caption(block, lines=None):
    lines = block.caption.splitlines()[:lines]
    return f'<p class="data">{"<br>".join(map(escape, lines))}</p>'

  def grid(header, rows, kind=''):
    head = ''.join(f'<th scope="col">{escape(" ".join(name.split()))}</th>' for name in header)
    body = ''.join(f'<tr>{"".join(f"<td>{escape(cell)}</td>" for cell in row)}</tr>\n'
                   for row in rows)
    return (f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead>\n'
            f'<tbody>{body}</tbody></table></div>')

  data = ''.join(dict.fromkeys(caption(block, 1) for block in blocks))
  results = ''.join(
      caption(block) + grid(*_group_rows(block.summary, wide=True))
      + (grid(*_pair_rows(block.pairs)) if len(block.pairs) else '')
      + f'<p class="notes">{escape(block.anchors)}</p>' * bool(block.anchors) for block in blocks)
  drawn = ''.join(
      f'<figure><div class="scroll" role="img" aria-label="{escape(text)}">{svg}</div>'
      f'<figcaption>{escape(text)}{data}</figcaption></figure>' for text, svg in drawings.values())
  runs = ''.join(caption(block, 1) + grid(*_run_rows(block.runs), 'sortable') for block in blocks)
  failed = ''.join(
      f'<li><code>{escape(run)}</code>: {escape(error)}'
      + (f'<details><summary>Traceback</summary><pre>{escape(trace)}</pre></details>' * bool(trace))
      + '</li>' for run, error, trace in missing)
  made = ''.join(f'<dt>{escape(name)}</dt>' + ''.join(
      f'<dd>{escape(value)}</dd>' for value in values)
                 for name, values in made_by.items() if name != 'Config')
  template = pathlib.Path(__file__).with_name('report.html').read_text('utf-8')
  return string.Template(template).substitute(
      title=escape(title), finding=escape(finding), results=results, figures=drawn, runs=runs,
      notes=escape(NOTES), made=made, config=escape('\n'.join(made_by['Config'])),
      failed=f'<section><h2>Runs without a result</h2><ul>{failed}</ul></section>' * bool(missing))
