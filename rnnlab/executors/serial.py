"""One run after the other, in this process."""

import contextlib
import pathlib
import traceback
from collections.abc import Callable, Iterator

from rnnlab import experiment, runlog
from rnnlab.data import DataError
from rnnlab.experiment import Event, RunSpec
from rnnlab.train import NonFiniteLoss


def execute(
    runs: list[RunSpec], workdir, stop: Callable[[], bool] = lambda: False
) -> Iterator[Event]:
  """Does `runs` in order; see `rnnlab.executors`."""
  for spec in runs:
    events = experiment.events(spec, workdir)
    try:
      for event in events:
        yield event
        if stop():
          events.throw(KeyboardInterrupt)
    except Exception as error:
      yield failed(spec, workdir, error)


def failed(spec: RunSpec, workdir, error: Exception) -> Event:
  """Records a run's error in its folder and says it."""
  words = say(error)
  with contextlib.suppress(OSError):  # the disk may be what failed
    runlog.write_json(
        pathlib.Path(workdir) / spec.id / 'error.json',
        {'error': words, 'traceback': ''.join(traceback.format_exception(error))},
    )
  return Event(spec.id, 'failed', 1.0, words)


def say(error: BaseException) -> str:
  """An error in one line for people."""
  text = ' '.join(str(error).split()) or 'no message'
  if isinstance(error, OSError) and error.errno == 28 or 'No space left' in text:
    return 'the disk is full: free some space and give the same command again'
  if isinstance(error, (ValueError, DataError, NonFiniteLoss)):
    return text[:500]
  return f'{type(error).__name__}: {text[:300]}'
