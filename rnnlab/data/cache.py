"""Arrays kept on disk, so that data are read and encoded once."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from rnnlab.data.base import Dataset
from rnnlab.machine import cache

UNSIGNED = 'title', 'fingerprint'  # arrays that describe the others


def fingerprint(arrays: Mapping[str, np.ndarray]) -> str:
  """A digest, hex, of the arrays' names, types, shapes and content, except those in UNSIGNED."""
  digest = hashlib.sha256()
  for name in sorted(arrays.keys() - {*UNSIGNED}):
    digest.update(f'{name} {arrays[name].dtype} {arrays[name].shape}\n'.encode())
    digest.update(np.ascontiguousarray(arrays[name]).data)
  return digest.hexdigest()


def path(kind: str, *made_of: Any) -> Path:
  """A file named by what its content depends on: `made_of`, and the code of this wing.

  kind: how the file's name begins. made_of: JSON, such as settings and the identity of the data.
  """
  code = [file.read_text('utf-8') for file in sorted(Path(__file__).parent.glob('*.py'))]
  digest = hashlib.sha256(json.dumps([*made_of, code]).encode()).hexdigest()
  return cache.root() / f'{kind}-{digest[:32]}.npz'


def identity(file: Path) -> list[Any]:
  """What identifies a file: its path, its size and its time of change."""
  found = file.stat()
  return [str(file.resolve()), found.st_size, found.st_mtime_ns]


def read(path: Path) -> dict[str, np.ndarray] | None:
  """The arrays that `write` wrote; None if the file is missing or, with a warning, damaged."""
  try:
    with np.load(path) as file:
      arrays = dict(file)
    if str(arrays['fingerprint']) != fingerprint(arrays):
      raise ValueError('its content does not match its digest')
    return arrays
  except (FileNotFoundError, NotADirectoryError):
    return None
  except OSError as error:
    logging.warning('Cached data %s cannot be read (%s): encoding again.', path, error)
    return None
  except Exception as error:  # NumPy, zipfile and zlib raise a dozen kinds on damaged bytes
    logging.warning('Cached data %s are damaged (%s): encoding again.', path, error)
    return None


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes arrays, one of which is their fingerprint, atomically, since others may read them.

  A failure is only a warning.
  """
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix='.tmp', delete=False) as file:
      try:
        np.savez(file, **arrays)  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())
        os.replace(file.name, path)
      except BaseException:
        os.unlink(file.name)
        raise
  except OSError as error:
    logging.warning('Cannot keep the encoded data in %s (%s): continuing without.', path, error)


def dataset(path: Path, load: Callable[[], Dataset]) -> Dataset:
  """The dataset kept in the file `path`; if there is none, the result of `load` is kept there.

  Its `spec` is not kept, and is None if the file is read.
  """
  found = read(path)
  if found is None:
    made = load()
    arrays = {
      f'{split}/{name}{"/" * bool(part)}{part}': array
      for split, of in made.splits.items()
      for name, value in of.items()
      for part, array in (value.items() if isinstance(value, dict) else [('', value)])
    }
    said = made._replace(splits={}, spec=None)._asdict()
    arrays['said'] = np.frombuffer(json.dumps(said).encode(), np.uint8)
    write(path, arrays | {'fingerprint': np.array(fingerprint(arrays))})
    return made
  said = json.loads(found.pop('said').tobytes())
  said |= {name: tuple(said[name]) for name in ('vocabulary', 'notes', 'widths')}
  del found['fingerprint']
  splits: dict[str, dict[str, Any]] = {}
  for name, array in found.items():
    split, key, *parts = name.split('/')
    place = splits.setdefault(split, {})
    if parts:
      place.setdefault(key, {})[parts[0]] = array
    else:
      place[key] = array
  return Dataset(**said | {'splits': splits})
