"""Whole programs with each executor: their figures, a worker's death, two launches at once."""

import signal
import sys

import pytest
from programs import SMOKE, SWEEP, finals, read_until

from rnnlab.sweeps import executors


@pytest.mark.slow
def test_serial_gives_the_figures_of_processes(whole):
  """Up to rounding: a process has one core, and products split over two add in another order."""
  serial, processes = (finals(whole(executor)) for executor in ('serial', 'process'))
  assert len(serial) == 3 and list(serial) == list(processes)
  for run, (final, *_) in serial.items():
    assert final == pytest.approx(processes[run][0], rel=1e-3)


@pytest.mark.slow
def test_one_run_on_all_cores_goes_on_to_the_bit(start, launch, for_a_user, tmp_path):
  words = SMOKE, '--nosweep', '--executor=cores'
  launch(*words, '--workdir=whole', env=for_a_user, check=0)
  process = start(*words, '--workdir=killed')
  read_until('epoch 1/2', process)
  process.send_signal(signal.SIGKILL)
  process.wait()
  launch(*words, '--workdir=killed', env=for_a_user, check=0)
  assert finals(tmp_path / 'killed') == finals(tmp_path / 'whole')


@pytest.mark.slow
def test_two_launches_cannot_share_a_workdir(whole, start, launch, for_a_user, tmp_path):
  first = start(*SWEEP, '--workdir=shared', '--executor=process')
  read_until('epoch', first)
  first.send_signal(signal.SIGSTOP)  # so that it surely outlasts the second
  second = launch(*SWEEP, '--workdir=shared', env=for_a_user)
  first.send_signal(signal.SIGCONT)
  first.stdout.read()
  assert first.wait() == 0
  assert second.returncode != 0 and 'another launch is at work here' in second.stderr
  assert finals(tmp_path / 'shared') == finals(whole('process'))


@pytest.mark.slow
def test_a_dead_worker_fails_its_run_alone(launch, for_a_user, tmp_path):
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
  done = launch(*SWEEP, '--workdir=out', '--executor=process', env=for_a_user | deadly)
  assert done.returncode == 1
  assert 'signal 9' in done.stderr and 'Traceback' not in done.stdout + done.stderr
  assert len(list((tmp_path / 'out').glob('*/result.json'))) == 2
  said = launch('--status', '--workdir=out', check=0).stdout
  assert '2 done, 0 running, 0 waiting, 1 failed' in said and 'signal 9' in said
  launch(*SWEEP, '--workdir=out', env=for_a_user, check=0)
  assert len(list((tmp_path / 'out').glob('*/result.json'))) == 3


def test_without_ray_the_error_says_how_to_get_it(monkeypatch):
  monkeypatch.delitem(sys.modules, 'rnnlab.sweeps.executors.ray', raising=False)
  monkeypatch.setitem(sys.modules, 'ray', None)
  with pytest.raises(ValueError, match='pip install .ray>='):
    executors.get('ray')
