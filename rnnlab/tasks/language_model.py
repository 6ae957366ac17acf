"""Text, token by token: how likely each token is, given all that came before it; by perplexity.

    tokens -> embedding -> layers of a cell -> logits of the vocabulary -> -log p(next token)

A token is a word, a character, a byte or a piece of a word. A split is a stream: inputs, int32
`[N]`; targets, int32 `[N]`, the inputs shifted by one; and characters, int32 `[N]`, how many
characters of the text a target stands for. The first input is the end of a sentence. The model's
output is the negative log-likelihood of each target in nats, float32 `[N]`.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from rnnlab.data import corpus, units
from rnnlab.data.base import Dataset
from rnnlab.tasks import fields, stream_panels, streams
from rnnlab.tasks.base import Metric, Outputs, Task
from rnnlab.tasks.fields import Field

# JAX, and what loads it, is imported where it is used: --help and --status answer at once.


MANY = 20_000  # tokens, above which softmax='auto' is adaptive


def load(config) -> Dataset:
  """The corpus that a config's `data` part describes. Raises DataError and ValueError."""
  return corpus.load(config)


def model(config, spec: int):
  """The model that the `model` part of a config describes. spec: the size of the vocabulary."""
  from rnnlab import models
  from rnnlab.models import initial

  options = dict(getattr(config, config.cell, {}))
  sizes = [config.hidden_size] * config.layers
  if config.tied:
    sizes[-1] = config.embed_size
  return models.LanguageModel(
    cells=tuple(initial.cell(config.init, config.cell, hidden_size=n, **options) for n in sizes),
    vocab_size=spec,
    embed_size=config.embed_size,
    tied=config.tied,
    adaptive=_is_adaptive(config, spec),
    word_dropout=config.word_dropout,
    embed_dropout=config.embed_dropout,
    layer_dropout=config.layer_dropout,
    output_dropout=config.output_dropout,
    locked=config.locked,
    dropout=config.dropout,
    recurrent_dropout=config.recurrent_dropout,
    weight_dropout=config.weight_dropout,
    dropout_per_gate=config.dropout_per_gate,
    precision=config.precision,
    remat=config.remat,
    truncate=config.truncate or None,
    alpha=config.alpha,
    beta=config.beta,
    init_scale=config.init_scale,
    convention=config.init,
  )


def _is_adaptive(config, vocab_size):
  if config.softmax == 'auto':
    return vocab_size > MANY and not config.tied
  return config.softmax == 'adaptive'


def loss(outputs, batch) -> dict[str, tuple[Any, Any]]:
  """The sums of the negative log-likelihood, which give perplexity and bits per character too.

  outputs: `[B, T]` or `[N]`; in training, a dict with these as 'nll', their weighted sum as
  'total', through which the gradient flows, and perhaps a 'penalty'. batch: has weights and
  characters, of the same shape.
  """
  import jax.numpy as jnp

  weights = batch['weights']
  count = jnp.sum(weights)
  given = isinstance(outputs, Mapping)
  nll = outputs['nll'] if given else outputs
  total = jnp.sum(weights * nll)
  sums = {
    'perplexity': (total, count),
    'bits_per_character': (total / math.log(2), jnp.sum(weights * batch['characters'])),
    'loss': (total, count),
  }
  if given:
    penalty = outputs.get('penalty', 0.0)
    sums['objective'] = outputs['total'] + penalty * count, count
  return sums


def encode(texts, config, encoding, vocabulary) -> list[dict[str, Any]]:
  """Each text, with the end of its last line, as a stream: see `rnnlab.tasks.base.Task`."""
  end, unit = encoding['end'], encoding['unit']
  id_of = {one: i for i, one in enumerate(units.symbols(vocabulary, unit))}
  found = []
  for text in texts:
    tokens = [*units.split(text, encoding), units.end(unit)]
    targets = np.array([id_of.get(token, encoding['unknown']) for token in tokens], np.int32)
    characters = units.lengths(tokens, unit)
    if unit == 'word':  # the last word of a line has no space after it
      characters[:-1] -= (targets[1:] == end) & (targets[:-1] != end)
    inputs = np.concatenate([[end], targets[:-1]]).astype(np.int32)
    stream = {'inputs': inputs, 'targets': targets, 'characters': characters}
    found.append(stream | {'tokens': tokens})
  return found


