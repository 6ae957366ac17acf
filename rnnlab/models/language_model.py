"""The model of a stream of tokens: it predicts each token from all those before it."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from rnnlab.cells.base import Array, Cell, Lookup
from rnnlab.models import adaptive, initial, softmax
from rnnlab.models.layers import Dropout, Recurrent, WordDropout, all_off
from rnnlab.recurrence import checks, is_off

FEW = 8  # a table is small if a window has this many steps for each of its rows


class LanguageModel(nn.Module):
  """Token ids -> embedding -> layers of cells -> how likely each next token is.

  It is called with a batch of 'inputs' and 'targets', int `[B, T]`, 'weights', float32 `[B, T]`,
  perhaps a 'mask', bool `[B, T]`, of the real steps, and 'resets' as in `recurrence.unroll`, and
  with the carry at the end of the previous window, or None at the start; it returns `(outputs,
  carry)`. Without dropout, outputs are the negative log-likelihoods of the targets in nats, float32
  `[B, T]`. In training they are a dict: 'nll', the same without a gradient; 'total', the sum of
  weights * nll, with a gradient; and 'penalty', a scalar, if alpha or beta is not 0.

  cells: one for each layer. vocab_size, embed_size: V and E. tied: whether the output shares the
    weights of the embedding `[V, E]`, which needs a last layer of E units (Press & Wolf 2017).
  adaptive: whether the output is an adaptive softmax, see `rnnlab.models.adaptive`, which needs ids
    that are ranks by frequency, and excludes tied.
  embed_dropout, layer_dropout, output_dropout: the dropout rates of the inputs of the first layer,
    between layers, and of the outputs of the last; locked: whether these use one mask for all steps
    of a window. word_dropout: the rate of `WordDropout`.
  dropout, recurrent_dropout, weight_dropout, dropout_per_gate, precision, remat, truncate: as in
    `Recurrent`.
  alpha, beta: the weights of penalties on the mean square of the last layer's outputs, after
    dropout, and of their change from step to step, before dropout (AR and TAR: Merity et al. 2017).
  init_scale: if above 0, all parameters start uniform in +- this; otherwise convention, one of
    `rnnlab.conventions.NAMES`, says whose initialisers embedding and output use.
  """

  cells: tuple[Cell, ...]
  vocab_size: int
  embed_size: int
  tied: bool = False
  adaptive: bool = False
  embed_dropout: float = 0.0
  layer_dropout: float = 0.0
  output_dropout: float = 0.0
  dropout: float = 0.0
  recurrent_dropout: float = 0.0
  dropout_per_gate: bool = False
  precision: str = 'float32'
  remat: bool = False
  truncate: tuple[int, int] | None = None
  alpha: float = 0.0
  beta: float = 0.0
  init_scale: float = 0.0
  convention: str = 'keras'
  word_dropout: float = 0.0
  weight_dropout: float = 0.0
  locked: bool = False

  def initial_carry(self, batch_size: int) -> tuple:
    """The carry before the first step: one for each layer, arrays `[B, ...]`.

    They are of JAX's float dtype, as the parameters are.
    """
    kind = jnp.result_type(float)
    return tuple(cell.initial_carry((batch_size,), kind) for cell in self.cells)

  def __call__(
    self, batch: Mapping[str, Array], carry: Any = None, deterministic: bool = True
  ) -> tuple[Any, Any]:
    window = batch['inputs'], carry, deterministic, batch.get('mask'), batch.get('resets')
    hs, dropped, carry, output = self._run(*window)
    shape, rows = batch['targets'].shape, dropped.reshape(-1, dropped.shape[-1])
    targets = batch['targets'].ravel()
    layer: Any = adaptive if self.adaptive else softmax
    how = {} if self.adaptive else {'tied': self.tied}
    if deterministic:
      return layer.nll(rows, targets, *output, **how).reshape(shape), carry
    total, nll = layer.total_nll(rows, targets, batch['weights'].ravel(), *output, **how)
    outputs = {'nll': nll.reshape(shape), 'total': total}
    if not (is_off(self.alpha) and is_off(self.beta)):
      outputs['penalty'] = self._penalty(hs, dropped, batch['weights'])
    return outputs, carry

  def logits(self, ids: Array, carry: Any = None) -> tuple[Array, Any]:
    """The logits of the token after each token, float32 `[B, T, V]`, and the carry.

    ids: int `[B, T]`. carry: from the previous call, or None at the start.
    """
    _, hs, carry, output = self._run(ids, carry, True)
    if self.adaptive:
      return adaptive.log_probabilities(hs, *output), carry
    w, b = output
    return jnp.matmul(hs, w, preferred_element_type=jnp.float32) + b, carry

  def scored(
    self, batch: Mapping[str, Array], carry: Any = None
  ) -> tuple[Array, Array, Array, Any]:
    """Like a call without dropout, but with a gradient, also through an adaptive softmax.

    Returns the sum of weights * nll, the only part with a gradient; these negative log-likelihoods,
    float32 `[B, T]`; the last layer's outputs that they come from, `[B, T, H]`; and the carry.
    """
    window = batch['inputs'], carry, True, batch.get('mask'), batch.get('resets')
    hs, _, carry, output = self._run(*window)
    layer: Any = adaptive if self.adaptive else softmax
    of_targets = batch['targets'].ravel(), batch['weights'].ravel()
    total, nll = layer.total_nll(hs.reshape(-1, hs.shape[-1]), *of_targets, *output)
    return total, nll.reshape(batch['targets'].shape), hs, carry

  @nn.compact
  def _run(self, ids, carry, deterministic, mask=None, resets=None):
    """The last layer's outputs, the same after dropout, the carry, and the output's arguments."""
    if self.adaptive and self.tied:
      raise ValueError('an adaptive softmax has weights of its own, so tied must be False')
    start, scale = initial.get(self.convention), self.init_scale
    ids = checks.ids(ids, self.vocab_size)
    embed_init = initial.uniform(scale) if scale else start.embed
    table = self.param('embedding', embed_init, (self.vocab_size, self.embed_size))
    xs: Any = Lookup(table, ids)
    # Without dropout a kernel can multiply the table's rows in place of each step's. In training
    # they must be few, such as characters: devices then exchange the gradient by all of the table.
    plain = all_off(self.word_dropout, self.embed_dropout)
    if not (deterministic or (plain and FEW * self.vocab_size <= ids.size)):
      # Indexing would take a row from the end for ids < 0.
      known = jnp.where(ids < 0, self.vocab_size, ids)
      rows = table.at[known].get(mode='fill')
      rows = WordDropout(self.word_dropout, self.vocab_size)(rows, ids, deterministic=False)
      xs = Dropout(self.embed_dropout, self.locked)(rows, deterministic=False)
    before = self.initial_carry(len(ids)) if carry is None else carry
    after = []
    for i, cell in enumerate(self.cells):
      if i:
        xs = Dropout(self.layer_dropout, self.locked)(xs, deterministic)
      end, xs = Recurrent(
        cell._replace(init=initial.uniform_params(cell.init, scale)) if scale else cell,
        False,
        self.dropout,
        self.recurrent_dropout,
        self.dropout_per_gate,
        self.precision,
        self.remat,
        self.truncate,
        weight_dropout=self.weight_dropout,
      )(xs, mask, deterministic, resets, before[i], return_carry=True)
      after.append(end)
    if self.tied and xs.shape[-1] != self.embed_size:
      raise ValueError(
        f'tied needs a last layer of embed_size={self.embed_size} units, not {xs.shape[-1]}'
      )
    dropped = Dropout(self.output_dropout, self.locked)(xs, deterministic)
    kernel_init, bias_init = start.head(xs.shape[-1])
    if scale:
      kernel_init = bias_init = initial.uniform(scale)
    shape = xs.shape[-1], self.vocab_size
    if self.adaptive:
      output = self.param('output', adaptive.init, kernel_init, *shape), self.vocab_size
    else:
      w = table.T if self.tied else self.param('output', kernel_init, shape)
      output = w, self.param('output_bias', bias_init, shape[1:])
    return xs, dropped, tuple(after), output

  def _penalty(self, hs, dropped, weights):
    """The mean penalty over the window."""

    def mean(values, weights):
      of_steps = jnp.square(values).mean(axis=-1)
      return (weights * of_steps).sum() / jnp.maximum(weights.sum(), 1)

    change = mean(hs[:, 1:] - hs[:, :-1], weights[:, 1:])
    return self.alpha * mean(dropped, weights) + self.beta * change
