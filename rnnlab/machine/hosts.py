"""Several processes, of one host or of many, that do one run together: jax.distributed.

All of them run the same programs in the same order, each with its part of every batch. What is done
once, as the writing of files, the first process does. Alone, a process is the first of one.
"""

import pickle
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P


def first(function: Callable, *arguments):
  """What `function(*arguments)` gives, or raises, in the first process, to every one.

  The others do not call it. Result and exception go by pickle.
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
  # A program is compiled for each size: there are few powers of two.
  size = int(multihost_utils.broadcast_one_to_all(np.int32(len(message)))).bit_length()
  message = np.frombuffer(message.ljust(1 << size, b'\0'), np.uint8)
  message = multihost_utils.broadcast_one_to_all(message)
  if jax.process_index() > 0:
    result, error = pickle.loads(message.tobytes())
  if error:
    error.common = True
    raise error
  return result


def is_common(error: Exception) -> bool:
  """Whether `error` came from `first`, and so has been raised in every process."""
  return getattr(error, 'common', False)


def agree(flag: bool) -> bool:
  """Whether `flag` is true in any of the processes; all ask at the same point."""
  if not jax.distributed.is_initialized():
    return flag
  return bool(multihost_utils.process_allgather(np.bool_(flag)).any())


def fetch(tree):
  """The arrays of `tree`, which the processes may hold in parts, whole and in this one's memory."""
  if jax.distributed.is_initialized():
    tree = jax.device_put(tree, NamedSharding(jax.sharding.get_mesh(), P()))
  return jax.device_get(tree)
