"""The simple recurrent unit, whose matrix products involve only the input."""

import math

import jax
import jax.numpy as jnp

from rnnlab.cells import base


@base.factory
def sru(hidden_size: int, *, highway_bias: float = 0.0) -> base.Cell:
  """The simple recurrent unit (SRU: Lei et al. 2018, equations 1 to 4). The carry is c `[B, H]`.

      f = sigmoid(W_x x_t + v_f * c_{t-1} + b)
      c_t = f * c_{t-1} + (1 - f) * (W_x x_t)
      r = sigmoid(W_x x_t + v_r * c_{t-1} + b)
      h_t = r * c_t + (1 - r) * alpha * x_t

  alpha is sqrt(1 + 2 exp(highway_bias)), and b of r starts at highway_bias. If the input does not
  have H features, a fourth block of W_x projects it to H, and alpha is 1, as in the authors' code.
  W_x starts uniform within sqrt(3 / D), and v within sqrt(3 / H). W_x holds the blocks of the
  candidate, f and r. Raises ValueError for a hidden_size below 1.
  """
  base.check_size(hidden_size)
  alpha = math.sqrt(1 + 2 * math.exp(highway_bias))

  def init(key, input_size):
    keys = jax.random.split(key, 3)

    def draw(key, shape, fan):
      limit = math.sqrt(3 / fan)
      return jax.random.uniform(key, shape, minval=-limit, maxval=limit)

    blocks = 3 if input_size == hidden_size else 4
    return {
      'w_x': draw(keys[0], (input_size, blocks * hidden_size), input_size),
      'v_f': draw(keys[1], (hidden_size,), hidden_size),
      'v_r': draw(keys[2], (hidden_size,), hidden_size),
      'b': jnp.zeros(2 * hidden_size).at[hidden_size:].set(highway_bias),
    }

  def initial_carry(batch_shape, dtype=jnp.float32):
    return jnp.zeros((*batch_shape, hidden_size), dtype)

  def step(params, c, x_t, dot):
    blocks = params['w_x'].shape[-1] // hidden_size
    new, f, r, *projected = base.gates(dot(params['w_x'], x_t), blocks)
    straight = projected[0] if projected else alpha * x_t
    b_f, b_r = base.gates(params['b'], 2)
    f = jax.nn.sigmoid(f + params['v_f'] * c + b_f)
    r = jax.nn.sigmoid(r + params['v_r'] * c + b_r)
    c = f * c + (1 - f) * new
    return c, r * c + (1 - r) * straight

  return base.Cell(init, initial_carry, step)
