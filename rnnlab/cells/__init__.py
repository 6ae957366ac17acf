"""Recurrent cells, one file each, found by file name: a new cell is one new file here.

A file `rnnlab/cells/NAME.py` holds a factory `NAME(hidden_size, **options) -> Cell`. A factory in a
notebook is registered with `add`; one in another package is named 'package.module:name'.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

from rnnlab.cells.base import Cell, made
from rnnlab.console.words import near

_added = {}


def names() -> list[str]:
  """The names of all cells: the files of this folder except `base`, and the added cells.

  >>> 'lstm' in rnnlab.cells.names()
  True
  """
  return sorted({*_files(), *_added})


def added(name: str) -> bool:
  """Whether the cell called `name` was added, rather than being a file here.

  >>> rnnlab.cells.added('lstm')
  False
  """
  return name in _added


def _files():
  return [m.name for m in pkgutil.iter_modules(__path__) if m.name != 'base']


def add(factory: Callable[..., Cell]) -> Callable[..., Cell]:
  """Makes `factory(hidden_size, **options) -> Cell` a cell of this process, under its own name.

  For a notebook or an experiment's file, where `@rnnlab.cells.add` before the function lets a
  config name it; a new definition replaces the previous one. All processes of a launch learn of it
  from the experiment's file; `python -m rnnlab.predict` needs `--config` to find that file. Returns
  the factory. Raises ValueError if a file has the name, or for anything but such a function.

  >>> @rnnlab.cells.add
  ... def mine(hidden_size):
  ...   return rnnlab.elman(hidden_size)
  >>> 'mine' in rnnlab.cells.names()
  True
  """
  name = getattr(factory, '__name__', '')
  if not callable(factory) or not name.isidentifier():
    raise ValueError(
      'rnnlab.cells.add takes a function with a name, factory(hidden_size) -> Cell, not'
      f' {factory!r}'
    )
  if 'hidden_size' not in inspect.signature(factory).parameters:
    raise ValueError(f'the factory of the cell {name} must take hidden_size')
  if name in _files():
    raise ValueError(f'there is a cell {name} already, rnnlab/cells/{name}.py: choose another name')
  _added[name] = factory
  return factory


def find(name: str) -> Callable[..., Cell]:
  """The factory called `name`: that of a file here, one that was added, or 'package.module:name'.

  Raises ValueError for an unknown name, with the nearest match.

  >>> rnnlab.cells.find('gru') is rnnlab.gru
  True
  """
  if not isinstance(name, str):
    raise ValueError(f"a cell is named by a word, such as 'gru', not {name!r}")
  if name in _added:
    return _added[name]
  if ':' in name:
    return _elsewhere(name)
  if name not in names():
    raise ValueError(
      f'there is no cell {name!r}{near(name, names())}; cells: {", ".join(names())}. One that an'
      " experiment's file or a notebook adds is known only once that has been executed"
    )
  factory = getattr(importlib.import_module(f'rnnlab.cells.{name}'), name, None)
  if factory is None:
    raise ValueError(f'rnnlab/cells/{name}.py must define a function {name}(hidden_size) -> Cell')
  return factory


def _elsewhere(name):
  """The factory of another package."""
  module, _, attribute = name.partition(':')
  try:
    factory = getattr(importlib.import_module(module), attribute)
    if 'hidden_size' not in inspect.signature(factory).parameters:
      raise TypeError('it must be a function that takes hidden_size')
  except (ImportError, AttributeError, SyntaxError, TypeError, ValueError) as error:
    raise ValueError(f'there is no cell {name!r}: {error}') from error
  return factory


def get(name: str, **options: Any) -> Cell:
  """The cell called `name`, made with its factory's `options`; the same object for the same call.

  An option that is a list is passed as a tuple, since a run's config.json has lists for both.
  Raises ValueError for an unknown name or option, with the nearest match, and for an option without
  a hash, which could not be told from another.

  >>> cell = rnnlab.cells.get('gru', hidden_size=4)
  >>> cell.init(jax.random.key(0), 3)['w_h'].shape
  (4, 12)
  """
  factory = find(name)
  known = list(inspect.signature(factory).parameters)
  for option, value in options.items():
    if option not in known:
      raise ValueError(
        f'the cell {name} has no option {option!r}{near(option, known)}; it has {", ".join(known)}'
      )
    options[option] = value = _frozen(value)
    try:
      hash(value)
    except TypeError:
      raise ValueError(
        f"the cell {name}'s option {option} can't be {value!r}: it must be a number, a word, None,"
        ' a function, or a tuple of such'
      ) from None
  return made(factory, **options)


def _frozen(value):
  return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value
