"""Runs an experiment: python launch.py [--config=experiments/FILE.py[:PRESET]] [--config.a.b=VALUE].

Does the runs of its sweep that are not done yet, then shows the report.
"""

import pathlib
import re
import runpy
import shlex
import signal
import sys

import rich.console
from absl import app, flags
from ml_collections import config_flags

from rnnlab import executors, report, runlog, sweep
from rnnlab.data import DataError, imdb

MAIN_JOB = pathlib.Path(__file__).parent / 'experiments' / 'imdb.py'

config_flags.DEFINE_config_file('config', None, 'The experiment, FILE.py[:PRESET].')
flags.DEFINE_string('workdir', None, 'Where results go; default runs/<experiment>[-<preset>].')
flags.DEFINE_boolean('sweep', True, "Whether to do the experiment's sweep or its config alone.")
flags.DEFINE_enum('executor', 'auto', ['auto', *executors.NAMES], 'How to do the runs.')


def parse(argv):
  """Parses the flags; an error is a line or two for people, and exit status 2."""
  if not any(re.match(r'--?config(=|$)', word) for word in argv):
    argv = [argv[0], f'--config={MAIN_JOB}', *argv[1:]]
  try:
    rest = flags.FLAGS(argv)
    flags.FLAGS.config  # a config file that cannot be read fails only here  # noqa: B018
  except (flags.Error, OSError, KeyError, AttributeError, TypeError, ValueError) as error:
    fail(error if isinstance(error, OSError) else f'{error}'.strip('\'"'))
  if rest[1:]:
    fail(f'what is {rest[1]!r}? Flags begin with --, as in --config.seed=1')
  return rest


def main(_):
  console = rich.console.Console()
  stop = Stop()
  runlog.plain_warnings()
  path, _, preset = config_flags.get_config_filename(flags.FLAGS['config']).partition(':')
  name = pathlib.Path(path).stem
  workdir = pathlib.Path(flags.FLAGS.workdir or f'runs/{name}{"-" if preset else ""}{preset}')
  command = shlex.join(['python', *sys.argv])
  try:
    config = flags.FLAGS.config
    over = runpy.run_path(path).get('sweep') if flags.FLAGS.sweep else None
    pinned = tuple(config_flags.get_override_values(flags.FLAGS['config']))
    sweep.expand(config, over, pinned)  # a mistake is better told before any data are looked for
    config.data.source = imdb.resolve(config.data)
    runs = sweep.expand(config, over, pinned, command)
    workdir.mkdir(parents=True, exist_ok=True)
    with runlog.lock(workdir, 'another launch is at work here: let it end, or choose a --workdir'):
      sweep.record(workdir, name, preset, command, runs)
      todo = [run for run in runs if not sweep.is_done(run, workdir)]
      console.print(f'{workdir}: {len(runs)} runs, {len(runs) - len(todo)} done', highlight=False)
      failed = todo and train(todo, workdir, config, console, stop)
      console.print(report.write(workdir))
  except KeyboardInterrupt:
    console.print(f'stopped, nothing lost; to go on: {command}', highlight=False, soft_wrap=True)
    sys.exit(128 + (stop.signal or signal.SIGINT))
  except (ValueError, DataError, OSError, runlog.Busy) as error:
    fail(error)
  if failed:
    lines = [f'{len(failed)} of {len(runs)} runs failed:', *failed]
    fail('\n  '.join(lines))


def train(todo, workdir, config, console, stop):
  """Does the runs in `todo`; returns a line for each that failed."""
  data = imdb.load(config.data)
  sizes = ', '.join(f'{len(getattr(data, s).ids):,} {s}' for s in ('train', 'validation', 'test'))
  console.print(f'{data.title}\n  {sizes} reviews', highlight=False, soft_wrap=True)
  name = flags.FLAGS.executor
  name = executors.choose(todo) if name == 'auto' else name
  console.print(f'{name} executor', highlight=False)
  failed = []
  with runlog.Display(todo, console) as display:
    for event in executors.get(name)(todo, workdir, stop):
      display.update(event)
      if event.kind == 'failed':
        failed.append(f'{event.run}: {event.text}')
  return failed


class Stop:
  """Whether Ctrl-C or SIGTERM was given; runs at work then save a checkpoint. A second one ends all."""

  signal = 0

  def __init__(self):
    signal.signal(signal.SIGINT, self._take)
    signal.signal(signal.SIGTERM, self._take)

  def __call__(self):
    return bool(self.signal)

  def _take(self, number, _):
    if self.signal:
      raise SystemExit(128 + number)
    self.signal = number
    print('\nstopping, as soon as a checkpoint is saved', file=sys.stderr, flush=True)


def fail(error):
  """Says an error and ends the program with status 2, or 1 where runs failed."""
  print(f'launch.py: {error}', file=sys.stderr)
  sys.exit(2)


if __name__ == '__main__':
  app.run(main, flags_parser=parse)
