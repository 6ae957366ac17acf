"""The denoising task (Jing et al. 2019, "Gated orthogonal recurrent units", section 4.2).

Some symbols stand at random places in a string that is noise elsewhere, always the same id. A
marker follows, from which on the symbols are to be given in their order, without the noise. Only
the steps at which they are due count.
"""

from typing import Any

from rnnlab.data.problems.base import Baseline, Number, Problem, Sizes


def draw(key: Any, n: int, fields: Any) -> dict[str, Any]:
  """n examples of length + count steps: ids 1 to symbols, the noise and the marker after them."""
  import jax
  import jax.numpy as jnp

  items_key, places_key = jax.random.split(key)
  count, length, symbols = fields.count, fields.length, fields.symbols
  noise, marker = symbols + 1, symbols + 2
  given = jax.random.randint(items_key, (n, count), 0, symbols)
  # The first of a random order of all places.
  order = jnp.argsort(jax.random.uniform(places_key, (n, length)), axis=1)
  places = jnp.sort(order[:, :count], axis=1)
  ids = jnp.full((n, length + count), noise).at[:, length].set(marker)
  return {
    'inputs': ids.at[jnp.arange(n)[:, None], places].set(given + 1),
    'targets': jnp.pad(given, ((0, 0), (length, 0))),
    'mask': jnp.broadcast_to(jnp.arange(length + count) >= length, ids.shape),
  }


def check(fields: Any) -> None:
  """Raises ValueError if there are fewer places than symbols."""
  if fields.count > fields.length:
    raise ValueError(
      f'--config.data.count={fields.count}: must be at most the length, {fields.length}, as each'
      ' symbol has a place of its own'
    )


problem = Problem(
  title='denoising (Jing et al. 2019)',
  kind='classes',
  draw=draw,
  sizes=lambda fields: Sizes(symbols=fields.symbols + 2, outputs=fields.symbols),
  fields={
    'length': Number(100, 1, 1_000_000, 'steps before the marker'),
    'count': Number(10, 1, 10_000, 'how many symbols are to be remembered'),
    'symbols': Number(8, 2, 1_000_000, 'how many different symbols there are'),
  },
  baseline=lambda fields: Baseline('accuracy', 1 / fields.symbols, 'any symbol at random'),
  check=check,
)
