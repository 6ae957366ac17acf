"""rnnlab's speed on the CPU, beside Keras, PyTorch, Flax, Haiku and Equinox.

    python -m experiments.benchmarks.speed [--peers=keras,torch,flax,haiku,equinox] [--cores=1]
      [--cases=WORDS] [--shapes=BxTxDxH]

Measures LSTM and GRU layers, forward and with gradients, from small shapes to large, with and
without dropout and padding; training steps of the tutorial's classifier, of language models and of
a translator; and its translations. A library that is not installed is reported and left out: pip
install -r experiments/benchmarks/peers.txt. All of it takes about forty minutes on two cores;
--cases=text, --cases=multi30k or --cases=32x200x128x64 measures a part of it,
--shapes=20x35x650x650 layers of another shape, and --smoke tiny shapes, to see that everything
works.

Every library has a process of its own, which is idle while others are measured. A case is measured
in rounds in which each library has a turn, so that whatever slows the machine for a while slows all
of them. If a turn has several calls, an untimed one precedes them, since the caches still hold the
previous library's data.
"""

import contextlib
import itertools
import json
import math
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
import pandas as pd
import rich.console
import rich.progress
from absl import app, flags

from experiments.benchmarks import peers, speed_report
from experiments.benchmarks.peers import matmul, pairs
from rnnlab import cells
from rnnlab.console import progress
from rnnlab.machine import disk, provenance

COMMAND = shlex.join(['python', '-m', 'experiments.benchmarks.speed', *sys.argv[1:]])
SAME = 1e-4  # relative: how much losses with the same weights may differ
ROUND = 0.1  # the least seconds in a library's turn
TUTORIAL = 32, 200, 128, 64  # B, T, D, H
SHAPES = (1, 1000, 64, 64), TUTORIAL, (64, 256, 512, 512)
TINY = (2, 6, 4, 3)

flags.DEFINE_list('peers', None, 'The libraries to measure beside rnnlab; default: all.')
flags.DEFINE_list('cases', [], 'Only cases whose name contains one of these words.')
flags.DEFINE_list(
  'shapes', [], 'Only layers of these shapes: batch x steps x inputs x hidden units, as 8x50x32x64.'
)
flags.DEFINE_integer('rounds', 7, 'How many times each library has its turn.', lower_bound=1)
flags.DEFINE_integer('cores', None, 'How many cores to use; default: all.', lower_bound=1)
flags.DEFINE_string('out', 'runs/speed', 'Where results go.')
flags.DEFINE_boolean('smoke', False, 'Tiny shapes.')


class WorkerDied(Exception):
  """A library's process ended in the middle of a case."""


class Worker:
  """A library's process, which answers to `ask`."""

  def __init__(self, name):
    environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'CUDA_VISIBLE_DEVICES': ''}
    environment.pop('JAX_COMPILATION_CACHE_DIR', None)  # which would hide the time of compiling
    if name in peers.PEERS:
      environment |= peers.PEERS[name].environment
    self._log = tempfile.TemporaryFile(mode='w+')
    self._process = subprocess.Popen(
      [sys.executable, '-m', 'experiments.benchmarks.peers.worker', name],
      cwd=pathlib.Path(__file__).parents[2],
      env=environment,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=self._log,
      text=True,
    )

  def ask(self, **question) -> dict:
    """The answer to a request; see `experiments.benchmarks.peers.worker`. Raises WorkerDied."""
    try:
      self._process.stdin.write(json.dumps(question) + '\n')
      self._process.stdin.flush()
      answer = self._process.stdout.readline()
    except OSError:
      answer = ''
    if not answer:
      status = self._process.wait()
      self._log.seek(0)
      last = (self._log.read().strip().splitlines() or [''])[-1]
      raise WorkerDied(f'its process ended with status {status} {last[:200]}'.rstrip())
    return json.loads(answer)

  def close(self):
    """Ends the process."""
    self._process.kill()
    self._process.wait()
    for file in (self._process.stdin, self._process.stdout, self._log):
      with contextlib.suppress(BrokenPipeError):  # a request that a dead process never read
        file.close()


