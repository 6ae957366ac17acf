"""How long runs took to reach a value of their primary metric, as a table."""

import pandas as pd

from rnnlab.machine.disk import AnyPath
from rnnlab.results import load, measures

TO_TARGET = ['steps_to_target', 'seconds_to_target']


def to_target(workdir: AnyPath, runs: pd.DataFrame, target: float) -> pd.DataFrame:
  """How long each of `runs`, all of one task, took to reach `target`: a row each, the same index.

  target: a value of the primary metric on validation, as result.json has it: a share of 1 if it is
  shown in %.

  Columns steps_to_target and seconds_to_target: the training steps, and the seconds of training, up
  to the end of the first epoch after which validation was at least as good; NaN if it never was.
  """
  primary, epochs = measures.metrics_of(runs)[0], load.epochs_of(workdir, runs)
  found = epochs[f'validation_{primary.name}']
  epochs = epochs[found >= target if primary.better == 'higher' else found <= target]
  first = epochs.sort_values('epoch').groupby('id')[['step', 'seconds']].first()
  return first.set_axis(TO_TARGET, axis=1).reindex(runs['id']).set_index(runs.index)
