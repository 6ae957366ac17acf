"""Ways to do a list of runs. Each is a function `execute(runs, workdir, stop)`.

It yields the runs' Events as they come. A run that fails leaves error.json in its folder and a
'failed' Event, and the others go on; one that reaches its spec's `until` ends with 'paused'. When
`stop()` turns true, the runs in progress save a checkpoint, and KeyboardInterrupt is raised.

A caller that does not take all Events must close the generator (`contextlib.closing`): processes
then end and locks are released at once, and whatever came after the last checkpoint is lost.
"""

import importlib
from collections.abc import Callable, Generator
from typing import Any

from rnnlab.console.words import near

NAMES = ('serial', 'cores', 'process', 'population', 'distributed', 'ray')


def get(name: str) -> Callable[..., Generator[Any, None, None]]:
  """The `execute` function of the executor called `name`.

  Raises ValueError for an unknown name, and for 'ray' where Ray is not installed.
  """
  if name not in NAMES:
    raise ValueError(f'there is no executor {name!r}{near(name, NAMES)}: {", ".join(NAMES)}')
  try:
    return importlib.import_module(f'rnnlab.sweeps.executors.{name}').execute
  except ModuleNotFoundError as error:
    if error.name != 'ray':
      raise
    raise ValueError(
      "--executor=ray needs Ray, which is not installed: pip install 'ray>=2.52,<3'"
    ) from error


def choose(runs: list) -> tuple[str, str]:
  """The executor for these runs on this machine, and why, in words.

  runs: all those of a sweep, so that doing a part of them gives the same bits. On a CPU, a run
  takes as long by itself as in a population (`python -m experiments.benchmarks.sweeps` measures
  both). A population compiles once rather than once per core, but does all runs of one program
  before those of the next: if they don't share the cores evenly, processes finish sooner. An
  accelerator has room for many runs at once.
  """
  from rnnlab import cells, tasks
  from rnnlab.machine import devices, provenance
  from rnnlab.sweeps.executors import population

  def is_known_here_alone(run):
    added = cells.added(run.config.model.cell) or tasks.added(run.config.task.name)
    return added and not run.source

  cores = len(provenance.cores())
  sizes = [len(group) for group in population.groups(runs)]
  if devices.backend() != 'cpu':
    if len(runs) > len(sizes):
      return 'population', f'{len(runs)} runs make {len(sizes)} programs on an accelerator'
    return 'serial', 'no two runs share a program'
  if cores == 1:
    return 'serial', 'there is one core'
  if len(runs) == 1:
    return 'cores', f'one run has all {cores} cores'
  if any(map(is_known_here_alone, runs)):
    return 'population', 'other processes would not know what a notebook has added'
  if sum(-(-size // cores) for size in sizes) <= -(-len(runs) // cores):
    programs = f'{len(sizes)} programs' if len(sizes) > 1 else 'one program'
    return 'population', f'{len(runs)} runs make {programs}, and share {cores} cores evenly'
  return 'process', f'one run per core, {cores} at a time'
