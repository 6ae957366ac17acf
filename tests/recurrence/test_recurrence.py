"""rnnlab.recurrence against NumPy loops, Keras and Flax, and against itself."""

import functools
import itertools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from programs import as_for_a_user, few_cells

from rnnlab import cells
from rnnlab.cells.base import Cell, Lookup
from rnnlab.recurrence import (
  Product,
  bidirectional,
  dropout_masks,
  products,
  stacked,
  unroll,
)

BATCH, STEPS, INPUTS, HIDDEN = 3, 7, 5, 4
TOLERANCE = {'float32': 1e-5, 'float64': 1e-10}

OPTIONS = {
  'elman': ('elman', {}),
  'lstm': ('lstm', {}),
  'gru-after': ('gru', {'reset': 'after'}),
  'gru-before': ('gru', {'reset': 'before'}),
}
NAMES = list(OPTIONS)
MASKS = {
  'no-mask': None,
  'lengths': np.arange(STEPS) < np.array([[7], [4], [1]]),
  'left-padding': np.arange(STEPS) >= np.array([[0], [3], [6]]),
  'holes': np.array([[1, 0, 1, 1, 0, 1, 1], [0, 1, 1, 0, 0, 1, 0], [1, 1, 1, 1, 1, 1, 0]], bool),
  'empty-row': np.arange(STEPS) < np.array([[5], [0], [7]]),
}

each_cell = pytest.mark.parametrize('name', few_cells(NAMES))
each_direction = pytest.mark.parametrize('reverse', [False, True], ids=['forward', 'reverse'])
each_dtype = pytest.mark.parametrize('dtype', ['float32', 'float64'])
DROPOUTS = ['no-dropout', 'one-mask', 'mask-per-gate']


def each_variant(masks):
  """Over name, mask, reverse and dropout: half of all, since each program takes long to compile.

  They cover every pair and, with cells, every triple of: cell, mask or none, direction, dropout.
  """
  variants = [
    (name, mask, reverse, dropout)
    for (i, name), mask, reverse, (j, dropout) in itertools.product(
      enumerate(NAMES), masks, (False, True), enumerate(DROPOUTS)
    )
    if (i + (MASKS[mask] is None) + reverse + j) % 2 == 0
  ]
  ids = ['-'.join([v[0], v[1], 'reverse' if v[2] else 'forward', v[3]]) for v in variants]
  return pytest.mark.parametrize(('name', 'mask', 'reverse', 'dropout'), variants, ids=ids)


def make(name, hidden_size=HIDDEN):
  cell, options = OPTIONS[name]
  return cells.get(cell, hidden_size=hidden_size, **options)


class Problem(NamedTuple):
  """Arguments of an unroll, the masks of each gate, and the factors of carry and ys in the loss."""

  params: dict
  xs: np.ndarray
  carry: tuple
  drop_x: np.ndarray
  drop_h: np.ndarray
  d_carry: tuple
  d_ys: np.ndarray


@functools.cache
def problem(name, batch=BATCH, steps=STEPS, inputs=INPUTS, hidden=HIDDEN, seed=0):
  rng = np.random.default_rng(seed)
  cell = make(name, hidden)
  shapes = jax.eval_shape(lambda key: cell.init(key, inputs), jax.random.key(0))
  states = len(jax.tree.leaves(cell.initial_carry((batch,), jnp.float32)))
  gates = reference.GATES[name]

  def normal(*shape):
    return rng.normal(size=shape)

  def drop(*shape):
    return rng.choice([0.0, 1.0, 2.0], size=shape)

  return Problem(
    params={k: 0.6 * normal(*v.shape) for k, v in shapes.items()},
    xs=normal(batch, steps, inputs),
    carry=tuple(normal(batch, hidden) for _ in range(states)),
    drop_x=drop(gates, batch, inputs),
    drop_h=drop(gates, batch, hidden),
    d_carry=tuple(normal(batch, hidden) for _ in range(states)),
    d_ys=normal(batch, steps, hidden),
  )


def drops(p, dropout):
  """The masks of each gate for the loop, `[G, B, K]`."""
  if dropout == 'no-dropout':
    return None, None
  if dropout == 'one-mask':
    return tuple(np.broadcast_to(m[:1], m.shape) for m in (p.drop_x, p.drop_h))
  return p.drop_x, p.drop_h


def drops_of_products(name, p, dropout):
  """The same for unroll: one for each product of the step."""
  if dropout == 'no-dropout':
    return None
  if dropout == 'one-mask':
    return (p.drop_x[0],) + (p.drop_h[0],) * (2 if name == 'gru-before' else 1)
  if name == 'gru-before':
    return p.drop_x, p.drop_h[:2], p.drop_h[2:]
  return p.drop_x, p.drop_h


@functools.cache
def loop(name, mask, reverse, dropout):
  """Carry, ys and the gradients of the NumPy loop on `problem(name)`."""
  p = problem(name)
  drop_x, drop_h = drops(p, dropout)
  return loop_on(name, p, MASKS[mask], reverse, drop_x, drop_h)


def loop_on(name, p, mask, reverse, drop_x=None, drop_h=None, unroll=reference.unroll):
  def run(inputs):
    carry = tuple(inputs[f'carry{i}'] for i in range(len(p.carry)))
    params = {k: inputs[k] for k in p.params}
    return unroll(
      name, params, inputs['xs'], carry, mask=mask, reverse=reverse, drop_x=drop_x, drop_h=drop_h
    )

  def loss(inputs):
    carry, ys = run(inputs)
    total = (ys * p.d_ys).sum((-1, -2, -3))
    return total + sum((c * d).sum((-1, -2)) for c, d in zip(carry, p.d_carry, strict=True))

  inputs = p.params | {'xs': p.xs} | {f'carry{i}': c for i, c in enumerate(p.carry)}
  grads = reference.gradients(loss, inputs)
  d_carry = tuple(grads[f'carry{i}'] for i in range(len(p.carry)))
  return run(inputs), ({k: grads[k] for k in p.params}, grads['xs'], d_carry)


def with_gradients(f):
  """`(params, xs, carry, cotangents, *rest) -> f(params, xs, carry, *rest), gradients`."""

  def run(params, xs, carry, cotangents, *rest):
    out, pull = jax.vjp(lambda *args: f(*args, *rest), params, xs, carry)
    return out, pull(cotangents)

  return run