def outputs(encoding) -> Outputs:
  """Outputs are likelihoods of tokens."""
  return Outputs('tokens', ())


def spec(config, encoding, vocabulary) -> int:
  """The size of the vocabulary."""
  return len(vocabulary)


def check(given: dict[str, Any]) -> None:
  """Raises ValueError for fields that don't go together, or need more memory than there is."""
  if given['model.bidirectional']:
    raise ValueError(
      '--config.model.bidirectional=True: a language model must not see what comes next'
    )
  if given['model.softmax'] == 'adaptive' and given['model.tied']:
    raise ValueError(
      '--config.model.softmax=adaptive has weights of its own, but --config.model.tied=True has'
      " only the embedding's: give one of them"
    )
  vocab_size, embed_size = given['data.vocab_size'], given['model.embed_size']
  window = given['train.batch_size'] * given['train.window']
  fields.check_room(
    given,
    {
      'data.vocab_size model.embed_size': 2 * vocab_size * embed_size,
      'data.vocab_size model.hidden_size': 2 * vocab_size * given['model.hidden_size'],
      'train.batch_size train.window model.hidden_size': window * given['model.hidden_size'],
    },
  )


MODEL = {
  'model.embed_size': Field(128, fields.SIZE),
  'model.tied': Field(
    False, fields.FLAG, "the output shares the embedding's weights; the last layer has its size"
  ),
  'model.word_dropout': Field(
    0.0, fields.RATE, 'of word types: everywhere in a window', traced=True
  ),
  'model.softmax': Field(
    'auto',
    fields.choice(lambda: ('auto', 'full', 'adaptive')),
    f'auto: adaptive if the vocabulary has more than {MANY:,} tokens and is not tied',
  ),
  'model.embed_dropout': Field(0.0, fields.RATE, 'of the inputs of the first layer', traced=True),
  'model.layer_dropout': Field(0.0, fields.RATE, 'between layers', traced=True),
  'model.output_dropout': Field(0.0, fields.RATE, "of the last layer's outputs", traced=True),
  'model.locked': Field(False, fields.FLAG, 'these three use one mask for all steps of a window'),
  'model.dropout': Field(
    0.0, fields.RATE, "of each layer's inputs, one mask for all steps", traced=True
  ),
  'model.recurrent_dropout': Field(0.0, fields.RATE, traced=True),
  'model.weight_dropout': Field(
    0.0, fields.RATE, "of each layer's recurrent weights (DropConnect)", traced=True
  ),
  'model.alpha': Field(0.0, fields.FROM_0, "penalty on the last layer's outputs", traced=True),
  'model.beta': Field(0.0, fields.FROM_0, 'penalty on their change at each step', traced=True),
  'model.init_scale': Field(
    0.0, fields.FROM_0, 'all parameters start uniform in +- this; 0: set by model.init'
  ),
}

task = Task(
  name='language_model',
  load=load,
  model=model,
  loss=loss,
  metrics=(
    Metric('perplexity', '', 'lower', '.2f', link='exp'),
    Metric('bits_per_character', '', 'lower', '.3f'),
    Metric('loss', 'nats per token', 'lower', '.4f'),
  ),
  fields={
    **MODEL,
    **streams.DATA,
  },
  check=check,
  settle=streams.settle,
  encode=encode,
  join=corpus.decode,
  outputs=outputs,
  spec=spec,
  examine=stream_panels.examine,
  panels=stream_panels.panels,
  batches='windows',
)
