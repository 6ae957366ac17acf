"""What people see while runs progress: consoles, a progress display, names of runs, times."""

import collections
import os
import sys
import time
from typing import Any

import rich.console
import rich.progress
import rich.table
import rich.text

LOG_WIDTH = 100  # columns of an output that is not a terminal
EPOCHS = 50  # of a run whose figures are shown at most, and the last one besides


class Unheard(BrokenPipeError):
  """The reader of the output is gone, as `head` is after some lines."""


class Console(rich.console.Console):
  """A Rich console that raises Unheard where Rich itself would end the program."""

  def on_broken_pipe(self) -> None:
    raise Unheard('nothing reads the output any more')


def plain_console(**options: Any) -> Console:
  """A Console that shows text as it is, without Rich's markup, emoji or highlighting.

  options: those of rich.console.Console.
  """
  return Console(markup=False, emoji=False, highlight=False, **options)


def consoles(quiet: bool = False, json: bool = False) -> tuple[Console, Console]:
  """Two Consoles: one for messages and progress, one for what the user asked to see.

  quiet: whether messages are dropped. json: whether they go to standard error, because a program
  reads standard output; otherwise both go to standard output.
  """

  def console(stream, **options):
    columns = os.environ.get('COLUMNS', '')
    width = int(columns) if columns.isdigit() else None if stream.isatty() else LOG_WIDTH
    # In a dumb terminal Rich ignores a width that comes without a height.
    height = 25 if width else None
    return plain_console(file=stream, width=width, height=height, **options)

  return console(sys.stderr if json else sys.stdout, quiet=quiet), console(sys.stdout)


def watch(runs: list, progress: bool | None = None) -> 'Display':
  """A Display of `runs` for a caller in Python. progress: as in `console_of`."""
  return Display(runs, console_of(progress))


def console_of(progress: bool | None = None) -> rich.console.Console:
  """The console where a caller in Python sees progress: standard error or the notebook.

  progress: whether anything is shown; None: only in a notebook or a terminal.
  """
  console = plain_console(stderr=True)
  if progress is None:
    progress = console.is_jupyter or _is_live(console)
  return console if progress else Console(quiet=True)


class Display:
  """One display of progress for a list of runs: a live bar in a terminal or notebook, else lines.

  It is a context manager, in which `update` takes the Events of an executor.
  runs: RunSpecs. console: where to draw. every: seconds between the lines of a log, which also gets
  a line at the end of each epoch; of a run of more than EPOCHS epochs, only for so many of them.
  """

  def __init__(self, runs: list, console: rich.console.Console, every: float = 10.0):
    self._labels = {run.id: label(run.overrides) for run in runs}
    self._goals = {
      run.id: run.until / run.config.train.epochs if run.until else 1.0 for run in runs
    }
    self._fractions = dict.fromkeys(self._labels, 0.0)
    self._shown = dict.fromkeys(self._labels, -1.0)  # the fraction at the epoch shown last
    self._console = console
    self._every = every
    self._start = self._said = time.monotonic()
    self._first: float | None = None  # the time of the first Event
    self._begun = {}  # the fraction of each run that was done at its first Event
    self._bar: rich.progress.Progress | None = None
    self._cell: Any = None  # of a notebook
    self._in_notebook = console.is_jupyter and not console.quiet
    self._texts = collections.deque(maxlen=10)  # what a notebook shows above the bar
    if self._in_notebook or _is_live(console):
      self._bar = rich.progress.Progress(
        rich.progress.TextColumn('{task.description}', markup=False),
        rich.progress.BarColumn(),
        rich.progress.TextColumn('{task.percentage:>4.0f}% {task.fields[left]}'),
        console=console,
      )
      name = f'all {len(runs)} runs' if len(runs) > 1 else ''.join(self._labels.values())
      self._overall = self._bar.add_task(name, total=1.0, left='')
      self._tasks = {}

  def __enter__(self):
    if self._in_notebook:
      from IPython.display import display

      # Rich's own display needs ipywidgets, and is lost when a notebook is saved.
      self._cell = display(self._picture(), display_id=True)
    elif self._bar:
      self._bar.start()
    return self

  def __exit__(self, *_):
    if self._in_notebook:
      self._cell.update(self._picture())
    elif self._bar:
      self._bar.stop()

  def update(self, event: Any) -> None:
    """Shows an Event."""
    now = time.monotonic()
    self._first = self._first or now
    event = event._replace(fraction=min(event.fraction / self._goals[event.run], 1.0))
    self._begun.setdefault(event.run, event.fraction)
    if event.kind == 'progress' and event.text.startswith('epoch '):
      if self._shown[event.run] + 1 / EPOCHS < event.fraction + 1e-9 or event.fraction == 1:
        self._shown[event.run] = event.fraction
      else:
        event = event._replace(text='')
    self._fractions[event.run] = event.fraction
    done = sum(self._fractions.values()) / len(self._fractions)
    text = f'{self._labels[event.run]}: {event.text or f"{event.fraction:.0%}"}'
    if event.kind == 'failed':
      text = f'{self._labels[event.run]}: failed: {event.text}'
    if self._bar:
      self._bar.update(self._overall, completed=done, left=self._left(now, done))
      if len(self._labels) > 1:
        self._live(event)
    if self._in_notebook:
      self._texts += [text] * bool(event.text)
      if event.text or now - self._said > 0.1:
        self._said = now
        self._cell.update(self._picture())
    elif self._bar:
      if event.text:
        self._console.print(text, highlight=False, markup=False)
    elif event.text or now - self._said > self._every:
      self._said = now
      head = f'[{clock(now - self._start)}] {done:4.0%} {self._left(now, done)}'.rstrip()
      self._console.print(f'{head} | {text}', highlight=False, markup=False, soft_wrap=True)

  def _picture(self):
    picture = rich.table.Table.grid()
    for text in self._texts:
      picture.add_row(rich.text.Text(text))
    picture.add_row(self._bar)
    return picture

  def _left(self, now, done):
    """The time left at the pace since the first Event, which excludes the time to compile."""
    done_here = done - sum(self._begun.values()) / len(self._fractions)
    if done_here < 0.005 or done >= 1:
      return ''
    return f'{clock((now - self._first) * (1 - done) / done_here)} left'

  def _live(self, event):
    if event.kind == 'progress':
      if event.run not in self._tasks:
        name = f'  {self._labels[event.run]}'
        self._tasks[event.run] = self._bar.add_task(name, total=1.0, left='')
      self._bar.update(self._tasks[event.run], completed=event.fraction)
    elif event.run in self._tasks:
      self._bar.remove_task(self._tasks.pop(event.run))


def _is_live(console):
  """Whether lines can be redrawn; not in a log, even if FORCE_COLOR makes Rich think so."""
  return console.is_interactive and console.file.isatty() and not console.quiet


def label(overrides: dict) -> str:
  """A run's overrides for people: `gru seed=1`."""
  return ' '.join(
    str(value) if name == 'model.cell' else f'{name.split(".")[-1]}={value}'
    for name, value in overrides.items()
  )


def clock(seconds: float) -> str:
  """Seconds as m:ss, or h:mm:ss."""
  minutes, seconds = divmod(int(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02}:{seconds:02}' if hours else f'{minutes}:{seconds:02}'
