"""Recurrent networks as plain NumPy loops in float64, to compare rnnlab with. No JAX in here.

Written from the equations, gate by gate: LSTM, Gers et al. (2000); GRU, Cho et al. (2014), and its
variant with the reset after the product; Elman (1990). Parameters have rnnlab's names and shapes:
w_x [D, G * H], w_h [H, G * H], b [G * H], in the gate order given with each cell.

Gradients are computed by complex steps (Squire and Trapp 1998): exact to rounding, without
differences, and without a backward pass that could share a mistake with the one under test. For
that, any argument may have leading axes, one entry for each perturbation.
"""

import numpy as np


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def split(p, hidden, count):
  """The weights and biases gate by gate: `count` of each of w_x, w_h, b."""
  blocks = [slice(k * hidden, (k + 1) * hidden) for k in range(count)]
  w_x, w_h = ([p[name][..., block] for block in blocks] for name in ('w_x', 'w_h'))
  return w_x, w_h, [p['b'][..., None, block] for block in blocks]


def elman(p, carry, x, h_in):
  """One gate."""
  h = np.tanh(x[0] @ p['w_x'] + h_in[0] @ p['w_h'] + p['b'][..., None, :])
  return (h,)


def lstm(p, carry, x, h_in):
  """Gates i, f, g, o."""
  h, c = carry
  w_x, w_h, b = split(p, h.shape[-1], 4)
  i, f, g, o = (x[k] @ w_x[k] + h_in[k] @ w_h[k] + b[k] for k in range(4))
  c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
  return sigmoid(o) * np.tanh(c), c


def gru_before(p, carry, x, h_in):
  """Gates r, z, n; the reset acts on the state: Cho et al. (2014), equations 5 to 8."""
  (h,) = carry
  w_x, w_h, b = split(p, h.shape[-1], 3)
  r = sigmoid(x[0] @ w_x[0] + h_in[0] @ w_h[0] + b[0])
  z = sigmoid(x[1] @ w_x[1] + h_in[1] @ w_h[1] + b[1])
  n = np.tanh(x[2] @ w_x[2] + (r * h_in[2]) @ w_h[2] + b[2])
  return (z * h + (1 - z) * n,)


def gru_after(p, carry, x, h_in):
  """Gates r, z, n; the reset acts on the product of state and weights."""
  (h,) = carry
  w_x, w_h, b = split(p, h.shape[-1], 3)
  r = sigmoid(x[0] @ w_x[0] + h_in[0] @ w_h[0] + b[0])
  z = sigmoid(x[1] @ w_x[1] + h_in[1] @ w_h[1] + b[1])
  n = np.tanh(x[2] @ w_x[2] + b[2] + r * (h_in[2] @ w_h[2] + p['b_hn'][..., None, :]))
  return (z * h + (1 - z) * n,)


CELLS = {'elman': elman, 'lstm': lstm, 'gru-after': gru_after, 'gru-before': gru_before}
GATES = {'elman': 1, 'lstm': 4, 'gru-after': 3, 'gru-before': 3}


def unroll(name, p, xs, carry, *, mask=None, resets=None, reverse=False, drop_x=None, drop_h=None):
  """Runs a cell over xs [B, T, D]; returns the final carry, a tuple (h, ...), and ys [B, T, H].

  mask: bool [B, T], False at a row's padded steps. drop_x [G, B, D], drop_h [G, B, H]: dropout
  masks by which each gate multiplies its input and its state. resets: bool
  [B, T], True where a row's carry is set to zeros before the step.
  """
  ones = np.ones(GATES[name])
  steps = xs.shape[-2]
  ys = [None] * steps
  for t in reversed(range(steps)) if reverse else range(steps):
    if resets is not None:
      carry = tuple(np.where(resets[:, t, None], 0, state) for state in carry)
    x_t = [xs[..., t, :] * m for m in (ones if drop_x is None else drop_x)]
    h_in = [carry[0] * m for m in (ones if drop_h is None else drop_h)]
    new = CELLS[name](p, carry, x_t, h_in)
    real = True if mask is None else mask[:, t, None]
    carry = tuple(np.where(real, a, b) for a, b in zip(new, carry, strict=True))
    ys[t] = np.where(real, new[0], 0)
  return carry, np.stack(ys, axis=-2)


def truncated(name, p, xs, carry, k1, k2, *, mask=None, reverse=False, **drops):
  """`unroll` with the derivatives of BPTT(k2; k1) (Williams and Peng 1990).

  Each k1 steps are computed starting k2 steps before their end. The carry there is made real, which
  makes it a constant for complex steps.
  """
  steps = xs.shape[-2]

  def run(carry, first, last):
    part = slice(steps - last, steps - first) if reverse else slice(first, last)
    real = None if mask is None else mask[:, part]
    return unroll(name, p, xs[..., part, :], carry, mask=real, reverse=reverse, **drops)

  ys = []
  for first in range(0, steps, k1):
    last, start = min(first + k1, steps), max(0, first - (k2 - k1))
    at = tuple(state.real for state in run(carry, 0, start)[0]) if start else carry
    end, out = run(at, start, last)
    count = last - first
    ys.append(out[..., :count, :] if reverse else out[..., -count:, :])
  return end, np.concatenate(ys[::-1] if reverse else ys, axis=-2)


def gradients(loss, inputs):
  """The derivative of `loss` by each array of the dict `inputs`; `loss` keeps leading axes."""
  tiny = 1e-30
  found = {}
  for name, value in inputs.items():
    steps = np.eye(value.size).reshape(value.size, *value.shape) * tiny * 1j
    found[name] = (loss(inputs | {name: value + steps}).imag / tiny).reshape(value.shape)
  return found
