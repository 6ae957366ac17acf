"""Dyck-1, Dyck-2, ...: well-nested brackets of one kind, two or more, by what may come next.

The inputs are a start symbol and then the string. At each of these steps the set of symbols that
may come next is asked for: every opening bracket, the one that closes the innermost, and the end if
none is open. Dyck-1 needs a counter (Suzgun et al. 2019), Dyck-2 a stack. The depth of the strings
drawn is bounded (Hewitt et al. 2020), but not that of what may come next.
"""

from typing import Any

from rnnlab.data.problems.base import Number, Problem, Sizes, spread


def draw(key: Any, n: int, fields: Any) -> dict[str, Any]:
  """n strings, even lengths evenly spread: inputs int32 `[n, T]`, targets bool `[n, T, 2 K + 1]`.

  A bracket opens or closes with equal probability if both are possible within the length and the
  depth, and all kinds are equally likely. Ids: 1 is the start, then come K opening and K closing
  brackets. Targets: these 2 K, then the end.
  """
  import jax
  import jax.numpy as jnp

  kinds, depth_most = fields.brackets, fields.depth
  size_key, key = jax.random.split(key)
  sizes = 2 * spread(size_key, n, (fields.min_length + 1) // 2, fields.length // 2)
  steps = fields.length // 2 * 2
  places = jnp.arange(depth_most)

  def step(state, given):
    depth, stack = state
    left, chance, kind = given  # symbols left in the string, including the next one
    top = jnp.sum(jnp.where(places == depth[:, None] - 1, stack, 0), axis=1)
    closes = (depth > 0) & (chance | (depth == depth_most) | (depth == left))
    symbol = jnp.where(closes, kinds + top, kind)
    opened = jnp.where(places == depth[:, None], kind[:, None], stack)
    after = jnp.where(closes, depth - 1, depth + 1), jnp.where(closes[:, None], stack, opened)
    return after, (symbol, depth, top)

  chance_key, kind_key = jax.random.split(key)
  chances = jax.random.bernoulli(chance_key, shape=(steps + 1, n))
  drawn = jax.random.randint(kind_key, (steps + 1, n), 0, kinds)
  start = jnp.zeros(n, jnp.int32), jnp.zeros((n, depth_most), jnp.int32)
  left = sizes - jnp.arange(steps + 1)[:, None]
  _, found = jax.lax.scan(step, start, (left, chances, drawn))
  symbols, depths, tops = (of.T for of in found)  # [n, T]: the next symbol, and what is open
  mask = jnp.arange(steps + 1) <= sizes[:, None]
  ids = jnp.pad(symbols[:, :-1] + 2, ((0, 0), (1, 0)), constant_values=1)
  closing = jax.nn.one_hot(tops, kinds, dtype=bool) & (depths > 0)[..., None]
  targets = [jnp.ones_like(closing), closing, (depths == 0)[..., None]]
  return {
    'inputs': jnp.where(mask, ids, 0).astype(jnp.int32),
    'targets': jnp.concatenate(targets, axis=-1) & mask[..., None],
    'mask': mask,
    'size': sizes,
  }


def check(fields: Any) -> None:
  """Raises ValueError, for people, if there is no even length."""
  if (fields.min_length + 1) // 2 > fields.length // 2:
    raise ValueError(
      f'--config.data.min_length={fields.min_length}: there must be an even length from it to the'
      f' length, {fields.length}, in each split (see also data.test_length, data.validation_length)'
    )


problem = Problem(
  title='well-nested brackets, next symbols (Suzgun et al. 2019, Hewitt et al. 2020)',
  kind='sets',
  draw=draw,
  sizes=lambda fields: Sizes(symbols=2 * fields.brackets + 1, outputs=2 * fields.brackets + 1),
  fields={
    'brackets': Number(2, 1, 1_000, 'kinds of brackets: 1 for Dyck-1, 2 for Dyck-2'),
    'min_length': Number(2, 2, 100_000, 'symbols of the shortest string'),
    'length': Number(50, 2, 100_000, 'symbols of the longest string in training'),
    'validation_length': Number(0, 0, 100_000, 'symbols of the longest string in validation'),
    'test_length': Number(200, 0, 100_000, 'symbols of the longest string in the test'),
    'depth': Number(8, 1, 1_000, 'the greatest number of open brackets in training'),
    'validation_depth': Number(0, 0, 1_000, 'the same in validation'),
    'test_depth': Number(0, 0, 1_000, 'the same in the test'),
  },
  check=check,
)
