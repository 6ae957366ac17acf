"""Flax's recurrent cells, linen's and nnx's: their parameters to and from rnnlab's, as arrays.

Flax is not imported. An import takes, and an export returns, nested dicts of arrays: the 'params'
of a linen cell, or `nnx.to_pure_dict(nnx.state(cell, nnx.Param))` of an nnx cell.

    form            cells                        rnnlab              parameters
    'linen'         LSTMCell, OptimizedLSTMCell  lstm                a kernel a gate: ii, if, ig, io
                                                                     and hi, hf, hg, ho, with biases
                    GRUCell                      gru, reset='after'  ir, iz, in with biases; hr, hz,
                                                                     and hn, which alone has a bias
                    SimpleCell                   elman               i, with a bias, and h
    'nnx'           OptimizedLSTMCell            lstm                dense_i; dense_h with the bias
                                                                     (i, f, g, o in each)
                    GRUCell                      gru, reset='after'  dense_i with the bias; dense_h
                                                                     (r, z, n in each); no b_hn
                    SimpleCell                   elman               dense_i with the bias; dense_h
    'nnx.LSTMCell'  LSTMCell                     lstm                as linen's, but if_ for if

The order of the gates is the same as in rnnlab, and importing then exporting, or the reverse,
changes no bit. nnx.GRUCell lacks the recurrent bias b_hn, which is imported as zeros; a layer whose
b_hn is not zero cannot be exported to it.

The carry of an LSTM is (c, h) in Flax and (h, c) in rnnlab. The parameters do not say whether a
cell has other activations than the default ones, or residual=True: rnnlab has no such cells.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rnnlab.interop.layers import (
  GATES,
  AnyLayer,
  Layer,
  Params,
  as_array,
  check_cell,
  check_dict,
  check_names,
  check_pair,
  check_shape,
  read,
)

LINEN_LSTM = {
  'w_x': ['ii/kernel', 'if/kernel', 'ig/kernel', 'io/kernel'],
  'w_h': ['hi/kernel', 'hf/kernel', 'hg/kernel', 'ho/kernel'],
  'b': ['hi/bias', 'hf/bias', 'hg/bias', 'ho/bias'],
}
LINEN_GRU = {
  'w_x': ['ir/kernel', 'iz/kernel', 'in/kernel'],
  'w_h': ['hr/kernel', 'hz/kernel', 'hn/kernel'],
  'b': ['ir/bias', 'iz/bias', 'in/bias'],
  'b_hn': ['hn/bias'],
}
NNX = {'w_x': ['dense_i/kernel'], 'w_h': ['dense_h/kernel'], 'b': ['dense_i/bias']}
# By cell and form: which arrays of Flax, side by side, form a parameter.
PARTS = {
  'lstm': {
    'linen': LINEN_LSTM,
    'nnx': NNX | {'b': ['dense_h/bias']},
    'nnx.LSTMCell': LINEN_LSTM | {'w_x': ['ii/kernel', 'if_/kernel', 'ig/kernel', 'io/kernel']},
  },
  'gru': {'linen': LINEN_GRU, 'nnx': NNX},
  'elman': {'linen': {'w_x': ['i/kernel'], 'w_h': ['h/kernel'], 'b': ['i/bias']}, 'nnx': NNX},
}


def import_layer(
  cell: str,
  weights: Mapping[str, Any] | Sequence[Mapping[str, Any]],
  *,
  reset: str = 'after',
) -> Layer:
  """Converts the parameters of a Flax cell of any form to those of an rnnlab layer.

  cell: 'elman', 'lstm' or 'gru'.
  weights: the cell's parameters, such as `{'hn': {'kernel': [H, H], 'bias': [H]}, ...}`, or a pair
    (forward, backward) of them, such as Flax's Bidirectional has under forward_rnn/cell and
    backward_rnn/cell.
  reset: of a gru, 'after': Flax has no other.

  Returns a dict of w_x `[D, G * H]`, w_h `[H, G * H]`, b `[G * H]` and, of a gru, b_hn `[H]`; for a
  pair, a pair of such dicts. Raises ValueError for missing or unknown names, for wrong shapes, and
  for reset='before'.

  >>> weights = {'i': {'kernel': np.ones((3, 4)), 'bias': np.ones(4)}, 'h': {'kernel': np.eye(4)}}
  >>> {name: w.shape for name, w in import_layer('elman', weights).items()}
  {'w_x': (3, 4), 'w_h': (4, 4), 'b': (4,)}
  """
  check_cell(cell, reset, 'after', 'Flax')
  if isinstance(weights, Mapping):
    return _import(cell, weights)
  check_pair('the weights', weights)
  forward, backward = weights
  return _import(cell, forward), _import(cell, backward)


def _import(cell: str, weights: Mapping[str, Any]) -> Params:
  check_dict('the weights', weights)
  arrays = _flat(weights)
  form = max(PARTS[cell], key=lambda form: len(arrays.keys() & _paths(cell, form)))
  check_names(f'the {form} cell', arrays, _paths(cell, form))
  parts = PARTS[cell][form]
  first = parts['w_h'][0], parts['w_x'][0]
  for path, letter in zip(first, 'HD', strict=True):
    check_shape(path, arrays[path], (letter, 'columns'))
  hidden, inputs = (len(arrays[path]) for path in first)
  for name, paths in parts.items():
    width = (hidden if name == 'b_hn' else GATES[cell] * hidden) // len(paths)
    rows = {'w_x': (inputs,), 'w_h': (hidden,)}.get(name, ())
    for path in paths:
      check_shape(path, arrays[path], (*rows, width), f', as {first[0]} has {hidden} rows')
  p = {name: np.concatenate([arrays[path] for path in paths], -1) for name, paths in parts.items()}
  return p | {'b_hn': np.zeros_like(p['b'][:hidden])} if (cell, form) == ('gru', 'nnx') else p


def export_layer(
  cell: str, layer: AnyLayer, *, form: str = 'linen', reset: str = 'after'
) -> dict[str, Any] | tuple[dict[str, Any], dict[str, Any]]:
  """Converts the parameters of a layer of rnnlab to those of a Flax cell: `import_layer` reversed.

  cell: 'elman', 'lstm' or 'gru'.
  layer: what `import_layer` returns.
  form: which of Flax's cells: 'linen', 'nnx' or 'nnx.LSTMCell', as in the table above.
  reset: of a gru, 'after': Flax has no other.

  Returns a nested dict of arrays; for a pair of layers, a pair of such dicts. Raises ValueError for
  another form, for a layer that does not fit the cell, for a b_hn that is not zero if the form has
  none, and for reset='before'.

  >>> layer = {'w_x': np.ones((3, 4)), 'w_h': np.ones((4, 4)), 'b': np.zeros(4)}
  >>> weights = export_layer('elman', layer, form='nnx')
  >>> weights['dense_i']['kernel'].shape
  (3, 4)
  """
  check_cell(cell, reset, 'after', 'Flax')
  if form not in PARTS[cell]:
    raise ValueError(f'{cell} has no form {form!r}; it has {", ".join(map(repr, PARTS[cell]))}')
  if isinstance(layer, Mapping):
    return _export(cell, layer, form, reset)
  check_pair('the layer', layer)
  forward, backward = layer
  return _export(cell, forward, form, reset), _export(cell, backward, form, reset)


def _export(cell: str, layer: Mapping[str, Any], form: str, reset: str) -> dict[str, Any]:
  parts = PARTS[cell][form]
  weights: dict[str, Any] = {}
  for name, array in read(cell, reset, layer).items():
    if name in parts:
      for path, part in zip(parts[name], np.split(array, len(parts[name]), -1), strict=True):
        module, leaf = path.split('/')
        weights.setdefault(module, {})[leaf] = part.copy()
    elif np.any(array):
      raise ValueError(
        'the layer has a b_hn that is not zero, and nnx.GRUCell has no such bias: export it to'
        " form='linen', or train with b_hn held at zero"
      )
  return weights


def _paths(cell, form):
  return [path for paths in PARTS[cell][form].values() for path in paths]


def _flat(tree, prefix=''):
  if not isinstance(tree, Mapping):
    return {prefix: as_array(prefix, tree)}
  found = {}
  for name, inner in tree.items():
    found |= _flat(inner, f'{prefix}/{name}' if prefix else str(name))
  return found
