"""rnnlab's cells used in place of Flax's own, in linen and nnx.

The cases are those with which Flax tests its cells (tests/linen/linen_recurrent_test.py and
tests/nnx/nn/recurrent_test.py), for every file of rnnlab/cells, and against `rnnlab.unroll`.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import errors, nnx
from numpy.testing import assert_allclose, assert_array_equal
from programs import few_cells

from rnnlab import cells, recurrence
from rnnlab.models.adapters import LinenCell, NNXCell

BATCH, STEPS, INPUTS, HIDDEN = 3, 4, 5, 6
LENGTHS = np.array([2, 4, 1])
CELLS = {name: (name, {}) for name in cells.names()} | {'gru-before': ('gru', {'reset': 'before'})}

every_cell = pytest.mark.parametrize('name', few_cells(CELLS))


def make(name):
  cell, options = CELLS[name]
  return cells.get(cell, hidden_size=HIDDEN, **options)


def drawn(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), 'float32')


XS = drawn(BATCH, STEPS, INPUTS)


def params_of(cell):
  """Parameters of a cell, none of them 0."""
  shapes = jax.eval_shape(lambda: cell.init(jax.random.key(0), INPUTS))
  return {name: 0.5 * drawn(*w.shape, seed=i) for i, (name, w) in enumerate(shapes.items())}


def nnx_cell(cell, params):
  made = NNXCell(cell, INPUTS, rngs=nnx.Rngs(0))
  nnx.update(made, nnx.State({name: nnx.Param(w) for name, w in params.items()}))
  return made


def pure(module):
  return nnx.to_pure_dict(nnx.state(module, nnx.Param))


def linen_rnn(cell, params, xs, fields, **call):
  return nn.RNN(LinenCell(cell), **fields).apply({'params': {'cell': params}}, xs, **call)


def nnx_rnn(cell, params, xs, fields, **call):
  return nnx.RNN(nnx_cell(cell, params), **fields)(xs, **call)


def same(actual, desired, tolerance=1e-5):
  assert jax.tree.structure(actual) == jax.tree.structure(desired)
  jax.tree.map(lambda a, d: assert_allclose(a, d, tolerance, tolerance), actual, desired)


# A whole sequence, as by `rnnlab.unroll`.


def flipped(ys, lengths=None):
  """The real steps of each row from the last to the first; the padding stays in place."""
  lengths = [ys.shape[1]] * len(ys) if lengths is None else lengths
  return jnp.stack(
    [jnp.concatenate([y[:n][::-1], y[n:]]) for y, n in zip(ys, lengths, strict=True)]
  )


def plain(fields, lengths):
  """What an RNN with these fields must give, by `unroll`: a function (cell, params, xs, carry)."""
  reverse = fields.get('reverse', False)

  def run(cell, params, xs, carry):
    carry, ys = recurrence.unroll(
      cell, params, xs, lengths=lengths, reverse=reverse, initial_carry=carry
    )
    return carry, flipped(ys, lengths) if reverse and not fields.get('keep_order') else ys

  return run


SEQUENCES = {
  'plain': ({}, None),
  'unroll': ({'unroll': 3}, None),
  'time_major': ({'time_major': True}, None),
  'reverse': ({'reverse': True}, None),
  'keep_order': ({'reverse': True, 'keep_order': True}, None),
  'lengths': ({}, LENGTHS),
  'reverse lengths': ({'reverse': True}, LENGTHS),
  'keep_order lengths': ({'reverse': True, 'keep_order': True}, LENGTHS),
}


@pytest.mark.parametrize('library', [linen_rnn, nnx_rnn], ids=['linen', 'nnx'])
@pytest.mark.parametrize(
  ('name', 'sequence'),
  [('lstm', sequence) for sequence in SEQUENCES]
  + [('gru', 'keep_order lengths')]
  + [
    pytest.param(name, 'keep_order lengths', marks=pytest.mark.slow)
    for name in CELLS
    if name not in ('lstm', 'gru')
  ],
)
def test_a_sequence_is_that_of_unroll_values_and_gradients(name, sequence, library):
  fields, lengths = SEQUENCES[sequence]
  cell = make(name)
  start = cell.initial_carry((BATCH,), jnp.float32)
  start = jax.tree.map(lambda a: 0.3 * drawn(*a.shape, seed=7), start)

  def flax(params, xs, carry):
    call = {} if lengths is None else {'seq_lengths': jnp.asarray(lengths)}
    time_major = fields.get('time_major', False)
    xs = xs.swapaxes(0, 1) if time_major else xs
    call |= {'initial_carry': carry, 'return_carry': True}
    carry, ys = library(cell, params, xs, fields, **call)
    ys = ys.swapaxes(0, 1) if time_major else ys
    if lengths is None:
      return carry, ys
    real = jnp.arange(STEPS) < lengths[:, None]  # Flax leaves something in the padding
    return carry, jnp.where(real[..., None], ys, 0)

  def with_gradients(f):
    out, pull = jax.vjp(f, params_of(cell), XS, start)
    return out, pull(jax.tree.map(jnp.cos, out))

  def expected(params, xs, carry):
    return plain(fields, lengths)(cell, params, xs, carry)

  actual, desired = (jax.jit(functools.partial(with_gradients, f))() for f in (flax, expected))
  assert actual[0][1].shape == (BATCH, STEPS, HIDDEN)
  same(actual, desired)


@pytest.mark.parametrize('library', [linen_rnn, nnx_rnn], ids=['linen', 'nnx'])
@every_cell
def test_any_number_of_batch_dimensions(name, library):
  cell = make(name)
  params = params_of(cell)
  carry, ys = recurrence.unroll(cell, params, XS)
  for batch in ((), (2, 2), (1, 2, 3)):
    xs = jnp.broadcast_to(XS[1], (*batch, STEPS, INPUTS))
    actual = library(cell, params, xs, {'return_carry': True})
    one = jax.tree.map(lambda a: a[1], (carry, ys))
    same(actual, jax.tree.map(lambda a, batch=batch: jnp.broadcast_to(a, (*batch, *a.shape)), one))


@pytest.mark.parametrize('library', [linen_rnn, nnx_rnn], ids=['linen', 'nnx'])
def test_batches_of_any_size_without_a_carry_returned(library):
  cell = make('gru')
  params = params_of(cell)
  for rows in (1, 2, 3):
    ys = library(cell, params, XS[:rows], {})
    same(ys, recurrence.unroll(cell, params, XS[:rows])[1])


# linen.


@every_cell
def test_an_rnn_of_linen_holds_the_cell_s_own_parameters(name):
  cell = make(name)
  rnn = nn.RNN(LinenCell(cell))
  (ys, variables), again = (
    f(jax.random.key(0), XS) for f in (rnn.init_with_output, jax.jit(rnn.init))
  )
  jax.tree.map(functools.partial(assert_allclose, rtol=1e-6, atol=1e-7), variables, again)
  params = variables['params']['cell']
  own = cell.init(jax.random.key(0), INPUTS)
  assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, own)
  same(ys, recurrence.unroll(cell, params, XS)[1])
  other = rnn.init(jax.random.key(1), XS)['params']['cell']
  assert any((params[leaf] != other[leaf]).any() for leaf in params)


def test_the_parameters_of_a_cell_are_drawn_together():
  def init(key, input_size):
    w = jax.random.normal(key, (input_size, HIDDEN))
    return {'w': w, 'twice': 2 * w}

  cell = LinenCell(make('elman')._replace(init=init, step=lambda params, h, x_t, dot: (h, h)))
  params = nn.RNN(cell).init(jax.random.key(0), XS)['params']['cell']
  assert_array_equal(params['twice'], 2 * params['w'])


@every_cell
def test_a_cell_of_linen_runs_step_by_step(name):
  """By apply, in a loop; by jax.lax.scan; by nn.scan of the class; a row by itself."""
  cell = make(name)
  variables = {'params': params_of(cell)}
  ours = LinenCell(cell)
  carry, expected = recurrence.unroll(cell, variables['params'], XS)

  def loop(xs):
    carry, ys = ours.initialize_carry(jax.random.key(0), xs[:, 0].shape), []
    for t in range(STEPS):
      carry, y_t = ours.apply(variables, carry, xs[:, t])
      ys.append(y_t)
    return carry, jnp.stack(ys, 1)

  start = ours.initialize_carry(jax.random.key(0), XS[:, 0].shape)
  same(loop(XS), (carry, expected))
  same(loop(XS[1:2]), jax.tree.map(lambda a: a[1:2], (carry, expected)))
  end, ys = jax.lax.scan(functools.partial(ours.apply, variables), start, XS.swapaxes(0, 1))
  same((end, ys.swapaxes(0, 1)), (carry, expected))
  lifted = nn.scan(
    LinenCell, in_axes=1, out_axes=1, variable_broadcast='params', split_rngs={'params': False}
  )(cell)
  same(lifted.apply(variables, start, XS), (carry, expected))
  assert set(lifted.init(jax.random.key(0), start, XS)['params']) == set(variables['params'])


@every_cell
def test_a_step_may_have_parameters_of_its_own(name):
  """With the parameters' key split over time."""
  cell = make(name)
  fields = {'variable_axes': {'params': 0}, 'variable_broadcast': False}
  rnn = nn.RNN(LinenCell(cell), split_rngs={'params': True}, return_carry=True, **fields)
  (carry, ys), variables = rnn.init_with_output(jax.random.key(0), XS)
  params = variables['params']['cell']
  assert all(len(w) == STEPS for w in params.values())
  assert (params['w_x'][0] != params['w_x'][1]).any()
  state = cell.initial_carry((BATCH,), jnp.float32)
  for t in range(STEPS):
    at_t = jax.tree.map(lambda w, t=t: w[t], params)
    state, y_t = recurrence.unroll(cell, at_t, XS[:, t : t + 1], initial_carry=state)
    same(ys[:, t : t + 1], y_t)
  same(carry, state)


