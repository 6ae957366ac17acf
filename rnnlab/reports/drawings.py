"""Which figures a report has: each is drawn if there is anything to show, and put into words."""

import pathlib
import re
from collections.abc import Iterator

import pandas as pd

from rnnlab import results
from rnnlab.machine import disk
from rnnlab.reports import captions, panels
from rnnlab.reports.content import HOLDS, Block, Drawing, Texts, by_task, of_cells, where
from rnnlab.results import measures


def draw(
  workdir: pathlib.Path,
  runs: pd.DataFrame,
  summary: pd.DataFrame,
  pairs: pd.DataFrame,
  trials: pd.DataFrame,
  blocks: list[Block],
) -> Iterator[Drawing | Texts]:
  """Writes figures/*.png of the runs compared and of a search's trials; yields each Drawing.

  Those of a task's panels that are text are not drawn but yielded as Texts.

  In a workdir of several tasks, the name of a figure begins with that of its task, and with a
  number if the task is there with several sets of metrics.
  """
  parts = list(by_task(runs, summary, pairs))
  prefixes = _prefixes([task for (task, _), *_ in parts])
  for prefix, ((task, metrics), part, summed, paired) in zip(prefixes, parts, strict=True):
    of_task = [block for block in blocks if block.runs['task'].iloc[0] == task]
    of_task = [block for block in of_task if block.runs['metrics'].iloc[0] == metrics]
    yield from _of_runs(workdir, prefix, of_task, part, summed, paired)
    for number, block in enumerate(of_task, 1):
      ends = f'_{number}' * (len(of_task) > 1)
      yield from _of_panels(workdir, prefix, ends, task, block)
  searches = list(trials.dropna(subset='y').groupby('metrics', sort=False))
  prefixes = _prefixes([measures.from_json(metrics)[0].name for metrics, _ in searches])
  for prefix, (_, part) in zip(prefixes, searches, strict=True):
    yield from _of_search(workdir, prefix, part)


def _prefixes(names):
  """What the names of the figures of each part begin with: all differ, '' for a single part."""
  if len(names) == 1:
    return ['']
  numbers = [
    f'{names[:i].count(name) + 1}_' * (names.count(name) > 1) for i, name in enumerate(names)
  ]
  return [f'{_slug(name)}_{number}' for name, number in zip(names, numbers, strict=True)]


def _of_runs(workdir, prefix, blocks, runs, summary, pairs):
  """The figures of the runs of one task with the same metrics. blocks: those of these runs."""
  from rnnlab.reports import figures

  note = '\n'.join(block.caption for block in blocks)
  data = tuple(dict.fromkeys(block.title for block in blocks))

  def draw(kind, *frames, **shown):
    return _drawn(workdir, prefix, kind, runs, frames, note, data, **shown)

  def some(most):
    shown = figures.select(summary, most)
    return shown, {'shown': len(shown), 'of': len(summary)}

  metric = measures.metrics_of(runs)[0]
  labelled = runs.assign(group=results.label(runs))
  shown, counts = some(figures.MAX_ROWS)
  yield draw('test_scores', labelled, shown, **counts)
  if len(seeds := paired(runs, pairs[of_cells(pairs)])):
    means = metric.sign * seeds.groupby('pair')['validation'].mean()
    best = means.nlargest(figures.MAX_PAIRS).index
    yield draw(
      'paired_seeds',
      pairs.assign(where=where(pairs), pair=pairs.index).loc[best.sort_values()],
      seeds,
      shown=len(best),
      of=seeds['pair'].nunique(),
      what='pairs',
    )
  if len(summary) > 1:
    yield draw('frontier', summary)
  shown, counts = some(figures.MAX_PANELS)
  epochs = results.epochs_of(workdir, labelled[labelled['group'].isin(shown['group'])])
  if len(epochs):
    yield draw('learning_curves', epochs, **counts)
    yield draw('score_vs_time', epochs, **counts)
  flow = results.flow_of(workdir, labelled[labelled['group'].isin(shown['group'])])
  flow = flow[flow['layer'] == flow.groupby('id')['layer'].transform('max')]
  if flow['share'].where(flow['lag'] > 0).gt(0).any():
    few, of_few = some(figures.MAX_FLOWS)
    yield draw('gradient_flow', flow[flow['group'].isin(few['group'])], **of_few)
    if flow['epoch'].nunique() > 2:
      yield draw('gradient_flow_by_epoch', flow, **counts)
  name = f'validation_{metric.name}'
  answered = runs.assign(y=runs[f'best_{name}'].fillna(runs[name])).dropna(subset='y')
  if results.many_valued(answered):
    yield draw('response', answered)


