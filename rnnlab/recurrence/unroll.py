"""Running one cell over time, in one direction, and the choice of what runs it."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import logging

from rnnlab.cells import near
from rnnlab.cells.base import Array, Carry, Cell, Lookup, Params, kernel_name, linear
from rnnlab.machine import devices
from rnnlab.recurrence import checks, chunkwise, engine, parallel
from rnnlab.recurrence.dropout import Masks, products
from rnnlab.recurrence.kernels import gpu
from rnnlab.recurrence.memory import TRUNCATION, checkpointed, is_truncation, truncated

BACKENDS = 'auto', 'scan', 'kernel', 'parallel'
CHUNKED = 'mlstm'  # the `Cell.fused` of the equations that `chunkwise` has


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
  dtype: Any = None,
  remat: bool = False,
  truncate: tuple[int, int] | None = None,
  backend: str = 'auto',
) -> tuple[Carry, Array]:
  """Scans `cell` over `xs [B, T, D]`; returns the final carry and `ys [B, T, H]`.

  For a sequence `[T, D]` without a batch axis, the results and all other arguments lack it too.

  xs may be a `Lookup` in a table, such as an embedding: if that has fewer rows than there are
    steps, a kernel computes the products of inputs once per row.
  lengths: int `[B]`, the real steps of each row, the rest being padding on the right; or
  mask: bool `[B, T]`, True at the real steps, in any pattern. A padded step leaves the carry
    unchanged, has y = 0, and takes no part in any gradient, whatever xs holds there.
  reverse: from the last real step to the first; ys stay in the order of xs.
  initial_carry: as made by `cell.initial_carry`, which is used if None.
  resets: bool `[B, T]`, True at the first step of an episode: before that step, in time, the carry
    is reset by `cell.initial_carry`, even if the step is padding, and no gradient passes. With
    reverse, an episode's last step comes first, so that the carry is reset before the step t with
    resets[:, t + 1].
  return_carries: returns the carries after every step in place of the final one, as arrays
    `[B, T, ...]` in the order of xs.
  dropout: masks to multiply the operand of each of the step's products with, the same at every
    step, as drawn by `dropout_masks`: `[B, K]`, or `[G, B, K]` for one per gate.
  dtype: the type that the operands of the step's products are rounded to, such as jnp.bfloat16, or
    None for no rounding; sums, the carry and ys keep theirs.
  remat: keeps the carry only at every sqrt(T)-th step, and recomputes what else the gradients need
    (Chen et al. 2016): memory grows as sqrt(T), at the cost of one more forward pass.
  truncate: `(k1, k2)`, back-propagation through time truncated as BPTT(k2; k1) (Williams & Peng
    1990): the gradient by the outputs of k1 steps goes back through these and the k2 - k1 before
    them. Values do not change. The k1 steps are counted in the order of computation, padding
    included; the last ones are fewer if k1 does not divide T. The gradient by the final carry goes
    back as far as that by the last outputs. Steps are computed k2 / k1 times, and memory grows
    alike: less with remat, which then acts within each k2 steps.

  backend: 'scan' or 'kernel' to run as a scan or as one kernel, a ValueError if no kernel can;
    'parallel' for all steps at once, for a cell that is linear in its carry, without remat and
    truncate, or for chunks of steps, for `mlstm`, without return_carries and resets too. 'auto' for
    a kernel if one can: `gpu.supports` on a GPU, `cpu.call.supports` on a CPU, and none of
    return_carries, dtype, remat and truncate; or for all steps at once if that pays.

  Raises ValueError, or TypeError for a wrong type, naming the argument, its shape and dtype and the
  expected ones: parameters are those made by `cell.init` for D inputs, in any float dtypes, xs are
  floats, and a carry is of the dtype that xs and params are promoted to. Lengths outside 0..T and
  ids outside a `Lookup`'s table are errors if they are known; a row with a traced id outside the
  table starts from NaN, and so its results are NaN.

  >>> cell, xs = rnnlab.lstm(hidden_size=4), jnp.ones((2, 5, 3))
  >>> params = cell.init(jax.random.key(0), 3)
  >>> carry, ys = rnnlab.unroll(cell, params, xs, lengths=jnp.array([5, 2]))
  >>> carry.h.shape, ys.shape, ys[1, 2:].any().item()
  ((2, 4), (2, 5, 4), False)
  """
  checks.cell(cell)
  xs = checks.xs(xs)
  *leading, steps, input_size = xs.shape
  batch = tuple(leading)
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
    resets = _in_reverse(resets) if reverse else resets
  options = Options(return_carries, dtype, remat, truncate)
  kernel = _kernel(cell, params, xs, backend, options)

  table, xs = xs if isinstance(xs, Lookup) else (None, xs)
  if not batch:
    several = xs, mask, resets, initial_carry
    xs, mask, resets, initial_carry = jax.tree.map(lambda a: a[None], several)
    dropout = jax.tree.map(lambda a: jnp.expand_dims(a, -2), dropout)
  if table is not None and any(isinstance(a, jax.core.Tracer) for a in (xs, mask)):
    unknown = _unknown(xs, mask, len(table))
    initial_carry = jax.tree.map(functools.partial(_spoilt, unknown), initial_carry)
    resets = None if resets is None else resets & ~unknown[:, None]

  run = _in_scan if kernel is None else functools.partial(_in_kernel, kernel)
  if _at_once(cell, initial_carry, steps, backend, options, resets):
    run = functools.partial(_in_scan, at_once=True)
  arguments = params, initial_carry, table, xs, mask, resets, dropout
  axes = None, 0, None, 0, 0, 0, -2
  run = functools.partial(run, cell, kind, reverse, options)
  out = devices.over_batch(run, arguments, axes=axes, out_axes=(0, 0))
  return out if batch else jax.tree.map(lambda a: a[0], out)


class Options(NamedTuple):
  """The options that a scan supports and no kernel does; see `unroll`."""

  return_carries: bool
  dtype: Any
  remat: bool
  truncate: tuple[int, int] | None


def _in_reverse(resets):
  """Where the carry is reset before a step, for a run from the last step to the first.

  An episode's last step is the one before another's first.
  """
  last = jnp.zeros_like(resets[..., :1])
  return jnp.concatenate([resets[..., 1:], last], axis=-1) if resets.shape[-1] else resets


def _in_kernel(kernel, cell, kind, reverse, options, params, carry, table, xs, mask, resets, drop):
  """The result of `kernel` for these arguments, all of them in the carry's dtype."""
  params = jax.tree.map(lambda w: w.astype(kind), params)
  xs = xs.astype(kind) if table is None else Lookup(table.astype(kind), xs)
  given = {'mask': mask, 'resets': resets, 'dropout': drop, 'initial_carry': carry}
  return kernel(cell, params, xs, reverse=reverse, **given)


