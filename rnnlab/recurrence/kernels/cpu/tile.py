"""The machine-specific part of a product: a tile of results in vector registers, and memory access.

These functions take addresses and strides, counted in float32 elements; a tile is a few rows of a
few vectors of the result. They are written in LLVM's instructions, since Numba has none for
vectors.
"""

import sys

import llvmlite.binding
import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, register_jitable

from rnnlab.recurrence.kernels.cpu.ffi import address as address_of
from rnnlab.recurrence.kernels.cpu.ffi import pointer

LANES = 16  # floats in a vector; if the machine's are narrower, LLVM uses several for one
WIDE = 4 if llvmlite.binding.get_host_cpu_features().get('avx512f') else 1  # vectors of a tile
PANEL = WIDE * LANES  # columns
LINE = 64  # bytes in a cache line
LARGE = 2 << 20  # bytes in a large page


# Operations may be reordered and fused, but a NaN stays a NaN.
options = {'fastmath': {'contract', 'reassoc', 'arcp', 'nsz'}, 'error_model': 'numpy'}
# Only kernels call these functions: wrappers, to call each from Python and from C, would take a
# sixth of the time of compilation.
jit = numba.njit(**options, no_cpython_wrapper=True, no_cfunc_wrapper=True)
plain = register_jitable  # for functions that Python calls too


def _tile(rows, vectors, part=False):
  """A function that adds to `rows` rows of `LANES * vectors` columns of out, from registers.

  `(out, out_row, v, v_row, v_k, w, w_row, count, columns, soon)`: addresses, and strides in
  elements: out[r, m] += the sum over k < count of v[r, k] w[k, m]. From `soon` on, `count` lines
  are prefetched meanwhile, so that the next weights are near when their turn comes.
  part: whether out has only the first `columns` of a vector; w has LANES of them.
  """
  word, one = ir.IntType(64), ir.FloatType()
  many = ir.VectorType(one, LANES)
  grid = [(r, j) for r in range(rows) for j in range(vectors)]

  def write(builder, out, out_row, v, v_row, v_k, w, w_row, count, columns, soon):
    out, v, w = (builder.inttoptr(a, one.as_pointer()) for a in (out, v, w))

    def row(start, r, stride):
      return builder.gep(start, [builder.mul(ir.Constant(word, r), stride)])

    def vector(start, j):
      return builder.bitcast(builder.gep(start, [ir.Constant(word, LANES * j)]), many.as_pointer())

    outs = [row(out, r, out_row) for r in range(rows)]
    of_rows = [row(v, r, v_row) for r in range(rows)]
    sums = {at: cgutils.alloca_once(builder, many) for at in grid}
    mask = _first_lanes(builder, columns) if part else None
    for r, j in grid:
      builder.store(_load(builder, vector(outs[r], j), mask), sums[r, j])
    with cgutils.for_range(builder, count) as loop:
      of_k = builder.gep(w, [builder.mul(loop.index, w_row)])
      weights = [builder.load(vector(of_k, j), align=4) for j in range(vectors)]
      _prefetch(builder, builder.add(soon, builder.mul(loop.index, ir.Constant(word, LINE))), 2)
      for r in range(rows):
        value = builder.load(builder.gep(of_rows[r], [builder.mul(loop.index, v_k)]))
        lanes = _in_all_lanes(builder, value)
        for j in range(vectors):
          more = builder.fmul(lanes, weights[j], flags=['contract'])
          total = builder.fadd(more, builder.load(sums[r, j]), flags=['contract'])
          builder.store(total, sums[r, j])
    for r, j in grid:
      _store(builder, builder.load(sums[r, j]), vector(outs[r], j), mask)

  @intrinsic
  def tile(typing, out, out_row, v, v_row, v_k, w, w_row, count, columns, soon):
    def generate(context, builder, signature, arguments):
      # LLVM must not inline this function at each of its uses, which would take half a minute.
      name = f'rnnlab_tile_{rows}_{"part" if part else vectors}'
      function = builder.module.globals.get(name)
      if function is None:
        function = ir.Function(builder.module, ir.FunctionType(ir.VoidType(), [word] * 10), name)
        function.linkage = 'linkonce_odr'
        function.attributes.add('noinline')
        inside = ir.IRBuilder(function.append_basic_block())
        write(inside, *function.args)
        inside.ret_void()
      builder.call(function, arguments)
      return context.get_dummy_value()

    return types.void(*[types.intp] * 10), generate

  return tile


