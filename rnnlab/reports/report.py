"""Results to a table, figures and one page for people."""

import html
import math
import os
import pathlib
import re
import string
import urllib.parse
from typing import NamedTuple

import numpy as np
import pandas as pd

from rnnlab import results
from rnnlab.machine import disk
from rnnlab.reports import captions
from rnnlab.results import statistics
from rnnlab.runs import folder as run_files

PROTOCOL = {
  True: 'Tutorial protocol: validation is the test split, seen at every epoch; only the last '
  'epoch is reported.',
  False: 'Validation is cut from the train split; the test split chose nothing. The primary metric '
  'is test accuracy at the epoch of best validation accuracy; after the last epoch it is '
  'secondary.',
}
ANCHORS = (
  'For scale, on the same official test set: NB-SVM on bigrams, a linear model trained in '
  'minutes, 91.2 to 91.6%; LSTM from random initialisation 86.5% (Dai and Le 2015); at '
  'length 200, four runs each, LSTM 84.3% and GRU 84.5% (Campos et al. 2018).'
)
NOTES = (
  '± is the standard deviation over seeds (n - 1). Intervals are 95% t intervals of a mean over '
  "seeds, Welch's for differences: they cover the chance of the seed, not that of the examples "
  'that the test split holds; those over seeds and examples cover both, by a two-way bootstrap. '
  'Headlines and p-values are of the primary metric alone, which the protocol settles before any '
  'run. '
  'P(A > B) is the share of pairs of seeds in which A is ahead, ties counted half. p is of '
  "Welch's test, and Holm's p is corrected for all comparisons of the same setting, as of "
  'cells. Seeds needed: of each group, to tell a difference as large in four '
  'of five tries. Seconds an epoch are the median over the epochs after the first, which '
  'compiles; of runs that trained together as a population, the share of each.'
)
SEARCH = (
  'Each arm was given the same trials; what was best by validation accuracy was run again with '
  'fresh seeds, and those runs alone are compared above, where what was searched is called tuned. '
  'Accuracies here are the best of the epochs that a trial was given.'
)
OF_SEARCH = 'search_response', 'expected_maximum'  # the figures
VERDICTS = 'supported', 'refuted', 'undecided'
MAX_SAID = 12  # a log of more comparisons than this has none
MAX_LISTED = 120  # nor have Markdown and LaTeX, of more than this
TEX = {letter: f'\\{letter}' for letter in '&%$#_{}'} | {
  '\\': r'\textbackslash{}',
  '~': r'\textasciitilde{}',
  '^': r'\textasciicircum{}',
  '±': r'$\pm$',
  '<': '$<$',
  '>': '$>$',
  '|': '$|$',
  '-': '-{}',  # no ligature of two
}


class Drawing(NamedTuple):
  """A figure: how to read it, what it shows where it is not seen, and its picture for the page."""

  name: str
  caption: str
  alternative: str
  svg: str


class Block(NamedTuple):
  """The runs of one set of data and one protocol, and what is said of them.

  pairs: rows of results.compare, of two cells; others: of two values of another setting.
  """

  caption: str
  summary: pd.DataFrame
  pairs: pd.DataFrame
  others: pd.DataFrame
  runs: pd.DataFrame
  anchors: str


class Report(NamedTuple):
  """All that a report says, before it is set as a page, as Markdown, as LaTeX or in a terminal.

  summary, comparisons: the rows of summary.csv and comparisons.csv. claims: of results.claims.
  trials: of the search, as `_trials` gives them. drawings: the figures.
  missing: as results.missing_runs gives it. made_by: what made the numbers, as name -> lines.
  """

  title: str
  finding: str
  summary: pd.DataFrame
  comparisons: pd.DataFrame
  claims: pd.DataFrame
  blocks: list[Block]
  trials: pd.DataFrame
  drawings: list[Drawing]
  missing: list[tuple[str, str, str]]
  made_by: dict[str, list[str]]

  def __rich__(self):
    return _table(self.blocks, self.claims)


def table(runs):
  """What the runs found, as a rich renderable that also reads well in a log 100 columns wide."""
  return _table(
    _blocks(runs, results.summarise(runs), results.compare(runs)), pd.DataFrame({'sentence': []})
  )