def differentiated(f):
  return jax.jit(with_gradients(f))


def tupled(name, reverse, hidden=HIDDEN, **options):
  """unroll from and to tuples of states in place of the cell's own carry."""
  cell = make(name, hidden)
  structure = jax.tree.structure(cell.initial_carry((BATCH,), jnp.float32))

  def run(params, xs, carry, where, dropout):
    carry, ys = unroll(
      cell,
      params,
      xs,
      reverse=reverse,
      initial_carry=structure.unflatten(carry),
      dropout=dropout,
      **where,
      **options,
    )
    return tuple(jax.tree.leaves(carry)), ys

  return run


@functools.cache
def compiled(name, reverse, hidden=HIDDEN, **options):
  return differentiated(tupled(name, reverse, hidden, **options))


def where(mask):
  """unroll's argument for a name in MASKS."""
  return {} if mask == 'no-mask' else {'mask': MASKS[mask]}


def cast(tree, dtype):
  """NumPy floats of `tree` as JAX arrays of dtype; integers and booleans stay."""
  return jax.tree.map(
    lambda a: jnp.asarray(a, dtype if np.issubdtype(a.dtype, np.floating) else None), tree
  )


def arguments(name, dtype, p=None, mask='no-mask', dropout='no-dropout'):
  """The arguments of `compiled` for a problem, all in dtype."""
  p = p or problem(name)
  masks = drops_of_products(name, p, dropout)
  return cast((p.params, p.xs, p.carry, (p.d_carry, p.d_ys), where(mask), masks), dtype)


def ours(name, reverse, dtype, p=None, mask='no-mask', dropout='no-dropout'):
  """unroll's `(carry, ys), gradients` on a problem, all in dtype."""
  return compiled(name, reverse)(*arguments(name, dtype, p, mask, dropout))


def assert_close(actual, desired, dtype):
  """Equal trees, to the tolerance of dtype, which must be that of every leaf of `actual`."""
  assert jax.tree.structure(actual) == jax.tree.structure(desired)
  for (path, a), d in zip(jax.tree.leaves_with_path(actual), jax.tree.leaves(desired), strict=True):
    assert a.dtype == dtype
    tolerance = TOLERANCE[dtype]
    assert_allclose(a, d, tolerance, tolerance, err_msg=jax.tree_util.keystr(path))


def assert_same(actual, desired):
  """Equal trees, to the bit."""
  jax.tree.map(assert_array_equal, actual, desired)


# Against a NumPy loop.


@each_dtype
@each_variant(MASKS)
def test_equals_the_numpy_loop(name, mask, reverse, dropout, dtype):
  with jax.enable_x64(dtype == 'float64'):
    actual = ours(name, reverse, dtype, mask=mask, dropout=dropout)
    assert_close(actual, loop(name, mask, reverse, dropout), dtype)


@each_direction
@each_cell
def test_lengths_are_the_mask_they_stand_for(name, reverse):
  args = arguments(name, 'float32')[:4]
  actual = compiled(name, reverse)(*args, {'lengths': jnp.array([7, 4, 1])}, None)
  assert_same(actual, ours(name, reverse, 'float32', mask='lengths'))


# Against Keras.


def keras_weights(name, params):
  """Our parameters in Keras's order: the gates z, r, h of a GRU; i, f, c, o as ours."""

  def swap(w):
    r, z, n = jnp.split(w, 3, axis=-1)
    return jnp.concatenate([z, r, n], axis=-1)

  w = params
  if name == 'gru-before':
    return [swap(w['w_x']), swap(w['w_h']), swap(w['b'])]
  if name == 'gru-after':
    b_hn = jnp.concatenate([jnp.zeros(2 * HIDDEN, w['b_hn'].dtype), w['b_hn']])
    return [swap(w['w_x']), swap(w['w_h']), jnp.stack([swap(w['b']), b_hn])]
  return [w['w_x'], w['w_h'], w['b']]


@keras.saving.register_keras_serializable()
def tanh(x):
  """Replaces Keras's own, which rounds float64 to float32."""
  return jnp.tanh(x)


def keras_layer(name, **options):
  options |= dict(activation=tanh, return_sequences=True, return_state=True)
  options |= dict(kernel_initializer='zeros', recurrent_initializer='zeros')  # quicker; not used
  if name.startswith('gru'):
    return keras.layers.GRU(HIDDEN, reset_after=name == 'gru-after', **options)
  return {'elman': keras.layers.SimpleRNN, 'lstm': keras.layers.LSTM}[name](HIDDEN, **options)


def keras_drops(name, masks):
  """A mask for each gate, in Keras's order; SimpleRNN takes its only mask by itself."""
  if name == 'elman':
    return masks[0]
  return [masks[k] for k in ((1, 0, 2) if name.startswith('gru') else (0, 1, 2, 3))]


@functools.cache
def keras_compiled(name, reverse, dropout, dtype):
  rate = 0.5 if dropout else 0.0
  layer = keras_layer(
    name,
    go_backwards=reverse,
    zero_output_for_mask=True,
    dropout=rate,
    recurrent_dropout=rate,
    dtype=dtype,
  )
  layer.build((BATCH, STEPS, INPUTS))
  seeds = [v.value for v in layer.non_trainable_variables]

  def run(params, xs, carry, mask, drop_x, drop_h):
    if dropout:
      # Where the cell keeps the masks that it drew; the layer draws only if it finds none.
      layer.cell._dropout_mask = keras_drops(name, drop_x)
      layer.cell._recurrent_dropout_mask = keras_drops(name, drop_h)
    (ys, *states), _ = layer.stateless_call(
      keras_weights(name, params), seeds, xs, initial_state=list(carry), mask=mask, training=True
    )
    return tuple(states), jnp.flip(ys, 1) if reverse else ys

  return differentiated(run)


@each_variant(MASKS)
def test_equals_keras(name, mask, reverse, dropout):
  compare_with_keras(name, mask, reverse, dropout, 'float64')


@pytest.mark.parametrize(('name', 'reverse'), list(zip(NAMES, [False, True] * 2, strict=True)))
def test_equals_keras_in_float32(name, reverse):
  compare_with_keras(name, 'holes', reverse, 'mask-per-gate', 'float32')


