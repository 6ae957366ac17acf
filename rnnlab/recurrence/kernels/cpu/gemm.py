"""Matrix products in float32: of inputs and states, back through these, and for weight gradients.

B rows, K inputs of a product, G gates of H units. Weights are packed once per call, so that a
product reads them from a few pages of memory; dropout masks are applied on the way.
"""

import numpy as np

from rnnlab.recurrence.kernels.cpu.ffi import address as address_of
from rnnlab.recurrence.kernels.cpu.tile import (
  LANES,
  LINE,
  PANEL,
  ROWS,
  copy,
  fill,
  floats,
  jit,
  plain,
  prefetch_line,
  tile_one,
  tile_part,
  tile_wide,
  transpose,
)


@plain
def padded(columns):
  """How many floats a row of `columns` columns takes when packed: whole vectors."""
  return (columns + LANES - 1) // LANES * LANES


BLOCK = 768  # rows of a panel at most: these stay in a cache while all rows of v pass
FAR = 256  # floats in a row of v above which `add_weights` does not read it in columns


@jit
def _share(left, parts):
  """How many of the `left` items go to the next of `parts` parts of nearly equal size."""
  return (left + parts - 1) // parts


@jit
def add_product(out, out_row, v, v_row, v_k, w, total, first, rows, count, columns):
  """out[r, m] += the sum over k < count of v[r, k] w[first + k, m]; see `_tile`.

  w: the address of `total` packed rows of `columns` columns; see `pack`. v_k: 0 if v is packed by
  `_in_tiles`, with v_row floats for each of its rows.
  """
  wide = columns - columns % PANEL
  rest = padded(columns - wide)
  tiles, blocks = _share(rows, ROWS), _share(count, BLOCK)
  at_m = 0
  while at_m < columns:
    left = columns - at_m
    if left >= PANEL:
      w_row, of_m = PANEL, w + 4 * (at_m * total + first * PANEL)
    else:
      w_row, of_m = rest, w + 4 * (wide * total + first * rest + at_m - wide)
    lines = w_row // LANES
    k = 0
    for b in range(blocks):
      many = _share(count - k, blocks - b)
      of_k, r = of_m + 4 * k * w_row, 0
      for i in range(tiles):
        some = _share(rows - r, tiles - i)
        row, step = (v_row, v_k) if v_k else (1, some)
        at, of_v = out + 4 * (r * out_row + at_m), v + 4 * (r * v_row + k * step)
        for j in range(some, 2 * some):
          for line in range(lines):
            prefetch_line(at + 4 * j * out_row + LINE * line)
        soon = of_k + 4 * many * w_row + LINE * many * (i % lines)  # part of the next block
        if left >= PANEL:
          tile_wide(some, at, out_row, of_v, row, step, of_k, w_row, many, left, soon)
        elif left >= LANES:
          tile_one(some, at, out_row, of_v, row, step, of_k, w_row, many, left, soon)
        else:
          tile_part(some, at, out_row, of_v, row, step, of_k, w_row, many, left, soon)
        r += some
      k += many
    at_m += PANEL if left >= PANEL else LANES


