"""Series from a .npz file: x, y and, where they are of different lengths, lengths."""

import zipfile
from typing import Any

import numpy as np

from rnnlab.console.words import near
from rnnlab.data import DataError
from rnnlab.data.base import Examples

SPLITS = 'train', 'validation', 'test'
NAMES = 'x', 'y', 'lengths'


def read(path: str) -> dict[str, Examples]:
  """The examples of a .npz file: 'train' alone, to be cut, or the splits that its names have.

  Its arrays are x, float `[N, T, D]` or `[N, T]`, y `[N, ...]` and lengths, int `[N]`, which may be
  left out; or all series one after the other, x `[sum of lengths, D]` (and y, if it has an entry a
  step). Splits of their own are x_train, y_train, x_test and so on.
  Inputs are float32 `[T, D]`, without their padding; targets are the rows of y as they are.
  Raises DataError, with row and step, counted from 1 and for arrays from the first row on.
  """
  arrays = _arrays(path)
  known = [*NAMES, *(f'{name}_{split}' for name in NAMES for split in SPLITS)]
  for name in arrays:
    if name not in known:
      raise DataError(f'{path}: what is {name!r}{near(name, known)}? Arrays: {", ".join(known)}')
  whole = [name for name in NAMES if name in arrays]
  if whole and len(whole) < len(arrays):
    raise DataError(f'{path}: {", ".join(whole)} and those of splits, as x_train, cannot be in one')
  ends = {'train': ''} if whole else {s: f'_{s}' for s in SPLITS if f'x_{s}' in arrays}
  if 'train' not in ends:
    raise DataError(f'{path}: there is no x, and no x_train; arrays: {", ".join(arrays)}')
  return {split: _examples(path, arrays, end) for split, end in ends.items()}


def _arrays(path):
  try:
    with np.load(path, allow_pickle=False) as file:
      if not isinstance(file, np.lib.npyio.NpzFile):
        raise DataError(f'{path}: one array, and no .npz of x and y: np.savez(path, x=x, y=y)')
      return {name: file[name] for name in file.files}
  except FileNotFoundError:
    raise DataError(f'{path}: there is no such file') from None
  except (OSError, EOFError, zipfile.BadZipFile) as error:
    raise DataError(f'{path}: no .npz file, or a damaged one: {error}') from None
  except ValueError as error:
    if 'allow_pickle' not in str(error) and 'pickled' not in str(error):
      raise DataError(f'{path}: no .npz file, or a damaged one: {error}') from None
    raise DataError(
      f'{path}: an array of objects is a pickle, which is not opened: save series of different'
      ' lengths one after the other, x=np.concatenate(series), lengths=[len(s) for s in series]'
    ) from None


def _examples(path, arrays, end) -> Examples:
  given: dict[str, Any] = {name: arrays.get(f'{name}{end}') for name in NAMES}
  x, y, lengths = given.values()
  if y is None:
    raise DataError(f'{path}: there is an x{end}, and no y{end}')
  if x.ndim not in (2, 3) or x.dtype.kind not in 'fiub' or not x.size:
    raise DataError(f'{path}: x{end} must be numbers [N, T, D] or [N, T], not {x.dtype} {x.shape}')
  if lengths is not None and (lengths.ndim != 1 or lengths.dtype.kind not in 'iu'):
    raise DataError(
      f'{path}: lengths{end} must be integers [N], not {lengths.dtype} {lengths.shape}'
    )
  if lengths is not None and (wrong := np.flatnonzero(lengths < 1)).size:
    raise DataError(f'{path}: lengths{end}, row {wrong[0] + 1}: {lengths[wrong[0]]} is below 1')
  joined = x.ndim == 2 and lengths is not None and len(lengths) != len(x)
  with np.errstate(over='ignore'):
    x = x.astype(np.float32)
  if joined:
    if lengths.sum() != len(x):
      raise DataError(
        f'{path}: x{end} has {len(x)} rows: lengths{end} must be {len(x)} of them, or add up to it;'
        f' they are {len(lengths)} and add up to {lengths.sum()}'
      )
    ends = np.cumsum(lengths)[:-1]
    inputs = np.split(x, ends)
    targets = np.split(y, ends) if len(y) == len(x) else list(y)
  else:
    inputs, targets = _rows(path, x if x.ndim == 3 else x[..., None], y, lengths, end)
  if len(targets) != len(inputs):
    raise DataError(f'{path}: x{end} has {len(inputs)} series, and y{end} {len(targets)} rows')
  for row, series in enumerate(inputs, start=1):
    if not np.isfinite(series).all():
      step = np.argwhere(~np.isfinite(series))[0, 0] + 1
      raise DataError(f'{path}: x{end}, row {row}, step {step}: a value is missing or infinite')
  return Examples(inputs, targets, np.arange(1, len(inputs) + 1))


def _rows(path, x, y, lengths, end):
  """The series of x `[N, T, D]` without their padding."""
  if not y.ndim:
    raise DataError(f'{path}: y{end} must have a row for each of x{end}, not be one number')
  if lengths is None:
    return list(x), list(y)
  steps = x.shape[1]
  if len(lengths) != len(x):
    raise DataError(f'{path}: x{end} has {len(x)} rows, and lengths{end} {len(lengths)}')
  if (wrong := np.flatnonzero(lengths > steps)).size:
    row = wrong[0]
    raise DataError(f'{path}: lengths{end}, row {row + 1}: {lengths[row]}, and x has {steps} steps')
  return [row[:length] for row, length in zip(x, lengths, strict=True)], list(y)
