"""What every cell promises, and the initial parameters of rnnlab's own.

The first part runs for every file of rnnlab/cells: a new cell is covered automatically.
"""

import functools
import json
import pickle
import subprocess
import sys

import equations
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from numpy.testing import assert_allclose, assert_array_equal

import rnnlab
from rnnlab import cells
from rnnlab.cells.base import Cell, kernel_name, matmul
from rnnlab.recurrence import dropout_masks, products, unroll

BATCH, STEPS, INPUTS, HIDDEN = 3, 4, 5, 4

VARIANTS = {name: (name, {}) for name in cells.names()} | {
  'gru-before': ('gru', {'reset': 'before'}),
  'lstm-forget-0': ('lstm', {'forget_bias': 0.0}),
  'mlstm-heads': ('mlstm', {'heads': 2}),
}

# Cells whose states are multiplied by no weight matrix.
OF_INPUTS_ALONE = 'indrnn', 'mingru', 'minlstm', 'mlstm', 'qrnn', 'rglru', 'sru'


# For the cells that test_zoo.py compares with their papers these tests are slow; the quick tests
# run them only for the other cells and for a new one.
@pytest.fixture(
  params=[
    pytest.param(variant, marks=pytest.mark.slow) if hasattr(equations, name) else variant
    for variant, (name, _) in VARIANTS.items()
  ]
)
def cell(request):
  name, options = VARIANTS[request.param]
  return cells.get(name, hidden_size=HIDDEN, **options)


def arguments(cell, dtype='float32', batch=BATCH):
  """params, carry and x_t for a step, random throughout."""
  params = jax.eval_shape(lambda: cell.init(jax.random.key(0), INPUTS))
  carry = jax.eval_shape(lambda: cell.initial_carry((batch,), jnp.float32))
  x_t = jax.ShapeDtypeStruct((batch, INPUTS), jnp.float32)
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda a: jnp.asarray(0.6 * rng.normal(size=a.shape), dtype), (params, carry, x_t)
  )


def initial(cell, inputs=INPUTS, key=0):
  return jax.jit(cell.init, static_argnums=1)(jax.random.key(key), inputs)


def types(tree):
  return jax.tree.map(lambda a: (a.shape, a.dtype.name), tree)


def test_init_makes_a_flat_dict_of_float32(cell):
  params = initial(cell)
  assert type(params) is dict and params
  for name, leaf in params.items():
    assert name.isidentifier()
    assert isinstance(leaf, jax.Array) and leaf.dtype == 'float32' and leaf.ndim
    assert np.isfinite(leaf).all(), name


def test_init_depends_on_the_key_alone(cell):
  first, again, other = (initial(cell, key=key) for key in (0, 0, 1))
  jax.tree.map(assert_array_equal, again, first)
  assert any((first[k] != other[k]).any() for k in first)
  keys = jax.random.split(jax.random.key(0), 2)
  population = jax.eval_shape(jax.vmap(lambda key: cell.init(key, INPUTS)), keys)
  assert types(population) == {k: ((2, *w.shape), 'float32') for k, w in first.items()}


def test_init_takes_any_input_size(cell):
  for size in (1, HIDDEN, 9):
    params = jax.eval_shape(lambda key, size=size: cell.init(key, size), jax.random.key(0))
    carry = jax.eval_shape(lambda: cell.initial_carry((BATCH,), jnp.float32))
    x_t = jax.ShapeDtypeStruct((BATCH, size), jnp.float32)
    _, y_t = jax.eval_shape(lambda *args: cell.step(*args, matmul), params, carry, x_t)
    assert y_t.shape == (BATCH, HIDDEN)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('batch_shape', [(), (3,), (2, 3)])
def test_initial_carry_has_the_batch_shape_and_dtype(cell, batch_shape, dtype):
  carry = cell.initial_carry(batch_shape, dtype)
  for leaf in jax.tree.leaves(carry):
    assert leaf.shape[: len(batch_shape)] == batch_shape and leaf.dtype == dtype
    assert np.isfinite(leaf.astype('float32')).all()


