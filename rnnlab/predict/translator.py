"""Trained translation models, to translate new texts."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rnnlab.data import pairs, units
from rnnlab.data import text as data_text
from rnnlab.models import decoding
from rnnlab.models.decoding import Search
from rnnlab.predict import forward, sampling
from rnnlab.predict.predictor import Predictor, encode
from rnnlab.predict.sampling import Sampling

BEAM, LENGTH, COVERAGE = 5, decoding.LENGTH, 0.0  # the defaults of a search
ROWS = 64  # hypotheses computed at once


class Translation(NamedTuple):
  """A translation of a text.

  text: for people. score: by which it was chosen, see `rnnlab.models.decoding.Search`. log_prob:
  the logarithm of its probability. ids: of its tokens, including the end.
  """

  text: str
  score: float
  log_prob: float
  ids: tuple[int, ...]


class Attention(NamedTuple):
  """How much each token of a translation attended to each token of its source, including the ends.

  source: S tokens. target: T tokens. weights: float32 `[T, S]`, whose rows sum to 1.
  """

  source: tuple[str, ...]
  target: tuple[str, ...]
  weights: np.ndarray


class Translator(NamedTuple):
  """A trained model that translates, or several, whose probabilities are averaged.

    model = rnnlab.load('runs/translation/RUN')
    model.translate(['Ein Mann schläft.'])

  members: one or more of them, which read texts in the same way, such as the seeds of a setting.
  """

  members: tuple[Predictor, ...]

  @property
  def config(self) -> ConfigDict:
    """The config of its run; if there are several, that of the first."""
    return self.members[0].config

  @property
  def vocabulary(self) -> tuple[str, ...]:
    """The tokens that it may write, in the order of their ids."""
    return self.members[0].vocabulary

  def __getattr__(self, name: str) -> Any:
    raise AttributeError(
      f'a model that translates has no {name!r}: it has translate, best, draw and attention'
    )

  def translate(self, texts: Sequence[str], beam: int = BEAM, **options: Any) -> list[str]:
    """The best translation of each text that a search finds. options: those of `best`."""
    return [one[0].text for one in self.best(texts, 1, beam, **options)]

  def best(
    self,
    texts: Sequence[str],
    count: int = BEAM,
    beam: int = BEAM,
    length: float = LENGTH,
    coverage: float = COVERAGE,
    unknown: bool = False,
  ) -> list[list[Translation]]:
    """The best translations of each text, the best first; there may be fewer than asked for.

    The translation of a text without tokens is empty. The translations of a text do not depend on
    the other texts, to the bit.

    count: how many for each text; the beam is at least as wide. beam: how many hypotheses are kept
    at each step; 1 takes the most likely token each time. length, coverage: penalties, see
    `rnnlab.models.decoding.Search`. unknown: whether it may write the token for unknown words.

    Raises TypeError, naming the first, for texts that are not str; ValueError for numbers out of
    range, and for a model that gives NaN.
    """
    if int(count) != count or count < 1:
      raise ValueError(f'count={count}: it must be a whole number of translations, 1 or more')
    size = max(beam, count) if beam >= 1 else beam
    search = Search(pairs.BOS, pairs.EOS, never(unknown), size, float(length), float(coverage))
    decoding.check(search)

    def of_batch(source):
      return decoding.found(*self.parts(), source, search)

    return self._translations(texts, of_batch, size, count)

  def draw(
    self,
    texts: Sequence[str],
    samples: int = 1,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    unknown: bool = False,
  ) -> list[list[Translation]]:
    """Random translations of each text, with each token drawn from the model's probabilities.

    The same arguments give the same translations. samples: how many for each text. temperature,
    top_k, top_p: see `rnnlab.predict.sampling.Sampling`. The rest, and what is raised, is as in
    `best`.
    """
    for name, value, least in (('samples', samples, 1), ('seed', seed, 0)):
      if int(value) != value or not least <= value < 2**32:
        raise ValueError(f'{name}={value}: it must be a whole number from {least}')
    how = sampling.check(Sampling(float(temperature), top_k, float(top_p), never(unknown)))
    each = []
    for key in sampling.keys(seed, samples):

      def of_batch(source, key=key):
        return _drawn(*self.parts(), source, how, key)

      each.append(self._translations(texts, of_batch, 1, 1))
    return [[found[0] for found in of_text] for of_text in zip(*each, strict=True)]

  def attention(self, text: str, translation: Translation | None = None) -> Attention:
    """Which tokens of a text each token of a translation attended to; by default its best one.

    Raises ValueError for a model without attention.
    """
    translation = self.best([text], 1)[0][0] if translation is None else translation
    member = self.members[0]
    source = encode(member, data_text.listed([text]))
    width = decoding.width(int((source != 0).sum()))
    batch = np.zeros((1, width), np.int32)
    batch[0, : source.shape[1]] = source[0]
    longest = decoding.limits(jnp.asarray(batch))[1]
    ids = np.full((1, longest + 1), pairs.EOS, np.int32)  # of few shapes
    ids[0, : len(translation.ids)] = translation.ids
    found = _followed(*self.parts(), batch, ids)[1]
    if found is None:
      raise ValueError('this model has no attention to show')
    return Attention(
      _tokens(source[0], member.encoding['source'], text),
      _tokens(translation.ids, member.encoding['target']),
      np.asarray(found)[0, : len(translation.ids), : source.shape[1]],
    )

  def parts(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The models and their params, the arguments of `rnnlab.models.decoding.of_models`."""
    models = tuple(forward.portable(member.model) for member in self.members)
    return models, tuple(member.params for member in self.members)

  def _translations(self, texts, of_batch, size, count):
    member = self.members[0]
    source = encode(member, data_text.listed(texts))
    found = decoding.in_batches(of_batch, source, max(1, ROWS // size))
    if not np.isfinite(found.scores[:, 0]).all():
      raise ValueError(
        f'the model of {member.config.model.cell}, seed {member.config.seed}, gives NaN: its'
        ' training has diverged. Leave this run out'
      )
    return [[*self._told(*of_text)][:count] for of_text in zip(*found, strict=True)]

  def _told(self, ids, log_probs, scores):
    member = self.members[0]
    assert member.task.join
    for of_one, log_prob, score in zip(ids.tolist(), log_probs, scores, strict=True):
      if np.isfinite(score):
        whole = tuple(of_one[: of_one.index(pairs.EOS) + 1])
        told = member.task.join(whole, member.encoding, member.vocabulary)
        yield Translation(told, float(score), float(log_prob), whole)


def never(unknown: bool) -> tuple[int, ...]:
  """The ids that are never written. unknown: whether the one for unknown words may be."""
  return (pairs.PAD, pairs.BOS) if unknown else (pairs.PAD, pairs.BOS, pairs.UNK)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _drawn(models, params, source, how, key):
  keys = jnp.broadcast_to(key, len(source))

  def choose(logits, place):
    return sampling.next_token(sampling.at(keys, place), logits, how)

  parts = decoding.of_models(models, params, source)
  search = Search(pairs.BOS, pairs.EOS)
  return decoding.draw(*parts, *decoding.limits(source), search, choose)


@functools.partial(jax.jit, static_argnums=0)
def _followed(models, params, source, ids):
  return decoding.follow(*decoding.of_models(models, params, source), ids, pairs.BOS)


def _tokens(ids, side, text=None):
  """The tokens of ids as people read them. text: shows what unknown tokens were, if given."""
  words, unit = side['vocabulary'], side['unit']
  if unit == 'subword':
    shown = [pairs.decode([i], side) if i >= pairs.FIRST else words[i] for i in ids]
  else:
    shown = [words[i] for i in ids]
  if text is not None and unit != 'subword':
    read = [*units.split(' '.join(text.split()), side), units.END]
    shown = [a if i == pairs.UNK else b for i, a, b in zip(ids, read, shown, strict=True)]
  return tuple(shown)


def unknown(model: Translator, text: str) -> list[str]:
  """The tokens of a text that a model does not know, in their order."""
  member = model.members[0]
  ids = encode(member, [text])[0]
  tokens = _tokens(ids, member.encoding['source'], text)
  return [token for i, token in zip(ids, tokens, strict=True) if i == pairs.UNK]


def of_members(members: Sequence[Predictor]) -> Translator:
  """Several models that translate as one.

  Raises ValueError for no models, for members with different vocabularies, and for an encoding that
  does not fit.
  """
  if not members:
    raise ValueError('an ensemble needs at least one member')
  first = members[0]
  if any((m.vocabulary, m.encoding) != (first.vocabulary, first.encoding) for m in members):
    raise ValueError('these runs have different vocabularies: use one of them')
  for side in pairs.SIDES:
    words = first.encoding.get(side, {}).get('vocabulary')
    if not isinstance(words, list | tuple) or [*words[: pairs.FIRST]] != [*pairs.SPECIAL]:
      raise ValueError(f'the encoding must have the vocabulary of the {side} side: {words!r:.60}')
  if [*first.vocabulary] != [*first.encoding['target']['vocabulary']]:
    raise ValueError('the vocabulary is not that of the target side of the encoding')
  return Translator(tuple(members))
