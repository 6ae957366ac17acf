"""Groups of runs that share data and every setting but the seed: their means and their names."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from rnnlab.machine.disk import AnyPath
from rnnlab.results import measures, statistics
from rnnlab.results.compare import resampled
from rnnlab.results.load import COUNTS, DATA, TIMES, settings

MAX_SETTINGS = 8  # the most settings whose response is drawn
SOME = 4  # the response to a setting is drawn if it takes more values than this

CELLS = {
  'lstm': 'LSTM',
  'gru': 'GRU',
  'elman': 'Elman',
  'irnn': 'IRNN',
  'indrnn': 'IndRNN',
  'lstm_no_forget': 'LSTM without forget gate',
  'lstm_peephole': 'LSTM with peepholes',
  'lstm_layer_norm': 'LSTM with layer norm',
  'cifg': 'CIFG',
  'mgu': 'MGU',
  'sru': 'SRU',
  'qrnn': 'QRNN',
  'mingru': 'minGRU',
  'minlstm': 'minLSTM',
  'lru': 'LRU',
  'rglru': 'RG-LRU',
  'slstm': 'sLSTM',
  'mlstm': 'mLSTM',
}


def summarise(runs: pd.DataFrame, workdir: AnyPath | None = None) -> pd.DataFrame:
  """A row per group of runs that share task, data and every setting but the seed.

  Columns: group (a name), data and settings, runs (how many), for each metric its _mean, _std
  (n - 1) and 95% t interval, _low to _high (NaN for a single seed) over the runs in which it is
  finite, parameters, mean seconds.
  For metrics known once also the interval over seeds and test items, _items_low to _items_high, if
  `workdir` is given and holds the predictions of all the runs.
  runs: from results.load_runs, or from a runs.csv of any version.
  """
  runs = measures.of_now(runs)
  groups = runs.groupby(DATA + settings(runs), sort=False, dropna=False)
  size, measured = groups.size(), measures.columns_of(runs)
  mean, std, n = groups[measured].mean(), groups[measured].std(), groups[measured].count()
  half = stats.t.ppf(0.975, n - 1) * std / np.sqrt(n)
  parts = {'mean': mean, 'std': std, 'low': mean - half, 'high': mean + half}
  metrics = {
    f'{metric}_{part}': values[metric] for metric in measured for part, values in parts.items()
  }
  metrics |= _over_items(workdir, runs, groups)
  summary = pd.concat(
    [
      size.rename('runs'),
      pd.DataFrame(metrics, index=size.index),
      groups[COUNTS].first(),
      groups[TIMES].mean(),
    ],
    axis=1,
  ).reset_index()
  summary.insert(0, 'group', label(summary))
  return summary


def _over_items(workdir, runs, groups):
  """{column: the ends of intervals over seeds and test items} of what is known once."""
  columns = [c for c in measures.once_columns(measures.metrics_of(runs)) if c in runs]
  if workdir is None or not columns:
    return {}
  values = {
    (number, column): part[['id', column]].dropna()
    for number, part in runs.groupby(groups.ngroup())
    for column in columns
  }
  found = resampled(workdir, values, runs)
  unknown = statistics.Estimate(*[np.nan] * 3)
  ends, index = {}, groups.size().index
  for column in columns:
    of_each = [
      statistics.over_both(found[number, column][1]) if (number, column) in found else unknown
      for number in range(len(index))
    ]
    for end in ('low', 'high'):
      ends[f'{column}_items_{end}'] = pd.Series([getattr(of, end) for of in of_each], index)
  return ends


def label(frame: pd.DataFrame) -> pd.Series:
  """A Series of names for people, like 'GRU hidden_size=128': the cell, and what else varies."""
  frame = measures.of_now(frame)
  # A setting that varies only between tasks or sets of data, and not within one, need not be named.
  names = [name for name in settings(frame) if name != 'model.cell']
  of_data = frame.groupby([name for name in DATA if name in frame], dropna=False)
  varies = of_data[names].transform('nunique', dropna=False) > 1
  varying = [name for name in names if varies[name].any()]
  ends = [name.rpartition('.')[2] for name in varying]
  shorts = {
    name: end if ends.count(end) == 1 else name for name, end in zip(varying, ends, strict=True)
  }
  source = 'title' if frame['title'].nunique() > frame['source'].nunique() else 'source'

  def words(row, varies):
    yield cell_name(row['model.cell'])
    yield from (
      f'{short}={value_words(row[name])}'
      for name, short in shorts.items()
      if varies[name] and not pd.isna(row[name])
    )
    if frame['task'].nunique() > 1:
      yield f'({row["task"]})'
    if frame[source].nunique() > 1:
      yield f'({row[source]})'
    if 'validation_is_test' in frame and frame['validation_is_test'].nunique() > 1:
      yield '(tutorial protocol)' if row['validation_is_test'] else '(held-out validation)'

  rows = zip(frame.to_dict('records'), varies.to_dict('records'), strict=True)
  return pd.Series([' '.join(words(*row)) for row in rows], index=frame.index, dtype=object)


def cell_name(name: str) -> str:
  """A cell's name for people, as its paper writes it; a cell of one's own keeps its name."""
  return CELLS.get(str(name), str(name))


def value_words(value: Any) -> str:
  """A setting's value for people."""
  return f'{value:g}' if isinstance(value, float) else str(value)


def side_words(overrides: Mapping[str, Any]) -> str:
  """Overrides for people, like 'GRU hidden_size=64'."""
  return ' '.join(
    cell_name(value) if name == 'model.cell' else f'{name.rpartition(".")[2]}={value_words(value)}'
    for name, value in overrides.items()
  )


def many_valued(runs: pd.DataFrame) -> list[str]:
  """The numeric settings that take many values: at most MAX_SETTINGS, those that take the most."""
  counts = {
    name: runs[name].nunique()
    for name in settings(runs)
    if pd.api.types.is_numeric_dtype(runs[name]) and not pd.api.types.is_bool_dtype(runs[name])
  }
  most = sorted(counts, key=counts.__getitem__, reverse=True)[:MAX_SETTINGS]
  return [name for name in counts if name in most and counts[name] > SOME]
