"""A decoder: a cell that reads, at each step, from a memory by attention.

B rows, T steps of the decoder, S places of the memory with M features each, D inputs, H units of
the cell, A features that are compared. The scan is that of `engine`, so that any cell can be used,
with fast gradients.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnnlab.cells import near
from rnnlab.cells.base import Array, Carry, Cell, Dot, kernel_init, matmul
from rnnlab.machine import devices
from rnnlab.recurrence import checks, engine
from rnnlab.recurrence.dropout import Masks
from rnnlab.recurrence.product import product

KINDS = 'additive', 'multiplicative', 'none'


class Decoder(NamedTuple):
  """A cell with attention.

      additive        a_s = v . tanh(W_q y_{t-1} + W_k m_s),  c_t = sum_s softmax(a)_s m_s
                      y_t = cell([x_t, c_t]),  o_t = tanh(W_o [y_t, c_t] + b_o)
      multiplicative  y_t = cell([x_t, o_{t-1}])
                      a_s = (W_q y_t) . m_s,  c_t and o_t as above
      none            o_t = y_t

  additive: Bahdanau et al. (2015), with the output of Luong et al. (2015), equation 5, in place of
  maxout; multiplicative: 'general' of Luong et al. with input feeding, their figure 4.

  cell: its y_t `[B, H]` is the query. attention: one of KINDS. size: A, for additive.
  feeding: whether multiplicative feeds o_{t-1} to the cell, or x_t alone.
  """

  cell: Cell
  attention: str = 'additive'
  size: int = 128
  feeding: bool = True


class DecoderCarry(NamedTuple):
  """The cell's carry, its last y `[B, H]`, and the last output `[B, H]`."""

  cell: Carry
  y: Array
  output: Array


class Memory(NamedTuple):
  """What is attended to: values `[B, S, M]`, their keys `[B, S, A or M]`, and a mask.

  mask: bool `[B, S]`, True at the real places. A row without any has a context of 0.
  """

  values: Array
  keys: Array
  mask: Array


def init(decoder: Decoder, key: Array, input_size: int, memory_size: int) -> dict[str, Any]:
  """Draws a decoder's parameters: 'cell', made by the cell's init, and those of attention.

  Raises ValueError for an attention that is not in KINDS.

  >>> from rnnlab.recurrence import attention
  >>> decoder = attention.Decoder(rnnlab.gru(hidden_size=4), 'multiplicative')
  >>> params = attention.init(decoder, jax.random.key(0), input_size=3, memory_size=5)
  >>> {name: of.shape for name, of in params.items() if name != 'cell'}
  {'w_query': (4, 5), 'w_output': (9, 4), 'b_output': (4,)}
  """
  if decoder.attention not in KINDS:
    hint = near(decoder.attention, KINDS)
    words = ', '.join(KINDS)
    raise ValueError(f'attention must be one of {words}, not {decoder.attention!r}{hint}')
  k_cell, k_query, k_key, k_score, k_output = jax.random.split(key, 5)
  units = hidden_size(decoder.cell)
  fed = {'additive': memory_size, 'multiplicative': decoder.feeding * units, 'none': 0}
  params: dict[str, Any] = {'cell': decoder.cell.init(k_cell, input_size + fed[decoder.attention])}
  if decoder.attention == 'none':
    return params
  additive = decoder.attention == 'additive'
  params['w_query'] = kernel_init(k_query, (units, decoder.size if additive else memory_size))
  if additive:
    params['w_key'] = kernel_init(k_key, (memory_size, decoder.size))
    params['v'] = kernel_init(k_score, (decoder.size, 1))[:, 0]
  params['w_output'] = kernel_init(k_output, (units + memory_size, units))
  params['b_output'] = jnp.zeros(units)
  return params


@functools.cache
def hidden_size(cell: Cell) -> int:
  """How many units H a cell has: the width of its outputs."""
  return jax.eval_shape(lambda: _first_y(cell, (1,), jnp.float32)).shape[-1]


def input_size(decoder: Decoder, params: dict[str, Any], size: int) -> int:
  """How many inputs the decoder's cell has if the decoder has `size`."""
  units = hidden_size(decoder.cell)
  if decoder.attention == 'additive':
    return size + len(params['w_output']) - units
  return size + units * (decoder.attention == 'multiplicative' and decoder.feeding)


