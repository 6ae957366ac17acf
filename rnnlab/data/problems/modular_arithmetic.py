"""Modular arithmetic without brackets (Deletang et al. 2023): an expression, and its value.

Numbers from 0 to modulus - 1, and +, - or * between them; the class is the value modulo modulus. As
usual, * takes precedence over + and -. An example has an odd number of steps: if the length is
even, the last step is left out.
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
  """n examples: ids 1 to modulus for numbers, then those for +, - and *; targets int32 `[n]`."""
  import jax
  import jax.numpy as jnp

  lengths_key, numbers_key, signs_key = jax.random.split(key, 3)
  modulus, count = fields.modulus, (fields.length + 1) // 2
  counts = (drawn_lengths(lengths_key, n, fields) + 1) // 2  # of numbers
  numbers = jax.random.randint(numbers_key, (n, count), 0, modulus)
  signs = jax.random.randint(signs_key, (n, count), 0, 3)  # the sign before each number
  signs = signs.at[:, 0].set(0)
  real = jnp.arange(count) < counts

  def step(carry, now):
    total, term = carry  # the sum of the terms before the last; the last, which a * continues
    number, sign, real = now
    times = sign == 2
    after = (
      jnp.where(times, total, total + term),
      jnp.where(times, term * number, jnp.where(sign == 1, -number, number)),
    )
    return jax.tree.map(lambda a, b: jnp.where(real, a % modulus, b), after, carry), None

  zeros = jnp.zeros(n, jnp.int32)
  (total, term), _ = jax.lax.scan(step, (zeros, zeros), (numbers.T, signs.T, real.T))
  pairs = jnp.stack([modulus + 1 + signs, 1 + numbers], axis=-1) * real[..., None]
  ids = pairs.reshape(n, 2 * count)[:, 1:]  # no sign before the first
  ids = jnp.pad(ids, ((0, 0), (0, fields.length - ids.shape[1])))
  return {'inputs': ids, 'targets': (total + term) % modulus}


problem = Problem(
  title='modular arithmetic without brackets (Deletang et al. 2023)',
  kind='class',
  draw=draw,
  sizes=lambda fields: Sizes(symbols=fields.modulus + 3, outputs=fields.modulus),
  fields={
    **lengths(40),
    'modulus': Number(5, 2, 10_000, 'the modulus of the arithmetic'),
  },
  baseline=lambda fields: Baseline('accuracy', 1 / fields.modulus, 'any number at random'),
  check=check_lengths,
)
