"""Retrieval of values by their keys (after Schlag et al. 2021, section 6.1).

Each step of the first half gives a key and its value, all keys different. Each step of the second
half gives one of these keys again, in random order, and asks for its value; in the paper, only one
key is asked for, at the last step. Key and value are one-hot, side by side: unlike in
`associative_recall`, nothing has to be bound to its neighbour.
"""

from typing import Any

from rnnlab.data.problems.base import Baseline, Number, Problem, Sizes


def draw(key: Any, n: int, fields: Any) -> dict[str, Any]:
  """n examples: inputs float32 `[n, 2 pairs, 2 symbols]`, the key and the value, or zeros."""
  import jax
  import jax.numpy as jnp

  keys_key, values_key, order_key = jax.random.split(key, 3)
  pairs, symbols = fields.pairs, fields.symbols
  # The first of a random order of all keys.
  keys = jnp.argsort(jax.random.uniform(keys_key, (n, symbols)), axis=1)[:, :pairs]
  values = jax.random.randint(values_key, (n, pairs), 0, symbols)
  order = jnp.argsort(jax.random.uniform(order_key, (n, pairs)), axis=1)
  asked, answers = (jnp.take_along_axis(a, order, axis=1) for a in (keys, values))
  given = jnp.concatenate([jax.nn.one_hot(a, symbols) for a in (keys, values)], axis=-1)
  queries = jnp.pad(jax.nn.one_hot(asked, symbols), ((0, 0), (0, 0), (0, symbols)))
  return {
    'inputs': jnp.concatenate([given, queries], axis=1),
    'targets': jnp.concatenate([jnp.zeros_like(answers), answers], axis=1),
    'mask': jnp.broadcast_to(jnp.arange(2 * pairs) >= pairs, (n, 2 * pairs)),
  }


def check(fields: Any) -> None:
  """Raises ValueError if there are too few keys."""
  if fields.pairs > fields.symbols:
    raise ValueError(
      f'--config.data.pairs={fields.pairs}: must be at most the number of keys, data.symbols,'
      f' {fields.symbols}, as all keys are different'
    )


problem = Problem(
  title='retrieval of values by their keys (Schlag et al. 2021)',
  kind='classes',
  draw=draw,
  sizes=lambda fields: Sizes(symbols=0, outputs=fields.symbols),
  fields={
    'pairs': Number(8, 1, 10_000, 'of a key and its value'),
    'symbols': Number(16, 2, 1_000_000, 'how many different keys there are, and values'),
  },
  baseline=lambda fields: Baseline('accuracy', 1 / fields.symbols, 'any value at random'),
  check=check,
)
