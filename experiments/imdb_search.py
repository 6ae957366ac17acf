"""LSTM against GRU on IMDB reviews, each tuned with an equal budget, then run with fresh seeds.

    python launch.py --config=experiments/imdb_search.py

For each cell 16 trials, the same settings for both, of which the better half by validation accuracy
goes on after a fifth and after two fifths of the epochs; then the best setting of each cell with
five fresh seeds, which alone are compared. 72 epochs a cell for the search, 50 for the comparison.

    python launch.py --config=experiments/imdb_search.py:smoke

Everything, tiny, within a minute; it reaches nothing.
"""

import pathlib
import runpy

IMDB = runpy.run_path(str(pathlib.Path(__file__).with_name('imdb.py')))


def get_config(preset=''):
  """The config of `preset`: '' (default), or 'smoke'."""
  if preset not in ('', 'smoke'):
    raise ValueError(f'no preset {preset!r} in experiments/imdb_search.py: smoke')
  return IMDB['get_config'](preset)


def sweep(add):
  """A search for both cells."""
  epochs = add.config.train.epochs
  tiny = epochs < 5
  add.search(
    [{'model.cell': 'lstm'}, {'model.cell': 'gru'}],
    {
      'optim.learning_rate': ('log', 1e-4, 1e-2),
      'model.dropout': ('uniform', 0.0, 0.5),
      'model.recurrent_dropout': ('uniform', 0.0, 0.5),
    },
    method='sobol',
    trials=2 if tiny else 16,
    halving=(1,) if tiny else (epochs // 5, 2 * epochs // 5),
    seeds=range(100, 102 if tiny else 105),
  )
