"""LSTM against GRU on IMDB reviews, each tuned with an equal budget, then run with fresh seeds.

    python launch.py --config=experiments/imdb_search.py

Each cell gets 16 trials, with the same settings for both. After 2 and after 4 of 10 epochs the
better half of them, by validation accuracy, continues. Then the best setting of each cell runs with
five fresh seeds, and only these runs are compared. For each cell the search takes 72 epochs and the
comparison 50.

    python launch.py --config=experiments/imdb_search.py:smoke

A tiny model with two trials per cell, to see that everything works.
"""

from experiments import imdb

references = imdb.references


def get_config(preset=''):
  """The config of `preset`: '' (default), or 'smoke'."""
  if preset not in ('', 'smoke'):
    raise ValueError(f'no preset {preset!r} in experiments/imdb_search.py: smoke')
  return imdb.get_config(preset)


def sweep(add, preset):
  """One search, with an arm for each cell."""
  smoke = preset == 'smoke'
  add.search(
    [{'model.cell': 'lstm'}, {'model.cell': 'gru'}],
    {
      'optim.learning_rate': ('log', 1e-4, 1e-2),
      'model.dropout': ('uniform', 0.0, 0.5),
      'model.recurrent_dropout': ('uniform', 0.0, 0.5),
    },
    method='sobol',
    trials=2 if smoke else 16,
    halving=(1,) if smoke else (2, 4),
    seeds=range(100, 102 if smoke else 105),
  )
