"""How far gradients reached in the runs of a workdir, as a table."""

import pathlib

import numpy as np
import pandas as pd

from rnnlab.machine.disk import AnyPath
from rnnlab.runs import folder as run_files

COLUMNS = ('epoch', 'layer', 'lag', 'norm')
LEAST = -38  # about where float32 ends
REACH = ['first_gradient_reach', 'last_gradient_reach']


def flow_of(workdir: AnyPath, runs: pd.DataFrame) -> pd.DataFrame:
  """What runs kept with train.gradient_flow: a row for each run, epoch, layer and lag.

  runs: from results.load_runs; its columns come first. The others are epoch, 0 before training;
  layer, from 1; lag, the number of steps before a sequence's last one; norm, of the gradient with
  respect to the carry; share, the norm divided by that at lag 0, NaN if that is 0 or was not kept.
  There are no rows if no run kept any.
  """
  rows = [
    row | {'id': run}
    for run in runs['id']
    for row in run_files.read_flow(pathlib.Path(workdir) / run)
    if row.keys() >= {*COLUMNS}
  ]
  found = pd.DataFrame(rows, columns=['id', *COLUMNS])
  at = ['id', 'epoch', 'layer']
  last = found.loc[found['lag'].eq(0) & found['norm'].gt(0), [*at, 'norm']]
  found = found.merge(last.rename(columns={'norm': 'last'}), on=at, how='left')
  found['share'] = found['norm'] / found.pop('last')
  return runs.merge(found, on='id')


def reach_of(workdir: AnyPath, runs: pd.DataFrame) -> pd.DataFrame:
  """How far the gradient of each of `runs` reached: a row for each run, with the same index.

  Columns first_gradient_reach and last_gradient_reach: before and after training, log10 of the
  share of the gradient's norm in the first layer that is left at the greatest lag that was kept,
  but at least LEAST; NaN if that is not known.
  """
  flow = flow_of(workdir, runs[['id']])
  of_run = flow.groupby('id')
  far = (flow['layer'] == 1) & (flow['lag'] == of_run['lag'].transform('max'))
  reach = {}
  for name, end in zip(REACH, ('min', 'max'), strict=True):
    rows = flow[far & (flow['epoch'] == of_run['epoch'].transform(end))].drop_duplicates('id')
    reach[name] = np.log10(rows.set_index('id')['share'].clip(10**LEAST))
  return pd.DataFrame(reach).reindex(runs['id']).set_index(runs.index)