def cases(smoke: bool = False, shapes: tuple = ()) -> list[peers.Case]:
  """All that is measured, from small to large; or layers of the given shapes, (B, T, D, H)."""
  usual, tutorial = ((TINY,), TINY) if smoke else (SHAPES, TUTORIAL)
  found = []
  for shape, cell in itertools.product(shapes or usual, ('lstm', 'gru')):
    variants = [{'dropout': dropout} for dropout in peers.DROPOUTS]
    if shape[0] > 1:
      variants.insert(1, {'lengths': True})
    for what in ('forward', 'gradient'):
      found += [peers.Case(what, cell, *shape, **variant) for variant in variants]
      if shape == tutorial:
        found += [
          peers.Case(what, cell, *shape, lengths=lengths, bidirectional=True)
          for lengths in (False, True)
        ]
    if shape == tutorial:
      found += [peers.Case('training', cell, *shape, **variant) for variant in variants]
  if shapes:
    return [case for case in found if case.what != 'training']
  for name, cell in itertools.product(peers.TEXTS, ('lstm', 'gru')):
    if smoke == (name == 'tiny'):
      found.append(peers.Case('text', cell, *peers.TEXTS[name][:4], text=name))
  for what, cell in itertools.product(('pairs', 'greedy'), ('lstm', 'gru')):
    name = 'tiny-pairs' if smoke else 'multi30k'
    found.append(peers.Case(what, cell, *pairs.PAIRS[name][:4], text=name))
  return found


def measure(case: peers.Case, workers: dict[str, Worker], rounds: int) -> tuple[dict, dict]:
  """Seconds and memory of `case` by worker, and errors by worker.

  A worker that died is removed from `workers`.
  """
  found, errors = {}, {}

  def ask(name, **question):
    try:
      answer = workers[name].ask(**question)
    except WorkerDied as error:
      workers.pop(name).close()
      answer = {'error': str(error)}
    if 'error' in answer:
      errors[name] = answer['error']
      found.pop(name, None)
      return None
    return answer

  for name in list(workers):
    if name == 'matmul' or peers.PEERS[name].can(case):
      answer = ask(name, build=case)
      if answer:
        repeats = 1 if name == 'matmul' else case.repeats
        calls = math.ceil(ROUND / (answer['seconds'] * repeats))
        found[name] = answer | {'calls': calls, 'times': []}
  ours = found.get('rnnlab', {}).get('loss')
  for name in [name for name in found if ours is not None and found[name].get('loss') is not None]:
    if abs((loss := found[name]['loss']) - ours) > SAME * abs(ours):
      errors[name] = f"it computes something else: {loss:.6g}, while rnnlab's is {ours:.6g}"
      found.pop(name)
  for number in range(rounds):
    for name in list(found)[:: (-1) ** number]:
      calls = found[name]['calls']
      answer = (calls == 1 or ask(name, calls=1)) and ask(name, calls=calls)
      if answer:
        found[name]['times'].append(answer['seconds'])
  return found, errors


def rows(case: peers.Case, found: dict, rounds: int) -> list[dict]:
  """The rows of speed.csv for a case."""
  from_matmul = found.get('matmul')
  ceiling = matmul.FLOPS / np.median(from_matmul['times']) if from_matmul else math.nan
  ours = np.median(found['rnnlab']['times']) if 'rnnlab' in found else math.nan
  made = []
  for name, answer in found.items():
    if name == 'matmul':
      continue
    q25, median, q75 = np.quantile(answer['times'], [0.25, 0.5, 0.75])
    made.append(
      {'library': name, 'case': case.name, **case._asdict()}
      | {'median_ms': 1e3 * median, 'q25_ms': 1e3 * q25, 'q75_ms': 1e3 * q75}
      | {'times_rnnlab': median / ours, 'gflops': peers.flops(case) / median / 1e9}
      | {'ceiling_gflops': ceiling / 1e9, 'share_of_ceiling': peers.flops(case) / median / ceiling}
      | {'tokens_s': peers.tokens(case) / median}
      | {'memory_mb': answer['memory_mb'], 'compile_s': answer['compile_s']}
      | {'rounds': rounds, 'calls': answer['calls'], 'versions': peers.PEERS[name].versions()}
    )
  return made


def chosen(words) -> list[str]:
  """The libraries that `--peers` asks for, rnnlab first; raises ValueError for an unknown one."""
  names = ['rnnlab']
  for word in words:
    of_word = [n for n in peers.PEERS if n == word or n.startswith(f'{word}-')]
    if not of_word:
      known = [*dict.fromkeys(n.partition('-')[0] for n in peers.PEERS if n != 'rnnlab')]
      near = cells.near(word, known)
      raise ValueError(f'there is no peer {word!r}{near}; peers: {", ".join(known)}')
    names += [name for name in of_word if name not in names]
  return names


def shape(word: str) -> tuple[int, ...]:
  """The sizes in a word of `--shapes`; raises ValueError if it is none."""
  sizes = word.split('x')
  if len(sizes) != 4 or not all(size.isdecimal() and int(size) for size in sizes):
    raise ValueError(f'--shapes={word} is not of four sizes from 1 on, as 20x35x650x650')
  return tuple(map(int, sizes))


