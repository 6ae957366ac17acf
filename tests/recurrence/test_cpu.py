"""The CPU kernels against the NumPy loop and the scan, and how XLA calls them."""

import functools
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import test_recurrence as recurrence_tests
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from programs import few_cells
from test_recurrence import OPTIONS, drops, drops_of_products, loop_on, with_gradients

from rnnlab import cells, recurrence
from rnnlab.cells.base import Lookup
from rnnlab.machine import devices
from rnnlab.recurrence import engine
from rnnlab.recurrence.kernels import gpu
from rnnlab.recurrence.kernels.cpu import call as cpu

HIDDEN, BATCH, STEPS, INPUTS = 20, 5, 4, 3  # each leaves a part of a vector or tile
NAMES = [name for name in OPTIONS if name != 'elman']
RESETS = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]], bool)
HOLES = np.array([[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]], bool)

each_cell = pytest.mark.parametrize('name', few_cells(NAMES))
each_kernel = pytest.mark.parametrize('name', NAMES)


def make(name, hidden_size=HIDDEN):
  cell, options = OPTIONS[name]
  return cells.get(cell, hidden_size=hidden_size, **options)


@functools.cache
def problem(name, seed=0, batch=BATCH, steps=STEPS, inputs=INPUTS, hidden=HIDDEN):
  p = recurrence_tests.problem(name, batch, steps, inputs, hidden, seed)
  return p._replace(params={k: v * 0.8 * hidden**-0.5 for k, v in p.params.items()})


def run(unroll, name, reverse=False, hidden=HIDDEN):
  """`(params, xs, carry, mask, dropout) -> carry, ys`, from and to tuples of states."""
  structure = jax.tree.structure(make(name).initial_carry((1,), jnp.float32))

  def f(params, xs, carry, mask=None, dropout=None, resets=None):
    first = structure.unflatten(carry)
    options = {'mask': mask, 'reverse': reverse, 'initial_carry': first, 'dropout': dropout}
    options |= {} if resets is None else {'resets': resets}
    carry, ys = unroll(make(name, hidden), params, xs, **options)
    return tuple(jax.tree.leaves(carry)), ys

  return f


def scan(cell, params, xs, mask, reverse, initial_carry, dropout):
  """The engine's scan, which `recurrence.unroll` uses if no kernel is for the cell."""
  plain = cell._replace(fused=None)
  options = {'mask': mask, 'reverse': reverse, 'initial_carry': initial_carry, 'dropout': dropout}
  return recurrence.unroll(plain, params, xs, **options)


in_kernel, in_scan = (functools.partial(run, f) for f in (cpu.unroll, scan))


def single(tree):
  """Arrays of floats in float32, which is what the kernels take."""
  return jax.tree.map(lambda a: a if a.dtype == bool else np.asarray(a, np.float32), tree)


def compare(actual, desired, rtol=2e-5):
  """Each array to within rtol of its largest value."""

  def near(a, d):
    assert_allclose(a, d, rtol=0, atol=rtol * max(np.abs(d).max(initial=0), 1e-2))

  jax.tree.map(near, actual, desired)


@pytest.mark.parametrize(
  ('mask', 'reverse', 'dropout'),
  [
    (None, False, 'no-dropout'),
    (HOLES, True, 'no-dropout'),
    (HOLES, False, 'one-mask'),
    (None, True, 'one-mask'),
    (HOLES, False, 'mask-per-gate'),
    (None, True, 'mask-per-gate'),
  ],
)
@each_kernel
def test_the_kernels_equal_the_numpy_loop(name, mask, reverse, dropout):
  p = problem(name)
  masks = drops_of_products(name, p, dropout)
  args = single((p.params, p.xs, p.carry, (p.d_carry, p.d_ys), mask, masks))
  actual = jax.jit(with_gradients(in_kernel(name, reverse)))(*args)
  compare(actual, loop_on(name, p, mask, reverse, *drops(p, dropout)))


def loop_with_resets(name, p, resets, mask=None, reverse=False, masks=(None, None)):
  unroll = functools.partial(reference.unroll, resets=resets)
  return loop_on(name, p, mask, reverse, *masks, unroll=unroll)


@pytest.mark.parametrize(
  ('mask', 'reverse', 'dropout'),
  [(HOLES, False, 'no-dropout'), (None, True, 'mask-per-gate')],
)
@each_kernel
def test_resets_begin_anew_and_no_gradient_passes_them(name, mask, reverse, dropout):
  p = problem(name)
  masks = drops_of_products(name, p, dropout)
  args = single((p.params, p.xs, p.carry, (p.d_carry, p.d_ys), mask, masks, RESETS))
  f = with_gradients(in_kernel(name, reverse))
  desired = loop_with_resets(name, p, RESETS, mask, reverse, drops(p, dropout))
  compare(jax.jit(f)(*args), desired)
  compare(f(*args), desired)


