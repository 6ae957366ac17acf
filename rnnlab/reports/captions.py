"""The words beside a report's figures: how to read each, and what it shows where it is not seen."""

import numpy as np
import pandas as pd

from rnnlab import results
from rnnlab.results import statistics

MOST_TOLD = 12  # groups, pairs or settings that an alternative goes through; the tables have all

SEEDS = (
  'Lines are means over seeds, the band goes from the lowest to the highest seed (none for a '
  'single seed).'
)
RING = 'a ring is the best of its cell. Other settings vary from dot to dot.'
CAPTIONS = {
  'test_accuracy': 'Each dot is the test accuracy of a seed; the diamond is their mean, the bar '
  'its 95% t interval (none for a single seed).',
  'paired_seeds': 'Test accuracy{epoch} of two cells in runs that share the seed and all other '
  'settings, joined by a line in the colour of the cell ahead; bars are means. Beside it the '
  'differences of the pairs, in points; the diamond is the difference in means, the bar its 95% '
  "interval, Welch's.",
  'frontier': 'Mean test accuracy{epoch} with its 95% t interval against mean seconds a run. '
  'Ringed and joined: the groups that no other beats in both.',
  'learning_curves': f'Solid: {{word}}; dashed: train. {SEEDS}',
  'accuracy_vs_time': '{Word} accuracy against the wall time of the epochs, compilation '
  f'included. {SEEDS}',
  'response': '{Word} accuracy of each run against the settings that take many values; ' + RING,
  'search_response': 'Best validation accuracy of each trial of the search against its settings; '
  + RING,
  'expected_maximum': 'Expected validation accuracy of the best of n trials of the search, drawn '
  'without replacement (Dodge et al. 2019, Tang et al. 2020), with its 95% interval where trials '
  'are enough for one.',
}


def caption(name, runs, shown=0, of=0, what='groups'):
  """How to read figure `name` of `runs`; where it is `shown` `of` groups, also which they are."""
  word, epoch = watched(runs), results.epoch_words(runs)
  text = CAPTIONS[name].format(
    word=word, Word=word.capitalize(), epoch=f' {epoch}' if epoch else ''
  )
  if shown < of:
    text += (
      f' Shown are {shown} of {of} {what}: those of best {word} accuracy'
      f'{", of each cell alike" * (what == "groups")}; the tables have all.'
    )
  return text


def watched(frame):
  """What to call the split that is watched during training."""
  return 'test' if frame['validation_is_test'].all() else 'validation'


def alternative(name, *frames):
  """What figure `name` of these frames shows, for those who do not see it: its kind and numbers."""
  kind, *said = ALTERNATIVES[name](*frames)
  if len(said) > MOST_TOLD:
    said = [*said[:MOST_TOLD], f'{len(said) - MOST_TOLD} more are in the tables']
  return ' '.join(f'{sentence}.' for sentence in (kind, *said))


def _test_accuracy(runs, summary):
  epoch = results.epoch_words(summary)
  yield f'Dot plot of the test accuracy of each run{epoch and ", "}{epoch}, by group'
  for row, mean, low, high in zip(summary.to_dict('records'), *_primary(summary), strict=True):
    yield f'{row["group"]}: mean {_percent(mean)}{_between(low, high)}, {row["runs"]} runs'


def _paired_seeds(pairs, seeds):
  yield 'Line plot that joins runs of two cells by their seed, and dot plot of the differences'
  for row in pairs.to_dict('records'):
    x, y = (seeds.loc[seeds['pair'] == row['pair'], side] for side in 'xy')
    a, b = (results.cell_name(row[side]) for side in 'ab')
    where = f'{row["where"]}: ' if row['where'] else ''
    yield (
      f'{where}{b} is ahead of {a} in {(y > x).sum()} of {len(x)} seeds; their means differ by '
      f'{100 * (y - x).mean():+z.1f} points, {_percent(y.mean())} against {_percent(x.mean())}'
    )


def _frontier(summary):
  epoch = results.epoch_words(summary)
  yield f'Scatter plot of mean test accuracy{epoch and " "}{epoch} against the time of a run'
  for row, mean in zip(summary.to_dict('records'), results.primary(summary, 'mean'), strict=True):
    yield f'{row["group"]}: {_percent(mean)} in {row["seconds"]:,.0f} seconds'


def _learning_curves(metrics):
  word = watched(metrics)
  yield f'Line plots of {word} and train accuracy, and of loss, against epochs'
  for group, last, best in _curves(metrics):
    yield (
      f'{group}: {word} accuracy is highest after epoch {best.name}, '
      f'{_percent(best["validation_accuracy"])}, and ends after epoch {last.name} at '
      f'{_percent(last["validation_accuracy"])}; train accuracy ends at '
      f'{_percent(last["train_accuracy"])}'
    )


def _accuracy_vs_time(metrics):
  word = watched(metrics)
  yield f'Line plot of {word} accuracy against the wall time of the epochs'
  for group, last, best in _curves(metrics):
    yield (
      f'{group}: {word} accuracy is highest after {best["elapsed"]:,.0f} seconds, '
      f'{_percent(best["validation_accuracy"])}, and ends after {last["elapsed"]:,.0f} seconds at '
      f'{_percent(last["validation_accuracy"])}'
    )


def _response(runs):
  yield f'Scatter plots of {watched(runs)} accuracy against each setting that takes many values'
  for name in results.many_valued(runs):
    values = f'{name} from {runs[name].min():g} to {runs[name].max():g}'
    for cell, part in runs.dropna(subset='y').groupby('model.cell', sort=False):
      best = part.loc[part['y'].idxmax()]
      yield (
        f'{values}: {results.cell_name(cell)} is best at {best[name]:g}, {_percent(best["y"])}'
      )


def _expected_maximum(trials):
  yield 'Line plot of the validation accuracy to be expected of the best of n trials'
  for group, part in trials.groupby('group', sort=False):
    mean, _, _ = statistics.expected_maximum(part['y'])
    yield f'{group}: {_percent(mean[0])} of one trial, {_percent(mean[-1])} of {len(mean)}'


ALTERNATIVES = {
  'test_accuracy': _test_accuracy,
  'paired_seeds': _paired_seeds,
  'frontier': _frontier,
  'learning_curves': _learning_curves,
  'accuracy_vs_time': _accuracy_vs_time,
  'response': _response,
  'search_response': _response,
  'expected_maximum': _expected_maximum,
}


def _primary(summary):
  return (results.primary(summary, part) for part in ('mean', 'low', 'high'))


def _curves(metrics):
  """(group, its last epoch, its best one) of the means over seeds."""
  metrics = metrics.assign(elapsed=metrics.groupby('id')['seconds'].cumsum())
  for group, rows in metrics.groupby('group', sort=False):
    names = ['validation_accuracy', 'train_accuracy', 'elapsed']
    curve = rows.astype({'epoch': int}).groupby('epoch')[names].mean()
    watched_accuracy = curve['validation_accuracy'].fillna(-np.inf)
    yield group, curve.iloc[-1], curve.loc[watched_accuracy.idxmax()]


def _percent(value):
  return 'unknown' if pd.isna(value) else f'{value:.1%}'


def _between(low, high):
  return '' if pd.isna(low) else f', 95% interval {low:.1%} to {high:.1%}'
