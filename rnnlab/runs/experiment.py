"""The outcome of a run: its rows and its result, and the files that keep them."""

import contextlib
import datetime
import io
import math
import pathlib
import statistics
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from rnnlab.interop import files
from rnnlab.machine import disk, hosts, provenance
from rnnlab.runs import checkpoint, configs, hardest, trackers
from rnnlab.runs import folder as run_files
from rnnlab.runs.configs import RunSpec
from rnnlab.runs.program import Shared
from rnnlab.tasks.base import SPLITS, Task
from rnnlab.training import metrics, train


class Result(NamedTuple):
  """A finished run: result.json's content, a row per epoch, the model, its last and best params.

  predictions: the content of predictions.npz: the test split's arrays other than its inputs; the
  model's outputs `[N, ...]` with the last parameters, as final, and with the best, as best, if
  there are any; and what the task's `examine` returned.
  vocabulary: the words that the model knows, in id order; empty if it reads none.
  encoding: what else is needed to read new examples and to interpret outputs.
  hardest: the test examples of highest loss, see `rnnlab.runs.hardest`.
  gradient_flow: if train.gradient_flow is set, the norms of the gradient with respect to the carry
  at some lags of each layer, at the end of each epoch, and before the first as epoch 0: dicts of
  'epoch', 'layer' (from 1), 'lag' and 'norm'; see `rnnlab.training.flow`.

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
  encoding: dict[str, Any]
  hardest: list[dict[str, Any]]
  gradient_flow: Sequence[dict[str, float]] = ()


class Memory:
  """A run's rows and times while it is in progress, kept only in memory.

  rows, gradient_flow: of the epochs so far, as in Result. epoch_seconds, seconds: what the present
  epoch and the whole run have taken so far.
  """

  def __init__(self, spec: RunSpec, workdir=None):
    self.rows, self.epoch_seconds, self.seconds = [], 0.0, 0.0
    self.gradient_flow: list[dict[str, float]] = []

  def __enter__(self):
    return self

  def __exit__(self, *error):
    return None

  def restore(self, start: train.TrainState, fingerprint: str) -> train.TrainState:
    """The state to continue from. fingerprint: of the data."""
    return start

  def save(self, state: train.TrainState, epoch_seconds: float, seconds: float) -> None:
    """Keeps a state that the run can continue from."""

  def add(self, row: dict, state: train.TrainState, seconds: float, flow: Sequence = ()) -> None:
    """Adds an epoch's row, and its part of gradient_flow."""
    self.rows.append(row)
    self.gradient_flow += flow
    self.epoch_seconds = 0.0

  def finish(self, done: Result) -> None:
    """Keeps the result of the run."""


class Folder(Memory):
  """A run's folder, locked, and what is written there while the run is in progress."""

  def __init__(self, spec: RunSpec, workdir):
    super().__init__(spec)
    self._spec, self._path = spec, pathlib.Path(workdir) / spec.id
    self._stack = contextlib.ExitStack()
    self._fingerprint = ''

  def __enter__(self):
    self._path.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
      stack.enter_context(run_files.lock(self._path, 'another launch is doing this run'))
      run_files.forget_failure(self._path)
      self._write_config()
      checkpoints = checkpoint.manager(self._path / run_files.CHECKPOINTS)
      self._checkpoints = stack.enter_context(checkpoints)
      self._stack = stack.pop_all()
    return self

  def __exit__(self, *error):
    return self._stack.__exit__(*error)

  def _write_config(self):
    """Writes config.json, unless it already says the same in the form of an older version.

    The name of its folder ends in a hash of that form.
    """
    config = self._spec.config.to_dict()
    before = run_files.read_config(self._path)
    is_old = before and configs.present(before) != before
    if not is_old or run_files.canonical(configs.present(before)) != run_files.canonical(config):
      run_files.write_config(self._path, config)

  def restore(self, start: train.TrainState, fingerprint: str) -> train.TrainState:
    """The state to continue from: that of the last checkpoint, or `start`.

    Raises ValueError if the checkpoint was made with other data.
    """
    restored = checkpoint.restore(self._checkpoints, start)
    state, self._fingerprint = start, fingerprint
    if restored:
      state, log = restored
      if log.get('fingerprint', fingerprint) != fingerprint:
        raise ValueError(
          f'the data have changed since this run began: restore them, or delete {self._path}'
          ' to begin it again'
        )
      self.rows, self.gradient_flow = log['rows'], log.get('gradient_flow', [])
      self.epoch_seconds, self.seconds = log['epoch_seconds'], log['seconds']
    self._write_rows()
    writers: list[Any] = [trackers.TensorBoard, *[trackers.WandB] * self._spec.wandb]
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
    log['fingerprint'] = self._fingerprint
    if self.gradient_flow:
      log['gradient_flow'] = self.gradient_flow
    checkpoint.save(self._checkpoints, state, log)

  def add(self, row: dict, state: train.TrainState, seconds: float, flow: Sequence = ()) -> None:
    """Writes an epoch's row, and its part of gradient_flow, after a checkpoint."""
    self.rows.append(row)
    self.gradient_flow += flow
    self.save(state, 0.0, seconds)
    self._write_rows()
    for board in self._boards:
      board.write(row)

  def _write_rows(self):
    run_files.write_metrics(self._path, self.rows)
    if self.gradient_flow:
      run_files.write_flow(self._path, self.gradient_flow)

  def finish(self, done: Result) -> None:
    """Writes what `predict` needs, predictions.npz and, last, result.json with their digests."""
    params = done.best_params if done.result['best'] else done.params
    files.save(self._path / run_files.PARAMS, params)
    if done.encoding:
      run_files.write_encoding(self._path, done.encoding)
    if done.vocabulary:
      vocabulary = '\n'.join(done.vocabulary) + '\n'
      disk.write_atomic(self._path / run_files.VOCABULARY, vocabulary.encode())
    run_files.write_hardest(self._path, done.hardest)
    predictions = io.BytesIO()
    np.savez(predictions, **done.predictions)  # type: ignore[arg-type]
    disk.write_atomic(self._path / run_files.PREDICTIONS, predictions.getvalue())
    tested = {name: v for name, v in done.result['final'].items() if name.startswith('test')}
    for board in self._boards:
      board.write({'step': self.rows[-1]['step']} | tested)
    run_files.write_result(self._path, done.result)


