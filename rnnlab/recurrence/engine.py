"""The scan of a cell's step, with a reverse pass that is fast for every cell.

Plain differentiation of `lax.scan` adds up the weights' gradients inside the loop, and keeps
whatever the step's operations happen to need. Here a step is first taken apart, as a jaxpr:

    invariants        what depends on parameters alone: weights, biases
    products          P_k = v_k w_k, the calls of `dot`
    pre-activations   what is linear in products and invariants: their sums, cut into gates
    the rest          everything else

Only the carry and the pre-activations of each step are kept, each gate as its own array; the rest
is recomputed from them in the backward pass. With d for a tangent,

    dP_k = dv_k w_k + v_k dw_k

The second term is one matrix product over all steps, outside the loop, and so is the first if v_k
is the input: only the state's own products stay in the loop. That is a jvp rule in plain JAX, which
JAX transposes: the gradients of weights, biases and inputs become one product each, after the
reverse loop. Forward mode, vmap, checkpoint and higher derivatives work as with `lax.scan`.

A step that can't be taken apart, for example because its weights change from step to step, is
scanned as it is.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnnlab.cells.base import Array, Carry, Params
from rnnlab.recurrence.product import product
from rnnlab.recurrence.rule import Loop, hold, renewed, scan_parts
from rnnlab.recurrence.split import take_apart


class Resets(NamedTuple):
  """Where a carry is reset before a step, whether real or padding, and to what."""

  where: Any  # bool [T, B]; within a step [B]
  carry: Any


def scan(
  step: Callable,
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
  """Scans `step` of a `Cell` over time: `xs [T, B, D]` -> the last carry and `ys [T, B, H]`.

  real: bool `[T, B]` or None. Where it is False the carry is kept, y is 0, and xs must be finite.
  resets: `Resets` or None; no gradient goes past one.
  masks: for each product, None or the mask that multiplies its operand, `[B, K]` or `[G, B, K]`.
  dtype: of the products' operands, or None to keep theirs; sums and carries keep their dtype.
  every: returns `(ys, carries)` in place of ys, with the carries after each step, `[T, B, ...]`.
  """
  leaves, tree = jax.tree.flatten(carry)
  resets = None if resets is None else Resets(resets.where, jax.tree.leaves(resets.carry))

  def flat(params, carry, x, dot):
    carry, y = step(params, jax.tree.unflatten(tree, carry), x, dot)
    return jax.tree.leaves(carry), y

  apart = take_apart(flat, params, leaves, xs, masks, dtype)
  if apart is None:
    carry, ys, carries = _scan_whole(
      flat, params, leaves, xs, real, resets, masks, reverse, dtype, every
    )
  else:
    parts, invariants, masks = apart
    run = scan_parts(Loop(parts, reverse, dtype, every))
    carry, ys, carries = run(invariants, leaves, xs, real, resets, masks)
  carry = jax.tree.unflatten(tree, carry)
  return carry, (ys, jax.tree.unflatten(tree, carries)) if every else ys


def _scan_whole(step, params, carry, xs, real, resets, masks, reverse, dtype, every):
  anew, start = resets or (None, None)

  def body(carry, inputs):
    x, real, anew = inputs
    carry = renewed(anew, start, carry)
    each = iter(masks) if masks else None

    def dot(w, v):
      return product(w, v, next(each) if each else None, dtype)

    new, y = step(params, carry, x, dot)
    new = hold(real, new, carry)
    return new, (hold(real, [y], [jnp.zeros_like(y)])[0], new if every else None)

  carry, (ys, carries) = jax.lax.scan(body, carry, (xs, real, anew), reverse=reverse)
  return carry, ys, carries