@pytest.mark.parametrize('library', [nn, nnx], ids=['linen', 'nnx'])
@every_cell
def test_both_directions(name, library):
  """Equal to `rnnlab.bidirectional`, with lengths too; merged as asked."""
  cell = make(name)
  params = params_of(cell), jax.tree.map(jnp.negative, params_of(cell))

  def run(both, **fields):
    call = {'seq_lengths': jnp.asarray(LENGTHS), 'return_carry': True}
    if library is nnx:
      rnns = [nnx.RNN(nnx_cell(cell, p)) for p in both]
      return nnx.Bidirectional(*rnns, **fields)(XS, **call)
    two = nn.RNN(LinenCell(cell)), nn.RNN(LinenCell(cell))
    names = 'forward_rnn', 'backward_rnn'
    variables = {name: {'cell': p} for name, p in zip(names, both, strict=True)}
    return nn.Bidirectional(*two, **fields).apply({'params': variables}, XS, **call)

  carries, ys = run(params)
  expected = recurrence.bidirectional(cell, params, XS, lengths=LENGTHS)
  real = jnp.arange(STEPS) < LENGTHS[:, None]
  same((carries, jnp.where(real[..., None], ys, 0)), expected)
  _, merged = run(params, merge_fn=jnp.add)
  same(merged, sum(jnp.split(ys, 2, -1)))