def _first_y(cell, batch, dtype):
  """The y that stands for a cell's output before its first step: zeros."""

  def y(key):
    params = cell.init(key, 1)
    carry = cell.initial_carry(batch, dtype)
    return cell.step(params, carry, jnp.zeros((*batch, 1), dtype), matmul)[1]

  shape = jax.eval_shape(y, jax.random.key(0)).shape
  return jnp.zeros(shape, dtype)


def remember(
  decoder: Decoder, params: dict[str, Any], values: Array, mask: Array | None = None
) -> Memory:
  """A memory to attend to, of values `[B, S, M]`; mask: bool `[B, S]`, or None if all are real."""
  if mask is None:
    mask = jnp.ones(values.shape[:2], bool)
  return Memory(values, values @ params['w_key'] if 'w_key' in params else values, mask)


def initial_carry(
  decoder: Decoder, batch_size: int, cell: Carry | None = None, dtype: Any = None
) -> DecoderCarry:
  """The carry before the first step. cell: the cell's carry, or None for its initial_carry.

  Its y, the query of attention, is the first array of the cell's carry if that has y's shape (the h
  of an LSTM or a GRU, the memory of a qrnn or an sru), else zeros. dtype: of its arrays, but those
  of `cell`; None for JAX's float dtype.
  """
  dtype = jnp.result_type(float) if dtype is None else dtype
  zeros = _first_y(decoder.cell, (batch_size,), dtype)
  if cell is None:
    cell = decoder.cell.initial_carry((batch_size,), dtype)
  leaves = jax.tree.leaves(cell)
  y = leaves[0] if leaves and leaves[0].shape == zeros.shape else zeros
  return DecoderCarry(cell, y, zeros)


def step(
  decoder: Decoder,
  params: dict[str, Any],
  memory: Memory | None,
  carry: DecoderCarry,
  x_t: Array,
  dot: Dot = matmul,
) -> tuple[DecoderCarry, Array]:
  """One step, on x_t `[B, D]`: the carry, and the output o_t `[B, H]`."""
  if decoder.attention == 'none':
    inner, y = decoder.cell.step(params['cell'], carry.cell, x_t, dot)
    return DecoderCarry(inner, y, y), y
  inner, y, both = _attend(decoder, params, memory, carry, x_t, dot)
  output = _output(params, both, dot)
  return DecoderCarry(inner, y, output), output


def _attend(decoder, params, memory, carry, x_t, dot):
  """A step without its output: the cell's carry, y, and y with the context, `[B, H + M]`."""
  inner, y, output = carry
  assert memory is not None
  if decoder.attention == 'additive':
    context = _context(decoder, params, memory, dot(params['w_query'], y))
    given = jnp.concatenate([x_t, context], axis=-1)
    inner, y = decoder.cell.step(params['cell'], inner, given, dot)
  else:
    given = jnp.concatenate([x_t, output], axis=-1) if decoder.feeding else x_t
    inner, y = decoder.cell.step(params['cell'], inner, given, dot)
    context = _context(decoder, params, memory, dot(params['w_query'], y))
  return inner, y, jnp.concatenate([y, context], axis=-1)


def _output(params, both, dot):
  return jnp.tanh(dot(params['w_output'], both) + params['b_output'])


def decode(
  decoder: Decoder,
  params: dict[str, Any],
  xs: Array,
  memory: Memory | None = None,
  *,
  carry: DecoderCarry | None = None,
  mask: Array | None = None,
  dropout: Masks | None = None,
  dtype: Any = None,
) -> tuple[DecoderCarry, Array]:
  """Runs a decoder over known inputs, as in teacher forcing.

  xs: `[B, T, D]`. memory: from `remember`; None for no attention. carry: from `initial_carry`, or
  from a previous call; None for the former. mask: bool `[B, T]`, True at the real steps: at others
  the carry is kept, the output is 0, and no gradient passes. dropout: masks for the products of the
  cell, `[B, K]` each or None, from `recurrence.dropout_masks`. dtype: the type that operands of
  products with weights are rounded to, as in `unroll`.

  Returns the last carry and the outputs `[B, T, H]`.
  """
  carry, outputs, _ = _scan(decoder, params, xs, memory, carry, mask, dropout, dtype)
  return carry, outputs


def attended(
  decoder: Decoder,
  params: dict[str, Any],
  memory: Memory,
  before: DecoderCarry,
  after: DecoderCarry,
) -> Array:
  """How much the `step` from one carry to the next attended to each place: `[B, S]`."""
  y = before.y if decoder.attention == 'additive' else after.y
  return _weights(decoder, params, memory, y @ params['w_query'])


