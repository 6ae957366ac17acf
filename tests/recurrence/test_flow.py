"""How far gradients reach, against loops that differentiate one step at a time, and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from programs import few_cells

import rnnlab
from rnnlab import cells, flow
from rnnlab.cells.base import Cell, matmul
from rnnlab.recurrence import nudges

BATCH, STEPS, INPUTS, HIDDEN = 3, 7, 3, 4
MASKS = {
  'all': np.ones((BATCH, STEPS), bool),
  'holes': np.array([[1, 0, 1, 1, 0, 1, 1], [0, 1, 1, 0, 0, 1, 0], [1, 1, 1, 0, 0, 0, 0]], bool),
}
each_cell = pytest.mark.parametrize('name', few_cells(cells.names()))
each_mask = pytest.mark.parametrize('mask', MASKS.values(), ids=MASKS)


@pytest.fixture(autouse=True)
def double():
  with jax.enable_x64(True):
    yield


def problem(name):
  """A cell, its parameters, all moved off their initial values, and inputs; in float64."""
  cell = cells.get(name, hidden_size=HIDDEN)
  keys = iter(jax.random.split(jax.random.key(0), 40))
  params = jax.tree.map(
    lambda a: a.astype(float) + 0.2 * jax.random.normal(next(keys), a.shape, float),
    jax.jit(cell.init, static_argnums=1)(jax.random.key(1), INPUTS),
  )
  return cell, params, jax.random.normal(next(keys), (BATCH, STEPS, INPUTS), float)


def states(cell, params, xs, real):
  """For one row: its real inputs, and the flat carry before and after each; by the step alone."""
  carry, found = cell.initial_carry((1,), float), []
  flat, unravel = jax.flatten_util.ravel_pytree(carry)
  xs = xs[real]

  @jax.jit
  def step(flat, x):
    return jax.flatten_util.ravel_pytree(cell.step(params, unravel(flat), x[None], matmul)[0])[0]

  for x in xs:
    found.append(flat)
    flat = step(flat, x)
  return step, xs, [*found, flat]


def jacobians(cell, params, xs, real):
  """For one row: the product of the steps' Jacobians from each state to the last, in order."""
  step, xs, flats = states(cell, params, xs, real)
  product, found = np.eye(len(flats[0])), []
  jacobian = jax.jit(jax.jacrev(step))
  for x, before in reversed([*zip(xs, flats[:-1], strict=True)]):
    found.append(product)
    product = product @ np.asarray(jacobian(before, x))
  return found[::-1]


def weighed(carry):
  """A loss of the last carry whose gradient by each number is known: its index."""
  flat = jnp.concatenate([a.reshape(len(a), -1) for a in jax.tree.leaves(carry)], axis=1)
  return (flat * jnp.arange(1, 1 + flat.shape[1])).sum()


@each_cell
@each_mask
def test_norms_are_those_of_products_of_jacobians(name, mask):
  cell, params, xs = problem(name)
  found = flow.gradient_norms(lambda carry, ys: weighed(carry), cell, params, xs, mask=mask)
  for row, real in enumerate(mask):
    of = jacobians(cell, params, xs[row], real)
    expected = [np.linalg.norm(np.arange(1, 1 + len(j)) @ j) for j in of]
    assert_allclose(found[row][real], expected, rtol=1e-8)
    assert not found[row][~real].any()


