"""Trains recurrent networks: does the remaining runs of an experiment.

  python launch.py                           the main job, experiments/imdb.py
  python launch.py --config=FILE.py[:PRESET] [--config.FIELD=VALUE ...]
  python launch.py --status [--workdir=DIR]  what is done, and what is left
  python launch.py --help --config=FILE.py   an experiment and its fields

Where rnnlab is installed, `rnnlab` is the same command, in any folder.

What to run
  --config=FILE.py[:PRESET]  the experiment; default: experiments/imdb.py
  --config.FIELD=VALUE       sets a field of its config, which is then not swept
  --nosweep                  one run of the config, without the sweep
  --retry_failed             also repeats runs that failed on their own, but no
                             trials of a search
  --workdir=DIR              where results go, a path or a URL known to fsspec;
                             default: runs/<experiment>[-<preset>]
  --executor=NAME            how; default: auto, which says its choice and why
      serial                   one run after another, on one device
      cores                    one run after another, each on all cores
      process                  one run per core
      population               runs that share a compiled program, together
      ray                      one run per core or one population per GPU of a
                               Ray cluster
      distributed              one after another, on all devices of many hosts

Output
  --status                   only what is done, running, failed and left
  --quiet                    only the table; errors go to standard error
  --json                     a JSON object instead of the table or the status;
                             progress goes to standard error, unless --quiet
  --wandb                    also logs the runs to Weights & Biases
  In the environment: NO_COLOR=1, TERM=dumb, COLUMNS=80.

Many machines
  --ray_address=HEAD:6379    the Ray cluster; default: this machine alone
  --coordinator=HOST:PORT    for distributed: the first process's address,
  --processes=N              how many processes there are, and
  --process_id=N             which one this is, from 0; if JAX detects the
                             cluster, it knows all three

Examples
  python launch.py --config=experiments/imdb.py:smoke
  python launch.py --config.model.cell=gru --config.seed=7 --nosweep
  python launch.py --quiet --json | jq '.summary[].test_accuracy_mean'

After a crash, give the same command again, and it continues. The exit status
is 0 if every run ended well, 1 if some failed, 2 for a mistake or a disk or
network that fails, and 128 + N after signal N: 130 for Ctrl-C.
"""

import contextlib
import importlib.util
import json
import os
import pathlib
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from absl import app, flags

# Modules that load JAX are imported where they are used: --status and --help answer at once.
from rnnlab import tasks
from rnnlab.console import progress, usage
from rnnlab.console.words import describe_error, near, plain_warnings
from rnnlab.data import DataError
from rnnlab.runs import command_line, configs, experiment_file
from rnnlab.runs import folder as run_files
from rnnlab.sweeps import executors, status, storage

PROGRAM = pathlib.Path(sys.argv[0]).name or 'rnnlab'
IN_CLONE = PROGRAM.endswith('.py')
COMMAND = shlex.join(['python', *sys.argv] if IN_CLONE else [PROGRAM, *sys.argv[1:]])
# Beside the package in the clone; an installed rnnlab has no experiments.
MAIN_JOB = pathlib.Path(__file__).parents[1] / 'experiments' / 'imdb.py'

HELP = re.compile(r'--?h(elp)?(short|full|xml)?$')

# The docstring above describes them.
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


def parse(argv: list[str]) -> Any:
  """Parses the flags; a mistake gives a line or two for people, and exit status 2.

  Returns what `main` needs: the Given, and the Experiment with its fields set.
  """
  for stream in (sys.stdout, sys.stderr):  # which may be ASCII
    stream.reconfigure(errors='replace')
  program, *words = argv
  asks = any(map(HELP.match, words))
  words = [word for word in words if not HELP.match(word)]
  try:
    words = flags.FLAGS.read_flags_from_files(words, force_gnu=False)
    given, rest = command_line.split(words, MAIN_JOB)
    if unknown := flags.FLAGS([program, *rest])[1:]:
      raise ValueError(f'what is {unknown[0]!r}? A flag begins with --, as in --config.seed=1')
    if asks and not any(map(command_line.CONFIG.match, words)):
      print(words_of_help(), end='')
      sys.exit()
    if not (asks or flags.FLAGS.status):
      # An experiment's file may compute with JAX, which then keeps the devices that it has.
      from rnnlab.machine import devices

      check_executor()
      devices.use_cores()
    if flags.FLAGS.status and given.path == command_line.NONE:
      if not flags.FLAGS.workdir:
        raise ValueError('--status needs a sweep: give --workdir=DIR, or its --config')
      return given, None
    command_line.check_file(given.path)
    experiment = experiment_file.read(given.path, given.preset)
    experiment = experiment._replace(
      config=command_line.set_fields(experiment.config, given.fields)
    )
    if asks:
      fields = configs.flat(experiment.config)
      known = configs.fields(fields.get('task.name', tasks.DEFAULT))
      helps = {name: field.help for name, field in known.items()}
      page = usage.page(given.path, fields, helps)
      print(words_of_help(), page, sep='\n')
      sys.exit()
    return given, experiment
  except flags.UnrecognizedFlagError as error:
    there = [f'--{name}' for name in (*flags.FLAGS, 'config')]
    there += [f'--config.{name}' for name in configs.fields()]
    fail(f'there is no flag --{error.flagname}{near(f".{error.flagname}", there)}')
  except (flags.Error, ValueError, OSError) as error:
    fail(error)


