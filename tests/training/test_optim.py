"""Optimisers and schedules against formulas written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from rnnlab.training import optim


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
      'weight_noise': 0.0,
      'decay': 0.5,
      'decay_after': 4,
      'patience': 1,
      'nonmonotone': 5,
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
  assert optim.schedule(config(schedule='plateau'), 8)(5) == 0.1


def test_step_falls_at_each_epoch_after_the_first_as_zaremba_et_al_have_it():
  """TensorFlow's tutorial, for epoch i from 0: decay ** max(i + 1 - max_epoch, 0)."""
  of_epoch = [0.1 * 0.5 ** max(i + 1 - 4, 0) for i in range(9)]
  rate = optim.schedule(config(schedule='step'), 9 * 3, 3)
  np.testing.assert_allclose([rate(t) for t in range(27)], np.repeat(of_epoch, 3), rtol=1e-6)
  at_once = optim.schedule(config(schedule='step', decay_after=0, decay=0.1), 2 * 3, 3)
  np.testing.assert_allclose([at_once(t) for t in range(6)], [1e-2] * 3 + [1e-3] * 3, rtol=1e-5)


SCORES = [1.0, 3.0, 2.0, np.nan, 4.0, 4.0, 1.0, 3.5, 5.0, 2.0, 4.5, 4.5, 4.5, 4.0]


