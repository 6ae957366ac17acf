"""A run's rows, logged to TensorBoard and to Weights & Biases."""

import os
import pathlib
import shutil

from rnnlab.runs import configs


class TensorBoard:
  """A run's TensorBoard events, written without TensorFlow; its config fills the HParams tab.

  The events are rewritten from all rows so far, so that a resumed run shows each epoch once.
  folder: the run's. config: nested. rows: of the epochs so far.
  """

  def __init__(self, folder, config: dict, rows: list[dict]):
    from tensorboardX import SummaryWriter
    from tensorboardX.summary import hparams

    for old in pathlib.Path(folder).glob('events.out.tfevents.*'):
      old.unlink()
    self._writer = SummaryWriter(str(folder), flush_secs=1)
    fields = {
      name: value if isinstance(value, (bool, int, float)) else str(value)
      for name, value in configs.flat(config).items()
    }
    # The plugin finds the metrics by itself: only its record of a session's start is needed.
    _, session_start, _ = hparams(fields, {})
    self._writer.file_writer.add_summary(session_start)
    for row in rows:
      self.write(row)

  def write(self, row: dict) -> None:
    """Adds an epoch's row as scalars at its step, named split/metric."""
    for name, value in _scalars(row).items():
      self._writer.add_scalar(name, value, row['step'])
    self._writer.flush()

  def close(self) -> None:
    """Closes the events file."""
    self._writer.close()


class WandB:
  """A run in Weights & Biases, under the run's id. The package wandb must be installed.

  With WANDB_MODE=offline the run is kept in `folder`/wandb, from where `wandb sync` sends it; W&B's
  other environment variables hold too. A resumed run shows each epoch once: offline, it is
  rewritten from all rows so far; online, only the rows that W&B lacks are sent.
  folder, config, rows: as for TensorBoard.
  """

  def __init__(self, folder, config: dict, rows: list[dict]):
    import wandb

    folder = pathlib.Path(folder)
    for old in folder.glob('wandb/offline-run-*'):
      shutil.rmtree(old)
    self._run = wandb.init(
      project=os.environ.get('WANDB_PROJECT', 'rnnlab'),
      group=folder.resolve().parent.name,
      id=folder.name,
      name=folder.name,
      dir=folder,
      config=config,
      resume='allow',
      reinit='create_new',  # a population's runs are open side by side
      settings=wandb.Settings(silent=True, console='off'),
    )
    for row in rows:
      self.write(row)

  def write(self, row: dict) -> None:
    """Adds an epoch's row at its step, with metrics named split/metric."""
    if row['step'] >= self._run.step:
      self._run.log(_scalars(row), step=row['step'])

  def close(self) -> None:
    """Ends this process's part of the run."""
    self._run.finish()


def _scalars(row):
  return {
    name.replace('_', '/', 1): value for name, value in row.items() if name not in ('step', 'epoch')
  }
