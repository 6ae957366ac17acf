"""What a report says, whether it is rendered as a page, Markdown, LaTeX or a terminal's table."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pandas as pd

from rnnlab import results, tasks
from rnnlab.reports.hardest import Hard
from rnnlab.results import measures, statistics
from rnnlab.tasks.base import Metric

TUTORIAL = (
  'Tutorial protocol: the test split serves as validation and is seen at every epoch; only the '
  'last epoch is reported.'
)
HELD_OUT = (
  'Validation is a split of its own; nothing was chosen by the test split. The primary metric '
  'is test {metric} at the epoch of best validation {metric}; the same after the last epoch is '
  'secondary.'
)
NOTES = (
  '± is the standard deviation over seeds (n - 1). Intervals are 95% t intervals of a mean over '
  'seeds, and Welch intervals for differences: they cover the variation between seeds, not the '
  'choice of test examples; intervals over seeds and examples cover both, by a two-way bootstrap. '
  'Headlines and p-values are of the primary metric alone, which the protocol fixes before any '
  'run. '
  'P(A is better) is the share of pairs of seeds in which A is ahead; ties count half. p is from '
  "Welch's test, and Holm's p is corrected for all comparisons of the same setting, such as all "
  'pairs of cells. Seeds needed: how many seeds each group would need to detect a difference this '
  'large with a power of 80%. Seconds an epoch are the median over the epochs after the first, '
  'which compiles (of a run of one epoch, the time of that one); for runs that trained together as '
  'a population, the share of each.'
)
STRETCHES = (
  ' A test split that is one text has no independent examples: in the intervals over seeds and'
  f' examples, {statistics.BLOCKS} stretches of equal length take their place.'
)
ONCE = (
  ' Comparisons by what is known once, at the end of a run, are not corrected for; their p over '
  'examples is of paired bootstrap resampling (Koehn 2004), of these runs on other test sets.'
)
SEARCH = (
  'Each arm was given equally many trials, the same ones unless Optuna chose them; the best '
  'setting by validation {metric} was run again with fresh seeds. No trial takes part in the '
  'comparisons above, where settings that were searched are called tuned. Values here are the best '
  'over the epochs that a trial had.'
)
HOLDS = (
  'For each claim, as it was written down, what was found: the difference that it is about with '
  'its 95% interval, each on its own scale with 0 in the middle; the margin of a claim is shaded '
  'on both sides of 0. Nothing is drawn of what could not be tested. The verdict follows from p, '
  'corrected for all claims.'
)
HARDEST = (
  'For each setting, the test examples that are among the hundred of highest loss for the most of '
  'its seeds; for equal numbers of seeds, the highest mean loss comes first.'
)
VERDICTS = 'supported', 'refuted', 'undecided'
MAX_SAID = 12  # a log lists no comparisons if there are more than this
MAX_LISTED = 120  # nor do Markdown and LaTeX if there are more than this


class Drawing(NamedTuple):
  """A figure: how to read it, a text alternative, and its picture for the page.

  searched: whether it shows the trials of a search rather than the runs that are compared.
  data: the data of the runs that it shows, a line each, where the page is to name them.
  """

  name: str
  caption: str
  alternative: str
  svg: str
  searched: bool = False
  data: tuple[str, ...] = ()


class Texts(NamedTuple):
  """Texts of some groups: a title, the data they belong to, a caption, and pairs (group, text)."""

  title: str
  data: str
  caption: str
  groups: list[tuple[str, str]]


class Block(NamedTuple):
  """The runs of one task, one set of data and one protocol, with their tables.

  pairs: rows of results.compare that compare two cells; others: two values of another setting;
  once: both, by the metrics that are known once.
  references: published figures to compare them with, or ''.
  """

  caption: str
  summary: pd.DataFrame
  pairs: pd.DataFrame
  others: pd.DataFrame
  once: pd.DataFrame
  runs: pd.DataFrame
  references: str

  @property
  def title(self) -> str:
    """The data that the runs of the block used."""
    return self.caption.splitlines()[0]

  @property
  def metrics(self) -> tuple[Metric, ...]:
    """The metrics of its task."""
    return measures.metrics_of(self.runs)


class Report(NamedTuple):
  """All that a report says, however it is rendered.

  summary, comparisons: the rows of summary.csv and comparisons.csv. claims: from results.claims.
  trials: those of the searches, as `search.trials_of` gives them, a frame for each task. drawings:
  the figures. texts: what models wrote. hardest: (data, group, examples as hardest.of_group gives
  them) for each setting that has some. missing: as results.missing_runs gives it. made_by: what
  made the numbers, as name -> lines. holds: the figure of the claims, if there are several.
  """

  title: str
  finding: str
  summary: pd.DataFrame
  comparisons: pd.DataFrame
  claims: pd.DataFrame
  blocks: list[Block]
  trials: list[pd.DataFrame]
  drawings: list[Drawing]
  texts: list[Texts]
  hardest: list[tuple[str, str, list[Hard]]]
  missing: list[tuple[str, str, str]]
  made_by: dict[str, list[str]]
  holds: Drawing | None = None

  def __rich__(self):
    from rnnlab.reports import terminal

    return terminal.table(self.blocks, self.claims)


def notes(told: Report) -> str:
  """How to read the tables of a report."""
  of_stream = any(
    block.metrics[0].link == 'exp' and _counted(block.runs) == 'tokens' for block in told.blocks
  )
  return NOTES + STRETCHES * of_stream + ONCE * any(len(block.once) for block in told.blocks)


def blocks_of(
  runs: pd.DataFrame, summary: pd.DataFrame, pairs: pd.DataFrame, references: list[Any]
) -> list[Block]:
  """A Block for each task, set of data and protocol among `runs`.

  summary, pairs: what results.summarise and results.compare give for `runs`. references: those in
  sweep.json, as results.references_of gives them.
  """
  blocks = []
  for key, part in runs.groupby(results.DATA, sort=False):
    once = pairs['metric'].isin(measures.once_columns(measures.metrics_of(part)))
    first = pairs[~once]
    summed, *compared = (
      frame[frame[results.DATA].eq(pd.Series(key, results.DATA)).all(axis=1)]
      for frame in (summary, first[of_cells(first)], first[~of_cells(first)], pairs[once])
    )
    paired, others, once = (frame.assign(where=where(frame)) for frame in compared)
    said = [words for reference in references if (words := results.reference_for(reference, part))]
    blocks.append(Block(_caption(part), summed, paired, others, once, part, ' '.join(said)))
  return blocks


def _caption(runs):
  """Which data the runs of a block used, and by which protocol they are judged; three lines."""
  tutorial, title = runs['validation_is_test'].iloc[0], runs['title'].iloc[0]
  metric = measures.metrics_of(runs)[0]
  caption = f'Data: {title}'
  sizes = runs[[f'{split}_examples' for split in ('train', 'validation', 'test')]]
  if len(sizes.drop_duplicates()) == 1:
    train, validation, test = sizes.iloc[0]
    middle = '' if tutorial else f', {validation:,} validation'
    caption += f'\n{train:,} train{middle} and {test:,} test {_counted(runs)}'
  protocol = TUTORIAL if tutorial else HELD_OUT.format(metric=metric.words)
  if metric.better == 'lower':
    protocol += f' Lower {metric.words} is better.'
  return f'{caption}\n{protocol}'


def _counted(runs):
  """The unit in which the size of a split is counted."""
  try:
    return 'tokens' if tasks.find(runs['task'].iloc[0]).batches == 'windows' else 'examples'
  except ValueError:  # a task of another program
    return 'examples'


def of_cells(pairs: pd.DataFrame) -> pd.Series:
  """Which rows of a comparison compare two cells."""
  return pairs['setting'] == 'model.cell'


def where(pairs: pd.DataFrame) -> pd.Series:
  """The settings that each pair shares, in words."""
  return results.label(pairs).str.strip()


def better(row: dict[str, Any], metric: Metric) -> tuple[float, float, float]:
  """P(b is better) in a row of a comparison, and its 95% interval."""
  value, low, high = (row[f'p_greater{end}'] for end in ('', '_low', '_high'))
  return (value, low, high) if metric.sign > 0 else (1 - value, 1 - high, 1 - low)


def sentences(block: Block) -> Iterator[str]:
  """Sentences on a block's pairs of cells, then the published figures to compare them with."""
  pairs, metrics = block.pairs, measures.metrics_of(block.runs)
  if len(pairs) > MAX_SAID:
    yield f'{len(pairs)} comparisons of cells: see report.html.'
    pairs = pairs[:0]
  for row in pairs.sort_values('primary', ascending=False, kind='stable').to_dict('records'):
    a, b = results.cell_name(row['a']), results.cell_name(row['b'])
    chance, _, _ = better(row, metrics[0])
    chance = '' if pd.isna(row['low']) else f', P({b} is better) = {chance:.2f}'
    shared = ', '.join(filter(None, ['' if row['primary'] else 'secondary', row['where']]))
    yield (
      f'{shared}{": " if shared else ""}{b} - {a}, test {metrics[0].words} '
      f'{measures.epoch_in_words(metrics, row["metric"])}: {_difference(row, metrics[0])}{chance}'
      f' ({row["n_b"]} and {row["n_a"]} seeds)'
    )
  if block.references:
    yield block.references