def test_both_directions_may_share_a_cell():
  cell = make('lstm')
  shared = LinenCell(cell)
  both = nn.Bidirectional(nn.RNN(shared), nn.RNN(shared))
  ys, variables = both.init_with_output(jax.random.key(0), XS)
  assert len(jax.tree.leaves(variables)) == 3
  params = jax.tree.leaves(variables, is_leaf=lambda leaf: 'w_x' in leaf)[0]
  same(ys, recurrence.bidirectional(cell, (params, params), XS)[1])
  ours = nnx_cell(cell, params)
  same(nnx.Bidirectional(nnx.RNN(ours), nnx.RNN(ours))(XS), ys)


@every_cell
def test_lifted_by_vmap_and_remat(name):
  cell = make(name)
  params = jax.tree.map(lambda w: jnp.stack([w, -w]), params_of(cell))
  over = {'variable_axes': {'params': 0}, 'split_rngs': {'params': True}}
  two = nn.vmap(nn.RNN, in_axes=None, axis_size=2, **over)
  variables = {'params': {'cell': params}}
  expected = [
    recurrence.unroll(cell, jax.tree.map(lambda w, i=i: w[i], params), XS)[1] for i in (0, 1)
  ]
  same(two(LinenCell(cell)).apply(variables, XS), jnp.stack(expected))
  drawn = two(LinenCell(cell)).init(jax.random.key(0), XS)['params']['cell']['w_x']
  assert drawn.shape == params['w_x'].shape and (drawn[0] != drawn[1]).any()
  again = nn.RNN(nn.remat(LinenCell)(cell)).apply({'params': {'cell': params_of(cell)}}, XS)
  same(again, expected[0])