@each_cell
def test_a_reset_stops_what_is_not_finite(name):
  p = problem(name)
  xs = p.xs.copy()
  xs[:, 1] = np.nan
  resets = np.zeros((BATCH, STEPS), bool)
  resets[:, 2] = True
  args = single((p.params, xs, p.carry, (p.d_carry, p.d_ys), None, None, resets))
  (carry, ys), (_, d_xs, _) = jax.jit(with_gradients(in_kernel(name)))(*args)
  assert all(np.isfinite(a).all() for a in (*carry, ys[:, 2:], d_xs[:, 2:]))


@each_cell
def test_the_scan_and_vmap_have_the_resets_too(name):
  p, q = problem(name), problem(name, seed=1)
  (_, d_params_and_more) = loop_with_resets(name, p, RESETS, HOLES)
  at, along = single(((p.params, p.xs, p.carry), (q.params, q.xs, q.carry)))

  def f(resets, *args):
    return in_kernel(name)(*args, HOLES, None, resets)

  def loss(resets, *args):
    carry, ys = f(resets, *args)
    pairs = zip((*carry, ys), single((*p.d_carry, p.d_ys)), strict=True)
    return sum((a * d).sum() for a, d in pairs)

  slope = jax.tree.map(lambda d, v: (d * v).sum(), d_params_and_more, along)
  _, actual = jax.jvp(functools.partial(loss, RESETS), at, along)
  assert_allclose(actual, sum(jax.tree.leaves(slope)), rtol=1e-4)

  each = np.stack([RESETS, RESETS[::-1], RESETS[:, ::-1]])
  outputs = jax.jit(jax.vmap(f, (0, None, None, None)))(each, *at)
  grads = jax.jit(jax.vmap(jax.grad(loss, (1, 2, 3)), (0, None, None, None)))(each, *at)
  for i, resets in enumerate(each):
    actual = jax.tree.map(lambda a, i=i: a[i], (outputs, grads))
    compare(actual, loop_with_resets(name, p, resets, HOLES))


@each_cell
def test_a_cell_that_does_not_start_at_zeros_is_reset_to_where_it_starts(name):
  cell = make(name, 16)
  start = cell.initial_carry
  cell = cell._replace(initial_carry=lambda *a: jax.tree.map(lambda z: z + 0.5, start(*a)))
  params = cell.init(jax.random.key(0), INPUTS)
  xs = jax.random.normal(jax.random.key(1), (BATCH, STEPS, INPUTS))
  resets = np.zeros((BATCH, STEPS), bool)
  resets[:, 2] = True
  carry, ys = jax.jit(lambda xs: cpu.unroll(cell, params, xs, resets=resets))(xs)
  _, first = cpu.unroll(cell, params, xs[:, :2])
  second = cpu.unroll(cell, params, xs[:, 2:])
  compare((carry, ys), (second[0], jnp.concatenate([first, second[1]], axis=1)))


@pytest.mark.slow
@settings(max_examples=15, deadline=None, derandomize=True)
@given(
  st.sampled_from(NAMES),
  st.sampled_from([1, 3, 4, 9, 17]),
  st.sampled_from([1, 2, 70]),
  st.sampled_from([1, 7, 130]),
  st.sampled_from([1, 7, 16, 64, 81, 100]),
  st.booleans(),
)
def test_any_shape_equals_the_scan(name, batch, steps, inputs, hidden, reverse):
  """Rows and columns within and outside tiles; the weights' gradients in one chunk and in many."""
  p = problem(name, 0, batch, steps, inputs, hidden)
  real = np.random.default_rng(1).random((batch, steps)) < 0.7
  masks = drops_of_products(name, p, 'mask-per-gate')
  args = single((p.params, p.xs, p.carry, (p.d_carry, p.d_ys), real, masks))
  actual, desired = (
    jax.jit(with_gradients(f(name, reverse, hidden)))(*args) for f in (in_kernel, in_scan)
  )
  compare(actual, desired, 1e-4)


