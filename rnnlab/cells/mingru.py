"""The minimal GRU whose gate does not see the state, so that all steps can be taken at once."""

import jax
import jax.numpy as jnp

from rnnlab.cells import base


@base.factory
def mingru(hidden_size: int, *, kernel_init: base.Init = base.kernel_init) -> base.Cell:
  """minGRU (Feng et al. 2024, section 3.1). The carry is h `[B, H]`.

      z, n = W_x x_t + b
      h_t = (1 - sigmoid(z)) * h_{t-1} + sigmoid(z) * n

  n is neither squashed nor made positive, as in the paper's plain form (its logarithmic form has
  another n). kernel_init draws W_x; b starts at 0. Raises ValueError for a hidden_size below 1.
  """
  base.check_size(hidden_size)

  def init(key, input_size):
    w_x = kernel_init(key, (input_size, 2 * hidden_size))
    return {'w_x': w_x, 'b': jnp.zeros(2 * hidden_size)}

  def initial_carry(batch_shape, dtype=jnp.float32):
    return jnp.zeros((*batch_shape, hidden_size), dtype)

  def coefficients(params, x, dot):
    z, n = base.gates(dot(params['w_x'], x) + params['b'], 2)
    return jax.nn.sigmoid(-z), jax.nn.sigmoid(z) * n

  recurrence = base.Linear(coefficients, lambda params, h, x, dot: h)
  return base.Cell(init, initial_carry, recurrence.step, parallel=recurrence)
