"""From a config, its sweep and the results so far to the runs there are and those still to do."""

import collections
import functools
import math
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from rnnlab import tasks
from rnnlab.console import progress
from rnnlab.machine.disk import AnyPath
from rnnlab.runs import configs
from rnnlab.runs import folder as run_files
from rnnlab.runs.configs import RunSpec
from rnnlab.sweeps import search as searching
from rnnlab.sweeps.asking import Request, ask, settled, specify

__all__ = [
  'Plan',
  'Request',
  'ahead',
  'arms',
  'ask',
  'expand',
  'failures',
  'findings',
  'is_done',
  'plan',
  'plan_of',
  'record',
  'settled',
]


class Plan(NamedTuple):
  """What a sweep amounts to, given the results so far.

  runs: all that are known so far, each to go as far as its `until`. todo: those that have not come
  that far; none when the sweep is finished. searches: for sweep.json, what each search was asked
  for and the state of its trials.
  """

  runs: list[RunSpec]
  todo: list[RunSpec]
  searches: list[dict[str, Any]]


def plan(
  config: ConfigDict,
  sweep: Callable | None = None,
  workdir: AnyPath | None = None,
  pinned: tuple[str, ...] = (),
  command: str = '',
) -> Plan:
  """The plan, by `plan_of`, of what `ask` returns. Raises what `ask` raises."""
  return plan_of(ask(config, sweep, pinned, command), workdir)


def plan_of(request: Request, workdir: AnyPath | None = None) -> Plan:
  """The plan of what was asked for, given the results in `workdir` so far.

  A search's trials come first; what follows from them appears once their results are in `workdir`,
  and the same results give the same plan. Runs with equal configs are one run, under the name that
  it already has in `workdir`, or else that of the first.
  """
  config, pinned, command, *_ = request
  known = _known(workdir)

  def named(spec):
    return spec._replace(id=known.setdefault(run_files.canonical(spec.config.to_dict()), spec.id))

  def specified(override):
    return named(specify(config, pinned, command, override))

  specs = [named(spec) for spec in request.runs]
  score = functools.partial(_score, workdir)
  records = []
  for search in request.searches:
    # A cell's option that the config does not set is no integer.
    whole = [type(configs.flat(config).get(name)) is int for name in search.ranges]

    def setting(point, search=search, whole=whole):
      values = map(searching.value, search.ranges.values(), point, whole)
      drawn = zip(search.ranges, values, strict=True)
      return {name: value for name, value in drawn if name not in pinned}

    followed = searching.follow(search, specified, setting, score)
    for arm in followed:
      specs += [*(trial.spec for trial in arm.trials.values()), *arm.runs]
    records.append(_record_of(search, pinned, followed, workdir))
  runs = {}
  for spec in specs:
    # A run that is asked for twice goes as far as the longer one, and is compared if either is.
    before = runs.get(spec.id, spec)
    runs[spec.id] = max(before, spec, key=lambda s: (s.until or math.inf, not s.stage))

  def is_open(spec):
    # A trial that diverges is a result; one whose worker died is not.
    return score(spec) is None if spec.stage else workdir is None or not is_done(spec, workdir)

  return Plan(list(runs.values()), list(filter(is_open, runs.values())), records)


def expand(
  config: ConfigDict,
  sweep: Callable | None = None,
  pinned: tuple[str, ...] = (),
  command: str = '',
) -> list[RunSpec]:
  """The runs of a `plan` before there are any results. Raises what `plan` raises."""
  return plan(config, sweep, None, pinned, command).runs


def arms(plan: Plan) -> list[dict[str, Any]]:
  """The arms of all searches of a plan."""
  return [arm for search in plan.searches for arm in search['arms']]


def findings(plan: Plan) -> list[str]:
  """What a plan's searches have found so far: the pinned fields, then a sentence per arm."""
  lines = [
    f'{name} is set on the command line, so it is not searched'
    for search in plan.searches
    for name in search['pinned']
  ]
  for arm in arms(plan):
    words, trials = progress.label(arm['overrides']), arm['trials']
    states = [trial['state'] for trial in trials]
    for trial in trials:
      if trial['id'] == arm['best']:
        metric = next(m for m in tasks.find(arm['task']).metrics if f'validation_{m.name}' in trial)
        name = f'validation_{metric.name}'
        lines.append(
          f'{words}: best of {len(trials)} trials by validation {metric.name},'
          f' {metric.shown(trial[name])}: {progress.label(trial["setting"])}'
        )
    if states.count('failed') == len(states):
      lines.append(f'{words}: all {len(states)} trials failed; try milder ranges')
  return lines


def ahead(plan: Plan, todo: list[RunSpec]) -> str:
  """What is to be done now, for people, if there is a search; else ''."""
  if not plan.searches or not todo:
    return ''
  counts = collections.Counter(
    (f'trials to epoch {run.until}' if run.until else 'trials to their end')
    if run.stage
    else 'runs to compare'
    for run in todo
  )
  return '; now ' + ', '.join(f'{count} {words}' for words, count in counts.items())


