"""A scan that adds nudges, which are 0, to its carries, to be differentiated with respect to them.

If s_t is the whole carry of a cell after step t, the gradient of a loss with respect to s_t is that
with respect to the nudge of step t. An output y_t that is a function of s_t is nudged with it, so
that a loss of the last output has a gradient at the last step too.
"""

import jax
import jax.numpy as jnp

from rnnlab.cells.base import Array, Carry, Cell, Params, matmul
from rnnlab.recurrence.split import Values, variables


def no_nudges(carry: Carry, steps: int) -> Carry:
  """Nudges of 0 for `steps` steps: arrays `[B, T, ...]` for the arrays `[B, ...]` of a carry."""
  return jax.tree.map(lambda a: jnp.zeros((len(a), steps, *a.shape[1:]), a.dtype), carry)


def nudged(
  cell: Cell,
  params: Params,
  xs: Array,
  nudges: Carry,
  *,
  mask: Array,
  initial_carry: Carry,
  resets: Array | None = None,
) -> tuple[Carry, Array]:
  """The plain scan of a cell's step, with a nudge added to each carry: `(carry, ys)`.

  The arguments and the result are those of `recurrence.unroll`, without its checks; mask must be
  given. nudges: a carry whose arrays are `[B, T, ...]`; those at padded steps have no effect.
  """
  xs = jnp.where(mask[..., None], xs, 0)  # a NaN in the padding would reach the gradients
  step = _nudged_step(cell, params, initial_carry, xs[:, 0])
  new = cell.initial_carry(mask.shape[:1], xs.dtype) if resets is not None else None

  def body(carry, inputs):
    x, real, nudge, anew = inputs
    if anew is not None:
      carry = _where(anew, new, carry)
    after, y = step(params, carry, x, nudge)
    return _where(real, after, carry), _where(real, y, jnp.zeros_like(y))

  inputs = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), (xs, mask, nudges, resets))
  carry, ys = jax.lax.scan(body, initial_carry, inputs)
  return carry, jnp.swapaxes(ys, 0, 1)


def _where(rows, a, b):
  """Of two trees of arrays `[B, ...]`, the first in the rows that are True, else the second."""
  return jax.tree.map(lambda a, b: jnp.where(rows.reshape(-1, *[1] * (a.ndim - 1)), a, b), a, b)


def _nudged_step(cell, params, carry, x):
  """`(params, carry, x, nudge) -> (carry, y)`: a step whose new carry is nudged, and y with it.

  For y the step's equations are evaluated again, with the nudged arrays in place of the new carry,
  so that y is nudged as far as it is a function of the new carry.
  """

  def flat(params, carry, x):
    carry, y = cell.step(params, carry, x, matmul)
    return jax.tree.leaves(carry), y

  jaxpr = jax.make_jaxpr(flat)(params, carry, x)
  *news, out = jaxpr.jaxpr.outvars

  def step(params, carry, x, nudge):
    after, _ = cell.step(params, carry, x, matmul)
    after = jax.tree.map(jnp.add, after, nudge)
    pinned = {v: a for v, a in zip(news, jax.tree.leaves(after), strict=True) if variables([v])}
    inputs = [*jax.tree.leaves((params, carry, x)), *jaxpr.consts]
    values = Values([*jaxpr.jaxpr.invars, *jaxpr.jaxpr.constvars], inputs)
    for equation in jaxpr.jaxpr.eqns:
      values.run(equation)
      values.update((v, pinned[v]) for v in equation.outvars if v in pinned)
    return after, values.read(out)

  return step


def norms(carries: Carry) -> Array:
  """The norm of the carry at each step of a batch, over all its arrays `[B, T, ...]`: `[B, T]`."""
  leaves = [jnp.abs(a).reshape(*a.shape[:2], -1) for a in jax.tree.leaves(carries)]
  largest = jnp.stack([a.max(axis=-1) for a in leaves]).max(axis=0)
  unit = jnp.where(largest > 0, largest, 1)  # squares of small gradients would be 0
  return unit * jnp.sqrt(sum(((a / unit[..., None]) ** 2).sum(axis=-1) for a in leaves))


def lags(mask: Array) -> Array:
  """How many real steps come after each, int `[B, T]`. mask: bool `[B, T]`, True at real steps."""
  return jnp.flip(jnp.cumsum(jnp.flip(mask, 1), axis=1), 1) - mask


def powers(steps: int) -> tuple[int, ...]:
  """The lags at which a sequence of `steps` steps is measured: 0 and the powers of 2 below.

  >>> powers(9)
  (0, 1, 2, 4, 8)
  """
  return (0, *(2**k for k in range((steps - 1).bit_length()))) if steps else ()
