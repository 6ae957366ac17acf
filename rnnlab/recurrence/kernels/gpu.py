"""LSTM and GRU over a whole sequence: a GPU kernel for the forward pass, one for the backward.

A scan on a GPU launches small kernels at every step: with the usual hidden sizes it waits far
longer than it computes. Here (in Pallas, on Triton) each program takes a block of rows through all
steps; it loads the recurrent weights once, or with 128 units at each use, from the cache. The input
products and the gradients of weights and biases are computed outside the kernels, over all steps at
once.

On devices other than NVIDIA GPUs, and where `rule` says so, a plain scan computes the same.
Time-major `[T, B, ...]` inside; G gates, H hidden units.
"""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from rnnlab.cells.base import Array, Carry, Cell, Lookup, Params, kernel_name
from rnnlab.recurrence.kernels import compiled, gates
from rnnlab.recurrence.kernels import rule as kernels
from rnnlab.recurrence.kernels.gates import (
  CELLS,
  Inputs,
  Plan,
  Rows,
  check,
  gate_dot,
  products,
  scan,
  stacked,
  stacked_of_state,
  starts_at_zeros,
  step_backward,
  step_forward,
)

ROWS = 16  # of a program's block: the fewest that a tensor core accepts
WARPS = {16: 1, 32: 4, 64: 8, 128: 8}  # per program, by hidden size: powers of two, as Triton needs
RESIDENT = 64  # the largest hidden size whose weights a program loads once, not at each use


def supports(cell: Cell, params: Params, xs: Array | Lookup) -> bool:
  """Whether `unroll` may run `cell` over `xs [B, T, D]`, and would run it as a kernel.

  True for an LSTM or a GRU (by `kernel_name`) of 16, 32, 64 or 128 hidden units, in float32, if
  JAX computes on a GPU, no axis of xs is empty, and jax_default_matmul_precision is None, 'default'
  or 'tensorfloat32': the kernels' products are in TF32.
  """
  device = jax.config.jax_default_device  # type: ignore[attr-defined]
  precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
  platform = getattr(device, 'platform', device) or jax.default_backend()
  return (
    kernel_name(cell) in CELLS
    and platform in ('gpu', 'cuda')
    and params['w_h'].shape[0] in WARPS
    and jnp.result_type(xs.dtype, *params.values()) == jnp.float32
    and precision in (None, 'default', 'tensorfloat32')
    and 0 not in xs.shape
  )


def unroll(
  cell: Cell,
  params: Params,
  xs: Array | Lookup,
  *,
  mask: Array | None = None,
  reverse: bool = False,
  initial_carry: Carry | None = None,
  dropout: Sequence[Array | None] | None = None,
  resets: Array | None = None,
  must: bool = False,
  interpret: bool = False,
) -> tuple[Carry, Array]:
  """`recurrence.unroll` for the cells that `supports` names, with its arguments and results.

  xs: `[B, T, D]`. mask: bool `[B, T]` or None. dropout: None, or for each product of a step a mask
    or None.
  resets: bool `[B, T]` or None. Where it is True, the row's carry is reset to `cell.initial_carry`
    before the step, whether the step is masked or not, and no gradient flows further back.
  must: whether to raise ValueError if a kernel does not work on this machine, instead of using a
    scan.
  interpret: whether to run the kernels' own code on any device, slowly, for tests; else, on devices
    other than NVIDIA GPUs, it is a scan of the same equations.
  With resets to a carry that is not all zeros, it is that scan on any device.
  """
  xs = xs.rows() if isinstance(xs, Lookup) else xs
  dtype = jnp.result_type(xs, *params.values())
  batch, hidden = xs.shape[0], params['w_h'].shape[0]
  gates = params['w_h'].shape[1] // hidden
  if initial_carry is None:
    initial_carry = cell.initial_carry((batch,), dtype)
  check(cell, params, xs, initial_carry, mask, resets, dropout)
  if mask is not None:
    xs = jnp.where(mask[..., None], xs, 0)  # else a NaN there would reach the weights' gradients
  drop_x, *drops_h = dropout or (None, None)
  xp = products(params['w_x'], stacked(drop_x), [(jnp.swapaxes(xs, 0, 1), gates)]) + params['b']

  pad = -batch % ROWS
  structure: Any
  states, structure = jax.tree.flatten(initial_carry)
  drop = stacked_of_state(drops_h, (batch, hidden))
  inputs = Inputs(
    xp=_pad(xp.astype(dtype), 1, pad),
    w_h=params['w_h'].astype(dtype),
    b_hn=params['b_hn'].astype(dtype) if 'b_hn' in params else None,
    carry=tuple(_pad(state.astype(dtype), 0, pad) for state in states),
    drop=None if drop is None else _pad(drop.astype(dtype), 1, pad),
  )
  rows = Rows(*(None if a is None else _pad(a.T, 1, pad) for a in (mask, resets)))
  plan = Plan(CELLS[str(cell.fused)], reverse, interpret)
  if resets is None or starts_at_zeros(cell):
    (carry, ys), _ = kernels.run(_kernels(plan, must), False, rows, inputs)
  else:
    anew = tuple(jax.tree.leaves(cell.initial_carry((batch + pad,), dtype)))
    (carry, ys), _ = scan(plan, rows, inputs, anew)
  return structure.unflatten([state[:batch] for state in carry]), jnp.swapaxes(ys[:, :batch], 0, 1)


