"""Tanh units, GRU and LSTM of about equal size on polyphonic music (Chung et al. 2014).

    python launch.py --config=experiments/music.py:jsb --config.data.path=JSB_Chorales.mat

The four sets of Boulanger-Lewandowski et al. (2012) as piano rolls, each in a .mat file, have the
presets jsb, nottingham, musedata and piano_midi. They are not included. Without a preset, data.path
may also be your own folder of .csv files or .npz (see rnnlab/data/rolls.py).

As published: one layer of 100 tanh, 46 GRU or 36 LSTM units, with 18,900, 18,676 and 18,000
recurrent parameters, followed by log-odds of 88 keys; RMSProp, weight noise with a standard
deviation of 0.075, and gradients clipped to a norm of 1; the epoch chosen by validation. The rate,
0.002 for all three, was not tuned. For all but jsb, train pieces are cut into parts of 200 frames.
Ten seeds each. The report tests the ranking of the paper as claims.

    python launch.py --config=experiments/music.py:smoke

Two epochs on made-up chords, one seed each, in half a minute, to see that everything works.
"""

import difflib

from rnnlab.runs import configs

PRESETS = ('', 'jsb', 'nottingham', 'musedata', 'piano_midi', 'smoke')
UNITS = {'elman': 100, 'gru': 46, 'lstm': 36}


def get_config(preset=''):
  """The config of `preset`, one of PRESETS."""
  if preset not in PRESETS:
    near = difflib.get_close_matches(preset, PRESETS[1:], n=1)
    hint = f' (did you mean {near[0]!r}?)' if near else ''
    words = ', '.join(PRESETS[1:])
    raise ValueError(f'no preset {preset!r} in experiments/music.py{hint}: {words}')
  config = configs.default('music')
  config.optim.name = 'rmsprop'
  config.optim.learning_rate = 2e-3
  config.optim.clip_norm = 1.0
  config.optim.weight_noise = 0.075
  config.train.batch_size = 8
  config.train.epochs = 300
  if preset in ('nottingham', 'musedata', 'piano_midi'):
    config.data.max_len = 200
    config.train.batch_size = 16
  if preset == 'smoke':
    config.data.source = 'drawn'
    config.train.epochs = 2
  return config


def sweep(add, preset):
  """The three cells, ten seeds each."""
  for seed in range(1 if preset == 'smoke' else 10):
    for cell, units in UNITS.items():
      add({'model.cell': cell, 'model.hidden_size': units, 'seed': seed})


def claims(preset):
  """What Chung et al. (2014) found on three of the four sets, or, for LSTM, on one."""
  said = (
    ('GRU predicts better than LSTM', 'lstm', 'gru'),
    ('GRU predicts better than tanh units', 'elman', 'gru'),
    ('LSTM predicts better than tanh units', 'elman', 'lstm'),
  )
  return [
    {
      **{'claim': words, 'a': {'model.cell': a}, 'b': {'model.cell': b}},
      **{'metric': 'best_test_nll', 'says': 'b < a'},
    }
    for words, a, b in said
  ]