@pytest.mark.parametrize('dtype', ['float32', 'float64', 'bfloat16', 'float16'])
def test_step_keeps_the_carry_s_structure_shapes_and_dtype(cell, dtype):
  with jax.enable_x64(dtype == 'float64'):
    params, carry, x_t = arguments(cell, dtype)
    after, y_t = jax.eval_shape(lambda *args: cell.step(*args, matmul), params, carry, x_t)
    assert jax.tree.structure(after) == jax.tree.structure(carry)
    assert types(after) == types(carry) == types(cell.initial_carry((BATCH,), dtype))
    assert (y_t.shape, y_t.dtype) == ((BATCH, HIDDEN), dtype)


def test_step_is_the_same_compiled_and_mapped(cell):
  params, carry, x_t = arguments(cell)

  def step(params, carry, x_t):
    return cell.step(params, carry, x_t, matmul)

  def row(carry, x):
    return jax.tree.map(lambda a: a[0], step(params, *jax.tree.map(lambda a: a[None], (carry, x))))

  expected = step(params, carry, x_t)
  runs = jax.tree.map(lambda a: jnp.stack([-a, a]), (params, carry, x_t))
  for actual in (
    jax.jit(step)(params, carry, x_t),
    jax.jit(jax.vmap(row))(carry, x_t),
    jax.tree.map(lambda a: a[1], jax.jit(jax.vmap(step))(*runs)),
  ):
    jax.tree.map(lambda a, e: assert_allclose(a, e, 1e-5, 1e-6), actual, expected)


def test_step_has_the_gradient_of_its_values(cell):
  with jax.enable_x64():
    step = jax.jit(lambda *args: cell.step(*args, matmul))
    check_grads(step, arguments(cell, 'float64'), order=1, modes=['rev'], atol=1e-6, rtol=1e-6)


def test_low_precision_is_near(cell):
  step = jax.jit(lambda *args: cell.step(*args, matmul))
  args = arguments(cell)
  actual = step(*jax.tree.map(lambda a: a.astype('bfloat16'), args))
  jax.tree.map(lambda a, e: assert_allclose(a.astype('float32'), e, atol=0.05), actual, step(*args))


def test_unroll_is_a_loop_of_steps(cell):
  """With dropout, in reverse, with padding anywhere: values and gradients."""
  mask = np.array([[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]], bool)
  with jax.enable_x64():
    params, carry, x_t = arguments(cell, 'float64')
    xs = jnp.stack([x_t * k for k in (1.0, -0.5, 2.0, 0.3)], 1)
    masks = dropout_masks(
      jax.random.key(0), cell, params, BATCH, INPUTS, rate=0.5, recurrent_rate=0.5
    )

    def engine(params, carry, xs):
      return unroll(cell, params, xs, mask=mask, reverse=True, initial_carry=carry, dropout=masks)

    def keep(t, new, old):
      return jnp.where(mask[:, t].reshape(BATCH, *[1] * (new.ndim - 1)), new, old)

    def loop(params, carry, xs):
      ys = []
      for t in reversed(range(STEPS)):
        remaining = iter(masks)
        new, y_t = cell.step(params, carry, xs[:, t], lambda w, v: (v * next(remaining)) @ w)  # noqa: B023
        carry = jax.tree.map(functools.partial(keep, t), new, carry)
        ys.insert(0, keep(t, y_t, 0))
      return carry, jnp.stack(ys, 1)

    def with_gradients(f):
      out, pull = jax.vjp(f, params, carry, xs)
      return out, pull(jax.tree.map(jnp.cos, out))

    actual, expected = (jax.jit(functools.partial(with_gradients, f))() for f in (engine, loop))
    jax.tree.map(lambda a, e: assert_allclose(a, e, 1e-10, 1e-10), actual, expected)


def test_every_parameter_matters(cell):
  """Each column of each leaf has a gradient: no gate is left unused."""
  params, carry, x_t = arguments(cell)
  xs = jnp.stack([x_t * k for k in (1.0, -0.5, 2.0, 0.3)], 1)
  d_ys = jnp.asarray(np.random.default_rng(1).normal(size=(BATCH, STEPS, HIDDEN)), 'float32')

  def loss(params):
    return (unroll(cell, params, xs, initial_carry=carry)[1] * d_ys).sum()

  for name, gradient in jax.jit(jax.grad(loss))(params).items():
    assert np.isfinite(gradient).all(), name
    assert (gradient != 0).any(tuple(range(gradient.ndim - 1))).all(), name


