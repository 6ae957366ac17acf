"""The benchmark: a small one as a user runs it, its counts, and what it does if peers fail."""

import subprocess
import sys

import jax
import numpy as np
import pandas as pd
import pytest
from programs import ROOT

import rnnlab
from experiments.benchmarks import peers, speed, speed_report
from experiments.benchmarks.peers import flax as flax_peer
from experiments.benchmarks.peers import pairs
from rnnlab import recurrence

with pytest.MonkeyPatch.context() as patch:
  # It would ask for a device per core: here there are always two.
  patch.setattr(rnnlab, 'use_cores', lambda: None)
  from experiments.benchmarks.peers import rnnlab as rnnlab_peer


@pytest.mark.slow
def test_a_small_benchmark_measures_what_is_installed_and_names_what_is_not(environment, tmp_path):
  hide = tmp_path / 'hide'
  hide.mkdir()
  (hide / 'sitecustomize.py').write_text("import sys\nsys.modules['haiku'] = None\n")
  cases = 'lstm forward 2x6x4x3 lengths,gru training 2x6x4x3 dropout shared'
  done = subprocess.run(
    [
      sys.executable,
      '-m',
      'experiments.benchmarks.speed',
      '--smoke',
      '--rounds=3',
      '--peers=flax,haiku',
    ]
    + [f'--cases={cases}', f'--out={tmp_path / "out"}'],
    env=environment | {'PYTHONPATH': str(hide)},
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  assert (
    'haiku: not installed, skipped; pip install -r experiments/benchmarks/peers.txt' in done.stdout
  )
  assert '100%' in done.stdout and 'left' in done.stdout and 'GFLOP/s' in done.stdout

  table = pd.read_csv(tmp_path / 'out' / 'speed.csv')
  first, second = cases.split(',')
  # Flax has no recurrent dropout, so it has no row for the second.
  assert list(zip(table['library'], table['case'], strict=True)) == [
    ('rnnlab', first),
    ('flax', first),
    ('rnnlab', second),
  ]
  assert (table['q25_ms'] <= table['median_ms']).all() and (table['q25_ms'] > 0).all()
  assert (table['median_ms'] <= table['q75_ms']).all()
  # By hand: rows of 3 and 6 real steps, each (4 + 3) x 12 weights.
  work = 2 * 9 * (4 + 3) * 12
  np.testing.assert_allclose(table['gflops'][:2] * table['median_ms'][:2], work / 1e6)
  share = table['gflops'] / table['ceiling_gflops']
  np.testing.assert_allclose(table['share_of_ceiling'], share)
  assert table['times_rnnlab'][0] == 1 and 0 < share.max() < 1
  assert (table['compile_s'] > 0.01).all()
  assert table['versions'][1].startswith('flax 0.')

  summary = (tmp_path / 'out' / 'summary.md').read_text()
  assert 'python -m experiments.benchmarks.speed --smoke' in summary and 'speed.png' in summary
  assert 'haiku: not installed' in summary and 'Device: ' in summary
  assert (tmp_path / 'out' / 'speed.png').read_bytes().startswith(b'\x89PNG')


def test_a_table_has_the_libraries_of_its_cases_and_bold_is_the_fastest():
  def row(library, what, ms, share):
    ours = {'library': library, 'case': f'gru {what} 1x2x3x4', 'cell': 'gru', 'what': what}
    return ours | {
      **{'median_ms': ms, 'q25_ms': ms - 1, 'q75_ms': ms + 2},
      **{'gflops': 199.0, 'share_of_ceiling': share, 'tokens_s': 0.0},
    }

  table = [row('rnnlab', 'forward', 20.0, 1.06), row('haiku', 'forward', 10.0, 0.5)]
  grids = speed_report.grids(pd.DataFrame([*table, row('rnnlab', 'gradient', 300.0, 0.076)]))
  assert [speed_report.markdown(grid).splitlines()[::2] for grid in grids.values()] == [
    [
      '|  | rnnlab | haiku | rnnlab GFLOP/s |',
      '| GRU 1x2x3x4 | 20.0 ± 1.5 | **10.0** ± 1.5 | 199 (106%) |',
    ],
    ['|  | rnnlab | rnnlab GFLOP/s |', '| GRU 1x2x3x4 | 300 ± 2 | 199 (8%) |'],
  ]


@pytest.mark.slow
def test_long_sequences_are_measured_with_each_option(environment, tmp_path):
  done = subprocess.run(
    [
      sys.executable,
      '-m',
      'experiments.benchmarks.long',
      '--smoke',
      '--rounds=2',
      f'--out={tmp_path}',
    ],
    env=environment,
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  table = pd.read_csv(tmp_path / 'long.csv')
  options = ['plain', 'remat', 'truncate', 'truncate, remat']
  assert list(table['options']) == options and set(table['steps']) == {9}
  assert (table['q25_ms'] <= table['median_ms']).all() and (table['q25_ms'] > 0).all()
  assert (table['memory_mb'] > 0).all() and (table['compile_s'] > 0.01).all()
  summary = (tmp_path / 'summary.md').read_text()
  assert 'python -m experiments.benchmarks.long --smoke' in summary and 'commit ' in summary
  assert all(f'{option}: MB' in summary for option in options) and '| 9 |' in summary


@pytest.mark.parametrize('cell', ['lstm', 'gru'])
def test_the_operations_counted_are_those_of_the_products_in_a_step(cell):
  made = rnnlab.cells.get(cell, hidden_size=64)
  params = jax.eval_shape(lambda key: made.init(key, 128), jax.random.key(0))
  a_step = sum(2 * p.width * p.gates * 64 for p in recurrence.products(made, params, 128))
  case = peers.Case('forward', cell, 32, 200, 128, 64)
  assert peers.flops(case) == 32 * 200 * a_step
  assert peers.flops(case._replace(what='gradient', bidirectional=True)) == 6 * peers.flops(case)
  padded = case._replace(lengths=True)
  assert peers.flops(padded) == peers.data(padded).lengths.sum() * a_step


@pytest.mark.parametrize('peer', [rnnlab_peer, flax_peer])
def test_gradients_are_those_of_parameters_and_inputs_at_real_steps(peer):
  case = peers.Case('gradient', 'gru', 3, 8, 4, 5, lengths=True)
  call, repeats = peer.build(case)
  params, xs = call()
  assert repeats == 1 and all(np.any(leaf) for leaf in jax.tree.leaves(params))
  real = np.arange(8) < peers.data(case).lengths[:, None]
  assert np.array_equal(np.any(np.asarray(xs), axis=-1), real) and not real.all()


@pytest.mark.parametrize('cell', ['lstm', 'gru'])
def test_a_language_models_operations_are_those_of_its_layers_and_of_its_output(cell):
  case = peers.Case('text', cell, *peers.TEXTS['tiny'][:4], text='tiny')
  gates = {'lstm': 4, 'gru': 3}[cell]
  # For 2 x 6 tokens: 4 inputs and two layers of 3 units, then 11 logits; thrice for gradients.
  assert peers.flops(case) == 3 * 2 * 12 * ((4 + 3 + 3 + 3) * gates * 3 + 3 * 11)


@pytest.mark.parametrize('peer', [rnnlab_peer, pytest.param(flax_peer, marks=pytest.mark.slow)])
def test_a_language_model_takes_its_steps_again_and_again(peer):
  case = peers.Case('text', 'lstm', *peers.TEXTS['tiny'][:4], text='tiny')
  call, repeats = peer.build(case)
  call()
  call()
  assert repeats == peers.WINDOWS


@pytest.mark.parametrize('cell', ['lstm', 'gru'])
def test_a_translators_operations_are_those_of_its_products(cell):
  case = peers.Case('pairs', cell, *pairs.PAIRS['tiny-pairs'][:4], text='tiny-pairs')
  gates = {'lstm': 4, 'gru': 3}[cell]
  read = np.mean([batch.source_lengths.sum() for batch in pairs.batches(pairs.PAIRS[case.text])])
  # Two rows, of 2 and 6 tokens. For a source: 4 inputs and 3 units, both ways, and keys of 6
  # values; for a target: 4 inputs, 6 values and 3 units, a query, an output of 3 and 6, and 9
  # logits.
  of_source = 2 * 7 * gates * 3 + 6 * 3
  of_target = 13 * gates * 3 + 3 * 3 + 9 * 3 + 3 * 9
  assert read == 8 and peers.tokens(case) == 8
  assert peers.flops(case) == 6 * 8 * (of_source + of_target)
  greedy = case._replace(what='greedy')
  assert peers.flops(greedy) == 2 * peers.tokens(greedy) * (of_source + of_target)


@pytest.mark.slow
def test_a_translator_trains_and_translates_and_says_what_must_be_the_same():
  found = {}
  for what in ('pairs', 'greedy'):
    case = peers.Case(what, 'gru', *pairs.PAIRS['tiny-pairs'][:4], text='tiny-pairs')
    call, repeats = rnnlab_peer.build(case)
    found[what] = call()
    assert call() == found[what] and repeats == case.repeats
  # Of nine ids two are never output, and no weight is large.
  assert found['pairs'] == pytest.approx(np.log(9), rel=0.2)
  tokens = peers.tokens(case)
  assert -1.3 * np.log(9) * tokens < found['greedy'] < 0


def test_a_library_that_computes_something_else_is_left_out():
  class Answers:
    def __init__(self, loss):
      self.loss = loss

    def ask(self, **question):
      return {'seconds': 1.0, 'loss': self.loss, 'memory_mb': None, 'compile_s': 0.0}

  case = peers.Case('pairs', 'gru', *pairs.PAIRS['tiny-pairs'][:4], text='tiny-pairs')
  workers = {'rnnlab': Answers(2.0), 'torch': Answers(2.1), 'matmul': Answers(None)}
  found, errors = speed.measure(case, workers, rounds=1)
  assert list(found) == ['rnnlab', 'matmul']
  assert errors == {'torch': "it computes something else: 2.1, while rnnlab's is 2"}
  workers['torch'] = Answers(2.0001)
  assert speed.measure(case, workers, rounds=1)[1] == {}


@pytest.mark.slow
def test_a_process_that_dies_is_said_and_the_others_go_on():
  workers = {'matmul': speed.Worker('matmul'), 'rnnlab': speed.Worker('rnnlab')}
  workers['rnnlab']._process.kill()
  (case,) = (c for c in speed.cases(smoke=True) if c.name == 'gru forward 2x6x4x3')
  try:
    found, errors = speed.measure(case, workers, rounds=2)
    assert list(found) == list(workers) == ['matmul'] and len(found['matmul']['times']) == 2
    assert 'status -9' in errors['rnnlab']
    assert speed.rows(case, found, 2) == []
  finally:
    for worker in workers.values():
      worker.close()


def test_peers_are_chosen_by_name():
  assert speed.chosen(['torch', 'keras']) == ['rnnlab', 'torch', 'keras-jax', 'keras-tensorflow']
  with pytest.raises(ValueError, match="no peer 'troch' .did you mean 'torch'"):
    speed.chosen(['troch'])


def test_cases_go_from_the_smallest_shape_over_the_tutorials_to_the_largest():
  found = speed.cases()
  assert len(set(c.name for c in found)) == len(found)
  assert [c.text for c in found] == sorted((c.text for c in found), key=bool)
  layers = [c[2:6] for c in found if not c.text]
  assert layers == sorted(layers)
  for cell in ('lstm', 'gru'):
    assert {c.dropout for c in found if c.what == 'training' and c.cell == cell} == {
      'none',
      'shared',
      'per gate',
    }


def test_layers_of_any_shape_are_cases():
  found = speed.cases(shapes=(speed.shape('8x50x32x64'), speed.shape('1x2x3x4')))
  assert {c[2:6] for c in found} == {(8, 50, 32, 64), (1, 2, 3, 4)}
  assert {c.what for c in found} == {'forward', 'gradient'}
  for word in ('8x50x32', '8x50x32x0', '8x50xax64', '8x50x32x-1'):
    with pytest.raises(ValueError, match=f'--shapes={word} is not of four sizes'):
      speed.shape(word)


@pytest.mark.slow
def test_cells_are_measured_and_told(environment, tmp_path):
  words = '-m', 'experiments.benchmarks.cells', '--smoke', '--rounds=2', f'--out={tmp_path}'
  done = subprocess.run(
    [sys.executable, *words], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300
  )
  assert done.returncode == 0, done.stdout + done.stderr
  table = pd.read_csv(tmp_path / 'cells.csv')
  layers, lengths = table[:3], table[3:]
  assert list(layers['cell']) == ['lstm', 'gru', 'mingru'] and set(layers['backend']) == {'auto'}
  assert list(layers['parameters']) == [4 * 3 * 8, 3 * 3 * 8 + 3, 2 * 3 * 5]  # as cells/README.md
  found = set(zip(lengths['steps'], lengths['backend'], strict=True))
  assert found == {(t, b) for t in (5, 9) for b in ('scan', 'parallel')}
  assert (table['q25_ms'] <= table['median_ms']).all() and (table['q25_ms'] > 0).all()
  assert table['command'].str.startswith('python -m experiments.benchmarks.cells --smoke').all()
  summary = (tmp_path / 'summary.md').read_text()
  assert '| `gru` |' in summary and 'mingru: all steps at once are' in summary


@pytest.mark.slow
def test_a_benchmark_of_unknown_cells_or_lengths_says_so(environment):
  for word, said in (('--cells=grru', "did you mean 'gru'?"), ('--lengths=0', '1 or more')):
    done = subprocess.run(
      [sys.executable, '-m', 'experiments.benchmarks.cells', word],
      env=environment,
      cwd=ROOT,
      capture_output=True,
      text=True,
      timeout=300,
    )
    assert done.returncode == 2 and said in done.stderr and 'Traceback' not in done.stderr