def write(workdir):
  """Writes the tables *.csv, summary.md, summary.tex, report.html and figures/*.png.

  Runs of a search take no part in the tables and figures of the comparison. Returns the Report, of
  which Rich shows `table` of the others, under the verdicts of the sweep's claims. Raises as
  `load_runs`.
  """
  workdir = pathlib.Path(workdir)
  every, sweep = results.load_runs(workdir), results.legible(results.sweep_of(workdir))
  searched = {run['id'] for run in sweep['runs'] if run.get('stage') == 'search'}
  runs, trials = every[~every['id'].isin(searched)], _trials(sweep)
  claims = results.claims(workdir, runs)
  runs = _tuned(runs, sweep)
  summary = results.summarise(runs)
  pairs = results.compare(runs, workdir, over=results.settings(runs))
  # Cells are what is asked about: comparisons of other settings should not weaken theirs.
  families = pairs.groupby(['primary', 'setting'])
  pairs['p_holm'] = families['p'].transform(statistics.holm)
  blocks = _blocks(runs, summary, pairs)
  disk.write_atomic(workdir / 'runs.csv', every.to_csv(index=False))
  disk.write_atomic(workdir / 'summary.csv', summary.to_csv(index=False))
  disk.write_atomic(workdir / 'comparisons.csv', pairs.to_csv(index=False))
  note = '\n'.join(block.caption for block in blocks)
  missing = results.legible(results.missing_runs(workdir, set(every['id'])))
  name = sweep['experiment'] or results.legible(workdir.name)
  name = ':'.join(filter(None, (name, sweep['preset'])))
  told = Report(
    f'{name}, {len(every)} of {len(every) + len(missing)} runs',
    _finding(summary, pairs, claims, sweep['claims_after']),
    summary,
    pairs,
    claims,
    blocks,
    trials,
    list(_draw(workdir, runs, summary, pairs, trials, note)),
    missing,
    _made_by(workdir, every, sweep),
  )
  disk.write_atomic(workdir / 'summary.md', _markdown(told))
  disk.write_atomic(workdir / 'summary.tex', _latex(told))
  disk.write_atomic(workdir / 'report.html', _page(told, workdir))
  return told


def record(told: Report | None) -> dict[str, str | list[dict]]:
  """A report's finding, and the rows of its summary, comparisons and claims, as JSON holds them.

  Without a report they are empty. What is not a number, or not finite, is None.
  """
  names = 'summary', 'comparisons', 'claims'
  tables = {name: _records(getattr(told, name)) if told else [] for name in names}
  return {'finding': told.finding if told else ''} | tables


def _records(frame):
  def value_of(value):
    return None if isinstance(value, float) and not math.isfinite(value) else value

  return [{k: value_of(v) for k, v in row.items()} for row in frame.to_dict('records')]


def _table(blocks, claims):
  from rich import box
  from rich.console import Group
  from rich.table import Table
  from rich.text import Text

  parts = [Text(sentence) for sentence in claims['sentence']]
  parts += [Text('')] * bool(parts)
  for block in blocks:
    header, rows = _group_rows(block.summary)
    # Bare, so that a short label's row is on one line of a terminal 80 columns wide.
    grid = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    words = ' '.join(row[0] for row in rows).split()
    for i, name in enumerate(header):
      grid.add_column(
        name,
        justify='right' if i else 'left',
        vertical='bottom',
        min_width=0 if i else max(map(len, words)),
      )
    for row in rows:
      grid.add_row(*map(Text, row))
    parts += [Text(block.caption + '\n'), grid, Text(''), *map(Text, _sentences(block)), Text('')]
  return Group(*parts[:-1])


def _trials(sweep):
  """A row a trial of the sweep's searches, as in sweep.json, with `y`, its validation accuracy.

  Columns: id, group (its arm, in words), settings, seed, epochs, y, best (is it the arm's), method.
  """
  overrides = {run['id']: run['overrides'] for run in sweep['runs']}
  rows = [
    overrides[trial['id']]
    | {'id': trial['id'], 'group': _arm(arm), 'method': search['method']}
    | {'epochs': trial['epochs'], 'y': trial['validation_accuracy']}
    | {'best': trial['id'] == arm['best']}
    for search in sweep.get('searches', ())
    for arm in search['arms']
    for trial in arm['trials']
  ]
  trials = results.flatten(rows) if rows else pd.DataFrame(columns=['id', 'model.cell', 'y'])
  return trials.astype({'y': float}).assign(validation_is_test=False)


def _arm(arm):
  return ' '.join(
    results.cell_name(value)
    if name == 'model.cell'
    else f'{name.rpartition(".")[2]}={results.value_words(value)}'
    for name, value in arm['overrides'].items()
  )


