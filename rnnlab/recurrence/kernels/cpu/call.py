"""LSTM and GRU over a whole sequence in one CPU kernel for each direction, as called from JAX.

XLA runs a scan on a CPU as some thirty small kernels per step, and keeps the residuals of the
backward pass in as many arrays. Here a step's products run at the machine's peak from weights in
its cache, masks are applied on the way, gates are computed in place, and weight gradients are added
up in products of a few hundred rows while these are in the cache. XLA calls a kernel as an FFI
target, on each device's own thread, with that device's part of the batch.

Everything is float32. B rows, T steps, D inputs, H units, G gates, and P blocks of H
pre-activations; see `sequence`.
"""

import ctypes
import functools
import pathlib
import sys
import threading
from typing import NamedTuple

import jax
import jax.numpy as jnp
import llvmlite.binding
import numba
import numpy as np
from absl import logging

from rnnlab.cells.base import Array, Carry, Cell, Lookup, Params, kernel_name
from rnnlab.recurrence.kernels import compiled, gates
from rnnlab.recurrence.kernels import rule as kernels
from rnnlab.recurrence.kernels.cpu import ffi, sequence, tile
from rnnlab.recurrence.kernels.cpu.cells import BLOCKS, KINDS
from rnnlab.recurrence.kernels.cpu.sequence import REAL, RESET
from rnnlab.recurrence.kernels.cpu.target import TARGETS
from rnnlab.recurrence.kernels.cpu.tile import PANEL

_registering = threading.Lock()  # XLA accepts a name only once, and threads may trace concurrently


@functools.cache
def _key():
  cpu = llvmlite.binding.get_host_cpu_name(), llvmlite.binding.get_host_cpu_features().flatten()
  versions = sys.version_info, numba.__version__, llvmlite.__version__
  sources = sorted(pathlib.Path(__file__).parent.glob('*.py'))
  return compiled.digest(cpu, versions, *sources)


def _register(name):
  """Registers a kernel with XLA, once, compiling it if needed."""
  with _registering:
    _registered(name)


@functools.cache
def _registered(name):
  address = compiled.address(f'rnnlab_{name}', _key(), TARGETS[name], tile.options)
  capsule = jax.ffi.pycapsule(ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(address))
  jax.ffi.register_ffi_target(f'rnnlab_{name}', capsule, platform='cpu')


def _works(name, inputs):
  """Whether the kernel of this name can be used here; logs the reason if not."""
  return _is_known_to_fit() and compiled.works(f'rnnlab_{name}', _key(), PROBES[name])


@functools.cache
def _is_known_to_fit():
  version = ffi.version()
  if version not in ffi.KNOWN:
    known = ', '.join(f'{major}.{minor}' for major, minor in sorted(ffi.KNOWN))
    words = "The CPU kernels are for version %s of XLA's FFI, not %d.%d: the scan is used."
    logging.warning(words, known, *version)
  return version in ffi.KNOWN


def _probe_forward():
  for plan, data, inputs in _problems():
    moves = np.asarray(data[0].real).T[..., None]  # what is kept of other steps is never read

    def run(f, data=data, inputs=inputs, moves=moves):
      outputs, (hs, cs, kept) = jax.jit(f)(data, inputs)
      return outputs, hs, cs, np.where(moves, kept, 0)

    desired = run(functools.partial(_scan, plan))
    compiled.compare(run(functools.partial(_call_forward, plan, True)), desired, 1e-3)


def _probe_backward():
  for plan, data, inputs in _problems():

    def scan(data, inputs, plan=plan):
      outputs, pull, saved = jax.vjp(lambda i: _scan(plan, data, i), inputs, has_aux=True)
      return saved, outputs, pull(outputs)[0]

    saved, outputs, desired = jax.jit(scan)(data, inputs)
    d_inputs = jax.jit(functools.partial(_call_backward, plan))(data, inputs, saved, outputs)
    compiled.compare(d_inputs, desired, 1e-3)


PROBES = {'forward': _probe_forward, 'backward': _probe_backward}


def _problems():
  """A small problem of each kind, with units that fill a panel and units that don't."""
  batch, steps, size, draw = 5, 4, 7, np.random.default_rng(0)

  def normal(*shape):
    return draw.normal(0, 0.5, shape).astype(np.float32)

  for name, count, hidden in zip(KINDS, (4, 3, 3), (PANEL, 16, 43), strict=True):
    columns = count * hidden
    carry = tuple(normal(batch, hidden) for _ in range(2 if name == 'lstm' else 1))
    b_hn = normal(hidden) if name == 'gru-after' else None
    weights = normal(size, columns), normal(columns), normal(hidden, columns) / 4, b_hn
    rows = gates.Rows(*(draw.random((2, batch, steps)) < 0.7))
    data = rows, None, np.abs(normal(count, batch, hidden)), None
    inputs = Inputs(normal(batch, steps, size), *weights, carry)
    cpu = jax.local_devices(backend='cpu')[0]
    yield Plan(name, name == 'gru-after'), *jax.device_put((data, inputs), cpu)


