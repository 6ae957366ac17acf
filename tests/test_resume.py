"""Whole programs that are stopped, killed or damaged: nothing is lost, the bits are the same."""

import os
import shutil
import signal
import subprocess
import sys

import pytest
from programs import ROOT, SMOKE, finals


def test_serial_gives_the_figures_of_processes(sweep):
  """To rounding: a process has one core, and products split over two add in another order."""
  serial, processes = (finals(sweep(executor)[0]) for executor in ('serial', 'process'))
  assert list(serial) == list(processes)
  for run, (final, *_) in serial.items():
    assert final == pytest.approx(processes[run][0], rel=1e-3)


def test_killed_three_times_and_resumed_to_the_bit(finished, reviews, environment, tmp_path):
  command = [sys.executable, ROOT / 'launch.py', SMOKE, '--workdir=killed']
  command += ['--executor=process', '--config.data.source=directory']
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
  executor, sweep, reviews, environment, launch, tmp_path
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
  assert finals(tmp_path / 'stopped') == finals(sweep(executor)[0])


def test_one_run_on_all_cores_goes_on_to_the_bit(reviews, environment, launch, tmp_path):
  words = [SMOKE, '--nosweep', '--executor=cores']
  launch(*words, '--workdir=whole', check=0)
  given = ['--config.data.source=directory', f'--config.data.dir={reviews}']
  process = subprocess.Popen(
    [sys.executable, ROOT / 'launch.py', *given, *words, '--workdir=killed'],
    cwd=tmp_path,
    env=environment,
    stdout=subprocess.PIPE,
    text=True,
  )
  for line in process.stdout:
    if 'epoch 1/2' in line:
      break
  process.send_signal(signal.SIGKILL)
  process.wait()
  launch(*words, '--workdir=killed', check=0)
  assert finals(tmp_path / 'killed') == finals(tmp_path / 'whole')


def test_two_launches_cannot_share_a_workdir(finished, launch, reviews, environment, tmp_path):
  first = subprocess.Popen(
    [sys.executable, ROOT / 'launch.py', SMOKE, '--workdir=shared', '--executor=process']
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
  done = launch(SMOKE, f'--workdir={copy}', '--executor=process', check=0)
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


def test_a_full_disk_fails_the_run_keeps_the_others_and_can_go_on(sweep, launch, tmp_path):
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
  launch(SMOKE, '--workdir=small', '--executor=serial', check=0)
  assert finals(tmp_path / 'small') == finals(sweep('serial')[0])


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
