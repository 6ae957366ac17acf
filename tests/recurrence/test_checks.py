"""The checks of the recurrence: each wrong call is refused in words, whichever way it would run."""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import FrozenDict
from numpy.testing import assert_allclose, assert_array_equal

import rnnlab
from rnnlab import models, recurrence
from rnnlab.cells.base import Lookup
from rnnlab.recurrence import checks

BATCH, STEPS, INPUTS = 2, 3, 5
KERNEL, SCAN = 16, 4  # hidden sizes: one for a CPU kernel, one for the scan


def normal(*shape, dtype=np.float32, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(dtype)


@functools.cache
def make(name, hidden):
  return getattr(rnnlab, name)(hidden)


def right(name='lstm', hidden=KERNEL, batch=BATCH, steps=STEPS):
  """The arguments of a correct call."""
  cell = make(name, hidden)
  params = {k: np.asarray(w) for k, w in cell.init(jax.random.key(0), INPUTS).items()}
  return {
    'params': params,
    'xs': normal(batch, steps, INPUTS),
    'initial_carry': jax.tree.map(np.asarray, cell.initial_carry((batch,), jnp.float32)),
  }


class Flax(NamedTuple):
  """A carry in another library's order."""

  c: np.ndarray
  h: np.ndarray


def carry_of(shape, dtype=np.float32):
  return lambda call, hidden: (
    call
    | {
      'initial_carry': jax.tree.map(
        lambda _: np.zeros([{'H': hidden}.get(n, n) for n in shape], dtype), call['initial_carry']
      )
    }
  )


def with_param(name, shape):
  def change(call, hidden):
    sizes = {'D': INPUTS, 'H': hidden, 'GH': call['params']['w_h'].shape[1]}
    value = np.zeros([sizes.get(n, n) for n in shape], np.float32)
    return call | {'params': call['params'] | {name: value}}

  return change


def with_argument(**changed):
  return lambda call, hidden: call | changed


# What is done to a correct call of either cell, the error, and words in it.
WRONG = {
  'carry-of-a-larger-batch': (carry_of((3, 'H')), ValueError, ['initial_carry', '3 rows', 'a[:2]']),
  'carry-of-one-row': (carry_of((1, 'H')), ValueError, ['initial_carry', 'float32[1, ']),
  'carry-too-narrow': (carry_of((BATCH, 3)), ValueError, ['initial_carry', 'float32[2, 3]']),
  'carry-float16': (carry_of((BATCH, 'H'), np.float16), ValueError, ['float16', 'float32', 'cast']),
  'carry-int': (carry_of((BATCH, 'H'), np.int32), ValueError, ['initial_carry', 'int32', 'cast']),
  'carry-rank-1': (carry_of(('H',)), ValueError, ['initial_carry', 'float32[']),
  'carry-dict': (with_argument(initial_carry={'h': np.zeros(2)}), TypeError, ['a dict']),
  'carry-number': (with_argument(initial_carry=0.0), TypeError, ['initial_carry']),
  'xs-too-wide': (
    with_argument(xs=normal(BATCH, STEPS, INPUTS + 1)),
    ValueError,
    ["params['w_x'] is float32[5, ", '6 features', '[6, '],
  ),
  'xs-too-narrow': (with_argument(xs=normal(BATCH, STEPS, 1)), ValueError, ["params['w_x']"]),
  'xs-int': (with_argument(xs=np.ones((BATCH, STEPS, INPUTS), int)), ValueError, ['xs', 'floats']),
  'xs-list': (with_argument(xs=[[[0.0] * INPUTS] * STEPS] * BATCH), TypeError, ['xs', 'list']),
  'w_x-too-narrow': (with_param('w_x', ('D', 3)), ValueError, ["params['w_x']", '[5, 3]']),
  'w_h-too-narrow': (with_param('w_h', ('H', 3)), ValueError, ["params['w_h']"]),
  'w_h-too-short': (with_param('w_h', (3, 'GH')), ValueError, ["params['w_h']"]),
  'b-too-short': (with_param('b', (8,)), ValueError, ["params['b'] is float32[8]"]),
  'b-too-long': (with_param('b', (200,)), ValueError, ["params['b'] is float32[200]"]),
  'b-scalar': (with_param('b', ()), ValueError, ["params['b'] is float32[]"]),
  'b-of-two-axes': (with_param('b', (1, 'GH')), ValueError, ["params['b'] is float32[1, "]),
  'another-parameter': (with_param('w_y', (3,)), ValueError, ["have ['w_y']"]),
  'a-parameter-less': (
    lambda call, _: call | {'params': {'w_x': call['params']['w_x'], 'b': call['params']['b']}},
    ValueError,
    ["lack ['w_h']"],
  ),
  'params-list': (
    lambda call, _: call | {'params': list(call['params'].values())},
    TypeError,
    ['params must be a dict', 'list'],
  ),
  'params-int': (
    lambda call, _: call | {'params': {k: w.astype(int) for k, w in call['params'].items()}},
    ValueError,
    ["params['", 'int32'],
  ),
  'dtype-unknown': (with_argument(dtype='floaty'), TypeError, ['dtype', "'floaty'"]),
  'dtype-int': (with_argument(dtype='int8'), ValueError, ['dtype', 'int8']),
  'mask-of-another-batch': (with_argument(mask=np.ones((3, STEPS), bool)), ValueError, ['mask']),
  'dropout-array': (with_argument(dropout=np.ones((2, BATCH))), TypeError, ['dropout', 'tuple']),
  'dropout-int': (
    lambda call, hidden: (
      call | {'dropout': (np.ones((BATCH, INPUTS), int), np.ones((BATCH, hidden), int))}
    ),
    ValueError,
    ['dropout[0]', 'int32'],
  ),
  'lookup-of-floats': (
    with_argument(xs=Lookup(normal(4, INPUTS), np.zeros((BATCH, STEPS)))),
    ValueError,
    ['xs.ids', 'integers'],
  ),
  'lookup-in-a-vector': (
    with_argument(xs=Lookup(normal(4), np.zeros((BATCH, STEPS), int))),
    ValueError,
    ['xs.table', 'float32[4]'],
  ),
  'lookup-too-wide': (
    with_argument(xs=Lookup(normal(4, INPUTS + 1), np.zeros((BATCH, STEPS), int))),
    ValueError,
    ["params['w_x']"],
  ),
}
each_wrong = pytest.mark.parametrize('wrong', WRONG)
each_way = pytest.mark.parametrize('hidden', [KERNEL, SCAN], ids=['kernel', 'scan'])
each_name = pytest.mark.parametrize('name', ['lstm', 'gru'])


def arrays(tree):
  """The arrays of a call, and the function that makes the call of them again."""
  leaves, structure = jax.tree.flatten(tree)
  moving = [isinstance(leaf, np.ndarray) for leaf in leaves]

  def whole(given):
    given = iter(given)
    return structure.unflatten(
      [next(given) if m else leaf for m, leaf in zip(moving, leaves, strict=True)]
    )

  return [leaf for m, leaf in zip(moving, leaves, strict=True) if m], whole


def refused(run, call, error, words):
  """Eagerly, and traced, with the same error."""
  leaves, whole = arrays(call)
  said = []
  for f in (lambda *leaves: run(**whole(leaves)), jax.jit(lambda *leaves: run(**whole(leaves)))):
    with pytest.raises(error) as caught:
      f(*leaves)
    assert type(caught.value) is error
    said.append(str(caught.value))
  assert said[0] == said[1]
  assert all(word in said[0] for word in words), said[0]


@each_wrong
@each_way
@each_name
def test_a_wrong_call_is_refused_in_words(name, hidden, wrong):
  change, error, words = WRONG[wrong]
  cell = make(name, hidden)
  refused(
    functools.partial(recurrence.unroll, cell), change(right(name, hidden), hidden), error, words
  )


@pytest.mark.parametrize('wrong', [wrong for wrong in WRONG if wrong != 'params-list'])
def test_so_are_those_of_layers_and_directions_by_name(wrong):
  change, error, words = WRONG[wrong]
  good, bad = right(), change(right(), KERNEL)
  cell = make('lstm', KERNEL)

  def both(**call):
    call |= {k: (good.get(k), call[k]) for k in ('params', 'initial_carry', 'dropout') if k in call}
    return recurrence.bidirectional(cell, **call)

  def layers(**call):
    call |= {k: [call[k]] for k in ('params', 'initial_carry', 'dropout') if k in call}
    return recurrence.stacked(cell, **call)

  refused(both, bad, error, words)
  refused(layers, bad, error, ['layer 0: ', *words])


def test_a_carry_in_another_library_s_order_is_not_taken():
  call = right()
  h, c = call['initial_carry']
  for carry, word in (((c, h), 'a tuple'), (Flax(c, h), 'Flax(c, h)'), (h, 'an array')):
    with pytest.raises(TypeError, match='LSTMCarry') as error:
      recurrence.unroll(make('lstm', KERNEL), **call | {'initial_carry': carry})
    assert word in str(error.value)


def test_parameters_of_another_variant_are_refused():
  xs = normal(BATCH, STEPS, INPUTS)
  after, before = (rnnlab.gru(KERNEL, reset=reset) for reset in ('after', 'before'))
  for one, other in ((after, before), (before, after), (make('lstm', KERNEL), after)):
    with pytest.raises(ValueError, match="params (have|lack) \\['b_hn'\\]"):
      recurrence.unroll(one, other.init(jax.random.key(0), INPUTS), xs)


def test_ids_outside_the_table_are_refused_where_they_are_known():
  call = right()
  for wrong in (4, -1):
    ids = np.zeros((BATCH, STEPS), int)
    ids[1, 2] = wrong
    with pytest.raises(ValueError, match=f'xs.ids\\[1, 2\\] is {wrong}.*4 rows.*from 0 to 3'):
      recurrence.unroll(make('lstm', KERNEL), **call | {'xs': Lookup(normal(4, INPUTS), ids)})


@each_way
def test_traced_ids_outside_the_table_make_their_row_nan_but_where_they_are_padding(hidden):
  cell, call = make('gru', hidden), right('gru', hidden, batch=4)
  ids = np.array([[0, 1, 2], [3, 4, 0], [0, -1, 0], [1, 2, 9]])
  lengths, resets = np.array([3, 3, 3, 2]), np.ones((4, STEPS), bool)

  def run(ids, lengths, resets):
    xs = Lookup(normal(4, INPUTS), ids)
    where = {'lengths': lengths, 'resets': resets}
    carry, ys = recurrence.unroll(cell, call['params'], xs, **where)
    return jnp.concatenate([ys, carry[:, None]], 1)

  for f in (jax.jit(run), lambda ids, *rest: jax.jit(functools.partial(run, ids))(*rest)):
    found = np.isnan(f(ids, lengths, resets)).all(axis=-1)
    assert found[1:3].all() and not found[[0, 3]].any()
  with pytest.raises(ValueError, match=r'xs.ids\[1, 1\] is 4'):
    run(ids, lengths, resets)


def test_what_is_no_cell_is_said():
  xs = normal(BATCH, STEPS, INPUTS)
  with pytest.raises(TypeError, match='cell must be a Cell, such as rnnlab.lstm'):
    recurrence.unroll(rnnlab.lstm, {}, xs)
  with pytest.raises(TypeError, match='cell must be a Cell, such as rnnlab.lstm'):
    recurrence.stacked(rnnlab.lstm, [{}], xs)


def test_a_number_is_called_what_it_is():
  cell, xs = rnnlab.lstm(SCAN), normal(BATCH, STEPS, INPUTS)
  params = cell.init(jax.random.key(0), INPUTS)
  for options, words in (
    ({'dropout': 0.5}, 'dropout must be a tuple of masks, not 0.5'),
    ({'initial_carry': 'zeros'}, r"initial_carry must be LSTMCarry\(h, c\), .*, not 'zeros'"),
  ):
    with pytest.raises(TypeError, match=words):
      recurrence.unroll(cell, params, xs, **options)


def test_the_length_of_one_sequence_may_be_a_number():
  cell, xs = rnnlab.gru(SCAN), normal(STEPS, INPUTS)
  params = cell.init(jax.random.key(0), INPUTS)
  _, ys = recurrence.unroll(cell, params, xs, lengths=2)
  np.testing.assert_allclose(ys[:2], recurrence.unroll(cell, params, xs[:2])[1], 1e-6)
  assert not ys[2:].any()
  with pytest.raises(ValueError, match='lengths must be an integer, not bool'):
    recurrence.unroll(cell, params, xs, lengths=True)
  with pytest.raises(ValueError, match='lengths must be 2 integers'):
    recurrence.unroll(cell, params, xs[None].repeat(2, 0), lengths=2)


def test_masks_for_another_width_or_no_cell_are_refused():
  cell = rnnlab.gru(SCAN)
  params, key = cell.init(jax.random.key(0), INPUTS), jax.random.key(0)
  rates = {'rate': 0.2, 'recurrent_rate': 0.2}
  with pytest.raises(ValueError, match=r"params\['w_x'\] is .* but for inputs of 2 features"):
    recurrence.dropout_masks(key, cell, params, INPUTS, BATCH, **rates)
  with pytest.raises(TypeError, match='cell must be a Cell'):
    recurrence.dropout_masks(key, rnnlab.gru, params, BATCH, INPUTS, **rates)


@pytest.mark.parametrize(
  ('changed', 'error', 'words'),
  [
    ({'params': {'w_x': 1}}, TypeError, ['params', 'list']),
    ({'params': [{}]}, ValueError, ['params', '2 items', 'not 1']),
    ({'initial_carry': np.zeros((BATCH, KERNEL))}, TypeError, ['initial_carry', 'the two']),
    ({'dropout': (None,) * 3}, ValueError, ['dropout', '2 items', 'not 3']),
    ({'reverse': True}, TypeError, ['reverse']),
  ],
)
def test_both_directions_need_one_each(changed, error, words):
  good = right()
  call = {'params': (good['params'],) * 2, 'xs': good['xs']} | changed
  with pytest.raises(error) as caught:
    recurrence.bidirectional(make('lstm', KERNEL), **call)
  assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
  ('changed', 'error', 'words'),
  [
    ({'params': {'w_x': 1}}, TypeError, ['params', 'list']),
    ({'cell': [make('gru', KERNEL)]}, ValueError, ['cell', '2 items', 'not 1']),
    ({'initial_carry': np.zeros((BATCH, KERNEL))}, TypeError, ['initial_carry', 'each of the la']),
    ({'initial_carry': [None]}, ValueError, ['initial_carry', '2 items']),
    ({'layer_dropout': 0.5}, ValueError, ['layer_dropout', 'key']),
    ({'layer_dropout': 1.0}, ValueError, ['layer_dropout', 'below 1']),
    ({'dropout': [None, (None, np.ones((BATCH, 3)))]}, ValueError, ['layer 1: dropout[1]']),
  ],
)
def test_layers_need_one_each(changed, error, words):
  cell = make('gru', KERNEL)
  layers = [cell.init(jax.random.key(i), size) for i, size in enumerate((INPUTS, KERNEL))]
  call = {'cell': cell, 'params': layers, 'xs': normal(BATCH, STEPS, INPUTS)} | changed
  with pytest.raises(error) as caught:
    recurrence.stacked(**call)
  assert all(word in str(caught.value) for word in words), str(caught.value)


