"""The results of a workdir as tables, and their statistics: what the runs show, and how surely."""

from rnnlab.results.claims import check_claims
from rnnlab.results.compare import compare
from rnnlab.results.flow import flow_of
from rnnlab.results.groups import cell_name, label, many_valued, side_words, summarise, value_words
from rnnlab.results.load import (
  DATA,
  TIMES,
  check_references,
  config_of,
  epochs_of,
  flatten,
  legible,
  load_metrics,
  load_runs,
  missing_runs,
  reference_for,
  references_of,
  settings,
  sweep_of,
)
from rnnlab.results.verdicts import claims

__all__ = [
  'DATA',
  'TIMES',
  'cell_name',
  'check_claims',
  'check_references',
  'claims',
  'compare',
  'config_of',
  'epochs_of',
  'flatten',
  'flow_of',
  'label',
  'legible',
  'load_metrics',
  'load_runs',
  'many_valued',
  'missing_runs',
  'reference_for',
  'references_of',
  'settings',
  'side_words',
  'summarise',
  'sweep_of',
  'value_words',
]