# The kernels as called from JAX: a `rule.Kernels` of `Inputs` and of `data`, which are `gates.Rows`
# of [B, T], the dropout masks of x and of h, and the ids [B, T] of a `Lookup`. It saves hs, cs and
# kept.


class Plan(NamedTuple):
  """What is fixed when a kernel is made."""

  name: str  # in KINDS
  reverse: bool


class Inputs(NamedTuple):
  """The arrays to differentiate with respect to."""

  xs: Array  # [B, T, D], or a table [V, D]
  w_x: Array  # [D, G * H]
  b: Array  # [G * H]
  w_h: Array  # [H, G * H]
  b_hn: Array | None  # [H], for GRU with the reset after the product
  carry: tuple[Array, ...]  # the states [B, H] before the first step


def supports(cell: Cell, params: Params, xs: Array | Lookup) -> bool:
  """Whether `unroll` may run `cell` over `xs [B, T, D]` as a kernel: only if JAX computes on a CPU.

  True for an LSTM or a GRU in float32 of known sizes; those of an export may be unknown.
  """
  device = jax.config.jax_default_device
  return (
    kernel_name(cell) in KINDS
    and (getattr(device, 'platform', device) or jax.default_backend()) == 'cpu'
    and jnp.result_type(xs.dtype, *params.values()) == jnp.float32
    and 0 not in xs.shape
    and all(isinstance(size, int) for size in xs.shape)
  )


def unroll(
  cell: Cell,
  params: Params,
  xs: Array | Lookup,
  *,
  mask: Array | None = None,
  reverse: bool = False,
  initial_carry: Carry | None = None,
  dropout=None,
  resets: Array | None = None,
  must: bool = False,
) -> tuple[Carry, Array]:
  """`recurrence.unroll` for the cells that `supports` names, with its arguments and results.

  xs `[B, T, D]`, mask bool `[B, T]` or None, dropout a mask for each product of the step or None.
  resets: bool `[B, T]` or None. Where it is True, the row's carry is reset to `cell.initial_carry`
    before the step, masked or not, and no gradient flows further back.
  must: raises ValueError if the kernel does not work on this machine, instead of using a scan.
  Float32. On other devices than CPUs it is a scan of the same equations.
  """
  batch, hidden = xs.shape[0], params['w_h'].shape[0]
  if initial_carry is None:
    initial_carry = cell.initial_carry((batch,), jnp.float32)
  gates.check(cell, params, xs, initial_carry, mask, resets, dropout)
  drop_x, *drops_h = dropout or (None, None)
  drops = gates.stacked(drop_x), gates.stacked_of_state(drops_h, (batch, hidden))
  states, structure = jax.tree.flatten(initial_carry)
  xs, ids = xs if isinstance(xs, Lookup) else (xs, None)
  inputs = Inputs(xs, *(params.get(name) for name in ('w_x', 'b', 'w_h', 'b_hn')), tuple(states))
  rows = gates.Rows(mask, resets)
  data = rows, *jax.tree.map(lambda drop: drop.astype(jnp.float32), drops), ids
  inputs = jax.tree.map(lambda a: a.astype(jnp.float32), inputs)
  plan = Plan(cell.fused, reverse)
  if resets is None or gates.starts_at_zeros(cell):
    ((*carry, ys), _) = kernels.run(_kernels(plan, must), False, data, inputs)
  else:
    anew = tuple(jax.tree.leaves(cell.initial_carry((batch,), jnp.float32)))
    ((*carry, ys), _) = _scan(plan, data, inputs, anew)
  return structure.unflatten(carry), ys


@functools.cache
def _kernels(plan, must=False):
  parts = (functools.partial(f, plan) for f in (_scan, _call_forward, _call_backward))
  return kernels.Kernels(*parts, platform='cpu', works=_works, must=must)


def _scan(plan, data, inputs, anew=None):
  """The same computation in plain JAX; anew as in `gates.scan`."""
  (rows, drop_x, drop_h), inputs = _looked_up(data, inputs)
  real = rows.real
  count = inputs.w_x.shape[1] // inputs.w_h.shape[0]
  xs = inputs.xs if real is None else jnp.where(real[..., None], inputs.xs, 0)
  xp = gates.products(inputs.w_x, drop_x, [(jnp.swapaxes(xs, 0, 1), count)]) + inputs.b
  same = gates.Plan(gates.CELLS[plan.name], plan.reverse, interpret=False)
  of_scan = gates.Inputs(xp, inputs.w_h, inputs.b_hn, inputs.carry, drop_h)
  rows = jax.tree.map(jnp.transpose, rows)
  (carry, ys), (states, kept) = gates.scan(same, rows, of_scan, anew)
  hs, cs = states if len(states) == 2 else (*states, xp[:, :0, : inputs.w_h.shape[0]])
  return (*carry, jnp.swapaxes(ys, 0, 1)), (hs, cs, jnp.concatenate(kept, axis=-1))


