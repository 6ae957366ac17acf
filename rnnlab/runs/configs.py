"""What a config must be, and the run that it describes.

`fields` has every field once, with its default, its valid values and its purpose: those that every
task has, and those of the config's task. Beside these a config has the options of cells,
`model.CELL.OPTION`, which are arguments of the cell's factory. Anything else is an error, wherever
it was written, as no code would read it. Loads JAX only to check.
"""

import ast
import hashlib
import inspect
import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from rnnlab import tasks
from rnnlab.console.words import near
from rnnlab.runs import experiment_file
from rnnlab.runs.schema import HOSTS, field, fields, values
from rnnlab.tasks.fields import check_room, words

NAME_MAX = 255  # bytes of a folder's name, on most file systems
READABLE = 150  # bytes kept of a name that would be longer


class RunSpec(NamedTuple):
  """A run to do.

  overrides: what distinguishes it in its sweep. command: the one given. until: the epoch after
  which it pauses, 0 for its end. stage: 'search' for a trial of a search, '' for a run to compare.
  wandb: whether it is also logged to Weights & Biases. source: the file and the preset of the
  experiment that adds its cell or task, None if rnnlab has them.
  """

  id: str
  overrides: dict[str, Any]
  config: ConfigDict
  command: str = ''
  until: int = 0
  stage: str = ''
  wandb: bool = False
  source: tuple[str, str | None] | None = None


def default(task: str = tasks.DEFAULT) -> ConfigDict:
  """A config for the task of that name, with every field at its default.

  >>> config = rnnlab.configs.default('regression')
  >>> config.model.cell, config.task.name
  ('lstm', 'regression')
  """
  found = {name: field.default for name, field in fields(task).items()}
  return ConfigDict(nested(found | {'task.name': task}))


def present(config: dict) -> dict:
  """A config of an older version's run in today's form; one of this version unchanged.

  `data.name='imdb'`, once the only value, and later the task text_classification are now the task
  classification. Fields that did not exist yet get their defaults.
  """
  data = config.get('data')
  if config.get('task') == {'name': 'text_classification'}:
    config = config | {'task': {'name': 'classification'}}
  if 'task' not in config and isinstance(data, dict) and data.get('name') == 'imdb':
    data = {name: value for name, value in data.items() if name != 'name'}
    config = config | {'task': {'name': 'classification'}, 'data': data}
  task = config.get('task')
  if not isinstance(task, dict) or task.get('name') not in tasks.names():
    return config
  config = {name: dict(of) if isinstance(of, dict) else of for name, of in config.items()}
  for name, of in fields(task['name']).items():
    part, _, last = name.rpartition('.')
    if isinstance(config.get(part), dict):
      config[part].setdefault(last, of.default)
  return config


def specify(config: ConfigDict, overrides: dict | None = None, command: str = '') -> RunSpec:
  """The run of `config`, named by its cell, its seed and `overrides`."""
  named = {'model.cell': config.model.cell, 'seed': config.seed} | (overrides or {})
  source = experiment_file.adding(config.model.cell, config.task.name)
  return RunSpec(run_id(named, config), named, config, command, source=source)


def run_id(overrides: dict, config: ConfigDict) -> str:
  """A folder name: the overrides, as far as they fit, then a hash of the whole config."""
  words = [
    re.sub(r'[^\w.+-]', '', f'{name.split(".")[-1]}-{value}') for name, value in overrides.items()
  ]
  name, end = '_'.join(words), f'_{config_hash(config.to_dict())}'
  if len(f'{name}{end}'.encode()) > NAME_MAX:
    name = name.encode()[:READABLE].decode(errors='ignore')
  return f'{name}{end}'


def config_hash(config: dict) -> str:
  """The hash that ends the name of a config's run."""
  text = json.dumps(config, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:8]


def split(config: ConfigDict) -> tuple[FrozenConfigDict, dict[str, np.float32]]:
  """What a run's program is compiled from, and the numbers that it then takes, by dotted name.

  The first holds, for each of `values`, whether it is non-zero; the second the non-zero values.
  """
  shape, given = config.to_dict(), {}
  for name in (*values(config.task.name), *HOSTS):
    part, _, last = name.rpartition('.')
    place = shape[part] if part else shape
    if name in HOSTS:
      del place[last]
      continue
    if place[last]:
      given[name] = np.float32(place[last])
    place[last] = bool(place[last])
  return FrozenConfigDict(shape), given


def check(config: ConfigDict) -> ConfigDict:
  """The config of a run, with values in plain Python of the field's type: 1 becomes 1.0 if needed.

  Raises ValueError, naming the field and what it may be, for a config that describes no run.
  """
  return _run(flat(config))


