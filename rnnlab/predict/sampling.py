"""Sampling: drawing a language model's next token from the probabilities that its logits give."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

COLDEST = 1e-30  # leaves only the most likely token, and is still a float32


class Sampling(NamedTuple):
  """How the next token is drawn. Each restriction applies to what the earlier ones leave.

  temperature: logits are divided by it. 0: the most likely token is taken without a draw.
  top_k: only this many of the most likely tokens may be drawn; 0: all.
  top_p: only the fewest tokens, most likely first, whose probabilities sum to at least this may be
    drawn (nucleus sampling: Holtzman et al. 2020); 1: all.
  never: ids of tokens that are never drawn.
  """

  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0
  never: tuple[int, ...] = ()


def check(sampling: Sampling) -> Sampling:
  """Returns `sampling`. Raises ValueError, for people, for numbers out of range."""
  temperature, top_k, top_p, _ = sampling
  if not 0 <= temperature < float('inf'):
    raise ValueError(f'temperature={temperature}: it must be 0 (the most likely token) or more')
  if top_k != int(top_k) or top_k < 0:
    raise ValueError(f'top_k={top_k}: it must be a whole number of tokens, or 0 for all')
  if not 0 < top_p <= 1:
    raise ValueError(f'top_p={top_p}: it must be a probability above 0; 1 allows all tokens')
  return sampling


def keys(seed: int, samples: int) -> jax.Array:
  """The key of each sample, `[samples]`, which depends only on the seed and its number."""
  return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(samples))


def at(keys: jax.Array, place: int | jax.Array) -> jax.Array:
  """The keys of samples for the token at `place`, after so many others: `[samples]`."""
  return jax.vmap(jax.random.fold_in, (0, None))(keys, place)


def next_token(key: jax.Array, logits: jax.Array, sampling: Sampling) -> jax.Array:
  """Draws a token for each row of logits, with a key for each row.

  key: JAX keys `[B]`. logits: float32 `[B, V]`. Of equal logits, the lower id counts as more
  likely. Returns ids, int32 `[B]`.
  """
  if sampling.never:
    logits = logits.at[:, jnp.array(sampling.never)].set(-jnp.inf)
  if sampling.temperature == 0:
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)
  # The greatest logit becomes 0, which stays finite at any temperature.
  logits = (logits - logits.max(axis=-1, keepdims=True)) / max(sampling.temperature, COLDEST)
  draw = jax.vmap(jax.random.categorical)
  if not sampling.top_k and sampling.top_p == 1:
    return draw(key, logits).astype(jnp.int32)
  size = logits.shape[-1]
  falling, ids = jax.lax.top_k(logits, min(sampling.top_k or size, size))
  if sampling.top_p < 1:
    p = jax.nn.softmax(falling)
    before = jnp.cumsum(p, axis=-1) - p  # the probability of all more likely tokens
    falling = jnp.where(before < sampling.top_p, falling, -jnp.inf)
  place = draw(key, falling)
  return jnp.take_along_axis(ids, place[:, None], axis=-1)[:, 0].astype(jnp.int32)
