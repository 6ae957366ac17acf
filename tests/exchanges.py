"""What tests of weights from other libraries share: the inputs, the loss, and rnnlab's answer.

A recurrent module of another library is compared with `rnnlab.stacked` with its weights imported:
outputs, final states, and the gradients with respect to inputs and its own weights of

    loss = sum(outputs * LOSS) + sum(final states ** 2)

where the outputs of padded steps are zeros.
"""

import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from rnnlab import cells
from rnnlab.recurrence import stacked

BATCH, STEPS, INPUTS, HIDDEN = 3, 5, 3, 4
LENGTHS = np.array([4, 5, 1])


def draw(*shape, seed=0):
  """Numbers that are the same in every version of NumPy, since recorded answers depend on them."""
  return (0.6 * np.random.RandomState(seed).normal(size=shape)).astype('float32')


def few_quick(cases) -> list:
  """Parameters of a test: two padded bidirectional layers as they are, the others marked slow."""
  quick = 2, 2, True
  return [
    pytest.param(case, id=str(case), marks=() if case[1:4] == quick else pytest.mark.slow)
    for case in cases
  ]


# What a disk or a broken transfer may do to a file: the kind of damage, where, with which bytes.
damages = st.tuples(
  st.sampled_from(['flip', 'zeros', 'cut', 'empty', 'garbage', 'longer']),
  st.floats(0, 1, exclude_max=True),
  st.binary(min_size=1, max_size=40),
)


def damaged(content: bytes, damage: tuple) -> bytes:
  """A file's content after one of `damages`."""
  kind, share, some = damage
  at = int(share * len(content))
  return {
    'flip': content[:at] + bytes([content[at] ^ (some[0] or 1)]) + content[at + 1 :],
    'zeros': content[:at] + bytes(len(content[at : at + 64])) + content[at + 64 :],
    'cut': content[:at],
    'empty': b'',
    'garbage': some,
    'longer': content + some,
  }[kind]


XS = draw(BATCH, STEPS, INPUTS, seed=1)


def loss_weights(outputs: int) -> np.ndarray:
  return draw(BATCH, STEPS, outputs, seed=2)


class Answer(typing.NamedTuple):
  """ys `[B, T, H or 2 * H]`; states `[states, layers * directions, B, H]`; the gradients."""

  ys: np.ndarray
  states: np.ndarray
  xs: np.ndarray  # of the inputs
  layers: typing.Any  # of the parameters


def answer(cell: str, layers, *, masked: bool, reset: str = 'after') -> Answer:
  """rnnlab's answer, with gradients of `layers` in their own structure."""
  options = {'reset': reset} if cell == 'gru' else {}
  lengths = LENGTHS if masked else None
  return jax.tree.map(
    np.asarray, _answer(cells.get(cell, hidden_size=HIDDEN, **options), layers, lengths)
  )


@functools.partial(jax.jit, static_argnums=0)
def _answer(cell, layers, lengths):
  def loss(layers, xs):
    carries, ys = stacked(cell, layers, xs, lengths=lengths)
    flat = jax.tree.leaves(carries)
    kinds = len(jax.tree.leaves(cell.initial_carry((1,))))
    states = jnp.stack([jnp.stack(flat[kind::kinds]) for kind in range(kinds)])
    return (ys * loss_weights(ys.shape[-1])).sum() + (states**2).sum(), (ys, states)

  (_, (ys, states)), (of_layers, of_xs) = jax.value_and_grad(loss, (0, 1), has_aux=True)(layers, XS)
  return Answer(ys, states, of_xs, of_layers)
