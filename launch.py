"""Runs an experiment.

    python launch.py [--config=experiments/FILE.py[:PRESET]] [--config.a.b=VALUE ...]

Does the runs of its sweep that are not done yet, then shows the report.

    python launch.py --status [--workdir=DIR]

Says what is done, running and failed, and how long is left.
"""

import functools
import importlib.util
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
from rnnlab import executors, runlog, status, storage
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
flags.DEFINE_boolean('wandb', False, 'Whether to tell Weights & Biases of the runs too.')
flags.DEFINE_enum('executor', 'auto', ['auto', *executors.NAMES], 'How to do the runs.')
flags.DEFINE_string(
  'ray_address',
  '',
  'The cluster for --executor=ray, HEAD:6379; default: a local one, started here.',
)
flags.DEFINE_string(
  'coordinator', '', "For --executor=distributed: HOST:PORT of the first process; default: JAX's."
)
flags.DEFINE_integer('processes', None, 'For --executor=distributed: how many there are.')
flags.DEFINE_integer('process_id', None, 'For --executor=distributed: which one this is, from 0.')


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
  if flags.FLAGS.executor != 'distributed' or flags.FLAGS.status:
    return launch()
  from rnnlab import devices
  from rnnlab.executors import distributed

  runlog.plain_warnings()
  devices.keep_programs()
  given = flags.FLAGS.coordinator, flags.FLAGS.processes, flags.FLAGS.process_id
  try:
    with distributed.together(*given) as leads:
      launch() if leads else sys.exit(distributed.follow(Stop()))
  except (ValueError, OSError) as error:
    fail(runlog.say(error))


def launch():
  """Does what the command asks for, and ends the program unless all is well."""
  console = rich.console.Console(width=None if sys.stdout.isatty() else 100)
  stop = Stop()
  runlog.plain_warnings()
  path, _, preset = config_flags.get_config_filename(flags.FLAGS['config']).partition(':')
  name = pathlib.Path(path).stem
  default = f'runs/{name}{"-" if preset else ""}{preset}'
  try:
    workdir, url = storage.local(flags.FLAGS.workdir or default)
    if flags.FLAGS.status:
      if url:
        storage.pull(url, workdir)
      return status.show(workdir, console)
    from rnnlab import conduct, report, results, sweep
    from rnnlab.data import imdb

    check_executor()
    config = flags.FLAGS.config
    over, claims = of_experiment(path, preset) if flags.FLAGS.sweep else (None, [])
    pinned = tuple(config_flags.get_override_values(flags.FLAGS['config']))
    # A mistake is better told before any data are looked for.
    sweep.expand(config, over, pinned)
    results.check_claims(claims, config.to_dict())
    config.data.source = imdb.resolve(config.data)
    asked = conduct.Asked(config, over, claims, pinned, name, preset, COMMAND)
    conduct.claim(workdir)
    with runlog.lock(workdir, 'another launch is at work here: let it end, or choose a --workdir'):
      if url:
        console.print(f'{url}, mirrored here:', highlight=False, soft_wrap=True)
        storage.pull(url, workdir)
      plan, failed = conduct.conduct(
        asked,
        workdir,
        url,
        console,
        stop,
        executor=flags.FLAGS.executor,
        options={'address': flags.FLAGS.ray_address} if flags.FLAGS.ray_address else {},
        retry_failed=flags.FLAGS.retry_failed,
        wandb=flags.FLAGS.wandb,
      )
      if any(not run.stage and run.id not in failed for run in plan.runs):
        console.print(report.write(workdir))
        files = 'report.html, summary.md, summary.tex, *.csv, figures/*.png'
        console.print(f'in {workdir}: {files}', highlight=False, soft_wrap=True)
      if url:
        storage.push_report(workdir, url)
  except KeyboardInterrupt:
    console.print(f'stopped, nothing lost; to go on: {COMMAND}', highlight=False, soft_wrap=True)
    sys.exit(128 + (stop.signal or signal.SIGINT))
  except (ValueError, DataError, OSError, runlog.Busy) as error:
    fail(runlog.say(error))
  if lines := conduct.failures(plan, failed, workdir):
    fail('\n  '.join(lines), code=1)


def of_experiment(path, preset):
  """An experiment's sweep, or None, and its claims; each may take the preset."""
  functions = runpy.run_path(path)

  def find(name):
    function = functions.get(name)
    if function and 'preset' in inspect.signature(function).parameters:
      return functools.partial(function, preset=preset)
    return function

  claims = find('claims')
  return find('sweep'), claims() if claims else []


def check_executor():
  """Raises ValueError for an executor, or a writer, that can't be had."""
  name, address = flags.FLAGS.executor, flags.FLAGS.ray_address
  if address and name != 'ray':
    raise ValueError(f'--ray_address={address} is for --executor=ray, not {name}')
  for flag in ('coordinator', 'processes', 'process_id'):
    if name != 'distributed' and flags.FLAGS[flag].present:
      raise ValueError(f'--{flag} is for --executor=distributed, not {name}')
  if name != 'auto':
    executors.get(name)
  if flags.FLAGS.wandb and not importlib.util.find_spec('wandb'):
    raise ValueError(
      '--wandb needs Weights & Biases, which is not installed: pip install -r'
      ' experiments/trackers.txt'
    )


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
