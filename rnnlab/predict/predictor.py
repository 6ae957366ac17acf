"""Trained models with everything that they need to answer: one, or an ensemble of several seeds."""

import json
from collections.abc import Mapping, Sequence
from concurrent import futures
from typing import TYPE_CHECKING, Any, NamedTuple

import flax.linen as nn
import numpy as np
from ml_collections import ConfigDict

from rnnlab import tasks
from rnnlab.console.words import near
from rnnlab.data import text
from rnnlab.machine import provenance
from rnnlab.predict import forward
from rnnlab.tasks.base import Outputs, Task

if TYPE_CHECKING:
  import pandas as pd

GIVEN = 'given'  # as 'tokens' in an encoding: examples are lists of tokens
CHUNK = 4096  # examples encoded at a time


class Word(NamedTuple):
  """A word of a text, and how much it moved the answer.

  text: the word as the model reads it, in lower case, or the character or other token.
  weight: positive if the word speaks for the class or value asked about; see `Predictor.explain`.
  known: whether the word is in the vocabulary; the model reads all others as the same token.
  """

  text: str
  weight: float
  known: bool


class Predictor(NamedTuple):
  """A trained model, with everything that it needs to read an example and to answer.

  config: the config of its run.
  model: the Flax module.
  params: its params, those that the run reports.
  vocabulary: the words that it knows, in the order of their ids; the first has id 4. Empty for a
    model of series.
  encoding: what else its run kept of the data, such as the names of classes; see
    `rnnlab.data.base`.

  >>> (ensemble,) = rnnlab.load_ensembles('runs/imdb').values()
  >>> (predictor,) = ensemble.members
  >>> [word.text for word in predictor.explain('A good film!')]
  ['a', 'good', 'film']
  """

  config: ConfigDict
  model: nn.Module
  params: Any
  vocabulary: tuple[str, ...]
  encoding: Mapping[str, Any] = {}

  @property
  def members(self) -> tuple['Predictor', ...]:
    """Just itself, like the members of an `Ensemble` of one."""
    return (self,)

  @property
  def task(self) -> Task:
    """The task of its run."""
    return tasks.find(self.config.task.name)

  @property
  def outputs(self) -> Outputs:
    """What its outputs mean."""
    assert self.task.outputs
    return self.task.outputs(self.encoding)

  @property
  def classes(self) -> tuple[str, ...]:
    """The names of the classes, labels or values, in the order of `predict`'s."""
    return self.outputs.names

  def predict(self, examples: Sequence[Any]) -> np.ndarray:
    """The model's answer for each example, in numbers.

    For two classes it is the probability of the second, float32 `[N]`; for C classes or labels the
    probability of each, `[N, C]`; for regression the values in the unit of the targets, `[N]` or
    `[N, V]`. For answers at each step, there is an axis T after N, as long as the longest example,
    or data.max_len; values in the places of its padding are meaningless.

    An example's answer does not depend on the other examples, to the bit.

    examples: N texts, arrays `[T, D]` or lists of tokens, depending on the task. Raises TypeError,
    naming the first, for texts that are not str; ValueError for a model whose answer is NaN.
    """
    return Ensemble((self,)).each(examples)[0]

  def answers(self, examples: Sequence[Any]) -> 'pd.DataFrame':
    """The model's answer for each example, for people, with a row for each.

    The first column has the answer itself, such as 'label'; further ones its probability.
    """
    return Ensemble((self,)).answers(examples)

  def explain(self, example: Any, of: str | None = None) -> list[Word] | np.ndarray:
    """Which parts of an example moved the answer: the words of a text, or the steps of a series.

    A word's weight is its embedding times the gradient of the answer with respect to it, summed
    over the features (Shrikumar et al. 2016), with the gradient taken through all steps: to first
    order, it is how much the answer would fall if the embedding were 0. A series has such a weight
    for each step and channel, float32 `[T, D]`; a scaled input of 0 is the mean of the train split.

    The answer is the log-odds of a class or a label, or a value in the unit of the targets.

    of: the class, label or value to explain, one of `classes`. By default it is the second of two
      classes, the answered one of several, or the first value.

    Raises ValueError for a model that answers at each step.
    """
    return Ensemble((self,)).explain(example, of)


