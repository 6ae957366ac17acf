"""Whole programs that are stopped, killed or damaged: nothing is lost, the bits are the same."""

import contextlib
import os
import shutil
import signal
import subprocess

import pytest
from programs import SWEEP, finals, read_until


def test_killed_three_times_and_resumed_to_the_bit(whole, start, launch, for_a_user, tmp_path):
  words = *SWEEP, '--workdir=killed', '--executor=process'
  killed = tmp_path / 'killed'
  # Three moments, told by what is on disk: while the first run is at work, after the first
  # checkpoint of another, and when the first result has been there for a moment.
  moments = (
    lambda: list(killed.glob('*/config.json')),
    lambda: list(killed.glob('*/checkpoints/*/_CHECKPOINT_METADATA')),
    lambda: list(killed.glob('*/result.json')),
  )
  for moment in moments:
    process = start(*words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not moment() and process.poll() is None:
      with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(0.02)  # and not at once again, which would take a core from the sweep
    assert process.poll() is None, 'the sweep ended before it could be killed'
    process.send_signal(signal.SIGKILL)
    process.wait()
  launch(*words, env=for_a_user, check=0)
  assert finals(killed) == finals(whole('process'))


@pytest.mark.parametrize('executor', ['serial', 'process'])
def test_ctrl_c_saves_says_how_to_go_on_and_resumes_to_the_bit(
  executor, whole, start, launch, for_a_user, tmp_path
):
  words = *SWEEP, '--workdir=stopped', f'--executor={executor}'
  process = start(*words, stderr=subprocess.STDOUT, start_new_session=True)
  read_until('epoch 1/2', process)
  os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
  output = process.stdout.read()
  assert process.wait() == 130
  assert 'to go on: python' in output and '--workdir=stopped' in output
  assert 'Traceback' not in output
  assert list((tmp_path / 'stopped').glob('*/checkpoints/[0-9]*'))
  launch(*words, env=for_a_user, check=0)
  assert finals(tmp_path / 'stopped') == finals(whole(executor))


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


def test_a_full_disk_fails_the_run_keeps_the_others_and_can_go_on(
  whole, launch, for_a_user, tmp_path
):
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
  done = launch(*SWEEP, '--workdir=small', '--executor=serial', env=for_a_user | full)
  assert done.returncode != 0 and 'disk is full' in done.stderr
  assert 'Traceback' not in done.stdout + done.stderr
  assert len(list((tmp_path / 'small').glob('*/result.json'))) == 2
  launch(*SWEEP, '--workdir=small', '--executor=serial', env=for_a_user, check=0)
  assert finals(tmp_path / 'small') == finals(whole('serial'))
