"""One step of every further cell in plain NumPy in float64, from its paper. No JAX in here.

A step takes the parameters p, a tuple of states, and x [B, D]; it returns the states and y [B, H].
Parameters have rnnlab's names; vectors arrive as [1, K]. Every argument may be complex and have
leading axes, one entry for each perturbation, since gradients are computed by complex steps. Hence
no `abs` and no `maximum`, which complex numbers lack, but `larger` and `size`, which compare real
parts.
"""

import numpy as np
from reference import sigmoid


def larger(a, b):
  a, b = np.broadcast_arrays(a, b)
  return np.where(a.real > b.real, a, b)


def size(a):
  return np.where(a.real < 0, -a, a)


def relu(a):
  return np.where(a.real > 0, a, 0)


def blocks(a, count):
  return np.split(a, count, axis=-1)


def norm(a, epsilon=1e-5):
  a = a - a.sum(-1, keepdims=True) / a.shape[-1]
  return a / np.sqrt((a * a).sum(-1, keepdims=True) / a.shape[-1] + epsilon)


def lstm_peephole(p, states, x):
  h, c = states
  i, f, g, o = blocks(x @ p['w_x'] + h @ p['w_h'] + p['b'], 4)
  new = sigmoid(f + p['p_f'] * c) * c + sigmoid(i + p['p_i'] * c) * np.tanh(g)
  h = sigmoid(o + p['p_o'] * new) * np.tanh(new)
  return (h, new), h


def cifg(p, states, x):
  h, c = states
  f, g, o = blocks(x @ p['w_x'] + h @ p['w_h'] + p['b'], 3)
  i = 1 - sigmoid(f)
  c = (1 - i) * c + i * np.tanh(g)
  h = sigmoid(o) * np.tanh(c)
  return (h, c), h


def lstm_no_forget(p, states, x):
  h, c = states
  i, g, o = blocks(x @ p['w_x'] + h @ p['w_h'] + p['b'], 3)
  c = c + sigmoid(i) * np.tanh(g)
  h = sigmoid(o) * np.tanh(c)
  return (h, c), h


def lstm_layer_norm(p, states, x):
  h, c = states
  all_gates = p['s_x'] * norm(x @ p['w_x']) + p['s_h'] * norm(h @ p['w_h']) + p['b']
  i, f, g, o = blocks(all_gates, 4)
  c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
  h = sigmoid(o) * np.tanh(p['s_c'] * norm(c) + p['b_c'])
  return (h, c), h


def mgu(p, states, x):
  (h,) = states
  (x_f, x_n), (w_f, w_n), (b_f, b_n) = (blocks(a, 2) for a in (x @ p['w_x'], p['w_h'], p['b']))
  f = sigmoid(x_f + h @ w_f + b_f)
  h = (1 - f) * h + f * np.tanh(x_n + (f * h) @ w_n + b_n)
  return (h,), h


def irnn(p, states, x):
  h = relu(x @ p['w_x'] + states[0] @ p['w_h'] + p['b'])
  return (h,), h


def indrnn(p, states, x):
  h = relu(x @ p['w_x'] + p['u'] * states[0] + p['b'])
  return (h,), h


