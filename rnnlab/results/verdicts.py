"""The verdicts of runs on the claims that were written down before them."""

import json
import pathlib

import numpy as np
import pandas as pd

from rnnlab.machine.disk import AnyPath
from rnnlab.results import flow, measures, statistics, targets
from rnnlab.results.claims import NEEDS_MARGIN, check_word, checked_claim
from rnnlab.results.groups import side_words
from rnnlab.results.load import (
  COUNTS,
  DATA,
  NO_RESULT,
  TIMES,
  config_of,
  flatten,
  missing_runs,
  settings,
  sweep_of,
)
from rnnlab.runs import configs

TOGETHER = (
  'times of runs that trained together, as a population, and have no spread of their own'
  ' (--executor=process times each run)'
)
MOST_SEEDS = 1_000_000  # more are not named: they only say that the means are equal


def claims(workdir: AnyPath, runs: pd.DataFrame) -> pd.DataFrame:
  """A row per claim recorded in sweep.json before the runs, with the verdict of `runs` on it.

  Columns: claim; verdict: supported, refuted or undecided; sentence, for people, with the numbers;
  effect, the difference and its interval for people, '' if there is none; a and b, in words;
  metric, says, margin, target; difference, b's mean minus a's, and its 95% Welch interval, low to
  high; p; p_holm, adjusted for all claims; n_a and n_b, numbers of seeds; command, '' if not given.

  A claim compares the values themselves, whether higher or lower is better. 'b > a' and 'b < a'
  are Welch's test against 0. 'b >= a' is non-inferiority in a metric of which higher is better:
  Welch's test against -margin; 'b <= a' is the same where lower is better, against margin. 'b = a'
  is equivalence: TOST if the difference is within the margin, else Welch's test against the nearer
  end of the margin. A claim is decided if p_holm is below 5%: supported or refuted, depending on
  the side on which the difference lies. Numbers of parameters need no test. A claim is undecided
  while any of its runs has yet to be done, as looking early would count as another try; if one
  side mixes runs of several settings; if a run never reached the target; and if `check_claims`
  refuses it.
  """
  workdir = pathlib.Path(workdir)
  recorded = sweep_of(workdir).get('claims') or []
  recorded = recorded if isinstance(recorded, list) else [recorded]
  configs = flatten(config_of(workdir / run) for run in runs['id'])
  configs = configs[[name for name in configs if name not in runs]].set_index(runs.index)
  every = pd.concat([runs, configs, flow.reach_of(workdir, runs)], axis=1)
  missing = {run: error for run, error, _ in missing_runs(workdir, set(runs['id']))}
  undone = [
    run | {'failed': missing[run['id']] != NO_RESULT}
    for run in sweep_of(workdir)['runs']
    if run['id'] in missing and run.get('stage') != 'search'
  ]
  rows = [_tested(claim, every, undone, workdir) for claim in recorded]
  # Claims that cannot be tested yet count in the family, so that testing them overturns no verdict.
  adjusted = statistics.holm([1.0 if np.isnan(row['p']) else row['p'] for row in rows])
  for row, p_holm in zip(rows, adjusted, strict=True):
    row['p_holm'] = np.nan if np.isnan(row['p']) else p_holm
    if row['p_holm'] < 0.05:
      row['verdict'] = 'supported' if _is_so(row) else 'refuted'
    row['sentence'] = _sentence(row, len(rows))
    row['effect'] = '' if row['why'] else _effect(row)
  columns = 'claim verdict sentence effect a b metric says margin target'
  columns += ' difference low high p p_holm'
  return pd.DataFrame(rows, columns=[*columns.split(), 'n_a', 'n_b', 'command'])


def _tested(claim, every, undone, workdir):
  """`_test`, or, if a claim cannot be tested as it stands, an undecided row that says why."""
  try:
    columns = (measures.columns_of(every) or [*every]) + COUNTS + TIMES + flow.REACH
    columns += targets.TO_TARGET
    checked_claim('claim 1', claim, lambda _, value: configs.plain(value), columns)
    return _test(claim, every, undone, workdir)
  except ValueError as error:
    words = str(claim.get('claim', '') if isinstance(claim, dict) else claim) or 'A claim'
    why = str(error).removeprefix('claim 1: ').removeprefix(f'claim 1, {words!r}: ')
    row = {'claim': words, 'verdict': 'undecided', 'why': f'it cannot be tested: {why}'}
    numbers = ('margin', 'target', 'difference', 'low', 'high', 'p', 'seeds_needed')
    row |= dict.fromkeys(('a', 'b', 'metric', 'says', 'command'), '') | dict.fromkeys(
      numbers, np.nan
    )
    return row | {'n_a': 0, 'n_b': 0, 'failed': 0, 'metrics': ()}


