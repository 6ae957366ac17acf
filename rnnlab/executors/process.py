"""One process a core, each held to its core and doing one run at a time."""

import collections
import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait

from rnnlab import devices, provenance, runlog
from rnnlab.configs import RunSpec
from rnnlab.executors import serial
from rnnlab.experiment import Event


class WorkerDied(Exception):
  """A worker process ended in the middle of a run."""


def execute(
  runs: list[RunSpec], workdir, stop: Callable[[], bool] = lambda: False
) -> Iterator[Event]:
  """Does `runs`, as many at a time as there are cores; see `rnnlab.executors`."""
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
      for connection in wait(list(busy), timeout=0.2):
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
        # This run is over; the worker, with what it has compiled and loaded, takes the next.
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
  # spawn: a fork of a process in which JAX has threads may hang.
  context = multiprocessing.get_context('spawn')
  ours, theirs = context.Pipe()
  process = context.Process(target=_work, args=(theirs, core), daemon=True)
  process.start()
  theirs.close()
  ours.send((spec, workdir))
  busy[ours] = process, core, spec


def _send(connection, message):
  with contextlib.suppress(OSError):  # a dead worker is noticed, and said, when it is listened to
    connection.send(message)


def _work(connection: Connection, core: int) -> None:
  """A worker's life: a run at a time from the pipe, its events into the pipe, None at its end."""
  if hasattr(os, 'sched_setaffinity'):
    os.sched_setaffinity(0, {core})  # before JAX counts the cores
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launcher says when to stop
  runlog.plain_warnings()
  devices.keep_programs()
  threading.Thread(target=_die_with_parent, daemon=True).start()
  while True:
    try:
      task = connection.recv()
    except EOFError:
      return
    if task is None:
      continue
    spec, workdir = task
    try:
      for event in serial.execute([spec], workdir, stop=connection.poll):
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
  return f'its process ended by itself with status {exitcode}'
