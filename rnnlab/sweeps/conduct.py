"""Conducts a sweep from the request to its end, stage by stage, and shows people how it goes."""

import collections
import contextlib
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import rich.console

from rnnlab import tasks
from rnnlab.console import progress
from rnnlab.machine import devices, disk
from rnnlab.machine.disk import AnyPath
from rnnlab.runs import folder as run_files
from rnnlab.runs import program
from rnnlab.sweeps import executors, storage, sweep
from rnnlab.sweeps.sweep import Plan


class Asked(NamedTuple):
  """What a launch asks for.

  request: its runs and searches, over a settled config. claims: to be tested on the runs.
  experiment, preset: the names of what was launched. references: published figures for the report.
  """

  request: sweep.Request
  claims: list[dict[str, Any]]
  experiment: str
  preset: str
  references: Sequence[Any] = ()


def claim(workdir: AnyPath) -> None:
  """Makes the folder; raises ValueError if it can't be written to."""
  try:
    pathlib.Path(workdir).mkdir(parents=True, exist_ok=True)
    disk.write_atomic(pathlib.Path(workdir) / '.writable', '')
    (pathlib.Path(workdir) / '.writable').unlink()
  except OSError as error:
    words = f'cannot write to the workdir {workdir}: {error.strerror}; choose another'
    raise ValueError(words) from error


def conduct(
  asked: Asked,
  workdir: AnyPath,
  url: str,
  console: rich.console.Console,
  stop: Callable[[], bool],
  *,
  executor: str,
  options: dict[str, Any],
  retry_failed: bool,
  wandb: bool,
) -> tuple[Plan, dict[str, str]]:
  """Does the runs that remain, stage by stage, as a search's trials decide what comes next.

  executor: its name, or 'auto'. options: the executor's own. url: what `workdir` mirrors, or ''.
  retry_failed: whether to repeat runs that failed earlier for reasons of their own. Returns the
  last plan, and the errors of its failed runs by id. Raises KeyboardInterrupt once `stop()` is
  true.
  """
  devices.use_cores()
  devices.keep_programs()
  failed, said, first = {}, set(), True

  def say(line):
    if line not in said:
      console.print(line, soft_wrap=True)
    said.add(line)

  while True:
    plan = sweep.plan_of(asked.request, workdir)
    sweep.record(workdir, asked, plan)
    before = {} if retry_failed else sweep.failures(plan.todo, workdir)
    failed = before | {run.id: failed[run.id] for run in plan.todo if run.id in failed}
    todo = [run._replace(wandb=wandb) for run in plan.todo if run.id not in failed]
    for line in sweep.findings(plan):
      say(line)
    if todo or first:
      words = f'{workdir}: {len(plan.runs)} runs, {len(plan.runs) - len(plan.todo)} done'
      words += f', {len(failed)} failed before' if failed else ''
      say(words + sweep.ahead(plan, todo))
    for run in todo:
      if damaged := run_files.verify(pathlib.Path(workdir) / run.id):
        say(f'{run.id}: {", ".join(damaged)} damaged or missing: the run is done again')
    if not todo:
      return plan, failed
    if first:
      for config in _datasets(asked.request.config, plan.runs):
        data = tasks.find(config.task.name).load(program.data_of(config))
        told = '\n  '.join((data.title, data.line, *data.notes))
        console.print(told, soft_wrap=True)  # the data that the figures will be about
    name, why = executors.choose(plan.runs) if executor == 'auto' else (executor, '')
    say(f'executor: {name}' + (f' ({why})' if why else ''))
    execute = functools.partial(executors.get(name), todo, workdir, **options)
    with jax.enable_x64(False):  # a run's bits must not depend on the environment
      failed |= _follow(execute, progress.Display(todo, console), stop, workdir, url)
    first = False


def _datasets(config, runs):
  """A config of each task among the runs, beginning with the launch's own if it is among them.

  Where runs of one task differ in their data, the runs' own names show it.
  """
  configs = [run.config for run in runs]
  of_task = {one.task.name: one for one in reversed(configs)}
  first = {config.task.name: config} if config.task.name in of_task else {}
  return list((first | of_task | first).values())


def _follow(execute, display, stop, workdir, url):
  """Shows the progress of runs until they end; returns the errors of those that failed, by id.

  If it can't be shown, or sent to the URL, the runs in progress save a checkpoint and stop too.
  """
  failed, broken = {}, False
  events = execute(stop=lambda: broken or stop())
  watched = storage.pushing(events, workdir, url) if url else events
  with contextlib.closing(events), contextlib.closing(watched):
    try:
      with display:
        for event in watched:
          display.update(event)
          if event.kind == 'failed':
            failed[event.run] = event.text
    except Exception:
      broken = True
      for left in (watched, events):
        with contextlib.suppress(KeyboardInterrupt, Exception):
          collections.deque(left, maxlen=0)
      raise
  return failed


def failures(plan: Plan, failed: dict[str, str], workdir: AnyPath) -> list[str]:
  """Lines for people about the runs that `conduct` could not finish; none if it finished all."""
  lines = []
  if failed:
    lines += [f'{len(failed)} of {len(plan.runs)} runs failed:', *map(': '.join, failed.items())]
  if own := sweep.failures(plan.todo, workdir):
    lines.append(f'{len(own)} for reasons of their own: --retry_failed does them again')
  if lost := [progress.label(arm['overrides']) for arm in sweep.arms(plan) if not arm['best']]:
    lines.append(f'no setting was found for: {", ".join(lost)}')
  return lines
