"""One run: from a config to trained parameters, with events on the way."""

import contextlib
import time
from collections.abc import Callable, Generator, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from rnnlab.console.progress import watch
from rnnlab.machine import hosts
from rnnlab.machine.disk import AnyPath
from rnnlab.runs import configs, experiment_file, flow
from rnnlab.runs.configs import RunSpec
from rnnlab.runs.experiment import Folder, Memory, Result, finish, say, say_result
from rnnlab.runs.program import Shared, begin, prepare, settle
from rnnlab.training import train


class Event(NamedTuple):
  """What happens in a run, for whoever watches.

  kind: 'progress', 'done', 'paused' (at the spec's `until`) or 'failed'. fraction: the part of the
  run's steps that is done. text: an epoch's figures, an error, or ''.
  """

  run: str
  kind: str
  fraction: float
  text: str = ''


def run(config: ConfigDict, workdir: AnyPath | None = None, progress: bool | None = None) -> Result:
  """Trains what `config` describes and returns the result; with `workdir`, like launch.py.

  Without a workdir, everything stays in memory. With one, a folder of files is kept there, as by
  `launch.py --nosweep`: a run begun earlier continues from its last checkpoint.
  progress: whether to show the progress and the time left on standard error: a bar in a notebook or
  a terminal, lines in a log. None: a bar, but no lines.
  Computes in the type of model.precision, even if JAX_ENABLE_X64 is set.
  Raises ValueError for a config that does not describe a run, DataError if there are no data, and
  NonFiniteLoss.

  >>> from experiments import imdb
  >>> done = rnnlab.run(imdb.get_config('smoke'))
  >>> [row['epoch'] for row in done.metrics]
  [1, 2]
  """
  config = configs.check(config)
  spec = configs.specify(settle(config))
  with jax.enable_x64(False), watch([spec], progress) as display:
    return _last(events(spec, workdir), display)


def events(
  spec: RunSpec, workdir: AnyPath | None = None, folder_of: Callable[..., Memory] | None = None
) -> Generator[Event, None, Result | None]:
  """Does a run in `workdir/<id>`, from its last checkpoint if there is one, yielding Events.

  Without a workdir, nothing is kept. A KeyboardInterrupt thrown in at a yield saves a checkpoint on
  its way out. Returns the Result, or None for a run that pauses. folder_of: makes the folder from
  spec and workdir; by default `Folder`.
  """
  began = time.perf_counter()
  experiment_file.know(spec.config.model.cell, spec.config.task.name, spec.source)
  with (folder_of or (Memory if workdir is None else Folder))(spec, workdir) as folder:
    shared = prepare(spec.config)
    setup = begin(shared, spec.config)
    state = folder.restore(setup.state, shared.dataset.fingerprint)
    steps = _train(spec, shared, setup, state, folder, began - folder.seconds)
    return (yield from follow(spec, shared, folder, steps))


class Step(NamedTuple):
  """The progress of a run in one call of its program.

  step: where it is now. state: returns its state there, until the next call. row: at the end of an
  epoch, the epoch's row. outputs: at the end of training, those of the test split, as from
  `train.test`.
  """

  step: int
  state: Callable[[], train.TrainState]
  row: dict | None = None
  outputs: tuple | None = None


def follow(
  spec: RunSpec, shared: Shared, folder: Memory, steps: Iterable[Step]
) -> Generator[Event, None, Result | None]:
  """Records the progress of a run in its folder, and yields an Event for each of its `steps`.

  When a step comes, the folder's `seconds` and `epoch_seconds` are the time taken so far. If the
  steps end without outputs, the run pauses. Handles interrupts, and returns, as `events` does.
  """
  epochs = spec.config.train.epochs
  total = epochs * train.steps_of(shared.program, shared.splits['train'])
  for step in steps:
    if step.outputs is not None:
      done = finish(spec, shared, step.state(), folder.rows, step.outputs, folder.seconds)
      done = done._replace(gradient_flow=folder.gradient_flow)
      folder.finish(done)
      yield Event(spec.id, 'done', 1.0, say_result(shared.task, done.result))
      return done
    text = ''
    if step.row:
      row = step.row | {'seconds': folder.epoch_seconds}
      kept = spec.config.train.gradient_flow
      reach = flow.rows(spec, shared, step.state(), row['epoch']) if kept else []
      folder.add(row, step.state(), folder.seconds, reach)
      text = say(shared.task, row, epochs)
    try:
      yield Event(spec.id, 'progress', step.step / total, text)
    except KeyboardInterrupt:
      if not step.row:
        folder.save(step.state(), folder.epoch_seconds, folder.seconds)
      raise
  yield Event(spec.id, 'paused', len(folder.rows) / epochs)
  return None


def _train(spec, shared, setup, state, folder, began):
  """The Steps of a single run, to its end or pause, updating the folder's times as they come."""
  config, outputs = spec.config, None
  progresses = train.fit(
    shared.program,
    setup.values,
    state,
    setup.key,
    shared.splits['train'] | setup.own,
    shared.splits['validation'],
    epochs=min(spec.until or config.train.epochs, config.train.epochs),
    patience=config.train.patience,
  )
  while True:
    asked = time.perf_counter()
    progress = next(progresses, None)
    if progress is None:
      break
    state, outputs = jax.block_until_ready(progress.state), progress.outputs
    # What the consumer does between two steps counts as the run's time, but not as the epoch's.
    folder.epoch_seconds += time.perf_counter() - asked
    folder.seconds = time.perf_counter() - began
    yield Step(int(state.step), lambda state=state: state, progress.row)
  if not pauses(spec, folder.rows, int(state.best_epoch)):
    outputs = _test(shared, setup, state, outputs)
    folder.seconds = time.perf_counter() - began
    yield Step(int(state.step), lambda state=state: state, outputs=outputs)


def pauses(spec: RunSpec, rows: list, best_epoch: int) -> bool:
  """Whether a run that has these `rows` pauses here rather than ends."""
  patience, epochs = spec.config.train.patience, spec.config.train.epochs
  out = train.is_out_of_patience(patience, len(rows), best_epoch)
  return 0 < spec.until <= len(rows) < epochs and not out


_tested = jax.jit(train.test, static_argnums=0)


def _test(shared, setup, state, of_validation):
  """The test split's outputs; if it is the validation split, those of the end of the last epoch."""
  program, splits = shared.program, shared.splits
  if program.selects:
    return hosts.fetch(_tested(program, state, setup.values, splits['test']))
  if of_validation is None:  # after an interruption at the very end
    copy = jax.tree.map(jnp.copy, state)
    *_, of_validation = train.close_epoch(program, copy, setup.values, splits['validation'], 0)
  return hosts.fetch((of_validation,))


def _last(events, display):
  """What `events` returns in the end; if they can't be shown, a checkpoint is saved."""
  with contextlib.closing(events):
    while True:
      try:
        event = next(events)
      except StopIteration as stop:
        return stop.value
      try:
        display.update(event)
      except BaseException:
        with contextlib.suppress(KeyboardInterrupt):
          events.throw(KeyboardInterrupt)
        raise
