"""The figures of a report: colour by cell, labels at the ends of the lines, percent axes.

Figures are made without pyplot, so drawing one leaves no state behind and needs no display.
"""

import io
import textwrap

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from scipy.optimize import isotonic_regression

INK, MUTED, FAINT, GRID, PAPER = '#1f2328', '#5f6872', '#b9c0c6', '#e3e6e9', '#ffffff'
# Okabe and Ito's palette, told apart by colour-blind readers; a cell keeps its colour everywhere.
COLOURS = {'lstm': '#0072b2', 'gru': '#d55e00', 'elman': '#009e73'}
SPARE_COLOURS = ('#cc79a7', '#e69f00', '#56b4e9', INK)
# In an SVG these become CSS variables, so that a page in dark mode can set its own.
THEME = {
  INK: 'ink',
  MUTED: 'muted',
  FAINT: 'faint',
  GRID: 'grid',
  PAPER: 'paper',
  **{colour: cell for cell, colour in COLOURS.items()},
}
STYLE = {
  'font.family': 'sans-serif',
  'font.size': 11,
  'text.color': INK,
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


def captions(runs):
  """What each figure shows, by the name of the function here that draws it."""
  word = _watched(runs)
  lines = (
    'Lines are means over seeds, the band goes from the lowest to the highest seed (none '
    'for a single seed).'
  )
  return {
    'test_accuracy': 'Each dot is the test accuracy of a seed; the diamond is their mean, the '
    'bar its 95% t interval (none for a single seed).',
    'learning_curves': f'Solid: {word}; dashed: train. {lines}',
    'accuracy_vs_time': f'{word.capitalize()} accuracy against the wall time of the epochs, '
    f'compilation included. {lines}',
  }


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


def learning_curves(metrics, note=''):
  """Accuracy and loss against epochs; beyond four groups, accuracy in one panel for each.

  metrics: a row per run and epoch, with the columns of results.load_metrics and `group`.
  """
  word = _watched(metrics)
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


def accuracy_vs_time(metrics, note=''):
  """Validation accuracy against cumulative wall time; beyond four groups, a panel for each."""
  # From a lost epoch on the time is not known.
  metrics = metrics[metrics.groupby('id').cumcount() + 1 == metrics['epoch']]
  elapsed = metrics.groupby('id')['seconds'].cumsum()
  limit, unit, scale = next(
    u for u in ((180, 's', 1), (10800, 'min', 60), (np.inf, 'h', 3600)) if not elapsed.max() > u[0]
  )
  metrics = metrics.assign(x=elapsed / scale)
  groups, label = _groups(metrics), f'Wall time of the epochs, {unit}'
  title = f'{_watched(metrics).capitalize()} accuracy against time'
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


def test_accuracy(runs, summary, note=''):
  """Each seed's test accuracy as a dot, with the mean and interval of every group."""
  titles = {
    'test_accuracy': 'After the last epoch',
    'best_test_accuracy': 'At the best validation epoch',
  }
  if runs['best_test_accuracy'].isna().all():
    del titles['best_test_accuracy']
  colours = _colours(runs)
  fig = _figure(10, 1.5 + 0.78 * len(summary), note)
  axes = fig.subplots(1, len(titles), sharex=True, sharey=True, squeeze=False)[0]
  for ax, (metric, title) in zip(axes, titles.items(), strict=True):
    ax.set_title(title)
    for y, row in enumerate(summary.to_dict('records')):
      colour = colours[row['model.cell']]
      values = runs.loc[runs['group'] == row['group'], metric].sort_values()
      # The golden ratio spreads neighbours evenly, however many they are.
      height = (np.arange(len(values)) * 0.618 + 0.5) % 1 * 0.3 if len(values) > 1 else 0.15
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
  # A span of under two points would make much of little.
  middle, half = np.mean(ax.get_xlim()), np.ptp(ax.get_xlim()) / 2
  ax.set_xlim(middle - max(half, 0.01), middle + max(half, 0.01))
  ax.set_ylim(len(summary) - 0.4, -0.55)
  ax.set_yticks(range(len(summary)), [_wrap(group) for group in summary['group']])
  for label, cell in zip(axes[0].get_yticklabels(), summary['model.cell'], strict=True):
    label.set(color=colours[cell], fontweight='bold')
  return fig


def _watched(frame):
  """What to call the split that is watched during training."""
  return 'test' if frame['validation_is_test'].all() else 'validation'


def _figure(width, height, note):
  # A note is set in 9 point: about 14 characters to the inch.
  note = '\n'.join(textwrap.fill(line, int(width * 14)) for line in note.splitlines())
  fig = Figure(figsize=(width, height + 0.17 * (note.count('\n') + 1 if note else 0)))
  fig.get_layout_engine().set(w_pad=0.12, h_pad=0.1, wspace=0.03, hspace=0.04)
  if note:
    fig.supxlabel(note, x=0.012, ha='left', fontsize=9, color=MUTED, linespacing=1.35)
  return fig


def _colours(frame):
  others = sorted(set(frame['model.cell']) - set(COLOURS))
  return COLOURS | {cell: SPARE_COLOURS[i % len(SPARE_COLOURS)] for i, cell in enumerate(others)}


def _groups(metrics):
  """Group -> its colour and strength: groups of one cell share a colour and fade in order."""
  colours, seen, groups = _colours(metrics), {}, {}
  for group, cell in metrics[['group', 'model.cell']].drop_duplicates().itertuples(index=False):
    seen[cell] = seen.get(cell, 0) + 1
    groups[group] = colours[cell], max(1.3 - 0.3 * seen[cell], 0.4)
  return groups


def _draw(ax, rows, y, colour, alpha=1.0, context=False):
  """A group's mean over seeds of `y` against `x`, with a band unless it is context; its end."""
  curve = rows.groupby('epoch').agg(x=('x', 'mean'), y=(y, 'mean'), low=(y, 'min'), high=(y, 'max'))
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
  if not context and not train and rows['id'].nunique() > 1:
    ax.fill_between(
      curve['x'], curve['low'], curve['high'], color=colour, alpha=0.16 * alpha, linewidth=0
    )
  return curve['x'].iloc[-1], curve['y'].iloc[-1]


def _overlay(ax, metrics, groups, ys):
  for y in reversed(ys):
    for group, (colour, alpha) in groups.items():
      end = _draw(ax, metrics[metrics['group'] == group], y, colour, alpha)
      train = y.startswith('train')
      ax.annotate(
        'train' if train else _wrap(group),
        end,
        (1.03, end[1]),
        textcoords=ax.get_yaxis_transform(),
        va='center',
        color=colour,
        alpha=max(alpha, 0.7),
        fontsize=9 if train else 10.5,
        fontweight='normal' if train else 'bold',
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
  columns = 4 if len(groups) > 6 else 3
  rows = -(-len(groups) // columns)
  fig = _figure(10, 0.9 + 2.1 * rows, note)
  fig.suptitle(title, x=0.012, ha='left', fontsize=12, fontweight='bold')
  axes = fig.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
  for i, (ax, (group, (colour, _))) in enumerate(zip(axes, groups.items(), strict=False)):
    ax.set_title(_wrap(group), color=colour, fontsize=10)
    for other in groups:
      if other != group:
        _draw(ax, metrics[metrics['group'] == other], ys[0], FAINT, 0.7, context=True)
    for y in reversed(ys):
      _draw(ax, metrics[metrics['group'] == group], y, colour)
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


def _wrap(group):
  return textwrap.fill(group, 20, break_long_words=False)


def _percent(value, _):
  return f'{100 * value:g}%'