def _in_scan(
  cell, kind, reverse, options, params, carry, table, xs, mask, resets, drop, at_once=False
):
  """The result of scanning the cell's step: the carry, or all carries, and ys.

  at_once: computes all steps or a chunk of them at once, as in `parallel` and `chunkwise`.
  """
  xs = xs if table is None else Lookup(table, xs).rows()
  new = None if resets is None else cell.initial_carry(xs.shape[:1], kind)
  xs, real, anew = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), (xs, mask, resets))
  if real is not None:
    xs = jnp.where(real[..., None], xs, 0)  # a NaN in the padding would reach the gradients

  if not at_once:
    run = functools.partial(engine.scan, cell.step)
  else:
    of = linear(cell)
    run = chunkwise.scan if of is None else functools.partial(parallel.scan, of)

  def scan(carry, inputs):
    xs, real, anew = inputs
    return run(
      params,
      carry,
      xs,
      real=real,
      resets=None if anew is None else engine.Resets(anew, new),
      masks=drop,
      reverse=reverse,
      dtype=options.dtype,
      every=options.return_carries,
    )

  if options.remat:
    scan = functools.partial(checkpointed, scan, reverse)
  if options.truncate is not None:
    scan = functools.partial(truncated, scan, reverse, *options.truncate)
  carry, out = scan(carry, (xs, real, anew))
  out = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), out)
  return out[::-1] if options.return_carries else (carry, out)


