"""Training and evaluation over a stream, whose carry continues from window to window.

A split is a stream: arrays `[N]`, one place after the other. Training cuts it into B streams of
`N // B` places, side by side, and takes a window of each in a step, `[B, T]` (Zaremba et al. 2014);
the carry that a window ends with is that from which the next one starts.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rnnlab.cells.base import Array
from rnnlab.data import DataError

STREAMS, STEPS = 64, 64  # of an evaluation: rows side by side, and places in a window
WARM = 8  # windows before a stream's start from which its carry is guessed
TOLERANCE = 1e-5  # the relative difference allowed between a guessed carry and the true one
TIMES = 4  # how often the parts of a stream are run side by side before one row runs through it


class Windows(NamedTuple):
  """How an epoch cuts a stream.

  steps: the length of a window, T. spread: the standard deviation of a window's length about
  `steps`, truncated at two standard deviations; halved: the probability that it is about half of
  `steps` instead. If both are 0, all windows have the same length. offset: whether an epoch begins
  at a random position instead of the stream's first; what it skips there, it takes at the end.
  """

  steps: int
  spread: float = 0.0
  halved: float = 0.0
  offset: bool = False

  @property
  def vary(self) -> bool:
    """Whether windows have different lengths."""
    return self.spread > 0 or self.halved > 0

  @property
  def width(self) -> int:
    """The length of the longest possible window."""
    return self.steps + round(2 * self.spread)


def epoch_steps(size: int, batch_size: int, windows: Windows) -> int:
  """How many windows an epoch has in a stream of `size` positions; a remainder is left out.

  Raises DataError if the stream is too short for one window of the greatest length.
  """
  mean = windows.steps * (1 - windows.halved / 2)
  if size < batch_size * windows.width:
    raise DataError(
      f'the train split has {size:,} tokens: {batch_size} streams of windows of {windows.width}'
      f' steps need at least {batch_size * windows.width:,}. Lower --config.train.batch_size or'
      ' --config.train.window, or give a longer text'
    )
  return max(1, int(size // batch_size / mean))


def cuts(
  windows: Windows, key: Array, epoch: int | Array, size: int, batch_size: int
) -> tuple[Array, Array]:
  """Where the windows of an epoch start in a stream, and how long they are, int32 `[steps]` each.

  They follow each other without gaps, and depend only on (key, epoch).
  """
  steps = epoch_steps(size, batch_size, windows)
  lengths = jnp.full(steps, windows.steps, jnp.int32)
  keys = jax.random.split(jax.random.fold_in(key, epoch), 3)
  if windows.vary:
    halved = jax.random.bernoulli(keys[0], windows.halved, (steps,))
    drawn = windows.spread * jax.random.truncated_normal(keys[1], -2, 2, (steps,))
    lengths = jnp.where(halved, windows.steps / 2, windows.steps) + drawn
    lengths = jnp.maximum(jnp.round(lengths).astype(jnp.int32), 1)
  starts = jnp.cumsum(lengths) - lengths
  if windows.offset:
    starts += jax.random.randint(keys[2], (), 0, size // batch_size)
  return starts, lengths


def batches(
  windows: Windows,
  keys: tuple[Array, Array],
  epoch: int | Array,
  split: Mapping[str, Array],
  batch_size: int,
) -> Callable[[Array], dict[str, Array]]:
  """A function from a step of an epoch to its `window` of each stream.

  If lengths vary, the window also has a 'mask', bool `[B, width]`, of the positions that belong to
  it, so that the carry continues from the last of them.
  """
  starts, lengths = cuts(windows, keys[1], epoch, len(split['inputs']), batch_size)

  def batch(step):
    found = window(split, batch_size, windows.width, starts[step], lengths[step])
    return found | {'mask': found['weights'] > 0} if windows.vary else found

  return batch


def window(
  split: Mapping[str, Array], batch_size: int, width: int, start: Array, length: Array
) -> dict[str, Array]:
  """The window of `length` positions at `start` of each of B streams: arrays `[B, width]`.

  Its weights, float32, are 1 at these positions and 0 beyond them. At its end, a stream continues
  with the start of the next one, and the last stream with that of the first.
  """
  size = len(split['inputs']) // batch_size
  steps = jnp.arange(width)
  places = (jnp.arange(batch_size)[:, None] * size + start + steps) % (batch_size * size)
  batch = {name: array[places] for name, array in split.items()}
  weights = jnp.broadcast_to((steps < length).astype(jnp.float32), places.shape)
  return batch | {'weights': weights}


def example(split: Mapping[str, Any]) -> dict[str, Array]:
  """A window of one position, of zeros, to initialise a model with."""
  batch = {name: jnp.zeros((1, 1), array.dtype) for name, array in split.items()}
  return batch | {'weights': jnp.ones((1, 1), jnp.float32)}


def predict(model: nn.Module, params: Any, split: Mapping[str, Array]) -> Array:
  """The model's outputs at each position of a stream, `[N]`, with one carry through all of it.

  The stream is cut into parts that are run side by side. A part has to start from the carry at the
  end of the part before it, which is not known yet: it is guessed from the last positions before
  the part. If a guess is not right within TOLERANCE, all parts are run again from the carries at
  which the last run ended, until these are right or no output changes any more. A carry that
  forgets nothing would need as many runs as there are parts: after TIMES runs, one row runs through
  the whole stream, to find what each part starts from.
  """
  size = len(split['inputs'])
  count = min(STREAMS, -(-size // STEPS))
  long = -(-size // (count * STEPS))

  def cut(a):
    a = jnp.pad(a, (0, count * long * STEPS - size))
    return jnp.swapaxes(a.reshape(count, long, STEPS), 0, 1)

  batches = {name: cut(array) for name, array in split.items()}
  batches['weights'] = cut(jnp.ones(size, jnp.float32))
  first = model.apply({'params': params}, count, method='initial_carry')

  def one(carry, batch):
    outputs, carry = model.apply({'params': params}, batch, carry)
    return carry, outputs

  def ends(carry, batches):
    return jax.lax.scan(lambda carry, batch: (one(carry, batch)[0], None), carry, batches)[0]

  def following(ends):
    return jax.tree.map(lambda a, b: jnp.concatenate([a[:1], b[:-1]]), first, ends)

  def run(tried, starts):
    ended, outputs = jax.lax.scan(one, starts, batches)
    after = following(ended)
    wrong = _differ(after, starts) & _differ(outputs, tried.outputs)
    return _Tried(tried.times + 1, wrong, after, outputs)

  def run_in_order(tried):
    rows = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1)[:, :, None], batches)
    start = jax.tree.map(lambda a: a[:1], first)
    _, starts = jax.lax.scan(lambda carry, part: (ends(carry, part), carry), start, rows)
    return run(tried, jax.tree.map(lambda a: a[:, 0], starts))

  guess = following(ends(first, jax.tree.map(lambda a: a[-WARM:], batches)))
  shape = jax.eval_shape(lambda: jax.lax.scan(one, guess, batches)[1])
  none = jnp.full(shape.shape, jnp.finfo(shape.dtype).max, shape.dtype)
  tried = run(_Tried(jnp.int32(0), jnp.array(True), guess, none), guess)
  tried = jax.lax.while_loop(
    lambda tried: tried.wrong & (tried.times < TIMES), lambda tried: run(tried, tried.after), tried
  )
  tried = jax.lax.while_loop(
    lambda tried: tried.wrong & (tried.times == TIMES), run_in_order, tried
  )
  outputs = jnp.swapaxes(tried.outputs, 0, 1)
  return outputs.reshape(-1, *outputs.shape[3:])[:size]


class _Tried(NamedTuple):
  """The result of running all parts.

  times: how many runs there were. wrong: whether parts started from wrong carries and this changes
  outputs. after: the carries from which they should have started. outputs: those of the windows.
  """

  times: Array
  wrong: Array
  after: Any
  outputs: Array


def _differ(a: Any, b: Any) -> Array:
  """Whether two trees of arrays differ by more than TOLERANCE anywhere; NaN equals any number."""

  def differ(a, b):
    if not jnp.issubdtype(a.dtype, jnp.inexact):
      return (a != b).any()
    return (jnp.abs(a - b) > TOLERANCE * (1 + jnp.abs(b))).any()

  return jnp.array(jax.tree.leaves(jax.tree.map(differ, a, b))).any()
