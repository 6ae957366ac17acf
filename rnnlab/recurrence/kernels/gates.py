"""The equations of LSTM and GRU, gate by gate, and their scan: what each kernel computes.

The GPU kernels run these very functions; the CPU kernels have equations of their own, and tests
compare them with the scan. Time-major `[T, B, ...]`; B rows, T steps, H hidden units, G gates.
"""

import weakref
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnlab.cells.base import Array, Carry, Cell, Params

# Gate by gate, since Triton has neither split nor concatenate. All arrays are [B, H].


class Equations(NamedTuple):
  """What a kernel must know about a cell; `carry` is the tuple of its states, h first.

  step: `(x, carry, b_hn, dot) -> carry, kept`, from the G input products x; `dot(k, v)` is v times
    gate k's recurrent weights; `kept` is what the backward pass needs.
  back: `(carry, kept, d_carry, dot_t) -> d_x, d_carry`, from the carry before the step and the
    gradient by the carry after it; `dot_t(k, d)` is the transpose of `dot(k, v)`.
  products: `(h, kept, d_x) -> operands, d`: the operands of the recurrent products as pairs with
    the number of gates each serves, and the gradient by the products, gate by gate.
  """

  step: Callable
  back: Callable
  products: Callable


def _lstm_step(x, carry, b_hn, dot):
  h, c = carry
  i, f, g, o = (x[k] + dot(k, h) for k in range(4))
  i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
  c = f * c + i * g
  return (o * jnp.tanh(c), c), (i, f, g, o)


def _lstm_back(carry, kept, d_carry, dot_t):
  _, c = carry
  i, f, g, o = kept
  d_h, d_c = d_carry
  squashed = jnp.tanh(f * c + i * g)
  d_c = d_c + d_h * o * (1 - squashed * squashed)
  d_o = d_h * squashed
  d_x = d_c * g * i * (1 - i), d_c * c * f * (1 - f), d_c * i * (1 - g * g), d_o * o * (1 - o)
  return d_x, (sum(dot_t(k, d_x[k]) for k in range(4)), d_c * f)


def _lstm_products(h, kept, d_x):
  return [(h, 4)], d_x


def _gru_after_step(x, carry, b_hn, dot):
  (h,) = carry
  r = jax.nn.sigmoid(x[0] + dot(0, h))
  z = jax.nn.sigmoid(x[1] + dot(1, h))
  q = dot(2, h) + b_hn
  n = jnp.tanh(x[2] + r * q)
  return (z * h + (1 - z) * n,), (r, z, n, q)


def _gru_after_back(carry, kept, d_carry, dot_t):
  (h,), (r, z, n, q), (d_h,) = carry, kept, d_carry
  d_n = d_h * (1 - z) * (1 - n * n)
  d_z = d_h * (h - n) * z * (1 - z)
  d_r = d_n * q * r * (1 - r)
  return (d_r, d_z, d_n), (d_h * z + dot_t(0, d_r) + dot_t(1, d_z) + dot_t(2, d_n * r),)


def _gru_after_products(h, kept, d_x):
  d_r, d_z, d_n = d_x
  return [(h, 3)], (d_r, d_z, d_n * kept[0])


def _gru_before_step(x, carry, b_hn, dot):
  (h,) = carry
  r = jax.nn.sigmoid(x[0] + dot(0, h))
  z = jax.nn.sigmoid(x[1] + dot(1, h))
  n = jnp.tanh(x[2] + dot(2, r * h))
  return (z * h + (1 - z) * n,), (r, z, n)


def _gru_before_back(carry, kept, d_carry, dot_t):
  (h,), (r, z, n), (d_h,) = carry, kept, d_carry
  d_n = d_h * (1 - z) * (1 - n * n)
  d_z = d_h * (h - n) * z * (1 - z)
  d_rh = dot_t(2, d_n)
  d_r = d_rh * h * r * (1 - r)
  return (d_r, d_z, d_n), (d_h * z + d_rh * r + dot_t(0, d_r) + dot_t(1, d_z),)


def _gru_before_products(h, kept, d_x):
  return [(h, 2), (kept[0] * h, 1)], d_x


CELLS = {  # by Cell.fused
  'lstm': Equations(_lstm_step, _lstm_back, _lstm_products),
  'gru-after': Equations(_gru_after_step, _gru_after_back, _gru_after_products),
  'gru-before': Equations(_gru_before_step, _gru_before_back, _gru_before_products),
}