def _test(claim, every, undone, workdir):
  """A row of `claims`, before p is adjusted for the other claims.

  every: the runs with their whole configs. undone: the sweep's runs without a result, as in
  sweep.json, and whether they have failed.
  """
  for field in {**claim['a'], **claim['b']}:
    check_word(f'claim {claim["claim"]!r}', 'field', field, [*every])
  metric, margin, target = claim['metric'], claim.get('margin', np.nan), claim.get('target', np.nan)
  sides = [every[_picked(every, claim[side])] for side in 'ab']
  if metric in targets.TO_TARGET:
    sides = [side.join(targets.to_target(workdir, side, target)) for side in sides]
  picked, sides = sides, [side.dropna(subset=metric) for side in sides]
  x, y = (side[metric].to_numpy(float) for side in sides)
  metrics = measures.metrics_of(sides[0] if len(sides[0]) else every)
  row = {name: claim[name] for name in ('claim', 'metric', 'says')} | {
    'command': claim.get('command', ''),
    **_sides_in_words(claim),
    **{'verdict': 'undecided', 'margin': margin, 'target': target, 'n_a': len(x), 'n_b': len(y)},
    'metrics': metrics,
    **dict.fromkeys(('difference', 'low', 'high', 'p', 'seeds_needed'), np.nan),
    'failed': sum(run['failed'] for run in undone if _either(claim, run['overrides'])),
  }
  why = _no_target(row, picked) if metric in targets.TO_TARGET else ''
  row['why'] = why or _why_not(claim, row, sides, undone)
  if row['why']:
    return row
  if metric in COUNTS:
    difference = y.mean() - x.mean()
    return row | {'difference': difference, 'low': difference, 'high': difference, 'p': 0.0}
  found, distance = _found(claim['says'], x, y, margin)
  if np.isnan(found.p):
    row['why'] = 'it takes at least two seeds on each side, and some spread'
    if metric in TIMES and min(len(x), len(y)) > 1:
      row['why'] = f'{y.mean():.3g} s and {x.mean():.3g} s are {TOGETHER}'
  needed = statistics.seeds_needed(x, y, distance)
  return row | dict(
    zip(('difference', 'low', 'high', 'p'), found, strict=True), seeds_needed=needed
  )


def _sides_in_words(claim):
  """Both sides of a claim for people, without the task and the data that they share."""
  shared = {
    name
    for name, value in claim['a'].items()
    if name.startswith(('task.', 'data.')) and claim['b'].get(name) == value
  }
  return {
    side: side_words({n: v for n, v in claim[side].items() if n not in shared}) for side in 'ab'
  }


def _found(says, x, y, margin):
  """The Estimate for what a claim says, and the distance that its test had to tell from 0."""
  found = statistics.welch(x, y)
  if says == 'b >= a':
    return statistics.noninferiority(x, y, margin), found.value + margin
  if says == 'b <= a':
    return statistics.noninferiority(x, y, -margin), found.value - margin
  if says != 'b = a':
    return found, found.value
  if abs(found.value) < margin:
    return statistics.equivalence(x, y, margin), margin
  return statistics.welch(x, y, np.copysign(margin, found.value)), margin


def _why_not(claim, row, sides, undone):
  """Why a claim can't be tested, or ''. row: its row so far. sides: the runs of a, and of b."""
  waiting = sum(not run['failed'] and _either(claim, run['overrides']) for run in undone)
  if waiting:
    return f'{waiting} of its runs {"is" if waiting == 1 else "are"} not done yet'
  for side, runs in zip('ab', sides, strict=True):
    words = row[side]
    if runs.empty:
      return f'no run of {words} has a {_metric_words(row)}'
    mixed = [name for name in DATA + settings(runs) if runs[name].nunique(dropna=False) > 1]
    if mixed:
      return f'runs of {words} differ in {" and ".join(mixed)}, which the claim does not name'
  if set(sides[0]['id']) & set(sides[1]['id']):
    return 'both sides are the same runs'
  if set(sides[0]['title']) != set(sides[1]['title']):
    return 'its sides are on different data'
  return ''


