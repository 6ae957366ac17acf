"""Tasks, one file each, found by file name: a new task is one new file here.

A file `rnnlab/tasks/NAME.py` holds `task`, a `Task` whose name is NAME. An experiment's file or a
notebook registers a task of its own with `add`; a config names a task of another package as
'package.module:name'. No file here loads JAX on import: a task imports it where it computes.
"""

import functools
import importlib
import pkgutil
from typing import Any

from rnnlab.console.words import near
from rnnlab.data.base import Dataset
from rnnlab.tasks import base
from rnnlab.tasks.base import Metric, Task
from rnnlab.tasks.fields import Field

__all__ = ['Dataset', 'Field', 'Metric', 'Task', 'add', 'added', 'find', 'names', 'of', 'primary']

DEFAULT = 'classification'
_PARTS = (  # files here that are not tasks
  *('base', 'bleu', 'by_size', 'edits', 'fields', 'scores', 'sequences', 'stream_panels'),
  *('streams', 'translating', 'translation_panels'),
)
_added = {}


def names() -> list[str]:
  """The names of all tasks: those with a file in this folder, and those that were added.

  >>> 'classification' in rnnlab.tasks.names()
  True
  """
  return sorted({*_files(), *_added})


def added(name: str) -> bool:
  """Whether the task called `name` was added, and is not a file here.

  >>> rnnlab.tasks.added('classification')
  False
  """
  return name in _added


@functools.cache
def _files():
  return [m.name for m in pkgutil.iter_modules(__path__) if m.name not in _PARTS]


def add(task: Task) -> Task:
  """Makes a task known to this process, under its own name.

  For a notebook or an experiment's file; a task that is added again replaces the earlier one. All
  processes of a launch know it from the experiment's file. Returns the task. Raises ValueError if
  a file has the name already, or if it is not a task.

  >>> task = rnnlab.tasks.find('classification')
  >>> rnnlab.tasks.add(task._replace(name='mine')).name
  'mine'
  """
  base.check(task)
  if task.name in _files():
    raise ValueError(
      f'there is a task {task.name} already, rnnlab/tasks/{task.name}.py: give it another name'
    )
  _added[task.name] = task
  return task


def find(name: str) -> Task:
  """The task called `name`: that of a file here, one that was added, or 'package.module:name'.

  Raises ValueError for an unknown name, with the nearest match, and for a file that holds no task.

  >>> rnnlab.tasks.find('classification').metrics[0].name
  'accuracy'
  """
  if name in _added:
    return _added[name]
  module, _, attribute = name.partition(':')
  if attribute:
    try:
      return base.check(getattr(importlib.import_module(module), attribute))
    except (ImportError, AttributeError, SyntaxError, TypeError, ValueError) as error:
      raise ValueError(f'there is no task {name!r}: {error}') from error
  if name in _files():
    return _of_file(name)
  raise ValueError(
    f'there is no task {name!r}{near(name, names())}; tasks: {", ".join(names())}. A task that an'
    " experiment's file or a notebook adds is known only after that has been executed"
  )


@functools.cache
def _of_file(name):
  task = getattr(importlib.import_module(f'rnnlab.tasks.{name}'), 'task', None)
  if not isinstance(task, Task) or task.name != name:
    raise ValueError(f'rnnlab/tasks/{name}.py must define task, a Task with the name {name}')
  return base.check(task)


def of(config: Any) -> Task:
  """The task of a run's config, narrowed by its data, with the primary metric first.

  The primary metric is the one that task.metric names.

  >>> rnnlab.tasks.of(rnnlab.runs.configs.default()).metrics[0].name
  'accuracy'
  """
  task, name = find(config.task.name), config.task.metric
  if task.narrow:
    task = task._replace(**task.narrow(config.data))
  first = [metric for metric in task.metrics if metric.name == name]
  return task._replace(metrics=(*first, *(m for m in task.metrics if m not in first)))


def primary(config: Any) -> Metric:
  """The metric by which the epochs of a run of this config are chosen, and runs compared.

  >>> rnnlab.tasks.primary(rnnlab.runs.configs.default()).name
  'accuracy'
  """
  return of(config).metrics[0]
