"""Continuing texts: tokens drawn from language models one after another, in one program."""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rnnlab.predict import forward
from rnnlab.predict.predictor import Predictor, encode
from rnnlab.predict.sampling import Sampling, at, keys, next_token

CHUNK = 16  # tokens computed before they are shown
HALF = '\ufffd'  # a character some of whose bytes are missing


def start(models: Sequence[nn.Module], rows: int) -> tuple[Any, ...]:
  """The carry of each model before the first token, for this many rows."""
  return tuple(model.apply({}, rows, method='initial_carry') for model in models)


def step(
  models: Sequence[nn.Module], params: Sequence[Any], ids: jax.Array, carry: Sequence[Any]
) -> tuple[jax.Array, tuple[Any, ...]]:
  """Reads a token in each row.

  ids: int32 `[B]`. carry: of each model. Returns the logits of the next tokens, float32 `[B, V]`,
  and the carry of each model. For several models, their probabilities are averaged.
  """
  found, after = [], []
  for model, of_model, before in zip(models, params, carry, strict=True):
    logits, end = forward.portable(model).apply(
      {'params': of_model}, ids[:, None], before, method='logits'
    )
    found.append(logits[:, 0])
    after.append(end)
  if len(found) == 1:
    return found[0], tuple(after)
  each = jnp.stack([jax.nn.log_softmax(logits) for logits in found])
  return jax.nn.logsumexp(each, axis=0), tuple(after)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _chunk(models, sampling, params, keys, place, given, state):
  """The state after CHUNK more tokens, these, `[CHUNK, B]`, and whether any logit was NaN.

  keys: of each row. place: how many tokens there were before. given: int32 `[CHUNK]`, tokens that
  are prescribed, or -1 where one is drawn. state: the last token of each row, and the carry.
  """

  def one(state, inputs):
    ids, carry = state
    place, must = inputs
    logits, carry = step(models, params, ids, carry)
    drawn = next_token(at(keys, place), logits, sampling)
    ids = jnp.where(must < 0, drawn, must)
    return (ids, carry), (ids, jnp.isnan(logits).any())

  state, (ids, broken) = jax.lax.scan(one, state, (place + jnp.arange(len(given)), given))
  return state, ids, broken.any()


def tokens(
  members: Sequence[Predictor], prompt: np.ndarray, sampling: Sampling, seed: int, samples: int
) -> Iterator[np.ndarray]:
  """An endless continuation of a prompt, some tokens at a time: int32 `[samples, n]`.

  The draw of a token depends on the seed, its sample's number and its place, not on how many are
  computed at a time.

  prompt: int32 `[L]`, one token or more. Raises ValueError if the model's logits are NaN.
  """
  models = tuple(member.model for member in members)
  params = tuple(member.params for member in members)
  of_samples = keys(seed, samples)
  state: Any = jnp.full(samples, prompt[0], jnp.int32), start(models, samples)
  rest = prompt[1:]
  for place in itertools.count(0, CHUNK):
    given = np.full(CHUNK, -1, np.int32)
    known = rest[place : place + CHUNK]
    given[: len(known)] = known
    state, ids, broken = _chunk(models, sampling, params, of_samples, place, given, state)
    if broken:
      raise ValueError(
        'the model gives NaN instead of probabilities: its training has diverged. Leave this run'
        ' out'
      )
    if len(known) < CHUNK:
      yield np.asarray(ids).T[:, len(known) :]


def texts(
  members: Sequence[Predictor],
  prompt: str,
  length: int,
  sampling: Sampling,
  seed: int = 0,
  samples: int = 1,
  stop: bool = False,
) -> Iterator[list[str]]:
  """Continuations of a prompt, as text, some of each sample at a time.

  length: how many tokens each has. stop: whether a sample stops at the end of its line.
  """
  member = members[0]
  (stream,) = encode(member, [prompt])
  end = member.encoding['end']
  joined = [joining(member) for _ in range(samples)]
  for more in joined:
    read = more(stream['inputs'][1:], True)
  # If words are separated by spaces, the one at the end of the prompt is there already.
  spaced = prompt[-1:].isspace() and not read.endswith(prompt[-1])
  told, over = [''] * samples, [False] * samples
  left = length
  for ids in tokens(members, stream['inputs'], sampling, seed, samples):
    parts = [''] * samples
    for i, row in enumerate(ids[:, :left]):
      if over[i]:
        continue
      if stop and len(ends := np.flatnonzero(row == end)):
        row, over[i] = row[: ends[0]], True
      over[i] |= left <= ids.shape[1]
      parts[i] = joined[i](row, over[i])
      if spaced and not told[i]:
        parts[i] = parts[i].removeprefix(' ')
      told[i] += parts[i]
    yield parts
    left -= ids.shape[1]
    if all(over):
      return


def joining(member: Predictor) -> Callable[[Iterable[int], bool], str]:
  """A function from ids, as they come, to the text that they add to the text so far.

  A character made of several tokens is added with the last of these, or once the caller says that
  no more will come.
  """
  assert member.task.join
  join, end = member.task.join, member.encoding['end']
  line: list[int] = []
  told = 0

  def more(ids, last):
    nonlocal told
    parts = []
    for one in ids:
      line.append(int(one))
      if one == end:
        parts.append(join(line, member.encoding, member.vocabulary)[told:])
        line.clear()
        told = 0
    text = join(line, member.encoding, member.vocabulary)
    whole = text if last else text.rstrip(HALF)
    parts.append(whole[told:])
    told = max(told, len(whole))
    return ''.join(parts)

  return more
