"""One run after another, in this process."""

import contextlib
import pathlib
import traceback
from collections.abc import Callable, Generator

from rnnlab.console.words import describe_error
from rnnlab.machine.disk import AnyPath
from rnnlab.runs import folder as run_files
from rnnlab.runs import run
from rnnlab.runs.configs import RunSpec
from rnnlab.runs.run import Event
from rnnlab.training import train


def execute(
  runs: list[RunSpec], workdir: AnyPath, stop: Callable[[], bool] = lambda: False
) -> Generator[Event, None, None]:
  """Does `runs` in order; see `rnnlab.sweeps.executors`."""
  for spec in runs:
    if stop():
      raise KeyboardInterrupt
    try:
      with contextlib.closing(run.events(spec, workdir)) as events:
        for event in events:
          yield event
          if stop():
            events.throw(KeyboardInterrupt)
    except Exception as error:
      yield failed(spec, workdir, error)


def failed(spec: RunSpec, workdir: AnyPath, error: Exception) -> Event:
  """Records a run's error in its folder, and returns the Event for it.

  `again` in error.json says whether the next launch does the run again unasked. It does if the
  cause was external, such as a dead worker or a full disk, but not if the run would fail again in
  the same way.
  """
  words = describe_error(error)
  own = isinstance(error, (train.NonFiniteLoss, ValueError))
  if isinstance(error, run_files.Busy):  # the folder is another process's
    return Event(spec.id, 'failed', 1.0, words)
  with contextlib.suppress(OSError):  # the disk may be what failed
    trace = ''.join(traceback.format_exception(error))
    run_files.write_failure(pathlib.Path(workdir) / spec.id, words, not own, trace)
  return Event(spec.id, 'failed', 1.0, words)
