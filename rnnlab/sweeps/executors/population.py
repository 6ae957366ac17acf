"""Runs that differ in numbers alone train as one program: see `rnnlab.training.population`."""

import contextlib
import time
from collections.abc import Callable, Iterator

import jax

from rnnlab.runs import configs, experiment
from rnnlab.runs.configs import RunSpec
from rnnlab.runs.experiment import Event
from rnnlab.sweeps.executors import serial
from rnnlab.training import population, train

MOST = 256  # runs at once: each keeps some files open


def execute(
  runs: list[RunSpec], workdir, stop: Callable[[], bool] = lambda: False
) -> Iterator[Event]:
  """Does `runs`, group by group; see `rnnlab.sweeps.executors`. After `devices.use_cores`.

  A group that is larger than memory is cut. A run's seconds are its share of its group's.
  """
  for group in groups(runs):
    while group:
      if stop():
        raise KeyboardInterrupt
      with contextlib.ExitStack() as stack:
        group = yield from _train(group, workdir, stop, stack)


def groups(runs: list[RunSpec]) -> list[list[RunSpec]]:
  """The runs that share a program, in the order of their first."""
  found = {}
  for spec in runs:
    found.setdefault(configs.split(spec.config)[0], []).append(spec)
  return list(found.values())


def _train(group, workdir, stop, stack):
  """Does as many runs of a group as fit into memory; returns those that are left."""
  try:
    shared = experiment.prepare(group[0].config)
    first = experiment.begin(shared, group[0].config)
    split, mesh = shared.splits['train'], population.mesh()
    most = population.capacity(
      shared.program, first.state, _fixed(first), split, mesh, min(len(group), MOST)
    )
  except Exception as error:
    for spec in group:
      yield serial.failed(spec, workdir, error)
    return []
  group, left = group[:most], group[most:]
  specs, folders, states, fixed = [], [], [], []
  for spec in group:
    try:
      folder = stack.enter_context(experiment.Folder(spec, workdir))
      setup = experiment.begin(shared, spec.config)
      # To the host: a device has room for these once, where they are stacked.
      states.append(jax.device_get(folder.restore(setup.state)))
    except Exception as error:
      yield serial.failed(spec, workdir, error)
      continue
    specs.append(spec)
    folders.append(folder)
    fixed.append(_fixed(setup))
  if specs:
    lanes = population.lanes(len(specs), mesh)
    if shared.program.widths and specs[0].config.model.embed_dropout:
      # Its masks are over a batch's steps, and so depend on its being trimmed, as alone it is.
      lanes = 1
    members = population.stack(shared.program, states, fixed, mesh, lanes)
    del states, fixed
    yield from _follow(shared, members, specs, folders, workdir, stop)
  return left


def _fixed(setup):
  return population.Fixed(setup.values, setup.key, setup.own)


def _follow(shared, members, specs, folders, workdir, stop):
  """Trains a group, and writes what comes of each run to its folder."""
  alive = set(range(len(specs)))
  total = [spec.config.train.epochs * experiment.steps_of(shared) for spec in specs]
  turns = population.fit(
    members,
    shared.splits['train'],
    shared.splits['validation'],
    shared.splits['test']['inputs'],
    epochs=[spec.config.train.epochs for spec in specs],
    until=[spec.until for spec in specs],
    patience=[spec.config.train.patience for spec in specs],
    alive=alive,
  )
  saved = {}
  while True:
    try:
      turn = next(turns, None)
    except Exception as error:  # of the program, which all that are at work share
      for i in sorted(alive):
        yield serial.failed(specs[i], workdir, error)
      return
    if turn is None:
      return
    writing = time.perf_counter()
    states = jax.device_get(turn.states) if turn.rows or turn.outputs or stop() else None
    for i, step in turn.steps.items():
      spec, folder, text = specs[i], folders[i], ''
      folder.epoch_seconds += turn.seconds
      folder.seconds += turn.seconds
      try:
        if i in turn.failed:
          raise train.NonFiniteLoss(turn.failed[i])
        if i in turn.outputs:
          state, outputs = population.member(states, i), turn.outputs[i]
          done = experiment.finish(spec, shared, state, folder.rows, outputs, folder.seconds)
          folder.finish(done)
          yield Event(spec.id, 'done', 1.0, experiment.say_result(shared.task, done.result))
          continue
        if i in turn.rows:
          row = turn.rows[i] | {'seconds': folder.epoch_seconds}
          folder.add(row, population.member(states, i), folder.seconds)
          saved[i] = step
          text = experiment.say(shared.task, row, spec.config.train.epochs)
        yield Event(spec.id, 'progress', step / total[i], text)
        if i in turn.rows and experiment.pauses(spec, folder.rows, int(states.best_epoch[i])):
          yield Event(spec.id, 'paused', step / total[i])
      except Exception as error:
        alive.discard(i)
        yield serial.failed(spec, workdir, error)
    share = (time.perf_counter() - writing) / len(turn.steps)
    for i in turn.steps:
      folders[i].seconds += share
    if stop():
      states = states or jax.device_get(turn.states)
      for i in alive:
        state = population.member(states, i)
        if saved.get(i) != state.step:
          folders[i].save(state, folders[i].epoch_seconds, folders[i].seconds)
      raise KeyboardInterrupt