@jit
def pack(packed, w, begin, end, columns):
  """Packs the columns of w `[K, M]` from `begin` to `end` into a flat array.

  columns: of a part that is multiplied separately. Each part is cut into panels of PANEL columns,
  the last having the remainder: a panel is a contiguous matrix, so that its rows lie in few pages
  of memory and are read in order. Parts follow one another, each with `padded(columns)` floats per
  row of w.
  """
  rows = len(w)
  # Row by row of w, which is read in order: rows are pages apart, and a panel has a part of each.
  for k in range(rows):
    for part in range((end - begin) // columns):
      for m in range(0, columns, PANEL):
        count = min(PANEL, columns - m)
        row = packed[rows * (part * padded(columns) + m) + k * padded(count) :]
        copy(row, w[k, begin + part * columns + m :], count)
        for j in range(count, padded(count)):
          row[j] = 0


@jit
def pack_transposed(packed, w):
  """Packs the transpose of w, as one part."""
  rows, width = w.shape
  for m in range(0, rows, PANEL):
    count = min(PANEL, rows - m)
    panel = floats(address_of(packed) + 4 * width * m, (width, padded(count)))
    of_w, of_panel = address_of(w[m:]), address_of(panel)
    for j in range(0, padded(count), LANES):  # only as many rows of w at once as can be prefetched
      for k in range(0, width, LANES):
        if k + LANES <= width and j + LANES <= count:
          at = of_panel + 4 * (k * padded(count) + j)
          transpose(at, padded(count), of_w + 4 * (j * width + k), width)
        else:
          for i in range(k, min(k + LANES, width)):
            for n in range(j, j + LANES):
              panel[i, n] = w[m + n, i] if n < count else 0


@jit
def _masked(v, v_row, mask, room):
  """The address of v, rows `v_row` apart, times a mask `[B, K]`, in `room`; as in `multiply`."""
  rows, count = room.shape
  for r in range(rows):
    of_v, of_mask = floats(v + 4 * r * v_row, count), mask[r % len(mask)]
    for k in range(count):
      room[r, k] = of_v[k] * of_mask[k]
  return address_of(room)


@jit
def multiply(out, out_row, v, v_row, packed, first, gates, units, drop, room):
  """Adds the products of v `[N, K]` with the weights of `gates` gates, from `first` on, to out.

  out and v are addresses; drop `[0, 1 or G, B, K]` are the masks of v, which has B rows for each of
  several steps; room `[N, K]`. packed: w, with these gates as one part and the gates before them as
  another, or with each gate as a part if each has its own mask.
  """
  rows, count = room.shape
  alone = 1 if len(drop) > 1 else gates
  of_part = address_of(packed)
  if first:
    before = first * padded(units) if len(drop) > 1 else padded(first * units)
    of_part += 4 * count * before
  for g in range(0, gates, alone):
    of_v, row = v, v_row
    if len(drop):
      of_v, row = _masked(v, v_row, drop[first + g if len(drop) > 1 else 0], room), count
    at, of_w = out + 4 * g * units, of_part + 4 * g * count * padded(units)
    add_product(at, out_row, of_v, row, 1, of_w, count, 0, rows, count, alone * units)


@jit
def multiply_back(out, out_row, d, d_row, packed, first, gates, units, drop, room):
  """Adds to out the gradient by v of `multiply`; d is the gradient by its products.

  packed: w transposed, `[G H, K]`, packed as one part.
  """
  rows, count = room.shape
  total, weights = packed.size // padded(count), address_of(packed)
  if len(drop) == 0:
    begin, many = first * units, gates * units
    add_product(out, out_row, d, d_row, 1, weights, total, begin, rows, many, count)
    return
  alone = 1 if len(drop) > 1 else gates
  for g in range(0, gates, alone):
    fill(room, 0)
    begin, of_d, at = (first + g) * units, d + 4 * g * units, address_of(room)
    add_product(at, count, of_d, d_row, 1, weights, total, begin, rows, alone * units, count)
    mask = drop[first + g if len(drop) > 1 else 0]
    for r in range(rows):
      row, of_mask = floats(out + 4 * r * out_row, count), mask[r % len(mask)]
      for k in range(count):
        row[k] += room[r, k] * of_mask[k]


@jit
def _in_tiles(v, drops, rows, room):
  """Packs v `[rows, K]` into room, times a mask `[B, K]` if `drops` has one.

  The operand of `add_weights` is v transposed, and a tile takes a few of its rows: here these lie
  together, for each row of v.
  """
  packed, count = floats(address_of(room), room.size), v.shape[1]
  tiles, at, r = _share(count, ROWS), 0, 0
  for i in range(tiles):
    some = _share(count - r, tiles - i)
    for k in range(rows):
      for j in range(some):
        value = v[k, r + j]
        if len(drops):
          value *= drops[0, k % drops.shape[1], r + j]
        packed[at + j] = value
      at += some
    r += some


@jit
def add_weights(d_w, v, d, first, block, gates, units, drop, rows, room):
  """Adds to d_w `[K, G H]` the part from `rows` rows of v and of d, the gradient of their products.

  d `[rows, P H]` holds that of gate `first` in its block `block`.
  """
  count, columns = d_w.shape
  panel = np.zeros(rows * PANEL, np.float32)
  for g in range(0, gates, gates if len(drop) < 2 else 1):
    mask = first + g if len(drop) > 1 else 0
    of_v, v_row, v_k = address_of(v), 1, count
    if count > FAR:
      _in_tiles(v, drop[mask : mask + 1], rows, room)
      of_v, v_row, v_k = address_of(room), rows, 0
    elif len(drop):
      of_v = _masked(of_v, count, drop[mask], room[:rows])
    begin, end = g * units, (g + 1 if len(drop) > 1 else gates) * units
    for m in range(begin, end, PANEL):
      width = min(PANEL, end - m)
      for r in range(rows):
        copy(panel[r * padded(width) :], d[r, block * units + m :], width)
      at, of_d = address_of(d_w) + 4 * (first * units + m), address_of(panel)
      add_product(at, columns, of_v, v_row, v_k, of_d, rows, 0, count, rows, width)
