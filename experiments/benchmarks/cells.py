"""How fast each cell is, and at which lengths computing all steps at once is faster than a scan.

    python -m experiments.benchmarks.cells [--cells=lstm,gru] [--batch=32] [--steps=200]
      [--inputs=128] [--hidden=64] [--lengths=128,1024,65536] [--rows=1] [--smoke]

The first table is for a layer of each cell: the milliseconds of the forward pass and of the
gradients for parameters and inputs, with the backend that `rnnlab.unroll` chooses. The second is
for the cells that are linear in their carry, over sequences of growing length: the same for a scan
of the step and for all steps at once. Everything runs in one process, on all cores or on one
accelerator, and in each round every case has a turn. It writes cells.csv and summary.md, which ends
with the column for the table in rnnlab/cells/README.md.
"""

import functools
import pathlib
import shlex
import sys
from collections.abc import Callable, Sequence
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
from rnnlab.cells import base
from rnnlab.console import progress
from rnnlab.machine import disk, provenance

COMMAND = shlex.join(['python', '-m', 'experiments.benchmarks.cells', *sys.argv[1:]])
SCAN, PARALLEL = 'scan', 'parallel'
AT_LEAST = 0.02  # seconds that the calls of a turn take together, well above the clock's resolution
LEGEND = (
  'Milliseconds of the forward pass and the gradients for parameters and inputs: the median over'
  ' rounds ± half the interquartile range.'
)

flags.DEFINE_list('cells', None, 'Which cells; by default all.')
flags.DEFINE_integer('batch', 32, 'Rows of the first table.', lower_bound=1)
flags.DEFINE_integer('steps', 200, 'Steps of the first table.', lower_bound=1)
flags.DEFINE_integer('inputs', 128, 'Inputs of the first table.', lower_bound=1)
flags.DEFINE_integer('hidden', 64, 'Hidden units; in the second table also the inputs.')
flags.DEFINE_list(
  'lengths', ['128', '512', '1024', '4096', '16384', '65536'], 'Steps of the second table.'
)
flags.DEFINE_integer('rows', 1, 'Rows of the second table.', lower_bound=1)
flags.DEFINE_integer('rounds', 5, 'How often each case is timed.', lower_bound=1)
flags.DEFINE_string('out', 'runs/cells', 'Where results go.')
flags.DEFINE_boolean(
  'smoke', False, 'Three cells and short sequences, to check that everything works.'
)


class Case(NamedTuple):
  """What is measured: a layer of a cell, run with a `backend` of `rnnlab.unroll`."""

  cell: str
  backend: str
  batch: int
  steps: int
  inputs: int
  hidden: int


def build(case: Case) -> tuple[Callable[[], object], int]:
  """A call that computes ys of a layer and all gradients, and the number of parameters.

  The parameters are the cell's initial ones; inputs, and the weights of the outputs in the loss,
  are standard normal.
  """
  cell = rnnlab.cells.get(case.cell, hidden_size=case.hidden)
  params = cell.init(jax.random.key(0), case.inputs)
  draw = np.random.default_rng(0)
  xs = draw.standard_normal((case.batch, case.steps, case.inputs), np.float32)
  weights = draw.standard_normal((case.batch, case.steps, case.hidden), np.float32)
  mesh = rnnlab.mesh()

  def loss(params, xs, weights):
    return jnp.sum(rnnlab.unroll(cell, params, xs, backend=case.backend)[1] * weights)

  with jax.set_mesh(mesh):
    split = jax.P(None if case.batch % mesh.shape['batch'] else 'batch')
    xs, weights = jax.device_put((xs, weights), jax.NamedSharding(mesh, split))
    params = jax.device_put(params, jax.NamedSharding(mesh, jax.P()))
    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(params, xs, weights).compile()

  def call():
    return jax.block_until_ready(step(params, xs, weights))

  return call, sum(leaf.size for leaf in params.values())


def measure(cases: Sequence[Case], rounds: int) -> pd.DataFrame:
  """One row of cells.csv per case: its fields, the parameters, and the quartiles of its times."""
  calls, counts, repeats = zip(*(ready(case) for case in cases), strict=True)
  seconds = np.array(
    [
      [worker.seconds(call, n) for call, n in zip(calls, repeats, strict=True)]
      for _ in range(rounds)
    ]
  )
  q25, median, q75 = 1e3 * np.quantile(seconds, [0.25, 0.5, 0.75], axis=0)
  times = {'median_ms': median, 'q25_ms': q25, 'q75_ms': q75, 'rounds': rounds}
  return pd.DataFrame(cases, columns=list(Case._fields)).assign(parameters=counts, **times)


def ready(case: Case) -> tuple[Callable[[], object], int, int]:
  """A case's call, compiled and called; its parameters; and how often it is called in a turn."""
  call, parameters = build(case)
  call()
  return call, parameters, max(1, round(AT_LEAST / worker.seconds(call, 1)))


def timed(row) -> str:
  """The time of a row of `measure`, in words."""
  half = (row.q75_ms - row.q25_ms) / 2
  return f'{speed_report.number(row.median_ms)} ± {half:.{speed_report.decimals(row.median_ms)}f}'


def steps_grid(table: pd.DataFrame) -> pd.DataFrame:
  """The first table as words, the fastest cell first."""
  beside = table.set_index('cell')['median_ms'].get('lstm')
  rows = [
    {'cell': row.cell, 'parameters': f'{row.parameters:,}', 'ms a step': timed(row)}
    | ({'of lstm': f'{row.median_ms / beside:.2f}'} if beside else {})
    for row in table.sort_values('median_ms').itertuples()
  ]
  return pd.DataFrame(rows)


