"""Memory and time of training on long sequences: plainly, with remat, with truncate, with both.

    python -m experiments.benchmarks.long [--steps=100,1000,10000] [--batch=8] [--size=128]
      [--smoke]

Measures a step of SGD on an LSTM layer, with a loss over all its outputs, on the CPU. Each case has
a process of its own. Its memory is the highest resident memory in a step after the first, above
what the process held once JAX had computed something small; its time is the median of later steps.
Everything takes about two minutes on two cores.
"""

import concurrent.futures
import multiprocessing
import os
import pathlib
import shlex
import sys
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import rich.table
from absl import app, flags

import rnnlab
from experiments.benchmarks import speed_report
from experiments.benchmarks.peers import worker
from rnnlab.console import progress
from rnnlab.machine import disk, provenance

COMMAND = shlex.join(['python', '-m', 'experiments.benchmarks.long', *sys.argv[1:]])
WINDOW = 500  # steps that truncated gradients go back
OPTIONS = ('plain', 'remat', 'truncate', 'truncate, remat')

flags.DEFINE_list('steps', ['100', '1000', '10000'], 'The lengths of the sequences.')
flags.DEFINE_integer('batch', 8, 'Rows.', lower_bound=1)
flags.DEFINE_integer('size', 128, 'Inputs, and hidden units.', lower_bound=1)
flags.DEFINE_integer('rounds', 5, 'How many steps of SGD are timed.', lower_bound=1)
flags.DEFINE_string('out', 'runs/long', 'Where results go.')
flags.DEFINE_boolean('smoke', False, 'Short sequences, to check that everything works.')


class Case(NamedTuple):
  """What is measured: one of OPTIONS over `[batch, steps, size]`."""

  options: str
  steps: int
  batch: int
  size: int

  def unroll_options(self) -> dict:
    """The options of `unroll`."""
    window = min(self.steps, WINDOW)
    truncate = (window, window) if 'truncate' in self.options else None
    return {'remat': 'remat' in self.options, 'truncate': truncate}


def build(case):
  """The call of a step, in the form of `experiments.benchmarks.peers.worker`."""
  cell = rnnlab.lstm(case.size)
  draw = np.random.default_rng(0)
  shapes = jax.eval_shape(lambda key: cell.init(key, case.size), jax.random.key(0))
  shapes = shapes, jax.ShapeDtypeStruct((case.batch, case.steps, case.size), jnp.float32)
  # Drawn by NumPy, so that nothing but the step is compiled.
  params, xs = jax.tree.map(
    lambda a: jnp.asarray(0.1 * draw.standard_normal(a.shape, np.float32)), shapes
  )

  @jax.jit
  def step(params, xs):
    def loss(params):
      return jnp.mean(rnnlab.unroll(cell, params, xs, **case.unroll_options())[1] ** 2)

    value, grads = jax.value_and_grad(loss)(params)
    return jax.tree.map(lambda w, g: w - 0.1 * g, params, grads), value

  def call():
    nonlocal params
    params, _ = jax.block_until_ready(step(params, xs))

  return call, 1


def measure(case, rounds) -> dict:
  """A row of long.csv, in a process of its own."""
  worker.build(build, Case('plain', 2, 1, 2))  # JAX's first use is no case's memory
  answer, call, _ = worker.build(build, case)
  q25, median, q75 = np.quantile(
    [worker.seconds(call, 1) for _ in range(rounds)], [0.25, 0.5, 0.75]
  )
  times = {'median_ms': 1e3 * median, 'q25_ms': 1e3 * q25, 'q75_ms': 1e3 * q75}
  memory = {'memory_mb': answer['memory_mb'], 'compile_s': answer['compile_s']}
  return case._asdict() | times | memory | {'rounds': rounds}


def alone(case, rounds) -> dict:
  """`measure` in a process of its own; raises BrokenProcessPool if that died."""
  context = multiprocessing.get_context('forkserver')
  context.set_forkserver_preload(
    ['rnnlab', 'experiments.benchmarks.speed_report']
  )  # which are slow to load
  with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
    return pool.submit(measure, case, rounds).result()


def grid(table: pd.DataFrame) -> pd.DataFrame:
  """The figures as words: a row per length, two columns per option."""
  lines = []
  for steps, of_steps in table.groupby('steps'):
    line = {'T': f'{steps:,}'}
    for options in OPTIONS:
      for row in of_steps[of_steps['options'] == options].itertuples():
        line[f'{options}: ms'] = speed_report.number(row.median_ms)
        line[f'{options}: MB'] = '' if pd.isna(row.memory_mb) else f'{row.memory_mb:.0f}'
    lines.append(line)
  return pd.DataFrame(lines).fillna('')


def main(_):
  os.environ |= {'JAX_PLATFORMS': 'cpu', 'CUDA_VISIBLE_DEVICES': ''}  # for the processes to come
  os.environ.pop('JAX_COMPILATION_CACHE_DIR', None)  # which would hide the time of compiling
  jax.config.update('jax_platforms', 'cpu')  # here only to ask for the device
  args = flags.FLAGS
  console = progress.plain_console(width=None if sys.stdout.isatty() else 160)
  try:
    lengths = [9] if args.smoke else [int(steps) for steps in args.steps]
    if min(lengths) < 1:
      raise ValueError
  except ValueError:
    print(
      f'experiments.benchmarks.long: --steps={",".join(args.steps)}: must be lengths',
      file=sys.stderr,
    )
    sys.exit(2)
  size = 3 if args.smoke else args.size
  rows, notes = [], []
  for steps in lengths:
    for options in OPTIONS:
      case = Case(options, steps, args.batch, size)
      try:
        rows.append(alone(case, args.rounds))
        words = f'{rows[-1]["median_ms"]:.1f} ms, {rows[-1]["memory_mb"] or float("nan"):.1f} MB'
      except BrokenProcessPool:
        words = 'its process died; it may have wanted more memory than there is'
        notes.append(f'T = {steps}, {options}: {words}')
      console.print(f'T = {steps:,}, {options}: {words}', markup=False)
  if not rows:
    sys.exit(1)
  table = pd.DataFrame(rows)
  shown = grid(table)
  out = pathlib.Path(args.out)
  out.mkdir(parents=True, exist_ok=True)
  about = [
    f'Command: `{COMMAND}`',
    f'Device: {provenance.device()}; commit {provenance.commit()}; jax {jax.__version__}',
    f'LSTM, batch {args.batch}, D = H = {size}, float32; truncate ({WINDOW}, {WINDOW}), or (T, T)'
    ' if T is smaller',
    'ms: the median of a step of SGD. MB: highest resident memory in it, with inputs and program',
    *notes,
  ]
  disk.write_atomic(out / 'long.csv', table.to_csv(index=False))
  parts = ['# Long sequences', '\n'.join(f'- {line}' for line in about)]
  parts += [speed_report.markdown(shown)]
  disk.write_atomic(out / 'summary.md', '\n\n'.join(parts) + '\n')
  drawn = rich.table.Table(*(rich.table.Column(name, justify='right') for name in shown))
  for line in shown.itertuples(index=False):
    drawn.add_row(*line)
  console.print(drawn)
  console.print(f'in {out}: long.csv, summary.md', soft_wrap=True)


if __name__ == '__main__':
  app.run(main)
