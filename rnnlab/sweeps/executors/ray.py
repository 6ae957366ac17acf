"""Runs on many machines, with Ray (https://docs.ray.io). An optional install:

    pip install -r experiments/cluster.txt

Give these on each machine, with the same requirements.txt and the same Python; the first machine is
the head. A token keeps strangers out of the cluster: copy ~/.ray/auth_token from the head to each
machine.

    ray get-auth-token --generate
    ray start --head --port=6379
    ray start --address=HEAD:6379

Then, on a machine that is part of the cluster:

    python launch.py --executor=ray --ray_address=HEAD:6379

Without --ray_address, Ray is started on this machine for the duration of the sweep.

Machines need not share a disk, nor have rnnlab: its code is sent to them (a clone at the launcher's
own path takes precedence, and is refused if it differs). A run's folder travels through Ray, and is
gathered in the launcher's --workdir (a path, or a URL that fsspec knows) at the end of each epoch.
Each worker reads the data from its own disk: install or put them there as they are here, and set
environment variables such as TFDS_DATA_DIR before `ray start`. The data must equal the launcher's
to the bit, and the versions of the libraries that compute must be the same: any other worker is
refused.

A run takes one core, to which its worker is pinned; if the cluster has GPUs, the runs of a program
are divided among them and train as populations. If a worker or a machine dies, its runs continue
elsewhere from their last gathered checkpoint, with the same bits on a machine of the same kind.
"""

import collections
import contextlib
import dataclasses
import functools
import os
import pathlib
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

import jax
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import rnnlab
from rnnlab import tasks
from rnnlab.console.words import describe_error, plain_warnings
from rnnlab.data import DataError
from rnnlab.machine import devices, provenance
from rnnlab.machine.disk import AnyPath
from rnnlab.runs import experiment_file, program
from rnnlab.runs.configs import RunSpec
from rnnlab.runs.run import Event
from rnnlab.sweeps import executors, storage
from rnnlab.sweeps.executors import population, serial

DEATHS = 3  # of a group's workers, with no checkpoint in between, after which it is given up


class WorkerDied(Exception):
  """The workers of a run died repeatedly."""


class Unfit(ValueError):
  """A worker might not compute what the launcher would."""


class Origin(NamedTuple):
  """What the launcher has, and each worker therefore must have."""

  versions: dict[str, str]
  code: dict[str, str]  # digests of rnnlab's files
  commit: str | None
  fingerprints: dict[str, str]  # of each run's data
  path: tuple[str, ...]  # where it finds modules; workers need not have these folders


class News(NamedTuple):
  """A worker's message: an Event or none, the new files of its run's folder, and all file names."""

  run: str
  event: Event | None
  files: dict[str, bytes]
  names: list[str] | None  # None: as they were


@dataclasses.dataclass
class Group:
  """Runs that one worker does as one program: those left to do, and their progress."""

  specs: list[RunSpec]
  deaths: int = 0
  host: str = ''  # of the worker that has begun with them
  fractions: dict[str, float] = dataclasses.field(default_factory=dict)  # done of each


def execute(
  runs: list[RunSpec],
  workdir: AnyPath,
  stop: Callable[[], bool] = lambda: False,
  address: str = '',
  executor: str = '',
) -> Generator[Event, None, None]:
  """Does `runs` on the Ray cluster at `address`, or a local one; see `rnnlab.sweeps.executors`.

  executor: 'serial', with one run per worker, or 'population', where the runs of a program are
  divided among the GPUs; by default 'population' if the cluster has GPUs. Raises ValueError if
  there is no such cluster, or if a worker's versions or data are not those of the launcher.
  """
  if stop():
    raise KeyboardInterrupt
  fingerprints = {spec.id: _fingerprint_of(spec.config) for spec in runs}
  path = tuple(filter(os.path.isdir, map(os.path.abspath, sys.path)))
  origin = Origin(provenance.versions(), _code(), provenance.commit(), fingerprints, path)
  _connect(address)
  try:
    yield from _execute(runs, pathlib.Path(workdir), stop, executor, origin)
  finally:
    ray.shutdown()


