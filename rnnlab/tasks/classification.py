"""Texts to one of two classes, as reviews to what they think: by accuracy, on IMDB.

    text -> ids [T] -> embedding -> recurrent layers -> pooling -> the log-odds of class 1

The arrays of a split: inputs int32 `[N, max_len]`, token ids, 0 where padded; labels int32 `[N]`.
"""

from typing import Any, NamedTuple

import numpy as np

from rnnlab.data import batching, imdb, sources, text
from rnnlab.data.base import Dataset
from rnnlab.tasks import fields, panels
from rnnlab.tasks.base import Metric, Outputs, Task
from rnnlab.tasks.fields import Field

# JAX, and what loads it, is imported where it is used: --help and --status answer at once.


CLASSES = 'negative', 'positive'  # where a run kept no names


class Texts(NamedTuple):
  """What the model has to know of the data: ids are below vocab_size; mask: id 0 takes no part."""

  vocab_size: int
  mask: bool


def load(config) -> Dataset:
  """The dataset that a config's `data` part describes. Raises as `imdb.load`."""
  data = imdb.load(config)
  names = ('train', 'validation', 'test') if config.validation_fraction else ('train', 'test')
  splits = {name: getattr(data, name) for name in names}
  widths = ()
  if config.buckets > 1:
    widths = batching.widths((data.train.ids != 0).sum(axis=1), config.buckets)
  sizes = ', '.join(
    f'{len(getattr(data, name).ids):,} {name}' for name in ('train', 'validation', 'test')
  )
  return Dataset(
    splits={name: {'inputs': split.ids, 'labels': split.labels} for name, split in splits.items()},
    title=data.title,
    line=f'{sizes} reviews',
    source=data.source,
    fingerprint=data.fingerprint,
    spec=Texts(config.vocab_size, config.mask),
    widths=widths,
    vocabulary=data.vocabulary,
    encoding={'classes': CLASSES},
  )


def model(config, spec: Texts):
  """The classifier that the `model` part of a config describes."""
  from rnnlab import models
  from rnnlab.models import initial

  options = dict(getattr(config, config.cell, {}))
  return models.SequenceClassifier(
    cell=initial.cell(config.init, config.cell, hidden_size=config.hidden_size, **options),
    vocab_size=spec.vocab_size,
    embed_size=config.embed_size,
    layers=config.layers,
    bidirectional=config.bidirectional,
    pooling=config.pooling,
    mask=spec.mask,
    embed_dropout=config.embed_dropout,
    dropout=config.dropout,
    recurrent_dropout=config.recurrent_dropout,
    dropout_per_gate=config.dropout_per_gate,
    output_dropout=config.output_dropout,
    precision=config.precision,
    remat=config.remat,
    truncate=config.truncate or None,
    convention=config.init,
  )


def loss(logits, batch) -> dict[str, tuple[Any, Any]]:
  """Cross-entropy, in nats, and accuracy, summed over a batch.

  logits: `[B]` for two classes (the log-odds of class 1), or `[B, C]`. batch: labels, int `[B]`,
  and weights, float `[B]`.
  """
  import jax
  import jax.numpy as jnp

  labels, weights = batch['labels'], batch['weights']
  if logits.ndim == 1:
    losses = jax.nn.softplus(logits) - labels * logits
    predicted = logits > 0
  else:
    picked = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
    losses = jax.nn.logsumexp(logits, axis=-1) - picked
    predicted = jnp.argmax(logits, axis=-1)
  correct = (predicted == labels).astype(jnp.float32)
  count = jnp.sum(weights)
  return {
    'accuracy': (jnp.sum(weights * correct), count),
    'loss': (jnp.sum(weights * losses), count),
  }


def spec(config, encoding, vocabulary) -> Texts:
  """What the model has to know of texts that a run has read."""
  return Texts(config.vocab_size, config.mask)


def encode(examples, config, encoding, vocabulary):
  """Texts as padded ids, int32 `[N, max_len]`. Raises TypeError for what is no text."""
  found = text.encode(text.listed(examples), vocabulary)
  return batching.pad(found, config.max_len, config.padding, config.truncation)


def outputs(encoding) -> Outputs:
  """The log-odds of the second of two classes, or a logit for each of several."""
  names = tuple(encoding.get('classes', CLASSES))
  return Outputs('binary' if len(names) == 2 else 'classes', names)


