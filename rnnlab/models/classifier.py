"""The model of sequences of token ids or numbers, with an answer per row or at each step."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from rnnlab.cells.base import Array, Cell, Lookup
from rnnlab.models import initial
from rnnlab.models.layers import Dropout, Recurrent, pool
from rnnlab.recurrence import checks


class SequenceClassifier(nn.Module):
  """Token ids -> embedding -> layers of a cell -> pooling -> logits; or series -> layers -> ...

  `ids int [B, T]` (0 pads; it is masked only with `mask`) -> logits `[B]` for classes=1 (the
  log-odds of the positive class), else `[B, classes]`. embed_dropout and output_dropout drop single
  units; attributes that `Recurrent` has too mean the same here. convention: the library whose
  initialisers the embedding and head use, one of `rnnlab.conventions.NAMES`; the cell has its own.
  An id outside 0 .. vocab_size - 1 raises ValueError or, if it is traced, makes the logits of its
  row NaN.

  Without a vocab_size, the input is a dict of series: 'xs', float `[B, T, D]`, padded at the end,
  and 'lengths', int `[B]`; padding never takes part. There is then no embedding, and embed_dropout
  acts on 'xs'.
  steps: whether there are logits at each step, `[B, T]` or `[B, T, classes]`, instead of pooling.
  If logits stand for numbers, `classes` is how many.

  >>> model = rnnlab.SequenceClassifier(rnnlab.lstm(hidden_size=4), vocab_size=10, embed_size=3)
  >>> logits, variables = model.init_with_output(jax.random.key(0), jnp.ones((2, 5), int))
  >>> logits.shape, sorted(variables['params'])
  ((2,), ['Dense_0', 'Embed_0', 'Recurrent_0'])
  """

  cell: Cell
  vocab_size: int | None = None
  embed_size: int | None = None
  layers: int = 1
  bidirectional: bool = False
  pooling: str = 'last'
  mask: bool = False
  classes: int = 1
  embed_dropout: float = 0.0
  dropout: float = 0.0
  recurrent_dropout: float = 0.0
  dropout_per_gate: bool = False
  output_dropout: float = 0.0
  precision: str = 'float32'
  remat: bool = False
  truncate: tuple[int, int] | None = None
  convention: str = 'keras'
  steps: bool = False

  @nn.compact
  def __call__(self, inputs: Array | Mapping[str, Array], deterministic: bool = True) -> Array:
    start = initial.get(self.convention)
    if self.vocab_size is None:
      xs: Any
      xs, mask = _series(inputs)
      xs = Dropout(self.embed_dropout)(xs, deterministic)
    else:
      ids = checks.ids(inputs, self.vocab_size)
      mask = ids != 0 if self.mask else None
      if self.embed_size is None:
        raise ValueError('a model with a vocab_size needs an embed_size')
      embed = nn.Embed(self.vocab_size, self.embed_size, embedding_init=start.embed)
      if deterministic:
        xs = Lookup(embed.embedding, ids)
      else:
        # For an id below 0, nn.Embed takes a row from the table's end; for one too large, NaN.
        known = jnp.where(ids < 0, self.vocab_size, ids)
        xs = Dropout(self.embed_dropout)(embed(known), deterministic=False)
    for _ in range(self.layers):
      xs = Recurrent(
        self.cell,
        self.bidirectional,
        self.dropout,
        self.recurrent_dropout,
        self.dropout_per_gate,
        self.precision,
        self.remat,
        self.truncate,
      )(xs, mask, deterministic)
    pooled = xs if self.steps else pool(xs, mask, self.pooling, self.bidirectional)
    pooled = Dropout(self.output_dropout)(pooled, deterministic=deterministic)
    kernel_init, bias_init = start.head(pooled.shape[-1])
    logits = nn.Dense(self.classes, kernel_init=kernel_init, bias_init=bias_init)(pooled)
    return logits[..., 0] if self.classes == 1 else logits


def _series(inputs):
  """The series, and which of their steps are real."""
  if not isinstance(inputs, Mapping) or {*inputs} != {'xs', 'lengths'}:
    raise TypeError(
      "a model without a vocab_size takes a dict of 'xs', float [B, T, D], and 'lengths', int [B]"
    )
  xs = checks.xs(inputs['xs'])
  if len(xs.shape) != 3:
    raise ValueError(f"'xs' must be float [B, T, D], not {checks.said(xs)}")
  return xs, checks.mask(inputs['lengths'], None, xs.shape[:1], xs.shape[1])
