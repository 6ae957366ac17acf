"""One run after the other, in this process."""

import contextlib
import pathlib
import traceback
from collections.abc import Callable, Iterator

from rnnlab import experiment, runlog
from rnnlab.configs import RunSpec
from rnnlab.experiment import Event


def execute(
  runs: list[RunSpec], workdir, stop: Callable[[], bool] = lambda: False
) -> Iterator[Event]:
  """Does `runs` in order; see `rnnlab.executors`."""
  for spec in runs:
    if stop():
      raise KeyboardInterrupt
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
  words = runlog.say(error)
  with contextlib.suppress(OSError):  # the disk may be what failed
    runlog.write_json(
      pathlib.Path(workdir) / spec.id / 'error.json',
      {'error': words, 'traceback': ''.join(traceback.format_exception(error))},
    )
  return Event(spec.id, 'failed', 1.0, words)
