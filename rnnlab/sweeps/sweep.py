"""A config, its sweep and the results so far -> the runs there are, and which are to be done."""

import collections
import functools
import inspect
import math
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import ConfigDict, FrozenConfigDict

from rnnlab import tasks
from rnnlab.console import progress
from rnnlab.machine.disk import AnyPath
from rnnlab.runs import configs
from rnnlab.runs import folder as run_files
from rnnlab.runs.configs import RunSpec
from rnnlab.sweeps import search as searching

MOST = 10_000  # runs of a sweep: one that asks for more is thought not to end


class Plan(NamedTuple):
  """What a sweep comes to, by the results so far.

  runs: all that are known of, each to go as far as its `until`. todo: those of them that have not
  come so far; none when the sweep is finished. searches: for sweep.json, what each search was asked
  for and how its trials stand.
  """

  runs: list[RunSpec]
  todo: list[RunSpec]
  searches: list[dict[str, Any]]


class Request(NamedTuple):
  """What a config and its sweep ask for, checked: runs, and searches without pinned fields."""

  config: ConfigDict
  pinned: tuple[str, ...]
  command: str
  runs: list[RunSpec]
  searches: list[searching.Search]


def ask(
  config: ConfigDict,
  sweep: Callable | None = None,
  pinned: tuple[str, ...] = (),
  command: str = '',
  settle: Callable[[ConfigDict], ConfigDict] = lambda config: config,
) -> Request:
  """Asks `sweep` for its runs over `config`, once; without a sweep, it is the one run of `config`.

  `sweep(add)` calls `add({'model.cell': 'gru', 'seed': 1})` for each run, and `add.search(arms,
  ranges, trials=16, seeds=range(100, 105))` for a search: see `search.Search`. `add(overrides,
  config)` is a run of another config, of another task perhaps, once `settle` has had it. Fields in
  `pinned`, those set on the command line, keep their value, in other configs too if they are there.
  Raises ValueError for a config or a sweep that describes no run.
  """

  def specify(override, other=None):
    base = config if other is None else settle(_taking_over(other, config, pinned))
    return _specify(base, pinned, command, override)

  runs, searches = _asked(sweep, config, specify, pinned) if sweep else ([specify({})], [])
  return Request(config, pinned, command, runs, searches)


def plan(
  config: ConfigDict,
  sweep: Callable | None = None,
  workdir: AnyPath | None = None,
  pinned: tuple[str, ...] = (),
  command: str = '',
) -> Plan:
  """What `ask` asks for, planned by `plan_of`. Raises as `ask`."""
  return plan_of(ask(config, sweep, pinned, command), workdir)


def plan_of(request: Request, workdir: AnyPath | None = None) -> Plan:
  """The plan of what was asked for, by the results in `workdir` so far.

  A search's trials come first; what follows from them is there once their results are in `workdir`,
  and the same results give the same plan. Runs of equal config are one run, under the name of the
  first, or under which it is in `workdir` already.
  """
  config, pinned, command, *_ = request
  known = _known(workdir)

  def named(spec):
    return spec._replace(id=known.setdefault(run_files.canonical(spec.config.to_dict()), spec.id))

  def specify(override):
    return named(_specify(config, pinned, command, override))

  specs = [named(spec) for spec in request.runs]
  score = functools.partial(_score, workdir)
  records = []
  for search in request.searches:
    whole = [type(_field(config, name)) is int for name in search.ranges]

    def setting(point, search=search, whole=whole):
      values = map(searching.value, search.ranges.values(), point, whole)
      drawn = zip(search.ranges, values, strict=True)
      return {name: value for name, value in drawn if name not in pinned}

    followed = searching.follow(search, specify, setting, score)
    for arm in followed:
      specs += [*(trial.spec for trial in arm.trials.values()), *arm.runs]
    records.append(_record_of(search, pinned, followed, workdir))
  runs = {}
  for spec in specs:
    # A run that is asked for twice goes as far as the farther, and is compared if either is.
    before = runs.get(spec.id, spec)
    runs[spec.id] = max(before, spec, key=lambda s: (s.until or math.inf, not s.stage))

  def is_open(spec):
    # That a trial diverges is an answer; that its worker died is not.
    return score(spec) is None if spec.stage else workdir is None or not is_done(spec, workdir)

  return Plan(list(runs.values()), list(filter(is_open, runs.values())), records)


def expand(
  config: ConfigDict,
  sweep: Callable | None = None,
  pinned: tuple[str, ...] = (),
  command: str = '',
) -> list[RunSpec]:
  """The runs of a `plan` before there are any results. Raises as `plan`."""
  return plan(config, sweep, None, pinned, command).runs


def arms(plan: Plan) -> list[dict[str, Any]]:
  """The arms of all searches of a plan."""
  return [arm for search in plan.searches for arm in search['arms']]


