"""Which cells count: a^n b^n, trained up to n = 50 and tested up to n = 500, ten seeds each.

    python launch.py --config=experiments/counting.py

At each step of a string of a^n b^n the model predicts which symbols may come next, and a string is
right if every step is (Gers & Schmidhuber 2001). right_up_to is the greatest n up to which all
strings are right. LSTM and a rectified Elman network (irnn) can count without bound, GRU and
Elman cannot (Weiss et al. 2018). Strings with n up to 250 choose the epoch; every n up to 500 is
tested.

Each cell has the rate at which it got furthest on validation, of three tried for 30 epochs with
seeds that are not those of the sweep: LSTM 0.1 of 0.03, 0.05 and 0.1 (six seeds, right up to 15 to
250); GRU 0.03 of 0.01, 0.03 and 0.1 (three seeds, as for the following cells: 37 to 46); Elman 0.01
of these (up to 5); irnn 0.01 of 0.001, 0.01 and 0.03 (0 to 47). With 60 epochs in place of 30, all
six seeds of LSTM were right up to n = 250 or more in the test.

    python launch.py --config=experiments/counting.py:smoke

Two epochs of strings up to n = 5, to see that everything works.
"""

from rnnlab.runs import configs

RATES = {'lstm': 0.1, 'gru': 0.03, 'elman': 0.01, 'irnn': 0.01}


def get_config(preset=''):
  """The config of `preset`: '' (default), or 'smoke'."""
  if preset not in ('', 'smoke'):
    raise ValueError(f'no preset {preset!r} in experiments/counting.py: smoke')
  config = configs.default('generated')
  config.task.metric = 'right_up_to'
  config.data.update(problem='anbn', n=50, validation_n=250, test_n=500)
  config.data.update(examples=3_200, validation_examples=250, test_examples=500)
  config.model.update(hidden_size=10, embed_size=4, dropout=0.0, recurrent_dropout=0.0)
  config.optim.clip_norm = 1.0
  config.train.epochs = 60
  if preset == 'smoke':
    config.data.update(n=5, validation_n=7, test_n=10)
    config.data.update(examples=320, validation_examples=7, test_examples=10)
    config.train.epochs = 2
  return config


def sweep(add, preset=''):
  """Four cells, ten seeds each; one in 'smoke'."""
  for seed in range(1 if preset == 'smoke' else 10):
    for cell, rate in RATES.items():
      add({'model.cell': cell, 'optim.learning_rate': rate, 'seed': seed})
