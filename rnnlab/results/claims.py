"""Claims that an experiment writes down before its runs: what they must be."""

import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from rnnlab import tasks
from rnnlab.console.words import near
from rnnlab.results import flow, measures, targets
from rnnlab.results.load import COUNTS, TIMES
from rnnlab.runs import configs

SAYS = ('b > a', 'b < a', 'b = a', 'b >= a', 'b <= a')
NEEDS_MARGIN = ('b = a', 'b >= a', 'b <= a')
NEEDED, OPTIONAL = ('claim', 'a', 'b', 'metric', 'says'), ('margin', 'target', 'command')


def check_claims(
  claims: Any,
  config: ConfigDict | None = None,
  metrics: Sequence[measures.Metric] = measures.OLD_METRICS,
) -> list[dict[str, Any]]:
  """The claims in plain Python.

  A claim is a dict: claim, its wording; a and b, overrides that pick the runs of either side;
  metric, a numeric column of `load_runs`, `flow.reach_of` or `targets.to_target`; says, one of
  SAYS; margin, if says is in NEEDS_MARGIN, on the scale of result.json, where 0.01 is a point of
  what people read in %; target, if the metric is one of `targets.to_target`; and, optionally,
  command, which repeats these runs and is shown in the report.

  Raises ValueError, for people, if a claim cannot be tested. With `config`, that of the runs to be
  done, so does whatever would have no effect: a margin where none is needed, or of a whole share,
  fields that no config has, values that no run may have. If a claim is about runs of another task
  than config's, its sides have its 'task.name'. metrics: those of config's task.
  """
  if not isinstance(claims, list | tuple):
    raise ValueError(f'claims must be a list of claims, not {configs.words(claims)}')
  checked = []
  for number, claim in enumerate(claims, 1):
    of_claim, take = metrics, lambda _, value: configs.plain(value)
    if config:
      task = _task_of(claim, config.task.name)
      take = functools.partial(configs.take, task=task)
      of_claim = metrics if task == config.task.name else tasks.find(task).metrics
    columns = measures.columns(of_claim) + COUNTS + TIMES + flow.REACH
    columns += targets.TO_TARGET * (not of_claim[0].once)  # which needs its value at each epoch
    checked.append(checked_claim(f'claim {number}', claim, take, columns))
    if config:
      _check_margin(f'claim {number}, {configs.words(claim["claim"])}', checked[-1], of_claim)
  return checked


def _check_margin(where, claim, metrics):
  """Raises ValueError for a margin where none is needed, and for one of a whole share."""
  if 'margin' not in claim:
    return
  if claim['says'] not in NEEDS_MARGIN:
    raise ValueError(f'{where}: {claim["says"]!r} is tested without a margin: leave it out')
  metric, margin = measures.of_column(metrics, claim['metric']), claim['margin']
  if metric and metric.unit == '%' and margin >= 1:
    raise ValueError(
      f'{where}: a margin of {margin:g} is {metric.change_shown(margin)}, and 0.01 is one point:'
      f' should it be {margin / 100:g}?'
    )


def _task_of(claim, task):
  """The task of the runs that a claim is about, if it names a known one; else `task`."""
  side = claim.get('a') if isinstance(claim, dict) else None
  name = side.get('task.name') if isinstance(side, dict) else None
  return name if name in tasks.names() else task


def checked_claim(
  where: str, claim: Any, take: Callable[[str, Any], Any], columns: Collection[str]
) -> dict[str, Any]:
  """A claim in plain Python; raises ValueError, for people, if it cannot be tested.

  where: which claim it is, for errors.
  take: makes an override's value, given with its field, plain Python, or raises ValueError.
  columns: those that may be its metric.
  """
  if not isinstance(claim, dict):
    raise ValueError(f'{where}: must be a dict, not {configs.words(claim)}')
  checked: dict[str, Any] = {}
  for name, value in claim.items():
    check_word(where, 'entry', name, NEEDED + OPTIONAL)
    if name in ('a', 'b'):
      if not isinstance(value, dict):
        raise ValueError(f"{where}: {name} must be overrides, such as {{'model.cell': 'gru'}}")
      checked[name] = _side(where, name, value, take)
      continue
    try:
      checked[name] = configs.plain(value)
    except ValueError as error:
      raise ValueError(f'{where}: {name}={error}') from None
    if name not in ('margin', 'target') and not isinstance(checked[name], str):
      raise ValueError(f'{where}: {name} must be a text, not {configs.words(value)}')
  for name in NEEDED:
    if not checked.get(name):
      raise ValueError(f'{where}: has no {name!r}; a claim has {", ".join(NEEDED)}')
  where += f', {configs.words(checked["claim"])}'
  check_word(where, 'metric', checked['metric'], columns)
  check_word(where, 'says', checked['says'], SAYS)
  if checked['a'] == checked['b']:
    raise ValueError(f'{where}: a and b pick the same runs')
  margin: Any = checked.get('margin')
  is_margin = type(margin) in (int, float) and 0 < margin < np.inf
  if checked['says'] in NEEDS_MARGIN and not is_margin:
    raise ValueError(
      f'{where}: {checked["says"]!r} needs a margin above 0, on the scale of result.json (0.01 is'
      f' a point of a share), not {configs.words(margin)}'
    )
  target: Any = checked.get('target')
  to_target = checked['metric'] in targets.TO_TARGET
  if to_target and not (type(target) in (int, float) and np.isfinite(target)):
    raise ValueError(
      f'{where}: {checked["metric"]} needs a target, the value that the primary metric is to reach'
      f' on validation, not {configs.words(target)}'
    )
  if 'target' in checked and not to_target:
    raise ValueError(f'{where}: only {" and ".join(targets.TO_TARGET)} have a target: leave it out')
  return checked


def _side(where, side, overrides, take):
  """Overrides of a claim as JSON holds them, with lists for tuples."""
  checked = {}
  for name, value in overrides.items():
    try:
      kept = take(name, value)
    except ValueError as error:
      raise ValueError(f'{where}: {side}: {error}') from None
    checked[name] = list(kept) if isinstance(kept, tuple) else kept
  return checked


def check_word(where: str, what: str, word: Any, words: Collection[str]) -> None:
  """Raises ValueError, which names near ones, for a word that is not among `words`."""
  if word not in words:
    hint = near(word, words) or f'; there is {", ".join(sorted(words))}'
    raise ValueError(f'{where}: there is no {what} {configs.words(word)}{hint}')
