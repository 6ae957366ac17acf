"""The quasi-recurrent network of window 1: gates of the input only, and pooling over time."""

import jax
import jax.numpy as jnp

from rnnlab.cells import base


@base.factory
def qrnn(hidden_size: int, *, kernel_init: base.Init = base.kernel_init) -> base.Cell:
  """QRNN with fo-pooling (Bradbury et al. 2017), its convolution one step wide.

      z = tanh(W_x x_t + b);  f, o = sigmoid(W_x x_t + b)
      c_t = f * c_{t-1} + (1 - f) * z
      h_t = o * c_t

  `w_x` holds the blocks of z and f, `w_o` that of o, both drawn by kernel_init. The biases start
  at 0. The carry is c `[B, H]`. Raises ValueError for a hidden_size below 1.
  """
  base.check_size(hidden_size)

  def init(key, input_size):
    k_x, k_o = jax.random.split(key)
    return {
      'w_x': kernel_init(k_x, (input_size, 2 * hidden_size)),
      'w_o': kernel_init(k_o, (input_size, hidden_size)),
      'b': jnp.zeros(2 * hidden_size),
      'b_o': jnp.zeros(hidden_size),
    }

  def initial_carry(batch_shape, dtype=jnp.float32):
    return jnp.zeros((*batch_shape, hidden_size), dtype)

  def coefficients(params, x, dot):
    z, f = base.gates(dot(params['w_x'], x) + params['b'], 2)
    f = jax.nn.sigmoid(f)
    return f, (1 - f) * jnp.tanh(z)

  def output(params, c, x, dot):
    return jax.nn.sigmoid(dot(params['w_o'], x) + params['b_o']) * c

  recurrence = base.Linear(coefficients, output)
  return base.Cell(init, initial_carry, recurrence.step, parallel=recurrence)
