"""Turns results into tables, figures and pages for people."""

import math
import pathlib
from typing import Any

import pandas as pd

from rnnlab import results
from rnnlab.machine import disk
from rnnlab.reports import content, drawings, hardest, html, latex, markdown, search, terminal
from rnnlab.reports.content import Drawing, Report, Texts
from rnnlab.reports.made_by import made_by
from rnnlab.results import statistics


def table(runs: pd.DataFrame):
  """What the runs found, as a rich renderable that also reads well in a log 100 columns wide.

  runs: as results.load_runs gives them.
  """
  blocks = content.blocks_of(runs, results.summarise(runs), results.compare(runs), [])
  return terminal.table(blocks, pd.DataFrame({'sentence': []}))


def write(workdir) -> Report:
  """Writes the tables *.csv, summary.md, summary.tex, report.html and figures/*.png.

  The trials of a search take no part in the tables and figures of the comparison. Returns the
  Report; printed by Rich, it shows the verdicts of the sweep's claims, then the `table` of the runs
  that are compared. Raises what `load_runs` raises.
  """
  workdir = pathlib.Path(workdir)
  every, sweep = results.load_runs(workdir), results.legible(results.sweep_of(workdir))
  searched = {run['id'] for run in sweep['runs'] if run.get('stage') == 'search'}
  runs, trials = every[~every['id'].isin(searched)], search.trials_of(sweep, every)
  claims = results.claims(workdir, runs)
  runs = search.tuned(runs, sweep)
  summary, pairs = _summary_and_pairs(runs, workdir)
  blocks = content.blocks_of(runs, summary, pairs, results.references_of(sweep))
  missing = results.legible(results.missing_runs(workdir, set(every['id'])))
  name = sweep['experiment'] or results.legible(workdir.name)
  name = ':'.join(filter(None, (name, sweep['preset'])))
  drawn = list(drawings.draw(workdir, runs, summary, pairs, trials, blocks))
  told = Report(
    f'{name}, {len(every)} of {len(every) + len(missing)} runs',
    content.finding(summary, pairs, claims, sweep['claims_after']),
    summary,
    pairs,
    claims,
    blocks,
    [part for _, part in trials.groupby('metrics', sort=False)],
    [one for one in drawn if isinstance(one, Drawing)],
    [one for one in drawn if isinstance(one, Texts)],
    list(_hardest(workdir, blocks)),
    missing,
    made_by(workdir, every, sweep),
    drawings.of_claims(workdir, claims),
  )
  tables = {'runs': every, 'summary': summary, 'comparisons': pairs}
  if len(claims):
    tables['claims'] = claims
  else:  # those of an earlier launch, since taken out of the experiment
    (workdir / 'claims.csv').unlink(missing_ok=True)
  for file, frame in tables.items():
    kept = frame if file == 'runs' else frame.drop(columns='metrics', errors='ignore')
    disk.write_atomic(workdir / f'{file}.csv', kept.to_csv(index=False))
  disk.write_atomic(workdir / 'summary.md', markdown.markdown(told))
  disk.write_atomic(workdir / 'summary.tex', latex.latex(told))
  disk.write_atomic(workdir / 'report.html', html.page(told, workdir))
  return told


def record(told: Report | None) -> dict[str, str | list[dict[str, Any]]]:
  """A report's finding and the rows of its summary, comparisons and claims, ready for JSON.

  They are empty without a report. Numbers that are not finite become None.
  """
  names = 'summary', 'comparisons', 'claims'
  tables = {name: _records(getattr(told, name)) if told else [] for name in names}
  return {'finding': told.finding if told else ''} | tables


def _hardest(workdir, blocks):
  """(data, group, hardest examples) for each setting of each block that has some."""
  for block in blocks:
    keys = [*results.DATA, *results.settings(block.summary)]
    runs = block.runs.merge(block.summary[[*keys, 'group']], on=keys)
    for group, part in runs.groupby('group', sort=False):
      if found := hardest.of_group(workdir, part):
        yield block.title, group, found


def _summary_and_pairs(runs, workdir):
  """results.summarise and results.compare for all settings, separately for each task."""
  # Without runs there is no task, and the tables have no rows.
  parts = [part for _, part in content.by_task(runs)] or [runs]
  summary = pd.concat([results.summarise(part, workdir) for part in parts], ignore_index=True)
  pairs = [results.compare(part, workdir, over=results.settings(part)) for part in parts]
  pairs = pd.concat(pairs, ignore_index=True)
  # The question is about cells: comparisons of other settings should not weaken theirs.
  pairs['p_holm'] = pairs.groupby(['primary', 'setting'])['p'].transform(statistics.holm)
  return summary, pairs


def _records(frame):
  def value_of(value):
    return None if isinstance(value, float) and not math.isfinite(value) else value

  rows = frame.drop(columns='metrics', errors='ignore').to_dict('records')
  return [{k: value_of(v) for k, v in row.items()} for row in rows]