def _pad(a, axis, count):
  """Pads with rows of zeros, whose results are ignored."""
  return jnp.pad(a, [(0, count if i == axis else 0) for i in range(a.ndim)]) if count else a


# The kernels, as one program runs them on its block of ROWS rows; the grid's only axis is that of
# the blocks. The arguments are trees of refs, structured as the arrays that they refer to.


def _forward_kernel(plan, rows, inputs, outputs, saved):
  steps, _, width = inputs.xp.shape
  hidden = inputs.w_h.shape[0]
  gates = [pl.ds(start, hidden) for start in range(0, width, hidden)]
  weights = _weights(inputs.w_h, [(slice(None), gate) for gate in gates])
  dot = gate_dot(weights, _masks(inputs.drop), True)
  b_hn = None if inputs.b_hn is None else inputs.b_hn[...]
  carry, ys = outputs

  def load(t):
    return tuple(inputs.xp[t, :, gate] for gate in gates), _rows(rows, t)

  def step(t, state, loaded):
    x, rows = loaded
    state, ys[t], values = step_forward(plan, x, state, b_hn, dot, rows)
    if saved is not None:
      _write(saved, t, values)
    return state

  _write(carry, ..., _loop(steps, plan.reverse, load, step, _read(inputs.carry, ...)))


def _backward_kernel(plan, rows, w_t, drop, saved, d_outputs, d_xp, d_initial):
  d_carry, d_ys = d_outputs
  steps, _, hidden = d_ys.shape
  gates = [pl.ds(start, hidden) for start in range(0, d_xp.shape[2], hidden)]
  weights = _weights(w_t, [(gate, slice(None)) for gate in gates])
  dot_t = gate_dot(weights, _masks(drop), False)

  def load(t):
    return _read(saved, t), d_ys[t], _rows(rows, t)

  def step(t, state, loaded):
    d_x, state = step_backward(plan, *loaded[:2], state, dot_t, loaded[2])
    for gate, d in zip(gates, d_x, strict=True):
      d_xp[t, :, gate] = d
    return state

  _write(d_initial, ..., _loop(steps, not plan.reverse, load, step, _read(d_carry, ...)))


def _loop(steps, reverse, load, step, state):
  """Steps through time, loading the arrays of a step one step ahead, since memory is slow."""

  def at(s):
    return steps - 1 - s if reverse else s

  def body(s, state_and_loaded):
    state, loaded = state_and_loaded
    ahead = load(at(jnp.minimum(s + 1, steps - 1)))
    return step(at(s), state, loaded), ahead

  return jax.lax.fori_loop(0, steps, body, (state, load(at(0))))[0]


def _weights(ref, blocks):
  """A function `k -> weights of gate k`: read once if H is at most RESIDENT, else at each use."""
  if min(ref.shape) <= RESIDENT:
    return [ref[block] for block in blocks].__getitem__
  return lambda k: ref[blocks[k]]


def _masks(ref):
  return None if ref is None else [ref[k] for k in range(ref.shape[0])]


def _rows(rows, t):
  return jax.tree.map(lambda ref: ref[t][:, None], rows)


def _read(refs, where):
  return jax.tree.map(lambda ref: ref[where], refs)


def _write(refs, where, values):
  for ref, value in zip(jax.tree.leaves(refs), jax.tree.leaves(values), strict=True):
    ref[where] = value


WHOLE = -1
AXES: Any = Inputs(1, WHOLE, WHOLE, 0, 1)  # type: ignore[arg-type]  # each field's axis of rows


def _forward(plan, save, rows, inputs):
  """The kernel's `(carry, ys), saved`; saved is None unless `save`."""
  outputs, saved = jax.eval_shape(functools.partial(scan, plan), rows, inputs)
  shapes = outputs, saved if save else None
  shape = inputs.carry[0].shape
  return _call(plan, _forward_kernel, shape, (rows, inputs), (1, AXES), shapes, ((0, 1), 1))


