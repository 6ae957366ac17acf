"""The kernels as XLA calls them: each checks its operands, then runs.

A target receives the address of a call's frame. It compares the type, rank and sizes of every
operand with its signature before it touches the data, and returns an error where they differ.
"""

import numba
import numpy as np

from rnnlab.recurrence.kernels.cpu import ffi, sequence
from rnnlab.recurrence.kernels.cpu.cells import GRU_AFTER, GRU_BEFORE, LSTM
from rnnlab.recurrence.kernels.cpu.ffi import pointer
from rnnlab.recurrence.kernels.cpu.tile import copy_rows, floats, ints, jit, on_large_pages

# The sizes of a target's operands, a letter each: B, T, D, H as usual; W columns of the weights, K
# of what is kept; and the number of rows of those that may have none: C of the cell's state, R of
# `real`, J of the ids, M and L of the dropout masks of x and h, S of what is saved, N of b_hn, V of
# the gradient by a table. X, Y and Z are the sizes of xs, or of a table, for which D is 0; F is 2,
# the number of flags; Q is the room to work in, of floats that are declared as integers.
LETTERS = 'BTDHWKCRJMLSNVXYZFQ'
B, T, D, H, W, K, C, R, J, M, L, S, N, V, X, Y, Z, F, Q = range(len(LETTERS))
_FORWARD, _FORWARD_ARGUMENTS = ffi.signature(
  LETTERS,
  'iF fXYZ bRT iJT fDW fW fHW fN fBH fCH fMBD fLBH',
  'fBTH fBH fCH fSBH fSCH fSBK iQ',
)
_BACKWARD, _BACKWARD_ARGUMENTS = ffi.signature(
  LETTERS,
  'iF fBTD bRT iJT fDW fHW fMBD fLBH fSBH fSCH fSBK fBTH fBH fCH',
  'fBTD fVW fDW fW fHW fN fBH fCH iQ',
)


@jit
def _flags(frame):
  flags = ints(ffi.argument(frame, 0)[0], 2)
  return flags[0], flags[1] != 0


@jit
def _fit(kind, sizes):
  """Whether the sizes are consistent with the cell."""
  gates = 4 if kind == LSTM else 3
  blocks = 3 if kind == GRU_BEFORE else 4
  batch, units = sizes[B], sizes[H]
  return (
    0 <= kind < 3
    and min(batch, sizes[T], units) > 0
    and sizes[W] == gates * units
    and sizes[K] == blocks * units
    and sizes[C] == (batch if kind == LSTM else 0)
    and sizes[N] == (units if kind == GRU_AFTER else 0)
    and (sizes[R] == 0 or sizes[R] == batch)
    and (sizes[M] == 0 or sizes[M] == 1 or sizes[M] == gates)
    and (sizes[L] == 0 or sizes[L] == 1 or sizes[L] == gates)
    and (sizes[S] == 0 or sizes[S] == sizes[T])
  )


@jit
def _fit_inputs(sizes, ids, count):
  """Whether there are inputs, or else ids that all select one of the `count` rows of a table."""
  if sizes[J] == 0:
    return sizes[D] > 0
  if sizes[J] != sizes[B] or sizes[D] > 0 or sizes[M] > 0:
    return False
  for r in range(ids.shape[0]):
    for t in range(ids.shape[1]):
      if ids[r, t] < 0 or ids[r, t] >= count:
        return False
  return True


@jit
def _fit_table(sizes):
  """Whether xs are the inputs, or a table if there are ids."""
  if sizes[J] == 0:
    return sizes[X] == sizes[B] and sizes[Y] == sizes[T] and sizes[Z] == sizes[D]
  return sizes[X] == 1 and sizes[Z] == sizes[W]


@jit
def _array_1(operand):
  address, buffer = operand
  return floats(address, (ffi.dim(buffer, 0),))


@jit
def _array_2(operand):
  address, buffer = operand
  return floats(address, (ffi.dim(buffer, 0), ffi.dim(buffer, 1)))


@jit
def _array_3(operand):
  address, buffer = operand
  return floats(address, (ffi.dim(buffer, 0), ffi.dim(buffer, 1), ffi.dim(buffer, 2)))


@jit
def _table(operand, dtype):
  address, buffer = operand
  return numba.carray(pointer(address), (ffi.dim(buffer, 0), ffi.dim(buffer, 1)), dtype)


