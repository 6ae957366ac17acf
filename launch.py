"""Runs an experiment.

    python launch.py [--config=experiments/FILE.py[:PRESET]] [--config.a.b=VALUE ...]

Does the runs of its sweep that are not done yet, then shows the report.
"""

import functools
import inspect
import itertools
import pathlib
import re
import runpy
import shlex
import signal
import sys

import rich.console
from absl import app, flags
from ml_collections import config_flags

from rnnlab import cells, devices, executors, report, runlog, sweep
from rnnlab.data import DataError, imdb

COMMAND = shlex.join(['python', *sys.argv])
MAIN_JOB = pathlib.Path(__file__).parent / 'experiments' / 'imdb.py'

config_flags.DEFINE_config_file('config', None, 'The experiment, FILE.py[:PRESET].')
flags.DEFINE_string('workdir', None, 'Where results go; default runs/<experiment>[-<preset>].')
flags.DEFINE_boolean('sweep', True, "Whether to do the experiment's sweep or its config alone.")
flags.DEFINE_enum('executor', 'auto', ['auto', *executors.NAMES], 'How to do the runs.')


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
    near = cells.near(path, map(str, pathlib.Path('experiments').glob('*.py')))
    raise ValueError(f'there is no config file {path}{near}; --config takes FILE.py[:PRESET]')


def main(_):
  console = rich.console.Console(width=None if sys.stdout.isatty() else 100)
  stop = Stop()
  runlog.plain_warnings()
  path, _, preset = config_flags.get_config_filename(flags.FLAGS['config']).partition(':')
  name = pathlib.Path(path).stem
  workdir = pathlib.Path(flags.FLAGS.workdir or f'runs/{name}{"-" if preset else ""}{preset}')
  try:
    config = flags.FLAGS.config
    over = of_experiment(path, 'sweep', preset) if flags.FLAGS.sweep else None
    pinned = tuple(config_flags.get_override_values(flags.FLAGS['config']))
    sweep.expand(config, over, pinned)  # a mistake is better told before any data are looked for
    config.data.source = imdb.resolve(config.data)
    claim(workdir)
    with runlog.lock(workdir, 'another launch is at work here: let it end, or choose a --workdir'):
      plan, failed = work(config, over, workdir, pinned, (name, preset), console, stop)
      if any(not run.stage and run.id not in failed for run in plan.runs):
        console.print(report.write(workdir))
        files = 'report.html, figures/*.png, summary.md, summary.csv, runs.csv'
        console.print(f'in {workdir}: {files}', highlight=False, soft_wrap=True)
  except KeyboardInterrupt:
    console.print(f'stopped, nothing lost; to go on: {COMMAND}', highlight=False, soft_wrap=True)
    sys.exit(128 + (stop.signal or signal.SIGINT))
  except (ValueError, DataError, OSError, runlog.Busy) as error:
    fail(runlog.say(error))
  lines = [f'{run}: {text}' for run, text in failed.items()]
  if lines:
    lines = [f'{len(failed)} of {len(plan.runs)} runs failed:', *lines]
  if lost := [runlog.label(arm['overrides']) for arm in sweep.arms(plan) if not arm['best']]:
    lines.append(f'no setting was found for: {", ".join(lost)}')
  if lines:
    fail('\n  '.join(lines), status=1)


def work(config, over, workdir, pinned, named, console, stop):
  """Does what there is to do, stage by stage, as the trials of a search tell what is next.

  Returns the last plan, and the errors of the runs that failed, by id.
  """
  devices.use_cores()
  devices.keep_programs()
  failed, said = {}, []
  for stage in itertools.count():
    plan = sweep.plan(config, over, workdir, pinned, COMMAND)
    sweep.record(workdir, *named, COMMAND, plan.runs, plan.searches)
    failed = {run.id: failed[run.id] for run in plan.todo if run.id in failed}
    todo = [run for run in plan.todo if run.id not in failed]
    lines = sweep.findings(plan)
    if todo or not stage:
      done = len(plan.runs) - len(plan.todo)
      lines.append(f'{workdir}: {len(plan.runs)} runs, {done} done{sweep.ahead(plan, todo)}')
    for line in lines:
      if line not in said:
        console.print(line, highlight=False, soft_wrap=True)
    said += lines
    if not todo:
      return plan, failed
    if not stage:
      show_data(imdb.load(config.data), console)
    failed |= train(plan.runs, todo, workdir, console, stop)


def of_experiment(path, name, preset):
  """A function of an experiment's file, or None; one that has a use for the preset is given it."""
  function = runpy.run_path(path).get(name)
  if function and 'preset' in inspect.signature(function).parameters:
    return functools.partial(function, preset=preset)
  return function


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


def train(runs, todo, workdir, console, stop):
  """Does the runs in `todo`, of `runs`; returns the errors of those that failed by their ids."""
  name = flags.FLAGS.executor
  name, why = executors.choose(runs) if name == 'auto' else (name, 'as asked')
  console.print(f'executor: {name} ({why})', highlight=False)
  failed = {}
  with runlog.Display(todo, console) as display:
    for event in executors.get(name)(todo, workdir, stop):
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


def fail(words, status=2):
  """Says what is wrong and ends the program: 2 for a mistake, 1 where runs failed."""
  print(f'launch.py: {words}', file=sys.stderr)
  sys.exit(status)


if __name__ == '__main__':
  app.run(main, flags_parser=parse)
