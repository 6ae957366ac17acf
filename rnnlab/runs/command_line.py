"""The experiment on a command line: `--config=FILE.py:PRESET --config.FIELD=VALUE`."""

import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ml_collections import ConfigDict

from rnnlab import tasks
from rnnlab.console.words import near
from rnnlab.runs import configs

CONFIG = re.compile(r'--?(no)?config(|\.[^=]+)(?:(=)(.*))?$', re.DOTALL)

NONE = '(none)'  # the path of the experiment's file if none is given and there is no main job


class Given(NamedTuple):
  """What the command line says of the experiment: its file, preset, and the fields it sets."""

  path: str
  preset: str | None
  fields: dict[str, str | bool]


def split(words: Iterable[str], main_job: pathlib.Path) -> tuple[Given, list[str]]:
  """The Given of a command line, and its other words.

  main_job: the experiment if none is given. Raises ValueError for a mistake.
  """
  rest, files, fields, words = [], [], {}, iter(words)
  # The task is set by the experiment, whose file is not known yet.
  known = {name: field for task in tasks.names() for name, field in configs.fields(task).items()}
  for word in words:
    match = CONFIG.match(word)
    if not match:
      rest.append(word)
      continue
    no, field, is_given, value = match.groups()
    field = field[1:]
    is_flag = field in known and isinstance(known[field].default, bool)
    if no and (is_given or not is_flag):
      raise ValueError(f'what is {word!r}? --noconfig.FIELD is for a field that is True or False')
    if not is_given:
      value = not no if is_flag else next(words, '')
    if not field:
      files.append(value)
    elif fields.setdefault(field, value) != value:
      raise ValueError(f'--config.{field} is given twice: as {fields[field]} and as {value}')
  if len({*files}) > 1:
    raise ValueError(f'--config is given twice: as {files[0]} and as {files[1]}')
  path, preset = (files or [str(main_job) if main_job.is_file() else NONE])[0], None
  if '.py:' in path:
    path, _, preset = path.rpartition(':')
  return Given(path, preset, fields), rest


def set_fields(config: ConfigDict, given: Mapping[str, str | bool]) -> ConfigDict:
  """The config with the fields set by flags; raises ValueError for any that no code would read."""
  fields = configs.flat(config)
  task = configs.take('task.name', given.get('task.name', fields.get('task.name', tasks.DEFAULT)))
  for name, text in given.items():
    fields[name] = text if isinstance(text, bool) else configs.parse(name, text, task)
  return ConfigDict(configs.nested(fields))


def check_file(path: str) -> None:
  """Raises ValueError, with the nearest match, unless `path` is a Python file."""
  file = pathlib.Path(path)
  if path.endswith('.py') and file.is_file():
    return
  if path == NONE:
    raise ValueError(
      'which experiment? --config=FILE.py, a file with get_config() and sweep(add), such as\n\n'
      '  import rnnlab\n\n'
      '  def get_config():\n'
      "    config = rnnlab.configs.default('classification')\n"
      "    config.data.path = 'examples.csv'  # with the columns text and label\n"
      '    return config\n\n'
      '  def sweep(add):\n'
      "    for cell in ('lstm', 'gru'):\n"
      "      add({'model.cell': cell})"
    )
  close = near(path, map(str, pathlib.Path('experiments').glob('*.py')))
  what = f'{path} is a folder' if file.is_dir() else f'there is no config file {path}{close}'
  raise ValueError(f'{what if path else "it names no file"}; --config takes FILE.py[:PRESET]')
