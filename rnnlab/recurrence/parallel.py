"""The run of a cell that is linear in its carry, over all steps at once instead of one by one.

    carry_t = a_t * carry_{t-1} + b_t

Each product is one matrix product for all steps. What is left is by element, and two steps are one
such step, a_2 a_1 and a_2 b_1 + b_2: so the steps can be put together in any order (Blelloch 1990).
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rnnlab.cells.base import Array, Carry, Linear, Params
from rnnlab.recurrence.engine import Resets
from rnnlab.recurrence.product import product


def scan(
  linear: Linear,
  params: Params,
  carry: Carry,
  xs: Array,
  *,
  real: Array | None = None,
  resets: Resets | None = None,
  masks: Sequence[Array | None] | None = None,
  reverse: bool = False,
  dtype: Any = None,
  every: bool = False,
) -> tuple[Carry, Any]:
  """What `engine.scan` computes of `linear.step`, with the same arguments; T must not be 0."""
  each = iter(masks) if masks else None

  def dot(w, v):
    return product(w, v, next(each) if each else None, dtype)

  a, b = linear.coefficients(params, xs, dot)
  a = jax.tree.map(lambda a, b: jnp.broadcast_to(a, b.shape), a, b)
  if real is not None:
    one = jax.tree.map(jnp.ones_like, a)
    if linear.one is not None:
      one = jax.tree.map(jnp.full_like, a, linear.one)
    a, b = _where(real, a, one), _where(real, b, jax.tree.map(jnp.zeros_like, b))
  if resets is not None:
    fresh = jax.tree.map(lambda b, new: b + new, b, linear.times(a, resets.carry))
    a, b = _where(resets.where, jax.tree.map(jnp.zeros_like, a), a), _where(resets.where, fresh, b)
  carries = recurrence(linear.times, a, b, carry, reverse)
  ys = linear.output(params, carries, xs, dot)
  if real is not None:
    ys = _where(real, ys, jnp.zeros_like(ys))
  last = jax.tree.map(lambda c: c[0 if reverse else -1], carries)
  return last, (ys, carries) if every else ys


def _where(flags, yes, no):
  """Of each array `[T, B, ...]` of two trees, that of `yes` where `flags [T, B]` are True."""
  return jax.tree.map(lambda y, n: jnp.where(flags[(..., *[None] * (y.ndim - 2))], y, n), yes, no)


def recurrence(times, a, b, carry, reverse):
  def body(c, ab):
    c = jax.tree.map(jnp.add, times(ab[0], c), ab[1])
    return c, c

  return jax.lax.scan(body, carry, (a, b), reverse=reverse)[1]
