"""LSTM and GRU over a whole sequence in one GPU kernel each way (Pallas, Triton back end).

A scan on a GPU launches kernels at every step, and small ones: for the hidden sizes of this field
it waits far longer than it computes. Here a program takes a block of rows through all steps, the
recurrent weights staying on the chip (or, of 128 units, in its cache); input products, weight and
bias gradients are matrix products over all steps at once, outside the kernels.

Off NVIDIA GPUs, and for what `kernels` says, the same equations are a plain scan.
Time-major `[T, B, ...]` inside; G gates, H hidden units.
"""

import functools
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from rnnlab.cells.base import Array, Carry, Cell, Lookup, Params
from rnnlab.recurrence.kernels import compiled
from rnnlab.recurrence.kernels import rule as kernels

ROWS = 16  # of a program's block: the fewest that a tensor core's product takes
WARPS = {16: 1, 32: 4, 64: 8, 128: 8}  # by hidden size, a power of two as Triton's blocks are
RESIDENT = 64  # the largest hidden size whose weights stay on the chip; above they are in its cache


# The cells, a gate at a time, since Triton has neither split nor concatenate. All of shape [B, H].


class Equations(NamedTuple):
  """What a kernel must know of a cell; `carry` is the tuple of its states, h first.

  step: `(x, carry, b_hn, dot) -> carry, kept`, from the G input products x; `dot(k, v)` is v times
    gate k's recurrent weights; `kept` is what the way back needs.
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
  interpret: bool


class Inputs(NamedTuple):
  """What derivatives are taken by."""

  xp: Array  # [T, B, G * H], the input products with their bias
  w_h: Array  # [H, G * H]
  b_hn: Array | None  # [H], of GRU with the reset after the product
  carry: tuple[Array, ...]  # the states [B, H] before the first step
  drop: Array | None  # [1, B, H] or [G, B, H], what multiplies h in the products


class Rows(NamedTuple):
  """What a step does to its rows, bool `[T, B]` each; None stands for all, and for none."""

  real: Array | None  # True at the rows that move
  resets: Array | None  # True at those whose carry is made anew before the step, moved or not


def supports(cell: Cell, params: Params, xs: Array | Lookup) -> bool:
  """Whether `unroll` may run `cell` over `xs [B, T, D]`, and runs it as a kernel.

  So it is for an LSTM or a GRU in float32 of 16, 32, 64 or 128 hidden units where JAX computes on
  a GPU, and where products may be of TF32 as they are in JAX by default: not where
  jax_default_matmul_precision asks for more.
  """
  device = jax.config.jax_default_device
  platform = getattr(device, 'platform', device) or jax.default_backend()
  return (
    cell.fused in CELLS
    and platform in ('gpu', 'cuda')
    and params['w_h'].shape[0] in WARPS
    and jnp.result_type(xs.dtype, *params.values()) == jnp.float32
    and jax.config.jax_default_matmul_precision in (None, 'default', 'tensorfloat32')
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
  dropout=None,
  resets: Array | None = None,
  interpret: bool = False,
) -> tuple[Carry, Array]:
  """`recurrence.unroll` for the cells that `supports` names, with its arguments and results.

  xs `[B, T, D]`, mask bool `[B, T]` or None, dropout a mask for each product of the step or None.
  resets: bool `[B, T]` or None. Where it is True the row's carry is `cell.initial_carry`'s before
    the step is done, masked or not, and no gradient goes to what was before.
  Off NVIDIA GPUs it is a scan of the same equations; interpret runs the kernels' own code anywhere,
  slowly, for tests.
  """
  xs = xs.rows() if isinstance(xs, Lookup) else xs
  dtype = jnp.result_type(xs, *params.values())
  batch, hidden = xs.shape[0], params['w_h'].shape[0]
  gates = params['w_h'].shape[1] // hidden
  if initial_carry is None:
    initial_carry = cell.initial_carry((batch,), dtype)
  check(cell, params, xs, initial_carry, mask, resets, dropout)
  if mask is not None:
    xs = jnp.where(mask[..., None], xs, 0)  # else a NaN there reaches the weights' gradients
  drop_x, *drops_h = dropout or (None, None)
  xp = products(params['w_x'], stacked(drop_x), [(jnp.swapaxes(xs, 0, 1), gates)]) + params['b']

  pad = -batch % ROWS
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
  plan = Plan(CELLS[cell.fused], reverse, interpret)
  if resets is None or starts_at_zeros(cell):
    (carry, ys), _ = kernels.run(_kernels(plan), False, rows, inputs)
  else:
    anew = tuple(jax.tree.leaves(cell.initial_carry((batch + pad,), dtype)))
    (carry, ys), _ = scan(plan, rows, inputs, anew)
  return structure.unflatten([state[:batch] for state in carry]), jnp.swapaxes(ys[:, :batch], 0, 1)


def check(cell, params, xs, carry, mask, resets, dropout) -> None:
  """Raises ValueError for what the kernels would read past, each named with its shape."""
  gates, states = {'lstm': (4, 2)}.get(cell.fused, (3, 1))
  if len(xs.shape) != 3:
    raise ValueError(f'xs must be [batch, time, features], not of shape {xs.shape}')
  (batch, steps, size), hidden = xs.shape, params['w_h'].shape[0]
  kind, columns = jnp.result_type(xs.dtype), gates * hidden
  wanted = {'w_x': (size, columns), 'b': (columns,), 'w_h': (hidden, columns)}
  wanted |= {'b_hn': (hidden,)} if cell.fused == 'gru-after' else {}
  if params.keys() != wanted.keys():
    raise ValueError(f'params must be {", ".join(wanted)} of {cell.fused}, not {", ".join(params)}')
  named = [(f'params[{name!r}]', params[name], [shape], kind) for name, shape in wanted.items()]
  leaves = jax.tree.leaves(carry)
  if len(leaves) != states:
    raise ValueError(f'initial_carry must be of {states} arrays, not {len(leaves)}')
  named += [('initial_carry', state, [(batch, hidden)], kind) for state in leaves]
  named += [(name, a, [(batch, steps)], bool) for name, a in (('mask', mask), ('resets', resets))]
  widths = (size, hidden, hidden)
  served = (gates, 2, 1) if cell.fused == 'gru-before' else (gates, gates)
  masks = (None,) * len(served) if dropout is None else dropout
  if len(masks) != len(served):
    raise ValueError(f'dropout must have {len(served)} masks, one a product, not {len(masks)}')
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


def starts_at_zeros(cell: Cell) -> bool:
  """Whether a new carry is of zeros, which is what the kernels reset a carry to."""
  with jax.ensure_compile_time_eval():
    carry = jax.tree.leaves(cell.initial_carry((1,), jnp.float32))
  return not any(isinstance(a, jax.core.Tracer) or np.asarray(a).any() for a in carry)


def _pad(a, axis, count):
  """Rows of zeros: they compute something, and no one looks."""
  return jnp.pad(a, [(0, count if i == axis else 0) for i in range(a.ndim)]) if count else a


def stacked(drop):
  """A dropout mask as `[1 or G, B, K]`, or None."""
  return drop[None] if drop is not None and drop.ndim == 2 else drop


def stacked_of_state(drops, shape):
  """The masks of the recurrent products as one array; two products, each with its own: GRU's."""
  if len(drops) == 1 or all(drop is None for drop in drops):
    return stacked(drops[0])
  counts = 2, 1
  return jnp.concatenate(
    [
      jnp.broadcast_to(1.0 if drop is None else drop, (count, *shape))
      for drop, count in zip(drops, counts, strict=True)
    ]
  )


