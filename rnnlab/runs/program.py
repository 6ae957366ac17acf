"""What runs share: their data, on the device, and the program that trains them."""

import functools
import types
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from rnnlab import cells, tasks
from rnnlab.data.base import Dataset
from rnnlab.machine import devices, hosts
from rnnlab.runs import configs
from rnnlab.tasks.base import Task
from rnnlab.training import optim, train, windows

PROGRAMS = 8  # to keep in memory: each takes some 50 MB, and a sweep may have hundreds


class Shared(NamedTuple):
  """What runs share that differ only in `configs.values` and seed.

  splits: train, validation and test, dicts of arrays on the device.
  """

  task: Task
  program: train.Program
  dataset: Dataset
  splits: dict[str, dict[str, jax.Array]]


class Setup(NamedTuple):
  """What a run's training starts from, beside what it shares.

  own: the arrays of the train split that differ from the dataset's.
  """

  values: dict[str, np.float32]
  key: jax.Array
  own: dict[str, jax.Array]
  state: train.TrainState


def settle(config: ConfigDict) -> ConfigDict:
  """The config with the data fields that depend on this machine filled in; see `Task.settle`.

  Raises DataError if there are no data.
  """
  config, settling = ConfigDict(config), tasks.find(config.task.name).settle
  if settling:
    config.data = ConfigDict(config.data)  # the caller's stays as it is
    config.data.update(settling(config.data))
  return config


def data_of(config: ConfigDict) -> FrozenConfigDict:
  """The argument of the task's `load`: the part `data` of a config without its traced fields."""
  traced = configs.values(config.task.name)
  data = config.get('data', {}).items()
  return FrozenConfigDict({name: value for name, value in data if f'data.{name}' not in traced})


def prepare(config: ConfigDict) -> Shared:
  """Loads the data, builds model and optimiser; runs that share a program get the same ones.

  If there are more than PROGRAMS, everything that JAX has compiled is dropped, to be compiled again
  as needed.
  """
  task = tasks.of(config)
  shape, _ = configs.split(config)
  data = data_of(config)
  dataset = _load(task.load, data)
  splits = _on_device(task.load, data, jax.sharding.get_mesh())
  cut = _windows(shape.train) if task.batches == 'windows' else None
  size = train.examples(splits['train'])
  steps = train.epoch_steps(size, shape.train.batch_size, cut)
  key = shape, steps, dataset.spec, task.model, cells.find(shape.model.cell)
  build = _build(*key)
  if _build.cache_info().currsize > PROGRAMS:
    _build.cache_clear()
    jax.clear_caches()
    build = _build(*key)
  program = train.Program(
    build,
    task.loss,
    tuple(metric for metric in task.metrics if not metric.once),
    shape.train.batch_size,
    dataset.widths,
    selects='validation' in dataset.splits,
    score=task.score,
    windows=cut,
    draw=_drawing(task.draw, data) if task.draw else None,
  )
  return Shared(task, program, dataset, splits)


@functools.lru_cache(maxsize=2)
def _load(load, data):
  return hosts.first(load, data)


@functools.cache  # a program is identified by the function
def _drawing(draw, data):
  return draw(data)


@functools.lru_cache(maxsize=1)
def _on_device(load, data, mesh):
  splits = devices.place(_load(load, data).splits)
  return {'validation': splits['test'], **splits}


@functools.cache  # keyed by the functions too: a notebook may redefine a name that is in `shape`
def _build(shape, steps, spec, model, factory):
  def build(values):
    def part(name):
      fields = shape[name].items()
      return types.SimpleNamespace(
        **{field: values.get(f'{name}.{field}', value) for field, value in fields}
      )

    tx = optim.optimizer(part('optim'), values['train.epochs'] * steps, steps)
    return model(part('model'), spec), tx

  return build


def begin(shared: Shared, config: ConfigDict) -> Setup:
  """Draws a run's initial parameters, and its own arrays of the train split."""
  values = configs.split(config)[1]
  key = devices.place(jax.random.key(config.seed))
  vary, split = shared.task.vary, shared.splits['train']
  own = devices.place(vary(split, config, key)) if vary else {}
  inputs = _example(shared)
  state = devices.place(train.init_state(shared.program, values, key, inputs))
  return Setup(values, key, own, state)


def _windows(config):
  """How the `train` part of a config cuts a stream."""
  names = 'window_spread', 'window_halved', 'window_offset'
  return windows.Windows(config.window, *(config[name] for name in names))


def _example(shared):
  """What the model is initialised with."""
  split = shared.dataset.splits['test' if shared.program.draw else 'train']
  if shared.program.windows:
    return windows.example(split)
  return jax.tree.map(lambda a: np.zeros_like(a[:1]), split['inputs'])
