"""Matrix products of float32: of the inputs and the states, back through them, and of weights.

B rows, K inputs of a product, G gates of H units. Weights are packed once a call, so that a product
reads them from a few pages of memory; dropout masks are applied on the way.
"""

import numpy as np

from rnnlab.recurrence.kernels.cpu.ffi import address as address_of
from rnnlab.recurrence.kernels.cpu.tile import (
  LANES,
  PANEL,
  copy,
  fill,
  floats,
  jit,
  tile_1_1,
  tile_1_wide,
  tile_4_1,
  tile_4_wide,
)


@jit
def add_product(out, out_row, v, v_row, v_k, w, w_row, panel, rows, count, columns):
  """out[r, m] += the sum over k < count of v[r, k] w[k, m]; see `_tile`.

  panel: how far apart the panels of `PANEL` columns of w lie; see `pack`.
  """
  wide = columns - columns % PANEL
  whole = columns - columns % LANES
  tiled = rows - rows % 4
  for m in range(0, wide, PANEL):
    of_m = w + 4 * (m // PANEL) * panel
    for r in range(0, tiled, 4):
      at = out + 4 * (r * out_row + m)
      tile_4_wide(at, out_row, v + 4 * r * v_row, v_row, v_k, of_m, w_row, count)
    for r in range(tiled, rows):
      at = out + 4 * (r * out_row + m)
      tile_1_wide(at, out_row, v + 4 * r * v_row, v_row, v_k, of_m, w_row, count)
  w += 4 * (wide // PANEL) * panel
  for m in range(wide, whole, LANES):
    of_m = w + 4 * (m - wide)
    for r in range(0, tiled, 4):
      at = out + 4 * (r * out_row + m)
      tile_4_1(at, out_row, v + 4 * r * v_row, v_row, v_k, of_m, w_row, count)
    for r in range(tiled, rows):
      at = out + 4 * (r * out_row + m)
      tile_1_1(at, out_row, v + 4 * r * v_row, v_row, v_k, of_m, w_row, count)
  w -= 4 * wide
  if whole < columns:
    outs = floats(out, (rows - 1) * out_row + columns)
    vs = floats(v, (rows - 1) * v_row + (count - 1) * v_k + 1)
    ws = floats(w, (count - 1) * w_row + columns)
    for r in range(rows):
      for m in range(whole, columns):
        total = outs[r * out_row + m]
        for k in range(count):
          total += vs[r * v_row + k * v_k] * ws[k * w_row + m]
        outs[r * out_row + m] = total


@jit
def transposed(a):
  b = np.empty((a.shape[1], a.shape[0]), np.float32)
  for r in range(a.shape[0]):
    for j in range(a.shape[1]):
      b[j, r] = a[r, j]
  return b


@jit
def pack(w, columns):
  """w `[K, M]`, and how many columns its rows have now, and how far apart its panels are.

  Where panels fit into `columns`, of a gate, each is a matrix of its own: its rows then lie in few
  pages of memory, and are read in a row.
  """
  rows, width = w.shape
  if columns % PANEL:
    return w, width, PANEL
  packed = np.empty((rows, width), np.float32)
  out = floats(address_of(packed), (width // PANEL, rows, PANEL))
  for p in range(width // PANEL):
    for k in range(rows):
      copy(out[p, k], w[k, p * PANEL :], PANEL)
  return packed, PANEL, rows * PANEL


@jit
def _masked(v, v_row, drop, room):
  """The address of v, `[B, K]` with rows `v_row` apart, times a mask `[B, K]`, in `room`."""
  for r in range(len(drop)):
    of_v = floats(v + 4 * r * v_row, drop.shape[1])
    for k in range(drop.shape[1]):
      room[r, k] = of_v[k] * drop[r, k]
  return address_of(room)


@jit
def multiply(out, out_row, v, v_row, packed, first, gates, units, drop, room):
  """Adds the products of v `[B, K]` with the weights of `gates` gates, from `first` on, to out.

  out and v are addresses; packed: `pack(w, units)`. drop `[0, 1 or G, B, K]` are the masks of v;
  room `[B, K]`.
  """
  rows, count = room.shape
  w, w_row, panel = packed
  for g in range(0, gates, gates if len(drop) < 2 else 1):
    of_v, row = v, v_row
    if len(drop):
      of_v, row = _masked(v, v_row, drop[first + g if len(drop) > 1 else 0], room), count
    at, of_w = out + 4 * g * units, address_of(w) + 4 * (first + g) * units * (panel // PANEL)
    columns = units if len(drop) > 1 else gates * units
    add_product(at, out_row, of_v, row, 1, of_w, w_row, panel, rows, count, columns)


@jit
def multiply_back(out, out_row, d, d_row, packed, first, gates, units, drop, room):
  """Adds to out the gradient by v of `multiply`; d is that by its products.

  packed: `pack(w transposed, K)`.
  """
  rows, count = room.shape
  w_t, w_row, panel = packed
  weights = address_of(w_t) + 4 * first * units * w_row
  if len(drop) == 0:
    add_product(out, out_row, d, d_row, 1, weights, w_row, panel, rows, gates * units, count)
    return
  alone = 1 if len(drop) > 1 else gates
  for g in range(0, gates, alone):
    fill(room, 0)
    of_w, of_d, at = weights + 4 * g * units * w_row, d + 4 * g * units, address_of(room)
    add_product(at, count, of_d, d_row, 1, of_w, w_row, panel, rows, alone * units, count)
    mask = drop[first + g if len(drop) > 1 else 0]
    for r in range(rows):
      row = floats(out + 4 * r * out_row, count)
      for k in range(count):
        row[k] += room[r, k] * mask[r, k]


@jit
def add_weights(d_w, v, d, first, block, gates, units, drop, rows, room):
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
        copy(panel[r], d[r, block * units + m :], width)
      at, of_d = address_of(d_w) + 4 * (first * units + m), address_of(panel)
      add_product(at, columns, address_of(of_v), 1, count, of_d, PANEL, PANEL, count, rows, width)
