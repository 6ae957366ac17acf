"""What a run's predictions.npz holds, read only where it is as it was written."""

import pathlib
import zipfile
import zlib

import numpy as np
from absl import logging

from rnnlab.runs import folder as run_files


def read(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """The arrays of a run's predictions.npz; none where it is missing or, with a warning, damaged.

  They are the test split's arrays other than its inputs, and the model's outputs `[N, ...]` by the
  last parameters, final, and by those of the best epoch, best, where validation chose one;
  and what the task's `examine` gave.
  """
  path = folder / run_files.PREDICTIONS
  try:
    if run_files.PREDICTIONS in run_files.verify(folder):
      raise ValueError
    with np.load(path) as file:
      return dict(file)
  except FileNotFoundError:
    return {}
  except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error):
    logging.warning('%s is damaged, so what needs it leaves its run out', path)
    return {}
