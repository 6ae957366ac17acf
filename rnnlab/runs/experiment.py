"""One run: from a config to trained parameters, a result, and the files that keep them."""

import contextlib
import datetime
import functools
import io
import math
import pathlib
import statistics
import time
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from rnnlab import cells, models
from rnnlab.console.progress import watch
from rnnlab.data import batching, imdb
from rnnlab.interop import files
from rnnlab.machine import devices, disk, hosts, provenance
from rnnlab.models import conventions
from rnnlab.runs import checkpoint, configs, experiment_file, trackers
from rnnlab.runs import folder as run_files
from rnnlab.runs.configs import RunSpec
from rnnlab.training import metrics, optim, train

PROGRAMS = 8  # to keep at once: each takes some 50 MB, and a sweep may have hundreds


class Event(NamedTuple):
  """What happens in a run, for whoever watches.

  kind: 'progress', 'done', 'paused' (at the spec's `until`) or 'failed'. fraction: the part of the
  run's steps that is done. text: what there is to say, or nothing: an epoch's figures, an error.
  """

  run: str
  kind: str
  fraction: float
  text: str = ''


class Result(NamedTuple):
  """A finished run: what result.json holds, a row an epoch, the model, its last and best params.

  predictions: what predictions.npz holds, labels int32 `[N]` of the test split and the log-odds
  float32 `[N]` that the last parameters give, final, and the best, best, where there are such.
  vocabulary: the words that the model knows, in id order; the first has id 4.

  >>> from experiments import imdb
  >>> done = rnnlab.run(imdb.get_config('smoke'))
  >>> done.params['Recurrent_0']['cell']['w_h'].shape
  (16, 64)
  """

  result: dict[str, Any]
  metrics: list[dict]
  model: nn.Module
  params: Any
  best_params: Any
  predictions: dict[str, np.ndarray]
  vocabulary: tuple[str, ...]


class Program(NamedTuple):
  """What runs share that differ in `configs.VALUES` and seed alone."""

  task: train.Task
  dataset: imdb.Dataset
  splits: tuple  # train, validation, test: (ids, labels) on the device


class Setup(NamedTuple):
  """What a run's training starts from beside its program."""

  values: dict[str, np.float32]
  key: jax.Array
  labels: jax.Array  # of the train split
  state: train.TrainState


def run(config: ConfigDict, workdir=None, progress: bool | None = None) -> Result:
  """Trains what `config` describes and returns the result; with `workdir`, as launch.py does.

  In memory without a workdir. With one, a folder of files is kept there, as for `launch.py
  --nosweep`: a run begun before goes on from its last checkpoint.
  progress: whether to show how far it is and how long is left, on standard error: a bar in a
  notebook and in a terminal, lines in a log. None: a bar, but no lines.
  Computes in what model.precision says, also where JAX_ENABLE_X64 is set.
  Raises ValueError for a config that does not describe a run, DataError where there is no data, and
  NonFiniteLoss.

  >>> from experiments import imdb
  >>> done = rnnlab.run(imdb.get_config('smoke'))
  >>> [row['epoch'] for row in done.metrics]
  [1, 2]
  """
  config = configs.check(config)
  config.data.source = imdb.resolve(config.data)
  spec = configs.specify(config)
  steps = _in_memory(spec) if workdir is None else events(spec, workdir)
  with jax.enable_x64(False), watch([spec], progress) as display:
    return _last(steps, display)


def _in_memory(spec):
  program = prepare(spec.config)
  setup = begin(program, spec.config)
  rows, state, logits = [], setup.state, None
  total = spec.config.train.epochs * steps_of(program)
  for progress, seconds in _timed(_fit(spec.config, program, setup, state)):
    state, logits, text = progress.state, progress.logits, ''
    if progress.row:
      rows.append(progress.row | {'seconds': seconds})
      text = say(progress.row, spec.config.train.epochs)
    yield Event(spec.id, 'progress', int(state.step) / total, text)
  logits = _test(program, setup, state, logits)
  seconds = sum(row['seconds'] for row in rows)
  done = finish(spec, program, state, rows, logits, seconds)
  yield Event(spec.id, 'done', 1.0, say_result(done.result))
  return done