def compare_with_keras(name, mask, reverse, dropout, dtype):
  p = problem(name)
  with jax.enable_x64(dtype == 'float64'):
    args = (p.params, p.xs, p.carry, (p.d_carry, p.d_ys), MASKS[mask], *drops(p, dropout))
    expected = keras_compiled(name, reverse, dropout != 'no-dropout', dtype)(*cast(args, dtype))
    assert_close(ours(name, reverse, dtype, mask=mask, dropout=dropout), expected, dtype)


@each_cell
def test_bidirectional_equals_keras(name):
  with jax.enable_x64():
    layer = keras.layers.Bidirectional(keras_layer(name, dtype='float64'), dtype='float64')
    layer.build((BATCH, STEPS, INPUTS))
    seeds = [v.value for v in layer.non_trainable_variables]

    def run(params, xs, carry, mask):
      weights = [w for p in params for w in keras_weights(name, p)]
      states = jax.tree.leaves(carry)
      (ys, *states), _ = layer.stateless_call(weights, seeds, xs, initial_state=states, mask=mask)
      return jax.tree.unflatten(jax.tree.structure(carry), states), ys

    *args, mask = cast((*both_ways(name), MASKS['holes']), 'float64')
    expected = differentiated(run)(*args, mask)
    actual = differentiated(bidirectional_run(name))(*args, {'mask': mask})
    assert_close(actual, expected, 'float64')


def both_ways(name):
  """params, xs, carry and cotangents of a bidirectional layer."""
  p, q = problem(name), problem(name, seed=1)
  d_ys = np.concatenate([p.d_ys, q.d_ys], -1)
  return (p.params, q.params), p.xs, (p.carry, q.carry), ((p.d_carry, q.d_carry), d_ys)


def bidirectional_run(name):
  structure = jax.tree.structure(make(name).initial_carry((BATCH,), jnp.float32))

  def run(params, xs, carry, options):
    carry = tuple(structure.unflatten(c) for c in carry)
    carry, ys = bidirectional(make(name), params, xs, initial_carry=carry, **options)
    return tuple(tuple(jax.tree.leaves(c)) for c in carry), ys

  return run


# Against Flax, which has all cells except the GRU with the reset before the product.


FLAX = {'elman': nn.SimpleCell, 'lstm': nn.OptimizedLSTMCell, 'gru-after': nn.GRUCell}


def flax_params(name, params):
  gates = {'elman': [''], 'lstm': 'ifgo', 'gru-after': 'rzn'}[name]
  w_x, w_h, b = (jnp.split(params[k], len(gates), axis=-1) for k in ('w_x', 'w_h', 'b'))
  x = {f'i{gate}': {'kernel': w} for gate, w in zip(gates, w_x, strict=True)}
  h = {f'h{gate}': {'kernel': w} for gate, w in zip(gates, w_h, strict=True)}
  for layer, bias in zip((h if name == 'lstm' else x).values(), b, strict=True):
    layer['bias'] = bias
  if name == 'gru-after':
    h['hn']['bias'] = params['b_hn']
  return {'cell': x | h}


def flax_run(name, reverse):
  layer = nn.RNN(FLAX[name](HIDDEN), return_carry=True, reverse=reverse, keep_order=True)

  def run(params, xs, carry, lengths):
    variables = {'params': flax_params(name, params)}
    carry, ys = layer.apply(variables, xs, initial_carry=to_flax(carry), seq_lengths=lengths)
    return from_flax(carry), flax_ys(ys, lengths)

  return run


def to_flax(carry):
  """LSTM's states are (c, h) there; a single state is not in a tuple."""
  return carry[::-1] if len(carry) > 1 else carry[0]


def from_flax(carry):
  return carry[::-1] if isinstance(carry, tuple) else (carry,)


def flax_ys(ys, lengths):
  """Flax keeps what it computed from the padding."""
  if lengths is None:
    return ys
  return jnp.where((jnp.arange(STEPS) < lengths[:, None])[..., None], ys, 0)


@pytest.mark.parametrize(
  ('mask', 'dtype'), [('no-mask', 'float64'), ('lengths', 'float64'), ('lengths', 'float32')]
)
@each_direction
@pytest.mark.parametrize('name', few_cells(FLAX))
def test_equals_flax(name, reverse, mask, dtype):
  p = problem(name)
  lengths = None if mask == 'no-mask' else MASKS[mask].sum(1)
  with jax.enable_x64(dtype == 'float64'):
    args = cast((p.params, p.xs, p.carry, (p.d_carry, p.d_ys), lengths), dtype)
    expected = differentiated(flax_run(name, reverse))(*args)
    assert_close(ours(name, reverse, dtype, mask=mask), expected, dtype)


@pytest.mark.parametrize('name', FLAX)
def test_bidirectional_equals_flax(name):
  layer = nn.Bidirectional(
    nn.RNN(FLAX[name](HIDDEN)), nn.RNN(FLAX[name](HIDDEN)), return_carry=True
  )

  def run(params, xs, carry, options):
    forward, backward = (flax_params(name, p) for p in params)
    carry, ys = layer.apply(
      {'params': {'forward_rnn': forward, 'backward_rnn': backward}},
      xs,
      initial_carry=tuple(to_flax(c) for c in carry),
      seq_lengths=options['lengths'],
    )
    return tuple(from_flax(c) for c in carry), flax_ys(ys, options['lengths'])

  with jax.enable_x64():
    args = cast((*both_ways(name), {'lengths': MASKS['lengths'].sum(1)}), 'float64')
    actual = differentiated(bidirectional_run(name))(*args)
    assert_close(actual, differentiated(run)(*args), 'float64')


# Padding.


@each_variant([mask for mask in MASKS if mask != 'no-mask'])
def test_padding_reaches_nothing(name, mask, reverse, dropout):
  p, real = problem(name), MASKS[mask]

  def padded(x, y):
    xs, d_ys = (np.where(real[..., None], a, pad) for a, pad in ((p.xs, x), (p.d_ys, y)))
    return ours(name, reverse, 'float32', p._replace(xs=xs, d_ys=d_ys), mask, dropout)

  expected = padded(0.0, 0.0)
  (_, ys), (_, d_xs, _) = expected
  assert_array_equal(ys[~real], 0)
  assert_array_equal(d_xs[~real], 0)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(expected))
  for garbage in (np.nan, np.inf, -1e38):
    assert_same(padded(garbage, 1e3), expected)


