"""The confusion matrix and the calibration that reports draw of predicted classes."""

import numpy as np
import pytest
from scipy import special

from rnnlab import tasks
from rnnlab.tasks import panels, scores


def runs_of(classes, shape, seed=0):
  """The predictions of two runs, and the same, flat, as labels and probabilities `[M, C]`."""
  draw = np.random.default_rng(seed)
  runs, labels, probabilities = [], [], []
  for _ in range(2):
    of = draw.integers(0 if len(shape) == 1 else -1, classes, shape)
    logits = draw.normal(0, 2, (*shape, classes)).astype(np.float32)
    best = logits[..., 1] - logits[..., 0] if classes == 2 else logits
    runs.append({'labels': of, 'final': np.zeros_like(best), 'best': best})
    labels.append(of[of >= 0])
    probabilities.append(special.softmax(logits.astype(float), axis=-1)[of >= 0])
  return runs, np.concatenate(labels), np.concatenate(probabilities)


@pytest.mark.parametrize('classes, shape', [(2, (300,)), (3, (300,)), (4, (50, 9)), (2, (50, 9))])
def test_panels_of_classes_are_of_all_runs_and_of_real_steps_alone(classes, shape):
  runs, labels, probabilities = runs_of(classes, shape)
  names = [str(i) for i in range(classes)]
  matrix, curve = panels.of_classes(runs, names)
  predicted = probabilities.argmax(axis=1)
  expected = [
    [np.sum((labels == i) & (predicted == j)) for j in range(classes)] for i in range(classes)
  ]
  assert matrix.data['counts'].tolist() == expected and matrix.data['labels'] == names
  sure, right, counts = scores.calibration(probabilities.max(axis=1), predicted == labels)
  held = np.asarray(counts) > 0
  np.testing.assert_array_equal(curve.data['counts'], counts[held])
  np.testing.assert_allclose(curve.data['x'], sure[held], rtol=1e-5)
  np.testing.assert_allclose(curve.data['y'], right[held], rtol=1e-5)


def test_without_a_best_epoch_the_last_is_shown():
  (of, _), _, _ = runs_of(2, (40,))
  task = tasks.find('classification')
  (matrix, _) = task.panels(
    [{'labels': of['labels'], 'final': -of['best']}], {'classes': ['n', 'p']}
  )
  (turned, _) = task.panels([of | {'best': -of['best']}], {'classes': ['n', 'p']})
  assert np.array_equal(matrix.data['counts'], turned.data['counts'])
  assert matrix.data['labels'] == ['n', 'p'] and 'one run' in matrix.caption
