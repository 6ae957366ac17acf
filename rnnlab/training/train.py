"""Training as pure functions: a state goes in, a state comes out. No files, no flags, no prints."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from rnnlab.cells.base import Array
from rnnlab.machine import devices
from rnnlab.tasks.base import Metric
from rnnlab.training import metrics, rows, windows
from rnnlab.training.optim import Optimizer
from rnnlab.training.windows import Windows

CHUNK = 25  # steps in a call, between checks of progress, the clock and Ctrl-C


class Program(NamedTuple):
  """What a training program is compiled from: hashable, and the same for all its runs.

  build: `values -> (model, tx)`, a linen module of a split's inputs and an optimiser. values is a
  dict of numbers, traced within the program. Runs of one program may differ only in values, key and
  data.
  loss, metrics, score: those of the task, see `rnnlab.tasks.base`; the first metric chooses the
  epoch.
  widths, ascending, are for a model of ids `[N, T]` that masks its padding (id 0): batches are made
  of rows of similar length, and with `trim` a batch is trimmed to the narrowest width that holds
  it; else it has all T columns.
  selects: whether a validation split other than the test split chooses an epoch to be tested.
  windows: for a task whose batches are windows of a stream, how they are cut; else None.
  draw: `(key, n) -> arrays of n examples`, if train examples are drawn in the program and the train
  split only says how many make an epoch; else None.
  """

  build: Callable[[dict], tuple[nn.Module, Optimizer]]
  loss: Callable[[Array, Mapping[str, Array]], metrics.Sums]
  metrics: tuple[Metric, ...]
  batch_size: int
  widths: tuple[int, ...] = ()
  trim: bool = True
  selects: bool = True
  score: Callable[[Array, Mapping[str, Array]], dict[str, Array]] | None = None
  windows: Windows | None = None
  draw: Callable[[Array, int], dict[str, Any]] | None = None


class TrainState(NamedTuple):
  """The whole state of training, from which it can continue at any step.

  totals are the current epoch's sums so far. bad_step is the first step whose loss was not finite,
  or -1, and last_loss the last finite loss before it, 0 if there is none. best_* belong to the
  epoch that is best by the primary metric on the validation split, the first of equals; best_score
  is that metric, and until the end of the first epoch the worst possible, with a best_epoch of 0.
  carry is the carry at the end of a stream's last window, an array `[B, ...]` per state; () if
  there is none.
  """

  step: Array
  params: Any
  opt_state: Any
  totals: metrics.Sums
  last_loss: Array
  bad_step: Array
  best_params: Any
  best_score: Array
  best_epoch: Array
  carry: Any = ()


class Progress(NamedTuple):
  """What `fit` yields: the state now, its epoch (from 1), and at the epoch's end its row.

  outputs: the model's outputs on the validation split, at the epoch's end.
  """

  state: TrainState
  epoch: int
  row: dict[str, float] | None = None
  outputs: Array | None = None


class NonFiniteLoss(Exception):
  """The loss became infinite or NaN."""


@functools.partial(jax.jit, static_argnums=0)
def init_state(program: Program, values: dict, key: Array, inputs: Any) -> TrainState:
  """The state before the first step; parameters drawn from `key`.

  inputs: the model's inputs for one example or, from `windows.example`, one position of a stream.
  Only shapes and dtypes matter.
  """
  model, tx = program.build(values)
  variables = model.init(jax.random.fold_in(key, 0), jax.tree.map(jnp.zeros_like, inputs))
  params = variables['params']
  carry: Any = ()
  if program.windows:
    carry = model.apply(variables, program.batch_size, method='initial_carry')
  worst = -jnp.inf if program.metrics[0].better == 'higher' else jnp.inf
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=tx.init(params),
    totals=metrics.zeros(program.metrics),
    last_loss=jnp.zeros((), jnp.float32),
    bad_step=jnp.full((), -1, jnp.int32),
    best_params=jax.tree.map(jnp.copy, params),  # a copy: the steps donate their state's buffers
    best_score=jnp.full((), worst, jnp.float32),
    best_epoch=jnp.zeros((), jnp.int32),
    carry=carry,
  )


def examples(split: Mapping[str, Any]) -> int:
  """How many examples a split has."""
  return len(jax.tree.leaves(split['inputs'])[0])


def epoch_steps(size: int, batch_size: int, cut: Windows | None = None) -> int:
  """How many batches an epoch has: of rows, the last of which may be partial, or of windows.

  Raises DataError for a stream too short for a window.
  """
  if cut:
    return windows.epoch_steps(size, batch_size, cut)
  return rows.epoch_steps(size, batch_size)


def steps_of(program: Program, split: Mapping[str, Any]) -> int:
  """How many steps an epoch of a train split has."""
  return epoch_steps(examples(split), program.batch_size, program.windows)


def train_step(
  program: Program,
  model: nn.Module,
  tx: Optimizer,
  state: TrainState,
  key: Array,
  batch: Mapping[str, Array],
) -> TrainState:
  """One step on a batch, with the model and optimiser from `program.build`.

  Its weights, float32 `[B]`, or `[B, T]` for a window, are 0 for padding. If the program trims, the
  gradient is taken over the fewest columns of the inputs that hold the batch's ids. If the windows'
  lengths vary, the learning rate is scaled by the window's length (Merity et al. 2018).
  """

  def loss(params, inputs):
    options = {'deterministic': False, 'rngs': {'dropout': key}}
    if program.windows:
      outputs, carry = model.apply({'params': params}, batch, state.carry, **options)
    else:
      outputs, carry = model.apply({'params': params}, inputs, **options), state.carry
    sums = metrics.of(program.loss, program.metrics, outputs, batch)
    total, weight = sums.pop('objective', sums['loss'])
    return total / weight, (sums, carry)

  # Only the gradient depends on the width: the optimiser's state need not go through the branches.
  params = tx.perturbed(state.params, key)
  gradient = functools.partial(jax.value_and_grad(loss, has_aux=True), params)
  widths = program.widths if program.trim else ()
  (value, (sums, carry)), grads = rows.trimmed(gradient, batch['inputs'], widths)
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  if program.windows and program.windows.vary:
    share = batch['weights'].sum() / (program.batch_size * program.windows.steps)
    updates = jax.tree.map(lambda u: u * share, updates)
  params = optax.apply_updates(state.params, updates)
  finite = jnp.isfinite(value)
  good = (state.bad_step < 0) & finite
  return state._replace(
    step=state.step + 1,
    params=params,
    opt_state=tx.stepped(opt_state, params),
    totals=metrics.add(state.totals, sums),
    last_loss=jnp.where(good, value, state.last_loss),
    bad_step=jnp.where((state.bad_step < 0) & ~finite, state.step, state.bad_step),
    carry=carry,
  )


def advance(
  program: Program,
  state: TrainState,
  values: dict,
  key: Array,
  split: Mapping[str, Array],
  count: int | Array,
) -> TrainState:
  """Takes `count` steps from `state`, within one epoch, in one compiled loop.

  `split` is the whole of the train split. Which batches an epoch takes is drawn from (key, epoch),
  see `rows.batches` and `windows.batches`, or a batch itself from (key, epoch, step), see
  `rows.drawn`; a step's dropout is drawn from (key, step): so the result does not depend on where
  the loop was cut. On a stream, each epoch begins with a new carry.
  """
  model, tx = program.build(values)
  order_key, dropout_key = jax.random.split(jax.random.fold_in(key, 1))
  steps = steps_of(program, split)
  keys, epoch = (key, order_key), state.step // steps
  if program.draw:
    batch_at = rows.drawn(program.draw, order_key, epoch, examples(split), program.batch_size)
  elif program.windows:
    batch_at = windows.batches(program.windows, keys, epoch, split, program.batch_size)
  else:
    batch_at = rows.batches(program.widths, keys, epoch, split, program.batch_size)

  def body(_, state):
    at = state.step % steps
    if program.windows:
      fresh = model.apply({}, program.batch_size, method='initial_carry')
      carry = jax.tree.map(lambda a, b: jnp.where(at == 0, a, b), fresh, state.carry)
      state = state._replace(carry=carry)
    step_key = jax.random.fold_in(dropout_key, state.step)
    return train_step(program, model, tx, state, step_key, batch_at(at))

  return devices.placed(jax.lax.fori_loop(0, count, body, state))


def predict(program: Program, params: Any, values: dict, split: Mapping[str, Any]) -> Array:
  """The model's outputs, `[N, ...]`, on a whole split, without dropout."""
  model, _ = program.build(values)
  if program.windows:
    return windows.predict(model, params, split)

  def forward(inputs):
    return model.apply({'params': params}, inputs, deterministic=True)

  return rows.predict(forward, split['inputs'], program.widths)


