"""The independently recurrent network: each unit sees only its own state."""

import jax
import jax.numpy as jnp

from rnnlab.cells import base
from rnnlab.cells.elman import ACTIVATIONS


@base.factory
def indrnn(
  hidden_size: int, *, activation: str = 'relu', kernel_init: base.Init = base.kernel_init
) -> base.Cell:
  """h_t = relu(W_x x_t + u * h_{t-1} + b), u `[H]` a weight per unit (IndRNN: Li et al. 2018).

  Units interact only in the next layer, so layers should be stacked. |u| below 2^(1/T) keeps
  gradients over T steps from exploding; u starts uniform in [0, 1), and b at 0. The carry is h
  `[B, H]`.

  activation: 'relu' or 'tanh'. kernel_init: draws W_x.
  Raises ValueError for a hidden_size below 1 or another `activation`.
  """
  base.check_size(hidden_size)
  if activation not in ACTIVATIONS:
    raise ValueError(f"indrnn's activation must be 'tanh' or 'relu', not {activation!r}")
  squash = ACTIVATIONS[activation]

  def init(key, input_size):
    k_x, k_u = jax.random.split(key)
    w_x = kernel_init(k_x, (input_size, hidden_size))
    return {'w_x': w_x, 'u': jax.random.uniform(k_u, (hidden_size,)), 'b': jnp.zeros(hidden_size)}

  def initial_carry(batch_shape, dtype=jnp.float32):
    return jnp.zeros((*batch_shape, hidden_size), dtype)

  def step(params, h, x_t, dot):
    h = squash(dot(params['w_x'], x_t) + params['u'] * h + params['b'])
    return h, h

  return base.Cell(init, initial_carry, step)
