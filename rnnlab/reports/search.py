"""The trials of a sweep's searches as a table, and the runs of the settings they chose."""

from typing import Any

import pandas as pd

from rnnlab import results
from rnnlab.results import measures


def trials_of(sweep: dict[str, Any], runs: pd.DataFrame) -> pd.DataFrame:
  """A row for each trial of the sweep's searches, from sweep.json; `y` is its validation metric.

  runs: from results.load_runs, which has the metrics of each task. Columns: id, group (its arm, in
  words), metrics, settings, seed, epochs, y, best (whether it is its arm's best), method, halving
  (whether trials that were behind ended early), validation_is_test.
  """
  overrides = {run['id']: run['overrides'] for run in sweep['runs']}
  known = {f'validation_{measures.from_json(m)[0].name}': m for m in runs['metrics'].unique()}
  rows = []
  for search in sweep.get('searches', ()):
    for arm in search['arms']:
      for trial in arm['trials']:
        column = next((name for name in known if name in trial), next(iter(known)))
        rows.append(
          overrides[trial['id']]
          | {'id': trial['id'], 'group': results.side_words(arm['overrides'])}
          | {'method': search['method'], 'halving': bool(search.get('halving'))}
          | {'epochs': trial['epochs'], 'y': trial.get(column)}
          | {'best': trial['id'] == arm['best'], 'metrics': known[column]}
        )
  columns = ['id', 'model.cell', 'y', 'metrics']
  trials = results.flatten(rows) if rows else pd.DataFrame(columns=columns)
  return trials.astype({'y': float}).assign(validation_is_test=False)


def tuned(runs: pd.DataFrame, sweep: dict[str, Any]) -> pd.DataFrame:
  """`runs` with 'tuned' in place of each value that a search chose.

  So each arm is compared at its own best setting.
  """
  for number, search in enumerate(sweep.get('searches', ()), 1):
    chosen = runs['id'].isin([run for arm in search['arms'] for run in arm['runs']])
    words = 'tuned' if number == 1 else f'tuned {number}'
    for name in search['ranges']:
      if name in runs and chosen.any():
        runs = runs.assign(**{name: runs[name].astype(object).mask(chosen, words)})
  return runs
