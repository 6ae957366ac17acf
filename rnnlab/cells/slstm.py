"""The scalar LSTM of xLSTM: exponential gates, and a memory that is a weighted average."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnnlab.cells import base

LEAST = -1e4  # stands for the logarithm of 0, in every float dtype


class SLSTMCarry(NamedTuple):
  """h, the output; c, the memory; n, its normaliser; m, the stabiliser: each `[B, H]`.

  c and n are the paper's, divided by exp(m).
  """

  h: base.Array
  c: base.Array
  n: base.Array
  m: base.Array


@base.factory
def slstm(
  hidden_size: int,
  *,
  forget_bias: float = 3.0,
  kernel_init: base.Init = base.kernel_init,
  recurrent_init: base.Init = base.recurrent_init,
) -> base.Cell:
  """sLSTM (Beck et al. 2024, xLSTM, equations 8 to 17), with one head and a sigmoid forget gate.

      i, f, z, o = W_x x_t + W_h h_{t-1} + b
      m_t = max(log sigmoid(f) + m_{t-1}, i)                           the stabiliser
      i' = exp(i - m_t);  f' = exp(log sigmoid(f) + m_{t-1} - m_t)
      c_t = f' * c_{t-1} + i' * tanh(z)
      n_t = f' * n_{t-1} + i'
      h_t = sigmoid(o) * c_t / n_t

  n starts at 0 and m at about the logarithm of 0, so that n_t is at least 1 from the first step on;
  the division is by max(n_t, 1). `forget_bias` is the initial bias of f, the others are 0. The
  initialisers draw W_x and W_h. The carry is `SLSTMCarry`.
  Raises ValueError for a hidden_size below 1.
  """
  base.check_size(hidden_size)

  def init(key, input_size):
    sizes = input_size, hidden_size, 4
    w_x, w_h, b, _ = base.weights(key, *sizes, kernel_init, recurrent_init, base.bias_init)
    return {'w_x': w_x, 'w_h': w_h, 'b': b.at[hidden_size : 2 * hidden_size].set(forget_bias)}

  def initial_carry(batch_shape, dtype=jnp.float32):
    zeros = jnp.zeros((*batch_shape, hidden_size), dtype)
    return SLSTMCarry(zeros, zeros, zeros, zeros + LEAST)

  def step(params, carry, x_t, dot):
    h, c, n, m_before = carry
    i, f, z, o = base.gates(dot(params['w_x'], x_t) + dot(params['w_h'], h) + params['b'], 4)
    f = jax.nn.log_sigmoid(f) + m_before
    m = jnp.maximum(f, i)
    i, f = jnp.exp(i - m), jnp.exp(f - m)
    c = f * c + i * jnp.tanh(z)
    n = f * n + i
    h = jax.nn.sigmoid(o) * c / jnp.maximum(n, 1)
    return SLSTMCarry(h, c, n, m), h

  return base.Cell(init, initial_carry, step)
