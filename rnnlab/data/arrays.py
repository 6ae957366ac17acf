"""A user's own series in a NumPy file, .npz: `x`, `y` and, if lengths differ, `lengths`.

x is float `[N, T, D]`, or `[N, T]` with one feature, padded at the end; or, for N series of
different lengths, all of their steps concatenated, `[sum of lengths, D]`. y has a row for each
series, or a value for each of its steps. A file with one split has these names; one with several
has `x_train`, `y_train`, `lengths_train`, `x_test` and so on, also with `_validation`.
"""

import zipfile
from pathlib import Path

import numpy as np

from rnnlab.console.words import near
from rnnlab.data import DataError
from rnnlab.data.base import Examples

SPLITS = 'train', 'validation', 'test'


def read(path: Path, labelled: bool = True) -> dict[str, Examples]:
  """The splits of a file; for one without splits, {'': Examples}.

  labelled: whether there must be y. Raises DataError, with the row, counted from 1, for arrays that
  do not fit together and for values that are not finite.
  """
  arrays = _arrays(path)
  named = [split for split in SPLITS if f'x_{split}' in arrays]
  ends = [f'_{split}' for split in named] if named else ['']
  known = {f'{name}{end}' for end in ends for name in ('x', 'y', 'lengths')}
  if 'x' + ends[0] not in arrays:
    raise DataError(
      f'{path} has no array x{near("x", arrays)}; it has {", ".join(arrays) or "none"}. Write it'
      ' with `numpy.savez(path, x=x, y=y)`.'
    )
  if unknown := sorted(arrays.keys() - known):
    raise DataError(
      f'{path} has an array {unknown[0]!r}{near(unknown[0], sorted(known))}, which nothing reads;'
      f' there may be {", ".join(sorted(known))}.'
    )
  return {
    split: _examples(path, arrays, end, labelled)
    for split, end in zip(named or [''], ends, strict=True)
  }


def _arrays(path):
  if not path.exists():
    raise DataError(f'{path}: no such file.')
  if not path.is_file():
    raise DataError(f'{path} is a folder: give a file in it.')
  name = ''
  try:
    with np.load(path, allow_pickle=False) as file:
      if not isinstance(file, np.lib.npyio.NpzFile):
        raise DataError(f'{path} is a single array: write x and y with `numpy.savez`.')
      arrays = {}
      for name in file.files:
        arrays[name] = file[name]
      return arrays
  except (DataError, MemoryError):
    raise
  except ValueError as error:
    if name and ('pickle' in str(error) or 'Object' in str(error)):
      raise DataError(
        f'{path}: {name} holds Python objects, which are not read, since reading them may'
        ' run code. Give series of different lengths as one array of all their steps,'
        ' `x=numpy.concatenate(series)`, with `lengths=[len(s) for s in series]`.'
      ) from None
    said = f': {error}' if name else ''  # NumPy takes any other bytes to be a pickle
    raise DataError(f'{path} is damaged, or not an .npz{said}.') from error
  except (OSError, EOFError, zipfile.BadZipFile, Exception) as error:
    raise DataError(f'{path} is damaged, or not an .npz: {error}.') from error


def _examples(path, arrays, end, labelled):
  x, y, lengths = (arrays.get(f'{name}{end}') for name in ('x', 'y', 'lengths'))
  if y is None and labelled:
    raise DataError(f'{path} has no array y{end} of what to predict for each row of x{end}.')
  if x.dtype.kind not in 'fiub':
    raise DataError(f'{path}: x{end} must be numbers, not of type {x.dtype}.')
  if x.ndim not in (2, 3):
    raise DataError(f'{path}: x{end} must be [N, T, D] or [N, T], not {list(x.shape)}.')
  series = _padded(path, x, lengths, end) if lengths is not None else list(x)
  if not series:
    raise DataError(f'{path}: x{end} has no rows.')
  with np.errstate(over='ignore'):
    series = [(s if s.ndim == 2 else s[:, None]).astype(np.float32) for s in series]
  for row, values in enumerate(series, start=1):
    if not len(values) or not values.shape[1]:
      raise DataError(f'{path}, row {row} of x{end}: it has no steps.')
    bad = ~np.isfinite(values)
    if bad.any():
      step, feature = np.argwhere(bad)[0] + 1
      raise DataError(
        f'{path}, row {row} of x{end}, step {step}, feature {feature}: a value is missing or'
        ' infinite (or beyond float32).'
      )
  return Examples(series, _targets(path, y, series, end), np.arange(1, len(series) + 1))


def _padded(path, x, lengths, end):
  """The series of an x with lengths: cut from padded rows, or from all steps in one array."""
  if lengths.ndim != 1 or lengths.dtype.kind not in 'iu':
    raise DataError(
      f'{path}: lengths{end} must be whole numbers [N], not {lengths.dtype} {list(lengths.shape)}.'
    )
  if len(lengths) and lengths.min() < 1:
    row = int(np.argmin(lengths)) + 1
    raise DataError(f'{path}, row {row}: lengths{end} is {lengths[row - 1]}, and must be above 0.')
  if x.ndim == 3 or len(x) == len(lengths):
    if len(x) != len(lengths):
      raise DataError(f'{path}: lengths{end} has {len(lengths):,} items, x{end} {len(x):,} rows.')
    if len(lengths) and lengths.max() > x.shape[1]:
      row = int(np.argmax(lengths)) + 1
      raise DataError(
        f'{path}, row {row}: lengths{end} is {lengths[row - 1]}, and x{end} has {x.shape[1]} steps.'
      )
    if x.ndim == 2 and x.shape[1] > 1 and (lengths == 1).all():
      raise DataError(
        f'{path}: x{end} may be series [N, T] or single steps [N, D]: give it as [N, T, D].'
      )
    return [values[:length] for values, length in zip(x, lengths, strict=True)]
  if lengths.sum() != len(x):
    raise DataError(
      f'{path}: lengths{end} sum to {lengths.sum():,} steps, and x{end} has {len(x):,}.'
    )
  return np.split(x, np.cumsum(lengths)[:-1])


def _targets(path, y, series, end):
  """y as a list with an item for each row."""
  if y is None:
    return [None] * len(series)
  if y.dtype.kind not in 'fiubUS':
    raise DataError(f'{path}: y{end} must be numbers or texts, not of type {y.dtype}.')
  if y.dtype.kind == 'f' and (bad := ~np.isfinite(y)).any() and y.ndim < 2:
    row = int(np.argmax(bad)) + 1
    raise DataError(f'{path}, row {row} of y{end}: the value is missing or infinite.')
  if not y.ndim:
    raise DataError(f'{path}: y{end} is a single value: there must be one for each row of x{end}.')
  if y.dtype.kind == 'S':
    y = np.char.decode(y, 'utf-8', 'replace')
  steps = [len(values) for values in series]
  if len(y) == len(series):
    return [*y]
  if len(y) == sum(steps):
    return np.split(y, np.cumsum(steps)[:-1])
  raise DataError(
    f'{path}: y{end} has {len(y):,} rows, and x{end} {len(series):,}: there must be one for each.'
  )
