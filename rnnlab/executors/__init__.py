"""Ways to do a list of runs. Each is a function `execute(runs, workdir, stop)`.

It yields the runs' Events as they come. A run that fails leaves error.json in its folder and a
'failed' Event, and the others go on. Where `stop()` turns true, the runs at work save a checkpoint,
and KeyboardInterrupt is raised.
"""

import importlib

import jax

from rnnlab import provenance

NAMES = ('serial', 'cores', 'process', 'population')


def get(name: str):
  """The `execute` function of the executor called `name`."""
  return importlib.import_module(f'rnnlab.executors.{name}').execute


def choose(runs: list) -> str:
  """The executor for these runs here: all those of a sweep, so that a part of it keeps its bits.

  On a CPU several runs go best with a core each, and one with all of them; an accelerator is one
  device, which processes would only fight over.
  """
  if len(provenance.cores()) == 1 or jax.default_backend() != 'cpu':
    return 'serial'
  return 'process' if len(runs) > 1 else 'cores'
