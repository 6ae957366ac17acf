"""The forward pass of a trained classifier over batches of token ids, and its gradient."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rnnlab.data import batching

ROWS = 64  # in a batch, or fewer, so that a batch has no more ids than
IDS = 2**16
NARROWEST = (
  32  # the fewest columns to which a batch of masked ids is trimmed, unless max_len is less
)


def batches(
  data: ConfigDict, sequences: Sequence[Sequence[int]]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Cuts sequences into padded batches of few shapes.

  How many rows and columns a sequence's batch has depends on that sequence alone, and so its
  probability does, to the bit.

  data: the data part of a run's config: max_len, mask, padding, truncation.
  sequences: token ids.

  Yields ids int32 `[B, T]`, and the index in `sequences` of each of the first rows, int `[n]`; the
  rows after these pad the batch.
  """
  widths = _widths(data)
  needed = np.searchsorted(widths, [min(len(ids), data.max_len) for ids in sequences])
  for i, width in enumerate(widths):
    rows = max(1, min(ROWS, IDS // width))
    places = np.flatnonzero(needed == i)
    for start in range(0, len(places), rows):
      here = places[start : start + rows]
      filled = [sequences[place] for place in here] + [[]] * (rows - len(here))
      yield batching.pad(filled, width, data.padding, data.truncation), here


def _widths(data):
  """The widths of batches, ascending: padding is cut only where the model does not see it."""
  widths = [data.max_len]
  while data.mask and widths[0] >= 2 * NARROWEST:
    widths.insert(0, -(-widths[0] // 2))
  return widths


def portable(model: nn.Module) -> nn.Module:
  """The same function without the kernels of a CPU or a GPU and without what only training needs.

  It is quick to compile, exports as nothing but StableHLO, and its gradients are not truncated.
  """
  return model.clone(cell=model.cell._replace(fused=None), remat=False, truncate=None)


def probabilities(model: nn.Module, params: Any, ids: jax.Array) -> jax.Array:
  """The probability of the positive class for each row of `ids` int32 `[B, T]`, float32 `[B]`."""
  logits: Any = portable(model).apply({'params': params}, ids)
  return jax.nn.sigmoid(logits)


compiled = functools.partial(jax.jit, static_argnums=0)(probabilities)


@functools.partial(jax.jit, static_argnums=0)
def gradient_times_input(model: nn.Module, params: Any, ids: jax.Array) -> jax.Array:
  """How much each step moves the logit, to first order.

  A step's embedding times the gradient of the logit with respect to it (Shrikumar et al. 2016),
  summed over the embedding's features.

  ids: one text, int32 `[T]`.

  Returns float32 `[T]`.
  """
  steps = len(ids)
  table = params['Embed_0']['embedding']
  # Each step looks up an embedding of its own, in a table of this text's steps.
  model = portable(model).clone(vocab_size=steps + 1)
  places = jnp.where(ids != 0, jnp.arange(1, steps + 1), 0)

  def logit(xs):
    own = {'Embed_0': {'embedding': jnp.concatenate([table[:1], xs])}}
    return model.apply({'params': params | own}, places[None])[0]

  xs = table[ids]
  return (jax.grad(logit)(xs) * xs).sum(axis=-1)
