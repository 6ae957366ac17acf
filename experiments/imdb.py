"""LSTM against GRU on IMDB reviews: both cells, three seeds each.

    python launch.py

The tutorial's model and hyper-parameters, with a validation split cut from train. With the reviews
of the PyPI package, on two cores: 6 minutes; test accuracy at the best-validation epoch 84.6%
(LSTM) and 84.2% (GRU); after the last epoch 82.2% and 83.7%.

    python launch.py --config=experiments/imdb.py:tutorial

The tutorial's own protocol: train on all 25,000, validation is test, ten epochs, the last reported,
a dropout mask per gate, Adam's epsilon 1e-7, the GRU that is Keras's default. With the official
data, on two cores: 25 minutes; test accuracy 84.8% (LSTM) and 85.2% (GRU).

    python launch.py --config=experiments/imdb.py:smoke

Everything, tiny, in half a minute; it reaches nothing.
"""

import difflib

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from rnnlab.runs import configs

PRESETS = ('', 'tutorial', 'smoke')


def get_config(preset=''):
  """The config of `preset`: '' (default), 'tutorial' or 'smoke'."""
  if preset not in PRESETS:
    near = difflib.get_close_matches(preset, PRESETS[1:], n=1)
    hint = f' (did you mean {near[0]!r}?)' if near else ''
    raise ValueError(f'no preset {preset!r} in experiments/imdb.py{hint}: tutorial or smoke')
  # The main job is every field as it is by default: see rnnlab/runs/configs.py.
  config = configs.default()
  config.model.lstm = ConfigDict({'forget_bias': placeholder(float)})  # None: as init has it
  config.model.gru = ConfigDict({'reset': placeholder(str)})  # after | before; None: as init has it

  if preset == 'tutorial':
    config.data.mask = False
    config.data.buckets = 1
    config.data.validation_fraction = 0.0
    config.model.dropout_per_gate = True  # as Keras 3 draws its masks
    config.optim.epsilon = 1e-7  # Keras's
  if preset == 'smoke':
    config.model.hidden_size = 16
    config.model.embed_size = 16
    config.data.vocab_size = 1_000
    config.data.max_len = 50
    config.data.buckets = 2
    config.data.max_examples = 1_000
    config.train.epochs = 2
  return config


def sweep(add):
  """Both cells, three seeds each."""
  for seed in range(3):
    for cell in ('lstm', 'gru'):
      add({'model.cell': cell, 'seed': seed})


def references():
  """Published figures on the official test set; the report has them beside runs on all of it."""
  return [
    {
      'says': 'For scale, on the same official test set: NB-SVM on bigrams, a linear model trained '
      'in minutes, 91.2 to 91.6%; LSTM from random initialisation 86.5% (Dai and Le 2015); at '
      'length 200, four runs each, LSTM 84.3% and GRU 84.5% (Campos et al. 2018).',
      'title': 'IMDB, official train and test split',
      'test_examples': 25_000,
    }
  ]
