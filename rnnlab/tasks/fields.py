"""Fields of a config, common ones and those of tasks: their defaults and the values they may have.

This module loads no JAX; for the same reason, no task's file may load it before it computes.
"""

import importlib
import math
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

TINY = float(np.finfo(np.float32).tiny)  # the least normal float32; programs compute in float32


class Kind(NamedTuple):
  """What a field may be. right: tells if a value is valid. what: in words. words: of a choice."""

  right: Callable[[Any], bool]
  what: Callable[[], str]
  words: Callable[[], Sequence[str]] = tuple


class Field(NamedTuple):
  """A field of a config.

  traced: whether a compiled program takes it as an argument, so that runs that differ only in it
  share one program; also False for a field that no program depends on. A traced field that 0 turns
  off, such as a dropout rate, selects one of two programs: with it or without it.
  """

  default: Any
  kind: Kind
  help: str = ''
  traced: bool = False


def whole(least: int, most: float = 2**31 - 1, why: str = '') -> Kind:
  """Whole numbers from `least` to `most`. why: the reason for `least`, in words."""
  upper = f' and at most {most:,}' if most < math.inf else ''
  return Kind(
    lambda value: type(value) is int and least <= value <= most,
    lambda: f'a whole number, at least {least:,}{upper}{why}',
  )


def number(right: Callable[[Any], Any], what: str) -> Kind:
  """Numbers that satisfy `right` in float32. what: a description of these."""

  def fits(value):
    if type(value) is not float or not math.isfinite(value):
      return False
    with np.errstate(over='ignore'):
      kept = np.float32(value)
    return (value == 0 or TINY <= abs(kept) < np.inf) and bool(right(kept))

  return Kind(fits, lambda: f'{what}, in float32')


def choice(words: Callable[[], Sequence[str]]) -> Kind:
  """One of the words that `words()` gives."""
  return Kind(
    lambda value: isinstance(value, str) and value in words(),
    lambda: f'one of {", ".join(words())}',
    words,
  )


def of(room: str, name: str) -> Callable[[], Any]:
  """A function that returns the attribute `name` of `rnnlab.<room>`, which may load JAX."""
  return lambda: getattr(importlib.import_module(f'rnnlab.{room}'), name)


FLAG = Kind(lambda value: type(value) is bool, lambda: 'True or False')
PATH = Kind(
  lambda value: isinstance(value, str) and '\0' not in value, lambda: "a path, or '' for none"
)
TEXT = Kind(lambda value: isinstance(value, str), lambda: 'a text')
RATE = number(lambda rate: 0 <= rate < 1, 'a number, at least 0 and below 1')
SHARE = number(lambda share: 0 <= share <= 0.5, 'a number from 0 to 0.5')
ABOVE_0 = number(lambda x: x > 0, 'a number above 0')
FROM_0 = number(lambda x: x >= 0, 'a number, at least 0')
SIZE = whole(1, math.inf)  # what is too large depends on the machine: see `check_room`


def check_room(fields: dict[str, Any], least: dict[str, int]) -> None:
  """Raises ValueError if a run needs more than this machine's memory, by a lower bound.

  fields: a config's values by dotted name. least: {the names, separated by spaces, of the fields
  that cause it: how many numbers of 4 bytes a run has at least}.
  """
  here = memory()
  for names, count in least.items():
    if 4 * count > here:
      given = ' '.join(f'--config.{name}={words(fields[name])}' for name in names.split())
      raise ValueError(
        f'{given}: take at least {size_words(4 * count)} of memory, and this machine has'
        f' {size_words(here)}'
      )


def memory() -> float:
  """The bytes of memory that this machine has."""
  try:
    return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  except (AttributeError, ValueError, OSError):  # not known here
    return math.inf


def size_words(count: int) -> str:
  """A number of bytes, for people."""
  if count >= 10**30:
    return 'more than 10^12 EB'
  great, small = ((10**18, 'EB'), (10**9, 'GB')), (10**6, 'MB')
  size, unit = next((of for of in great if count >= of[0]), small)
  return f'{count // size:,} {unit}'


def words(value: Any) -> str:
  """A value in one line, shortened."""
  try:
    line = ' '.join(repr(value).split())
  except Exception:  # from a user's object, or for a number with too many digits
    line = f'<{type(value).__name__}>'
  return line if len(line) <= 80 else f'{line[:76]} ...'
