"""How likely texts are to a language model, token by token."""

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnlab.predict import adapting, forward
from rnnlab.predict.adapting import Adaptation
from rnnlab.predict.predictor import Predictor, encode
from rnnlab.training import windows

ROWS = 8  # short texts at once
NARROWEST, WIDEST = 32, 512  # tokens of a text that is short


class Token(NamedTuple):
  """A token of a text, and how much it surprised the model.

  text: as in the vocabulary, or as in the text if it is unknown. bits: its surprisal, the negative
  logarithm to base 2 of its probability, given all that came before. known: whether it is in the
  vocabulary; if not, the probability is that of any unknown token.
  """

  text: str
  bits: float
  known: bool


class Scored(NamedTuple):
  """A text with the likelihood of its tokens.

  text: the text. ids: int32 `[N]`, of its tokens, including the end of its last line. tokens: the N
  tokens. characters: int32 `[N]`, how many characters of the text each stands for.
  """

  text: str
  ids: np.ndarray
  tokens: list[Token]
  characters: np.ndarray

  @property
  def bits(self) -> float:
    """The surprisal of the whole text."""
    return math.fsum(token.bits for token in self.tokens)

  @property
  def perplexity(self) -> float:
    """2 to the power of the mean surprisal; infinite if that is too large for a float."""
    mean = self.bits / len(self.tokens)
    return 2**mean if mean < 1024 else math.inf if mean == mean else mean

  @property
  def bits_per_character(self) -> float:
    """The surprisal divided by the number of characters."""
    return self.bits / int(self.characters.sum())

  @property
  def unknown(self) -> list[str]:
    """The tokens that the model does not know."""
    return [token.text for token in self.tokens if not token.known]

  def lines(self, end: int) -> Iterator['Scored']:
    """The lines, each with its end. end: the id of the end of a line."""
    first = 0
    texts = self.text.split('\n')
    for i, place in enumerate(np.flatnonzero(self.ids == end)):
      here = slice(first, place + 1)
      text = texts[i] if i < len(texts) else ''
      yield Scored(text, self.ids[here], self.tokens[here], self.characters[here])
      first = int(place) + 1


def score(
  members: Sequence[Predictor], texts: Sequence[str], adapt: Sequence[Adaptation] = ()
) -> list[Scored]:
  """Scores each text by itself, from the end of the line before it to the end of its last line.

  For several models, their probabilities are averaged. Raises ValueError if a model gives NaN.

  adapt: how each model adapts to a text, starting anew for each text; empty: not at all.
  """
  member = members[0]
  unknown = member.encoding['unknown']
  streams = encode(member, [text.removesuffix('\n') for text in texts])
  ways: Sequence[Adaptation | None] = adapt if adapt else [None] * len(members)
  each = np.stack(
    [_concatenated(nll(of, streams, way)) for of, way in zip(members, ways, strict=True)]
  )
  bits = -np.logaddexp.reduce(-each, axis=0) / math.log(2) + math.log2(len(members))
  found, first = [], 0
  for text, stream in zip(texts, streams, strict=True):
    ids = stream['targets']
    of_text = bits[first : first + len(ids)].tolist()
    first += len(ids)
    tokens = [
      Token(member.vocabulary[i] if i != unknown else token, b, i != unknown)
      for i, token, b in zip(ids.tolist(), stream['tokens'], of_text, strict=True)
    ]
    found.append(Scored(text, ids, tokens, stream['characters']))
  return found


def _concatenated(arrays):
  return np.concatenate([np.zeros(0), *arrays])


def nll(
  member: Predictor, streams: Sequence[Mapping[str, Any]], adaptation: Adaptation | None = None
) -> list[np.ndarray]:
  """The negative log-likelihoods of the targets of streams in nats, float64 `[N]` for each.

  Those of a stream do not depend on the other streams, to the bit. Raises ValueError for NaN.

  adaptation: how the model adapts to each; None: not at all.
  """
  if adaptation:
    found = [adapting.nll(member, stream, adaptation) for stream in streams]
  else:
    found = _as_trained(member, streams)
  if any(np.isnan(array).any() for array in found):
    raise ValueError(
      f'the model of {member.config.model.cell}, seed {member.config.seed}, gives NaN: its training'
      ' has diverged. Leave this run out'
    )
  return [np.asarray(array, np.float64) for array in found]


def _as_trained(member, streams):
  found: list[Any] = [None] * len(streams)
  widths = [_width(len(stream['targets'])) for stream in streams]
  for width in sorted({*widths}):
    places = [i for i, of in enumerate(widths) if of == width]
    if width > WIDEST:
      for i in places:
        both = {name: jnp.asarray(streams[i][name]) for name in ('inputs', 'targets')}
        found[i] = _of_stream(member.model, member.params, both)
      continue
    for start in range(0, len(places), ROWS):
      here = places[start : start + ROWS]
      batch = {name: np.zeros((ROWS, width), np.int32) for name in ('inputs', 'targets')}
      for row, i in enumerate(here):
        for name, array in batch.items():
          array[row, : len(streams[i][name])] = streams[i][name]
      answered = np.asarray(_of_rows(member.model, member.params, batch))
      for row, i in enumerate(here):
        found[i] = answered[row, : len(streams[i]['targets'])]
  return found


def _width(size):
  return max(NARROWEST, 1 << (size - 1).bit_length())


_of_stream = jax.jit(windows.predict, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def _of_rows(model, params, batch):
  weights = jnp.ones(batch['targets'].shape, jnp.float32)
  outputs, _ = forward.portable(model).apply({'params': params}, {**batch, 'weights': weights})
  return outputs
