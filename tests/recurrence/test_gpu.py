"""The GPU kernels' own code in Pallas' interpreter, and their lowering for a GPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import test_recurrence as recurrence_tests
from numpy.testing import assert_allclose
from programs import few_cells
from test_recurrence import OPTIONS, drops, drops_of_products, loop_on, with_gradients

from rnnlab import cells, recurrence
from rnnlab.recurrence.kernels import gpu

HIDDEN, STEPS, INPUTS = 16, 4, 2
NAMES = [name for name in OPTIONS if name != 'elman']
MASKS = {
  'no-mask': None,
  'holes': np.array([[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]], bool),
}

RESETS = np.array([[0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 1, 1]], bool)

each_cell = pytest.mark.parametrize('name', few_cells(NAMES))
each_kernel = pytest.mark.parametrize('name', NAMES)


def make(name, hidden_size=HIDDEN):
  cell, options = OPTIONS[name]
  return cells.get(cell, hidden_size=hidden_size, **options)


def problem(name, seed=0):
  return recurrence_tests.problem(name, steps=STEPS, inputs=INPUTS, hidden=HIDDEN, seed=seed)


def run(unroll, name, reverse=False, **options):
  """`(params, xs, carry, mask, dropout) -> carry, ys`, from and to tuples of states."""
  structure = jax.tree.structure(make(name).initial_carry((1,), jnp.float32))

  def f(params, xs, carry, mask=None, dropout=None, resets=None):
    carry = structure.unflatten(carry)
    more = options if resets is None else options | {'resets': resets}
    carry, ys = unroll(
      make(name),
      params,
      xs,
      mask=mask,
      reverse=reverse,
      initial_carry=carry,
      dropout=dropout,
      **more,
    )
    return tuple(jax.tree.leaves(carry)), ys

  return f


interpreted = functools.partial(run, gpu.unroll, interpret=True)
scanned = functools.partial(run, recurrence.unroll)


def compare(actual, desired):
  jax.tree.map(lambda a, d: assert_allclose(a, d, 1e-9, 1e-10), actual, desired)


@pytest.mark.parametrize(
  ('mask', 'reverse', 'dropout'),
  [
    ('no-mask', False, 'no-dropout'),
    ('holes', True, 'one-mask'),
    ('holes', False, 'mask-per-gate'),
    ('no-mask', True, 'mask-per-gate'),
  ],
)
@each_kernel
def test_the_kernels_equal_the_numpy_loop(name, mask, reverse, dropout):
  p, real = problem(name), MASKS[mask]
  masks = drops_of_products(name, p, dropout)
  with jax.enable_x64():
    f = jax.jit(with_gradients(interpreted(name, reverse)))
    actual = f(p.params, p.xs, p.carry, (p.d_carry, p.d_ys), real, masks)
    compare(actual, loop_on(name, p, real, reverse, *drops(p, dropout)))


@pytest.mark.parametrize('unroll', ['interpreted', pytest.param('scan', marks=pytest.mark.slow)])
@pytest.mark.parametrize(('mask', 'reverse'), [('holes', False), ('no-mask', True)])
@each_kernel
def test_resets_begin_anew_and_no_gradient_passes_them(name, mask, reverse, unroll):
  p, real = problem(name), MASKS[mask]
  f = interpreted(name, reverse) if unroll == 'interpreted' else run(gpu.unroll, name, reverse)
  loop = functools.partial(reference.unroll, resets=RESETS)
  with jax.enable_x64():
    args = p.params, p.xs, p.carry, (p.d_carry, p.d_ys), real, None, RESETS
    compare(jax.jit(with_gradients(f))(*args), loop_on(name, p, real, reverse, unroll=loop))


def test_a_cell_that_does_not_start_at_zeros_is_reset_to_where_it_starts():
  cell = make('lstm')
  start = cell.initial_carry
  cell = cell._replace(initial_carry=lambda *a: jax.tree.map(lambda z: z + 0.5, start(*a)))
  p, resets = problem('lstm'), np.zeros((3, STEPS), bool)
  resets[:, 2] = True
  with jax.enable_x64():
    unroll = functools.partial(gpu.unroll, cell, p.params, interpret=True)
    carry, ys = jax.jit(unroll)(p.xs, resets=resets)
    (_, first), second = unroll(p.xs[:, :2]), unroll(p.xs[:, 2:])
  compare((carry, ys), (second[0], np.concatenate([first, second[1]], axis=1)))


@pytest.mark.parametrize('name', ['gru-after', 'gru-before'])
def test_padding_reaches_nothing(name):
  p, real = problem(name), MASKS['holes']
  f = jax.jit(with_gradients(interpreted(name)))

  def padded(garbage):
    xs, d_ys = (np.where(real[..., None], a, garbage) for a in (p.xs, p.d_ys))
    return f(p.params, xs, p.carry, (p.d_carry, np.nan_to_num(d_ys)), real)

  jax.tree.map(np.testing.assert_array_equal, padded(np.nan), padded(0.0))


@pytest.mark.parametrize('name', ['lstm', 'gru-before'])
def test_dropout_masks_have_gradients_too(name):
  p = problem(name)
  masks = drops_of_products(name, p, 'mask-per-gate')

  def gradient(f):
    def loss(masks):
      (h, *_), ys = f(p.params, p.xs, p.carry, None, masks)
      return (ys * p.d_ys).sum() + (h * p.d_carry[0]).sum()

    return jax.jit(jax.grad(loss))(masks)

  with jax.enable_x64():
    compare(gradient(interpreted(name)), gradient(scanned(name)))


@each_cell
def test_vmap_over_runs_is_each_run(name):
  each = [problem(name, seed) for seed in range(3)]
  params, carry, d_carry = (
    jax.tree.map(lambda *a: np.stack(a), *(getattr(p, field) for p in each))
    for field in ('params', 'carry', 'd_carry')
  )
  d_ys = np.stack([p.d_ys for p in each])
  with jax.enable_x64():
    f = with_gradients(interpreted(name))
    # Weights for each run; xs and mask shared by all.
    g = jax.jit(jax.vmap(f, in_axes=(0, None, 0, 0, None)))
    actual = g(params, each[0].xs, carry, (d_carry, d_ys), MASKS['holes'])
    for i, p in enumerate(each):
      desired = loop_on(name, p._replace(xs=each[0].xs), MASKS['holes'], False)
      compare(jax.tree.map(lambda a, i=i: a[i], actual), desired)


def test_a_gradient_of_vmap_is_the_sum_of_the_runs():
  name = 'gru-after'
  p = problem(name)

  def gradient(f):
    def loss(params, xs):
      return (jax.vmap(f, (None, 0, None))(params, xs, p.carry)[1] ** 2).sum()

    return jax.jit(jax.grad(loss, (0, 1)))(p.params, np.stack([p.xs, 2 * p.xs]))

  with jax.enable_x64():
    compare(gradient(interpreted(name)), gradient(scanned(name)))


@pytest.mark.slow
@each_cell
def test_forward_mode_and_second_derivatives_equal_the_scans(name):
  p, q = problem(name), problem(name, seed=1)
  at, along = (p.params, p.xs, p.carry), (q.params, q.xs, q.carry)

  def derivatives(f):
    def loss(*args):
      carry, ys = f(*args, MASKS['holes'])
      return jnp.sin(ys * p.d_ys).sum() + sum((c * c).sum() for c in carry)

    gradient = jax.grad(loss, (0, 1, 2))

    def along_the_gradient(*args):
      products = jax.tree.map(lambda g, v: (g * v).sum(), gradient(*args), along)
      return sum(jax.tree.leaves(products))

    def all_of_them():
      forward = jax.jvp(loss, at, along), jax.jvp(gradient, at, along)
      return forward, jax.grad(along_the_gradient, (0, 1, 2))(*at) if name == 'lstm' else None

    return jax.jit(all_of_them)()

  with jax.enable_x64():
    compare(derivatives(interpreted(name)), derivatives(scanned(name)))


def test_without_a_gpu_it_is_a_scan():
  name = 'gru-after'
  p = problem(name)
  args = p.params, p.xs, p.carry, (p.d_carry, p.d_ys), MASKS['holes']
  with jax.enable_x64():
    actual = jax.jit(with_gradients(run(gpu.unroll, name)))(*args)
    compare(actual, jax.jit(with_gradients(scanned(name)))(*args))


@pytest.mark.parametrize(
  ('name', 'hidden_size', 'runs'),
  [('lstm', 128, None), ('gru-after', 64, 3), ('gru-before', 16, 3)],
)
def test_for_a_gpu_it_is_one_kernel_each_way(name, hidden_size, runs):
  """As far as one can see without a GPU: Triton accepts the kernels, and no loop is left."""
  cell = make(name, hidden_size)
  mask = np.ones((5, 7), bool)

  def loss(params, xs, drop_x, drop_h):
    options = {'mask': mask, 'resets': ~mask, 'dropout': (drop_x, *drop_h)}
    return gpu.unroll(cell, params, xs, **options)[1].sum()

  drops_h = [np.ones((5, hidden_size), np.float32)] * (2 if name == 'gru-before' else 1)
  args = cell.init(jax.random.key(0), 8), np.ones((5, 7, 8), np.float32), None, drops_h
  f = jax.grad(loss)
  if runs:
    f = jax.vmap(f, axis_size=runs)
    args = jax.tree.map(lambda a: np.stack([a] * runs), args)
  # From 0.11 on, JAX must be told the GPU if there is none.
  device = jax.sharding.AbstractDevice('NVIDIA H100', num_cores=None, platform='gpu')
  with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=device)):
    program = jax.jit(f).trace(*args).lower(lowering_platforms=('cuda',)).as_text()
  assert program.count('__gpu$xla.gpu.triton') == 2
  assert 'stablehlo.while' not in program


def test_what_it_supports(monkeypatch):
  xs = jnp.zeros((2, 3, 4))

  def supports(cell, xs=xs, dtype='float32'):
    shapes = jax.eval_shape(lambda key: cell.init(key, 4), jax.random.key(0))
    return gpu.supports(cell, {k: jnp.zeros(v.shape, dtype) for k, v in shapes.items()}, xs)

  assert not supports(make('lstm'))  # on a CPU
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert all(supports(make(name, size)) for name in NAMES for size in gpu.WARPS)
  assert not supports(cells.get('elman', hidden_size=16))
  assert not supports(make('lstm', 48))
  assert not supports(make('lstm'), dtype='bfloat16', xs=xs.astype('bfloat16'))
  assert not supports(make('lstm'), xs=xs[:, :0])
  with jax.default_matmul_precision('highest'):
    assert not supports(make('lstm'))
  with jax.default_device(jax.devices('cpu')[0]):
    assert not supports(make('lstm'))
