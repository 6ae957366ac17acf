"""What a language model says next: drawn from the probabilities that its logits give."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

COLDEST = 1e-30  # where only the likeliest token is left, and float32 still has it


class Sampling(NamedTuple):
  """How the next token is drawn. Each restriction is of what the ones before it leave.

  temperature: what logits are divided by. 0: the likeliest token is taken, and nothing drawn.
  top_k: only the so many likeliest tokens may be drawn; 0: all.
  top_p: only the fewest tokens, the likeliest first, whose probabilities sum to at least this
    (nucleus sampling: Holtzman et al. 2020); 1: all.
  never: ids of tokens that are not drawn at all, whatever else is asked for.
  """

  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0
  never: tuple[int, ...] = ()


def check(sampling: Sampling) -> Sampling:
  """The same. Raises ValueError, for people, for numbers out of range."""
  temperature, top_k, top_p, _ = sampling
  if not 0 <= temperature < float('inf'):
    raise ValueError(f'temperature={temperature}: it must be 0, for the likeliest token, or more')
  if top_k != int(top_k) or top_k < 0:
    raise ValueError(f'top_k={top_k}: it must be a whole number of tokens, or 0 for all')
  if not 0 < top_p <= 1:
    raise ValueError(f'top_p={top_p}: it must be a probability above 0, at most 1, for all tokens')
  return sampling


def keys(seed: int, samples: int) -> jax.Array:
  """The key of each sample, `[samples]`, by the seed and its number alone."""
  return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(samples))


def at(keys: jax.Array, place: int | jax.Array) -> jax.Array:
  """The keys of samples for the token that comes after so many others, `[samples]`."""
  return jax.vmap(jax.random.fold_in, (0, None))(keys, place)


def next_token(key: jax.Array, logits: jax.Array, sampling: Sampling) -> jax.Array:
  """Draws a token for each row of logits, by a key of its own.

  key: keys of JAX `[B]`. logits: float32 `[B, V]`. Of equal logits the lower id counts as likelier.
  Returns ids, int32 `[B]`.
  """
  if sampling.never:
    logits = logits.at[:, jnp.array(sampling.never)].set(-jnp.inf)
  if sampling.temperature == 0:
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)
  # The greatest is 0, so that it stays finite however low the temperature.
  logits = (logits - logits.max(axis=-1, keepdims=True)) / max(sampling.temperature, COLDEST)
  draw = jax.vmap(jax.random.categorical)
  if not sampling.top_k and sampling.top_p == 1:
    return draw(key, logits).astype(jnp.int32)
  size = logits.shape[-1]
  falling, ids = jax.lax.top_k(logits, min(sampling.top_k or size, size))
  if sampling.top_p < 1:
    p = jax.nn.softmax(falling)
    before = jnp.cumsum(p, axis=-1) - p  # the probability of all that are likelier
    falling = jnp.where(before < sampling.top_p, falling, -jnp.inf)
  place = draw(key, falling)
  return jnp.take_along_axis(ids, place[:, None], axis=-1)[:, 0].astype(jnp.int32)
