"""Runs that differ only in numbers train as one program: see `rnnlab.training.population`."""

import collections
import contextlib
import functools
import time
from collections.abc import Callable, Generator

import jax

from rnnlab.machine.disk import AnyPath
from rnnlab.runs import configs, experiment, program, run
from rnnlab.runs.configs import RunSpec
from rnnlab.runs.run import Event, Step
from rnnlab.sweeps.executors import serial
from rnnlab.training import population, train

MOST = 256  # runs at once: each keeps some files open


def execute(
  runs: list[RunSpec], workdir: AnyPath, stop: Callable[[], bool] = lambda: False
) -> Generator[Event, None, None]:
  """Does `runs`, group by group; see `rnnlab.sweeps.executors`. Call `devices.use_cores` before it.

  A group that does not fit into memory is split. A run's seconds are its share of its group's.
  """
  for group in groups(runs):
    while group:
      if stop():
        raise KeyboardInterrupt
      with contextlib.ExitStack() as stack:
        group = yield from _train(group, workdir, stop, stack)


def groups(runs: list[RunSpec]) -> list[list[RunSpec]]:
  """The groups of runs that share a program, in the order of their first runs."""
  found = {}
  for spec in runs:
    found.setdefault(configs.split(spec.config)[0], []).append(spec)
  return list(found.values())


def _train(group, workdir, stop, stack):
  """Does as many runs of a group as fit into memory; returns those that are left."""
  try:
    shared = program.prepare(group[0].config)
    first = program.begin(shared, group[0].config)
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
      setup = program.begin(shared, spec.config)
      # On the host, as a device has room for only one copy of the states, the stacked one.
      state = folder.restore(setup.state, shared.dataset.fingerprint)
      states.append(jax.device_get(state))
    except Exception as error:
      yield serial.failed(spec, workdir, error)
      continue
    specs.append(spec)
    folders.append(folder)
    fixed.append(_fixed(setup))
  if specs:
    lanes = population.lanes(len(specs), mesh)
    if shared.program.widths and specs[0].config.model.embed_dropout:
      # Embedding dropout's masks depend on a batch's length, so each run must trim its own batches.
      lanes = 1
    members = population.stack(shared.program, states, fixed, mesh, lanes)
    del states, fixed
    yield from _follow(shared, members, specs, folders, workdir, stop)
  return left


def _fixed(setup):
  return population.Fixed(setup.values, setup.key, setup.own)


def _follow(shared, members, specs, folders, workdir, stop):
  """Trains a group, and records the progress of each run in its folder."""
  alive = set(range(len(specs)))
  turns = population.fit(
    members,
    shared.splits['train'],
    shared.splits['validation'],
    shared.splits['test'],
    epochs=[spec.config.train.epochs for spec in specs],
    until=[spec.until for spec in specs],
    patience=[spec.config.train.patience for spec in specs],
    alive=alive,
  )
  turn, states = None, None
  steps = [collections.deque() for _ in specs]
  runs = [
    run.follow(spec, shared, folder, _taken(of))
    for spec, folder, of in zip(specs, folders, steps, strict=True)
  ]

  def state(i):
    """A member's present state; those of all members are fetched at most once per turn."""
    nonlocal states
    states = states or jax.device_get(turn.states)
    return population.member(states, i)

  while True:
    try:
      turn, states = next(turns, None), None
    except Exception as error:  # in the program, which all runs in progress share
      for i in sorted(alive):
        yield serial.failed(specs[i], workdir, error)
      return
    if turn is None:
      break
    writing = time.perf_counter()
    for i, step in turn.steps.items():
      folders[i].epoch_seconds += turn.seconds
      folders[i].seconds += turn.seconds
      state_of = functools.partial(state, i)
      steps[i].append(Step(step, state_of, turn.rows.get(i), turn.outputs.get(i)))
      try:
        if i in turn.failed:
          raise train.NonFiniteLoss(turn.failed[i])
        yield next(runs[i])
        if i not in alive:
          yield from runs[i]
      except Exception as error:
        alive.discard(i)
        runs[i].close()
        yield serial.failed(specs[i], workdir, error)
    share = (time.perf_counter() - writing) / len(turn.steps)
    for i in turn.steps:
      folders[i].seconds += share
    if stop():
      for i in alive:
        with contextlib.suppress(KeyboardInterrupt):
          runs[i].throw(KeyboardInterrupt)
      raise KeyboardInterrupt
  for of in runs:  # those that had reached their pause before
    yield from of


def _taken(steps):
  """Yields and removes steps until none is left; while a run is in progress, it finds one."""
  while steps:
    yield steps.popleft()
