"""mLSTM computed in chunks of steps: C steps together, as attention, then the next C.

A scan of the step writes a memory of d x d numbers per head at each step, and reads it again for
the gradients. Within a chunk the outputs follow from queries, keys and values, and the memory
before the chunk (Beck et al. 2024, xLSTM, appendix): the bulk of the work is then matrix products,
and the memory is written once per chunk. With F_ts the sum of log f from step s + 1 to t,

    m_t = max(F_t0 + m_0, max_s<=t F_ts + i_s)          the stabiliser, as in the step
    S_ts = exp(F_ts + i_s - m_t) k_s . q_t              for s <= t, else 0
    C_t q_t = exp(F_t0 + m_0 - m_t) C_0 q_t + sum_s S_ts v_s;  n_t . q_t likewise, with 1 for v_s
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rnnlab.cells.base import Array, Carry, Params, gates
from rnnlab.cells.mlstm import least
from rnnlab.recurrence.product import product

CHUNK = 32  # the most steps of a chunk; the fastest of 16, 32 and 64
SMALL = 16  # width d of a head, below which the scan is used


def pays(carry: Carry, steps: int) -> bool:
  """Whether this is faster than scanning the step from `carry`, for any number of steps.

  Values and gradients, measured alternately on a CPU that had other work: with 64 units as one head
  and 32 rows of 200 steps it was 16 times as fast, as four heads 1.6 times, and with 16 units as
  four heads and 8 rows of 50 steps 0.6 times.
  """
  return carry.c.shape[-1] >= SMALL


def scan(
  params: Params,
  carry: Carry,
  xs: Array,
  *,
  real: Array | None = None,
  masks: Sequence[Array | None] | None = None,
  reverse: bool = False,
  dtype: Any = None,
  resets: None = None,
  every: bool = False,
) -> tuple[Carry, Array]:
  """What `engine.scan` computes of the step of `cells.mlstm`, with the same arguments.

  T must not be 0. Resets and intermediate carries are not supported: they must be None and False.
  """
  given = [*masks] if masks else [None, None]
  steps, batch, _ = xs.shape
  heads, width = carry.n.shape[1:]
  *qkv, o = gates(product(params['w_x'], xs, given[0], dtype) + params['b'], 4)
  i, f = gates(product(params['w_g'], xs, given[1], dtype) + params['b_g'], 2)
  f = jax.nn.log_sigmoid(f)
  if real is not None:  # a padded step writes nothing and forgets nothing
    i, f = jnp.where(real[..., None], i, -jnp.inf), jnp.where(real[..., None], f, 0)
  # At least two chunks, as XLA inlines a single one: with many rows and a memory known to be 0, its
  # products then become one kernel on a CPU, whose results are wrong (jaxlib 0.10.2).
  count = max(2, -(-steps // CHUNK))
  size = -(-steps // count)

  def cut(a, value=0.0):
    """`[T, B, heads, ...]` as `[chunks, B, heads, C, ...]`, in the order of computation."""
    a = a[::-1] if reverse else a
    more = [(0, count * size - steps)] + [(0, 0)] * (a.ndim - 1)
    a = jnp.pad(a, more, constant_values=value).reshape(count, size, *a.shape[1:])
    return jnp.moveaxis(a, 1, 3)

  q, k, v = (cut(a.reshape(steps, batch, heads, width)) for a in qkv)
  chunks = q, k / math.sqrt(width), v, cut(i, -jnp.inf), cut(f)
  carry, hs = jax.lax.scan(_chunk, carry, chunks)
  hs = jnp.moveaxis(hs, 3, 1).reshape(count * size, batch, heads * width)[:steps]
  ys = jax.nn.sigmoid(o) * (hs[::-1] if reverse else hs)
  return carry, ys if real is None else jnp.where(real[..., None], ys, 0)


def _chunk(carry, chunk):
  """The carry after a chunk, and h `[B, heads, C, d]`; q, k, v are shaped alike, i, f less d."""
  c, n, m = carry
  q, k, v, i, f = chunk
  ends = jnp.tri(f.shape[-1], dtype=bool)  # [t, s]: s <= t
  later = ends & ~jnp.eye(f.shape[-1], dtype=bool)
  # F_ts is summed separately for each s: a difference of two sums would lose small terms.
  of_s = jnp.where(later, f[..., :, None], 0)
  sums = jnp.einsum('tu,bhus->bhts', ends.astype(f.dtype), of_s, precision='highest')
  log_d = jnp.where(ends, sums + i[..., None, :], -jnp.inf)
  before = sums[..., 0] + f[..., :1] + m[..., None]
  m = jnp.maximum(before, log_d.max(axis=-1))
  d, kept = jnp.exp(log_d - m[..., None]), jnp.exp(before - m)
  scores = jnp.einsum('bhtk,bhsk->bhts', q, k) * d
  read = jnp.einsum('bhts,bhsv->bhtv', scores, v)
  read += kept[..., None] * jnp.einsum('bhvk,bhtk->bhtv', c, q)
  total = scores.sum(axis=-1) + kept * jnp.einsum('bhk,bhtk->bht', n, q)
  h = read / jnp.maximum(jnp.abs(total), least(m))[..., None]
  d, kept, m = d[..., -1, :], kept[..., -1], m[..., -1]
  c = kept[..., None, None] * c + jnp.einsum('bhs,bhsv,bhsk->bhvk', d, v, k)
  n = kept[..., None] * n + jnp.einsum('bhs,bhsk->bhk', d, k)
  return type(carry)(c, n, m), h
