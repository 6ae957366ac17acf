"""How long runs took to reach a value of their primary metric, as a table."""

import pandas as pd

from rnnlab.machine.disk import AnyPath
from rnnlab.results import load, measures

TO_TARGET = ['steps_to_target', 'seconds_to_target']


def to_target(workdir: AnyPath, runs: pd.DataFrame, target: float) -> pd.DataFrame:
  """How long each of `runs`, all of one task, took to reach `target`: a row each, the same index.

  target: a value of the primary metric on validation, as result.json has it: a share of 1 if it is
  shown in %.

  Columns steps_to_target and seconds_to_target: the training steps up to the end of the first epoch
  after which validation was at least as good, and the seconds of as many epochs, without the time
  to compile, as in seconds_per_epoch; NaN if it never was as good.
  Raises ValueError, for people, if the primary metric is not known at each epoch.
  """
  if runs.empty:
    return pd.DataFrame(index=runs.index, columns=TO_TARGET, dtype=float)
  primary, epochs = measures.metrics_of(runs)[0], load.epochs_of(workdir, runs)
  if primary.once:
    raise ValueError(f'{primary.words} is known once, at the end, and not at each epoch')
  found = epochs[f'validation_{primary.name}']
  epochs = epochs[found >= target if primary.better == 'higher' else found <= target]
  first = epochs.sort_values('epoch').groupby('id')[['epoch', 'step']].first().reindex(runs['id'])
  seconds = first['epoch'].to_numpy() * runs['seconds_per_epoch'].to_numpy()
  return pd.DataFrame(
    dict(zip(TO_TARGET, (first['step'].to_numpy(), seconds), strict=True)), runs.index
  )
