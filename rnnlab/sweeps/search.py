"""A search's decisions, given its trials' scores: which to try, which to continue, which is best.

These are pure functions, without files. A trial is known by a function `score(spec)` that is passed
in: how good the trial's best epoch up to `spec.until` is by validation, higher being better; None
if it has not come that far, -inf if the trial itself failed, for example by diverging. The same
scores give the same decisions, so an interrupted search continues as if nothing had happened.
"""

import importlib.util
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import qmc

from rnnlab import cells
from rnnlab.runs import configs
from rnnlab.runs.configs import RunSpec

METHODS = ('random', 'sobol', 'halton', 'optuna')
RANGES = ('log', 'uniform', 'choice')
MOST = 10_000  # entries of a list, and trials of an arm
BATCH = 8  # trials that Optuna is asked for at a time; the first batch is random


class Search(NamedTuple):
  """What `add.search` asks for.

  arms: the overrides to compare, each given equally many trials. ranges: for each field ('log',
  low, high) or ('uniform', low, high), ends included, or ('choice', value, ...); a field of whole
  numbers gets whole values. trials: how many per arm; if all ranges are choices, equal trials count
  as one. seeds: for the runs of each arm's best setting. method: one of METHODS; all but 'optuna'
  draw the same settings for each arm. seed: of the draw, and of each trial's run. halving: epochs
  after which only the better half of an arm's trials goes on (of each batch of 8 with 'optuna').
  """

  arms: Sequence[dict[str, Any]]
  ranges: dict[str, tuple]
  trials: int
  seeds: Sequence[int]
  method: str = 'sobol'
  seed: int = 0
  halving: Sequence[int] = ()


class Trial(NamedTuple):
  """A trial that goes as far as spec.until. state: '' (not known yet), 'left', 'failed', 'done'."""

  spec: RunSpec
  score: float | None
  state: str = ''


class Arm(NamedTuple):
  """What is known of an arm: its trials by id, the best one, and its runs with fresh seeds."""

  overrides: dict[str, Any]
  trials: dict[str, Trial]
  best: Trial | None
  runs: list[RunSpec]


def check(search: Search, pinned: Sequence[str]) -> Search:
  """The search in plain Python, with its own lists and numbers.

  Raises ValueError for a search that its arguments alone show to be invalid.
  """
  search = _plain(search)
  words = ', '.join
  _need(
    search.method in METHODS,
    f'method={search.method!r}{cells.near(search.method, METHODS)}: must be one of'
    f' {words(METHODS)}',
  )
  _need(
    search.method != 'optuna' or importlib.util.find_spec('optuna'),
    "method='optuna' needs Optuna: pip install optuna, or use 'sobol'",
  )
  _need(
    _is_whole(search.trials, 1) and search.trials <= MOST,
    f'trials={configs.words(search.trials)}: must be a whole number from 1 to {MOST:,}',
  )
  for name, given in search.ranges.items():
    _check_range(name, given)
  for arm in search.arms:
    twice = [name for name in arm if name in search.ranges]
    names = words(map(str, twice))
    _need(not twice, f'{names}: set both by an arm and in the ranges; remove one of them')
  _check_seeds(search, pinned)
  _need(
    all(_is_whole(rung, 1) for rung in search.halving)
    and search.halving == sorted(set(search.halving)),
    f'halving={configs.words(tuple(search.halving))}: must be ascending epochs, from 1 on',
  )
  return search


def _need(right, words):
  if not right:
    raise ValueError(f"the sweep's search: {words}")


def _is_whole(value, least):
  return type(value) is int and least <= value < 2**32


def _plain(search):
  """The search with its entries as lists, dicts and values in plain Python."""

  def listed(name):
    given = getattr(search, name)
    _need(
      isinstance(given, Iterable) and not isinstance(given, str | dict),
      f'{name}={configs.words(given)}: must be a list',
    )
    values = list(itertools.islice(given, MOST + 1))
    _need(len(values) <= MOST, f'{name} has more than {MOST:,} entries, or no end')
    return values

  def plain(name, value):
    try:
      return configs.plain(value)
    except ValueError as error:
      raise ValueError(f"the sweep's search: {name}={error}") from None

  arms, seeds, halving = listed('arms'), listed('seeds'), listed('halving')
  _need(
    arms and all(isinstance(arm, dict) for arm in arms),
    "no arms; give the overrides to compare: [{'model.cell': 'lstm'}, {'model.cell': 'gru'}]",
  )
  _need(
    search.ranges and isinstance(search.ranges, dict),
    "no ranges; for example {'optim.learning_rate': ('log', 1e-4, 1e-2)}",
  )
  return search._replace(
    arms=[dict(arm) for arm in arms],
    ranges={name: plain(name, given) for name, given in search.ranges.items()},
    seeds=[plain('seeds', seed) for seed in seeds],
    halving=[plain('halving', rung) for rung in halving],
    **{name: plain(name, getattr(search, name)) for name in ('trials', 'method', 'seed')},
  )


def _check_range(name, given):
  _need(isinstance(name, str), f'{name!r} is not the name of a field')
  shown = f'{name}: {configs.words(given)}'
  _need(
    isinstance(given, tuple) and given and given[0] in RANGES,
    f'{shown} must be a range: (log, low, high), (uniform, low, high) or (choice, value, ...)',
  )
  kind, *values = given
  if kind == 'choice':
    _need(values, f'{shown} has nothing to choose from')
    return
  _need(
    len(values) == 2 and all(type(value) in (int, float) for value in values),
    f'{shown} must have two numbers, low and high',
  )
  _need(
    all(abs(value) < 2**63 for value in values),  # which no NaN is
    f'{shown}: ends must be finite, and below 2**63',
  )
  _need(values[0] < values[1], f'{shown} is empty: low must be below high')
  _need(kind != 'log' or values[0] > 0, f'{shown}: a log range must begin above 0')


