"""Long short-term memory with a forget gate."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnnlab.cells import base


class LSTMCarry(NamedTuple):
  """h, the output, and c, the memory: both `[B, H]`.

  >>> h, c = rnnlab.lstm(hidden_size=4).initial_carry((2,))
  >>> rnnlab.LSTMCarry(h=h, c=c + 1).c.shape
  (2, 4)
  """

  h: base.Array
  c: base.Array


@base.factory
def lstm(
  hidden_size: int,
  *,
  forget_bias: float = 1.0,
  kernel_init: base.Init = base.kernel_init,
  recurrent_init: base.Init = base.recurrent_init,
  bias_init: base.Init = base.bias_init,
) -> base.Cell:
  """LSTM (Hochreiter & Schmidhuber 1997) with the forget gate of Gers et al. (2000), no peepholes.

      i, f, g, o = W_x x_t + W_h h_{t-1} + b
      c_t = sigmoid(f) * c_{t-1} + sigmoid(i) * tanh(g)
      h_t = sigmoid(o) * tanh(c_t)

  `forget_bias` is added to the initial bias of f (1: Jozefowicz et al. 2015). The initialisers are
  those of `base.weights`; b is the sum of the two biases. The carry is `LSTMCarry`.
  Raises ValueError for a hidden_size below 1.

  >>> params = rnnlab.lstm(hidden_size=4).init(jax.random.key(0), 3)
  >>> {name: p.shape for name, p in params.items()}
  {'w_x': (3, 16), 'w_h': (4, 16), 'b': (16,)}
  """
  base.check_size(hidden_size)

  def init(key, input_size):
    sizes = input_size, hidden_size, 4
    w_x, w_h, b_x, b_h = base.weights(key, *sizes, kernel_init, recurrent_init, bias_init)
    b = (b_x + b_h).at[hidden_size : 2 * hidden_size].add(forget_bias)
    return {'w_x': w_x, 'w_h': w_h, 'b': b}

  def initial_carry(batch_shape, dtype=jnp.float32):
    zeros = jnp.zeros((*batch_shape, hidden_size), dtype)
    return LSTMCarry(zeros, zeros)

  def step(params, carry, x_t, dot):
    h, c = carry
    i, f, g, o = base.gates(dot(params['w_x'], x_t) + dot(params['w_h'], h) + params['b'], 4)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return LSTMCarry(h, c), h

  return base.Cell(init, initial_carry, step, fused='lstm')
