"""The figures of how far gradients reach: before and after training, and at each epoch."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rnnlab.reports.figures.layout import log_axis, name_point, place_labels, wrap
from rnnlab.reports.figures.style import MUTED, groups_of, new_figure, styled

LEAST = 1e-8  # where the axis ends: anything less is lost in rounding when gradients are summed
NOTHING = 1e-45  # in place of 0, which has no logarithm


@styled
def gradient_flow(flow: pd.DataFrame, note: str = '') -> Figure:
  """The share of the gradient left at each lag, one line per group: before and after training.

  flow: of results.flow_of, of one layer of each run, with a column `group`.
  """
  fig, groups = new_figure(10, 4.4, note), groups_of(flow)
  axes = fig.subplots(1, 2, sharex=True, sharey=True)
  drawn = flow[flow['lag'] > 0]
  ends = drawn.groupby('id')['epoch']
  for ax, epoch, title in (
    (axes[0], ends.transform('min'), _title(drawn, ends.min())),
    (axes[1], ends.transform('max'), _title(drawn, ends.max())),
  ):
    ax.set_title(title)
    ax.axhline(1, color=MUTED, linewidth=1, linestyle='--', zorder=1)
    for group, (colour, alpha) in groups.items():
      rows = drawn[(drawn['epoch'] == epoch) & (drawn['group'] == group)]
      logs = np.log(rows['share'].clip(lower=NOTHING))
      lines = logs.groupby(rows['lag']).agg([lambda of: of.mean(skipna=False), 'min', 'max'])
      lag, (mean, low, high) = lines.index, np.exp(lines.to_numpy().T)
      ax.plot(lag, mean, 'o-', color=colour, alpha=alpha, markersize=4.5)
      ax.fill_between(lag, low, high, color=colour, alpha=0.16 * alpha, linewidth=0)
      known = np.flatnonzero(mean >= LEAST)
      if ax is axes[1] and len(known):
        name_point(ax, group, (lag[known[-1]], mean[known[-1]]), colour)
    ax.set_xlabel('Steps before the last')
    ax.grid(visible=True, axis='both')
  axes[0].set_ylabel('Gradient, as a share of that at the last step')
  _scale(axes, drawn)
  place_labels(fig)
  return fig


@styled
def gradient_flow_by_epoch(flow: pd.DataFrame, note: str = '') -> Figure:
  """The share of the gradient that is left, as the colour of an epoch and a lag: a panel a group.

  flow: as of `gradient_flow`, of more than one epoch.
  """
  drawn = flow[flow['lag'] > 0]
  groups = groups_of(drawn)
  logs = np.log10(drawn['share'].clip(lower=NOTHING))
  means = logs.groupby([drawn['group'], drawn['lag'], drawn['epoch']]).agg(
    lambda of: of.mean(skipna=False)
  )
  means = means.clip(lower=np.log10(LEAST))
  low, high = min(-1, means.min()), max(0, means.max())
  last, lags = int(drawn['epoch'].max()), np.unique(drawn['lag'])
  columns = min(len(groups), 2 if len(groups) == 4 else 3)
  rows = -(-len(groups) // columns)
  fig = new_figure(10, 0.6 + rows * (0.9 + 0.2 * max(len(lags), 7)), note)
  axes = fig.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
  for ax, (group, (colour, _)) in zip(axes, groups.items(), strict=False):
    table = means[group].unstack('epoch').reindex(index=lags, columns=range(last + 1))
    image = ax.imshow(
      np.ma.masked_invalid(table),
      **{'cmap': 'viridis', 'vmin': low, 'vmax': high, 'origin': 'lower'},
      **{'aspect': 'auto', 'interpolation': 'nearest'},
    )
    ax.set_title(wrap(group, 80 // columns), color=colour)
    ax.grid(visible=False)
    ax.set_yticks(range(len(lags)), [f'{lag:,.0f}' for lag in lags])
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
  for ax in axes[len(groups) :]:
    ax.set_axis_off()
  for ax in axes[max(0, len(groups) - columns) : len(groups)]:
    ax.set_xlabel('Epoch (0: before training)')
    ax.tick_params(labelbottom=True)
  for ax in axes[::columns]:
    ax.set_ylabel('Steps before the last')
  bar = fig.colorbar(image, ax=list(axes), aspect=12 * rows + 8, pad=0.02)
  bar.outline.set_visible(False)
  bar.ax.yaxis.set_major_locator(MaxNLocator(6, integer=True))
  bar.ax.yaxis.set_major_formatter(
    lambda power, _: f'{10.0**power:g}' if power > -4 else f'1e{power:.0f}'
  )
  bar.set_label('Share that is left')
  return fig


def _title(flow, epochs):
  """After which epoch the norms were taken, if it is the same for all runs; else the range."""
  if not epochs.any():
    return 'Before training'
  first, last = int(epochs.min()), int(epochs.max())
  return f'After epoch {last}' if first == last else f'After the last epoch, {first} to {last}'


def _scale(axes, flow):
  """Logarithmic axes, with a tick at each lag as far as there is room."""
  low, high = flow['share'].clip(lower=LEAST).agg(['min', 'max'])
  log_axis(axes[0], (1,) if high > 100 * low else (1, 2, 5), 'y')
  if low == LEAST:
    axes[0].set_ylim(bottom=LEAST)
  for ax in axes:
    ax.set_xscale('log', base=2)
    ax.minorticks_off()
    lags = np.unique(flow['lag'])
    ax.set_xticks(lags, [f'{lag:,.0f}' for lag in lags])
    ax.tick_params(axis='y', which='minor', length=0)
