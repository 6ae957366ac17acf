"""What a run leaves on disk, and what it shows while it runs."""

import collections
import contextlib
import errno
import functools
import hashlib
import json
import logging as stdlib_logging
import os
import pathlib
import shutil
import sys
import tempfile
import time

import rich.console
import rich.progress
import rich.table
import rich.text
from absl import logging

try:
  import fcntl
except ImportError:  # Windows
  fcntl = None

FULL = errno.ENOSPC, errno.EDQUOT  # bytes, files or a quota are used up
LOG_WIDTH = 100  # columns of what is no terminal
PARAMS = 'params.safetensors'  # of a finished run: the best by validation, else the last
VOCABULARY = 'vocabulary.txt'  # its words, one a line, in id order
PREDICTIONS = 'predictions.npz'
READ = ('config.json', 'metrics.jsonl', PARAMS, VOCABULARY, PREDICTIONS)  # what others read of it
QUICK = 2**20  # bytes of a file that a quick check reads
NUMBER = (int, float)
INDEX = '.files'  # in a mirror: digests of what the remote had of a folder when both were alike
SWEEP = {  # of sweep.json, as far as somebody relies on it
  'experiment?': str,
  'preset?': str,
  'command?': str,
  'runs?': [{'id': str, 'overrides?': dict, 'stage?': str, 'left?': bool}],
  'searches?': [
    {
      'arms': [{'overrides': dict, 'trials': [{'id': str}], 'best': str, 'runs': [str]}],
      'method': str,
      'ranges': dict,
    }
  ],
  'claims?': [dict],
  'claims_after?': int,
}


def write_atomic(path, content: str | bytes) -> None:
  """Writes a file so that a reader, or a crash, sees all of the old content or all of the new."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  # A path in it may be no UTF-8.
  content = content.encode(errors='backslashreplace') if isinstance(content, str) else content
  descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.')
  try:
    with os.fdopen(descriptor, 'wb') as f:
      f.write(content)
      f.flush()
      os.fsync(f.fileno())
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)
  except BaseException:
    pathlib.Path(temporary).unlink(missing_ok=True)
    raise


def write_json(path, value) -> None:
  """Writes `value` as indented JSON, atomically; ValueError where JSON has no such thing."""
  write_atomic(path, json.dumps(value, indent=2, default=_plain) + '\n')


def _plain(value):
  """What JSON has, of a NumPy number or array."""
  if hasattr(value, 'tolist'):
    return value.tolist()
  kind = type(value).__name__
  raise ValueError(f'{str(value)[:100]!r} cannot be written down: JSON has no {kind}')


def read_json(path, form=None) -> dict | None:
  """The JSON object in a file; None where it is missing, or damaged, which is said.

  What cannot be read, and what has another form than `form`, is damaged too; see `fits`.
  """
  try:
    value = _parsed(path)
    if fits(value, form or dict):
      return value
    reason = 'damaged'
  except (FileNotFoundError, NotADirectoryError):
    return None
  except OSError as error:
    reason = f'unreadable ({error.strerror})'
  except ValueError:
    reason = 'damaged'
  logging.warning('%s is %s and is taken as missing', path, reason)
  return None


def _parsed(path):
  """The JSON value in a file; ValueError where there is none."""
  try:
    return json.loads(pathlib.Path(path).read_bytes())
  except RecursionError:
    raise ValueError('its brackets are too deep') from None


def fits(value, form) -> bool:
  """Whether a JSON value has a form: a type, or several; [form of each item]; or {name: form}.

  A dict may have other names too, and those written as 'name?' it need not have. A whole number
  that 64 bits do not hold is of no type.
  """
  if isinstance(form, list):
    return isinstance(value, list) and all(fits(item, form[0]) for item in value)
  if isinstance(form, dict):
    return isinstance(value, dict) and all(
      fits(value[name.rstrip('?')], of) if name.rstrip('?') in value else name.endswith('?')
      for name, of in form.items()
    )
  if isinstance(value, bool):
    return form is bool
  return isinstance(value, form) and not (isinstance(value, int) and abs(value) >= 2**63)


def read_sweep(workdir) -> dict:
  """A workdir's sweep.json, with empty entries where it is missing, or damaged, which is said."""
  found = read_json(path := pathlib.Path(workdir) / 'sweep.json', SWEEP) or {}
  names = [run['id'] for run in found.get('runs', [])]
  if not is_sealed(found) or not all(is_inside(name) and '/' not in name for name in names):
    logging.warning('%s is damaged and is taken as missing', path)
    found = {}
  empty = {'experiment': '', 'preset': '', 'command': '', 'runs': [], 'searches': []}
  return empty | {'claims_after': 0} | found