def attention_weights(
  decoder: Decoder,
  params: dict[str, Any],
  xs: Array,
  memory: Memory,
  *,
  carry: DecoderCarry | None = None,
  mask: Array | None = None,
) -> Array:
  """How much each step of `decode` attends to each place of the memory: `[B, T, S]`.

  Over the places they sum to 1, or to 0 in a row without real places; those of padded steps mean
  nothing.
  """
  if decoder.attention == 'none':
    raise ValueError('a decoder without attention attends to nothing')
  first = initial_carry(decoder, len(xs)) if carry is None else carry
  _, _, carries = _scan(decoder, params, xs, memory, first, mask, every=True)
  ys = carries.y
  if decoder.attention == 'additive':  # the query is the y before the step
    ys = jnp.concatenate([first.y[:, None], ys[:, :-1]], axis=1)
  ask = functools.partial(_weights, decoder, params, memory)
  return jax.vmap(ask, in_axes=1, out_axes=1)(ys @ params['w_query'])


def _scan(decoder, params, xs, memory, carry, mask, dropout=None, dtype=None, every=False):
  carry = initial_carry(decoder, len(xs)) if carry is None else carry
  mask = (
    None if mask is None else checks.flags('mask', mask, (len(xs),), xs.shape[1], 'at real steps')
  )

  # If no step reads the previous output, the outputs of all steps are one product after the loop.
  at_once = decoder.attention == 'additive' or (
    decoder.attention == 'multiplicative' and not decoder.feeding
  )
  if dropout is not None:  # the query and the output have products too
    ends = {'additive': ([None], []), 'multiplicative': ([], [None]), 'none': ([], [])}
    before, after = ends[decoder.attention]
    fed = decoder.attention != 'none' and not at_once
    dropout = (*before, *dropout, *after, *[None] * fed)

  def run(params, carry, memory, xs, mask, dropout):
    xs, real = (None if a is None else jnp.swapaxes(a, 0, 1) for a in (xs, mask))
    if real is not None:
      xs = jnp.where(real[..., None], xs, 0)  # a NaN in the padding would reach the gradients

    def one(given, carry, x_t, dot):
      params, memory = given
      if not at_once:
        return step(decoder, params, memory, carry, x_t, dot)
      *moved, both = _attend(decoder, params, memory, carry, x_t, dot)
      return DecoderCarry(*moved, carry.output), both

    options = {'real': real, 'masks': dropout, 'dtype': dtype, 'every': every}
    carry, out = engine.scan(one, (params, memory), carry, xs, **options)
    ys, carries = out if every else (out, ())
    if at_once:
      ys = _output(params, ys, functools.partial(product, dtype=dtype))
      ys = ys if real is None else jnp.where(real[..., None], ys, 0)
      carry = carry._replace(output=_last(carry.output, ys, real))
    return carry, *jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), (ys, carries))

  arguments = params, carry, memory, xs, mask, dropout
  return devices.over_batch(run, arguments, axes=(None, 0, 0, 0, 0, 0), out_axes=(0, 0, 0))


def _last(first, ys, real):
  """Each row's last real step of ys `[T, B, H]`; `first` for a row without real steps."""
  ys = jnp.concatenate([first[None], ys])
  if real is None:
    return ys[-1]
  places = jnp.where(real, jnp.arange(1, len(ys))[:, None], 0).max(axis=0, initial=0)
  return jnp.take_along_axis(ys, places[None, :, None], axis=0)[0]


def _context(decoder, params, memory, query):
  """The context that a query `[B, A]` reads from a memory: `[B, M]`."""
  return jnp.einsum('bs,bsm->bm', _weights(decoder, params, memory, query), memory.values)


def _weights(decoder, params, memory, query):
  """How much a query `[B, A]` attends to each place: `[B, S]`; all 0 if there are no places."""
  if decoder.attention == 'additive':
    scores = jnp.tanh(query[:, None] + memory.keys) @ params['v']
  else:
    scores = jnp.einsum('ba,bsa->bs', query, memory.keys)
  lowest = jnp.finfo(scores.dtype).min
  scores = jnp.where(memory.mask, scores, lowest)
  highest = jax.lax.stop_gradient(scores.max(axis=1, keepdims=True))
  found = jnp.where(memory.mask, jnp.exp(scores - highest), 0)
  return found / jnp.maximum(found.sum(axis=1, keepdims=True), jnp.finfo(scores.dtype).tiny)