def _connect(address):
  options = {'include_dashboard': False, 'log_to_driver': False, 'logging_level': 'error'}
  if address:
    options |= {'runtime_env': {'py_modules': [rnnlab]}}
  else:
    options |= {'num_cpus': len(provenance.cores())}
  on_term = signal.getsignal(signal.SIGTERM)
  host, _, port = address.rpartition(':')
  try:
    if host and '://' not in address:  # Ray itself would wait for minutes
      socket.create_connection((host, int(port)), timeout=10).close()
    ray.init(address or 'local', **options)
  except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
    raise ValueError(
      f'no Ray at {address or "this machine"}: {str(error).strip()}\nStart it by `ray start --head'
      ' --port=6379`, and on each further machine by `ray start --address=HEAD:6379`.'
    ) from error
  if signal.getsignal(signal.SIGTERM) is not on_term:
    signal.signal(signal.SIGTERM, on_term)  # Ray had replaced it


def _execute(runs, workdir, stop, executor, origin):
  here = ray.get_runtime_context().get_node_id()
  stopped = Flag.options(
    scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False)
  ).remote()
  gpus = int(ray.cluster_resources().get('GPU', 0))
  executor = executor or ('population' if gpus else 'serial')
  pending = collections.deque(map(Group, _shared_out(runs, executor, max(gpus, 1))))
  busy = {}
  stopping = False
  while pending or busy:
    if not stopping and stop():
      stopping = True
      stopped.set.remote()
      pending.clear()
      for stream in [stream for stream, group in busy.items() if not group.host]:
        ray.cancel(stream)
        del busy[stream]
    resources = ray.cluster_resources()
    gpus = int(resources.get('GPU', 0))
    # Not more than can start at once, since a run's files are sent along with it.
    while pending and len(busy) < max(1, gpus or int(resources.get('CPU', 0))):
      group = pending.popleft()
      files = {spec.id: storage.read(workdir / spec.id) for spec in group.specs}
      task = work.options(num_cpus=1, num_gpus=1 if gpus else 0)
      busy[task.remote(group.specs, files, executor, origin, stopped, not gpus)] = group
    for stream in ray.wait(list(busy), timeout=0.2)[0] if busy else ():
      group = busy[stream]
      try:
        said = ray.get(next(stream))
      except StopIteration:
        del busy[stream]
        continue
      except ray.exceptions.RayTaskError as error:
        raise Unfit(f'a Ray worker: {describe_error(error.cause)}') from error
      except ray.exceptions.RayError as error:
        del busy[stream]
        if not stopping:
          yield from _bury(group, error, workdir)
          pending.extendleft([group] if group.specs else [])
        continue
      if isinstance(said, str):
        group.host = said
        continue
      if said.names is not None:
        group.deaths = 0
        storage.write(workdir / said.run, said.files)
        storage.prune(workdir / said.run, said.names)
      if said.event:
        group.fractions[said.run] = said.event.fraction
        if said.event.kind != 'progress':
          group.specs = [spec for spec in group.specs if spec.id != said.run]
        yield said.event
  if stopping:
    raise KeyboardInterrupt


