"""The benchmark of sweeps: its peer does the same work, and its report."""

import subprocess
import sys

import pandas as pd
import pytest
from programs import ROOT

from experiments import imdb
from experiments.benchmarks import sweeps
from experiments.benchmarks.peers import loop


def test_the_loop_trains_the_tutorial_s_model():
  """Parameters counted by hand: an embedding, gates of D, H and a bias (GRU's two), a head."""
  config = imdb.get_config('tutorial').to_dict()
  around = 10_000 * 128 + 64 + 1
  lstm, gru = (loop.build(cell, config) for cell in sweeps.CELLS)
  assert lstm.count_params() == around + 4 * 64 * (128 + 64 + 1)
  assert gru.count_params() == around + 3 * 64 * (128 + 64 + 2)
  for model in (lstm, gru):
    assert model.layers[1].dropout == model.layers[1].recurrent_dropout == 0.2
    assert float(model.optimizer.learning_rate) == pytest.approx(1e-3)
    assert model.optimizer.epsilon == 1e-7


def test_the_table_tells_each_way_s_time_and_what_the_others_take():
  names = 'way', 'seconds', 'seconds_per_run', 'lstm_accuracy', 'gru_accuracy'
  rows = [
    dict(zip(names, (way, seconds, seconds / 20, 0.84, 0.85), strict=True))
    for way, seconds in (('keras-jax', 80.0), ('serial', 40.0), ('process', 20.0))
  ]
  table = sweeps.compared(rows)
  assert list(table['times_loop']) == [1, 2, 4] and list(table['times_serial']) == [0.5, 1, 2]
  assert list(sweeps.grid(rows)['keras-jax takes']) == ['1.00 x', '2.00 x', '4.00 x']
  assert list(sweeps.grid(rows[2:])['serial takes']) == ['']


@pytest.mark.long
def test_a_small_benchmark_measures_every_way(for_a_user, tmp_path):
  words = f'--out={tmp_path}', '--seeds=1', '--epochs=1', '--examples=100'
  done = subprocess.run(
    [sys.executable, '-m', 'experiments.benchmarks.sweeps', *words],
    cwd=ROOT,
    env=for_a_user,
    timeout=1800,
  )
  assert done.returncode == 0
  table = pd.read_csv(tmp_path / 'sweeps.csv')
  assert list(table['way']) == sweeps.WAYS and (table['seconds'] > 0).all()
  assert 'serial takes' in (tmp_path / 'summary.md').read_text()