def test(
  program: Program, state: TrainState, values: dict, split: Mapping[str, Any]
) -> tuple[Array, Array]:
  """`predict` with the last parameters, as they are evaluated, and with the best."""
  _, tx = program.build(values)
  last = tx.evaluated(state.params, state.opt_state)
  # A loop, so that the model is compiled once.
  both = jax.tree.map(lambda *params: jnp.stack(params), last, state.best_params)
  outputs = jax.lax.map(lambda params: predict(program, params, values, split), both)
  return outputs[0], outputs[1]


def is_better(metric: Metric, value: Array, best: Array) -> Array:
  """Whether a metric's value is better than the best so far; any value is better than NaN."""
  better = value > best if metric.better == 'higher' else value < best
  return better | (best != best)


def end_epoch(
  program: Program, state: TrainState, values: dict, split: Mapping[str, Array], epoch: int | Array
) -> tuple[TrainState, tuple[metrics.Sums, metrics.Sums], Array]:
  """The state after the end of `epoch` (from 1), the sums, and the outputs on the validation split.

  `split` is that split, every example of which is counted once; the sums are those of training and
  of validation. It is idempotent except for the optimiser's state.
  """
  _, tx = program.build(values)
  params = tx.evaluated(state.params, state.opt_state)
  outputs = predict(program, params, values, split)
  sums = metrics.of_split(program.loss, program.score, program.metrics, outputs, split)
  primary = program.metrics[0]
  total, weight = sums[primary.name]
  score = total / weight
  better = is_better(primary, score, state.best_score) | (state.best_epoch == 0)

  def first_if_better(new, old):
    return jax.tree.map(lambda a, b: jnp.where(better, a, b), new, old)

  best = (params, score, jnp.int32(epoch))
  best = first_if_better(best, (state.best_params, state.best_score, state.best_epoch))
  names = 'best_params', 'best_score', 'best_epoch'
  totals = metrics.zeros(program.metrics)
  opt_state = tx.end_epoch(state.opt_state, state.params, primary.sign * score, better)
  after = state._replace(totals=totals, opt_state=opt_state, **dict(zip(names, best, strict=True)))
  return devices.placed(after), (state.totals, sums), outputs


