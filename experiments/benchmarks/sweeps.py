"""How long a sweep takes: each executor compared with a loop over Keras models, on the CPU.

    python -m experiments.benchmarks.sweeps [--seeds=8] [--epochs=2]
      [--ways=keras-jax,population,process]

The sweep is LSTM and GRU with eight seeds each, in the :tutorial preset of experiments/imdb.py with
two epochs. Its data are the official reviews if they are prepared (TFDS_DATA_DIR), else those of
the package. The loop is experiments/benchmarks/peers/loop.py: Keras on JAX with the same model,
arrays, batches and evaluations.

Each way is a program of its own, started by its command in a fresh workdir and timed from start to
end, so that imports, loading and writing are included. Compiling is not: the same program has run
before, on the same shapes, to fill the cache of compiled programs and to encode the reviews. That
run has one epoch and one seed per cell (all seeds for `population`, whose compiled programs hold
them all; a few batches for the loop). --examples=300 --seeds=1 is a quick trial.
"""

import json
import math
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import time

import pandas as pd
from absl import app, flags

from experiments import imdb as experiment
from experiments.benchmarks import peers, speed_report
from rnnlab.console import progress
from rnnlab.console.words import plain_warnings
from rnnlab.data import imdb
from rnnlab.machine import disk, provenance
from rnnlab.sweeps import executors

COMMAND = shlex.join(['python', '-m', 'experiments.benchmarks.sweeps', *sys.argv[1:]])
ROOT = pathlib.Path(__file__).parents[2]
LOOP = 'keras-jax'
WAYS = [LOOP, *(name for name in executors.NAMES if name not in ('distributed', 'ray'))]
CELLS = ('lstm', 'gru')
SWEEP = """from experiments.imdb import get_config  # noqa: F401


def sweep(add):
  for seed in range({seeds}):
    for cell in {cells}:
      add({{'model.cell': cell, 'seed': seed}})
"""


class Failed(Exception):
  """A program to be timed failed."""


def launch(way, data, seeds, epochs, out) -> float:
  """Seconds that launch.py takes for the sweep with the executor `way`, its workdir out/way."""
  fill = {'epochs': 1, 'seeds': seeds if way == 'population' else 1}
  for name, size in (('warm', fill), (way, {'epochs': epochs, 'seeds': seeds})):
    shutil.rmtree(out / name, ignore_errors=True)
    file = out / f'{name}.py'
    file.write_text(SWEEP.format(seeds=size['seeds'], cells=CELLS))
    seconds = run(
      [sys.executable, ROOT / 'launch.py', f'--config={file}:tutorial', f'--executor={way}']
      + [f'--config.data.{field}={value}' for field, value in data.items()]
      + [f'--config.train.epochs={size["epochs"]}', f'--workdir={out / name}'],
      out / f'{name}.log',
    )
  shutil.rmtree(out / 'warm')
  return seconds


def loop(config, seeds, out) -> float:
  """Seconds that the loop over Keras models takes; its lines are in out/keras-jax.log."""
  if missing := peers.PEERS[LOOP].missing():
    raise Failed(
      f'{", ".join(missing)} not installed; pip install -r experiments/benchmarks/peers.txt'
    )
  batch = config.train.batch_size
  # Two batches, and a smaller one like the last of a split.
  few = 2 * batch + (config.data.max_examples or 25_000) % batch
  for name, size in (('warm', {'examples': few, 'seeds': 1}), (LOOP, {'seeds': seeds})):
    words = json.dumps({'config': config.to_dict(), 'examples': None, **size})
    seconds = run(
      [sys.executable, '-m', 'experiments.benchmarks.peers.loop', words], out / f'{name}.log'
    )
  return seconds


def run(command, log) -> float:
  """Seconds that a program takes; raises Failed with the last line of its output."""
  environment = os.environ | {
    'JAX_PLATFORMS': 'cpu',
    'CUDA_VISIBLE_DEVICES': '',
    'KERAS_BACKEND': 'jax',
  }
  with open(log, 'w') as f:
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=f, stderr=f)
    seconds = time.perf_counter() - start
  if done.returncode:
    last = (log.read_text().strip().splitlines() or [''])[-1]
    raise Failed(f'status {done.returncode}: {last[:200]} (all of it: {log})')
  return seconds


def accuracies(way, out) -> pd.Series:
  """Each cell's mean test accuracy after the last epoch, which all ways should agree on."""
  if way == LOOP:
    lines = [line for line in (out / f'{way}.log').read_text().splitlines() if line[:1] == '{']
    runs = pd.DataFrame([json.loads(line) for line in lines])
    return runs.groupby('cell')['val_accuracy'].mean()
  return pd.read_csv(out / way / 'runs.csv').groupby('model.cell')['test_accuracy'].mean()


