"""A config and its sweep -> a list of runs; and which of them are done."""

import pathlib
from collections.abc import Callable

from ml_collections import ConfigDict

from rnnlab import configs, runlog, status
from rnnlab.configs import RunSpec


def expand(
  config: ConfigDict,
  sweep: Callable | None = None,
  pinned: tuple[str, ...] = (),
  command: str = '',
) -> list[RunSpec]:
  """The runs of `sweep` over `config`, each checked; without a sweep, the one run of `config`.

  `sweep(add)` calls `add({'model.cell': 'gru', 'seed': 1})` for each run. Fields in `pinned`, those
  set on the command line, keep their value, and runs that become the same are one.
  Raises ValueError for a config or a sweep that describes no run.
  """
  overrides = []
  if sweep:
    sweep(overrides.append)
  runs = {}
  for override in overrides or [{}]:
    override = {name: value for name, value in override.items() if name not in pinned}
    varied = ConfigDict(config.to_dict())
    varied.lock()
    try:
      varied.update_from_flattened_dict(override)
    except (KeyError, AttributeError, TypeError) as error:
      raise ValueError(f'the sweep asks for {override}: {_words(error)}') from error
    configs.check(varied)
    spec = configs.specify(varied, override, command)
    runs[spec.id] = spec
  return list(runs.values())


def is_done(spec: RunSpec, workdir) -> bool:
  """Whether the run's result and all its epochs' rows are there, whole."""
  return status.is_done(pathlib.Path(workdir) / spec.id, spec.config.train.epochs)


def failures(runs: list[RunSpec], workdir) -> dict[str, str]:
  """Id -> error of each of `runs` that failed for a reason of its own, and so would again."""
  found = {run.id: status.failure(pathlib.Path(workdir) / run.id) for run in runs}
  return {run: error['error'] for run, error in found.items() if error and not error['again']}


def record(workdir, name: str, preset: str, command: str, runs: list[RunSpec]) -> None:
  """Writes sweep.json: these runs, and those recorded there before."""
  path = pathlib.Path(workdir) / 'sweep.json'
  known = {run['id']: run for run in (runlog.read_json(path) or {}).get('runs', [])}
  known |= {run.id: {'id': run.id, 'overrides': run.overrides} for run in runs}
  runlog.write_json(
    path,
    {'experiment': name, 'preset': preset, 'command': command, 'runs': list(known.values())},
  )


def _words(error):
  return ' '.join(str(error.args[0]).split())
