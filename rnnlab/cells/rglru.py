"""The real-gated linear recurrent unit of Griffin and RecurrentGemma."""

import jax
import jax.numpy as jnp

from rnnlab.cells import base

SHARPNESS = 8.0  # the paper's c


@base.factory
def rglru(hidden_size: int, *, kernel_init: base.Init = base.kernel_init) -> base.Cell:
  """RG-LRU (De et al. 2024, Griffin, equations 1 to 4). The carry is h `[B, H]`.

      r, i = sigmoid(W_g x_t + b)                      recurrence gate and input gate
      a = sigmoid(l)^(8 r)
      h_t = a * h_{t-1} + sqrt(1 - a^2) * (i * x_t)

  l `[H]` starts such that sigmoid(l)^8 is uniform from 0.9 to 0.999. If the input does not have H
  features, a product W_x x_t replaces the x_t of the last line. kernel_init draws the weights; b
  starts at 0. Raises ValueError for a hidden_size below 1.
  """
  base.check_size(hidden_size)

  def init(key, input_size):
    k_g, k_l, k_x = jax.random.split(key, 3)
    a = jax.random.uniform(k_l, (hidden_size,), minval=0.9, maxval=0.999) ** (1 / SHARPNESS)
    params = {
      'w_g': kernel_init(k_g, (input_size, 2 * hidden_size)),
      'b': jnp.zeros(2 * hidden_size),
      'l': jax.scipy.special.logit(a),
    }
    if input_size != hidden_size:
      params['w_x'] = kernel_init(k_x, (input_size, hidden_size))
    return params

  def initial_carry(batch_shape, dtype=jnp.float32):
    return jnp.zeros((*batch_shape, hidden_size), dtype)

  def coefficients(params, x, dot):
    r, i = base.gates(jax.nn.sigmoid(dot(params['w_g'], x) + params['b']), 2)
    log_a = SHARPNESS * r * jax.nn.log_sigmoid(params['l'])
    straight = dot(params['w_x'], x) if 'w_x' in params else x
    rest = -jnp.expm1(2 * log_a)
    # The square root has no gradient at 0, where the rest is if r underflows.
    some = rest > 0
    root = jnp.where(some, jnp.sqrt(jnp.where(some, rest, 1)), 0)
    return jnp.exp(log_a), root * i * straight

  recurrence = base.Linear(coefficients, lambda params, h, x, dot: h)
  return base.Cell(init, initial_carry, recurrence.step, parallel=recurrence)