def _prefetch(builder, address, near):
  """Prefetches the cache line at an address. near: 3 for the innermost cache, 2 for the next."""
  word, pointer = ir.IntType(32), cgutils.voidptr_t
  function = builder.module.globals.get('llvm.prefetch.p0') or ir.Function(
    builder.module,
    ir.FunctionType(ir.VoidType(), [pointer, word, word, word]),
    'llvm.prefetch.p0',
  )
  hints = [ir.Constant(word, hint) for hint in (0, near, 1)]  # to read, how near, as data
  builder.call(function, [builder.inttoptr(address, pointer), *hints])


def _in_all_lanes(builder, value):
  many = ir.VectorType(value.type, LANES)
  first = ir.Constant(ir.IntType(32), 0)
  lanes = builder.insert_element(ir.Constant(many, ir.Undefined), value, first)
  zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
  return builder.shuffle_vector(lanes, ir.Constant(many, ir.Undefined), zeros)


def _first_lanes(builder, count):
  """A mask of the first `count` lanes."""
  lanes = ir.Constant(ir.VectorType(count.type, LANES), list(range(LANES)))
  return builder.icmp_unsigned('<', lanes, _in_all_lanes(builder, count))


def _masked(builder, what, *arguments):
  """LLVM's masked load or store of a vector."""
  name = f'llvm.masked.{what}.v{LANES}f32.p0'
  vector = ir.VectorType(ir.FloatType(), LANES)
  out = vector if what == 'load' else ir.VoidType()
  function = builder.module.globals.get(name) or ir.Function(
    builder.module, ir.FunctionType(out, [a.type for a in arguments]), name
  )
  return builder.call(function, arguments)


def _load(builder, address, mask):
  if mask is None:
    return builder.load(address, align=4)
  align = ir.Constant(ir.IntType(32), 4)
  zeros = ir.Constant(ir.VectorType(ir.FloatType(), LANES), [0.0] * LANES)
  return _masked(builder, 'load', address, align, mask, zeros)


def _store(builder, value, address, mask):
  if mask is None:
    builder.store(value, address, align=4)
  else:
    _masked(builder, 'store', value, address, ir.Constant(ir.IntType(32), 4), mask)


ROWS = 6  # of a tile at most: the sums of this many rows fit into registers

wide_1, wide_2, wide_3, wide_4, wide_5, wide_6 = (_tile(n, WIDE) for n in range(1, ROWS + 1))
one_1, one_2, one_3, one_4, one_5, one_6 = (_tile(n, 1) for n in range(1, ROWS + 1))
part_1, part_2, part_3, part_4, part_5, part_6 = (_tile(n, 1, True) for n in range(1, ROWS + 1))


@jit
def tile_wide(rows, out, out_row, v, v_row, v_k, w, w_row, count, columns, soon):
  """A tile of 1 to ROWS rows of PANEL columns; see `_tile`."""
  if rows == 1:
    wide_1(out, out_row, v, v_row, v_k, w, w_row, count, columns, soon)
  elif rows == 2:
    wide_2(out, out_row, v, v_row, v_k, w, w_row, count, columns, soon)
  elif rows == 3:
    wide_3(out, out_row, v, v_row, v_k, w, w_row, count, columns, soon)
  elif rows == 4:
    wide_4(out, out_row, v, v_row, v_k, w, w_row, count, columns, soon)
  elif rows == 5:
    wide_5(out, out_row, v, v_row, v_k, w, w_row, count, columns, soon)
  else:
    wide_6(out, out_row, v, v_row, v_k, w, w_row, count, columns, soon)


@jit
def tile_one(rows, out, out_row, v, v_row, v_k, w, w_row, count, columns, soon):
  """A tile of 1 to ROWS rows of LANES columns; see `_tile`."""
  if rows == 1:
    one_1(out, out_row, v, v_row, v_k, w, w_row, count, columns, soon)
  elif rows == 2:
    one_2(out, out_row, v, v_row, v_k, w, w_row, count, columns, soon)
  elif rows == 3:
    one_3(out, out_row, v, v_row, v_k, w, w_row, count, columns, soon)
  elif rows == 4:
    one_4(out, out_row, v, v_row, v_k, w, w_row, count, columns, soon)
  elif rows == 5:
    one_5(out, out_row, v, v_row, v_k, w, w_row, count, columns, soon)
  else:
    one_6(out, out_row, v, v_row, v_k, w, w_row, count, columns, soon)


