"""LSTM against GRU on JapaneseVowels: which of nine men speaks two vowels, five seeds each.

    python launch.py --config=experiments/japanese_vowels.py

270 series for training, of which 54 are held out for validation, and 370 for testing: the official
split. A step has 12 coefficients of the sound's spectrum, and a series has 7 to 29 steps. The model
is bidirectional. Its settings, like the epoch of each run, were chosen by validation alone. 54
series are few to choose an epoch by: many epochs are equally good by them, and the first of these
is taken. It takes 73 seconds of CPU time. Test accuracy is 96.6% (LSTM) and 96.2% (GRU) at the
epoch of best validation accuracy; 98.3% and 98.6% after the last.

    python launch.py --config=experiments/japanese_vowels.py:all

The protocol of the published figures: the same settings, trained on all 270 series. No epoch is
selected; the last one is reported. Test accuracy is 98.5% (LSTM) and 98.5% (GRU).

    python launch.py --config=experiments/japanese_vowels.py:smoke

Two epochs of a tiny model, in half a minute, to see that everything works.
"""

from rnnlab.runs import configs


def get_config(preset=''):
  """The config of `preset`: '' (default), 'all' or 'smoke'."""
  if preset not in ('', 'all', 'smoke'):
    raise ValueError(f'no preset {preset!r} in experiments/japanese_vowels.py: all or smoke')
  config = configs.default('classification')
  config.data.source = 'japanese_vowels'
  config.model.bidirectional = True
  config.optim.learning_rate = 3e-3
  config.optim.schedule = 'cosine'
  config.train.epochs = 40
  if preset == 'all':
    config.data.validation_fraction = 0.0
  if preset == 'smoke':
    config.model.hidden_size = 16
    config.train.epochs = 2
  return config


def sweep(add):
  """Both cells, five seeds each."""
  for seed in range(5):
    for cell in ('lstm', 'gru'):
      add({'model.cell': cell, 'seed': seed})


def references():
  """Published figures on the official test set."""
  return [
    {
      'says': 'For scale, on the same 370 test series: 94.1% by the method that the data were'
      ' published with, and 96.2% by a hidden Markov model of five states (Kudo, Toyama and Shimbo'
      ' 1999); both were trained on all 270 train series.',
      'title': 'JapaneseVowels',
      'test_examples': 370,
    }
  ]