def findings(plan: Plan) -> list[str]:
  """What a plan's searches have found so far, for people: a sentence an arm; and what is set."""
  lines = [
    f'{name} is set on the command line and so not searched'
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
      lines.append(f'{words}: all {len(states)} trials failed; ask for milder ranges')
  return lines


def ahead(plan: Plan, todo: list[RunSpec]) -> str:
  """What is to be done now, for people, where a search makes that a question."""
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
  """Whether the run's result and all its epochs' rows are there, whole; or those to `until`."""
  folder = pathlib.Path(workdir) / spec.id
  if spec.until:
    epochs = [row.get('epoch') for row in run_files.read_metrics(folder)]
    if epochs[: spec.until] == list(range(1, spec.until + 1)):
      return True
  return run_files.is_done(folder, spec.config.train.epochs)


def failures(runs: list[RunSpec], workdir: AnyPath) -> dict[str, str]:
  """Id -> error of each of `runs` that failed for a reason of its own, and so would again."""
  found = {run.id: run_files.failure(pathlib.Path(workdir) / run.id) for run in runs}
  return {run: error['error'] for run, error in found.items() if error and not error['again']}


def record(workdir: AnyPath, asked: Any, plan: Plan) -> None:
  """Writes sweep.json: a `conduct.Asked`, its plan's runs and those recorded there before.

  Of a search, only the runs that it stands by now are compared: the trials and the best settings
  of what was asked for in an earlier launch are kept, as trials that were left behind. Of claims it
  is recorded how many runs were done when they were first made as they are now.
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
    known[run.id] = {'id': run.id, 'overrides': run.overrides, 'stage': run.stage}
    if run.id in left and run.stage:
      known[run.id]['left'] = True
  after = len(runs) - len(plan.todo)
  if asked.claims == before.get('claims'):
    after = before['claims_after']
  content = {
    'experiment': asked.experiment,
    'preset': asked.preset,
    'command': asked.command,
    'runs': list(known.values()),
    'searches': searches,
    'claims': asked.claims,
    'claims_after': after if asked.claims else 0,
    'references': list(asked.references),
  }
  run_files.write_sweep(workdir, content)


def _known(workdir):
  """{a config: the id of its run} of the runs in `workdir`; of several, of one that has ended."""
  found = {}
  folders = run_files.folders(workdir) if workdir else []
  for folder in sorted(folders, key=lambda f: not run_files.has_ended(f)):
    config = run_files.read_config(folder)
    # By its hash in the name a config is known to be the one that the folder was made for.
    if config and folder.name.endswith(configs.config_hash(config)):
      found.setdefault(run_files.canonical(configs.present(config)), folder.name)
  return found


def _asked(sweep, config, specify, pinned):
  """What `sweep` adds, each checked as it is added: runs, and searches without pinned fields."""
  specs, searches = [], []

  def count(more):
    if len(specs) + more > MOST:
      raise ValueError(f'the sweep asks for more than {MOST:,} runs')

  def add(override, config=None):
    count(1)
    specs.append(specify(override, config))

  def search(*args, **options):
    try:
      asked = searching.Search(*args, **options)
    except TypeError as error:
      words = str(error).replace('Search.__new__()', 'add.search')
      raise ValueError(f"the sweep's search: {words}") from error
    asked = searching.check(asked, pinned)
    count(len(asked.arms) * (asked.trials + len(asked.seeds)))
    arms = [{n: v for n, v in arm.items() if n not in pinned} for arm in asked.arms]
    asked = asked._replace(arms=[arm for i, arm in enumerate(arms) if arm not in arms[:i]])
    _check(asked, config, pinned, specify)
    searches.append(asked)

  add.search = search
  try:
    returned = sweep(add)
  except ValueError as error:
    _blame(config, error)
    raise
  if returned is not None and not (isinstance(returned, list) and all(x is None for x in returned)):
    raise ValueError(
      'the sweep must call add(overrides) for each run, and return nothing, but it returns'
      f' {configs.words(returned)}' + ': take `yield` out' * inspect.isgenerator(returned)
    )
  if not specs and not searches:
    raise ValueError('the sweep adds no run; for the one run of the config: --nosweep')
  return specs, searches


def _taking_over(other, config, pinned):
  """Another config of a sweep, with the values that `pinned` fields have in `config`."""
  if not isinstance(other, ConfigDict | FrozenConfigDict):
    raise ValueError(f"the sweep's add takes a ConfigDict as config, not {configs.words(other)}")
  given, fields = configs.flat(config), configs.flat(other)
  fields |= {name: given[name] for name in pinned if name in fields}
  return configs.check_fields(ConfigDict(configs.nested(fields)))


def _blame(config, error):
  """Raises what is wrong with the config by itself, where that is what the sweep's `error` says."""
  try:
    configs.check(config)
  except ValueError as own:
    if str(own) in str(error):
      raise own from None


def _specify(config, pinned, command, override):
  if isinstance(override, dict):
    override = {name: value for name, value in override.items() if name not in pinned}
  try:
    varied, override = configs.change(config, override)
    if 'model.cell' not in pinned:
      configs.check_options(override, [varied.model.cell])
  except ValueError as error:
    if override == {}:
      raise
    raise ValueError(f'the sweep asks for {configs.words(override)}: {error}') from error
  return configs.specify(varied, override, command)


def _check(search, config, pinned, specify):
  """Raises ValueError where a setting that the search may come to is no run, or none to select."""
  alone = [
    {name: value}
    for name, given in search.ranges.items()
    for value in given[1:]
    if name not in pinned
  ]
  for arm in search.arms:
    for override in alone or [{}]:
      run = specify(arm | override | {'seed': search.seed})
      if not configs.selects(run.config):
        name = tasks.primary(run.config).name
        raise ValueError(
          f"the sweep's search selects by validation {name}, and with"
          ' --config.data.validation_fraction=0 that is the test split; set it above 0'
        )
      if search.halving and search.halving[-1] >= run.config.train.epochs:
        raise ValueError(
          f"the sweep's search: halving={tuple(search.halving)}: must be below"
          f' --config.train.epochs={run.config.train.epochs}'
        )
  for seed in search.seeds:
    specify({'seed': seed})


def _field(config, name):
  for part in name.split('.'):
    config = config[part]
  return config


def _score(workdir, spec):
  """How good a run's best epoch up to spec.until is, higher being better, by its primary metric.

  Of one of which lower values are better, the negative. None: not so far yet; -inf: it failed.
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