@each_direction
@each_cell
def test_padding_leaves_the_carry_as_it_is_to_the_bit(name, reverse):
  params, xs, *_ = arguments(name, 'float32')
  f = as_for_a_user(functools.partial(unroll, make(name), reverse=reverse))
  long, short = 7, 4
  whole = f(params, xs, mask=np.ones((BATCH, long), bool))
  first = f(params, xs[:, :short], mask=np.ones((BATCH, short), bool))
  none = make(name).initial_carry((BATCH,), jnp.float32), jnp.zeros((BATCH, 0, HIDDEN))
  holes = np.array([[1, 1, 1, 1, 1, 1, 1], [0, 1, 0, 1, 1, 0, 1], [0, 0, 0, 0, 0, 0, 0]], bool)
  for mask in (holes, np.sort(holes), ~np.sort(~holes)):  # the last two: padding left, right
    spread = np.full(xs.shape, np.nan, np.float32)
    for row, length in enumerate((long, short, 0)):
      spread[row, mask[row]] = xs[row, :length]
    carry, ys = f(params, spread, mask=mask)
    for row, (expected_carry, expected_ys) in enumerate((whole, first, none)):
      assert_same(row_of(row, carry), row_of(row, expected_carry))
      assert_same(ys[row, mask[row]], expected_ys[row])


def row_of(row, tree):
  return jax.tree.map(lambda a: a[row], tree)


def assert_near(actual, desired):
  """Equal trees, except for the rounding of float32."""
  jax.tree.map(lambda a, d: assert_allclose(a, d, 1e-6, 1e-6), actual, desired)


@each_direction
@each_cell
def test_gradients_are_those_of_the_unpadded_sequence(name, reverse):
  p, length = problem(name), 4
  short = ours(name, reverse, 'float32', p._replace(xs=p.xs[:, :length], d_ys=p.d_ys[:, :length]))
  padded = {'mask': jnp.broadcast_to(jnp.arange(STEPS) < length, (BATCH, STEPS))}
  args = arguments(name, 'float32')[:4]
  (carry, ys), (d_params, d_xs, d_carry) = compiled(name, reverse)(*args, padded, None)
  assert_close(((carry, ys[:, :length]), (d_params, d_xs[:, :length], d_carry)), short, 'float32')


@each_cell
def test_a_row_of_padding_alone_moves_nothing(name):
  args = arguments(name, 'float32')[:4]
  nothing = {'mask': jnp.zeros((BATCH, STEPS), bool)}
  (carry, ys), (d_params, d_xs, d_carry) = compiled(name, False)(*args, nothing, None)
  assert_same(carry, args[2])
  assert_same(d_carry, args[3][0])
  for zero in (ys, d_xs, *d_params.values()):
    assert_array_equal(zero, 0)


def test_an_array_of_no_steps_returns_the_carry():
  params, xs, *_ = arguments('lstm', 'float32')
  xs = xs[:, :0]
  start = jax.tree.map(jnp.ones_like, make('lstm').initial_carry((BATCH,), jnp.float32))
  for options in ({}, {'lengths': np.zeros(BATCH, int)}):
    carry, ys = unroll(make('lstm'), params, xs, initial_carry=start, **options)
    assert_same(carry, start)
    assert ys.shape == (BATCH, 0, HIDDEN)


# Carries, directions and layers.


@functools.cache
def forward(name, reverse=False):
  return jax.jit(functools.partial(unroll, make(name), reverse=reverse))


@each_cell
def test_the_carry_starts_at_zero(name):
  params, xs, *_ = arguments(name, 'float32')
  zeros = make(name).initial_carry((BATCH,), jnp.float32)
  f = forward(name)
  assert_same(f(params, xs), f(params, xs, initial_carry=zeros))
  assert jax.tree.structure(f(params, xs)[0]) == jax.tree.structure(zeros)


@each_direction
@each_cell
def test_two_halves_are_the_whole(name, reverse):
  params, xs, *_ = arguments(name, 'float32')
  f, mask = forward(name, reverse), MASKS['holes']
  first, second = slice(0, 4), slice(4, STEPS)
  if reverse:
    first, second = second, first
  carry, ys_first = f(params, xs[:, first], mask=mask[:, first])
  carry, ys_second = f(params, xs[:, second], mask=mask[:, second], initial_carry=carry)
  halves = (ys_second, ys_first) if reverse else (ys_first, ys_second)
  whole = f(params, xs, mask=mask)
  assert_near((carry, jnp.concatenate(halves, 1)), whole)


@each_direction
@each_cell
def test_inputs_may_be_looked_up_in_a_table(name, reverse):
  p = problem(name)
  rng = np.random.default_rng(0)
  table, ids = rng.normal(size=(4, INPUTS)), rng.integers(0, 4, (BATCH, STEPS))
  run = tupled(name, reverse)

  def looked_up(params, table, *rest):
    return run(params, Lookup(table, jnp.array(ids)), *rest)

  with jax.enable_x64(True):
    args = arguments(name, 'float64', p._replace(xs=table), mask='holes')
    outputs, (d_params, d_table, d_carry) = differentiated(looked_up)(*args)
  desired, (d_params_loop, d_xs, d_carry_loop) = loop_on(
    name, p._replace(xs=table[ids]), MASKS['holes'], reverse
  )
  d_rows = np.zeros_like(table)
  np.add.at(d_rows, ids, d_xs)
  actual = outputs, (d_params, d_table, d_carry)
  assert_close(actual, (desired, (d_params_loop, d_rows, d_carry_loop)), 'float64')


@each_cell
def test_reverse_is_flip_run_flip(name):
  params, xs, *_ = arguments(name, 'float32')
  mask = MASKS['holes']
  actual = forward(name, reverse=True)(params, xs, mask=mask)
  carry, ys = forward(name)(params, jnp.flip(xs, 1), mask=np.flip(mask, 1))
  assert_near(actual, (carry, jnp.flip(ys, 1)))


def test_bidirectional_starts_backward_at_the_true_end():
  params, xs, _, _ = cast(both_ways('lstm'), 'float32')
  f = jax.jit(functools.partial(bidirectional, make('lstm')))
  carry, ys = f(params, xs, lengths=jnp.array([7, 4, 1]))
  short_carry, short_ys = f(params, xs[:, :4], lengths=jnp.array([4, 4, 1]))
  assert ys.shape == (BATCH, STEPS, 2 * HIDDEN)
  assert_same(row_of(slice(1, 3), carry), row_of(slice(1, 3), short_carry))
  assert_same(ys[1:, :4], short_ys[1:])


