"""The words beside a report's figures: how to read each, and a text alternative to its picture."""

import numpy as np
import pandas as pd

from rnnlab import results
from rnnlab.results import measures, statistics

MOST_TOLD = 12  # groups, pairs or settings that a text alternative lists; the tables have them all

SEEDS = (
  'Lines are means over seeds; bands span the lowest to the highest seed (no band for a '
  'single seed).'
)
CUT = (
  ' Where the values of the first tenth of the epochs are far above all later ones, the axis '
  'leaves them out.'
)
RING = 'a ring marks the best of its cell over all data. Other settings vary from dot to dot.'
CAPTIONS = {
  'test_scores': 'Each dot is the test {metric} of one seed; the diamond is the mean, the bar '
  'its 95% t interval (no bar for a single seed).',
  'paired_seeds': 'Test {metric}{epoch} of two cells in runs that share the seed and all other '
  'settings, joined by a line in the colour of the cell that is ahead; bars are means. Beside '
  'them, the differences of the pairs{unit}; the diamond is the difference in means, the bar its '
  '95% Welch interval.',
  'frontier': 'Mean test {metric}{epoch} with its 95% t interval against mean seconds per run. '
  'Ringed and joined: the groups that no other group beats in both.',
  'learning_curves': 'Solid: {word}; dashed: train, where it is known. ' + SEEDS + CUT,
  'score_vs_time': '{Word} {metric} against the wall time of the epochs, including compilation. '
  + SEEDS
  + CUT,
  'gradient_flow': 'The norm of the gradient of the loss with respect to the carry, that many '
  'steps before the last step of a sequence, as a share of the norm at the last step: a mean over '
  'the same few train examples, without dropout, before and after training. With several layers, '
  'it is the last one. Where there is an output at each step, the loss is that of the last step. '
  'Lines are geometric means over seeds; bands span the lowest to the highest seed (no band for '
  'a single seed). Nothing is drawn below 1e-8.',
  'gradient_flow_by_epoch': 'The norm of the gradient of the loss with respect to the carry, that '
  'many steps before the last step of a sequence, as a share of the norm at the last step, at each '
  'epoch. Colours are geometric means over seeds; shares below 1e-8 have the colour of 1e-8, and '
  'unknown ones have none.',
  'response': '{Word} {metric} of each run against each setting that takes many values; ' + RING,
  'search_response': 'Best validation {metric} of each search trial against its settings; ' + RING,
  'expected_best': 'Expected validation {metric} of the best of n trials of the search, drawn '
  'without replacement (Dodge et al. 2019, Tang et al. 2020), with its 95% interval where there '
  'are enough trials for one. Trials that failed are left out. The interval takes trials for '
  'independent, which those of sobol and halton are only nearly.',
}


def caption(
  name: str, runs: pd.DataFrame, shown: int = 0, of: int = 0, what: str = 'groups'
) -> str:
  """How to read figure `name` of `runs`; if only `shown` `of` groups are drawn, also which ones."""
  word, epoch, metric = watched(runs), measures.epoch_words(runs), measures.metrics_of(runs)[0]
  text = CAPTIONS[name].format(
    word=word,
    Word=word.capitalize(),
    epoch=f' {epoch}' if epoch else '',
    metric=metric.words,
    unit=f', in {metric.difference_unit}' if metric.difference_unit else '',
  )
  if metric.better == 'lower' and not name.startswith('gradient_flow'):
    text += f' Lower {metric.words} is better.'
  return text + selected(runs, shown, of, what)


def selected(runs: pd.DataFrame, shown: int, of: int, what: str = 'groups') -> str:
  """Which groups of `runs` a figure shows, where it does not show them all."""
  if shown >= of:
    return ''
  metric = measures.metrics_of(runs)[0]
  return (
    f' Shown are {shown} of {of} {what}: those with the best {watched(runs)} {metric.words}'
    f'{", as many of each cell" * (what == "groups")}; the tables have them all.'
  )


def watched(frame: pd.DataFrame) -> str:
  """What to call the split that is watched during training."""
  return 'test' if frame['validation_is_test'].all() else 'validation'


def alternative(name: str, *frames: pd.DataFrame) -> str:
  """A text alternative to figure `name` of these frames: what kind it is, and its main numbers."""
  return sentences(*ALTERNATIVES[name](*frames))


def sentences(kind: str, *said: str) -> str:
  """The kind of a figure, then at most MOST_TOLD sentences of what it shows."""
  if len(said) > MOST_TOLD:
    said = [*said[:MOST_TOLD], f'{len(said) - MOST_TOLD} more are in the tables']
  return ' '.join(f'{sentence}.' for sentence in (kind, *said))


def _test_scores(runs, summary):
  epoch, metric = measures.epoch_words(summary), measures.metrics_of(summary)[0]
  yield f'Dot plot of the test {metric.words} of each run{epoch and ", "}{epoch}, by group'
  ends = (measures.primary(summary, part) for part in ('mean', 'low', 'high'))
  for row, mean, low, high in zip(summary.to_dict('records'), *ends, strict=True):
    interval = ''
    if not pd.isna(low):
      interval = f', 95% interval {metric.shown(low)} to {metric.shown(high)}'
    yield f'{row["group"]}: mean {metric.shown(mean)}{interval}, {row["runs"]} runs'


