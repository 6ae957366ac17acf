"""Adaptive softmax: the logits of rare tokens are computed only for the rows that need them.

The head has the frequent tokens and an entry for each cluster of rare ones; the rarer the tokens of
a cluster, the fewer features it uses (Grave et al. 2017). Ids are ranks by frequency, so a cluster
is a range of ids:

    p(t) = p_head(t)                            for the frequent tokens
    p(t) = p_head(cluster of t) * p_cluster(t)  for the others

N rows, H features, V tokens. All functions are exact: for each cluster, as many blocks of rows are
computed as it takes to hold all rows with a target in it.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rnnlab.cells.base import Array
from rnnlab.models import softmax
from rnnlab.recurrence import checks

SHARES = 0.04, 0.2  # of the vocabulary, where the head and the first cluster end
DIVISOR = 4  # of the number of features, from one cluster to the next
BLOCK = 8  # blocks that the rows are split into; a cluster computes one at a time


def cutoffs(vocab_size: int) -> tuple[int, ...]:
  """The first id of each cluster, then V.

  >>> from rnnlab.models import adaptive
  >>> adaptive.cutoffs(50_000)
  (2000, 10000, 50000)
  """
  first = sorted({max(1, round(share * vocab_size)) for share in SHARES})
  return *(cut for cut in first if cut < vocab_size), vocab_size


def init(key: Array, kernel_init: Callable, features: int, vocab_size: int) -> dict[str, Array]:
  """Draws the parameters, a dict of arrays of JAX's float dtype.

  They are head `[H, F + clusters]` for F frequent tokens, bias, and, for each cluster, from 1,
  down_1 `[H, H / 4]` and out_1 `[H / 4, its tokens]`, down_2 `[H, H / 16]`, and so on.
  kernel_init: `(key, shape) -> array`.
  """
  cuts = cutoffs(vocab_size)
  keys = jax.random.split(key, 2 * len(cuts))
  head = cuts[0] + len(cuts) - 1
  params = {'head': kernel_init(keys[0], (features, head)), 'bias': jnp.zeros(head)}
  for i, (first, end) in enumerate(zip(cuts, cuts[1:], strict=False), 1):
    size = max(1, features // DIVISOR**i)
    params[f'down_{i}'] = kernel_init(keys[2 * i], (features, size))
    params[f'out_{i}'] = kernel_init(keys[2 * i + 1], (size, end - first))
  return params


def nll(hs: Array, targets: Array, params: dict[str, Array], vocab_size: int) -> Array:
  """Negative log-likelihoods in nats, float32 `[N]`. hs: `[N, H]`. targets: int `[N]`.

  Raises ValueError for targets that are not ids below V; if they are traced, gives NaN for them.
  """
  targets, cuts = checks.ids(targets, vocab_size, 'targets'), cutoffs(vocab_size)
  found = softmax.nll(hs, _of_head(targets, cuts), params['head'], params['bias'])
  for i in range(1, len(cuts)):

    def block(found, rows, h, target, real, i=i):
      more, _ = _of_cluster(h, target, params, i)
      return found.at[rows].add(jnp.where(real, more, 0), mode='drop')

    found = _over_blocks(block, found, hs, targets, cuts[i - 1], cuts[i])
  return found


def total_nll(
  hs: Array, targets: Array, weights: Array, params: dict[str, Array], vocab_size: int
) -> tuple[Array, Array]:
  """The sum of weights `[N]` times `nll`, and `nll` without a gradient; as `softmax.total_nll`."""
  targets = checks.ids(targets, vocab_size, 'targets')
  return _total(vocab_size, hs, params, targets, jax.lax.stop_gradient(weights))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _total(vocab_size, hs, params, targets, weights):
  found = nll(hs, targets, params, vocab_size)
  return jnp.sum(weights * found), found


def _forward(vocab_size, hs, params, targets, weights):
  cuts = cutoffs(vocab_size)

  def of_head(hs, w, b):
    return softmax.total_nll(hs, _of_head(targets, cuts), weights, w, b)

  _, pull, found = jax.vjp(of_head, hs, params['head'], params['bias'], has_aux=True)
  d_hs, d_head, d_bias = pull(jnp.ones(()))
  d_params = jax.tree.map(jnp.zeros_like, params) | {'head': d_head, 'bias': d_bias}
  for i in range(1, len(cuts)):

    def block(sums, rows, h, target, real, i=i):
      found, d_hs, d_down, d_out = sums
      more, d = _of_cluster(h, target, params, i)
      d *= jnp.where(real, weights.at[rows].get(mode='fill', fill_value=0), 0)[:, None]
      down, out = params[f'down_{i}'], params[f'out_{i}']
      d_small = d @ out.T
      return (
        found.at[rows].add(jnp.where(real, more, 0), mode='drop'),
        d_hs.at[rows].add((d_small @ down.T).astype(d_hs.dtype), mode='drop'),
        d_down + h.T @ d_small,
        d_out + (h @ down).T @ d,
      )

    names = f'down_{i}', f'out_{i}'
    sums = found, d_hs, *(d_params[name] for name in names)
    found, d_hs, *grads = _over_blocks(block, sums, hs, targets, cuts[i - 1], cuts[i])
    d_params |= dict(zip(names, grads, strict=True))
  return (jnp.sum(weights * found), found), (d_hs, d_params)


def _backward(vocab_size, saved, given):
  d_hs, d_params = jax.tree.map(lambda a: given[0].astype(a.dtype) * a, saved)
  return d_hs, d_params, None, None


_total.defvjp(_forward, _backward)


def log_probabilities(hs: Array, params: dict[str, Array], vocab_size: int) -> Array:
  """The logarithm of each token's probability, float32 `[..., V]`, from hs `[..., H]`."""
  cuts = cutoffs(vocab_size)
  head = jnp.matmul(hs, params['head'], preferred_element_type=jnp.float32) + params['bias']
  head = jax.nn.log_softmax(head)
  parts = [head[..., : cuts[0]]]
  for i in range(1, len(cuts)):
    logits = (hs @ params[f'down_{i}']) @ params[f'out_{i}']
    here = head[..., cuts[0] + i - 1, None]
    parts.append(here + jax.nn.log_softmax(logits.astype(jnp.float32)))
  return jnp.concatenate(parts, axis=-1)


