"""Running a cell over time: masks, lengths, directions, layers and variational dropout.

Everything here is a pure function and works for any `Cell`. Batch-major `[B, T, D]` at the
boundary, time-major inside.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from absl import logging

from rnnlab.cells import near
from rnnlab.cells.base import Array, Carry, Cell, Lookup, Params, matmul
from rnnlab.machine import devices
from rnnlab.recurrence import checks, engine
from rnnlab.recurrence.kernels import fused

Masks = Sequence[Array | None]  # a dropout mask for each product of a step, in the step's order
BACKENDS = 'auto', 'scan', 'kernel'
TRUNCATION = '(k1, k2), steps from 1 up, with k2 a multiple of k1'


class Product(NamedTuple):
  """One `dot(w, v)` of a step: whether v is the input, v's width, how many gates w has."""

  of_input: bool
  width: int
  gates: int


def unroll(
  cell: Cell,
  params: Params,
  xs: Array | Lookup,
  *,
  lengths: Array | None = None,
  mask: Array | None = None,
  reverse: bool = False,
  initial_carry: Carry | None = None,
  resets: Array | None = None,
  return_carries: bool = False,
  dropout: Masks | None = None,
  dtype=None,
  remat: bool = False,
  truncate: tuple[int, int] | None = None,
  backend: str = 'auto',
) -> tuple[Carry, Array]:
  """Scans `cell` over `xs [B, T, D]`; returns the final carry and `ys [B, T, H]`.

  A sequence `[T, D]` without a batch axis has results without one, as has all that goes with it.

  xs may be a `Lookup` in a table, as of an embedding: where that has fewer rows than there are
    steps, a kernel takes the products of inputs once a row.
  lengths: int `[B]`, the real steps of each row, the rest being padding on the right; or
  mask: bool `[B, T]`, True at the real steps, in any pattern. A padded step leaves the carry as it
    is, gives y = 0, and takes no part in any gradient, whatever xs holds there.
  reverse: from the last real step to the first; ys stay in the order of xs.
  initial_carry: as `cell.initial_carry` makes it; that itself where None.
  resets: bool `[B, T]`, True at the first step of an episode: before that step, in time, the carry
    is made anew by `cell.initial_carry`, also where the step is padding, and no gradient passes.
    With reverse an episode's last step is met first, so that the carry is made anew before the step
    t with resets[:, t + 1].
  return_carries: returns in place of the final carry that after every step, its arrays
    `[B, T, ...]` in the order of xs.
  dropout: masks to multiply the operand of each of the step's products with, the same at every
    step, as `dropout_masks` draws them: `[B, K]`, or `[G, B, K]` for one a gate.
  dtype: what the operands of the step's products are rounded to, such as jnp.bfloat16, or None for
    as they are; sums, the carry and ys keep their own.
  remat: keeps the carry at every sqrt(T)-th step alone, and computes what else the gradients need
    again (Chen et al. 2016): memory grows as sqrt(T), for one more run forward.
  truncate: `(k1, k2)`, back-propagation through time truncated as BPTT(k2; k1) (Williams & Peng
    1990): the gradient by the outputs of k1 steps goes back through these and the k2 - k1 before
    them. Values stay as they are. The k1 steps are counted in the order of the run, padding
    included; the last ones are fewer where k1 does not divide T. The gradient by the final carry
    goes back as that by the last outputs. Steps are computed k2 / k1 times, and memory is as for so
    many: less with remat, which then acts within each k2 steps.

  backend: 'scan' or 'kernel' to run as a scan or as one kernel, a ValueError where no kernel can;
    'auto' for a kernel where one can: `fused.supports` on a GPU, `native.supports` on a CPU, and
    none of return_carries, dtype, remat and truncate.

  Raises ValueError, or TypeError for a wrong type, naming the argument, its shape and dtype and
  those wanted: parameters are those that `cell.init` makes for D inputs, in any float dtypes, xs
  are floats, and a carry is of the dtype that xs and params are promoted to. Lengths outside 0..T
  and ids outside a `Lookup`'s table are errors where they are known; a row with a traced id outside
  the table starts from NaN, and so has NaN for results.

  >>> cell, xs = rnnlab.lstm(hidden_size=4), jnp.ones((2, 5, 3))
  >>> params = cell.init(jax.random.key(0), 3)
  >>> carry, ys = rnnlab.unroll(cell, params, xs, lengths=jnp.array([5, 2]))
  >>> carry.h.shape, ys.shape, ys[1, 2:].any().item()
  ((2, 4), (2, 5, 4), False)
  """
  checks.cell(cell)
  xs = checks.xs(xs)
  *batch, steps, input_size = xs.shape
  batch = tuple(batch)
  params = checks.params(cell, params, input_size)
  kind = checks.kind(params, xs)
  mask = checks.mask(lengths, mask, batch, steps)
  if isinstance(xs, Lookup):
    checks.ids(xs.ids, len(xs.table), 'xs.ids', mask)
  dtype = checks.float_dtype(dtype)
  if dropout is not None:
    dropout = checks.dropout(dropout, products(cell, params, input_size), batch, kind)
  if truncate is not None and not is_truncation(truncate):
    raise ValueError(f'truncate must be {TRUNCATION}, not {truncate!r}')
  if initial_carry is None:
    initial_carry = cell.initial_carry(batch, kind)
  else:
    initial_carry = checks.carry(cell, initial_carry, batch, kind)
  if resets is not None:
    resets = checks.flags('resets', resets, batch, steps, 'at first steps')
    if reverse:  # made anew before a step is what is made anew after the next one in time
      last = jnp.zeros_like(resets[..., :1])
      resets = jnp.concatenate([resets[..., 1:], last], axis=-1) if steps else resets
  asked = {
    'return_carries': return_carries,
    'dtype': dtype is not None,
    'remat': remat,
    'truncate': truncate is not None,
    # Where rows are split over devices a kernel can't ask the cell for its start.
    'resets under a mesh': resets is not None and 'batch' in jax.sharding.get_abstract_mesh().shape,
  }
  in_one_kernel = _kernel(cell, params, xs, backend, [name for name in asked if asked[name]])
  table, xs = xs if isinstance(xs, Lookup) else (None, xs)
  if not batch:
    several = xs, mask, resets, initial_carry
    xs, mask, resets, initial_carry = jax.tree.map(lambda a: a[None], several)
    dropout = jax.tree.map(lambda a: jnp.expand_dims(a, -2), dropout)

  if table is not None and any(isinstance(a, jax.core.Tracer) for a in (xs, mask)):
    # Where a row has an id outside the table all is to be NaN, at a cost that does not grow with T.
    unknown = (xs < 0) | (xs >= len(table))
    unknown = (unknown if mask is None else unknown & mask).any(axis=1)
    initial_carry = jax.tree.map(functools.partial(_spoilt, unknown), initial_carry)
    resets = None if resets is None else resets & ~unknown[:, None]

  def run(params, carry, table, xs, mask, resets, dropout):
    xs = xs if table is None else Lookup(table, xs)
    if in_one_kernel:  # all of which are of the carry's dtype
      params = jax.tree.map(lambda w: w.astype(kind), params)
      xs = xs._replace(table=xs.table.astype(kind)) if table is not None else xs.astype(kind)
      return in_one_kernel(
        cell,
        params,
        xs,
        mask=mask,
        reverse=reverse,
        initial_carry=carry,
        resets=resets,
        dropout=dropout,
      )
    xs = xs.rows() if isinstance(xs, Lookup) else xs
    new = None if resets is None else cell.initial_carry(xs.shape[:1], kind)
    xs, real, anew = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), (xs, mask, resets))
    if real is not None:
      xs = jnp.where(real[..., None], xs, 0)  # a NaN in the padding would reach the gradients

    def scan(carry, inputs):
      xs, real, anew = inputs
      return engine.scan(
        cell.step,
        params,
        carry,
        xs,
        real=real,
        resets=None if anew is None else engine.Resets(anew, new),
        masks=dropout,
        reverse=reverse,
        dtype=dtype,
        every=return_carries,
      )

    if remat:
      scan = functools.partial(_checkpointed, scan, reverse)
    if truncate is not None:
      scan = functools.partial(_truncated, scan, reverse, *truncate)
    carry, out = scan(carry, (xs, real, anew))
    out = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), out)
    return out[::-1] if return_carries else (carry, out)

  arguments = params, initial_carry, table, xs, mask, resets, dropout
  axes = None, 0, None, 0, 0, 0, -2
  out = devices.over_batch(run, arguments, axes=axes, out_axes=(0, 0))
  return out if batch else jax.tree.map(lambda a: a[0], out)


