"""Recurrent cells, one file each, found by file name: a new cell is one new file here.

A file `rnnlab/cells/NAME.py` holds a factory `NAME(hidden_size, **options) -> Cell`.
"""

import difflib
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable

from rnnlab.cells.base import Cell


def names() -> list[str]:
  """The names of all cells: the files of this folder but `base`."""
  return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != 'base')


@functools.lru_cache(maxsize=None, typed=True)  # else True is 1, and 4.0 is 4
def get(name: str, **options) -> Cell:
  """The cell called `name`, made with its factory's `options`; the same object for the same call.

  Raises ValueError for an unknown name or option, naming the near match.
  """
  factory, known = find(name)
  for option in options:
    if option not in known:
      raise ValueError(
        f'the cell {name} has no option {option!r}{near(option, known)}; it has {", ".join(known)}'
      )
  return factory(**options)


def find(name: str) -> tuple[Callable[..., Cell], list[str]]:
  """The factory of the cell called `name`, and what options it has.

  Raises ValueError where there is none, naming the near match.
  """
  if name not in names():
    raise ValueError(f'there is no cell {name!r}{near(name, names())}; cells: {", ".join(names())}')
  factory = getattr(importlib.import_module(f'rnnlab.cells.{name}'), name, None)
  if factory is None:
    raise ValueError(f'rnnlab/cells/{name}.py must define a function {name}(hidden_size) -> Cell')
  return factory, list(inspect.signature(factory).parameters)


def near(word: str, words) -> str:
  """` (did you mean X?)` for the nearest of `words`, or nothing where none is near."""
  match = difflib.get_close_matches(str(word), list(words), n=1, cutoff=0.5)
  return f' (did you mean {match[0]!r}?)' if match else ''
