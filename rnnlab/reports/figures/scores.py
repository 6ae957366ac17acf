"""Figures of the scores of the runs: of each seed, of seeds in pairs, and against time."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rnnlab import results
from rnnlab.reports.figures.layout import (
  at_least,
  axis_words,
  cell_legend,
  in_unit,
  label_values,
  least_span,
  log_axis,
  name_point,
  place_labels,
  spread,
  time_unit,
  wrap,
)
from rnnlab.reports.figures.style import (
  FAINT,
  INK,
  MAX_OVERLAID,
  MUTED,
  PAPER,
  colours_of,
  new_figure,
  styled,
)
from rnnlab.results import measures


def select(summary: pd.DataFrame, most: int) -> pd.DataFrame:
  """The rows to show, `most` at most: the best by validation, as many of each cell."""
  metric = measures.metrics_of(summary)[0]
  name = f'validation_{metric.name}_mean'
  value = metric.sign * summary[f'best_{name}'].fillna(summary[name])
  value = value.fillna(-np.inf)
  rank = value.groupby(summary['model.cell']).rank(ascending=False, method='first')
  order = pd.DataFrame({'rank': rank, 'value': -value}).sort_values(['rank', 'value'])
  return summary.loc[order.index[:most].sort_values()]


@styled
def test_scores(runs: pd.DataFrame, summary: pd.DataFrame, note: str = '') -> Figure:
  """Each seed's primary metric on test as a dot, with the mean and interval of every group."""
  metrics = measures.metrics_of(summary)
  metric, (best, last) = metrics[0], measures.test_columns(metrics)
  titles = {last: 'After the last epoch'}
  if runs[best].notna().any():
    titles = {best: 'At the best validation epoch', last: 'Secondary: after the last epoch'}
  colours = colours_of(runs['model.cell'])
  fig = new_figure(10, 1.5 + 0.78 * len(summary), note)
  axes = fig.subplots(1, len(titles), sharex=True, sharey=True, squeeze=False)[0]
  for ax, (column, title) in zip(axes, titles.items(), strict=True):
    ax.set_title(title)
    for y, row in enumerate(summary.to_dict('records')):
      values = runs.loc[runs['group'] == row['group'], column].sort_values()
      mean_and_interval = (row[f'{column}_{part}'] for part in ('mean', 'low', 'high'))
      _group(ax, y, values, *mean_and_interval, metric, colours[row['model.cell']])
    ax.grid(axis='x')
    ax.grid(visible=False, axis='y')
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    in_unit(ax.xaxis, metric)
    ax.set_xlabel(axis_words(metric, 'test'))
    ax.margins(x=0.12)
  at_least(ax.set_xlim, ax.get_xlim(), least_span(metric, ax.get_xlim()))
  ax.set_ylim(len(summary) - 0.4, -0.55)
  ax.set_yticks(range(len(summary)), [wrap(group) for group in summary['group']])
  for label, cell in zip(axes[0].get_yticklabels(), summary['model.cell'], strict=True):
    label.set(color=colours[cell], fontweight='bold')
  return fig


def _group(ax, y, values, mean, low, high, metric, colour):
  """A row of `test_scores`: a dot for each seed, and below them the mean with its interval."""
  height = 0.3 * spread(len(values))
  ax.plot(
    values, y - 0.36 + height, 'o', color=colour, alpha=0.7, markersize=7, markeredgecolor=PAPER
  )
  ax.plot([low, high], [y + 0.12] * 2, color=colour, linewidth=2.5)
  ax.plot(mean, y + 0.12, 'd', color=colour, markersize=9, markeredgecolor=PAPER)
  if np.isfinite(mean):
    _write(ax, _short(metric, mean), (mean, y + 0.12), -7, colour, va='top')


def _write(ax, words, at, above, colour, **kwargs):
  """Text that stands `above` a point, in typographic points."""
  style = dict(ha='center', fontsize=10, fontweight='bold', color=colour)
  ax.annotate(words, at, (0, above), textcoords='offset points', **style, **kwargs)


def _short(metric, value):
  """A value beside its mark; without a unit where the axis label already gives it."""
  return metric.shown(value) if metric.unit == '%' else metric.number(value)


