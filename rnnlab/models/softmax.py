"""The likelihood of tokens of a large vocabulary, a chunk of rows at a time to bound memory.

N rows, H features, V tokens; the weights are `[H, V]`. If the number of devices of a mesh divides
V, the logits are split by token: each device holds those of its own tokens, and for each row the
devices combine the greatest logit, the sum of exponentials, the target's logit, and the gradient
with respect to the features.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from rnnlab import recurrence
from rnnlab.cells.base import Array
from rnnlab.recurrence import checks

CHUNK = 2**22  # logits at once, on each device
PARTS = 4  # a chunk of `real_nll` has about 1 / PARTS of the rows at most: it skips whole chunks


def nll(hs: Array, targets: Array, w: Array, b: Array, tied: bool = False) -> Array:
  """Negative log-likelihoods in nats, float32 `[N]`.

  hs: `[N, H]`, float32 or bfloat16. targets: int `[N]`, ids below V. w: `[H, V]`. b: `[V]`. tied:
  whether w is the transpose of an array that is stored as `[V, H]`, such as an embedding; this
  affects only the speed. Raises ValueError for targets that are not ids below V; if the targets are
  traced, gives NaN for these instead.
  """
  targets = checks.ids(targets, len(b), 'targets')

  def one(_, rows):
    return (), likelihood(*rows, w, b, tied)[0]

  return _in_chunks(one, (), (hs, targets), len(b))[1]


def total_nll(
  hs: Array, targets: Array, weights: Array, w: Array, b: Array, tied: bool = False
) -> tuple[Array, Array]:
  """The sum of weights `[N]` times `nll`, and `nll` itself, through which no gradient flows.

  The gradient with respect to hs, w and b is computed together with the value, so that only one
  chunk of logits exists at a time, and none is computed twice. There is no gradient with respect to
  the weights `[N]`, and no second derivative: for these, differentiate `nll` itself.
  """
  targets = checks.ids(targets, len(b), 'targets')
  return _total(tied, hs, w, b, targets, jax.lax.stop_gradient(weights))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _total(tied, hs, w, b, targets, weights):
  found = nll(hs, targets, w, b, tied)
  return jnp.sum(weights * found), found


def _forward(tied, hs, w, b, targets, weights):
  def one(sums, rows):
    h, target, weight = rows
    found, d = likelihood(h, target, w, b, tied)
    d = d * weight[:, None]
    d_w, d_b = sums
    d_w += jax.lax.dot_general(h, d, (((0,), (0,)), ((), ())), preferred_element_type=w.dtype)
    return (d_w, d_b + d.sum(axis=0)), (found, (d @ w.T).astype(h.dtype))

  zeros = jnp.zeros_like(w), jnp.zeros_like(b)
  (d_w, d_b), (found, d_hs) = _in_chunks(one, zeros, (hs, targets, weights), len(b))
  return (jnp.sum(weights * found), found), (d_hs, d_w, d_b)


def _backward(tied, saved, given):
  return *(given[0].astype(part.dtype) * part for part in saved), None, None


_total.defvjp(_forward, _backward)


def real_nll(
  hs: Array,
  targets: Array,
  real: Array,
  w: Array,
  b: Array,
  tied: bool = False,
  smoothing: Any = 0.0,
) -> tuple[Array, Array]:
  """`nll` of the real rows, and the same with label smoothing: two arrays, float32 `[N]`.

  real: bool `[N]`; other rows get 0, and their logits are not computed, except for rows that fill
  up the last chunk. smoothing: the share of the target distribution that is spread evenly over the
  vocabulary (Szegedy et al. 2016).

  Only the second array has a gradient. It is computed together with the value, as in `total_nll`,
  on the assumption that all real rows have the same weight in the loss; if the backward pass finds
  that they do not, their logits are computed a second time. There is no second derivative.
  """
  targets = checks.ids(targets, len(b), 'targets')
  given = None if recurrence.is_off(smoothing) else smoothing
  return _real(tied, _whole(hs), w, b, targets, real, given)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _real(tied, hs, w, b, targets, real, smoothing):
  return _fold(tied, hs, w, b, targets, real.astype(jnp.float32), smoothing, None)[0]


def _real_forward(tied, hs, w, b, targets, real, smoothing):
  zeros = [jnp.zeros_like(a) for a in (hs, w, b)]
  given = hs, w, b, targets
  found, grads = _fold(tied, *given, real.astype(jnp.float32), smoothing, zeros)
  return found, (given, real, smoothing, grads)


def _real_backward(tied, saved, d_found):
  given, real, smoothing, grads = saved
  weights = d_found[1]
  first = weights[jnp.argmax(real)]
  equal = (jnp.where(real, weights, first) == first).all()
  # If all weights are equal, the saved gradients only need this factor: no row is recomputed.
  grads = [jnp.where(equal, first, 0).astype(a.dtype) * a for a in grads]
  weights = jnp.where(real & ~equal, weights, 0)
  _, grads = _fold(tied, *given, weights, smoothing, grads)
  return *grads, None, None, None


_real.defvjp(_real_forward, _real_backward)


def _fold(tied, hs, w, b, targets, weights, smoothing, grads):
  """The two arrays of `real_nll`, 0 for rows of weight 0, and the updated `grads`.

  grads: arrays like hs, w and b, to which the gradient of the weighted sum of the second array is
  added; None if no gradient is wanted.
  """
  size, count = len(b), jnp.sum(weights != 0)
  many = max(1, min(-(-len(hs) // PARTS), _parts(size) * CHUNK // size))
  order = jnp.argsort(weights == 0)  # which is stable
  order = jnp.pad(order, (0, -len(hs) % many), constant_values=len(hs))
  mean_w, mean_b = w.mean(axis=1), b.mean()

  def one(i, sums):
    rows = jax.lax.dynamic_slice_in_dim(order, i * many, many)
    h, target, weight = (a.at[rows].get(mode='fill', fill_value=0) for a in (hs, targets, weights))
    found, d = likelihood(h, target, w, b, tied)
    smoothed = found
    if smoothing is not None:
      # The mean of -log p over the vocabulary, minus -log p of the target; log-sum-exp cancels.
      of_target = w.T.at[target].get(mode='clip') - mean_w
      more = (h * of_target).sum(axis=1, dtype=jnp.float32) + b[target] - mean_b
      smoothed = found + smoothing * more
      d += smoothing * ((jnp.arange(size) == target[:, None]) - 1 / size)
    values, grads = sums
    values = tuple(
      a.at[rows].set(jnp.where(weight == 0, 0, new), mode='drop')
      for a, new in zip(values, (found, smoothed), strict=True)
    )
    if grads is None:
      return values, None
    d *= weight[:, None]
    d_hs, d_w, d_b = grads
    d_hs = d_hs.at[rows].add((d @ w.T).astype(hs.dtype), mode='drop')
    d_w += jax.lax.dot_general(h, d, (((0,), (0,)), ((), ())), preferred_element_type=w.dtype)
    return values, [d_hs, d_w, d_b + d.sum(axis=0)]

  start = (jnp.zeros(len(hs)),) * 2, grads
  return jax.lax.fori_loop(0, -(-count // many), one, start)


def _whole(rows):
  """The rows, copied to every device of a mesh, since a chunk may take any of them."""
  if 'batch' not in jax.sharding.get_abstract_mesh().auto_axes:
    return rows
  return jax.lax.with_sharding_constraint(rows, P())


def likelihood(
  hs: Array, targets: Array, w: Array, b: Array, tied: bool = False
) -> tuple[Array, Array]:
  """The negative log-likelihoods `[N]`, as `nll`, computed at once.

  Also their gradients with respect to the logits, `[N, V]`.
  """
  # On a CPU, XLA's product takes up to 50% longer if the features are the last axis in memory of
  # hs but not of w; untied, hs is therefore transposed in memory first.
  columns = hs.T if tied else jax.lax.optimization_barrier(hs.T)
  logits = jnp.einsum('hn,hv->nv', columns, w, preferred_element_type=jnp.float32) + b
  logits = _split(logits)
  highest = logits.max(axis=1, keepdims=True)
  exps = jnp.exp(logits - highest)
  total = exps.sum(axis=1, keepdims=True)
  # Picked by index, not by comparing all ids, which would be one more pass through the logits. An
  # index below 0 would count from the end; one beyond the end gives NaN.
  at = jnp.where(targets < 0, len(b), targets)[:, None]
  picked = jnp.take_along_axis(logits, at, axis=1, mode='fill')
  found = jnp.log(total) + highest - picked
  return found[:, 0], _split(exps * (1 / total) - (jnp.arange(len(b)) == at))


def _split(logits):
  """Logits `[N, V]`, split so that each device has those of some tokens."""
  if _parts(logits.shape[1]) == 1:
    return logits
  return jax.lax.with_sharding_constraint(logits, P(None, 'batch'))


def _parts(size):
  """Over how many devices V = `size` tokens are split: all of a mesh if they divide V, else 1."""
  mesh = jax.sharding.get_abstract_mesh()
  many = mesh.shape['batch'] if 'batch' in mesh.auto_axes else 1
  return 1 if size % many else many


def _in_chunks(function: Callable, start: Any, rows: tuple, size: int) -> tuple[Any, Any]:
  """Like `lax.scan` over rows, but `function` takes a chunk of them at a time, not one.

  A chunk has at most CHUNK logits on each device that shares them, but at least a row. size: V.
  """
  count = len(rows[0])
  parts = -(-count // max(1, _parts(size) * CHUNK // size))
  # Equal chunks, even if up to a third more: a smaller last one would need buffers of its own.
  parts = next((p for p in range(parts, parts * 4 // 3 + 1) if count % p == 0), parts)
  many = -(-count // parts)
  whole = count - count % many
  if whole == count == many:
    return function(start, rows)
  first = jax.tree.map(lambda a: a[:whole].reshape(-1, many, *a.shape[1:]), rows)
  carry, out = jax.lax.scan(function, start, first)
  out = jax.tree.map(lambda a: a.reshape(whole, *a.shape[2:]), out)
  if whole < count:
    carry, last = function(carry, jax.tree.map(lambda a: a[whole:], rows))
    out = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), out, last)
  return carry, out
