"""Axes in the unit of a metric, and labels at the ends of lines that do not overlap."""

import re
import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import LogLocator
from scipy.optimize import isotonic_regression

from rnnlab import results
from rnnlab.tasks.base import Metric

ABBREVIATIONS = 'auroc', 'bleu', 'ece', 'f1', 'mae', 'mse', 'nll', 'r2', 'rmse'


def name_point(ax: Axes, words: str, at: Any, colour: Any, strong: bool = True) -> None:
  """Labels a point in the margin, for `place_labels` to move; a point that is NaN has no label."""
  if not np.isfinite(at).all():
    return
  ax.annotate(
    wrap(words),
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


def place_labels(fig: Figure) -> None:
  """Moves the labels at the lines' ends apart, each as little as possible (least squares)."""
  fig.get_layout_engine().execute(fig)
  fig.set_layout_engine('none')  # keeps the axes where they are now
  for ax in fig.axes:
    labels = sorted(ax.texts, key=lambda label: label.xyann[1])
    if not labels:
      continue
    to = ax.yaxis.get_transform()  # distances are those on the page, also on a log axis
    bottom, top = to.transform(ax.get_ylim())
    unit = (top - bottom) / ax.bbox.height
    heights = np.array([Text.get_window_extent(label).height for label in labels]) * unit
    wanted = to.transform(np.array([label.xyann[1] for label in labels]))
    steps = np.concatenate([[0], np.cumsum((heights[1:] + heights[:-1]) / 2 * 1.15)])
    base = isotonic_regression(wanted - steps).x
    base = np.clip(base, bottom, max(bottom, top - steps[-1]))
    for label, y in zip(labels, to.inverted().transform(base + steps), strict=True):
      label.set_position((1.03, y))


def log_axis(ax: Axes, subs: Any, which: str = 'x') -> None:
  ax.set(**{f'{which}scale': 'log'})
  axis = ax.xaxis if which == 'x' else ax.yaxis
  axis.set_minor_formatter('')
  axis.set_major_locator(LogLocator(subs=subs))
  axis.set_major_formatter('{x:g}' if which == 'x' else '{x:,.12g}')
  if which == 'y':
    ax.tick_params(axis='y', which='minor', length=0)


def cell_legend(ax: Axes, cells: Any, colours: Any) -> None:
  ax.legend(
    [
      Line2D([], [], marker='o', linestyle='', color=colours[cell]) for cell in dict.fromkeys(cells)
    ],
    [wrap(results.cell_name(cell)) for cell in dict.fromkeys(cells)],
    loc='lower right',
    bbox_to_anchor=(1, 1),
    ncols=4,
    frameon=False,
    labelcolor='linecolor',
    handletextpad=0.1,
    borderpad=0,
  )


def spread(count: int) -> np.ndarray:
  """`count` places between 0 and 1; the golden ratio keeps neighbours apart, however many."""
  return (np.arange(count) * 0.618 + 0.5) % 1


def at_least(set_limits: Any, limits: Any, span: float) -> None:
  """Widens an axis to at least `span`: a narrower one would exaggerate small differences."""
  middle, half = np.mean(limits), max(np.ptp(limits), span) / 2
  set_limits(middle - half, middle + half)


def time_unit(longest: float) -> tuple[str, float]:
  units = (180, 's', 1), (10800, 'min', 60), (np.inf, 'h', 3600)
  return next((unit, scale) for limit, unit, scale in units if not longest > limit)


def wrap(group: str, width: int = 20) -> str:
  """A label wrapped to `width`; a very long one is cut to what a figure has room for."""
  words = re.sub(r'(\S{30})(?=\S)', r'\1 ', group)
  return textwrap.fill(words, width, break_long_words=False, max_lines=4, placeholder=' …')


def percent(value: float, _: Any) -> str:
  """A tick of an axis of shares."""
  return f'{100 * value:g}%'


def in_unit(axis: Axis, metric: Metric) -> None:
  """Writes the ticks of an axis in the unit of a metric, where ticks can carry it."""
  if metric.unit == '%':
    axis.set_major_formatter(percent)


def label_values(ax: Axes, metric: Metric, split: str = '') -> None:
  """Shows the unit of a metric on the vertical axis: at its ticks, or else in its label."""
  in_unit(ax.yaxis, metric)
  if metric.unit != '%':
    ax.set_ylabel(axis_words(metric, split))


def heading(words: str) -> str:
  """Words with a capital first letter, and abbreviations in capitals."""
  words = ' '.join(part.upper() if part in ABBREVIATIONS else part for part in words.split(' '))
  return words[:1].upper() + words[1:]


def axis_words(metric: Metric, split: str = '') -> str:
  """The label of an axis of a metric; its unit too where the ticks do not carry it."""
  words = f'{split} {metric.words}'.strip()
  unit = f', {metric.unit}' if metric.unit not in ('', '%') else ''
  return f'{heading(words)}{unit}'


def least_span(metric: Metric, limits: Any) -> float:
  """The least span of an axis of a metric: two points for a share, else 2% of the value."""
  return 0.02 if metric.unit == '%' else 0.02 * abs(np.mean(limits))
