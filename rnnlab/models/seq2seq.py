"""The model of translation: predicts each token from the source and the tokens before it."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rnnlab import recurrence
from rnnlab.cells.base import Array, Cell, Lookup
from rnnlab.models import initial, softmax
from rnnlab.models.layers import Recurrent, pool
from rnnlab.recurrence import attention, checks
from rnnlab.recurrence.product import product


class Encoded(NamedTuple):
  """What a decoder knows of a source; the first axis of each array is the rows.

  memory: what it attends to, or None without attention. carries: the initial carry of each layer of
  the decoder.
  """

  memory: attention.Memory | None
  carries: tuple[Any, ...]


class Seq2Seq(nn.Module):
  """An encoder of the source, and a decoder that attends to the encoder's outputs.

      source ids -> embedding -> layers of cells, in one direction or both       -> memory
      target ids -> embedding -> a cell with attention -> layers of cells -> logits of next token

  It is called with 'source', int `[B, S]`, and 'target', int `[B, T + 1]`, which begins with a
  start symbol and is predicted from its second token on; id 0 pads at the end. It returns float32
  `[B, 2]`: the negative log-likelihood of a target in nats, summed over its tokens, and how many
  these are. In training it returns a dict of arrays `[B]`: 'nll', 'tokens' and 'objective', the nll
  with label smoothing, which has the gradient.

  To write a translation token by token, call `encode` and `start` once, and `next` at each step.

  The lowest layer of the decoder attends, as in Wu et al. (2016). Without attention, the source is
  read backwards (Sutskever et al. 2014). If the encoder is unidirectional and has the same cells,
  each layer of the decoder starts with the final carry of the encoder's layer; otherwise with
  tanh(W s + b), where s are the final outputs of the encoder's layer, in place of the vectors of
  its initial carry: an mlstm has none.

  encoder, decoder: the cells, one for each layer, equally many in both.
  source_size, target_size, embed_size: the number of ids on each side, and E. shared: whether both
    sides share one embedding `[V, E]`; tied: whether the output shares the weights of the target's
    embedding, which needs E units in the decoder's last layer.
  attention, attention_size, input_feeding: as in `rnnlab.recurrence.attention.Decoder`.
  dropout, recurrent_dropout: of the inputs and states of each layer, as in `Recurrent`;
    embed_dropout, output_dropout: of both embeddings and of the output's inputs. Each has one mask
    per row for all steps. word_dropout: the rate at which the previous token is hidden from the
    decoder.
  scheduled_sampling: the rate at which, in training, the decoder reads the token that it finds most
    likely in place of the right one (Bengio et al. 2015). A pass without dropout and gradient finds
    these tokens step by step, before the pass that is differentiated.
  label_smoothing: the part of the probability that is spread over the vocabulary (Szegedy et al.
    2016).
  precision: as in `Recurrent`; remat: that of the encoder. convention: whose initialisers
    embeddings and output use, one of `rnnlab.conventions.NAMES`.
  beam: the width of the search by which it is to be tested after training; the model ignores it.
  """

  encoder: tuple[Cell, ...]
  decoder: tuple[Cell, ...]
  source_size: int
  target_size: int
  embed_size: int
  bidirectional: bool = False
  attention: str = 'additive'
  attention_size: int = 128
  input_feeding: bool = True
  shared: bool = False
  tied: bool = False
  embed_dropout: float = 0.0
  dropout: float = 0.0
  recurrent_dropout: float = 0.0
  output_dropout: float = 0.0
  word_dropout: float = 0.0
  scheduled_sampling: float = 0.0
  label_smoothing: float = 0.0
  precision: str = 'float32'
  remat: bool = False
  convention: str = 'keras'
  beam: int = 1

  def setup(self) -> None:
    if len(self.encoder) != len(self.decoder):
      raise ValueError(
        'encoder and decoder must have equally many cells, not'
        f' {len(self.encoder)} and {len(self.decoder)}'
      )
    if self.shared and self.source_size != self.target_size:
      raise ValueError(
        'shared needs equally many ids on both sides, not'
        f' source_size={self.source_size} and target_size={self.target_size}'
      )
    start, embed = initial.get(self.convention), self.embed_size
    rates = self.dropout, self.recurrent_dropout, False, self.precision
    self.source_embedding = self.param('source_embedding', start.embed, (self.source_size, embed))
    self.target_embedding = (
      self.source_embedding
      if self.shared
      else self.param('target_embedding', start.embed, (self.target_size, embed))
    )
    self.Recurrent_encoder = [
      Recurrent(cell, self.bidirectional, *rates, self.remat) for cell in self.encoder
    ]
    self.Recurrent_above = [Recurrent(cell, False, *rates) for cell in self.decoder[1:]]
    memory_size = (1 + self.bidirectional) * attention.hidden_size(self.encoder[-1])
    self.Recurrent_decoder = self.param(
      'Recurrent_decoder',
      lambda key: attention.init(self._lowest, key, embed, memory_size),
    )
    if not self._passes:
      sizes = [sum(width for _, width in _vectors(cell)) for cell in self.decoder]
      if self.attention == 'none' and not any(sizes):
        raise ValueError(
          'without attention, a decoder knows the source only by the vectors in its carry, and the'
          f' carry of {self.decoder[0]} has none: choose another cell, attention, or an encoder of'
          ' one direction with the same cells'
        )
      self.bridge = [nn.Dense(size) if size else None for size in sizes]
    shape = attention.hidden_size(self.decoder[-1]), self.target_size
    kernel_init, bias_init = start.head(shape[0])
    w = self.target_embedding.T if self.tied else self.param('output', kernel_init, shape)
    self.head = w, self.param('output_bias', bias_init, shape[1:])

  @property
  def _lowest(self):
    options = self.attention, self.attention_size, self.input_feeding
    return attention.Decoder(self.decoder[0], *options)

  @property
  def _rounded(self):
    """The `dtype` of `recurrence.unroll`."""
    return None if self.precision == 'float32' else self.precision

  @property
  def _passes(self):
    """Whether the decoder starts with the encoder's final carries unchanged."""
    return not self.bidirectional and self.encoder == self.decoder

  def __call__(self, inputs: Mapping[str, Array], deterministic: bool = True) -> Any:
    target = checks.ids(inputs['target'], self.target_size, 'target')
    ids, targets = target[:, :-1], target[:, 1:]
    real = targets != 0
    encoded = self.encode(inputs['source'], deterministic)
    if not (deterministic or recurrence.is_off(self.scheduled_sampling)):
      ids = self._read(encoded, ids)
    hs = self._teacher_forced(encoded, ids, real, deterministic)
    given = hs.reshape(-1, hs.shape[-1]), targets.ravel(), real.ravel(), *self.head, self.tied
    found = softmax.real_nll(*given, smoothing=0.0 if deterministic else self.label_smoothing)
    nll, objective = (of.reshape(real.shape).sum(axis=1) for of in found)
    tokens = real.sum(axis=1).astype(jnp.float32)
    if deterministic:  # without smoothing, the objective is the nll, and has a gradient
      return jnp.stack([objective, tokens], axis=1)
    return {'nll': nll, 'objective': objective, 'tokens': tokens}

  def encode(self, source: Array, deterministic: bool = True) -> Encoded:
    """What a decoder has to know of sources, int `[B, S]`, padded at the end with id 0."""
    ids = checks.ids(source, self.source_size, 'source')
    real = ids != 0
    if self.attention == 'none':
      back = real.sum(axis=1, keepdims=True) - 1 - jnp.arange(ids.shape[1])
      ids = jnp.where(real, jnp.take_along_axis(ids, jnp.maximum(back, 0), axis=1), 0)
    xs: Any = Lookup(self.source_embedding, ids)
    if not deterministic:
      rows = _rows(self.source_embedding, ids)
      xs = self._drop(rows, self.embed_dropout, deterministic=False)
    carries = []
    for i, layer in enumerate(self.Recurrent_encoder):
      carry, xs = layer(xs, real, deterministic, return_carry=True)
      if not self._passes:
        ends = pool(xs, real, 'last', self.bidirectional)
        bridge = self.bridge[i]
        ends = ends[:, :0] if bridge is None else jnp.tanh(bridge(ends))
        carry = _filled(self.decoder[i], ends)
      carries.append(carry)
    memory = None
    if self.attention != 'none':
      memory = attention.remember(self._lowest, self.Recurrent_decoder, xs, real)
    return Encoded(memory, tuple(carries))

  def start(self, encoded: Encoded) -> tuple[Any, ...]:
    """The carry before the first token of translations: one for each layer of the decoder."""
    lowest, *above = encoded.carries
    size = jax.tree.leaves(lowest)[0].shape[0]  # in an export it is a symbol, without len()
    return attention.initial_carry(self._lowest, size, lowest), *above

  def next(
    self, encoded: Encoded, carry: tuple[Any, ...], ids: Array
  ) -> tuple[Array, tuple[Any, ...], Array | None]:
    """Reads the tokens `ids`, int `[B]`; gives logits of the next ones, float32 `[B, V]`, and more.

    encoded: from `encode`. carry: from `start`, or from the previous call. Returns the logits, the
    carry, and how much each place of the source was attended to, `[B, S]`, or None without
    attention.
    """
    xs = _rows(self.target_embedding, checks.ids(ids, self.target_size))
    params, memory = self.Recurrent_decoder, encoded.memory
    dot = functools.partial(product, dtype=self._rounded)
    lowest, hs = attention.step(self._lowest, params, memory, carry[0], xs, dot)
    weights = None
    if memory is not None:
      weights = attention.attended(self._lowest, params, memory, carry[0], lowest)
    after = [lowest]
    for layer, before in zip(self.Recurrent_above, carry[1:], strict=True):
      end, ys = layer(hs[:, None], initial_carry=before, return_carry=True)
      hs = ys[:, 0]
      after.append(end)
    w, b = self.head
    logits = jnp.matmul(hs, w, preferred_element_type=jnp.float32) + b
    return logits, tuple(after), weights

  def _teacher_forced(self, encoded, ids, real, deterministic):
    """The last layer's outputs at each step, `[B, T, H]`, given the right previous tokens.

    real: bool `[B, T]`, the steps that are not padding.
    """
    xs = self._drop(_rows(self.target_embedding, ids), self.embed_dropout, deterministic)
    if not (deterministic or recurrence.is_off(self.word_dropout)):
      seen = jax.random.bernoulli(self.make_rng('dropout'), 1 - self.word_dropout, ids.shape)
      xs = jnp.where(seen[..., None], xs, 0)
    lowest, params = self._lowest, self.Recurrent_decoder
    first, *above = self.start(encoded)
    masks = None
    if not (deterministic or recurrence.is_off(self.dropout + self.recurrent_dropout)):
      masks = recurrence.dropout_masks(
        self.make_rng('dropout'),
        lowest.cell,
        params['cell'],
        len(ids),
        attention.input_size(lowest, params, xs.shape[-1]),
        rate=self.dropout,
        recurrent_rate=self.recurrent_dropout,
        dtype=xs.dtype,
      )
    _, hs = attention.decode(
      lowest,
      params,
      xs,
      encoded.memory,
      carry=first,
      mask=real,
      dropout=masks,
      dtype=self._rounded,
    )
    for layer, before in zip(self.Recurrent_above, above, strict=True):
      hs = layer(hs, real, deterministic, initial_carry=before)
    return self._drop(hs, self.output_dropout, deterministic)

  def _read(self, encoded, ids):
    """The tokens before, `[B, T]`, some of them the decoder's own in place of `ids`."""
    own = jax.random.bernoulli(self.make_rng('dropout'), self.scheduled_sampling, ids.shape)
    own = own.at[:, 0].set(False)  # nothing was said before the first
    model, variables = self.unbind()  # Flax's modules cannot be called in a scan

    def one(state, given):
      carry, said = state
      right, own = given
      read = jnp.where(own, said, right)
      logits, carry, _ = model.apply(variables, encoded, carry, read, method='next')
      return (carry, jnp.argmax(logits, axis=-1).astype(ids.dtype)), read

    start = self.start(encoded), ids[:, 0]
    _, read = jax.lax.scan(one, jax.lax.stop_gradient(start), (ids.T, own.T))
    return read.T

  def _drop(self, xs, rate, deterministic):
    if deterministic or recurrence.is_off(rate):
      return xs
    return recurrence.drop(self.make_rng('dropout'), xs, rate, locked=True)


