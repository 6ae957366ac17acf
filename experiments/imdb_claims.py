"""The tutorial's claims about LSTM and GRU, stated before the runs that test them.

    python launch.py --config=experiments/imdb_claims.py

Four settings with 30 seeds each, for an accelerator: LSTM and GRU of 64 units; a GRU with as many
recurrent parameters as that LSTM, within 2% (80 units: 50,240 against 49,408); and a GRU that
trains for the same time, 12 epochs against 10, since an epoch of LSTM took 12.2 s and one of GRU
9.9 s when these claims were written. A validation split cut from train selects the epoch of each
run; the claims are about the test split at that epoch. The claim on speed needs
--executor=process: runs that train together, as on two cores or an accelerator by default, have no
times of their own.

    python launch.py --config=experiments/imdb_claims.py:cpu

The same with 10 seeds and 5 epochs (6 for the GRU of equal time), within an hour on two cores.

    python launch.py --config=experiments/imdb_claims.py:smoke

Few reviews and words, two seeds, to see that everything works.
"""

from experiments import imdb

references = imdb.references

SEEDS = {'': 30, 'cpu': 10, 'smoke': 2}
EPOCHS = {
  '': (10, 12),
  'cpu': (5, 6),
  'smoke': (2, 3),
}  # the last: GRU of equal time
LSTM = {'model.cell': 'lstm', 'model.hidden_size': 64}
GRU = {'model.cell': 'gru', 'model.hidden_size': 64}
MATCHED = {'model.cell': 'gru', 'model.hidden_size': 80}
MARGIN = 0.01  # differences in accuracy below this count as none


def get_config(preset=''):
  """The config of `preset`: '' (default), 'cpu' or 'smoke'."""
  if preset not in SEEDS:
    raise ValueError(f'no preset {preset!r} in experiments/imdb_claims.py: cpu or smoke')
  config = imdb.get_config('smoke' if preset == 'smoke' else '')
  config.train.epochs = EPOCHS[preset][0]
  return config


def sweep(add, preset):
  """The four settings, each with the same seeds."""
  for seed in range(SEEDS[preset]):
    for setting in _settings(preset):
      add(setting | {'seed': seed})


def claims(preset):
  """The tutorial's claims that these runs can test; those about accuracy on three equal terms."""
  lstm, gru, matched, longer = _settings(preset)
  accuracy = {'metric': 'best_test_accuracy', 'margin': MARGIN}
  said = [
    {
      'claim': 'GRU computes faster than LSTM at equal hidden size',
      'a': lstm,
      'b': gru,
      'metric': 'seconds_per_epoch',
      'says': 'b < a',
    },
    {
      'claim': 'GRU is easier to train: its best epoch comes earlier',
      'a': lstm,
      'b': gru,
      'metric': 'best_epoch',
      'says': 'b < a',
    },
  ]
  for b, terms in (
    (gru, 'equal hidden size'),
    (matched, 'equal recurrent parameters'),
    (longer, 'equal wall time'),
  ):
    for words, says in (('equals LSTM', 'b = a'), ('is at least as good as LSTM', 'b >= a')):
      said.append(
        {'claim': f'GRU {words} on this task, at {terms}', 'a': lstm, 'b': b, 'says': says}
        | accuracy
      )
  return said


def _settings(preset):
  epochs, longer = ({'train.epochs': count} for count in EPOCHS[preset])
  return [LSTM | epochs, GRU | epochs, MATCHED | epochs, GRU | longer]
