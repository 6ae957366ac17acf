"""Whole programs that are stopped, killed or damaged: nothing is lost, the bits are the same."""

import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import types

import jax.numpy as jnp
import orbax.checkpoint as ocp
import pytest
from programs import ROOT, SWEEP, finals, read_until

from rnnlab.console.words import describe_error
from rnnlab.runs import checkpoint
from rnnlab.training import train

SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ('serial', 'population')]


@pytest.mark.slow
@pytest.mark.parametrize('executor', ['process', *SLOW])
def test_killed_at_random_moments_and_resumed_to_the_bit(executor, whole, start, tmp_path):
  torture(3, 1, start, tmp_path, *SWEEP, f'--executor={executor}')
  assert finals(tmp_path / 'killed') == finals(whole(executor))


@pytest.mark.long
@pytest.mark.parametrize('executor', ['population', 'process', 'serial'])
def test_200_runs_killed_ten_times_end_as_if_unbroken(executor, start, tmp_path):
  experiment = tmp_path / 'many.py'
  experiment.write_text(
    'from experiments.imdb import get_config\n'
    'def sweep(add):\n'
    '  for seed in range(100):\n'
    "    for cell in ('lstm', 'gru'):\n"
    "      add({'model.cell': cell, 'seed': seed})\n"
  )
  words = f'--config={experiment}:smoke', '--config.data.max_examples=200', f'--executor={executor}'
  with open(tmp_path / 'whole.log', 'w') as log:
    assert start(*words, '--workdir=whole', stdout=log, stderr=log).wait() == 0, log.name
  expected = finals(tmp_path / 'whole')
  assert len(expected) == 200
  torture(200, 10, start, tmp_path, *words)
  found = finals(tmp_path / 'killed')
  assert list(found) == list(expected)
  assert not [run for run in expected if found[run] != expected[run]]