def _unknown(ids, mask, rows):
  """bool `[B]`: the rows of a batch with an id outside a table, at a step that is real.

  All results of such a row must be NaN, at a cost that does not grow with T: so it starts from NaN.
  """
  unknown = (ids < 0) | (ids >= rows)
  return (unknown if mask is None else unknown & mask).any(axis=1)


def _spoilt(rows, a):
  """`a`, an array of a carry, but NaN in the `rows [B]`."""
  if not jnp.issubdtype(a.dtype, jnp.inexact):
    return a
  return jnp.where(rows.reshape(-1, *[1] * (a.ndim - 1)), jnp.nan, a)


def _kernel(cell, params, xs, backend, options):
  """The `unroll` of the kernel to run, or None for the scan."""
  if backend not in BACKENDS:
    words = ', '.join(BACKENDS)
    raise ValueError(f'backend must be one of {words}, not {backend!r}{near(backend, BACKENDS)}')
  asked = [n for n, value in options._asdict().items() if value is not None and value is not False]
  found = None
  if backend in ('auto', 'kernel') and not asked and kernel_name(cell) not in (None, CHUNKED):
    if gpu.supports(cell, params, xs):
      found = gpu.unroll
    else:
      # Only here, as loading Numba takes half a second.
      from rnnlab.recurrence.kernels.cpu import call as cpu

      found = cpu.unroll if cpu.supports(cell, params, xs) else None
  _say(str(cell), found and found.__module__)
  if backend != 'kernel':
    return found
  if found is None:
    raise ValueError(f"backend='kernel': no kernel can run this: {_why(cell, params, xs, asked)}")
  return functools.partial(found, must=True)


def _why(cell, params, xs, asked):
  """Why no kernel can run a cell, in words."""
  if cell.fused is None:
    return f'{checks.called(cell)} has none'
  if kernel_name(cell) is None:
    return (
      f'that of {cell.fused} needs the step and the initial_carry of its factory, and'
      f' {checks.called(cell)} has others'
    )
  if cell.fused == CHUNKED:
    return f"{checks.called(cell)} has chunks of steps instead, backend='parallel'"
  if asked:
    return f'none supports {" and ".join(asked)}'
  return (
    f'xs is {checks.said(xs)} and w_h {checks.said(params["w_h"])}, on'
    f' {jax.default_backend()}. All must be float32, and no axis of xs empty or, on a CPU, unknown;'
    ' on a GPU the hidden size must be 16, 32, 64 or 128, and jax_default_matmul_precision unset,'
    " 'default' or 'tensorfloat32'"
  )


def _at_once(cell, carry, steps, backend, options, resets):
  """Whether to take steps at once, as `parallel` and `chunkwise` do; an empty sequence is scanned.

  Raises ValueError if `backend` asks for that and it is impossible.
  """
  chunks = kernel_name(cell) == CHUNKED
  given = options._asdict() | {'resets': resets is not None}
  lacks = ('remat', 'truncate', *(('return_carries', 'resets') if chunks else ()))
  asked = [name for name in lacks if given[name]]
  can = chunks or linear(cell) is not None
  if backend == 'parallel' and not can:
    raise ValueError(f"backend='parallel': {checks.called(cell)} is not linear in its carry")
  if backend == 'parallel' and asked:
    raise ValueError(f"backend='parallel': it does not support {' and '.join(asked)}")
  if not can or asked or not steps:
    return False
  pays = chunkwise.pays if chunks else parallel.pays
  return backend == 'parallel' or backend == 'auto' and pays(carry, steps)


@functools.cache
def _say(cell, module):
  logging.vlog(1, 'rnnlab.unroll: %s %s', cell, f'runs as {module}' if module else 'has no kernel')
