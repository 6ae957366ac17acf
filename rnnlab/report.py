"""Results to a table, figures and one page for people."""

import html
import pathlib
import string
from typing import NamedTuple

import pandas as pd

from rnnlab import results, runlog

PROTOCOL = {
  True: 'Tutorial protocol: validation is the test split, seen at every epoch; only the last '
  'epoch is reported.',
  False: 'Validation is cut from the train split; the test split chose nothing.',
}
ANCHORS = (
  'For scale, on the same official test set: NB-SVM on bigrams, a linear model trained in '
  'minutes, 91.2 to 91.6%; LSTM from random initialisation 86.5% (Dai and Le 2015); at '
  'length 200, four runs each, LSTM 84.3% and GRU 84.5% (Campos et al. 2018).'
)
NOTES = (
  '± is the standard deviation over seeds (n - 1). Intervals are 95% t intervals of a mean '
  "over seeds, Welch's for differences: they cover the chance of the seed, not that of the "
  'examples that the test split holds, and are not corrected for the number of comparisons. '
  'P(A > B) is the share of pairs of seeds in which A is ahead, ties counted half. Seconds '
  'an epoch are the median over the epochs after the first, which compiles.'
)


class Block(NamedTuple):
  """The runs of one set of data and one protocol, and what is said of them."""

  caption: str
  summary: pd.DataFrame
  pairs: pd.DataFrame
  runs: pd.DataFrame
  anchors: str


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


def write(workdir):
  """Writes summary.csv, runs.csv, summary.md, report.html and figures/*.png into `workdir`.

  Returns `table` of the runs. Raises as `load_runs`.
  """
  from rnnlab import figures

  workdir = pathlib.Path(workdir)
  runs, sweep = results.load_runs(workdir), results.sweep_of(workdir)
  runlog.write_atomic(workdir / 'runs.csv', runs.to_csv(index=False))
  missing = results.missing_runs(workdir, set(runs['id']))
  runs = runs[runs['stage'] == '']
  if runs.empty:
    raise ValueError(f'{workdir}: only trials of a search are done yet, and no run to compare')
  summary, blocks = results.summarise(runs), _blocks(runs)
  runlog.write_atomic(workdir / 'summary.csv', summary.to_csv(index=False))
  labelled = runs.assign(group=results.label(runs))
  metrics = results.metrics_of(workdir, labelled)
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


def _blocks(runs):
  summary, pairs = results.summarise(runs), results.compare(runs)
  pairs['where'] = results.label(pairs.assign(**{'model.cell': ''})).str.strip()
  blocks = []
  for key, part in runs.groupby(results.DATA, sort=False):
    summed, paired = (
      frame[frame[results.DATA].eq(pd.Series(key, results.DATA)).all(axis=1)]
      for frame in (summary, pairs)
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
      Block(f'{caption}\n{PROTOCOL[tutorial]}', summed, paired, part, ANCHORS if official else '')
    )
  return blocks


def _sentences(block):
  """What is to be said of a block's pairs of cells, and beside what to see it."""
  for row in block.pairs.to_dict('records'):
    a, b = results.cell_name(row['a']), results.cell_name(row['b'])
    chance = '' if pd.isna(row['low']) else f', P({b} > {a}) = {row["p_greater"]:.2f}'
    yield (
      f'{row["where"]}{": " if row["where"] else ""}{b} - {a}, test accuracy '
      f'{results.EPOCHS[row["metric"]]}: {_points(row)}{chance}'
      f' ({row["n_b"]} and {row["n_a"]} seeds)'
    )
  if block.anchors:
    yield block.anchors


def _finding(runs):
  """The headline: what can be said of the test accuracy after the last epoch."""
  summary, pairs = results.summarise(runs), results.compare(runs)
  pairs = pairs[pairs['metric'] == 'test_accuracy']
  if len(pairs) == 1:
    row = pairs.iloc[0]
    a, b = results.cell_name(row['a']), results.cell_name(row['b'])
    if pd.isna(row['low']):
      said = f'Too few seeds to tell {b} from {a} by test accuracy'
    elif row['low'] <= 0 <= row['high']:
      said = f'{b} and {a} are not told apart by test accuracy'
    else:
      ahead, behind = (b, a) if row['low'] > 0 else (a, b)
      said = f'{ahead} is ahead of {behind} in test accuracy'
    return f'{said}: {b} - {a} is {_points(row)}.'
  if len(pairs):
    ahead = [
      results.cell_name(row.b if row.low > 0 else row.a)
      for row in pairs.itertuples()
      if row.low > 0 or row.high < 0
    ]
    counts = ', '.join(f'{cell} ahead in {ahead.count(cell)}' for cell in dict.fromkeys(ahead))
    rest = len(pairs) - len(ahead)
    return (
      f'{len(pairs)} comparisons of test accuracy: {counts}{", " if counts else ""}'
      f'{rest} not told apart.'
    )
  low, high = (summary.loc[summary['test_accuracy_mean'].agg(f)] for f in ('idxmin', 'idxmax'))
  said = f'{low["group"]}: {low["test_accuracy_mean"]:.1%} test accuracy after the last epoch'
  return (
    f'{said}.'
    if len(summary) == 1
    else (f'{said}, up to {high["test_accuracy_mean"]:.1%} for {high["group"]}.')
  )


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
  metrics = {
    'test_accuracy': 'Test\naccuracy,\n%, last\nepoch',
    'best_test_accuracy': 'Test\naccuracy,\n%, best\nvalidation',
  }
  if summary['best_test_accuracy_mean'].isna().all():
    del metrics['best_test_accuracy']
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
  return ['Test accuracy, A - B', 'Epoch', 'Points', '95% interval', 'P(A > B)', 'Seeds'], [
    [
      f'{results.cell_name(row["b"])} - {results.cell_name(row["a"])} {row["where"]}'.strip(),
      'last' if row['metric'] == 'test_accuracy' else 'best validation',
      f'{100 * row["difference"]:+z.1f}',
      _interval(row['low'], row['high']),
      '-' if pd.isna(row['low']) else f'{row["p_greater"]:.2f}',
      f'{row["n_b"]}, {row["n_a"]}',
    ]
    for row in pairs.to_dict('records')
  ]


