"""Models that were never trained, of several kinds, for the tests of predictions."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import rnnlab
from experiments import imdb
from rnnlab import tasks
from rnnlab.data import batching, text
from rnnlab.data import series as data_series
from rnnlab.models import layers
from rnnlab.runs import configs
from rnnlab.tasks import sequences
from rnnlab.tasks.base import Outputs

WORDS = tuple(f'w{i}' for i in range(20))
NAMES = 'sport', 'politics', 'art'
TEXTS = ['w0 w3 w19', '', 'unheard w7', ' '.join(WORDS), 'w5 ' * 30]


def softmax(logits):
  powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
  return powers / powers.sum(axis=-1, keepdims=True)


def three(seed=0, **fields):
  """An untrained model of three classes, made decisive by large embeddings."""
  config = imdb.get_config('smoke')
  config.update_from_flattened_dict({'data.vocab_size': 24, 'data.max_len': 12} | fields)
  configs.check(config)
  model = sequences.model(config.model, sequences.Spec(24, config.data.mask, 1, False))
  model = model.clone(classes=3)
  params = jax.jit(model.init)(jax.random.key(seed), jnp.zeros((1, 2), jnp.int32))['params']
  params['Embed_0']['embedding'] *= 10
  return rnnlab.Predictor(config, model, params, WORDS, {'classes': list(NAMES)})


def logits_of(predictor, texts):
  """By hand: the model on ids padded to max_len, all in one batch."""
  data = predictor.config.data
  ids = text.encode(texts, predictor.vocabulary)
  padded = batching.pad(ids, data.max_len, data.padding, data.truncation)
  return np.asarray(outputs_of(predictor, padded), np.float64)


def outputs_of(predictor, inputs):
  """The model's own outputs for inputs, compiled once per shape."""
  return _apply(predictor.model, predictor.params, inputs)


@functools.partial(jax.jit, static_argnums=0)
def _apply(model, params, inputs):
  return model.apply({'params': params}, inputs)


class Values(nn.Module):
  """Series -> two values, for the last step or for each."""

  cell: Any
  classes: int = 2
  steps: bool = False

  @nn.compact
  def __call__(self, inputs, deterministic=True):
    xs, lengths = inputs['xs'], inputs['lengths']
    mask = jnp.arange(xs.shape[1]) < lengths[:, None]
    ys = layers.Recurrent(self.cell)(xs, mask, deterministic)
    return nn.Dense(self.classes)(ys if self.steps else layers.pool(ys, mask, 'last', False))


def _encode(examples, config, encoding, vocabulary):
  mean, std = np.array(encoding.get('mean', 0)), np.array(encoding.get('std', 1))
  scaled = [(one - mean) / std for one in examples]
  steps = min(max(map(len, scaled), default=1), config.max_len)
  return data_series.pad(scaled or [np.zeros((0, 2))], steps, config.truncation)


def _outputs(encoding):
  names = 'height', 'weight'
  if encoding['kind'] == 'labels':
    return Outputs('labels', names)
  return Outputs('values', names, encoding['steps'], (10.0, -1.0), (2.0, 0.5))


def _decode(outputs, encoding):
  found = np.asarray(outputs) * [2.0, 0.5] + [10.0, -1.0]
  if encoding['kind'] == 'labels':
    each = [[n for n, p in zip(('height', 'weight'), row, strict=True) if p > 0] for row in outputs]
    return {'labels': each}
  return {'height': found[..., 0], 'weight': found[..., 1]}


tasks.add(
  tasks.find('classification')._replace(
    name='two_values',
    encode=_encode,
    decode=_decode,
    outputs=_outputs,
    spec=lambda config, encoding, vocabulary: None,
    model=lambda config, spec: Values(rnnlab.gru(hidden_size=3)),
  )
)


def series(seed=0, steps=False, kind='values', **encoding):
  """An untrained model of two values, or labels, for series of two channels."""
  config = imdb.get_config('smoke')
  config.task.name = 'two_values'
  config.data.max_len = 100
  model = Values(rnnlab.gru(hidden_size=3), steps=steps)
  example = {'xs': jnp.zeros((1, 2, 2)), 'lengths': jnp.array([2])}
  params = jax.jit(model.init)(jax.random.key(seed), example)['params']
  return rnnlab.Predictor(
    config, model, params, (), {'features': 2, 'steps': steps, 'kind': kind} | encoding
  )


TAGS = 'B-PER', 'I-PER', 'O'


def tagger(seed=0, **fields):
  """An untrained model of a tag for each token."""
  task = tasks.find('tagging')
  config = configs.default('tagging')
  config.model.update(cell='lstm', hidden_size=6, embed_size=5)
  config.update_from_flattened_dict({'data.max_len': 40, 'data.vocab_size': 24} | fields)
  encoding = {'tokens': 'given', 'tags': list(TAGS)}
  model = task.model(config.model, task.spec(config.data, encoding, WORDS))
  params = jax.jit(model.init)(jax.random.key(seed), jnp.ones((1, 2), jnp.int32))['params']
  params['Embed_0']['embedding'] *= 30
  return rnnlab.Predictor(config, model, params, WORDS, encoding)
