"""One step of LSTM and GRU and its derivative, on a row of pre-activations and a row of states.

`pre [P * H]` holds the pre-activations and then the gates; h, c and y are `[H]`; n is H.
"""

import numpy as np

from rnnlab.recurrence.kernels.cpu.tile import jit

KINDS = 'lstm', 'gru-after', 'gru-before'  # by Cell.fused
LSTM, GRU_AFTER, GRU_BEFORE = range(3)
BLOCKS = 4, 4, 3  # P by kind


f32 = np.float32


@jit
def _tanh(x):
  """tanh to 3e-7: the rational function of Eigen and XLA, which has no branches."""
  x = min(max(x, f32(-7.9053111)), f32(7.9053111))
  s = x * x
  p = f32(-2.76076847742355e-16)
  p = p * s + f32(2.00018790482477e-13)
  p = p * s + f32(-8.60467152213735e-11)
  p = p * s + f32(5.12229709037114e-08)
  p = p * s + f32(1.48572235717979e-05)
  p = p * s + f32(6.37261928875436e-04)
  p = p * s + f32(4.89352455891786e-03)
  q = f32(1.19825839466702e-06)
  q = q * s + f32(1.18534705686654e-04)
  q = q * s + f32(2.26843463243900e-03)
  q = q * s + f32(4.89352518554385e-03)
  return x * p / q


@jit
def _sigmoid(x):
  return f32(0.5) * _tanh(f32(0.5) * x) + f32(0.5)


@jit
def lstm(pre, h, c, y, n):
  for j in range(n):
    i, f = _sigmoid(pre[j]), _sigmoid(pre[n + j])
    g, o = _tanh(pre[2 * n + j]), _sigmoid(pre[3 * n + j])
    c[j] = f * c[j] + i * g
    h[j] = o * _tanh(c[j])
    y[j] = h[j]
    pre[j], pre[n + j], pre[2 * n + j], pre[3 * n + j] = i, f, g, o


@jit
def lstm_back(gates, c, d_h, d_c, d, n):
  for j in range(n):
    i, f, g, o = gates[j], gates[n + j], gates[2 * n + j], gates[3 * n + j]
    squashed = _tanh(f * c[j] + i * g)
    d_o = d_h[j] * squashed
    d_cell = d_c[j] + d_h[j] * o * (1 - squashed * squashed)
    d[j] = d_cell * g * i * (1 - i)
    d[n + j] = d_cell * c[j] * f * (1 - f)
    d[2 * n + j] = d_cell * i * (1 - g * g)
    d[3 * n + j] = d_o * o * (1 - o)
    d_c[j] = d_cell * f
    d_h[j] = 0


@jit
def gru_after(pre, h, y, n):
  for j in range(n):
    r, z, q = _sigmoid(pre[j]), _sigmoid(pre[n + j]), pre[3 * n + j]
    new = _tanh(pre[2 * n + j] + r * q)
    h[j] = z * h[j] + (1 - z) * new
    y[j] = h[j]
    pre[j], pre[n + j], pre[2 * n + j] = r, z, new


@jit
def gru_after_back(gates, h, d_h, d, n):
  for j in range(n):
    r, z, new, q = gates[j], gates[n + j], gates[2 * n + j], gates[3 * n + j]
    d_new = d_h[j] * (1 - z) * (1 - new * new)
    d[j] = d_new * q * r * (1 - r)
    d[n + j] = d_h[j] * (h[j] - new) * z * (1 - z)
    d[2 * n + j] = d_new
    d[3 * n + j] = d_new * r
    d_h[j] *= z


@jit
def gru_reset(pre, h, reset, n):
  for j in range(n):
    r, z = _sigmoid(pre[j]), _sigmoid(pre[n + j])
    pre[j], pre[n + j] = r, z
    reset[j] = r * h[j]


@jit
def gru_before(pre, h, y, n):
  for j in range(n):
    z, new = pre[n + j], _tanh(pre[2 * n + j])
    h[j] = z * h[j] + (1 - z) * new
    y[j] = h[j]
    pre[2 * n + j] = new


@jit
def gru_before_back(gates, h, d_h, d, n):
  for j in range(n):
    z, new = gates[n + j], gates[2 * n + j]
    d[2 * n + j] = d_h[j] * (1 - z) * (1 - new * new)
    d[n + j] = d_h[j] * (h[j] - new) * z * (1 - z)
    d_h[j] *= z


@jit
def gru_reset_back(gates, h, d_reset, d_h, d, n):
  for j in range(n):
    r = gates[j]
    d[j] = d_reset[j] * h[j] * r * (1 - r)
    d_h[j] += d_reset[j] * r
