"""What a config must be, and the run that it describes."""

import hashlib
import json
import math
import re
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from rnnlab import cells, conventions, models, optim, recurrence
from rnnlab.data import imdb

# Fields that a compiled program takes as arguments: runs that differ in these alone share one. Of
# those that are off at 0, as a dropout, the program is of runs that have them, or that have not.
VALUES = (
  'model.embed_dropout',
  'model.dropout',
  'model.recurrent_dropout',
  'model.output_dropout',
  'optim.learning_rate',
  'optim.epsilon',
  'optim.warmup_steps',
  'optim.clip_norm',
  'optim.weight_decay',
  'data.label_noise',
  'train.epochs',
)
NAME_MAX = 255  # bytes of a folder's name, on most file systems
READABLE = 150  # of a name that would be longer
HOSTS = 'seed', 'train.patience'  # that a program has nothing to do with


class RunSpec(NamedTuple):
  """A run to do.

  overrides: what sets it apart in its sweep. command: the one given. until: the epoch after which
  it pauses, 0 for its end. stage: 'search' for a trial of a search, '' for what is compared. wandb:
  whether Weights & Biases is told of it too.
  """

  id: str
  overrides: dict[str, Any]
  config: ConfigDict
  command: str = ''
  until: int = 0
  stage: str = ''
  wandb: bool = False


def specify(config: ConfigDict, overrides: dict | None = None, command: str = '') -> RunSpec:
  """The run of `config`, named by its cell, its seed and `overrides`."""
  named = {'model.cell': config.model.cell, 'seed': config.seed} | (overrides or {})
  return RunSpec(run_id(named, config), named, config, command)


def run_id(overrides: dict, config: ConfigDict) -> str:
  """A folder name: the overrides, as far as they fit, then a hash of the whole config."""
  words = [
    re.sub(r'[^\w.+-]', '', f'{name.split(".")[-1]}-{value}') for name, value in overrides.items()
  ]
  name, end = '_'.join(words), f'_{config_hash(config.to_dict())}'
  if len(f'{name}{end}'.encode()) > NAME_MAX:
    name = name.encode()[:READABLE].decode(errors='ignore')
  return f'{name}{end}'


def config_hash(config: dict) -> str:
  """The hash that ends the name of a config's run."""
  text = json.dumps(config, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:8]


def split(config: ConfigDict) -> tuple[FrozenConfigDict, dict[str, np.float32]]:
  """What the program of a run is compiled from, and the numbers it is then given, by dotted name.

  The first has True or False for each of VALUES, as it is 0 or not, and the second those that are
  not.
  """
  shape, values = config.to_dict(), {}
  for name in (*VALUES, *HOSTS):
    part, _, field = name.rpartition('.')
    fields = shape[part] if part else shape
    if name in HOSTS:
      del fields[field]
      continue
    if fields[field]:
      values[name] = np.float32(fields[field])
    fields[field] = bool(fields[field])
  return FrozenConfigDict(shape), values


def check(config: ConfigDict) -> None:
  """Raises ValueError, naming the field and what it may be, for a config that describes no run."""

  def field(name):
    value = config
    for part in name.split('.'):
      if part not in value:
        raise ValueError(f'the config has no field {name}')
      value = value[part]
    return value

  def need(names, right, what):
    for name in names.split():
      value = field(name)
      if isinstance(value, float) and math.isnan(value) or not right(value):
        raise ValueError(f'--config.{name}={value!r}: must be {what}')

  def choice(name, words):
    value = field(name)
    if value not in words:
      raise ValueError(
        f'--config.{name}={value!r}{cells.near(value, words)}: must be one of {", ".join(words)}'
      )

  choice('data.name', ('imdb',))
  choice('data.source', ('auto', *imdb.SOURCES))
  choice('data.padding', ('pre', 'post'))
  choice('data.truncation', ('pre', 'post'))
  choice('model.cell', cells.names())
  choice('model.init', conventions.NAMES)
  choice('model.pooling', models.POOLINGS)
  choice('model.precision', models.PRECISIONS)
  choice('optim.name', optim.OPTIMIZERS)
  choice('optim.schedule', optim.SCHEDULES)
  need(
    'model.hidden_size model.embed_size model.layers data.max_len data.buckets train.batch_size'
    ' train.epochs',
    lambda n: n >= 1,
    'at least 1',
  )
  need('data.vocab_size', lambda n: n >= 5, 'at least 5: ids 0 to 3 are not words')
  need(
    'model.embed_dropout model.dropout model.recurrent_dropout model.output_dropout',
    lambda rate: 0 <= rate < 1,
    'at least 0 and below 1',
  )
  need(
    'model.truncate',
    lambda steps: not steps or recurrence.is_truncation(steps),
    f'() or {recurrence.TRUNCATION}',
  )
  need('data.label_noise', lambda share: 0 <= share <= 0.5, 'from 0 to 0.5')
  need('data.validation_fraction', lambda share: 0 <= share <= 0.5, 'from 0 to 0.5')
  need('optim.learning_rate optim.epsilon', lambda x: x > 0, 'above 0')
  need(
    'optim.warmup_steps optim.clip_norm optim.weight_decay data.max_examples data.split_seed'
    ' train.patience',
    lambda x: x >= 0,
    'at least 0',
  )
  if config.data.buckets > 1 and not config.data.mask:
    raise ValueError(
      f'--config.data.buckets={config.data.buckets} needs --config.data.mask=True: without a mask'
      ' the padding is part of what the model sees, and cutting it off changes the model. Either'
      ' set the mask, or --config.data.buckets=1'
    )
  if config.train.patience and not config.data.validation_fraction:
    raise ValueError(
      f'--config.train.patience={config.train.patience} needs --config.data.validation_fraction'
      ' above 0: without it the test split would say when to stop'
    )
  need('seed', lambda seed: 0 <= seed < 2**32, 'from 0 to 2**32 - 1')
  conventions.cell(
    config.model.init,
    config.model.cell,
    hidden_size=config.model.hidden_size,
    **dict(config.model.get(config.model.cell, {})),
  )
