"""The look of all figures of a report: colours, fonts, size, and how they become PNG and SVG."""

import functools
import io
import textwrap
import warnings

import matplotlib as mpl
from absl import logging
from matplotlib import font_manager
from matplotlib.figure import Figure

INK, MUTED, FAINT, GRID, PAPER = '#1f2328', '#5f6872', '#b9c0c6', '#e3e6e9', '#ffffff'
# Hues after Okabe and Ito's palette, which colour-blind readers can tell apart, dark enough for
# text in them to be legible on white (WCAG AA: 4.5 to 1). A cell keeps its colour everywhere.
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
# Fallbacks, if installed, for letters that the usual font lacks, such as in names of classes.
WIDER_FONTS = (
  'Noto Sans CJK SC',
  'Noto Sans CJK JP',
  'Noto Sans SC',
  'Source Han Sans SC',
  'WenQuanYi Micro Hei',
  'WenQuanYi Zen Hei',
  'PingFang SC',
  'Hiragino Sans GB',
  'Microsoft YaHei',
  'SimHei',
  'Arial Unicode MS',
)
STYLE = {
  'font.family': [
    'sans-serif',
    *(name for name in WIDER_FONTS if name in {*font_manager.get_font_names()}),
  ],
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
MAX_FLOWS = 6  # of gradients, with their lines in a single panel
MAX_ROWS, MAX_PANELS, MAX_PAIRS = 20, 12, 6  # the most that a figure shows


def styled(draw):
  """`draw` in the report's style, whatever style the caller has set."""

  @functools.wraps(draw)
  def styled(*data, note=''):
    with mpl.rc_context(STYLE):
      return draw(*data, note=note)

  return styled


def render(draw, *data, note):
  """(png bytes, svg text) of `draw(*data, note=...)`; the note is part of the PNG only.

  The SVG has a transparent ground and takes its colours from CSS variables of the page around it.
  Its words are paths, unless no font here has all letters: then they are left to the browser's.
  """
  png, svg = io.BytesIO(), io.StringIO()
  with mpl.rc_context(STYLE), warnings.catch_warnings():
    missing = []

    def show(message, *of):
      if 'missing from font' in str(message):
        missing.append(str(message))
      else:
        told(message, *of)

    told, warnings.showwarning = warnings.showwarning, show
    warnings.filterwarnings('always', 'Glyph .* missing from font', UserWarning)
    draw(*data, note=note).savefig(png, format='png', dpi=160)
    if missing:
      _tell_of_fonts(missing[0])
      mpl.rcParams['svg.fonttype'] = 'none'
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


@functools.cache
def _tell_of_fonts(missing):
  logging.warning(
    "The report's figures show boxes in place of some letters (%s): install a font that has them,"
    " such as Noto Sans CJK, and make the report again. report.html has them in the browser's font",
    missing,
  )


def new_figure(width, height, note):
  # A note is set in 9 point: about 14 characters to the inch.
  note = '\n'.join(textwrap.fill(line, int(width * 14)) for line in note.splitlines())
  size = width, height + 0.17 * (note.count('\n') + 1 if note else 0)
  fig = Figure(figsize=size, layout='constrained')
  fig.get_layout_engine().set(w_pad=0.12, h_pad=0.1, wspace=0.03, hspace=0.04)
  if note:
    fig.supxlabel(note, x=0.012, ha='left', fontsize=9, color=MUTED, linespacing=1.35)
  return fig


def colours_of(cells):
  others = sorted(set(cells) - set(COLOURS))
  return COLOURS | {cell: SPARE_COLOURS[i % len(SPARE_COLOURS)] for i, cell in enumerate(others)}


def groups_of(metrics):
  """Group -> its colour and strength: groups of one cell share a colour and fade in order."""
  colours, seen, groups = colours_of(metrics['model.cell']), {}, {}
  for group, cell in metrics[['group', 'model.cell']].drop_duplicates().itertuples(index=False):
    seen[cell] = seen.get(cell, 0) + 1
    groups[group] = colours[cell], max(1.3 - 0.3 * seen[cell], 0.4)
  return groups