# The adapters.


@pytest.mark.parametrize('library', ['linen', 'nnx'])
@pytest.mark.parametrize(
  ('carry', 'error', 'words'),
  [
    (carry_of((3, 'H')), ValueError, ['carry.h', 'float32[3, 16]', 'float32[2, 16]']),
    (carry_of((BATCH, 3)), ValueError, ['carry.h', 'float32[2, 3]']),
    (carry_of((BATCH, 'H'), np.float16), ValueError, ['carry.h', 'float16', 'cast']),
    (with_argument(initial_carry=(np.zeros((2, 16)),) * 2), TypeError, ['LSTMCarry(h, c)']),
  ],
)
def test_an_adapter_refuses_what_unroll_does(library, carry, error, words):
  cell, call = make('lstm', KERNEL), carry(right(), KERNEL)
  if library == 'linen':
    run = functools.partial(rnnlab.LinenCell(cell).apply, {'params': call['params']})
  else:
    run = rnnlab.NNXCell(cell, INPUTS, rngs=nnx.Rngs(0))
  with pytest.raises(error) as caught:
    run(call['initial_carry'], call['xs'][:, 0])
  assert all(word in str(caught.value) for word in words), str(caught.value)


def test_an_adapter_of_nnx_names_the_width():
  run = rnnlab.NNXCell(make('lstm', KERNEL), INPUTS, rngs=nnx.Rngs(0))
  with pytest.raises(ValueError, match="params\\['w_x'\\] is float32\\[5, 64\\].*7 features"):
    run(right()['initial_carry'], normal(BATCH, 7))