def _rows(table, ids):
  """Rows of an embedding; NaN for a traced id that is out of range."""
  known = jnp.where(ids < 0, len(table), ids)
  return table.at[known].get(mode='fill')


def _vectors(cell):
  """The shapes of those arrays of a cell's carry that are `_filled`, for one row."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(cell.initial_carry((1,), jnp.float32))
  return [leaf.shape for path, leaf in leaves if _is_vector(path, leaf)]


def _is_vector(path, leaf):
  """Whether an array of a carry is a vector of each row that may start from anything.

  That excludes n and m of the xLSTM's cells, which say how much the memory weighs: nothing before
  the first step.
  """
  floats = jnp.issubdtype(leaf.dtype, jnp.floating)
  return leaf.ndim == 2 and floats and jax.tree_util.keystr(path) not in ('.n', '.m')


def _filled(cell, values):
  """A cell's initial carry with the numbers `values [B, K]` in place of its vectors."""
  start = cell.initial_carry(values.shape[:1], values.dtype)
  leaves, tree = jax.tree_util.tree_flatten_with_path(start)
  at, filled = 0, []
  for path, leaf in leaves:
    if _is_vector(path, leaf):
      leaf, at = values[:, at : at + leaf.shape[1]], at + leaf.shape[1]
    filled.append(leaf)
  return jax.tree.unflatten(tree, filled)
