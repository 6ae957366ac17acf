"""Unroll with dtype, remat and truncate, and where it runs fused, for every cell."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import test_gpu
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import FrozenConfigDict
from numpy.testing import assert_allclose
from programs import few_cells
from test_recurrence import (
  BATCH,
  HIDDEN,
  INPUTS,
  NAMES,
  OPTIONS,
  STEPS,
  arguments,
  assert_close,
  cast,
  compiled,
  differentiated,
  drops,
  drops_of_products,
  loop_on,
  plain_scan,
  problem,
  shapes,
  with_gradients,
)

from experiments import imdb
from rnnlab import cells, models, recurrence
from rnnlab.recurrence import bidirectional, stacked, unroll
from rnnlab.recurrence.kernels import gpu
from rnnlab.runs import configs
from rnnlab.tasks import sequences

# Every file in rnnlab/cells/, and options that change the equations.
CELLS = OPTIONS | {
  name: (name, {}) for name in cells.names() if name not in {cell for cell, _ in OPTIONS.values()}
}
HOLES = np.array([[1, 0, 1, 1, 0, 1, 1], [0, 1, 1, 0, 0, 1, 0], [0] * STEPS], bool)

every_cell = pytest.mark.parametrize('name', few_cells(CELLS))
each_direction = pytest.mark.parametrize('reverse', [False, True], ids=['forward', 'reverse'])


def make(name, hidden_size=HIDDEN):
  cell, options = CELLS[name]
  return cells.get(cell, hidden_size=hidden_size, **options)


def drawn(name, dtype=float):
  """params, xs, carry, the cotangents of carry and ys, dropout masks; for any cell."""
  rng = np.random.default_rng(0)
  cell = make(name)

  def normal(shape):
    return jnp.asarray(rng.normal(size=shape), dtype)

  params = jax.eval_shape(lambda key: cell.init(key, INPUTS), jax.random.key(0))
  params = jax.tree.map(lambda w: 0.6 * normal(w.shape), params)
  start = cell.initial_carry((BATCH,), dtype)
  carry, d_carry = (jax.tree.map(lambda a: normal(a.shape), start) for _ in range(2))
  dropout = tuple(
    jnp.asarray(rng.choice([0.0, 1.0, 2.0], size=(BATCH, product.width)), dtype)
    for product in recurrence.products(cell, params, INPUTS)
  )
  xs, d_ys = normal((BATCH, STEPS, INPUTS)), normal((BATCH, STEPS, HIDDEN))
  return params, xs, carry, (d_carry, d_ys), dropout


def same(actual, desired, tolerance):
  jax.tree.map(lambda a, d: assert_allclose(a, d, tolerance, tolerance), actual, desired)


# remat.


@each_direction
@every_cell
def test_remat_equals_a_plain_scan_over_masks_and_dropout_at_once(name, reverse):
  """7 steps are two chunks of 3 and one of 1."""
  cell = make(name)

  def ours(params, xs, carry, mask, dropout):
    options = {'mask': mask, 'reverse': reverse, 'initial_carry': carry, 'dropout': dropout}
    return unroll(cell, params, xs, remat=True, **options)

  def plain(params, xs, carry, mask, dropout):
    return plain_scan(cell, params, xs, carry, mask, reverse, dropout)

  @jax.jit
  def run(params, xs, carry, cotangents, *rest):
    return [
      jax.vmap(with_gradients(f), in_axes=(None, None, None, None, 0, 0))(
        params, xs, carry, cotangents, *rest
      )
      for f in (ours, plain)
    ]

  with jax.enable_x64():
    *args, dropout = drawn(name)
    everywhere, ones = np.ones_like(HOLES), jax.tree.map(jnp.ones_like, dropout)
    masks = jnp.stack([everywhere, everywhere, HOLES, HOLES])
    drop = jax.tree.map(lambda *a: jnp.stack(a), ones, dropout, ones, dropout)
    same(*run(*args, masks, drop), 1e-10)


@pytest.mark.parametrize(('steps', 'reverse'), [(0, False), (1, False), (3, True)])
def test_remat_needs_neither_mask_nor_many_steps(steps, reverse):
  params, xs, *_ = drawn('elman', 'float32')
  run = functools.partial(unroll, make('elman'), params, xs[:, :steps], reverse=reverse)
  same(run(remat=True), run(), 1e-6)


def memory(steps, **options):
  """Bytes that the gradient of a GRU needs beside its arguments and results, as planned by XLA."""
  cell = make('gru-after', 32)

  def loss(params, xs):
    return unroll(cell, params, xs, **options)[0].sum()

  args = jax.eval_shape(lambda key: cell.init(key, 1), jax.random.key(0))
  xs = jax.ShapeDtypeStruct((16, steps, 1), jnp.float32)
  return jax.jit(jax.grad(loss)).lower(args, xs).compile().memory_analysis().temp_size_in_bytes


def test_remat_keeps_less():
  """At 1,600 steps, 40 carries, a chunk of 40, and ys: 2 KB per step; a plain scan keeps over 5."""
  plain, less = memory(1600), memory(1600, remat=True)
  assert plain > 1600 * 16 * 32 * 4 * 5
  assert less < plain / 3
  windows = memory(1600, truncate=(400, 400))
  assert memory(1600, truncate=(400, 400), remat=True) < windows / 3


# truncate.


@pytest.mark.parametrize(
  ('truncate', 'remat', 'reverse', 'mask', 'dropout'),
  [
    ((2, 4), False, False, None, 'mask-per-gate'),  # 7 steps: the last window is shorter
    ((3, 3), True, True, HOLES, 'no-dropout'),
    ((1, 3), False, True, None, 'one-mask'),
  ],
  ids=['2-4', '3-3', '1-3'],
)
@pytest.mark.parametrize('name', NAMES)
def test_truncate_equals_a_loop_that_cuts(name, truncate, remat, reverse, mask, dropout):
  p = problem(name)
  cut = functools.partial(truncated, *truncate)
  expected = loop_on(name, p, mask, reverse, *drops(p, dropout), unroll=cut)
  with jax.enable_x64():
    args = (p.params, p.xs, p.carry, (p.d_carry, p.d_ys), {} if mask is None else {'mask': mask})
    args = cast((*args, drops_of_products(name, p, dropout)), 'float64')
    options = {'truncate': truncate, 'remat': remat}
    assert_close(compiled(name, reverse, **options)(*args), expected, 'float64')
  whole, _ = loop_on(name, p, mask, reverse, *drops(p, dropout))
  same(expected[0], whole, 1e-12)


def truncated(k1, k2, name, params, xs, carry, **options):
  return reference.truncated(name, params, xs, carry, k1, k2, **options)


@pytest.mark.parametrize('truncate', [(STEPS, STEPS), (20, 40), (2, 8)])
def test_steps_enough_cut_nothing(truncate):
  args = arguments('gru-before', 'float32')
  actual = compiled('gru-before', True, truncate=truncate)(*args)
  same(actual, compiled('gru-before', True)(*args), 1e-5)


@pytest.mark.parametrize('run', [unroll, bidirectional, stacked], ids=lambda f: f.__name__)
@pytest.mark.parametrize(
  'truncate', [(0, 4), (4, 2), (2, 5), (-2, 4), (2,), 4, (2.0, 4.0), (True, 2), (), '24']
)
def test_what_is_no_truncation_is_said(truncate, run):
  params, xs, *_ = arguments('elman', 'float32')
  params = {unroll: params, bidirectional: (params,) * 2, stacked: [params]}[run]
  with pytest.raises(ValueError, match='truncate must be .k1, k2.') as error:
    run(make('elman'), params, xs, truncate=truncate)
  assert repr(truncate) in str(error.value)


# Any shape, cut in any way.


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
  st.sampled_from(NAMES),
  st.booleans(),
  shapes(),
  st.booleans(),
  st.none() | st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_any_shape_cut_in_any_way(name, reverse, shape, remat, truncate):
  *sizes, mask = shape
  p, unrolled = problem(name, *sizes), reference.unroll
  if truncate:
    k1, windows = truncate
    truncate = k1, k1 * windows
    unrolled = functools.partial(truncated, *truncate)
  with jax.enable_x64():
    args = (p.params, p.xs, p.carry, (p.d_carry, p.d_ys), {} if mask is None else {'mask': mask})
    f = compiled(name, reverse, sizes[-1], remat=remat, truncate=truncate)
    expected = loop_on(name, p, mask, reverse, unroll=unrolled)
    assert_close(f(*cast(args, 'float64'), None), expected, 'float64')


# dtype.


@every_cell
def test_products_of_low_precision(name):
  """Operands in bfloat16, everything else in float32, like a plain scan that rounds them."""
  cell = make(name)
  params, xs, carry, cotangents, dropout = drawn(name, 'float32')

  def rounding(params, xs, carry):
    def step(params, carry, x_t, dot):
      masks = iter(dropout)

      def rounded(w, v):
        # A product of two bfloat16 numbers is exact in float32.
        return round_to_bfloat16(v * next(masks)) @ round_to_bfloat16(w)

      return cell.step(params, carry, x_t, rounded)

    return plain_scan(cell._replace(step=step), params, xs, carry, HOLES, False, None)

  def ours(params, xs, carry, dtype=jnp.bfloat16):
    options = {'mask': HOLES, 'initial_carry': carry, 'dropout': dropout}
    return unroll(cell, params, xs, dtype=dtype, **options)

  args = params, xs, carry, cotangents
  actual = differentiated(ours)(*args)
  assert {leaf.dtype.name for leaf in jax.tree.leaves(actual)} == {'float32'}
  same(actual[0], jax.jit(rounding)(*args[:3]), 2e-5)
  (full, gradients), low = differentiated(functools.partial(ours, dtype=None))(*args), actual[1]
  worst = max(map(error, jax.tree.leaves(actual[0]), jax.tree.leaves(full)))
  assert 1e-4 < worst < 0.03  # rounded it is
  assert max(map(error, jax.tree.leaves(low), jax.tree.leaves(gradients))) < 0.03


def round_to_bfloat16(a):
  return a.astype(jnp.bfloat16).astype(jnp.float32)


def error(actual, desired):
  return np.abs(actual - desired).max() / np.abs(desired).max()


# Fused.


@pytest.mark.parametrize('name', test_gpu.NAMES)
def test_what_is_supported_runs_fused(name, monkeypatch):
  """Without a GPU the fused form is a scan, so it can be compared here."""
  p, real = test_gpu.problem(name), test_gpu.MASKS['holes']
  masks = drops_of_products(name, p, 'mask-per-gate')
  args = cast((p.params, p.xs, p.carry, (p.d_carry, p.d_ys), real, masks), 'float32')
  calls = []

  def run(*args, **options):
    calls.append(options)
    return fused_unroll(*args, **options)

  fused_unroll = gpu.unroll
  monkeypatch.setattr(gpu, 'unroll', run)
  expected = differentiated(test_gpu.scanned(name, True))(*args)
  assert not calls
  monkeypatch.setattr(gpu, 'supports', lambda *_: True)
  actual = differentiated(test_gpu.scanned(name, True))(*args)
  assert len(calls) == 1
  same(actual, expected, 1e-5)
  for options in ({'remat': True}, {'truncate': (2, 2)}, {'dtype': jnp.bfloat16}):
    jax.eval_shape(functools.partial(unroll, make(name, test_gpu.HIDDEN), **options), *args[:2])
  assert len(calls) == 1


# In the model.


def test_the_model_has_them():
  ids = jnp.array([[1, 5, 7, 2, 9, 3, 8], [1, 4, 3, 2, 2, 5, 0]])

  def gradients(**options):
    model = models.SequenceClassifier(
      make('elman'), 20, 3, bidirectional=True, pooling='mean', mask=True, **options
    )
    params = jax.jit(model.init)(jax.random.key(0), ids)['params']
    params = jax.tree.map(lambda w: w + 0.1, params)
    loss = jax.value_and_grad(lambda params: (model.apply({'params': params}, ids) ** 2).sum())
    return jax.jit(loss)(params)

  value, plain = gradients()
  same(gradients(remat=True), (value, plain), 1e-5)
  cut_value, cut = gradients(truncate=(2, 4))
  assert_allclose(cut_value, value, 1e-5)
  low_value, low = gradients(precision='bfloat16')
  assert_allclose(low_value, value, 0.03)
  for other in (cut, low):
    different = jax.tree.map(lambda a, b: not np.allclose(a, b, 1e-5, 1e-7), other, plain)
    assert different['Recurrent_0']['cell']['w_h']
    assert different['Recurrent_0']['cell_backward']['w_h']


def test_a_config_chooses_them():
  config = imdb.get_config('smoke')
  configs.check(config)
  assert made(config) == ('float32', False, None)
  chosen = {'model.precision': 'bfloat16', 'model.remat': True, 'model.truncate': (10, 20)}
  config.update_from_flattened_dict(chosen)
  configs.check(config)
  assert made(config) == ('bfloat16', True, (10, 20))


def made(config):
  texts = sequences.Spec(10, False, 1, False)
  model = sequences.model(FrozenConfigDict(config.model), texts)
  return model.precision, model.remat, model.truncate
