"""Multi-query associative recall (Arora et al. 2023, "Zoology", as their code draws it).

The string begins with pairs of a key and its value, all keys different. Symbols without meaning
follow, drawn from all, keys included; at one place for each key, an even number of steps after the
pairs, it stands once more, and there its value is to be given. A key tends to occur again soon: the
x-th even step, counted from 1, has the weight x^(power - 1), and no step is taken twice. Only the
steps at which a value is due count.
"""

from typing import Any

from rnnlab.data.problems.base import Baseline, Number, Problem, Sizes


def draw(key: Any, n: int, fields: Any) -> dict[str, Any]:
  """n examples: the first half of the ids 1 to symbols are keys, the second half values."""
  import jax
  import jax.numpy as jnp

  keys_key, values_key, places_key, others_key = jax.random.split(key, 4)
  pairs, length, half = fields.pairs, fields.length, fields.symbols // 2
  # The first of a random order of all keys.
  keys = jnp.argsort(jax.random.uniform(keys_key, (n, half)), axis=1)[:, :pairs]
  values = jax.random.randint(values_key, (n, pairs), 0, half)
  places = (length - 2 * pairs) // 2
  # The greatest log weights with Gumbel noise are a draw by these weights without replacement.
  weights = (fields.power - 1) * jnp.log(jnp.arange(1.0, places + 1))
  _, taken = jax.lax.top_k(weights + jax.random.gumbel(places_key, (n, places)), pairs)
  steps = 2 * (pairs + taken)
  rows = jnp.arange(n)[:, None]
  ids = jax.random.randint(others_key, (n, length), 1, fields.symbols + 1)
  given = jnp.stack([1 + keys, 1 + half + values], axis=-1).reshape(n, 2 * pairs)
  ids = ids.at[:, : 2 * pairs].set(given).at[rows, steps].set(1 + keys)
  return {
    'inputs': ids,
    'targets': jnp.zeros_like(ids).at[rows, steps].set(values),
    'mask': jnp.zeros(ids.shape, bool).at[rows, steps].set(True),
  }


def check(fields: Any) -> None:
  """Raises ValueError if there are too few keys, or too few places for them."""
  if 2 * fields.pairs > fields.symbols:
    raise ValueError(
      f'--config.data.pairs={fields.pairs}: must be at most half of the {fields.symbols} symbols,'
      ' as all keys are different'
    )
  if 4 * fields.pairs > fields.length:
    raise ValueError(
      f'--config.data.pairs={fields.pairs}: needs a length of at least {4 * fields.pairs} steps,'
      f' but it is {fields.length}'
    )


problem = Problem(
  title='multi-query associative recall (Arora et al. 2023)',
  kind='classes',
  draw=draw,
  sizes=lambda fields: Sizes(symbols=fields.symbols, outputs=fields.symbols // 2),
  fields={
    'length': Number(64, 4, 1_000_000, 'steps'),
    'pairs': Number(4, 1, 10_000, 'of a key and its value'),
    'symbols': Number(64, 4, 1_000_000, 'how many different symbols there are, half of them keys'),
    'power': Number(0.01, 0.0, 10.0, 'how evenly the places of keys are drawn; 1: evenly'),
  },
  baseline=lambda fields: Baseline('accuracy', 1 / (fields.symbols // 2), 'any value at random'),
  check=check,
)
