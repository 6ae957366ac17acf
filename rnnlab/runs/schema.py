"""The fields of a config: those that every task has, and those of its own task.

Every field is here or in its task, once, with its default, its valid values and its purpose.
"""

from rnnlab import tasks
from rnnlab.tasks.fields import (
  ABOVE_0,
  FLAG,
  FROM_0,
  RATE,
  SIZE,
  Field,
  Kind,
  choice,
  number,
  of,
  whole,
)

_EXACT = 2**24  # whole numbers up to which float32 is exact


def _cells():
  from rnnlab import cells

  return cells.names()


def _is_cell(value):
  # A cell of another package, 'package.module:name', is looked up when a model is made with it.
  return isinstance(value, str) and (value in _cells() or ':' in value)


def _is_truncation(value):
  from rnnlab import recurrence

  return value == () or recurrence.is_truncation(value) and max(value) < 2**31


def _is_task(value):
  # A task of another package, 'package.module:name', is looked up with its fields.
  return isinstance(value, str) and (value in tasks.names() or ':' in value)


# The fields of every task; each task adds its own: see `fields`.
FIELDS = {
  'seed': Field(0, whole(0, 2**32 - 1)),
  'task.name': Field(
    tasks.DEFAULT,
    Kind(_is_task, lambda: f'one of {", ".join(tasks.names())}', tasks.names),
    'any file in rnnlab/tasks/, or package.module:name',
  ),
  'task.metric': Field(
    '',
    Kind(lambda value: isinstance(value, str), lambda: "the name of one of its metrics, or ''"),
    "the primary metric, which chooses epochs and makes headlines; '': the task's first",
  ),
  'model.cell': Field(
    'lstm',
    Kind(_is_cell, lambda: f'one of {", ".join(_cells())}, or package.module:name', _cells),
    'any file in rnnlab/cells/, or package.module:name',
  ),
  'model.hidden_size': Field(64, SIZE),
  'model.layers': Field(1, whole(1, 1000)),
  'model.bidirectional': Field(False, FLAG),
  'model.dropout': Field(0.2, RATE, traced=True),
  'model.recurrent_dropout': Field(0.2, RATE, traced=True),
  'model.dropout_per_gate': Field(False, FLAG),
  'model.precision': Field(
    'float32',
    choice(of('models', 'PRECISIONS')),
    "float32 | bfloat16: type of the operands of the cell's products",
  ),
  'model.remat': Field(
    False, FLAG, 'memory grows as the square root of the steps; costs one more forward pass'
  ),
  'model.truncate': Field(
    (),
    Kind(_is_truncation, lambda: f'() or {of("recurrence", "TRUNCATION")()}'),
    '(k1, k2): every k1 steps, gradients go back k2 steps; (): to the first step',
  ),
  'model.init': Field(
    'keras',
    choice(of('models.initial', 'NAMES')),
    'keras | torch | flax | haiku | awd (AWD-LSTM): whose initial weights and GRU',
  ),
  'optim.name': Field(
    'adam',
    choice(of('training.optim', 'OPTIMIZERS')),
    'asgd: SGD, then the average over its steps',
  ),
  'optim.learning_rate': Field(1e-3, ABOVE_0, traced=True),
  'optim.epsilon': Field(1e-8, ABOVE_0, traced=True),
  'optim.schedule': Field(
    'constant',
    choice(of('training.optim', 'SCHEDULES')),
    'constant | linear | cosine | step | plateau',
  ),
  'optim.decay': Field(
    0.5,
    number(lambda x: 0 < x <= 1, 'a number above 0, at most 1'),
    'the factor by which the schedules step and plateau reduce the rate',
    traced=True,
  ),
  'optim.decay_after': Field(4, whole(0, _EXACT), 'epochs before step reduces it', traced=True),
  'optim.patience': Field(
    1,
    whole(1, _EXACT),
    'epochs without improvement after which plateau reduces it',
    traced=True,
  ),
  'optim.nonmonotone': Field(
    5,
    whole(1, 2**20),
    'asgd averages after an epoch worse than the best of those more than this many before it',
  ),
  'optim.warmup_steps': Field(0, whole(0, _EXACT), traced=True),
  'optim.clip_norm': Field(0.0, FROM_0, '0: no clipping', traced=True),
  'optim.weight_decay': Field(0.0, FROM_0, traced=True),
  'optim.weight_noise': Field(
    0.0, FROM_0, 'standard deviation of noise on all parameters, drawn at each step', traced=True
  ),
  'train.batch_size': Field(32, whole(1)),
  'train.epochs': Field(10, whole(1, _EXACT), traced=True),
  'train.patience': Field(0, whole(0), 'stop after this many epochs without improvement; 0: never'),
  'train.gradient_flow': Field(
    False, FLAG, 'record at each epoch how far gradients reach, for the report'
  ),
}
# Further fields of tasks whose batches are windows of a stream.
WINDOWS = {
  'train.window': Field(35, whole(1, 2**20), 'steps that the gradient goes back'),
  'train.window_spread': Field(
    0.0, number(lambda x: 0 <= x < 2**20, 'a number, at least 0'), 'standard deviation of that'
  ),
  'train.window_halved': Field(0.0, RATE, 'the share of windows that are about half as long'),
  'train.window_offset': Field(False, FLAG, 'epochs begin at random places in the stream'),
}
PARTS = ('seed', 'task', 'model', 'data', 'optim', 'train')
HOSTS = 'seed', 'train.patience', 'train.gradient_flow'  # no compiled program depends on these


def fields(task: str = tasks.DEFAULT) -> dict[str, Field]:
  """The fields of a config of the task of that name, grouped by part.

  Raises ValueError for an unknown task.
  """
  every = FIELDS | _own(tasks.find(task))
  return {
    name: every[name] for name in sorted(every, key=lambda n: PARTS.index(n.partition('.')[0]))
  }


def field(name: str, task: str) -> Field | None:
  """The field of that name in the task's config, or None; quicker than `fields`."""
  return _own(tasks.find(task)).get(name) or FIELDS.get(name)


def _own(task):
  """The fields that a task has beside the common ones, or instead of them."""
  return (WINDOWS if task.batches == 'windows' else {}) | dict(task.fields)


def values(task: str = tasks.DEFAULT) -> tuple[str, ...]:
  """The names of the task's fields that a program takes as arguments."""
  return tuple(name for name, field in fields(task).items() if field.traced)