def sru(p, states, x):
  """If the input has as many features as there are units, alpha is sqrt(3)."""
  (c,) = states
  hidden = c.shape[-1]
  parts = blocks(x @ p['w_x'], p['w_x'].shape[-1] // hidden)
  straight = parts[3] if len(parts) == 4 else np.sqrt(3) * x
  b_f, b_r = blocks(p['b'], 2)
  f, r = sigmoid(parts[1] + p['v_f'] * c + b_f), sigmoid(parts[2] + p['v_r'] * c + b_r)
  c = f * c + (1 - f) * parts[0]
  return (c,), r * c + (1 - r) * straight


def qrnn(p, states, x):
  z, f = blocks(x @ p['w_x'] + p['b'], 2)
  c = sigmoid(f) * states[0] + (1 - sigmoid(f)) * np.tanh(z)
  return (c,), sigmoid(x @ p['w_o'] + p['b_o']) * c


def mingru(p, states, x):
  z, n = blocks(x @ p['w_x'] + p['b'], 2)
  h = (1 - sigmoid(z)) * states[0] + sigmoid(z) * n
  return (h,), h


def minlstm(p, states, x):
  i, f, n = blocks(x @ p['w_x'] + p['b'], 3)
  i, f = sigmoid(i), sigmoid(f)
  h = f / (f + i) * states[0] + i / (f + i) * n
  return (h,), h


def lru(p, states, x):
  """A complex factor r exp(i phi) is the matrix r [[cos, -sin], [sin, cos]]."""
  real, imag = states
  r, phase, gain = np.exp(-np.exp(p['nu'])), np.exp(p['theta']), np.exp(p['gamma'])
  of_real, of_imag = blocks(x @ p['w_x'], 2)
  cos, sin = r * np.cos(phase), r * np.sin(phase)
  real, imag = (
    cos * real - sin * imag + gain * of_real,
    sin * real + cos * imag + gain * of_imag,
  )
  return (real, imag), real @ p['w_real'] - imag @ p['w_imag'] + x @ p['w_y']


def rglru(p, states, x):
  r, i = blocks(sigmoid(x @ p['w_g'] + p['b']), 2)
  a = np.exp(8 * r * np.log(sigmoid(p['l'])))
  straight = x @ p['w_x'] if 'w_x' in p else x
  h = a * states[0] + np.sqrt(1 - a**2) * (i * straight)
  return (h,), h


def slstm(p, states, x):
  h, c, n, m_before = states
  i, f, z, o = blocks(x @ p['w_x'] + h @ p['w_h'] + p['b'], 4)
  m = larger(np.log(sigmoid(f)) + m_before, i)
  f = sigmoid(f) * np.exp(m_before - m)
  c = f * c + np.exp(i - m) * np.tanh(z)
  n = f * n + np.exp(i - m)
  h = sigmoid(o) * c / larger(n, np.ones(()))
  return (h, c, n, m), h


def mlstm(p, states, x):
  c, n, m_before = states  # [B, heads, d, d], [B, heads, d], [B, heads]
  heads, d = n.shape[-2:]
  q, k, v, o = blocks(x @ p['w_x'] + p['b'], 4)
  i, f = blocks(x @ p['w_g'] + p['b_g'], 2)
  cs, ns, ms, hs = [], [], [], []
  for head in range(heads):
    at = slice(head * d, (head + 1) * d)
    q_, k_, v_ = q[..., at], k[..., at] / np.sqrt(d), v[..., at]
    m = larger(np.log(sigmoid(f[..., head])) + m_before[..., head], i[..., head])
    forget = (sigmoid(f[..., head]) * np.exp(m_before[..., head] - m))[..., None]
    write = np.exp(i[..., head] - m)[..., None]
    ns.append(forget * n[..., head, :] + write * k_)
    written = np.einsum('...i,...j->...ij', write * v_, k_)
    cs.append(forget[..., None] * c[..., head, :, :] + written)
    total = size((ns[-1] * q_).sum(-1))
    hs.append(np.einsum('...ij,...j->...i', cs[-1], q_) / larger(total, np.exp(-m))[..., None])
    ms.append(m)
  h = sigmoid(o) * np.concatenate(np.broadcast_arrays(*hs), -1)
  c, n, m = (np.stack(np.broadcast_arrays(*a), axis) for a, axis in ((cs, -3), (ns, -2), (ms, -1)))
  return (c, n, m), h


def unroll(name, p, states, xs):
  """Runs a cell over xs [B, T, D]; returns the final states and ys [B, T, H]."""
  ys = []
  for t in range(xs.shape[-2]):
    states, y = globals()[name](p, states, xs[..., t, :])
    ys.append(y)
  return states, np.stack(np.broadcast_arrays(*ys), axis=-2)
