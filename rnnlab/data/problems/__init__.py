"""Generated problems, one file each, found by file name: a new problem is one new file here.

A file `rnnlab/data/problems/NAME.py` holds `problem`, a `Problem`, and the config of the task
generated chooses it by data.problem=NAME. No file loads JAX on import, but only where it draws.
"""

import functools
import importlib
import pkgutil

from rnnlab.console.words import near
from rnnlab.data.problems.base import KINDS, Baseline, Number, Problem, Sizes

__all__ = ['KINDS', 'Baseline', 'Number', 'Problem', 'Sizes', 'find', 'names', 'numbers']


@functools.cache
def names() -> tuple[str, ...]:
  """The names of all problems.

  >>> 'adding' in rnnlab.data.problems.names()
  True
  """
  return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != 'base'))


@functools.cache
def find(name: str) -> Problem:
  """The problem called `name`.

  Raises ValueError for an unknown name, with the nearest match, and for a file without a problem.

  >>> rnnlab.data.problems.find('adding').kind
  'value'
  """
  if name not in names():
    known = ', '.join(names())
    raise ValueError(f'there is no problem {name!r}{near(name, names())}; problems: {known}')
  found = getattr(importlib.import_module(f'{__name__}.{name}'), 'problem', None)
  if not isinstance(found, Problem) or found.kind not in KINDS:
    kinds = ', '.join(KINDS)
    raise ValueError(
      f'rnnlab/data/problems/{name}.py must define problem, a Problem whose kind is one of {kinds}'
    )
  return found


@functools.cache
def numbers() -> dict[str, dict[str, Number]]:
  """{name of a number: {problem: the Number}} for all numbers of all problems."""
  found: dict[str, dict[str, Number]] = {}
  for name in names():
    for number, of in find(name).fields.items():
      found.setdefault(number, {})[name] = of
  return found
