"""The one owner of a run's files: what they are called, how they are written, read and checked.

A workdir holds sweep.json, and a folder for each run, named by the run's id. A run first writes
config.json, then its checkpoints, and a row of metrics.jsonl for each epoch; when it ends it writes
its parameters, vocabulary, encoding and predictions, and result.json last. A run that fails leaves
error.json. Other modules import this one as `run_files`, since `folder` is what they call the path
of a run.
"""

import contextlib
import functools
import hashlib
import json
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any

from absl import logging

from rnnlab.machine import disk
from rnnlab.machine.disk import AnyPath

try:
  import fcntl
except ImportError:  # Windows
  fcntl = None  # type: ignore[assignment]

CONFIG = 'config.json'
METRICS = 'metrics.jsonl'
RESULT = 'result.json'
ERROR = 'error.json'
PARAMS = 'params.safetensors'  # of the best epoch by validation, else of the last
VOCABULARY = 'vocabulary.txt'  # one word per line, in the order of their ids
ENCODING = 'encoding.json'  # what else is needed to read examples and to interpret outputs
PREDICTIONS = 'predictions.npz'
FLOW = 'gradient_flow.jsonl'  # of runs whose config asks for it: see `rnnlab.runs.flow`
HARDEST = 'hardest.json'  # the test examples of the highest loss: see `rnnlab.runs.hardest`
CHECKPOINTS = 'checkpoints'  # a folder
SWEEP = 'sweep.json'  # in the workdir
INDEX = '.files'  # in a mirror of a remote workdir: digests of what the remote had when both agreed
READ = (
  CONFIG,
  METRICS,
  PARAMS,
  VOCABULARY,
  ENCODING,
  PREDICTIONS,
  HARDEST,
  FLOW,
)  # of which result.json holds digests
LOCK = '.lock'
QUICK = 2**20  # bytes: a quick check does not read larger files

