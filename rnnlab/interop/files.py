"""Parameters as safetensors: each array under its path, `Recurrent_0/cell/w_h`."""

import pathlib

import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from rnnlab import runlog


def save(path, tree: dict) -> None:
  """Writes a nested dict of arrays, whole or not at all."""
  arrays = traverse_util.flatten_dict(tree, sep='/')
  arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
  runlog.write_atomic(path, safetensors.numpy.save(arrays))


def load(path) -> dict:
  """Reads what `save` wrote, as NumPy arrays. Raises ValueError for a file that is damaged."""
  try:
    arrays = safetensors.numpy.load(pathlib.Path(path).read_bytes())
  except safetensors.SafetensorError as error:
    raise ValueError(f'{path} is damaged, or no file of safetensors: {error}') from error
  return traverse_util.unflatten_dict(arrays, sep='/')
