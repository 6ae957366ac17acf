"""LSTM against GRU on IMDB reviews: both cells, three seeds each.

    python launch.py

The tutorial's model and hyper-parameters, with padding masked and a validation split cut from
train. With the reviews of the PyPI package it takes 5 minutes on two cores. Test accuracy is 84.6%
(LSTM) and 84.2% (GRU) at the epoch of best validation accuracy; 82.2% and 83.7% after the last.

    python launch.py --config=experiments/imdb.py:tutorial

The tutorial's own protocol: it trains on all train reviews (25,000 of the official data, 20,000 of
the package), validates on the test split, and reports the last of ten epochs, with a dropout mask
per gate, an epsilon of 1e-7 in Adam, and padding that is not masked. With the official data it took
25 minutes on two cores, before LSTM and GRU had kernels for the CPU; it takes less now. Test
accuracy is 84.8% (LSTM) and 85.2% (GRU).

    python launch.py --config=experiments/imdb.py:long

The main job with up to 400 words of each review in place of 200, and 5 epochs in place of 10. It
has not been measured yet.

    python launch.py --config=experiments/imdb.py:smoke

A tiny model on a few reviews, in half a minute, to see that everything works.
"""

import difflib

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from rnnlab.runs import configs

PRESETS = ('', 'tutorial', 'long', 'smoke')


def get_config(preset=''):
  """The config of `preset`: '' (default), 'tutorial', 'long' or 'smoke'."""
  if preset not in PRESETS:
    near = difflib.get_close_matches(preset, PRESETS[1:], n=1)
    hint = f' (did you mean {near[0]!r}?)' if near else ''
    raise ValueError(f'no preset {preset!r} in experiments/imdb.py{hint}: tutorial, long or smoke')
  # The main job has every field at its default: see rnnlab/runs/schema.py and, for those of its
  # task, rnnlab/tasks/classification.py.
  config = configs.default()
  config.model.lstm = ConfigDict({'forget_bias': placeholder(float)})  # None: set by init
  config.model.gru = ConfigDict({'reset': placeholder(str)})  # after | before; None: set by init

  if preset == 'tutorial':
    config.data.mask = False
    config.data.buckets = 1
    config.data.validation_fraction = 0.0
    config.model.dropout_per_gate = True  # as Keras 3 draws its masks
    config.optim.epsilon = 1e-7  # Keras's
  if preset == 'long':
    config.data.max_len = 400
    config.data.buckets = 6
    config.train.epochs = 5
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
  """Published figures on the official test set; the report shows them beside runs on all of it."""
  return [
    {
      'says': 'For scale, on the same official test set: NB-SVM on bigrams, a linear model trained '
      'in minutes, 91.2 to 91.6%; LSTM from random initialisation 86.5% (Dai and Le 2015); at '
      'length 200, four runs each, LSTM 84.3% and GRU 84.5% (Campos et al. 2018).',
      'title': 'IMDB, official train and test split',
      'test_examples': 25_000,
    }
  ]
