"""Copies of runs' folders that readers always find consistent, and workdirs that are URLs.

A remote workdir (`s3://bucket/runs`, `gs://...`: whatever fsspec knows) is worked on in a local
mirror: `pull` brings the mirror up to date, and `push` sends a part of it back. In each remote
folder the file `.files` lists the files that belong to it, with their digests. It is written last,
so whoever reads only the files that it lists never finds half a checkpoint.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import posixpath
import shutil
import urllib.parse
from collections.abc import Collection, Iterator

import fsspec
from absl import logging

from rnnlab.console.words import describe_error
from rnnlab.machine import cache, disk
from rnnlab.machine.disk import AnyPath
from rnnlab.runs.folder import CHECKPOINTS, INDEX, PARAMS, RESULT, holder, is_run

NAME_MAX = 255  # bytes of a folder's name, on most file systems
READABLE = 150  # characters kept of a name that would be longer


def read(folder: AnyPath, checkpoints: bool = True) -> dict[str, bytes]:
  """{relative path: content} of the files in a folder, without locks and half-written files.

  They belong to one moment, even while a run is writing there. checkpoints: whether to include
  the run's checkpoints.
  """
  folder = pathlib.Path(folder)
  while True:
    with contextlib.suppress(FileNotFoundError):
      names = _names(folder, checkpoints)
      files = {name: (folder / name).read_bytes() for name in names}
      if names == _names(folder, checkpoints):
        return files


def write(folder: AnyPath, files: dict[str, bytes]) -> None:
  """Writes {relative path: content} into a folder, which stays in a valid state at every moment.

  A checkpoint is replaced as a whole, so `files` must hold all of its files. The result, which
  marks the run as ended, is written last.
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


def prune(folder: AnyPath, names: Collection[str]) -> None:
  """Removes the files of a folder that are not among `names`, and the folders left empty."""
  folder = pathlib.Path(folder)
  for name in set(_names(folder)) - set(names):
    (folder / name).unlink()
    for parent in (folder / name).parents:
      if parent == folder or any(parent.iterdir()):
        break
      parent.rmdir()


def digests(files: dict[str, bytes]) -> dict[str, str]:
  """{relative path: SHA-256 of the content} of the files that `read` gives."""
  return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def changed(now: dict[str, str], before: dict[str, str]) -> list[str]:
  """The names in `now` that are new or whose digest differs from that in `before`.

  If one file of a checkpoint has changed, all files of the checkpoint are included.
  """
  names = {name for name in now if before.get(name) != now[name]}
  steps = set(map(_step, names)) - {''}
  return [name for name in now if name in names or _step(name) in steps]


def _step(name):
  """'checkpoints/<step>/' for the name of a file of a checkpoint, and '' for any other."""
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
  """The folder to work in, and the URL that it mirrors: '' for a path or a file:// URL.

  A `~` at the start of a path is the home folder. Raises ValueError for a URL that fsspec cannot
  read here.
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


def home(path: AnyPath) -> pathlib.Path:
  """A path with `~` replaced by the home folder; unchanged for a user without one."""
  with contextlib.suppress(RuntimeError):
    return pathlib.Path(path).expanduser()
  return pathlib.Path(path)


def pull(url: str, workdir: AnyPath, params: bool = False) -> None:
  """Brings the mirror in `workdir` up to date with the remote workdir at `url`.

  params: whether to fetch the parameters of finished runs too. Their checkpoints are never fetched.
  Does nothing while another process is at work in the mirror, which then is newer.
  Raises OSError, in words for people, if the remote cannot be read.
  """
  if holder(workdir) not in (None, str(os.getpid())):
    return
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
    if path == root.rstrip('/'):  # some object stores list a folder in itself
      continue
    name = posixpath.basename(path)
    target = workdir / name
    if not disk.is_inside(name):
      logging.warning('%s: %r cannot be the name of a file here and is skipped', url, name)
      continue
    if entry['type'] == 'file':
      if target.is_dir():
        shutil.rmtree(target)
      disk.write_atomic(target, fs.cat_file(path))
      continue
    index = _index(fs, path)
    done = bool(index) and RESULT in index
    if not done and (index is None or index == (disk.read_json(target / INDEX) or {})):
      continue  # nothing new was sent; the local files may be newer, if sending them failed
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


def push(workdir: AnyPath, url: str, name: str) -> None:
  """Sends what is new in the file or folder `name` of a mirror to the remote workdir at `url`.

  workdir: the mirror. Raises OSError, in words for people, if the remote cannot be written to.
  """
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
  # Renamed into place, since not every remote file system writes a file atomically.
  _put(fs, target, {f'{INDEX}.new': json.dumps(index).encode()})
  fs.mv(f'{target}/{INDEX}.new', f'{target}/{INDEX}')
  for gone in before.keys() - index.keys():
    with contextlib.suppress(FileNotFoundError):
      fs.rm_file(f'{target}/{gone}')
  disk.write_json(source / INDEX, index)


def push_report(workdir: AnyPath, url: str) -> None:
  """Sends the sweep's record, tables, report and figures, and what runs could not send before."""
  for path in pathlib.Path(workdir).iterdir():
    sent = is_run(path) and _is_sent(path)
    if not path.name.startswith('.') and not sent:
      push(workdir, url, path.name)


def _is_sent(folder):
  sent = disk.read_json(folder / INDEX) or {}
  # A run that had ended when it was last in step may have files that were never fetched.
  return RESULT in sent or not changed(digests(read(folder)), sent)


def pushing(events: Iterator, workdir: AnyPath, url: str) -> Iterator:
  """Passes on `events`; one that announces new files of a run only after they have been sent."""
  behind = set()
  try:
    for event in events:
      behind.add(event.run)
      if event.text or event.kind != 'progress':
        push(workdir, url, event.run)
        behind.remove(event.run)
      yield event
  except KeyboardInterrupt:  # from the executor, once the runs in progress have saved
    for run in behind:
      push(workdir, url, run)
    raise


@contextlib.contextmanager
def _in_words(what, url):
  """Raises OSError with the URL for any error, as each protocol has error classes of its own."""
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
  """The content of a remote folder's `.files`: {} if the folder is not there, None if damaged."""
  try:
    index = json.loads(fs.cat_file(f'{folder}/{INDEX}'))
  except FileNotFoundError:
    return {}
  except (ValueError, RecursionError):
    index = None
  if not disk.fits(index, dict) or not all(
    disk.is_inside(name) and isinstance(digest, str) for name, digest in index.items()
  ):
    logging.warning('%s/%s is damaged: its folder is skipped', folder, INDEX)
    return None
  return index
