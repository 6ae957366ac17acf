"""Every cell on three small tasks, three seeds each: which learn what, at equal hidden sizes.

    python launch.py --config=experiments/cells.py

The tasks: handwritten digits, read row by row; the adding problem over 50 steps (always saying 1
has an error of 0.167); and the next character of film reviews. One layer of 32 units, the same
optimiser and learning rate for all: no cell is tuned, so that a cell which does badly here may need
another rate, more layers or more units. Numbers of parameters differ, and are in the report.

    python launch.py --config=experiments/cells.py:lstm,gru,mingru

The cells that are named, alone.

    python launch.py --config=experiments/cells.py:smoke

One seed of two cells, tiny, to see that everything works.
"""

from rnnlab import cells
from rnnlab.runs import configs

TASKS = ('digits', 'adding', 'characters')


def get_config(preset=''):
  """The config of the first task; preset: '' (all cells), names with commas, or 'smoke'."""
  _cells(preset)
  return _config(TASKS[0], preset)


def sweep(add, preset):
  """Each cell on each task, with the same seeds."""
  for task in TASKS:
    config = _config(task, preset)
    for cell in _cells(preset):
      for seed in range(1 if preset == 'smoke' else 3):
        add({'task.name': config.task.name, 'model.cell': cell, 'seed': seed}, config)


def _cells(preset):
  if preset == 'smoke':
    return ['lstm', 'mingru']
  names = preset.split(',') if preset else cells.names()
  for name in names:
    try:
      cells.find(name)
    except ValueError as error:
      words = f'no preset {preset!r} in experiments/cells.py: {error}; or smoke'
      raise ValueError(words) from None
  return names


def _config(task, preset):
  name = {'digits': 'classification', 'adding': 'generated', 'characters': 'language_model'}[task]
  config = configs.default(name)
  config.model.hidden_size = 32
  if task != 'characters':  # a language model has others, and none unless asked for
    config.model.update(dropout=0.0, recurrent_dropout=0.0)
  config.optim.learning_rate = 3e-3
  config.optim.clip_norm = 1.0
  if task == 'digits':
    config.data.source = 'digits'
    config.train.epochs = 30
  elif task == 'adding':
    config.data.update(problem='adding', length=50)
    config.train.update(batch_size=64, epochs=15)
  else:
    config.data.update(unit='character', lowercase=True, max_tokens=200_000)
    config.model.embed_size = 32
    config.train.update(window=50, epochs=5)
  if preset == 'smoke':
    config.model.hidden_size = 8
    config.train.epochs = 2
    if task == 'digits':
      config.data.max_examples = 200
    elif task == 'adding':
      config.data.update(length=10, examples=256, validation_examples=100, test_examples=100)
    else:
      config.data.max_tokens = 10_000
  return config