def change(config: ConfigDict, overrides: dict[str, Any]) -> tuple[ConfigDict, dict[str, Any]]:
  """The config of a run with `overrides`, by dotted name, and these in the form that it holds.

  Raises ValueError like `check`.
  """
  if not isinstance(overrides, dict):
    raise ValueError(
      f"{words(overrides)}: overrides are a dict, such as {{'model.cell': 'gru', 'seed': 1}}"
    )
  run = _run(flat(config) | overrides)
  kept = flat(run)
  return run, {name: kept[name] for name in overrides}


def check_fields(config: ConfigDict) -> ConfigDict:
  """Checks each field, but not combinations of fields, which a sweep may still change."""
  return ConfigDict(nested(_fields(flat(config))))


def check_options(names: Iterable[str], cells: Sequence[str]) -> None:
  """Raises ValueError for an option among `names` of a cell that is not in `cells`."""
  for name in names:
    _, cell, option, *_ = (*name.split('.', 2), '', '')
    if option and cell not in cells:
      raise ValueError(f'{name} is read only by the cell {cell}, of which there is no run here')


def take(name: str, value: Any, task: str = tasks.DEFAULT) -> Any:
  """A field's value in plain Python, converted to float if the field is one.

  task: the name of the config's task. Raises ValueError for an unknown field, or an invalid value.
  """
  if not isinstance(name, str):
    raise ValueError(f"{words(name)} is not a field; fields have names, such as 'model.cell'")
  try:
    kept = plain(value)
  except ValueError as error:
    raise ValueError(f'--config.{name}={error}') from None
  found = field(name, task)
  if not found:
    return _take_option(name, kept, task)
  default, kind, *_ = found
  if type(default) is float and type(kept) is int and abs(kept) < 1e300:
    kept = float(kept)
  if kind.right(kept):
    return kept
  close = near(kept, kind.words()) if isinstance(kept, str) else ''
  raise ValueError(f'--config.{name}={words(kept)}{close}: must be {kind.what()}')


