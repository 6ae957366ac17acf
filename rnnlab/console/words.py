"""What the program says in words: errors, near matches, warnings."""

import difflib
import logging as stdlib_logging
from collections.abc import Iterable

from absl import logging

from rnnlab.machine import disk


def describe_error(error: BaseException) -> str:
  """An error in a line or two for people.

  A message that was written for people is returned as it is; any other follows its class's name.
  """
  text = str(error).strip() or 'no message'
  full = getattr(error, 'errno', None) in disk.FULL
  if full or 'No space left' in text or 'Disk quota' in text:
    return 'the disk is full: free some space, or files, and give the same command again'
  if isinstance(error, (ValueError, OSError)) or type(error).__module__.startswith('rnnlab'):
    return text[:500]
  return f'{type(error).__name__}: {text.splitlines()[0][:300]}'


def near(word: str, known: Iterable[str]) -> str:
  """` (did you mean 'X'?)` for the X in `known` that is nearest to `word`; '' if none is near.

  Case is ignored. The last part of a dotted name may match by itself, so that `hiden_size` finds
  `model.hidden_size`.
  """
  word, ends = str(word).lower(), {}
  whole = {str(name).lower(): name for name in known}
  for name in whole:
    ends.setdefault(name.rpartition('.')[2], name)
  end = word.rpartition('.')[2]
  matches = [ends[end]] if end in ends else difflib.get_close_matches(word, whole, 1, 0.6)
  matches = matches or [ends[e] for e in difflib.get_close_matches(end, ends, 1, 0.6)]
  return f' (did you mean {whole[matches[0]]!r}?)' if matches else ''


def plain_warnings() -> None:
  """Makes absl's log, which Orbax uses too, show only warnings, each as a plain line."""
  logging.set_verbosity(logging.WARNING)
  logging.get_absl_handler().setFormatter(stdlib_logging.Formatter('warning: %(message)s'))
