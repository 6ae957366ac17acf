"""The figures of a report: colour by cell, labels at the ends of the lines, percent axes.

Each function takes tables of `rnnlab.results` and returns a matplotlib Figure in the report's
style. Figures are made without pyplot, so drawing one leaves no state behind and needs no display.
"""

import functools
import io
import re
import textwrap

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, MaxNLocator
from matplotlib.transforms import offset_copy
from scipy.optimize import isotonic_regression

from rnnlab import results
from rnnlab.reports import captions
from rnnlab.results import statistics

INK, MUTED, FAINT, GRID, PAPER = '#1f2328', '#5f6872', '#b9c0c6', '#e3e6e9', '#ffffff'
# Hues after Okabe and Ito's palette, which colour-blind readers tell apart, so dark that words in
# them are legible on white (WCAG AA: 4.5 to 1). A cell keeps its colour everywhere.
COLOURS = {'lstm': '#0072b2', 'gru': '#b84d00', 'elman': '#00785a'}
SPARE_COLOURS = ('#b0407f', '#8a6400', '#6a51c7', INK)
# In an SVG these become CSS variables, so that a page in dark mode can set its own.
THEME = {
  INK: 'ink',
  MUTED: 'muted',
  FAINT: 'faint',
  GRID: 'grid',
  PAPER: 'paper',
  **{colour: cell for cell, colour in COLOURS.items()},
  **{colour: f'spare-{i}' for i, colour in enumerate(SPARE_COLOURS[:-1], 1)},
}
STYLE = {
  'font.family': 'sans-serif',
  'font.size': 11,
  'text.color': INK,
  'text.parse_math': False,  # a dollar sign in a user's label is a dollar sign
  'axes.titlesize': 12,
  'axes.titleweight': 'bold',
  'axes.titlelocation': 'left',
  'axes.titlepad': 10,
  'axes.labelcolor': INK,
  'axes.edgecolor': FAINT,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.spines.left': False,
  'axes.grid': True,
  'axes.grid.axis': 'y',
  'axes.axisbelow': True,
  'grid.color': GRID,
  'xtick.color': FAINT,
  'xtick.labelcolor': MUTED,
  'ytick.labelcolor': MUTED,
  'ytick.major.size': 0,
  'lines.linewidth': 2.2,
  'lines.solid_capstyle': 'round',
  'figure.facecolor': PAPER,
  'axes.facecolor': 'none',
  'figure.constrained_layout.use': True,
  'svg.fonttype': 'path',
  'svg.hashsalt': 'rnnlab',
}
MAX_OVERLAID = 4  # more groups than this get a panel each
MAX_ROWS, MAX_PANELS, MAX_PAIRS = 20, 12, 6  # what a figure shows at most


def _styled(draw):
  """`draw` in the report's style, whatever style the caller has set."""

  @functools.wraps(draw)
  def styled(*data, note=''):
    with mpl.rc_context(STYLE):
      return draw(*data, note=note)

  return styled


def select(summary, most):
  """The rows to show where `most` at most can be: the best by validation, of each cell alike."""
  value = summary['best_validation_accuracy_mean'].fillna(summary['validation_accuracy_mean'])
  value = value.fillna(-np.inf)
  rank = value.groupby(summary['model.cell']).rank(ascending=False, method='first')
  order = pd.DataFrame({'rank': rank, 'value': -value}).sort_values(['rank', 'value'])
  return summary.loc[order.index[:most].sort_values()]


def render(draw, *data, note):
  """(png bytes, svg text) of `draw(*data, note=...)`; the note stands in the PNG only.

  The SVG has a transparent ground and takes its colours from CSS variables of the page around it.
  """
  with mpl.rc_context(STYLE):
    png, svg = io.BytesIO(), io.StringIO()
    draw(*data, note=note).savefig(png, format='png', dpi=160)
    draw(*data, note='').savefig(
      svg,
      format='svg',
      transparent=True,
      metadata=dict.fromkeys(('Creator', 'Date', 'Format', 'Type')),
    )
  svg = svg.getvalue()
  svg = svg[svg.index('<svg') :]
  for colour, name in THEME.items():
    svg = svg.replace(f': {colour}', f': var(--{name}, {colour})')
  return png.getvalue(), svg