_sums = jax.jit(metrics.of_split, static_argnums=(0, 1, 2))


def finish(
  spec: RunSpec,
  shared: Shared,
  state: train.TrainState,
  rows: list[dict],
  outputs: Sequence[Any],
  seconds: float,
) -> Result:
  """The result of a run, from its rows and its outputs on the test split, last and best."""
  began = time.perf_counter()
  task, dataset, measured = shared.task, shared.dataset, shared.program.metrics
  of_test = dataset.splits['test']
  predictions = {name: array for name, array in of_test.items() if name != 'inputs'}
  predictions['final'] = np.asarray(outputs[0])

  def test(outputs):
    sums = _sums(task.loss, task.score, measured, outputs, of_test)
    return metrics.means('test', sums, measured)

  best = None
  if shared.program.selects:
    predictions['best'] = np.asarray(outputs[1])
    names = ['epoch', *(f'validation_{name}' for name in metrics.names(measured))]
    best = {name: rows[int(state.best_epoch) - 1][name] for name in names} | test(outputs[1])
  final = {name: value for name, value in rows[-1].items() if name not in ('step', 'seconds')}
  model, tx = shared.program.build(configs.split(spec.config)[1])
  params = tx.evaluated(state.params, state.opt_state)
  final |= test(outputs[0])
  if task.examine:
    found, scores = _examined(shared, model, state.best_params if best else params)
    predictions |= found
    (best or final).update(scores)
  result = {
    'id': spec.id,
    'overrides': spec.overrides,
    'task': task.name,
    'metrics': [metric._asdict() for metric in task.metrics],
    'data': {
      'source': dataset.source,
      'title': dataset.title,
      'fingerprint': dataset.fingerprint,
      'sizes': {name: train.examples(shared.splits[name]) for name in SPLITS},
      'validation_is_test': not shared.program.selects,
    },
    'final': final,
    'best': best,
    **_history(spec, state, rows, seconds + time.perf_counter() - began),
  }
  return Result(
    result,
    rows,
    model,
    params,
    state.best_params,
    predictions,
    dataset.vocabulary,
    dict(dataset.encoding),
    hardest.hardest(task, dataset, predictions.get('best', predictions['final'])),
  )


def _examined(shared, model, params):
  """What the task's `examine` returns: arrays to keep, and the metrics that are known once."""
  splits: Any = shared.splits  # as they are on the device
  dataset = shared.dataset._replace(splits=splits)
  found = hosts.fetch(shared.task.examine(model, params, dataset))
  once = [metric.name for metric in shared.task.metrics if metric.once and metric.name in found]
  return found, {f'test_{name}': float(found.pop(name)) for name in once}


def _history(spec, state, rows, seconds):
  """How a run came to its result: its length and cost, and with what it was done."""
  return {
    'epochs': len(rows),
    'stopped': 'patience' if len(rows) < spec.config.train.epochs else '',
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


def say(task: Task, row: dict, epochs: int) -> str:
  """An epoch's row in words."""
  first = task.metrics[0]
  loss = next(metric for metric in task.metrics if metric.name == 'loss')
  train = f'loss {row["train_loss"]:{loss.format}}'
  if first != loss and f'train_{first.name}' in row:
    train += f' {first.name} {first.shown(row[f"train_{first.name}"])}'
  value = first.shown(row[f'validation_{first.name}'])
  return f'epoch {row["epoch"]}/{epochs}: train {train}, validation {first.name} {value}'


def say_result(task: Task, result: dict) -> str:
  """A result in words."""
  first = task.metrics[0]
  name = f'test_{first.name}'
  text = f'test {first.name} {first.shown(result["final"][name])} after the last epoch'
  if best := result['best']:
    text += f', {first.shown(best[name])} at epoch {best["epoch"]}, the best by validation'
  return text


def _count(params):
  return sum(math.prod(p.shape) for p in jax.tree.leaves(params))
