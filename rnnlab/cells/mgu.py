"""The minimal gated unit: a GRU with one gate."""

import jax
import jax.numpy as jnp

from rnnlab.cells import base


@base.factory
def mgu(
  hidden_size: int,
  *,
  kernel_init: base.Init = base.kernel_init,
  recurrent_init: base.Init = base.recurrent_init,
  bias_init: base.Init = base.bias_init,
) -> base.Cell:
  """The minimal gated unit (Zhou et al. 2016, equations 6 to 8). The carry is h `[B, H]`.

      f = sigmoid(W_x x_t + W_h h_{t-1} + b)
      n = tanh(W_x x_t + W_h (f * h_{t-1}) + b)
      h_t = (1 - f) * h_{t-1} + f * n

  The initialisers are those of `base.weights`. Raises ValueError for a hidden_size below 1.
  """
  base.check_size(hidden_size)

  def init(key, input_size):
    sizes = input_size, hidden_size, 2
    w_x, w_h, b_x, b_h = base.weights(key, *sizes, kernel_init, recurrent_init, bias_init)
    return {'w_x': w_x, 'w_h': w_h, 'b': b_x + b_h}

  def initial_carry(batch_shape, dtype=jnp.float32):
    return jnp.zeros((*batch_shape, hidden_size), dtype)

  def step(params, h, x_t, dot):
    w_f, w_n = jnp.split(params['w_h'], 2, axis=-1)
    x_f, x_n = base.gates(dot(params['w_x'], x_t) + params['b'], 2)
    f = jax.nn.sigmoid(x_f + dot(w_f, h))
    n = jnp.tanh(x_n + dot(w_n, f * h))
    h = (1 - f) * h + f * n
    return h, h

  return base.Cell(init, initial_carry, step)
