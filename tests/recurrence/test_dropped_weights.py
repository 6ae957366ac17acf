"""DropConnect: the weights of the state, dropped for all steps, of every cell."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from programs import few_cells
from test_recurrence import (
  HIDDEN,
  INPUTS,
  NAMES,
  arguments,
  assert_close,
  loop_on,
  make,
  problem,
  tupled,
  with_gradients,
)

from rnnlab import cells, models, recurrence

RATE = 0.4
each_cell = pytest.mark.parametrize('name', few_cells(NAMES))


@each_cell
def test_equals_the_numpy_loop_with_these_weights(name):
  """Values, and gradients of the parameters, which are 0 for dropped weights."""
  p = problem(name)

  @jax.jit
  def run(params, xs, carry, cotangents, key, rate):
    def dropping(params, xs, carry):
      dropped = recurrence.drop_weights(key, make(name), params, INPUTS, rate)
      return tupled(name, False)(dropped, xs, carry, {}, None)

    dropped = recurrence.drop_weights(key, make(name), params, INPUTS, rate)
    return with_gradients(dropping)(params, xs, carry, cotangents), dropped

  with jax.enable_x64():
    *args, _, _ = arguments(name, 'float64')
    actual, dropped = run(*args, jax.random.key(1), RATE)
    dropped = jax.tree.map(np.asarray, dropped)
  outputs, (d_params, d_xs, d_carry) = loop_on(name, p._replace(params=dropped), None, False)
  factor = dropped['w_h'] / p.params['w_h']
  assert_allclose(np.unique(factor.round(12)), [0, 1 / (1 - RATE)])
  others = dropped.keys() - {'w_h'}
  assert others and all((dropped[other] == p.params[other]).all() for other in others)
  d_params['w_h'] *= factor
  assert_close(actual, (outputs, (d_params, d_xs, d_carry)), 'float64')


@each_cell
def test_weights_are_dropped_at_the_rate_and_by_the_key(name):
  cell = make(name, 60)
  params = cell.init(jax.random.key(0), 7)

  def dropped(seed, rate):
    return recurrence.drop_weights(jax.random.key(seed), cell, params, 7, rate)['w_h']

  first = dropped(0, RATE)
  zeros = np.asarray(first == 0)
  deviation = np.sqrt(RATE * (1 - RATE) / 60)
  assert abs(zeros.mean() - RATE) < 5 * deviation / np.sqrt(zeros.size / 60)
  assert np.abs(zeros.mean(axis=0) - RATE).max() < 5 * deviation  # by unit, and by the one before
  assert np.abs(zeros.mean(axis=1) - RATE).max() < 5 * deviation
  assert_array_equal(jax.jit(dropped)(0, RATE), first)
  assert (dropped(1, RATE) != first).any()
  assert recurrence.drop_weights(jax.random.key(0), cell, params, 7, 0.0) is params
  with pytest.raises(ValueError, match='weight_dropout must be at least 0 and below 1'):
    dropped(0, 1.0)


def joint(weights):
  """A cell whose step cuts the weights of its state from its parameters."""

  def init(key, input_size):
    return {'w': jnp.ones((input_size + 4, 4)), 'u': jnp.ones((4, 2)), 'v': jnp.ones((1, 4))}

  def step(params, h, x_t, dot):
    cut = x_t.shape[-1]
    x = dot(params['w'][:cut], x_t)
    h = jnp.tanh(x + dot(params['w'][cut:].T, h) + dot(weights(params), 2 * h))
    return h, h

  def initial_carry(batch_shape, dtype=jnp.float32):
    return jnp.zeros((*batch_shape, 4), dtype)

  return cells.base.Cell(init, initial_carry, step, name='joint')


def test_what_a_step_cuts_from_its_parameters_is_dropped_there():
  cell = joint(lambda p: jnp.concatenate([p['u'], p['v'].T, jnp.zeros((4, 1))], axis=1))
  params = cell.init(None, 200)
  dropped = recurrence.drop_weights(jax.random.key(1), cell, params, 200, 0.5)
  assert_array_equal(dropped['w'][:200], 1)
  for w in (dropped['w'][200:], dropped['u'], dropped['v']):
    assert {*np.unique(w)} == {0, 2}


def test_what_a_step_computes_from_its_parameters_is_refused():
  cell = joint(lambda p: jnp.exp(p['w'][-4:]))
  words = 'weight_dropout drops weights that are parameters.*cell joint computes a weight .* by exp'
  with pytest.raises(ValueError, match=words):
    recurrence.drop_weights(jax.random.key(0), cell, cell.init(None, 3), 3, 0.5)


XS = np.random.default_rng(0).normal(size=(3, 5, INPUTS)).astype(np.float32)


@pytest.mark.parametrize('name', ['lstm', 'gru-before', 'gru-after'])
def test_a_layer_s_kernel_takes_them_as_its_scan_does(name):
  cell = make(name, 16)
  layer = models.Recurrent(cell, weight_dropout=0.5)
  variables, rngs = layer.init(jax.random.key(0), XS), {'dropout': jax.random.key(1)}

  def run(backend, variables):
    chosen = layer.clone(backend=backend)
    return chosen.apply(variables, XS, deterministic=False, rngs=rngs)

  plain = layer.apply(variables, XS)
  assert_array_equal(plain, models.Recurrent(cell).apply(variables, XS))
  (ys, pull), (ys_scan, pull_scan) = (
    jax.vjp(jax.jit(lambda v, b=backend: run(b, v)), variables) for backend in ('kernel', 'scan')
  )
  assert (ys != plain).any()
  assert_allclose(ys, ys_scan, rtol=1e-5, atol=1e-6)
  gradients, expected = pull(jnp.ones_like(ys)), pull_scan(jnp.ones_like(ys))
  jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-4, atol=1e-5), gradients, expected)
  share = (np.asarray(gradients[0]['params']['cell']['w_h']) == 0).mean()
  assert 0.4 < share < 0.6


def test_each_direction_of_a_layer_has_its_own():
  layer = models.Recurrent(make('elman'), bidirectional=True, weight_dropout=0.5)
  params = layer.init(jax.random.key(0), XS)['params']
  params = {'cell': params['cell'], 'cell_backward': params['cell']}

  def total(params):
    rngs = {'dropout': jax.random.key(1)}
    return layer.apply({'params': params}, XS, deterministic=False, rngs=rngs).sum()

  gradients = jax.grad(total)(params)
  one, other = (np.asarray(gradients[name]['w_h']) == 0 for name in params)
  assert one.any() and other.any() and (one != other).any()
  assert one.shape == (HIDDEN, HIDDEN)