def words_of_help() -> str:
  """The page of all flags, with the command that was used."""
  if IN_CLONE:
    return __doc__
  words = __doc__.replace('; default: experiments/imdb.py', '')
  return words.replace('python launch.py', PROGRAM)


def main(asked: Any) -> None:
  """Does what `parse` returned, in this process's part of a cluster if there is one."""
  if flags.FLAGS.executor != 'distributed' or flags.FLAGS.status:
    return launch(*asked)
  from rnnlab.machine import devices
  from rnnlab.sweeps.executors import distributed

  plain_warnings()
  devices.keep_programs()
  given = flags.FLAGS.coordinator, flags.FLAGS.processes, flags.FLAGS.process_id
  try:
    with distributed.together(*given) as leads:
      launch(*asked) if leads else sys.exit(distributed.follow(Stop()))
  except (ValueError, OSError) as error:
    fail(describe_error(error))


def launch(given: command_line.Given, experiment: experiment_file.Experiment) -> None:
  """Does what the command asks for; ends the program if something went wrong."""
  try:
    _launch(given, experiment, *progress.consoles(flags.FLAGS.quiet, flags.FLAGS.json))
  except progress.Unheard:
    # What is left in a stream's buffer has no reader either. The status is that of a signal.
    for stream in (sys.stdout, sys.stderr):
      os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(128 + 13)  # SIGPIPE


def _launch(given, experiment, messages, output):
  stop = Stop()
  if flags.FLAGS.status:
    stop.end_at_once()
  plain_warnings()
  name, preset = pathlib.Path(given.path).stem, given.preset or ''
  default = f'runs/{name}{"-" if preset else ""}{preset}'
  try:
    workdir, url = storage.local(flags.FLAGS.workdir or default)
    if flags.FLAGS.status:
      return _status(workdir, url, output)
    asked = _asked(given, experiment, name, preset)
    plan, failed, told = _conduct(asked, workdir, url, messages, output, stop)
  except KeyboardInterrupt:
    say(messages, f'stopped, nothing lost; to go on: {COMMAND}')
    sys.exit(128 + (stop.signal or signal.SIGINT))
  except progress.Unheard:
    raise
  except (ValueError, DataError, OSError, run_files.Busy) as error:
    fail(describe_error(error))
  from rnnlab.reports import report
  from rnnlab.sweeps import conduct

  if flags.FLAGS.json:
    counts = {'runs': len(plan.runs), 'done': len(plan.runs) - len(plan.todo), 'failed': failed}
    told = {'workdir': url or str(workdir)} | counts | report.record(told)
    output.out(json.dumps(told), highlight=False)
  if lines := conduct.failures(plan, failed, workdir):
    fail('\n  '.join(lines), code=1)


def _status(workdir, url, output):
  """Shows what is done and what is left."""
  if url:
    storage.pull(url, workdir)
  if flags.FLAGS.json:
    return output.out(json.dumps(status.record(workdir)), highlight=False)
  return status.show(workdir, output)


def _asked(given, experiment, name, preset):
  """What is to be conducted; mistakes are reported before any data are looked for."""
  from rnnlab import results
  from rnnlab.runs import program
  from rnnlab.sweeps import conduct, sweep

  pinned = tuple(given.fields)
  config = configs.check_fields(experiment.config)
  over, claims = None, []
  if flags.FLAGS.sweep:
    over, claims = experiment.sweep, experiment.claims()
  request = sweep.ask(config, over, pinned, COMMAND)
  runs = sweep.plan_of(request).runs
  configs.check_options(pinned, [run.config.model.cell for run in runs])
  check_cells(runs)
  claims = results.check_claims(claims, config, tasks.of(config).metrics)
  references = results.check_references(experiment.references())
  request = sweep.settled(request, program.settle)
  return conduct.Asked(request, claims, name, preset, references)


