"""Checkpoints by Orbax: the state of training, and the rows of the epochs up to it.

They are written atomically, and training continues from them to the same bits.
"""

import contextlib
import errno
import functools
import logging as logging_
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Iterator

import jax
import orbax.checkpoint as ocp
from absl import logging

from rnnlab.machine.disk import AnyPath
from rnnlab.training.train import TrainState

ODD = {*'*?[]\\'}  # characters in a folder's name that Orbax or TensorStore misread
# Errors that say that a file cannot be read now, not that it is damaged.
PASSING = errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE
# Orbax's messages for a state that is intact, but not of the expected form or shapes.
OTHER = 'structures do not match', 'not compatible with the stored shape'
SLACK = 2**20  # the most bytes that a checkpoint takes beside its arrays
FILES = 64  # the most files and folders that it has


@contextlib.contextmanager
def manager(folder: AnyPath) -> Iterator[ocp.CheckpointManager]:
  """Opens a run's folder of checkpoints, numbered by step, of which the last two are kept.

  A state holds both the last parameters and the best by validation, so one checkpoint would do; the
  one before it is kept in case the last is found to be damaged.
  """
  folder = pathlib.Path(folder).absolute()
  folder.mkdir(parents=True, exist_ok=True)
  options = ocp.CheckpointManagerOptions(
    max_to_keep=2,
    enable_async_checkpointing=False,
    cleanup_tmp_directories=True,
    create=False,
    # Under jax.distributed only the first process writes, so none may wait for the others.
    multiprocessing_options=ocp.options.MultiprocessingOptions(active_processes={0}),
  )
  with _plain(folder) as plain, ocp.CheckpointManager(plain, options=options) as checkpoints:
    yield checkpoints


@contextlib.contextmanager
def _plain(folder):
  """A path to `folder` that Orbax can use: itself, or a link to it in a temporary folder.

  Orbax finds what it wrote by a glob pattern that contains the folder's name; TensorStore reads a
  backslash as a slash, and only names in UTF-8. Under such a name checkpoints would lack arrays.
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
  """Saves a checkpoint at the state's step. Raises OSError if it cannot be written.

  checkpoints: from `manager`. log: what to keep beside the state, as JSON. The room on the disk is
  checked first, since TensorStore would fill it, and then print tracebacks from its own threads.
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
  except ValueError as error:  # TensorStore's error for anything that is wrong with a disk
    raise OSError(f'cannot write a checkpoint: {error}') from error


def _files_left(folder):
  """How many more files fit on a disk; FILES if the file system has, or reports, no limit."""
  if not hasattr(os, 'statvfs'):
    return FILES
  disk = os.statvfs(folder)
  return disk.f_favail if disk.f_files else FILES


@functools.cache  # once per process, so that a hook that others set later is not replaced
def _hush():
  """Keeps threads from printing tracebacks about arrays that nothing waits for any more.

  When Orbax meets an array that cannot be read, it does not wait for later ones: the interpreter
  then reports TensorStore's errors, and asyncio logs those of tasks.
  """
  asyncio_log = logging_.getLogger('asyncio')
  asyncio_log.addFilter(lambda record: 'exception was never retrieved' not in record.getMessage())
  hook = sys.unraisablehook

  def hushed(unraisable):
    late = unraisable.exc_type is RuntimeError and unraisable.object is None
    if not late or str(unraisable.exc_value) != 'Event loop is closed':
      hook(unraisable)

  sys.unraisablehook = hushed


def restore(checkpoints: ocp.CheckpointManager, like: TrainState) -> tuple[TrainState, dict] | None:
  """The last state that can be read, with its log; None if there is none.

  checkpoints: from `manager`. like: a state with the same shapes and dtypes. A checkpoint that is
  damaged, or whose state has another form, is deleted with a warning, and the one before it is
  used. Raises OSError or MemoryError if a checkpoint cannot be read for another reason.
  """
  _hush()
  steps = sorted(checkpoints.all_steps())
  while steps:
    step = steps.pop()
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
      what = 'is damaged'
      if any(words in reason for words in OTHER):
        what = 'has another form: rnnlab, the data or the cell are not those that wrote it'
      then = 'continuing from the one before it' if steps else 'the run begins again'
      logging.warning('%s %s (%s); %s', folder, what, reason[:120], then)
      with contextlib.suppress(OSError):
        shutil.rmtree(folder)
      checkpoints.reload()
  return None