def _run_rows(runs):
  """(header, rows) in words, of each run."""
  columns = {'id': ('Run', str), 'seed': ('Seed', str)}
  percent = lambda value: _number(100 * value, '.2f')  # noqa: E731
  columns['test_accuracy'] = 'Test accuracy, %, last epoch', percent
  if runs['best_test_accuracy'].notna().any():
    columns['best_test_accuracy'] = 'Test accuracy, %, best validation', percent
    columns['best_epoch'] = 'Best epoch', lambda value: _number(value, '.0f')
    columns['validation_accuracy'] = 'Validation accuracy, %', percent
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
  configs = results.flatten(runlog.read_json(workdir / run / 'config.json') for run in runs['id'])
  distinct = lambda values: [str(value) for value in dict.fromkeys(values) if value]  # noqa: E731
  return {
    'Command': distinct([sweep['command'], *runs['command']]),
    'Commit': distinct(runs['commit'].fillna('')) or ['none: the code was not in a git checkout'],
    'Versions': distinct(runs['versions']),
    'Device': distinct(runs['device']),
    'Data': distinct(runs['title'] + ', fingerprint ' + runs['fingerprint'].str[:16]),
    'Finished': distinct([runs['finished'].min(), runs['finished'].max()]),
    'Config': [
      f'{name} = {" | ".join(map(results.value_words, configs[name].dropna().unique()))}'
      for name in configs
    ],
  }


def _markdown(title, finding, blocks, drawings, missing, made_by):
  code = lambda text: f'`{" ".join(text.split()).replace("`", chr(39))}`'  # noqa: E731
  lines = [f'# {title}', '', f'**{finding}**', '']
  for block in blocks:
    header, rows = _group_rows(block.summary, wide=True)
    lines += [*block.caption.splitlines(), '']
    lines += [
      '| ' + ' | '.join(' '.join(cell.split()) for cell in row) + ' |'
      for row in (header, ['---', *['---:'] * (len(header) - 1)], *rows)
    ]
    lines += ['', *(f'- {sentence}' for sentence in _sentences(block)), '']
  lines += [NOTES, '']
  for name, (caption, _) in drawings.items():
    lines += [f'![{caption}](figures/{name}.png)', '']
  if missing:
    lines += [
      '## Runs without a result',
      '',
      *(f'- {code(run)}: {code(error)}' for run, error, _ in missing),
      '',
    ]
  lines += [
    '## Made by',
    '',
    *(
      f'- {name}: {", ".join(map(code, values))}'
      for name, values in made_by.items()
      if name != 'Config'
    ),
  ]
  return '\n'.join(lines) + '\n'


def _page(title, finding, blocks, drawings, missing, made_by):
  """report.html: one file, that loads nothing."""
  escape = html.escape

  def caption(block, lines=None):
    lines = block.caption.splitlines()[:lines]
    return f'<p class="data">{"<br>".join(map(escape, lines))}</p>'

  def grid(header, rows, kind=''):
    head = ''.join(f'<th scope="col">{escape(" ".join(name.split()))}</th>' for name in header)
    body = ''.join(
      f'<tr>{"".join(f"<td>{escape(cell)}</td>" for cell in row)}</tr>\n' for row in rows
    )
    return (
      f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead>\n'
      f'<tbody>{body}</tbody></table></div>'
    )

  data = ''.join(dict.fromkeys(caption(block, 1) for block in blocks))
  tables = ''.join(
    caption(block)
    + grid(*_group_rows(block.summary, wide=True))
    + (grid(*_pair_rows(block.pairs)) if len(block.pairs) else '')
    + f'<p class="notes">{escape(block.anchors)}</p>' * bool(block.anchors)
    for block in blocks
  )
  drawn = ''.join(
    f'<figure><div class="scroll" role="img" aria-label="{escape(text)}">{svg}</div>'
    f'<figcaption>{escape(text)}{data}</figcaption></figure>'
    for text, svg in drawings.values()
  )
  runs = ''.join(caption(block, 1) + grid(*_run_rows(block.runs), 'sortable') for block in blocks)
  failed = ''.join(
    f'<li><code>{escape(run)}</code>: {escape(error)}'
    + (f'<details><summary>Traceback</summary><pre>{escape(trace)}</pre></details>' * bool(trace))
    + '</li>'
    for run, error, trace in missing
  )
  made = ''.join(
    f'<dt>{escape(name)}</dt>' + ''.join(f'<dd>{escape(value)}</dd>' for value in values)
    for name, values in made_by.items()
    if name != 'Config'
  )
  template = pathlib.Path(__file__).with_name('report.html').read_text('utf-8')
  return string.Template(template).substitute(
    title=escape(title),
    finding=escape(finding),
    results=tables,
    figures=drawn,
    runs=runs,
    notes=escape(NOTES),
    made=made,
    config=escape('\n'.join(made_by['Config'])),
    failed=f'<section><h2>Runs without a result</h2><ul>{failed}</ul></section>' * bool(missing),
  )