def is_done(spec: RunSpec, workdir: AnyPath) -> bool:
  """Whether the run's result and the rows of all epochs are intact; or the rows up to `until`."""
  folder = pathlib.Path(workdir) / spec.id
  if spec.until:
    epochs = [row.get('epoch') for row in run_files.read_metrics(folder)]
    if epochs[: spec.until] == list(range(1, spec.until + 1)):
      return True
  return run_files.is_done(folder, spec.config.train.epochs)


def failures(runs: list[RunSpec], workdir: AnyPath) -> dict[str, str]:
  """{id: error} of those of `runs` that failed for a reason of their own, and so would again."""
  found = {run.id: run_files.failure(pathlib.Path(workdir) / run.id) for run in runs}
  return {run: error['error'] for run, error in found.items() if error and not error['again']}


def record(workdir: AnyPath, asked: Any, plan: Plan) -> None:
  """Writes sweep.json: `asked`, a `conduct.Asked`, its plan's runs, and those recorded earlier.

  Only the runs that a search now stands by are compared: trials and best settings of what an
  earlier launch asked for are kept as trials left behind. For claims, it records how many runs were
  done when they were first made in their present form.
  """
  runs, searches = plan.runs, plan.searches
  before = run_files.read_sweep(workdir)
  known = {run['id']: run for run in before['runs']}
  tuned = {run for search in before['searches'] for arm in search['arms'] for run in arm['runs']}
  for run in known.values():
    if run.get('stage') == 'search' or run['id'] in tuned:
      run |= {'stage': 'search', 'left': True}
  states = [t for search in searches for arm in search['arms'] for t in arm['trials']]
  left = {t['id'] for t in states if t['state'] == 'left'}
  left -= {t['id'] for t in states if t['state'] != 'left'}
  for run in runs:
    epochs = run.until or run.config.train.epochs
    known[run.id] = {'id': run.id, 'overrides': run.overrides, 'stage': run.stage, 'epochs': epochs}
    if run.id in left and run.stage:
      known[run.id]['left'] = True
  after = len(runs) - len(plan.todo)
  if asked.claims == before.get('claims'):
    after = before['claims_after']
  content = {
    'experiment': asked.experiment,
    'preset': asked.preset,
    'command': asked.request.command,
    'runs': list(known.values()),
    'searches': searches,
    'claims': asked.claims,
    'claims_after': after if asked.claims else 0,
    'references': list(asked.references),
  }
  run_files.write_sweep(workdir, content)


def _known(workdir):
  """{config: id of its run} for the runs in `workdir`; if several share it, one that has ended."""
  found = {}
  folders = run_files.folders(workdir) if workdir else []
  for folder in sorted(folders, key=lambda f: not run_files.has_ended(f)):
    config = run_files.read_config(folder)
    # The hash in the folder's name shows that this is the config it was made for.
    if config and folder.name.endswith(configs.config_hash(config)):
      found.setdefault(run_files.canonical(configs.present(config)), folder.name)
  return found


def _score(workdir, spec):
  """How good a run's best epoch up to spec.until is by its primary metric; higher is better.

  If lower values of the metric are better, its negative. None: not that far yet; -inf: it failed.
  """
  if workdir is None:
    return None
  folder = pathlib.Path(workdir) / spec.id
  if is_done(spec, workdir):
    metric = tasks.primary(spec.config)
    rows = run_files.read_metrics(folder)
    values = [row.get(f'validation_{metric.name}') for row in rows[: spec.until or None]]
    if None in values:
      return None
    return max((metric.sign * value for value in values if math.isfinite(value)), default=-math.inf)
  error = run_files.failure(folder)
  return None if not error or error['again'] else -math.inf


def _record_of(search, pinned, arms, workdir):
  """A search for sweep.json."""
  sampled = [name for name in search.ranges if name not in pinned]

  def trial_of(trial):
    rows = run_files.read_metrics(pathlib.Path(workdir or '.') / trial.spec.id)
    reached = trial.score is not None and trial.score > -math.inf
    metric = tasks.primary(trial.spec.config)
    return {
      'id': trial.spec.id,
      'setting': {name: trial.spec.overrides[name] for name in sampled},
      'epochs': len(rows),
      f'validation_{metric.name}': metric.sign * trial.score if reached else None,
      'state': trial.state,
    }

  return {
    'method': search.method,
    'trials': search.trials,
    'seed': search.seed,
    'halving': list(search.halving),
    'seeds': list(search.seeds),
    'ranges': {name: list(search.ranges[name]) for name in sampled},
    'pinned': [name for name in search.ranges if name in pinned],
    'arms': [
      {
        'overrides': arm.overrides,
        'task': next(iter(arm.trials.values())).spec.config.task.name,
        'trials': [trial_of(trial) for trial in arm.trials.values()],
        'best': arm.best.spec.id if arm.best else '',
        'runs': [run.id for run in arm.runs],
      }
      for arm in arms
    ],
  }
