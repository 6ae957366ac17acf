"""Other libraries' defaults, and AWD-LSTM's: their initialisers, variant of GRU and forget bias.

For comparisons with a model of such a library: the defaults differ silently, and results with them.
The optimiser, whose epsilon differs too, is not covered here.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import initializers

from rnnlab import cells
from rnnlab.cells import base

Initializer = Callable[..., base.Array]  # (key, shape, dtype) -> array


class Convention(NamedTuple):
  """A library's defaults.

  embed: the initialiser of the embedding `[V, E]`.
  cell: hidden_size -> the initialisers of a cell's kernel, recurrent kernel and biases.
  head: input size -> the initialisers of the head's kernel and bias.
  own: further options for cells of rnnlab, by name: their variant, or another initialiser.

  >>> rnnlab.conventions.CONVENTIONS['torch'].own['lstm']
  {'forget_bias': 0.0}
  """

  embed: Initializer
  cell: Callable[[int], tuple[Initializer, Initializer, Initializer]]
  head: Callable[[int], tuple[Initializer, Initializer]]
  own: dict[str, dict[str, Any]]


@functools.cache  # one object per bound, as cells.get and jit compare options by identity
def uniform(bound: float) -> Initializer:
  """Uniform from -bound to bound.

  >>> bool(abs(rnnlab.conventions.uniform(0.1)(jax.random.key(0), (50,))).max() < 0.1)
  True
  """

  def init(key, shape, dtype=float):
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


@functools.cache
def uniform_params(init: Callable[..., dict], bound: float) -> Callable[..., dict]:
  """Like a cell's `init`, `(key, input_size) -> params`, but all parameters uniform in +- bound.

  >>> init = rnnlab.conventions.uniform_params(rnnlab.lstm(4).init, 0.1)
  >>> bool(abs(init(jax.random.key(0), 3)['b']).max() < 0.1)
  True
  """

  def draw(key, input_size):
    shapes = jax.eval_shape(lambda key: init(key, input_size), key)
    keys = zip(sorted(shapes), jax.random.split(key, len(shapes)), strict=True)
    return {name: uniform(bound)(k, shapes[name].shape, shapes[name].dtype) for name, k in keys}

  return draw


def _keras_uniform(key, shape, dtype=float):
  return jax.random.uniform(key, shape, dtype) * 0.1 - 0.05


def _orthogonal_per_gate(key, shape, dtype=float):
  hidden_size, columns = shape
  keys = jax.random.split(key, columns // hidden_size)
  square = (hidden_size, hidden_size)
  return jnp.concatenate([base.recurrent_init(k, square, dtype) for k in keys], axis=-1)


def _truncated_normal(key, shape, dtype=float):
  """N(0, 1 / fan-in) cut at two standard deviations, which reduces the deviation to 0.88 of it."""
  return jax.random.truncated_normal(key, -2, 2, shape, dtype) / shape[0] ** 0.5


_LECUN = initializers.lecun_normal()

CONVENTIONS = {
  # keras.layers: Embedding, SimpleRNN, LSTM, GRU, Dense.
  'keras': Convention(
    embed=_keras_uniform,
    cell=lambda hidden_size: (base.kernel_init, base.recurrent_init, base.bias_init),
    head=lambda size: (base.kernel_init, base.bias_init),
    own={'lstm': {'forget_bias': 1.0}, 'gru': {'reset': 'after'}},
  ),
  # torch.nn: Embedding, RNN, LSTM, GRU, Linear. A gate has two biases, both drawn.
  'torch': Convention(
    embed=initializers.normal(1.0),
    cell=lambda hidden_size: (uniform(hidden_size**-0.5),) * 3,
    head=lambda size: (uniform(size**-0.5),) * 2,
    own={'lstm': {'forget_bias': 0.0}, 'gru': {'reset': 'after'}},
  ),
  # flax.linen: Embed, SimpleCell, LSTMCell, GRUCell, Dense.
  'flax': Convention(
    embed=initializers.variance_scaling(1.0, 'fan_in', 'normal', out_axis=0),
    cell=lambda hidden_size: (_LECUN, _orthogonal_per_gate, base.bias_init),
    head=lambda size: (_LECUN, base.bias_init),
    own={'lstm': {'forget_bias': 0.0}, 'gru': {'reset': 'after'}},
  ),
  # haiku: Embed, VanillaRNN (its initialisers only; it uses ReLU), LSTM, GRU, Linear. LSTM is one
  # Linear of input and state together, and adds the forget bias at run time.
  'haiku': Convention(
    embed=initializers.truncated_normal(1.0),
    cell=lambda hidden_size: (_truncated_normal, _truncated_normal, base.bias_init),
    head=lambda size: (_truncated_normal, base.bias_init),
    own={
      'lstm': {'forget_bias': 1.0, 'recurrent_init': None},
      'gru': {'reset': 'before', 'kernel_init': _LECUN, 'recurrent_init': _LECUN},
    },
  ),
  # AWD-LSTM's code (Merity et al. 2018): PyTorch's, except for embedding and decoder.
  'awd': Convention(
    embed=uniform(0.1),
    cell=lambda hidden_size: (uniform(hidden_size**-0.5),) * 3,
    head=lambda size: (uniform(0.1), base.bias_init),
    own={'lstm': {'forget_bias': 0.0}, 'gru': {'reset': 'after'}},
  ),
}
NAMES = tuple(CONVENTIONS)


_OPTIONS = 'kernel_init', 'recurrent_init', 'bias_init'


def get(name: str) -> Convention:
  """The convention called `name`. Raises ValueError, with the nearest match, if there is none.

  >>> kernel_init, bias_init = rnnlab.conventions.get('torch').head(16)
  >>> bool(abs(kernel_init(jax.random.key(0), (16, 2))).max() < 1 / 4)
  True
  """
  if name not in CONVENTIONS:
    raise ValueError(f'no convention {name!r}{cells.near(name, NAMES)}: {", ".join(NAMES)}')
  return CONVENTIONS[name]


def cell(convention: str, name: str, *, hidden_size: int, **options: Any) -> base.Cell:
  """The cell called `name` as the library `convention`, one of NAMES, would make it.

  A given option overrides the convention's, unless it is None. A convention chooses the variant of
  lstm and gru, and the initialisers of any cell whose factory has the options kernel_init,
  recurrent_init or bias_init; a cell without these starts as it always does. Raises ValueError for
  an unknown convention, and whatever `cells.get` raises.

  >>> cell = rnnlab.conventions.cell('haiku', 'gru', hidden_size=4)
  >>> 'b_hn' in cell.init(jax.random.key(0), 3)  # it would, with the reset gate after it
  False
  """
  start, known = get(convention), inspect.signature(cells.find(name)).parameters
  base.check_size(hidden_size)
  initial = zip(_OPTIONS, start.cell(hidden_size), strict=True)
  chosen = {option: init for option, init in initial if option in known} | start.own.get(name, {})
  chosen |= {option: value for option, value in options.items() if value is not None}
  return cells.get(name, hidden_size=hidden_size, **chosen)
