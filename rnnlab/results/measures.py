"""The metrics that a run's result.json names, and how their values are written for people.

A frame of runs says in its column `metrics`, as JSON, which metrics the task of each row has: the
primary metric first, the loss last. Values stand in columns `<split>_<metric>`, after the last
epoch, and `best_<split>_<metric>`, at the epoch of the best primary metric on validation.
"""

import json
import re
from collections.abc import Iterable
from typing import Any

import pandas as pd

from rnnlab.machine import disk
from rnnlab.tasks.base import BETTER, LINKS, Metric

SPLITS = 'test', 'validation', 'train'


# Of `metrics` in a result.json.
FORM = [{'name': str, 'unit': str, 'better': str, 'format': str, 'link?': str, 'once?': bool}]
# What a result.json without task and metrics means, such as those of version 0.1.
OLD_TASK = 'classification'
OLD_METRICS = (
  Metric('accuracy', '%', 'higher', '.1%'),
  Metric('loss', 'nats per example', 'lower', '.3f'),
)


def task(name: str | None) -> str:
  """The present name of the task that a result names. name: None if it names none."""
  return OLD_TASK if name in (None, 'text_classification') else name


def read(entries: Any) -> tuple[Metric, ...]:
  """The metrics of a result.json. entries: its entry `metrics`, None if it has none.

  Raises ValueError if they are not a list of metrics.
  """
  if entries is None:
    return OLD_METRICS
  if not entries or not disk.fits(entries, FORM):
    raise ValueError('metrics must be a list of name, unit, better and format')
  metrics = tuple(
    Metric(
      *(e['name'], e['unit'], e['better'], _format(e['format'], e['unit']), e.get('link', '')),
      e.get('once', False),
    )
    for e in entries
  )
  for metric in metrics:
    if metric.better not in BETTER:
      raise ValueError(f'{metric.name}: better must be higher or lower, not {metric.better!r}')
    if metric.link not in LINKS:
      raise ValueError(f'{metric.name}: link must be exp or nothing, not {metric.link!r}')
    metric.number(1.0)
  return metrics


def _format(given, unit):
  """A metric's format in today's notation: older versions formatted shares as percentages."""
  number = given.strip('{:}').rstrip('%f') if unit == '%' else given.strip('{:}').replace('%', 'f')
  return f'{number}%' if unit == '%' else number


def of_now(frame: pd.DataFrame) -> pd.DataFrame:
  """The frame with a task and metrics in every row, which an older runs.csv does not have."""
  given = frame.reindex(columns=['task', 'metrics']).astype(object)
  return frame.assign(
    task=given['task'].map(lambda name: task(None if pd.isna(name) else name)),
    metrics=given['metrics'].fillna(as_json(OLD_METRICS)),
  )


def as_json(metrics: Iterable[Metric]) -> str:
  """The metrics in the form in which the column `metrics` of a frame holds them."""
  return json.dumps([metric._asdict() for metric in metrics])


def metrics_of(frame: pd.DataFrame) -> tuple[Metric, ...]:
  """The metrics of a frame, those of the task of its first row first."""
  if 'metrics' not in frame:  # as in an older runs.csv
    return OLD_METRICS
  found = [metric for text in frame['metrics'].unique() for metric in from_json(text)]
  return tuple(dict.fromkeys(found))


def from_json(text: str) -> tuple[Metric, ...]:
  """The metrics that a cell of the column `metrics` holds."""
  return tuple(Metric(**entry) for entry in json.loads(text))


def names(text: str) -> str:
  """The metrics in a cell of the column `metrics`, regardless of their units and formats."""
  return ' '.join(f'{metric.name}:{metric.better}' for metric in from_json(text))


def of_epochs(metrics: Iterable[Metric]) -> list[Metric]:
  """The metrics known at each epoch, as opposed to those computed once, for the test split only."""
  return [metric for metric in metrics if not metric.once]


def last(metrics: Iterable[Metric]) -> list[str]:
  """The columns of the values after the last epoch."""
  return _of_splits(SPLITS, metrics)


def best(metrics: Iterable[Metric]) -> list[str]:
  """The columns of the values at the epoch of best validation, without 'best_', and that epoch."""
  return ['epoch', *_of_splits(SPLITS[:2], metrics)]


def _of_splits(splits, metrics):
  metrics = list(metrics)
  return [
    f'{split}_{metric.name}'
    for split in splits
    for metric in metrics
    if split == 'test' or not metric.once
  ]


def columns(metrics: Iterable[Metric]) -> list[str]:
  """All columns of values."""
  metrics = list(metrics)
  return [*last(metrics), *(f'best_{name}' for name in best(metrics))]


def columns_of(frame: pd.DataFrame) -> list[str]:
  """All columns of values of a frame whose rows may belong to several tasks."""
  names = [name for text in frame['metrics'].unique() for name in columns(from_json(text))]
  return list(dict.fromkeys(names))


def of_column(metrics: Iterable[Metric], column: str) -> Metric | None:
  """The metric whose values a column holds; None if it holds no metric."""
  splits = '|'.join(SPLITS)
  name = re.sub(f'^(best_)?({splits})_', '', column)
  return next((m for m in metrics if m.name == name and name != column), None)


def primary_column(metrics: tuple[Metric, ...], validation_is_test: bool) -> str:
  """The column of the primary metric, which alone decides headlines and verdicts.

  It is fixed before any run: the first metric on the test split, at the epoch that validation
  chose; but after the last epoch if validation is the test split, where choosing an epoch would
  bias the result.
  """
  return test_columns(metrics)[bool(validation_is_test)]


def test_columns(metrics: tuple[Metric, ...]) -> tuple[str, str]:
  """The columns of the first metric on the test split: at the best epoch, after the last."""
  return f'best_test_{metrics[0].name}', f'test_{metrics[0].name}'


def once_columns(metrics: Iterable[Metric]) -> list[str]:
  """The columns of what is known once, of the parameters that a run keeps."""
  names = [metric.name for metric in metrics if metric.once]
  return [f'{at}test_{name}' for name in names for at in ('best_', '')]


def epoch_in_words(metrics: tuple[Metric, ...], column: str) -> str:
  """At which epoch the values of one of `test_columns` are taken."""
  if column.startswith('best_'):
    return f'at the epoch of best validation {metrics[0].words}'
  return 'after the last epoch'


def primary(frame: pd.DataFrame, part: str = '') -> pd.Series:
  """The primary metric of each row of runs or, with a `part` such as 'mean', of a summary."""
  ends = f'_{part}' * bool(part)
  parts = [
    rows[f'{primary_column(from_json(text), tutorial)}{ends}']
    for (text, tutorial), rows in frame.groupby(['metrics', 'validation_is_test'])
  ]
  return pd.concat(parts).reindex(frame.index) if parts else pd.Series(dtype=float)


def epoch_words(frame: pd.DataFrame) -> str:
  """At which epoch the primary metric of these rows is taken; '' if they differ in this."""
  found = metrics_of(frame)
  names = {primary_column(found, tutorial) for tutorial in frame['validation_is_test']}
  return epoch_in_words(found, names.pop()) if len(names) == 1 else ''