# What must be accepted.


@pytest.mark.parametrize(('name', 'hidden'), [('lstm', KERNEL), ('gru', SCAN)])
@pytest.mark.parametrize(('batch', 'steps'), [(0, STEPS), (BATCH, 0), (0, 0)])
def test_an_empty_batch_and_no_steps_have_results_and_gradients(name, hidden, batch, steps):
  cell, call = make(name, hidden), right(name, hidden, batch, steps)
  ones = np.ones((batch, steps), bool)
  for options in (
    {},
    {'mask': ones, 'reverse': True, 'resets': ones},
    {'remat': True},
    {'truncate': (1, 2)},
  ):

    def run(params, xs, initial_carry, options=options):
      return recurrence.unroll(cell, params, xs, initial_carry=initial_carry, **options)

    out, pull = jax.vjp(jax.jit(run), *call.values())
    carry, ys = out
    assert ys.shape == (batch, steps, hidden)
    jax.tree.map(assert_array_equal, carry, call['initial_carry'])
    gradients = pull(jax.tree.map(jnp.ones_like, out))
    assert all((w == 0).all() for w in jax.tree.leaves(gradients[0]))
    assert gradients[1].shape == call['xs'].shape


@pytest.mark.slow
def test_an_empty_batch_of_layers_and_of_a_model():
  cell = make('gru', KERNEL)
  params = [cell.init(jax.random.key(0), INPUTS), (cell.init(jax.random.key(1), KERNEL),) * 2]
  assert recurrence.stacked(cell, params, normal(0, STEPS, INPUTS))[1].shape == (0, STEPS, 32)
  model = models.SequenceClassifier(cell, vocab_size=10, embed_size=3, mask=True)
  variables = jax.jit(model.init)(jax.random.key(0), jnp.ones((2, STEPS), int))
  assert model.apply(variables, jnp.ones((0, STEPS), int)).shape == (0,)


