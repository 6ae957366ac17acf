"""The figures of a report: colour by cell, labels at the ends of lines, axes in a metric's unit.

Each function takes tables of `rnnlab.results`, whose rows are of one task, and returns a
matplotlib Figure in the report's style. Figures are made without pyplot, so drawing one leaves no
state behind and needs no display.
"""

from rnnlab.reports.figures.curves import learning_curves, score_vs_time
from rnnlab.reports.figures.flow import gradient_flow, gradient_flow_by_epoch
from rnnlab.reports.figures.holds import claims
from rnnlab.reports.figures.panel import panels
from rnnlab.reports.figures.scores import frontier, paired_seeds, select, test_scores
from rnnlab.reports.figures.search import expected_best, response, search_response
from rnnlab.reports.figures.style import (
  COLOURS,
  FAINT,
  GRID,
  INK,
  MAX_FLOWS,
  MAX_OVERLAID,
  MAX_PAIRS,
  MAX_PANELS,
  MAX_ROWS,
  MUTED,
  PAPER,
  STYLE,
  THEME,
  render,
)

__all__ = [
  'COLOURS',
  'FAINT',
  'GRID',
  'INK',
  'MAX_FLOWS',
  'MAX_OVERLAID',
  'MAX_PAIRS',
  'MAX_PANELS',
  'MAX_ROWS',
  'MUTED',
  'PAPER',
  'STYLE',
  'THEME',
  'claims',
  'expected_best',
  'frontier',
  'gradient_flow',
  'gradient_flow_by_epoch',
  'learning_curves',
  'paired_seeds',
  'panels',
  'render',
  'response',
  'score_vs_time',
  'search_response',
  'select',
  'test_scores',
]
