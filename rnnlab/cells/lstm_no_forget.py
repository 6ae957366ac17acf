"""Long short-term memory in its original form, without a forget gate."""

import jax
import jax.numpy as jnp

from rnnlab.cells import base
from rnnlab.cells.lstm import LSTMCarry


@base.factory
def lstm_no_forget(
  hidden_size: int,
  *,
  kernel_init: base.Init = base.kernel_init,
  recurrent_init: base.Init = base.recurrent_init,
  bias_init: base.Init = base.bias_init,
) -> base.Cell:
  """LSTM without a forget gate (Hochreiter & Schmidhuber 1997): the memory is a plain sum.

      i, g, o = W_x x_t + W_h h_{t-1} + b
      c_t = c_{t-1} + sigmoid(i) * tanh(g)
      h_t = sigmoid(o) * tanh(c_t)

  The squashing functions are tanh, as in Greff et al. (2017), in place of the paper's scaled
  sigmoids; and gradients are complete, while the paper truncates them. The carry is `LSTMCarry`;
  the initialisers are those of `base.weights`. Raises ValueError for a hidden_size below 1.
  """
  base.check_size(hidden_size)

  def init(key, input_size):
    sizes = input_size, hidden_size, 3
    w_x, w_h, b_x, b_h = base.weights(key, *sizes, kernel_init, recurrent_init, bias_init)
    return {'w_x': w_x, 'w_h': w_h, 'b': b_x + b_h}

  def initial_carry(batch_shape, dtype=jnp.float32):
    zeros = jnp.zeros((*batch_shape, hidden_size), dtype)
    return LSTMCarry(zeros, zeros)

  def step(params, carry, x_t, dot):
    h, c = carry
    i, g, o = base.gates(dot(params['w_x'], x_t) + dot(params['w_h'], h) + params['b'], 3)
    c = c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return LSTMCarry(h, c), h

  return base.Cell(init, initial_carry, step)