def _spoilt(rows, a):
  """`a`, an array of a carry, but NaN in the `rows [B]`."""
  if not jnp.issubdtype(a.dtype, jnp.inexact):
    return a
  return jnp.where(rows.reshape(-1, *[1] * (a.ndim - 1)), jnp.nan, a)


def _kernel(cell, params, xs, backend, asked):
  """The `unroll` of the kernel to run, or None for the scan; `asked` is what kernels have not."""
  if backend not in BACKENDS:
    words = ', '.join(BACKENDS)
    raise ValueError(f'backend must be one of {words}, not {backend!r}{near(backend, BACKENDS)}')
  found = None
  if backend != 'scan' and not asked and cell.fused is not None:
    if fused.supports(cell, params, xs):
      found = fused.unroll
    else:
      # Only here, as loading Numba takes half a second.
      from rnnlab.recurrence.kernels import native

      found = native.unroll if native.supports(cell, params, xs) else None
  if backend == 'kernel' and found is None:
    if cell.fused is None:
      why = 'this cell has none'
    elif asked:
      why = f'none has {" and ".join(asked)}'
    else:
      why = (
        f'xs is {checks.said(xs)} and w_h {checks.said(params["w_h"])}, on'
        f' {jax.default_backend()}. All must be float32, the batch not empty; on a CPU the hidden'
        ' size must be a multiple of 16; on a GPU 16, 32, 64 or 128, and'
        ' jax_default_matmul_precision must ask for no more than TF32'
      )
    raise ValueError(f"backend='kernel': no kernel can run this: {why}")
  _say(cell.fused, found and found.__module__)
  return found


