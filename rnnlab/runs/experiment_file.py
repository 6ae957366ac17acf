"""An experiment's file, read once: its config, its sweep, its claims, its references.

    def get_config(preset=''):  # or without a preset: a ConfigDict; see rnnlab.runs.configs
    def sweep(add):             # optional; calls add({'model.cell': 'gru', 'seed': 1}) for each run
    def claims():               # optional; a list of claims: see rnnlab.results
    def references():           # optional; published figures: see rnnlab.results.check_references

`sweep`, `claims` and `references` may take the `preset` too. While any of the file's code runs, the
file's folder is on the path, so that it can import its neighbours. Any failure there is a
ValueError that names the file and the line.
"""

import contextlib
import difflib
import inspect
import pathlib
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ml_collections import ConfigDict, FrozenConfigDict

from rnnlab import tasks
from rnnlab.machine.disk import AnyPath

_read = []  # (file, preset) of the experiments that this process has read


class Experiment(NamedTuple):
  """What a file defines for a preset. sweep: add -> None, or None if it has none."""

  config: ConfigDict
  sweep: Callable | None
  claims: Callable[[], Any]
  references: Callable[[], Any]


def read(path: AnyPath, preset: str | None = None) -> Experiment:
  """The experiment in the file `path`. preset: None if none was asked for.

  Raises ValueError, with the file and the line, for a file that is not an experiment.
  """
  _read.append((str(pathlib.Path(path).resolve()), preset))
  names = vars(execute(path))
  wanted = 'get_config', 'sweep', 'claims', 'references'
  found = {name: _function(path, names, name) for name in wanted}
  if not found['get_config']:
    raise ValueError(f'{path}: must define get_config(), which returns its config')
  config = _config(path, found['get_config'], preset)
  if not isinstance(config, ConfigDict | FrozenConfigDict):
    raise ValueError(
      f'{path}: get_config() must return an ml_collections.ConfigDict, not {_short(config)}'
    )

  def called(name, *arguments):
    function = found[name]
    with blamed(path):
      signature = inspect.signature(function)
      options = {'preset': preset or ''} if 'preset' in signature.parameters else {}
      try:
        signature.bind(*arguments, **options)
      except TypeError as error:
        takes = ('add', 'add, preset') if name == 'sweep' else ('', 'preset')
        must = ' or '.join(f'{name}({words})' for words in takes)
        raise _Blamed(f'{path}: {name} must be {must}: {error}') from None
      return function(*arguments, **options)

  if (folder := str(pathlib.Path(path).resolve().parent)) not in sys.path:
    sys.path.append(folder)  # where a cell called 'package.module:name' is found, by workers too
  return Experiment(
    config,
    (lambda add: called('sweep', add)) if found['sweep'] else None,
    lambda: called('claims') if found['claims'] else [],
    lambda: called('references') if found['references'] else [],
  )


def execute(path: AnyPath) -> types.ModuleType:
  """Executes a file as a module of its own. Raises ValueError, with the file and the line."""
  path = pathlib.Path(path)
  module = types.ModuleType(f'experiment_file_{path.stem}')
  module.__file__ = str(path)
  sys.modules[module.__name__] = module  # where dataclasses, for one, look for it
  with blamed(path):
    exec(compile(path.read_bytes(), str(path), 'exec', dont_inherit=True), vars(module))
  return module


def adding(cell: str, task: str) -> tuple[str, str | None] | None:
  """The file, and the preset, with which `cell` or `task` was added here, or None."""
  cells = sys.modules.get('rnnlab.cells')
  is_added = tasks.added(task) or cells and cells.added(cell)
  return _read[-1] if _read and is_added else None


def know(cell: str, task: str, source: tuple[str, str | None] | None) -> None:
  """Reads the experiment that adds `cell` or `task` elsewhere, unless both are known here."""
  from rnnlab import cells

  if source and (cell not in cells.names() or task not in tasks.names()):
    read(*source)


@contextlib.contextmanager
def blamed(path: AnyPath) -> Iterator[None]:
  """Runs code of the file `path`: its folder is on the path, and errors name file and line."""
  folder = pathlib.Path(path).resolve().parent
  sys.path.insert(0, str(folder))
  try:
    yield
  except (_Blamed, KeyboardInterrupt):
    raise
  except SyntaxError as error:
    where = f'{error.filename or path}{f":{error.lineno}" if error.lineno else ""}'
    raise _Blamed(f'{where}: {error.msg}') from error
  except (Exception, SystemExit) as error:
    raise _Blamed(f'{_where(path, folder, error)}: {_words(error)}') from error
  finally:
    with contextlib.suppress(ValueError):  # the file may have removed it itself
      sys.path.remove(str(folder))


class _Blamed(ValueError):
  """An error that already names file and line."""


def _where(path, folder, error):
  """The file and line of the innermost frame whose code is in the file's folder."""
  for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
    file = frame.f_code.co_filename
    if file == str(path) or file[0] != '<' and pathlib.Path(file).resolve().parent == folder:
      return f'{file}:{line}'
  return path


def _words(error):
  # ml_collections quotes its own words, line breaks and all.
  said = ' '.join(str(error).replace('\\n', ' ').replace("\\'", "'").split())[:500]
  if isinstance(error, ValueError) and said:
    return said
  return f'{type(error).__name__}: {said}' if said else type(error).__name__


def _short(value):
  line = ' '.join(repr(value).split())
  return line if len(line) <= 60 else f'a {type(value).__name__}'


def _function(path, names, name):
  """The file's function of that name, or None; a function with nearly that name is a mistake."""
  if name in names:
    if not callable(names[name]):
      raise ValueError(f'{path}: {name} must be a function, not {_short(names[name])}')
    return names[name]
  own = [n for n, f in names.items() if inspect.isfunction(f) and f.__globals__ is names]
  if near := difflib.get_close_matches(name, own, n=1, cutoff=0.75):
    raise ValueError(f'{path}: there is a {near[0]}, but no {name}: did you mean that?')
  return None


def _config(path, function, preset):
  with blamed(path):
    parameters = inspect.signature(function).parameters.values()
    takes = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needs = [p for p in parameters if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
    takes_one = takes or any(p.kind is p.VAR_POSITIONAL for p in parameters)
    needs = [p.name for p in needs if p.kind is not p.VAR_KEYWORD]
    if len(needs) > 1 or needs and not takes:
      raise _Blamed(f'{path}: get_config must take a preset or nothing, not {", ".join(needs)}')
    if preset is None and needs:
      raise _Blamed(f'{path} needs a preset: --config={path}:PRESET')
    if preset and not takes_one:
      raise _Blamed(f'{path} has no presets, so no {preset!r}: its get_config() takes none')
    return function(preset) if preset is not None and takes_one else function()
