"""The matrix LSTM of xLSTM: a memory of key-value pairs."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnnlab.cells import base


class MLSTMCarry(NamedTuple):
  """c, the memory `[B, heads, d, d]`, values by keys; n `[B, heads, d]` and m `[B, heads]`.

  n is the normaliser, m the stabiliser: c and n are the paper's, divided by exp(m).
  """

  c: base.Array
  n: base.Array
  m: base.Array


def least(m: base.Array) -> base.Array:
  """exp(-m), the least divisor of h, but finite, as the gradient of h = 0 would be 0 * inf."""
  return jnp.exp(jnp.minimum(-m, 0.9 * math.log(jnp.finfo(m.dtype).max)))


@base.factory
def mlstm(
  hidden_size: int,
  *,
  heads: int = 1,
  forget_bias: float = 3.0,
  kernel_init: base.Init = base.kernel_init,
) -> base.Cell:
  """mLSTM (Beck et al. 2024, xLSTM, equations 19 to 27), with a sigmoid forget gate.

  Each head has d = H / heads units, one memory, and one gate i and f:

      q, k, v, o = W_x x_t + b;  k = k / sqrt(d);  i, f = W_g x_t + b_g
      m_t = max(log sigmoid(f) + m_{t-1}, i)                           the stabiliser
      i' = exp(i - m_t);  f' = exp(log sigmoid(f) + m_{t-1} - m_t)
      C_t = f' C_{t-1} + i' v k^T;  n_t = f' n_{t-1} + i' k
      h_t = sigmoid(o) * C_t q / max(|n_t . q|, exp(-m_t))

  `forget_bias` is the initial bias of f, the others are 0; kernel_init draws W_x and W_g. The
  carry is `MLSTMCarry`; its memory has d times as many numbers as that of `lstm`.
  Raises ValueError for a hidden_size below 1, or `heads` that do not divide it.
  """
  base.check_size(hidden_size)
  if isinstance(heads, bool) or not isinstance(heads, int) or heads < 1 or hidden_size % heads:
    raise ValueError(f"mlstm's heads must divide hidden_size={hidden_size}, and not be {heads!r}")
  width = hidden_size // heads

  def init(key, input_size):
    k_x, k_g = jax.random.split(key)
    w_x = kernel_init(k_x, (input_size, 4 * hidden_size))
    w_g = kernel_init(k_g, (input_size, 2 * heads))
    b_g = jnp.zeros(2 * heads).at[heads:].set(forget_bias)
    return {'w_x': w_x, 'w_g': w_g, 'b': jnp.zeros(4 * hidden_size), 'b_g': b_g}

  def initial_carry(batch_shape, dtype=jnp.float32):
    shapes = (heads, width, width), (heads, width), (heads,)
    return MLSTMCarry(*(jnp.zeros((*batch_shape, *shape), dtype) for shape in shapes))

  def step(params, carry, x_t, dot):
    c, n, m_before = carry
    *qkv, o = base.gates(dot(params['w_x'], x_t) + params['b'], 4)
    q, k, v = (a.reshape(-1, heads, width) for a in qkv)
    i, f = base.gates(dot(params['w_g'], x_t) + params['b_g'], 2)
    k, f = k / math.sqrt(width), jax.nn.log_sigmoid(f) + m_before
    m = jnp.maximum(f, i)
    i, f = jnp.exp(i - m)[..., None], jnp.exp(f - m)[..., None]
    c = f[..., None] * c + (i * v)[..., :, None] * k[..., None, :]
    n = f * n + i * k
    total = jnp.abs((n * q).sum(-1))
    h = (c * q[..., None, :]).sum(-1) / jnp.maximum(total, least(m))[..., None]
    return MLSTMCarry(c, n, m), jax.nn.sigmoid(o) * h.reshape(o.shape)

  return base.Cell(init, initial_carry, step, fused='mlstm')
