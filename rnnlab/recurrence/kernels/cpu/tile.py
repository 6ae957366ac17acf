"""The machine's own part of a product: a tile of results kept in vector registers, and memory.

What is compiled for a CPU takes addresses and strides, counted in float32 elements; a tile is a few
rows of a few vectors of the result. Its functions are written in LLVM's instructions, since Numba
has none for vectors.
"""

import llvmlite.binding
import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from rnnlab.recurrence.kernels.cpu.ffi import address as address_of
from rnnlab.recurrence.kernels.cpu.ffi import pointer

LANES = 16  # floats of a vector; where the machine's are narrower LLVM takes several for one
WIDE = 4 if llvmlite.binding.get_host_cpu_features().get('avx512f') else 1  # vectors of a tile
PANEL = WIDE * LANES  # columns


# Operations may be reordered and fused, but a NaN stays a NaN.
options = {'fastmath': {'contract', 'reassoc', 'arcp', 'nsz'}, 'error_model': 'numpy'}
jit = numba.njit(**options)


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


ROWS = 6  # of a tile at most: of so many vectors the sums are in registers

wide_1, wide_2, wide_3, wide_4, wide_5, wide_6 = (_tile(n, WIDE) for n in range(1, ROWS + 1))
one_1, one_2, one_3, one_4, one_5, one_6 = (_tile(n, 1) for n in range(1, ROWS + 1))


@jit
def tile_wide(rows, out, out_row, v, v_row, v_k, w, w_row, count):
  """A tile of 1 to ROWS rows of PANEL columns; see `_tile`."""
  if rows == 1:
    wide_1(out, out_row, v, v_row, v_k, w, w_row, count)
  elif rows == 2:
    wide_2(out, out_row, v, v_row, v_k, w, w_row, count)
  elif rows == 3:
    wide_3(out, out_row, v, v_row, v_k, w, w_row, count)
  elif rows == 4:
    wide_4(out, out_row, v, v_row, v_k, w, w_row, count)
  elif rows == 5:
    wide_5(out, out_row, v, v_row, v_k, w, w_row, count)
  else:
    wide_6(out, out_row, v, v_row, v_k, w, w_row, count)


@jit
def tile_one(rows, out, out_row, v, v_row, v_k, w, w_row, count):
  """A tile of 1 to ROWS rows of LANES columns; see `_tile`."""
  if rows == 1:
    one_1(out, out_row, v, v_row, v_k, w, w_row, count)
  elif rows == 2:
    one_2(out, out_row, v, v_row, v_k, w, w_row, count)
  elif rows == 3:
    one_3(out, out_row, v, v_row, v_k, w, w_row, count)
  elif rows == 4:
    one_4(out, out_row, v, v_row, v_k, w, w_row, count)
  elif rows == 5:
    one_5(out, out_row, v, v_row, v_k, w, w_row, count)
  else:
    one_6(out, out_row, v, v_row, v_k, w, w_row, count)


@jit
def floats(address, shape):
  return numba.carray(pointer(address), shape, np.float32)


@jit
def ints(address, shape):
  return numba.carray(pointer(address), shape, np.int32)


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


@jit
def prefetch(row):
  """Asks for a row that is read a step later, as there are more than the machine foresees."""
  for at in range(0, 4 * row.size, 64):
    _prefetch_line(address_of(row) + at)


@jit
def copy(a, b, count):
  """a[:count] = b[:count], which Numba's own takes longer to compile, and to do."""
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
