"""Losses and accuracies against float64 NumPy, and how they are summed."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnlab.tasks import classification
from rnnlab.training import metrics

METRICS = classification.task.metrics


def sums_of(logits, labels, weights):
  """(the sum of the losses, of correct answers, and of the weights)."""
  batch = {'labels': jnp.asarray(labels), 'weights': jnp.asarray(weights)}
  found = metrics.of(classification.loss, METRICS, jnp.asarray(logits), batch)
  assert found['loss'][1] == found['accuracy'][1]
  return found['loss'][0], *found['accuracy']


def softmax_cross_entropy(logits, labels):
  logits = logits.astype(np.float64)
  logits = logits - logits.max(-1, keepdims=True)
  probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  return -np.log(probabilities[np.arange(len(labels)), labels])


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=25)
def test_binary_is_the_two_class_softmax(seed):
  batch = 16
  draw = np.random.default_rng(seed)
  logits = draw.normal(size=batch).astype(np.float32) * 4
  labels = draw.integers(0, 2, batch)
  weights = draw.integers(0, 2, batch).astype(np.float32)
  expected = softmax_cross_entropy(np.stack([np.zeros(batch), logits], -1), labels)
  loss, correct, count = sums_of(logits, labels, weights)
  np.testing.assert_allclose(loss, (weights * expected).sum(), rtol=1e-5, atol=1e-6)
  assert correct == (weights * ((logits > 0) == labels)).sum()
  assert count == weights.sum()


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=25)
def test_many_classes(seed):
  batch, classes = 16, 5
  draw = np.random.default_rng(seed)
  logits = draw.normal(size=(batch, classes)).astype(np.float32) * 4
  labels = draw.integers(0, classes, batch)
  loss, correct, _ = sums_of(logits, labels, jnp.ones(batch))
  expected = softmax_cross_entropy(logits, labels)
  np.testing.assert_allclose(loss, expected.sum(), rtol=1e-5, atol=1e-6)
  assert correct == (logits.argmax(-1) == labels).sum()


def test_extreme_logits_stay_finite():
  loss, _, _ = sums_of([1e4, -1e4], [0, 1], jnp.ones(2))
  np.testing.assert_allclose(loss, 2e4)


def test_means_weigh_examples_not_batches():
  def sums(logits, label):
    batch = {'labels': jnp.full(len(logits), label), 'weights': jnp.ones(len(logits))}
    return classification.loss(logits, batch)

  total = metrics.zeros(METRICS)
  for part in (sums(jnp.zeros(30), 0), sums(jnp.full(10, 9.0), 1)):
    total = metrics.add(total, part)
  found = metrics.means('test', total, METRICS)
  expected = (30 * np.log(2) + 10 * np.log1p(np.exp(-9))) / 40
  np.testing.assert_allclose(found['test_loss'], expected, rtol=1e-6)
  assert found['test_accuracy'] == 1.0 and list(found) == ['test_loss', 'test_accuracy']
