"""The test examples that a run finds hardest: those of the highest loss."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnlab.data.base import Dataset
from rnnlab.data.shown import shown
from rnnlab.tasks.base import Outputs, Task

MOST = 100


def hardest(task: Task, dataset: Dataset, outputs: np.ndarray) -> list[dict[str, Any]]:
  """The MOST test examples of the highest loss, that one first, as hardest.json holds them.

  outputs: the model's on the test split, `[N, ...]`. Returns, for each, row: which example of the
  split, from 0; loss; shown: a text, or a series' features, see `rnnlab.data.shown`; true and
  predicted: in words, '' if the task does not say what its outputs mean, or does so for each step.
  Empty for a stream, whose positions are not examples.
  """
  if task.batches == 'windows':
    return []
  split = dataset.splits['test']
  losses = np.asarray(_losses(task.loss, outputs, split), np.float64)
  order = np.argsort(-np.where(np.isnan(losses), -np.inf, losses), kind='stable')[:MOST]
  rows = order[np.isfinite(losses[order])]
  true, predicted = _true(task, dataset, rows), _predicted(task, dataset, outputs[rows])
  parts = zip(rows, losses[rows], shown(dataset, rows), true, predicted, strict=True)
  return [
    {'row': int(row), 'loss': float(loss), 'shown': words, 'true': t, 'predicted': p}
    for row, loss, words, t, p in parts
  ]


@jax.jit(static_argnums=0)
def _losses(loss, outputs, split):
  """The loss of each example by itself, `[N]`."""

  def one(outputs, example):
    alone = jax.tree.map(lambda array: array[None], example)
    total, weight = loss(outputs[None], {**alone, 'weights': jnp.ones(1)})['loss']
    return total / weight

  return jax.vmap(one)(outputs, split)


def _true(task, dataset, rows):
  """What was to be predicted for each of `rows`, in words."""
  target = next((name for name in dataset.splits['test'] if name != 'inputs'), None)
  if task.outputs is None or target is None:
    return [''] * len(rows)
  means = task.outputs(dataset.encoding)
  if means.kind == 'sequence':
    ids, encoding = dataset.splits['test']['targets'][rows], dataset.encoding
    return [task.join(of.tolist(), encoding, dataset.vocabulary) for of in ids]
  return [_in_words(value, means) for value in dataset.splits['test'][target][rows]]


def _in_words(value: np.ndarray, means: Outputs) -> str:
  if means.steps:
    return ''
  if means.kind in ('binary', 'classes'):
    return str(means.names[int(value)])
  if means.kind == 'labels':
    return ', '.join(name for name, has in zip(means.names, value, strict=True) if has)
  return _number(value * np.asarray(means.std) + np.asarray(means.mean))


def _predicted(task, dataset, outputs):
  if task.decode is None or not len(outputs):
    return [''] * len(outputs)
  answers, *_ = task.decode(outputs, dataset.encoding).values()
  return [_answer(answer) for answer in answers]


def _answer(answer):
  if isinstance(answer, (str, np.str_)):
    return str(answer)
  number = isinstance(answer, (int, float, np.number)) or getattr(answer, 'ndim', 1) == 0
  return _number(answer) if number else ''


def _number(value):
  return ', '.join(f'{part:.4g}' for part in np.ravel(value)[:4])
