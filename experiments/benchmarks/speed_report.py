"""The report on the figures of experiments/benchmarks/speed.py: tables, a page, a picture."""

import io
import math

import matplotlib as mpl
import pandas as pd
import rich.table
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from experiments.benchmarks import peers
from rnnlab.machine import disk
from rnnlab.reports import figures

TITLES = {
  'forward': 'A layer, forward',
  'gradient': 'A layer, forward and gradients for parameters and inputs',
  'training': "A training step of the tutorial's classifier",
  'text': 'A training step of a language model',
  'pairs': 'A training step of a translator with attention',
  'greedy': 'Greedy translation of 1,000 sentences',
}
COLOURS = dict(
  zip(
    peers.PEERS,
    (figures.INK, '#d55e00', '#e69f00', '#cc79a7', '#0072b2', '#009e73', '#56b4e9'),
    strict=True,
  )
)
MARKERS = dict(zip(peers.PEERS, '|os^DvP', strict=True))
DISTURBED = 0.8  # of the highest ceiling
LEGEND = (
  'Milliseconds: the median over rounds ± half the interquartile range. Blank: the library does not'
  ' offer this. GFLOP/s: of the matrix products at real steps; in brackets as a share of what one'
  ' large product reaches here.'
)
COLUMNS = (
  "memory_mb: the process's highest resident memory in a call after the first, above what it held"
  ' before the case was prepared: data, parameters, compiled program and what the call needs;'
  ' for a language model, what a tiny one needs is subtracted.'
  ' compile_s: the first call minus a later one. calls: per round. Everything is float32. Padded'
  ' rows are three quarters real. Haiku\'s GRU is the one of reset="before", the others are'
  ' "after". Drawing dropout masks (rate 0.2, on inputs and states) is timed too. The'
  ' layers and tokens of a language model are listed in `TEXTS` in experiments/benchmarks/peers,'
  ' the sizes of a translator in `PAIRS` in its pairs.py. tokens/s: of a translator those of the'
  ' target.'
)


def number(value: float) -> str:
  """Three significant digits, or all digits before the point."""
  return f'{value:.{decimals(value)}f}'


def decimals(value: float) -> int:
  """How many digits after the point make three significant ones."""
  return max(2 - math.floor(math.log10(value)), 0) if value > 0 else 0


