"""Parameters as safetensors files: each array under its path, such as `Recurrent_0/cell/w_h`."""

import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from rnnlab.machine import disk


def save(path: str | os.PathLike, tree: Mapping[str, Any]) -> None:
  """Writes a nested dict of arrays to a safetensors file, atomically.

  tree: arrays, or anything that NumPy converts to one, of any shape, with booleans, integers, or
    floats of 16 to 64 bits.

  Raises ValueError, before anything is written, for arrays of another type, and for a tree that
  `load` would not return unchanged: one with a name that is empty, is not a string or contains a
  '/', or with an empty dict in it.

  >>> import tempfile
  >>> with tempfile.TemporaryDirectory() as folder:
  ...   save(f'{folder}/lstm.safetensors', {'cell': {'b': np.zeros(2)}})
  ...   load(f'{folder}/lstm.safetensors')
  {'cell': {'b': array([0., 0.])}}
  """
  if not isinstance(tree, Mapping):
    raise ValueError(f'what is saved must be a nested dict of arrays, not a {type(tree).__name__}')
  disk.write_atomic(path, safetensors.numpy.save(dict(_named(tree))))


def load(path: str | os.PathLike) -> dict[str, Any]:
  """Reads the nested dict of NumPy arrays in a safetensors file.

  Raises ValueError for a file that is damaged, that is of another kind, or whose arrays are of a
  type that NumPy does not have, such as bfloat16.

  >>> (run,) = rnnlab.load_runs('runs/imdb')['id']
  >>> sorted(load(f'runs/imdb/{run}/params.safetensors'))
  ['Dense_0', 'Embed_0', 'Recurrent_0']
  """
  content = pathlib.Path(path).read_bytes()
  try:
    arrays = safetensors.numpy.load(content)
  except safetensors.SafetensorError as error:
    raise ValueError(f'{path} is damaged, or not a safetensors file: {error}') from None
  except KeyError as error:
    raise ValueError(
      f'{path} has arrays of type {error}, which NumPy lacks: save them as float32'
    ) from None
  tree = {}
  for name, array in sorted(arrays.items()):
    *above, last = name.split('/')
    inner = tree
    for part in above:
      inner = inner.setdefault(part, {})
      if not isinstance(inner, dict):
        raise ValueError(f'{path} has an array {name!r}, and another whose path begins with it')
    inner[last] = array
  return tree


def _named(tree: Mapping, above: str = '') -> Iterator[tuple[str, np.ndarray]]:
  """The arrays of a tree under their paths."""
  for name, value in tree.items():
    path = f'{above}{name}'
    if not isinstance(name, str) or not name or '/' in name:
      raise ValueError(f"{above}{name!r} is not a name for an array: it must be a word without '/'")
    if path == '__metadata__':
      raise ValueError(f'{path} is not a name for an array: safetensors reserves it')
    if isinstance(value, list | tuple):
      raise ValueError(f'{path} is not one array but a {type(value).__name__}: name its items')
    if isinstance(value, Mapping):
      if not value:
        raise ValueError(f'{path} is an empty dict, which the file could not hold')
      yield from _named(value, f'{path}/')
    else:
      # safetensors writes the buffer as it is in memory: Fortran order would come back transposed.
      array = np.array(value, order='C')
      if array.dtype.kind not in 'biuf' or array.dtype.itemsize > 8:
        raise ValueError(
          f'{path} is of type {array.dtype}: cast it, for example to float32: the file holds only'
          " NumPy's booleans, integers and floats"
        )
      yield path, array