@_styled
def learning_curves(metrics, note=''):
  """Accuracy and loss against epochs; beyond four groups, accuracy in one panel for each.

  metrics: a row per run and epoch, with the columns of results.load_metrics and `group`.
  """
  word = captions.watched(metrics)
  metrics = metrics.assign(x=metrics['epoch'])
  groups = _groups(metrics)
  if len(groups) > MAX_OVERLAID:
    fig, axes = _facets(
      metrics,
      groups,
      ['validation_accuracy', 'train_accuracy'],
      f'Accuracy: solid {word}, dashed train',
      'Epoch',
      note,
    )
  else:
    fig = _figure(10, 4.4, note)
    axes = fig.subplots(1, 2)
    for ax, kind in zip(axes, ('accuracy', 'loss'), strict=True):
      ax.set_title(f'{kind.capitalize()}: solid {word}, dashed train')
      _overlay(ax, metrics, groups, [f'validation_{kind}', f'train_{kind}'])
      ax.set_xlabel('Epoch')
    axes[0].yaxis.set_major_formatter(_percent)
    axes[1].set_ylabel('Loss, nats per example')
    _place_labels(fig)
  ticks = 10 if len(axes) == 2 else 6
  for ax in axes:
    ax.xaxis.set_major_locator(MaxNLocator(ticks, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
  return fig


@_styled
def accuracy_vs_time(metrics, note=''):
  """Validation accuracy against cumulative wall time; beyond four groups, a panel for each."""
  # From a lost epoch on the time is not known.
  metrics = metrics[metrics.groupby('id').cumcount() + 1 == metrics['epoch']]
  elapsed = metrics.groupby('id')['seconds'].cumsum()
  unit, scale = _time_unit(elapsed.max())
  metrics = metrics.assign(x=elapsed / scale)
  groups, label = _groups(metrics), f'Wall time of the epochs, {unit}'
  title = f'{captions.watched(metrics).capitalize()} accuracy against time'
  if len(groups) > MAX_OVERLAID:
    fig, axes = _facets(metrics, groups, ['validation_accuracy'], title, label, note)
  else:
    fig = _figure(10, 4.4, note)
    ax = fig.subplots()
    ax.set_title(title)
    _overlay(ax, metrics, groups, ['validation_accuracy'])
    ax.set_xlabel(label)
    ax.yaxis.set_major_formatter(_percent)
    axes = [ax]
    _place_labels(fig)
  for ax in axes:
    ax.set_xlim(left=0)
  return fig


@_styled
def test_accuracy(runs, summary, note=''):
  """Each seed's test accuracy as a dot, with the mean and interval of every group."""
  titles = {'test_accuracy': 'After the last epoch'}
  if runs['best_test_accuracy'].notna().any():
    titles = {
      'best_test_accuracy': 'At the best validation epoch',
      'test_accuracy': 'Secondary: after the last epoch',
    }
  colours = _colours(runs['model.cell'])
  fig = _figure(10, 1.5 + 0.78 * len(summary), note)
  axes = fig.subplots(1, len(titles), sharex=True, sharey=True, squeeze=False)[0]
  for ax, (metric, title) in zip(axes, titles.items(), strict=True):
    ax.set_title(title)
    for y, row in enumerate(summary.to_dict('records')):
      colour = colours[row['model.cell']]
      values = runs.loc[runs['group'] == row['group'], metric].sort_values()
      height = 0.3 * _spread(len(values))
      ax.plot(
        values, y - 0.36 + height, 'o', color=colour, alpha=0.7, markersize=7, markeredgecolor=PAPER
      )
      mean, low, high = (row[f'{metric}_{part}'] for part in ('mean', 'low', 'high'))
      ax.plot([low, high], [y + 0.12] * 2, color=colour, linewidth=2.5)
      ax.plot(mean, y + 0.12, 'd', color=colour, markersize=9, markeredgecolor=PAPER)
      if np.isfinite(mean):
        ax.annotate(
          f'{mean:.1%}',
          (mean, y + 0.12),
          (0, -7),
          textcoords='offset points',
          ha='center',
          va='top',
          fontsize=10,
          fontweight='bold',
          color=colour,
        )
    ax.grid(axis='x')
    ax.grid(visible=False, axis='y')
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(_percent)
    ax.set_xlabel('Test accuracy')
    ax.margins(x=0.12)
  _at_least(ax.set_xlim, ax.get_xlim(), 0.02)
  ax.set_ylim(len(summary) - 0.4, -0.55)
  ax.set_yticks(range(len(summary)), [_wrap(group) for group in summary['group']])
  for label, cell in zip(axes[0].get_yticklabels(), summary['model.cell'], strict=True):
    label.set(color=colours[cell], fontweight='bold')
  return fig


@_styled
def paired_seeds(pairs, seeds, note=''):
  """Runs of two cells, joined where they share seed and settings; their differences beside.

  pairs: rows of results.compare of one metric, with `where`, the settings in words, and `pair`, a
  number. seeds: a row a pair of runs, `pair` and the accuracies `x` of a and `y` of b.
  """
  colours = _colours(set(pairs['a']) | set(pairs['b']))
  columns = min(2, len(pairs))
  rows = -(-len(pairs) // columns)
  fig = _figure(10, 0.4 + 3.4 * rows, note)
  axes = fig.subplots(
    rows, 2 * columns, squeeze=False, gridspec_kw=dict(width_ratios=[1.7, 1] * columns)
  ).reshape(-1, 2)
  for (left, right), row in zip(axes, pairs.to_dict('records'), strict=False):
    x, y = (seeds.loc[seeds['pair'] == row['pair'], name].to_numpy() for name in 'xy')
    cells = row['a'], row['b']
    for one, two in zip(x, y, strict=True):
      ahead = FAINT if one == two else colours[cells[int(two > one)]]
      left.plot([0, 1], [one, two], color=ahead, linewidth=1.2, alpha=0.55)
    for i, (cell, values) in enumerate(zip(cells, (x, y), strict=True)):
      left.plot([i] * len(values), values, 'o', color=colours[cell], markeredgecolor=PAPER)
      outside = i + (0.2 if columns == 1 else 0.3) * (2 * i - 1)
      left.plot([outside - 0.08, outside + 0.08], [values.mean()] * 2, color=colours[cell])
      left.annotate(
        f'{values.mean():.1%}',
        (outside, values.mean()),
        (0, 5),
        textcoords='offset points',
        ha='center',
        fontsize=10,
        fontweight='bold',
        color=colours[cell],
      )
    left.set_xlim(-0.5, 1.5)
    left.set_xticks([0, 1], [_wrap(results.cell_name(cell)) for cell in cells])
    for tick, cell in zip(left.get_xticklabels(), cells, strict=True):
      tick.set(color=colours[cell], fontweight='bold')
    left.set_title(_wrap(row['where'] or 'Test accuracy', 44 // columns), fontsize=11)
    left.yaxis.set_major_formatter(_percent)
    _at_least(left.set_ylim, left.get_ylim(), 0.02)

    points = 100 * (y - x)
    right.axhline(0, color=MUTED, linewidth=1)
    right.plot(
      _spread(len(points)) - 0.7, points, 'o', color=MUTED, alpha=0.6, markeredgecolor=PAPER
    )
    if np.isfinite(row['low']):
      right.plot([0.65] * 2, [100 * row['low'], 100 * row['high']], color=INK, linewidth=2.5)
    right.plot(0.65, 100 * row['difference'], 'd', color=INK, markersize=9, markeredgecolor=PAPER)
    right.set_xlim(-1, 1)
    right.set_xticks([])
    right.set_title(
      f'{results.cell_name(row["b"])} \N{MINUS SIGN} {results.cell_name(row["a"])}',
      fontsize=11,
      fontweight='normal',
    )
    _at_least(right.set_ylim, right.get_ylim(), 2)
    for ax in (left, right):
      ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
  for ax in axes[len(pairs) :].ravel():
    ax.set_axis_off()
  return fig


@_styled
def frontier(summary, note=''):
  """Mean test accuracy against seconds a run, a dot a group, a panel for each set of data."""
  colours = _colours(summary['model.cell'])
  blocks = [block for _, block in summary.groupby(results.DATA, sort=False)]
  unit, scale = _time_unit(summary['seconds'].max())
  fig = _figure(10, 4.6 * len(blocks), note)
  for ax, block in zip(fig.subplots(len(blocks), squeeze=False)[:, 0], blocks, strict=True):
    primary = {part: results.primary(block, part) for part in ('mean', 'low', 'high')}
    block = block.assign(x=block['seconds'] / scale, y=primary['mean'], **primary).sort_values(
      ['x', 'y'], ascending=[True, False]
    )
    front = block[block['y'] > block['y'].cummax().shift(fill_value=-np.inf)]
    ax.step(front['x'], front['y'], where='post', color=FAINT, linewidth=1.5, zorder=1)
    named = front if len(block) > 2 * MAX_OVERLAID else block
    for row in named.to_dict('records'):
      colour = colours[row['model.cell']]
      ax.plot([row['x']] * 2, [row['low'], row['high']], color=colour, alpha=0.35)
      _name(ax, row['group'], (row['x'], row['y']), colour)
    for cell, part in block.groupby('model.cell', sort=False):
      ax.plot(part['x'], part['y'], 'o', color=colours[cell], markeredgecolor=PAPER)
    ax.plot(front['x'], front['y'], 'o', color='none', markeredgecolor=INK, markersize=9)
    if block['x'].max() > 30 * block['x'].min() > 0:
      _log_axis(ax, (1, 2, 5))
    ax.set_title('Test accuracy against time')
    ax.set_xlabel(f'Wall time of a run, {unit}')
    ax.yaxis.set_major_formatter(_percent)
    ax.margins(x=0.12, y=0.1)
    _at_least(ax.set_ylim, ax.get_ylim(), 0.02)
    _cell_legend(ax, block['model.cell'], colours)
  _place_labels(fig)
  return fig


@_styled
def response(runs, note=''):
  """Validation accuracy `y` of each run against each numeric setting that takes many values."""
  runs = runs.dropna(subset='y')
  names = results.many_valued(runs)
  colours = _colours(runs['model.cell'])
  others = runs['model.cell'].nunique() - 1
  columns = min(len(names), 3)
  rows = -(-len(names) // columns)
  fig = _figure(10, 0.5 + (4 if columns == 1 else 2.9) * rows, note)
  axes = fig.subplots(rows, columns, sharey=True, squeeze=False).ravel()
  for i, (ax, name) in enumerate(zip(axes, names, strict=False)):
    values = runs[name]
    # As learning rates are drawn: crowded at the low end.
    if values.min() > 0 and values.max() > max(10 * values.min(), 3 * np.median(values.unique())):
      _log_axis(ax, (1,) if values.max() > 100 * values.min() else (1, 2, 5))
      if values.nunique() <= 8:
        ax.set_xticks(values.unique(), map(results.value_words, values.unique()))
    else:
      ax.xaxis.set_major_locator(MaxNLocator(5))
    for j, (cell, part) in enumerate(runs.groupby('model.cell', sort=False)):
      # Cells side by side, where a setting has few values.
      beside = offset_copy(ax.transData, fig, x=6 * j - 3 * others, units='points')
      best = part.loc[part['y'].idxmax()]
      dots = ax.plot(
        part[name], part['y'], 'o', color=colours[cell], alpha=0.55, markeredgecolor='none'
      ) + ax.plot(
        best[name], best['y'], 'o', color=colours[cell], markeredgecolor=INK, markersize=9
      )
      for line in dots:
        line.set_transform(beside)  # only now, or else the axes would not be made to fit the data
    ax.set_xlabel(name)
    if i % columns == 0:
      ax.set_ylabel(f'{captions.watched(runs).capitalize()} accuracy')
    ax.yaxis.set_major_formatter(_percent)
  for ax in axes[len(names) :]:
    ax.set_axis_off()
  _cell_legend(axes[0], runs['model.cell'], colours)
  return fig


search_response = response


@_styled
def expected_maximum(trials, note=''):
  """The validation accuracy to be expected of the best of n trials, against n, for each arm."""
  fig = _figure(10, 3.8, note)
  ax = fig.subplots()
  for group, (colour, alpha) in _groups(trials).items():
    values = trials.loc[trials['group'] == group, 'y']
    mean, low, high = statistics.expected_maximum(values)
    budget = np.arange(1, len(values) + 1)
    ax.plot(budget, mean, color=colour, alpha=alpha)
    ax.fill_between(budget, low, high, color=colour, alpha=0.16 * alpha, linewidth=0)
    _name(ax, group, (budget[-1], mean[-1]), colour)
  ax.set_title('Validation accuracy to be expected of a search')
  ax.set_xlabel('Trials')
  ax.set_xlim(left=1)
  ax.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
  ax.yaxis.set_major_formatter(_percent)
  _place_labels(fig)
  return fig


def _figure(width, height, note):
  # A note is set in 9 point: about 14 characters to the inch.
  note = '\n'.join(textwrap.fill(line, int(width * 14)) for line in note.splitlines())
  size = width, height + 0.17 * (note.count('\n') + 1 if note else 0)
  fig = Figure(figsize=size, layout='constrained')
  fig.get_layout_engine().set(w_pad=0.12, h_pad=0.1, wspace=0.03, hspace=0.04)
  if note:
    fig.supxlabel(note, x=0.012, ha='left', fontsize=9, color=MUTED, linespacing=1.35)
  return fig


def _colours(cells):
  others = sorted(set(cells) - set(COLOURS))
  return COLOURS | {cell: SPARE_COLOURS[i % len(SPARE_COLOURS)] for i, cell in enumerate(others)}


def _groups(metrics):
  """Group -> its colour and strength: groups of one cell share a colour and fade in order."""
  colours, seen, groups = _colours(metrics['model.cell']), {}, {}
  for group, cell in metrics[['group', 'model.cell']].drop_duplicates().itertuples(index=False):
    seen[cell] = seen.get(cell, 0) + 1
    groups[group] = colours[cell], max(1.3 - 0.3 * seen[cell], 0.4)
  return groups


def _curve(rows, y):
  """The mean, lowest and highest over seeds of `y` at each epoch, at the mean of their `x`."""
  return rows.groupby('epoch').agg(x=('x', 'mean'), y=(y, 'mean'), low=(y, 'min'), high=(y, 'max'))


def _draw(ax, curve, y, colour, alpha=1.0, context=False):
  """Draws a `_curve` of `y`, with a band unless it is context; returns its last known point."""
  train = y.startswith('train')
  ax.plot(
    curve['x'],
    curve['y'],
    '--' if train else '-',
    color=colour,
    alpha=alpha,
    linewidth=1.3 if train or context else 2.2,
    markersize=3 if train else 4.5,
    marker='o' if len(curve) <= 12 and not context or len(curve) == 1 else '',
  )
  if not context and not train:
    ax.fill_between(
      curve['x'], curve['low'], curve['high'], color=colour, alpha=0.16 * alpha, linewidth=0
    )
  known = curve[['x', 'y']].dropna()
  return tuple(known.iloc[-1]) if len(known) else (np.nan, np.nan)


def _overlay(ax, metrics, groups, ys):
  for y in reversed(ys):
    for group, (colour, alpha) in groups.items():
      end = _draw(ax, _curve(metrics[metrics['group'] == group], y), y, colour, alpha)
      train = y.startswith('train')
      _name(ax, 'train' if train else group, end, colour, strong=not train)


def _name(ax, words, at, colour, strong=True):
  """Names a point in the margin, for `_place_labels` to move; one that is nowhere has no name."""
  if not np.isfinite(at).all():
    return
  ax.annotate(
    _wrap(words),
    at,
    (1.03, at[1]),
    textcoords=ax.get_yaxis_transform(),
    va='center',
    color=colour,
    fontsize=10.5 if strong else 9,
    fontweight='bold' if strong else 'normal',
    annotation_clip=False,
    arrowprops=dict(
      arrowstyle='-',
      color=colour,
      alpha=0.45,
      linewidth=0.8,
      relpos=(0, 0.5),
      shrinkA=1,
      shrinkB=3,
    ),
  )


def _facets(metrics, groups, ys, title, xlabel, note):
  """A panel for each group, the other groups behind it in grey."""
  curves = {(group, y): _curve(rows, y) for group, rows in metrics.groupby('group') for y in ys}
  columns = 4 if len(groups) > 6 else 3
  rows = -(-len(groups) // columns)
  fig = _figure(10, 0.9 + 2.1 * rows, note)
  fig.suptitle(title, x=0.012, ha='left', fontsize=12, fontweight='bold')
  axes = fig.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
  for i, (ax, (group, (colour, _))) in enumerate(zip(axes, groups.items(), strict=False)):
    ax.set_title(_wrap(group), color=colour, fontsize=10)
    for other in groups:
      if other != group:
        _draw(ax, curves[other, ys[0]], ys[0], FAINT, 0.7, context=True)
    for y in reversed(ys):
      _draw(ax, curves[group, y], y, colour)
    ax.yaxis.set_major_formatter(_percent)
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    ax.xaxis.set_tick_params(labelbottom=i + columns >= len(groups))
    if i + columns >= len(groups):
      ax.set_xlabel(xlabel)
  for ax in axes[len(groups) :]:
    ax.set_axis_off()
  return fig, axes[: len(groups)]


def _place_labels(fig):
  """Moves the labels at the lines' ends apart, each as little as can be (least squares)."""
  fig.get_layout_engine().execute(fig)
  fig.set_layout_engine('none')  # keeps the axes where they are now
  for ax in fig.axes:
    labels = sorted(ax.texts, key=lambda label: label.xyann[1])
    if not labels:
      continue
    bottom, top = ax.get_ylim()
    unit = (top - bottom) / ax.bbox.height
    heights = np.array([Text.get_window_extent(label).height for label in labels]) * unit
    wanted = np.array([label.xyann[1] for label in labels])
    steps = np.concatenate([[0], np.cumsum((heights[1:] + heights[:-1]) / 2 * 1.15)])
    base = isotonic_regression(wanted - steps).x
    base = np.clip(base, bottom, max(bottom, top - steps[-1]))
    for label, y in zip(labels, base + steps, strict=True):
      label.set_position((1.03, y))


def _log_axis(ax, subs):
  ax.set_xscale('log')
  ax.xaxis.set_minor_formatter('')
  ax.xaxis.set_major_locator(LogLocator(subs=subs))
  ax.xaxis.set_major_formatter('{x:g}')


def _cell_legend(ax, cells, colours):
  ax.legend(
    [
      Line2D([], [], marker='o', linestyle='', color=colours[cell]) for cell in dict.fromkeys(cells)
    ],
    [_wrap(results.cell_name(cell)) for cell in dict.fromkeys(cells)],
    loc='lower right',
    bbox_to_anchor=(1, 1),
    ncols=4,
    frameon=False,
    labelcolor='linecolor',
    handletextpad=0.1,
    borderpad=0,
  )


def _spread(count):
  """`count` places between 0 and 1; the golden ratio keeps neighbours apart, however many."""
  return (np.arange(count) * 0.618 + 0.5) % 1


def _at_least(set_limits, limits, span):
  """Widens an axis: a narrower one than `span` would make much of little."""
  middle, half = np.mean(limits), max(np.ptp(limits), span) / 2
  set_limits(middle - half, middle + half)


def _time_unit(longest):
  units = (180, 's', 1), (10800, 'min', 60), (np.inf, 'h', 3600)
  return next((unit, scale) for limit, unit, scale in units if not longest > limit)


def _wrap(group, width=20):
  """A label in lines of `width`; of a very long one, what a figure has room for."""
  words = re.sub(r'(\S{30})(?=\S)', r'\1 ', group)
  return textwrap.fill(words, width, break_long_words=False, max_lines=4, placeholder=' …')


def _percent(value, _):
  return f'{100 * value:g}%'
