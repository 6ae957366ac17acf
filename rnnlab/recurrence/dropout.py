"""Dropout of a recurrence: the masks of variational dropout, and dropout between layers."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnnlab.cells.base import Array, Cell, Params, matmul

Masks = Sequence[Array | None]  # a dropout mask for each product of a step, in the step's order


class Product(NamedTuple):
  """One `dot(w, v)` of a step: whether v is the input, v's width, how many gates w has."""

  of_input: bool
  width: int
  gates: int


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
  dtype: Any = jnp.float32,
) -> Masks:
  """Draws the masks of variational dropout (Gal & Ghahramani 2016) for `unroll`'s `dropout`.

  rate applies to the products of the input, recurrent_rate to those of a state; both in [0, 1), or
  traced, and kept values are scaled by 1 / (1 - rate). One mask `[B, K]` serves all gates, or with
  `per_gate` each gate has its own, `[G, B, K]`, as Keras 3 draws them.

  >>> cell, key = rnnlab.lstm(hidden_size=4), jax.random.key(0)
  >>> sizes, rates = (2, 3), {'rate': 0.2, 'recurrent_rate': 0.2}
  >>> masks = rnnlab.dropout_masks(key, cell, cell.init(key, 3), *sizes, **rates)
  >>> [mask.shape for mask in masks]  # for `rnnlab.unroll(..., dropout=masks)`
  [(2, 3), (2, 4)]
  """
  for name, p in {'rate': rate, 'recurrent_rate': recurrent_rate}.items():
    check_rate(name, p)
  shared = {}
  masks = []
  for i, product in enumerate(products(cell, params, input_size)):
    p = rate if product.of_input else recurrent_rate
    shape = (batch_size, product.width)
    if is_off(p):
      masks.append(None)
    elif per_gate:
      masks.append(_bernoulli(jax.random.fold_in(key, i), p, (product.gates, *shape), dtype))
    else:
      kind = product.of_input, product.width
      if kind not in shared:
        shared[kind] = _bernoulli(jax.random.fold_in(key, i), p, shape, dtype)
      masks.append(shared[kind])
  return tuple(masks)


def is_off(rate: float | Array) -> bool:
  """Whether a rate is known to be 0, so that what it is of is left out; a traced one is not."""
  return not isinstance(rate, jax.core.Tracer) and bool(rate == 0)


def check_rate(name: str, rate: float | Array) -> None:
  """Raises ValueError unless `rate` is in [0, 1), or traced."""
  if not isinstance(rate, jax.core.Tracer) and not 0 <= rate < 1:
    raise ValueError(f'{name} must be at least 0 and below 1, not {rate}')


def drop(key: Array, xs: Array, rate: float | Array) -> Array:
  """Drops each value with probability `rate` and scales those kept by 1 / (1 - rate)."""
  kept = jax.random.bernoulli(key, 1 - rate, xs.shape)
  return jnp.where(kept, xs / (1 - rate), 0)


def _bernoulli(key, rate, shape, dtype):
  keep = jnp.asarray(1 - rate, dtype)
  return jax.random.bernoulli(key, 1 - rate, shape).astype(dtype) / keep
