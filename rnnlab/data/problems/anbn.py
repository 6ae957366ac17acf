"""The language a^n b^n, by what may come next (Gers & Schmidhuber 2001).

The inputs are a start symbol and then the string. At each of these steps the set of symbols that
may come next is asked for: an a at the start, an a or a b after an a, then as many b as there were
a, and the end. Whoever is right at every step, for every n, has counted.
"""

from typing import Any

from rnnlab.data.problems.base import Number, Problem, Sizes, spread


def strings(sizes: Any, most: int, letters: int) -> dict[str, Any]:
  """Arrays of strings a^n b^n ... of this many letters. sizes: their n, int `[N]`, up to `most`.

  Ids: 1 the start, then the letters. Targets: the letters, then the end.
  """
  import jax
  import jax.numpy as jnp

  seen, size = jnp.arange(letters * most + 1), sizes[:, None]  # letters seen at each step
  mask = seen <= letters * size
  ids = jnp.where(seen == 0, 1, 2 + (seen - 1) // size)
  follows = jax.nn.one_hot(seen // size, letters + 1, dtype=bool)
  either = ((seen >= 1) & (seen <= size))[..., None] & (jnp.arange(letters + 1) < 2)
  return {
    'inputs': jnp.where(mask, ids, 0).astype(jnp.int32),
    'targets': (follows | either) & mask[..., None],
    'mask': mask,
    'size': sizes,
  }


def draw(key: Any, n: int, fields: Any) -> dict[str, Any]:
  """n strings a^k b^k, k evenly spread: inputs int32 `[n, T]`, targets bool `[n, T, 3]`."""
  return strings(spread(key, n, fields.min_n, fields.n), fields.n, letters=2)


def check(fields: Any) -> None:
  """Raises ValueError, for people, if the least n is above the greatest."""
  if fields.min_n > fields.n:
    raise ValueError(
      f'--config.data.min_n={fields.min_n}: must be at most n, {fields.n}, in each split (see also'
      ' data.test_n and data.validation_n)'
    )


NUMBERS = {
  'min_n': Number(1, 1, 100_000, 'the least n'),
  'n': Number(50, 1, 100_000, 'the greatest n in training'),
  'validation_n': Number(0, 0, 100_000, 'the greatest n in validation'),
  'test_n': Number(500, 0, 100_000, 'the greatest n in the test'),
}

problem = Problem(
  title='a^n b^n, next symbols (Gers & Schmidhuber 2001)',
  kind='sets',
  draw=draw,
  sizes=lambda fields: Sizes(symbols=3, outputs=3),
  fields=NUMBERS,
  check=check,
)