def _tuned(runs, sweep):
  """`runs`, where what a search chose is 'tuned': each arm is compared at its own best setting."""
  for number, search in enumerate(sweep.get('searches', ()), 1):
    chosen = runs['id'].isin([run for arm in search['arms'] for run in arm['runs']])
    words = 'tuned' if number == 1 else f'tuned {number}'
    for name in search['ranges']:
      if name in runs and chosen.any():
        runs = runs.assign(**{name: runs[name].astype(object).mask(chosen, words)})
  return runs


def _draw(workdir, runs, summary, pairs, trials, note):
  """Writes each figure that there is something for; yields its Drawing."""
  from rnnlab.reports import figures

  def draw(name, *frames, note=note, **shown):
    caption = captions.caption(name, runs, **shown)
    png, svg = figures.render(getattr(figures, name), *frames, note=f'{caption}\n{note}')
    disk.write_atomic(workdir / 'figures' / f'{name}.png', png)
    return Drawing(name, caption, captions.alternative(name, *frames), svg)

  def some(most):
    shown = figures.select(summary, most)
    return shown, {'shown': len(shown), 'of': len(summary)}

  if len(runs):
    labelled = runs.assign(group=results.label(runs))
    shown, counts = some(figures.MAX_ROWS)
    yield draw('test_accuracy', labelled, shown, **counts)
    if len(paired := _paired(runs, pairs[_of_cells(pairs)])):
      best = paired.groupby('pair')['validation'].mean().nlargest(figures.MAX_PAIRS).index
      yield draw(
        'paired_seeds',
        pairs.assign(where=_where(pairs), pair=pairs.index).loc[best.sort_values()],
        paired,
        shown=len(best),
        of=paired['pair'].nunique(),
        what='pairs',
      )
    if len(summary) > 1:
      yield draw('frontier', summary)
    shown, counts = some(figures.MAX_PANELS)
    metrics = results.metrics_of(workdir, labelled[labelled['group'].isin(shown['group'])])
    if len(metrics):
      yield draw('learning_curves', metrics, **counts)
      yield draw('accuracy_vs_time', metrics, **counts)
    answered = runs.assign(y=runs['best_validation_accuracy'].fillna(runs['validation_accuracy']))
    answered = answered.dropna(subset='y')
    if results.many_valued(answered):
      yield draw('response', answered)
  trials = trials.dropna(subset='y')
  if results.many_valued(trials):
    yield draw('search_response', trials, note='')
  if len(trials):
    # Where a trial depends on those before it, there is no such expectation.
    independent = trials[trials['method'] != 'optuna']
    if len(independent) > independent['group'].nunique():
      yield draw('expected_maximum', independent, note='')


def _paired(runs, pairs):
  """Runs of two cells that share seed, data and settings: a row for two, with its row of `pairs`.

  pair: the index in `pairs`; x and y: the primary metric of a and b; validation: the mean of the
  validation accuracies at the same epoch.
  """
  validation = runs['validation_accuracy'].where(
    runs['validation_is_test'].astype(bool), runs['best_validation_accuracy']
  )
  shared = [*results.DATA, *(name for name in results.settings(runs) if name != 'model.cell')]
  side = runs[[*shared, 'seed', 'model.cell']].assign(
    value=results.primary(runs), validation=validation
  )
  paired = (
    pairs.loc[pairs['primary'], [*shared, 'a', 'b']]
    .rename_axis('pair')
    .reset_index()
    .merge(side.rename(columns={'model.cell': 'a', 'value': 'x'}), on=[*shared, 'a'])
    .merge(side.rename(columns={'model.cell': 'b', 'value': 'y'}), on=[*shared, 'seed', 'b'])
    .dropna(subset=['x', 'y'])
  )
  return paired.assign(validation=(paired['validation_x'] + paired['validation_y']) / 2)


def _blocks(runs, summary, pairs):
  blocks = []
  pairs = pairs.assign(where=_where(pairs))
  for key, part in runs.groupby(results.DATA, sort=False):
    summed, paired, others = (
      frame[frame[results.DATA].eq(pd.Series(key, results.DATA)).all(axis=1)]
      for frame in (summary, pairs[_of_cells(pairs)], pairs[~_of_cells(pairs)])
    )
    source, title, tutorial = key
    caption = f'Data: {title}'
    sizes = part[[f'{split}_examples' for split in ('train', 'validation', 'test')]]
    if len(sizes.drop_duplicates()) == 1:
      train, validation, test = sizes.iloc[0]
      middle = '' if tutorial else f', {validation:,} validation'
      caption += f'\n{train:,} train{middle} and {test:,} test examples'
    official = (
      title.startswith('IMDB') and source != 'package' and (sizes['test_examples'] == 25_000).all()
    )
    blocks.append(
      Block(
        f'{caption}\n{PROTOCOL[tutorial]}',
        summed,
        paired,
        others,
        part,
        ANCHORS if official else '',
      )
    )
  return blocks