def test_what_does_not_fit_is_named():
  rnn = nn.RNN(LinenCell(make('lstm')))
  variables = rnn.init(jax.random.key(0), XS)
  with pytest.raises(errors.ScopeParamShapeError, match=r'w_x.*\(4, 24\).*\(5, 24\)'):
    rnn.apply(variables, XS[..., 1:])
  cell = LinenCell(make('lstm'))
  carry = cell.initialize_carry(jax.random.key(0), (2, 4))
  with pytest.raises(TypeError, match='inputs must be an array, not list'):
    cell.init(jax.random.key(0), carry, [[1.0] * 4] * 2)


# The carry, and dtypes.


@every_cell
def test_the_carry_starts_as_the_cell_s_or_as_asked(name):
  cell = make(name)
  ones = nn.initializers.ones
  for batch in ((), (2,), (2, 3)):
    shape = *batch, INPUTS
    own = cell.initial_carry(batch, jnp.float32)
    linen = LinenCell(cell).initialize_carry(jax.random.key(0), shape)
    ours = NNXCell(cell, INPUTS, rngs=nnx.Rngs(0))
    for carry in (linen, ours.initialize_carry(shape), ours.initialize_carry(shape, nnx.Rngs(0))):
      same(carry, own)
    all_ones = jax.tree.map(jnp.ones_like, own)
    same(LinenCell(cell, carry_init=ones).initialize_carry(jax.random.key(0), shape), all_ones)
    for rngs in (nnx.Rngs(0), nnx.Rngs(carry=0).carry):
      same(ours.initialize_carry(shape, rngs, carry_init=ones), all_ones)


def test_a_carry_that_is_drawn_is_drawn_for_each_of_its_arrays():
  normal = nn.initializers.normal(1.0)
  carry = LinenCell(make('lstm'), carry_init=normal).initialize_carry(jax.random.key(0), (2, 5))
  assert type(carry).__name__ == 'LSTMCarry' and (carry.h != carry.c).all()
  ours = NNXCell(make('lstm'), INPUTS, rngs=nnx.Rngs(0))
  rngs = nnx.Rngs(carry=0)
  first, second = (ours.initialize_carry((2, 5), rngs, normal) for _ in range(2))
  assert (first.h != first.c).all() and (first.h != second.h).all()
  with pytest.raises(ValueError, match='needs rngs'):
    ours.initialize_carry((2, 5), carry_init=normal)


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16', 'float32', 'float64'])
@every_cell
def test_all_is_of_the_parameters_dtype(name, dtype):
  cell = make(name)
  with jax.enable_x64(dtype == 'float64'):
    xs = XS.astype(dtype)
    given = None if dtype == 'float64' else jnp.dtype(dtype)  # JAX's default if none is given
    rnn = nn.RNN(LinenCell(cell, param_dtype=given), return_carry=True)
    ours = NNXCell(cell, INPUTS, param_dtype=given, rngs=nnx.Rngs(0))
    found = (
      jax.eval_shape(lambda: rnn.init_with_output(jax.random.key(0), xs)),
      nnx.RNN(ours, return_carry=True)(xs),
      pure(ours),
    )
    assert {leaf.dtype.name for leaf in jax.tree.leaves(found)} == {dtype}


