"""What a config and its sweep ask for: runs and searches, checked before anything is done."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import ConfigDict, FrozenConfigDict

from rnnlab import tasks
from rnnlab.runs import configs
from rnnlab.runs.configs import RunSpec
from rnnlab.sweeps import search as searching

MOST = 10_000  # runs of a sweep; one that asks for more is taken to be endless


class Request(NamedTuple):
  """What a config and its sweep ask for, checked: runs and searches, without the pinned fields."""

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
) -> Request:
  """Asks `sweep` once for its runs over `config`; without a sweep, there is one run, of `config`.

  `sweep(add)` calls `add({'model.cell': 'gru', 'seed': 1})` for each run, and `add.search(arms,
  ranges, trials=16, seeds=range(100, 105))` for a search: see `search.Search`. An arm that sets
  data.path must also set data.source, as a search's data are settled once. `add(overrides,
  config)` adds a run of another config, perhaps of another task. Fields in `pinned`, those set on
  the command line, keep their values, also in other configs whose task has them. Raises ValueError
  for a config or a sweep that describes no run.
  """

  def of(override, other=None):
    base = config if other is None else _taking_over(other, config, pinned)
    return specify(base, pinned, command, override)

  runs, searches = _asked(sweep, config, of, pinned) if sweep else ([of({})], [])
  return Request(config, pinned, command, runs, searches)


def settled(request: Request, settle: Callable[[ConfigDict], ConfigDict]) -> Request:
  """The `request` with the data of each config as `settle` returns it.

  The sweep is not asked again, and `settle` is called once for all configs with the same data.
  """
  found: dict[tuple[str, str], ConfigDict] = {}

  def once(config):
    key = config.task.name, repr(config.to_dict().get('data'))  # its str is YAML, and slow
    if key not in found:
      found[key] = settle(config)
    other = ConfigDict(config)
    if 'data' in other:
      other.data = ConfigDict(found[key].data)
    return other

  runs = [configs.specify(once(r.config), r.overrides, request.command) for r in request.runs]
  return request._replace(config=once(request.config), runs=runs)


def _asked(sweep, config, specify, pinned):
  """What `sweep` adds, each checked as it is added: runs, and searches without pinned fields."""
  specs, searches = [], []

  def count(more):
    searched = sum(len(of.arms) * (of.trials + len(of.seeds)) for of in searches)
    if len(specs) + searched + more > MOST:
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
      f' {configs.words(returned)}' + ': remove `yield`' * inspect.isgenerator(returned)
    )
  if not specs and not searches:
    raise ValueError('the sweep adds no run; for the one run of the config: --nosweep')
  return specs, searches


def _taking_over(other, config, pinned):
  """Another config of a sweep, with the values that `pinned` fields have in `config`."""
  if not isinstance(other, ConfigDict | FrozenConfigDict):
    raise ValueError(f"the sweep's add takes a ConfigDict as config, not {configs.words(other)}")
  given, fields = configs.flat(config), configs.flat(other)
  # An option of a cell is in a config only if it was set there; the cell reads it in any task.
  fields |= {name: given[name] for name in pinned if name in fields or name.count('.') > 1}
  return configs.check_fields(ConfigDict(configs.nested(fields)))


def _blame(config, error):
  """Raises the config's own error, if that is what the sweep's `error` is about."""
  try:
    configs.check(config)
  except ValueError as own:
    if str(own) in str(error):
      raise own from None


def specify(
  config: ConfigDict, pinned: tuple[str, ...], command: str, override: dict[str, Any]
) -> RunSpec:
  """The run of `config` with an override, without pinned fields. Raises ValueError like `ask`."""
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
  """Raises ValueError if the search may reach a setting that is no run or cannot be selected."""
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
          f"the sweep's search selects by validation {name}, but with"
          ' --config.data.validation_fraction=0 validation is the test split; set it above 0'
        )
      if search.halving and search.halving[-1] >= run.config.train.epochs:
        raise ValueError(
          f"the sweep's search: halving={tuple(search.halving)}: must be below"
          f' --config.train.epochs={run.config.train.epochs}'
        )
  for seed in search.seeds:
    specify({'seed': seed})