def test_no_matrix_goes_past_dot(cell):
  params, carry, x_t = arguments(cell)
  found = products(cell, params, INPUTS)
  assert found and (cell.name in OF_INPUTS_ALONE or not all(product.of_input for product in found))
  assert {product.width for product in found if product.of_input} <= {INPUTS}

  def step(params):
    return cell.step(params, carry, x_t, lambda w, v: jnp.zeros_like(v @ w))

  @jax.jit
  def gradients(params):
    out, pull = jax.vjp(step, params)
    return pull(jax.tree.map(jnp.ones_like, out))[0]

  assert all((g == 0).all() for g in gradients(params).values() if g.ndim > 1)


def test_every_product_counts(cell):
  params, carry, x_t = arguments(cell)

  @jax.jit
  @jax.jacrev
  def slopes(scales):
    states, ys = carry, []
    for x in (x_t, -x_t):
      remaining = iter(scales)
      states, y_t = cell.step(params, states, x, lambda w, v: next(remaining) * (v @ w))  # noqa: B023
      ys.append(y_t)
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves((states, ys))])

  ones = tuple(jnp.ones(()) for _ in products(cell, params, INPUTS))
  assert all((slope != 0).any() for slope in slopes(ones))


# The initial parameters of rnnlab's own cells: Keras's.

GATES = {'elman': 1, 'lstm': 4, 'gru': 3}


@pytest.mark.parametrize('name', GATES)
def test_initial_weights_are_glorot_and_orthogonal(name):
  inputs, hidden, gates = 64, 48, GATES[name]
  params = initial(cells.get(name, hidden_size=hidden), inputs)
  w_x, w_h = params['w_x'], params['w_h']
  assert w_x.shape == (inputs, gates * hidden) and w_h.shape == (hidden, gates * hidden)
  limit = np.sqrt(6 / (inputs + gates * hidden))
  assert 0.99 * limit < np.abs(w_x).max() <= limit
  assert_allclose(w_x.std(), limit / np.sqrt(3), 0.05)
  assert_allclose(w_x.mean(), 0, atol=0.05 * limit)
  assert_allclose(w_h @ w_h.T, np.eye(hidden), atol=1e-5)


@pytest.mark.parametrize('name', GATES)
def test_initial_weights_are_chosen_by_the_caller(name):
  cell = cells.get(
    name,
    hidden_size=HIDDEN,
    kernel_init=jax.nn.initializers.constant(2.0),
    recurrent_init=jax.nn.initializers.constant(3.0),
  )
  params = cell.init(jax.random.key(0), INPUTS)
  assert (params['w_x'] == 2).all() and (params['w_h'] == 3).all()


def test_initial_biases_are_zero_but_for_lstm_s_forget_gate():
  for name, options in VARIANTS.values():
    if name in GATES:
      params = initial(cells.get(name, hidden_size=HIDDEN, **options))
      expected = np.zeros(GATES[name] * HIDDEN)
      if name == 'lstm':
        expected[HIDDEN : 2 * HIDDEN] = options.get('forget_bias', 1.0)
      assert_array_equal(params['b'], expected)
      assert_array_equal(params.get('b_hn', 0), 0)


def test_the_reset_before_the_product_has_one_bias():
  after, before = (
    initial(cells.get('gru', hidden_size=HIDDEN, reset=reset)) for reset in ('after', 'before')
  )
  assert set(after) == {'w_x', 'w_h', 'b', 'b_hn'} and set(before) == {'w_x', 'w_h', 'b'}


# Finding cells, and errors.


def test_cells_are_found_by_file_name():
  assert {'elman', 'gru', 'lstm'} <= set(cells.names())
  assert 'base' not in cells.names()
  assert cells.names() == sorted(cells.names())
  assert cells.get('lstm', hidden_size=3) is cells.get('lstm', hidden_size=3)
  assert isinstance(cells.get('lstm', hidden_size=3), Cell)


@pytest.mark.parametrize('size', [0, -1, 1.5, 4.0, True, '4', None])
@pytest.mark.parametrize('name', cells.names())
def test_hidden_size_must_be_a_whole_number(name, size):
  for known in (1, 4):  # equal to True and to 4.0
    cells.get(name, hidden_size=known)
  with pytest.raises(ValueError, match='hidden_size') as error:
    cells.get(name, hidden_size=size)
  assert repr(size) in str(error.value)


