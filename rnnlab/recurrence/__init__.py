"""Running a cell over time: masks, lengths, directions, layers and variational dropout.

Everything here is a pure function and works for any `Cell`. Batch-major `[B, T, D]` at the
boundary, time-major inside.
"""

from rnnlab.recurrence.dropout import (
  Masks,
  Product,
  drop,
  drop_weights,
  dropout_masks,
  is_off,
  products,
)
from rnnlab.recurrence.layers import bidirectional, stacked
from rnnlab.recurrence.memory import TRUNCATION, is_truncation
from rnnlab.recurrence.unroll import BACKENDS, unroll

__all__ = [
  'BACKENDS',
  'TRUNCATION',
  'Masks',
  'Product',
  'bidirectional',
  'drop',
  'drop_weights',
  'dropout_masks',
  'is_off',
  'is_truncation',
  'products',
  'stacked',
  'unroll',
]
