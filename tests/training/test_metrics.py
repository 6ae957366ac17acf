"""Losses and accuracies against float64 NumPy, and the way they are summed."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnlab.training import metrics


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
  found = metrics.totals(jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(weights))
  np.testing.assert_allclose(found.loss, (weights * expected).sum(), rtol=1e-5, atol=1e-6)
  assert found.correct == (weights * ((logits > 0) == labels)).sum()
  assert found.count == weights.sum()


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=25)
def test_many_classes(seed):
  batch, classes = 16, 5
  draw = np.random.default_rng(seed)
  logits = draw.normal(size=(batch, classes)).astype(np.float32) * 4
  labels = draw.integers(0, classes, batch)
  found = metrics.totals(jnp.asarray(logits), jnp.asarray(labels), jnp.ones(batch))
  expected = softmax_cross_entropy(logits, labels)
  np.testing.assert_allclose(found.loss, expected.sum(), rtol=1e-5, atol=1e-6)
  assert found.correct == (logits.argmax(-1) == labels).sum()


def test_extreme_logits_stay_finite():
  found = metrics.totals(jnp.array([1e4, -1e4]), jnp.array([0, 1]), jnp.ones(2))
  np.testing.assert_allclose(found.loss, 2e4)


def test_means_weigh_examples_not_batches():
  big = metrics.totals(jnp.zeros(30), jnp.zeros(30, int), jnp.ones(30))
  small = metrics.totals(jnp.full(10, 9.0), jnp.ones(10, int), jnp.ones(10))
  found = metrics.means('test', metrics.add(metrics.add(metrics.zeros(), big), small))
  expected = (30 * np.log(2) + 10 * np.log1p(np.exp(-9))) / 40
  np.testing.assert_allclose(found['test_loss'], expected, rtol=1e-6)
  assert found['test_accuracy'] == 1.0
