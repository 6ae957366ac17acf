"""Training as pure functions: a state goes in, a state comes out. No files, no flags, no prints."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from rnnlab.cells.base import Array
from rnnlab.training import metrics

CHUNK = 25  # steps between two looks from outside: at progress, at the clock, at Ctrl-C
EVAL_BATCH = 256


class Task(NamedTuple):
  """What a program of training is compiled from: hashable, and the same for all its runs.

  build: `values -> (model, tx)`, a linen module of ids and an optax chain. values, a dict of
  numbers, is all in which the runs of one program may differ beside key and labels; within the
  program its numbers are traced.
  widths, ascending, are for a model that masks its padding (id 0): batches are made of rows of like
  length, and with `trim` a batch is trimmed to the narrowest width that holds it, or takes all T
  columns.
  selects: whether the validation split, which is not the test split, chooses an epoch to be tested.
  """

  build: Callable[[dict], tuple[nn.Module, optax.GradientTransformation]]
  batch_size: int
  widths: tuple[int, ...] = ()
  trim: bool = True
  selects: bool = True


class TrainState(NamedTuple):
  """All that training goes on from, at any step.

  totals are the current epoch's so far. bad_step is the first step whose loss was not finite, or
  -1, and last_loss the last finite loss before it, 0 where there is none. best_* are of the epoch
  with the highest validation accuracy, the first of equals; best_epoch is 0 before the first
  epoch's end.
  """

  step: Array
  params: Any
  opt_state: Any
  totals: metrics.Totals
  last_loss: Array
  bad_step: Array
  best_params: Any
  best_accuracy: Array
  best_epoch: Array


class Progress(NamedTuple):
  """What `fit` yields: the state now, its epoch (from 1), and at the epoch's end its row.

  logits: those of the validation split, at the epoch's end.
  """

  state: TrainState
  epoch: int
  row: dict[str, float] | None = None
  logits: Array | None = None


class NonFiniteLoss(Exception):
  """The loss became infinite or NaN."""


@functools.partial(jax.jit, static_argnums=0)
def init_state(task: Task, values: dict, key: Array) -> TrainState:
  """The state before the first step; parameters drawn from `key`."""
  model, tx = task.build(values)
  params = model.init(jax.random.fold_in(key, 0), jnp.zeros((1, 2), jnp.int32))['params']
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=tx.init(params),
    totals=metrics.zeros(),
    last_loss=jnp.zeros((), jnp.float32),
    bad_step=jnp.full((), -1, jnp.int32),
    best_params=jax.tree.map(jnp.copy, params),  # a copy: the steps donate their state's buffers
    best_accuracy=jnp.full((), -1, jnp.float32),
    best_epoch=jnp.zeros((), jnp.int32),
  )


def epoch_steps(examples: int, batch_size: int) -> int:
  """How many batches an epoch has, the last being perhaps a partial one."""
  return -(-examples // batch_size)


def train_step(
  model: nn.Module,
  tx: optax.GradientTransformation,
  state: TrainState,
  key: Array,
  ids: Array,
  labels: Array,
  weights: Array,
  widths: tuple[int, ...] = (),
) -> TrainState:
  """One step on a batch `ids [B, T]`, `labels [B]`; rows of weight 0 (`[B]`) only fill it.

  With `widths` the gradient is taken over as many columns as hold the batch's text.
  """

  def loss(params, ids):
    logits = model.apply({'params': params}, ids, deterministic=False, rngs={'dropout': key})
    sums = metrics.totals(logits, labels, weights)
    return sums.loss / sums.count, sums

  # Only the gradient depends on the width: the optimiser's state need not go through the branches.
  gradient = functools.partial(jax.value_and_grad(loss, has_aux=True), state.params)
  (value, sums), grads = _trimmed(gradient, ids, widths)
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  finite = jnp.isfinite(value)
  good = (state.bad_step < 0) & finite
  return state._replace(
    step=state.step + 1,
    params=optax.apply_updates(state.params, updates),
    opt_state=opt_state,
    totals=metrics.add(state.totals, sums),
    last_loss=jnp.where(good, value, state.last_loss),
    bad_step=jnp.where((state.bad_step < 0) & ~finite, state.step, state.bad_step),
  )


def _trimmed(function, ids, widths):
  """`function(ids)` on as many columns, of `widths` or all, as hold every id that is not 0."""
  if not widths:
    return function(ids)
  steps = ids.shape[1]
  used = (ids != 0).any(axis=0)
  first = jnp.argmax(used)
  span = steps - jnp.argmax(used[::-1]) - first

  def at(width):
    # Where fewer than `width` columns follow the first, the slice begins before it.
    return lambda: function(jax.lax.dynamic_slice_in_dim(ids, first, width, axis=1))

  widths = (*(width for width in widths if width < steps), steps)
  return jax.lax.switch(_bucket(span, widths), [at(width) for width in widths])


def _bucket(lengths, widths):
  """How many of `widths` are too narrow: the index of the one to take."""
  return jnp.sum(lengths[..., None] > jnp.array(widths), axis=-1)


def _buckets(ids, widths):
  """The bucket of each row of `ids [N, T]`, int `[N]`."""
  return _bucket(jnp.sum(ids != 0, axis=1), widths)


def advance(
  task: Task, state: TrainState, values: dict, key: Array, ids: Array, labels: Array, count
) -> TrainState:
  """Takes `count` steps from `state`, within one epoch, in one compiled loop.

  `ids [N, T]` and `labels [N]` are the whole split. An epoch takes its batches from a permutation
  drawn from (key, epoch), the last batch being filled up with rows of weight 0; a step's dropout is
  drawn from (key, step): so the result does not depend on where the loop was cut.

  With widths the permutation is sorted by the width that a row needs, and the batches it is cut
  into are taken in an order drawn from (key, epoch) too.
  """
  model, tx = task.build(values)
  batch_size, widths = task.batch_size, task.widths
  steps = epoch_steps(len(ids), batch_size)
  order_key, dropout_key = jax.random.split(jax.random.fold_in(key, 1))
  epoch = state.step // steps
  order = jax.random.permutation(jax.random.fold_in(order_key, epoch), len(ids))
  batches = jnp.arange(steps)
  if widths:
    order = order[jnp.argsort(_buckets(ids, widths)[order], stable=True)]
    batches_key = jax.random.fold_in(jax.random.fold_in(key, 2), epoch)
    batches = jax.random.permutation(batches_key, steps)
  order = jnp.pad(order, (0, steps * batch_size - len(ids)))
  widths = widths if task.trim else ()

  def body(_, state):
    start = batches[state.step % steps] * batch_size
    rows = jax.lax.dynamic_slice_in_dim(order, start, batch_size)
    weights = (start + jnp.arange(batch_size) < len(ids)).astype(jnp.float32)
    step_key = jax.random.fold_in(dropout_key, state.step)
    return train_step(model, tx, state, step_key, ids[rows], labels[rows], weights, widths)

  return jax.lax.fori_loop(0, count, body, state)


def predict(task: Task, params, values: dict, ids: Array) -> Array:
  """The logits, `[N]` or `[N, classes]`, of a whole split `ids [N, T]`, without dropout."""
  model, _ = task.build(values)
  order = jnp.argsort(_buckets(ids, task.widths)) if task.widths else jnp.arange(len(ids))
  batches = epoch_steps(len(ids), EVAL_BATCH)
  rows = jnp.pad(order, (0, batches * EVAL_BATCH - len(ids))).reshape(batches, EVAL_BATCH)

  def forward(ids):
    return model.apply({'params': params}, ids, deterministic=True)

  logits = jax.lax.map(lambda rows: _trimmed(forward, ids[rows], task.widths), rows)
  logits = logits.reshape(-1, *logits.shape[2:])[: len(ids)]
  return jnp.zeros_like(logits).at[order].set(logits)


def test(task: Task, state: TrainState, values: dict, ids: Array) -> tuple[Array, Array]:
  """`predict` by the last parameters, and by the best."""
  return tuple(predict(task, params, values, ids) for params in (state.params, state.best_params))


def end_epoch(
  task: Task, state: TrainState, values: dict, ids: Array, labels: Array, epoch
) -> tuple[TrainState, tuple[metrics.Totals, metrics.Totals], Array]:
  """The state that `epoch` (from 1) leaves to the next, totals, and the validation split's logits.

  `ids [N, T]`, `labels [N]` are that split, every example of which is counted once; the totals are
  those of training and of validation. What it leaves, it leaves as it is, if done again.
  """
  logits = predict(task, state.params, values, ids)
  sums = metrics.totals(logits, labels, jnp.ones(len(ids), jnp.float32))
  accuracy = sums.correct / sums.count
  better = accuracy > state.best_accuracy

  def first_if_better(new, old):
    return jax.tree.map(lambda a, b: jnp.where(better, a, b), new, old)

  best = (state.params, accuracy, jnp.int32(epoch))
  best = first_if_better(best, (state.best_params, state.best_accuracy, state.best_epoch))
  names = 'best_params', 'best_accuracy', 'best_epoch'
  after = state._replace(totals=metrics.zeros(), **dict(zip(names, best, strict=True)))
  return after, (state.totals, sums), logits


train_steps = jax.jit(advance, static_argnums=0, donate_argnums=1)
close_epoch = jax.jit(end_epoch, static_argnums=0, donate_argnums=1)


def fit(
  task: Task,
  values: dict,
  state: TrainState,
  key: Array,
  train,
  validation,
  *,
  epochs: int,
  patience: int = 0,
) -> Iterator[Progress]:
  """Trains from `state` to the end of `epochs`, yielding after every chunk of steps.

  `train` and `validation` are pairs (ids `[N, T]`, labels `[N]`). `fit` called again with a yielded
  state takes the same steps to the bit; the state is only good until the next one is asked for,
  which reuses its memory. With `patience`, ends once so many epochs have brought no better
  validation accuracy.

  Raises NonFiniteLoss, saying at which step and why that is likely.
  """
  steps = epoch_steps(len(train[0]), task.batch_size)
  for epoch in range(int(state.step) // steps + 1, epochs + 1):
    if is_out_of_patience(patience, epoch - 1, int(state.best_epoch)):
      return
    step = int(state.step)
    while step < epoch * steps:
      count = min(CHUNK, epoch * steps - step)
      step += count
      state = train_steps(task, state, values, key, *train, count)
      if int(state.bad_step) >= 0:
        raise NonFiniteLoss(diagnosis(int(state.bad_step), float(state.last_loss), steps))
      if step < epoch * steps:
        yield Progress(state, epoch)
    state, sums, logits = close_epoch(task, state, values, *validation, epoch)
    yield Progress(state, epoch, row_of(step, epoch, sums), logits)


def row_of(step: int, epoch: int, sums: tuple[metrics.Totals, metrics.Totals]) -> dict:
  """An epoch's row, from what `end_epoch` counted."""
  train, validation = metrics.means('train', sums[0]), metrics.means('validation', sums[1])
  return {'step': step, 'epoch': epoch, **train, **validation}


def is_out_of_patience(patience: int, epoch: int, best_epoch: int) -> bool:
  """Whether `patience` epochs, 0 for no end of it, have passed since the best, at `epoch`'s end."""
  return 0 < patience <= epoch - best_epoch


def diagnosis(step: int, last_loss: float, steps: int) -> str:
  """Why the loss may have become infinite or NaN at `step`, of epochs of `steps`, in words."""
  where = f'the loss was not finite at step {step} (epoch {step // steps + 1})'
  if step == 0:
    return (
      f'{where}, before any update: the initial parameters or the inputs are not finite,'
      ' or so large that they overflow'
    )
  return (
    f'{where}; the last finite loss was {last_loss:.3g}. The updates diverged:'
    ' lower optim.learning_rate, or set optim.clip_norm (1.0 is usual)'
  )
