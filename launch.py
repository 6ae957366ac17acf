"""Trains recurrent networks: the runs of an experiment that are not done yet.

  python launch.py                           the main job, experiments/imdb.py
  python launch.py --config=FILE.py[:PRESET] [--config.FIELD=VALUE ...]
  python launch.py --status [--workdir=DIR]  what is done, and what is left
  python launch.py --help --config=FILE.py   what an experiment is; its fields

What to run
  --config=FILE.py[:PRESET]  the experiment; default: experiments/imdb.py
  --config.FIELD=VALUE       sets a field of its config, which then is not swept
  --nosweep                  does the config alone, not the experiment's sweep
  --retry_failed             does runs again that failed of themselves
  --workdir=DIR              where results go, a path or a URL known to fsspec;
                             default: runs/<experiment>[-<preset>]
  --executor=NAME            how; default: auto, which says what it took and why
      serial                   one run after the other, on one device
      cores                    one run after the other, each on all cores
      process                  a run a core
      population               runs that share a program, as one
      ray                      a run a core or a population a GPU, of a cluster
      distributed              one after the other, on all devices of many hosts

What is said
  --status                   only what is done, running, failed and left
  --quiet                    nothing but the table; errors go to standard error
  --json                     an object in place of the table, or of the status;
                             progress to standard error, with --quiet nowhere
  --wandb                    tells Weights & Biases of the runs too
  In the environment: NO_COLOR=1, TERM=dumb, COLUMNS=80.

Many machines
  --ray_address=HEAD:6379    the Ray cluster; default: this machine alone
  --coordinator=HOST:PORT    for distributed: the first, unless JAX knows it,
  --processes=N              how many there are,
  --process_id=N             and which one this is, from 0

Examples
  python launch.py --config=experiments/imdb.py:smoke
  python launch.py --config.model.cell=gru --config.seed=7 --nosweep
  python launch.py --quiet --json | jq '.summary[].test_accuracy_mean'

Give the same command again after a crash, and it goes on. The exit status is 0
where every run ended well, 1 where some failed, 2 for a mistake.
"""

import functools
import importlib.util
import inspect
import json
import pathlib
import re
import runpy
import shlex
import signal
import sys

from absl import app, flags
from ml_collections import config_flags

# Rooms that load JAX are imported where they are used: --status and --help answer at once.
from rnnlab import executors, runlog, status, storage, usage
from rnnlab.data import DataError

COMMAND = shlex.join(['python', *sys.argv])
MAIN_JOB = pathlib.Path(__file__).parent / 'experiments' / 'imdb.py'

HELP = {'--help', '-help', '--helpshort', '-h'}

# What each of them does is said above.
config_flags.DEFINE_config_file('config', None)
flags.DEFINE_boolean('sweep', True, None)
flags.DEFINE_boolean('retry_failed', False, None)
flags.DEFINE_string('workdir', None, None)
flags.DEFINE_enum('executor', 'auto', ['auto', *executors.NAMES], None)
flags.DEFINE_boolean('status', False, None)
flags.DEFINE_boolean('quiet', False, None)
flags.DEFINE_boolean('json', False, None)
flags.DEFINE_boolean('wandb', False, None)
flags.DEFINE_string('ray_address', '', None)
flags.DEFINE_string('coordinator', '', None)
flags.DEFINE_integer('processes', None, None)
flags.DEFINE_integer('process_id', None, None)


def parse(argv):
  """Parses the flags; a mistake is a line or two for people, and exit status 2."""
  for stream in (sys.stdout, sys.stderr):  # which may be ASCII
    stream.reconfigure(errors='replace')
  program, *words = argv
  asks = not HELP.isdisjoint(words)
  words = [word for word in words if word not in HELP]
  if asks and not any(re.match(r'--?config\b', word) for word in words):
    print(__doc__, end='')
    sys.exit()
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
    if asks:
      print(usage.page(first[-1].partition('=')[2].partition(':')[0], flags.FLAGS.config.to_dict()))
      sys.exit()
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
  messages, output = runlog.consoles(flags.FLAGS.quiet, flags.FLAGS.json)
  stop, told = Stop(), None
  runlog.plain_warnings()
  path, _, preset = config_flags.get_config_filename(flags.FLAGS['config']).partition(':')
  name = pathlib.Path(path).stem
  default = f'runs/{name}{"-" if preset else ""}{preset}'
  try:
    workdir, url = storage.local(flags.FLAGS.workdir or default)
    if flags.FLAGS.status:
      if url:
        storage.pull(url, workdir)
      if flags.FLAGS.json:
        return print(json.dumps(status.record(workdir)))
      return status.show(workdir, output)
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
        say(messages, f'{url}, mirrored here:')
        storage.pull(url, workdir)
      plan, failed = conduct.conduct(
        asked,
        workdir,
        url,
        messages,
        stop,
        executor=flags.FLAGS.executor,
        options={'address': flags.FLAGS.ray_address} if flags.FLAGS.ray_address else {},
        retry_failed=flags.FLAGS.retry_failed,
        wandb=flags.FLAGS.wandb,
      )
      if any(not run.stage and run.id not in failed for run in plan.runs):
        told = report.write(workdir)
        if not flags.FLAGS.json:
          output.print(told)
        files = 'report.html, summary.md, summary.tex, *.csv, figures/*.png'
        say(messages, f'in {workdir}: {files}')
      if url:
        storage.push_report(workdir, url)
  except KeyboardInterrupt:
    say(messages, f'stopped, nothing lost; to go on: {COMMAND}')
    sys.exit(128 + (stop.signal or signal.SIGINT))
  except (ValueError, DataError, OSError, runlog.Busy) as error:
    fail(runlog.say(error))
  if flags.FLAGS.json:
    counts = {'runs': len(plan.runs), 'done': len(plan.runs) - len(plan.todo), 'failed': failed}
    print(json.dumps({'workdir': url or str(workdir)} | counts | report.record(told)))
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


def say(console, words):
  """Says a line, as long as it is."""
  console.print(words, soft_wrap=True)


def fail(words, code=2):
  """Says what is wrong and ends the program: 2 for a mistake, 1 where runs failed."""
  print(f'launch.py: {words}', file=sys.stderr)
  sys.exit(code)


if __name__ == '__main__':
  app.run(main, flags_parser=parse)