def parse(name: str, text: str, task: str = tasks.DEFAULT) -> Any:
  """The value of a field that a flag's text stands for, by the type of the field's default.

  task: the name of the config's task. Raises ValueError if it stands for none; `take` checks
  whether it is in range.
  """
  found = field(name, task)
  default = found.default if found else _option(name, task)[2].default
  try:
    if isinstance(default, bool):
      return {'true': True, 't': True, '1': True, 'false': False, 'f': False, '0': False}[
        text.lower()
      ]
    if isinstance(default, int) and found:
      return int(text)
    if isinstance(default, int | float):
      return float(text)
    if isinstance(default, str):
      return text
    value = ast.literal_eval(text)
    return value if isinstance(value, tuple) or not found else (value,)
  except (KeyError, ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
    return take(name, text, task)  # says what it must be, or accepts the text if it may be one


def plain(value: Any) -> Any:
  """A value in plain Python: NumPy scalars become Python's, and lists tuples.

  Raises ValueError for anything but numbers, texts, truths, None and lists of these, such as an
  array.
  """
  if isinstance(value, np.generic):
    value = value.item()
  if isinstance(value, list | tuple):
    return tuple(map(plain, value))
  if value is None or type(value) in (bool, int, float, str):
    return value
  for kind in (str, int, float):  # a member of an enumeration, for example
    if isinstance(value, kind):
      return kind(value)
  raise ValueError(f'{words(value)} is a {type(value).__name__}: must be a number, text or truth')


def flat(config: ConfigDict | FrozenConfigDict) -> dict[str, Any]:
  """The values of a config, or of a nested dict, by dotted name."""
  if isinstance(config, ConfigDict | FrozenConfigDict):
    config = config.to_dict()
  if not isinstance(config, dict):
    raise ValueError(f'a config must be a ConfigDict, not {words(config)}')
  found = {}
  for name, value in config.items():
    if isinstance(value, dict):
      found |= {f'{name}.{inner}': v for inner, v in flat(value).items()}
    else:
      found[name] = value
  return found


def nested(fields: dict[str, Any]) -> dict[str, Any]:
  """The dict of dicts that `flat` turns into `fields`."""
  found = {}
  for name, value in fields.items():
    *parts, last = name.split('.')
    place = found
    for part in parts:
      place = place.setdefault(part, {})
    place[last] = value
  return found


def _fields(given):
  task = take('task.name', given.get('task.name', tasks.DEFAULT))
  taken = {name: take(name, value, task) for name, value in given.items()}
  if missing := [name for name in fields(task) if name not in taken]:
    more = f', nor {len(missing) - 1} more' if len(missing) > 1 else ''
    raise ValueError(
      f'the config has no field {missing[0]!r}{more}; start from rnnlab.runs.configs.default(),'
      ' which has all of them'
    )
  return taken


def _run(given):
  """The config of these fields, which together must describe a run."""
  taken = _fields(given)
  config = ConfigDict(nested(taken))
  if check_task := tasks.find(config.task.name).check:
    check_task(taken)
  _check_metric(config)
  for name, asks, what in (
    ('train.patience', config.train.patience > 0, 'stop'),
    ('optim.schedule', config.optim.schedule == 'plateau', 'lower the learning rate'),
    ('optim.name', config.optim.name == 'asgd', 'average'),
  ):
    if asks and not selects(config):
      raise ValueError(
        f'--config.{name}={taken[name]} needs --config.data.validation_fraction above 0: without'
        f' it, the test split would decide when to {what}'
      )
  hidden_size, directions = taken['model.hidden_size'], 1 + taken['model.bidirectional']
  deeper = (taken['model.layers'] - 1) * (directions + 1) * hidden_size
  # Weights count twice, as they have gradients; a cell counts with one gate.
  weights = 2 * directions * hidden_size * (hidden_size + deeper)
  check_room(taken, {'model.hidden_size model.layers': weights})
  _make_cell(config.model)
  return config


def _check_metric(config):
  task = config.task
  names = [metric.name for metric in tasks.of(config).metrics if not metric.once]
  if task.metric and task.metric not in names:
    raise ValueError(
      f'--config.task.metric={task.metric}: the task {task.name} has the metrics'
      f' {", ".join(names)}{near(task.metric, names)}'
    )


def selects(config: ConfigDict) -> bool:
  """Whether a validation split other than the test split chooses the epoch to be tested."""
  return bool(config.data.get('validation_fraction', True)) if 'data' in config else True


def _option(name, task):
  """(cell, option, the parameter of its factory) of a field `model.CELL.OPTION`, or ValueError."""
  from rnnlab import cells

  part, _, rest = name.partition('.')
  cell, _, option = rest.partition('.')
  parts = [f'model.{cell}' for cell in cells.names()]
  if part == 'model' and option and cell not in cells.names():
    raise ValueError(f'the config has no field {words(name)}{near(f"model.{cell}", parts)}')
  if part != 'model' or not option:
    known = [*fields(task), *parts]
    inner = [field for field in known if field.startswith(f'{name}.')]
    hint = f': it is a part, with fields such as {inner[0]!r}' if inner else near(name, known)
    raise ValueError(f'the config has no field {words(name)}{hint}')
  options = {
    option: parameter
    for option, parameter in inspect.signature(cells.find(cell)).parameters.items()
    if option != 'hidden_size'
  }
  if option not in options:
    has = f'it has {", ".join(options)}' if options else 'it has none'
    raise ValueError(
      f'the config has no field {words(name)}: the cell {cell} has no option'
      f' {option!r}{near(option, options)}; {has}'
    )
  return cell, option, options[option]


def _take_option(name, value, task):
  cell, _, parameter = _option(name, task)
  default = parameter.default
  if value is None:  # the convention's, or the factory's own
    return value
  for kinds, what in (
    ((bool,), 'True or False'),
    ((int, float), 'a finite number'),
    ((str,), 'a text'),
  ):
    if type(default) in kinds:
      finite = not isinstance(value, int | float) or _is_finite(value)
      if type(value) in kinds and finite:
        return float(value) if type(default) is float else value
      raise ValueError(f'--config.{name}={words(value)}: must be {what}, for the cell {cell}')
  return value


def _is_finite(value):
  return math.isfinite(value) if isinstance(value, float) else abs(value) < 2**63


def _make_cell(model):
  """Raises ValueError for options that the cell's factory refuses, or if it makes no Cell."""
  from rnnlab import cells
  from rnnlab.models import initial

  options = dict(model.get(model.cell, {}))
  try:
    made = initial.cell(model.init, model.cell, hidden_size=model.hidden_size, **options)
  except ValueError:
    raise
  except Exception as error:
    raise ValueError(
      f'the cell {model.cell} cannot be made with hidden_size={model.hidden_size}'
      f' {options or ""}: {type(error).__name__}: {" ".join(str(error).split())[:300]}'
    ) from error
  if not isinstance(made, cells.Cell):
    raise ValueError(f'the factory of the cell {model.cell} must return a Cell, not {words(made)}')
