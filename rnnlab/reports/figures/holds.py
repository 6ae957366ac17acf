"""The figure of claims: for each, the effect that was found, its interval, and the verdict."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rnnlab.reports.figures.layout import wrap
from rnnlab.reports.figures.style import COLOURS, FAINT, GRID, INK, MUTED, PAPER, new_figure, styled

VERDICTS = {'supported': COLOURS['elman'], 'refuted': COLOURS['gru'], 'undecided': MUTED}


@styled
def claims(rows: pd.DataFrame, note: str = '') -> Figure:
  """A row for each claim of `results.claims`: its difference and interval, on the row's own scale.

  The margin of a claim, if it has one, is shaded on both sides of 0. Of a claim that could not be
  tested, there is nothing but the verdict.
  """
  heights = np.where(rows['effect'].astype(bool), 1, 0.6)
  middles = heights.cumsum() - heights / 2
  fig = new_figure(10, 0.6 + 0.8 * heights.sum(), note)
  ax = fig.subplots()
  for y, row in zip(middles, rows.to_dict('records'), strict=True):
    colour = VERDICTS[row['verdict']]
    words = '\n'.join(filter(None, (row['verdict'], row['effect'])))
    ax.text(1.12, y, words, color=colour, va='center', fontsize=10, linespacing=1.3)
    if not row['effect']:
      continue
    ends = [row[name] for name in ('difference', 'low', 'high', 'margin')]
    scale = max((abs(end) for end in ends if np.isfinite(end)), default=0) or 1
    if np.isfinite(row['margin']):
      half = row['margin'] / scale
      ax.fill_betweenx([y - 0.3, y + 0.3], -half, half, color=GRID, linewidth=0)
    ax.plot([0, 0], [y - 0.3, y + 0.3], color=FAINT, linewidth=1)
    low, high = np.clip([row['low'] / scale, row['high'] / scale], -1, 1)
    ax.plot([low, high], [y, y], color=colour, linewidth=2.5)
    ax.plot(row['difference'] / scale, y, 'd', color=colour, markersize=9, markeredgecolor=PAPER)
    sides = f'{row["b"]} \N{MINUS SIGN} {row["a"]}'
    ax.text(0, y + 0.34, sides, color=MUTED, ha='center', va='top', fontsize=8)
  ax.set_xlim(-1.06, 1.06)
  ax.set_ylim(heights.sum() + 0.05, -0.05)
  ax.set_xticks([])
  ax.grid(visible=False)
  ax.spines['bottom'].set_visible(False)
  ax.set_yticks(middles, [wrap(words, 44) for words in rows['claim']])
  for label in ax.get_yticklabels():
    label.set(color=INK, fontsize=10)
  return fig