@pytest.mark.parametrize('dropout', ['no-dropout', 'one-mask', 'mask-per-gate'])
@each_cell
def test_large_weights_equal_the_scan(name, dropout):
  """Rows of a product in several blocks, and operands that are packed in tiles."""
  p = problem(name, 0, 7, 5, 800, 300)
  args = single((p.params, p.xs, p.carry, (p.d_carry, p.d_ys), None))
  args += (single(drops_of_products(name, p, dropout)),)
  actual, desired = (
    jax.jit(with_gradients(f(name, True, 300)))(*args) for f in (in_kernel, in_scan)
  )
  compare(actual, desired, 1e-4)


@each_cell
def test_padding_reaches_nothing(name):
  p = problem(name)
  f = jax.jit(with_gradients(in_kernel(name)))

  def padded(garbage):
    xs, d_ys = (np.where(HOLES[..., None], a, garbage) for a in (p.xs, p.d_ys))
    return f(*single((p.params, xs, p.carry, (p.d_carry, np.nan_to_num(d_ys)), HOLES)))

  jax.tree.map(assert_array_equal, padded(np.nan), padded(0.0))


@pytest.mark.parametrize('rows', [4, 40], ids=['few-rows', 'more-rows-than-steps'])
@pytest.mark.parametrize('dropout', ['no-dropout', 'one-mask'])
@each_cell
def test_inputs_may_be_looked_up_in_a_table(name, dropout, rows):
  """Products and their gradient are those of the table if its rows are few and not dropped."""
  p = problem(name)
  rng = np.random.default_rng(0)
  table, ids = rng.normal(size=(rows, INPUTS)), rng.integers(0, rows, (BATCH, STEPS))
  p = p._replace(xs=table[ids])

  def f(params, table, *rest):
    return in_kernel(name, rows == 40)(params, Lookup(table, ids), *rest)

  masks = drops_of_products(name, p, dropout)
  args = single((p.params, table, p.carry, (p.d_carry, p.d_ys), HOLES, masks))
  outputs, (d_params, d_xs, d_carry) = loop_on(name, p, HOLES, rows == 40, *drops(p, dropout))
  d_table = np.zeros_like(table)
  np.add.at(d_table, ids, d_xs)
  compare(jax.jit(f)(*args[:3], *args[4:]), outputs)
  compare(jax.jit(with_gradients(f))(*args), (outputs, (d_params, d_table, d_carry)))


@each_cell
def test_ids_may_be_of_any_type_and_none_reads_beside_the_table(name):
  p = problem(name)
  table = p.xs[0]
  ids = np.random.default_rng(0).integers(0, len(table), (BATCH, STEPS))

  def f(ids):
    return in_kernel(name)(single(p.params), Lookup(single(table), ids), single(p.carry))

  desired = f(ids.astype('int32'))
  for dtype in ('int8', 'uint8', 'int16', 'int64'):
    with jax.enable_x64(dtype == 'int64'):
      jax.tree.map(assert_array_equal, f(jnp.asarray(ids, dtype)), desired)
  last = np.where(ids == len(table) - 1, 10**9, ids).astype('int32')
  jax.tree.map(assert_array_equal, f(last), desired)


@each_cell
def test_a_product_is_taken_once_a_row_of_the_table(name):
  cell, key = make(name, 16), jax.random.key(0)
  ids = jnp.zeros((BATCH, STEPS), jnp.int32)
  params = cell.init(key, INPUTS)

  def value(xs):
    return recurrence.unroll(cell, params, xs)[1].sum()

  def program(f, rows):
    xs = Lookup(jnp.zeros((rows, INPUTS)), ids)
    return jax.jit(f).lower(xs).compile().as_text()

  of_steps = f'f32[{BATCH},{STEPS},{INPUTS}]'
  for f in (value, jax.grad(value, allow_int=True)):
    assert of_steps not in program(f, BATCH * STEPS - 1)
    assert of_steps in program(f, BATCH * STEPS)


@each_cell
def test_what_is_not_finite_is_not_hidden(name):
  """Otherwise a run that diverged would continue with a loss that looks fine."""
  p = problem(name)
  xs = p.xs.copy()
  xs[1, 2, 0] = np.nan
  carry, ys = in_kernel(name)(*single((p.params, xs, p.carry)))
  assert np.isfinite(ys[1, :2]).all() and np.isnan(ys[1, 2:]).all() and np.isnan(carry[0][1]).all()
  assert np.isfinite(ys[0]).all()


@each_cell
def test_dropout_masks_have_gradients_too(name):
  p = problem(name)
  masks = drops_of_products(name, p, 'mask-per-gate')

  def gradient(f):
    def loss(params, masks):
      (h, *_), ys = f(params, *single((p.xs, p.carry)), None, masks)
      return (ys * single(p.d_ys)).sum() + (h * single(p.d_carry[0])).sum()

    return jax.jit(jax.grad(loss, (0, 1)))(*single((p.params, masks)))

  compare(gradient(in_kernel(name)), gradient(in_scan(name)))


