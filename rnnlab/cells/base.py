"""What a recurrent cell is: three pure functions over a plain dict of parameters.

Shapes: B batch, T time steps, D input features, H hidden units, G gates.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
Params = dict[str, Array]
Carry = Any  # an array, or a NamedTuple of arrays
Dot = Callable[[Array, Array], Array]


class Cell(NamedTuple):
  """A recurrent cell, as an optax transformation is: functions, with the options in their closure.

  init: `(key, input_size) -> params`, a flat dict of named arrays of JAX's float dtype.
  initial_carry: `(batch_shape, dtype) -> carry`, an array `[*batch_shape, H]` or a NamedTuple.
  step: `(params, carry, x_t [B, D], dot) -> (carry, y_t [B, H])`, the paper's equations.

  fused: the name of these equations in `rnnlab.recurrence.kernels`, or None where they have none.

  In `step` every product of the input or of a state with a weight is written `dot(w, v)`, which is
  `v @ w` here: the hook through which `recurrence.unroll` gives every cell its dropout.

  >>> cell = rnnlab.gru(hidden_size=4)
  >>> params, carry = cell.init(jax.random.key(0), 3), cell.initial_carry((2,), jnp.float32)
  >>> carry, y_t = cell.step(params, carry, jnp.ones((2, 3)), lambda w, v: v @ w)
  >>> y_t.shape
  (2, 4)
  """

  init: Callable[[Array, int], Params]
  initial_carry: Callable[[tuple[int, ...], Any], Carry]
  step: Callable[[Params, Carry, Array, Dot], tuple[Carry, Array]]
  fused: str | None = None


class Lookup(NamedTuple):
  """Inputs `[B, T, D]` that are rows of a table: `xs[b, t]` is `table[ids[b, t]]`.

  What is computed of an input alone need then be computed once for a row of the table.

  >>> xs = rnnlab.Lookup(table=jnp.eye(3), ids=jnp.array([[2, 0, 0, 1, 2]]))
  >>> cell = rnnlab.gru(hidden_size=4)
  >>> rnnlab.unroll(cell, cell.init(jax.random.key(0), 3), xs)[1].shape
  (1, 5, 4)
  """

  table: Array  # [V, D]
  ids: Array  # int [B, T], from 0 to V - 1

  @property
  def shape(self) -> tuple[int, ...]:
    return *self.ids.shape, self.table.shape[1]

  @property
  def dtype(self):
    return self.table.dtype

  def rows(self) -> Array:
    """The inputs themselves."""
    return jnp.asarray(self.table)[self.ids]  # as NumPy has no look-up by traced ids


def matmul(w: Array, v: Array) -> Array:
  """The plain `dot` of a step: `v [B, K] @ w [K, M] -> [B, M]`."""
  return v @ w


def gates(x: Array, count: int) -> list[Array]:
  """Cuts `x [B, count * H]` into `count` arrays `[B, H]`, in order."""
  return jnp.split(x, count, axis=-1)


def check_size(hidden_size: int) -> None:
  """Raises ValueError unless `hidden_size` is a whole number of at least 1."""
  if isinstance(hidden_size, bool) or not isinstance(hidden_size, int) or hidden_size < 1:
    raise ValueError(f'hidden_size must be a whole number of at least 1, not {hidden_size!r}')


# Keras's defaults, over the whole kernel of all gates together as Keras takes them.
kernel_init = jax.nn.initializers.glorot_uniform()
recurrent_init = jax.nn.initializers.orthogonal()
bias_init = jax.nn.initializers.zeros


def weights(
  key: Array, input_size: int, hidden_size: int, gates: int, kernel_init, recurrent_init, bias_init
) -> tuple[Array, Array, Array, Array]:
  """Draws w_x `[D, G * H]`, w_h `[H, G * H]`, and a bias `[G * H]` of the product of each.

  The three initialisers are functions (key, shape) of the whole of an array, all gates together.
  Where recurrent_init is None one matrix `[D + H, G * H]`, of kernel_init, is cut into w_x and w_h.
  """
  columns = gates * hidden_size
  k_x, k_h = jax.random.split(key)
  if recurrent_init is None:
    w_x, w_h = jnp.split(kernel_init(k_x, (input_size + hidden_size, columns)), [input_size])
  else:
    w_x = kernel_init(k_x, (input_size, columns))
    w_h = recurrent_init(k_h, (hidden_size, columns))
  k_x, k_h = jax.random.split(jax.random.fold_in(key, 2))  # 0 and 1 are those above
  return w_x, w_h, bias_init(k_x, (columns,)), bias_init(k_h, (columns,))
