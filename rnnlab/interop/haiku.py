"""Haiku's `LSTM` and `GRU`: their parameters to and from rnnlab's, as arrays.

Haiku is not imported. An import takes the params that `hk.transform(f).init` returns, or arrays
under the same names; an export returns such arrays.

    module      rnnlab               columns      differences
    LSTM        lstm                 i, g, f, o   adds 1 to f when it runs; w is w_x above w_h
    GRU         gru, reset='before'  z, r, a      its z is 1 - z of rnnlab, its a is n
    VanillaRNN  none                 all          refused: its activation is relu, not tanh

As sigmoid(-x) = 1 - sigmoid(x), the weights and biases of a GRU's z change their sign. An LSTM's
forget bias b is b + 1 in rnnlab; an import and an export round it once each: not at all for the
zeros that Haiku starts from, else within 6e-8 in float32 if b is below 1. Everything else is the
same to the bit after an import and an export.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rnnlab.interop.layers import (
  GATES,
  Params,
  as_array,
  check_cell,
  check_dict,
  check_names,
  check_recurrent,
  check_shape,
  read,
)


def import_layer(
  cell: str, weights: Mapping[str, Any], *, name: str | None = None, reset: str = 'before'
) -> Params:
  """Converts the parameters of a Haiku core to those of a layer of rnnlab.

  Import two cores that read a sequence from its two ends separately: `rnnlab.bidirectional` takes
  the pair of layers.

  cell: 'lstm' or 'gru'.
  weights: the params of the core, or of a model that contains it.
  name: the name of the core in these, such as 'lstm_1' or 'encoder/~/gru'; None means `cell`.
  reset: of a gru, 'before': Haiku has no other.

  Returns w_x `[D, G * H]`, w_h `[H, G * H]` and b `[G * H]`. Raises ValueError if there is no such
  core, for missing or unknown names in it, for wrong shapes, for reset='after', and for elman.

  >>> weights = {'lstm/linear': {'w': np.ones((7, 16)), 'b': np.zeros(16)}}
  >>> {name: w.shape for name, w in import_layer('lstm', weights).items()}
  {'w_x': (3, 16), 'w_h': (4, 16), 'b': (16,)}
  """
  module, names = _module(cell, name, reset)
  check_dict('the params', weights)
  if module not in weights:
    raise ValueError(
      f'the params have no {module!r}, but {", ".join(map(repr, weights))}: give the name of the'
      f' core among these{" without its /linear" if cell == "lstm" else ""}'
    )
  check_names(module, weights[module], names)
  p = {key: as_array(f'{key} of {module}', w) for key, w in weights[module].items()}
  if cell == 'lstm':
    return _import_lstm(module, p)
  hidden = check_recurrent(f'w_h of {module}', cell, p['w_h'], axis=1)
  for key, shape in {'w_i': ('D', 3 * hidden), 'b': (3 * hidden,)}.items():
    check_shape(f'{key} of {module}', p[key], shape, f', as H is {hidden}')

  def rzn(w):
    z, r, a = np.split(w, 3, axis=-1)
    return np.concatenate([r, -z, a], axis=-1)

  return {'w_x': rzn(p['w_i']), 'w_h': rzn(p['w_h']), 'b': rzn(p['b'])}


def export_layer(
  cell: str, layer: Mapping[str, Any], *, name: str | None = None, reset: str = 'before'
) -> dict[str, Params]:
  """Converts the parameters of a layer of rnnlab to those of a Haiku core.

  cell: 'lstm' or 'gru'.
  layer: what `import_layer` returns.
  name: the name of the core; None means `cell`.
  reset: of a gru, 'before': Haiku has no other.

  Returns the core's arrays by name, under the name of its module. Raises ValueError for a layer
  that does not fit the cell, for reset='after', and for elman.

  >>> layer = {'w_x': np.ones((3, 12)), 'w_h': np.ones((4, 12)), 'b': np.zeros(12)}
  >>> {name: w.shape for name, w in export_layer('gru', layer)['gru'].items()}
  {'w_i': (3, 12), 'w_h': (4, 12), 'b': (12,)}
  """
  module, _ = _module(cell, name, reset)
  p = read(cell, reset, layer)
  if cell == 'lstm':
    w = np.concatenate([_swap(p['w_x']), _swap(p['w_h'])])
    return {module: {'w': w, 'b': _swap(_add_to_forget(p['b'], -1))}}

  def zra(w):
    r, z, n = np.split(w, 3, axis=-1)
    return np.concatenate([-z, r, n], axis=-1)

  return {module: {'w_i': zra(p['w_x']), 'w_h': zra(p['w_h']), 'b': zra(p['b'])}}


def _module(cell, name, reset):
  """The name under which Haiku keeps a core's arrays, and their names."""
  if cell == 'elman':
    raise ValueError(
      "Haiku's VanillaRNN computes relu(W x + b), an elman tanh(W x + b): these are different"
      ' functions, and no weights make one compute the other. Use an LSTM or a GRU'
    )
  check_cell(cell, reset, 'before', 'Haiku')
  name = cell if name is None else name
  return (f'{name}/linear', ['w', 'b']) if cell == 'lstm' else (name, ['w_i', 'w_h', 'b'])


def _import_lstm(module, p):
  width = p['b'].shape[-1] if p['b'].ndim else 0
  hidden = width // GATES['lstm']
  check_shape(f'b of {module}', p['b'], (4 * hidden,), ': that is 4 * H')
  check_shape(f'w of {module}', p['w'], ('D + H', width), f', as H is {hidden}')
  if len(p['w']) <= hidden:
    raise ValueError(f'w of {module} must have more than {hidden} rows, not {len(p["w"])}')
  w_x, w_h = np.split(_swap(p['w']), [-hidden])
  return {'w_x': w_x, 'w_h': w_h, 'b': _add_to_forget(_swap(p['b']), 1)}


def _swap(w):
  """The columns of the gates i, f, g, o from those of i, g, f, o, or the other way round."""
  i, a, b, o = np.split(w, 4, axis=-1)
  return np.concatenate([i, b, a, o], axis=-1)


def _add_to_forget(b, value):
  i, f, g, o = np.split(b, 4)
  return np.concatenate([i, f + np.asarray(value, f.dtype), g, o])
