"""The products of a step's operands with its weights and masks, as the scan computes them."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rnnlab.cells.base import Array


def product(w: Array, v: Array, mask: Array | None = None, dtype: Any = None) -> Array:
  """`v [..., B, K] @ w [K, M]`, v times a mask: `[B, K]`, or `[G, B, K]` for one per block of M."""
  return joined(products(blocks_of(w, mask), v, mask, dtype))


def blocks_of(w: Array, mask: Array | None) -> list[Array]:
  """The columns of `w` as a block for each mask, or all as one if they share a mask."""
  return [w] if mask is None or mask.ndim == 2 else jnp.split(w, len(mask), axis=1)


def products(
  blocks: Sequence[Array], v: Array, mask: Array | None, dtype: Any, transposed: bool = False
) -> list[Array]:
  """`product` as a list, from the blocks of w, or from each block's transpose."""

  def matmul(w, v):
    kind = jnp.result_type(v, w)
    if dtype is not None:
      v, w = v.astype(dtype), w.astype(dtype)
    # Flat, since XLA's products of arrays with three axes are slower on a CPU.
    flat = v.reshape(math.prod(v.shape[:-1]), v.shape[-1])
    axes = ((1,), (1 if transposed else 0,)), ((), ())
    out = jax.lax.dot_general(*_promoted(flat, w), axes, preferred_element_type=kind)
    return out.reshape(*v.shape[:-1], out.shape[-1])

  if mask is None:
    return [matmul(blocks[0], v)]
  masks = mask if mask.ndim == 3 else [mask]
  return [matmul(w, v * m) for w, m in zip(blocks, masks, strict=True)]


def joined(blocks: Sequence[Array]) -> Array:
  return blocks[0] if len(blocks) == 1 else jnp.concatenate(blocks, axis=-1)


def _promoted(*arrays):
  kind = jnp.result_type(*arrays)
  return [a.astype(kind) for a in arrays]
