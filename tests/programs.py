"""What the tests of whole programs share."""

import functools
import json
import os
import pathlib
import re
import subprocess

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from rnnlab.interop import files
from rnnlab.runs import checkpoint
from rnnlab.runs import folder as run_files
from rnnlab.sweeps import conduct, sweep

ROOT = pathlib.Path(__file__).parents[1]
# XLA's own choice, where conftest.py has another.
OPTIONS = {'xla_backend_optimization_level': 3, 'xla_cpu_use_fusion_emitters': True}
as_for_a_user = functools.partial(
  jax.jit,
  compiler_options={name: OPTIONS[name] for name in OPTIONS if name in os.environ['XLA_FLAGS']},
)
SMOKE = f'--config={ROOT}/experiments/imdb.py:smoke'
SWEEP = SMOKE, '--config.model.cell=gru', '--config.data.buckets=1'  # of three runs

# Where tests run over all cells, the quick ones do these, a carry of two parts and one of one; the
# slow tests do the others.
QUICK = 'lstm', 'gru', 'gru-after'

COLOURS = {f'{tens}{ones}' for tens in (3, 4, 9, 10) for ones in range(9)}  # 38 and 48: any other


def few_cells(names):
  """Cells' names to parametrize a test with; those outside QUICK are marked slow."""
  return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


def launched(experiment='made', preset='', command='python launch.py', claims=()):
  """What a launch asks for, as it is recorded."""
  request = sweep.Request(None, (), command, [], [])
  return conduct.Asked(request, list(claims), experiment, preset)


def without(given, words):
  named = {word.partition('=')[0] for word in words}
  return [word for word in given if word.partition('=')[0] not in named]


def read_until(text, process):
  """Reads the process's output up to the line that contains `text`."""
  for line in process.stdout:
    if text in line:
      return


def in_a_terminal(words, env, folder):
  """Runs a program in a pseudo-terminal: its exit status, and all that it wrote there."""
  ours, theirs = os.openpty()
  process = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, env=env)
  os.close(theirs)
  output = b''
  while True:
    try:
      output += (read := os.read(ours, 65536))
    except OSError:  # EIO: the other end is closed
      break
    if not read:
      break
  os.close(ours)
  return process.wait(), output.decode()


def colours(output):
  """The escape sequences of a terminal's output that set a colour."""
  codes = re.findall(r'\x1b\[([\d;]*)m', output)
  return [code for code in codes if {*code.split(';')} & COLOURS]


def unseal(folder):
  """Turns a finished run into one of a version before runs had digests of their files."""
  path = pathlib.Path(folder) / 'result.json'
  result = json.loads(path.read_text())
  before = {name: value for name, value in result.items() if name not in ('digest', 'digests')}
  path.write_text(json.dumps(before))


def finals(workdir):
  """Each run's numbers that must not depend on how it was done: metrics, rows and checkpoints."""
  found = {}
  for path in sorted(pathlib.Path(workdir).glob('*/result.json')):
    result = json.loads(path.read_text())
    rows = [json.loads(line) for line in (path.parent / 'metrics.jsonl').read_text().splitlines()]
    for row in rows:
      del row['seconds']
    at, arrays = parameters(path.parent)
    final, best = (
      of and {name: value for name, value in of.items() if not name.endswith('_time')}
      for of in (result['final'], result['best'])
    )
    found[result['id']] = final, best, rows, (at, arrays)
    reported = "['best_params']" if result['best'] else "['params']"
    for name, array in reported_parameters(path.parent).items():
      assert array == arrays[reported + name]
  return found


def reported_parameters(folder):
  """The bytes of the arrays that a finished run keeps for predictions."""
  leaves = jax.tree_util.tree_leaves_with_path(files.load(folder / run_files.PARAMS))
  assert leaves
  return {jax.tree_util.keystr(path): leaf.tobytes() for path, leaf in leaves}


def parameters(folder):
  """The step and the bytes of all arrays in a run's last checkpoint."""
  with checkpoint.manager(folder / 'checkpoints') as checkpoints:
    step = max(checkpoints.all_steps())
    state = checkpoints.restore(
      step, args=ocp.args.Composite(state=ocp.args.StandardRestore())
    ).state
  leaves = jax.tree_util.tree_leaves_with_path(state)
  return step, {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in leaves}
