"""Trained classifiers of texts: one, and an ensemble of several that differ in the seed."""

from collections.abc import Iterable, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np
from ml_collections import ConfigDict

from rnnlab.data import text
from rnnlab.machine import provenance
from rnnlab.predict import forward


class Word(NamedTuple):
  """A word of a text, and by how much it moved the log-odds of the text's being positive.

  text: the word, in lower case.
  weight: positive where the word speaks for a positive text; see `Predictor.explain`.
  known: whether the word is of the vocabulary; the model reads all others as one and the same.
  """

  text: str
  weight: float
  known: bool


class Predictor(NamedTuple):
  """A trained classifier, with all that it needs to read a text.

  config: the config of its run.
  model: the Flax module.
  params: its params, those that the run reports.
  vocabulary: the words that it knows, in the order of their ids; the first has id 4.

  >>> (ensemble,) = rnnlab.load_ensembles('runs/imdb').values()
  >>> (predictor,) = ensemble.members
  >>> [word.text for word in predictor.explain('A good film!')]
  ['a', 'good', 'film']
  """

  config: ConfigDict
  model: nn.Module
  params: Any
  vocabulary: tuple[str, ...]

  @property
  def members(self) -> tuple['Predictor', ...]:
    """Itself alone, as the members of an `Ensemble` of one."""
    return (self,)

  def predict(self, texts: Sequence[str]) -> np.ndarray:
    """The probability that each text is positive, float32 `[N]`.

    A text's probability does not depend on the other texts, to the bit. Raises TypeError, naming
    the first, for texts that are not str; ValueError for a model of several classes and for one
    whose answer is NaN.
    """
    return probabilities(self.members, encode(self.members, texts))[0]

  def explain(self, text: str) -> list[Word]:
    """The words that the model reads of a text, each with its weight in the log-odds.

    A word's weight is its embedding times the gradient of the log-odds with respect to it, summed
    over the features (Shrikumar et al. 2016) and taken through all steps: to first order, by how
    much the log-odds would fall if the embedding were 0.
    """
    return _explain(self, text)


class Ensemble(NamedTuple):
  """Trained classifiers of one setting, which differ in the seed.

  members: one or more of them.

  >>> (ensemble,) = rnnlab.load_ensembles('runs/imdb').values()
  >>> ensemble.predict(['a good film', '']).shape, ensemble.each(['a good film', '']).shape
  ((2,), (1, 2))
  """

  members: tuple[Predictor, ...]

  def each(self, texts: Sequence[str]) -> np.ndarray:
    """The probabilities by each of the M members, float32 `[M, N]`."""
    return probabilities(self.members, encode(self.members, texts))

  def predict(self, texts: Sequence[str]) -> np.ndarray:
    """The mean of the members' probabilities, float32 `[N]`."""
    return self.each(texts).mean(axis=0)

  def explain(self, text: str) -> list[Word]:
    """The words of a text with the mean of the members' weights; see `Predictor.explain`."""
    return [
      Word(words[0].text, float(np.mean([word.weight for word in words])), words[0].known)
      for words in zip(*(_explain(member, text) for member in self.members), strict=True)
    ]


Encoded = dict[tuple[str, ...], list[list[int]]]  # the same texts as ids, by vocabulary


def encode(members: Sequence[Predictor], texts: Iterable[str]) -> Encoded:
  """The ids of texts by each vocabulary that one of `members` has.

  Raises TypeError for texts that are not str, and ValueError where `check` does.
  """
  check(members)
  texts = text.listed(texts)
  return {words: text.encode(texts, words) for words in {m.vocabulary: None for m in members}}


def check(members: Sequence[Predictor]) -> None:
  """Raises ValueError for no members, and for one of several classes or of another vocabulary."""
  if not members:
    raise ValueError('an ensemble needs at least one member')
  for member in members:
    if (classes := getattr(member.model, 'classes', 1)) != 1:
      raise ValueError(
        f'a model of {classes} classes cannot be asked or exported here: what it says must be'
        ' whether a text is positive (classes=1). Its logits are `model.apply({"params": params},'
        ' ids)`'
      )
    ids = len(member.vocabulary) + text.FIRST_WORD
    if ids > getattr(member.model, 'vocab_size', ids):
      raise ValueError(
        f'a vocabulary of {len(member.vocabulary):,} words has ids below {ids:,}, and the model an'
        f' embedding of {member.model.vocab_size:,}: this is not the vocabulary that it was'
        ' trained with'
      )


def probabilities(members: Sequence[Predictor], encoded: Encoded) -> np.ndarray:
  """The probabilities of the texts that `encode` encoded, by each of M members.

  Returns float32 `[M, N]`. Raises ValueError where one is NaN.
  """
  found = np.zeros((len(members), len(encoded[members[0].vocabulary])), np.float32)

  def compute(job):
    row, ids, places = job
    return row, places, np.asarray(forward.compiled(members[row].model, members[row].params, ids))

  jobs = (
    (row, ids, places)
    for row, member in enumerate(members)
    for ids, places in forward.batches(member.config.data, encoded[member.vocabulary])
  )
  # XLA runs the steps of a batch on one core.
  with futures.ThreadPoolExecutor(len(provenance.cores())) as pool:
    for row, places, of_batch in pool.map(compute, jobs):
      found[row, places] = of_batch[: len(places)]
  for member, row in zip(members, found, strict=True):
    if np.isnan(row).any():
      raise ValueError(
        f'the model of {member.config.model.cell}, seed {member.config.seed}, answers NaN, which is'
        ' no probability: its training has diverged. Leave this run out'
      )
  return found


def _explain(predictor, words):
  data = predictor.config.data
  (sequences,) = encode([predictor], [words]).values()
  ((ids, _),) = forward.batches(data, sequences)
  weights = np.asarray(forward.gradient_times_input(predictor.model, predictor.params, ids[0]))
  # The ids of a row are those of the start and of the words in order, cut as the words are here.
  read = [None, *text.tokenize(words)]
  read = read[-data.max_len :] if data.truncation == 'pre' else read[: data.max_len]
  found = zip(read, weights[ids[0] != 0], ids[0][ids[0] != 0], strict=True)
  return [Word(word, float(weight), bool(i != text.UNKNOWN)) for word, weight, i in found if word]