def epochs(cfg, scores=SCORES, steps=3):
  """The parameters to evaluate after each epoch of steps on a noisy bowl, and the gradients."""
  tx = optim.optimizer(cfg, len(scores) * steps, steps)
  rng = np.random.default_rng(0)
  params = {'w': jnp.asarray(rng.normal(size=(2, 3)), jnp.float32), 'b': jnp.array([0.5])}
  start = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
  noises = [{name: rng.normal(size=p.shape) for name, p in params.items()} for _ in scores * steps]
  update, stepped, end_epoch = map(jax.jit, (tx.update, tx.stepped, tx.end_epoch))
  state, best, evaluated = tx.init(params), -np.inf, []
  for step, noise in enumerate(noises):
    grads = jax.tree.map(lambda p, e: p + e.astype(np.float32), params, noise)
    updates, state = update(grads, state, params)
    params = optax.apply_updates(params, updates)
    state = stepped(state, params)
    if (step + 1) % steps == 0:
      score = scores[step // steps]
      improved = score > best
      best = score if improved else best
      before = tx.evaluated(params, state)
      state = end_epoch(state, params, jnp.float32(score), improved)
      evaluated.append(tx.evaluated(params, state))
      jax.tree.map(np.testing.assert_array_equal, before, evaluated[-1])
  return start, noises, evaluated


def lowered(scores, patience, decay):
  """The factor of the rate in each epoch: PyTorch's ReduceLROnPlateau, patience one lower."""
  factor, best, bad, found = 1.0, -np.inf, 0, []
  for score in scores:
    found.append(factor)
    if score > best:
      best, bad = score, 0
    else:
      bad += 1
    if bad > patience - 1:
      factor, bad = factor * decay, 0
  return found


@pytest.mark.parametrize('patience', [1, 2, 3])
def test_plateau_falls_after_epochs_that_are_not_better(patience):
  cfg = config(name='sgd', schedule='plateau', decay=0.25, patience=patience)
  p, noises, found = epochs(cfg)
  rates = np.repeat(lowered(SCORES, patience, 0.25), 3)
  assert len({*rates}) >= 3
  if patience == 1:  # PyTorch's example of a language model divides by 4 at each of these
    assert rates[::3].tolist() == [4.0**-n for n in (0, 0, 0, 1, 2, 2, 3, 4, 5, 5, 6, 7, 8, 9)]
  for step, (rate, noise) in enumerate(zip(rates, noises, strict=True)):
    p = {name: p[name] - 0.1 * rate * (p[name] + noise[name]) for name in p}
    if step % 3 == 2:
      jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found[step // 3], p)


@pytest.mark.parametrize(('n', 'begins'), [(1, 4), (3, 6), (5, 9), (12, None)])
@pytest.mark.parametrize('schedule', ['constant', 'plateau'])
def test_asgd_averages_from_where_validation_is_no_longer_better(n, begins, schedule):
  """Merity et al. 2018, algorithm 1, by hand in float64, with the decay of all parameters.

  It begins at an epoch that is worse than the best before the last n, as in their code. The average
  is over the parameters at that epoch's end and after each later step.
  """
  scores = [1.0, 3.0, 2.0, np.nan, 2.5, 4.0, 2.7, 4.5, 5.0, 2.0, 4.5, 4.5, 4.5, 4.0]
  logs, first = [], None
  for epoch, score in enumerate(scores):
    if first is None and len(logs) > n and score < np.nanmax(logs[:-n]):
      first = epoch
    logs.append(score)
  cfg = config(name='asgd', nonmonotone=n, weight_decay=0.1, schedule=schedule)
  p, noises, found = epochs(cfg, scores)
  rates = np.repeat(lowered(scores, 1, 0.5), 3) if schedule == 'plateau' else np.ones(len(noises))
  averaged = []
  for step, (rate, noise) in enumerate(zip(rates, noises, strict=True)):
    p = {name: p[name] - 0.1 * rate * (p[name] + noise[name] + 0.1 * p[name]) for name in p}
    if first is not None and step >= first * 3 + 2:
      averaged.append(p)
    if step % 3 == 2:
      for name, value in found[step // 3].items():
        desired = np.mean([q[name] for q in averaged or [p]], axis=0)
        np.testing.assert_allclose(value, desired, rtol=2e-5)
  assert first == begins


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


@pytest.mark.parametrize('momentum_decay', [0.004, 1.0], ids=['torch', 'keras'])
def test_nadam_is_pytorch_s_formula(momentum_decay):
  """torch.optim.NAdam's algorithm, by hand in float64; Keras uses 0.96 ** t."""
  rng = np.random.default_rng(0)
  p = rng.normal(size=(2, 3))
  tx = optim.scale_by_nadam(momentum_decay=momentum_decay)
  found = jnp.asarray(p, jnp.float32)
  state = tx.init(found)
  m = v = 0.0
  product = 1.0
  for t in range(1, 7):
    g = rng.normal(size=p.shape)
    update, state = tx.update(jnp.asarray(g, jnp.float32), state)
    found = found - 0.1 * update
    mu = 0.9 * (1 - 0.5 * 0.96 ** (t * momentum_decay))
    mu_next = 0.9 * (1 - 0.5 * 0.96 ** ((t + 1) * momentum_decay))
    product *= mu
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
    step = mu_next * m / (1 - product * mu_next) + (1 - mu) * g / (1 - product)
    p = p - 0.1 * step / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    np.testing.assert_allclose(found, p, rtol=1e-4, atol=1e-5)


def test_nadam_is_keras_s_with_its_decay():
  keras = pytest.importorskip('keras')
  rng = np.random.default_rng(0)
  start = rng.normal(size=(2, 3)).astype(np.float32)
  variable = keras.Variable(start)
  theirs = keras.optimizers.Nadam(learning_rate=0.1, epsilon=1e-7)
  tx = optim.scale_by_nadam(eps=1e-7, momentum_decay=1.0)
  ours = jnp.asarray(start)
  state = tx.init(ours)
  for _ in range(6):
    g = rng.normal(size=start.shape).astype(np.float32)
    theirs.apply([jnp.asarray(g)], [variable])
    update, state = tx.update(jnp.asarray(g), state)
    ours = ours - 0.1 * update
    np.testing.assert_allclose(ours, np.asarray(variable), rtol=1e-5, atol=1e-5)


def test_a_config_s_nadam_is_the_paper_s():
  grads = [{'w': jnp.array([[3.0, 4.0]])}, {'w': jnp.array([[-1.0, 2.0]])}]
  params = {'w': jnp.array([[1.0, -2.0]])}
  tx = optim.scale_by_nadam(eps=1e-8, momentum_decay=0.004)
  state, expected = tx.init(params), params
  for grad in grads:
    update, state = tx.update(grad, state)
    expected = jax.tree.map(lambda p, u: p - 0.1 * u, expected, update)
  np.testing.assert_allclose(steps(config(name='nadam'), params, grads)['w'], expected['w'])