def test_bidirectional_takes_a_carry_and_masks_for_each_way():
  params, xs, starts, _ = cast(both_ways('gru-after'), 'float32')
  starts = tuple(h for (h,) in starts)
  masks = tuple(
    cast(drops_of_products('gru-after', problem('gru-after', seed=seed), 'one-mask'), 'float32')
    for seed in (0, 1)
  )
  cell = make('gru-after')

  def one_by_one(params, xs, starts, masks):
    carries, ys = zip(
      *(
        unroll(cell, params[i], xs, initial_carry=starts[i], dropout=masks[i], reverse=i == 1)
        for i in (0, 1)
      ),
      strict=True,
    )
    return carries, jnp.concatenate(ys, -1)

  actual = jax.jit(
    lambda params, xs, starts, masks: bidirectional(
      cell, params, xs, initial_carry=starts, dropout=masks
    )
  )(params, xs, starts, masks)
  assert_near(actual, jax.jit(one_by_one)(params, xs, starts, masks))


@pytest.mark.parametrize('where', [{}, {'lengths': np.array([7, 4, 0])}], ids=['all', 'lengths'])
def test_stacked_is_layer_after_layer(where):
  cell = make('lstm')
  params = [
    problem('lstm', inputs=size, seed=seed).params
    for seed, size in enumerate((INPUTS, HIDDEN, HIDDEN, HIDDEN, 2 * HIDDEN))
  ]
  layers, xs = cast(
    ([params[0], params[1], (params[2], params[3]), params[4]], problem('lstm').xs), 'float32'
  )

  def by_hand(layers, xs):
    one, xs = unroll(cell, layers[0], xs, **where)
    two, xs = unroll(cell, layers[1], xs, **where)
    three, xs = bidirectional(cell, layers[2], xs, **where)
    four, xs = unroll(cell, layers[3], xs, **where)
    return [one, two, three, four], xs

  actual = jax.jit(lambda layers, xs: stacked(cell, layers, xs, **where))(layers, xs)
  assert_near(actual, jax.jit(by_hand)(layers, xs))


# Dropout.


def eye_cell(step):
  """A cell of `step(h, x_t, dot, eye)` that starts from ones."""

  def initial_carry(batch_shape, dtype):
    return jnp.ones((*batch_shape, HIDDEN), dtype)

  params = {'eye': jnp.eye(HIDDEN)}
  return Cell(lambda *_: params, initial_carry, lambda p, *args: step(*args, p['eye'])), params


def see_input(h, x_t, dot, eye):
  return h, dot(eye, x_t)


def see_state(h, x_t, dot, eye):
  return dot(eye, h), dot(eye, h)


def see_input_in_two_gates(h, x_t, dot, eye):
  one, two = jnp.split(dot(jnp.concatenate([eye, 10 * eye], -1), x_t), 2, -1)
  return h, one + two


def test_each_step_has_the_same_mask():
  rng = np.random.default_rng(0)
  xs = jnp.asarray(rng.normal(size=(BATCH, STEPS, HIDDEN)), jnp.float32)
  mask, other = jnp.asarray(rng.choice([0.0, 1.0, 2.0], size=(2, BATCH, HIDDEN)), jnp.float32)

  _, ys = unroll(*eye_cell(see_input), xs, dropout=(mask,))
  assert_array_equal(ys, xs * mask[:, None])
  _, ys = unroll(*eye_cell(see_state), xs, dropout=(mask, other))
  assert_array_equal(ys, mask[:, None] ** jnp.arange(STEPS)[:, None] * other[:, None])
  masks = jnp.stack([mask, other])
  _, ys = unroll(*eye_cell(see_input_in_two_gates), xs, dropout=(masks,))
  assert_allclose(ys, xs * (mask + 10 * other)[:, None], 1e-6)


PRODUCTS = {
  'elman': [Product(True, INPUTS, 1), Product(False, HIDDEN, 1)],
  'lstm': [Product(True, INPUTS, 4), Product(False, HIDDEN, 4)],
  'gru-after': [Product(True, INPUTS, 3), Product(False, HIDDEN, 3)],
  'gru-before': [Product(True, INPUTS, 3), Product(False, HIDDEN, 2), Product(False, HIDDEN, 1)],
}


@each_cell
def test_products(name):
  params = cast(problem(name).params, 'float32')
  assert products(make(name), params, INPUTS) == PRODUCTS[name]


def draw(name, key=0, batch=BATCH, inputs=INPUTS, hidden=HIDDEN, **options):
  params = cast(problem(name, inputs=inputs, hidden=hidden).params, 'float32')
  options = {'rate': 0.25, 'recurrent_rate': 0.5} | options
  return jax.jit(
    lambda key: dropout_masks(key, make(name, hidden), params, batch, inputs, **options)
  )(jax.random.key(key))


@each_cell
def test_mask_shapes(name):
  params = cast(problem(name).params, 'float32')

  def masks(rate=0.25, recurrent_rate=0.5, **options):
    return jax.eval_shape(
      lambda: dropout_masks(
        jax.random.key(0),
        make(name),
        params,
        BATCH,
        INPUTS,
        rate=rate,
        recurrent_rate=recurrent_rate,
        **options,
      )
    )

  def shapes(**options):
    return [None if m is None else m.shape for m in masks(**options)]

  found = PRODUCTS[name]
  assert shapes() == [(BATCH, p.width) for p in found]
  assert shapes(per_gate=True) == [(p.gates, BATCH, p.width) for p in found]
  assert shapes(rate=0.0) == [None if p.of_input else (BATCH, p.width) for p in found]
  assert shapes(recurrent_rate=0.0) == [(BATCH, p.width) if p.of_input else None for p in found]
  assert {m.dtype.name for m in masks()} == {'float32'}
  assert {m.dtype.name for m in masks(dtype=jnp.bfloat16)} == {'bfloat16'}


