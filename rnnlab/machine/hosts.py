"""Several processes, on one host or on many, that do one run together by jax.distributed.

All of them run the same programs in the same order, each with its part of every batch. The first
process does what must be done once, such as writing files. A single process is the first.
"""

import pickle
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P


def first(function: Callable, *arguments: Any) -> Any:
  """`function(*arguments)`, called in the first process alone; all processes get its result.

  If it raises an exception, that is raised in all processes. Both are sent by pickle.
  """
  if not jax.distributed.is_initialized():
    return function(*arguments)
  result = error = None
  message = b''
  if jax.process_index() == 0:
    try:
      result = function(*arguments)
    except Exception as raised:
      error = raised
    message = pickle.dumps((result, error))
  # Padded to a power of two, as the broadcast is compiled anew for each size.
  size = int(multihost_utils.broadcast_one_to_all(np.int32(len(message)))).bit_length()
  padded = np.frombuffer(message.ljust(1 << size, b'\0'), np.uint8)
  padded = multihost_utils.broadcast_one_to_all(padded)
  if jax.process_index() > 0:
    result, error = pickle.loads(padded.tobytes())
  if error:
    error.common = True  # type: ignore[attr-defined]
    raise error
  return result


def is_common(error: Exception) -> bool:
  """Whether an error came from `first`, and so has been raised in every process."""
  return getattr(error, 'common', False)


def agree(flag: bool) -> bool:
  """Whether `flag` is true in any process. All processes must call this at the same point."""
  if not jax.distributed.is_initialized():
    return flag
  return bool(multihost_utils.process_allgather(np.bool_(flag)).any())


def fetch(tree: Any) -> Any:
  """The arrays of `tree` in this process's memory, whole, where each process may hold a part."""
  if jax.distributed.is_initialized():
    tree = jax.device_put(tree, NamedSharding(jax.sharding.get_mesh(), P()))
  return jax.device_get(tree)
