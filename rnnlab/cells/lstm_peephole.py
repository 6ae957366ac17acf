"""Long short-term memory whose gates see the memory itself."""

import jax
import jax.numpy as jnp

from rnnlab.cells import base
from rnnlab.cells.lstm import LSTMCarry


@base.factory
def lstm_peephole(
  hidden_size: int,
  *,
  forget_bias: float = 1.0,
  kernel_init: base.Init = base.kernel_init,
  recurrent_init: base.Init = base.recurrent_init,
  bias_init: base.Init = base.bias_init,
) -> base.Cell:
  """LSTM with peephole connections (Gers & Schmidhuber 2000), which help with timing and counting.

      i = sigmoid(W_x x_t + W_h h_{t-1} + p_i * c_{t-1} + b)
      f = sigmoid(W_x x_t + W_h h_{t-1} + p_f * c_{t-1} + b)
      c_t = f * c_{t-1} + i * tanh(W_x x_t + W_h h_{t-1} + b)
      o = sigmoid(W_x x_t + W_h h_{t-1} + p_o * c_t + b)
      h_t = o * tanh(c_t)

  A peephole p is a weight per unit and starts at 0, so that the cell starts as `lstm` does. The
  options are those of `lstm`, the carry is `LSTMCarry`, and W holds the gates i, f, g, o in this
  order. Raises ValueError for a hidden_size below 1.
  """
  base.check_size(hidden_size)

  def init(key, input_size):
    sizes = input_size, hidden_size, 4
    w_x, w_h, b_x, b_h = base.weights(key, *sizes, kernel_init, recurrent_init, bias_init)
    b = (b_x + b_h).at[hidden_size : 2 * hidden_size].add(forget_bias)
    peepholes = {name: jnp.zeros(hidden_size) for name in ('p_i', 'p_f', 'p_o')}
    return {'w_x': w_x, 'w_h': w_h, 'b': b, **peepholes}

  def initial_carry(batch_shape, dtype=jnp.float32):
    zeros = jnp.zeros((*batch_shape, hidden_size), dtype)
    return LSTMCarry(zeros, zeros)

  def step(params, carry, x_t, dot):
    h, c = carry
    i, f, g, o = base.gates(dot(params['w_x'], x_t) + dot(params['w_h'], h) + params['b'], 4)
    i = jax.nn.sigmoid(i + params['p_i'] * c)
    f = jax.nn.sigmoid(f + params['p_f'] * c)
    c = f * c + i * jnp.tanh(g)
    h = jax.nn.sigmoid(o + params['p_o'] * c) * jnp.tanh(c)
    return LSTMCarry(h, c), h

  return base.Cell(init, initial_carry, step)
