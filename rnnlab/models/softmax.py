"""The likelihood of tokens of a large vocabulary, summed in chunks of rows."""

import jax
import jax.numpy as jnp

from rnnlab.cells.base import Array

CHUNK = 2**20  # logits at once


def nll(hs: Array, targets: Array, w: Array, b: Array | None = None) -> Array:
  """Negative log-likelihoods in nats, float32 `[N]`.

  hs: `[N, H]`. targets: int `[N]`, ids below V. w: `[V, H]`. b: `[V]` or None.
  """
  rows = max(1, CHUNK // len(w))
  parts = [_of(hs[i : i + rows], targets[i : i + rows], w, b) for i in range(0, len(hs), rows)]
  return jnp.concatenate(parts)


def _of(hs, targets, w, b):
  logits = jax.lax.dot_general(hs, w, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)
  logits = logits if b is None else logits + b
  picked = jnp.take_along_axis(logits, targets[:, None], axis=1)[:, 0]
  return jax.nn.logsumexp(logits, axis=1) - picked


def total_nll(
  hs: Array, targets: Array, weights: Array, w: Array, b: Array | None = None
) -> tuple[Array, Array]:
  """The sum of weights `[N]` times `nll`, and `nll` itself, which has no gradient."""
  found = nll(hs, targets, w, b)
  return jnp.sum(weights * found), jax.lax.stop_gradient(found)
