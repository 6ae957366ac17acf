"""One process per core, each pinned to its core and doing one run at a time."""

import collections
import contextlib
import multiprocessing
import multiprocessing.resource_tracker
import os
import signal
import threading
from collections.abc import Callable, Generator
from multiprocessing.connection import Connection, wait
from typing import cast

import jax

from rnnlab.console.words import plain_warnings
from rnnlab.machine import devices, provenance
from rnnlab.machine.disk import AnyPath
from rnnlab.runs.configs import RunSpec
from rnnlab.runs.run import Event
from rnnlab.sweeps.executors import serial

# Those that this platform has. Only the launcher reacts to them.
SIGNALS = [getattr(signal, f'SIG{name}', signal.SIGINT) for name in ('INT', 'TERM', 'HUP')]


class WorkerDied(Exception):
  """A worker process ended in the middle of a run."""


def execute(
  runs: list[RunSpec], workdir: AnyPath, stop: Callable[[], bool] = lambda: False
) -> Generator[Event, None, None]:
  """Does `runs`, as many at a time as there are cores; see `rnnlab.sweeps.executors`."""
  if stop():
    raise KeyboardInterrupt
  pending = collections.deque(runs)
  busy = {}
  for core in provenance.cores()[: len(runs)]:
    _start(core, pending.popleft(), workdir, busy)
  stopping = False
  try:
    while busy:
      if not stopping and stop():
        stopping = True
        pending.clear()
        for connection in busy:
          _send(connection, None)
      for connection in cast(list[Connection], wait(list(busy), timeout=0.2)):
        process, core, spec = busy[connection]
        try:
          message = connection.recv()
        except (EOFError, ConnectionResetError):
          del busy[connection]
          process.join()
          yield serial.failed(spec, workdir, WorkerDied(_death(process.exitcode)))
          if pending:
            _start(core, pending.popleft(), workdir, busy)
          continue
        if message is not None:
          yield message
          continue
        # This run is over; the worker keeps what it has compiled and loaded, and takes the next.
        if pending:
          busy[connection] = process, core, pending.popleft()
          _send(connection, (busy[connection][2], workdir))
        else:
          del busy[connection]
          connection.close()
          process.join()
  finally:
    for connection, (process, _, _) in busy.items():
      process.kill()
      process.join()
      connection.close()
  if stopping:
    raise KeyboardInterrupt


def _start(core, spec, workdir, busy):
  # spawn, as a fork of a process in which JAX has threads may hang.
  context = multiprocessing.get_context('spawn')
  ours, theirs = context.Pipe()
  process = context.Process(target=_work, args=(theirs, core), daemon=True)
  with _blocked():  # a worker inherits the mask, until it can ignore the signals
    process.start()
  theirs.close()
  busy[ours] = process, core, spec
  _send(ours, (spec, workdir))


@contextlib.contextmanager
def _blocked():
  """Blocks SIGNALS for the duration of a `with`."""
  if not hasattr(signal, 'pthread_sigmask'):  # Windows
    yield
    return
  multiprocessing.resource_tracker.ensure_running()  # starting it later would unblock them
  before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _send(connection, message):
  with contextlib.suppress(OSError):  # a dead worker is noticed and reported when receiving
    connection.send(message)


def _work(connection: Connection, core: int) -> None:
  """A worker: takes one run at a time from the pipe, sends its events, and None when it is over."""
  if hasattr(os, 'sched_setaffinity'):
    os.sched_setaffinity(0, {core})  # before JAX counts the cores
  for number in SIGNALS:
    signal.signal(number, signal.SIG_IGN)  # the launcher says when to stop
  if hasattr(signal, 'pthread_sigmask'):
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
  plain_warnings()
  devices.use_cores()
  devices.keep_programs()
  jax.config.update('jax_enable_x64', False)
  threading.Thread(target=_die_with_parent, daemon=True).start()
  with contextlib.suppress(EOFError, OSError):  # the launcher is gone
    while True:
      task = connection.recv()
      if task is None:
        continue
      spec, workdir = task
      try:
        with contextlib.closing(serial.execute([spec], workdir, stop=connection.poll)) as events:
          for event in events:
            connection.send(event)
      except KeyboardInterrupt:
        pass
      connection.send(None)


def _die_with_parent():
  multiprocessing.parent_process().join()
  os._exit(1)


def _death(exitcode):
  if exitcode == -signal.SIGKILL:
    return 'its process was killed (signal 9), as when memory runs out'
  if exitcode < 0:
    return f'its process was ended by signal {-exitcode}'
  return f'its process ended by itself with status {exitcode}'