class Plan(NamedTuple):
  """What is fixed when a kernel is made."""

  cell: Equations
  reverse: bool
  interpret: bool  # of a GPU's kernels: runs their code anywhere, slowly


class Inputs(NamedTuple):
  """The arrays to differentiate with respect to."""

  xp: Array  # [T, B, G * H], the input products with their bias
  w_h: Array  # [H, G * H]
  b_hn: Array | None  # [H], for GRU with the reset after the product
  carry: tuple[Array, ...]  # the states [B, H] before the first step
  drop: Array | None  # [1, B, H] or [G, B, H], what multiplies h in the products


class Rows(NamedTuple):
  """What a step does to its rows, bool `[T, B]` each; None: all are real, and none is reset."""

  real: Array | None  # True at the rows whose step is real
  resets: Array | None  # True at those whose carry is reset before the step, real or not


def check(
  cell: Cell,
  params: Params,
  xs: Any,
  carry: Carry,
  mask: Array | None,
  resets: Array | None,
  dropout: Sequence[Array | None] | None,
) -> None:
  """Raises ValueError for arrays that the kernels would read out of bounds, with name and shape."""
  gates, states = (4, 2) if cell.fused == 'lstm' else (3, 1)
  if len(xs.shape) != 3:
    raise ValueError(f'xs must be [batch, time, features], not of shape {xs.shape}')
  (batch, steps, size), hidden = xs.shape, params['w_h'].shape[0]
  kind, columns = jnp.result_type(xs.dtype), gates * hidden
  wanted = {'w_x': (size, columns), 'b': (columns,), 'w_h': (hidden, columns)}
  wanted |= {'b_hn': (hidden,)} if cell.fused == 'gru-after' else {}
  if params.keys() != wanted.keys():
    raise ValueError(f'params must be {", ".join(wanted)} of {cell.fused}, not {", ".join(params)}')
  named: list[tuple] = [
    (f'params[{name!r}]', params[name], [shape], kind) for name, shape in wanted.items()
  ]
  leaves = jax.tree.leaves(carry)
  if len(leaves) != states:
    raise ValueError(f'initial_carry must have {states} arrays, not {len(leaves)}')
  named += [('initial_carry', state, [(batch, hidden)], kind) for state in leaves]
  named += [(name, a, [(batch, steps)], bool) for name, a in (('mask', mask), ('resets', resets))]
  widths = (size, hidden, hidden)
  served = (gates, 2, 1) if cell.fused == 'gru-before' else (gates, gates)
  masks = (None,) * len(served) if dropout is None else dropout
  if len(masks) != len(served):
    raise ValueError(f'dropout must have {len(served)} masks, one per product, not {len(masks)}')
  for i, (drop, width, count) in enumerate(zip(masks, widths, served, strict=False)):
    shapes = [(batch, width), *((g, batch, width) for g in dict.fromkeys((count, 1)))]
    named.append((f'dropout[{i}]', drop, shapes, None))
  for name, a, shapes, dtype in named:
    if a is None:
      continue
    if a.shape not in shapes or dtype not in (None, jnp.result_type(a)):
      words = ' or '.join(map(str, shapes))
      of = f'{jnp.dtype(dtype)} ' if dtype else ''
      raise ValueError(f'{name} must be {of}of shape {words}, not {a.dtype} of shape {a.shape}')


_zeros = weakref.WeakKeyDictionary()  # by a cell's initial_carry: the result of `starts_at_zeros`


def starts_at_zeros(cell: Cell) -> bool:
  """Whether a new carry is all zeros, which is what the kernels reset a carry to.

  It is computed in another thread, since this one may be tracing, for example under a mesh, and JAX
  would then trace this too instead of computing it.
  """

  def find():
    carry = jax.tree.leaves(cell.initial_carry((1,), jnp.float32))
    return not any(isinstance(a, jax.core.Tracer) or np.asarray(a).any() for a in carry)

  if cell.initial_carry not in _zeros:
    with futures.ThreadPoolExecutor(1) as pool:
      _zeros[cell.initial_carry] = pool.submit(find).result()
  return _zeros[cell.initial_carry]


