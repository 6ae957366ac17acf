"""Parity of a string of bits (Deletang et al. 2023): whether the number of its 1s is odd."""

from typing import Any

from rnnlab.data.problems.base import (
  Baseline,
  Problem,
  Sizes,
  check_lengths,
  drawn_lengths,
  lengths,
)


def bits(key: Any, n: int, fields: Any) -> tuple[Any, Any]:
  """n strings of fair bits, int32 `[n, T]`, 0 beyond the end, and their lengths, int32 `[n, 1]`."""
  import jax
  import jax.numpy as jnp

  lengths_key, bits_key = jax.random.split(key)
  lengths = drawn_lengths(lengths_key, n, fields)
  drawn = jax.random.bernoulli(bits_key, shape=(n, fields.length))
  return drawn.astype(jnp.int32) * (jnp.arange(fields.length) < lengths), lengths


def ids(bits: Any, lengths: Any) -> Any:
  """The ids of bits: 1 for a 0, 2 for a 1, and 0 beyond the lengths."""
  import jax.numpy as jnp

  return (bits + 1) * (jnp.arange(bits.shape[1]) < lengths)


def draw(key: Any, n: int, fields: Any) -> dict[str, Any]:
  """n examples: inputs, ids int32 `[n, T]`, targets int32 `[n]`, 1 where odd."""
  drawn, lengths = bits(key, n, fields)
  return {'inputs': ids(drawn, lengths), 'targets': drawn.sum(axis=1) % 2}


problem = Problem(
  title='parity (Deletang et al. 2023)',
  kind='class',
  draw=draw,
  sizes=lambda fields: Sizes(symbols=2, outputs=2),
  fields=lengths(40),
  baseline=lambda fields: Baseline('accuracy', 1 / 2, 'tossing a coin'),
  check=check_lengths,
)