def _paired_seeds(pairs, seeds):
  metric = measures.metrics_of(pairs)[0]
  yield 'Line plot that joins runs of two cells by seed, and dot plot of the differences'
  for row in pairs.to_dict('records'):
    x, y = (seeds.loc[seeds['pair'] == row['pair'], side] for side in 'xy')
    a, b = (results.cell_name(row[side]) for side in 'ab')
    where = f'{row["where"]}: ' if row['where'] else ''
    yield (
      f'{where}{b} is ahead of {a} in {(metric.sign * y > metric.sign * x).sum()} of {len(x)} '
      f'seeds; their means differ by {metric.change_shown((y - x).mean())}, '
      f'{metric.shown(y.mean())} against {metric.shown(x.mean())}'
    )


def _frontier(summary):
  epoch, metric = measures.epoch_words(summary), measures.metrics_of(summary)[0]
  yield f'Scatter plot of mean test {metric.words}{epoch and " "}{epoch} against the time of a run'
  for row, mean in zip(summary.to_dict('records'), measures.primary(summary, 'mean'), strict=True):
    yield f'{row["group"]}: {metric.shown(mean)} in {row["seconds"]:,.0f} seconds'


def _learning_curves(epochs):
  word, metrics = watched(epochs), measures.of_epochs(measures.metrics_of(epochs))
  metric, *others = metrics
  also = f', and of {", ".join(other.words for other in others)},' if others else ''
  yield f'Line plots of {word} and train {metric.words}{also} against epochs'
  for group, last, best in _curves(epochs, metric):
    yield (
      f'{group}: {word} {metric.words} is {_most(metric)} after epoch {best.name}, '
      f'{metric.shown(best["validation"])}, and ends after epoch {last.name} at '
      f'{metric.shown(last["validation"])}; train {metric.words} ends at '
      f'{metric.shown(last["train"])}'
    )


def _score_vs_time(epochs):
  word, metric = watched(epochs), measures.metrics_of(epochs)[0]
  yield f'Line plot of {word} {metric.words} against the wall time of the epochs'
  for group, last, best in _curves(epochs, metric):
    yield (
      f'{group}: {word} {metric.words} is {_most(metric)} after {best["elapsed"]:,.0f} seconds, '
      f'{metric.shown(best["validation"])}, and ends after {last["elapsed"]:,.0f} seconds at '
      f'{metric.shown(last["validation"])}'
    )


def _gradient_flow(flow):
  yield 'Line plots of the share of the gradient that is left against the steps before the last'
  for group, rows in flow.groupby('group', sort=False):
    ends, longest = rows['epoch'].agg(['min', 'max']), rows['lag'].max()
    far = rows[rows['lag'] == longest].groupby('epoch')['share'].mean()
    first, last = (far.get(epoch, np.nan) for epoch in ends)
    yield f'{group}: {first:.2g} at first and {last:.2g} in the end, {longest:,.0f} steps before'


def _gradient_flow_by_epoch(flow):
  yield 'Heat maps of the share of the gradient that is left by epoch and steps before the last'
  for group, rows in flow.groupby('group', sort=False):
    far = rows[rows['lag'] == rows['lag'].max()]
    share = far.groupby('epoch')['share'].mean()
    if share.notna().any():
      ends = f'least {share.min():.2g} at epoch {share.idxmin():.0f}, most {share.max():.2g} at'
      yield f'{group}: {ends} {share.idxmax():.0f}, {far["lag"].iloc[0]:,.0f} steps before'


def _response(runs):
  metric = measures.metrics_of(runs)[0]
  words = f'{watched(runs)} {metric.words}'
  yield f'Scatter plots of {words} against each setting that takes many values'
  for name in results.many_valued(runs):
    values = f'{name} from {runs[name].min():g} to {runs[name].max():g}'
    for cell, part in runs.dropna(subset='y').groupby('model.cell', sort=False):
      best = part.loc[(metric.sign * part['y']).idxmax()]
      yield (
        f'{values}: {results.cell_name(cell)} is best at {best[name]:g}, {metric.shown(best["y"])}'
      )


def _expected_best(trials):
  metric = measures.metrics_of(trials)[0]
  yield f'Line plot of the expected validation {metric.words} of the best of n trials'
  for group, part in trials.groupby('group', sort=False):
    mean, _, _ = statistics.expected_best(part['y'], metric.sign)
    one, all_of_them = metric.shown(mean[0]), metric.shown(mean[-1])
    yield f'{group}: {one} of one trial, {all_of_them} of {len(mean)}'


ALTERNATIVES = {
  'test_scores': _test_scores,
  'paired_seeds': _paired_seeds,
  'frontier': _frontier,
  'learning_curves': _learning_curves,
  'score_vs_time': _score_vs_time,
  'gradient_flow': _gradient_flow,
  'gradient_flow_by_epoch': _gradient_flow_by_epoch,
  'response': _response,
  'search_response': _response,
  'expected_best': _expected_best,
}


def _most(metric):
  return 'highest' if metric.sign > 0 else 'lowest'


def _curves(epochs, metric):
  """(group, its last epoch, its best one) of the means over seeds of the metric on each split."""
  epochs = epochs.assign(elapsed=epochs.groupby('id')['seconds'].cumsum())
  names = {f'validation_{metric.name}': 'validation', f'train_{metric.name}': 'train'}
  epochs = epochs.rename(columns=names).astype({'epoch': int})
  for group, rows in epochs.groupby('group', sort=False):
    curve = rows.groupby('epoch')[['validation', 'train', 'elapsed']].mean()
    good = (metric.sign * curve['validation']).fillna(-np.inf)
    yield group, curve.iloc[-1], curve.loc[good.idxmax()]
