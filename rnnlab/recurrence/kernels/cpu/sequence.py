"""A whole sequence forward, and its gradients backward: the two kernels.

B rows, T steps, D inputs, H units, G gates; P blocks of H pre-activations: G, or 4 if GRU resets
after the product, as the input's and the state's parts of the candidate are then separate.
"""

from rnnlab.recurrence.kernels.cpu.cells import (
  BLOCKS,
  GRU_AFTER,
  GRU_BEFORE,
  LSTM,
  gru_after,
  gru_after_back,
  gru_before,
  gru_before_back,
  gru_reset,
  gru_reset_back,
  lstm,
  lstm_back,
)
from rnnlab.recurrence.kernels.cpu.ffi import address as address_of
from rnnlab.recurrence.kernels.cpu.gemm import (
  add_weights,
  multiply,
  multiply_back,
  pack,
  pack_transposed,
  padded,
)
from rnnlab.recurrence.kernels.cpu.tile import copy, fill, floats, jit, plain, prefetch

REAL, RESET = 1, 2  # the bits of a step of a row: it is real; its carry is reset before it
CHUNK = 128  # rows of a product for the weights' gradients, at least


# What a kernel works in is a buffer of XLA's, which a compiled loop keeps: memory that each call
# allocates and frees would be taken back by the system, and cleared again page by page.


