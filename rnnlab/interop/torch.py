"""PyTorch's `nn.LSTM`, `nn.GRU` and `nn.RNN`: their weights to and from rnnlab's, as arrays.

PyTorch is not imported. An import takes `module.state_dict()`, with its tensors on the CPU, or
arrays under the same names; an export returns such arrays.

    module   rnnlab              rows of a weight   biases
    LSTM     lstm                i, f, g, o         b = bias_ih + bias_hh
    GRU      gru, reset='after'  r, z, n            so for r and z; of n, b is bias_ih, b_hn bias_hh
    RNN      elman               all                b = bias_ih + bias_hh

The order of the gates is the same as in rnnlab; weights are transposed. Where PyTorch adds two
biases, rnnlab has their sum, which an export returns as bias_ih, with a bias_hh of zeros. So
PyTorch weights compute the same with different biases after an import and an export, and rnnlab
weights are the same to the bit after an export and an import.

The weights of an nn.RNN do not say whether its nonlinearity is 'tanh', like an elman's, or 'relu',
which is not converted.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from rnnlab.interop.layers import (
  AnyLayer,
  Layer,
  as_array,
  check_cell,
  check_dict,
  check_names,
  check_pair,
  check_recurrent,
  check_shape,
  read,
)

NAME = re.compile(r'(weight|bias)_(ih|hh|hr)_l(\d+)(_reverse)?')


def import_module(
  cell: str, weights: Mapping[str, ArrayLike], *, reset: str = 'after'
) -> list[Layer]:
  """Converts the weights of a PyTorch module to layers, as `rnnlab.stacked` takes them.

  cell: 'lstm' for an nn.LSTM, 'gru' for an nn.GRU, 'elman' for an nn.RNN.
  weights: the module's `state_dict()`; the module may have any num_layers, bias and bidirectional.
  reset: of a gru, 'after': PyTorch has no other.

  Returns for each layer a dict of w_x `[D, G * H]`, w_h `[H, G * H]`, b `[G * H]` (zeros if the
  module has no bias) and, of a gru, b_hn `[H]`; if the module is bidirectional, a pair (forward,
  backward) of such dicts. Raises ValueError for missing or unknown names, for wrong shapes, for a
  module with proj_size, and for reset='before'.

  >>> weights = {'weight_ih_l0': np.ones((4, 3)), 'weight_hh_l0': np.ones((4, 4))}
  >>> [layer] = import_module('elman', weights)
  >>> {name: w.shape for name, w in layer.items()}
  {'w_x': (3, 4), 'w_h': (4, 4), 'b': (4,)}
  """
  check_cell(cell, reset, 'after', 'PyTorch')
  check_dict("the module's state_dict", weights)
  found = [match for match in map(NAME.fullmatch, weights) if match]
  for match in found:
    if match[2] == 'hr':
      raise ValueError(
        f'{match[0]} is the projection of an LSTM with proj_size, whose state is smaller than its'
        ' memory: no cell here computes that. Use a module without proj_size'
      )
  count = 1 + max((int(match[3]) for match in found), default=0)
  suffixes = ['', '_reverse'] if any(match[4] for match in found) else ['']
  bias = any(match[1] == 'bias' for match in found)
  names = [[_names(k, suffix, bias) for suffix in suffixes] for k in range(count)]
  check_names("the module's state_dict", weights, [n for k in names for pair in k for n in pair])
  arrays = {name: as_array(name, w) for name, w in weights.items()}
  _check_shapes(cell, arrays)
  layers = [[_import(cell, [arrays[n] for n in pair]) for pair in layer] for layer in names]
  return [layer[0] if len(layer) == 1 else tuple(layer) for layer in layers]


def export_module(
  cell: str, layers: Sequence[AnyLayer], *, bias: bool = True, reset: str = 'after'
) -> dict[str, np.ndarray]:
  """Converts layers to the argument of a PyTorch module's `load_state_dict`, but as NumPy arrays.

  Convert each array to a tensor with `torch.from_numpy` before the module loads it.

  cell: 'lstm', 'gru' or 'elman'.
  layers: what `import_module` returns.
  bias: the module's bias.
  reset: of a gru, 'after': PyTorch has no other.

  Raises ValueError for layers that do not fit the cell or each other, for bias=False if a bias is
  not zero, and for reset='before'.

  >>> layer = {'w_x': np.ones((3, 4)), 'w_h': np.ones((4, 4)), 'b': np.zeros(4)}
  >>> {name: w.shape for name, w in export_module('elman', [layer]).items()}
  {'weight_ih_l0': (4, 3), 'weight_hh_l0': (4, 4), 'bias_ih_l0': (4,), 'bias_hh_l0': (4,)}
  """
  check_cell(cell, reset, 'after', 'PyTorch')
  if not isinstance(layers, list | tuple):
    raise ValueError(f'layers must be a list of layers, not a {type(layers).__name__}')
  for k, layer in enumerate(layers):
    if not isinstance(layer, Mapping):
      check_pair(f'layer {k}', layer)
  pairs = [(layer,) if isinstance(layer, Mapping) else tuple(layer) for layer in layers]
  if {len(pair) for pair in pairs} not in ({1}, {2}):
    raise ValueError(
      'layers must be one or more dicts of parameters, or else one or more pairs (forward,'
      ' backward) of them: all layers of a PyTorch module have equally many directions'
    )
  weights = {}
  for k, pair in enumerate(pairs):
    for params, suffix in zip(pair, ('', '_reverse'), strict=False):
      p = read(cell, reset, params, f'layer {k}{suffix.replace("_", ", ")}')
      if not bias and (np.any(p['b']) or np.any(p.get('b_hn', 0))):
        raise ValueError(
          f'layer {k} has a bias that is not zero, which a module with bias=False cannot hold: make'
          ' it with bias=True'
        )
      weights |= zip(_names(k, suffix, bias), _export(p), strict=False)
  _check_shapes(cell, weights)
  return weights


def _names(layer, suffix, bias):
  kinds = ['weight_ih', 'weight_hh'] + ['bias_ih', 'bias_hh'] * bias
  return [f'{kind}_l{layer}{suffix}' for kind in kinds]


def _check_shapes(cell, arrays):
  """Raises ValueError if the arrays, under PyTorch's names, do not fit the cell or each other."""
  hidden = check_recurrent('weight_hh_l0', cell, arrays['weight_hh_l0'], axis=0)
  rows = len(arrays['weight_hh_l0'])
  check_shape('weight_ih_l0', arrays['weight_ih_l0'], (rows, 'D'))
  inputs = arrays['weight_ih_l0'].shape[1]
  directions = 1 + ('weight_ih_l0_reverse' in arrays)
  why = f', as H is {hidden} and there {("is 1 direction", "are 2 directions")[directions - 1]}'
  for name, array in arrays.items():
    kind, of, layer, _ = NAME.fullmatch(name).groups()
    columns = hidden if of == 'hh' else inputs if layer == '0' else directions * hidden
    shape = (rows, columns) if kind == 'weight' else (rows,)
    check_shape(name, array, shape, why)


def _import(cell, arrays):
  w_x, w_h = (np.array(w.T, order='C') for w in arrays[:2])  # copies: a module may change its own
  b_x, b_h = arrays[2:] or [np.zeros_like(w_x[0])] * 2
  if cell != 'gru':
    return {'w_x': w_x, 'w_h': w_h, 'b': b_x + b_h}
  of_n = slice(2 * len(w_h), None)
  b = b_x + b_h
  b[of_n] = b_x[of_n]
  return {'w_x': w_x, 'w_h': w_h, 'b': b, 'b_hn': b_h[of_n].copy()}


def _export(p):
  b_h = np.zeros_like(p['b'])
  if 'b_hn' in p:
    b_h[-len(p['b_hn']) :] = p['b_hn']
  return [np.array(p[name].T, order='C') for name in ('w_x', 'w_h')] + [p['b'].copy(), b_h]
