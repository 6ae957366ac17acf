"""One run: from a config to trained parameters, a result, and the files that keep them."""

import contextlib
import datetime
import functools
import math
import pathlib
import statistics
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import optax
from ml_collections import ConfigDict, FrozenConfigDict

from rnnlab import (
  cells,
  checkpoint,
  configs,
  devices,
  metrics,
  models,
  optim,
  provenance,
  runlog,
  train,
)
from rnnlab.configs import RunSpec
from rnnlab.data import batching, imdb


class Event(NamedTuple):
  """What happens in a run, for whoever watches.

  kind: 'progress', 'done' or 'failed'. fraction: the part of the run's steps that is done.
  text: what there is to say, or nothing: an epoch's figures, an error.
  """

  run: str
  kind: str
  fraction: float
  text: str = ''


class Result(NamedTuple):
  """A finished run: what result.json holds, a row an epoch, the model, its last and best params."""

  result: dict[str, Any]
  metrics: list[dict]
  model: nn.Module
  params: Any
  best_params: Any


class Setup(NamedTuple):
  """All that a run's training starts from."""

  model: nn.Module
  tx: optax.GradientTransformation
  key: jax.Array
  dataset: imdb.Dataset
  splits: tuple  # train, validation, test: (ids, labels) on the device
  widths: tuple[int, ...]  # that batches are trimmed to; none where data.buckets is 1
  state: train.TrainState


def run(config: ConfigDict, workdir=None) -> Result:
  """Trains what `config` describes and returns the result; with `workdir`, as launch.py does.

  In memory without a workdir. With one, a folder of files is kept there, as for `launch.py
  --nosweep`: a run begun before goes on from its last checkpoint.
  Raises ValueError for a config that does not describe a run, DataError where there is no data, and
  NonFiniteLoss.
  """
  config = config.copy_and_resolve_references()
  configs.check(config)
  config.data.source = imdb.resolve(config.data)
  if workdir is not None:
    return _last(events(configs.specify(config), workdir))
  setup = prepare(config)
  rows, state = [], setup.state
  for progress, seconds in _timed(_fit(config, setup, state)):
    state = progress.state
    if progress.row:
      rows.append(progress.row | {'seconds': seconds})
  return _finish(configs.specify(config), setup, state, rows, sum(r['seconds'] for r in rows))


def events(spec: RunSpec, workdir) -> Iterator[Event]:
  """Does a run in `workdir/<id>`, from its last checkpoint where there is one, yielding Events.

  KeyboardInterrupt thrown in at a yield saves a checkpoint on its way out. Returns the Result.
  """
  began = time.perf_counter()
  folder = pathlib.Path(workdir) / spec.id
  folder.mkdir(parents=True, exist_ok=True)
  with contextlib.ExitStack() as stack:
    stack.enter_context(runlog.lock(folder, 'another launch is doing this run'))
    (folder / 'error.json').unlink(missing_ok=True)
    runlog.write_json(folder / 'config.json', spec.config.to_dict())
    setup = prepare(spec.config)
    checkpoints = stack.enter_context(checkpoint.manager(folder / 'checkpoints'))
    state, log = checkpoint.restore(checkpoints, setup.state) or (
      setup.state,
      {'rows': [], 'epoch_seconds': 0.0, 'seconds': 0.0},
    )
    rows = log['rows']
    began -= log['seconds']
    runlog.write_rows(folder / 'metrics.jsonl', rows)
    board = stack.enter_context(
      contextlib.closing(runlog.TensorBoard(folder, spec.config.to_dict(), rows))
    )

    def save(epoch_seconds):
      times = {'epoch_seconds': epoch_seconds, 'seconds': time.perf_counter() - began}
      checkpoint.save(checkpoints, state, {'rows': rows, **times})

    total = _total_steps(spec.config, setup.splits)
    for progress, seconds in _timed(_fit(spec.config, setup, state), log['epoch_seconds']):
      state, text = progress.state, ''
      if progress.row:
        rows.append(progress.row | {'seconds': seconds})
        save(0.0)
        runlog.write_rows(folder / 'metrics.jsonl', rows)
        board.write(rows[-1])
        text = _say(progress, spec.config.train.epochs)
      try:
        yield Event(spec.id, 'progress', int(state.step) / total, text)
      except KeyboardInterrupt:
        if not progress.row:
          save(seconds)
        raise
    done = _finish(spec, setup, state, rows, time.perf_counter() - began)
    runlog.write_json(folder / 'result.json', done.result)
    yield Event(spec.id, 'done', 1.0, _say_result(done.result))
  return done


