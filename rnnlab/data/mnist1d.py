"""MNIST-1D (Greydanus 2020): ten shapes of a digit as series, generated.

Each example is a template of 12 points that is padded, stretched, scaled, shifted, mixed with noise
and sheared, and then sampled at 40 points. The order of the draws is that of the published code
(github.com/greydanus/mnist1d, Apache 2.0), so that the arrays are the published ones.
"""

import hashlib

import numpy as np

from rnnlab.data import DataError

STEPS = 40
TRAIN = 4_000  # the first examples; the others are for testing
SHA256 = 'bac71f9876f2fe089b324192be2c44f4c588886d33a971e9996fafce8a49c233'

_CLASSES, _PER_CLASS, _SEED = 10, 500, 42
_PADDING = 36, 60  # zeros after a template, at least and at most
_SHIFT = 48  # a template is shifted by less than this
_SCALE, _SHEAR, _SMOOTH_NOISE, _NOISE = 0.4, 0.75, 0.25, 0.02

_TEMPLATES = np.array(
  [
    [5, 6, 6.5, 6.75, 7, 7, 7, 7, 6.75, 6.5, 6, 5],
    [5, 3, 3, 3.4, 3.8, 4.2, 4.6, 5, 5.4, 5.8, 5, 5],
    [5, 6, 6.5, 6.5, 6, 5.25, 4.75, 4, 3.5, 3.5, 4, 5],
    [5, 6, 6.5, 6.5, 6, 5, 5, 6, 6.5, 6.5, 6, 5],
    [5, 4.4, 3.8, 3.2, 2.6, 2.6, 5, 5, 5, 5, 5, 5],
    [5, 3, 3, 3, 3, 5, 6, 6.5, 6.5, 6, 4.5, 5],
    [5, 4, 3.5, 3.25, 3, 3, 3, 3, 3.25, 3.5, 4, 5],
    [5, 7, 7, 6.6, 6.2, 5.8, 5.4, 5, 4.6, 4.2, 5, 5],
    [5, 4, 3.5, 3.5, 4, 5, 5, 4, 3.5, 3.5, 4, 5],
    [5, 4, 3.5, 3.5, 4, 5, 5, 5, 5, 4.7, 4.3, 5],
  ]
)


def generate() -> tuple[np.ndarray, np.ndarray]:
  """All examples: xs float32 `[5000, 40]`, digits int32 `[5000]`; the first 4,000 are for training.

  Raises DataError if this machine's NumPy or SciPy does not generate the published arrays.
  """
  rng = np.random.RandomState(_SEED)
  templates = _TEMPLATES - _TEMPLATES.mean(axis=1, keepdims=True)
  templates = templates / templates.std(axis=1, keepdims=True)
  templates = (templates - templates[:, :1]) / 6  # begins and ends at 0
  xs = np.stack([_example(template, rng) for template in np.repeat(templates, _PER_CLASS, axis=0)])
  order = rng.permutation(len(xs))
  xs, digits = xs[order], np.repeat(np.arange(_CLASSES, dtype=np.int32), _PER_CLASS)[order]
  xs = (xs - xs.mean()) / xs.std()
  if digest(xs, digits) != SHA256:
    raise DataError(
      'MNIST-1D: the generated arrays are not the published ones: NumPy or SciPy draws differently'
      f' here (NumPy {np.__version__}). Use other versions of them.'
    )
  return xs.astype(np.float32), digits


def digest(xs: np.ndarray, digits: np.ndarray) -> str:
  """The sha256, hex, of xs to four decimals and of digits: rounding differs between processors."""
  rounded = np.round(xs * 10_000).astype('<i4')
  return hashlib.sha256(rounded.tobytes() + digits.astype('<i4').tobytes()).hexdigest()


def _example(template, rng):
  from scipy import ndimage  # here, since --help loads this module

  low, high = _PADDING
  zeros = low + int(rng.rand() * (high - low + 1))
  # A template's own zeros are made tiny, since noise replaces exact zeros.
  x = _resample(np.concatenate([template + 1e-8, np.zeros(zeros)]), len(template) + high)
  x = x * (1 + _SCALE * (rng.rand() - 0.5))
  x = np.roll(x, rng.choice(_SHIFT))
  smooth = ndimage.gaussian_filter(_SMOOTH_NOISE * rng.randn(len(x)), 2)
  x = np.where(x != 0, x, smooth) + _NOISE * rng.randn(len(x))
  x = x - _SHEAR * (rng.rand() - 0.5) * np.linspace(-0.5, 0.5, len(x))
  return _resample(x, STEPS)


def _resample(x, points):
  return np.interp(np.linspace(0, 1, points), np.linspace(0, 1, len(x)), x)
