"""rnnlab computes the same as Haiku's cores with their parameters, and exports them again.

Haiku is optional: if it is not installed, its recorded answers are used, from
tests/interop/interop_haiku.npz, which can be made again with
`PYTHONPATH=. python tests/interop/test_interop_haiku.py --record`.
"""

import functools
import itertools
import pathlib
import sys
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exchanges import (
  BATCH,
  HIDDEN,
  INPUTS,
  LENGTHS,
  STEPS,
  XS,
  answer,
  draw,
  few_quick,
  loss_weights,
)
from numpy.testing import assert_allclose, assert_array_equal

from rnnlab.interop import haiku as interop

RECORDED = pathlib.Path(__file__).with_name('interop_haiku.npz')


class Case(typing.NamedTuple):
  cell: str
  layers: int = 1
  directions: int = 1
  masked: bool = False

  def __str__(self):
    return f'{self.cell}, {self.layers}x{self.directions}, {"padded" if self.masked else "full"}'


CASES = [Case(*c) for c in itertools.product(('lstm', 'gru'), (1, 2), (1, 2), (False, True))]
cases = pytest.mark.parametrize('case', few_quick(CASES))


def names(case):
  """The names of the cores: for each layer, that of each direction."""
  return [[f'{way}{k}' for way in ('ahead', 'back')[: case.directions]] for k in range(case.layers)]


def params(case):
  """Random parameters, with the names and shapes of Haiku's."""
  found = {}
  for k, name in ((k, name) for k, layer in enumerate(names(case)) for name in layer):
    inputs = case.directions * HIDDEN if k else INPUTS
    if case.cell == 'lstm':
      module, shapes = f'{name}/linear', {'w': (inputs + HIDDEN, 4 * HIDDEN), 'b': (4 * HIDDEN,)}
    else:
      shapes = {'w_i': (inputs, 3 * HIDDEN), 'w_h': (HIDDEN, 3 * HIDDEN), 'b': (3 * HIDDEN,)}
      module = name
    seeds = itertools.count(10 * (len(found) + 1))
    found[module] = {key: draw(*shape, seed=next(seeds)) for key, shape in shapes.items()}
  return found


def of_haiku(case):
  """Haiku's outputs, final states and gradients, concatenated in one vector.

  It has no masks and no reverse: each row is run separately to its length, and backward by
  reversing it.
  """
  import haiku as hk

  lengths = LENGTHS if case.masked else [STEPS] * BATCH

  @hk.without_apply_rng
  @hk.transform
  def forward(xs):
    kind = hk.LSTM if case.cell == 'lstm' else hk.GRU
    layers = [[kind(HIDDEN, name=name) for name in layer] for layer in names(case)]
    rows, states = [], []
    for x, length in zip(xs, lengths, strict=True):
      ys, of_row = x[:length], []
      for layer in layers:
        outputs = []
        for core, turn in zip(layer, (1, -1), strict=False):
          out, state = hk.dynamic_unroll(core, ys[::turn], core.initial_state(None))
          outputs.append(out[::turn])
          of_row.append(jnp.stack(jax.tree.leaves(state)))  # h, c
        ys = jnp.concatenate(outputs, axis=-1)
      rows.append(jnp.pad(ys, [(0, STEPS - length), (0, 0)]))
      states.append(jnp.stack(of_row, axis=1))
    return jnp.stack(rows), jnp.stack(states, axis=2)

  @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
  def run(given, xs):
    ys, states = forward.apply(given, xs)
    return (ys * loss_weights(ys.shape[-1])).sum() + (states**2).sum(), (ys, states)

  given = params(case)
  made = jax.eval_shape(forward.init, jax.random.key(0), XS)
  assert jax.tree.map(np.shape, made) == jax.tree.map(np.shape, given)
  (_, (ys, states)), (of_params, of_xs) = jax.jit(run)(given, XS)
  return flat(ys, states, of_xs, of_params)


