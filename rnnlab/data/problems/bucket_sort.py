"""Bucket sort (Deletang et al. 2023): a string of few different symbols is to be sorted.

The string is followed by a marker and then blanks, so that from the marker on there are as many
steps as symbols; at these the symbols are to be given in ascending order.
"""

from typing import Any

from rnnlab.data.problems.base import (
  Baseline,
  Number,
  Problem,
  Sizes,
  check_lengths,
  drawn_lengths,
  lengths,
)


def draw(key: Any, n: int, fields: Any) -> dict[str, Any]:
  """n examples of up to 2 length steps: ids 1 to symbols, the blank and the marker after them."""
  import jax
  import jax.numpy as jnp

  lengths_key, symbols_key = jax.random.split(key)
  length, symbols = fields.length, fields.symbols
  lengths = drawn_lengths(lengths_key, n, fields)
  drawn = jax.random.randint(symbols_key, (n, length), 0, symbols)
  # Positions beyond a string's end sort to the end.
  ordered = jnp.sort(jnp.where(jnp.arange(length) < lengths, drawn, symbols), axis=1)
  steps = jnp.arange(2 * length)
  mask = (steps >= lengths) & (steps < 2 * lengths)
  after = jnp.where(steps == lengths, symbols + 2, jnp.where(mask, symbols + 1, 0))
  ids = jnp.where(steps < lengths, jnp.pad(drawn + 1, ((0, 0), (0, length))), after)
  due = jnp.take_along_axis(ordered, jnp.clip(steps - lengths, 0, length - 1), axis=1)
  return {'inputs': ids, 'targets': jnp.where(mask, due, 0), 'mask': mask}


problem = Problem(
  title='bucket sort (Deletang et al. 2023)',
  kind='classes',
  draw=draw,
  sizes=lambda fields: Sizes(symbols=fields.symbols + 2, outputs=fields.symbols),
  fields={
    **lengths(20),
    'symbols': Number(5, 2, 1_000_000, 'how many different symbols there are'),
  },
  baseline=lambda fields: Baseline('accuracy', 1 / fields.symbols, 'any symbol at random'),
  check=check_lengths,
)
