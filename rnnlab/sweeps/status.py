"""How far a sweep is: which runs are done, running, waiting or failed, and how much time is left.

It reads only the files of the runs, and imports neither JAX nor pandas, so it answers at once.
"""

import collections
import math
import pathlib
import statistics
from typing import Any, NamedTuple

import rich.console
import rich.table
import rich.text

from rnnlab.console import progress
from rnnlab.machine.disk import AnyPath
from rnnlab.runs import folder as run_files

STATES = ('done', 'running', 'waiting', 'failed', 'damaged', 'left')
RARE = ('damaged', 'left')  # states that are mentioned only if some run is in them
CONFIG_FORM = {'model?': {'cell?': str}, 'train?': {'epochs?': int}}
SHOWN = 20  # how many groups, and how many runs in a state, are listed one by one


class Run(NamedTuple):
  """A run, as its files describe it.

  state: 'done' (its files are intact; those above 1 MiB are only checked to exist), 'running' (a
  process of this machine holds its lock; Ray's workers hold none here), 'failed' (it left an
  error), 'damaged' (it has ended, but a file is not intact: a launch does it again), 'left' (a
  search has given it up) or 'waiting'. epoch: how many are over of the `epochs` that it is to have,
  which may be those up to a search's next decision. pace: seconds per epoch, which for a run that
  is done include loading, compiling and testing; None before the end of the first epoch. process:
  the number of the process that does it, or ''. error: what went wrong, or ''. again: whether a
  launch does it again without --retry_failed, or none does, as it is a trial of a search.
  """

  id: str
  overrides: dict[str, Any]
  state: str
  epoch: int
  epochs: int
  pace: float | None
  process: str = ''
  error: str = ''
  again: bool = True


def load(workdir: AnyPath) -> list[Run]:
  """The runs that a workdir's sweep.json names, then any others that have a folder there.

  Raises FileNotFoundError if there is no such folder, ValueError if there is no run in it.
  """
  workdir = pathlib.Path(workdir)
  if not workdir.is_dir():
    raise FileNotFoundError(f'{workdir}: no such folder; nothing has been launched there')
  named = {run['id']: run for run in run_files.read_sweep(workdir)['runs']}
  named |= {path.name: {} for path in run_files.folders(workdir) if path.name not in named}
  if not named:
    raise ValueError(f'{workdir}: nothing has been launched there')
  return [_read(workdir / name, entry) for name, entry in named.items()]


def seconds_left(runs: list[Run]) -> float | None:
  """The seconds that the running, waiting and damaged runs will still take; None if not known.

  The estimate exists once any epoch is over. An epoch is assumed to take as long as the run's
  epochs so far, else the median over runs with the same settings, else the median over all. The
  processes at work here, or one, are assumed to share the runs evenly; it takes at least as long as
  the longest run. Runs of a search that are not known yet do not count, and runs that may end early
  count in full.
  """
  paces = collections.defaultdict[str | None, list[float]](list)
  for run in runs:
    if run.pace is not None:
      paces[group(run)].append(run.pace)
      paces[None].append(run.pace)
  todo = [run for run in runs if run.state in ('running', 'waiting', 'damaged')]
  if not paces or not todo:
    return None if todo else 0.0
  median = {name: statistics.median(values) for name, values in paces.items()}
  epochs = max(run.epochs for run in runs)
  left = [
    ((run.epochs or epochs) - run.epoch) * (run.pace or median.get(group(run), median[None]))
    for run in todo
  ]
  return max(sum(left) / (_processes(todo) or 1), *left)


def _processes(runs):
  return len({run.process for run in runs if run.state == 'running'})


def group(run: Run) -> str:
  """The name of a run's settings without its seed, for people: `gru hidden_size=128`."""
  return progress.label({name: v for name, v in run.overrides.items() if name != 'seed'})


