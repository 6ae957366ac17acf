"""Damages of an .h5 file on which HDF5 itself would loop forever or end the process."""

import re
from typing import Any

import h5py


def check_heaps(content: bytes) -> None:
  """Raises ValueError for an .h5 file on whose strings HDF5 would loop forever.

  A heap of strings is a header of 16 bytes, then objects, each with a header of its own: its
  number, 0 for free space, and its size. HDF5 moves from one to the next by the size, even if that
  of free space is 0, as when part of the file has become zeros.
  """
  starts = re.finditer(b'GCOL\x01\0\0\0', content)
  for start, stop in ((at.start(), at.end()) for at in starts):
    end = start + int.from_bytes(content[stop : stop + 8], 'little')
    place = stop + 8
    while place + 16 <= min(end, len(content)):
      number = int.from_bytes(content[place : place + 2], 'little')
      size = int.from_bytes(content[place + 8 : place + 16], 'little')
      if not number and not size:
        raise ValueError('a heap of strings in it is broken')
      place += 16 + -(-size // 8) * 8 if number else size


def strings(group: h5py.Group, name: str) -> Any:
  """The string or strings of an attribute; raises ValueError if its type is another.

  Once a damage has made them lists of something else, HDF5 ends the process when it reads them. A
  list of none has no type of its own: Keras writes one of floats for a layer without weights.
  """
  attribute = group.attrs.get_id(name)
  if attribute.shape == (0,):
    return []
  if h5py.check_string_dtype(attribute.dtype) is None:
    raise ValueError(f'{name} is not of strings')
  return group.attrs[name]
