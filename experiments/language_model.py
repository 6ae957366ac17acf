"""LSTM against GRU as language models, three seeds each; on film reviews with equal parameters.

    python launch.py --config=experiments/language_model.py

350,000 words of film reviews, from the package that holds the main job's reviews, in lower
case, with a vocabulary of 10,000 words. There are two layers; the second has the size of the
embedding, whose weights are also those of the output. The GRU's first layer is wider by as much as
it takes to make the numbers of parameters equal.

    python launch.py --config=experiments/language_model.py:character

The same reviews, character by character: two million characters, and one layer of 256 units (LSTM).

    python launch.py --config=experiments/language_model.py:ptb_small --config.data.path=FOLDER

Penn Treebank as Mikolov prepared it (ptb.train.txt, ptb.valid.txt and ptb.test.txt in FOLDER; the
text is not free, so it is not included), and the small model of Zaremba et al. 2014 as published:
two layers of 200 units, no dropout, 20 streams, windows of 20 steps, SGD with a rate of 1 that is
halved at each epoch after the fourth, gradients clipped at 5, 13 epochs. They sum the loss over the
steps of a window where it is averaged here, so the rate is 20 times as large and the clipping bound
a twentieth. The model has the same number of units with either cell. GRU's rate, here and in the
other presets, is 0.35 times LSTM's: at LSTM's own rate its loss rose again.

    python launch.py --config=experiments/language_model.py:ptb_medium --config.data.path=FOLDER

Their medium model: 650 units, dropout of a half between layers, 39 epochs.

    python launch.py --config=experiments/language_model.py:ptb_tuned --config.data.path=FOLDER

No more parameters than the small model, but better spent: 300 units, output weights tied to the
embedding, dropout with masks that are the same at all steps of a window, and 20 epochs of SGD whose
rate falls from 20 to 0 as a cosine.

    python launch.py --config=experiments/language_model.py:awd --config.data.path=FOLDER

AWD-LSTM (Merity et al. 2018) with its published settings for Penn Treebank, one run of LSTM: days
on two cores.

    python launch.py --config=experiments/language_model.py:smoke

Two epochs of a tiny model, in half a minute, to see that everything works.
"""

import difflib

from experiments import ngram
from rnnlab.runs import configs

PRESETS = ('', 'character', 'ptb_small', 'ptb_medium', 'ptb_tuned', 'awd', 'smoke')
# SGD's rate of GRU, as a share of LSTM's: at LSTM's own, GRU's loss rose again from the third epoch
# on Penn Treebank, and ended higher on the reviews (one seed each).
GRU_RATE = 0.35
# Units of the first of two layers: with 200 in the second, LSTM and GRU have 641,600 and 642,180
# recurrent parameters. With one layer for characters, embedded in 64: 328,704 and 328,800.
EQUAL = {'': (200, 262), 'character': (256, 300)}


def get_config(preset=''):
  """The config of `preset`, one of PRESETS."""
  if preset not in PRESETS:
    near = difflib.get_close_matches(preset, PRESETS[1:], n=1)
    hint = f' (did you mean {near[0]!r}?)' if near else ''
    words = ', '.join(PRESETS[1:])
    raise ValueError(f'no preset {preset!r} in experiments/language_model.py{hint}: {words}')
  config = configs.default('language_model')
  if preset in ('ptb_small', 'ptb_medium'):
    _zaremba(config, preset == 'ptb_medium')
  elif preset == 'ptb_tuned':
    _tuned(config)
  elif preset == 'awd':
    _awd(config)
  else:
    config.data.lowercase = True
    config.data.max_tokens = 350_000
    config.data.validation_fraction = config.data.test_fraction = 0.01
    config.model.layers = 2
    config.model.hidden_size = config.model.embed_size = 200
    config.model.tied = True
    config.model.init_scale = 0.1
    config.optim.name = 'sgd'
    config.optim.learning_rate = 20.0
    config.optim.schedule = 'step'
    config.optim.decay_after = 2
    config.optim.clip_norm = 0.25
    config.train.batch_size = 20
    config.train.window = 20
    config.train.epochs = 3
  if preset == 'character':
    config.data.unit = 'character'
    config.data.max_tokens = 2_000_000
    config.model.layers = 1
    config.model.hidden_size = 256
    config.model.embed_size = 64
    config.model.tied = False
    config.train.window = 100
  if preset == 'smoke':
    config.data.max_tokens = 20_000
    config.data.min_count = 2
    config.model.hidden_size = config.model.embed_size = 16
    config.train.epochs = 2
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


def _tuned(config):
  """At most as many parameters as Zaremba's small model, which has 4.65 million."""
  config.data.source = 'corpus'
  config.model.layers = 2
  config.model.hidden_size = config.model.embed_size = 300
  config.model.tied = True
  config.model.init_scale = 0.1
  config.model.locked = True
  config.model.word_dropout = 0.05
  config.model.embed_dropout = 0.25
  config.model.layer_dropout = 0.2
  config.model.output_dropout = 0.35
  config.model.weight_dropout = 0.2
  config.optim.name = 'sgd'
  config.optim.learning_rate = 20.0
  config.optim.schedule = 'cosine'
  config.optim.clip_norm = 0.25
  config.train.batch_size = 20
  config.train.window = 35
  config.train.window_offset = True
  config.train.epochs = 20


def _awd(config):
  """Merity, Keskar and Socher 2018, and their code."""
  config.data.source = 'corpus'
  config.model.init = 'awd'
  config.model.layers = 3
  config.model.hidden_size = 1150
  config.model.embed_size = 400
  config.model.tied = True
  config.model.locked = True
  config.model.word_dropout = 0.1
  config.model.embed_dropout = 0.4
  config.model.layer_dropout = 0.25
  config.model.output_dropout = 0.4
  config.model.weight_dropout = 0.5
  config.model.alpha = 2.0
  config.model.beta = 1.0
  config.optim.name = 'asgd'
  config.optim.learning_rate = 30.0
  config.optim.clip_norm = 0.25
  config.optim.weight_decay = 1.2e-6
  config.train.batch_size = 20
  config.train.window = 70
  config.train.window_spread = 5.0
  config.train.window_halved = 0.05
  config.train.epochs = 500


def sweep(add, preset=''):
  """Both cells, three seeds each; for 'awd', which takes days, one run of LSTM."""
  if preset == 'awd':
    add({'model.cell': 'lstm', 'seed': 0})
    return
  rate = get_config(preset).optim.learning_rate
  for seed in range(3):
    for cell, units in zip(('lstm', 'gru'), EQUAL.get(preset, (None, None)), strict=True):
      setting = {'model.cell': cell, 'seed': seed}
      if units:
        setting['model.hidden_size'] = units
      setting['optim.learning_rate'] = rate if cell == 'lstm' else GRU_RATE * rate
      add(setting)


def references(preset=''):
  """N-grams on the film reviews; a text of your own is known only by its flag."""
  data = get_config(preset).data
  return [] if data.source == 'corpus' else ngram.references(data)
