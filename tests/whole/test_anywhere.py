"""From an empty folder: the installed package, one's own data and cell, one command."""

import csv
import importlib.util
import os
import random
import shutil
import subprocess
import sys
import tomllib

import nbclient
import nbformat
import pandas as pd
import pytest
from programs import ROOT

CLASSES = '好', '差', '中'
EXPERIMENT = """
import rnnlab


def get_config():
  config = rnnlab.configs.default('classification')
  config.data.path = 'sentences.csv'
  config.data.tokens = 'characters'
  config.data.max_len = 12
  config.data.buckets = 1
  config.model.hidden_size = 8
  config.model.embed_size = 8
  config.model.pooling = 'max'
  config.model.dropout = config.model.recurrent_dropout = 0.0
  config.optim.learning_rate = 0.03
  config.train.epochs = 6
  return config


def sweep(add):
  for cell in ('gru', 'mine.cells:leaky'):
    add({'model.cell': cell})
"""
CELL = """
import jax.numpy as jnp
import rnnlab


def leaky(hidden_size):
  inner = rnnlab.elman(hidden_size)

  def step(params, h, x_t, dot):
    new, _ = inner.step(params, h, x_t, dot)
    h = (h + new) / 2
    return h, h

  return inner._replace(step=step, name='leaky')
"""


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
  """A folder like an installation: only the package, and the command `rnnlab`."""
  site = tmp_path_factory.mktemp('site')
  shutil.copytree(ROOT / 'rnnlab', site / 'rnnlab', ignore=shutil.ignore_patterns('__pycache__'))
  scripts = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['scripts']
  module, _, function = scripts['rnnlab'].partition(':')
  (site / 'bin').mkdir()
  (site / 'bin' / 'rnnlab').write_text(
    f'import sys\nfrom {module} import {function}\n'
    f"if __name__ == '__main__':\n  sys.exit({function}())\n"
  )
  return site


@pytest.fixture
def home(tmp_path):
  """A folder with sentences, where each class has a character of its own; and a cell."""
  draw = random.Random(0)
  rows = []
  for i in range(150):
    words = draw.choices('这部电影的故事和演员都很', k=draw.randint(3, 8))
    words.insert(draw.randrange(len(words)), CLASSES[i % 3])
    rows.append((''.join(words), f'class {i % 3}'))
  with open(tmp_path / 'sentences.csv', 'w', newline='', encoding='utf-8') as file:
    csv.writer(file).writerows([('text', 'label'), *rows])
  (tmp_path / 'mine').mkdir()
  (tmp_path / 'mine' / 'cells.py').write_text(CELL)
  (tmp_path / 'experiment.py').write_text(EXPERIMENT)
  return tmp_path


@pytest.fixture
def run(installed, home, environment):
  """Runs a program in that folder, which finds the package where it is installed."""
  env = environment | {'PYTHONPATH': str(installed)}

  def run(*words, check=0):
    done = subprocess.run(
      [sys.executable, *map(str, words)],
      cwd=home,
      env=env,
      capture_output=True,
      text=True,
      timeout=300,
    )
    assert done.returncode == check, done.stdout + done.stderr
    return done

  return run


EXECUTORS = [
  pytest.param('serial', marks=pytest.mark.slow),
  pytest.param('process', marks=pytest.mark.slow),
  pytest.param(
    'ray',
    marks=[
      pytest.mark.slow,
      pytest.mark.skipif(not importlib.util.find_spec('ray'), reason='Ray is optional'),
    ],
  ),
]


@pytest.mark.parametrize('executor', EXECUTORS)
def test_one_command_trains_reports_and_another_predicts(run, home, installed, executor):
  done = run(installed / 'bin' / 'rnnlab', '--config=experiment.py', f'--executor={executor}')
  told = done.stdout
  assert '3 classes in train: class' in told and 'lengths in train' in told
  workdir = home / 'runs' / 'experiment'
  runs = pd.read_csv(workdir / 'runs.csv')
  assert sorted(runs['model.cell']) == ['gru', 'mine.cells:leaky']
  assert runs['best_test_accuracy'].min() > 0.9
  assert 'Confusion matrix' in (workdir / 'report.html').read_text()
  new = pd.DataFrame({'number': [7, 8, 9], 'text': ['这部电影好', '故事很差', '演员中的演员']})
  new.to_csv(home / 'new.csv', index=False)
  words = '--input', 'new.csv', '--out', 'predictions.csv'
  run('-m', 'rnnlab.predict', workdir / runs['id'][0], *words)
  predicted = pd.read_csv(home / 'predictions.csv')
  assert predicted[['number', 'text']].equals(new)
  assert predicted['predicted_label'].tolist() == ['class 0', 'class 1', 'class 2']


def test_without_an_experiment_it_says_how_to_begin(run, installed):
  done = run(installed / 'bin' / 'rnnlab', check=2)
  assert done.stderr.startswith('rnnlab: which experiment?') and 'Traceback' not in done.stderr
  assert "rnnlab.configs.default('classification')" in done.stderr
  done = run(installed / 'bin' / 'rnnlab', '--status', check=2)
  assert 'give --workdir=DIR' in done.stderr
  done = run(installed / 'bin' / 'rnnlab', '--status', '--workdir=none', check=2)
  assert 'none' in done.stderr and 'Traceback' not in done.stderr


@pytest.mark.slow
def test_a_notebook_does_the_same(home, installed, environment, monkeypatch):
  for name, value in (environment | {'PYTHONPATH': str(installed)}).items():
    monkeypatch.setenv(name, value)
  code = [
    'import rnnlab\nfrom experiment import get_config',
    "runs = rnnlab.sweep(get_config(), [{'model.cell': 'gru', 'seed': 1}], 'done')",
    "again = rnnlab.sweep(get_config(), [{'model.cell': 'gru', 'seed': 1}], 'done')",
    "assert again['finished'].equals(runs['finished']), 'done twice'",
    "float(runs['best_test_accuracy'][0])",
  ]
  notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(of) for of in code])
  resources = {'metadata': {'path': str(home)}}
  nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()
  assert float(notebook.cells[-1].outputs[-1]['data']['text/plain']) > 0.9
  assert os.path.exists(home / 'done' / 'sweep.json')