def stacked(drop: Array | None) -> Array | None:
  """A dropout mask as `[1 or G, B, K]`, or None."""
  return drop[None] if drop is not None and drop.ndim == 2 else drop


def stacked_of_state(drops: Sequence[Array | None], shape: tuple[int, ...]) -> Array | None:
  """The masks of the recurrent products as one array; GRU may have two, with a mask each."""
  if len(drops) == 1 or all(drop is None for drop in drops):
    return stacked(drops[0])
  counts = 2, 1
  return jnp.concatenate(
    [
      jnp.broadcast_to(1.0 if drop is None else drop, (count, *shape))
      for drop, count in zip(drops, counts, strict=True)
    ]
  )


def products(w: Array, drop: Array | None, operands: Sequence[tuple[Array, int]]) -> Array:
  """`[..., G * H]` from `w [K, G * H]` and pairs of an operand and how many gates it serves."""
  if drop is not None and len(drop) > 1:
    each = [v for v, count in operands for _ in range(count)]
    operands = [(v * m, 1) for v, m in zip(each, drop, strict=True)]
  elif drop is not None:
    operands = [(v * drop[0], count) for v, count in operands]
  ends = np.cumsum([count for _, count in operands])
  blocks = jnp.split(w, ends[:-1] * (w.shape[1] // ends[-1]), axis=-1)
  return jnp.concatenate([v @ w for (v, _), w in zip(operands, blocks, strict=True)], axis=-1)


# One step, of a kernel or of a scan, with the fields of `Rows` for it, [B, 1] or None each.


def step_forward(
  plan: Plan, x: Any, carry: tuple, b_hn: Any, dot: Callable, rows: Rows, anew: Any = 0
) -> tuple:
  if rows.resets is not None:
    carry = _where(rows.resets, anew or (0,) * len(carry), carry)
  new, kept = plan.cell.step(x, carry, b_hn, dot)
  return _where(rows.real, new, carry), _where(rows.real, new[0], 0), (carry, kept)


def step_backward(
  plan: Plan, saved: tuple, d_y: Any, d_carry: tuple, dot_t: Callable, rows: Rows
) -> tuple:
  carry, kept = saved
  d_h, *rest = d_carry
  d_x, d_new = plan.cell.back(carry, kept, (d_h + _where(rows.real, d_y, 0), *rest), dot_t)
  d_carry = _where(rows.real, d_new, d_carry)
  if rows.resets is not None:
    d_carry = _where(rows.resets, (0,) * len(d_carry), d_carry)
  return _where(rows.real, d_x, 0), d_carry


def _where(real, a, b):
  if real is None:
    return a
  if isinstance(a, tuple):
    return tuple(_where(real, x, y) for x, y in zip(a, b or [0] * len(a), strict=True))
  return jnp.where(real, a, b)


def gate_dot(weights: Callable[[int], Any], drop: Any, masked_first: bool) -> Callable:
  """`(k, v) -> v @ weights(k)` with the mask of gate k before, or after as in its transpose."""

  def dot(k, v):
    m = None if drop is None else drop[k % len(drop)]
    if m is None:
      return jnp.dot(v, weights(k))
    return jnp.dot(v * m, weights(k)) if masked_first else jnp.dot(v, weights(k)) * m

  return dot


# The forward pass: `(rows, inputs) -> (carry, ys), saved`, saved being the carry that each step
# starts from and what the cell keeps, [T, B, H] each. Forward mode differentiates it as a scan.


def scan(plan: Plan, rows: Rows, inputs: Inputs, anew: Any = None) -> tuple:
  """The recurrence as a scan of the plan's equations, in plain JAX; see above.

  anew: the states [B, H] to which a reset sets the carry, or None for zeros.
  """
  hidden, width = inputs.w_h.shape
  gates = width // hidden
  blocks = jnp.split(inputs.w_h, gates, axis=-1)
  dot = gate_dot(blocks.__getitem__, inputs.drop, True)

  def step(carry, x_t):
    x, rows = x_t
    x = jnp.split(x, gates, axis=-1)
    carry, y, saved = step_forward(plan, x, carry, inputs.b_hn, dot, rows, anew)
    return carry, (y, saved)

  rows = jax.tree.map(lambda a: a[..., None], rows)
  carry, (ys, saved) = jax.lax.scan(step, inputs.carry, (inputs.xp, rows), reverse=plan.reverse)
  return (carry, ys), saved