@pytest.mark.parametrize('per_gate', [False, True], ids=['one-mask', 'mask-per-gate'])
def test_mask_values(per_gate):
  drawn = draw('gru-before', batch=500, inputs=64, hidden=64, per_gate=per_gate)
  masks = [np.asarray(mask) for mask in drawn]
  for mask, rate in zip(masks, (0.25, 0.5, 0.5), strict=True):
    assert_allclose(np.unique(mask), [0, 1 / (1 - rate)], 1e-6)
    assert_allclose((mask == 0).mean(), rate, atol=0.01)
    assert_allclose(mask.mean(), 1, atol=0.02)
    assert_allclose(mask.mean(-1).std(), np.sqrt(rate / (1 - rate) / 64), 0.1)  # rows differ
  x, rz, n = masks
  if per_gate:
    alike = [(x[0] > 0) == (x[1] > 0), (rz[0] > 0) == (rz[1] > 0), (rz[1] > 0) == (n[0] > 0)]
    for same, rate in zip(alike, (0.25, 0.5, 0.5), strict=True):
      assert_allclose(same.mean(), rate**2 + (1 - rate) ** 2, atol=0.02)
  else:
    assert_array_equal(rz, n)  # one mask for the state, wherever it is used
    assert_allclose(((x > 0) == (rz > 0)).mean(), 0.5, atol=0.02)


def test_masks_depend_on_the_key_alone():
  first, second = draw('lstm', key=1), draw('lstm', key=2)
  assert_same(draw('lstm', key=1), first)
  assert not any((a == b).all() for a, b in zip(first, second, strict=True))


# Cells of any kind: a step may use `dot` and its carry as it likes.


class Memory(NamedTuple):
  h: jax.Array
  c: jax.Array


def on_both_at_once(p, h, x_t, dot):
  """A GRU with the reset before the product, with products of [x, h] and [x, r * h]."""
  r, z = jnp.split(jax.nn.sigmoid(dot(p['w_xh2'], jnp.concatenate([x_t, h], -1))), 2, -1)
  n = jnp.tanh(dot(p['w_xh'], jnp.concatenate([x_t, r * h], -1)))
  h = z * h + (1 - z) * n
  return h, h


def weights_from_the_carry(p, carry, x_t, dot):
  h, c = carry
  c = 0.5 * c + jnp.tanh(dot(p['w_x'], x_t))
  h = jnp.tanh(dot(p['w_h'] * (1 + carry.c.mean()), h) + c)
  return Memory(h, c), h


def weights_from_the_input(p, h, x_t, dot):
  h = jnp.tanh(dot(p['w_h'] * x_t.mean(), h))
  return h, h


def weights_from_weights(p, h, x_t, dot):
  h = jnp.tanh(dot((p['w_h'] - p['w_h'].T) * p['b'], h) + dot(p['w_x'], x_t))
  return h, dot(p['w_h'], h)


def projection(p, carry, x_t, dot):
  """LSTM's output gate, and a projection of the state that the step has just made."""
  h, c = carry
  o, g = jnp.split(dot(p['w_x2'], x_t) + dot(p['w_h2'], h), 2, -1)
  c = 0.9 * c + jnp.tanh(g)
  h = dot(p['w_h'], jax.nn.sigmoid(o) * jnp.tanh(c))
  return Memory(h, c), h


def product_of_a_product(p, h, x_t, dot):
  h = jnp.tanh(dot(p['w_h'].T, dot(p['w_h'], h)) + dot(p['w_x'], x_t))
  return h, 2 * h


def products_in_sums_and_alone(p, h, x_t, dot):
  a, b, c = dot(p['w_x'], x_t), dot(p['w_h'], h), dot(p['w_h'], jnp.sin(h))
  h = jnp.tanh(a + b + c) + 0.1 * (a + b) * a - 0.2 * (c + c) * p['b']
  return h, h + b


def all_of_it_elementwise_too(p, h, x_t, dot):
  h = jnp.tanh(dot(p['w_x'], x_t) + dot(p['w_h'], h) + jnp.diag(p['w_h']) * h * x_t[:, :HIDDEN])
  return h, h * p['b']


def echo_state(p, h, x_t, dot):
  """A fixed reservoir, and no gradient through the state."""
  reservoir = jnp.sin(jnp.arange(HIDDEN * HIDDEN, dtype=h.dtype)).reshape(HIDDEN, HIDDEN)
  h = jnp.tanh(dot(reservoir, jax.lax.stop_gradient(h)) + dot(p['w_x'], x_t) + p['b'])
  return h, dot(p['w_h'], h)


def no_products(p, h, x_t, dot):
  h = jnp.tanh(p['b'] * h + x_t[:, :HIDDEN])
  return h, h


def transformed_inside(p, h, x_t, dot):
  inner = jax.checkpoint(lambda h: jnp.tanh(dot(p['w_x'], x_t) + dot(p['w_h'], h)))
  h = jax.jit(inner)(h)
  return h, h


def counter(p, carry, x_t, dot):
  h, count = carry
  h = jnp.where(count % 2 == 0, jnp.tanh(dot(p['w_x'], x_t) + dot(p['w_h'], h)), h)
  return Memory(h, count + 1), h


def fast_weights(p, carry, x_t, dot):
  """Ba et al. (2016), one inner step: the carry has a matrix for each row."""
  h, fast = carry
  slow = dot(p['w_x'], x_t) + dot(p['w_h'], h)
  h = jnp.tanh(slow + jnp.einsum('bij,bj->bi', fast, jnp.tanh(slow)))
  return Memory(h, 0.9 * fast + 0.5 * h[:, :, None] * h[:, None, :]), h


ODD_WEIGHTS = {
  'w_x': (INPUTS, HIDDEN),
  'w_x2': (INPUTS, 2 * HIDDEN),
  'w_h': (HIDDEN, HIDDEN),
  'w_h2': (HIDDEN, 2 * HIDDEN),
  'w_xh': (INPUTS + HIDDEN, HIDDEN),
  'w_xh2': (INPUTS + HIDDEN, 2 * HIDDEN),
  'b': (HIDDEN,),
}
ODD = {  # each with the second array of its carry, if it has one
  on_both_at_once: None,
  weights_from_the_carry: np.ones((BATCH, HIDDEN)),
  weights_from_the_input: None,
  weights_from_weights: None,
  projection: np.ones((BATCH, HIDDEN)),
  product_of_a_product: None,
  products_in_sums_and_alone: None,
  all_of_it_elementwise_too: None,
  echo_state: None,
  no_products: None,
  transformed_inside: None,
  counter: np.array([[0], [1], [2]]),
  fast_weights: np.zeros((BATCH, HIDDEN, HIDDEN)),
}