def products(w, drop, operands):
  """`[..., G * H]` from `w [K, G * H]` and pairs of an operand and how many gates it serves."""
  if drop is not None and len(drop) > 1:
    each = [v for v, count in operands for _ in range(count)]
    operands = [(v * m, 1) for v, m in zip(each, drop, strict=True)]
  elif drop is not None:
    operands = [(v * drop[0], count) for v, count in operands]
  ends = np.cumsum([count for _, count in operands])
  blocks = jnp.split(w, ends[:-1] * (w.shape[1] // ends[-1]), axis=-1)
  return jnp.concatenate([v @ w for (v, _), w in zip(operands, blocks, strict=True)], axis=-1)


# One step, of a kernel or of a scan, with what `Rows` says of it, [B, 1] or None each.


def _step(plan, x, carry, b_hn, dot, rows, anew=0):
  if rows.resets is not None:
    carry = _where(rows.resets, anew or (0,) * len(carry), carry)
  new, kept = plan.cell.step(x, carry, b_hn, dot)
  return _where(rows.real, new, carry), _where(rows.real, new[0], 0), (carry, kept)


def _back(plan, saved, d_y, d_carry, dot_t, rows):
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


def _dot(weights, drop, masked_first):
  """`(k, v) -> v @ weights(k)` with the mask of gate k before, or after as its transpose has it."""

  def dot(k, v):
    m = None if drop is None else drop[k % len(drop)]
    if m is None:
      return jnp.dot(v, weights(k))
    return jnp.dot(v * m, weights(k)) if masked_first else jnp.dot(v, weights(k)) * m

  return dot


# The way there: `(rows, inputs) -> (carry, ys), saved`, saved being the carry that each step starts
# from and what the cell keeps, [T, B, H] each. As a scan it is what forward mode differentiates.


def scan(plan, rows, inputs, anew=None):
  """The recurrence as a scan of the plan's equations, in plain JAX; see above.

  anew: the states [B, H] that a reset puts in the carry's place, or None for zeros.
  """
  hidden, width = inputs.w_h.shape
  gates = width // hidden
  blocks = jnp.split(inputs.w_h, gates, axis=-1)
  dot = _dot(blocks.__getitem__, inputs.drop, True)

  def step(carry, x_t):
    x, rows = x_t
    x = jnp.split(x, gates, axis=-1)
    carry, y, saved = _step(plan, x, carry, inputs.b_hn, dot, rows, anew)
    return carry, (y, saved)

  rows = jax.tree.map(lambda a: a[..., None], rows)
  carry, (ys, saved) = jax.lax.scan(step, inputs.carry, (inputs.xp, rows), reverse=plan.reverse)
  return (carry, ys), saved


# The kernels: a program of ROWS rows, its index along the grid's only axis. The arguments are refs,
# in the structure of the arrays that they stand for.


def _forward_kernel(plan, rows, inputs, outputs, saved):
  steps, _, width = inputs.xp.shape
  hidden = inputs.w_h.shape[0]
  gates = [pl.ds(start, hidden) for start in range(0, width, hidden)]
  weights = _weights(inputs.w_h, [(slice(None), gate) for gate in gates])
  dot = _dot(weights, _masks(inputs.drop), True)
  b_hn = None if inputs.b_hn is None else inputs.b_hn[...]
  carry, ys = outputs

  def load(t):
    return tuple(inputs.xp[t, :, gate] for gate in gates), _rows(rows, t)

  def step(t, state, loaded):
    x, rows = loaded
    state, ys[t], values = _step(plan, x, state, b_hn, dot, rows)
    if saved is not None:
      _write(saved, t, values)
    return state

  _write(carry, ..., _loop(steps, plan.reverse, load, step, _read(inputs.carry, ...)))


def _backward_kernel(plan, rows, w_t, drop, saved, d_outputs, d_xp, d_initial):
  d_carry, d_ys = d_outputs
  steps, _, hidden = d_ys.shape
  gates = [pl.ds(start, hidden) for start in range(0, d_xp.shape[2], hidden)]
  weights = _weights(w_t, [(gate, slice(None)) for gate in gates])
  dot_t = _dot(weights, _masks(drop), False)

  def load(t):
    return _read(saved, t), d_ys[t], _rows(rows, t)

  def step(t, state, loaded):
    d_x, state = _back(plan, *loaded[:2], state, dot_t, loaded[2])
    for gate, d in zip(gates, d_x, strict=True):
      d_xp[t, :, gate] = d
    return state

  _write(d_initial, ..., _loop(steps, not plan.reverse, load, step, _read(d_carry, ...)))


def _loop(steps, reverse, load, step, state):
  """Steps through time, what a step needs being asked for a step ahead: memory is far."""

  def at(s):
    return steps - 1 - s if reverse else s

  def body(s, state_and_loaded):
    state, loaded = state_and_loaded
    ahead = load(at(jnp.minimum(s + 1, steps - 1)))
    return step(at(s), state, loaded), ahead

  return jax.lax.fori_loop(0, steps, body, (state, load(at(0))))[0]


def _weights(ref, blocks):
  """`k -> weights of gate k`, read once where the chip holds them, else at each use."""
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
AXES = Inputs(xp=1, w_h=WHOLE, b_hn=WHOLE, carry=0, drop=1)  # of the rows


def _forward(plan, save, rows, inputs):
  """The kernel's `(carry, ys), saved`; saved is None unless `save`."""
  outputs, saved = jax.eval_shape(functools.partial(scan, plan), rows, inputs)
  shapes = outputs, saved if save else None
  shape = inputs.carry[0].shape
  return _call(plan, _forward_kernel, shape, (rows, inputs), (1, AXES), shapes, ((0, 1), 1))


def _backward(plan, rows, inputs, saved, d_outputs):
  """The gradient by `inputs`, from what `_forward` saved and the gradient by its outputs."""
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
  """Runs `kernel` for every block of ROWS along the `axes` of what it takes and gives."""

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
def _kernels(plan):
  return kernels.Kernels(
    functools.partial(scan, plan),
    functools.partial(_forward, plan),
    functools.partial(_backward, plan),
    platform=None if plan.interpret else 'cuda',
    works=functools.partial(_works, plan),
  )


def _works(plan, name, inputs):
  """Whether both kernels can be used for this hidden size on the GPU here, tried once on each.

  Where there is no GPU nothing can be tried, and what is traced may be for another machine.
  """
  if plan.interpret or jax.default_backend() not in ('gpu', 'cuda'):
    return True
  (cell,) = (name for name, equations in CELLS.items() if equations is plan.cell)
  hidden, device = inputs.w_h.shape[0], jax.local_devices()[0]
  made_by = device.device_kind, device.client.platform_version, pathlib.Path(__file__)
  run = functools.partial(probe, plan, hidden, device)
  return compiled.works(f'gpu-{cell}-{hidden}', compiled.digest(*made_by), run)


def probe(plan: Plan, hidden: int, device: jax.Device) -> None:
  """Runs a small problem on a device, each way; raises `compiled.Wrong` for other than the scan's.

  Products are of TF32 in both, which is what the tolerance is for.
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
