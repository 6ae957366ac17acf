"""The folder of what rnnlab can make again: encoded data, compiled programs and kernels.

Whoever can write to a compiled kernel decides what runs here, so kernels are kept only in folders
that nobody but the user can write to. Each has a digest, since a damaged kernel would not raise an
error but end the process.
"""

import contextlib
import functools
import hashlib
import os
import pathlib
import stat
import tempfile
from collections.abc import Iterator

import platformdirs
from absl import logging

from rnnlab.machine import disk

try:
  import fcntl
except ImportError:  # Windows
  fcntl = None  # type: ignore[assignment]


def root() -> pathlib.Path:
  """The folder `rnnlab` where the system keeps a user's caches.

  In $XDG_CACHE_HOME if that is set, which may be relative or begin with `~`; else where
  platformdirs puts it, ~/.cache on Linux. A user without a home gets a temporary folder.
  """
  if given := os.environ.get('XDG_CACHE_HOME'):
    return pathlib.Path(os.path.expanduser(given)) / 'rnnlab'
  try:
    return platformdirs.user_cache_path('rnnlab', appauthor=False)
  except RuntimeError:  # no home, or a user id without a name, as in a container
    return _temporary()


@functools.cache
def _temporary():
  """A folder that the user's later processes find again; a new one if another user has taken it."""
  own = pathlib.Path(tempfile.gettempdir(), f'rnnlab-{os.getuid()}')
  with contextlib.suppress(OSError):
    if is_private(own):
      return own
  return pathlib.Path(tempfile.mkdtemp(prefix='rnnlab-'))


def is_private(folder: pathlib.Path) -> bool:
  """Whether the user owns a folder, which is made if need be, and nobody else may write to it.

  Raises OSError if it cannot be made.
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

  None if there cannot be one, with one warning per process.
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
  """The bytes given to `write`, or None if the file is missing or damaged."""
  try:
    digest, data = path.read_bytes().split(b'\n', 1)
  except (OSError, ValueError):
    return None
  return data if hashlib.sha256(data).hexdigest().encode() == digest else None


def write(path: pathlib.Path, data: bytes) -> None:
  """Writes bytes with their digest, atomically; a file that cannot be written is only a warning."""
  try:
    disk.write_atomic(path, hashlib.sha256(data).hexdigest().encode() + b'\n' + data)
  except OSError as error:
    logging.warning('%s is not kept: %s.', path, error.strerror or error)


@contextlib.contextmanager
def one_at_a_time(path: pathlib.Path) -> Iterator[None]:
  """Lets one process at a time into the `with` block for a file; if it dies, the next gets in."""
  with contextlib.ExitStack() as stack:
    with contextlib.suppress(OSError):  # without a lock, each process does the work for itself
      file = stack.enter_context(path.with_name(f'{path.name}.lock').open('w'))
      if fcntl:
        fcntl.flock(file, fcntl.LOCK_EX)
    yield