@each_way
@each_name
def test_numpy_s_arrays_do_as_jax_s_under_every_transformation(name, hidden):
  cell, call = make(name, hidden), right(name, hidden)
  table, ids = normal(7, INPUTS), np.array([[0, 6, 2], [5, 5, 1]])
  expected = recurrence.unroll(cell, jax.tree.map(jnp.asarray, call['params']), table[ids])[1]

  def run(ids):
    return recurrence.unroll(cell, call['params'], Lookup(table, ids))[1]

  assert_allclose(run(ids), expected, 1e-5, 1e-6)
  assert_allclose(jax.jit(run)(ids), expected, 1e-5, 1e-6)
  assert_allclose(jax.vmap(run)(ids[:, None])[:, 0], expected, 1e-5, 1e-6)
  exported = jax.export.export(jax.jit(lambda ids: Lookup(table, ids).rows()))(ids)
  assert_array_equal(exported.call(ids), table[ids])


def test_a_batch_of_any_size_is_exported():
  cell, call = make('gru', SCAN), right('gru', SCAN)

  def run(ids, h):
    xs = Lookup(normal(7, INPUTS), ids)
    return recurrence.unroll(cell, call['params'], xs, mask=ids > 0, initial_carry=h)[1]

  ids, h = np.array([[0, 6, 2], [5, 5, 1]], np.int32), normal(2, SCAN)
  sizes = jax.export.symbolic_shape('batch, 3')
  shapes = [
    jax.ShapeDtypeStruct(sizes, np.int32),
    jax.ShapeDtypeStruct((sizes[0], SCAN), np.float32),
  ]
  exported = jax.export.export(jax.jit(run))(*shapes)
  assert_allclose(exported.call(ids, h), run(ids, h), 1e-5, 1e-6)