def prepare(config: ConfigDict) -> Setup:
  """Loads the data, builds model and optimiser, draws the initial parameters."""
  dataset = _load(FrozenConfigDict(config.data))
  splits = devices.place(tuple((split.ids, split.labels) for split in dataset[-3:]))
  model = _model(FrozenConfigDict(config.model), config.data.vocab_size, config.data.mask)
  tx = _optimizer(FrozenConfigDict(config.optim), _total_steps(config, splits))
  widths = ()
  if config.data.buckets > 1:
    widths = batching.widths((dataset.train.ids != 0).sum(axis=1), config.data.buckets)
  key = jax.random.key(config.seed)
  state = devices.place(train.init_state(model, tx, key))
  return Setup(model, tx, key, dataset, splits, widths, state)


# Cached, so that runs which differ in the seed alone share data, and one compiled program.
_optimizer = functools.cache(optim.optimizer)
_load = functools.lru_cache(maxsize=2)(imdb.load)


@functools.cache
def _model(config, vocab_size, mask):
  options = config.get(config.cell, {})
  return models.SequenceClassifier(
    cell=cells.get(config.cell, hidden_size=config.hidden_size, **dict(options)),
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
  )


def _total_steps(config, splits):
  return config.train.epochs * train.epoch_steps(len(splits[0][0]), config.train.batch_size)


def _fit(config, setup, state):
  return train.fit(
    setup.model,
    setup.tx,
    state,
    setup.key,
    setup.splits[0],
    setup.splits[1],
    epochs=config.train.epochs,
    batch_size=config.train.batch_size,
    widths=setup.widths,
  )


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


def _last(generator):
  while True:
    try:
      next(generator)
    except StopIteration as stop:
      return stop.value


def _finish(spec, setup, state, rows, seconds):
  """Evaluates the test split, once for each set of parameters that is reported."""
  config, dataset = spec.config, setup.dataset

  def test(params):
    sums = train.evaluate(setup.model, params, *setup.splits[2], widths=setup.widths)
    return metrics.means('test', sums)

  validation_is_test = not config.data.validation_fraction
  best = None
  if not validation_is_test:
    row = rows[int(state.best_epoch) - 1]
    names = ('epoch', 'validation_loss', 'validation_accuracy')
    best = {name: row[name] for name in names} | test(state.best_params)
  final = {name: value for name, value in rows[-1].items() if name not in ('step', 'seconds')}
  result = {
    'id': spec.id,
    'overrides': spec.overrides,
    'data': {
      'source': dataset.source,
      'title': dataset.title,
      'fingerprint': dataset.fingerprint,
      'sizes': {
        name: len(ids)
        for name, (ids, _) in zip(('train', 'validation', 'test'), setup.splits, strict=True)
      },
      'validation_is_test': validation_is_test,
    },
    'final': final | test(state.params),
    'best': best,
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
  return Result(result, rows, setup.model, state.params, state.best_params)


def _say(progress, epochs):
  row = progress.row
  return (
    f'epoch {progress.epoch}/{epochs}: train loss {row["train_loss"]:.3f} accuracy'
    f' {row["train_accuracy"]:.3f}, validation accuracy {row["validation_accuracy"]:.3f}'
  )


def _say_result(result):
  text = f'test accuracy {result["final"]["test_accuracy"]:.4f} after the last epoch'
  if result['best']:
    best = result['best']
    text += f', {best["test_accuracy"]:.4f} at epoch {best["epoch"]}, the best by validation'
  return text


def _count(params):
  return sum(math.prod(p.shape) for p in jax.tree.leaves(params))
