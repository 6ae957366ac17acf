"""Runs a cell that is linear in its carry over all steps at once instead of one by one.

    carry_t = a_t * carry_{t-1} + b_t

Each product is one matrix product for all steps. The rest is elementwise, and two steps compose to
one such step, a_2 a_1 and a_2 b_1 + b_2, so steps can be combined in any grouping (Blelloch 1990).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rnnlab.cells.base import Array, Carry, Linear, Params
from rnnlab.machine import devices
from rnnlab.recurrence.engine import Resets
from rnnlab.recurrence.product import product

Times = Callable[[Any, Carry], Carry]
CACHED = 2**17  # numbers in the carries of all steps; a CPU's cache holds several times this


def pays(carry: Carry, steps: int) -> bool:
  """Whether this is faster than scanning the step, for `steps` steps from `carry [B, ...]`.

  On a CPU it is if the carries of all steps stay in the cache: measured on two cores, values and
  gradients of minGRU with 64 units were 1.2 to 2.2 times as fast below CACHED numbers, and down to
  0.6 times with 16 rows of 1,024 steps. On other devices it is always used, which has not been
  measured. It is not if the sizes are unknown, as in an export, which may be for any device.
  """
  numbers = steps * sum(leaf.size for leaf in jax.tree.leaves(carry))
  return isinstance(numbers, int) and (devices.backend() != 'cpu' or numbers <= CACHED)


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
  """The same as `engine.scan` of `linear.step`, with the same arguments; T must not be 0."""
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
    b = _where(resets.where, fresh, b)
  anew = None if resets is None else resets.where
  carries = recurrence(linear.times, a, b, carry, reverse, anew)
  ys = linear.output(params, carries, xs, dot)
  if real is not None:
    ys = _where(real, ys, jnp.zeros_like(ys))
  last = jax.tree.map(lambda c: c[0 if reverse else -1], carries)
  return last, (ys, carries) if every else ys


def _where(flags, yes, no):
  """Trees of arrays `[T, B, ...]`: that of `yes` where `flags [T, B]` are True, else of `no`."""
  return jax.tree.map(lambda y, n: jnp.where(flags[(..., *[None] * (y.ndim - 2))], y, n), yes, no)


def recurrence(
  times: Times, a: Carry, b: Carry, carry: Carry, reverse: bool, anew: Array | None = None
) -> Carry:
  """The carries of all steps, `[T, B, ...]`, from `carry`, the one before the first step.

  anew: bool `[T, B]` or None; where it is True, the carry before that step counts as 0, even if it
    is NaN.

  If each step costs a device call, steps are combined in a tree of log T levels. A CPU takes them
  one by one, as a tree reads and writes all steps at each level.
  """
  if devices.backend() == 'cpu':
    return one_by_one(times, a, b, carry, reverse, anew)
  return in_a_tree(times, a, b, carry, reverse, anew)


def one_by_one(
  times: Times, a: Carry, b: Carry, carry: Carry, reverse: bool, anew: Array | None = None
) -> Carry:
  """`recurrence` as a loop over the steps."""

  def body(carry, at):
    a, b, anew = at
    carry = jax.tree.map(jnp.add, times(a, _forgotten(anew, carry)), b)
    return carry, carry

  return jax.lax.scan(body, carry, (a, b, anew), reverse=reverse)[1]


def in_a_tree(
  times: Times, a: Carry, b: Carry, carry: Carry, reverse: bool, anew: Array | None = None
) -> Carry:
  """`recurrence` by `lax.associative_scan`."""

  def together(earlier, later):
    (*before, new_1), (a_2, b_2, new_2) = earlier, later
    a_1, b_1 = _forgotten(new_2, before)
    b = jax.tree.map(jnp.add, times(a_2, b_1), b_2)
    return times(a_2, a_1), b, None if anew is None else new_1 | new_2

  first = -1 if reverse else 0
  at_first, anew_first = jax.tree.map(lambda a: a[first], (a, anew))
  moved = times(at_first, _forgotten(anew_first, carry))
  b = jax.tree.map(lambda b, m: b.at[first].add(m), b, moved)
  return jax.lax.associative_scan(together, (a, b, anew), reverse=reverse)[1]


def _forgotten(flags, tree):
  """A tree of arrays, but 0 where the flags are True, which are their first axes, or None."""
  if flags is None:
    return tree
  axes = flags.ndim
  return jax.tree.map(
    lambda a: jnp.where(flags.reshape(*flags.shape, *[1] * (a.ndim - axes)), 0, a), tree
  )