def is_inside(name: str) -> bool:
  """Whether a path names something inside a folder, on every system, and nothing hidden."""
  return not {'\\', '\0'} & {*name} and all(
    part and not part.startswith('.') for part in name.split('/')
  )


def write_rows(path, rows: list[dict]) -> None:
  """Writes `rows` as JSON lines, atomically."""
  write_atomic(path, ''.join(json.dumps(row, default=_plain) + '\n' for row in rows))


def read_rows(path) -> list[dict]:
  """The rows, all of numbers, of a file of JSON lines; damaged lines are left out, and said."""
  rows = []
  try:
    lines = pathlib.Path(path).read_bytes().splitlines()
  except (FileNotFoundError, NotADirectoryError):
    return rows
  except OSError as error:
    logging.warning('%s is unreadable (%s) and is taken as missing', path, error.strerror)
    return rows
  for number, line in enumerate(lines, 1):
    try:
      row = json.loads(line)
      if not fits(row, dict) or not all(fits(value, NUMBER) for value in row.values()):
        raise ValueError
      rows.append(row)
    except (ValueError, RecursionError):
      logging.warning('%s: line %d is damaged and is left out', path, number)
  return rows


def canonical(config: dict) -> str:
  """A config as text that is the same for equal ones: runs of equal configs are one run."""

  def plain(value):
    if isinstance(value, dict):
      return {name: plain(of) for name, of in value.items()}
    if isinstance(value, (list, tuple)):
      return [plain(of) for of in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value

  return json.dumps(plain(config), sort_keys=True, default=_plain)


def seal(value: dict) -> dict:
  """`value` with a digest of all the rest, which is written with it at once; see `is_sealed`."""
  value = json.loads(json.dumps(value, default=_plain))
  return value | {'digest': hashlib.sha256(canonical(value).encode()).hexdigest()}


def is_sealed(value: dict) -> bool:
  """Whether a dict is as it was when `seal` made it; yes of one of before there were digests."""
  rest = {name: of for name, of in value.items() if name != 'digest'}
  return len(rest) == len(value) or seal(rest)['digest'] == value['digest']


def digests(folder) -> dict[str, str]:
  """The SHA-256 of each file of a run that others read: what `verify` needs in result.json."""
  folder = pathlib.Path(folder)
  return {name: _digest(folder / name) for name in READ if (folder / name).exists()}


def verify(folder, quick: bool = False) -> list[str]:
  """The names of a finished run's files that are damaged or missing; none where it has not ended.

  quick: of files above 1 MiB only whether they are there. Results of older versions have no
  digests, and of their files none is held to be damaged.
  """
  folder = pathlib.Path(folder)
  try:
    result = _parsed(folder / 'result.json')
  except (FileNotFoundError, NotADirectoryError):
    return []
  except (ValueError, OSError):
    return ['result.json']
  # Where one of the two digests is missing, its name is what was damaged.
  both = fits(result, dict) and ('digests' in result) == ('digest' in result)
  if not both or not fits(result, {'final': dict}) or not is_sealed(result):
    return ['result.json']
  elsewhere = {}
  if (folder / INDEX).exists():
    elsewhere = read_json(folder / INDEX) or {}
  return [
    name
    for name, digest in result.get('digests', {}).items()
    if not _is_whole(folder / name, digest, quick, elsewhere.get(name))
  ]


def _is_whole(path, digest, quick, elsewhere):
  try:
    found = os.stat(path)
    if quick and found.st_size > QUICK:
      return True
    return digest == _digest_of(str(path), found.st_ino, found.st_size, found.st_mtime_ns)
  except FileNotFoundError:
    return digest == elsewhere
  except OSError:
    return False


@functools.lru_cache(maxsize=2**16)  # a launch asks again at each stage of a search
def _digest_of(path, *_):
  return _digest(path)


def _digest(path):
  with open(path, 'rb') as f:
    return hashlib.file_digest(f, 'sha256').hexdigest()


class TensorBoard:
  """A run's TensorBoard events, written without TensorFlow; its config fills the HParams tab.

  Made anew from all rows so far, so that a resumed run shows each epoch once.
  """

  def __init__(self, folder, config: dict, rows: list[dict]):
    from tensorboardX import SummaryWriter
    from tensorboardX.summary import hparams

    for old in pathlib.Path(folder).glob('events.out.tfevents.*'):
      old.unlink()
    self._writer = SummaryWriter(str(folder), flush_secs=1)
    # Of the plugin's three records the one that a run needs: it finds the metrics by itself.
    _, session_start, _ = hparams(dict(flat(config)), {})
    self._writer.file_writer.add_summary(session_start)
    for row in rows:
      self.write(row)

  def write(self, row: dict) -> None:
    """Adds an epoch's row as scalars at its step, named split/metric."""
    for name, value in _scalars(row).items():
      self._writer.add_scalar(name, value, row['step'])
    self._writer.flush()

  def close(self) -> None:
    """Closes the events file."""
    self._writer.close()


class WandB:
  """A run for Weights & Biases, under its own id; wandb has to be installed.

  WANDB_MODE=offline keeps it in `folder`/wandb, from where `wandb sync` sends it; W&B's other
  environment variables hold too. A resumed run shows each epoch once: offline it is made anew from
  all rows so far, online only the rows that W&B lacks are sent.
  """

  def __init__(self, folder, config: dict, rows: list[dict]):
    import wandb

    folder = pathlib.Path(folder)
    for old in folder.glob('wandb/offline-run-*'):
      shutil.rmtree(old)
    self._run = wandb.init(
      project=os.environ.get('WANDB_PROJECT', 'rnnlab'),
      group=folder.resolve().parent.name,
      id=folder.name,
      name=folder.name,
      dir=folder,
      config=config,
      resume='allow',
      reinit='create_new',  # a population's runs are open side by side
      settings=wandb.Settings(silent=True, console='off'),
    )
    for row in rows:
      self.write(row)

  def write(self, row: dict) -> None:
    """Adds an epoch's row at its step, with metrics named split/metric."""
    if row['step'] >= self._run.step:
      self._run.log(_scalars(row), step=row['step'])

  def close(self) -> None:
    """Ends the run's part that this process does."""
    self._run.finish()


def _scalars(row):
  return {
    name.replace('_', '/', 1): value for name, value in row.items() if name not in ('step', 'epoch')
  }


def flat(config: dict, prefix: str = ''):
  """A nested config's fields under dotted names, as pairs; what is no scalar as text."""
  for name, value in config.items():
    if isinstance(value, dict):
      yield from flat(value, f'{prefix}{name}.')
    else:
      yield f'{prefix}{name}', value if isinstance(value, (bool, int, float)) else str(value)


def plain_warnings() -> None:
  """Makes absl's log, Orbax's included, show warnings only, each as a plain line."""
  logging.set_verbosity(logging.WARNING)
  logging.get_absl_handler().setFormatter(stdlib_logging.Formatter('warning: %(message)s'))


def say(error: BaseException) -> str:
  """An error in a line or two for people: its own words where they were written for them."""
  text = str(error).strip() or 'no message'
  if getattr(error, 'errno', None) in FULL or 'No space left' in text or 'Disk quota' in text:
    return 'the disk is full: free some space, or files, and give the same command again'
  if isinstance(error, (ValueError, OSError)) or type(error).__module__.startswith('rnnlab'):
    return text[:500]
  return f'{type(error).__name__}: {text.splitlines()[0][:300]}'


class Unheard(BrokenPipeError):
  """Nobody reads any more what is said, as after `| head`."""


class Console(rich.console.Console):
  """A console that raises Unheard, where Rich would end the program."""

  def on_broken_pipe(self):
    raise Unheard('nobody reads the output any more')


class Busy(Exception):
  """A folder is locked by another process."""


@contextlib.contextmanager
def lock(folder, busy: str, wait: float = 5.0):
  """Holds `folder` for this process alone; the lock goes with the process, however it ends.

  Waits up to `wait` seconds, as long as an orphaned worker may take to notice its parent's death.
  Raises Busy, saying `busy` and where. The process's number is in the file, for `holder`.
  """
  path = pathlib.Path(folder) / '.lock'
  with open(path, 'a') as f:
    deadline = time.monotonic() + wait
    while fcntl:
      try:
        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        break
      except BlockingIOError:
        if time.monotonic() > deadline:
          raise Busy(f'{busy} ({folder})') from None
        time.sleep(0.05)
    f.truncate(0)
    f.write(f'{os.getpid()}')
    f.flush()
    yield


def holder(folder) -> str | None:
  """The number of the process that holds `folder` by `lock`; None where none does."""
  try:
    f = open(pathlib.Path(folder) / '.lock')
  except OSError:
    return None
  with f:
    try:
      if fcntl:
        fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)  # for a moment, which `lock` waits
    except BlockingIOError:
      return f.read()
  return None