def _looked_up(data, inputs):
  """The data without ids, and the inputs with the rows that the ids select."""
  *data, ids = data
  return data, inputs if ids is None else inputs._replace(xs=inputs.xs[ids])


def _operands(plan, data, inputs, steps):
  """The operands of both targets: flags, bits, the dropout masks; a missing one has no rows."""
  (real, resets), *drops = data
  batch = len(inputs.carry[0])
  flags = np.array([KINDS.index(plan.name), plan.reverse], np.int32)
  drops = [
    jnp.zeros((0, batch, len(w)), jnp.float32) if drop is None else drop
    for drop, w in zip(drops, (inputs.w_x, inputs.w_h), strict=True)
  ]
  if resets is not None:
    moves = REAL if real is None else REAL * real.astype(jnp.uint8)
    real = moves + RESET * resets.astype(jnp.uint8)
  return flags, jnp.zeros((0, steps), bool) if real is None else real, drops


def _call(name, rooms, shapes, *operands):
  _register(name)
  results = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  # Of integers: jax_debug_nans would find NaN in floats that nobody has written.
  results.append(jax.ShapeDtypeStruct((sequence.room_size(rooms),), jnp.int32))
  *results, _ = jax.ffi.ffi_call(f'rnnlab_{name}', results, vmap_method='sequential')(*operands)
  return results


def _states(carry):
  """h and c of a carry; c has no rows if the carry has none."""
  return carry if len(carry) == 2 else (*carry, jnp.zeros((0, carry[0].shape[1]), jnp.float32))


def _split(data, inputs):
  """The masks, the ids and the inputs for a kernel.

  There are ids if it looks up products, which are computed once for each row of the table: if that
  has fewer rows than there are steps, and there is no dropout between it and the products. The
  inputs xs, w_x and the mask of x have then no features.
  """
  *masks, ids = data
  if ids is None or masks[1] is not None or len(inputs.xs) >= ids.size:
    masks, inputs = _looked_up(data, inputs)
    return masks, jnp.zeros((0, inputs.xs.shape[1]), jnp.int32), inputs
  ids = jnp.clip(ids, 0, len(inputs.xs) - 1).astype(jnp.int32)  # the kernel reads at these places
  none = jnp.zeros((*ids.shape, 0), jnp.float32)
  return masks, ids, inputs._replace(xs=none, w_x=inputs.w_x[:0])


def _call_forward(plan, save, data, given):
  masks, ids, inputs = _split(data, given)
  xs = (given.xs @ given.w_x + given.b)[None] if len(ids) else inputs.xs
  steps, (h, c) = ids.shape[1], _states(inputs.carry)
  flags, real, drops = _operands(plan, masks, inputs, steps)
  b_hn = jnp.zeros(0, jnp.float32) if inputs.b_hn is None else inputs.b_hn
  (batch, hidden), long = h.shape, steps if save else 0
  kind, size = KINDS.index(plan.name), len(inputs.w_x)
  blocks, rooms = BLOCKS[kind], sequence.forward_rooms(kind, save, batch, steps, size, hidden)
  shapes = [(batch, steps, hidden), h.shape, c.shape]
  shapes += [(long, batch, hidden), (long, *c.shape), (long, batch, blocks * hidden)]
  weights = inputs.w_x, inputs.b, inputs.w_h, b_hn
  ys, *after = _call('forward', rooms, shapes, flags, xs, real, ids, *weights, h, c, *drops)
  carry, saved = after[: len(inputs.carry)], after[2:]
  return (*carry, ys), tuple(saved) if save else None


def _call_backward(plan, data, given, saved, d_outputs):
  masks, ids, inputs = _split(data, given)
  flags, real, drops = _operands(plan, masks, inputs, inputs.xs.shape[1])
  *d_carry, d_ys = d_outputs
  d_h, d_c = _states(tuple(d_carry))
  shapes = [inputs.xs.shape, (len(given.xs) if len(ids) else 0, len(inputs.b))]
  shapes += [inputs.w_x.shape, inputs.b.shape, inputs.w_h.shape]
  shapes += [(0,) if inputs.b_hn is None else inputs.b_hn.shape, d_h.shape, d_c.shape]
  operands = flags, inputs.xs, real, ids, inputs.w_x, inputs.w_h, *drops, *saved, d_ys, d_h, d_c
  rooms = sequence.backward_rooms(KINDS.index(plan.name), *inputs.xs.shape, d_h.shape[1])
  d_xs, d_products, d_w_x, *rest = _call('backward', rooms, shapes, *operands)
  d_b, d_w_h, d_b_hn, *d_first = rest
  if len(ids):
    d_xs, d_w_x = d_products @ given.w_x.T, given.xs.T @ d_products
  elif data[-1] is not None:
    d_xs = jnp.zeros_like(given.xs).at[data[-1]].add(d_xs)
  d_b_hn = None if inputs.b_hn is None else d_b_hn
  return Inputs(d_xs, d_w_x, d_b, d_w_h, d_b_hn, tuple(d_first[: len(inputs.carry)]))