@each_cell
def test_norms_are_those_of_jax_grad_where_a_loss_is_of_all_outputs(name):
  """By the state between two halves of a plain unroll, the first being constant."""
  cell, params, xs = problem(name)

  def of_outputs(ys):
    return (jnp.sin(ys) * jnp.arange(1, 1 + ys.shape[-1])).sum()

  found = flow.gradients(lambda _, ys: of_outputs(ys[:, 3:]), cell, params, xs)
  for t in (1, 2):
    carry, _ = rnnlab.unroll(cell, params, xs[:, : t + 1], backend='scan')

    def rest(carry, t=t):
      ys = rnnlab.unroll(cell, params, xs[:, t + 1 :], initial_carry=carry, backend='scan')[1]
      return of_outputs(ys[:, 2 - t :])

    wanted = jax.grad(rest)(carry)
    for got, of in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
      assert_allclose(got[:, t], of, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize('name', ['lstm', 'gru', 'elman', 'indrnn'])
def test_an_output_that_is_in_the_carry_has_its_own_gradient(name):
  cell, params, xs = problem(name)
  by = flow.gradients(lambda _, ys: ys[:, -1].sum(), cell, params, xs)
  h = jax.tree.leaves(by)[0]
  assert_allclose(h[:, -1], 1.0)
  assert all(not np.any(other[:, -1]) for other in jax.tree.leaves(by)[1:])


def test_an_output_that_is_a_function_of_the_carry_has_the_gradient_of_that():
  cell, params, xs = problem('qrnn')
  gate = jax.nn.sigmoid(xs[:, -1] @ params['w_o'] + params['b_o'])  # y_t = o * c_t
  by = flow.gradients(lambda _, ys: ys[:, -1].sum(), cell, params, xs)
  assert_allclose(by[:, -1], gate, rtol=1e-10)


def linear(w):
  """h_t = W h_{t-1} + x_t."""

  def step(params, h, x, dot):
    h = dot(params['w'].T, h) + x
    return h, h

  return Cell(
    lambda key, size: {'w': jnp.asarray(w)},
    lambda shape, dtype=float: jnp.zeros((*shape, len(w)), dtype),
    step,
    name='linear',
  )


def test_of_a_linear_recurrence_the_norms_are_those_of_powers():
  w = np.random.default_rng(0).normal(0, 0.5, (HIDDEN, HIDDEN))
  cell, params = linear(w), {'w': jnp.asarray(w)}
  xs = jnp.ones((BATCH, STEPS, HIDDEN))
  lengths = jnp.array([7, 4, 1])
  powers = [np.linalg.matrix_power(w, k) for k in range(STEPS)]
  by = flow.gradient_norms(lambda h, _: h[:, 0].sum(), cell, params, xs, lengths=lengths)
  whole = flow.jacobian_norms(cell, params, xs, jax.random.key(0), lengths=lengths, probes=4000)
  for row, length in enumerate(lengths):
    ks = range(length)
    assert_allclose(by[row, :length][::-1], [np.linalg.norm(powers[k][0]) for k in ks], rtol=1e-10)
    assert_allclose(whole[row, :length][::-1], [np.linalg.norm(powers[k]) for k in ks], rtol=0.05)
  radius = flow.spectral_radius(cell, params, xs, lengths=lengths)
  expected = np.where(
    np.arange(STEPS) < lengths[:, None], np.abs(np.linalg.eigvals(w)).max(), np.nan
  )
  assert_allclose(radius, expected, rtol=1e-10)


@each_cell
def test_random_projections_estimate_the_norm_of_the_jacobian(name):
  cell, params, xs = problem(name)
  mask = MASKS['holes']
  found = flow.jacobian_norms(cell, params, xs, jax.random.key(0), mask=mask, probes=2000)
  for row, real in enumerate(mask):
    expected = [np.linalg.norm(of) for of in jacobians(cell, params, xs[row], real)]
    assert_allclose(found[row][real], expected, rtol=0.15)


@each_cell
def test_the_spectral_radius_is_that_of_the_step(name):
  cell, params, xs = problem(name)
  real = MASKS['holes'][0]
  found = flow.spectral_radius(cell, params, xs[:1], mask=real[None])
  step, of_real, flats = states(cell, params, xs[0], real)
  each = [jax.jacrev(step)(s, x) for s, x in zip(flats[:-1], of_real, strict=True)]
  assert_allclose(found[0][real], [np.abs(np.linalg.eigvals(j)).max() for j in each], rtol=1e-6)
  assert np.isnan(found[0][~real]).all()


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def test_gates_of_lstm_are_those_of_its_equations():
  cell, params, xs = problem('lstm')
  params['b'] = params['b'].at[HIDDEN : 2 * HIDDEN].add(2.0)
  mask, values = MASKS['holes'], []
  for row, real in enumerate(mask):
    _, inputs, flats = states(cell, params, xs[row], real)
    for x, flat in zip(inputs, flats[:-1], strict=True):
      values.append(x @ params['w_x'] + flat[:HIDDEN] @ params['w_h'] + params['b'])
  i, f, _, o = (sigmoid(np.array(a)) for a in np.split(np.array(values), 4, axis=1))
  found = flow.gate_statistics(cell, params, xs, mask=mask)
  assert_allclose(found.low, [(gate < 0.1).mean() for gate in (f, i, o)])
  assert_allclose(found.high, [(gate > 0.9).mean() for gate in (f, i, o)])
  assert found.high[0] > 0
  assert_allclose(found.memory.c, 1 / (1 - f.mean(axis=0)), rtol=1e-10)
  assert np.isnan(found.memory.h).all()


def test_a_gate_of_what_goes_into_a_product_is_no_forget_gate():
  """In any order of the gates, such as a GRU's with the update gate before the reset gate."""

  def step(params, h, x, dot):
    z, r = jax.nn.sigmoid(x), jax.nn.sigmoid(2 * x)
    kept = z * h
    h = kept + (1 - z) * jnp.tanh(dot(params['w'], r * h))
    return h, h

  xs = jax.random.normal(jax.random.key(0), (BATCH, STEPS, HIDDEN), float)
  found = flow.gate_statistics(
    linear(np.eye(HIDDEN))._replace(step=step), {'w': jnp.eye(HIDDEN)}, xs
  )
  assert_allclose(found.memory, 1 / (1 - sigmoid(np.asarray(xs)).mean(axis=(0, 1))), rtol=1e-10)


# Which part of the carry has a forget gate, and how many sigmoids a step has.
GATES = {
  'elman': ('', 0),
  'gru': ('h', 2),
  'mgu': ('h', 1),
  'cifg': ('c', 2),
  'lstm_no_forget': ('', 2),
  'lstm_peephole': ('c', 3),
  'lstm_layer_norm': ('c', 3),
  'sru': ('h', 2),
  'minlstm': ('h', 2),
  'mingru': ('h', 2),
  'rglru': ('h', 1),
  'lru': ('', 0),
  'indrnn': ('', 0),
  'qrnn': ('h', 2),
  'slstm': ('cn', 1),
  'mlstm': ('cn', 1),
}


@pytest.mark.parametrize(
  'name',
  [pytest.param(n, marks=() if n in ('lstm', 'gru', 'mlstm') else pytest.mark.slow) for n in GATES],
)
def test_a_forget_gate_is_found_where_a_cell_has_one(name):
  cell, params, xs = problem(name)
  forgetting, count = GATES[name]
  found = flow.gate_statistics(cell, params, xs)
  assert len(found.low) == len(found.high) == count
  memory = found.memory._asdict() if hasattr(found.memory, '_asdict') else {'h': found.memory}
  assert ''.join(name for name, of in memory.items() if np.isfinite(of).any()) == forgetting
  assert all((memory[name] >= 1).all() for name in forgetting)


def test_lags_are_counted_from_the_end_of_each_row():
  mask = jnp.asarray(MASKS['holes'])
  found = np.where(mask, nudges.lags(mask), -1)
  assert found.tolist() == [
    [4, -1, 3, 2, -1, 1, 0],
    [-1, 2, 1, -1, -1, 0, -1],
    [2, 1, 0, *[-1] * 4],
  ]
  values = jnp.arange(BATCH * STEPS, dtype=float).reshape(BATCH, STEPS)
  assert_allclose(
    flow.at_lags(values, mask, (0, 2, 4, 5)), [(6 + 12 + 16) / 3, (3 + 8 + 14) / 3, 0, np.nan]
  )
  assert [nudges.powers(steps) for steps in (0, 1, 2, 8, 9)] == [
    (),
    (0,),
    (0, 1),
    (0, 1, 2, 4),
    (0, 1, 2, 4, 8),
  ]


def test_the_norm_of_what_is_next_to_nothing_is_not_nothing():
  assert_allclose(nudges.norms(jnp.full((1, 1, 4), 1e-300)), 2e-300)


def test_what_is_wrong_is_told():
  cell, params, xs = problem('gru')
  with pytest.raises(ValueError, match='with a batch axis'):
    flow.gradient_norms(lambda carry, _: carry.sum(), cell, params, xs[0])
  with pytest.raises(ValueError, match='mask must be bool'):
    flow.spectral_radius(cell, params, xs, mask=np.ones((1, STEPS), bool))
  with pytest.raises(ValueError, match='probes must be at least 1, not 0'):
    flow.jacobian_norms(cell, params, xs, jax.random.key(0), probes=0)
