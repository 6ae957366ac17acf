"""Trained language models, which continue texts and say how likely texts are."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from rnnlab.data import text as data_text
from rnnlab.predict import adapting, generate, scoring
from rnnlab.predict.adapting import Adaptation
from rnnlab.predict.predictor import Predictor
from rnnlab.predict.sampling import Sampling, check
from rnnlab.predict.scoring import Token

if TYPE_CHECKING:
  import pandas as pd

LENGTH = 100  # tokens by which a text is continued


class TextModel(NamedTuple):
  """A trained language model, or several, whose probabilities are averaged.

    model = rnnlab.load('runs/texts/RUN')
    model.generate('The film', temperature=0.8)  # [' is a fine one, and ...']
    model.surprisals('The film is a fine one.')  # tokens, each with its bits

  members: one or more of them, with the same vocabulary, such as the seeds of a setting.
  adapt: how each of them adapts to a text that it scores, see `adapted`; empty: not at all.
  """

  members: tuple[Predictor, ...]
  adapt: tuple[Adaptation, ...] = ()

  @property
  def config(self) -> ConfigDict:
    """The config of its run; if there are several, that of the first."""
    return self.members[0].config

  @property
  def vocabulary(self) -> tuple[str, ...]:
    """The tokens that it knows, in the order of their ids."""
    return self.members[0].vocabulary

  def __getattr__(self, name: str) -> Any:
    raise AttributeError(
      f'a language model has no {name!r}: it has generate, score, surprisals, adapted and step'
    )

  def generate(
    self,
    prompt: str = '',
    length: int = LENGTH,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    samples: int = 1,
    stop: bool = False,
    unknown: bool = False,
  ) -> list[str]:
    """Continuations of the prompt, which they do not repeat: a text for each sample.

    The same arguments give the same texts.

    prompt: the text to continue; '' begins a line.
    length: how many tokens to write; with stop, the most.
    temperature, top_k, top_p: see `rnnlab.predict.sampling.Sampling`.
    seed: of the draws. samples: how many texts.
    stop: whether a text ends at the end of its line.
    unknown: whether it may write the token for unknown words.

    Raises TypeError for a prompt that is not a str; ValueError for numbers out of range, and for a
    model that gives NaN.
    """
    given = temperature, top_k, top_p, unknown
    parts = stream(self, prompt, length, sampling(self, *given), seed, samples, stop)
    return [''.join(of_sample) for of_sample in zip(*parts, strict=True)]

  def score(self, texts: Sequence[str]) -> 'pd.DataFrame':
    """How likely each text is, with a row for each.

    The columns are text, perplexity, bits_per_character, tokens and unknown: how many tokens it
    has, and how many of these the model does not know. A text is scored by itself, as one line or
    several: from the end of the line before it to the end of its last line, which counts as a
    token.

    Raises TypeError, naming the first, for texts that are not str.
    """
    import pandas as pd  # takes half a second, which only this needs

    found = scoring.score(self.members, data_text.listed(texts), self.adapt)
    return pd.DataFrame(
      {
        'text': [one.text for one in found],
        'perplexity': [one.perplexity for one in found],
        'bits_per_character': [one.bits_per_character for one in found],
        'tokens': [len(one.tokens) for one in found],
        'unknown': [len(one.unknown) for one in found],
      }
    )

  def surprisals(self, text: str) -> list[Token]:
    """The tokens of a text, including the end of its line, each with its surprisal in bits."""
    return scoring.score(self.members, data_text.listed([text]), self.adapt)[0].tokens

  def adapted(self, cache: int = 0, dynamic: bool = False) -> 'TextModel':
    """The same model, but adapting to each text that it scores; what it generates does not change.

      model.adapted(cache=500, dynamic=True).score([text])

    How much it adapts is chosen on the validation split of its run, whose data must still be there;
    see `rnnlab.predict.adapting`.

    cache: how many of the last states, with the tokens that followed them, are remembered (Grave et
      al. 2017); 0: none.
    dynamic: whether its parameters continue to learn, every few tokens (Krause et al. 2018).
      Choosing by how much takes a few minutes.

    Raises ValueError for a size below 0 and if there is no validation split, and DataError if the
    data are no longer there.
    """
    if not (cache or dynamic):
      return self._replace(adapt=())
    return self._replace(adapt=tuple(adapting.choose(of, cache, dynamic) for of in self.members))

  def step(self, ids: Any, carry: Any = None) -> tuple[jax.Array, Any]:
    """Reads a token in each row, and predicts the next.

    ids: int `[B]`. carry: from the previous step, or None at the start, where models expect the
      token `self.members[0].encoding['end']`.

    Returns the logits, float32 `[B, V]`, and the carry.
    """
    ids = jnp.asarray(ids, jnp.int32)
    if ids.ndim != 1:
      raise ValueError(f'ids must be [B], a token for each row, not {list(ids.shape)}')
    models = tuple(member.model for member in self.members)
    carry = generate.start(models, len(ids)) if carry is None else carry
    return _step(models, tuple(member.params for member in self.members), ids, carry)


_step = jax.jit(generate.step, static_argnums=0)


def text_model(members: Sequence[Predictor]) -> TextModel:
  """Several language models as one.

  Raises ValueError for no models, for different vocabularies, and for an encoding that does not
  fit.
  """
  if not members:
    raise ValueError('an ensemble needs at least one member')
  first = members[0]
  if any((m.vocabulary, m.encoding) != (first.vocabulary, first.encoding) for m in members):
    raise ValueError('these runs have different vocabularies: use one of them')
  size = len(first.vocabulary)
  for name in ('end', 'unknown'):
    found = first.encoding.get(name)
    if not isinstance(found, int) and (name == 'end' or found is not None):
      raise ValueError(f'the encoding of a language model must have {name!r}, an id: {found!r}')
    if found is not None and not 0 <= found < size:
      raise ValueError(f'the encoding has {name!r} = {found}, but the vocabulary has {size:,} ids')
  return TextModel(tuple(members))


def sampling(
  model: TextModel,
  temperature: float = 1.0,
  top_k: int = 0,
  top_p: float = 1.0,
  unknown: bool = False,
) -> Sampling:
  """How a model's tokens are drawn: see `TextModel.generate`, also for what it raises."""
  never = model.members[0].encoding['unknown']
  left_out = () if unknown or never is None else (never,)
  return check(Sampling(float(temperature), top_k, float(top_p), left_out))


def stream(
  model: TextModel,
  prompt: str,
  length: int,
  sampling: Sampling,
  seed: int,
  samples: int,
  stop: bool,
) -> Any:
  """Continuations of the prompt, some of each sample at a time: lists of texts."""
  if not isinstance(prompt, str):
    raise TypeError(f'the prompt is {prompt!r:.60}, of type {type(prompt).__name__}: give a str')
  for name, value, least in (('length', length, 1), ('samples', samples, 1), ('seed', seed, 0)):
    if int(value) != value or not least <= value < 2**32:
      raise ValueError(f'{name}={value}: it must be a whole number from {least}')
  return generate.texts(model.members, prompt, length, sampling, seed, samples, stop)