@functools.cache
def of_rnnlab(case):
  """The same from rnnlab, with Haiku's parameters."""
  weights = params(case)
  layers = []
  for layer in names(case):
    pair = [interop.import_layer(case.cell, weights, name=name) for name in layer]
    layers.append(pair[0] if len(pair) == 1 else tuple(pair))
  ours = answer(case.cell, layers, masked=case.masked, reset='before')
  of_params = {}
  for layer, of_layer in zip(names(case), ours.layers, strict=True):
    pair = [of_layer] if case.directions == 1 else of_layer
    for name, gradient in zip(layer, pair, strict=True):
      zeros = jax.tree.map(np.zeros_like, gradient)
      one, origin = (interop.export_layer(case.cell, p, name=name) for p in (gradient, zeros))
      of_params |= jax.tree.map(np.subtract, one, origin)  # without the forget bias's constant
  return flat(ours.ys, ours.states, ours.xs, of_params)


def flat(ys, states, xs, of_params):
  ordered = [of_params[module][key] for module in sorted(of_params) for key in of_params[module]]
  return np.concatenate([np.ravel(part) for part in (ys, states, xs, *ordered)])


@cases
def test_computes_what_haiku_computed_when_it_was_recorded(case):
  with np.load(RECORDED) as recorded:
    assert_allclose(of_rnnlab(case), recorded[str(case)], rtol=1e-5, atol=1e-5)


@cases
def test_computes_what_haiku_computes(case):
  pytest.importorskip('haiku')
  assert_allclose(of_rnnlab(case), of_haiku(case), rtol=1e-5, atol=1e-5)


def test_a_gru_s_round_trip_is_exact():
  weights = params(Case('gru'))
  layer = interop.import_layer('gru', weights, name='ahead0')
  back = interop.export_layer('gru', layer, name='ahead0')
  jax.tree.map(lambda a, e: assert_array_equal(a, e, strict=True), back, weights)
  again = interop.import_layer('gru', back, name='ahead0')
  jax.tree.map(lambda a, e: assert_array_equal(a, e, strict=True), again, layer)


def test_an_lstm_s_round_trip_is_exact_but_for_the_rounding_of_the_forget_bias_plus_1():
  weights = params(Case('lstm'))
  weights['ahead0/linear']['b'][2 * HIDDEN] = 1e-9
  layer = interop.import_layer('lstm', weights, name='ahead0')
  assert layer['b'][HIDDEN] == 1
  back = interop.export_layer('lstm', layer, name='ahead0')
  (given,), (found,) = weights.values(), back.values()
  assert_array_equal(found['w'], given['w'], strict=True)
  forget = np.arange(4 * HIDDEN) // HIDDEN == 2
  assert_array_equal(found['b'][~forget], given['b'][~forget], strict=True)
  assert_allclose(found['b'][forget], given['b'][forget], rtol=0, atol=6e-8)
  again = interop.import_layer('lstm', back, name='ahead0')
  jax.tree.map(lambda a, e: assert_array_equal(a, e, strict=True), again, layer)


def test_an_lstm_s_round_trip_is_exact_from_haiku_s_own_start_and_from_rnnlab_s():
  layer = {'w_x': draw(3, 16), 'w_h': draw(4, 16), 'b': np.repeat(np.float32([0, 1, 0, 0]), 4)}
  weights = interop.export_layer('lstm', layer)
  assert not weights['lstm/linear']['b'].any()
  jax.tree.map(assert_array_equal, interop.import_layer('lstm', weights), layer)


def test_what_is_imported_does_not_change_with_the_params():
  for cell in ('lstm', 'gru'):
    weights = params(Case(cell))
    layer = interop.import_layer(cell, weights, name='ahead0')
    expected = jax.tree.map(np.copy, layer)
    jax.tree.map(lambda w: w.fill(9), weights)
    jax.tree.map(assert_array_equal, layer, expected)
    for leaf in jax.tree.leaves(layer):
      assert type(leaf) is np.ndarray and leaf.flags.c_contiguous