@each_cell
def test_vmap_over_runs_is_each_run(name):
  each = [problem(name, seed) for seed in range(3)]
  params, carry, d_carry = (
    jax.tree.map(lambda *a: np.stack(a), *(getattr(p, field) for p in each))
    for field in ('params', 'carry', 'd_carry')
  )
  d_ys = np.stack([p.d_ys for p in each])
  g = jax.jit(jax.vmap(with_gradients(in_kernel(name)), in_axes=(0, None, 0, 0, None)))
  actual = g(*single((params, each[0].xs, carry, (d_carry, d_ys), HOLES)))
  for i, p in enumerate(each):
    desired = loop_on(name, p._replace(xs=each[0].xs), HOLES, False)
    compare(jax.tree.map(lambda a, i=i: a[i], actual), desired)


@each_cell
def test_forward_mode_and_second_derivatives_equal_the_scans(name):
  p, q = problem(name), problem(name, seed=1)
  at, along = single(((p.params, p.xs, p.carry), (q.params, q.xs, q.carry)))

  def derivatives(f):
    def loss(*args):
      carry, ys = f(*args, HOLES)
      return jnp.sin(ys * single(p.d_ys)).sum() + sum((c * c).sum() for c in carry)

    gradient = jax.grad(loss, (0, 1, 2))

    def along_the_gradient(*args):
      found = jax.tree.map(lambda g, v: (g * v).sum(), gradient(*args), along)
      return sum(jax.tree.leaves(found))

    def all_of_them():
      forward = jax.jvp(loss, at, along), jax.jvp(gradient, at, along)
      return forward, jax.grad(along_the_gradient, (0, 1, 2))(*at), jax.checkpoint(gradient)(*at)

    return jax.jit(all_of_them)()

  compare(derivatives(in_kernel(name)), derivatives(in_scan(name)), 1e-4)


def test_unroll_takes_the_kernel_where_it_is_for_the_cell(monkeypatch):
  taken = []
  monkeypatch.setattr(engine, 'scan', lambda *_, **__: pytest.fail('not in the kernel'))
  monkeypatch.setattr(cpu, 'unroll', lambda *a, **o: taken.append(a) or (None, jnp.zeros(())))
  monkeypatch.setattr(devices, 'over_batch', lambda function, arguments, **_: function(*arguments))
  for name in NAMES:
    cell = make(name, 16)
    recurrence.unroll(cell, cell.init(jax.random.key(0), 3), jnp.zeros((2, 4, 3)))
  assert len(taken) == len(NAMES)


def wrong_calls():
  """Arguments that do not fit, by what the message must name: 2 rows, 3 inputs, 16 units."""
  lstm, gru = make('lstm', 16), make('gru-after', 16)
  p, q = (cell.init(jax.random.key(0), 3) for cell in (lstm, gru))
  xs, zeros = jnp.ones((2, 4, 3)), jnp.zeros
  state = zeros((2, 16))
  of_three = lstm.initial_carry((3,), jnp.float32)
  return [
    ('initial_carry', lstm, p, xs, {'initial_carry': of_three}),
    ('initial_carry', lstm, p, xs, {'initial_carry': lstm.initial_carry((1,), jnp.float32)}),
    ('initial_carry', lstm, p, xs, {'initial_carry': (state,)}),
    ('initial_carry', gru, q, xs, {'initial_carry': zeros((2, 3))}),
    ('initial_carry', gru, q, xs, {'initial_carry': state.astype('float16')}),
    ('initial_carry', gru, q, xs, {'initial_carry': state.astype(int)}),
    ("params['w_x']", lstm, p, jnp.ones((2, 4, 5)), {}),
    ("params['w_x']", lstm, p | {'w_x': p['w_x'][:, :-1]}, xs, {}),
    ("params['w_h']", lstm, p | {'w_h': p['w_h'][:, :-16]}, xs, {}),
    ("params['b']", lstm, p | {'b': zeros(8)}, xs, {}),
    ("params['b']", lstm, p | {'b': zeros(200)}, xs, {}),
    ("params['b']", lstm, p | {'b': zeros(())}, xs, {}),
    ("params['b_hn']", gru, q | {'b_hn': zeros(8)}, xs, {}),
    ('params', gru, p, xs, {}),
    ('params', make('gru-before', 16), q, xs, {}),
    ('xs', lstm, p, xs[0], {}),
    ('mask', lstm, p, xs, {'mask': jnp.ones((2, 3), bool)}),
    ('mask', lstm, p, xs, {'mask': jnp.ones((2, 4))}),
    ('resets', lstm, p, xs, {'resets': jnp.ones((3, 4), bool)}),
    ('dropout', lstm, p, xs, {'dropout': (None,)}),
    ('dropout[0]', lstm, p, xs, {'dropout': (zeros((2, 4)), None)}),
    ('dropout[1]', lstm, p, xs, {'dropout': (None, zeros((3, 2, 16)))}),
    ("params['w_x']", lstm, p, Lookup(jnp.ones((9, 5)), jnp.zeros((2, 4), int)), {}),
  ]


