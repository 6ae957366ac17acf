"""Checkpoints by Orbax: the training state with the rows logged up to it, atomic, resumable."""

import contextlib
import errno
import os
import pathlib
import shutil

import jax
import orbax.checkpoint as ocp
from absl import logging

from rnnlab.train import TrainState

SLACK = 2**20  # bytes that a checkpoint may take beside its arrays


def manager(folder) -> ocp.CheckpointManager:
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
  return ocp.CheckpointManager(folder, options=options)


def save(checkpoints: ocp.CheckpointManager, state: TrainState, log: dict) -> None:
  """Saves `state`, and `log` (JSON), at the state's step. Raises OSError where it can't be written.

  A disk without room is told from its free space: TensorStore would fill it, and then print
  tracebacks from threads of its own.
  """
  room = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + SLACK
  if shutil.disk_usage(checkpoints.directory).free < room:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(checkpoints.directory))
  try:
    checkpoints.save(
      int(state.step),
      args=ocp.args.Composite(state=ocp.args.StandardSave(state), log=ocp.args.JsonSave(log)),
      force=True,
    )
  except ValueError as error:  # what TensorStore raises whatever is wrong with a disk
    raise OSError(f'cannot write a checkpoint: {error}') from error


def restore(checkpoints: ocp.CheckpointManager, like: TrainState) -> tuple[TrainState, dict] | None:
  """The last state that can be read, with its log; None where there is none.

  `like` gives shapes and dtypes. A damaged checkpoint is said, deleted and passed over.
  """
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
      folder = checkpoints.directory / str(step)
      reason = str(error).splitlines()[0] if str(error) else type(error).__name__
      logging.warning('%s is damaged (%s); going on from the one before it', folder, reason[:120])
      with contextlib.suppress(OSError):
        shutil.rmtree(folder)
      checkpoints.reload()
  return None
