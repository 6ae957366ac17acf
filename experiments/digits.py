"""LSTM against GRU on handwritten digits, read row by row: five seeds each.

    python launch.py --config=experiments/digits.py

1,797 digits of 8 x 8 pixels: 8 steps of 8 values. There is no official split: a fifth is held out
for testing, and another for validation. The model is bidirectional. Its settings, like the epoch of
each run, were chosen by validation alone. It takes 111 seconds of CPU time. Test accuracy is 97.1%
(LSTM) and 98.1% (GRU).

    python launch.py --config=experiments/digits.py:smoke

Two epochs of a tiny model, in half a minute, to see that everything works.
"""

from rnnlab.runs import configs


def get_config(preset=''):
  """The config of `preset`: '' (default), or 'smoke'."""
  if preset not in ('', 'smoke'):
    raise ValueError(f'no preset {preset!r} in experiments/digits.py: smoke')
  config = configs.default('classification')
  config.data.source = 'digits'
  config.model.hidden_size = 128
  config.model.output_dropout = 0.3
  config.model.bidirectional = True
  config.optim.learning_rate = 3e-3
  config.optim.schedule = 'cosine'
  config.train.epochs = 40
  if preset == 'smoke':
    config.model.hidden_size = 16
    config.data.max_examples = 200
    config.train.epochs = 2
  return config


def sweep(add):
  """Both cells, five seeds each."""
  for seed in range(5):
    for cell in ('lstm', 'gru'):
      add({'model.cell': cell, 'seed': seed})