@pytest.mark.parametrize(
  ('name', 'options', 'words'),
  [
    ('ltsm', {}, ["no cell 'ltsm'", "did you mean 'lstm'", 'cells: cifg, elman, gru']),
    ('LSTM', {}, ["no cell 'LSTM'", 'cells: cifg, elman, gru']),
    ('base', {}, ["no cell 'base'"]),
    ('', {}, ["no cell ''", 'cells: cifg, elman, gru']),
    ('lstm.lstm', {}, ["no cell 'lstm.lstm'"]),
    ('lstm', {'forget_bais': 1.0}, ["no option 'forget_bais'", "did you mean 'forget_bias'"]),
    ('lstm', {'reset': 'after'}, ["lstm has no option 'reset'", 'forget_bias']),
    ('gru', {'reset': 'sideways'}, ["'before' or 'after'", "'sideways'"]),
    ('gru', {'reset': None}, ["'before' or 'after'", 'None']),
  ],
  ids=[
    'misspelt',
    'upper-case',
    'base',
    'empty',
    'dotted',
    'option-misspelt',
    'option-of-another',
    'reset-sideways',
    'reset-none',
  ],
)
def test_errors_name_what_is_there(name, options, words):
  with pytest.raises(ValueError) as error:
    cells.get(name, hidden_size=HIDDEN, **options)
  assert all(word in str(error.value) for word in words), str(error.value)
  assert str(error.value).count('\n') < 2


def test_a_cell_is_not_named_by_its_factory():
  with pytest.raises(ValueError, match="a cell is named by a word, such as 'gru', not <function"):
    cells.get(cells.find('gru'), hidden_size=2)


UGRNN = '''
"""The update gate network of Collins et al. (2017)."""

import jax
import jax.numpy as jnp

from rnnlab.cells import base


def ugrnn(hidden_size, *, bias=1.0):
  base.check_size(hidden_size)

  def init(key, input_size):
    k_x, k_h = jax.random.split(key)
    return {
        'w_x': base.kernel_init(k_x, (input_size, 2 * hidden_size)),
        'w_h': base.recurrent_init(k_h, (hidden_size, 2 * hidden_size)),
        'b': jnp.full(2 * hidden_size, bias),
    }

  def initial_carry(batch_shape, dtype=jnp.float32):
    return jnp.zeros((*batch_shape, hidden_size), dtype)

  def step(params, h, x_t, dot):
    w_g, w_n = jnp.split(params['w_h'], 2, axis=-1)
    x_g, x_n = base.gates(dot(params['w_x'], x_t) + params['b'], 2)
    g = jax.nn.sigmoid(x_g + dot(w_g, h))
    h = g * h + (1 - g) * jnp.tanh(x_n + dot(w_n, h))
    return h, h

  return base.Cell(init, initial_carry, step)
'''


@pytest.fixture
def drop_file(tmp_path, monkeypatch):
  """Puts a file into the folder of cells, for one test."""
  monkeypatch.setattr(cells, '__path__', [*cells.__path__, str(tmp_path)])
  dropped = []

  def drop(name, text):
    (tmp_path / f'{name}.py').write_text(text)
    dropped.append(name)

  yield drop
  for name in dropped:
    sys.modules.pop(f'rnnlab.cells.{name}', None)
    vars(cells).pop(name, None)


def test_a_cell_is_one_new_file(drop_file):
  drop_file('ugrnn', UGRNN)
  assert 'ugrnn' in cells.names()
  cell = cells.get('ugrnn', hidden_size=HIDDEN, bias=0.5)
  for check in (
    test_init_makes_a_flat_dict_of_float32,
    test_unroll_is_a_loop_of_steps,
    test_every_parameter_matters,
    test_no_matrix_goes_past_dot,
    test_every_product_counts,
  ):
    check(cell)
  assert len(products(cell, initial(cell), INPUTS)) == 3
  with pytest.raises(ValueError, match="did you mean 'ugrnn'"):
    cells.get('urgnn', hidden_size=HIDDEN)


