"""Figures of how the primary metric depends on settings, and of what a search finds."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import offset_copy

from rnnlab import results
from rnnlab.reports import captions
from rnnlab.reports.figures.layout import (
  axis_words,
  cell_legend,
  in_unit,
  label_values,
  log_axis,
  name_point,
  place_labels,
)
from rnnlab.reports.figures.style import INK, colours_of, groups_of, new_figure, styled
from rnnlab.results import measures, statistics


@styled
def response(runs: pd.DataFrame, note: str = '') -> Figure:
  """The primary metric on validation, `y`, against each setting that takes many values."""
  metric = measures.metrics_of(runs)[0]
  runs = runs.dropna(subset='y')
  names = results.many_valued(runs)
  colours = colours_of(runs['model.cell'])
  others = runs['model.cell'].nunique() - 1
  columns = min(len(names), 3)
  rows = -(-len(names) // columns)
  fig = new_figure(10, 0.5 + (4 if columns == 1 else 2.9) * rows, note)
  axes = fig.subplots(rows, columns, sharey=True, squeeze=False).ravel()
  for i, (ax, name) in enumerate(zip(axes, names, strict=False)):
    values = runs[name]
    # Such as learning rates, which are drawn on a log scale and crowd at the low end.
    if values.min() > 0 and values.max() > max(10 * values.min(), 3 * np.median(values.unique())):
      log_axis(ax, (1,) if values.max() > 100 * values.min() else (1, 2, 5))
      if values.nunique() <= 8:
        ax.set_xticks(values.unique(), map(results.value_words, values.unique()))
    else:
      ax.xaxis.set_major_locator(MaxNLocator(5))
    for j, (cell, part) in enumerate(runs.groupby('model.cell', sort=False)):
      # Cells stand side by side where a setting has few values.
      beside = offset_copy(ax.transData, fig, x=6 * j - 3 * others, units='points')
      best = part.loc[(metric.sign * part['y']).idxmax()]
      dots = ax.plot(
        part[name], part['y'], 'o', color=colours[cell], alpha=0.55, markeredgecolor='none'
      ) + ax.plot(
        best[name], best['y'], 'o', color=colours[cell], markeredgecolor=INK, markersize=9
      )
      for line in dots:
        line.set_transform(beside)  # not before, or the axes would not fit the data
    ax.set_xlabel(name)
    if i % columns == 0:
      ax.set_ylabel(axis_words(metric, captions.watched(runs)))
    in_unit(ax.yaxis, metric)
  for ax in axes[len(names) :]:
    ax.set_axis_off()
  cell_legend(axes[0], runs['model.cell'], colours)
  return fig


search_response = response


@styled
def expected_best(trials: pd.DataFrame, note: str = '') -> Figure:
  """The expected validation metric of the best of n trials, against n, for each arm."""
  metric = measures.metrics_of(trials)[0]
  fig = new_figure(10, 3.8, note)
  ax = fig.subplots()
  for group, (colour, alpha) in groups_of(trials).items():
    values = trials.loc[trials['group'] == group, 'y']
    mean, low, high = statistics.expected_best(values, metric.sign)
    budget = np.arange(1, len(values) + 1)
    ax.plot(budget, mean, color=colour, alpha=alpha)
    ax.fill_between(budget, low, high, color=colour, alpha=0.16 * alpha, linewidth=0)
    name_point(ax, group, (budget[-1], mean[-1]), colour)
  ax.set_title(f'Expected validation {metric.words} of a search')
  ax.set_xlabel('Trials')
  ax.set_xlim(left=1)
  ax.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
  label_values(ax, metric, 'validation')
  place_labels(fig)
  return fig
