"""LSTM and GRU over a whole sequence in one CPU kernel each way, compiled by Numba.

XLA runs a scan on a CPU as some thirty small kernels a step, and keeps what the way back needs in
as many arrays. Here a step's products go at the machine's peak from weights in its cache, masks are
applied on the way, gates are squashed where they lie, and weight gradients are added up in products
of a few hundred rows while these are in the cache. XLA calls a kernel as an FFI target, on each
device's own thread and with that device's part of the batch.

All is float32. B rows, T steps, D inputs, H units, G gates; P blocks of H pre-activations, that is
G, but 4 where GRU resets after the product, so that of the candidate the input's and the state's
part are apart.
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
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from rnnlab.cells.base import Array, Carry, Cell, Lookup, Params
from rnnlab.recurrence.kernels import compiled, ffi, fused
from rnnlab.recurrence.kernels import rule as kernels
from rnnlab.recurrence.kernels.ffi import address as _address
from rnnlab.recurrence.kernels.ffi import pointer as _pointer

KINDS = 'lstm', 'gru-after', 'gru-before'  # by Cell.fused
LSTM, GRU_AFTER, GRU_BEFORE = range(3)
BLOCKS = 4, 4, 3  # P by kind
LANES = 16  # floats of a vector; where the machine's are narrower LLVM takes several for one
WIDE = 4 if llvmlite.binding.get_host_cpu_features().get('avx512f') else 1  # vectors of a tile
PANEL = WIDE * LANES  # columns
REAL, RESET = 1, 2  # the bits of a step of a row: it moves, its carry is made anew before it
CHUNK = 128  # rows of a product for the weights' gradients, at least

# Operations may be reordered and fused, but a NaN stays a NaN.
_options = {'fastmath': {'contract', 'reassoc', 'arcp', 'nsz'}, 'error_model': 'numpy'}
_jit = numba.njit(**_options)
_f32 = np.float32


# The product.


def _tile(rows, vectors):
  """A function that adds to `rows` rows of `LANES * vectors` columns of out, from registers.

  `(out, out_row, v, v_row, v_k, w, w_row, count)`: addresses, and strides in elements:
  out[r, m] += the sum over k < count of v[r, k] w[k, m].
  """
  word, one = ir.IntType(64), ir.FloatType()
  many = ir.VectorType(one, LANES)
  grid = [(r, j) for r in range(rows) for j in range(vectors)]

  def write(builder, out, out_row, v, v_row, v_k, w, w_row, count):
    out, v, w = (builder.inttoptr(a, one.as_pointer()) for a in (out, v, w))

    def row(start, r, stride):
      return builder.gep(start, [builder.mul(ir.Constant(word, r), stride)])

    def vector(start, j):
      return builder.bitcast(builder.gep(start, [ir.Constant(word, LANES * j)]), many.as_pointer())

    outs = [row(out, r, out_row) for r in range(rows)]
    of_rows = [row(v, r, v_row) for r in range(rows)]
    sums = {at: cgutils.alloca_once(builder, many) for at in grid}
    for r, j in grid:
      builder.store(builder.load(vector(outs[r], j), align=4), sums[r, j])
    with cgutils.for_range(builder, count) as loop:
      of_k = builder.gep(w, [builder.mul(loop.index, w_row)])
      weights = [builder.load(vector(of_k, j), align=4) for j in range(vectors)]
      for r in range(rows):
        value = builder.load(builder.gep(of_rows[r], [builder.mul(loop.index, v_k)]))
        first = ir.Constant(ir.IntType(32), 0)
        lanes = builder.insert_element(ir.Constant(many, ir.Undefined), value, first)
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        lanes = builder.shuffle_vector(lanes, ir.Constant(many, ir.Undefined), zeros)
        for j in range(vectors):
          more = builder.fmul(lanes, weights[j], flags=['contract'])
          total = builder.fadd(more, builder.load(sums[r, j]), flags=['contract'])
          builder.store(total, sums[r, j])
    for r, j in grid:
      builder.store(builder.load(sums[r, j]), vector(outs[r], j), align=4)

  @intrinsic
  def tile(typing, out, out_row, v, v_row, v_k, w, w_row, count):
    def generate(context, builder, signature, arguments):
      # A function that LLVM must not copy to each of its uses, which would take it half a minute.
      name = f'rnnlab_tile_{rows}_{vectors}'
      function = builder.module.globals.get(name)
      if function is None:
        function = ir.Function(builder.module, ir.FunctionType(ir.VoidType(), [word] * 8), name)
        function.linkage = 'linkonce_odr'
        function.attributes.add('noinline')
        inside = ir.IRBuilder(function.append_basic_block())
        write(inside, *function.args)
        inside.ret_void()
      builder.call(function, arguments)
      return context.get_dummy_value()

    return types.void(*[types.intp] * 8), generate

  return tile


_tile_4_wide, _tile_1_wide, _tile_4_1, _tile_1_1 = (
  _tile(rows, vectors) for vectors in (WIDE, 1) for rows in (4, 1)
)


@_jit
def _floats(address, shape):
  return numba.carray(_pointer(address), shape, np.float32)


@_jit
def _ints(address, shape):
  return numba.carray(_pointer(address), shape, np.int32)


@_jit
def _add_product(out, out_row, v, v_row, v_k, w, w_row, panel, rows, count, columns):
  """out[r, m] += the sum over k < count of v[r, k] w[k, m]; see `_tile`.

  panel: how far apart the panels of `PANEL` columns of w lie; see `_packed`.
  """
  wide = columns - columns % PANEL
  whole = columns - columns % LANES
  tiled = rows - rows % 4
  for m in range(0, wide, PANEL):
    of_m = w + 4 * (m // PANEL) * panel
    for r in range(0, tiled, 4):
      at = out + 4 * (r * out_row + m)
      _tile_4_wide(at, out_row, v + 4 * r * v_row, v_row, v_k, of_m, w_row, count)
    for r in range(tiled, rows):
      at = out + 4 * (r * out_row + m)
      _tile_1_wide(at, out_row, v + 4 * r * v_row, v_row, v_k, of_m, w_row, count)
  w += 4 * (wide // PANEL) * panel
  for m in range(wide, whole, LANES):
    of_m = w + 4 * (m - wide)
    for r in range(0, tiled, 4):
      at = out + 4 * (r * out_row + m)
      _tile_4_1(at, out_row, v + 4 * r * v_row, v_row, v_k, of_m, w_row, count)
    for r in range(tiled, rows):
      at = out + 4 * (r * out_row + m)
      _tile_1_1(at, out_row, v + 4 * r * v_row, v_row, v_k, of_m, w_row, count)
  w -= 4 * wide
  if whole < columns:
    outs = _floats(out, (rows - 1) * out_row + columns)
    vs = _floats(v, (rows - 1) * v_row + (count - 1) * v_k + 1)
    ws = _floats(w, (count - 1) * w_row + columns)
    for r in range(rows):
      for m in range(whole, columns):
        total = outs[r * out_row + m]
        for k in range(count):
          total += vs[r * v_row + k * v_k] * ws[k * w_row + m]
        outs[r * out_row + m] = total


@intrinsic
def _prefetch_line(typing, address):
  def generate(context, builder, signature, arguments):
    word, pointer = ir.IntType(32), cgutils.voidptr_t
    function = builder.module.globals.get('llvm.prefetch.p0') or ir.Function(
      builder.module,
      ir.FunctionType(ir.VoidType(), [pointer, word, word, word]),
      'llvm.prefetch.p0',
    )
    hints = [ir.Constant(word, hint) for hint in (0, 3, 1)]  # to read, soon, as data
    builder.call(function, [builder.inttoptr(arguments[0], pointer), *hints])
    return context.get_dummy_value()

  return types.void(types.intp), generate


@_jit
def _prefetch(row):
  """Asks for a row that is read a step later, as there are more than the machine foresees."""
  for at in range(0, 4 * row.size, 64):
    _prefetch_line(_address(row) + at)


@_jit
def _copy(a, b, count):
  """a[:count] = b[:count], which Numba's own takes longer to compile, and to do."""
  for j in range(count):
    a[j] = b[j]