def forward_target(frame):
  if ffi.is_question(frame):
    return 0
  sizes = np.empty(len(LETTERS), np.int64)
  wrong = ffi.misfit(frame, _FORWARD, _FORWARD_ARGUMENTS, sizes)
  if wrong >= 0 or sizes[F] != 2:
    return ffi.error(frame, max(wrong, 0))
  kind, reverse = _flags(frame)
  ids = _table(ffi.argument(frame, 3), np.int32)
  if not _fit(kind, sizes) or not _fit_table(sizes) or not _fit_inputs(sizes, ids, sizes[Y]):
    return ffi.error(frame, 0)
  rooms = sequence.forward_rooms(kind, sizes[S] > 0, sizes[B], sizes[T], sizes[D], sizes[H])
  if sizes[Q] != sequence.room_size(rooms):
    return ffi.error(frame, 0)
  xs, real = _array_3(ffi.argument(frame, 1)), _table(ffi.argument(frame, 2), np.uint8)
  w_x, b = _array_2(ffi.argument(frame, 4)), _array_1(ffi.argument(frame, 5))
  w_h, b_hn = _array_2(ffi.argument(frame, 6)), _array_1(ffi.argument(frame, 7))
  drop_x, drop_h = _array_3(ffi.argument(frame, 10)), _array_3(ffi.argument(frame, 11))
  ys, h = _array_3(ffi.result(frame, 0)), _array_2(ffi.result(frame, 1))
  c, hs = _array_2(ffi.result(frame, 2)), _array_3(ffi.result(frame, 3))
  cs, kept = _array_3(ffi.result(frame, 4)), _array_3(ffi.result(frame, 5))
  room = _array_1(ffi.result(frame, 6))
  on_large_pages(room)
  on_large_pages(kept)
  copy_rows(h, _array_2(ffi.argument(frame, 8)))
  copy_rows(c, _array_2(ffi.argument(frame, 9)))
  sequence.forward(
    kind, reverse, xs, ids, real, w_x, b, w_h, b_hn, drop_x, drop_h, ys, h, c, hs, cs, kept,
    room,
  )  # fmt: skip
  return 0


def backward_target(frame):
  if ffi.is_question(frame):
    return 0
  sizes = np.empty(len(LETTERS), np.int64)
  wrong = ffi.misfit(frame, _BACKWARD, _BACKWARD_ARGUMENTS, sizes)
  if wrong >= 0 or sizes[F] != 2:
    return ffi.error(frame, max(wrong, 0))
  kind, reverse = _flags(frame)
  ids = _table(ffi.argument(frame, 3), np.int32)
  if not _fit(kind, sizes) or not _fit_inputs(sizes, ids, sizes[V]) or sizes[S] != sizes[T]:
    return ffi.error(frame, 0)
  rooms = sequence.backward_rooms(kind, sizes[B], sizes[T], sizes[D], sizes[H])
  if sizes[Q] != sequence.room_size(rooms):
    return ffi.error(frame, 0)
  xs, real = _array_3(ffi.argument(frame, 1)), _table(ffi.argument(frame, 2), np.uint8)
  w_x, w_h = _array_2(ffi.argument(frame, 4)), _array_2(ffi.argument(frame, 5))
  drop_x, drop_h = _array_3(ffi.argument(frame, 6)), _array_3(ffi.argument(frame, 7))
  hs, cs = _array_3(ffi.argument(frame, 8)), _array_3(ffi.argument(frame, 9))
  kept, d_ys = _array_3(ffi.argument(frame, 10)), _array_3(ffi.argument(frame, 11))
  d_xs, d_table = _array_3(ffi.result(frame, 0)), _array_2(ffi.result(frame, 1))
  d_w_x, d_b = _array_2(ffi.result(frame, 2)), _array_1(ffi.result(frame, 3))
  d_w_h, d_b_hn = _array_2(ffi.result(frame, 4)), _array_1(ffi.result(frame, 5))
  d_h, d_c = _array_2(ffi.result(frame, 6)), _array_2(ffi.result(frame, 7))
  room = _array_1(ffi.result(frame, 8))
  on_large_pages(room)
  on_large_pages(d_w_x)
  on_large_pages(d_w_h)
  copy_rows(d_h, _array_2(ffi.argument(frame, 12)))
  copy_rows(d_c, _array_2(ffi.argument(frame, 13)))
  sequence.backward(
    kind, reverse, xs, ids, real, w_x, w_h, drop_x, drop_h, hs, cs, kept, d_ys,
    d_xs, d_table, d_w_x, d_b, d_w_h, d_b_hn, d_h, d_c, room,
  )  # fmt: skip
  return 0


TARGETS = {'forward': forward_target, 'backward': backward_target}