def _no_target(row, sides):
  """Why the time that runs took to reach a target cannot be compared, or ''."""
  for side, runs in zip('ab', sides, strict=True):
    words, never = row[side], int(runs[row['metric']].isna().sum())
    if never:
      return f'{never} of {len(runs)} runs of {words} never reached the target'
    of_time = row['metric'] == 'seconds_to_target'
    if of_time and len(runs) > 1 and runs['seconds_per_epoch'].nunique() == 1:
      return f'the times of {words} are {TOGETHER}'
  return ''


def _picked(runs, overrides):
  """Which of `runs` have the values of `overrides`."""
  kept = {name: json.dumps(v) if isinstance(v, list) else v for name, v in overrides.items()}
  return np.all([[v == value for v in runs[name]] for name, value in kept.items()], axis=0)


def _either(claim, overrides):
  """Whether a run with these overrides may belong to a claim's a or b."""
  return any(
    all(overrides.get(name, value) == value for name, value in claim[side].items()) for side in 'ab'
  )


def _is_so(row):
  """Whether what a claim says is true of the difference that was found."""
  difference, margin = row['difference'], row['margin']
  return {
    'b > a': difference > 0,
    'b < a': difference < 0,
    'b = a': abs(difference) < margin,
    'b >= a': difference > -margin,
    'b <= a': difference < margin,
  }[row['says']]


def _sentence(row, family):
  """A claim's verdict for people, with the numbers."""
  said = f'{row["claim"]}: {row["verdict"]}'
  failed = f'; {row["failed"]} failed and took no part' if row['failed'] else ''
  if row['why']:
    return f'{said}, as {row["why"]}{failed}.'
  column, number = row['metric'], _number(row)
  words = f'{_metric_words(row)} is {number("difference")} {_unit(row)}'.rstrip()
  said += f', {row["b"]} - {row["a"]} in {words}'
  words = []
  if column not in COUNTS:
    words.append(f'95% interval [{number("low")}, {number("high")}]')
  if row['says'] in NEEDS_MARGIN:
    words.append(f'margin {number("margin", sign=False)}')
  if column not in COUNTS:
    words.append(f'p {_p_words(row["p"])}')
    words += [f'adjusted for {family} claims {_p_words(row["p_holm"])}'] * (family > 1)
    words.append(f'{row["n_b"]} and {row["n_a"]} seeds')
  if row['verdict'] == 'undecided' and row['seeds_needed'] <= MOST_SEEDS:
    what = 'the margin' if row['says'] == 'b = a' else 'a difference this large'
    words.append(f'with this spread, {row["seeds_needed"]:,.0f} seeds a side would detect {what}')
  return said + f' ({"; ".join(words)})' * bool(words) + f'{failed}.'


def _effect(row):
  """The difference that was found for a claim, with its interval, for people."""
  number = _number(row)
  ends = '' if row['metric'] in COUNTS else f' [{number("low")}, {number("high")}]'
  return f'{number("difference")}{ends} {_unit(row)}'.rstrip()


def _unit(row):
  """The unit of a claim's difference, for people."""
  column, metric = row['metric'], measures.of_column(row['metrics'], row['metric'])
  if column in TIMES or column in targets.TO_TARGET:
    return column.split('_')[0]
  return metric.difference_unit if metric else ''


def _number(row):
  """A function that writes a number of a claim's row by its name, a digit longer than in tables."""
  metric = measures.of_column(row['metrics'], row['metric'])
  form = ',.0f' if row['metric'] in COUNTS else '.4g'

  def write(name, sign=True):
    if metric is None:
      return format(row[name], '+' * sign + form)
    return metric.change(row[name], 1) if sign else metric.number(row[name], 1)

  return write


def _metric_words(row):
  """The metric of a claim's row for people."""
  column, metrics = row['metric'], row['metrics']
  if column in targets.TO_TARGET:
    what, primary = column.split('_')[0], metrics[0]
    return f'{what} to a validation {primary.words} of {primary.shown(row["target"])}'
  if metrics and column in measures.test_columns(metrics):
    return f'test {metrics[0].words} {measures.epoch_in_words(metrics, column)}'
  return column.replace('_', ' ')


def _p_words(p):
  return '< 0.0001' if p < 1e-4 else f'= {p:.2g}'
