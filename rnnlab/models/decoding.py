"""Decoding from a model that writes token by token: greedy, by beam search, or by sampling.

Here a model is a function `next(memory, carry, ids) -> (logits, carry, attention)`, which reads one
token of each row: ids, int32 `[N]`; logits of the next token, float32 `[N, V]`; and how much it
attended to each place of its source, float32 `[N, S]`, or None. memory, which never changes, and
carry are pytrees of arrays `[N, ...]`. No row may depend on another.

N sentences, K hypotheses of each, V tokens, S places of a source, at most L tokens of a target, not
counting the end.
"""

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Imports neither rnnlab nor Flax, as this file is also part of the zip of an exported model.
if TYPE_CHECKING:
  import flax.linen as nn

Array = jax.Array
Next = Callable[[Any, Any, Array], tuple[Array, Any, Array | None]]
LENGTH = 0.6  # the default length penalty of a search
NARROWEST = 8  # the least places of a source in a batch


class Search(NamedTuple):
  """What is searched for: the score is that of Wu et al. (2016), equation 14.

      score = log P(Y | X) / ((5 + n) / 6)^length + coverage * sum_s log(min(sum_t a_ts, 1))

  Y has n tokens, including its end, and a_ts is how much step t attended to place s. Hypotheses
  that have not ended all have the same length, and are chosen by log P alone.

  begin: the id that is read first. end: the id that ends a text. never: ids that are never written.
  size: K, how many hypotheses are kept. length, coverage: the penalties above; 0 for none.
  """

  begin: int
  end: int
  never: tuple[int, ...] = ()
  size: int = 5
  length: float = 1.0
  coverage: float = 0.0


class Found(NamedTuple):
  """Hypotheses, the best first.

  ids: int32 `[N, K, L + 1]`, each with its end, then 0. log_probs: `[N, K]`, log P.
  scores: `[N, K]`; -inf where there are fewer hypotheses. If a model gives NaN, the score of the
    first one is not finite.
  """

  ids: Any
  log_probs: Any
  scores: Any


def check(search: Search) -> Search:
  """Returns `search`. Raises ValueError, for people, for numbers out of range."""
  if search.size != int(search.size) or search.size < 1:
    raise ValueError(f'beam={search.size}: it must be a whole number of hypotheses, 1 or more')
  for name in ('length', 'coverage'):
    if not 0 <= getattr(search, name) < float('inf'):
      raise ValueError(f'{name}={getattr(search, name)}: the penalty must be 0 (none) or more')
  return search


def greedy(
  next: Next, memory: Any, carry: Any, limits: Array, longest: int, search: Search
) -> Found:
  """The most likely token at each step: one hypothesis for each sentence, whose score is log P.

  limits: int32 `[N]`, how many tokens each may have before it must end, at most `longest`, which is
  L. search: only begin, end and never are used.
  """

  def likeliest(logits, place):
    return _likeliest(_allowed(logits, search.never))

  return draw(next, memory, carry, limits, longest, search, likeliest)


def draw(
  next: Next,
  memory: Any,
  carry: Any,
  limits: Array,
  longest: int,
  search: Search,
  choose: Callable[[Array, Array], Array],
) -> Found:
  """Takes at each step the token that `choose(logits [N, V], place) -> ids [N]` chooses.

  place: how many tokens came before, an int32. The other arguments and the result are those of
  `greedy`.
  """
  rows = len(limits)

  def going_on(state):
    place, done, *_ = state
    return (place <= longest) & ~done.all()

  def one(state):
    place, done, last, carry, ids, log_probs = state
    logits, carry, _ = next(memory, carry, last)
    chosen = jnp.where(place >= limits, search.end, choose(logits, place)).astype(jnp.int32)
    of_chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), chosen[:, None], axis=1)[:, 0]
    chosen = jnp.where(done, 0, chosen)
    log_probs += jnp.where(done, 0, of_chosen)
    ids = ids.at[:, place].set(chosen)
    return place + 1, done | (chosen == search.end), chosen, carry, ids, log_probs

  start = (
    jnp.int32(0),
    jnp.zeros(rows, bool),
    jnp.full(rows, search.begin, jnp.int32),
    carry,
    jnp.zeros((rows, longest + 1), jnp.int32),
    jnp.zeros(rows),
  )
  *_, ids, log_probs = jax.lax.while_loop(going_on, one, start)
  return Found(ids[:, None], log_probs[:, None], log_probs[:, None])


class _Beam(NamedTuple):
  """The state of a search: hypotheses in progress, `[N, K, ...]`, and ended ones, the best first.

  The carry's arrays are `[N K, ...]`.
  """

  place: Array
  done: Array  # [N]
  last: Array
  carry: Any
  ids: Array
  log_probs: Array
  attended: Array | None  # [N, K, S], the sum over steps
  ended: Found


