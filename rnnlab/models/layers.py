"""Layers in Flax linen: a cell over time, dropout at a rate that may be traced, pooling."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from rnnlab import cells, recurrence
from rnnlab.cells.base import Array, Cell, Lookup
from rnnlab.recurrence import checks

POOLINGS = ('last', 'mean', 'max', 'concat')
PRECISIONS = ('float32', 'bfloat16')


class Recurrent(nn.Module):
  """One layer of a cell over time, with variational dropout (Gal & Ghahramani 2016).

  `xs [B, T, D]`, or a `Lookup`, and mask bool `[B, T]` or None -> ys `[B, T, H]`, or `[B, T, 2H]`
  if bidirectional; without B if xs has none. resets, initial_carry: as in `recurrence.unroll`, but
  a pair of carries if bidirectional; return_carry: whether to return `(carry, ys)`.
  dropout acts on the inputs' products, recurrent_dropout on the states', with one mask for all
  gates or one per gate; weight_dropout acts on the recurrent weights, see
  `recurrence.drop_weights`. All need a 'dropout' key unless deterministic, and their rates may be
  traced. precision 'bfloat16' is `dtype=jnp.bfloat16` of `recurrence.unroll`; remat, truncate and
  backend are passed on to it too.

  >>> layer = rnnlab.Recurrent(rnnlab.gru(hidden_size=4), bidirectional=True)
  >>> ys, variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 5, 3)))
  >>> ys.shape
  (2, 5, 8)
  """

  cell: Cell
  bidirectional: bool = False
  dropout: float = 0.0
  recurrent_dropout: float = 0.0
  dropout_per_gate: bool = False
  precision: str = 'float32'
  remat: bool = False
  truncate: tuple[int, int] | None = None
  backend: str = 'auto'
  weight_dropout: float = 0.0

  @nn.compact
  def __call__(
    self,
    xs: Array | Lookup,
    mask: Array | None = None,
    deterministic: bool = True,
    resets: Array | None = None,
    initial_carry: Any = None,
    return_carry: bool = False,
  ) -> Any:
    xs = checks.xs(xs)
    *batch, _, input_size = xs.shape

    def direction(name):
      params = self.param(name, self.cell.init, input_size)
      if not (deterministic or all_off(self.weight_dropout)):
        of_layer = self.make_rng('dropout'), self.cell, params, input_size
        params = recurrence.drop_weights(*of_layer, self.weight_dropout)
      if deterministic or all_off(self.dropout, self.recurrent_dropout):
        return params, None
      masks = recurrence.dropout_masks(
        self.make_rng('dropout'),
        self.cell,
        params,
        *(batch or [1]),
        input_size,
        rate=self.dropout,
        recurrent_rate=self.recurrent_dropout,
        per_gate=self.dropout_per_gate,
        dtype=xs.dtype,
      )
      return params, masks if batch else tuple(m if m is None else m[..., 0, :] for m in masks)

    options: dict[str, Any] = {
      'mask': mask,
      'resets': resets,
      'initial_carry': initial_carry,
      'dtype': None if self.precision == 'float32' else self.precision,
      'remat': self.remat,
      'truncate': self.truncate,
      'backend': self.backend,
    }
    params, dropout = direction('cell')
    if self.bidirectional:
      backward, backward_dropout = direction('cell_backward')
      both = (params, backward), xs
      dropout = dropout, backward_dropout
      carry, ys = recurrence.bidirectional(self.cell, *both, dropout=dropout, **options)
    else:
      carry, ys = recurrence.unroll(self.cell, params, xs, dropout=dropout, **options)
    return (carry, ys) if return_carry else ys


def all_off(*rates: float | Array) -> bool:
  """Whether all of these dropout rates are known to be 0; a traced rate is not."""
  return all(map(recurrence.is_off, rates))


class Dropout(nn.Module):
  """Drops each value with probability `rate` and scales those kept by 1 / (1 - rate).

  Unlike that of nn.Dropout, the rate may be traced. locked: whether a feature of `[B, T, D]` is
  dropped at all steps or at none (Gal & Ghahramani 2016).
  """

  rate: float
  locked: bool = False

  @nn.compact
  def __call__(self, xs: Array, deterministic: bool = True) -> Array:
    if deterministic or all_off(self.rate):
      return xs
    return recurrence.drop(self.make_rng('dropout'), xs, self.rate, self.locked)


class WordDropout(nn.Module):
  """Drops word types, each with probability `rate`, everywhere in a batch.

  That is, it drops rows of the embedding (Gal & Ghahramani 2016, section 4.2; Merity et al. 2018,
  section 4.3). `xs [..., E]`, the vectors of ids, int `[...]` below vocab_size -> xs with zeros for
  dropped words, and the others scaled by 1 / (1 - rate). The rate may be traced.
  """

  rate: float
  vocab_size: int

  @nn.compact
  def __call__(self, xs: Array, ids: Array, deterministic: bool = True) -> Array:
    if deterministic or all_off(self.rate):
      return xs
    words = jnp.ones(self.vocab_size, xs.dtype)
    return xs * recurrence.drop(self.make_rng('dropout'), words, self.rate)[ids][..., None]


def pool(ys: Array, mask: Array | None, how: str, bidirectional: bool = False) -> Array:
  """One vector per row: `ys [B, T, F]` -> `[B, F]`, or `[B, 3F]` for 'concat' (last, mean, max).

  Only the steps where mask is True count; a row without any gives zeros. 'last' is where the
  recurrence ended: the last real step, and the first one for the backward half.

  >>> ys, mask = jnp.arange(3.0)[None, :, None], jnp.array([[True, True, False]])
  >>> rnnlab.pool(ys, mask, 'concat').tolist()
  [[1.0, 0.5, 1.0]]

  Raises ValueError for another `how`.
  """
  if how not in POOLINGS:
    choices = ', '.join(POOLINGS)
    raise ValueError(f'how must be one of {choices}, not {how!r}{cells.near(how, POOLINGS)}')
  if not ys.shape[1]:
    return jnp.zeros((len(ys), ys.shape[2] * (3 if how == 'concat' else 1)), ys.dtype)
  if mask is None:
    halves = jnp.split(ys, 2, axis=-1) if bidirectional else (ys, ys[..., :0])
    last = jnp.concatenate([halves[0][:, -1], halves[1][:, 0]], axis=-1)
    parts = {'last': last, 'mean': ys.mean(axis=1), 'max': ys.max(axis=1)}
  else:
    parts = _masked_pool(ys, mask, bidirectional)
  return jnp.concatenate(list(parts.values()), axis=-1) if how == 'concat' else parts[how]


def _masked_pool(ys, mask, bidirectional):
  steps = ys.shape[1]
  first_step = jnp.argmax(mask, axis=1)
  last_step = steps - 1 - jnp.argmax(mask[:, ::-1], axis=1)

  def at(step, values):
    return jnp.take_along_axis(values, step[:, None, None], axis=1)[:, 0]

  halves = jnp.split(ys, 2, axis=-1) if bidirectional else (ys, ys[..., :0])
  last = jnp.concatenate([at(last_step, halves[0]), at(first_step, halves[1])], axis=-1)
  real = mask[..., None]
  mean = jnp.where(real, ys, 0).sum(axis=1) / jnp.maximum(real.sum(axis=1), 1).astype(ys.dtype)
  highest = jnp.where(real, ys, jnp.finfo(ys.dtype).min).max(axis=1)
  parts = {'last': last, 'mean': mean, 'max': highest}
  return {name: jnp.where(real.any(axis=1), part, 0) for name, part in parts.items()}
