"""The simple recurrent network of Elman (1990)."""

import jax
import jax.numpy as jnp

from rnnlab.cells import base

ACTIVATIONS = {'tanh': jnp.tanh, 'relu': jax.nn.relu}


@base.factory
def elman(
  hidden_size: int,
  *,
  activation: str = 'tanh',
  kernel_init: base.Init = base.kernel_init,
  recurrent_init: base.Init = base.recurrent_init,
  bias_init: base.Init = base.bias_init,
) -> base.Cell:
  """h_t = tanh(W_x x_t + W_h h_{t-1} + b) (Elman 1990, with tanh). The carry is h `[B, H]`.

  activation: 'tanh', or 'relu' in its place (Le et al. 2015, who start W_h as the identity).
  The initialisers are those of `base.weights`; b is the sum of the two biases.
  Raises ValueError for a hidden_size below 1 or another `activation`.

  >>> params = rnnlab.elman(hidden_size=4).init(jax.random.key(0), 3)
  >>> {name: p.shape for name, p in params.items()}
  {'w_x': (3, 4), 'w_h': (4, 4), 'b': (4,)}
  """
  base.check_size(hidden_size)
  if activation not in ACTIVATIONS:
    raise ValueError(f"elman's activation must be 'tanh' or 'relu', not {activation!r}")
  squash = ACTIVATIONS[activation]

  def init(key, input_size):
    sizes = input_size, hidden_size, 1
    w_x, w_h, b_x, b_h = base.weights(key, *sizes, kernel_init, recurrent_init, bias_init)
    return {'w_x': w_x, 'w_h': w_h, 'b': b_x + b_h}

  def initial_carry(batch_shape, dtype=jnp.float32):
    return jnp.zeros((*batch_shape, hidden_size), dtype)

  def step(params, h, x_t, dot):
    h = squash(dot(params['w_x'], x_t) + dot(params['w_h'], h) + params['b'])
    return h, h

  return base.Cell(init, initial_carry, step)
