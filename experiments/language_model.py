"""LSTM against GRU as language models.

    python launch.py --config=experiments/language_model.py:ptb_small --config.data.path=FOLDER

Penn Treebank as Mikolov prepared it (ptb.train.txt, ptb.valid.txt and ptb.test.txt in FOLDER: the
text is not free, and not here), and the small model of Zaremba et al. 2014 as published: two layers
of 200 units, no dropout, 20 streams, windows of 20 steps, SGD whose rate of 1 is halved at each
epoch after the fourth, gradients clipped at 5, 13 epochs. They sum the loss over the steps of a
window and we take its mean, so that the rate is 20 times as large and the bound a twentieth.
"""

import difflib

from rnnlab.runs import configs

PRESETS = ('', 'ptb_small', 'ptb_medium', 'smoke')


def get_config(preset=''):
  """The config of `preset`, one of PRESETS."""
  if preset not in PRESETS:
    near = difflib.get_close_matches(preset, PRESETS[1:], n=1)
    hint = f' (did you mean {near[0]!r}?)' if near else ''
    words = ', '.join(PRESETS[1:])
    raise ValueError(f'no preset {preset!r} in experiments/language_model.py{hint}: {words}')
  config = configs.default('language_model')
  if preset.startswith('ptb'):
    _zaremba(config, preset == 'ptb_medium')
  return config


def _zaremba(config, medium):
  """Zaremba, Sutskever and Vinyals 2014, Recurrent neural network regularization: table 1."""
  steps = 35 if medium else 20
  config.data.source = 'corpus'
  config.model.layers = 2
  config.model.hidden_size = config.model.embed_size = 650 if medium else 200
  config.model.init_scale = 0.05 if medium else 0.1
  config.optim.name = 'sgd'
  config.optim.learning_rate = 1.0 * steps
  config.optim.clip_norm = 5.0 / steps
  config.optim.schedule = 'step'
  config.train.batch_size = 20
  config.train.window = steps
  config.optim.decay_after = 4
  config.train.epochs = 13
  if medium:
    config.model.embed_dropout = config.model.layer_dropout = config.model.output_dropout = 0.5
    config.optim.decay = 0.8
    config.optim.decay_after = 6
    config.train.epochs = 39


def sweep(add, preset=''):
  """Both cells, three seeds each."""
  for seed in range(3):
    for cell in ('lstm', 'gru'):
      add({'model.cell': cell, 'seed': seed})
