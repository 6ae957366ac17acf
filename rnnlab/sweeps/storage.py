"""Runs' folders on the move, whole or not at all for a reader; and a workdir that is a URL.

A remote workdir (`s3://bucket/imdb`, `gs://...`: all that fsspec knows) is worked on in a local
mirror: `pull` makes the mirror as the remote is, `push` sends a part of it. In a remote folder
`.files` lists, with digests, the files that belong to it: it is written last, so that a reader who
goes by it finds no half of a checkpoint.
"""

import contextlib
import hashlib
import json
import pathlib
import posixpath
import shutil
import urllib.parse
from collections.abc import Collection, Iterator

import fsspec
from absl import logging

from rnnlab.console.words import describe_error
from rnnlab.machine import cache, disk
from rnnlab.runs.folder import CHECKPOINTS, INDEX, PARAMS, RESULT, is_run

NAME_MAX = 255  # bytes of a folder's name, on most file systems
READABLE = 150  # of a name that would be longer


def read(folder, checkpoints: bool = True) -> dict[str, bytes]:
  """The files of `folder` by relative path, without locks and what is half written.

  Of one moment, though a run may be at work there.
  """
  folder = pathlib.Path(folder)
  while True:
    with contextlib.suppress(FileNotFoundError):
      names = _names(folder, checkpoints)
      files = {name: (folder / name).read_bytes() for name in names}
      if names == _names(folder, checkpoints):
        return files


def write(folder, files: dict[str, bytes]) -> None:
  """Writes `files` into `folder`, which at each moment is one that a run could have left.

  A checkpoint is replaced as a whole, so `files` has all of its files; result.json comes last.
  """
  folder = pathlib.Path(folder)
  for step in filter(None, set(map(_step, files))):
    temporary = folder / '.checkpoint'
    shutil.rmtree(temporary, ignore_errors=True)
    for name, content in files.items():
      if _step(name) == step:
        disk.write_atomic(temporary / name.removeprefix(step), content)
    shutil.rmtree(folder / step, ignore_errors=True)
    (folder / step).parent.mkdir(exist_ok=True)
    temporary.rename(folder / step)
  for name in sorted(files, key=lambda name: name == RESULT):
    if not _step(name):
      disk.write_atomic(folder / name, files[name])


def prune(folder, names: Collection[str]) -> None:
  """Removes from `folder` the files that `names` lacks, and the folders left empty."""
  folder = pathlib.Path(folder)
  for name in set(_names(folder)) - set(names):
    (folder / name).unlink()
    for parent in (folder / name).parents:
      if parent == folder or any(parent.iterdir()):
        break
      parent.rmdir()


def digests(files: dict[str, bytes]) -> dict[str, str]:
  """A digest of each file's content."""
  return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def changed(now: dict[str, str], before: dict[str, str]) -> list[str]:
  """The names, of digests `now`, that are not so in `before`; all of a checkpoint or none."""
  names = {name for name in now if before.get(name) != now[name]}
  steps = set(map(_step, names)) - {''}
  return [name for name in now if name in names or _step(name) in steps]


def _step(name):
  """'checkpoints/<step>/' where a file belongs to a checkpoint, and ''."""
  start, _, rest = name.partition('/')
  return f'{start}/{rest.partition("/")[0]}/' if start == CHECKPOINTS else ''


def _names(folder, checkpoints=True):
  found = []
  for path in folder.rglob('*'):
    parts = path.relative_to(folder).parts
    hidden = any(part.startswith('.') or '.orbax-checkpoint-tmp' in part for part in parts)
    if not hidden and (checkpoints or parts[0] != CHECKPOINTS) and path.is_file():
      found.append('/'.join(parts))
  return sorted(found)


# A workdir that is a URL.


def local(workdir: str) -> tuple[pathlib.Path, str]:
  """Where to work, and the URL that this mirrors: '' where `workdir` is a path or a file:// URL.

  A `~` at its start is the home folder. Raises ValueError for a URL that fsspec can't read here.
  """
  scheme, remote, path = workdir.partition('://')
  if not remote:
    return home(workdir), ''
  if scheme in ('file', 'local'):
    return pathlib.Path(path), ''
  try:
    fsspec.url_to_fs(workdir)
  except Exception as error:  # each protocol has its own kinds
    raise ValueError(f'--workdir={workdir}: {describe_error(error)}') from error
  url = workdir.rstrip('/')
  name = urllib.parse.quote(url, safe='')
  if len(name) > NAME_MAX:
    name = f'{name[:READABLE]}_{hashlib.sha256(url.encode()).hexdigest()}'
  return cache.root() / 'workdirs' / name, url


def home(path) -> pathlib.Path:
  """A path whose `~` is the home folder; as it is where there is none."""
  with contextlib.suppress(RuntimeError):
    return pathlib.Path(path).expanduser()
  return pathlib.Path(path)