def test_a_core_is_found_by_its_name_among_those_of_a_model():
  weights = {'embed': {'embeddings': draw(9, 3)}, **params(Case('lstm', 2))}
  layer = interop.import_layer('lstm', weights, name='ahead1')
  alone = {'lstm/linear': weights['ahead1/linear']}
  jax.tree.map(assert_array_equal, layer, interop.import_layer('lstm', alone))


def core(**arrays):
  return {'lstm/linear': {'w': draw(7, 16), 'b': draw(16)} | arrays}


def gru(**arrays):
  return {'gru': {'w_i': draw(3, 12), 'w_h': draw(4, 12), 'b': draw(12)} | arrays}


@pytest.mark.parametrize(
  ('cell', 'weights', 'options', 'said'),
  [
    ('lstm', core(), {'name': 'lstm_1'}, "no 'lstm_1/linear', but 'lstm/linear': .* without its"),
    ('gru', core(), {}, "no 'gru', but 'lstm/linear'"),
    ('lstm', [core()], {}, 'the params must be a dict of arrays by name, not a list'),
    ('lstm', {'lstm/linear': 1}, {}, 'lstm/linear must be a dict of arrays by name, not a int'),
    ('lstm', core(w_h=draw(4, 16)), {}, 'lstm/linear has w_h,'),
    ('lstm', {'lstm/linear': {'w': draw(7, 16)}}, {}, 'lstm/linear lacks b;'),
    ('lstm', core(b=draw(12)), {}, r'w of lstm/linear .* \[D \+ H, 12\], not \[7, 16\]'),
    ('lstm', core(b=draw(15)), {}, r'b of lstm/linear .* \[12\], not \[15\]'),
    ('lstm', core(b=draw(1, 16)), {}, r'b of lstm/linear .* not \[1, 16\]'),
    ('lstm', core(w=draw(4, 16)), {}, 'w of lstm/linear must have more than 4 rows, not 4'),
    ('gru', gru(w_h=draw(4, 16)), {}, r'w_h of gru .* \[3 \* H, H\]|which is of lstm'),
    ('gru', gru(w_i=draw(3, 4)), {}, r'w_i of gru .* \[D, 12\], not \[3, 4\]'),
    ('gru', gru(b=draw(2, 12)), {}, r'b of gru .* \[12\], not \[2, 12\]'),
    ('gru', gru(), {'reset': 'after'}, "Haiku's GRU .* before .* Use a gru of reset='before'"),
    ('elman', core(), {}, "Haiku's VanillaRNN computes relu"),
    ('mgu', core(), {}, "'mgu'.*elman, lstm, gru"),
  ],
)
def test_what_is_no_such_core_is_refused(cell, weights, options, said):
  with pytest.raises(ValueError, match=said):
    interop.import_layer(cell, weights, **options)


LAYER = {'w_x': draw(3, 12), 'w_h': draw(4, 12), 'b': draw(12)}


@pytest.mark.parametrize(
  ('cell', 'layer', 'options', 'said'),
  [
    ('gru', LAYER | {'b_hn': draw(4)}, {}, "has a b_hn, .* reset='after': GRUs that"),
    ('gru', LAYER, {'reset': 'after'}, 'different functions'),
    ('gru', LAYER | {'w_x': draw(3, 16)}, {}, r'w_x of the layer .* \[D, 12\], not \[3, 16\]'),
    ('gru', (LAYER, LAYER), {}, 'the layer must be a dict of arrays by name, not a tuple'),
    ('lstm', LAYER, {}, r'\[H, 4 \* H\] for the cell lstm, not \[4, 12\], which is of gru'),
    ('lstm', {'w_x': draw(3, 16)}, {}, 'lacks w_h, b;'),
    ('elman', LAYER, {}, 'relu'),
  ],
)
def test_a_layer_that_no_core_of_haiku_is_is_refused(cell, layer, options, said):
  with pytest.raises(ValueError, match=said):
    interop.export_layer(cell, layer, **options)


if __name__ == '__main__' and sys.argv[1:] == ['--record']:
  np.savez_compressed(RECORDED, **{str(case): of_haiku(case) for case in CASES})