def finding(summary: pd.DataFrame, pairs: pd.DataFrame, claims: pd.DataFrame, after: int) -> str:
  """The headline: how many claims held, or else what the primary metric of each task says.

  after: how many runs were done when the claims were written down.
  """
  if len(claims):
    done = f'after {after} run{"s were" if after > 1 else " was"} done'
    late = f' {"They were" if len(claims) > 1 else "It was"} written down {done}.' * bool(after)
    if len(claims) == 1:
      return claims.iloc[0]['sentence'] + late
    counts = claims['verdict'].value_counts()
    words = ', '.join(f'{counts[v]} {v}' for v in VERDICTS if v in counts)
    return f'{len(claims)} claims: {words}.{late}'
  if summary.empty:
    return 'No run of the comparison is finished.'
  parts = list(by_task(summary, pairs))
  found = [_found(part, paired) for _, part, paired in parts]
  if len(found) == 1:
    return found[0]
  tasks_of = [task for (task, _), *_ in parts]
  names = [
    task if tasks_of.count(task) == 1 else ', '.join(part['title'].unique())
    for task, (_, part, _) in zip(tasks_of, parts, strict=True)
  ]
  return ' '.join(f'{name}: {words}' for name, words in zip(names, found, strict=True))


def by_task(frame: pd.DataFrame, *others: pd.DataFrame) -> Iterator[tuple]:
  """For each task and its metrics: (these, metrics as JSON; the rows of `frame` and of each other).

  A task may have several parts, as the metrics of generated data are those of their problem.
  """
  for key, part in frame.groupby(['task', 'metrics'], sort=False):
    task, metrics = key
    yield key, part, *(x[(x['task'] == task) & (x['metrics'] == metrics)] for x in others)


