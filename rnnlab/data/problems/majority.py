"""Majority of a string of bits (Hahn 2020): the class is whether it has more 1s than 0s."""

import math
from typing import Any

from rnnlab.data.problems.base import Baseline, Problem, Sizes, check_lengths, lengths
from rnnlab.data.problems.parity import bits, ids


def draw(key: Any, n: int, fields: Any) -> dict[str, Any]:
  """n examples: inputs, ids int32 `[n, T]`, targets int32 `[n]`, 1 where more than half are 1s."""
  import jax.numpy as jnp

  drawn, lengths = bits(key, n, fields)
  more = 2 * drawn.sum(axis=1) > lengths[:, 0]
  return {'inputs': ids(drawn, lengths), 'targets': more.astype(jnp.int32)}


def _right_by_last_bit(fields):
  """How often the last bit is the answer, the best that can be said without the others.

  Of strings of n bits it is 1/2 + C(n - 1, floor(n / 2)) / 2^n.
  """
  more = [
    math.exp(math.lgamma(n) - math.lgamma(n // 2 + 1) - math.lgamma(n - n // 2) - n * math.log(2))
    for n in range(fields.min_length, fields.length + 1)
  ]
  return 1 / 2 + sum(more) / len(more)


problem = Problem(
  title='majority (Hahn 2020)',
  kind='class',
  draw=draw,
  sizes=lambda fields: Sizes(symbols=2, outputs=2),
  fields=lengths(40),
  baseline=lambda fields: Baseline(
    'accuracy', _right_by_last_bit(fields), 'taking the last bit for the answer'
  ),
  check=check_lengths,
)