def events(spec: RunSpec, workdir, folder_of: Callable | None = None) -> Iterator[Event]:
  """Does a run in `workdir/<id>`, from its last checkpoint where there is one, yielding Events.

  KeyboardInterrupt thrown in at a yield saves a checkpoint on its way out. Returns the Result, or
  None of a run that pauses. folder_of: what makes the Folder, `Folder` unless given.
  """
  began = time.perf_counter()
  experiment_file.know(spec.config.model.cell, spec.source)
  with (folder_of or Folder)(spec, workdir) as folder:
    program = prepare(spec.config)
    setup = begin(program, spec.config)
    state, logits = folder.restore(setup.state), None
    began -= folder.seconds
    total = spec.config.train.epochs * steps_of(program)
    for progress, seconds in _timed(
      _fit(spec.config, program, setup, state, spec.until), folder.epoch_seconds
    ):
      state, logits, text = progress.state, progress.logits, ''
      if progress.row:
        folder.add(progress.row | {'seconds': seconds}, state, time.perf_counter() - began)
        text = say(progress.row, spec.config.train.epochs)
      try:
        yield Event(spec.id, 'progress', int(state.step) / total, text)
      except KeyboardInterrupt:
        if not progress.row:
          folder.save(state, seconds, time.perf_counter() - began)
        raise
    if pauses(spec, folder.rows, int(state.best_epoch)):
      yield Event(spec.id, 'paused', int(state.step) / total)
      return None
    logits = _test(program, setup, state, logits)
    done = finish(spec, program, state, folder.rows, logits, time.perf_counter() - began)
    folder.finish(done)
    yield Event(spec.id, 'done', 1.0, say_result(done.result))
  return done


class Folder:
  """A run's folder, locked, and what is written there while the run is at work.

  rows: of the epochs so far. epoch_seconds, seconds: what the epoch that is not at its end, and the
  whole run, took so far.
  """

  def __init__(self, spec: RunSpec, workdir):
    self._spec, self._path = spec, pathlib.Path(workdir) / spec.id
    self._stack = contextlib.ExitStack()
    self.rows, self.epoch_seconds, self.seconds = [], 0.0, 0.0

  def __enter__(self):
    self._path.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
      stack.enter_context(run_files.lock(self._path, 'another launch is doing this run'))
      run_files.forget_failure(self._path)
      run_files.write_config(self._path, self._spec.config.to_dict())
      checkpoints = checkpoint.manager(self._path / run_files.CHECKPOINTS)
      self._checkpoints = stack.enter_context(checkpoints)
      self._stack = stack.pop_all()
    return self

  def __exit__(self, *error):
    return self._stack.__exit__(*error)

  def restore(self, start: train.TrainState) -> train.TrainState:
    """The state to go on from: that of the last checkpoint, or `start`."""
    restored = checkpoint.restore(self._checkpoints, start)
    state = start
    if restored:
      state, log = restored
      self.rows = log['rows']
      self.epoch_seconds, self.seconds = log['epoch_seconds'], log['seconds']
    run_files.write_metrics(self._path, self.rows)
    writers = [trackers.TensorBoard, *[trackers.WandB] * self._spec.wandb]
    self._boards = [
      self._stack.enter_context(
        contextlib.closing(writer(self._path, self._spec.config.to_dict(), self.rows))
      )
      for writer in writers
    ]
    return state

  def save(self, state: train.TrainState, epoch_seconds: float, seconds: float) -> None:
    """Saves a checkpoint."""
    self.epoch_seconds, self.seconds = epoch_seconds, seconds
    log = {'rows': self.rows, 'epoch_seconds': epoch_seconds, 'seconds': seconds}
    checkpoint.save(self._checkpoints, state, log)

  def add(self, row: dict, state: train.TrainState, seconds: float) -> None:
    """Writes an epoch's row, after a checkpoint."""
    self.rows.append(row)
    self.save(state, 0.0, seconds)
    run_files.write_metrics(self._path, self.rows)
    for board in self._boards:
      board.write(row)

  def finish(self, done: Result) -> None:
    """Writes what `predict` needs, predictions.npz and, last, result.json with their digests."""
    params = done.best_params if done.result['best'] else done.params
    files.save(self._path / run_files.PARAMS, params)
    vocabulary = '\n'.join(done.vocabulary) + '\n'
    disk.write_atomic(self._path / run_files.VOCABULARY, vocabulary.encode())
    predictions = io.BytesIO()
    np.savez(predictions, **done.predictions)
    disk.write_atomic(self._path / run_files.PREDICTIONS, predictions.getvalue())
    tested = {name: v for name, v in done.result['final'].items() if name.startswith('test')}
    for board in self._boards:
      board.write({'step': self.rows[-1]['step']} | tested)
    run_files.write_result(self._path, done.result)


