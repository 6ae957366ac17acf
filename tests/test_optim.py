"""Optimisers and schedules against formulas written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from rnnlab import optim


def config(**fields):
  return ConfigDict(
    {
      'name': 'adam',
      'learning_rate': 0.1,
      'epsilon': 1e-8,
      'schedule': 'constant',
      'warmup_steps': 0,
      'clip_norm': 0.0,
      'weight_decay': 0.0,
    }
    | fields
  )


def steps(cfg, params, grads, total_steps=10):
  tx = optim.optimizer(cfg, total_steps)
  state = tx.init(params)
  for grad in grads:
    updates, state = tx.update(grad, state, params)
    params = optax.apply_updates(params, updates)
  return params


def test_adam_is_the_paper_s_with_decoupled_decay_of_matrices_after_clipping():
  """Kingma & Ba 2015, algorithm 1; Loshchilov & Hutter 2019, algorithm 2; by hand."""
  params = {'w': jnp.array([[1.0, -2.0]]), 'b': jnp.array([0.5])}
  grads = [{'w': jnp.array([[3.0, 4.0]]), 'b': jnp.array([12.0])}] * 3
  cfg = config(clip_norm=1.0, weight_decay=0.01, epsilon=1e-7)
  found = steps(cfg, params, grads)
  for name, decay in (('w', 0.01), ('b', 0.0)):
    p = np.asarray(params[name], np.float64)
    m = v = 0.0
    for t in (1, 2, 3):
      g = np.asarray(grads[0][name], np.float64) / 13.0  # the global norm of (3, 4, 12)
      m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
      scaled = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-7)
      p = p - 0.1 * (scaled + decay * p)
    np.testing.assert_allclose(found[name], p, rtol=1e-4)


def test_schedules():
  linear = optim.schedule(config(schedule='linear', warmup_steps=2), 10)
  found = [linear(t) for t in (0, 1, 2, 6, 10)]
  np.testing.assert_allclose(found, [0, 0.05, 0.1, 0.05, 0], atol=1e-7)
  cosine = optim.schedule(config(schedule='cosine'), 8)
  expected = [0.05 * (1 + np.cos(np.pi * t / 8)) for t in range(9)]
  np.testing.assert_allclose([cosine(t) for t in range(9)], expected, atol=1e-7)
  assert optim.schedule(config(), 8)(5) == 0.1


@pytest.mark.parametrize('name', optim.OPTIMIZERS)
def test_every_optimiser_goes_downhill(name):
  params = {'w': jnp.array([[2.0, -3.0]])}
  tx = optim.optimizer(config(name=name, learning_rate=0.05), 100)
  state = tx.init(params)
  for _ in range(100):
    grads = jax.grad(lambda p: jnp.sum(p['w'] ** 2))(params)
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
  assert jnp.sum(params['w'] ** 2) < 6.5
