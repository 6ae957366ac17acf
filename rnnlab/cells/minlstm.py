"""The minimal LSTM whose gates do not see the state, so that all steps can be taken at once."""

import jax
import jax.numpy as jnp

from rnnlab.cells import base


@base.factory
def minlstm(
  hidden_size: int, *, forget_bias: float = 0.0, kernel_init: base.Init = base.kernel_init
) -> base.Cell:
  """minLSTM (Feng et al. 2024, section 3.2), its two gates normalised to a sum of 1.

      i, f, n = W_x x_t + b
      h_t = (sigmoid(f) * h_{t-1} + sigmoid(i) * n) / (sigmoid(f) + sigmoid(i))

  n is neither squashed nor made positive, as in the paper's plain form. `forget_bias` is the
  initial bias of f, the others are 0; kernel_init draws W_x. The carry is h `[B, H]`.
  Raises ValueError for a hidden_size below 1.
  """
  base.check_size(hidden_size)

  def init(key, input_size):
    b = jnp.zeros(3 * hidden_size).at[hidden_size : 2 * hidden_size].set(forget_bias)
    return {'w_x': kernel_init(key, (input_size, 3 * hidden_size)), 'b': b}

  def initial_carry(batch_shape, dtype=jnp.float32):
    return jnp.zeros((*batch_shape, hidden_size), dtype)

  def coefficients(params, x, dot):
    i, f, n = base.gates(dot(params['w_x'], x) + params['b'], 3)
    # The ratio of the gates from their logarithms stays correct where both sigmoids underflow.
    ratio = jax.nn.log_sigmoid(f) - jax.nn.log_sigmoid(i)
    return jax.nn.sigmoid(ratio), jax.nn.sigmoid(-ratio) * n

  recurrence = base.Linear(coefficients, lambda params, h, x, dot: h)
  return base.Cell(init, initial_carry, recurrence.step, parallel=recurrence)