def prepare(config: ConfigDict) -> Program:
  """Loads the data, builds model and optimiser; the same for runs that share a program.

  Where there are more than PROGRAMS, what JAX has compiled so far goes, and comes again as needed.
  """
  shape, _ = configs.split(config)
  data = FrozenConfigDict({k: v for k, v in shape.data.items() if k != 'label_noise'})
  dataset, splits = _load(data), _on_device(data, jax.sharding.get_mesh())
  widths = ()
  if shape.data.buckets > 1:
    widths = batching.widths((dataset.train.ids != 0).sum(axis=1), shape.data.buckets)
  steps = train.epoch_steps(len(dataset.train.ids), shape.train.batch_size)
  key = shape, steps, cells.find(shape.model.cell)
  build = _build(*key)
  if _build.cache_info().currsize > PROGRAMS:
    _build.cache_clear()
    jax.clear_caches()
    build = _build(*key)
  selects = bool(shape.data.validation_fraction)
  task = train.Task(build, shape.train.batch_size, widths, selects=selects)
  return Program(task, dataset, splits)


@functools.lru_cache(maxsize=2)
def _load(data):
  return hosts.first(imdb.load, data)


@functools.lru_cache(maxsize=1)
def _on_device(data, mesh):
  return devices.place(tuple((split.ids, split.labels) for split in _load(data)[-3:]))


@functools.cache  # by the factory too: a notebook may give a name that `shape` has to another
def _build(shape, steps, factory):
  def build(values):
    def part(name):
      fields = shape[name].items()
      return types.SimpleNamespace(
        **{field: values.get(f'{name}.{field}', value) for field, value in fields}
      )

    tx = optim.optimizer(part('optim'), values['train.epochs'] * steps)
    return model_of(part('model'), shape.data.vocab_size, shape.data.mask), tx

  return build


def model_of(config, vocab_size: int, mask: bool) -> models.SequenceClassifier:
  """The model that the `model` part of a config describes."""
  options = dict(getattr(config, config.cell, {}))
  return models.SequenceClassifier(
    cell=conventions.cell(config.init, config.cell, hidden_size=config.hidden_size, **options),
    vocab_size=vocab_size,
    embed_size=config.embed_size,
    layers=config.layers,
    bidirectional=config.bidirectional,
    pooling=config.pooling,
    mask=mask,
    embed_dropout=config.embed_dropout,
    dropout=config.dropout,
    recurrent_dropout=config.recurrent_dropout,
    dropout_per_gate=config.dropout_per_gate,
    output_dropout=config.output_dropout,
    precision=config.precision,
    remat=config.remat,
    truncate=config.truncate or None,
    convention=config.init,
  )


def begin(program: Program, config: ConfigDict) -> Setup:
  """Draws a run's initial parameters, and its labels' noise."""
  values = configs.split(config)[1]
  key = devices.place(jax.random.key(config.seed))
  labels = program.splits[0][1]
  if config.data.label_noise:
    turned = jax.random.bernoulli(jax.random.fold_in(key, 3), config.data.label_noise, labels.shape)
    labels = devices.place(jnp.where(turned, 1 - labels, labels))
  state = devices.place(train.init_state(program.task, values, key))
  return Setup(values, key, labels, state)


def steps_of(program: Program) -> int:
  """How many steps an epoch has."""
  return train.epoch_steps(len(program.dataset.train.ids), program.task.batch_size)


def pauses(spec: RunSpec, rows: list, best_epoch: int) -> bool:
  """Whether a run that `rows` have been trained of pauses here, and does not end."""
  patience, epochs = spec.config.train.patience, spec.config.train.epochs
  out = train.is_out_of_patience(patience, len(rows), best_epoch)
  return 0 < spec.until <= len(rows) < epochs and not out