@pytest.mark.parametrize('unroll', [cpu.unroll, functools.partial(gpu.unroll, interpret=True)])
@pytest.mark.parametrize('is_jitted', [False, True])
def test_what_does_not_fit_is_refused_in_words(unroll, is_jitted):
  for named, cell, params, xs, options in wrong_calls():

    def run(params, xs, options, cell=cell):
      return unroll(cell, params, xs, **options)

    with pytest.raises(ValueError, match='^' + re.escape(named)):
      (jax.jit(run) if is_jitted else run)(params, xs, options)


def test_environments_that_change_jax():
  """With glibc, the memory that kernels work in is full of NaN, which JAX is told to look for."""
  code = (
    'import ctypes\n'
    'M_PERTURB = -6\n'  # of glibc's malloc.h; fills new memory with the byte 256 ^ 0xff
    'getattr(ctypes.CDLL(None), "mallopt", print)(M_PERTURB, 256)\n'
    'import jax, jax.numpy as jnp, numpy as np\n'
    'from rnnlab import cells\n'
    'from rnnlab.recurrence.kernels.cpu import call as cpu\n'
    'def single(tree): return jax.tree.map(lambda a: jnp.asarray(a, "float32"), tree)\n'
    'for name in ("lstm", "gru"):\n'
    '  cell = cells.get(name, hidden_size=16)\n'
    '  params = single(cell.init(jax.random.key(0), 3))\n'
    '  xs, mask = jnp.ones((2, 4, 3), "float32"), np.arange(4) < np.array([[4], [2]])\n'
    '  xs = xs.at[1, 3].set(jnp.inf)\n'
    '  def loss(params, xs):\n'
    '    return cpu.unroll(cell, params, xs, mask=mask, resets=mask)[1].sum()\n'
    '  eager = jax.grad(loss)(params, xs)\n'
    '  jitted = jax.jit(jax.grad(loss))(params, xs)\n'
    '  for k in params: np.testing.assert_allclose(eager[k], jitted[k], 1e-5, 1e-6)\n'
    '  assert {g.dtype for g in jitted.values()} == {jnp.dtype("float32")}\n'
  )
  environment = os.environ | {'JAX_ENABLE_X64': '1', 'JAX_DEBUG_NANS': '1'}
  subprocess.run([sys.executable, '-c', code], check=True, env=environment)


def test_what_it_supports(monkeypatch):
  xs = jnp.zeros((2, 3, 4))

  def supports(cell, xs=xs, dtype='float32'):
    shapes = jax.eval_shape(lambda key: cell.init(key, 4), jax.random.key(0))
    return cpu.supports(cell, {k: jnp.zeros(v.shape, dtype) for k, v in shapes.items()}, xs)

  assert all(supports(make(name, size)) for name in NAMES for size in (1, 20, 48))
  assert not supports(cells.get('elman', hidden_size=16))
  assert not supports(make('lstm', 16), dtype='bfloat16', xs=xs.astype('bfloat16'))
  assert not supports(make('lstm', 16), xs=xs[:, :0])
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert not supports(make('lstm', 16))


@pytest.mark.parametrize('platform', ['cuda', 'tpu'])
def test_for_another_device_it_is_a_scan(platform):
  cell = make('gru-after', 16)
  params = jax.eval_shape(lambda key: cell.init(key, 3), jax.random.key(0))
  xs = jax.ShapeDtypeStruct((2, 4, 3), jnp.float32)
  f = jax.grad(lambda params, xs: cpu.unroll(cell, params, xs)[1].sum())
  program = jax.jit(f).trace(params, xs).lower(lowering_platforms=(platform,)).as_text()
  assert 'rnnlab_' not in program and 'stablehlo.while' in program


def test_numba_is_loaded_by_those_who_use_it_alone():
  code = 'import sys, rnnlab; assert "numba" not in sys.modules'
  subprocess.run([sys.executable, '-c', code], check=True)