def torture(runs, kills, start, folder, *words):
  """Does a sweep of `runs` in folder/killed, relaunched after each of `kills` kills.

  A kill comes a random time after a random checkpoint or result, and the kills are spread over the
  sweep: each run leaves two checkpoints and a result.
  """

  def written():
    killed = folder / 'killed'
    return len([*killed.glob('*/checkpoints/[0-9]*'), *killed.glob('*/result.json')])

  with open(folder / 'killed.log', 'w') as log:
    for kill in range(kills):
      before = written()
      last = before + random.randrange(max(1, (3 * runs - before) // (kills - kill + 1)))
      process = start(*words, '--workdir=killed', stdout=log, stderr=log)
      while written() <= last and process.poll() is None:
        wait(process, 0.02)  # not at once again, which would take a core from the sweep
      wait(process, random.uniform(0, 0.3))
      assert process.poll() is None, f'the sweep ended before it could be killed: {log.name}'
      process.send_signal(signal.SIGKILL)
      process.wait()
    assert start(*words, '--workdir=killed', stdout=log, stderr=log).wait() == 0, log.name


def wait(process, seconds):
  with contextlib.suppress(subprocess.TimeoutExpired):
    process.wait(seconds)


@pytest.mark.slow
def test_ctrl_c_saves_says_how_to_go_on_and_resumes_to_the_bit(
  start, launch, environment, tmp_path
):
  words = *SWEEP, '--executor=serial'
  launch(*words, '--workdir=whole', check=0)
  stop(start(*words, '--workdir=stopped', env=environment, **IN_A_TERMINAL), tmp_path)
  launch(*words, '--workdir=stopped', check=0)
  assert finals(tmp_path / 'stopped') == finals(tmp_path / 'whole')


@pytest.mark.slow
@pytest.mark.parametrize('executor', ['process', 'serial', 'population'])
def test_a_sweep_compiled_as_for_a_user_goes_on_to_the_bit_after_ctrl_c(
  executor, whole, start, launch, for_a_user, tmp_path
):
  words = *SWEEP, '--workdir=stopped', f'--executor={executor}'
  stop(start(*words, **IN_A_TERMINAL), tmp_path)
  launch(*words, env=for_a_user, check=0)
  assert finals(tmp_path / 'stopped') == finals(whole(executor))


IN_A_TERMINAL = {'stderr': subprocess.STDOUT, 'start_new_session': True}


def stop(process, folder):
  """Stops a launch in folder/stopped after its first epoch, workers too, as a terminal does."""
  read_until('epoch 1/2', process)
  os.killpg(process.pid, signal.SIGINT)
  output = process.stdout.read()
  assert process.wait() == 130
  assert 'to go on: python' in output and '--workdir=stopped' in output
  assert 'Traceback' not in output
  assert list((folder / 'stopped').glob('*/checkpoints/[0-9]*'))


@pytest.mark.slow
def test_damaged_files_of_a_finished_sweep_are_mended(whole, launch, for_a_user, tmp_path):
  copy = tmp_path / 'sweep'
  shutil.copytree(whole('process'), copy)
  result, last, both = sorted(copy.glob('*/result.json'))
  result.write_text('{"final": ')
  rows = last.parent / 'metrics.jsonl'
  rows.write_text('{"epoch": 1\n\x00\x01\n')
  spoil(max((last.parent / 'checkpoints').glob('[0-9]*'), key=lambda p: int(p.name)))
  both.unlink()
  for step in (both.parent / 'checkpoints').glob('[0-9]*'):
    spoil(step)
  (both.parent / 'config.json').write_text('nothing')
  done = launch(*SWEEP, f'--workdir={copy}', '--executor=process', env=for_a_user, check=0)
  assert finals(copy) == finals(whole('process'))
  said = done.stderr
  assert f'{result} is damaged' in said
  assert f'{rows}: line 1 is damaged' in said
  assert 'is damaged' in said and str(last.parent / 'checkpoints') in said


def spoil(step):
  """Cuts every file of a checkpoint in half."""
  for path in step.rglob('*'):
    if path.is_file():
      path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.slow
def test_an_extended_sweep_does_only_what_is_new(whole, launch, for_a_user, tmp_path):
  copy = tmp_path / 'sweep'
  shutil.copytree(whole('process'), copy)
  before = {path: path.stat().st_mtime_ns for path in copy.glob('cell-*/*') if path.is_file()}
  experiment = tmp_path / 'more.py'
  experiment.write_text(
    'from experiments.imdb import get_config\n'
    'def sweep(add):\n'
    '  for seed in range(4):\n'
    "    add({'model.cell': 'gru', 'seed': seed})\n"
    "  add({'model.cell': 'lstm', 'seed': 0})\n"
  )
  words = f'--config={experiment}:smoke', '--config.data.buckets=1', '--executor=process'
  done = launch(*words, f'--workdir={copy}', env=for_a_user, check=0)
  assert '5 runs, 3 done' in done.stdout
  assert before == {path: path.stat().st_mtime_ns for path in before}
  new = {run for run in finals(copy)} - {run for run in finals(whole('process'))}
  assert sorted(run.rpartition('_')[0] for run in new) == ['cell-gru_seed-3', 'cell-lstm_seed-0']
  assert '5 done, 0 running' in launch('--status', f'--workdir={copy}', check=0).stdout


@pytest.mark.slow
def test_a_clock_that_goes_backwards_does_no_harm(whole, start, launch, for_a_user, tmp_path):
  # Two days back since the first launch, and an hour later at each reading.
  (tmp_path / 'clock').mkdir()
  (tmp_path / 'clock' / 'sitecustomize.py').write_text(
    'import itertools, time\n'
    'looks, real = itertools.count(48), time.time_ns\n'
    'time.time_ns = lambda: real() - next(looks) * 3600 * 10**9\n'
    'time.time = lambda: time.time_ns() / 1e9\n'
  )
  backwards = for_a_user | {'PYTHONPATH': str(tmp_path / 'clock')}
  words = *SWEEP, '--workdir=out', '--executor=process'
  out = tmp_path / 'out'
  process = start(*words)
  read_until('epoch 1/2', process)
  process.send_signal(signal.SIGKILL)
  process.wait()
  launch(*words, env=backwards, check=0)
  assert finals(out) == finals(whole('process'))
  began = min(int(path.name.split('.')[3]) for path in out.glob('*/events.out.tfevents.*'))
  assert began < time.time() - 86400
  before = {path: path.stat().st_mtime_ns for path in out.glob('*/result.json')}
  assert '3 runs, 3 done' in launch(*words, env=backwards, check=0).stdout
  assert before == {path: path.stat().st_mtime_ns for path in out.glob('*/result.json')}
  assert 'left: ' not in launch('--status', '--workdir=out', env=backwards, check=0).stdout


ODD = ['runs [old]', '[!x]', 'back\\slash', 'a*b?', 'sp ace', 'ünï', 'new\nline', '-dash', '%20']
ODD += ['#x', 'a:b', '~', '.hidden', 'a~', 'not UTF-8: \udcff']


@pytest.mark.parametrize('name', ODD)
def test_a_checkpoint_comes_back_from_a_folder_of_any_name(name, tmp_path, monkeypatch):
  monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
  state = train.TrainState(*[jnp.arange(9.0)] * 9)._replace(step=jnp.int32(3))
  folder = tmp_path / 'in' / name / 'checkpoints'
  for step in (1, 3):  # new ones, beside the earlier ones
    with checkpoint.manager(folder) as checkpoints:
      checkpoint.save(checkpoints, state._replace(step=jnp.int32(step)), {'rows': [step]})
  with checkpoint.manager(folder) as checkpoints:
    restored, log = checkpoint.restore(checkpoints, state)
  assert log == {'rows': [3]} and int(restored.step) == 3
  assert restored.params.tolist() == list(range(9))
  assert [path.name for path in tmp_path.iterdir()] == ['in']
  assert [path.name for path in (tmp_path / 'in').iterdir()] == [name]


def test_a_damaged_checkpoint_is_passed_over_without_a_traceback(tmp_path):
  """With many arrays, of which Orbax waits for the first that cannot be read."""
  program = (
    'import pathlib, sys, jax.numpy as jnp\n'
    'from rnnlab.console.words import plain_warnings\n'
    'from rnnlab.runs import checkpoint\n'
    'from rnnlab.training import train\n'
    'plain_warnings()\n'
    'state = train.TrainState(*[jnp.zeros(9)] * 9)\n'
    'state = state._replace(params={str(i): jnp.zeros(9999) for i in range(40)})\n'
    'with checkpoint.manager(sys.argv[1]) as checkpoints:\n'
    '  for step in (1, 2):\n'
    '    checkpoint.save(checkpoints, state._replace(step=jnp.int32(step)), {})\n'
    'for path in pathlib.Path(sys.argv[1]).glob("2/state/**/d/*"):\n'
    '  path.write_bytes(b"")\n'
    'with checkpoint.manager(sys.argv[1]) as checkpoints:\n'
    '  like = state._replace(step=jnp.int32(0))\n'
    '  print(int(checkpoint.restore(checkpoints, like)[0].step))\n'
  )
  words = [sys.executable, '-c', program, tmp_path / 'checkpoints']
  done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=120)
  assert done.stdout == '1\n' and done.returncode == 0, done.stderr
  assert f'{tmp_path}/checkpoints/2 is damaged' in done.stderr
  assert 'Traceback' not in done.stderr


@pytest.mark.parametrize(
  'changed',
  [
    lambda state: {'steps': state.step},
    lambda state: state._replace(params=state.params | {'more': jnp.zeros(1)}),
    lambda state: state._replace(params={'w': jnp.zeros(4)}),
  ],
  ids=['another form', 'more parameters', 'another shape'],
)
def test_a_checkpoint_of_another_version_is_not_called_damaged(changed, tmp_path, monkeypatch):
  """All of them go, and the run begins again."""
  state = train.TrainState(*[jnp.zeros((), jnp.int32)] * 9)._replace(params={'w': jnp.zeros(3)})
  with checkpoint.manager(tmp_path) as checkpoints:
    for step in (1, 2):
      args = ocp.args.Composite(
        state=ocp.args.StandardSave(changed(state)), log=ocp.args.JsonSave({})
      )
      checkpoints.save(step, args=args)
  said = []
  monkeypatch.setattr(checkpoint.logging, 'warning', lambda text, *words: said.append(text % words))
  with checkpoint.manager(tmp_path) as checkpoints:
    assert checkpoint.restore(checkpoints, state) is None
  last, first = said
  assert last.startswith(f'{tmp_path}/2 has another form: rnnlab, the data or the cell')
  assert last.endswith('continuing from the one before it')
  assert first.endswith('the run begins again') and not [*tmp_path.glob('[12]')]


@pytest.mark.parametrize(
  'error',
  [
    PermissionError(errno.EACCES, 'Permission denied'),
    OSError(errno.EMFILE, 'Too many open files'),
    MemoryError(),
    ValueError("PERMISSION_DENIED: Error opening [os_error_code='13']"),
    ValueError("RESOURCE_EXHAUSTED: Too many open files [os_error_code='24']"),
  ],
)
def test_a_checkpoint_that_cannot_be_read_now_is_not_deleted(error, tmp_path, monkeypatch):
  state = train.TrainState(*[jnp.zeros(9)] * 9)._replace(step=jnp.int32(3))

  def fail(*_, **__):
    raise error

  with checkpoint.manager(tmp_path) as checkpoints:
    checkpoint.save(checkpoints, state, {})
    with monkeypatch.context() as patch:
      patch.setattr(checkpoints, 'restore', fail)
      with pytest.raises((OSError, MemoryError)):
        checkpoint.restore(checkpoints, state)
    assert checkpoint.restore(checkpoints, state)


def test_a_checkpoint_that_cannot_be_written_is_the_disk_s_fault(tmp_path, monkeypatch):
  state = train.TrainState(*[jnp.zeros(100_000)] * 9)._replace(step=jnp.int32(3))

  def full(*_, **__):  # in TensorStore's words
    raise ValueError("RESOURCE_EXHAUSTED: No space left on device [os_error_code='28']")

  found = os.statvfs(tmp_path)
  disk = {name: getattr(found, name) for name in dir(found) if name.startswith('f_')}
  disk |= {'f_files': 9999, 'f_favail': 9999}

  with checkpoint.manager(tmp_path / 'checkpoints') as checkpoints:
    with monkeypatch.context() as patch:
      patch.setattr(checkpoints, 'save', full)
      with pytest.raises(OSError, match='No space left'):
        checkpoint.save(checkpoints, state, {})
    room = shutil.disk_usage(tmp_path)._replace(free=3_500_000)  # of 3.2 MB and the rest
    with monkeypatch.context() as patch:
      patch.setattr(shutil, 'disk_usage', lambda _: room)
      with pytest.raises(OSError, match='No space left'):
        checkpoint.save(checkpoints, state, {})
    with monkeypatch.context() as patch:
      patch.setattr(os, 'statvfs', lambda _: types.SimpleNamespace(**disk | {'f_favail': 20}))
      with pytest.raises(OSError, match='No space left') as full:
        checkpoint.save(checkpoints, state, {})
      assert 'the disk is full' in describe_error(full.value)
      # Like a file system that reports no number.
      disk |= {'f_files': 0, 'f_favail': 0}
      patch.setattr(os, 'statvfs', lambda _: types.SimpleNamespace(**disk))
      checkpoint.save(checkpoints, state._replace(step=jnp.int32(1)), {})
    assert checkpoints.all_steps() == [1]
    assert 'the disk is full' in describe_error(OSError(errno.EDQUOT, 'Disk quota exceeded'))
    checkpoint.save(checkpoints, state, {'rows': []})
    assert checkpoint.restore(checkpoints, state)[1] == {'rows': []}


@pytest.mark.slow
def test_a_full_disk_fails_the_run_keeps_the_others_and_can_go_on(
  whole, launch, for_a_user, tmp_path
):
  # A disk that is full for files above a size, like a quota: every write of a checkpoint fails.
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
  done = launch(*SWEEP, '--workdir=small', '--executor=serial', env=for_a_user | full)
  assert done.returncode != 0 and 'disk is full' in done.stderr
  assert 'Traceback' not in done.stdout + done.stderr
  assert len(list((tmp_path / 'small').glob('*/result.json'))) == 2
  launch(*SWEEP, '--workdir=small', '--executor=serial', env=for_a_user, check=0)
  assert finals(tmp_path / 'small') == finals(whole('serial'))
