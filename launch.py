"""Runs an experiment.

    python launch.py [--config=experiments/FILE.py[:PRESET]] [--config.a.b=VALUE ...]

Does the runs of its sweep that are not done yet, then shows the report.

    python launch.py --status [--workdir=DIR]

Says what is done, running and failed, and how long is left.
"""

import functools
import inspect
import pathlib
import re
import runpy
import shlex
import signal
import sys

import rich.console
from absl import app, flags
from ml_collections import config_flags

# Rooms that load JAX are imported where they are used, so that --status answers at once.
from rnnlab import executors, runlog, status
from rnnlab.data import DataError

COMMAND = shlex.join(['python', *sys.argv])
MAIN_JOB = pathlib.Path(__file__).parent / 'experiments' / 'imdb.py'

config_flags.DEFINE_config_file('config', None, 'The experiment, FILE.py[:PRESET].')
flags.DEFINE_string(
  'workdir', None, 'Where results go, a path or a URL; default runs/<experiment>[-<preset>].'
)
flags.DEFINE_boolean('sweep', True, "Whether to do the experiment's sweep or its config alone.")
flags.DEFINE_boolean('status', False, 'Only says what is done, running, failed, and what is left.')
flags.DEFINE_boolean('retry_failed', False, 'Whether to do runs again that failed of themselves.')
flags.DEFINE_enum('executor', 'auto', ['auto', *executors.NAMES], 'How to do the runs.')
flags.DEFINE_string(
  'ray_address',
  '',
  'The cluster for --executor=ray, HEAD:6379; default: a local one, started here.',
)


def parse(argv):
  """Parses the flags; a mistake is a line or two for people, and exit status 2."""
  program, *words = argv
  given = [word for word in words if re.match(r'--?config=', word)]
  # The config's fields are known only once its file is read: the file goes first.
  first = given or [f'--config={MAIN_JOB}']
  sys.argv = argv = [program, *first, *(word for word in words if word not in given)]
  try:
    for word in first:
      check_file(word.partition('=')[2].partition(':')[0])
    rest = flags.FLAGS(argv)
    if rest[1:]:
      raise ValueError(f'what is {rest[1]!r}? A flag begins with --, as in --config.seed=1')
    return rest
  except (KeyError, AttributeError) as error:
    field, *near = re.findall(r'[\'"](\w+)\\*[\'"]', str(error.args[0]))
    fail(f'the config has no field {field!r}' + (f' (did you mean {near[0]!r}?)' if near else ''))
  except (flags.Error, TypeError, ValueError) as error:
    # Where the config file itself fails, its traceback's last line says why.
    fail(str(error).strip().splitlines()[-1] if 'Traceback' in str(error) else error)


def check_file(path):
  """Raises ValueError, naming the near match, unless `path` is a file of Python."""
  if path and not (path.endswith('.py') and pathlib.Path(path).is_file()):
    from rnnlab import cells

    near = cells.near(path, map(str, pathlib.Path('experiments').glob('*.py')))
    raise ValueError(f'there is no config file {path}{near}; --config takes FILE.py[:PRESET]')