def _found(summary, pairs):
  """What the primary metric says of one task."""
  metric = measures.metrics_of(summary)[0]
  measured = f'test {metric.words} {measures.epoch_words(summary)}'.strip()
  pairs = pairs[of_cells(pairs) & pairs['primary']]
  if len(pairs) == 1:
    return _pair_found(pairs.iloc[0], metric, measured)
  if len(pairs):
    untested = int(pairs['p'].isna().sum())
    if untested == len(pairs):
      return f'{untested} comparisons of {measured}: too few seeds, or no spread, to test any.'
    ahead = list(filter(None, (_ahead(row, metric) for row in pairs.to_dict('records'))))
    counts = [f'{cell} ahead in {ahead.count(cell)}' for cell in dict.fromkeys(ahead)]
    counts.append(f'{len(pairs) - len(ahead) - untested} not told apart')
    counts += [f'{untested} not tested'] * bool(untested)
    return (
      f'{len(pairs)} comparisons of {measured}: {", ".join(counts)}, with p corrected for all of'
      ' them.'
    )
  means = measures.primary(summary, 'mean').dropna()
  if means.empty:
    return f'No run has a finite {measured}.'
  goodness = metric.sign * means
  worst, best = goodness.idxmin(), goodness.idxmax()
  said = f'{summary["group"][worst]}: {metric.shown(means[worst])} {measured}'
  if len(means) == 1:
    return f'{said}.'
  way = 'up' if metric.sign > 0 else 'down'
  said += f', {way} to {metric.shown(means[best])} for {summary["group"][best]}'
  return f'{said}, the best of {len(means)} settings by that.'


def _pair_found(row, metric, measured):
  """What a comparison of two cells says."""
  a, b = results.cell_name(row['a']), results.cell_name(row['b'])
  ahead = _ahead(row, metric)
  if ahead:
    said = f'{ahead} is ahead of {a if ahead == b else b} in {measured}'
  elif pd.notna(row['low']):
    said = f'{b} and {a} are not told apart by {measured}'
    said += ' once p is corrected for all comparisons of cells' * bool(row['p'] < 0.05)
  elif min(row['n_a'], row['n_b']) < 2:
    said = f'Too few seeds to tell {b} from {a} by {measured}'
  else:
    said = f'{b} cannot be tested against {a} by {measured}, which no seed changes'
  return f'{said}: {b} - {a} is {_difference(row, metric)}.'


def _ahead(row, metric):
  """The cell that is ahead by a comparison's test, corrected for the others; '' for none."""
  if not row['p_holm'] < 0.05:
    return ''
  return results.cell_name(row['b'] if metric.sign * row['difference'] > 0 else row['a'])


def _difference(row, metric):
  interval = metric.interval(row['low'], row['high'])
  return f'{metric.change_shown(row["difference"])}, ' + (
    'no interval' if interval == '-' else f'95% interval {interval}'
  )


def search_words(trials: pd.DataFrame) -> str:
  """How a search by one metric was made. trials: those judged by that metric."""
  return SEARCH.format(metric=measures.metrics_of(trials)[0].words)
