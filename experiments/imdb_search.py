"""LSTM against GRU on IMDB reviews, each tuned with an equal budget, then run with fresh seeds.

    python launch.py --config=experiments/imdb_search.py

For each cell 16 trials, the same settings for both, of which the better half by validation accuracy
goes on after 2 and after 4 of 10 epochs; then the best setting of each cell with five fresh seeds,
which alone are compared. 72 epochs a cell for the search, 50 for the comparison.

    python launch.py --config=experiments/imdb_search.py:smoke

Everything, tiny; it reaches nothing.
"""

from experiments import imdb

references = imdb.references


def get_config(preset=''):
  """The config of `preset`: '' (default), or 'smoke'."""
  if preset not in ('', 'smoke'):
    raise ValueError(f'no preset {preset!r} in experiments/imdb_search.py: smoke')
  return imdb.get_config(preset)


def sweep(add, preset):
  """A search for both cells."""
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