def beam(
  next: Next,
  memory: Any,
  carry: Any,
  limits: Array,
  longest: int,
  search: Search,
  there: Array | None = None,
) -> Found:
  """The best hypotheses that a beam search finds.

  At each step there are K hypotheses. Of all their continuations, those among the K most likely
  that end are finished, and the K most likely that do not end go on. A sentence is done once K
  hypotheses have ended, or at its limit, where all must end. A beam of 1 equals `greedy`.

  limits, longest: as in `greedy`. there: bool `[N, S]`, the places that a source has, which a
  coverage penalty needs.

  Raises ValueError for a coverage penalty if the model has no attention.
  """
  rows, size = len(limits), search.size
  memory, carry = jax.tree.map(lambda a: jnp.repeat(a, size, axis=0), (memory, carry))
  attended = None
  if search.coverage:
    attends = jax.eval_shape(next, memory, carry, jnp.zeros(rows * size, int))[2] is not None
    if there is None or not attends:
      raise ValueError('a coverage penalty needs a model that attends to its source')
    attended = jnp.zeros((rows, size, there.shape[1]))
  nothing = jnp.full((rows, size), -jnp.inf)
  none = jnp.zeros((rows, size, longest + 1), jnp.int32)
  start = _Beam(
    place=jnp.int32(0),
    done=jnp.zeros(rows, bool),
    last=jnp.full((rows, size), search.begin, jnp.int32),
    carry=carry,
    ids=none,
    log_probs=nothing.at[:, 0].set(0),  # at first there is one hypothesis
    attended=attended,
    ended=Found(none, nothing, nothing),
  )
  step = functools.partial(_step, next, memory, limits, there, search)
  return jax.lax.while_loop(lambda of: (of.place <= longest) & ~of.done.all(), step, start).ended


def _step(next, memory, limits, there, search, of):
  """One step of a beam, a _Beam."""
  rows, size = of.last.shape
  logits, carry, attention = next(memory, of.carry, of.last.ravel())
  more = _allowed(jax.nn.log_softmax(logits), search.never).reshape(rows, size, -1)
  must_end = (of.place >= limits)[:, None, None] & (jnp.arange(more.shape[-1]) != search.end)
  more = jnp.where(must_end, -jnp.inf, of.log_probs[:, :, None] + more)
  flat = more.reshape(rows, -1)
  # Each hypothesis can end in only one way, so at least K of the best 2 K do not end. Without the
  # barriers XLA sorts all of K V values on a CPU, which takes most of the search's time: it finds
  # the best few by themselves only where the whole of the result is used. With one barrier for
  # both, its compiler ends the process if the parameters are on several devices.
  found = jax.lax.top_k(flat, min(2 * size, flat.shape[1]))
  values, which = map(jax.lax.optimization_barrier, found)
  parents, tokens = which // more.shape[-1], (which % more.shape[-1]).astype(jnp.int32)
  ends = tokens == search.end
  attended = of.attended
  if attended is not None:
    attended += attention.reshape(attended.shape)

  def ended(values, parents, ends):
    ids = _rows(of.ids, parents).at[:, :, of.place].set(search.end)
    log_probs = jnp.where(ends & ~of.done[:, None], values, -jnp.inf)
    scores = log_probs / ((5 + of.place + 1) / 6) ** search.length
    if attended is not None:
      sums = jnp.clip(_rows(attended, parents), jnp.finfo(attended.dtype).tiny, 1)
      scores += search.coverage * jnp.where(there[:, None], jnp.log(sums), 0).sum(axis=-1)
    return Found(ids, log_probs, scores)

  first = slice(None), slice(size)
  new = ended(values[first], parents[first], ends[first])
  both = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), of.ended, new)
  order = jax.lax.top_k(both.scores, size)[1]
  kept = jax.tree.map(lambda a: _rows(a, order), both)
  log_probs, order = jax.lax.top_k(jnp.where(ends, -jnp.inf, values), size)
  parents, tokens = _rows(parents, order), _rows(tokens, order)
  of_carry = (jnp.arange(rows)[:, None] * size + parents).ravel()
  return _Beam(
    place=of.place + 1,
    done=of.done | (of.place >= limits) | (kept.scores > -jnp.inf).all(axis=1),
    last=tokens,
    carry=jax.tree.map(lambda a: a[of_carry], carry),
    ids=_rows(of.ids, parents).at[:, :, of.place].set(tokens),
    log_probs=log_probs,
    attended=attended if attended is None else _rows(attended, parents),
    ended=kept,
  )


def _rows(array, places):
  """The hypotheses at these places `[N, J]` of an array `[N, K, ...]`."""
  return jax.vmap(lambda a, i: a[i])(array, places)


def _allowed(logits, never):
  return jnp.where(np.isin(np.arange(logits.shape[-1]), never), -jnp.inf, logits)


def _likeliest(logits):
  """The argmax, or the last token if there is a NaN. On a CPU XLA does not vectorise its own."""
  size = logits.shape[-1]
  here = logits == logits.max(axis=-1, keepdims=True)
  return jnp.where(here, jnp.arange(size, dtype=jnp.int32), size - 1).min(axis=-1)


