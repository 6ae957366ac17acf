"""Copy memory (Hochreiter & Schmidhuber 1997; in the form of Arjovsky et al. 2016), or with noise.

Some symbols are followed by a delay of blanks, whose last step is a marker instead, and then by
blanks at which the symbols are to be given in their order. With noise, a share of the blanks of the
delay is replaced by random symbols, which are to be ignored.

Only the steps at which symbols are due count. Arjovsky et al. take the mean over all steps, with a
blank due at the others: their loss of a network without memory is the one here times the share of
steps that count, that is count ln(symbols) / (delay + 2 count).
"""

from typing import Any

from rnnlab.data.problems.base import Baseline, Number, Problem, Sizes


def draw(key: Any, n: int, fields: Any) -> dict[str, Any]:
  """n examples of delay + 2 count steps: ids 1 to symbols, the blank and the marker after them."""
  import jax
  import jax.numpy as jnp

  items_key, noise_key, where_key = jax.random.split(key, 3)
  count, delay, symbols = fields.count, fields.delay, fields.symbols
  blank, marker = symbols + 1, symbols + 2
  given = jax.random.randint(items_key, (n, count), 0, symbols)
  noise = jax.random.randint(noise_key, (n, delay - 1), 1, blank)
  noisy = jax.random.bernoulli(where_key, fields.noise, (n, delay - 1))
  parts = (
    given + 1,
    jnp.where(noisy, noise, blank),
    jnp.full((n, 1), marker),
    jnp.full((n, count), blank),
  )
  due = jnp.arange(delay + 2 * count) >= delay + count
  return {
    'inputs': jnp.concatenate(parts, axis=1),
    'targets': jnp.pad(given, ((0, 0), (delay + count, 0))),
    'mask': jnp.broadcast_to(due, (n, delay + 2 * count)),
  }


problem = Problem(
  title='copy memory (Hochreiter & Schmidhuber 1997, Arjovsky et al. 2016)',
  kind='classes',
  draw=draw,
  sizes=lambda fields: Sizes(symbols=fields.symbols + 2, outputs=fields.symbols),
  fields={
    'delay': Number(100, 1, 1_000_000, 'steps between the symbols and when they are due'),
    'count': Number(10, 1, 10_000, 'how many symbols are to be remembered'),
    'symbols': Number(8, 2, 1_000_000, 'how many different symbols there are'),
    'noise': Number(0.0, 0.0, 1.0, 'the share of blanks in the delay that are symbols'),
  },
  baseline=lambda fields: Baseline('accuracy', 1 / fields.symbols, 'any symbol at random'),
)