train_steps = jax.jit(advance, static_argnums=0, donate_argnums=1)
close_epoch = jax.jit(end_epoch, static_argnums=0, donate_argnums=1)


def fit(
  program: Program,
  values: dict,
  state: TrainState,
  key: Array,
  train: Mapping[str, Array],
  validation: Mapping[str, Array],
  *,
  epochs: int,
  patience: int = 0,
) -> Iterator[Progress]:
  """Trains from `state` to the end of `epochs`, yielding after every chunk of steps.

  `train` and `validation` are splits, dicts of arrays. `fit` called again with a yielded state
  takes the same steps, equal to the bit; asking for the next state reuses this one's memory, so
  copy what you keep. With `patience`, training ends after that many epochs without a better one on
  the validation split.

  Raises NonFiniteLoss, saying at which step and why that is likely.
  """
  steps = steps_of(program, train)
  for epoch in range(int(state.step) // steps + 1, epochs + 1):
    if is_out_of_patience(patience, epoch - 1, int(state.best_epoch)):
      return
    step = int(state.step)
    while step < epoch * steps:
      count = min(CHUNK, epoch * steps - step)
      step += count
      state = train_steps(program, state, values, key, train, count)
      if int(state.bad_step) >= 0:
        raise NonFiniteLoss(diagnosis(int(state.bad_step), float(state.last_loss), steps))
      if step < epoch * steps:
        yield Progress(state, epoch)
    state, sums, outputs = close_epoch(program, state, values, validation, epoch)
    yield Progress(state, epoch, row_of(program, step, epoch, sums), outputs)


def row_of(
  program: Program, step: int, epoch: int, sums: tuple[metrics.Sums, metrics.Sums]
) -> dict:
  """An epoch's row, from the sums of `end_epoch`."""
  train, validation = (
    metrics.means(split, of, program.metrics)
    for split, of in zip(('train', 'validation'), sums, strict=True)
  )
  return {'step': step, 'epoch': epoch, **train, **validation}


def is_out_of_patience(patience: int, epoch: int, best_epoch: int) -> bool:
  """Whether `patience` epochs have passed since the best at the end of `epoch`; 0: never."""
  return 0 < patience <= epoch - best_epoch


def diagnosis(step: int, last_loss: float, steps: int) -> str:
  """The likely reason why the loss became infinite or NaN at `step`, with `steps` per epoch."""
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