def _check_seeds(search, pinned):
  _need(
    not any('seed' in names for names in (search.ranges, *search.arms)),
    'seed cannot be searched: seed= is for the trials, seeds= for the comparison',
  )
  _need(
    'seed' not in pinned,
    '--config.seed cannot be set: the best settings are run again with fresh seeds; leave it out',
  )
  _need(search.seeds, 'seeds is empty; give fresh ones, such as range(100, 105)')
  for seed in (search.seed, *search.seeds):
    configs.take('seed', seed)
  _need(
    search.seed not in search.seeds,
    f"seeds: {search.seed} is the trials' seed; the best settings need fresh ones",
  )


def value(given: tuple, u: float, whole: bool = False) -> Any:
  """The value of a range at `u`, from 0 to 1, to four digits, which keeps ids short."""
  kind, *values = given
  if kind == 'choice':
    return values[min(int(u * len(values)), len(values) - 1)]
  low, high = values
  top = high + 1 if whole else high  # so that the highest whole number gets its full share
  x = low * (top / low) ** u if kind == 'log' else low + u * (top - low)
  return min(max(math.floor(x) if whole else float(f'{x:.4g}'), low), high)


def ask(search: Search, told: Sequence[float]) -> np.ndarray:
  """The next points [trials, ranges], from 0 to 1, after those with scores `told`; may be none.

  A shorter list of points is the beginning of a longer one, so trials can be added later.
  """
  if search.method == 'optuna':
    return _ask_optuna(search, told)
  if told:
    return np.empty((0, len(search.ranges)))
  if search.method == 'random':
    return np.random.default_rng(search.seed).random((search.trials, len(search.ranges)))
  if search.method == 'halton':
    return qmc.Halton(len(search.ranges), rng=search.seed).random(search.trials)
  # Sobol points are balanced if their number is a power of 2.
  sobol = qmc.Sobol(len(search.ranges), rng=search.seed)
  return sobol.random_base2(math.ceil(math.log2(search.trials)))[: search.trials]


def _ask_optuna(search, told):
  """`ask` by a seeded TPE, whose whole history is replayed in batches."""
  import optuna
  from optuna.distributions import CategoricalDistribution, FloatDistribution

  optuna.logging.set_verbosity(optuna.logging.WARNING)
  sampler = optuna.samplers.TPESampler(seed=search.seed, n_startup_trials=BATCH, constant_liar=True)
  study = optuna.create_study(direction='maximize', sampler=sampler)
  distributions = {
    name: CategoricalDistribution([(i + 0.5) / (len(given) - 1) for i in range(len(given) - 1)])
    if given[0] == 'choice'
    else FloatDistribution(0.0, 1.0)
    for name, given in search.ranges.items()
  }
  for start in range(0, search.trials, BATCH):
    count = min(BATCH, search.trials - start)
    trials = [study.ask(distributions) for _ in range(count)]
    if start >= len(told):
      return np.array([[trial.params[name] for name in search.ranges] for trial in trials])
    for trial, score in zip(trials, told[start:], strict=False):
      study.tell(trial, score)
  return np.empty((0, len(search.ranges)))


def halve(
  specs: list[RunSpec], rungs: Sequence[int], score: Callable[[RunSpec], float | None]
) -> dict[str, Trial]:
  """How far each trial of a group goes: at each rung the better half, rounded up, goes on.

  Trials that failed are the worst and never go on. Ties are broken by order.
  """
  trials, ahead = {}, specs
  for rung in (*rungs, 0):
    ahead = [spec._replace(until=rung) for spec in ahead]
    now = {spec.id: Trial(spec, score(spec)) for spec in ahead}
    trials |= now
    scores = {run: trial.score for run, trial in now.items() if trial.score is not None}
    if len(scores) < len(now):
      return trials
    alive = [spec for spec in ahead if scores[spec.id] > -math.inf]
    alive.sort(key=lambda spec: -scores[spec.id])
    better = alive[: math.ceil(len(ahead) / 2)] if rung else alive
    states = {spec.id: 'failed' for spec in ahead}
    states |= {spec.id: 'left' for spec in alive}
    states |= {spec.id: '' if rung else 'done' for spec in better}
    trials |= {run: now[run]._replace(state=state) for run, state in states.items()}
    ahead = better
  return trials


def follow(
  search: Search,
  specify: Callable[[dict], RunSpec],
  setting: Callable[[np.ndarray], dict],
  score: Callable[[RunSpec], float | None],
) -> list[Arm]:
  """All that is known of a search for each arm: what is to be run, and what was decided.

  specify: overrides -> a run. setting: a point -> overrides.
  """
  arms = []
  for overrides in search.arms:
    trials, told, best, runs = {}, [], None, []
    while len(points := ask(search, told)):
      asked = [
        specify(overrides | setting(point) | {'seed': search.seed})._replace(stage='search')
        for point in points
      ]
      group = {spec.id: spec for spec in asked if spec.id not in trials}
      trials |= halve(list(group.values()), search.halving, score)
      if not all(trial.state for trial in trials.values()):
        break
      told += [trials[spec.id].score for spec in asked]
    else:
      done = [trial for trial in trials.values() if trial.state == 'done']
      best = max(done, key=lambda trial: trial.score, default=None)
    if best:
      runs = [specify(best.spec.overrides | {'seed': seed}) for seed in search.seeds]
    arms.append(Arm(overrides, trials, best, runs))
  return arms