def test_a_file_without_its_factory_says_so(drop_file):
  drop_file('peephole', 'def lstm(hidden_size):\n  pass\n')
  with pytest.raises(ValueError, match=r'peephole\.py must define a function peephole'):
    cells.get('peephole', hidden_size=HIDDEN)


def test_a_cell_of_a_notebook_does_not_hide_a_file():
  def lstm(hidden_size):
    pass

  with pytest.raises(ValueError, match=r'rnnlab/cells/lstm\.py'):
    cells.add(lstm)


def test_an_option_is_the_same_after_a_config_s_way_through_json():
  """A tuple comes back as a list, and still makes the same cell."""
  seen = []

  @cells.add
  def layered(hidden_size, sizes=()):
    seen.append(sizes)
    return cells.get('elman', hidden_size=hidden_size)

  try:
    made = cells.get('layered', hidden_size=4, sizes=(2, (3, 4)))
    again = json.loads(json.dumps({'hidden_size': 4, 'sizes': (2, (3, 4))}))
    assert cells.get('layered', **again) is made
    assert seen == [(2, (3, 4))]
    with pytest.raises(ValueError, match=r"option sizes can't be \{'a': 1\}"):
      cells.get('layered', hidden_size=4, sizes={'a': 1})
  finally:
    cells._added.pop('layered')


def test_elman_s_activation_is_relu_where_asked():
  cell = cells.get('elman', hidden_size=3, activation='relu')
  params = {k: np.asarray(w) for k, w in cell.init(jax.random.key(0), 2).items()}
  x, h = np.array([[1.0, -2.0]], 'float32'), np.array([[0.5, -0.5, 1.0]], 'float32')
  expected = np.maximum(x @ params['w_x'] + h @ params['w_h'] + params['b'], 0)
  np.testing.assert_allclose(cell.step(params, h, x, matmul)[1], expected, 1e-6)
  with pytest.raises(ValueError, match="'tanh' or 'relu', not 'rely'"):
    cells.get('elman', hidden_size=3, activation='rely')


# Cells made alike.


def small(hidden_size, *, scale=1.0):
  """A factory like a user's: y is the sum of the inputs, scaled."""

  def initial_carry(batch_shape, dtype=jnp.float32):
    return jnp.zeros((*batch_shape, hidden_size), dtype)

  def step(params, h, x_t, dot):
    h = h + scale * dot(params['w_x'], x_t)
    return h, h

  return Cell(lambda _, size: {'w_x': jnp.ones((size, hidden_size))}, initial_carry, step)


def test_cells_made_alike_are_equal_and_others_differ():
  same = [
    rnnlab.lstm(4),
    rnnlab.lstm(hidden_size=4),
    rnnlab.lstm(4, forget_bias=1.0),
    cells.get('lstm', hidden_size=4),
  ]
  others = [
    rnnlab.lstm(5),
    rnnlab.lstm(4, forget_bias=0.0),
    rnnlab.gru(4),
    rnnlab.gru(4, reset='before'),
    rnnlab.lstm(4, bias_init=jax.nn.initializers.ones),
    rnnlab.lstm(4)._replace(step=rnnlab.lstm(5).step),
    rnnlab.lstm(4)._replace(fused=None),
    rnnlab.lstm(4)._replace(initial_carry=lambda shape, dtype: None),
  ]
  assert len({*same}) == 1
  assert len({*same, *others}) == 1 + len(others)


def test_a_compiled_function_is_compiled_once_for_cells_made_alike():
  f = jax.jit(unroll, static_argnums=0)
  xs = jnp.ones((2, 3, INPUTS))
  params = initial(rnnlab.lstm(HIDDEN))
  for make in (lambda: rnnlab.lstm(HIDDEN), lambda: cells.get('lstm', hidden_size=HIDDEN)):
    f(make(), params, xs)
    f(make(), params, xs)
  assert f._cache_size() == 1
  f(rnnlab.lstm(HIDDEN)._replace(fused=None), params, xs)
  assert f._cache_size() == 2