def _of_cells(pairs):
  return pairs['setting'] == 'model.cell'


def _where(pairs):
  """The settings that a pair shares, in words."""
  return results.label(pairs).str.strip()


def _sentences(block):
  """What is to be said of a block's pairs of cells, and beside what to see it."""
  pairs = block.pairs
  if len(pairs) > MAX_SAID:
    yield f'{len(pairs)} comparisons of cells: see report.html.'
    pairs = pairs[:0]
  for row in pairs.sort_values('primary', ascending=False, kind='stable').to_dict('records'):
    a, b = results.cell_name(row['a']), results.cell_name(row['b'])
    chance = '' if pd.isna(row['low']) else f', P({b} > {a}) = {row["p_greater"]:.2f}'
    where = ', '.join(filter(None, ['' if row['primary'] else 'secondary', row['where']]))
    yield (
      f'{where}{": " if where else ""}{b} - {a}, test accuracy '
      f'{results.EPOCHS[row["metric"]]}: {_points(row)}{chance}'
      f' ({row["n_b"]} and {row["n_a"]} seeds)'
    )
  if block.anchors:
    yield block.anchors


def _finding(summary, pairs, claims, after=0):
  """The headline: how the claims fell, or what the primary metric says."""
  if len(claims) == 1:
    return claims.iloc[0]['sentence']
  if len(claims):
    counts = claims['verdict'].value_counts()
    words = ', '.join(f'{counts[v]} {v}' for v in VERDICTS if v in counts)
    late = f' They were written down after {after} runs were done.' if after else ''
    return f'{len(claims)} claims: {words}.{late}'
  if summary.empty:
    return 'No run of the comparison is finished.'
  accuracy = f'test accuracy {results.epoch_words(summary)}'.strip()
  pairs = pairs[_of_cells(pairs) & pairs['primary']]
  if len(pairs) == 1:
    row = pairs.iloc[0]
    a, b = results.cell_name(row['a']), results.cell_name(row['b'])
    ahead = _ahead(row)
    if ahead:
      said = f'{ahead} is ahead of {a if ahead == b else b} in {accuracy}'
    elif pd.notna(row['low']):
      said = f'{b} and {a} are not told apart by {accuracy}'
    elif min(row['n_a'], row['n_b']) < 2:
      said = f'Too few seeds to tell {b} from {a} by {accuracy}'
    else:
      said = f'{b} cannot be tested against {a} by {accuracy}, which no seed changes'
    return f'{said}: {b} - {a} is {_points(row)}.'
  if len(pairs):
    ahead = list(filter(None, (_ahead(row) for row in pairs.to_dict('records'))))
    counts = ', '.join(f'{cell} ahead in {ahead.count(cell)}' for cell in dict.fromkeys(ahead))
    return (
      f'{len(pairs)} comparisons of {accuracy}: {counts}{", " if counts else ""}'
      f'{len(pairs) - len(ahead)} not told apart, where p is corrected for all of them.'
    )
  means = results.primary(summary, 'mean').dropna()
  if means.empty:
    return f'No run has a finite {accuracy}.'
  low, high = means.idxmin(), means.idxmax()
  said = f'{summary["group"][low]}: {means[low]:.1%} {accuracy}'
  if len(means) == 1:
    return f'{said}.'
  return f'{said}, up to {means[high]:.1%} for {summary["group"][high]}.'


def _ahead(row):
  """The cell that is ahead by a comparison's test, corrected for the others; nothing for none."""
  if not row['p_holm'] < 0.05:
    return ''
  return results.cell_name(row['b'] if row['difference'] > 0 else row['a'])


def _points(row):
  interval = _interval(row['low'], row['high'])
  return f'{100 * row["difference"]:+z.1f} points, ' + (
    'no interval' if interval == '-' else f'95% interval {interval}'
  )


def _interval(low, high):
  return '-' if pd.isna(low) else f'[{100 * low:z.1f}, {100 * high:z.1f}]'


