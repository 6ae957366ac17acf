"""One run after another, each on all devices of several hosts: `jax.distributed`.

Give the same command on each host, with the number of the host, from 0:

    python launch.py --executor=distributed --coordinator=HOST0:1234 --processes=2 --process_id=0
    python launch.py --executor=distributed --coordinator=HOST0:1234 --processes=2 --process_id=1

If JAX recognises the cluster by itself, as under Slurm, Open MPI or on a TPU pod, the last three
flags are not needed: `srun python launch.py --executor=distributed`.

Every batch is split over all devices, so train.batch_size must be a multiple of their number, and
each host must have equally many. Only the first process reads the data and the checkpoints, writes
files and shows progress; the others need the code but no disk. Ctrl-C or SIGTERM in any process
stops all of them at the same step. If a process dies, the others end with an error: at once if its
connection is closed, and after `SILENCE` seconds if its host vanishes without closing it. The same
commands then continue from the last checkpoint.
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

SILENCE = 60  # seconds without a sign of life after which a process counts as dead
WAIT = 300  # seconds within which all processes must have started

_bound = False  # whether the other processes would wait for this one if it ended now


@contextlib.contextmanager
def together(
  coordinator: str = '', processes: int | None = None, process_id: int | None = None
) -> Iterator[bool]:
  """Joins the processes for the duration of a `with`; yields whether this one leads.

  The leader goes on like any launch, with `execute`, and the others call `follow`. It ends with
  SystemExit. Raises ValueError if the processes do not come together.
  """
  global _bound
  if coordinator:
    if not coordinator.rpartition(':')[2].isdigit():
      raise ValueError(f'--coordinator={coordinator}: must be HOST:PORT, any free port of the host')
    # If they don't connect, JAX itself ends the program, with its own message.
    words = f'waiting up to {WAIT} s for all processes to connect to {coordinator}'
    print(words, file=sys.stderr, flush=True)
  devices.use_cores()
  jax.config.update('jax_enable_preemption_service', False)  # it would take over SIGTERM
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
  if _bound:  # JAX would wait in vain for the other processes when this one ends.
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

  Raises ValueError for a batch that can't be split over all devices, and ConnectionError if another
  process has died, or something failed in this one alone.
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
  """Does the part of a process that does not lead. Returns the leader's exit status."""
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
            # An error that other processes may not have ends them all, or they would wait forever.
            if not (isinstance(error, train.NonFiniteLoss) or hosts.is_common(error)):
              raise
            event = hosts.first(serial.failed, spec, workdir, error)
        if event is None:
          break
        yield event


@contextlib.contextmanager
def _heard():
  """Turns the various errors by which JAX reports that a process is gone into one in words."""
  try:
    yield
  except (jax.errors.JaxRuntimeError, ValueError) as error:
    raise ConnectionError(
      'another process has ended, or one has failed: see the output of each. To continue from the'
      f' last checkpoint, give the same commands. ({str(error).splitlines()[0][:200]})'
    ) from error


class _Folder(experiment.Memory):
  """A run's `experiment.Folder`, which only the leader has, and whose results all processes get."""

  def __init__(self, spec, workdir):
    super().__init__(spec)
    self._own = experiment.Folder(spec, workdir)

  def __enter__(self):
    self._do(lambda: self._own.__enter__() and None)
    return self

  def __exit__(self, *error):
    return self._own.__exit__(*error)  # does nothing for a folder that was never entered

  def restore(self, start, fingerprint):
    return devices.place(self._do(self._own.restore, hosts.fetch(start), fingerprint))

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
