"""The tables of a report in words: each function gives a header, and rows of cells."""

import pandas as pd

from rnnlab import results
from rnnlab.reports.content import better
from rnnlab.results import measures

Table = tuple[list[str], list[list[str]]]


def of_groups(summary: pd.DataFrame, wide: bool = False) -> Table:
  """The summary of one task; `wide` adds the columns that do not fit into a log."""
  metrics = measures.metrics_of(summary)
  metric, (best, last) = metrics[0], measures.test_columns(metrics)
  test, unit = f'Test\n{metric.words},\n', f'{metric.unit}, ' if metric.unit else ''
  titles = {last: f'{test}{unit}last\nepoch'}
  if summary[f'{best}_mean'].notna().any():
    secondary = f'Secondary:\nlast\nepoch{_unit(metric)}'
    titles = {best: f'{test}{unit}best\nvalidation', last: secondary}
  header = [
    'Group',
    'Runs',
    *(name for title in titles.values() for name in (title, '95% interval')),
    'Parameters',
    *['Recurrent\nparameters', f'Train\n{metric.words}{_unit(metric)}'] * wide,
    'Seconds\nan epoch',
  ]
  rows = []
  for row in summary.to_dict('records'):
    cells = [row['group'], str(row['runs'])]
    for column in titles:
      cells += [
        _mean(metric, row, column),
        metric.interval(row[f'{column}_low'], row[f'{column}_high']),
      ]
    cells.append(f'{row["parameters"]:,}')
    if wide:
      train = metric.number(row[f'train_{metric.name}_mean'])
      cells += [f'{row["recurrent_parameters"]:,}', train]
    rows.append([*cells, _number(row['seconds_per_epoch'], '.2f')])
  return header, rows


def of_claims(claims: pd.DataFrame) -> Table:
  """What holds: each claim, its verdict, its effect, and the command that repeats its runs."""
  with_command = bool(claims['command'].any())
  header = ['Claim', 'Verdict', 'Effect, 95% interval', 'p, corrected', 'Seeds']
  rows = []
  for row in claims.to_dict('records'):
    seeds = f'{row["n_b"]} and {row["n_a"]}'
    cells = [row['claim'], row['verdict'], row['effect'] or '-', _number(row['p_holm'], '.2g')]
    rows.append([*cells, seeds, *[row['command']] * with_command])
  return [*header, *['Command'] * with_command], rows


def of_others(summary: pd.DataFrame) -> Table:
  """The metrics of one task other than the primary one, at the epoch of the primary one."""
  metrics, (tutorial, *_) = measures.metrics_of(summary), summary['validation_is_test']
  at = measures.primary_column(metrics, tutorial).removesuffix(f'test_{metrics[0].name}')
  epoch = 'last\nepoch' if tutorial else 'best\nvalidation'
  header = ['Other metric', 'Group', f'Test,\n{epoch}', '95% interval']
  header += ['95% interval,\nseeds and\nexamples', f'Validation,\n{epoch}']
  rows = []
  for metric in metrics[1:]:
    test = f'{at}test_{metric.name}'
    if metric.once and summary[f'{test}_mean'].isna().all():  # such as BLEU, if nothing computes it
      continue
    for row in summary.to_dict('records'):
      rows.append(
        [
          f'{metric.words}{_unit(metric)}',
          row['group'],
          _mean(metric, row, test),
          metric.interval(row[f'{test}_low'], row[f'{test}_high']),
          metric.interval(*(row.get(f'{test}_items_{end}') for end in ('low', 'high'))),
          _mean(metric, row, f'{at}validation_{metric.name}'),
          _mean(metric, row, f'train_{metric.name}'),
        ]
      )
  header.append('Train,\nlast\nepoch')
  unknown = {4} if all(row[4] == '-' for row in rows) else set()
  unknown |= {5} if tutorial else set()  # in it, validation is the test split
  kept = [i for i in range(7) if i not in unknown]
  return [header[i] for i in kept], [[row[i] for i in kept] for row in rows]


def _mean(metric, row, column):
  mean, std = (metric.number(row.get(f'{column}_{part}')) for part in ('mean', 'std'))
  return mean if std == '-' else f'{mean} ± {std}'


def _unit(metric):
  return f', {metric.unit}' if metric.unit else ''


def _number(value, form='.1f'):
  return '-' if pd.isna(value) else format(value, form)


