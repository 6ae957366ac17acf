"""A sweep from Python: what launch.py does with an experiment's file, for a notebook."""

import tempfile
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd
from absl import logging
from ml_collections import ConfigDict

from rnnlab import results
from rnnlab.console import progress as display
from rnnlab.machine.disk import AnyPath
from rnnlab.runs import configs, program
from rnnlab.runs import folder as run_files
from rnnlab.sweeps import conduct
from rnnlab.sweeps import sweep as sweeps


def sweep(
  config: ConfigDict,
  runs: Iterable[dict[str, Any]] | Callable[[Callable[[dict[str, Any]], None]], None],
  workdir: AnyPath | None = None,
  *,
  executor: str = 'auto',
  progress: bool | None = None,
) -> pd.DataFrame:
  """Does the runs of a sweep that are not done yet, and returns all of them as a table.

  config: from `rnnlab.configs.default`, with changes. runs: the overrides of each run, by dotted
  name, or a function of `add`, as in an experiment's file, which may also call `add.search`.
  workdir: the folder for the same files that launch.py makes; if it is used again, finished runs
  are not repeated, and interrupted ones continue from their last checkpoint. None: files are
  deleted at the end. executor: as for launch.py; only 'serial', 'cores' and 'population' know cells
  and tasks that a notebook has added. In a script, call this under `if __name__ == '__main__':`, as
  worker processes import the script. progress: whether to show the progress and the
  time left; None: only in a notebook or a terminal.

  Returns a row for each finished run, with the columns of `rnnlab.load_runs`. A warning names runs
  that failed. Raises ValueError for a mistake and if no run finished, DataError if there are no
  data, and `runs.folder.Busy` if another process is at work in the folder.

  >>> from experiments import imdb
  >>> cells = [{'model.cell': 'lstm'}, {'model.cell': 'gru'}]
  >>> runs = rnnlab.sweep(imdb.get_config('smoke'), cells, executor='serial')
  >>> sorted(runs['model.cell'])
  ['gru', 'lstm']
  """
  if workdir is None:
    with tempfile.TemporaryDirectory(prefix='rnnlab-') as folder:
      return sweep(config, runs, folder, executor=executor, progress=progress)
  asked = _asked(config, runs)
  console = display.console_of(progress)
  conduct.claim(workdir)
  with run_files.lock(
    workdir, 'another launch is at work here: let it end, or choose another folder'
  ):
    plan, failed = conduct.conduct(
      asked,
      workdir,
      '',
      console,
      lambda: False,
      executor=executor,
      options={},
      retry_failed=True,
      wandb=False,
    )
  lines = conduct.failures(plan, failed, workdir)
  if len(failed) == len(plan.runs):
    raise ValueError('\n  '.join(lines))
  if lines:
    logging.warning('%s', '\n  '.join(lines))
  return results.load_runs(workdir)


def _asked(config, runs):
  """What there is to do, checked before any data are looked for."""
  if not callable(runs):
    listed = list(runs)
    if not listed:
      raise ValueError('there are no runs: give a list of overrides, [{}] for that of the config')

    def over(add):
      for overrides in listed:
        add(overrides)
  else:
    over = runs
  config = configs.check_fields(config)
  request = sweeps.ask(config, over, command='rnnlab.sweep(...)')
  return conduct.Asked(sweeps.settled(request, program.settle), [], 'a sweep in Python', '')
