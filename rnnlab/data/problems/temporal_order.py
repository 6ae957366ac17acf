"""The temporal order problem (Hochreiter & Schmidhuber 1997, section 5.6, task 6a).

A string of E, distractors and B, the end, holds two symbols that matter, each X or Y: one between a
tenth and a fifth of the way, the other between a half and three fifths. The class says which they
are, in order: XX, XY, YX or YY. All strings have the same length, while the paper's have 100 to 110
steps.
"""

from typing import Any

from rnnlab.data.problems.base import Baseline, Number, Problem, Sizes

E, B, DISTRACTORS, X = 1, 2, 3, 7  # ids; the distractors a, b, c and d are 3 to 6, Y is 8


def draw(key: Any, n: int, fields: Any) -> dict[str, Any]:
  """n examples: inputs, ids int32 `[n, T]`, targets int32 `[n]`, 0 to 3 for XX, XY, YX and YY."""
  import jax
  import jax.numpy as jnp

  ids_key, first_key, second_key, symbols_key = jax.random.split(key, 4)
  length = fields.length
  ids = jax.random.randint(ids_key, (n, length), DISTRACTORS, X).at[:, 0].set(E).at[:, -1].set(B)
  first = jax.random.randint(first_key, (n,), length // 10, length // 5)
  second = jax.random.randint(second_key, (n,), length // 2, 3 * length // 5)
  symbols = jax.random.bernoulli(symbols_key, shape=(n, 2)).astype(jnp.int32)
  rows = jnp.arange(n)
  ids = ids.at[rows, first].set(X + symbols[:, 0]).at[rows, second].set(X + symbols[:, 1])
  return {'inputs': ids, 'targets': 2 * symbols[:, 0] + symbols[:, 1]}


problem = Problem(
  title='temporal order (Hochreiter & Schmidhuber 1997)',
  kind='class',
  draw=draw,
  sizes=lambda fields: Sizes(symbols=8, outputs=4),
  fields={'length': Number(100, 10, 1_000_000, 'steps')},
  baseline=lambda fields: Baseline('accuracy', 1 / 4, 'any class at random'),
)