def main(_):
  console = rich.console.Console(width=None if sys.stdout.isatty() else 100)
  stop = Stop()
  runlog.plain_warnings()
  path, _, preset = config_flags.get_config_filename(flags.FLAGS['config']).partition(':')
  name = pathlib.Path(path).stem
  default = f'runs/{name}{"-" if preset else ""}{preset}'
  from rnnlab import storage

  try:
    workdir, url = storage.local(flags.FLAGS.workdir or default)
    if flags.FLAGS.status:
      if url:
        storage.pull(url, workdir)
      return status.show(workdir, console)
    from rnnlab import report, sweep
    from rnnlab.data import imdb

    check_executor()
    config = flags.FLAGS.config
    over = of_experiment(path, 'sweep', preset) if flags.FLAGS.sweep else None
    pinned = tuple(config_flags.get_override_values(flags.FLAGS['config']))
    sweep.expand(config, over, pinned)  # a mistake is better told before any data are looked for
    config.data.source = imdb.resolve(config.data)
    runs = sweep.expand(config, over, pinned, COMMAND)
    claim(workdir)
    with runlog.lock(workdir, 'another launch is at work here: let it end, or choose a --workdir'):
      if url:
        console.print(f'{url}, mirrored here:', highlight=False, soft_wrap=True)
        storage.pull(url, workdir)
      todo = [run for run in runs if not sweep.is_done(run, workdir)]
      words = f'{workdir}: {len(runs)} runs, {len(runs) - len(todo)} done'
      failed = {} if flags.FLAGS.retry_failed else sweep.failures(todo, workdir)
      if failed:
        words += f', {len(failed)} failed before'
        todo = [run for run in todo if run.id not in failed]
      console.print(words, highlight=False)
      if todo:
        show_data(imdb.load(config.data), console)
      sweep.record(workdir, name, preset, COMMAND, runs)
      failed |= train(runs, todo, workdir, url, console, stop) if todo else {}
      if len(failed) < len(runs):
        console.print(report.write(workdir))
        files = 'report.html, figures/*.png, summary.md, summary.csv, runs.csv'
        console.print(f'in {workdir}: {files}', highlight=False, soft_wrap=True)
      if url:
        storage.push_report(workdir, url)
  except KeyboardInterrupt:
    console.print(f'stopped, nothing lost; to go on: {COMMAND}', highlight=False, soft_wrap=True)
    sys.exit(128 + (stop.signal or signal.SIGINT))
  except (ValueError, DataError, OSError, runlog.Busy) as error:
    fail(runlog.say(error))
  if failed:
    words = [f'{len(failed)} of {len(runs)} runs failed:', *map(': '.join, failed.items())]
    if own := sweep.failures(runs, workdir):
      words += [f'{len(own)} of themselves: --retry_failed does them again']
    fail('\n  '.join(words), code=1)


def of_experiment(path, name, preset):
  """A function of an experiment's file, or None; one that has a use for the preset is given it."""
  function = runpy.run_path(path).get(name)
  if function and 'preset' in inspect.signature(function).parameters:
    return functools.partial(function, preset=preset)
  return function


def check_executor():
  """Raises ValueError for an executor that can't be had."""
  name, address = flags.FLAGS.executor, flags.FLAGS.ray_address
  if address and name != 'ray':
    raise ValueError(f'--ray_address={address} is for --executor=ray, not {name}')
  if name != 'auto':
    executors.get(name)


def show_data(data, console):
  """Says what the figures will be of."""
  sizes = ', '.join(f'{len(getattr(data, s).ids):,} {s}' for s in ('train', 'validation', 'test'))
  console.print(f'{data.title}\n  {sizes} reviews', highlight=False, soft_wrap=True)


def claim(workdir):
  """Makes the folder; raises ValueError where it can't be written to."""
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    runlog.write_atomic(workdir / '.writable', '')
    (workdir / '.writable').unlink()
  except OSError as error:
    words = f'cannot write to --workdir={workdir}: {error.strerror}; choose another'
    raise ValueError(words) from error


def train(runs, todo, workdir, url, console, stop):
  """Does the runs in `todo`, of `runs`; returns id -> error of those that failed."""
  from rnnlab import devices, storage

  devices.use_cores()
  devices.keep_programs()
  name = flags.FLAGS.executor
  name, why = executors.choose(runs) if name == 'auto' else (name, 'as asked')
  console.print(f'executor: {name} ({why})', highlight=False)
  failed = {}
  options = {'address': flags.FLAGS.ray_address} if name == 'ray' else {}
  events = executors.get(name)(todo, workdir, stop, **options)
  events = storage.pushing(events, workdir, url) if url else events
  with runlog.Display(todo, console) as display:
    for event in events:
      display.update(event)
      if event.kind == 'failed':
        failed[event.run] = event.text
  return failed


class Stop:
  """Whether Ctrl-C or SIGTERM was given, so that runs stop at a checkpoint; twice ends at once."""

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


def fail(words, code=2):
  """Says what is wrong and ends the program: 2 for a mistake, 1 where runs failed."""
  print(f'launch.py: {words}', file=sys.stderr)
  sys.exit(code)


if __name__ == '__main__':
  app.run(main, flags_parser=parse)
