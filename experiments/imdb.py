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

PRESETS = ('', 'tutorial', 'smoke')


def get_config(preset=''):
  """The config of `preset`: '' (default), 'tutorial' or 'smoke'."""
  if preset not in PRESETS:
    near = difflib.get_close_matches(preset, PRESETS[1:], n=1)
    hint = f' (did you mean {near[0]!r}?)' if near else ''
    raise ValueError(f'no preset {preset!r} in experiments/imdb.py{hint}: tutorial or smoke')
  config = ConfigDict()
  config.seed = 0

  config.model = ConfigDict()
  config.model.cell = 'lstm'  # any file in rnnlab/cells/
  config.model.hidden_size = 64
  config.model.embed_size = 128
  config.model.layers = 1
  config.model.bidirectional = False
  config.model.pooling = 'last'  # last | mean | max | concat
  config.model.embed_dropout = 0.0
  config.model.dropout = 0.2
  config.model.recurrent_dropout = 0.2
  config.model.dropout_per_gate = False
  config.model.output_dropout = 0.0
  config.model.precision = 'float32'  # float32 | bfloat16, of the operands of the cell's products
  config.model.remat = False  # memory that grows as the root of max_len, for one more run forward
  config.model.truncate = ()  # (k1, k2): gradients of k1 steps go back k2; (): to the first step
  config.model.init = 'keras'  # keras | torch | flax | haiku: whose initial weights and GRU
  config.model.lstm = ConfigDict({'forget_bias': placeholder(float)})  # None: as init has it
  config.model.gru = ConfigDict({'reset': placeholder(str)})  # after | before; None: as init has it

  config.data = ConfigDict()
  config.data.name = 'imdb'
  config.data.source = 'auto'  # auto | tfds | directory | package
  config.data.dir = ''  # TFDS's data_dir; or an aclImdb folder or tar.gz for source=directory
  config.data.vocab_size = 10_000
  config.data.max_len = 200
  config.data.padding = 'pre'  # pre | post
  config.data.truncation = 'pre'  # pre | post
  config.data.mask = True  # the padding takes no part
  config.data.buckets = 4  # widths that batches are padded to, by length; above 1 needs mask
  config.data.validation_fraction = 0.2  # of train; 0: the test split is the validation split
  config.data.split_seed = 0
  config.data.max_examples = 0  # in each split; 0: all
  config.data.label_noise = 0.0  # the share of the train labels that are turned round

  config.optim = ConfigDict()
  config.optim.name = 'adam'
  config.optim.learning_rate = 1e-3
  config.optim.epsilon = 1e-8
  config.optim.schedule = 'constant'  # constant | linear | cosine
  config.optim.warmup_steps = 0
  config.optim.clip_norm = 0.0  # 0: no clipping
  config.optim.weight_decay = 0.0

  config.train = ConfigDict()
  config.train.batch_size = 32
  config.train.epochs = 10
  config.train.patience = 0  # epochs without a better validation accuracy to stop after; 0: none

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