def _number(value, form='.1f'):
  return '-' if pd.isna(value) else format(value, form)


def _group_rows(summary, wide=False):
  """(header, rows) in words; `wide` has what does not fit a log."""
  metrics = {'test_accuracy': 'Test\naccuracy,\n%, last\nepoch'}
  if summary['best_test_accuracy_mean'].notna().any():
    metrics = {
      'best_test_accuracy': 'Test\naccuracy,\n%, best\nvalidation',
      'test_accuracy': 'Secondary:\nlast\nepoch, %',
    }
  header = [
    'Group',
    'Runs',
    *(name for title in metrics.values() for name in (title, '95% interval')),
    'Parameters',
    *['Recurrent\nparameters', 'Train\naccuracy, %'] * wide,
    'Seconds\nan epoch',
  ]
  rows = []
  for row in summary.to_dict('records'):
    cells = [row['group'], str(row['runs'])]
    for metric in metrics:
      mean, std = (_number(100 * row[f'{metric}_{part}']) for part in ('mean', 'std'))
      cells += [
        mean if std == '-' else f'{mean} ± {std}',
        _interval(row[f'{metric}_low'], row[f'{metric}_high']),
      ]
    cells.append(f'{row["parameters"]:,}')
    if wide:
      cells += [f'{row["recurrent_parameters"]:,}', _number(100 * row['train_accuracy_mean'])]
    rows.append([*cells, _number(row['seconds_per_epoch'], '.2f')])
  return header, rows


def _pair_rows(pairs):
  """(header, rows) in words, of the comparisons."""
  rows = [
    {
      'Test accuracy,\nA - B': _pair(row),
      'Epoch': ('last' if row['metric'] == 'test_accuracy' else 'best')
      + ', secondary' * (not row['primary']),
      'Points': f'{100 * row["difference"]:+z.1f}',
      '95% interval,\nseeds': _interval(row['low'], row['high']),
      '95% interval,\nseeds and\nexamples': _interval(row['items_low'], row['items_high']),
      'P(A > B)': '-' if pd.isna(row['low']) else f'{row["p_greater"]:.2f}',
      '95% interval\nof P(A > B)': '-'
      if pd.isna(row['p_greater_low'])
      else f'[{row["p_greater_low"]:.2f}, {row["p_greater_high"]:.2f}]',
      'p': _p(row['p']) if row['primary'] else '-',
      'p, Holm': _p(row['p_holm']) if row['primary'] else '-',
      'Seeds': f'{row["n_b"]}, {row["n_a"]}',
      'Seeds\nneeded': '> 1,000'
      if row['seeds_needed'] > 1000
      else _number(row['seeds_needed'], '.0f'),
    }
    for row in pairs.to_dict('records')
  ]
  header = [name for name in rows[0] if any(row[name] != '-' for row in rows)]
  return header, [[row[name] for name in header] for row in rows]


def _pair(row):
  if row['setting'] == 'model.cell':
    words = f'{results.cell_name(row["b"])} - {results.cell_name(row["a"])}'
  else:
    b, a = map(results.value_words, (row['b'], row['a']))
    words = f'{row["setting"].rpartition(".")[2]} {b} - {a}:'
  return f'{words} {row["where"]}'.strip()


def _p(value):
  return '< 0.001' if value < 0.001 else _number(value, '.3f')


def _arm_rows(trials):
  """(header, rows) in words, of the search: the best setting of each arm."""
  varied = _varied(trials)
  rows = []
  for (group, _), arm in trials.groupby(['group', 'method'], sort=False):
    (best,) = arm[arm['best']].to_dict('records') or ({'y': np.nan},)
    rows.append(
      [
        group,
        str(len(arm)),
        _number(100 * arm['y'].median()),
        _number(100 * best['y']),
        *(results.value_words(best.get(name, '-')) for name in varied),
      ]
    )
  accuracy = 'Validation\naccuracy, %,'
  return ['Arm', 'Trials', f'{accuracy}\nmedian', f'{accuracy}\nchosen', *varied], rows


def _trial_rows(trials):
  """(header, rows) in words, of each trial of the search."""
  varied = _varied(trials)
  return ['Trial', 'Arm', *varied, 'Epochs', 'Validation accuracy, %'], [
    [
      row['id'],
      row['group'],
      *(results.value_words(row[name]) for name in varied),
      str(row['epochs']),
      _number(100 * row['y'], '.2f'),
    ]
    for row in trials.to_dict('records')
  ]


