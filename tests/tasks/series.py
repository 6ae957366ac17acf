"""A task of one's own, in one file: the next value of a noisy wave, by its error; lower is better.

    python launch.py --config=series.py[:search]

As someone would write it in a repository of their own, without a change to rnnlab.
"""

import hashlib

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from rnnlab import models, tasks
from rnnlab.models import initial
from rnnlab.runs import configs
from rnnlab.tasks import fields

SIZES = {'train': 40, 'validation': 20, 'test': 30}


class Regressor(nn.Module):
  """Series `[B, T, 1]` -> what the last step says of the next value, `[B]`."""

  layer: models.Recurrent

  @nn.compact
  def __call__(self, inputs, deterministic=True):
    ys = self.layer(inputs, None, deterministic)
    return nn.Dense(1)(ys[:, -1])[:, 0]


def load(config):
  """Waves of any phase, with noise, and the value that follows each."""
  draw = np.random.default_rng(config.draw)
  splits = {}
  for name, size in SIZES.items():
    times = draw.uniform(0, 2 * np.pi, (size, 1)) + 0.5 * np.arange(config.steps + 1)
    values = np.sin(times) + draw.normal(0, config.noise, times.shape)
    values = values.astype(np.float32)
    splits[name] = {'inputs': values[:, :-1, None], 'targets': values[:, -1]}
  content = b''.join(array.tobytes() for split in splits.values() for array in split.values())
  return tasks.Dataset(
    splits,
    title=f'waves with noise {config.noise}, generated',
    line=', '.join(f'{size} {name} waves' for name, size in SIZES.items()),
    source='generated',
    fingerprint=hashlib.sha256(content).hexdigest(),
  )


def model(config, spec):
  """One recurrent layer."""
  cell = initial.cell(config.init, config.cell, hidden_size=config.hidden_size)
  return Regressor(models.Recurrent(cell, recurrent_dropout=config.recurrent_dropout))


def loss(outputs, batch):
  """The squared error, and the absolute one in volts."""
  errors, weights = outputs - batch['targets'], batch['weights']
  count = jnp.sum(weights)
  return {
    'error': (jnp.sum(weights * jnp.abs(errors)), count),
    'loss': (jnp.sum(weights * errors**2), count),
  }


tasks.add(
  tasks.Task(
    name='series',
    load=load,
    model=model,
    loss=loss,
    metrics=(tasks.Metric('error', 'V', 'lower', '.3f'), tasks.Metric('loss')),
    fields={
      'data.steps': tasks.Field(6, fields.whole(2), 'of a wave'),
      'data.noise': tasks.Field(0.1, fields.FROM_0, 'standard deviation'),
      'data.draw': tasks.Field(0, fields.whole(0)),
    },
  )
)


def get_config(preset=''):
  """The config of both presets."""
  config = configs.default('series')
  config.model.update(cell='gru', hidden_size=4, recurrent_dropout=0.1)
  config.optim.learning_rate = 0.03
  config.train.update(batch_size=8, epochs=3)
  return config


def sweep(add, preset):
  """Two seeds; or a search for the learning rate, a setting of which diverges."""
  if preset != 'search':
    add({'seed': 0})
    add({'seed': 1})
    return
  rates = 'choice', 1e-5, 1e-3, 0.1, 1e30
  add.search(
    [{'model.cell': 'gru'}],
    {'optim.learning_rate': rates},
    method='halton',
    trials=8,
    halving=(1,),
    seeds=(100, 101),
  )