def _of_panels(workdir, prefix, ends, task, block):
  """The figures of a task's own panels on the test split, for the runs of one block."""
  from rnnlab.reports import figures

  chosen = figures.select(block.summary, figures.MAX_OVERLAID)
  which = captions.selected(block.runs, len(chosen), len(block.summary))
  keys = [*results.DATA, *results.settings(chosen)]
  runs = block.runs.merge(chosen[[*keys, 'group']], on=keys)
  for shown in panels.of_task(workdir, task, runs):
    caption = panels.caption(shown) + which
    if shown.kind == 'tokens':
      texts = [(group, panel.data['text']) for group, _, panel in shown.groups]
      yield Texts(shown.title, block.title, caption, texts)
      continue
    alternative = captions.sentences(*panels.alternative(shown))
    png, svg = figures.render(figures.panels, shown, note=f'{caption}\n{block.title}')
    name = prefix + _slug(shown.title) + ends
    disk.write_atomic(workdir / 'figures' / f'{name}.png', png)
    yield Drawing(name, caption, alternative, svg, data=(block.title,))


def of_claims(workdir: pathlib.Path, claims: pd.DataFrame) -> Drawing | None:
  """Writes figures/what_holds.png if there are several claims; returns its Drawing."""
  from rnnlab.reports import figures

  if len(claims) < 2:
    return None
  png, svg = figures.render(figures.claims, claims, note=HOLDS)
  disk.write_atomic(workdir / 'figures' / 'what_holds.png', png)
  alternative = captions.sentences('The verdicts of the claims', *claims['sentence'].str[:-1])
  return Drawing('what_holds', HOLDS, alternative, svg)


def _slug(words):
  return re.sub(r'[^\w.-]+', '_', words.lower())


def _of_search(workdir, prefix, trials):
  """The figures of the trials of searches by one metric."""
  if results.many_valued(trials):
    yield _drawn(workdir, prefix, 'search_response', trials, [trials], '', searched=True)
  # The expectation is of independent trials: Optuna's depend on those before them, and with halving
  # it depends on the others how long a trial goes on.
  independent = trials[(trials['method'] != 'optuna') & ~trials['halving'].astype(bool)]
  if len(independent) > independent['group'].nunique():
    yield _drawn(workdir, prefix, 'expected_best', trials, [independent], '', searched=True)


def _drawn(workdir, prefix, kind, runs, frames, note, data=(), searched=False, **shown):
  """Writes one figure; returns its Drawing. kind: the name of the function that draws it."""
  from rnnlab.reports import figures

  caption = captions.caption(kind, runs, **shown)
  alternative = captions.alternative(kind, *frames)
  png, svg = figures.render(getattr(figures, kind), *frames, note=f'{caption}\n{note}')
  metric = measures.metrics_of(runs)[0]
  files = {
    'test_scores': f'test_{metric.name}',
    'score_vs_time': f'{metric.name}_vs_time',
    'expected_best': f'expected_{"maximum" if metric.sign > 0 else "minimum"}',
  }
  name = prefix + files.get(kind, kind)
  disk.write_atomic(workdir / 'figures' / f'{name}.png', png)
  return Drawing(name, caption, alternative, svg, searched, data)


def paired(runs: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
  """Runs of two cells that share seed, data and all other settings: one row for every such two.

  Columns: pair, the index of the comparison in `pairs`; x and y, the primary metric of a and b;
  validation, the mean over both runs of the metric on validation at the same epoch.
  """
  name = f'validation_{measures.metrics_of(runs)[0].name}'
  validation = runs[name].where(runs['validation_is_test'].astype(bool), runs[f'best_{name}'])
  shared = [*results.DATA, *(name for name in results.settings(runs) if name != 'model.cell')]
  side = runs[[*shared, 'seed', 'model.cell']].assign(
    value=measures.primary(runs), validation=validation
  )
  found = (
    pairs.loc[pairs['primary'], [*shared, 'a', 'b']]
    .rename_axis('pair')
    .reset_index()
    .merge(side.rename(columns={'model.cell': 'a', 'value': 'x'}), on=[*shared, 'a'])
    .merge(side.rename(columns={'model.cell': 'b', 'value': 'y'}), on=[*shared, 'seed', 'b'])
    .dropna(subset=['x', 'y'])
  )
  return found.assign(validation=(found['validation_x'] + found['validation_y']) / 2)
