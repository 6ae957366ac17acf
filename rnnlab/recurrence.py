"""Running a cell over time: masks, lengths, directions, layers and variational dropout.

Everything here is a pure function and works for any `Cell`. Batch-major `[B, T, D]` at the
boundary, time-major inside.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnlab import devices, engine
from rnnlab.cells.base import Array, Carry, Cell, Params, matmul

Masks = Sequence[Array | None]  # a dropout mask for each product of a step, in the step's order


class Product(NamedTuple):
  """One `dot(w, v)` of a step: whether v is the input, v's width, how many gates w has."""

  of_input: bool
  width: int
  gates: int


def unroll(
  cell: Cell,
  params: Params,
  xs: Array,
  *,
  lengths: Array | None = None,
  mask: Array | None = None,
  reverse: bool = False,
  initial_carry: Carry | None = None,
  dropout: Masks | None = None,
) -> tuple[Carry, Array]:
  """Scans `cell` over `xs [B, T, D]`; returns the final carry and `ys [B, T, H]`.

  lengths: int `[B]`, the real steps of each row, the rest being padding on the right; or
  mask: bool `[B, T]`, True at the real steps, in any pattern. A padded step leaves the carry as it
    is, gives y = 0, and takes no part in any gradient, whatever xs holds there.
  reverse: from the last real step to the first; ys stay in the order of xs.
  initial_carry: as `cell.initial_carry` makes it; zeros where None.
  dropout: masks to multiply the operand of each of the step's products with, the same at every
    step, as `dropout_masks` draws them: `[B, K]`, or `[G, B, K]` for one a gate.

  Raises ValueError for shapes that do not fit, and for lengths outside 0..T where they are known
  (not traced).
  """
  mask = _check(xs, lengths, mask)
  _check_dropout(dropout, cell, params, xs)
  if initial_carry is None:
    dtype = jnp.result_type(xs, *jax.tree.leaves(params))
    initial_carry = cell.initial_carry(xs.shape[:1], dtype)

  def scan(params, carry, xs, mask, dropout):
    xs, real = jnp.swapaxes(xs, 0, 1), None
    if mask is not None:
      real = jnp.swapaxes(mask, 0, 1)
      xs = jnp.where(real[..., None], xs, 0)  # a NaN in the padding would reach the gradients
    carry, ys = engine.scan(cell.step, params, carry, xs, real=real, masks=dropout, reverse=reverse)
    return carry, jnp.swapaxes(ys, 0, 1)

  arguments = params, initial_carry, xs, mask, dropout
  return devices.over_batch(scan, arguments, axes=(None, 0, 0, 0, -2), out_axes=(0, 0))


def bidirectional(
  cell: Cell,
  params: tuple[Params, Params],
  xs: Array,
  *,
  initial_carry: tuple[Carry, Carry] = (None, None),
  dropout: tuple[Masks | None, Masks | None] = (None, None),
  **options,
) -> tuple[tuple[Carry, Carry], Array]:
  """Runs `cell` both ways with a set of parameters each (Schuster & Paliwal 1997).

  Returns both carries and `ys [B, T, 2H]`, forward then backward. The backward pass starts at each
  row's last real step, not at the array's end. `options`: lengths or mask, as in `unroll`.
  """
  passes = [
    unroll(cell, p, xs, reverse=reverse, initial_carry=carry, dropout=masks, **options)
    for p, reverse, carry, masks in zip(params, (False, True), initial_carry, dropout, strict=True)
  ]
  (forward, ys), (backward, ys_backward) = passes
  return (forward, backward), jnp.concatenate([ys, ys_backward], axis=-1)


def stacked(cell: Cell, params: Sequence, xs: Array, **options) -> tuple[list, Array]:
  """Runs layers of `cell`, each over the outputs of the one before.

  `params` has an item a layer: a dict of parameters, or a pair of them for a bidirectional layer.
  Returns the list of the layers' carries and the last layer's ys. `options`: lengths or mask.
  """
  carries = []
  for layer in params:
    run = unroll if isinstance(layer, dict) else bidirectional
    carry, xs = run(cell, layer, xs, **options)
    carries.append(carry)
  return carries, xs