def plain_scan(cell, params, xs, carry, mask, reverse, dropout):
  """Unroll without its machinery: dot is a product, and JAX differentiates the scan."""

  def step(carry, inputs):
    x_t, real = inputs
    masks = iter(dropout or ())
    x_t = jnp.where(real[:, None], x_t, 0)  # which matters to steps that mix a batch's rows
    new, y_t = cell.step(params, carry, x_t, lambda w, v: (v * next(masks, 1)) @ w)

    def keep(a, b):
      return jnp.where(real.reshape(BATCH, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(keep, new, carry), keep(y_t, jnp.zeros_like(y_t))

  inputs = jnp.swapaxes(xs, 0, 1), jnp.asarray(mask.T)
  carry, ys = jax.lax.scan(step, carry, inputs, reverse=reverse)
  return carry, jnp.swapaxes(ys, 0, 1)


@pytest.mark.parametrize('step', ODD, ids=lambda step: step.__name__)
def test_any_step_is_scanned_and_differentiated(step):
  with jax.enable_x64():
    rng = np.random.default_rng(0)
    params = {k: jnp.asarray(0.6 * rng.normal(size=shape)) for k, shape in ODD_WEIGHTS.items()}
    start = jnp.asarray(rng.normal(size=(BATCH, HIDDEN)))
    if ODD[step] is not None:
      start = Memory(start, jnp.asarray(ODD[step]))

    def initial_carry(batch_shape, dtype):
      return jax.tree.map(lambda a: jnp.zeros((*batch_shape, *a.shape[1:]), a.dtype), start)

    cell = Cell(lambda *_: params, initial_carry, step)
    xs = jnp.asarray(problem('elman').xs)
    mask = MASKS['holes']
    dropout = tuple(
      jnp.asarray(rng.choice([0.0, 1.0, 2.0], size=(BATCH, product.width)))
      for product in products(cell, params, INPUTS)
    )

    def engine(params, xs, carry, dropout):
      return unroll(cell, params, xs, mask=mask, reverse=True, initial_carry=carry, dropout=dropout)

    def plain(params, xs, carry, dropout):
      return plain_scan(cell, params, xs, carry, mask, True, dropout)

    def outputs_and_gradients(f):
      def loss(*args):
        out = f(*args)
        return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(out)), out

      run = jax.jit(jax.grad(loss, (0, 1, 2, 3), has_aux=True, allow_int=True))
      gradients, out = run(params, xs, start, dropout)
      # Integers have no gradient.
      return out, [g for g in jax.tree.leaves(gradients) if g.dtype != jax.dtypes.float0]

    actual, expected = outputs_and_gradients(engine), outputs_and_gradients(plain)
    jax.tree.map(lambda a, e: assert_allclose(a, e, 1e-10, 1e-10), actual, expected)


def test_a_step_may_close_over_what_is_differentiated():
  params, xs, *_ = arguments('elman', 'float32')

  def loss(scale, run):
    def step(params, h, x_t, dot):
      h = jnp.tanh(scale * (dot(params['w_x'], x_t) + dot(scale * params['w_h'], h)))
      return h, h

    cell = make('elman')._replace(step=step)
    return run(cell)[1].sum()

  def engine(cell):
    return unroll(cell, params, xs)

  def plain(cell):
    start = cell.initial_carry((BATCH,), xs.dtype)
    return plain_scan(cell, params, xs, start, np.ones((BATCH, STEPS), bool), False, None)

  slopes = [jax.jit(jax.grad(functools.partial(loss, run=run)))(0.7) for run in (engine, plain)]
  assert_allclose(*slopes, 1e-5)


# Transformations.


@functools.cache
def loss_of(name):
  """A loss of the parameters, in float64, and its compiled gradient."""
  _, xs, _, (_, d_ys), where, masks = arguments(name, 'float64', None, 'holes', 'mask-per-gate')

  def loss(params):
    return (unroll(make(name), params, xs, dropout=masks, **where)[1] * d_ys).sum()

  return loss, jax.jit(jax.grad(loss))


def inner(a, b):
  return sum(jnp.vdot(a[k], b[k]) for k in a)


transformed_cells = pytest.mark.parametrize('name', ['lstm', 'gru-before'])


@pytest.fixture
def point():
  """A point in parameter space, and a direction."""
  return lambda name: cast((problem(name).params, problem(name, seed=1).params), 'float64')


@transformed_cells
def test_second_derivatives(name, point):
  with jax.enable_x64():
    (loss, grad), (params, along) = loss_of(name), point(name)
    actual = jax.jit(jax.grad(lambda params: inner(jax.grad(loss)(params), along)))(params)
    up, down = (
      grad({k: w + epsilon * along[k] for k, w in params.items()}) for epsilon in (1e-5, -1e-5)
    )
    for k, slope in actual.items():
      assert_allclose(slope, (up[k] - down[k]) / 2e-5, 1e-6, 1e-6)


@transformed_cells
def test_forward_mode(name, point):
  with jax.enable_x64():
    (loss, grad), (params, along) = loss_of(name), point(name)
    _, slope = jax.jit(lambda params, along: jax.jvp(loss, (params,), (along,)))(params, along)
    assert_allclose(slope, inner(grad(params), along), 1e-10)


@transformed_cells
def test_checkpoint(name, point):
  with jax.enable_x64():
    (loss, grad), (params, _) = loss_of(name), point(name)
    assert_close(jax.jit(jax.grad(jax.checkpoint(loss)))(params), grad(params), 'float64')


@transformed_cells
def test_vmap_over_runs(name):
  runs = [
    arguments(name, 'float32', problem(name, seed=seed), mask, 'mask-per-gate')
    for seed, mask in enumerate(('holes', 'empty-row'))
  ]
  stack = jax.tree.map(lambda *a: jnp.stack(a), *runs)
  together = jax.jit(jax.vmap(with_gradients(tupled(name, False))))(*stack)
  for i, alone in enumerate(runs):
    assert_close(row_of(i, together), compiled(name, False)(*alone), 'float32')


@pytest.mark.parametrize(
  ('of_params', 'of_xs', 'of_ys'),
  [('bfloat16', 'bfloat16', 'bfloat16'), ('float32', 'bfloat16', 'float32')],
)
@each_cell
def test_low_precision(name, of_params, of_xs, of_ys):
  p = problem(name)
  params, xs = cast(p.params, of_params), cast(p.xs, of_xs)
  masks = cast(drops_of_products(name, p, 'mask-per-gate'), of_ys)

  def loss(params, xs):
    carry, ys = unroll(make(name), params, xs, lengths=jnp.array([7, 4, 0]), dropout=masks)
    return (ys.astype('float32') * d_ys).sum(), (carry, ys)

  d_ys = cast(p.d_ys, 'float32')
  grads, (carry, ys) = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, xs)
  assert {leaf.dtype.name for leaf in jax.tree.leaves((carry, ys))} == {of_ys}
  assert {leaf.dtype.name for leaf in grads[0].values()} == {of_params}
  assert grads[1].dtype == of_xs
  zeros = tuple(np.zeros((BATCH, HIDDEN)) for _ in p.carry)
  expected = loop_on(
    name,
    p._replace(carry=zeros, d_carry=zeros),
    np.arange(STEPS) < np.array([[7], [4], [0]]),
    False,
    *drops(p, 'mask-per-gate'),
  )
  (_, expected_ys), (expected_params, expected_xs, _) = expected
  pairs = [(ys, expected_ys), (grads[1], expected_xs)]
  for actual, wanted in pairs + [(grads[0][k], expected_params[k]) for k in params]:
    error = np.abs(np.asarray(actual, 'float64') - wanted).max() / np.abs(wanted).max()
    assert error < 0.05