def _shared_out(runs, executor, workers):
  """The lists of runs that one worker does at a time."""
  if executor != 'population':
    return [[spec] for spec in runs]
  lists = []
  for group in population.groups(runs):
    size = -(-len(group) // workers)
    lists += [group[i : i + size] for i in range(0, len(group), size)]
  return lists


def _bury(group, error, workdir):
  """Counts a worker's death; its runs are then left to be done elsewhere, or count as failed."""
  group.deaths += 1
  host, group.host = group.host or 'a machine', ''
  reason = type(error).__name__
  if group.deaths < DEATHS:
    for spec in group.specs:
      words = f'the worker on {host} died ({reason}): continuing elsewhere from the last checkpoint'
      yield Event(spec.id, 'progress', group.fractions.get(spec.id, 0.0), words)
    return
  for spec in group.specs:
    words = f'its workers died {DEATHS} times, the last on {host} ({reason}): out of memory?'
    yield serial.failed(spec, workdir, WorkerDied(words))
  group.specs = []


@ray.remote(num_cpus=0)
class Flag:
  """Whether the runs are to stop."""

  def __init__(self):
    self._up = False

  def set(self) -> None:
    self._up = True

  def up(self) -> bool:
    return self._up


# No retries: Ray would begin again from the start, whereas the launcher knows the last checkpoint.
@ray.remote(num_returns='streaming', max_retries=0)
def work(
  specs: list[RunSpec],
  files: dict[str, dict[str, bytes]],
  executor: str,
  origin: Origin,
  stopped: Any,
  hold: bool,
) -> Iterator[str | News]:
  """A worker's task: does `specs`, which already have `files`; yields its host, then News."""
  host = socket.gethostname()
  if hold:
    _hold_to_a_core()
  sys.path.extend(folder for folder in origin.path if folder not in sys.path)
  for spec in specs:
    experiment_file.know(spec.config.model.cell, spec.config.task.name, spec.source)
  _check(specs, origin, host)
  # This copy of the code is not in a git checkout.
  provenance.commit = lambda: origin.commit  # type: ignore[assignment]
  plain_warnings()
  devices.use_cores()
  devices.keep_programs()
  jax.config.update('jax_enable_x64', False)
  yield host
  with tempfile.TemporaryDirectory(prefix='rnnlab-') as folder:
    scratch = pathlib.Path(folder)
    known = {run: storage.digests(content) for run, content in files.items()}
    for run, content in files.items():
      storage.write(scratch / run, content)

    def news(run, event=None):
      content = storage.read(scratch / run)
      now = storage.digests(content)
      new = {name: content[name] for name in storage.changed(now, known[run])}
      known[run] = now
      return News(run, event, new, list(now))

    todo = executors.get(executor)(specs, scratch, lambda: ray.get(stopped.up.remote()))
    try:
      with contextlib.closing(todo):
        for event in todo:
          telling = event.text or event.kind != 'progress'
          yield news(event.run, event) if telling else News(event.run, event, {}, None)
    except KeyboardInterrupt:
      for spec in specs:
        yield news(spec.id)


def _check(specs, origin, host):
  for name, version in provenance.versions().items():
    if version != origin.versions[name]:
      raise Unfit(
        f'{host} has {name} {version} and the launcher {origin.versions[name]}, which may not give'
        f" the same numbers: install the launcher's version there, `pip install {name}=="
        f'{origin.versions[name]}`, and start Ray there again'
      )
  if other := sorted(set(origin.code.items()) ^ set(_code().items())):
    raise Unfit(
      f'{host} has a different rnnlab from the launcher, in {pathlib.Path(rnnlab.__file__).parent}:'
      f' {other[0][0]} differs. Remove that clone, or make it equal to the launcher'
    )
  for spec in specs:
    try:
      fingerprint = _fingerprint_of(spec.config)
    except DataError as error:
      raise Unfit(
        f'{host} has no data, which each worker reads from its own disk: install or put them there'
        f' as they are here, and set variables such as TFDS_DATA_DIR before `ray start`. {error}'
      ) from error
    if fingerprint != origin.fingerprints[spec.id]:
      raise Unfit(
        f'{host} has different data from the launcher for the task {spec.config.task.name},'
        f' {dict(spec.config.get("data", {}))}: copy them there from the launcher'
      )


@functools.cache
def _code():
  folder = pathlib.Path(rnnlab.__file__).parent
  names = [path.relative_to(folder).as_posix() for path in folder.rglob('*.py')]
  return storage.digests({name: (folder / name).read_bytes() for name in names})


def _fingerprint_of(config):
  return _fingerprint(tasks.find(config.task.name).load, program.data_of(config))


@functools.lru_cache(maxsize=2)
def _fingerprint(load, data):
  return load(data).fingerprint


@functools.cache
def _hold_to_a_core():
  """Pins this process to a core that no other worker here has, before JAX counts the cores.

  So bits do not depend on how many cores a machine has. A core is marked as taken by the name of a
  socket, which is released when the process ends.
  """
  if not hasattr(os, 'sched_setaffinity'):
    return None
  cores = provenance.cores()
  for core in cores:
    taken = socket.socket(socket.AF_UNIX)
    try:
      taken.bind(f'\0rnnlab-core-{core}')
    except OSError:
      taken.close()
      continue
    os.sched_setaffinity(0, {core})
    return taken
  os.sched_setaffinity(0, {cores[os.getpid() % len(cores)]})
  return None