def products(cell: Cell, params: Params, input_size: int) -> list[Product]:
  """The products that a step of `cell` takes through `dot`, in order.

  A product has as many gates as w has blocks of H columns (1 where it does not divide so).
  """
  found = []

  def trace(params, carry, x_t):
    def record(w, v):
      found.append((v is x_t, v.shape[-1], w.shape[-1]))
      return matmul(w, v)

    return cell.step(params, carry, x_t, record)[1]

  x_t = jax.ShapeDtypeStruct((1, input_size), jnp.float32)
  y_t = jax.eval_shape(trace, params, cell.initial_carry((1,), jnp.float32), x_t)
  hidden = y_t.shape[-1]
  return [
    Product(of_input, width, columns // hidden if columns % hidden == 0 else 1)
    for of_input, width, columns in found
  ]


def dropout_masks(
  key: Array,
  cell: Cell,
  params: Params,
  batch_size: int,
  input_size: int,
  *,
  rate: float,
  recurrent_rate: float,
  per_gate: bool = False,
  dtype=jnp.float32,
) -> Masks:
  """Draws the masks of variational dropout (Gal & Ghahramani 2016) for `unroll`'s `dropout`.

  rate applies to the products of the input, recurrent_rate to those of a state; both in [0, 1), and
  kept values are scaled by 1 / (1 - rate). One mask `[B, K]` serves all gates, or with `per_gate`
  each gate has its own, `[G, B, K]`, as Keras 3 draws them.
  """
  for name, p in {'rate': rate, 'recurrent_rate': recurrent_rate}.items():
    if not 0 <= p < 1:
      raise ValueError(f'{name} must be at least 0 and below 1, not {p}')
  shared = {}
  masks = []
  for i, product in enumerate(products(cell, params, input_size)):
    p = rate if product.of_input else recurrent_rate
    shape = (batch_size, product.width)
    if not p:
      masks.append(None)
    elif per_gate:
      masks.append(_bernoulli(jax.random.fold_in(key, i), p, (product.gates, *shape), dtype))
    else:
      kind = product.of_input, product.width
      if kind not in shared:
        shared[kind] = _bernoulli(jax.random.fold_in(key, i), p, shape, dtype)
      masks.append(shared[kind])
  return tuple(masks)


def lengths_to_mask(lengths: Array, steps: int) -> Array:
  """`lengths [B]` -> bool `[B, steps]`, True at the first `lengths` steps of each row."""
  return jnp.arange(steps) < lengths[:, None]


def _bernoulli(key, rate, shape, dtype):
  return jax.random.bernoulli(key, 1 - rate, shape).astype(dtype) / (1 - rate)


def _check_dropout(dropout, cell, params, xs):
  """Raises where the masks are not those of the step's products."""
  if dropout is None:
    return
  found = products(cell, params, xs.shape[-1])
  if len(dropout) != len(found):
    raise ValueError(
      f'dropout must have a mask for each of the {len(found)} products of a step,'
      f' not {len(dropout)}'
    )
  for i, (mask, product) in enumerate(zip(dropout, found, strict=True)):
    shape = xs.shape[0], product.width
    per_gate = product.gates, *shape
    if mask is not None and mask.shape not in (shape, per_gate):
      raise ValueError(f'dropout[{i}] must be of shape {shape} or {per_gate}, not {mask.shape}')


def _check(xs, lengths, mask):
  """The boolean mask that `lengths` or `mask` stand for, or None; raises for wrong shapes."""
  if xs.ndim != 3:
    raise ValueError(f'xs must be [batch, time, features], not of shape {xs.shape}')
  batch, steps = xs.shape[:2]
  if lengths is not None and mask is not None:
    raise ValueError('give lengths or mask, not both')
  if lengths is not None:
    lengths = jnp.asarray(lengths)
    if lengths.shape != (batch,) or not jnp.issubdtype(lengths.dtype, jnp.integer):
      raise ValueError(
        f'lengths must be {batch} integers, one a row of xs, not {lengths.dtype}{lengths.shape}'
      )
    if not isinstance(lengths, jax.core.Tracer):
      values = np.asarray(lengths)
      wrong = np.flatnonzero((values < 0) | (values > steps))
      if wrong.size:
        raise ValueError(
          f'row {wrong[0]} has length {values[wrong[0]]}, but xs has {steps} time steps:'
          f' lengths must be from 0 to {steps}'
        )
    return lengths_to_mask(lengths, steps)
  if mask is not None:
    mask = jnp.asarray(mask)
    if mask.shape != (batch, steps) or mask.dtype != bool:
      raise ValueError(
        f'mask must be bool[{batch}, {steps}], True at real steps, not {mask.dtype}{mask.shape}'
      )
  return mask
