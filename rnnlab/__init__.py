"""Recurrent networks as pure functions, in JAX: cells, recurrence, training, sweeps, reports."""

from rnnlab import cells
from rnnlab.cells.base import Cell
from rnnlab.cells.elman import elman
from rnnlab.cells.gru import gru
from rnnlab.cells.lstm import LSTMCarry, lstm
from rnnlab.devices import mesh, use_cores
from rnnlab.experiment import Result, run
from rnnlab.models import Recurrent, SequenceClassifier, pool
from rnnlab.recurrence import bidirectional, dropout_masks, stacked, unroll
from rnnlab.results import load_metrics, load_runs

__version__ = '0.1.0'
__all__ = [
  'Cell',
  'LSTMCarry',
  'Recurrent',
  'Result',
  'SequenceClassifier',
  'bidirectional',
  'cells',
  'dropout_masks',
  'elman',
  'gru',
  'load_metrics',
  'load_runs',
  'lstm',
  'mesh',
  'pool',
  'run',
  'stacked',
  'unroll',
  'use_cores',
]
