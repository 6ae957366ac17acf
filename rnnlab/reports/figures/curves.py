"""Figures of what was measured at each epoch, against epochs and against time."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rnnlab.reports import captions
from rnnlab.reports.figures.layout import (
  axis_words,
  heading,
  in_unit,
  label_values,
  log_axis,
  name_point,
  place_labels,
  time_unit,
  wrap,
)
from rnnlab.reports.figures.style import FAINT, MAX_OVERLAID, groups_of, new_figure, styled
from rnnlab.results import measures


@styled
def learning_curves(epochs: pd.DataFrame, note: str = '') -> Figure:
  """Every metric against epochs; beyond four groups, the primary one, with a panel for each.

  epochs: a row per run and epoch, with the columns of results.load_metrics and `group`.
  """
  word = captions.watched(epochs)
  metrics = measures.of_epochs(measures.metrics_of(epochs))
  epochs = epochs.assign(x=epochs['epoch'])
  groups = groups_of(epochs)
  if len(groups) > MAX_OVERLAID:
    fig, axes = _facets(
      epochs,
      groups,
      metrics[0],
      ['validation', 'train'],
      f'{axis_words(metrics[0])}: solid {word}'
      + ', dashed train' * bool(epochs[f'train_{metrics[0].name}'].notna().any()),
      'Epoch',
      note,
    )
  else:
    columns = min(2, len(metrics))
    rows = -(-len(metrics) // columns)
    fig = new_figure(10, 1 + 3.4 * rows, note)
    axes = fig.subplots(rows, columns, squeeze=False).ravel()
    for ax, metric in zip(axes, metrics, strict=False):
      ys = [f'{split}_{metric.name}' for split in ('validation', 'train')]
      known = [y for y in ys if epochs[y].notna().any()]
      title = f'{heading(metric.words)}: solid {word}{", dashed train" * (ys[1] in known)}'
      ax.set_title(wrap(title, 48))
      _overlay(ax, epochs, groups, known)
      _fit(ax, metric)
      ax.set_xlabel('Epoch')
      label_values(ax, metric)
    for ax in axes[len(metrics) :]:
      ax.set_axis_off()
    axes = axes[: len(metrics)]
    place_labels(fig)
  ticks = 10 if len(groups) <= MAX_OVERLAID else 6
  for ax in axes:
    ax.xaxis.set_major_locator(MaxNLocator(ticks, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
  return fig


@styled
def score_vs_time(epochs: pd.DataFrame, note: str = '') -> Figure:
  """The primary metric on validation against wall time; beyond four groups, a panel for each."""
  # After an epoch whose row is lost, the time is not known.
  epochs = epochs[epochs.groupby('id').cumcount() + 1 == epochs['epoch']]
  elapsed = epochs.groupby('id')['seconds'].cumsum()
  unit, scale = time_unit(elapsed.max())
  epochs = epochs.assign(x=elapsed / scale)
  groups, label = groups_of(epochs), f'Wall time of the epochs, {unit}'
  metric = measures.metrics_of(epochs)[0]
  title = f'{captions.watched(epochs).capitalize()} {metric.words} against time'
  if len(groups) > MAX_OVERLAID:
    fig, axes = _facets(epochs, groups, metric, ['validation'], title, label, note)
  else:
    fig = new_figure(10, 4.4, note)
    ax = fig.subplots()
    ax.set_title(title)
    _overlay(ax, epochs, groups, [f'validation_{metric.name}'])
    _fit(ax, metric)
    ax.set_xlabel(label)
    label_values(ax, metric)
    axes = [ax]
    place_labels(fig)
  for ax in axes:
    ax.set_xlim(left=0)
  return fig


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


def _overlay(ax, epochs, groups, ys):
  for y in reversed(ys):
    for group, (colour, alpha) in groups.items():
      end = _draw(ax, _curve(epochs[epochs['group'] == group], y), y, colour, alpha)
      train = y.startswith('train')
      name_point(ax, 'train' if train else group, end, colour, strong=not train)


def _facets(epochs, groups, metric, splits, title, xlabel, note):
  """A panel for each group, the other groups behind it in grey."""
  ys = [f'{split}_{metric.name}' for split in splits]
  curves = {(group, y): _curve(rows, y) for group, rows in epochs.groupby('group') for y in ys}
  columns = 4 if len(groups) > 6 else 3
  rows = -(-len(groups) // columns)
  fig = new_figure(10, 0.9 + 2.1 * rows, note)
  fig.suptitle(title, x=0.012, ha='left', fontsize=12, fontweight='bold')
  axes = fig.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
  for i, (ax, (group, (colour, _))) in enumerate(zip(axes, groups.items(), strict=False)):
    ax.set_title(wrap(group), color=colour, fontsize=10)
    for other in groups:
      if other != group:
        _draw(ax, curves[other, ys[0]], ys[0], FAINT, 0.7, context=True)
    for y in reversed(ys):
      _draw(ax, curves[group, y], y, colour)
    in_unit(ax.yaxis, metric)
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    ax.xaxis.set_tick_params(labelbottom=i + columns >= len(groups))
    if i + columns >= len(groups):
      ax.set_xlabel(xlabel)
  _fit(axes[0], metric)
  for ax in axes[len(groups) :]:
    ax.set_axis_off()
  return fig, axes[: len(groups)]


def _fit(ax, metric):
  """Scales the vertical axis so that the first epochs do not hide the later ones.

  That of an exponential becomes logarithmic. Another ends at the highest value after the first
  tenth of the epochs, if these go far beyond it and are two or more.
  """
  low, high = ax.dataLim.intervaly
  if metric.link == 'exp' and 3 * low < high < np.inf:
    log_axis(ax, (1, 2, 5) if high < 100 * low else (1,), 'y')
  elif metric.better == 'lower' and metric.link != 'exp':
    ys = [line.get_ydata() for line in ax.lines if len(line.get_xdata()) >= 20]
    later = np.concatenate([y[len(y) // 10 :] for y in ys]) if ys else np.array([np.nan])
    later = later[np.isfinite(later)]
    if len(later) and np.ptp(later) > 0 and high > later.max() + 2 * np.ptp(later):
      ax.set_ylim(later.min() - 0.1 * np.ptp(later), later.max() + 0.1 * np.ptp(later))
