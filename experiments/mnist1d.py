"""LSTM against GRU on MNIST-1D: ten shapes as series of 40 steps, five seeds each.

    python launch.py --config=experiments/mnist1d.py

4,000 series for training, of which 800 are held out for validation, and 1,000 for testing: the
published ones, generated anew. A step is one value. The model is bidirectional and has no dropout.
Its settings, like the epoch of each run, were chosen by validation alone. It takes 222 seconds of
CPU time. Test accuracy is 94.5% (LSTM) and 96.3% (GRU).

    python launch.py --config=experiments/mnist1d.py:smoke

Two epochs of a tiny model, in half a minute, to see that everything works.
"""

from rnnlab.runs import configs


def get_config(preset=''):
  """The config of `preset`: '' (default), or 'smoke'."""
  if preset not in ('', 'smoke'):
    raise ValueError(f'no preset {preset!r} in experiments/mnist1d.py: smoke')
  config = configs.default('classification')
  config.data.source = 'mnist1d'
  config.model.bidirectional = True
  config.model.dropout = 0.0
  config.model.recurrent_dropout = 0.0
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


def references():
  """Published figures on the official test set."""
  return [
    {
      'says': 'For scale, on the same 1,000 test series: logistic regression 32%, a multilayer'
      ' perceptron 68%, GRU 91%, a convolutional network 94%, a human expert 96% (the README of'
      ' Greydanus 2020; trained on all 4,000 train series).',
      'title': 'MNIST-1D',
      'test_examples': 1_000,
    }
  ]