@functools.cache
def _say(name, module):
  logging.vlog(1, 'rnnlab.unroll: %s runs as %s', name or 'a cell', module or 'a scan')


def _checkpointed(scan, reverse, carry, inputs):
  """`scan(carry, inputs)` in chunks of sqrt(T) steps, each of which is kept as its first carry."""
  steps = len(inputs[0])
  size = max(1, math.ceil(math.sqrt(steps)))
  count, rest = divmod(steps, size)
  chunk = jax.checkpoint(scan)

  def chunks(carry, inputs):
    inputs = jax.tree.map(lambda a: a.reshape(count, size, *a.shape[1:]), inputs)
    carry, ys = jax.lax.scan(chunk, carry, inputs, reverse=reverse)
    return carry, jax.tree.map(lambda a: a.reshape(count * size, *a.shape[2:]), ys)

  if not rest:
    return chunks(carry, inputs)
  left = jax.tree.map(lambda a: a[: count * size], inputs)
  right = jax.tree.map(lambda a: a[count * size :], inputs)
  if reverse:
    carry, ys_right = chunk(carry, right)
    carry, ys_left = chunks(carry, left)
  else:
    carry, ys_left = chunks(carry, left)
    carry, ys_right = chunk(carry, right)
  return carry, jax.tree.map(lambda *a: jnp.concatenate(a), ys_left, ys_right)