# Forms, as `disk.fits` takes them, with the names that some code relies on.
RESULT_FORM = {'final': dict, 'overrides?': dict, 'epochs?': int, 'seconds?': disk.NUMBER}
ERROR_FORM = {'error?': str, 'again?': bool, 'traceback?': str}
SWEEP_FORM = {
  'experiment?': str,
  'preset?': str,
  'command?': str,
  'runs?': [{'id': str, 'overrides?': dict, 'stage?': str, 'left?': bool, 'epochs?': int}],
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


# A workdir.


def read_sweep(workdir: AnyPath) -> dict[str, Any]:
  """A workdir's sweep.json, with empty entries if the file is missing or damaged.

  A warning says if it is damaged.
  """
  found = disk.read_json(path := pathlib.Path(workdir) / SWEEP, SWEEP_FORM) or {}
  names = [run['id'] for run in found.get('runs', [])]
  if not is_sealed(found) or not all(disk.is_inside(name) and '/' not in name for name in names):
    logging.warning('%s is damaged and is treated as missing', path)
    found = {}
  empty = {'experiment': '', 'preset': '', 'command': '', 'runs': [], 'searches': []}
  return empty | {'claims_after': 0} | found


def write_sweep(workdir: AnyPath, content: dict[str, Any]) -> None:
  """Writes a workdir's sweep.json with a digest of its content."""
  disk.write_json(pathlib.Path(workdir) / SWEEP, seal(content))


def folders(workdir: AnyPath, having: str = CONFIG) -> list[pathlib.Path]:
  """The folders in a workdir that have a file of that name, sorted by name.

  CONFIG is in every run's folder, RESULT in those of runs that have ended, ERROR in those of runs
  that failed.
  """
  return sorted(path.parent for path in pathlib.Path(workdir).glob(f'*/{having}'))


# A run's folder.


def is_run(folder: AnyPath) -> bool:
  """Whether a run was begun in a folder: whether there is a config.json."""
  return (pathlib.Path(folder) / CONFIG).exists()


def has_ended(folder: AnyPath) -> bool:
  """Whether a run came to its end: whether there is a result.json, even a damaged one."""
  return (pathlib.Path(folder) / RESULT).exists()


def is_done(folder: AnyPath, epochs: int) -> bool:
  """Whether a run has ended and all of its files are intact, by their digests.

  epochs: how many rows metrics.jsonl must have if the result does not say.
  """
  result = read_result(folder, RESULT_FORM)
  return has_all_rows(result, read_metrics(folder), epochs) and not verify(folder)


def has_all_rows(result: dict | None, rows: list[dict], epochs: int) -> bool:
  """Whether `rows` are those of epochs 1, 2, ... up to the last epoch that `result` counts.

  result: what `read_result` gave; without one the answer is no. epochs: as for `is_done`.
  """
  if result is None:
    return False
  counted = all(row.get('epoch') == number for number, row in enumerate(rows, 1))
  return counted and len(rows) == result.get('epochs', epochs)


def failure(folder: AnyPath) -> dict[str, Any] | None:
  """A run's error.json, or None if the run left no error.

  Its entries are error: what went wrong, in words; again: whether a launch does the run again
  unasked; and traceback, which may be missing.
  """
  error = disk.read_json(pathlib.Path(folder) / ERROR, ERROR_FORM)
  return None if error is None else {'error': 'no words', 'again': True} | error


def write_failure(folder: AnyPath, error: str, again: bool, traceback: str) -> None:
  """Writes a run's error.json, with the entries that `failure` gives."""
  content = {'error': error, 'again': again, 'traceback': traceback}
  disk.write_json(pathlib.Path(folder) / ERROR, content)


def forget_failure(folder: AnyPath) -> None:
  """Removes a run's error.json if there is one."""
  (pathlib.Path(folder) / ERROR).unlink(missing_ok=True)


def read_config(folder: AnyPath, form: Any = None) -> dict[str, Any] | None:
  """A run's config.json; None if it is missing or does not have the form: see `disk.fits`."""
  return disk.read_json(pathlib.Path(folder) / CONFIG, form)


def write_config(folder: AnyPath, config: dict[str, Any]) -> None:
  """Writes a run's config.json."""
  disk.write_json(pathlib.Path(folder) / CONFIG, config)


def read_metrics(folder: AnyPath) -> list[dict[str, float]]:
  """The rows of a run's metrics.jsonl, one per epoch, without those that are damaged."""
  return disk.read_rows(pathlib.Path(folder) / METRICS)


def write_metrics(folder: AnyPath, rows: list[dict[str, float]]) -> None:
  """Writes a run's metrics.jsonl, one row per epoch."""
  disk.write_rows(pathlib.Path(folder) / METRICS, rows)


def read_flow(folder: AnyPath) -> list[dict[str, float]]:
  """The rows of a run's gradient_flow.jsonl, none if it has none: see `rnnlab.runs.flow`."""
  return disk.read_rows(pathlib.Path(folder) / FLOW)


def write_flow(folder: AnyPath, rows: list[dict[str, float]]) -> None:
  """Writes a run's gradient_flow.jsonl."""
  disk.write_rows(pathlib.Path(folder) / FLOW, rows)


def read_hardest(folder: AnyPath) -> list[dict[str, Any]]:
  """The entries of a run's hardest.json; none if it is missing or damaged."""
  form = {'row': int, 'loss': disk.NUMBER, 'shown': (str, list), 'true': str, 'predicted': str}
  return (disk.read_json(pathlib.Path(folder) / HARDEST, {'examples': [form]}) or {}).get(
    'examples', []
  )


def write_hardest(folder: AnyPath, examples: list[dict[str, Any]]) -> None:
  """Writes a run's hardest.json: see `rnnlab.runs.hardest`."""
  disk.write_json(pathlib.Path(folder) / HARDEST, {'examples': examples})


def write_encoding(folder: AnyPath, encoding: dict[str, Any]) -> None:
  """Writes a run's encoding.json: see `rnnlab.data.base.Dataset`."""
  disk.write_json(pathlib.Path(folder) / ENCODING, encoding)


def read_result(folder: AnyPath, form: Any = None) -> dict[str, Any] | None:
  """A run's result.json; None if it is missing or does not have the form: see `disk.fits`."""
  return disk.read_json(pathlib.Path(folder) / RESULT, form)


def write_result(folder: AnyPath, result: dict[str, Any]) -> None:
  """Writes a run's result.json, which marks the run as ended, so everything else is written before.

  It holds digests of the present files in `READ`, and one of the result itself; see `verify`.
  """
  folder = pathlib.Path(folder)
  disk.write_json(folder / RESULT, seal(result | {'digests': digests(folder)}))


# Whether files are unchanged since they were written.


def canonical(config: dict) -> str:
  """A config as a text that is the same for equal configs: runs of equal configs are one run."""

  def plain(value):
    if isinstance(value, dict):
      return {name: plain(of) for name, of in value.items()}
    if isinstance(value, (list, tuple)):
      return [plain(of) for of in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value

  return json.dumps(plain(config), sort_keys=True, default=disk.plain)


def seal(value: dict) -> dict:
  """`value` with a digest of itself as one more entry, by which `is_sealed` notices any change."""
  value = json.loads(json.dumps(value, default=disk.plain))
  return value | {'digest': hashlib.sha256(canonical(value).encode()).hexdigest()}


def is_sealed(value: dict) -> bool:
  """Whether a dict is as `seal` made it; also True without a digest, as in older versions."""
  rest = {name: of for name, of in value.items() if name != 'digest'}
  return len(rest) == len(value) or seal(rest)['digest'] == value['digest']


def digests(folder: AnyPath) -> dict[str, str]:
  """{name: its SHA-256, in hexadecimal} of those files in `READ` that are in a run's folder."""
  folder = pathlib.Path(folder)
  return {name: _digest(folder / name) for name in READ if (folder / name).exists()}


def verify(folder: AnyPath, quick: bool = False) -> list[str]:
  """The names of a run's files that are damaged or missing; none if the run has not ended.

  quick: whether files above 1 MiB need only exist. Results of older versions have no digests, so
  none of their files counts as damaged.
  """
  folder = pathlib.Path(folder)
  try:
    result = disk.parse(folder / RESULT)
  except (FileNotFoundError, NotADirectoryError):
    return []
  except (ValueError, OSError):
    return [RESULT]
  # A result has both digests or none: if there is only one, the name of the other was damaged.
  paired = disk.fits(result, dict) and ('digests' in result) == ('digest' in result)
  if not paired or not disk.fits(result, {'final': dict}) or not is_sealed(result):
    return [RESULT]
  elsewhere = {}
  if (folder / INDEX).exists():
    elsewhere = disk.read_json(folder / INDEX) or {}
  return [
    name
    for name, digest in result.get('digests', {}).items()
    if not _is_whole(folder / name, digest, quick, elsewhere.get(name))
  ]


def _is_whole(path, digest, quick, elsewhere):
  """Whether the file has this digest, here or, if it was not fetched, in the remote workdir."""
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


# One process at a time. The package filelock will not do: `holder` must neither create a file nor
# keep out a launch or another reader, which takes a shared lock on the file itself, and it must
# learn the holder's number. Filelock's native locks are exclusive and do not name their holder.


class Busy(Exception):
  """A folder is locked by another process."""


@contextlib.contextmanager
def lock(folder: AnyPath, busy: str, wait: float = 5.0) -> Iterator[None]:
  """Holds a run's folder, or a workdir, for this process; the system drops the lock if it dies.

  busy: the message if another process holds it. wait: seconds to wait for that process first, as
  long as an orphaned worker may take to notice that its parent has died. Raises Busy. The process's
  number is written into the file, for `holder`.
  """
  path = pathlib.Path(folder) / LOCK
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


def holder(folder: AnyPath) -> str | None:
  """The number of the process that holds `folder` by `lock`; None if none does."""
  try:
    f = open(pathlib.Path(folder) / LOCK)
  except OSError:
    return None
  with f:
    try:
      if fcntl:
        # Shared, so that readers do not see each other; and so short that `lock` waits for it.
        fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
      return f.read()
  return None
