"""How far gradients reached in the runs of a workdir, as a table."""

import pathlib

import pandas as pd

from rnnlab.machine.disk import AnyPath
from rnnlab.runs import folder as run_files

COLUMNS = ('epoch', 'layer', 'lag', 'norm')


def flow_of(workdir: AnyPath, runs: pd.DataFrame) -> pd.DataFrame:
  """What runs kept by train.gradient_flow: a row for each run, epoch, layer and lag.

  runs: of results.load_runs, whose columns come first. The others are epoch, 0 before training;
  layer, from 1; lag, the steps to a sequence's last one; norm, of the gradient by the carry; share,
  norm over that at lag 0, NaN where that is 0 or not kept. No rows where no run kept any.
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
