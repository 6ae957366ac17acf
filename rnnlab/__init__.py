"""Recurrent networks as pure functions, in JAX: cells, recurrence, training, sweeps, reports.

A name is loaded at its first use: what needs no JAX, as `launch.py --status`, does not wait for it.
"""

import importlib

__version__ = '0.2.0'
_HOMES = {
  'models.adapters': ('LinenCell', 'NNXCell'),
  'cells.base': ('Cell', 'Lookup'),
  'cells.elman': ('elman',),
  'cells.gru': ('gru',),
  'cells.lstm': ('LSTMCarry', 'lstm'),
  'machine.devices': ('mesh', 'use_cores'),
  'runs.experiment': ('Result',),
  'runs.run': ('run',),
  'models': ('Recurrent', 'SequenceClassifier', 'pool'),
  'predict': ('Ensemble', 'Predictor', 'export', 'load', 'load_ensembles'),
  'recurrence': ('bidirectional', 'dropout_masks', 'stacked', 'unroll'),
  'results': ('load_metrics', 'load_runs'),
  'sweeping': ('sweep',),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}
_MODULES = {
  'cells': 'cells',
  'configs': 'configs',
  'conventions': 'models.initial',
  'flow': 'recurrence.flow',
  'interop': 'interop',
  'tasks': 'tasks',
}
__all__ = sorted([*_MODULES, *_HOME])


def __getattr__(name):
  if name not in __all__:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  home = importlib.import_module(f'{__name__}.{_HOME.get(name) or _MODULES[name]}')
  value = globals()[name] = getattr(home, name) if name in _HOME else home
  return value


def __dir__():
  return sorted({*globals(), *__all__})