def plain_console(**options) -> rich.console.Console:
  """A Console that shows text as it is: in a path or a label nothing is markup, nor an emoji."""
  return Console(markup=False, emoji=False, highlight=False, **options)


def consoles(quiet: bool = False, json: bool = False) -> tuple:
  """Two rich Consoles: one for messages and progress, one for what the user asked to see.

  Both write to standard output; with `json`, which leaves that to a program, messages go to
  standard error, and with `quiet` nowhere.
  """

  def console(stream, **options):
    columns = os.environ.get('COLUMNS', '')
    width = int(columns) if columns.isdigit() else None if stream.isatty() else LOG_WIDTH
    # Of a terminal that is dumb Rich takes a width only with a height.
    height = 25 if width else None
    return plain_console(file=stream, width=width, height=height, **options)

  return console(sys.stderr if json else sys.stdout, quiet=quiet), console(sys.stdout)


def watch(runs: list, progress: bool | None = None) -> 'Display':
  """A Display of `runs` for who calls from Python, on standard error or in the notebook.

  progress: whether there is one; None: in a notebook and in a terminal.
  """
  console = plain_console(stderr=True)
  if progress is None:
    progress = console.is_jupyter or _is_live(console)
  return Display(runs, console if progress else rich.console.Console(quiet=True))


