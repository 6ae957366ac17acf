"""`launch.py --help`: a page that leaves nothing out, and the fields of an experiment."""

import re
import runpy
import shlex
import subprocess
import sys

import pytest
from programs import ROOT

from rnnlab.console import usage
from rnnlab.runs import configs
from rnnlab.sweeps import executors

LAUNCH = (ROOT / 'rnnlab' / 'launch.py').read_text()
IMDB = ROOT / 'experiments' / 'imdb.py'


@pytest.fixture
def help_of(tmp_path):
  """The output of launch.py --help with `words`, when heavy packages can't be imported."""
  for name in ('jax', 'pandas', 'scipy', 'orbax', 'flax', 'matplotlib'):
    (tmp_path / f'{name}.py').write_text('raise ImportError("too heavy")\n')

  def run(*words):
    done = subprocess.run(
      [sys.executable, ROOT / 'launch.py', *words],
      cwd=tmp_path,
      env={'PYTHONPATH': str(tmp_path)},
      capture_output=True,
      text=True,
      timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, '')
    return done.stdout

  return run


def fields_in(page):
  """The flags of a page's fields, as a shell parses them."""
  return shlex.split(page.partition('Its fields\n')[2], comments=True)


def test_help_is_a_page_of_all_flags_and_executors_and_of_no_others(help_of):
  page = help_of('--help')
  flags = set(re.findall(r"DEFINE_\w+\(\s*'(\w+)'", LAUNCH))
  assert len(flags) > 10
  named = {name.removeprefix('no') for name in re.findall(r'--(?!config\.)(\w+)', page)}
  assert named == flags | {'config', 'help'}
  for name in executors.NAMES:
    assert re.search(rf'^ +{name}  ', page, re.M)
  assert max(map(len, page.splitlines())) <= 80 and len(page.splitlines()) < 60


def test_help_of_an_experiment_has_its_words_and_each_field_as_it_is(help_of):
  page = help_of(f'--config={IMDB}:smoke', '-h', '--config.data.dir=a place', '--config.seed=7')
  page, _, experiment = page.partition('LSTM against GRU on IMDB reviews')
  assert page.strip() == help_of('--help').strip()
  page = experiment
  config = runpy.run_path(str(IMDB))['get_config']('smoke')
  config.update({'data': {'dir': 'a place'}, 'seed': 7})
  fields = configs.flat(config).items()
  expected = {f'--config.{name}={value}' for name, value in fields if value is not None}
  assert len(expected) > 30
  assert sorted(fields_in(page)) == sorted(expected)
  assert re.search(
    r'^  --config.model.cell=lstm +# any file in rnnlab/cells/, or package.module:name$', page, re.M
  )
  assert re.search(
    r'^  # --config.model.gru.reset=: after \| before; None: set by init', page, re.M
  )
  names = 'seed', 'task.name', 'model.cell', 'data.source'
  order = [page.index(f'--config.{name}=') for name in names]
  assert order == sorted(order)


def test_the_fields_can_be_given_as_they_are_shown(help_of):
  page = help_of('--help', f'--config={IMDB}:tutorial', '--config.model.truncate=(5, 20)')
  assert help_of('--help', f'--config={IMDB}', *fields_in(page)) == page


def test_a_field_s_comment_is_where_it_is_first_set_also_in_an_imported_file(tmp_path, monkeypatch):
  (tmp_path / 'base_of_all.py').write_text('config.a = 1  # the first\nconfig.b = "#1"\n')
  path = tmp_path / 'mine.py'
  path.write_text('import base_of_all\nconfig.a = 2  # why two\nconfig.c = 0  # mine\n')
  fields = {'a': 2, 'b': '#1', 'c': 0, 'unsaid.d': None}
  monkeypatch.setitem(sys.modules, 'base_of_all', type(sys)('base_of_all'))
  sys.modules['base_of_all'].__file__ = str(tmp_path / 'base_of_all.py')
  lines = [line.split() for line in usage.page(path, fields, {}).splitlines()]
  assert lines == [
    ['mine.py'],
    [],
    ['Its', 'fields'],
    ['--config.a=2', '#', 'the', 'first'],
    ["--config.b='#1'"],
    ['--config.c=0', '#', 'mine'],
    ['#', '--config.unsaid.d='],
  ]


def test_a_mistake_beside_help_is_told(tmp_path):
  words = [sys.executable, ROOT / 'launch.py', '--help', f'--config={IMDB}:smok']
  done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
  assert done.returncode == 2 and done.stdout == '' and "did you mean 'smoke'" in done.stderr