# nnx.


@every_cell
def test_a_cell_of_nnx_holds_the_cell_s_own_parameters(name):
  cell = make(name)
  ours = NNXCell(cell, INPUTS, rngs=nnx.Rngs(0))
  assert isinstance(ours, nnx.RNNCellBase)
  assert jax.tree.map(jnp.shape, pure(ours)) == jax.tree.map(
    jnp.shape, cell.init(jax.random.key(0), INPUTS)
  )
  other = pure(NNXCell(cell, INPUTS, rngs=nnx.Rngs(1)))
  assert any((pure(ours)[leaf] != other[leaf]).any() for leaf in other)
  same(nnx.RNN(ours)(XS), recurrence.unroll(cell, pure(ours), XS)[1])


@every_cell
def test_nnx_and_linen_agree_step_by_step_on_integers_too(name):
  cell = make(name)
  params = params_of(cell)
  ours, linen = nnx_cell(cell, params), LinenCell(cell)
  xs = jnp.arange(BATCH * INPUTS).reshape(BATCH, INPUTS)
  carry = other = ours.initialize_carry(xs.shape)
  for scale in (1, -2):  # the second step starts where the first ended
    carry, y = ours(carry, scale * xs)
    other, expected = linen.apply({'params': params}, other, scale * xs)
    same((carry, y), (other, expected))


@every_cell
def test_nnx_transforms(name):
  """split and merge, jit, grad, and an optimiser's step in place."""
  cell = make(name)
  ours = nnx_cell(cell, params_of(cell))
  rnn = nnx.RNN(ours)
  ys = rnn(XS)
  same(nnx.merge(*nnx.split(rnn))(XS), ys)
  same(nnx.jit(lambda rnn, xs: rnn(xs))(rnn, XS), ys)
  gradients = nnx.to_pure_dict(nnx.grad(lambda rnn: jnp.sin(rnn(XS)).sum())(rnn))['cell']
  expected = jax.grad(lambda p: jnp.sin(recurrence.unroll(cell, p, XS)[1]).sum())(pure(ours))
  same(gradients, expected)

  @nnx.jit
  def descend(rnn):
    nnx.update(rnn.cell, jax.tree.map(lambda w, g: w - 0.1 * g, pure(rnn.cell), expected))

  before = pure(ours)
  descend(rnn)
  same(pure(ours), jax.tree.map(lambda w, g: w - 0.1 * g, before, expected))


class Dropped(NNXCell):
  """A subclass with dropout on h, one mask for all steps."""

  def __init__(self, *args, rngs):
    super().__init__(*args, rngs=rngs)
    self.drop = nnx.Dropout(0.5, rng_collection='recurrent_dropout', rngs=rngs)

  def __call__(self, carry, inputs):
    carry, y = super().__call__(carry, inputs)
    return jax.tree.map(jnp.zeros_like, carry), self.drop(y)


def test_dropout_in_a_cell_of_nnx_has_one_mask_for_all_steps():
  """As in Flax's own case of it; the carry is kept at 0, so that equal inputs are equal outputs."""
  ours = Dropped(make('gru'), INPUTS, rngs=nnx.Rngs(0, recurrent_dropout=1))
  rnn = nnx.RNN(ours, broadcast_rngs='recurrent_dropout')
  xs = jnp.broadcast_to(XS[:, :1], XS.shape)
  count = ours.drop.rngs.count
  assert count[...] == 0
  first = rnn(xs)
  assert count[...] == 1
  assert_allclose(first, jnp.broadcast_to(first[:, :1], first.shape), 1e-6)
  zeros = (first == 0).mean()
  assert 0.2 < zeros < 0.8
  assert (rnn(xs) != first).any()


def test_a_parameter_s_name_that_nnx_has_is_said():
  cell = make('elman')._replace(init=lambda key, size: {'train': jnp.zeros(3)})
  with pytest.raises(ValueError, match="'train'.*another name"):
    NNXCell(cell, INPUTS, rngs=nnx.Rngs(0))
