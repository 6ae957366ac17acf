"""rnnlab computes the same as Flax's cells, linen's and nnx's, with their weights; and back."""

import functools
import itertools
import typing

import flax.linen as nn
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
from flax import nnx
from numpy.testing import assert_allclose, assert_array_equal

from rnnlab.interop import flax as interop

CELLS = {  # rnnlab's, and the form
  nn.LSTMCell: ('lstm', 'linen'),
  nn.OptimizedLSTMCell: ('lstm', 'linen'),
  nn.GRUCell: ('gru', 'linen'),
  nn.SimpleCell: ('elman', 'linen'),
  nnx.LSTMCell: ('lstm', 'nnx.LSTMCell'),
  nnx.OptimizedLSTMCell: ('lstm', 'nnx'),
  nnx.GRUCell: ('gru', 'nnx'),
  nnx.SimpleCell: ('elman', 'nnx'),
}


class Case(typing.NamedTuple):
  kind: type  # of CELLS
  layers: int = 1
  directions: int = 1
  masked: bool = False

  def __str__(self):
    api = 'linen' if issubclass(self.kind, nn.Module) else 'nnx'
    padding = 'padded' if self.masked else 'full'
    return f'{api}.{self.kind.__name__}, {self.layers}x{self.directions}, {padding}'


CASES = [Case(*c) for c in itertools.product(CELLS, (1, 2), (1, 2), (False, True))]
kinds = pytest.mark.parametrize('kind', CELLS, ids=lambda kind: str(Case(kind)).split(',')[0])


@functools.cache
def layer_of(case, inputs):
  """A Flax layer: random parameters, and its function of them, xs and lengths."""
  if issubclass(case.kind, nn.Module):
    one, two = (nn.RNN(case.kind(HIDDEN), return_carry=True) for _ in range(2))
    layer = one if case.directions == 1 else nn.Bidirectional(one, two, return_carry=True)
    xs = jax.ShapeDtypeStruct((BATCH, STEPS, inputs), jnp.float32)
    params = jax.eval_shape(layer.init, jax.random.key(0), xs)['params']

    def apply(params, xs, lengths):
      return layer.apply({'params': params}, xs, seq_lengths=lengths)
  else:
    cells = [case.kind(inputs, HIDDEN, rngs=nnx.Rngs(0)) for _ in range(2)]
    one, two = (nnx.RNN(cell, return_carry=True) for cell in cells)
    layer = one if case.directions == 1 else nnx.Bidirectional(one, two, return_carry=True)
    graph, state, rest = nnx.split(layer, nnx.Param, ...)
    params = nnx.to_pure_dict(state)

    def apply(params, xs, lengths):
      given, others = jax.tree.map(lambda leaf: leaf, (state, rest))  # variables of this trace
      nnx.replace_by_pure_dict(given, params)
      return nnx.merge(graph, given, others)(xs, seq_lengths=lengths)

  leaves, tree = jax.tree.flatten(params)
  drawn = [draw(*leaf.shape, seed=10 + inputs + k) for k, leaf in enumerate(leaves)]
  return jax.tree.unflatten(tree, drawn), apply


def layers_of(case):
  return [layer_of(case, k * case.directions * HIDDEN or INPUTS) for k in range(case.layers)]


def cells_of(params):
  """The parameters of the cell, or of both cells, among those of a layer."""
  if 'cell' in params:
    return params['cell']
  return params['forward_rnn']['cell'], params['backward_rnn']['cell']


@functools.cache
def compiled(case):
  """Flax's outputs, final states and gradients, compiled, by the lengths of the rows."""
  params, functions = zip(*layers_of(case), strict=True)

  @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
  def run(params, xs, lengths):
    real = (jnp.arange(STEPS) < lengths[:, None])[..., None]
    carries = []
    for p, function in zip(params, functions, strict=True):
      carry, xs = function(p, xs, lengths)
      carries.append(carry)
    ys = jnp.where(real, xs, 0)
    flat = jax.tree.leaves(carries)
    if CELLS[case.kind][0] == 'lstm':  # a carry is (c, h)
      states = jnp.stack([jnp.stack(flat[1::2]), jnp.stack(flat[::2])])
    else:
      states = jnp.stack(flat)[None]
    return (ys * loss_weights(ys.shape[-1])).sum() + (states**2).sum(), (ys, states)

  return functools.partial(jax.jit(run), params, XS)


def of_flax(case):
  lengths = LENGTHS if case.masked else np.full(BATCH, STEPS)
  (_, (ys, states)), (of_params, of_xs) = compiled(case._replace(masked=False))(lengths)
  return ys, states, of_xs, [cells_of(p) for p in of_params]


def of_rnnlab(case):
  cell, form = CELLS[case.kind]
  layers = [interop.import_layer(cell, cells_of(params)) for params, _ in layers_of(case)]
  ours = answer(cell, layers, masked=case.masked)
  of_layers = ours.layers
  if case.kind is nnx.GRUCell:  # without b_hn, so its gradient has no place
    of_layers = jax.tree_util.tree_map_with_path(
      lambda path, g: 0 * g if path[-1].key == 'b_hn' else g, of_layers
    )
  gradients = [interop.export_layer(cell, layer, form=form) for layer in of_layers]
  return ours.ys, ours.states, ours.xs, gradients