def lengths_grid(table: pd.DataFrame) -> pd.DataFrame:
  """The second table as words: a row for each cell and length."""
  rows = []
  for (cell, steps), of_case in table.groupby(['cell', 'steps'], sort=False):
    by = {row.backend: row for row in of_case.itertuples()}
    rows.append(
      {'cell': cell, 'T': f'{steps:,}'}
      | {name: timed(by[name]) for name in (SCAN, PARALLEL)}
      | {'scan / parallel': f'{by[SCAN].median_ms / by[PARALLEL].median_ms:.2f}'}
    )
  return pd.DataFrame(rows)


def crossovers(table: pd.DataFrame) -> list[str]:
  """For each cell of the second table, the lengths at which all steps at once win, in words."""
  said = []
  times = table.pivot(index='cell', columns=['backend', 'steps'], values='median_ms')
  for cell in table['cell'].unique():
    ratio = times.loc[cell, SCAN] / times.loc[cell, PARALLEL]
    faster = ', '.join(f'{steps:,}' for steps in sorted(ratio.index[ratio > 1]))
    slower = ', '.join(f'{steps:,}' for steps in sorted(ratio.index[ratio <= 1]))
    words = f'faster than the scan at T = {faster}' if faster else 'never faster than the scan'
    words += f', slower at {slower}' if faster and slower else ''
    said.append(f'{cell}: all steps at once are {words}')
  return said


def column(table: pd.DataFrame) -> str:
  """The cells and their milliseconds as rows of Markdown, in the order of the README's table."""
  order = {name: number for number, name in enumerate(_in_readme())}
  rows = sorted(table.itertuples(), key=lambda row: order.get(row.cell, len(order)))
  shown = [
    {'Cell': f'`{row.cell}`', 'ms a step': speed_report.number(row.median_ms)} for row in rows
  ]
  return speed_report.markdown(pd.DataFrame(shown))


@functools.cache
def _in_readme():
  lines = (pathlib.Path(base.__file__).parent / 'README.md').read_text().splitlines()
  return [line.split('`')[1] for line in lines if line.startswith('| `')]


def chosen(args) -> tuple[list[str], list[int]]:
  """The cells and the lengths given by flags. Raises ValueError, with a message for people."""
  names = args.cells or (['lstm', 'gru', 'mingru'] if args.smoke else rnnlab.cells.names())
  for name in names:
    rnnlab.cells.find(name)
  lengths = ['5', '9'] if args.smoke else args.lengths
  if not all(length.isdecimal() and int(length) for length in lengths):
    raise ValueError(f'--lengths={",".join(lengths)}: must be numbers of steps, 1 or more')
  return list(dict.fromkeys(names)), list(dict.fromkeys(map(int, lengths)))


def main(_):
  rnnlab.use_cores()
  args = flags.FLAGS
  try:
    names, lengths = chosen(args)
  except ValueError as error:
    print(f'experiments.benchmarks.cells: {error}', file=sys.stderr)
    sys.exit(2)
  shape = (2, 6, 4, 3) if args.smoke else (args.batch, args.steps, args.inputs, args.hidden)
  console = progress.plain_console(width=None if sys.stdout.isatty() else 120)
  first = measure([Case(name, 'auto', *shape) for name in names], args.rounds)
  grids = {'A layer of each cell': steps_grid(first)}
  parts = [first]
  size, said = shape[-1], []
  linear = [name for name in names if rnnlab.cells.get(name, hidden_size=size).parallel]
  for steps in lengths if linear else []:  # one length at a time, as its arrays are large
    console.print(f'T = {steps:,}')
    cases = [
      Case(name, backend, args.rows, steps, size, size)
      for name in linear
      for backend in (SCAN, PARALLEL)
    ]
    parts.append(measure(cases, args.rounds))
  if linear:
    second = pd.concat(parts[1:])
    second['place'] = second['cell'].map(linear.index)
    second = second.sort_values(['place', 'steps'], kind='stable')
    grids['All steps at once'], said = lengths_grid(second), crossovers(second)
  write(pd.concat(parts), grids, said, column(first), pathlib.Path(args.out))
  for title, grid in grids.items():
    drawn = rich.table.Table(
      *(rich.table.Column(name, justify='right' if i else 'left') for i, name in enumerate(grid)),
      title=title,
      title_justify='left',
    )
    for line in grid.itertuples(index=False):
      drawn.add_row(*line)
    console.print(drawn)
  console.print('\n'.join([*said, '', column(first), '', LEGEND]), soft_wrap=True)
  console.print(f'in {args.out}: cells.csv, summary.md', soft_wrap=True)


def write(table, grids, said, column, out):
  """Writes cells.csv, with the command, and summary.md."""
  about = {
    'command': COMMAND,
    'device': provenance.device(),
    'commit': provenance.commit(),
    'jax': jax.__version__,
  }
  out.mkdir(parents=True, exist_ok=True)
  disk.write_atomic(out / 'cells.csv', table.assign(**about).to_csv(index=False))
  shapes = table[['batch', 'steps', 'inputs', 'hidden']].drop_duplicates().values
  shown = {'A layer of each cell': shapes[:1], 'All steps at once': shapes[1:]}
  parts = ['# Cells', '\n'.join(f'- {name}: {value}' for name, value in about.items()), LEGEND]
  for title, grid in grids.items():
    words = ', '.join('x'.join(map(str, shape)) for shape in shown[title])
    parts += [f'## {title}', f'Batch x steps x inputs x hidden units: {words}; float32.']
    parts += ['\n'.join(f'- {line}' for line in said)] if title == 'All steps at once' else []
    parts += [speed_report.markdown(grid)]
  parts += ['## As a column', column]
  disk.write_atomic(out / 'summary.md', '\n\n'.join(parts) + '\n')


if __name__ == '__main__':
  app.run(main)