class Display:
  """One progress display for a list of runs: a live bar in a terminal or notebook, lines in a log.

  `update(event)` takes the executors' Events. A log gets a line at each epoch's end, and else one
  every `every` seconds.
  """

  def __init__(self, runs: list, console: rich.console.Console, every: float = 10.0):
    self._labels = {run.id: label(run.overrides) for run in runs}
    self._goals = {
      run.id: run.until / run.config.train.epochs if run.until else 1.0 for run in runs
    }
    self._fractions = dict.fromkeys(self._labels, 0.0)
    self._console = console
    self._every = every
    self._start = self._said = time.monotonic()
    self._first = None  # when the first Event came
    self._begun = {}  # how much of a run was done at its first Event
    self._bar = self._cell = None
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

      # Not by Rich's own way, which takes ipywidgets: this stays in a notebook that is saved.
      self._cell = display(self._picture(), display_id=True)
    elif self._bar:
      self._bar.start()
    return self

  def __exit__(self, *_):
    if self._in_notebook:
      self._cell.update(self._picture())
    elif self._bar:
      self._bar.stop()

  def update(self, event) -> None:
    """Shows an Event."""
    now = time.monotonic()
    self._first = self._first or now
    event = event._replace(fraction=min(event.fraction / self._goals[event.run], 1.0))
    self._begun.setdefault(event.run, event.fraction)
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
    """The time left, by the pace since the first steps, before which programs are compiled."""
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
  """Whether lines can be drawn again; a log cannot, though it asks for colours (FORCE_COLOR)."""
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
