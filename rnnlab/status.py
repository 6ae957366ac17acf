"""Where a sweep is: what is done, running, waiting and failed, and how long is left.

Reads what runs leave on disk, and needs neither JAX nor pandas, so as to answer at once.
"""

import collections
import pathlib
import statistics
from typing import Any, NamedTuple

import rich.console
import rich.markup
import rich.table

from rnnlab import runlog

STATES = ('done', 'running', 'waiting', 'failed')
SHOWN = 20  # how many groups, and runs, are told one by one


class Run(NamedTuple):
  """A run as its files tell it.

  state: 'done' (all of its files are whole), 'running' (a process holds its lock), 'failed' (it
  left an error) or 'waiting'. epoch of epochs are over, 0 of 0 where it was never begun. pace: its
  seconds an epoch, those of a done run with all that is around; None before the first one's end.
  """

  id: str
  overrides: dict[str, Any]
  state: str
  epoch: int
  epochs: int
  pace: float | None
  error: str = ''
  again: bool = True  # whether a launch does it again without --retry_failed


def load(workdir) -> list[Run]:
  """The runs that `workdir`'s sweep.json names, then others that have a folder there.

  Raises FileNotFoundError without the workdir, ValueError where there is no run.
  """
  workdir = pathlib.Path(workdir)
  if not workdir.is_dir():
    raise FileNotFoundError(f'{workdir}: no such folder; nothing has been launched there')
  overrides = {run['id']: run['overrides'] for run in _recorded(workdir).get('runs', [])}
  others = {path.parent.name for path in workdir.glob('*/config.json')} - overrides.keys()
  overrides |= dict.fromkeys(sorted(others))
  if not overrides:
    raise ValueError(f'{workdir}: nothing has been launched there')
  return [_read(workdir / name, given) for name, given in overrides.items()]


def is_done(folder, epochs: int) -> bool:
  """Whether a run's result and the rows of its epochs, `epochs` if it says no other, are whole."""
  folder = pathlib.Path(folder)
  result = runlog.read_json(folder / 'result.json')
  return _is_whole(result, runlog.read_rows(folder / 'metrics.jsonl'), epochs)


def failure(folder) -> dict | None:
  """A run's error.json: `error`, `again` and `traceback`; None where it has none."""
  error = runlog.read_json(pathlib.Path(folder) / 'error.json')
  return error and {'error': 'no words', 'again': True} | error


def seconds_left(runs: list[Run]) -> float | None:
  """What the running and waiting runs take yet, as many at a time as are running, or one.

  An epoch takes what it took this run, or the median of runs of the same settings, or of all;
  None before any epoch is over.
  """
  paces = collections.defaultdict(list)
  for run in runs:
    if run.pace is not None:
      paces[group(run)].append(run.pace)
      paces[None].append(run.pace)
  todo = [run for run in runs if run.state in ('running', 'waiting')]
  if not paces or not todo:
    return None if todo else 0.0
  median = {name: statistics.median(values) for name, values in paces.items()}
  epochs = max(run.epochs for run in runs)
  left = [
    ((run.epochs or epochs) - run.epoch) * (run.pace or median.get(group(run), median[None]))
    for run in todo
  ]
  at_a_time = sum(run.state == 'running' for run in todo) or 1
  return max(sum(left) / at_a_time, *left)


def group(run: Run) -> str:
  """What a run shares with those that differ in the seed alone, in words."""
  return runlog.label({name: v for name, v in run.overrides.items() if name != 'seed'})


def show(workdir, console: rich.console.Console) -> None:
  """Says where the sweep of `workdir` is. Raises as `load`."""

  def say(words):
    console.print(words, highlight=False, markup=False, soft_wrap=True)

  runs = load(workdir)
  by_state = {state: [run for run in runs if run.state == state] for state in STATES}
  counts = ', '.join(f'{len(by_state[state])} {state}' for state in STATES)
  say(f'{workdir}: {len(runs)} runs: {counts}')
  console.print(_table(runs))
  for run in by_state['running'][:SHOWN]:
    say(f'running: {runlog.label(run.overrides)}: epoch {run.epoch}/{run.epochs}')
  _more(by_state['running'], 'running', say)
  for run in by_state['failed'][:SHOWN]:
    say(f'failed: {run.id}: {run.error}')
  _more(by_state['failed'], 'failed: error.json in their folders says why', say)
  own = sum(not run.again for run in by_state['failed'])
  if own:
    say(f'{own} failed for a reason of their own: --retry_failed does them again')
  if len(by_state['done']) < len(runs):
    _say_left(workdir, runs, len(by_state['running']), say)


def _recorded(workdir):
  return runlog.read_json(pathlib.Path(workdir) / 'sweep.json') or {}


def _say_left(workdir, runs, running, say):
  left = seconds_left(runs)
  clock = 'not known before an epoch is over' if left is None else f'about {runlog.clock(left)}'
  if runlog.is_locked(workdir):
    say(f'left: {clock}, {running} at a time')
    return
  say(f'left: {clock}, one at a time; no launch is at work')
  if command := _recorded(workdir).get('command'):
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
  table = rich.table.Table()
  table.add_column('')
  for state in STATES:
    table.add_column(state, justify='right')
  for name, counts in list(lines.items())[:SHOWN]:
    table.add_row(rich.markup.escape(name), *(str(counts[state] or '') for state in STATES))
  return table


def _read(folder, overrides):
  result = runlog.read_json(folder / 'result.json')
  config = runlog.read_json(folder / 'config.json') or {}
  rows = runlog.read_rows(folder / 'metrics.jsonl')
  epochs = config.get('train', {}).get('epochs', len(rows))
  error = failure(folder)
  if _is_whole(result, rows, epochs):
    state = 'done'
  elif runlog.is_locked(folder):
    state = 'running'
  else:
    state = 'failed' if error else 'waiting'
  if overrides is None:
    given = {'model.cell': config.get('model', {}).get('cell', '?'), 'seed': config.get('seed')}
    overrides = (result or {}).get('overrides', given)
  seconds = [row['seconds'] for row in rows if 'seconds' in row]
  pace = statistics.median(seconds) if seconds else None
  if state == 'done' and 'seconds' in result:
    pace = result['seconds'] / len(rows)
  run = Run(folder.name, overrides, state, len(rows), epochs, pace)
  return run._replace(error=error['error'], again=error['again']) if state == 'failed' else run


def _is_whole(result, rows, epochs):
  if result is None or 'final' not in result:
    return False
  return [row.get('epoch') for row in rows] == list(range(1, result.get('epochs', epochs) + 1))