def _varied(trials):
  return [
    name
    for name in results.settings(trials)
    if name != 'model.cell' and trials[name].nunique(dropna=False) > 1
  ]


def _run_rows(runs):
  """(header, rows) in words, of each run."""
  columns = {'id': ('Run', str), 'seed': ('Seed', str)}
  percent = lambda value: _number(100 * value, '.2f')  # noqa: E731
  if runs['best_test_accuracy'].notna().any():
    columns['best_test_accuracy'] = 'Test accuracy, %, best validation', percent
    columns['best_epoch'] = 'Best epoch', lambda value: _number(value, '.0f')
    columns['best_validation_accuracy'] = 'Validation accuracy then, %', percent
    columns['test_accuracy'] = 'Secondary: last epoch, %', percent
  else:
    columns['test_accuracy'] = 'Test accuracy, %, last epoch', percent
  columns |= {
    'train_accuracy': ('Train accuracy, %', percent),
    'seconds_per_epoch': ('Seconds an epoch', lambda value: _number(value, '.2f')),
    'seconds': ('Seconds in all', lambda value: _number(value, '.0f')),
  }
  return [title for title, _ in columns.values()], [
    [words(row[name]) for name, (_, words) in columns.items()] for row in runs.to_dict('records')
  ]


def _made_by(workdir, runs, sweep):
  """What made the numbers, as name -> lines."""
  configs = results.flatten(run_files.read_config(workdir / run) for run in runs['id'])
  distinct = lambda values: [str(value) for value in dict.fromkeys(values) if value]  # noqa: E731
  return {
    'Command': distinct([sweep['command'], *runs['command']]),
    'Commit': distinct(runs['commit'].fillna('')) or ['none: the code was not in a git checkout'],
    'Versions': distinct(runs['versions']),
    'Device of each run': distinct(runs['device']),
    'Data': distinct(
      f'{title}, fingerprint {str(fingerprint)[:16]}'
      for title, fingerprint in zip(runs['title'], runs['fingerprint'], strict=True)
    ),
    'Finished': distinct([runs['finished'].min(), runs['finished'].max()]),
    'Config': [f'{name} = {_values(configs[name].dropna())}' for name in configs],
    'Again': _again(runs),
  }


def _values(column):
  values = column.unique()
  words = list(map(results.value_words, values))
  if len(values) <= 12:
    return ' | '.join(words)
  if pd.api.types.is_numeric_dtype(column):
    return f'{len(values)} values from {min(values):g} to {max(values):g}'
  return ' | '.join([*words[:11], f'{len(values) - 11} more'])


def _again(runs):
  """The commands that make the numbers again, once for each commit and set of versions."""
  lines = []
  made = runs.assign(commit=runs['commit'].fillna(''), command=runs['command'].fillna(''))
  for (commit, versions), part in made.groupby(['commit', 'versions'], sort=False):
    python, *packages = (name.replace(' ', '==') for name in versions.split(', '))
    lines.append(f'# {len(part)} runs, with {python.replace("==", " ")}')
    if commit:
      clean = commit.removesuffix('-dirty')
      lines.append(f'git checkout {clean}' + '  # files differed from it' * (clean != commit))
    lines.append(f'python -m pip install {" ".join(packages)}')
    lines += filter(None, part['command'].unique())
  return lines


def _markdown(told):
  code = lambda text: f'`{" ".join(text.split()).replace("`", chr(39))}`'  # noqa: E731

  def grid(header, rows):
    yield f'| {" | ".join(map(_md, header))} |'
    yield f'| {" | ".join(["---", *["---:"] * (len(header) - 1)])} |'
    yield from (f'| {" | ".join(map(_md, row))} |' for row in rows)
    yield ''

  def drawn(search):
    for drawing in told.drawings:
      if (drawing.name in OF_SEARCH) == search:
        yield from (f'![{_md(drawing.alternative)}](figures/{drawing.name}.png)', '')
        yield from (f'*{_md(drawing.caption)}*', '')

  lines = [f'# {_md(told.title)}', '', f'**{_md(told.finding)}**', '']
  if len(told.claims):
    lines += ['## Claims', '', *(f'- {_md(sentence)}' for sentence in told.claims['sentence']), '']
  for block in told.blocks:
    lines += [
      *map(_md, block.caption.splitlines()),
      '',
      *grid(*_group_rows(block.summary, wide=True)),
    ]
    for pairs in (block.pairs, block.others):
      if 0 < len(pairs) <= MAX_LISTED:
        lines += grid(*_pair_rows(pairs))
      elif len(pairs):
        lines += [f'{len(pairs)} comparisons are in report.html and comparisons.csv.', '']
    lines += [_md(block.anchors), ''] * bool(block.anchors)
  lines += [_md(NOTES), '', *drawn(search=False)]
  if len(told.trials):
    lines += ['## Search', '', SEARCH, '', *grid(*_arm_rows(told.trials)), *drawn(search=True)]
  if told.missing:
    lines += [
      '## Runs without a result',
      '',
      *(f'- {code(run)}: {code(error)}' for run, error, _ in told.missing),
      '',
    ]
  lines += [
    '## Made by',
    '',
    *(
      f'- {name}: {", ".join(map(code, values))}'
      for name, values in told.made_by.items()
      if name not in ('Config', 'Again')
    ),
    '',
    '```',
    *told.made_by['Again'],
    '```',
  ]
  return '\n'.join(lines) + '\n'


