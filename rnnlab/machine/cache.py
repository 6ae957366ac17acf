"""The folder of what rnnlab can make again: encoded data, compiled programs and kernels.

Whoever can write to a compiled kernel decides what runs, so that those lie in folders that are the
user's alone, and with a digest, since a damaged one would end the process and not raise.
"""

import contextlib
import functools
import hashlib
import os
import pathlib
import stat
import tempfile

from absl import logging

try:
  import fcntl
  import pwd
except ImportError:  # not a Unix
  fcntl = pwd = None


def root() -> pathlib.Path:
  """$XDG_CACHE_HOME/rnnlab, or ~/.cache/rnnlab; a user without a home has a temporary folder."""
  given = os.environ.get('XDG_CACHE_HOME')
  if given:
    return pathlib.Path(os.path.expanduser(given)) / 'rnnlab'
  home = _home()
  return pathlib.Path(home, '.cache', 'rnnlab') if os.path.isabs(home) else _temporary()


def _home():
  if os.environ.get('HOME') or not pwd:
    return os.path.expanduser('~')
  try:
    return pwd.getpwuid(os.getuid()).pw_dir
  except KeyError:  # a number that no one gave a name, as in a container
    return ''


@functools.cache
def _temporary():
  """One that later processes of the same user find again, or where others took it one anew."""
  own = pathlib.Path(tempfile.gettempdir(), f'rnnlab-{os.getuid()}')
  with contextlib.suppress(OSError):
    if is_private(own):
      return own
  return pathlib.Path(tempfile.mkdtemp(prefix='rnnlab-'))


def is_private(folder: pathlib.Path) -> bool:
  """Makes the folder where there is none; whether the user owns it and no one else may write to it.

  Raises OSError where it can't be made.
  """
  folder.parent.mkdir(parents=True, exist_ok=True)
  with contextlib.suppress(FileExistsError):
    folder.mkdir(mode=0o700)
  found = folder.lstat()
  if not hasattr(os, 'geteuid'):
    return stat.S_ISDIR(found.st_mode)
  mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
  return mine and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def kernels() -> pathlib.Path | None:
  """The private folder of compiled kernels: `kernels` in the root, or in $NUMBA_CACHE_DIR.

  None where there can't be one, which it says once a process.
  """
  return _kernels(pathlib.Path(os.environ.get('NUMBA_CACHE_DIR') or root()) / 'kernels')


@functools.cache
def _kernels(folder):
  try:
    if is_private(folder):
      return folder
    reason = 'it is not yours, or others may write to it'
  except OSError as error:
    reason = error.strerror or str(error)
  logging.warning('Compiled kernels are not kept in %s: %s.', folder, reason)
  return None


def read(path: pathlib.Path) -> bytes | None:
  """What `write` wrote, or None where it is missing or damaged."""
  try:
    digest, data = path.read_bytes().split(b'\n', 1)
  except (OSError, ValueError):
    return None
  return data if hashlib.sha256(data).hexdigest().encode() == digest else None


def write(path: pathlib.Path, data: bytes) -> None:
  """Writes a file with its digest, whole or not at all; where it can't, it says so."""
  try:
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
      file.write(hashlib.sha256(data).hexdigest().encode() + b'\n' + data)
    os.replace(file.name, path)
  except OSError as error:
    logging.warning('%s is not kept: %s.', path, error.strerror or error)


@contextlib.contextmanager
def one_at_a_time(path: pathlib.Path):
  """Has one process at a time do what follows for a file; one that dies lets the next in."""
  with contextlib.ExitStack() as stack:
    with contextlib.suppress(OSError):  # without locks each does it for itself
      file = stack.enter_context(path.with_name(f'{path.name}.lock').open('w'))
      if fcntl:
        fcntl.flock(file, fcntl.LOCK_EX)
    yield
