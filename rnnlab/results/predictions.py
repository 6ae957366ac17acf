"""The content of a run's predictions.npz, read only if the file is as it was written."""

import pathlib
import zipfile
import zlib

import numpy as np
from absl import logging

from rnnlab.runs import folder as run_files


def read(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """The arrays of a run's predictions.npz; none if it is missing or, with a warning, damaged.

  They are the test split's arrays other than its inputs; the model's outputs `[N, ...]` with the
  last parameters, as final, and with those of the best epoch, as best, if validation chose one;
  and what the task's `examine` returned.
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
    logging.warning('%s is damaged, so its run is left out of whatever needs it', path)
    return {}
