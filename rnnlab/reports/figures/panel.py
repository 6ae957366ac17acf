"""Figures of a task's panels: a matrix of counts as a heat map, attention, a curve, a scatter."""

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_rgb

from rnnlab.reports.figures.layout import heading, log_axis, wrap
from rnnlab.reports.figures.style import (
  INK,
  MUTED,
  PAPER,
  colours_of,
  new_figure,
  styled,
)
from rnnlab.reports.panels import MOST_POINTS

COUNTED, WRITTEN = 10, 25  # up to so many classes, the cells of a matrix show counts and shares
ON_CELLS = '#000000'  # of words on the colours of a heat map, which are the same by night
# The strength of a colour for a share just above 0 and for 1: text on it keeps a contrast of 4.5
# to 1. A share of 0 has no colour and no text.
LEAST, MOST = 0.07, 0.72


@styled
def panels(shown, note=''):
  """The panels of `shown`, a `rnnlab.reports.panels.Shown`, in one figure."""
  kinds = {'matrix': _matrices, 'attention': _attentions, 'curve': _curves, 'scatter': _scatters}
  return kinds[shown.kind](shown, note)


def _matrices(shown, note):
  """A heat map for each group: small ones side by side, large ones one below another."""
  classes = max(len(panel.data['labels']) for _, _, panel in shown.groups)
  columns = min(len(shown.groups), 2 if classes <= 6 else 1)
  rows = -(-len(shown.groups) // columns)
  width = 10 / columns
  height = 1.6 + (0.55 if classes <= COUNTED else 0.3 if classes <= WRITTEN else 0.18) * classes
  fig = new_figure(10, (height + 0.3) * rows, note)
  axes = fig.subplots(rows, columns, squeeze=False).ravel()
  colours = colours_of({cell for _, cell, _ in shown.groups})
  for ax, (group, cell, panel) in zip(axes, shown.groups, strict=False):
    ax.set_title(_title(shown, group))
    _matrix(ax, panel.data, colours[cell], width)
  for ax in axes[len(shown.groups) :]:
    ax.set_axis_off()
  return fig


def _title(shown, group):
  return wrap(f'{shown.title}, {group}' if len(shown.groups) > 1 else shown.title, 40)


def _matrix(ax, data, colour, width):
  """One heat map; width: that of its axes with their labels, in inches."""
  counts, labels = np.asarray(data['counts'], float), list(map(str, data['labels']))
  totals, classes = counts.sum(axis=1, keepdims=True), len(labels)
  shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
  full = to_rgb(MUTED if colour == INK else colour)
  tints = [[1 - much * (1 - part) for part in full] for much in (LEAST, MOST)]
  ramp = LinearSegmentedColormap.from_list('shares', tints)
  ax.pcolormesh(
    np.ma.masked_equal(shares, 0), cmap=ramp, vmin=0, vmax=1, edgecolors=PAPER, linewidth=1.5
  )
  size = 11 if classes <= 6 else 9 if classes <= COUNTED else 7
  for (row, column), share in np.ndenumerate(shares if classes <= WRITTEN else shares[:0]):
    if share == 0 or classes > COUNTED and round(100 * share) == 0:
      continue
    at = (column + 0.5, row + 0.5)
    if classes <= COUNTED:
      style = {'ha': 'center', 'color': ON_CELLS}
      ax.annotate(_percent(share), at, (0, 0.5), va='bottom', **style, **_points(size))
      ax.annotate(
        _count(counts[row, column]), at, (0, -1.5), va='top', **style, **_points(size - 2)
      )
    else:
      ax.text(*at, f'{100 * share:.0f}', ha='center', va='center', color=ON_CELLS, fontsize=size)
  small = min(10, 260 / classes)
  shorts = [_short(label, 24 if classes > COUNTED else 16) for label in labels]
  rows = [f'{short} ({_count(n)})' for short, n in zip(shorts, totals[:, 0], strict=True)]
  ax.set_yticks(np.arange(classes) + 0.5, rows, fontsize=small)
  letters = (width - 2.5) / classes * 110 / small  # how many fit below a column
  steep = max(map(len, shorts)) > letters
  turned = {'rotation': 40, 'ha': 'right', 'rotation_mode': 'anchor'} if steep else {}
  ax.set_xticks(np.arange(classes) + 0.5, shorts, fontsize=small, **turned)
  ax.tick_params(length=0)
  ax.set_ylim(classes, 0)
  _label(ax, data, 'Predicted', 'True')
  ax.grid(visible=False)
  ax.spines[:].set_visible(False)


def _attentions(shown, note):
  """A column for each group, with a heat map for each sentence: target tokens run downwards."""
  rows = max(len(panel.data['each']) for _, _, panel in shown.groups)
  heights = [1.0] * rows
  for _, _, panel in shown.groups:
    for i, one in enumerate(panel.data['each']):
      heights[i] = max(heights[i], 1.3 + 0.22 * len(one['target']))
  fig = new_figure(max(5 * len(shown.groups), 7.5), sum(heights) + 0.3, note)
  size = {'squeeze': False, 'gridspec_kw': {'height_ratios': heights}}
  axes = fig.subplots(rows, len(shown.groups), **size)
  colours = colours_of({cell for _, cell, _ in shown.groups})
  for column, (group, cell, panel) in enumerate(shown.groups):
    for ax, one in zip(axes[:, column], panel.data['each'], strict=False):
      ramp = LinearSegmentedColormap.from_list('weights', [PAPER, colours[cell]])
      ax.pcolormesh(np.asarray(one['weights']), cmap=ramp, vmin=0, vmax=1)
      for axis, which in ((ax.xaxis, 'source'), (ax.yaxis, 'target')):
        tokens = [_short(str(token), 16) for token in one[which]]
        axis.set_ticks(np.arange(len(tokens)) + 0.5, tokens, fontsize=min(9, 300 / len(tokens)))
      steep = max(map(len, one['source'])) > 2
      ax.tick_params(axis='x', length=0, labelrotation=60 * steep)
      ax.tick_params(axis='y', length=0)
      ax.set_ylim(len(one['target']), 0)
      ax.grid(visible=False)
    axes[0, column].set_title(_title(shown, group))
    for ax in axes[len(panel.data['each']) :, column]:
      ax.set_axis_off()
  return fig


def _label(ax, data, x='', y=''):
  """Labels the axes as a panel's data say, or else by x and y."""
  for set_label, label in (
    (ax.set_xlabel, data.get('x_label', x)),
    (ax.set_ylabel, data.get('y_label', y)),
  ):
    set_label(label[:1].upper() + label[1:])


def _points(size):
  return {'textcoords': 'offset points', 'fontsize': size}


def _percent(share):
  """A percentage in which a share that is neither 0 nor 1 never looks like one of them."""
  return '<1%' if share < 0.005 else '>99%' if 0.995 <= share < 1 else f'{share:.0%}'


def _count(value):
  return f'{value:,.0f}' if float(value).is_integer() else f'{value:,.1f}'


def _short(label, most):
  return label if len(label) <= most else f'{label[: most - 1]}…'


def _curves(shown, note):
  """A line for each group in one set of axes; below, if given, how many examples each point has."""
  counted = [panel.data.get('counts') is not None for _, _, panel in shown.groups]
  same = all(counted) and len({tuple(panel.data['counts']) for _, _, panel in shown.groups}) == 1
  fig = new_figure(10 if len(shown.groups) > 1 else 7.5, 5.6 if any(counted) else 4.6, note)
  heights = {'height_ratios': [3.4, 1]} if any(counted) else {}
  axes = fig.subplots(1 + any(counted), 1, sharex=True, squeeze=False, gridspec_kw=heights)[:, 0]
  ax, colours = axes[0], colours_of({cell for _, cell, _ in shown.groups})
  ax.set_title(shown.title)
  _reference(ax, shown)
  styles = _styles(shown.groups, colours)
  for number, ((group, _, panel), (colour, line)) in enumerate(
    zip(shown.groups, styles, strict=True)
  ):
    x, y = (np.asarray(panel.data[name], float) for name in 'xy')
    marker = 'o' if len(x) <= 30 else ''
    ax.plot(x, y, line, marker=marker, color=colour, markeredgecolor=PAPER, label=wrap(group, 40))
    if 'low' in panel.data:
      ends = panel.data['low'], panel.data['high']
      ax.fill_between(x, *ends, color=colour, alpha=0.16, linewidth=0)
    if counted[number] and not same:
      _bars(axes[1], x, panel.data, number, len(shown.groups), colour)
    elif counted[number] and not number:
      _bars(axes[1], x, panel.data, 0, 1, MUTED if len(shown.groups) > 1 else colour)
  data = shown.groups[0][2].data
  _label(ax, data)
  _scale(axes, data)
  if any(counted):
    axes[1].set_ylabel(heading(data.get('counted', 'examples')))
  axes[-1].set_xlabel(ax.get_xlabel())
  if any(counted):
    ax.set_xlabel('')
  if len(shown.groups) > 1:
    ax.legend(frameon=False, labelcolor='linecolor', loc='best')
  return fig


def _scale(axes, data):
  """Sets which axes of a curve are logarithmic, and the names of its ticks."""
  if 'x' in data.get('log', ''):
    log_axis(axes[0], (1, 2, 5))
  if 'y' in data.get('log', ''):
    log_axis(axes[0], (1,) if np.max(data['y']) > 100 * np.min(data['y']) else (1, 2, 5), 'y')
  if ticks := data.get('ticks'):
    long = sum(map(len, ticks)) > 90
    turned = {'rotation': 30, 'ha': 'right', 'rotation_mode': 'anchor'} if long else {}
    axes[-1].set_xticks(data['x'], ticks, **turned)


def _styles(groups, colours):
  """(colour, kind of line) of each group: groups of one cell share a colour."""
  seen = {}
  for _, cell, _ in groups:
    seen[cell] = seen.get(cell, -1) + 1
    yield colours[cell], ('-', '--', ':', '-.')[seen[cell] % 4]


def _bars(ax, x, data, number, groups, colour):
  """How many examples each point has: bars of the groups side by side."""
  found = np.unique(x[np.isfinite(x)])
  most = 1.0 if data.get('ticks') else np.ptp(found) / 10 if len(found) > 1 else 0.1
  width = 0.55 * np.min(np.diff(found), initial=most) / groups
  places = x + (number - (groups - 1) / 2) * 1.25 * width  # side by side, as their x differ
  ax.bar(places, data['counts'], width, color=colour, alpha=0.75)
  ax.yaxis.set_major_locator(_few())
  ax.yaxis.set_major_formatter('{x:,.0f}')


def _few():
  from matplotlib.ticker import MaxNLocator

  return MaxNLocator(3, integer=True)


def _reference(ax, shown):
  """The reference line to compare the points with."""
  reference = shown.groups[0][2].data.get('reference')
  if reference == 'diagonal':
    both = [np.ravel(panel.data[name]) for _, _, panel in shown.groups for name in 'xy']
    ends = [np.nanmin(np.concatenate(both)), np.nanmax(np.concatenate(both))]
    if shown.kind == 'curve' and 0 <= ends[0] and ends[1] <= 1:
      ends = [np.floor(10 * ends[0]) / 10, 1]
    ax.plot(ends, ends, color=MUTED, linewidth=1, linestyle='--', zorder=1)
  elif reference == 'zero':
    ax.axhline(0, color=MUTED, linewidth=1, linestyle='--', zorder=1)


def _scatters(shown, note):
  """Axes for each group, all on the same scale."""
  columns = min(len(shown.groups), 2)
  rows = -(-len(shown.groups) // columns)
  fig = new_figure(10 if columns > 1 else 7.5, 4.4 * rows + 0.3, note)
  axes = fig.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
  colours = colours_of({cell for _, cell, _ in shown.groups})
  for ax, (group, cell, panel) in zip(axes, shown.groups, strict=False):
    x, y = (np.ravel(np.asarray(panel.data[name], float)) for name in 'xy')
    if len(x) > MOST_POINTS:
      drawn = np.sort(np.random.default_rng(0).choice(len(x), MOST_POINTS, replace=False))
      x, y = x[drawn], y[drawn]
    _reference(ax, shown)
    ax.plot(x, y, 'o', color=colours[cell], alpha=min(0.7, 20 / len(x) ** 0.5), markersize=4, mew=0)
    ax.set_title(_title(shown, group))
    _label(ax, panel.data)
    ax.grid(visible=True, axis='both')
  for ax in axes[len(shown.groups) :]:
    ax.set_axis_off()
  return fig
