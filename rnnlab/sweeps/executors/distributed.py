"""One run after the other, each on all devices of several hosts: `jax.distributed`.

On each host the same command, with the number of the host, from 0:

    python launch.py --executor=distributed --coordinator=HOST0:1234 --processes=2 --process_id=0
    python launch.py --executor=distributed --coordinator=HOST0:1234 --processes=2 --process_id=1

Where JAX knows the cluster by itself, as under Slurm, Open MPI or on a TPU pod, without the last
three: `srun python launch.py --executor=distributed`.

Every batch is split over all devices, of which each host must have as many, so train.batch_size has
to be a multiple of their number. The first process alone reads the data and the checkpoints, writes
files and shows progress; the others need the code and no disk. Ctrl-C or SIGTERM in any process
stops all at the same step. Where a process dies the others end with an error, at once where its
connection is closed, and after `SILENCE` seconds where its host is gone without a word; the same
commands go on from the last checkpoint.
"""

import collections
import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Generator, Iterator

import jax

from rnnlab.console.words import describe_error
from rnnlab.machine import devices, hosts
from rnnlab.machine.disk import AnyPath
from rnnlab.runs import experiment, run
from rnnlab.runs.configs import RunSpec
from rnnlab.runs.run import Event
from rnnlab.sweeps.executors import serial
from rnnlab.training import train

SILENCE = 60  # seconds after which a process that has not been heard of is dead
WAIT = 300  # seconds in which all processes must have been started

_bound = False  # whether the others would wait if this process ended now


@contextlib.contextmanager
def together(
  coordinator: str = '', processes: int | None = None, process_id: int | None = None
) -> Iterator[bool]:
  """Joins the processes for the time of a `with`; whether this one leads is what it gives.

  The leader does as any launch does, with `execute`, and the others `follow`. Ends in SystemExit.
  Raises ValueError where they do not come together.
  """
  global _bound
  if coordinator:
    if not coordinator.rpartition(':')[2].isdigit():
      raise ValueError(f'--coordinator={coordinator}: must be HOST:PORT, any free port of the host')
    # Where they don't come JAX ends the program by itself, in words of its own.
    words = f'waiting up to {WAIT} s for all processes to come to {coordinator}'
    print(words, file=sys.stderr, flush=True)
  devices.use_cores()
  jax.config.update('jax_enable_preemption_service', False)  # which would take SIGTERM
  jax.config.update('jax_enable_x64', False)
  try:
    jax.distributed.initialize(
      coordinator or None,
      processes,
      process_id,
      initialization_timeout=WAIT,
      heartbeat_timeout_seconds=SILENCE,
      shutdown_timeout_seconds=SILENCE,
    )
    counts = collections.Counter(device.process_index for device in jax.devices())
  except (ValueError, RuntimeError) as error:
    raise ValueError(
      f'the processes did not come together: {str(error).splitlines()[0]}\nGive each the same'
      ' --coordinator=HOST:PORT of the first and --processes=N, and its own --process_id, 0 to N-1'
    ) from error
  if len(set(counts.values())) > 1:
    raise ValueError(f'all processes must have equally many devices, not {[*counts.values()]}')
  leads = jax.process_index() == 0
  _bound = not leads
  try:
    yield leads
    code = 0
  except SystemExit as end:
    code = end.code if isinstance(end.code, int) else int(end.code is not None)
  except OSError as error:
    print(f'process {jax.process_index()}: {describe_error(error)}', file=sys.stderr)
    code = 1
  except Exception:
    traceback.print_exc()
    code = 1
  if _bound:  # To wait for the others, as JAX would at a process's end, would be in vain.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
  if leads:
    hosts.first(lambda: code)
  jax.distributed.shutdown()
  raise SystemExit(code)


def execute(
  runs: list[RunSpec], workdir: AnyPath, stop: Callable[[], bool] = lambda: False
) -> Generator[Event, None, None]:
  """Does `runs` in order, in the leader of those `together`; see `rnnlab.sweeps.executors`.

  Raises ValueError for a batch that can't be split over all devices, and ConnectionError where
  another process has died.
  """
  global _bound
  mesh = devices.mesh()
  for spec in runs:
    if spec.config.train.batch_size % mesh.size:
      raise ValueError(
        f'--config.train.batch_size={spec.config.train.batch_size} cannot be split over'
        f' {mesh.size} devices: it must be a multiple of {mesh.size}'
      )
  _bound = True
  hosts.first(lambda: runs)
  try:
    yield from _execute(runs, workdir, stop)
  except KeyboardInterrupt:
    _bound = False
    raise
  _bound = False


def follow(stop: Callable[[], bool]) -> int:
  """What a process does that does not lead: its part. Returns the leader's exit status."""
  global _bound
  while True:
    with _heard():
      runs = hosts.first(lambda: None)
    if isinstance(runs, int):
      _bound = False
      return runs
    with contextlib.suppress(KeyboardInterrupt):
      collections.deque(_execute(runs, '', stop), maxlen=0)


def _execute(runs, workdir, stop):
  mesh = devices.mesh()
  for spec in runs:
    with contextlib.closing(run.events(spec, workdir, _Folder)) as events:
      while True:
        with _heard():
          try:
            with jax.set_mesh(mesh):
              stopping = hosts.agree(stop())
              event = events.throw(KeyboardInterrupt) if stopping else next(events, None)
          except Exception as error:
            # One that may be this process's alone ends all: the others would wait for it.
            if not (isinstance(error, train.NonFiniteLoss) or hosts.is_common(error)):
              raise
            event = hosts.first(serial.failed, spec, workdir, error)
        if event is None:
          break
        yield event


@contextlib.contextmanager
def _heard():
  """Says in words what JAX tells by an error of one kind or another: that a process is gone."""
  try:
    yield
  except (jax.errors.JaxRuntimeError, ValueError) as error:
    raise ConnectionError(
      'another process has ended, or one has failed by itself: see what each has said. Give the'
      f' same commands to go on from the last checkpoint. ({str(error).splitlines()[0][:200]})'
    ) from error


class _Folder(experiment.Memory):
  """A run's `experiment.Folder`, which the leader has, and on which all work together."""

  def __init__(self, spec, workdir):
    super().__init__(spec)
    self._own = experiment.Folder(spec, workdir)

  def __enter__(self):
    self._do(lambda: self._own.__enter__() and None)
    return self

  def __exit__(self, *error):
    return self._own.__exit__(*error)  # of a folder that was never entered, nothing

  def restore(self, start):
    return devices.place(self._do(self._own.restore, hosts.fetch(start)))

  def save(self, state, *seconds):
    self._do(self._own.save, hosts.fetch(state), *seconds)

  def add(self, row, state, seconds, flow=()):
    self._do(self._own.add, row, hosts.fetch(state), seconds, flow)

  def finish(self, done):
    params, best_params = hosts.fetch((done.params, done.best_params))
    self._do(self._own.finish, done._replace(params=params, best_params=best_params))

  def _do(self, function, *arguments):
    def do():
      result, own = function(*arguments), self._own
      return result, own.rows, own.gradient_flow, own.epoch_seconds, own.seconds

    result, self.rows, self.gradient_flow, self.epoch_seconds, self.seconds = hosts.first(do)
    return result