@styled
def paired_seeds(pairs: pd.DataFrame, seeds: pd.DataFrame, note: str = '') -> Figure:
  """Runs of two cells, joined where they share seed and settings, beside their differences.

  pairs: rows of results.compare of one metric, with `where`, the settings in words, and `pair`, a
  number. seeds: a row a pair of runs, `pair` and the primary metric, `x` of a and `y` of b.
  """
  metric = measures.metrics_of(pairs)[0]
  colours = colours_of(set(pairs['a']) | set(pairs['b']))
  columns = min(2, len(pairs))
  rows = -(-len(pairs) // columns)
  fig = new_figure(10, 0.4 + 3.4 * rows, note)
  axes = fig.subplots(
    rows, 2 * columns, squeeze=False, gridspec_kw=dict(width_ratios=[1.7, 1] * columns)
  ).reshape(-1, 2)
  for (left, right), row in zip(axes, pairs.to_dict('records'), strict=False):
    x, y = (seeds.loc[seeds['pair'] == row['pair'], name].to_numpy() for name in 'xy')
    _joined(left, x, y, row, metric, colours, columns)
    _differences(right, x, y, row, metric)
    for ax in (left, right):
      ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
  for ax in axes[len(pairs) :].ravel():
    ax.set_axis_off()
  return fig


def _joined(ax, x, y, row, metric, colours, columns):
  """The left half of a pair: a line for each seed, in the colour of the cell that is ahead."""
  cells = row['a'], row['b']
  for one, two in zip(x, y, strict=True):
    ahead = FAINT if one == two else colours[cells[int(metric.sign * two > metric.sign * one)]]
    ax.plot([0, 1], [one, two], color=ahead, linewidth=1.2, alpha=0.55)
  for i, (cell, values) in enumerate(zip(cells, (x, y), strict=True)):
    ax.plot([i] * len(values), values, 'o', color=colours[cell], markeredgecolor=PAPER)
    outside = i + (0.2 if columns == 1 else 0.3) * (2 * i - 1)
    ax.plot([outside - 0.08, outside + 0.08], [values.mean()] * 2, color=colours[cell])
    _write(ax, _short(metric, values.mean()), (outside, values.mean()), 5, colours[cell])
  ax.set_xlim(-0.5, 1.5)
  ax.set_xticks([0, 1], [wrap(results.cell_name(cell)) for cell in cells])
  for tick, cell in zip(ax.get_xticklabels(), cells, strict=True):
    tick.set(color=colours[cell], fontweight='bold')
  title = row['where'] or axis_words(metric, 'test')
  ax.set_title(wrap(title, 44 // columns), fontsize=11)
  in_unit(ax.yaxis, metric)
  at_least(ax.set_ylim, ax.get_ylim(), least_span(metric, ax.get_ylim()))


def _differences(ax, x, y, row, metric):
  """The right half of a pair: the difference of each seed, their mean and its interval."""
  differences = metric.scale * (y - x)
  ax.axhline(0, color=MUTED, linewidth=1)
  places = spread(len(differences)) - 0.7
  ax.plot(places, differences, 'o', color=MUTED, alpha=0.6, markeredgecolor=PAPER)
  mean, low, high = (metric.scale * row[name] for name in ('difference', 'low', 'high'))
  if np.isfinite(low):
    ax.plot([0.65] * 2, [low, high], color=INK, linewidth=2.5)
  ax.plot(0.65, mean, 'd', color=INK, markersize=9, markeredgecolor=PAPER)
  ax.set_xlim(-1, 1)
  ax.set_xticks([])
  ax.set_title(
    f'{results.cell_name(row["b"])} \N{MINUS SIGN} {results.cell_name(row["a"])}',
    fontsize=11,
    fontweight='normal',
  )
  at_least(ax.set_ylim, ax.get_ylim(), metric.scale * least_span(metric, [*x, *y]))


@styled
def frontier(summary: pd.DataFrame, note: str = '') -> Figure:
  """The mean primary metric against seconds per run: a dot per group, a panel per set of data."""
  metric = measures.metrics_of(summary)[0]
  colours = colours_of(summary['model.cell'])
  blocks = [block.copy() for _, block in summary.groupby(results.DATA, sort=False)]
  unit, scale = time_unit(summary['seconds'].max())
  fig = new_figure(10, 4.6 * len(blocks), note)
  for ax, block in zip(fig.subplots(len(blocks), squeeze=False)[:, 0], blocks, strict=True):
    primary = {part: measures.primary(block, part) for part in ('mean', 'low', 'high')}
    block = block.assign(x=block['seconds'] / scale, y=primary['mean'], **primary)
    block = block.assign(good=metric.sign * block['y'])
    block = block.sort_values(['x', 'good'], ascending=[True, False])
    front = block[block['good'] > block['good'].cummax().shift(fill_value=-np.inf)]
    ax.step(front['x'], front['y'], where='post', color=FAINT, linewidth=1.5, zorder=1)
    named = front if len(block) > 2 * MAX_OVERLAID else block
    for row in named.to_dict('records'):
      colour = colours[row['model.cell']]
      ax.plot([row['x']] * 2, [row['low'], row['high']], color=colour, alpha=0.35)
      name_point(ax, row['group'], (row['x'], row['y']), colour)
    for cell, part in block.groupby('model.cell', sort=False):
      ax.plot(part['x'], part['y'], 'o', color=colours[cell], markeredgecolor=PAPER)
    ax.plot(front['x'], front['y'], 'o', color='none', markeredgecolor=INK, markersize=9)
    if block['x'].max() > 30 * block['x'].min() > 0:
      log_axis(ax, (1, 2, 5))
    ax.set_title(f'Test {metric.words} against time')
    ax.set_xlabel(f'Wall time of a run, {unit}')
    label_values(ax, metric, 'test')
    ax.margins(x=0.12, y=0.1)
    at_least(ax.set_ylim, ax.get_ylim(), least_span(metric, ax.get_ylim()))
    cell_legend(ax, block['model.cell'], colours)
  place_labels(fig)
  return fig