def show(workdir: AnyPath, console: rich.console.Console) -> None:
  """Prints how far the sweep of a workdir is. Raises what `load` raises."""

  def say(words):
    console.print(words, highlight=False, markup=False, soft_wrap=True)

  workdir = pathlib.Path(workdir)
  runs = load(workdir)
  by_state = {state: [run for run in runs if run.state == state] for state in STATES}
  counts = ', '.join(
    f'{len(of)} {state}' for state, of in by_state.items() if of or state not in RARE
  )
  say(f'{workdir}: {len(runs)} runs: {counts}')
  console.print(_table(runs))
  for run in by_state['running'][:SHOWN]:
    say(f'running: {progress.label(run.overrides)}: epoch {run.epoch}/{run.epochs}')
  _more(by_state['running'], 'running', say)
  for run in by_state['failed'][:SHOWN]:
    say(f'failed: {run.id}: {run.error}')
  _more(by_state['failed'], 'failed: error.json in their folders says why', say)
  for run in by_state['damaged'][:SHOWN]:
    damaged = ', '.join(run_files.verify(workdir / run.id, quick=True)) or run_files.METRICS
    say(f'damaged: {run.id}: {damaged}; the next launch does it again')
  _more(by_state['damaged'], 'damaged', say)
  own = sum(not run.again for run in by_state['failed'])
  if own:
    say(f'{own} failed for a reason of their own: --retry_failed does them again')
  if by_state['running'] or by_state['waiting'] or by_state['damaged']:
    _say_left(workdir, runs, say)


def record(workdir: AnyPath) -> dict[str, Any]:
  """What `show` prints, for a program, as a dict that JSON can hold.

  Its entries are workdir; counts: {state: how many runs}; seconds_left: None if not known; launch:
  the number of the process at work there, or None; command: the one that continues the sweep, or
  None; runs: a dict for each Run. Raises what `load` raises.
  """
  runs = load(workdir)
  counts = collections.Counter(run.state for run in runs)
  return {
    'workdir': str(workdir),
    'counts': {state: counts[state] for state in STATES},
    'seconds_left': seconds_left(runs),
    'launch': run_files.holder(workdir),
    'command': run_files.read_sweep(workdir)['command'] or None,
    'runs': [run._asdict() for run in runs],
  }


def _say_left(workdir, runs, say):
  left = seconds_left(runs)
  clock = 'not known before an epoch is over' if left is None else f'about {progress.clock(left)}'
  if run_files.holder(workdir) is not None:
    say(f'left: {clock}, by {_processes(runs) or 1} process{"es" * (_processes(runs) > 1)}')
    return
  say(f'left: {clock}, by one process; no launch is at work')
  if command := run_files.read_sweep(workdir)['command']:
    say(f'to go on: {command}')


def _more(runs, what, say):
  if len(runs) > SHOWN:
    say(f'and {len(runs) - SHOWN} more {what}')


def _table(runs):
  """A table with a line for each group of runs, or for each cell if there are many groups."""
  named = [group(run) for run in runs]
  if len(set(named)) > SHOWN:
    named = [str(run.overrides.get('model.cell')) for run in runs]
  lines = collections.defaultdict(collections.Counter)
  for name, run in zip(named, runs, strict=True):
    lines[name][run.state] += 1
  states = [state for state in STATES if any(counts[state] for counts in lines.values())]
  table = rich.table.Table('', *(rich.table.Column(state, justify='right') for state in states))
  for name, counts in list(lines.items())[:SHOWN]:
    table.add_row(rich.text.Text(name), *(str(counts[state] or '') for state in states))
  return table


def _read(folder, entry):
  result = run_files.read_result(folder, run_files.RESULT_FORM)
  config = run_files.read_config(folder, CONFIG_FORM) or {}
  rows = run_files.read_metrics(folder)
  of_config = config.get('train', {}).get('epochs', len(rows))
  epochs = entry.get('epochs', of_config)
  error, process = run_files.failure(folder) or {}, run_files.holder(folder)
  seconds = [row['seconds'] for row in rows if math.isfinite(row.get('seconds', math.nan))]
  pace = statistics.median(seconds) if seconds else None
  whole = run_files.has_all_rows(result, rows, of_config)
  if whole and not run_files.verify(folder, quick=True):
    state = 'done'
    if rows and math.isfinite(result.get('seconds', math.nan)):
      pace = result['seconds'] / len(rows)
  elif process is not None:
    state = 'running'
  elif run_files.has_ended(folder):
    state = 'damaged'
  else:
    state = 'failed' if error else 'left' if entry.get('left') else 'waiting'
  cell, seed = config.get('model', {}).get('cell', '?'), config.get('seed')
  named = (result or {}).get('overrides', {'model.cell': cell, 'seed': seed})
  return Run(
    folder.name,
    entry.get('overrides', named),
    state,
    len(rows),
    epochs,
    pace,
    process or '',
    error.get('error', ''),
    error.get('again', True) or entry.get('stage') == 'search',
  )
