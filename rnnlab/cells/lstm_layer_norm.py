"""Long short-term memory with layer normalisation."""

import jax
import jax.numpy as jnp

from rnnlab.cells import base
from rnnlab.cells.lstm import LSTMCarry

EPSILON = 1e-5


def normalised(v: base.Array) -> base.Array:
  """`v [..., K]` with mean 0 and variance 1 along its last axis."""
  v = v - v.mean(axis=-1, keepdims=True)
  return v * jax.lax.rsqrt((v * v).mean(axis=-1, keepdims=True) + EPSILON)


@base.factory
def lstm_layer_norm(
  hidden_size: int,
  *,
  forget_bias: float = 1.0,
  kernel_init: base.Init = base.kernel_init,
  recurrent_init: base.Init = base.recurrent_init,
  bias_init: base.Init = base.bias_init,
) -> base.Cell:
  """LSTM with layer normalisation (Ba et al. 2016, equations 20 to 22 of the supplement).

      i, f, g, o = s_x * norm(W_x x_t) + s_h * norm(W_h h_{t-1}) + b
      c_t = sigmoid(f) * c_{t-1} + sigmoid(i) * tanh(g)
      h_t = sigmoid(o) * tanh(s_c * norm(c_t) + b_c)

  norm shifts to mean 0 and scales to variance 1, over all gates of a product together; the paper's
  two further shifts of the gates are merged into b. The scales s start at 1. The options are those
  of `lstm`, and the carry is `LSTMCarry`. Raises ValueError for a hidden_size below 1.
  """
  base.check_size(hidden_size)

  def init(key, input_size):
    sizes = input_size, hidden_size, 4
    w_x, w_h, b_x, b_h = base.weights(key, *sizes, kernel_init, recurrent_init, bias_init)
    b = (b_x + b_h).at[hidden_size : 2 * hidden_size].add(forget_bias)
    scales = {'s_x': jnp.ones(4 * hidden_size), 's_h': jnp.ones(4 * hidden_size)}
    memory = {'s_c': jnp.ones(hidden_size), 'b_c': jnp.zeros(hidden_size)}
    return {'w_x': w_x, 'w_h': w_h, 'b': b, **scales, **memory}

  def initial_carry(batch_shape, dtype=jnp.float32):
    zeros = jnp.zeros((*batch_shape, hidden_size), dtype)
    return LSTMCarry(zeros, zeros)

  def step(params, carry, x_t, dot):
    h, c = carry
    of_x = params['s_x'] * normalised(dot(params['w_x'], x_t))
    of_h = params['s_h'] * normalised(dot(params['w_h'], h))
    i, f, g, o = base.gates(of_x + of_h + params['b'], 4)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(params['s_c'] * normalised(c) + params['b_c'])
    return LSTMCarry(h, c), h

  return base.Cell(init, initial_carry, step)
