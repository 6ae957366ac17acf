"""The embedded Reber grammar, by what may come next (Hochreiter & Schmidhuber 1997, section 5.1).

A string is B, then T or P, a string of Reber's grammar, the same T or P again, and E. At each step
the set of symbols that may come next is asked for. The symbol before E was seen at the second step:
only this needs a memory as long as the string.

The paper takes both arcs of a state with equal probability, so that long strings are rare. Here
lengths are evenly spread, and, as in the paper, all strings of a length are equally likely.
"""

from typing import Any

import numpy as np

from rnnlab.data.problems.base import Number, Problem, Sizes, check_lengths, spread

SYMBOLS = 'BTPSXVE'  # ids from 1, in this order; targets in the same order
SHORTEST = 9

# The arcs of each state of Reber's grammar: a symbol and the state after it; None is after the end.
REBER = (
  (('B', 1),),
  (('T', 2), ('P', 3)),
  (('S', 2), ('X', 4)),
  (('T', 3), ('V', 5)),
  (('X', 3), ('S', 6)),
  (('P', 4), ('V', 6)),
  (('E', None),),
)


def embedded() -> tuple[tuple[tuple[str, int | None], ...], ...]:
  """The arcs of each state of the embedded grammar, in the form of `REBER`."""
  states: list[tuple[tuple[str, int | None], ...]] = [(('B', 1),), (('T', 2), ('P', 10))]
  for outer in 'TP':
    first = len(states)
    last = first + len(REBER)  # the state where the outer symbol comes again
    for arcs in REBER:
      states.append(tuple((s, last if to is None else first + to) for s, to in arcs))
    states.append(((outer, 18),))
  return (*states, (('E', None),))


def tables(length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """For each state: the symbols and next states of two arcs, what may come, and chances.

  Returns symbols and states, int `[19, 2]`; allowed, bool `[20, 7]`, whose last row is after the
  end; and chances, float `[length + 1, 19]`: the probability of the first arc, by the number of
  symbols still to come.
  """
  grammar = embedded()
  end = len(grammar)
  two = [(arcs[0], arcs[-1]) for arcs in grammar]
  symbols = np.array([[SYMBOLS.index(s) for s, _ in arcs] for arcs in two])
  states = np.array([[end if to is None else to for _, to in arcs] for arcs in two])
  allowed = np.zeros((end + 1, len(SYMBOLS)), bool)
  np.put_along_axis(allowed[:end], symbols, True, axis=1)
  chances = np.zeros((length + 1, end))
  ends = np.arange(end + 1) == end  # the probability that a state ends after exactly `left` symbols
  for left in range(1, length + 1):
    after = ends[states]
    total = after.sum(axis=1)
    chances[left] = after[:, 0] / np.where(total > 0, total, 1)
    ends = np.append(total, 0) / max(total.max(), 1e-300)  # scaled, as it falls with the length
  return symbols, states, allowed, chances


def draw(key: Any, n: int, fields: Any) -> dict[str, Any]:
  """n strings of lengths evenly spread: inputs int32 `[n, T]`, targets bool `[n, T, 7]`.

  The E that ends a string is not among the inputs, as nothing comes after it.
  """
  import jax
  import jax.numpy as jnp

  symbols, states, allowed, chances = map(jnp.asarray, tables(fields.length))
  size_key, arc_key = jax.random.split(key)
  sizes = spread(size_key, n, fields.min_length, fields.length)
  steps = fields.length - 1

  def step(state, given):
    left, uniform = given
    arc = (uniform >= chances[jnp.maximum(left, 0), state]).astype(jnp.int32)
    after = states[state, arc]
    return after, (symbols[state, arc], allowed[after])

  left = sizes - jnp.arange(steps)[:, None]
  uniform = jax.random.uniform(arc_key, (steps, n))
  _, (drawn, sets) = jax.lax.scan(step, jnp.zeros(n, jnp.int32), (left, uniform))
  mask = jnp.arange(steps) < sizes[:, None] - 1
  return {
    'inputs': jnp.where(mask, drawn.T + 1, 0).astype(jnp.int32),
    'targets': jnp.swapaxes(sets, 0, 1) & mask[..., None],
    'mask': mask,
    'size': sizes,
  }


problem = Problem(
  title='the embedded Reber grammar, next symbols (Hochreiter & Schmidhuber 1997)',
  kind='sets',
  draw=draw,
  sizes=lambda fields: Sizes(symbols=len(SYMBOLS), outputs=len(SYMBOLS)),
  fields={
    'min_length': Number(SHORTEST, SHORTEST, 100_000, 'symbols of the shortest string'),
    'length': Number(40, SHORTEST, 100_000, 'symbols of the longest string in training'),
    'validation_length': Number(0, 0, 100_000, 'symbols of the longest string in validation'),
    'test_length': Number(200, 0, 100_000, 'symbols of the longest string in the test'),
  },
  check=check_lengths,
)
