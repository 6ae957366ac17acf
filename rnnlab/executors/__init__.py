"""Ways to do a list of runs. Each is a function `execute(runs, workdir, stop)`.

It yields the runs' Events as they come. A run that fails leaves error.json in its folder and a
'failed' Event, and the others go on. Where `stop()` turns true, the runs at work save a checkpoint,
and KeyboardInterrupt is raised.
"""

import importlib

import jax

from rnnlab import provenance

NAMES = ('serial', 'process')


def get(name: str):
  """The `execute` function of the executor called `name`."""
  return importlib.import_module(f'rnnlab.executors.{name}').execute


def choose(runs: list) -> str:
  """The executor for these runs here.

  One process a core gains on a CPU, where a run of this field's small matrices keeps one core busy;
  an accelerator is one device, which processes would only fight over.
  """
  several = len(runs) > 1 and len(provenance.cores()) > 1
  return 'process' if several and jax.default_backend() == 'cpu' else 'serial'