def main(_):
  jax.config.update('jax_platforms', 'cpu')  # here only to ask for the device
  console = rich.console.Console(width=None if sys.stdout.isatty() else 190, highlight=False)
  args = flags.FLAGS
  try:
    names = chosen(args.peers if args.peers is not None else peers.PEERS)
    every = cases(args.smoke, tuple(map(shape, args.shapes)))
    todo = [c for c in every if any(w in c.name for w in args.cases or [''])]
    if not todo:
      raise ValueError(f'no case has {" or ".join(args.cases)} in its name; one is {every[0].name}')
    hold_cores(args.cores)
  except ValueError as error:
    print(f'experiments.benchmarks.speed: {error}', file=sys.stderr)
    sys.exit(2)
  out = pathlib.Path(args.out)
  out.mkdir(parents=True, exist_ok=True)
  commit = provenance.commit()  # before files change, which may be the repository's own
  notes = []

  def say(words):
    notes.append(words)
    console.print(words, markup=False, soft_wrap=True)

  for name in list(names):
    if missing := peers.PEERS[name].missing():
      names.remove(name)
      what = 'not installed' if missing == [name] else f'{", ".join(missing)} not installed'
      say(f'{name}: {what}, skipped; pip install -r experiments/benchmarks/peers.txt')
  table, stopped = run(todo, names, args.rounds, console, say)
  if not table:
    sys.exit(130 if stopped else 1)
  table = pd.DataFrame(table)
  disk.write_atomic(out / 'speed.csv', table.to_csv(index=False))
  about = [
    f'Command: `{COMMAND}`',
    f'Device: {provenance.device()}; commit {commit}',
    *(f'{name}: {peers.PEERS[name].versions()}' for name in names),
    *notes,
  ]
  files = speed_report.write(table, about, out)
  for part in speed_report.tables(table):
    console.print(part)
  console.print(speed_report.ceiling(table), markup=False, soft_wrap=True)
  console.print(f'in {out}: speed.csv, {files}', markup=False, soft_wrap=True)
  sys.exit(130 if stopped else 0)


def hold_cores(count):
  """Limits this process, and those it starts, to `count` cores."""
  available = provenance.cores()
  if count is None:
    return
  if count > len(available):
    raise ValueError(f'--cores={count}, but only {len(available)} are available')
  if not hasattr(os, 'sched_setaffinity'):
    raise ValueError('--cores needs Linux')
  os.sched_setaffinity(0, available[:count])


def run(todo, names, rounds, console, say) -> tuple[list[dict], bool]:
  """Measures the cases; returns the rows, and whether Ctrl-C ended it."""
  made, workers, start = [], {}, time.monotonic()
  able = {case: ['matmul', *(n for n in names if peers.PEERS[n].can(case))] for case in todo}
  # The expected time of a library's turns: 3 s to compile, then the rounds at 100 GFLOP/s.
  cost = {
    case: len(able[case]) * (3 + (rounds + 3) * max(ROUND, case.repeats * peers.flops(case) / 1e11))
    for case in todo
  }
  bar = rich.progress.Progress(
    *('{task.description}', rich.progress.BarColumn(), '{task.percentage:>3.0f}%'),
    '{task.fields[left]}',
    console=console,
    transient=True,
    disable=not console.is_terminal,
  )
  task = bar.add_task('', total=sum(cost.values()), left='')
  done = 0
  try:
    with bar:
      for case in todo:
        bar.update(task, description=case.name)
        for name in ('matmul', *names):
          if name not in workers:
            workers[name] = Worker(name)
        found, errors = measure(case, workers, rounds)
        made += rows(case, found, rounds)
        for name, error in errors.items():
          say(f'{name}: {case.name} failed: {error}')
        done += cost[case]
        elapsed = time.monotonic() - start
        left = f'{progress.clock(elapsed / done * (sum(cost.values()) - done))} left'
        bar.update(task, completed=done, left=left)
        share = done / sum(cost.values())
        times = ', '.join(
          f'{row["library"]} {speed_report.number(row["median_ms"])}'
          for row in made
          if row['case'] == case.name
        )
        head = f'[{progress.clock(elapsed)}] {share:4.0%} {left}'
        console.print(f'{head} | {case.name}, ms: {times}', markup=False, soft_wrap=True)
  except KeyboardInterrupt:
    say(f'stopped after {len({row["case"] for row in made})} of {len(todo)} cases')
    return made, True
  finally:
    for worker in workers.values():
      worker.close()
  return made, False


if __name__ == '__main__':
  app.run(main)
