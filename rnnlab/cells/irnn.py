"""The rectified recurrent network that starts as the identity."""

import jax
import jax.numpy as jnp

from rnnlab.cells import base
from rnnlab.cells.elman import elman


@base.factory
def irnn(hidden_size: int, *, scale: float = 1.0) -> base.Cell:
  """h_t = relu(W_x x_t + W_h h_{t-1} + b), from W_h = scale * I (IRNN: Le et al. 2015).

  It is `elman` with 'relu' and the paper's initialisation: W_x is normal with standard deviation
  0.001 and b is 0, so that an untrained state hardly changes. A scale below 1 makes it forget: the
  paper's speech experiment uses 0.01. The carry is h `[B, H]`. Raises ValueError for a hidden_size
  below 1.
  """

  def identity(key, shape):
    return scale * jnp.eye(*shape)

  return elman(
    hidden_size,
    activation='relu',
    kernel_init=jax.nn.initializers.normal(0.001),
    recurrent_init=identity,
  )