@jit
def tile_part(rows, out, out_row, v, v_row, v_k, w, w_row, count, columns, soon):
  """A tile of 1 to ROWS rows of fewer columns; see `_tile`."""
  if rows == 1:
    part_1(out, out_row, v, v_row, v_k, w, w_row, count, columns, soon)
  elif rows == 2:
    part_2(out, out_row, v, v_row, v_k, w, w_row, count, columns, soon)
  elif rows == 3:
    part_3(out, out_row, v, v_row, v_k, w, w_row, count, columns, soon)
  elif rows == 4:
    part_4(out, out_row, v, v_row, v_k, w, w_row, count, columns, soon)
  elif rows == 5:
    part_5(out, out_row, v, v_row, v_k, w, w_row, count, columns, soon)
  else:
    part_6(out, out_row, v, v_row, v_k, w, w_row, count, columns, soon)


@jit
def floats(address, shape):
  return numba.carray(pointer(address), shape, np.float32)


@jit
def ints(address, shape):
  return numba.carray(pointer(address), shape, np.int32)


def _transposed(builder, rows):
  """The vectors of the columns of a square of LANES vectors, by exchanges of ever larger blocks."""
  lanes, rows = range(LANES), list(rows)
  size = 1
  while size < LANES:
    upper = [lane if not lane & size else lane - size + LANES for lane in lanes]
    lower = [lane + size if not lane & size else lane + LANES for lane in lanes]
    for i in lanes:
      if not i & size:
        pair = rows[i], rows[i + size]
        for at, picked in (i, upper), (i + size, lower):
          mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), picked)
          rows[at] = builder.shuffle_vector(*pair, mask)
    size *= 2
  return rows


@intrinsic
def transpose(typing, out, out_row, v, v_row):
  """Writes the transpose of a square of LANES rows of v: addresses, and strides in elements."""

  def generate(context, builder, signature, arguments):
    many = ir.VectorType(ir.FloatType(), LANES).as_pointer()
    out, out_row, v, v_row = arguments

    def row(start, i, stride):
      bytes_on = builder.mul(ir.Constant(stride.type, 4 * i), stride)
      return builder.inttoptr(builder.add(start, bytes_on), many)

    rows = [builder.load(row(v, i, v_row), align=4) for i in range(LANES)]
    for i, column in enumerate(_transposed(builder, rows)):
      builder.store(column, row(out, i, out_row), align=4)
    return context.get_dummy_value()

  return types.void(*[types.intp] * 4), generate


@intrinsic
def prefetch_line(typing, address):
  """Prefetches the cache line at an address."""

  def generate(context, builder, signature, arguments):
    _prefetch(builder, arguments[0], 3)
    return context.get_dummy_value()

  return types.void(types.intp), generate


@intrinsic
def _advise(typing, address, size):
  """Calls Linux's madvise for memory that starts with a page, to have large pages there."""

  def generate(context, builder, signature, arguments):
    if sys.platform == 'linux':
      word, number = ir.IntType(64), ir.IntType(32)
      kind = ir.FunctionType(number, [cgutils.voidptr_t, word, number])
      madvise = cgutils.get_or_insert_function(builder.module, kind, 'madvise')
      start = builder.inttoptr(arguments[0], cgutils.voidptr_t)
      builder.call(madvise, [start, arguments[1], ir.Constant(number, 14)])  # MADV_HUGEPAGE
    return context.get_dummy_value()

  return types.void(types.intp, types.intp), generate


@jit
def on_large_pages(array):
  """Asks the system to give a large array large pages, where its memory has not been used yet.

  A page is cleared when it is used first, as is each of a call's own: this takes less time for a
  few large pages than for hundreds of small ones. NumPy asks for them for its arrays too.
  """
  if 4 * array.size >= 2 * LARGE:
    start = address_of(array) // LARGE * LARGE
    _advise(start, address_of(array) + 4 * array.size - start)


@jit
def prefetch(row):
  """Prefetches a row that is read a step later: there are more rows than the hardware predicts."""
  for at in range(0, 4 * row.size, LINE):
    prefetch_line(address_of(row) + at)


@jit
def copy(a, b, count):
  """a[:count] = b[:count]; Numba's own takes longer to compile and to run."""
  for j in range(count):
    a[j] = b[j]


@jit
def copy_rows(a, b):
  for r in range(a.shape[0]):
    copy(a[r], b[r], a.shape[1])


@jit
def fill(a, value):
  for r in range(a.shape[0]):
    row = a[r]
    for j in range(a.shape[1]):
      row[j] = value