@_jit
def _copy_rows(a, b):
  for r in range(a.shape[0]):
    _copy(a[r], b[r], a.shape[1])


@_jit
def _fill(a, value):
  for r in range(a.shape[0]):
    row = a[r]
    for j in range(a.shape[1]):
      row[j] = value


@_jit
def _transposed(a):
  b = np.empty((a.shape[1], a.shape[0]), np.float32)
  for r in range(a.shape[0]):
    for j in range(a.shape[1]):
      b[j, r] = a[r, j]
  return b


@_jit
def _packed(w, columns):
  """w `[K, M]`, and how many columns its rows have now, and how far apart its panels are.

  Where panels fit into `columns`, of a gate, each is a matrix of its own: its rows then lie in few
  pages of memory, and are read in a row.
  """
  rows, width = w.shape
  if columns % PANEL:
    return w, width, PANEL
  packed = np.empty((rows, width), np.float32)
  out = _floats(_address(packed), (width // PANEL, rows, PANEL))
  for p in range(width // PANEL):
    for k in range(rows):
      _copy(out[p, k], w[k, p * PANEL :], PANEL)
  return packed, PANEL, rows * PANEL


@_jit
def _masked(v, v_row, drop, room):
  """The address of v, `[B, K]` with rows `v_row` apart, times a mask `[B, K]`, in `room`."""
  for r in range(len(drop)):
    of_v = _floats(v + 4 * r * v_row, drop.shape[1])
    for k in range(drop.shape[1]):
      room[r, k] = of_v[k] * drop[r, k]
  return _address(room)


@_jit
def _multiply(out, out_row, v, v_row, packed, first, gates, units, drop, room):
  """Adds the products of v `[B, K]` with the weights of `gates` gates, from `first` on, to out.

  out and v are addresses; packed: `_packed(w, units)`. drop `[0, 1 or G, B, K]` are the masks of v;
  room `[B, K]`.
  """
  rows, count = room.shape
  w, w_row, panel = packed
  for g in range(0, gates, gates if len(drop) < 2 else 1):
    of_v, row = v, v_row
    if len(drop):
      of_v, row = _masked(v, v_row, drop[first + g if len(drop) > 1 else 0], room), count
    at, of_w = out + 4 * g * units, _address(w) + 4 * (first + g) * units * (panel // PANEL)
    columns = units if len(drop) > 1 else gates * units
    _add_product(at, out_row, of_v, row, 1, of_w, w_row, panel, rows, count, columns)


@_jit
def _multiply_back(out, out_row, d, d_row, packed, first, gates, units, drop, room):
  """Adds to out the gradient by v of `_multiply`; d is that by its products.

  packed: `_packed(w transposed, K)`.
  """
  rows, count = room.shape
  w_t, w_row, panel = packed
  weights = _address(w_t) + 4 * first * units * w_row
  if len(drop) == 0:
    _add_product(out, out_row, d, d_row, 1, weights, w_row, panel, rows, gates * units, count)
    return
  alone = 1 if len(drop) > 1 else gates
  for g in range(0, gates, alone):
    _fill(room, 0)
    of_w, of_d, at = weights + 4 * g * units * w_row, d + 4 * g * units, _address(room)
    _add_product(at, count, of_d, d_row, 1, of_w, w_row, panel, rows, alone * units, count)
    mask = drop[first + g if len(drop) > 1 else 0]
    for r in range(rows):
      row = _floats(out + 4 * r * out_row, count)
      for k in range(count):
        row[k] += room[r, k] * mask[r, k]


@_jit
def _add_weights(d_w, v, d, first, block, gates, units, drop, rows, room):
  """Adds to d_w `[K, G H]` what `rows` rows of v and of d, the gradient by their products, give.

  d `[rows, P H]` has that of gate `first` in its block `block`.
  """
  count, columns = d_w.shape
  panel = np.empty((rows, PANEL), np.float32)
  for g in range(0, gates, gates if len(drop) < 2 else 1):
    of_v = v
    if len(drop):
      mask = drop[first + g if len(drop) > 1 else 0]
      for r in range(rows):
        of_mask = mask[r % len(mask)]
        for k in range(count):
          room[r, k] = v[r, k] * of_mask[k]
      of_v = room
    begin, end = g * units, (g + 1 if len(drop) > 1 else gates) * units
    for m in range(begin, end, PANEL):
      width = min(PANEL, end - m)
      for r in range(rows):
        _copy(panel[r], d[r, block * units + m :], width)
      at, of_d = _address(d_w) + 4 * (first * units + m), _address(panel)
      _add_product(at, columns, _address(of_v), 1, count, of_d, PANEL, PANEL, count, rows, width)


# The cells, on rows of pre-activations [P H] and states [H].


@_jit
def _tanh(x):
  """To 3e-7: the rational function of Eigen and XLA, which takes no branch."""
  x = min(max(x, _f32(-7.9053111)), _f32(7.9053111))
  s = x * x
  p = _f32(-2.76076847742355e-16)
  p = p * s + _f32(2.00018790482477e-13)
  p = p * s + _f32(-8.60467152213735e-11)
  p = p * s + _f32(5.12229709037114e-08)
  p = p * s + _f32(1.48572235717979e-05)
  p = p * s + _f32(6.37261928875436e-04)
  p = p * s + _f32(4.89352455891786e-03)
  q = _f32(1.19825839466702e-06)
  q = q * s + _f32(1.18534705686654e-04)
  q = q * s + _f32(2.26843463243900e-03)
  q = q * s + _f32(4.89352518554385e-03)
  return x * p / q


@_jit
def _sigmoid(x):
  return _f32(0.5) * _tanh(_f32(0.5) * x) + _f32(0.5)


@_jit
def _lstm(pre, h, c, y, n):
  for j in range(n):
    i, f = _sigmoid(pre[j]), _sigmoid(pre[n + j])
    g, o = _tanh(pre[2 * n + j]), _sigmoid(pre[3 * n + j])
    c[j] = f * c[j] + i * g
    h[j] = o * _tanh(c[j])
    y[j] = h[j]
    pre[j], pre[n + j], pre[2 * n + j], pre[3 * n + j] = i, f, g, o


@_jit
def _lstm_back(gates, c, d_h, d_c, d, n):
  for j in range(n):
    i, f, g, o = gates[j], gates[n + j], gates[2 * n + j], gates[3 * n + j]
    squashed = _tanh(f * c[j] + i * g)
    d_o = d_h[j] * squashed
    d_cell = d_c[j] + d_h[j] * o * (1 - squashed * squashed)
    d[j] = d_cell * g * i * (1 - i)
    d[n + j] = d_cell * c[j] * f * (1 - f)
    d[2 * n + j] = d_cell * i * (1 - g * g)
    d[3 * n + j] = d_o * o * (1 - o)
    d_c[j] = d_cell * f
    d_h[j] = 0


@_jit
def _gru_after(pre, h, y, n):
  for j in range(n):
    r, z, q = _sigmoid(pre[j]), _sigmoid(pre[n + j]), pre[3 * n + j]
    new = _tanh(pre[2 * n + j] + r * q)
    h[j] = z * h[j] + (1 - z) * new
    y[j] = h[j]
    pre[j], pre[n + j], pre[2 * n + j] = r, z, new


@_jit
def _gru_after_back(gates, h, d_h, d, n):
  for j in range(n):
    r, z, new, q = gates[j], gates[n + j], gates[2 * n + j], gates[3 * n + j]
    d_new = d_h[j] * (1 - z) * (1 - new * new)
    d[j] = d_new * q * r * (1 - r)
    d[n + j] = d_h[j] * (h[j] - new) * z * (1 - z)
    d[2 * n + j] = d_new
    d[3 * n + j] = d_new * r
    d_h[j] *= z


@_jit
def _gru_reset(pre, h, reset, n):
  for j in range(n):
    r, z = _sigmoid(pre[j]), _sigmoid(pre[n + j])
    pre[j], pre[n + j] = r, z
    reset[j] = r * h[j]


@_jit
def _gru_before(pre, h, y, n):
  for j in range(n):
    z, new = pre[n + j], _tanh(pre[2 * n + j])
    h[j] = z * h[j] + (1 - z) * new
    y[j] = h[j]
    pre[2 * n + j] = new


@_jit
def _gru_before_back(gates, h, d_h, d, n):
  for j in range(n):
    z, new = gates[n + j], gates[2 * n + j]
    d[2 * n + j] = d_h[j] * (1 - z) * (1 - new * new)
    d[n + j] = d_h[j] * (h[j] - new) * z * (1 - z)
    d_h[j] *= z


@_jit
def _gru_reset_back(gates, h, d_reset, d_h, d, n):
  for j in range(n):
    r = gates[j]
    d[j] = d_reset[j] * h[j] * r * (1 - r)
    d_h[j] += d_reset[j] * r


# The way there and the way back.


@_jit
def _moves(real, r, t):
  return len(real) == 0 or real[r, t] & REAL != 0


@_jit
def _is_reset(real, r, t):
  return len(real) > 0 and real[r, t] & RESET != 0


@_jit
def _reset(kind, h, c, r):
  for j in range(h.shape[1]):
    h[r, j] = 0
    if kind == LSTM:
      c[r, j] = 0


@_jit
def _copy_real(x, xs, r, t, real):
  """x = xs[r, t], or 0 where that is padding, be it NaN."""
  if not _moves(real, r, t):
    for j in range(x.size):
      x[j] = 0
  else:
    _copy(x, xs[r, t], x.size)


@_jit
def _forward(
  kind, reverse, xs, ids, real, w_x, b, w_h, b_hn, drop_x, drop_h, ys, h, c, hs, cs, kept
):  # fmt: skip
  """Fills ys `[B, T, H]` and, where hs is not empty, hs, cs `[T, B, H]` and kept `[T, B, P H]`.

  h, c `[B, H]` are the first carry, and then the last. hs and cs are what each step starts from;
  kept are the gates. real `[B or 0, T]` has the bits REAL and RESET of each step; without rows all
  are real. Where there are ids `[B or 0, T]`, row `ids[r, t]` of xs `[1, V, G H]` is what
  x W_x + b would be.
  """
  (rows, steps), units, inputs = ys.shape[:2], h.shape[1], w_x.shape[0]
  known = len(ids) > 0
  gates = w_x.shape[1] // units
  save = len(hs) > 0
  x, room_x = np.empty((rows, inputs), np.float32), np.empty((rows, inputs), np.float32)
  reset, room_h = np.empty((rows, units), np.float32), np.empty((rows, units), np.float32)
  blocks = 4 if kind != GRU_BEFORE else 3
  width = blocks * units
  local = np.empty((rows, width), np.float32)
  of_x, of_h = _packed(w_x, units), _packed(w_h, units)
  for s in range(steps):
    t = steps - 1 - s if reverse else s
    pre = kept[t] if save else local
    if s < steps - 1:
      ahead = t - 1 if reverse else t + 1
      for r in range(rows):
        _prefetch(xs[0, ids[r, ahead]] if known else xs[r, ahead])
    for r in range(rows):
      if _is_reset(real, r, t):
        _reset(kind, h, c, r)
      if save:
        _copy(hs[t, r], h[r], units)
        if kind == LSTM:
          _copy(cs[t, r], c[r], units)
      if known:
        _copy(pre[r], xs[0, ids[r, t]], gates * units)
      else:
        _copy_real(x[r], xs, r, t, real)  # at once, as its rows are far apart
        _copy(pre[r], b, gates * units)
      if kind == GRU_AFTER:
        _copy(pre[r, gates * units :], b_hn, units)
    out, state = _address(pre), _address(h)
    if not known:
      _multiply(out, width, _address(x), inputs, of_x, 0, gates, units, drop_x, room_x)
    _multiply(out, width, state, units, of_h, 0, 4 if kind == LSTM else 2, units, drop_h, room_h)
    if kind == GRU_AFTER:
      _multiply(out + 12 * units, width, state, units, of_h, 2, 1, units, drop_h, room_h)
    elif kind == GRU_BEFORE:
      for r in range(rows):
        _gru_reset(pre[r], h[r], reset[r], units)
      state = _address(reset)
      _multiply(out + 8 * units, width, state, units, of_h, 2, 1, units, drop_h, room_h)
    for r in range(rows):
      if not _moves(real, r, t):
        for j in range(units):
          ys[r, t, j] = 0
      elif kind == LSTM:
        _lstm(pre[r], h[r], c[r], ys[r, t], units)
      elif kind == GRU_AFTER:
        _gru_after(pre[r], h[r], ys[r, t], units)
      else:
        _gru_before(pre[r], h[r], ys[r, t], units)


@_jit
def _backward(
  kind, reverse, xs, real, w_x, w_h, drop_x, drop_h, hs, cs, kept, d_ys,
  d_xs, d_w_x, d_b, d_w_h, d_b_hn, d_h, d_c,
):  # fmt: skip
  """Fills the gradients by all that `_forward` reads, from what it saved and d_ys.

  d_h, d_c are the gradients by the last carry, and then by the first.
  """
  (rows, steps, inputs), units = xs.shape, d_h.shape[1]
  gates = w_x.shape[1] // units
  blocks = 4 if kind != GRU_BEFORE else 3
  width = blocks * units
  together = 4 if kind == LSTM else 2  # the gates whose products are of h alone
  w_x_t = _packed(_transposed(w_x), inputs)
  w_h_t = _packed(_transposed(w_h), units)
  d_x, room_x = np.empty((rows, inputs), np.float32), np.empty((rows, inputs), np.float32)
  d_reset, room_h = np.empty((rows, units), np.float32), np.empty((rows, units), np.float32)
  # The last steps' operands and gradients, until there are enough for the weights.
  size = max(max(CHUNK, units) // rows, 1)
  many = size * rows
  v_x, room_v_x = np.empty((many, inputs), np.float32), np.empty((many, inputs), np.float32)
  v_h, room_v_h = np.empty((many, units), np.float32), np.empty((many, units), np.float32)
  v_reset, d = np.empty((many, units), np.float32), np.empty((many, width), np.float32)
  _fill(d_w_x, 0)
  _fill(d_w_h, 0)
  for j in range(gates * units):
    d_b[j] = 0
  for j in range(len(d_b_hn)):
    d_b_hn[j] = 0
  filled = 0
  for s in range(steps):
    t = s if reverse else steps - 1 - s
    if s < steps - 1:
      ahead = t + 1 if reverse else t - 1
      for r in range(rows):
        _prefetch(kept[ahead, r])
        _prefetch(hs[ahead, r])
        _prefetch(d_ys[r, ahead])
        _prefetch(xs[r, ahead])
        if kind == LSTM:
          _prefetch(cs[ahead, r])
    for r in range(rows):
      row = d[filled + r]
      _copy_real(v_x[filled + r], xs, r, t, real)
      _copy(v_h[filled + r], hs[t, r], units)
      if not _moves(real, r, t):
        for j in range(width):
          row[j] = 0
        continue
      for j in range(units):
        d_h[r, j] += d_ys[r, t, j]
      if kind == LSTM:
        _lstm_back(kept[t, r], cs[t, r], d_h[r], d_c[r], row, units)
      elif kind == GRU_AFTER:
        _gru_after_back(kept[t, r], hs[t, r], d_h[r], row, units)
      else:
        _gru_before_back(kept[t, r], hs[t, r], d_h[r], row, units)
    of_d, of_h = _address(d) + 4 * filled * width, _address(d_h)
    if kind == GRU_BEFORE:
      _fill(d_reset, 0)
      of_reset, candidate = _address(d_reset), of_d + 8 * units
      _multiply_back(of_reset, units, candidate, width, w_h_t, 2, 1, units, drop_h, room_h)
      for r in range(rows):
        for j in range(units):
          v_reset[filled + r, j] = kept[t, r, j] * hs[t, r, j]
        if _moves(real, r, t):
          _gru_reset_back(kept[t, r], hs[t, r], d_reset[r], d_h[r], d[filled + r], units)
    elif kind == GRU_AFTER:
      candidate = of_d + 12 * units
      _multiply_back(of_h, units, candidate, width, w_h_t, 2, 1, units, drop_h, room_h)
    _multiply_back(of_h, units, of_d, width, w_h_t, 0, together, units, drop_h, room_h)
    for r in range(rows):
      if _is_reset(real, r, t):
        _reset(kind, d_h, d_c, r)
    _fill(d_x, 0)
    of_x = _address(d_x)
    _multiply_back(of_x, inputs, of_d, width, w_x_t, 0, gates, units, drop_x, room_x)
    for r in range(rows):
      _copy(d_xs[r, t], d_x[r], inputs)
    filled += rows
    if filled == many or s == steps - 1:
      _add_weights(d_w_x, v_x, d, 0, 0, gates, units, drop_x, filled, room_v_x)
      _add_weights(d_w_h, v_h, d, 0, 0, together, units, drop_h, filled, room_v_h)
      if kind == GRU_BEFORE:
        _add_weights(d_w_h, v_reset, d, 2, 2, 1, units, drop_h, filled, room_v_h)
      elif kind == GRU_AFTER:
        _add_weights(d_w_h, v_h, d, 2, 3, 1, units, drop_h, filled, room_v_h)
      for i in range(filled):
        for j in range(gates * units):
          d_b[j] += d[i, j]
        for j in range(len(d_b_hn)):
          d_b_hn[j] += d[i, 3 * units + j]
      filled = 0


# As XLA calls them.

# The sizes of what a target takes and gives, a letter each: B, T, D, H as ever; W columns of the
# weights, K of what is kept; and the rows of what may be without any: C of the cell's state, R of
# `real`, J of the ids, M and L of the dropout masks of x and h, S of what is saved, N of b_hn. X, Y
# and Z are those of xs, or of a table; F is 2, the flags.
LETTERS = 'BTDHWKCRJMLSNXYZF'
B, T, D, H, W, K, C, R, J, M, L, S, N, X, Y, Z, F = range(len(LETTERS))
_FORWARD, _FORWARD_ARGUMENTS = ffi.signature(
  LETTERS,
  'iF fXYZ bRT iJT fDW fW fHW fN fBH fCH fMBD fLBH',
  'fBTH fBH fCH fSBH fSCH fSBK',
)
_BACKWARD, _BACKWARD_ARGUMENTS = ffi.signature(
  LETTERS,
  'iF fBTD bRT fDW fHW fMBD fLBH fSBH fSCH fSBK fBTH fBH fCH',
  'fBTD fDW fW fHW fN fBH fCH',
)


@_jit
def _flags(frame):
  flags = _ints(ffi.argument(frame, 0)[0], 2)
  return flags[0], flags[1] != 0


@_jit
def _fit(kind, sizes):
  """Whether the sizes are such as the cell has them."""
  gates = 4 if kind == LSTM else 3
  blocks = 3 if kind == GRU_BEFORE else 4
  batch, units = sizes[B], sizes[H]
  return (
    0 <= kind < 3
    and min(batch, sizes[T], sizes[D], units) > 0
    and sizes[W] == gates * units
    and sizes[K] == blocks * units
    and sizes[C] == (batch if kind == LSTM else 0)
    and sizes[N] == (units if kind == GRU_AFTER else 0)
    and (sizes[R] == 0 or sizes[R] == batch)
    and (sizes[M] == 0 or sizes[M] == 1 or sizes[M] == gates)
    and (sizes[L] == 0 or sizes[L] == 1 or sizes[L] == gates)
    and (sizes[S] == 0 or sizes[S] == sizes[T])
  )


@_jit
def _fit_inputs(sizes, ids):
  """Whether xs are the inputs, or a table that has all rows which the ids stand for."""
  if sizes[J] == 0:
    return sizes[X] == sizes[B] and sizes[Y] == sizes[T] and sizes[Z] == sizes[D]
  if sizes[J] != sizes[B] or sizes[X] != 1 or sizes[Z] != sizes[W] or sizes[S] + sizes[M] > 0:
    return False
  for r in range(ids.shape[0]):
    for t in range(ids.shape[1]):
      if ids[r, t] < 0 or ids[r, t] >= sizes[Y]:
        return False
  return True


@_jit
def _array_1(operand):
  address, buffer = operand
  return _floats(address, (ffi.dim(buffer, 0),))


@_jit
def _array_2(operand):
  address, buffer = operand
  return _floats(address, (ffi.dim(buffer, 0), ffi.dim(buffer, 1)))


@_jit
def _array_3(operand):
  address, buffer = operand
  return _floats(address, (ffi.dim(buffer, 0), ffi.dim(buffer, 1), ffi.dim(buffer, 2)))


@_jit
def _table(operand, dtype):
  address, buffer = operand
  return numba.carray(_pointer(address), (ffi.dim(buffer, 0), ffi.dim(buffer, 1)), dtype)


def _forward_target(frame):
  if ffi.is_question(frame):
    return 0
  sizes = np.empty(len(LETTERS), np.int64)
  wrong = ffi.misfit(frame, _FORWARD, _FORWARD_ARGUMENTS, sizes)
  if wrong >= 0 or sizes[F] != 2:
    return ffi.error(frame, max(wrong, 0))
  kind, reverse = _flags(frame)
  ids = _table(ffi.argument(frame, 3), np.int32)
  if not _fit(kind, sizes) or not _fit_inputs(sizes, ids):
    return ffi.error(frame, 0)
  xs, real = _array_3(ffi.argument(frame, 1)), _table(ffi.argument(frame, 2), np.uint8)
  w_x, b = _array_2(ffi.argument(frame, 4)), _array_1(ffi.argument(frame, 5))
  w_h, b_hn = _array_2(ffi.argument(frame, 6)), _array_1(ffi.argument(frame, 7))
  drop_x, drop_h = _array_3(ffi.argument(frame, 10)), _array_3(ffi.argument(frame, 11))
  ys, h = _array_3(ffi.result(frame, 0)), _array_2(ffi.result(frame, 1))
  c, hs = _array_2(ffi.result(frame, 2)), _array_3(ffi.result(frame, 3))
  cs, kept = _array_3(ffi.result(frame, 4)), _array_3(ffi.result(frame, 5))
  _copy_rows(h, _array_2(ffi.argument(frame, 8)))
  _copy_rows(c, _array_2(ffi.argument(frame, 9)))
  _forward(kind, reverse, xs, ids, real, w_x, b, w_h, b_hn, drop_x, drop_h, ys, h, c, hs, cs, kept)
  return 0


def _backward_target(frame):
  if ffi.is_question(frame):
    return 0
  sizes = np.empty(len(LETTERS), np.int64)
  wrong = ffi.misfit(frame, _BACKWARD, _BACKWARD_ARGUMENTS, sizes)
  if wrong >= 0 or sizes[F] != 2:
    return ffi.error(frame, max(wrong, 0))
  kind, reverse = _flags(frame)
  if not _fit(kind, sizes) or sizes[S] != sizes[T]:
    return ffi.error(frame, 0)
  xs, real = _array_3(ffi.argument(frame, 1)), _table(ffi.argument(frame, 2), np.uint8)
  w_x, w_h = _array_2(ffi.argument(frame, 3)), _array_2(ffi.argument(frame, 4))
  drop_x, drop_h = _array_3(ffi.argument(frame, 5)), _array_3(ffi.argument(frame, 6))
  hs, cs = _array_3(ffi.argument(frame, 7)), _array_3(ffi.argument(frame, 8))
  kept, d_ys = _array_3(ffi.argument(frame, 9)), _array_3(ffi.argument(frame, 10))
  d_xs, d_w_x = _array_3(ffi.result(frame, 0)), _array_2(ffi.result(frame, 1))
  d_b, d_w_h = _array_1(ffi.result(frame, 2)), _array_2(ffi.result(frame, 3))
  d_b_hn, d_h = _array_1(ffi.result(frame, 4)), _array_2(ffi.result(frame, 5))
  d_c = _array_2(ffi.result(frame, 6))
  _copy_rows(d_h, _array_2(ffi.argument(frame, 11)))
  _copy_rows(d_c, _array_2(ffi.argument(frame, 12)))
  _backward(
    kind, reverse, xs, real, w_x, w_h, drop_x, drop_h, hs, cs, kept, d_ys,
    d_xs, d_w_x, d_b, d_w_h, d_b_hn, d_h, d_c,
  )  # fmt: skip
  return 0


_registering = threading.Lock()  # XLA takes a name once, and threads may trace at once
TARGETS = {'forward': _forward_target, 'backward': _backward_target}


@functools.cache
def _key():
  cpu = llvmlite.binding.get_host_cpu_name(), llvmlite.binding.get_host_cpu_features().flatten()
  versions = sys.version_info, numba.__version__, llvmlite.__version__
  return compiled.digest(cpu, versions, pathlib.Path(__file__), pathlib.Path(ffi.__file__))


def _register(name):
  """Makes a kernel known to XLA, once, and compiled where it is not yet."""
  with _registering:
    _registered(name)


@functools.cache
def _registered(name):
  address = compiled.address(f'rnnlab_{name}', _key(), TARGETS[name], _options)
  capsule = jax.ffi.pycapsule(ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(address))
  jax.ffi.register_ffi_target(f'rnnlab_{name}', capsule, platform='cpu')


def _works(name, inputs):
  """Whether the kernel of this name can be used here, which says so where it can't."""
  return _is_known_to_fit() and compiled.works(f'rnnlab_{name}', _key(), PROBES[name])


@functools.cache
def _is_known_to_fit():
  version = ffi.version()
  if version not in ffi.KNOWN:
    known = ', '.join(f'{major}.{minor}' for major, minor in sorted(ffi.KNOWN))
    words = 'The CPU kernels are for version %s of XLA\'s FFI, not %d.%d: the scan is used.'
    logging.warning(words, known, *version)
  return version in ffi.KNOWN


def _probe_forward():
  for plan, data, inputs in _problems():
    moves = np.asarray(data[0].real).T[..., None]  # no one reads what is kept of other steps

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
  """A small one of each kind, of units that fill a panel, and that don't."""
  batch, steps, size, draw = 5, 4, 7, np.random.default_rng(0)

  def normal(*shape):
    return draw.normal(0, 0.5, shape).astype(np.float32)

  for name, gates, hidden in zip(KINDS, (4, 3, 3), (PANEL, 16, 48), strict=True):
    columns = gates * hidden
    carry = tuple(normal(batch, hidden) for _ in range(2 if name == 'lstm' else 1))
    b_hn = normal(hidden) if name == 'gru-after' else None
    weights = normal(size, columns), normal(columns), normal(hidden, columns) / 4, b_hn
    rows = fused.Rows(*(draw.random((2, batch, steps)) < 0.7))
    data = rows, None, np.abs(normal(gates, batch, hidden)), None
    inputs = Inputs(normal(batch, steps, size), *weights, carry)
    cpu = jax.local_devices(backend='cpu')[0]
    yield Plan(name, name == 'gru-after'), *jax.device_put((data, inputs), cpu)


# As JAX calls them: `kernels.Kernels` of `data`, `fused.Rows` of [B, T], the dropout masks of x and
# of h, and the ids [B, T] of a `Lookup`, and of `Inputs`; what is saved is hs, cs and kept.


class Plan(NamedTuple):
  """What is fixed when a kernel is made."""

  name: str  # in KINDS
  reverse: bool


class Inputs(NamedTuple):
  """What derivatives are taken by."""

  xs: Array  # [B, T, D], or a table [V, D]
  w_x: Array  # [D, G * H]
  b: Array  # [G * H]
  w_h: Array  # [H, G * H]
  b_hn: Array | None  # [H], of GRU with the reset after the product
  carry: tuple[Array, ...]  # the states [B, H] before the first step


def supports(cell: Cell, params: Params, xs: Array | Lookup) -> bool:
  """Whether `unroll` may run `cell` over `xs [B, T, D]` as a kernel: where JAX computes on a CPU.

  For an LSTM or a GRU in float32 whose hidden size is a multiple of LANES.
  """
  device = jax.config.jax_default_device
  return (
    cell.fused in KINDS
    and (getattr(device, 'platform', device) or jax.default_backend()) == 'cpu'
    and params['w_h'].shape[0] % LANES == 0
    and jnp.result_type(xs.dtype, *params.values()) == jnp.float32
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
) -> tuple[Carry, Array]:
  """`recurrence.unroll` for the cells that `supports` names, with its arguments and results.

  xs `[B, T, D]`, mask bool `[B, T]` or None, dropout a mask for each product of the step or None.
  resets: bool `[B, T]` or None. Where it is True the row's carry is `cell.initial_carry`'s before
    the step is done, masked or not, and no gradient goes to what was before.
  Float32. Off CPUs it is a scan of the same equations.
  """
  batch, hidden = xs.shape[0], params['w_h'].shape[0]
  if initial_carry is None:
    initial_carry = cell.initial_carry((batch,), jnp.float32)
  fused.check(cell, params, xs, initial_carry, mask, resets, dropout)
  drop_x, *drops_h = dropout or (None, None)
  drops = fused.stacked(drop_x), fused.stacked_of_state(drops_h, (batch, hidden))
  states, structure = jax.tree.flatten(initial_carry)
  xs, ids = xs if isinstance(xs, Lookup) else (xs, None)
  inputs = Inputs(xs, *(params.get(name) for name in ('w_x', 'b', 'w_h', 'b_hn')), tuple(states))
  rows = fused.Rows(mask, resets)
  data = rows, *jax.tree.map(lambda drop: drop.astype(jnp.float32), drops), ids
  inputs = jax.tree.map(lambda a: a.astype(jnp.float32), inputs)
  plan = Plan(cell.fused, reverse)
  if resets is None or fused.starts_at_zeros(cell):
    ((*carry, ys), _) = kernels.run(_kernels(plan), False, data, inputs)
  else:
    anew = tuple(jax.tree.leaves(cell.initial_carry((batch,), jnp.float32)))
    ((*carry, ys), _) = _scan(plan, data, inputs, anew)
  return structure.unflatten(carry), ys


@functools.cache
def _kernels(plan):
  parts = (functools.partial(f, plan) for f in (_scan, _call_forward, _call_backward))
  return kernels.Kernels(*parts, platform='cpu', works=_works)


def _scan(plan, data, inputs, anew=None):
  """The same in plain JAX; anew as in `fused.scan`."""
  (rows, drop_x, drop_h), inputs = _looked_up(data, inputs)
  real = rows.real
  gates = inputs.w_x.shape[1] // inputs.w_h.shape[0]
  xs = inputs.xs if real is None else jnp.where(real[..., None], inputs.xs, 0)
  xp = fused.products(inputs.w_x, drop_x, [(jnp.swapaxes(xs, 0, 1), gates)]) + inputs.b
  same = fused.Plan(fused.CELLS[plan.name], plan.reverse, interpret=False)
  of_scan = fused.Inputs(xp, inputs.w_h, inputs.b_hn, inputs.carry, drop_h)
  rows = jax.tree.map(jnp.transpose, rows)
  (carry, ys), (states, kept) = fused.scan(same, rows, of_scan, anew)
  hs, cs = states if len(states) == 2 else (*states, xp[:, :0, : inputs.w_h.shape[0]])
  return (*carry, jnp.swapaxes(ys, 0, 1)), (hs, cs, jnp.concatenate(kept, axis=-1))


def _looked_up(data, inputs):
  """Data without ids, and inputs with the rows that they stand for."""
  *data, ids = data
  return data, inputs if ids is None else inputs._replace(xs=inputs.xs[ids])


def _operands(plan, data, inputs, steps):
  """What both targets take: flags, bits, the dropout masks; where there is none, no rows."""
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


def _call(name, shapes, *operands):
  _register(name)
  shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  return jax.ffi.ffi_call(f'rnnlab_{name}', shapes, vmap_method='sequential')(*operands)


def _states(carry):
  """h and c of a carry, c without rows where there is none."""
  return carry if len(carry) == 2 else (*carry, jnp.zeros((0, carry[0].shape[1]), jnp.float32))


def _call_forward(plan, save, data, inputs):
  *masks, ids = data
  if ids is not None and not save and masks[1] is None and len(inputs.xs) < ids.size:
    xs = (inputs.xs @ inputs.w_x + inputs.b)[None]  # the product of a row of the table, once
    ids = jnp.clip(ids, 0, len(inputs.xs) - 1).astype(jnp.int32)  # the kernel reads where they say
  else:
    masks, inputs = _looked_up(data, inputs)
    xs, ids = inputs.xs, jnp.zeros((0, inputs.xs.shape[1]), jnp.int32)
  steps, (h, c) = ids.shape[1], _states(inputs.carry)
  flags, real, drops = _operands(plan, masks, inputs, steps)
  b_hn = jnp.zeros(0, jnp.float32) if inputs.b_hn is None else inputs.b_hn
  (batch, hidden), long = h.shape, steps if save else 0
  blocks = BLOCKS[KINDS.index(plan.name)]
  shapes = [(batch, steps, hidden), h.shape, c.shape]
  shapes += [(long, batch, hidden), (long, *c.shape), (long, batch, blocks * hidden)]
  weights = inputs.w_x, inputs.b, inputs.w_h, b_hn
  ys, *after = _call('forward', shapes, flags, xs, real, ids, *weights, h, c, *drops)
  carry, saved = after[: len(inputs.carry)], after[2:]
  return (*carry, ys), tuple(saved) if save else None


def _call_backward(plan, data, inputs, saved, d_outputs):
  table, ids = inputs.xs, data[-1]
  masks, inputs = _looked_up(data, inputs)
  flags, real, drops = _operands(plan, masks, inputs, inputs.xs.shape[1])
  *d_carry, d_ys = d_outputs
  d_h, d_c = _states(tuple(d_carry))
  shapes = [inputs.xs.shape, inputs.w_x.shape, inputs.b.shape, inputs.w_h.shape]
  shapes += [(0,) if inputs.b_hn is None else inputs.b_hn.shape, d_h.shape, d_c.shape]
  operands = flags, inputs.xs, real, inputs.w_x, inputs.w_h, *drops, *saved, d_ys, d_h, d_c
  d_xs, d_w_x, d_b, d_w_h, d_b_hn, *d_first = _call('backward', shapes, *operands)
  if ids is not None:
    d_xs = jnp.zeros_like(table).at[ids].add(d_xs)
  d_b_hn = None if inputs.b_hn is None else d_b_hn
  return Inputs(d_xs, d_w_x, d_b, d_w_h, d_b_hn, tuple(d_first[: len(inputs.carry)]))
