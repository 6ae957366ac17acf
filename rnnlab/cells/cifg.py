"""Long short-term memory with one gate for both forgetting and writing."""

import jax
import jax.numpy as jnp

from rnnlab.cells import base
from rnnlab.cells.lstm import LSTMCarry


@base.factory
def cifg(
  hidden_size: int,
  *,
  forget_bias: float = 1.0,
  kernel_init: base.Init = base.kernel_init,
  recurrent_init: base.Init = base.recurrent_init,
  bias_init: base.Init = base.bias_init,
) -> base.Cell:
  """LSTM with coupled input and forget gates (CIFG: Greff et al. 2017), here without peepholes.

      f, g, o = W_x x_t + W_h h_{t-1} + b
      c_t = sigmoid(f) * c_{t-1} + (1 - sigmoid(f)) * tanh(g)
      h_t = sigmoid(o) * tanh(c_t)

  The options are those of `lstm`, and the carry is `LSTMCarry`.
  Raises ValueError for a hidden_size below 1.
  """
  base.check_size(hidden_size)

  def init(key, input_size):
    sizes = input_size, hidden_size, 3
    w_x, w_h, b_x, b_h = base.weights(key, *sizes, kernel_init, recurrent_init, bias_init)
    return {'w_x': w_x, 'w_h': w_h, 'b': (b_x + b_h).at[:hidden_size].add(forget_bias)}

  def initial_carry(batch_shape, dtype=jnp.float32):
    zeros = jnp.zeros((*batch_shape, hidden_size), dtype)
    return LSTMCarry(zeros, zeros)

  def step(params, carry, x_t, dot):
    h, c = carry
    f, g, o = base.gates(dot(params['w_x'], x_t) + dot(params['w_h'], h) + params['b'], 3)
    f = jax.nn.sigmoid(f)
    c = f * c + (1 - f) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return LSTMCarry(h, c), h

  return base.Cell(init, initial_carry, step)
