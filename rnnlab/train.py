"""Training as pure functions: a state goes in, a state comes out. No files, no flags, no prints."""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnnlab import metrics
from rnnlab.cells.base import Array

CHUNK = 25  # steps between two looks from outside: at progress, at the clock, at Ctrl-C
EVAL_BATCH = 128


class TrainState(NamedTuple):
  """All that training goes on from, at any step.

  totals are the current epoch's so far. bad_step is the first step whose loss was not finite, or
  -1, and last_loss the last finite loss before it. best_* are of the epoch with the highest
  validation accuracy, the first of equals; best_epoch is 0 before the first epoch's end.
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
  """What `fit` yields: the state now, its epoch (from 1), and at the epoch's end its row."""

  state: TrainState
  epoch: int
  row: dict[str, float] | None


class NonFiniteLoss(Exception):
  """The loss became infinite or NaN."""


@functools.partial(jax.jit, static_argnums=(0, 1))
def init_state(model: nn.Module, tx: optax.GradientTransformation, key: Array) -> TrainState:
  """The state before the first step; parameters drawn from `key`."""
  params = model.init(jax.random.fold_in(key, 0), jnp.zeros((1, 2), jnp.int32))['params']
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=tx.init(params),
    totals=metrics.zeros(),
    last_loss=jnp.full((), jnp.nan, jnp.float32),
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


def eval_step(
  model: nn.Module,
  params,
  ids: Array,
  labels: Array,
  weights: Array,
  widths: tuple[int, ...] = (),
) -> metrics.Totals:
  """The totals of one batch, as in `train_step` but without dropout."""

  def forward(ids):
    return model.apply({'params': params}, ids, deterministic=True)

  return metrics.totals(_trimmed(forward, ids, widths), labels, weights)


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


@functools.partial(jax.jit, static_argnums=(0, 1, 2), static_argnames='widths', donate_argnums=3)
def train_steps(
  model, tx, batch_size, state, key, ids, labels, stop, *, widths: tuple[int, ...] = ()
) -> TrainState:
  """Trains on from `state.step` up to step `stop`, within one epoch, in one compiled loop.

  `ids [N, T]` and `labels [N]` are the whole split. An epoch takes its batches from a permutation
  drawn from (key, epoch), the last batch being filled up with rows of weight 0; a step's dropout is
  drawn from (key, step): so the result does not depend on where the loop was cut.

  With `widths`, batches are of rows of like length: the permutation is sorted by the width that a
  row needs, and the batches it is cut into are taken in an order drawn from (key, epoch) too.
  """
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

  def body(_, state):
    start = batches[state.step % steps] * batch_size
    rows = jax.lax.dynamic_slice_in_dim(order, start, batch_size)
    weights = (start + jnp.arange(batch_size) < len(ids)).astype(jnp.float32)
    step_key = jax.random.fold_in(dropout_key, state.step)
    return train_step(model, tx, state, step_key, ids[rows], labels[rows], weights, widths)

  return jax.lax.fori_loop(state.step, stop, body, state)


@functools.partial(jax.jit, static_argnums=0, static_argnames='widths')
def evaluate(
  model, params, ids: Array, labels: Array, *, widths: tuple[int, ...] = ()
) -> metrics.Totals:
  """The totals over a whole split `ids [N, T]`, `labels [N]`, every example counted once."""
  if widths:
    order = jnp.argsort(_buckets(ids, widths))
    ids, labels = ids[order], labels[order]
  batches = -(-len(ids) // EVAL_BATCH)
  padding = batches * EVAL_BATCH - len(ids)

  def cut(x):
    return jnp.pad(x, ((0, padding),) + ((0, 0),) * (x.ndim - 1)).reshape(
      batches, EVAL_BATCH, *x.shape[1:]
    )

  def body(sums, batch):
    return metrics.add(sums, eval_step(model, params, *batch, widths)), None

  batches = cut(ids), cut(labels), cut(jnp.ones(len(ids), jnp.float32))
  return jax.lax.scan(body, metrics.zeros(), batches)[0]


def fit(
  model: nn.Module,
  tx: optax.GradientTransformation,
  state: TrainState,
  key: Array,
  train,
  validation,
  *,
  epochs: int,
  batch_size: int,
  widths: tuple[int, ...] = (),
) -> Iterator[Progress]:
  """Trains from `state` to the end of `epochs`, yielding after every chunk of steps.

  `train` and `validation` are pairs (ids `[N, T]`, labels `[N]`). `fit` called again with a yielded
  state takes the same steps to the bit; the state is only good until the next one is asked for,
  which reuses its memory.

  `widths`, ascending, are for a model that masks its padding (id 0): batches are made of rows of
  like length, and a batch is trimmed to the narrowest width that holds it, or takes all T columns.
  One program is compiled for all of them.

  Raises NonFiniteLoss, saying at which step and why that is likely.
  """
  steps = epoch_steps(len(train[0]), batch_size)
  for epoch in range(int(state.step) // steps + 1, epochs + 1):
    step = int(state.step)
    while step < epoch * steps:
      step = min(step + CHUNK, epoch * steps)
      state = train_steps(model, tx, batch_size, state, key, *train, step, widths=widths)
      if int(state.bad_step) >= 0:
        raise NonFiniteLoss(_diagnosis(state, steps))
      if step < epoch * steps:
        yield Progress(state, epoch, None)
    row = {'step': step, 'epoch': epoch, **metrics.means('train', state.totals)}
    sums = evaluate(model, state.params, *validation, widths=widths)
    row |= metrics.means('validation', sums)
    state = state._replace(totals=metrics.zeros())
    if np.float32(row['validation_accuracy']) > state.best_accuracy:
      state = state._replace(
        best_params=jax.tree.map(jnp.copy, state.params),
        best_accuracy=jnp.float32(row['validation_accuracy']),
        best_epoch=jnp.int32(epoch),
      )
    yield Progress(state, epoch, row)


def _diagnosis(state, steps):
  step = int(state.bad_step)
  where = f'the loss was not finite at step {step} (epoch {step // steps + 1})'
  if step == 0:
    return (
      f'{where}, before any update: the initial parameters or the inputs are not finite,'
      ' or so large that they overflow'
    )
  return (
    f'{where}; the last finite loss was {float(state.last_loss):.3g}. The updates diverged:'
    ' lower optim.learning_rate, or set optim.clip_norm (1.0 is usual)'
  )