class Ensemble(NamedTuple):
  """Trained models of one setting that differ in the seed.

  members: one or more of them.

  >>> (ensemble,) = rnnlab.load_ensembles('runs/imdb').values()
  >>> ensemble.predict(['a good film', '']).shape, ensemble.each(['a good film', '']).shape
  ((2,), (1, 2))
  """

  members: tuple[Predictor, ...]

  def each(self, examples: Sequence[Any]) -> np.ndarray:
    """The numbers of `Predictor.predict` from each of the M members, float32 `[M, N, ...]`."""
    check(self.members)
    return probabilities(self.members, listed(self.members[0], examples))

  def predict(self, examples: Sequence[Any]) -> np.ndarray:
    """The mean of the members' probabilities or values, float32 `[N, ...]`."""
    return self.each(examples).mean(axis=0)

  def answers(self, examples: Sequence[Any]) -> 'pd.DataFrame':
    """The answers by the mean of the members' numbers, for people; see `Predictor.answers`."""
    import pandas as pd  # takes half a second, which only this needs

    check(self.members)
    examples = listed(self.members[0], examples)
    found = probabilities(self.members, examples).mean(axis=0)
    return pd.DataFrame(decoded(self.members[0], found, examples))

  def explain(self, example: Any, of: str | None = None) -> list[Word] | np.ndarray:
    """The mean of the members' weights for an example; see `Predictor.explain`."""
    check(self.members)
    (example,) = listed(self.members[0], [example])
    which = _asked(self, example, of)
    found = [_weights(member, example, which) for member in self.members]
    if not isinstance(example, str):
      return np.mean(found, axis=0)
    weights = np.mean([weights for weights, _ in found], axis=0).tolist()
    known = found[0][1]
    words = _read(self.members[0], example)
    return [
      Word(word, weight, yes)
      for word, weight, yes in zip(words, weights, known, strict=True)
      if word is not None
    ]


def check(members: Sequence[Predictor]) -> None:
  """Raises ValueError for no members, for members that cannot be combined, and for wrong data.

  That is, if members answer with different classes or values, if a model does not have the number
  of classes that its encoding names, and if a vocabulary is too large for a model.
  """
  if not members:
    raise ValueError('an ensemble needs at least one member')
  if len({member.outputs for member in members}) > 1:
    raise ValueError('these runs answer with different classes or values: use one of them')
  for member in members:
    outputs = member.outputs
    if writes(member):
      continue
    classes = getattr(member.model, 'classes', 1)
    named = 1 if outputs.kind == 'binary' else len(outputs.names)
    if classes != named:
      raise ValueError(
        f'the model has {classes} classes, but the encoding names {len(outputs.names)}:'
        f' {", ".join(outputs.names)}. Give a Predictor the encoding of the data that it was'
        ' trained on'
      )
    ids = len(member.vocabulary) + text.FIRST_WORD
    if member.vocabulary and ids > (getattr(member.model, 'vocab_size', None) or ids):
      raise ValueError(
        f'a vocabulary of {len(member.vocabulary):,} words has ids below {ids:,}, but the model has'
        f' an embedding of {member.model.vocab_size:,}: this is not the vocabulary that it was'
        ' trained with'
      )


def is_text(member: Predictor) -> bool:
  """Whether a model reads ids of tokens rather than series."""
  return translates(member) or bool(getattr(member.model, 'vocab_size', None))


def says_tokens(member: Predictor) -> bool:
  """Whether it is a language model, which predicts the next token."""
  return member.outputs.kind == 'tokens'


def translates(member: Predictor) -> bool:
  """Whether it turns a text into another text."""
  return member.outputs.kind == 'sequence'


def writes(member: Predictor) -> bool:
  """Whether it writes tokens one after another, instead of answering at once."""
  return says_tokens(member) or translates(member)


def reads_texts(member: Predictor) -> bool:
  """Whether its examples are texts, not lists of tokens or series."""
  return is_text(member) and member.encoding.get('tokens') != GIVEN


def split(member: Predictor, words: str) -> list[str]:
  """The tokens that a model reads in a text."""
  return text.tokenizer(member.encoding.get('tokens', 'words'))(words)


def features(member: Predictor) -> int:
  """How many channels a model's series have. Raises ValueError if the encoding does not say."""
  found = member.encoding.get('features')
  if not isinstance(found, int):
    raise ValueError(f'the encoding of a model of series must have features, an int: {found!r}')
  return found


def listed(member: Predictor, examples: Any) -> list[Any]:
  """Examples as a list. Raises TypeError for texts that are not str, naming the first."""
  if reads_texts(member):
    return text.listed(examples)
  if isinstance(examples, str | bytes | Mapping):
    raise TypeError(f'give a list of examples, not {type(examples).__name__}')
  return list(examples)


def encode(member: Predictor, examples: Sequence[Any]) -> Any:
  """The inputs of a model for examples."""
  assert member.task.encode
  return member.task.encode(examples, member.config.data, member.encoding, member.vocabulary)


def probabilities(members: Sequence[Predictor], examples: Sequence[Any]) -> np.ndarray:
  """The probabilities or values for examples, from each of M members: float32 `[M, N, ...]`.

  Raises ValueError if one is NaN.
  """
  parts = [
    _of_chunk(members, examples[start : start + CHUNK])
    for start in range(0, max(1, len(examples)), CHUNK)
  ]
  steps = max(part.shape[2] if part.ndim > 2 else 0 for part in parts)
  if members[0].outputs.steps:
    parts = [_of_steps(members[0], part, steps) for part in parts]
  found = np.concatenate(parts, axis=1)
  for member, of_member in zip(members, found, strict=True):
    if np.isnan(of_member).any():
      raise ValueError(
        f'the model of {member.config.model.cell}, seed {member.config.seed}, answers NaN: its'
        ' training has diverged. Leave this run out'
      )
  return found


