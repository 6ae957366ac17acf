"""The language a^n b^n c^n, by what may come next (Gers & Schmidhuber 2001).

Like a^n b^n, followed by as many c: no context-free grammar generates it; it takes two counters.
"""

from typing import Any

from rnnlab.data.problems import anbn
from rnnlab.data.problems.base import Problem, Sizes, spread


def draw(key: Any, n: int, fields: Any) -> dict[str, Any]:
  """n strings a^k b^k c^k, k evenly spread: inputs int32 `[n, T]`, targets bool `[n, T, 4]`."""
  return anbn.strings(spread(key, n, fields.min_n, fields.n), fields.n, letters=3)


problem = Problem(
  title='a^n b^n c^n, next symbols (Gers & Schmidhuber 2001)',
  kind='sets',
  draw=draw,
  sizes=lambda fields: Sizes(symbols=4, outputs=4),
  fields=anbn.NUMBERS,
  check=anbn.check,
)
