"""How much of a scan its gradient keeps: remat stores less, truncate goes back less far.

Both wrap a `scan(carry, inputs) -> carry, outputs` over time-major inputs.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rnnlab.cells.base import Carry

TRUNCATION = '(k1, k2), steps from 1 up, with k2 a multiple of k1'


def is_truncation(value: Any) -> bool:
  """Whether `value` is a `truncate` of `unroll`."""
  return (
    isinstance(value, tuple | list)
    and len(value) == 2
    and all(isinstance(k, int) and not isinstance(k, bool) and k > 0 for k in value)
    and value[1] % value[0] == 0
  )


def checkpointed(scan: Callable, reverse: bool, carry: Carry, inputs: Any) -> tuple[Carry, Any]:
  """`scan(carry, inputs)` in chunks of sqrt(T) steps, keeping only the first carry of each."""
  steps = len(inputs[0])
  size = max(1, math.ceil(math.sqrt(steps)))
  count, rest = divmod(steps, size)
  chunk = jax.checkpoint(scan)

  def chunks(carry, inputs):
    inputs = jax.tree.map(lambda a: a.reshape(count, size, *a.shape[1:]), inputs)
    carry, ys = jax.lax.scan(chunk, carry, inputs, reverse=reverse)
    return carry, jax.tree.map(lambda a: a.reshape(count * size, *a.shape[2:]), ys)

  if not rest:
    return chunks(carry, inputs)
  left = jax.tree.map(lambda a: a[: count * size], inputs)
  right = jax.tree.map(lambda a: a[count * size :], inputs)
  if reverse:
    carry, ys_right = chunk(carry, right)
    carry, ys_left = chunks(carry, left)
  else:
    carry, ys_left = chunks(carry, left)
    carry, ys_right = chunk(carry, right)
  return carry, jax.tree.map(lambda *a: jnp.concatenate(a), ys_left, ys_right)


def truncated(
  scan: Callable, reverse: bool, k1: int, k2: int, carry: Carry, inputs: Any
) -> tuple[Carry, Any]:
  """`scan(carry, inputs)` in windows of k2 steps, each of which yields the ys of its last k1.

  A window starts from the carry k2 steps before its end, through which no gradient flows. A window
  that would start before the first step keeps the given carry until then by padded steps; the last
  window is filled up with padded steps too.
  """
  xs, real, anew = inputs
  steps, batch = xs.shape[:2]
  if steps <= k1:
    return scan(carry, inputs)
  count, back = -(-steps // k1), k2 // k1
  before, after = k2 - k1, count * k1 - steps
  pad = (after, before) if reverse else (before, after)
  if before or after:
    real = jnp.ones((steps, batch), bool) if real is None else real

  def windows(a):
    blocks = jnp.pad(a, [pad] + [(0, 0)] * (a.ndim - 1))
    blocks = blocks.reshape(count + back - 1, k1, *a.shape[1:])
    return jnp.concatenate([blocks[i : i + count] for i in range(back)], axis=1)

  def window(starts, inputs):
    carry, ys = scan(starts[0], inputs)
    ys = jax.tree.map(lambda a: a[:k1] if reverse else a[k2 - k1 :], ys)
    return (*starts[1:], jax.lax.stop_gradient(carry)), (carry, ys)

  _, (carries, ys) = jax.lax.scan(
    window, (carry,) * back, jax.tree.map(windows, (xs, real, anew)), reverse=reverse
  )

  def joined(a):
    a = a.reshape(count * k1, *a.shape[2:])
    return a[after:] if reverse else a[:steps]

  carry = jax.tree.map(lambda a: a[0 if reverse else -1], carries)
  return carry, jax.tree.map(joined, ys)