def _md(text):
  """A line of Markdown that reads as `text`: what would be mark-up, or HTML, is escaped."""
  text = ' '.join(text.split())
  text = re.sub(r'[\\`*|~$]|\](?=[(:\[])|<(?=[\w/!?])|&(?=#?\w+;)', r'\\\g<0>', text)
  text = re.sub(r'(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])', r'\\_', text)
  return re.sub(r'^([#+-]+|\d+[.)])(?=\s)', r'\\\1', text)


def _latex(told):
  """summary.tex: a document that compiles on its own, from which tables can be taken."""

  def grid(header, rows):
    head = ' & '.join(
      rf'\shortstack[{"r" if i else "l"}]{{{_tex(name)}}}' for i, name in enumerate(header)
    ).replace('\n', r'\\')
    yield r'\begin{longtable}{>{\raggedright}p{5cm}' + 'r' * (len(header) - 1) + '}'
    yield from (r'\toprule', rf'{head} \\', r'\midrule', r'\endhead')
    yield from (' & '.join(map(_tex, row)) + r' \\' for row in rows)
    yield from (r'\bottomrule', r'\end{longtable}', '')

  def drawn(search):
    size = r'width=\linewidth,height=.95\textheight,keepaspectratio'
    for drawing in told.drawings:  # the caption is part of the picture
      if (drawing.name in OF_SEARCH) == search:
        picture = rf'\includegraphics[{size}]{{figures/{drawing.name}.png}}'
        yield rf'\begin{{figure}}[p]{picture}\end{{figure}}'

  def itemize(items):
    return [r'\begin{itemize}', *(rf'\item {item}' for item in items), r'\end{itemize}', '']

  lines = [
    r'\documentclass{article}',
    r'\usepackage[landscape,margin=1.5cm]{geometry}',
    r'\usepackage{array,booktabs,graphicx,longtable}',
    r'\setlength{\tabcolsep}{4pt}',
    r'\setlength{\emergencystretch}{3em}',
    r'\begin{document}',
    r'\small',
    rf'\section*{{{_tex(told.title)}}}',
    rf'\textbf{{{_tex(told.finding)}}}',
    '',
  ]
  if len(told.claims):
    lines += [r'\section*{Claims}', *itemize(map(_tex, told.claims['sentence']))]
  for block in told.blocks:
    lines += [_tex(block.caption).replace('\n', r'\\' + '\n'), '']
    lines += grid(*_group_rows(block.summary, wide=True))
    for pairs in (block.pairs, block.others):
      if 0 < len(pairs) <= MAX_LISTED:
        lines += grid(*_pair_rows(pairs))
      elif len(pairs):
        lines += [f'{len(pairs)} comparisons are in report.html and comparisons.csv.', '']
    lines += [_tex(block.anchors), '']
  lines += [_tex(NOTES), '', *drawn(search=False)]
  if len(told.trials):
    lines += [r'\section*{Search}', SEARCH, '', *grid(*_arm_rows(told.trials)), *drawn(search=True)]
  lines += [r'\clearpage', r'\section*{Made by}']
  lines += itemize(
    rf'{name}: \texttt{{{_tex(value)}}}'
    for name, values in told.made_by.items()
    if name not in ('Config', 'Again')
    for value in values
  )
  return '\n'.join([*lines, r'\end{document}']) + '\n'


def _tex(text):
  return ''.join(TEX.get(letter, letter) for letter in text)