# Any shape.


@st.composite
def shapes(draw):
  batch, steps = draw(st.integers(1, 4)), draw(st.integers(1, 6))
  rows = st.lists(st.booleans(), min_size=steps, max_size=steps)
  mask = draw(
    st.one_of(
      st.none(),
      st.lists(st.integers(0, steps), min_size=batch, max_size=batch).map(
        lambda lengths: np.arange(steps) < np.array(lengths)[:, None]
      ),
      st.lists(rows, min_size=batch, max_size=batch).map(np.array),
    )
  )
  return batch, steps, draw(st.integers(1, 5)), draw(st.integers(1, 5)), mask


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.sampled_from(NAMES), st.booleans(), shapes())
def test_any_shape(name, reverse, shape):
  *sizes, mask = shape
  p = problem(name, *sizes)
  with jax.enable_x64():
    args = (p.params, p.xs, p.carry, (p.d_carry, p.d_ys), {} if mask is None else {'mask': mask})
    actual = compiled(name, reverse, sizes[-1])(*cast(args, 'float64'), None)
    assert_close(actual, loop_on(name, p, mask, reverse), 'float64')


# Errors.


@pytest.mark.parametrize(
  ('xs', 'options', 'words'),
  [
    (np.zeros(5), {}, ['xs', '[batch, time, features]', 'float32[5]']),
    (np.zeros((3, 7, 5, 1)), {}, ['xs', '[3, 7, 5, 1]']),
    (None, {'lengths': [1, 2, 3], 'mask': MASKS['holes']}, ['lengths or mask, not both']),
    (None, {'lengths': [1, 2]}, ['lengths', '3 integers', '[2]']),
    (None, {'lengths': [[1], [2], [3]]}, ['lengths', '3 integers', '[3, 1]']),
    (None, {'lengths': [1.0, 2.0, 3.0]}, ['lengths', '3 integers', 'float32']),
    (None, {'lengths': [1, 8, 9]}, ['row 1', 'length 8', '7 time steps', '0 to 7']),
    (None, {'lengths': [1, 2, -1]}, ['row 2', 'length -1', '0 to 7']),
    (None, {'mask': np.ones((3, 6), bool)}, ['mask', 'bool[3, 7]', '[3, 6]']),
    (None, {'mask': np.ones((7, 3), bool)}, ['mask', 'bool[3, 7]', '[7, 3]']),
    (None, {'mask': np.ones((3, 7), int)}, ['mask', 'bool[3, 7]', 'int32']),
  ],
  ids=[
    'xs-1d',
    'xs-4d',
    'lengths-and-mask',
    'lengths-too-few',
    'lengths-2d',
    'lengths-float',
    'length-too-long',
    'length-negative',
    'mask-too-short',
    'mask-time-major',
    'mask-integer',
  ],
)
@pytest.mark.parametrize('run', [unroll, bidirectional, stacked], ids=lambda f: f.__name__)
def test_errors_say_what_is_wrong(run, xs, options, words):
  p = problem('elman')
  params = {unroll: p.params, bidirectional: (p.params,) * 2, stacked: [p.params]}[run]
  xs = np.asarray(p.xs if xs is None else xs, np.float32)
  options = {k: np.array(v) for k, v in options.items()}
  with pytest.raises(ValueError) as error:
    run(make('elman'), params, xs, **options)
  assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize('lengths', [[0, 7, 3], (7, 7, 7)])
def test_lengths_may_be_a_plain_list(lengths):
  params, xs, *_ = arguments('elman', 'float32')
  _, ys = unroll(make('elman'), params, xs, lengths=lengths)
  assert_array_equal((ys != 0).any(-1).sum(1), lengths)


@pytest.mark.parametrize(
  ('shapes', 'words'),
  [
    ([(3, 5)], ['2', '1']),
    ([(3, 5), (3, 4), (3, 4)], ['2', '3']),
    ([(3, 4), (3, 5)], ['[3, 5]', '[3, 4]']),
    ([None, (4, 4)], ['[3, 4]', '[4, 4]']),
    ([None, (4,)], ['[3, 4]', '[4]']),
    ([(2, 3, 5), None], ['[4, 3, 5]', '[2, 3, 5]']),
  ],
  ids=['one-of-two', 'three-of-two', 'swapped', 'other-batch', 'no-batch', 'two-of-four-gates'],
)
def test_dropout_masks_must_fit_the_step(shapes, words):
  params, xs, *_ = arguments('lstm', 'float32')
  masks = [None if shape is None else jnp.ones(shape) for shape in shapes]
  with pytest.raises(ValueError, match='dropout') as error:
    unroll(make('lstm'), params, xs, dropout=masks)
  assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize('rate', [1.0, 1.5, -0.5, float('nan')])
@pytest.mark.parametrize('which', ['rate', 'recurrent_rate'])
def test_dropout_rates_must_be_below_one(which, rate):
  params = arguments('lstm', 'float32')[0]
  rates = {'rate': 0.0, 'recurrent_rate': 0.0} | {which: rate}
  with pytest.raises(ValueError, match=which) as error:
    dropout_masks(jax.random.key(0), make('lstm'), params, BATCH, INPUTS, **rates)
  assert str(rate) in str(error.value)
