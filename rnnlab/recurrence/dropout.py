"""Dropout of a recurrence: masks of variational dropout, of weights, and between layers."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnnlab.cells.base import Array, Cell, Params, matmul
from rnnlab.recurrence import checks
from rnnlab.recurrence.split import variables

Masks = Sequence[Array | None]  # a dropout mask for each product of a step, in the step's order
# Primitives that move the numbers of an array without changing any.
MOVES = {'slice', 'split', 'concatenate', 'reshape', 'squeeze', 'transpose', 'broadcast_in_dim'}


class Product(NamedTuple):
  """One `dot(w, v)` of a step: whether v is the input, v's width, how many gates w has."""

  of_input: bool
  width: int
  gates: int


def products(cell: Cell, params: Params, input_size: int) -> list[Product]:
  """The products that a step of `cell` computes by `dot`, in order.

  A product has as many gates as w has blocks of H columns (1 if H does not divide them).
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
  traced; kept values are scaled by 1 / (1 - rate). One mask `[B, K]` serves all gates, or with
  `per_gate` each gate has its own, `[G, B, K]`, as Keras 3 draws them.

  Raises ValueError for a rate outside [0, 1), and what `unroll` raises for such a cell and params.

  >>> cell, key = rnnlab.lstm(hidden_size=4), jax.random.key(0)
  >>> sizes, rates = (2, 3), {'rate': 0.2, 'recurrent_rate': 0.2}
  >>> masks = rnnlab.dropout_masks(key, cell, cell.init(key, 3), *sizes, **rates)
  >>> [mask.shape for mask in masks]  # for `rnnlab.unroll(..., dropout=masks)`
  [(2, 3), (2, 4)]
  """
  for name, p in {'rate': rate, 'recurrent_rate': recurrent_rate}.items():
    check_rate(name, p)
  params = checks.params(checks.cell(cell), params, input_size)
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


def drop_weights(
  key: Array, cell: Cell, params: Params, input_size: int, rate: float | Array
) -> Params:
  """Parameters with dropout on the state's weights (DropConnect: Merity et al. 2018).

  A weight that a step multiplies with anything but its input, through `dot`, is dropped with the
  probability `rate`, in [0, 1) or traced, for all steps computed with the result; those kept are
  scaled by 1 / (1 - rate). Biases and the input's weights are unchanged.

  Raises ValueError if a step computes such weights, rather than cutting them from parameters, or
  has none.

  >>> cell, key = rnnlab.elman(hidden_size=40), jax.random.key(0)
  >>> params = rnnlab.recurrence.drop_weights(key, cell, cell.init(key, 3), 3, rate=0.5)
  >>> [int((params[name] == 0).sum()) for name in ('w_x', 'w_h')]
  [0, 797]
  """
  check_rate('weight_dropout', rate)
  if is_off(rate):
    return params

  def weights(params):
    found = []

    def record(w, v):
      found.extend([] if v is x_t else [w])
      return matmul(w, v)

    cell.step(params, cell.initial_carry((1,), jnp.float32), x_t, record)
    return found

  x_t = jnp.zeros((1, input_size))
  # A product's weights have gradient 1 with respect to the numbers that they consist of.
  ws, gradient = jax.vjp(weights, jax.lax.stop_gradient(params))
  if not ws:
    raise ValueError(
      f'weight_dropout drops the weights of states, and the cell {cell} has none: set it to 0'
    )
  (used,) = gradient([jnp.ones_like(w) for w in ws])
  dropped = dict(params)
  for i, name in enumerate(_moved(cell, jax.make_jaxpr(weights)(params), sorted(params))):
    w = params[name]
    kept = _halves(jax.random.fold_in(key, i), 1 - rate, w.shape)
    dropped[name] = jnp.where(used[name] != 0, jnp.where(kept, w / (1 - rate), 0), w)
  return dropped


def _halves(key, p, shape):
  """True with probability p, to 1 / 65,536: from halves of the drawn words, in half the time."""
  size = math.prod(shape)
  bits = jax.random.bits(key, (-(-size // 2),), jnp.uint32)
  halves = jnp.concatenate([bits & 0xFFFF, bits >> 16])
  return halves[:size].reshape(shape) < jnp.round(p * 2**16)


def _moved(cell, closed, names):
  """The `names` of the inputs of a jaxpr whose numbers are among its results."""
  jaxpr = closed.jaxpr
  needed = {*variables(jaxpr.outvars)}
  for equation in reversed(jaxpr.eqns):
    if needed.isdisjoint(equation.outvars):
      continue
    if equation.primitive.name not in MOVES:
      raise ValueError(
        f'weight_dropout drops weights that are parameters, or parts of them: the cell {cell}'
        f' computes a weight of its state, by {equation.primitive.name}'
      )
    needed.update(variables(equation.invars))
  return [name for name, var in zip(names, jaxpr.invars, strict=True) if var in needed]


def is_off(rate: float | Array) -> bool:
  """Whether a rate is known to be 0, so that dropout can be left out; False if it is traced."""
  return not isinstance(rate, jax.core.Tracer) and bool(rate == 0)


def check_rate(name: str, rate: float | Array) -> None:
  """Raises ValueError unless `rate` is in [0, 1), or traced."""
  if not isinstance(rate, jax.core.Tracer) and not 0 <= rate < 1:
    raise ValueError(f'{name} must be at least 0 and below 1, not {rate}')


def drop(key: Array, xs: Array, rate: float | Array, locked: bool = False) -> Array:
  """Drops each value with probability `rate` and scales those kept by 1 / (1 - rate).

  locked: whether xs is `[..., T, D]` and a feature is dropped at all T steps or at none.
  Raises ValueError for a rate outside [0, 1), unless it is traced.
  """
  check_rate('a dropout rate', rate)
  shape = (*xs.shape[:-2], 1, xs.shape[-1]) if locked else xs.shape
  kept = jax.random.bernoulli(key, 1 - rate, shape)
  return jnp.where(kept, xs / (1 - rate), 0)


def _bernoulli(key, rate, shape, dtype):
  keep = jnp.asarray(1 - rate, dtype)
  return jax.random.bernoulli(key, 1 - rate, shape).astype(dtype) / keep
