"""Where a sweep is: what is done, running, waiting and failed, and how long is left.

Reads what runs leave on disk, and needs neither JAX nor pandas, so as to answer at once.
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
from rnnlab.runs import folder as run_files

STATES = ('done', 'running', 'waiting', 'failed', 'damaged', 'left')
RARE = ('damaged', 'left')  # not told where there are none
FORM = {'model?': {'cell?': str}, 'train?': {'epochs?': int}}
SHOWN = 20  # how many groups, and runs, are told one by one


class Run(NamedTuple):
  """A run as its files tell it.

  state: 'done' (its files are whole: of those above 1 MiB, they are there), 'running' (a process
  holds its lock), 'failed' (it left an error), 'damaged' (it has ended, and a file is not whole: a
  launch does it again), 'left' (a search has given it up) or 'waiting'. epoch of epochs are over, 0
  of 0 where it was never begun. pace: its seconds an epoch, those of a done run with all that is
  around; None before the first one's end. process: the number of the one that does it.
  """

  id: str
  overrides: dict[str, Any]
  state: str
  epoch: int
  epochs: int
  pace: float | None
  process: str = ''
  error: str = ''
  again: bool = True  # whether a launch does it again without --retry_failed


def load(workdir) -> list[Run]:
  """The runs that `workdir`'s sweep.json names, then others that have a folder there.

  Raises FileNotFoundError without the workdir, ValueError where there is no run.
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
  """What the running and waiting runs take yet, shared by the processes at work, or by one.

  An epoch takes what it took this run, or the median of runs of the same settings, or of all;
  None before any epoch is over. Of runs in one process, at once or in turn, the seconds add up.
  """
  paces = collections.defaultdict(list)
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
  """What a run shares with those that differ in the seed alone, in words."""
  return progress.label({name: v for name, v in run.overrides.items() if name != 'seed'})


def show(workdir, console: rich.console.Console) -> None:
  """Says where the sweep of `workdir` is. Raises as `load`."""

  def say(words):
    console.print(words, highlight=False, markup=False, soft_wrap=True)

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


def record(workdir) -> dict[str, Any]:
  """What `show` says, for a program: JSON of the Runs, how many are in each state, and the rest.

  seconds_left: None where it is not known. launch: the number of the process at work there, or
  None. command: what goes on with it, or None. Raises as `load`.
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
  """A line a group; where there are many, a line a cell."""
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
  config = run_files.read_config(folder, FORM) or {}
  rows = run_files.read_metrics(folder)
  epochs = config.get('train', {}).get('epochs', len(rows))
  error, process = run_files.failure(folder) or {}, run_files.holder(folder)
  seconds = [row['seconds'] for row in rows if math.isfinite(row.get('seconds', math.nan))]
  pace = statistics.median(seconds) if seconds else None
  whole = run_files.has_all_rows(result, rows, epochs)
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
    error.get('again', True),
  )