def _of_head(targets, cuts):
  """The entry of the head for each target: its own, or its cluster's."""
  cluster = sum((targets >= cut).astype(targets.dtype) for cut in cuts)  # beyond V: no entry
  return jnp.where(cluster > 0, cuts[0] + cluster - 1, targets)


def _of_cluster(hs, targets, params, i):
  """The nll in cluster i and its gradient by the logits; targets count from the cluster's first."""
  out = params[f'out_{i}']
  return softmax.likelihood(hs @ params[f'down_{i}'], targets, out, jnp.zeros(out.shape[1]))


def _over_blocks(function: Callable, start: Any, hs, targets, first: int, end: int) -> Any:
  """Goes through the rows whose targets are from `first` to `end` - 1, a block at a time.

  function: `(carried, rows, hs, targets, real) -> carried`, for the numbers of rows `[R]`, their
  features, their targets counted from `first`, and which of the rows exist.
  """
  count = len(hs)
  many = -(-count // BLOCK)
  within = (targets >= first) & (targets < end)
  (places,) = jnp.nonzero(within, size=-(-count // many) * many, fill_value=count)
  blocks = (within.sum() + many - 1) // many

  def body(i, carried):
    rows = jax.lax.dynamic_slice_in_dim(places, i * many, many)
    h = hs.at[rows].get(mode='fill', fill_value=0)
    target = targets.at[rows].get(mode='fill', fill_value=first) - first
    return function(carried, rows, h, target, rows < count)

  return jax.lax.fori_loop(0, blocks, body, start)
