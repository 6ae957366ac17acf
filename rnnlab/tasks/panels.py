"""What a report draws of classes that were predicted: by NumPy, as a report loads no JAX."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rnnlab.tasks.base import Panel

BINS = 15  # of a calibration, as in rnnlab.tasks.scores


def of_classes(predictions: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[Panel]:
  """The confusion matrix and the calibration of predicted classes, of all runs together.

  predictions: for each run labels, int `[N]` or `[N, T]`, below 0 where there is none, and final
    and, where there is one, best: the log-odds of the second of two classes, of the shape of
    labels, or a logit for each class `[..., C]`. names: of the C classes.
  """
  counts = np.zeros((len(names), len(names)), int)
  sure, right = [], []
  for of in predictions:
    labels, logits = np.asarray(of['labels']), np.asarray(of.get('best', of['final']), float)
    if logits.ndim == labels.ndim:
      logits = np.stack([np.zeros_like(logits), logits], axis=-1)
    real = labels >= 0
    labels, logits = labels[real], logits[real]
    predicted = logits.argmax(axis=-1)
    np.add.at(counts, (labels, predicted), 1)
    # One over the sum of all odds against the likeliest class is its probability.
    sure.append(1 / np.exp(logits - logits.max(axis=-1, keepdims=True)).sum(axis=-1))
    right.append(predicted == labels)
  seeds = 'the runs of all seeds' if len(predictions) > 1 else 'one run'
  matrix = Panel(
    'matrix',
    'Confusion matrix',
    f'Which class was taken for which in the test split, by {seeds}: a row is a true class, a'
    ' column a predicted one.',
    {'labels': list(names), 'counts': counts, 'x_label': 'Predicted', 'y_label': 'True'},
  )
  return [matrix, _calibration(np.concatenate(sure), np.concatenate(right), seeds)]


def _calibration(sure, right, seeds):
  """A point for each of BINS bins of probability that has examples; a bin has its upper edge."""
  places = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], sure, side='left')
  counts = np.bincount(places, minlength=BINS)
  held = counts > 0
  x, y = (np.bincount(places, of, BINS)[held] / counts[held] for of in (sure, right))
  return Panel(
    'curve',
    'Calibration',
    f'How often an answer is right, against how sure the model is of it, by {seeds}, in {BINS} bins'
    ' of equal width. On the dashed line it is right as often as it says; below, it is too sure of'
    ' itself. Bars: how many predictions a point is of.',
    {'x': x, 'y': y, 'counts': counts[held], 'reference': 'diagonal'}
    | {'x_label': 'Probability of the predicted class', 'y_label': 'Share that is right'},
  )