def follow(
  next: Next, memory: Any, carry: Any, ids: Array, begin: int
) -> tuple[Array, Array | None]:
  """Scores given tokens with a model.

  ids: int32 `[N, T]`. begin: the id that is read before them. Returns the log-probability of each,
  `[N, T]`, and how much the step that predicts it attends to each place, `[N, T, S]` or None.
  """

  def one(state, token):
    carry, last = state
    logits, carry, attention = next(memory, carry, last)
    said = jnp.take_along_axis(jax.nn.log_softmax(logits), token[:, None], axis=1)[:, 0]
    return (carry, token), (said, attention)

  start = carry, jnp.full(len(ids), begin, jnp.int32)
  _, found = jax.lax.scan(one, start, ids.T)
  return jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), found)


# For models with the methods `encode(source) -> memory`, `start(memory) -> carry`, and
# `next(memory, carry, ids)` as above.


def of_models(
  models: 'Sequence[nn.Module]', params: Sequence[Any], source: Array
) -> tuple[Next, Any, Any]:
  """(next, memory, carry) of a model, or of several, whose probabilities are averaged.

  params: those of each model. source: the argument of `encode`.
  """
  both = [*zip(models, params, strict=True)]
  memory = tuple(model.apply({'params': of}, source, method='encode') for model, of in both)
  carry = tuple(
    model.apply({'params': of}, one, method='start')
    for (model, of), one in zip(both, memory, strict=True)
  )
  return next_of(models, params), memory, carry


def next_of(models: 'Sequence[nn.Module]', params: Sequence[Any]) -> Next:
  """The function `next` that `of_models` returns."""
  both = [*zip(models, params, strict=True)]

  def next(memory, carry, ids):
    found = [
      model.apply({'params': of}, one, before, ids, method='next')
      for (model, of), one, before in zip(both, memory, carry, strict=True)
    ]
    logits, carry, attention = zip(*found, strict=True)
    if len(found) == 1:
      return logits[0], carry, attention[0]
    logits = jax.nn.logsumexp(jnp.stack([*map(jax.nn.log_softmax, logits)]), axis=0)
    known = [of for of in attention if of is not None]
    return logits, carry, sum(known) / len(known) if known else None

  return next


def limits(source: Array) -> tuple[Array, int]:
  """The most tokens of a translation: for each source, int32 `[N]`, and for any, for `beam`.

  source: int32 `[N, S]`, tokens and an end, then 0. The translation of an empty source is empty.
  The limit leaves room for commands of which a word or two ask for many actions.
  """
  tokens = (source != 0).sum(axis=1) - 1
  return jnp.where(tokens > 0, 2 * tokens + 30, 0), 2 * source.shape[1] + 30


@functools.partial(jax.jit, static_argnums=(0, 3))
def found(
  models: 'tuple[nn.Module, ...]', params: tuple[Any, ...], source: Array, search: Search
) -> Found:
  """The best hypotheses for sources, int32 `[N, S]`, as in `limits`; greedy if the size is 1."""
  given = *of_models(models, params, source), *limits(source), search
  if search.size == 1:
    return greedy(*given)
  return beam(*given, source != 0)


def in_batches(of_batch: Callable[[np.ndarray], Found], source: np.ndarray, rows: int) -> Found:
  """What a function returns for each source, as NumPy arrays, from batches of few shapes.

  The shape of a source's batch depends only on the source, and so does its answer.

  of_batch: takes int32 `[rows, width]`, whose rows may have no tokens. source: int32 `[N, S]`.
  """
  lengths = (source != 0).sum(axis=1)
  widths = np.array([width(length) for length in lengths.tolist()], int)
  order = np.argsort(lengths, kind='stable')
  parts, places = [], []
  for columns in np.unique(widths):
    of_width = order[widths[order] == columns]
    for start in range(0, len(of_width), rows):
      here = of_width[start : start + rows]
      batch = np.zeros((rows, columns), np.int32)
      some = min(columns, source.shape[1])
      batch[: len(here), :some] = source[here, :some]
      parts.append([np.asarray(a)[: len(here)] for a in of_batch(batch)])
      places.append(here)
  if not parts:
    return Found(np.zeros((0, 1, 1), np.int32), np.zeros((0, 1)), np.zeros((0, 1)))
  longest = max(ids.shape[2] for ids, *_ in parts)
  for part in parts:
    part[0] = np.pad(part[0], [(0, 0), (0, 0), (0, longest - part[0].shape[2])])
  back = np.argsort(np.concatenate(places))
  return Found(*(np.concatenate(of)[back] for of in zip(*parts, strict=True)))


def width(length: int) -> int:
  """The number of places in a batch for a source of this length."""
  return max(NARROWEST, 1 << (length - 1).bit_length())