def test_a_cell_has_a_name_and_options():
  cell = rnnlab.gru(4, reset='before')
  assert (cell.name, cell.options) == ('gru', {'hidden_size': 4, 'reset': 'before'})
  assert str(cell) == "gru(hidden_size=4, reset='before')"
  assert str(rnnlab.lstm(4, forget_bias=1.0)) == 'lstm(hidden_size=4)'
  by_hand = small(4)
  assert (by_hand.name, by_hand.options, by_hand.made) == ('', {}, None)
  assert str(by_hand._replace(name='mine')) == 'mine'
  try:
    cells.add(small)
    assert str(cells.get('small', hidden_size=4)) == 'small(hidden_size=4)'
    assert cells.get('small', hidden_size=4) == cells.get('small', hidden_size=4, scale=1.0)
  finally:
    cells._added.pop('small')


def test_a_cell_goes_to_another_process():
  sent = [rnnlab.lstm(4, forget_bias=0.5), cells.get('gru', hidden_size=3, reset='before')]
  code = (
    'import pickle, sys, rnnlab\n'
    'cells = pickle.loads(sys.stdin.buffer.read())\n'
    'own = [rnnlab.lstm(4, forget_bias=0.5), rnnlab.gru(3, reset="before")]\n'
    'assert cells == own and list(map(hash, cells)) == list(map(hash, own))\n'
    'sys.stdout.buffer.write(pickle.dumps(cells))\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], input=pickle.dumps(sent), capture_output=True, check=True
  )
  assert pickle.loads(done.stdout) == sent
  changed = sent[0]._replace(step=matmul)
  with pytest.raises((AttributeError, pickle.PicklingError)):  # and not the cell without the change
    pickle.dumps(changed)


def test_an_option_without_a_hash_makes_a_cell_that_is_its_own():
  start = np.zeros(())
  one, other = rnnlab.lstm(4, forget_bias=start), rnnlab.lstm(4, forget_bias=start)
  assert one != other and one.name == 'lstm' and {one, other}
  assert kernel_name(one) == 'lstm'
  traced = jax.jit(lambda b: rnnlab.lstm(4, forget_bias=b).init(jax.random.key(0), 3)['b'])(2.0)
  assert_array_equal(traced, rnnlab.lstm(4, forget_bias=2.0).init(jax.random.key(0), 3)['b'])


def test_a_call_that_a_factory_has_not_is_python_s_own_error():
  with pytest.raises(TypeError, match=r"lstm\(\).*'hidden_size'"):
    rnnlab.lstm()
  with pytest.raises(TypeError, match=r"lstm\(\).*'forget'"):
    rnnlab.lstm(4, forget=1.0)


def test_a_factory_that_makes_no_cell_says_so(drop_file):
  drop_file('empty', 'def empty(hidden_size):\n  pass\n')
  with pytest.raises(ValueError, match='factory of the cell empty must return a Cell, not None'):
    cells.get('empty', hidden_size=4)


def test_a_kernel_is_for_the_factory_s_own_functions():
  cell = rnnlab.lstm(16)
  assert kernel_name(cell) == 'lstm'
  assert kernel_name(cell._replace(init=None)) == 'lstm'
  assert kernel_name(cell._replace(fused=None)) is None
  assert kernel_name(cell._replace(step=rnnlab.lstm(4).step)) is None
  assert kernel_name(cell._replace(initial_carry=rnnlab.lstm(4).initial_carry)) is None
  assert kernel_name(small(16)._replace(fused='lstm')) is None


def test_a_factory_may_change_another_s_cell():
  def louder(hidden_size):
    inner = rnnlab.lstm(hidden_size)

    def step(params, carry, x_t, dot):
      return inner.step(params, carry, 2 * x_t, dot)

    return inner._replace(step=step)

  def renamed(hidden_size):
    return rnnlab.lstm(hidden_size)

  try:
    cells.add(louder)
    cells.add(renamed)
    params, xs = initial(rnnlab.lstm(16)), jnp.ones((2, 3, INPUTS))
    found = unroll(cells.get('louder', hidden_size=16), params, xs)[1]
    assert_allclose(found, unroll(rnnlab.lstm(16), params, 2 * xs)[1], 1e-5, 1e-6)
    assert kernel_name(cells.get('louder', hidden_size=16)) is None
    assert kernel_name(cells.get('renamed', hidden_size=16)) == 'lstm'
    assert cells.get('renamed', hidden_size=16).name == 'renamed'
  finally:
    cells._added.clear()