def _backward(plan, rows, inputs, saved, d_outputs):
  """The gradient with respect to `inputs`, given `saved` and that with respect to the outputs."""
  d_xp, d_carry = _call(
    plan,
    _backward_kernel,
    inputs.carry[0].shape,
    (rows, inputs.w_h.T, inputs.drop, saved, d_outputs),
    (1, WHOLE, 1, 1, (0, 1)),
    jax.eval_shape(lambda *a: a, inputs.xp, inputs.carry),
    (1, 0),
  )
  (h, *_), kept = saved
  d_x = jnp.split(d_xp, inputs.w_h.shape[1] // inputs.w_h.shape[0], axis=-1)
  operands, d = plan.cell.products(h, kept, d_x)
  _, pull = jax.vjp(lambda w, drop: products(w, drop, operands), inputs.w_h, inputs.drop)
  d_w_h, d_drop = pull(jnp.concatenate(d, axis=-1))
  d_b_hn = None if inputs.b_hn is None else d[-1].sum((0, 1))
  return Inputs(d_xp, d_w_h, d_b_hn, d_carry, d_drop)


def _call(plan, kernel, shape, arguments, axes, shapes, out_axes):
  """Runs `kernel` for every block of ROWS rows.

  axes, out_axes: which axis of the arguments and of the results is that of the rows; WHOLE for
  none: every program then gets the whole array.
  """

  def specs(axis, arrays):
    def spec(a):
      shape = tuple(ROWS if i == axis else size for i, size in enumerate(a.shape))
      return pl.BlockSpec(shape, lambda row: tuple(row if i == axis else 0 for i in range(a.ndim)))

    return jax.tree.map(spec, arrays)

  batch, hidden = shape
  return pl.pallas_call(
    functools.partial(kernel, plan),
    grid=(batch // ROWS,),
    in_specs=jax.tree.map(specs, axes, arguments),
    out_specs=jax.tree.map(specs, out_axes, shapes),
    out_shape=shapes,
    interpret=plan.interpret,
    compiler_params=triton.CompilerParams(num_warps=WARPS[hidden], num_stages=1),
  )(*arguments)


@functools.cache
def _kernels(plan, must=False):
  return kernels.Kernels(
    functools.partial(scan, plan),
    functools.partial(_forward, plan),
    functools.partial(_backward, plan),
    platform=None if plan.interpret else 'cuda',
    works=functools.partial(_works, plan),
    must=must,
  )


def _works(plan, name, inputs):
  """Whether both kernels work for this cell and hidden size on the GPU here, see `compiled.works`.

  True if there is no GPU: nothing can be tried, and the trace may be for another machine.
  """
  if plan.interpret or jax.default_backend() not in ('gpu', 'cuda'):
    return True
  (cell,) = (name for name, equations in CELLS.items() if equations is plan.cell)
  hidden, device = inputs.w_h.shape[0], jax.local_devices()[0]
  sources = pathlib.Path(__file__), pathlib.Path(gates.__file__)
  made_by = device.device_kind, device.client.platform_version, *sources
  run = functools.partial(probe, plan, hidden, device)
  return compiled.works(f'gpu-{cell}-{hidden}', compiled.digest(*made_by), run)


def probe(plan: Plan, hidden: int, device: jax.Device) -> None:
  """Runs a small problem on a device, forward and backward, with the kernels and with a scan.

  Raises `compiled.Wrong` if the results differ by more than a tolerance, which is wide since both
  compute products in TF32.
  """
  batch, steps, draw = 2 * ROWS, 4, np.random.default_rng(0)
  gates, states = (4, 2) if plan.cell is CELLS['lstm'] else (3, 1)

  def normal(*shape):
    return draw.normal(0, 0.5, shape).astype(np.float32)

  inputs = Inputs(
    xp=normal(steps, batch, gates * hidden),
    w_h=normal(hidden, gates * hidden) / np.float32(hidden**0.5),
    b_hn=normal(hidden) if plan.cell is CELLS['gru-after'] else None,
    carry=tuple(normal(batch, hidden) for _ in range(states)),
    drop=np.abs(normal(gates, batch, hidden)),
  )
  rows = Rows(*(draw.random((2, steps, batch)) < 0.7))
  rows, inputs = jax.device_put((rows, inputs), device)

  def both_ways(run):
    def f(rows, inputs):
      outputs, pull = jax.vjp(run, inputs)
      return outputs, pull(outputs)

    return jax.jit(f)(rows, inputs)

  alone = _kernels(plan)._replace(platform=None, works=kernels.always)
  actual = both_ways(lambda inputs: kernels.run(alone, False, rows, inputs)[0])
  compiled.compare(actual, both_ways(lambda inputs: scan(plan, rows, inputs)[0]), 3e-2)
