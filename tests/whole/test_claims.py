"""A sweep over two tasks, with claims on each, as a user launches it."""

import numpy as np
import pandas as pd
import pytest

CODE = """
from rnnlab.runs import configs

BASE = {base!r}


def get_config():
  config = configs.default('regression')
  return fill(config, 'numbers')


def fill(config, name):
  config.data.path = BASE + '/' + name + '.npz'
  config.model.hidden_size = 4
  config.train.epochs = 2
  config.train.batch_size = 8
  return config


def sweep(add):
  for task, name in (('regression', 'numbers'), ('classification', 'classes')):
    config = fill(configs.default(task), name)
    for seed in range(2):
      for cell in ('lstm', 'gru'):
        add({{'task.name': task, 'model.cell': cell, 'seed': seed}}, config)


def claims():
  sides = lambda task: {{
    side: {{'task.name': task, 'model.cell': cell}} for side, cell in (('a', 'lstm'), ('b', 'gru'))
  }}
  return [
    sides('regression') | {{'claim': 'GRU errs less', 'metric': 'best_test_rmse', 'says': 'b < a'}},
    sides('classification')
    | {{'claim': 'GRU has fewer parameters', 'metric': 'parameters', 'says': 'b < a'}}
    | {{'command': 'python launch.py --config=here.py'}},
  ]
"""


@pytest.mark.slow
def test_claims_on_two_tasks_of_one_sweep(forks, tmp_path):
  draw = np.random.default_rng(0)
  inputs = draw.normal(size=(48, 5, 2)).astype(np.float32)
  for name, y in (('numbers', inputs.sum((1, 2))), ('classes', inputs[:, 0, 0] > 0)):
    np.savez(tmp_path / f'{name}.npz', x=inputs, y=y)
  (tmp_path / 'here.py').write_text(CODE.format(base=str(tmp_path)))
  done = forks.run(['--config=here.py', '--workdir=out', '--executor=serial'], tmp_path)
  assert done.returncode == 0, done.stdout + done.stderr
  assert 'GRU has fewer parameters: supported' in done.stdout.decode()
  table = pd.read_csv(tmp_path / 'out' / 'claims.csv').set_index('claim')
  assert list(table['n_a']) == [2, 2] and list(table['a']) == ['LSTM', 'LSTM']
  # With 4 units, a gate has 4 * (2 + 4 + 1), and the candidate of a GRU 4 more biases.
  assert table.loc['GRU has fewer parameters', 'difference'] == 3 * 28 + 4 - 4 * 28
  runs = pd.read_csv(tmp_path / 'out' / 'runs.csv')
  assert set(runs['task']) == {'regression', 'classification'} and len(runs) == 8
  page = (tmp_path / 'out' / 'report.html').read_text()
  end = page.index('What holds')
  assert page.index('<h2>Runs') < end < page.index('python launch.py --config=here.py', end)
  assert (tmp_path / 'out' / 'figures' / 'what_holds.png').exists()
  assert '## What holds' in (tmp_path / 'out' / 'summary.md').read_text()
  groups = pd.read_csv(tmp_path / 'out' / 'summary.csv')['group']
  assert set(groups) == {'LSTM', 'GRU'}  # what distinguishes the tasks is not repeated