def _fit(config, program, setup, state, until=0):
  return train.fit(
    program.task,
    setup.values,
    state,
    setup.key,
    (program.splits[0][0], setup.labels),
    program.splits[1],
    epochs=min(until or config.train.epochs, config.train.epochs),
    patience=config.train.patience,
  )


_tested = jax.jit(train.test, static_argnums=0)


def _test(program, setup, state, of_validation):
  """The test split's logits: where it is the validation split, those of the last epoch's end."""
  task, (_, validation, test) = program.task, program.splits
  if task.selects:
    return hosts.fetch(_tested(task, state, setup.values, test[0]))
  if of_validation is None:  # as after a break at the very end
    copy = jax.tree.map(jnp.copy, state)
    *_, of_validation = train.close_epoch(task, copy, setup.values, *validation, 0)
  return hosts.fetch((of_validation,))


def _timed(progresses, seconds=0.0):
  """Each progress with the seconds its epoch took so far, not counting what the consumer does."""
  while True:
    start = time.perf_counter()
    progress = next(progresses, None)
    if progress is None:
      return
    jax.block_until_ready(progress.state)
    seconds += time.perf_counter() - start
    yield progress, seconds
    if progress.row:
      seconds = 0.0


def _last(events, display):
  """What `events` returns in the end; where they can't be shown a checkpoint is saved."""
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


def finish(
  spec: RunSpec, program: Program, state: train.TrainState, rows: list[dict], logits, seconds: float
) -> Result:
  """The result of a run, from its rows and the test split's logits by the last, and the best."""
  config, dataset = spec.config, program.dataset
  labels = dataset.test.labels
  predictions = {'labels': labels, 'final': np.asarray(logits[0])}

  def test(logits):
    return metrics.means('test', metrics.totals(logits, labels, np.ones(len(labels), np.float32)))

  validation_is_test = not config.data.validation_fraction
  best = None
  if not validation_is_test:
    predictions['best'] = np.asarray(logits[1])
    row = rows[int(state.best_epoch) - 1]
    names = ('epoch', 'validation_loss', 'validation_accuracy')
    best = {name: row[name] for name in names} | test(logits[1])
  final = {name: value for name, value in rows[-1].items() if name not in ('step', 'seconds')}
  result = {
    'id': spec.id,
    'overrides': spec.overrides,
    'data': {
      'source': dataset.source,
      'title': dataset.title,
      'fingerprint': dataset.fingerprint,
      'sizes': {name: len(getattr(dataset, name).ids) for name in ('train', 'validation', 'test')},
      'validation_is_test': validation_is_test,
    },
    'final': final | test(logits[0]),
    'best': best,
    'epochs': len(rows),
    'stopped': 'patience' if len(rows) < config.train.epochs else '',
    'parameters': _count(state.params),
    'recurrent_parameters': sum(
      _count(value) for name, value in state.params.items() if name.startswith('Recurrent')
    ),
    # The first epoch compiles.
    'seconds_per_epoch': statistics.median(r['seconds'] for r in rows[1:] or rows),
    'seconds': seconds,
    'device': provenance.device(),
    'versions': provenance.versions(),
    'commit': provenance.commit(),
    'command': spec.command,
    'finished': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
  }
  model, _ = program.task.build(configs.split(config)[1])
  params = state.params, state.best_params
  return Result(result, rows, model, *params, predictions, dataset.vocabulary)


def say(row: dict, epochs: int) -> str:
  """An epoch's row in words."""
  return (
    f'epoch {row["epoch"]}/{epochs}: train loss {row["train_loss"]:.3f} accuracy'
    f' {row["train_accuracy"]:.3f}, validation accuracy {row["validation_accuracy"]:.3f}'
  )


def say_result(result: dict) -> str:
  """A result in words."""
  text = f'test accuracy {result["final"]["test_accuracy"]:.4f} after the last epoch'
  if result['best']:
    best = result['best']
    text += f', {best["test_accuracy"]:.4f} at epoch {best["epoch"]}, the best by validation'
  return text


def _count(params):
  return sum(math.prod(p.shape) for p in jax.tree.leaves(params))