def test_parameters_may_be_a_frozen_dict():
  cell, call = make('gru', KERNEL), right('gru')
  frozen = recurrence.unroll(cell, FrozenDict(call['params']), call['xs'])
  plain = recurrence.unroll(cell, call['params'], call['xs'])
  jax.tree.map(assert_array_equal, frozen, plain)


@each_way
@each_name
def test_a_sequence_without_a_batch_axis_is_a_batch_of_one(name, hidden):
  cell, call = make(name, hidden), right(name, hidden, batch=1)
  call['initial_carry'] = jax.tree.map(lambda a: normal(*a.shape), call['initial_carry'])
  dropout = normal(1, INPUTS), normal(1, hidden, seed=1)
  carry, ys = recurrence.unroll(cell, **call, dropout=dropout, lengths=np.array([2]))
  alone = call | {k: jax.tree.map(lambda a: a[0], call[k]) for k in ('xs', 'initial_carry')}
  alone_dropout = tuple(m[0] for m in dropout)
  found = recurrence.unroll(cell, **alone, dropout=alone_dropout, lengths=np.array(2))
  jax.tree.map(assert_array_equal, found, jax.tree.map(lambda a: a[0], (carry, ys)))
  assert found[1].shape == (STEPS, hidden)

  table, ids = normal(7, INPUTS), np.array([[0, 6, 2]])
  of_row = recurrence.unroll(cell, call['params'], Lookup(table, ids[0]))[1]
  assert_array_equal(of_row, recurrence.unroll(cell, call['params'], Lookup(table, ids))[1][0])