def pull(url: str, workdir, params: bool = False) -> None:
  """Makes the mirror as the remote is.

  Finished runs come without the checkpoints it lacks, and unless `params` without their parameters.
  Raises OSError, for people, where the remote cannot be read.
  """
  with _in_words('read', url):
    _pull(url, pathlib.Path(workdir), params)


def _pull(url, workdir, params):
  fs, root = fsspec.url_to_fs(url)
  if not fs.exists(root):
    return
  if not fs.isdir(root):
    raise NotADirectoryError('there is a file, not a folder')
  for entry in fs.ls(root, detail=True):
    path = entry['name'].rstrip('/')
    if path == root.rstrip('/'):  # as some object stores list a folder
      continue
    name = posixpath.basename(path)
    target = workdir / name
    if not disk.is_inside(name):
      logging.warning('%s: %r is no name for a file here and is passed over', url, name)
      continue
    if entry['type'] == 'file':
      if target.is_dir():
        shutil.rmtree(target)
      disk.write_atomic(target, fs.cat_file(path))
      continue
    index = _index(fs, path)
    done = bool(index) and RESULT in index
    if not done and (index is None or index == (disk.read_json(target / INDEX) or {})):
      continue  # nobody has sent more since: what is here may be ahead, by a sending that failed
    wanted = {
      name: of
      for name, of in index.items()
      if not (done and (_step(name) or name == PARAMS and not params))
    }
    new = changed(wanted, digests(read(target, checkpoints=not done)))
    found = fs.cat([f'{path}/{name}' for name in new]) if new else {}
    write(target, {name: found[f'{path}/{name}'] for name in new})
    if not done:
      prune(target, wanted)
    disk.write_json(target / INDEX, index)


def push(workdir, url: str, name: str) -> None:
  """Sends what is new in the file or folder `name` of the mirror. Raises OSError, for people."""
  with _in_words('write', url):
    _push(workdir, url, name)


def _push(workdir, url, name):
  source = pathlib.Path(workdir) / name
  fs, root = fsspec.url_to_fs(url)
  target = f'{root}/{name}'
  if source.is_file():
    _put(fs, root, {name: source.read_bytes()})
    return
  files, before = read(source), _index(fs, target) or {}
  index = digests(files)
  new = changed(index, before)
  _put(fs, target, {name: files[name] for name in new if name != RESULT})
  _put(fs, target, {name: files[name] for name in new if name == RESULT})
  # Renamed, since not every file system writes a file whole or not at all.
  _put(fs, target, {f'{INDEX}.new': json.dumps(index).encode()})
  fs.mv(f'{target}/{INDEX}.new', f'{target}/{INDEX}')
  for gone in before.keys() - index.keys():
    with contextlib.suppress(FileNotFoundError):
      fs.rm_file(f'{target}/{gone}')
  disk.write_json(source / INDEX, index)


def push_report(workdir, url: str) -> None:
  """Sends the sweep, the tables, the report, the figures; and of runs what could not be sent."""
  for path in pathlib.Path(workdir).iterdir():
    sent = is_run(path) and _is_sent(path)
    if not path.name.startswith('.') and not sent:
      push(workdir, url, path.name)


def _is_sent(folder):
  sent = disk.read_json(folder / INDEX) or {}
  # Of a run that was done when both were alike a part may never have been fetched.
  return RESULT in sent or not changed(digests(read(folder)), sent)


def pushing(events: Iterator, workdir, url: str) -> Iterator:
  """The events as they come, those that tell of new files once these are sent."""
  behind = set()
  try:
    for event in events:
      behind.add(event.run)
      if event.text or event.kind != 'progress':
        push(workdir, url, event.run)
        behind.remove(event.run)
      yield event
  except KeyboardInterrupt:  # of the executor, after the runs at work have saved a checkpoint
    for run in behind:
      push(workdir, url, run)
    raise


@contextlib.contextmanager
def _in_words(what, url):
  """Says where it was that a remote failed, of which each protocol has its own kinds of error."""
  try:
    yield
  except Exception as error:
    raise OSError(f'cannot {what} {url}: {describe_error(error)}') from error


def _put(fs, folder, files):
  for parent in {posixpath.dirname(f'{folder}/{name}') for name in files}:
    fs.makedirs(parent, exist_ok=True)
  if files:
    fs.pipe({f'{folder}/{name}': content for name, content in files.items()})


def _index(fs, folder):
  """The digests of a remote folder's files; none where it was never sent, None: damaged."""
  try:
    index = json.loads(fs.cat_file(f'{folder}/{INDEX}'))
  except FileNotFoundError:
    return {}
  except (ValueError, RecursionError):
    index = None
  if not disk.fits(index, dict) or not all(
    disk.is_inside(name) and isinstance(digest, str) for name, digest in index.items()
  ):
    logging.warning('%s/%s is damaged: what is there is passed over', folder, INDEX)
    return None
  return index