def grids(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
  """Title -> the cells of a table as words: a row per case, a column per library."""
  found = {}
  for what, title in TITLES.items():
    of_what = table[table['what'] == what]
    if of_what.empty:
      continue
    names = [name for name in peers.PEERS if name in set(of_what['library'])]
    lines = []
    for _, of_case in of_what.groupby('case', sort=False):
      by_name = of_case.set_index('library')
      line = {'': label(of_case.iloc[0])}
      fastest = by_name['median_ms'].min()
      for name in names:
        line[name] = ''
        if name in by_name.index:
          row = by_name.loc[name]
          median, half = row['median_ms'], (row['q75_ms'] - row['q25_ms']) / 2
          mark = '**' if median == fastest and len(by_name) > 1 else ''
          line[name] = f'{mark}{number(median)}{mark} ± {half:.{decimals(median)}f}'
      if 'rnnlab' in by_name.index:
        row = by_name.loc['rnnlab']
        for name in names if row['tokens_s'] else ():
          known = name in by_name.index
          line[f'{name} tokens/s'] = f'{by_name.loc[name, "tokens_s"]:,.0f}' if known else ''
        line['rnnlab GFLOP/s'] = f'{row["gflops"]:.3g} ({row["share_of_ceiling"]:.0%})'
      lines.append(line)
    found[title] = pd.DataFrame(lines).fillna('')
  return found


def label(row) -> str:
  """A case in words, without what is measured: `LSTM 32x200x128x64, lengths`."""
  words = row['case'].replace(f'{row["cell"]} {row["what"]} ', f'{row["cell"].upper()} ')
  head, *rest = words.split(' ', 2)
  return ' '.join([head, *rest[:1]]) + (f', {rest[1]}' if len(rest) > 1 else '')


def tables(table: pd.DataFrame) -> list[rich.table.Table]:
  """The tables for the terminal."""
  made = []
  for title, grid in grids(table).items():
    shown = rich.table.Table(title=title, title_justify='left', caption_justify='left')
    for column in grid:
      shown.add_column(column, justify='left' if column == '' else 'right')
    for line in grid.itertuples(index=False):
      words = [w.replace('**', '[bold]', 1).replace('**', '[/bold]') for w in line]
      shown.add_row(*words)
    made.append(shown)
  made[-1].caption = LEGEND
  return made


def markdown(grid: pd.DataFrame, left: int = 1) -> str:
  """A table in Markdown, the first `left` columns aligned left, the others right."""
  rule = ['---'] * left + ['---:'] * (grid.shape[1] - left)
  return '\n'.join('| ' + ' | '.join(line) + ' |' for line in (list(grid), rule, *grid.values))


def write(table: pd.DataFrame, about: list[str], out) -> str:
  """Writes summary.md and, if there are peers to compare with, speed.png; returns which."""
  picture = draw(table)
  parts = ['# Speed', '\n'.join(f'- {line}' for line in about), ceiling(table)]
  if picture:
    disk.write_atomic(out / 'speed.png', picture)
    parts += ["![Time as a multiple of rnnlab's](speed.png)"]
  for title, grid in grids(table).items():
    parts += [f'## {title}', markdown(grid)]
  every = table[['library', 'case']].assign(
    **{
      'ms': table['median_ms'].map(number),
      'quartiles': [
        f'{number(a)}-{number(b)}'
        for a, b in zip(*table[['q25_ms', 'q75_ms']].values.T, strict=True)
      ],
      'of rnnlab': table['times_rnnlab'].map('{:.2f}'.format),
      'GFLOP/s': table['gflops'].map('{:.3g}'.format),
      'of ceiling': table['share_of_ceiling'].map('{:.1%}'.format),
      'memory_mb': ['' if pd.isna(x) else f'{x:.0f}' for x in table['memory_mb']],
      'compile_s': table['compile_s'].map('{:.2f}'.format),
    }
  )
  parts += [LEGEND, '## All figures', markdown(every, left=2), COLUMNS]
  disk.write_atomic(out / 'summary.md', '\n\n'.join(parts) + '\n')
  return 'summary.md, speed.png' if picture else 'summary.md'


def ceiling(table):
  """The ceiling and how it moved; the cases during which something else used the machine."""
  by_case = table.groupby('case', sort=False)['ceiling_gflops'].first()
  median, low, high = by_case.median(), by_case.min(), by_case.max()
  words = (
    f'The ceiling, a product of two 2048 x 2048 matrices in JAX in each round: {median:.0f} GFLOP/s'
    f' ({low:.0f} to {high:.0f} over the cases).'
  )
  disturbed = list(by_case.index[by_case < DISTURBED * high])
  if not disturbed:
    return words
  return (
    f'{words} Below {DISTURBED:.0%} of the highest, something else was using the machine, and these'
    f' cases should be measured again: {", ".join(disturbed)}.'
  )


def draw(table: pd.DataFrame) -> bytes | None:
  """Each library's time as a multiple of rnnlab's, a dot per case; None if there is none."""
  compared = table[table['times_rnnlab'].notna()]
  compared = compared[compared.groupby('case')['library'].transform('size') > 1]
  panels = [what for what in TITLES if (compared['what'] == what).any()]
  if not panels:
    return None
  heights = [compared[compared['what'] == what]['case'].nunique() for what in panels]
  with mpl.rc_context(figures.STYLE):
    fig = Figure(figsize=(9, 1.3 + 0.26 * sum(heights) + 0.7 * len(panels)))
    axes = fig.subplots(
      len(panels), sharex=True, squeeze=False, gridspec_kw={'height_ratios': heights}
    )[:, 0]
    for ax, what in zip(axes, panels, strict=True):
      _panel(ax, compared[compared['what'] == what])
      ax.set_title(TITLES[what])
    axes[-1].set_xlabel("Time as a multiple of rnnlab's (left of 1: faster than rnnlab)")
    axes[-1].set_xscale('log', base=2)
    axes[-1].xaxis.set_major_locator(LogLocator(base=2, numticks=20))
    axes[-1].xaxis.set_major_formatter(FuncFormatter(lambda x, _: f'{x:g}'))
    axes[-1].xaxis.set_minor_formatter(NullFormatter())
    handles = {}
    for ax in axes:
      for handle, name in zip(*ax.get_legend_handles_labels(), strict=True):
        handles.setdefault(name, handle)
    names = [name for name in peers.PEERS if name in handles]
    fig.legend(
      [handles[name] for name in names],
      names,
      loc='outside upper left',
      ncols=len(names),
      frameon=False,
      handletextpad=0.2,
      columnspacing=1.2,
    )
    png = io.BytesIO()
    fig.savefig(png, format='png', dpi=150)
  return png.getvalue()


def _panel(ax, rows):
  cases = rows.drop_duplicates('case').reset_index(drop=True)
  at = {case: i for i, case in enumerate(cases['case'])}
  ax.axvline(1, color=figures.INK, linewidth=1.2)
  for name, of_name in rows.groupby('library'):
    if name == 'rnnlab':
      continue
    y = of_name['case'].map(at)
    ours = of_name['median_ms'] / of_name['times_rnnlab']
    ax.hlines(
      y, of_name['q25_ms'] / ours, of_name['q75_ms'] / ours, color=COLOURS[name], linewidth=1.4
    )
    ax.plot(
      of_name['times_rnnlab'],
      y,
      MARKERS[name],
      color=COLOURS[name],
      markersize=7.5,
      markeredgecolor=figures.PAPER,
      markeredgewidth=0.6,
      label=name,
    )
  ax.set_yticks(range(len(cases)), [label(row) for _, row in cases.iterrows()], fontsize=9)
  ax.set_ylim(len(cases) - 0.4, -0.6)
  ax.grid(True, axis='both')