def test_layers_and_modules_take_a_sequence_without_a_batch_axis():
  cell, xs = make('gru', KERNEL), normal(STEPS, INPUTS)
  layers = [(cell.init(jax.random.key(0), INPUTS),) * 2, cell.init(jax.random.key(1), 2 * KERNEL)]
  found = recurrence.stacked(cell, layers, xs)
  whole = recurrence.stacked(cell, layers, xs[None])
  jax.tree.map(lambda a, b: assert_array_equal(a, b[0]), found, whole)
  layer = models.Recurrent(cell, dropout=0.5, recurrent_dropout=0.5)
  variables = layer.init(jax.random.key(0), xs)
  keys = {'dropout': jax.random.key(1)}
  found = layer.apply(variables, xs, deterministic=False, rngs=keys)
  whole = layer.apply(variables, xs[None], deterministic=False, rngs=keys)
  assert_array_equal(found, whole[0])


def test_the_shapes_of_a_cell_are_found_once():
  calls = []

  def init(key, input_size):
    calls.append(input_size)
    return {'w': jnp.zeros((input_size, 3))}

  cell = rnnlab.Cell(init, lambda batch, dtype: jnp.zeros((*batch, 3), dtype), None)
  for _ in range(3):
    checks.params(cell, {'w': np.zeros((4, 3))}, 4)
  assert calls == [4]


def test_a_module_of_linen_refuses_in_words():
  layer = models.Recurrent(make('lstm', KERNEL), precision='float8')
  with pytest.raises(TypeError, match="dtype must be a dtype.*not 'float8'"):
    layer.init(jax.random.key(0), jnp.ones((BATCH, STEPS, INPUTS)))
  layer = models.Recurrent(make('lstm', KERNEL))
  with pytest.raises(ValueError, match='xs must be floats, not int32'):
    nn.Sequential([layer]).init(jax.random.key(0), jnp.ones((BATCH, STEPS, INPUTS), int))


def test_a_step_that_changes_its_carry_is_said():
  cell = make('elman', SCAN)
  call = right('elman', SCAN)
  wider = cell._replace(step=lambda params, h, x, dot: (jnp.concatenate([h, h], -1), h))
  with pytest.raises(ValueError, match=r'step was given .*float32\[2, 4\].*float32\[2, 8\]'):
    recurrence.unroll(wider, **call)
  lower = cell._replace(step=lambda params, h, x, dot: (h.astype(jnp.bfloat16), h))
  with pytest.raises(ValueError, match=r'step was given .*bfloat16\[2, 4\]'):
    jax.jit(functools.partial(recurrence.unroll, lower))(**call)