def of_pairs(pairs: pd.DataFrame) -> Table:
  """Comparisons of one task; `pairs` has a column `where`, the settings that a pair shares."""
  metric = measures.metrics_of(pairs)[0]
  unit = metric.difference_unit
  difference = 'Points' if unit == 'points' else ',\n'.join(filter(None, ['Difference', unit]))
  rows = []
  for row in pairs.to_dict('records'):
    chance, low, high = better(row, metric)
    rows.append(
      {
        f'Test {metric.words},\nA - B': _pair(row),
        'Epoch': ('best' if row['metric'].startswith('best_') else 'last')
        + ', secondary' * (not row['primary']),
        difference: metric.change(row['difference']),
        '95% interval,\nseeds': metric.interval(row['low'], row['high']),
        '95% interval,\nseeds and\nexamples': metric.interval(row['items_low'], row['items_high']),
        'P(A is\nbetter)': '-' if pd.isna(row['low']) else f'{chance:.2f}',
        '95% interval\nof P(A is\nbetter)': '-' if pd.isna(low) else f'[{low:.2f}, {high:.2f}]',
        'p': _p(row['p']) if row['primary'] else '-',
        'p, Holm': _p(row['p_holm']) if row['primary'] else '-',
        'Seeds': f'{row["n_b"]}, {row["n_a"]}',
        'Seeds\nneeded': '> 1,000'
        if row['seeds_needed'] > 1000
        else _number(row['seeds_needed'], '.0f'),
      }
    )
  header = [name for name in rows[0] if any(row[name] != '-' for row in rows)]
  return header, [[row[name] for name in header] for row in rows]


def of_once(pairs: pd.DataFrame) -> Table:
  """Comparisons of one task by the metrics that are known once, with `where` as `of_pairs`."""
  metrics, rows = measures.metrics_of(pairs), []
  for row in pairs.to_dict('records'):
    metric = measures.of_column(metrics, row['metric'])
    rows.append(
      {
        'Other metric': f'{metric.words} ({metric.better} is better)',
        'A - B': _pair(row),
        'Difference': metric.change_shown(row['difference']),
        '95% interval,\nseeds': metric.interval(row['low'], row['high']),
        '95% interval,\nseeds and\nexamples': metric.interval(row['items_low'], row['items_high']),
        'p,\nexamples': '-' if pd.isna(row['p_items']) else _p(row['p_items']),
        'Seeds': f'{row["n_b"]}, {row["n_a"]}',
      }
    )
  return [*rows[0]], [[*row.values()] for row in rows]


def _pair(row):
  if row['setting'] == 'model.cell':
    words = f'{results.cell_name(row["b"])} - {results.cell_name(row["a"])}'
  else:
    b, a = map(results.value_words, (row['b'], row['a']))
    words = f'{row["setting"].rpartition(".")[2]} {b} - {a}:'
  return f'{words} {row["where"]}'.strip()


def _p(value):
  return '< 0.001' if value < 0.001 else _number(value, '.3f')


def of_arms(trials: pd.DataFrame) -> Table:
  """The best setting of each arm of the searches by one metric."""
  metric, varied, rows = measures.metrics_of(trials)[0], _varied(trials), []
  for (group, _), arm in trials.groupby(['group', 'method'], sort=False):
    (best,) = arm[arm['best']].to_dict('records') or ({'y': float('nan')},)
    rows.append(
      [
        group,
        str(len(arm)),
        metric.number(arm['y'].median()),
        metric.number(best['y']),
        *(results.value_words(best.get(name, '-')) for name in varied),
      ]
    )
  validation = f'Validation\n{metric.words}{_unit(metric)},'
  return ['Arm', 'Trials', f'{validation}\nmedian', f'{validation}\nchosen', *varied], rows


def of_trials(trials: pd.DataFrame) -> Table:
  """Each trial of the searches by one metric."""
  metric, varied = measures.metrics_of(trials)[0], _varied(trials)
  header = ['Trial', 'Arm', *varied, 'Epochs', f'Validation {metric.words}{_unit(metric)}']
  return header, [
    [
      row['id'],
      row['group'],
      *(results.value_words(row[name]) for name in varied),
      str(row['epochs']),
      metric.number(row['y'], 1),
    ]
    for row in trials.to_dict('records')
  ]


def _varied(trials):
  return [
    name
    for name in results.settings(trials)
    if name != 'model.cell' and trials[name].nunique(dropna=False) > 1
  ]


def of_runs(runs: pd.DataFrame) -> Table:
  """Each run of one task."""
  metrics = measures.metrics_of(runs)
  metric, (best, last) = metrics[0], measures.test_columns(metrics)
  words, unit = metric.words, _unit(metric)
  columns = {'id': ('Run', str), 'seed': ('Seed', str)}
  number = lambda value: metric.number(value, 1)  # noqa: E731
  if runs[best].notna().any():
    columns[best] = f'Test {words}{unit}, best validation', number
    columns['best_epoch'] = 'Best epoch', lambda value: _number(value, '.0f')
    columns[f'best_validation_{metric.name}'] = f'Validation {words} then{unit}', number
    columns[last] = f'Secondary: last epoch{unit}', number
  else:
    columns[last] = f'Test {words}{unit}, last epoch', number
  columns |= {
    f'train_{metric.name}': (f'Train {words}{unit}', number),
    'seconds_per_epoch': ('Seconds an epoch', lambda value: _number(value, '.2f')),
    'seconds': ('Seconds in all', lambda value: _number(value, '.0f')),
  }
  return [title for title, _ in columns.values()], [
    [in_words(row[name]) for name, (_, in_words) in columns.items()]
    for row in runs.to_dict('records')
  ]