def compared(rows: list[dict]) -> pd.DataFrame:
  """A table with the time of the loop and of `serial` as multiples of each way's, or NaN."""
  table = pd.DataFrame(rows)
  of_way = table.set_index('way')['seconds']
  return table.assign(
    times_loop=of_way.get(LOOP, math.nan) / table['seconds'],
    times_serial=of_way.get('serial', math.nan) / table['seconds'],
  )


def grid(rows: list[dict]) -> pd.DataFrame:
  """The figures as words, one row per way."""
  table = compared(rows)
  return pd.DataFrame(
    {
      'way': table['way'],
      'seconds': table['seconds'].map('{:.0f}'.format),
      'a run': table['seconds_per_run'].map('{:.1f}'.format),
      f'{LOOP} takes': table['times_loop'].map('{:.2f} x'.format),
      'serial takes': table['times_serial'].map('{:.2f} x'.format),
      **{
        f'{cell.upper()} accuracy': table[f'{cell}_accuracy'].map('{:.3f}'.format) for cell in CELLS
      },
    }
  ).replace('nan x', '')


def write(rows: list[dict], notes: list[str], out, title: str) -> None:
  """Writes sweeps.csv and summary.md for the ways that were measured."""
  versions = ', '.join(f'{name} {version}' for name, version in provenance.versions().items())
  looped = LOOP in {row['way'] for row in rows}
  about = [
    f'Command: `{COMMAND}`',
    f'Device: {provenance.device()}; commit {provenance.commit()}',
    f'rnnlab: {versions}',
    *([f'{LOOP}: {peers.PEERS[LOOP].versions()}'] if looped else []),
    f'{rows[0]["runs"]} runs: {" and ".join(CELLS)}, {rows[0]["runs"] // len(CELLS)} per cell,'
    f" {rows[0]['epochs']} epochs of the tutorial's model at batch 32, evaluated after each",
    title,
    *notes,
  ]
  disk.write_atomic(out / 'sweeps.csv', compared(rows).to_csv(index=False))
  parts = ['# Sweeps', '\n'.join(f'- {line}' for line in about), speed_report.markdown(grid(rows))]
  parts += [
    'seconds: wall time of the program, including start and writing, its programs compiled'
    f' before. `{LOOP} takes` and `serial takes`: their time as a multiple of this one. Accuracy:'
    ' on the test split after the last epoch, mean over seeds.'
  ]
  disk.write_atomic(out / 'summary.md', '\n\n'.join(parts) + '\n')


def main(_):
  args = flags.FLAGS
  console = progress.plain_console(width=None if sys.stdout.isatty() else 120)
  if unknown := set(args.ways) - set(WAYS):
    print(
      f'experiments.benchmarks.sweeps: there is no way {min(unknown)!r}, but {", ".join(WAYS)}',
      file=sys.stderr,
    )
    sys.exit(2)
  plain_warnings()
  out = pathlib.Path(args.out).absolute()
  out.mkdir(parents=True, exist_ok=True)
  config = experiment.get_config('tutorial')
  config.train.epochs = args.epochs
  config.data.max_examples = args.examples
  config.data.source = imdb.resolve(config.data)
  data = {'source': config.data.source, 'max_examples': args.examples}
  title = imdb.load(config.data).title + (
    f', {args.examples} of each split' if args.examples else ''
  )
  count = len(CELLS) * args.seeds
  rows, notes = [], []

  def say(words):
    console.print(words, markup=False, soft_wrap=True)

  say(f'{count} runs of {args.epochs} epochs; {title}')
  for way in args.ways:
    try:
      if way == LOOP:
        seconds = loop(config, args.seeds, out)
      else:
        seconds = launch(way, data, args.seeds, args.epochs, out)
    except Failed as error:
      notes.append(f'{way}: {error}')
      say(notes[-1])
      continue
    reached = accuracies(way, out)
    rows.append(
      {'way': way, 'runs': count, 'epochs': args.epochs, 'seconds': seconds}
      | {'seconds_per_run': seconds / count}
      | {f'{cell}_accuracy': reached[cell] for cell in CELLS}
    )
    say(f'{way}: {seconds:.1f} s')
    write(rows, notes, out, title)  # after each way: it takes long, and results must not be lost
  if not rows:
    sys.exit(1)
  console.print(speed_report.markdown(grid(rows)), markup=False, soft_wrap=True)
  say(f'in {out}: sweeps.csv, summary.md')
  sys.exit(1 if notes else 0)


if __name__ == '__main__':
  # Here, since some names are also those of other experiments, which tests import too.
  flags.DEFINE_integer('seeds', 8, 'How many seeds of each cell.', lower_bound=1)
  flags.DEFINE_integer('epochs', 2, 'How many epochs.', lower_bound=1)
  flags.DEFINE_list('ways', WAYS, 'What to measure: the loop, and executors.')
  flags.DEFINE_integer('examples', 0, 'How many reviews of each split; 0: all.', lower_bound=0)
  flags.DEFINE_string('out', 'runs/sweeps', 'Where results go.')
  app.run(main)
