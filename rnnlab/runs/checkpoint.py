"""Checkpoints by Orbax: the training state with the rows logged up to it, atomic, resumable."""

import contextlib
import errno
import functools
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Iterator

import jax
import orbax.checkpoint as ocp
from absl import logging

from rnnlab.training.train import TrainState

ODD = {*'*?[]\\'}
# What says that a file can't be read now, and not that it is damaged.
PASSING = errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE
SLACK = 2**20  # bytes that a checkpoint may take beside its arrays
FILES = 64  # and folders, that it may have


@contextlib.contextmanager
def manager(folder) -> Iterator[ocp.CheckpointManager]:
  """Opens a run's folder of checkpoints, numbered by step; the last two are kept.

  A state holds the last parameters and the best by validation, so each checkpoint keeps both; the
  second is what to fall back on where the last turns out to be damaged.
  """
  folder = pathlib.Path(folder).absolute()
  folder.mkdir(parents=True, exist_ok=True)
  options = ocp.CheckpointManagerOptions(
    max_to_keep=2,
    enable_async_checkpointing=False,
    cleanup_tmp_directories=True,
    create=False,
    # Under jax.distributed too one process does it all, and no other is waited for.
    multiprocessing_options=ocp.options.MultiprocessingOptions(active_processes={0}),
  )
  with _plain(folder) as plain, ocp.CheckpointManager(plain, options=options) as checkpoints:
    yield checkpoints


@contextlib.contextmanager
def _plain(folder):
  """A way to `folder` whose name Orbax reads as it is: to others, a link from a temporary folder.

  Orbax looks for what it wrote by a pattern, the folder's name included; TensorStore takes a
  backslash for a slash, and names in UTF-8 alone. A checkpoint there would have no arrays.
  """
  name = folder.as_posix()
  if not ODD & {*name} and name.isprintable():
    yield folder
    return
  with tempfile.TemporaryDirectory(prefix='rnnlab-') as temporary:
    link = pathlib.Path(temporary) / 'checkpoints'
    link.symlink_to(folder)
    yield link


def save(checkpoints: ocp.CheckpointManager, state: TrainState, log: dict) -> None:
  """Saves `state`, and `log` (JSON), at the state's step. Raises OSError where it can't be written.

  A disk without room, for bytes or for files, is told before: TensorStore would fill it, and then
  print tracebacks from threads of its own.
  """
  room = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + SLACK
  folder = checkpoints.directory
  if shutil.disk_usage(folder).free < room or _files_left(folder) < FILES:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
  try:
    checkpoints.save(
      int(state.step),
      args=ocp.args.Composite(state=ocp.args.StandardSave(state), log=ocp.args.JsonSave(log)),
      force=True,
    )
  except ValueError as error:  # what TensorStore raises whatever is wrong with a disk
    raise OSError(f'cannot write a checkpoint: {error}') from error


def _files_left(folder):
  """How many files a disk has room for; many where it keeps no count of them."""
  if not hasattr(os, 'statvfs'):
    return FILES
  disk = os.statvfs(folder)
  return disk.f_favail if disk.f_files else FILES


@functools.cache  # once a process: that of others is kept
def _hush():
  """Keeps TensorStore's threads from printing tracebacks on arrays that nobody waits for any more.

  Orbax waits for the first array of a checkpoint that cannot be read, and not for the others.
  """
  hook = sys.unraisablehook

  def hushed(unraisable):
    late = unraisable.exc_type is RuntimeError and unraisable.object is None
    if not late or str(unraisable.exc_value) != 'Event loop is closed':
      hook(unraisable)

  sys.unraisablehook = hushed


def restore(checkpoints: ocp.CheckpointManager, like: TrainState) -> tuple[TrainState, dict] | None:
  """The last state that can be read, with its log; None where there is none.

  `like` gives shapes and dtypes. A damaged checkpoint is said, deleted and passed over. Raises
  OSError or MemoryError where it is not the checkpoint's fault that it cannot be read.
  """
  _hush()
  for step in sorted(checkpoints.all_steps(), reverse=True):
    try:
      abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
      restored = checkpoints.restore(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardRestore(abstract), log=ocp.args.JsonRestore()
        ),
      )
      return restored.state, restored.log
    except Exception as error:  # Orbax and TensorStore raise many kinds for a damaged file
      folder = pathlib.Path(checkpoints.directory).resolve() / str(step)
      reason = str(error).splitlines()[0] if str(error) else type(error).__name__
      if isinstance(error, MemoryError) or getattr(error, 'errno', None) in PASSING:
        raise
      if any(word in reason for word in ('PERMISSION_DENIED', 'RESOURCE_EXHAUSTED')):
        raise OSError(f'cannot read {folder}: {reason}') from error
      logging.warning('%s is damaged (%s); going on from the one before it', folder, reason[:120])
      with contextlib.suppress(OSError):
        shutil.rmtree(folder)
      checkpoints.reload()
  return None
