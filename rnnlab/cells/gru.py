"""The gated recurrent unit, in both variants in use."""

import jax
import jax.numpy as jnp

from rnnlab.cells import base


@base.factory
def gru(
  hidden_size: int,
  *,
  reset: str = 'after',
  kernel_init: base.Init = base.kernel_init,
  recurrent_init: base.Init = base.recurrent_init,
  bias_init: base.Init = base.bias_init,
) -> base.Cell:
  """GRU (Cho et al. 2014); `reset` says where the reset gate acts on the candidate n.

      r, z = sigmoid(W_x x_t + W_h h_{t-1} + b)
      n = tanh(W_x x_t + W_h (r * h_{t-1}) + b)            reset='before': Cho et al. 2014, eq. 8
      n = tanh(W_x x_t + b + r * (W_h h_{t-1} + b_hn))     reset='after': cuDNN, Keras, PyTorch
      h_t = z * h_{t-1} + (1 - z) * n

  The two are different functions: weights of one do not fit the other. The carry is h `[B, H]`.
  The initialisers are those of `base.weights`; b is the sum of the two biases, except that b_hn,
  where used, is the state's own. Raises ValueError for a hidden_size below 1 or another `reset`.

  >>> params = rnnlab.gru(hidden_size=4, reset='before').init(jax.random.key(0), 3)
  >>> {name: p.shape for name, p in params.items()}
  {'w_x': (3, 12), 'w_h': (4, 12), 'b': (12,)}
  """
  base.check_size(hidden_size)
  if reset not in ('before', 'after'):
    raise ValueError(f"gru's reset must be 'before' or 'after', not {reset!r}")

  def init(key, input_size):
    sizes = input_size, hidden_size, 3
    w_x, w_h, b_x, b_h = base.weights(key, *sizes, kernel_init, recurrent_init, bias_init)
    if reset == 'before':
      return {'w_x': w_x, 'w_h': w_h, 'b': b_x + b_h}
    b_hn = b_h[2 * hidden_size :]
    return {'w_x': w_x, 'w_h': w_h, 'b': b_x + b_h.at[2 * hidden_size :].set(0), 'b_hn': b_hn}

  def initial_carry(batch_shape, dtype=jnp.float32):
    return jnp.zeros((*batch_shape, hidden_size), dtype)

  def step_after(params, h, x_t, dot):
    x_r, x_z, x_n = base.gates(dot(params['w_x'], x_t) + params['b'], 3)
    h_r, h_z, h_n = base.gates(dot(params['w_h'], h), 3)
    r = jax.nn.sigmoid(x_r + h_r)
    z = jax.nn.sigmoid(x_z + h_z)
    n = jnp.tanh(x_n + r * (h_n + params['b_hn']))
    h = z * h + (1 - z) * n
    return h, h

  def step_before(params, h, x_t, dot):
    w_rz, w_n = jnp.split(params['w_h'], [2 * hidden_size], axis=-1)
    x_r, x_z, x_n = base.gates(dot(params['w_x'], x_t) + params['b'], 3)
    h_r, h_z = base.gates(dot(w_rz, h), 2)
    r = jax.nn.sigmoid(x_r + h_r)
    z = jax.nn.sigmoid(x_z + h_z)
    n = jnp.tanh(x_n + dot(w_n, r * h))
    h = z * h + (1 - z) * n
    return h, h

  step = step_after if reset == 'after' else step_before
  return base.Cell(init, initial_carry, step, fused=f'gru-{reset}')