def _conduct(asked, workdir, url, messages, output, stop):
  """Does what is asked, and reports it; returns the plan, the failures and the report."""
  from rnnlab.reports import report
  from rnnlab.sweeps import conduct

  told = None
  conduct.claim(workdir)
  busy = 'another launch is at work here: let it end, or choose another --workdir'
  with run_files.lock(workdir, busy):
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
    stop.end_at_once()  # what is left to do is done again by the next launch
    if any(not run.stage and run.id not in failed for run in plan.runs):
      told = report.write(workdir)
      if not flags.FLAGS.json:
        output.print(told)
      files = 'report.html, summary.md, summary.tex, *.csv, figures/*.png'
      say(messages, f'in {workdir}: {files}')
    if url:
      storage.push_report(workdir, url)
  return plan, failed, told


def check_executor() -> None:
  """Raises ValueError for an executor, or a tracker, that is not available."""
  name, address = flags.FLAGS.executor, flags.FLAGS.ray_address
  if address and name != 'ray':
    raise ValueError(f'--ray_address={address} is for --executor=ray, not {name}')
  for flag in ('coordinator', 'processes', 'process_id'):
    if name != 'distributed' and flags.FLAGS[flag].present:
      raise ValueError(f'--{flag} is for --executor=distributed, not {name}')
  processes, number = flags.FLAGS.processes, flags.FLAGS.process_id
  if processes is not None and processes < 1:
    raise ValueError(f'--processes={processes}: must be at least 1')
  if number is not None and not 0 <= number < (processes or number + 1):
    raise ValueError(f'--process_id={number}: must be from 0 to one less than --processes')
  if name != 'auto':
    executors.get(name)
  if flags.FLAGS.wandb and not importlib.util.find_spec('wandb'):
    raise ValueError('--wandb needs Weights & Biases, which is not installed: pip install wandb')


def check_cells(runs: Sequence[configs.RunSpec]) -> None:
  """Raises ValueError for a cell or a task that the executor's workers would not know."""
  for run in runs:
    if run.source and flags.FLAGS.executor == 'ray' and flags.FLAGS.ray_address:
      cell, task, (file, _) = run.config.model.cell, run.config.task.name, run.source
      is_task = tasks.added(task)
      what, where = ('task', f'tasks/{task}') if is_task else ('cell', f'cells/{cell}')
      raise ValueError(
        f'--executor=ray: workers on other machines do not read {file}, which adds the {what}'
        f' {task if is_task else cell}: put it into rnnlab/{where}.py, or a package that they have'
      )


class Stop:
  """Whether Ctrl-C or SIGTERM was given, so that runs stop at a checkpoint; twice ends at once.

  Closing the terminal counts too, unless the program runs under `nohup`.
  """

  signal = 0

  def __init__(self) -> None:
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, 'SIGHUP') and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
      numbers.append(signal.SIGHUP)
    self._numbers = numbers
    for number in numbers:
      signal.signal(number, self._take)

  def __call__(self) -> bool:
    return bool(self.signal)

  def end_at_once(self) -> None:
    """From now on, these signals end the program at once."""
    for number in self._numbers:
      signal.signal(number, signal.SIG_DFL)

  def _take(self, number, _):
    if self.signal:
      raise SystemExit(128 + number)
    self.signal = number
    with contextlib.suppress(OSError):  # the terminal or reader may be gone
      # Not by print, as the signal may have come in the middle of one.
      os.write(2, b'\nstopping, as soon as a checkpoint is saved\n')


def say(console: progress.Console, words: str) -> None:
  """Prints a line without wrapping it."""
  console.print(words, soft_wrap=True)


def fail(words: Any, code: int = 2) -> NoReturn:
  """Prints what is wrong and ends the program: status 2 for a mistake, 1 if runs failed."""
  print(f'{PROGRAM}: {words}', file=sys.stderr)
  sys.exit(code)


def run() -> None:
  """The program: what `python launch.py` and the command `rnnlab` do."""
  # Before anything has begun, Ctrl-C ends the program as usual, without a traceback.
  signal.signal(signal.SIGINT, signal.SIG_DFL)
  if os.getcwd() not in sys.path:
    sys.path.append(os.getcwd())  # there may be packages with cells and tasks
  app.run(main, flags_parser=parse)
