"""Piano rolls: which of 88 keys sound in each frame of a piece, uint8 `[T, 88]`, 1 where one does.

The first column is the lowest key, A0. A file or a folder holds the splits train, validation and
test, or pieces still to be cut into these:

- .mat, as published by Boulanger-Lewandowski et al. (2012): cells of rolls, `traindata`,
  `validdata` and `testdata`;
- .npz, as read by `rnnlab.data.arrays`: `x_train`, `lengths_train` and so on, or `x` and `lengths`;
- a folder of .csv files, one per piece, a line per frame, 88 values of 0 or 1, no header; or of
  the folders train, validation and test with such files.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rnnlab.data import DataError, arrays, table

KEYS = 88
SPLITS = 'train', 'validation', 'test'
IN_MAT = {'train': 'traindata', 'validation': 'validdata', 'test': 'testdata'}


def read(path: Path) -> dict[str, list[np.ndarray]]:
  """The pieces of each split, uint8 `[T, 88]`; for a path without splits, {'': pieces}.

  Raises DataError, with the piece and the frame, each counted from 1, for an invalid roll.
  """
  if not path.exists():
    raise DataError(f'{path}: no such file or folder.')
  if path.is_dir():
    return _folder(path)
  if path.suffix.lower() == '.mat':
    found = _mat(path)
  elif path.suffix.lower() == '.npz':
    found = {name: list(one.inputs) for name, one in arrays.read(path, labelled=False).items()}
    if not {'', 'train'} & found.keys():
      raise DataError(f'{path} has no x_train beside {", ".join(f"x_{name}" for name in found)}.')
  else:
    raise DataError(f'{path}: rolls are a .mat, an .npz, or a folder of .csv files.')
  return {
    name: [_checked(one, f'{path}, piece {i} of {name or "x"}') for i, one in enumerate(pieces, 1)]
    for name, pieces in found.items()
  }


def _mat(path) -> dict[str, Sequence[Any]]:
  import scipy.io

  try:
    held = scipy.io.loadmat(path, variable_names=[*IN_MAT.values()])
  except NotImplementedError:
    raise DataError(f"{path} is of MATLAB 7.3: save it with `save(..., '-v7')`.") from None
  except MemoryError:
    raise
  except Exception as error:  # SciPy raises a dozen kinds on damaged bytes
    raise DataError(f'{path} is damaged, or not a .mat: {error}.') from error
  found = {name: held[key].ravel() for name, key in IN_MAT.items() if key in held}
  if 'train' not in found:
    raise DataError(f'{path} has no traindata, a cell of rolls [T, {KEYS}].')
  for name, pieces in found.items():
    if not len(pieces) or pieces.dtype != object:
      raise DataError(f'{path}: {IN_MAT[name]} must be a cell of rolls [T, {KEYS}].')
  return found


def _folder(path) -> dict[str, list[np.ndarray]]:
  folders = {name: path / name for name in SPLITS if (path / name).is_dir()}
  if folders and 'train' not in folders:
    raise DataError(f'{path} has no folder train beside {", ".join(folders)}.')
  others = sorted(one.name for one in path.iterdir() if one.is_dir() and one.name not in SPLITS)
  if folders and others:
    raise DataError(f'{path} has a folder {others[0]}: the splits are {", ".join(SPLITS)}.')
  found = {}
  for name, of in (folders or {'': path}).items():
    files = sorted(
      file for file in of.iterdir() if file.suffix.lower() == '.csv' and file.is_file()
    )
    if not files:
      raise DataError(f'{of} has no .csv files, one for each piece.')
    found[name] = [_csv(file) for file in files]
  return found


def _csv(path):
  lines = table.text_of(path).splitlines()
  rows = []
  for number, line in enumerate(lines, start=1):
    if not line.strip():
      raise DataError(f'{path}, line {number}: it is empty; a silent frame is {KEYS} zeros.')
    try:
      rows.append([float(value) for value in line.split(',')])
    except ValueError:
      raise DataError(
        f'{path}, line {number}: a value is not a number (no header; commas between values).'
      ) from None
    if len(rows[-1]) != KEYS:
      raise DataError(
        f'{path}, line {number}: it has {len(rows[-1])} values, and must have {KEYS}.'
      )
  return _checked(np.array(rows), str(path))


def _checked(roll, where):
  """A roll as uint8. Raises DataError, saying where, if it is not one."""
  roll = np.asarray(roll)
  if roll.dtype.kind not in 'fiub' or roll.ndim != 2 or roll.shape[1] != KEYS or not len(roll):
    raise DataError(
      f'{where}: a roll is numbers [T, {KEYS}], not {roll.dtype} {list(roll.shape)}; from a roll'
      ' of all 128 MIDI notes take those from 21 to 108.'
    )
  wrong = (roll != 0) & (roll != 1)
  if wrong.any():
    frame, key = np.argwhere(wrong)[0] + 1
    raise DataError(
      f'{where}, frame {frame}, key {key}: the value is {roll[frame - 1, key - 1]:g}, and must be 0'
      ' or 1; for velocities give `roll > 0`.'
    )
  return roll.astype(np.uint8)


def drawn(count: int, frames: int, seed: int) -> list[np.ndarray]:
  """Made-up pieces, uint8 `[T, 88]`, to try a model without data.

  Chords of three notes of a scale, each of which sounds for two frames and moves by at most two
  steps. A piece has between half of `frames` and all of them.
  """
  draw = np.random.default_rng(seed)
  scale = np.array([0, 2, 4, 5, 7, 9, 11])
  pieces = []
  for _ in range(count):
    length = int(draw.integers(max(frames // 2, 1), frames + 1))
    degrees = 21 + np.cumsum(draw.integers(-2, 3, length // 2 + 1)) % 14
    roll = np.zeros((length, KEYS), np.uint8)
    for frame in range(length):
      notes = degrees[frame // 2] + np.array([0, 2, 4])
      roll[frame, 3 + 12 * (notes // 7) + scale[notes % 7]] = 1
    pieces.append(roll)
  return pieces