def decode(outputs_, encoding) -> dict[str, Any]:
  """The likeliest class of each row, and its probability: of two classes, that of the second.

  outputs_: `[N]` for two classes, else `[N, C]`.
  """
  names = np.array(encoding.get('classes', CLASSES))
  logits = np.asarray(outputs_, np.float64)
  if logits.ndim == 1:
    with np.errstate(over='ignore'):
      return {'label': names[(logits > 0).astype(int)], 'probability': 1 / (1 + np.exp(-logits))}
  found = np.exp(logits - logits.max(axis=1, keepdims=True))
  found /= found.sum(axis=1, keepdims=True)
  of_each = {f'probability_{name}': found[:, i] for i, name in enumerate(names)}
  return {'label': names[found.argmax(axis=1)], 'probability': found.max(axis=1)} | of_each


def vary(train, config, key) -> dict[str, Any]:
  """The labels of a run with label noise: each is flipped with probability data.label_noise."""
  import jax
  import jax.numpy as jnp

  if not config.data.label_noise:
    return {}
  labels = train['labels']
  turned = jax.random.bernoulli(jax.random.fold_in(key, 3), config.data.label_noise, labels.shape)
  return {'labels': jnp.where(turned, 1 - labels, labels)}


def check(given: dict[str, Any]) -> None:
  """Raises ValueError for fields that don't go together, or need more memory than there is."""
  if given['data.buckets'] > 1 and not given['data.mask']:
    raise ValueError(
      f'--config.data.buckets={given["data.buckets"]} needs --config.data.mask=True: without a'
      ' mask the padding is part of what the model sees, and cutting it off changes the model.'
      ' Either set the mask, or --config.data.buckets=1'
    )
  embed_size, hidden_size = given['model.embed_size'], given['model.hidden_size']
  width = given['data.max_len'] if given['data.buckets'] == 1 else 1
  directions = 1 + given['model.bidirectional']
  deeper = (given['model.layers'] - 1) * (directions + 1) * hidden_size
  fields.check_room(
    given,
    {
      # Of weights, which have a gradient, twice, and of a cell's one gate.
      'data.vocab_size model.embed_size': 2 * given['data.vocab_size'] * embed_size,
      'model.hidden_size model.embed_size model.layers': (
        2 * directions * hidden_size * (embed_size + hidden_size + deeper)
      ),
      'train.batch_size data.max_len model.hidden_size': (
        given['train.batch_size'] * (width + hidden_size)
      ),
    },
  )


_ENDS = fields.choice(lambda: ('pre', 'post'))

task = Task(
  name='classification',
  load=load,
  model=model,
  loss=loss,
  metrics=(
    Metric('accuracy', '%', 'higher', '.1%'),
    Metric('loss', 'nats per example', 'lower', '.3f'),
  ),
  fields={
    'model.embed_size': Field(128, fields.SIZE),
    'model.pooling': Field(
      'last', fields.choice(fields.of('models', 'POOLINGS')), 'last | mean | max | concat'
    ),
    'model.embed_dropout': Field(0.0, fields.RATE, traced=True),
    'model.output_dropout': Field(0.0, fields.RATE, traced=True),
    'data.source': Field(
      'auto',
      fields.choice(lambda: ('auto', *sources.SOURCES)),
      'auto | tfds | directory | package',
    ),
    'data.dir': Field(
      '', fields.PATH, "TFDS's data_dir; or an aclImdb folder or tar.gz for source=directory"
    ),
    'data.vocab_size': Field(10_000, fields.whole(5, why=': ids 0 to 3 are not words')),
    'data.max_len': Field(200, fields.whole(1)),
    'data.padding': Field('pre', _ENDS, 'pre | post'),
    'data.truncation': Field('pre', _ENDS, 'pre | post'),
    'data.mask': Field(True, fields.FLAG, 'the padding takes no part'),
    'data.buckets': Field(
      4, fields.whole(1), 'widths that batches are padded to, by length; above 1 needs mask'
    ),
    'data.validation_fraction': Field(
      0.2, fields.SHARE, 'of train; 0: the test split is the validation split'
    ),
    'data.split_seed': Field(0, fields.whole(0, 2**63 - 1)),
    'data.max_examples': Field(0, fields.whole(0), 'in each split; 0: all'),
    'data.label_noise': Field(
      0.0, fields.SHARE, 'the share of the train labels that are flipped', traced=True
    ),
  },
  check=check,
  settle=lambda config: {'source': sources.resolve(config)},
  vary=vary,
  encode=encode,
  decode=decode,
  outputs=outputs,
  spec=spec,
  panels=lambda predictions, encoding: panels.of_classes(predictions, outputs(encoding).names),
)
