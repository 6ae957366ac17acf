"""The adding problem (Hochreiter & Schmidhuber 1997, section 5.4; in the form of Le et al. 2015).

A step is a pair: a number, uniform in [0, 1), and a marker, which is 1 at one step of the first
half and at one of the second, else 0. The target is the sum of the two marked numbers.
"""

from typing import Any

from rnnlab.data.problems.base import Baseline, Number, Problem, Sizes


def draw(key: Any, n: int, fields: Any) -> dict[str, Any]:
  """n examples: inputs float32 `[n, T, 2]`, targets float32 `[n]`."""
  import jax
  import jax.numpy as jnp

  values_key, first_key, second_key = jax.random.split(key, 3)
  length, half = fields.length, fields.length // 2
  values = jax.random.uniform(values_key, (n, length))
  first = jax.random.randint(first_key, (n, 1), 0, half)
  second = jax.random.randint(second_key, (n, 1), half, length)
  steps = jnp.arange(length)
  markers = ((steps == first) | (steps == second)).astype(jnp.float32)
  inputs = jnp.stack([values, markers], axis=-1)
  return {'inputs': inputs, 'targets': jnp.sum(values * markers, axis=1)}


problem = Problem(
  title='the adding problem (Hochreiter & Schmidhuber 1997)',
  kind='value',
  draw=draw,
  sizes=lambda fields: Sizes(symbols=0, outputs=1),
  fields={'length': Number(200, 2, 1_000_000, 'steps')},
  baseline=lambda fields: Baseline('loss', 1 / 6, 'always answering 1, the mean of the sum'),
)