@plain
def forward_rooms(kind, save, rows, steps, inputs, units):
  """The shapes of the arrays that `forward` works in, in its order."""
  many = min(max(CHUNK // rows, 1), steps) * rows
  weights = (4 if kind == LSTM else 3) * padded(units)
  return (
    (many, inputs),
    (many, inputs),
    (rows, units),
    (rows, units),
    (0 if save else many, BLOCKS[kind] * units),
    (inputs, weights),
    (units, weights),
  )


@plain
def backward_rooms(kind, rows, steps, inputs, units):
  """The shapes of the arrays that `backward` works in, in its order."""
  many = min(max(max(CHUNK, units) // rows, 1), steps) * rows
  columns = (4 if kind == LSTM else 3) * units
  return (
    (columns, padded(inputs)),
    (columns, padded(units)),
    (rows, units),
    (rows, units),
    (many, inputs),
    (many, inputs),
    (many, inputs),
    (many, units),
    (many, units),
    (many, units),
    (many, BLOCKS[kind] * units),
  )


@plain
def room_size(rooms):
  """How many floats the arrays of these shapes take, each a whole number of vectors."""
  total = 0
  for rows, columns in rooms:
    total += padded(rows * columns)
  return total


@jit
def _room(room, shapes, index):
  """The array of shape `shapes[index]` in `room`, a flat array of `room_size` floats."""
  at = 0
  for i in range(index):
    at += padded(shapes[i][0] * shapes[i][1])
  rows, columns = shapes[index]
  return floats(address_of(room) + 4 * at, (rows, columns))


@jit
def _moves(real, r, t):
  return len(real) == 0 or real[r, t] & REAL != 0


@jit
def _is_reset(real, r, t):
  return len(real) > 0 and real[r, t] & RESET != 0


@jit
def _reset(kind, h, c, r):
  for j in range(h.shape[1]):
    h[r, j] = 0
    if kind == LSTM:
      c[r, j] = 0


@jit
def _copy_real(x, xs, r, t, real):
  """x = xs[r, t], or 0 if that is padding, even if it is NaN."""
  if not _moves(real, r, t):
    for j in range(x.size):
      x[j] = 0
  else:
    copy(x, xs[r, t], x.size)


@jit
def _start_step(kind, real, r, t, h, c, hs, cs):
  """Resets row r of the carry if step t asks for it, and keeps it in hs and cs if there are any."""
  if _is_reset(real, r, t):
    for j in range(h.size):
      h[j] = 0
      if kind == LSTM:
        c[r, j] = 0
  if len(hs) > 0:
    copy(hs[t, r], h, h.size)
    if kind == LSTM:
      copy(cs[t, r], c[r], h.size)


@jit
def forward(
  kind, reverse, xs, ids, real, w_x, b, w_h, b_hn, drop_x, drop_h, ys, h, c, hs, cs, kept, room
):  # fmt: skip
  """Fills ys `[B, T, H]` and, if hs is not empty, hs, cs `[T, B, H]` and kept `[T, B, P H]`.

  h, c `[B, H]` hold the first carry, and afterwards the last. hs and cs are what each step starts
  from; kept are the gates. real `[B or 0, T]` has the bits REAL and RESET of each step; without
  rows all are real. If there are ids `[B or 0, T]`, row `ids[r, t]` of xs `[1, V, G H]` replaces
  the product x W_x + b, and D is 0. room: see `forward_rooms`.
  """
  (rows, steps), units, inputs = ys.shape[:2], h.shape[1], w_x.shape[0]
  known = len(ids) > 0
  gates = w_x.shape[1] // units
  save = len(hs) > 0
  shapes = forward_rooms(kind, save, rows, steps, inputs, units)
  x, room_x = _room(room, shapes, 0), _room(room, shapes, 1)
  # The inputs' products are computed for several steps at once, to read their weights only once.
  size = len(x) // rows
  reset, room_h = _room(room, shapes, 2), _room(room, shapes, 3)
  local = _room(room, shapes, 4)
  of_x, of_h = _room(room, shapes, 5).ravel(), _room(room, shapes, 6).ravel()
  width = local.shape[1]
  pack(of_x, w_x, 0, gates * units, units if len(drop_x) > 1 else gates * units)
  _pack_state(kind, of_h, w_h, drop_h)
  for start in range(0, steps, size):
    count = min(size, steps - start)
    low = steps - start - count if reverse else start  # the earliest of these steps
    pre = kept[low : low + count] if save else local.reshape(size, rows, width)[:count]
    if not known:
      for r in range(rows):
        for i in range(count):
          _copy_real(x[i * rows + r], xs, r, low + i, real)
      for i in range(count):
        for r in range(rows):
          copy(pre[i, r], b, gates * units)
      out, these = address_of(pre), room_x[: count * rows]
      multiply(out, width, address_of(x), inputs, of_x, 0, gates, units, drop_x, these)
    for s in range(count):
      i = count - 1 - s if reverse else s
      _forward_step(
        kind, low + i, -1 if reverse else 1, pre[i], xs, ids, real, of_h, b_hn, gates, drop_h,
        ys, h, c, hs, cs, reset, room_h,
      )  # fmt: skip


@jit
def _pack_state(kind, packed, w_h, drop_h):
  """Packs w_h: a GRU's candidate is multiplied separately, as is each gate with its own mask."""
  units, columns = w_h.shape
  if len(drop_h) > 1:
    pack(packed, w_h, 0, columns, units)
  elif kind == LSTM:
    pack(packed, w_h, 0, columns, columns)
  else:
    pack(packed, w_h, 0, 2 * units, 2 * units)
    pack(packed[units * padded(2 * units) :], w_h, 2 * units, columns, units)


@jit
def _forward_step(
  kind, t, way, pre, xs, ids, real, of_h, b_hn, gates, drop_h,
  ys, h, c, hs, cs, reset, room_h,
):  # fmt: skip
  """Step t; pre `[B, P H]` already holds the input's part of the pre-activations, unless known."""
  (rows, steps), units = ys.shape[:2], h.shape[1]
  known, width = len(ids) > 0, pre.shape[1]
  if known and 0 <= t + way < steps:
    for r in range(rows):
      prefetch(xs[0, ids[r, t + way]])
  for r in range(rows):
    _start_step(kind, real, r, t, h[r], c, hs, cs)
    if known:
      copy(pre[r], xs[0, ids[r, t]], gates * units)
    if kind == GRU_AFTER:
      copy(pre[r, gates * units :], b_hn, units)
  out, state = address_of(pre), address_of(h)
  multiply(out, width, state, units, of_h, 0, 4 if kind == LSTM else 2, units, drop_h, room_h)
  if kind == GRU_AFTER:
    multiply(out + 12 * units, width, state, units, of_h, 2, 1, units, drop_h, room_h)
  elif kind == GRU_BEFORE:
    for r in range(rows):
      gru_reset(pre[r], h[r], reset[r], units)
    state = address_of(reset)
    multiply(out + 8 * units, width, state, units, of_h, 2, 1, units, drop_h, room_h)
  for r in range(rows):
    if not _moves(real, r, t):
      for j in range(units):
        ys[r, t, j] = 0
    elif kind == LSTM:
      lstm(pre[r], h[r], c[r], ys[r, t], units)
    elif kind == GRU_AFTER:
      gru_after(pre[r], h[r], ys[r, t], units)
    else:
      gru_before(pre[r], h[r], ys[r, t], units)


@jit
def _ask_for(kind, t, xs, hs, cs, kept, d_ys):
  """Prefetches what the backward pass reads for step t."""
  for r in range(xs.shape[0]):
    prefetch(kept[t, r])
    prefetch(hs[t, r])
    prefetch(d_ys[r, t])
    prefetch(xs[r, t])
    if kind == LSTM:
      prefetch(cs[t, r])


@jit
def _add(a, b, count):
  for j in range(count):
    a[j] += b[j]


@jit
def _gates_back(kind, t, real, hs, cs, kept, d_ys, d_h, d_c, d):
  """Fills d `[B, P H]`, the gradient by step t's pre-activations, from that by its carry."""
  units = d_h.shape[1]
  for r in range(d_h.shape[0]):
    row = d[r]
    if not _moves(real, r, t):
      for j in range(row.size):
        row[j] = 0
      continue
    _add(d_h[r], d_ys[r, t], units)
    if kind == LSTM:
      lstm_back(kept[t, r], cs[t, r], d_h[r], d_c[r], row, units)
    elif kind == GRU_AFTER:
      gru_after_back(kept[t, r], hs[t, r], d_h[r], row, units)
    else:
      gru_before_back(kept[t, r], hs[t, r], d_h[r], row, units)


@jit
def _state_back(kind, t, real, hs, kept, w_h_t, drop_h, d_h, d, v_reset, d_reset, room):
  """Adds to d_h the gradient through the recurrent products of step t.

  If GRU resets before the product, the gradient by the reset gate is computed here, and v_reset
  `[B, H]`, the state after the reset, which is the operand of the candidate's product.
  """
  rows, units = d_h.shape
  width = d.shape[1]
  of_d, of_h = address_of(d), address_of(d_h)
  if kind == GRU_BEFORE:
    fill(d_reset, 0)
    of_reset, candidate = address_of(d_reset), of_d + 8 * units
    multiply_back(of_reset, units, candidate, width, w_h_t, 2, 1, units, drop_h, room)
    for r in range(rows):
      for j in range(units):
        v_reset[r, j] = kept[t, r, j] * hs[t, r, j]
      if _moves(real, r, t):
        gru_reset_back(kept[t, r], hs[t, r], d_reset[r], d_h[r], d[r], units)
  elif kind == GRU_AFTER:
    candidate = of_d + 12 * units
    multiply_back(of_h, units, candidate, width, w_h_t, 2, 1, units, drop_h, room)
  together = 4 if kind == LSTM else 2  # the gates whose products involve h itself
  multiply_back(of_h, units, of_d, width, w_h_t, 0, together, units, drop_h, room)


@jit
def _add_state_weights(kind, d_w_h, v_h, v_reset, d, drop_h, filled, room):
  """Adds to d_w_h the part from the first `filled` rows of the operands and of d."""
  units = d_w_h.shape[0]
  together = 4 if kind == LSTM else 2
  add_weights(d_w_h, v_h, d, 0, 0, together, units, drop_h, filled, room)
  if kind == GRU_BEFORE:
    add_weights(d_w_h, v_reset, d, 2, 2, 1, units, drop_h, filled, room)
  elif kind == GRU_AFTER:
    add_weights(d_w_h, v_h, d, 2, 3, 1, units, drop_h, filled, room)


@jit
def _add_biases(d_b, d_b_hn, d, filled):
  """Adds the first `filled` rows of d to the gradients by the biases."""
  units = len(d_b_hn)
  for i in range(filled):
    _add(d_b, d[i], len(d_b))
    _add(d_b_hn, d[i, 3 * units :], units)


@jit
def backward(
  kind, reverse, xs, ids, real, w_x, w_h, drop_x, drop_h, hs, cs, kept, d_ys,
  d_xs, d_table, d_w_x, d_b, d_w_h, d_b_hn, d_h, d_c, room,
):  # fmt: skip
  """Fills the gradients by everything that `forward` reads, from what it saved and d_ys.

  d_h, d_c hold the gradients by the last carry, and afterwards by the first. If there are ids,
  d_table `[V, G H]` is the gradient by the table, and D is 0. room: see `backward_rooms`.
  """
  (rows, steps, inputs), units = xs.shape, d_h.shape[1]
  gates = w_x.shape[1] // units
  shapes = backward_rooms(kind, rows, steps, inputs, units)
  w_x_t, w_h_t = _room(room, shapes, 0).ravel(), _room(room, shapes, 1).ravel()
  pack_transposed(w_x_t, w_x)
  pack_transposed(w_h_t, w_h)
  d_reset, room_h = _room(room, shapes, 2), _room(room, shapes, 3)
  # The last steps' operands and gradients, until there are enough for products of many rows.
  v_x, room_v_x, d_x = _room(room, shapes, 4), _room(room, shapes, 5), _room(room, shapes, 6)
  v_h, room_v_h, v_reset = _room(room, shapes, 7), _room(room, shapes, 8), _room(room, shapes, 9)
  d = _room(room, shapes, 10)
  many, width = d.shape
  fill(d_table, 0)
  fill(d_w_x, 0)
  fill(d_w_h, 0)
  for j in range(gates * units):
    d_b[j] = 0
  for j in range(len(d_b_hn)):
    d_b_hn[j] = 0
  filled = 0
  for s in range(steps):
    t = s if reverse else steps - 1 - s
    if s < steps - 1:
      _ask_for(kind, t + 1 if reverse else t - 1, xs, hs, cs, kept, d_ys)
    for r in range(rows):
      _copy_real(v_x[filled + r], xs, r, t, real)
      copy(v_h[filled + r], hs[t, r], units)
    new, resets = d[filled : filled + rows], v_reset[filled : filled + rows]
    _gates_back(kind, t, real, hs, cs, kept, d_ys, d_h, d_c, new)
    _state_back(kind, t, real, hs, kept, w_h_t, drop_h, d_h, new, resets, d_reset, room_h)
    for r in range(len(ids)):
      _add(d_table[ids[r, t]], new[r], gates * units)
    for r in range(rows):
      if _is_reset(real, r, t):
        _reset(kind, d_h, d_c, r)
    filled += rows
    if filled == many or s == steps - 1:
      _add_state_weights(kind, d_w_h, v_h, v_reset, d, drop_h, filled, room_v_h)
      _add_biases(d_b, d_b_hn, d, filled)
      if inputs:
        add_weights(d_w_x, v_x, d, 0, 0, gates, units, drop_x, filled, room_v_x)
        fill(d_x, 0)
        of_x, these = address_of(d_x), room_v_x[:filled]
        multiply_back(of_x, inputs, address_of(d), width, w_x_t, 0, gates, units, drop_x, these)
      for i in range(filled):
        back = filled // rows - 1 - i // rows  # steps before this one
        copy(d_xs[i % rows, t - back if reverse else t + back], d_x[i], inputs)
      filled = 0