def _page(told, workdir):
  """report.html: one file, that loads nothing."""
  escape = html.escape

  def caption(block, lines=None):
    lines = block.caption.splitlines()[:lines]
    return f'<p class="data">{"<br>".join(map(escape, lines))}</p>'

  def grid(header, rows, kind=''):
    head = ''.join(f'<th scope="col">{escape(" ".join(name.split()))}</th>' for name in header)
    body = ''.join(f'<tr>{"".join(f"<td>{cell}</td>" for cell in row)}</tr>\n' for row in rows)
    return (
      f'<div class="scroll{" tall" * (len(rows) > 30)}" tabindex="0">'
      f'<table class="sortable {kind}"><thead><tr>{head}</tr></thead>\n'
      f'<tbody>{body}</tbody></table></div>'
    )

  def words(header, rows):
    return header, [list(map(escape, row)) for row in rows]

  def of_runs(header, rows):
    """A table of runs, whose first column is the id, with links to their files."""
    rows = [[*map(escape, row), _links(workdir, row[0])] for row in rows]
    return grid([*header, 'Files'], rows, 'runs')

  data = ''.join(dict.fromkeys(caption(block, 1) for block in told.blocks))

  def others(pairs):
    return (
      f'<details><summary>{len(pairs)} comparisons of other settings</summary>'
      f'{grid(*words(*_pair_rows(pairs)))}</details>'
      if len(pairs)
      else ''
    )

  def drawn(search):
    return ''.join(
      f'<figure><div class="scroll" tabindex="0"><div role="img" '
      f'aria-label="{escape(drawing.alternative)}">{drawing.svg}</div></div>'
      f'<figcaption>{escape(drawing.caption)}{data * (not search)}</figcaption></figure>'
      for drawing in told.drawings
      if (drawing.name in OF_SEARCH) == search
    )

  claims = ''.join(
    f'<li><span class="verdict {escape(row.verdict)}">{escape(row.verdict)}</span> '
    f'{escape(row.sentence)}</li>\n'
    for row in told.claims.itertuples()
  )
  tables = ''.join(
    caption(block)
    + grid(*words(*_group_rows(block.summary, wide=True)))
    + (grid(*words(*_pair_rows(block.pairs))) if len(block.pairs) else '')
    + others(block.others)
    + f'<p class="notes">{escape(block.anchors)}</p>' * bool(block.anchors)
    for block in told.blocks
  )
  search = ''
  if len(told.trials):
    search = (
      f'<section><h2>Search</h2><p class="notes">{escape(SEARCH)}</p>'
      f'{grid(*words(*_arm_rows(told.trials)))}{drawn(search=True)}'
      f'<details><summary>All {len(told.trials)} trials</summary>'
      f'{of_runs(*_trial_rows(told.trials))}</details></section>'
    )
  runs = ''.join(caption(block, 1) + of_runs(*_run_rows(block.runs)) for block in told.blocks)
  failed = ''.join(
    f'<li><code>{escape(run)}</code>: {escape(error)}'
    + (f'<details><summary>Traceback</summary><pre>{escape(trace)}</pre></details>' * bool(trace))
    + '</li>'
    for run, error, trace in told.missing
  )
  made = ''.join(
    f'<dt>{escape(name)}</dt>' + ''.join(f'<dd>{escape(value)}</dd>' for value in values)
    for name, values in told.made_by.items()
    if name not in ('Config', 'Again')
  )
  template = pathlib.Path(__file__).with_name('report.html').read_text('utf-8')
  return string.Template(template).substitute(
    title=escape(told.title),
    finding=escape(told.finding),
    claims=f'<section><h2>Claims</h2><ul class="claims">{claims}</ul></section>' * bool(claims),
    results=tables,
    figures=drawn(search=False),
    search=search,
    runs=runs,
    notes=escape(NOTES),
    made=made,
    again=escape('\n'.join(told.made_by['Again'])),
    config=escape('\n'.join(told.made_by['Config'])),
    failed=f'<section><h2>Runs without a result</h2><ul>{failed}</ul></section>' * bool(failed),
  )


def _links(workdir, run):
  names = run_files.RESULT, run_files.METRICS, run_files.CONFIG
  files = (pathlib.Path(run) / name for name in names)
  return ' '.join(
    f'<a href="{urllib.parse.quote(os.fsencode(path))}">{path.stem}</a>'
    for path in files
    if (workdir / path).exists()
  )
