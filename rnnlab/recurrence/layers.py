"""Bidirectional and stacked layers."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rnnlab.cells.base import Array, Carry, Cell, Lookup, Params
from rnnlab.recurrence import checks
from rnnlab.recurrence.dropout import Masks, check_rate, drop, is_off
from rnnlab.recurrence.unroll import unroll


def bidirectional(
  cell: Cell,
  params: tuple[Params, Params],
  xs: Array | Lookup,
  *,
  initial_carry: tuple[Carry, Carry] | None = None,
  dropout: tuple[Masks | None, Masks | None] | None = None,
  **options: Any,
) -> tuple[tuple[Carry, Carry], Array]:
  """Runs `cell` in both directions, with parameters for each (Schuster & Paliwal 1997).

  Returns both carries and `ys [B, T, 2H]`, forward then backward. The backward pass starts at each
  row's last real step, not at the array's end. initial_carry, dropout: None, or a pair of them.
  `options`: lengths or mask, resets, return_carries, dtype, remat, truncate and backend, as in
  `unroll`. Raises like `unroll`, naming the direction.

  >>> cell, xs = rnnlab.gru(hidden_size=4), jnp.ones((2, 5, 3))
  >>> params = tuple(cell.init(key, 3) for key in jax.random.split(jax.random.key(0)))
  >>> (forward, backward), ys = rnnlab.bidirectional(cell, params, xs)
  >>> ys.shape
  (2, 5, 8)
  """
  if 'reverse' in options:
    raise TypeError('both directions are run, so there is no argument reverse')
  ways = 'the two directions'
  passes = []
  for way, reverse, p, carry, masks in zip(
    ('forward', 'backward'),
    (False, True),
    checks.each('params', params, 2, ways),
    checks.each('initial_carry', initial_carry, 2, ways),
    checks.each('dropout', dropout, 2, ways),
    strict=True,
  ):
    with checks.within(way):
      given = options | {'reverse': reverse, 'initial_carry': carry, 'dropout': masks}
      passes.append(unroll(cell, p, xs, **given))
  (forward, ys), (backward, ys_backward) = passes
  return (forward, backward), jnp.concatenate([ys, ys_backward], axis=-1)


def stacked(
  cell: Cell | Sequence[Cell],
  params: Sequence,
  xs: Array | Lookup,
  *,
  initial_carry: Sequence | None = None,
  dropout: Sequence | None = None,
  layer_dropout: float = 0.0,
  key: Array | None = None,
  **options: Any,
) -> tuple[list, Array]:
  """Runs layers of cells, each over the outputs of the one before.

  cell: one for all layers, or a list with one for each, of any kinds and sizes.
  params: an item for each layer: a dict of parameters, or a pair of them for a layer that is
    bidirectional.
  initial_carry, dropout: None, or an item for each layer, as in `unroll` or `bidirectional`; the
    returned carries can be the next call's initial_carry.
  layer_dropout: the dropout rate of the outputs of each layer but the last, independent for each
    value, as in PyTorch's and Keras's stacks; if above 0 or traced, it needs a `key`.
  options: lengths or mask, resets, backend, return_carries, dtype, remat and truncate, as in
    `unroll`; and reverse, if no layer is bidirectional.

  Returns the list of the layers' carries and the last layer's ys. Raises like `unroll`, naming the
  layer.

  >>> cells = rnnlab.gru(hidden_size=4), rnnlab.lstm(hidden_size=6)
  >>> keys, sizes = jax.random.split(jax.random.key(0)), (3, 4)
  >>> layers = [cell.init(*of) for cell, *of in zip(cells, keys, sizes)]
  >>> carries, ys = rnnlab.stacked(cells, layers, jnp.ones((2, 5, 3)))
  >>> ys.shape, [type(carry).__name__ for carry in carries]
  ((2, 5, 6), ['ArrayImpl', 'LSTMCarry'])
  """
  if not isinstance(params, list | tuple):
    kind = type(params).__name__
    raise TypeError(f'params must be a list with an item for each layer, not {kind}')
  count, layers = len(params), 'the layers'
  if callable(cell):
    checks.cell(cell)
  cells = [cell] * count if isinstance(cell, Cell) else checks.each('cell', cell, count, layers)
  starts = checks.each('initial_carry', initial_carry, count, layers)
  masks = checks.each('dropout', dropout, count, layers)
  check_rate('layer_dropout', layer_dropout)
  drops = not is_off(layer_dropout)
  if drops and key is None:
    raise ValueError('layer_dropout needs a key, such as jax.random.key(0)')
  carries: list[Carry] = []
  ys: Any = xs
  for i, layer in enumerate(params):
    if key is not None and drops and i:
      ys = drop(jax.random.fold_in(key, i), ys, layer_dropout)
    run = bidirectional if isinstance(layer, list | tuple) else unroll
    with checks.within(f'layer {i}'):
      carry, ys = run(cells[i], layer, ys, initial_carry=starts[i], dropout=masks[i], **options)
    carries.append(carry)
  return carries, ys