def _truncated(scan, reverse, k1, k2, carry, inputs):
  """`scan(carry, inputs)` by windows of k2 steps, each giving the ys of its last k1.

  A window starts at the carry of k2 steps before its end, through which no gradient goes; those
  that would start before the first step hold the given carry until then, by steps that are not
  real, as are those by which the last window is filled up.
  """
  xs, real, anew = inputs
  steps, batch = xs.shape[:2]
  if steps <= k1:
    return scan(carry, inputs)
  count, back = -(-steps // k1), k2 // k1
  before, after = k2 - k1, count * k1 - steps
  pad = (after, before) if reverse else (before, after)
  if before or after:
    real = jnp.ones((steps, batch), bool) if real is None else real

  def windows(a):
    blocks = jnp.pad(a, [pad] + [(0, 0)] * (a.ndim - 1))
    blocks = blocks.reshape(count + back - 1, k1, *a.shape[1:])
    return jnp.concatenate([blocks[i : i + count] for i in range(back)], axis=1)

  def window(starts, inputs):
    carry, ys = scan(starts[0], inputs)
    ys = jax.tree.map(lambda a: a[:k1] if reverse else a[k2 - k1 :], ys)
    return (*starts[1:], jax.lax.stop_gradient(carry)), (carry, ys)

  _, (carries, ys) = jax.lax.scan(
    window, (carry,) * back, jax.tree.map(windows, (xs, real, anew)), reverse=reverse
  )

  def joined(a):
    a = a.reshape(count * k1, *a.shape[2:])
    return a[after:] if reverse else a[:steps]

  carry = jax.tree.map(lambda a: a[0 if reverse else -1], carries)
  return carry, jax.tree.map(joined, ys)


def bidirectional(
  cell: Cell,
  params: tuple[Params, Params],
  xs: Array | Lookup,
  *,
  initial_carry: tuple[Carry, Carry] | None = None,
  dropout: tuple[Masks | None, Masks | None] | None = None,
  **options,
) -> tuple[tuple[Carry, Carry], Array]:
  """Runs `cell` both ways with a set of parameters each (Schuster & Paliwal 1997).

  Returns both carries and `ys [B, T, 2H]`, forward then backward. The backward pass starts at each
  row's last real step, not at the array's end. initial_carry, dropout: None, or a pair of them.
  `options`: lengths or mask, resets, return_carries, dtype, remat, truncate and backend, as in
  `unroll`. Raises as `unroll`, naming the direction.

  >>> cell, xs = rnnlab.gru(hidden_size=4), jnp.ones((2, 5, 3))
  >>> params = tuple(cell.init(key, 3) for key in jax.random.split(jax.random.key(0)))
  >>> (forward, backward), ys = rnnlab.bidirectional(cell, params, xs)
  >>> ys.shape
  (2, 5, 8)
  """
  if 'reverse' in options:
    raise TypeError('both directions are run: there is no reverse to give')
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
  **options,
) -> tuple[list, Array]:
  """Runs layers of cells, each over the outputs of the one before.

  cell: of all layers, or a list with one for each, which may be of any kinds and sizes.
  params: an item for each layer: a dict of parameters, or a pair of them for a layer that is
    bidirectional.
  initial_carry, dropout: None, or an item for each layer, as `unroll` or `bidirectional` has it;
    the carries that are returned are a next call's initial_carry.
  layer_dropout: the rate at which the outputs of each layer but the last are dropped, each value
    for itself, as PyTorch's and Keras's stacks do it; above 0, or traced, it needs a `key`.
  options: lengths or mask, resets, backend, return_carries, dtype, remat and truncate, as in
    `unroll`; and reverse, where no layer is bidirectional.

  Returns the list of the layers' carries and the last layer's ys. Raises as `unroll`, naming the
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
  cells = [cell] * count if isinstance(cell, Cell) else checks.each('cell', cell, count, layers)
  starts = checks.each('initial_carry', initial_carry, count, layers)
  masks = checks.each('dropout', dropout, count, layers)
  _check_rate('layer_dropout', layer_dropout)
  drops = not is_off(layer_dropout)
  if drops and key is None:
    raise ValueError('layer_dropout needs a key, as jax.random.key(0)')
  carries = []
  for i, layer in enumerate(params):
    if drops and i:
      xs = drop(jax.random.fold_in(key, i), xs, layer_dropout)
    run = bidirectional if isinstance(layer, list | tuple) else unroll
    with checks.within(f'layer {i}'):
      carry, xs = run(cells[i], layer, xs, initial_carry=starts[i], dropout=masks[i], **options)
    carries.append(carry)
  return carries, xs


def drop(key: Array, xs: Array, rate) -> Array:
  """Drops each value with probability `rate` and scales those kept by 1 / (1 - rate)."""
  kept = jax.random.bernoulli(key, 1 - rate, xs.shape)
  return jnp.where(kept, xs / (1 - rate), 0)


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
    _check_rate(name, p)
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


def is_off(rate) -> bool:
  """Whether a rate is known to be 0, so that what it is of is left out; a traced one is not."""
  return not isinstance(rate, jax.core.Tracer) and rate == 0


def _check_rate(name, rate):
  if not isinstance(rate, jax.core.Tracer) and not 0 <= rate < 1:
    raise ValueError(f'{name} must be at least 0 and below 1, not {rate}')


def is_truncation(value) -> bool:
  """Whether `value` is a `truncate` of `unroll`."""
  return (
    isinstance(value, tuple | list)
    and len(value) == 2
    and all(isinstance(k, int) and not isinstance(k, bool) and k > 0 for k in value)
    and value[1] % value[0] == 0
  )


def _bernoulli(key, rate, shape, dtype):
  keep = jnp.asarray(1 - rate, dtype)
  return jax.random.bernoulli(key, 1 - rate, shape).astype(dtype) / keep