@pytest.mark.parametrize('case', few_quick(CASES))
def test_computes_what_flax_computes(case):
  expected = of_flax(case)
  actual = of_rnnlab(case)
  jax.tree.map(lambda a, e: assert_allclose(a, e, rtol=1e-5, atol=1e-5), actual, expected)


@kinds
@pytest.mark.parametrize('directions', [1, 2])
def test_a_round_trip_is_exact(kind, directions):
  cell, form = CELLS[kind]
  weights = cells_of(layer_of(Case(kind, directions=directions), INPUTS)[0])
  layer = interop.import_layer(cell, weights)
  back = interop.export_layer(cell, layer, form=form)
  jax.tree.map(lambda a, e: assert_array_equal(a, e, strict=True), back, weights)
  again = interop.import_layer(cell, back)
  jax.tree.map(lambda a, e: assert_array_equal(a, e, strict=True), again, layer)
  for leaf in jax.tree.leaves((back, again)):
    assert type(leaf) is np.ndarray and leaf.flags.c_contiguous


@pytest.mark.parametrize('form', ['nnx', 'nnx.LSTMCell', 'linen'])
def test_an_lstm_goes_from_any_form_to_any_other(form):
  layer = {'w_x': draw(3, 16), 'w_h': draw(4, 16), 'b': draw(16)}
  back = interop.import_layer('lstm', interop.export_layer('lstm', layer, form=form))
  jax.tree.map(assert_array_equal, back, layer)


def params_of(kind):
  return cells_of(layer_of(Case(kind), INPUTS)[0])


def changed(kind, **modules):
  return params_of(kind) | modules


@pytest.mark.parametrize(
  ('cell', 'weights', 'said'),
  [
    ('lstm', lambda: [1, 2, 3], 'or a pair .* not a list of 3'),
    ('lstm', lambda: None, 'or a pair .* not a NoneType'),
    ('lstm', lambda: {}, 'lacks ii/kernel, if/kernel'),
    ('lstm', lambda: {'cell': params_of(nn.LSTMCell)}, 'has cell/'),
    ('lstm', lambda: changed(nnx.LSTMCell, ig={}), 'the nnx.LSTMCell cell lacks ig/kernel;'),
    ('lstm', lambda: changed(nn.LSTMCell, ii=draw(3, 4)), 'lacks ii/kernel and has ii,'),
    ('gru', lambda: params_of(nn.LSTMCell), 'lacks .* hn/bias .*has .*hi/kernel'),
    ('gru', lambda: params_of(nnx.OptimizedLSTMCell), 'lacks dense_i/bias and has dense_h/bias'),
    ('gru', lambda: changed(nn.GRUCell, hz={'kernel': draw(4, 3)}), r'hz/kernel .* \[4, 4\]'),
    ('gru', lambda: changed(nn.GRUCell, iz={'kernel': draw(2, 4), 'bias': draw(4)}), r'\[3, 4\]'),
    ('gru', lambda: changed(nn.GRUCell, hr={'kernel': draw(4)}), r'hr/kernel .* not \[4\]'),
    ('gru', lambda: changed(nnx.GRUCell, dense_h={'kernel': draw(4, 16)}), r'\[4, 12\]'),
    (
      'elman',
      lambda: changed(nnx.SimpleCell, dense_i={'kernel': draw(3, 4), 'bias': draw(1)}),
      r'dense_i/bias must be of shape \[4\], not \[1\]',
    ),
  ],
)
def test_what_is_no_such_cell_is_refused(cell, weights, said):
  with pytest.raises(ValueError, match=said):
    interop.import_layer(cell, weights())


GRU = {'w_x': draw(3, 12), 'w_h': draw(4, 12), 'b': draw(12), 'b_hn': draw(4)}


@pytest.mark.parametrize(
  ('layer', 'options', 'said'),
  [
    (GRU, {'form': 'nnx'}, "b_hn that is not zero.* form='linen'"),
    (GRU, {'form': 'nnx.LSTMCell'}, "gru has no form 'nnx.LSTMCell'; it has 'linen', 'nnx'"),
    (GRU, {'reset': 'before'}, "Flax's GRU .* Use a gru of reset='after'"),
    (
      {name: GRU[name] for name in ('w_x', 'w_h', 'b')},
      {},
      "has no b_hn, .* reset='after': GRUs that",
    ),
    ((GRU,), {}, 'or a pair .* not a tuple of 1'),
    ((GRU, [GRU]), {}, 'the layer must be a dict of arrays by name, not a list'),
    (GRU | {'b': draw(9)}, {}, r'b of the layer must be of shape \[12\], not \[9\]'),
    ((GRU, GRU | {'bias': draw(9)}), {}, 'has bias'),
  ],
)
def test_a_layer_that_no_gru_of_flax_is_is_refused(layer, options, said):
  with pytest.raises(ValueError, match=said):
    interop.export_layer('gru', layer, **options)


def test_another_reset_is_refused_on_import():
  with pytest.raises(ValueError, match='different functions'):
    interop.import_layer('gru', params_of(nn.GRUCell), reset='before')
