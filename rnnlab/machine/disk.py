"""Files that a reader finds whole or not at all: bytes, JSON objects, and rows of numbers.

Damage is noticed when a file is read, is reported by a warning, and counts as missing.
"""

import errno
import json
import os
import pathlib
import tempfile
from typing import Any

from absl import logging

FULL = errno.ENOSPC, errno.EDQUOT  # the disk, its table of files, or the user's quota is full
AnyPath = str | os.PathLike
NUMBER = (int, float)  # as a form of `fits`


def write_atomic(path: AnyPath, content: str | bytes) -> None:
  """Writes a file so that a reader, or a crash, sees all of the old content or all of the new."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  # A text may hold a path, and the bytes of a path need not be UTF-8.
  content = content.encode(errors='backslashreplace') if isinstance(content, str) else content
  descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.')
  try:
    with os.fdopen(descriptor, 'wb') as f:
      f.write(content)
      f.flush()
      os.fsync(f.fileno())
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)
  except BaseException:
    pathlib.Path(temporary).unlink(missing_ok=True)
    raise


def write_json(path: AnyPath, value: Any) -> None:
  """Writes `value` as indented JSON, atomically.

  value: anything that JSON has, and NumPy's numbers and arrays, which become numbers and lists.
  Raises ValueError for anything else.
  """
  write_atomic(path, json.dumps(value, indent=2, default=plain) + '\n')


def plain(value: Any) -> Any:
  """The number or the nested list that a NumPy number or array holds, as json.dumps's `default`.

  Raises ValueError for any other object.
  """
  if hasattr(value, 'tolist'):
    return value.tolist()
  kind = type(value).__name__
  raise ValueError(f'{str(value)[:100]!r} cannot be written down: JSON has no {kind}')


def read_json(path: AnyPath, form: Any = None) -> dict | None:
  """The JSON object in a file, or None if the file is missing.

  form: what the object must look like, as `fits` takes it; None: any object. A file that cannot be
  read, or does not have this form, gives None too, with a warning.
  """
  try:
    value = parse(path)
    if fits(value, form or dict):
      return value
    reason = 'damaged'
  except (FileNotFoundError, NotADirectoryError):
    return None
  except OSError as error:
    reason = f'unreadable ({error.strerror})'
  except ValueError:
    reason = 'damaged'
  logging.warning('%s is %s and is taken as missing', path, reason)
  return None


def parse(path: AnyPath) -> Any:
  """The JSON value in a file. Raises OSError, and ValueError if the file is not JSON."""
  try:
    return json.loads(pathlib.Path(path).read_bytes())
  except RecursionError:
    raise ValueError('its brackets are too deep') from None


def fits(value: Any, form: Any) -> bool:
  """Whether a JSON value has a form.

  form: a type, or a tuple of types of which one must fit; [form] of a list whose items all have
  that form; or {name: form} of an object that has these names. It may have other names too, and
  need not have those written as 'name?'. Integers of more than 64 bits fit no form, since NumPy and
  pandas cannot hold them.
  """
  if isinstance(form, list):
    return isinstance(value, list) and all(fits(item, form[0]) for item in value)
  if isinstance(form, dict):
    return isinstance(value, dict) and all(
      fits(value[name.rstrip('?')], of) if name.rstrip('?') in value else name.endswith('?')
      for name, of in form.items()
    )
  if isinstance(value, bool):
    return form is bool
  return isinstance(value, form) and not (isinstance(value, int) and abs(value) >= 2**63)


def write_rows(path: AnyPath, rows: list[dict]) -> None:
  """Writes `rows` as JSON lines, atomically."""
  write_atomic(path, ''.join(json.dumps(row, default=plain) + '\n' for row in rows))


def read_rows(path: AnyPath) -> list[dict]:
  """The rows of a file of JSON lines, each {name: number}; none if the file is missing.

  A damaged line is left out with a warning.
  """
  rows = []
  try:
    lines = pathlib.Path(path).read_bytes().splitlines()
  except (FileNotFoundError, NotADirectoryError):
    return rows
  except OSError as error:
    logging.warning('%s is unreadable (%s) and is taken as missing', path, error.strerror)
    return rows
  for number, line in enumerate(lines, 1):
    try:
      row = json.loads(line)
      if not fits(row, dict) or not all(fits(value, NUMBER) for value in row.values()):
        raise ValueError
      rows.append(row)
    except (ValueError, RecursionError):
      logging.warning('%s: line %d is damaged and is left out', path, number)
  return rows


def is_inside(name: str) -> bool:
  """Whether a path names something inside its folder, on every system, and nothing hidden."""
  return not {'\\', '\0'} & {*name} and all(
    part and not part.startswith('.') for part in name.split('/')
  )