def _of_steps(member, part, steps):
  """Answers `[M, N, T, ...]` of a chunk, filled up to `steps` where its rows have their padding."""
  more, rest = steps - part.shape[2], [(0, 0)] * (part.ndim - 3)
  return np.pad(part, [(0, 0), (0, 0), (0, more) if _behind(member) else (more, 0), *rest])


def _behind(member):
  """Whether the padding of a row comes after its example, not before it."""
  return not is_text(member) or member.config.data.padding == 'post'


def _of_chunk(members, examples):
  outputs = members[0].outputs
  encoded = {}  # the same examples, by how they are read
  for member in members:
    if (key := how_read(member)) not in encoded:
      encoded[key] = encode(member, examples)
  of_first = encoded[how_read(members[0])]
  shape = of_first['xs'].shape if isinstance(of_first, dict) else of_first.shape
  names = () if _scalar(members[0]) else (len(outputs.names),)
  found = np.zeros(
    (len(members), len(examples), *(shape[1:2] if outputs.steps else ()), *names), np.float32
  )

  def compute(job):
    row, batch = job
    member = members[row]
    answered = forward.compiled(member.model, outputs, member.params, batch.inputs)
    return row, batch, np.asarray(answered)[: len(batch.places)]

  jobs = (
    (row, batch)
    for row, member in enumerate(members)
    for batch in forward.batches(member.config.data, encoded[how_read(member)])
  )
  # XLA runs the steps of a batch on one core.
  with futures.ThreadPoolExecutor(len(provenance.cores())) as pool:
    for row, batch, answered in pool.map(compute, jobs):
      if outputs.steps:
        found[row, batch.places, batch.columns] = answered[:, batch.there]
      else:
        found[row, batch.places] = answered
  return found


def _scalar(member):
  """Whether an output is a number, not a vector of length 1."""
  return member.outputs.kind != 'classes' and getattr(member.model, 'classes', 1) == 1


def how_read(member: Predictor) -> tuple[str, str, tuple[str, ...]]:
  """A key for how a model reads examples: models with the same key read them in the same way."""
  data = json.dumps(member.config.data.to_dict(), sort_keys=True, default=list)
  return data, json.dumps(member.encoding, sort_keys=True, default=list), member.vocabulary


def decoded(member: Predictor, answers: np.ndarray, examples: Sequence[Any]) -> dict[str, Any]:
  """The columns that a task decodes from probabilities or values `[N, ...]` for examples.

  Answers at each step form a list as long as the example, with None for steps that were cut off.
  """
  assert member.task.decode
  outputs = member.outputs
  columns = member.task.decode(forward.as_outputs(answers, outputs), member.encoding)
  if not outputs.steps:
    return columns
  data, behind = member.config.data, _behind(member)

  def cut(of_steps, length):
    seen = min(length, data.max_len)
    kept = list(of_steps[:seen] if behind else of_steps[len(of_steps) - seen :])
    rest = [None] * (length - seen)
    return rest + kept if data.truncation == 'pre' else kept + rest

  lengths = [len(example) for example in examples]
  return {
    name: [cut(of_steps, length) for of_steps, length in zip(column, lengths, strict=True)]
    for name, column in columns.items()
  }


def _asked(ensemble, example, of):
  """The index of the class or value to be explained."""
  outputs = ensemble.members[0].outputs
  if outputs.steps:
    raise ValueError('a model that answers at each step cannot be explained here')
  if of is not None:
    if of not in outputs.names:
      raise ValueError(f'there is no {of!r}{near(of, outputs.names)}: {", ".join(outputs.names)}')
    return outputs.names.index(of)
  if outputs.kind in ('binary', 'values'):
    return int(outputs.kind == 'binary')
  return int(ensemble.predict([example])[0].argmax())


def _weights(predictor, example, of):
  """The weights of what the model reads of an example, and, for a text, which words it knows."""
  inputs = encode(predictor, [example])
  ((batch, *_),) = forward.batches(predictor.config.data, inputs)
  if isinstance(batch, dict):
    one = {name: array[:1] for name, array in batch.items()}
    found = _gradient(predictor, of, one)
    return np.asarray(found)[: one['lengths'][0]]
  weights = np.asarray(_gradient(predictor, of, batch[:1]))
  return weights[batch[0] != 0], (batch[0][batch[0] != 0] != text.UNKNOWN).tolist()


def _gradient(predictor, of, inputs):
  given = predictor.model, predictor.outputs, of, predictor.params, inputs
  return forward.gradient_times_input(*given)


def _read(predictor, words):
  """The start, as None, and the words of a text, cut like its ids."""
  data = predictor.config.data
  read = [None, *split(predictor, words)]
  return read[-data.max_len :] if data.truncation == 'pre' else read[: data.max_len]
