"""The output of `launch.py --status` for workdirs made by hand here: nothing is trained."""

import contextlib
import io
import json
import os

import pytest
import rich.console

from rnnlab.machine import disk
from rnnlab.runs import folder as run_files
from rnnlab.sweeps import status


@pytest.fixture
def workdir(tmp_path):
  """Six runs of ten epochs, named by sweep.json: three are done, two failed, one is waiting."""
  runs = [
    run(tmp_path, 'gru', 0, rows=10, seconds=30),
    run(tmp_path, 'gru', 1, rows=10, seconds=50),
    run(tmp_path, 'gru', 2, rows=4),
    run(tmp_path, 'lstm', 0, rows=10, seconds=60),
    run(tmp_path, 'lstm', 1, error={'error': 'the loss was not finite', 'again': False}),
    run(tmp_path, 'lstm', 2, rows=2, error={'error': 'the disk is full', 'again': True}),
  ]
  disk.write_json(tmp_path / 'sweep.json', {'command': 'python launch.py x', 'runs': runs})
  return tmp_path


def run(workdir, cell, seed, rows=0, seconds=None, error=None):
  """Makes a run's folder; returns its entry in sweep.json."""
  name = f'cell-{cell}_seed-{seed}_0123abcd'
  folder = workdir / name
  config = {'model': {'cell': cell}, 'train': {'epochs': 10}, 'seed': seed}
  disk.write_json(folder / 'config.json', config)
  epochs = [{'epoch': epoch, 'seconds': 2.0} for epoch in range(1, rows + 1)]
  disk.write_rows(folder / 'metrics.jsonl', epochs)
  overrides = {'model.cell': cell, 'seed': seed}
  if seconds:
    result = {'final': {}, 'overrides': overrides, 'seconds': seconds}
    disk.write_json(folder / 'result.json', result)
  if error:
    disk.write_json(folder / 'error.json', error)
  return {'id': name, 'overrides': overrides}


def states(workdir):
  return [(r.state, r.epoch) for r in status.load(workdir)]


def shown(workdir):
  output = io.StringIO()
  status.show(workdir, rich.console.Console(file=output, width=100))
  return output.getvalue()


def test_a_run_is_done_running_waiting_or_failed_by_its_files_and_its_lock(workdir):
  done, failed = ('done', 10), [('failed', 0), ('failed', 2)]
  assert states(workdir) == [done, done, ('waiting', 4), done, *failed]
  with run_files.lock(workdir / 'cell-gru_seed-2_0123abcd', ''):
    assert states(workdir)[2] == ('running', 4)
  with run_files.lock(workdir / 'cell-lstm_seed-1_0123abcd', ''):  # it is being done again
    assert states(workdir) == [done, done, ('waiting', 4), done, ('running', 0), ('failed', 2)]
  assert states(workdir)[2] == ('waiting', 4)


def test_a_result_without_all_its_rows_is_not_done(workdir):
  folder = workdir / 'cell-gru_seed-0_0123abcd'
  rows = disk.read_rows(folder / 'metrics.jsonl')
  disk.write_rows(folder / 'metrics.jsonl', rows[:-1])
  assert states(workdir)[0] == ('damaged', 9)
  result = disk.read_json(folder / 'result.json')
  disk.write_json(folder / 'result.json', result | {'epochs': 9})  # it ended early
  assert states(workdir)[0] == ('done', 9)
  assert run_files.is_done(folder, 10) and not run_files.is_done(folder.with_name('nowhere'), 10)


def test_the_time_left_is_of_like_runs_over_the_processes_at_work(workdir, monkeypatch):
  """GRU takes 3 and 5 s per epoch in the done runs, and 2 in the one not done yet; LSTM 6."""
  assert status.seconds_left(status.load(workdir)) == 6 * 2
  more = [run(workdir, cell, seed=3) for cell in ('gru', 'lstm')]
  recorded = disk.read_json(workdir / 'sweep.json')
  disk.write_json(workdir / 'sweep.json', recorded | {'runs': recorded['runs'] + more})
  # Medians: of 3, 5, 2 for GRU; of 6 and the failed run's 2 for LSTM.
  assert status.seconds_left(status.load(workdir)) == 6 * 2 + 10 * 3 + 10 * 4
  for numbers, processes in ([[1, 2], 2], [[1, 1], 1]):  # the second as in a population
    with contextlib.ExitStack() as stack:
      for entry, number in zip(more, numbers, strict=True):
        monkeypatch.setattr(run_files.os, 'getpid', lambda number=number: number)
        stack.enter_context(run_files.lock(workdir / entry['id'], ''))
      left = status.seconds_left(status.load(workdir))
    assert left == (6 * 2 + 10 * 3 + 10 * 4) / processes


def test_the_time_left_is_not_below_that_of_the_longest_run(workdir):
  runs = [
    status.Run('a', {'model.cell': 'gru'}, 'running', 1, 10, 2.0, process='1'),
    status.Run('b', {'model.cell': 'gru'}, 'running', 9, 10, 2.0, process='2'),
  ]
  assert status.seconds_left(runs) == 18
  assert status.seconds_left([r._replace(epoch=0, pace=None) for r in runs]) is None
  assert status.seconds_left([r._replace(state='done') for r in runs]) == 0


def test_show_counts_groups_and_names_what_failed_and_the_way_on(workdir):
  said = shown(workdir)
  assert '6 runs: 3 done, 0 running, 1 waiting, 2 failed' in said
  table = [[word.strip() for word in line.split('│')[1:-1]] for line in said.splitlines()]
  assert ['gru', '2', '1', ''] in table and ['lstm', '1', '', '2'] in table
  assert 'failed: cell-lstm_seed-1_0123abcd: the loss was not finite' in said
  assert '1 failed for a reason of their own: --retry_failed does them again' in said
  assert 'left: about 0:12, by one process; no launch is at work' in said
  assert 'to go on: python launch.py x' in said
  with run_files.lock(workdir, ''), run_files.lock(workdir / 'cell-gru_seed-2_0123abcd', ''):
    said = shown(workdir)
  assert 'running: gru seed=2: epoch 4/10' in said
  assert 'left: about 0:12, by 1 process\n' in said


def test_record_says_for_a_program_what_show_says(workdir):
  told = status.record(workdir)
  counts = {'done': 3, 'running': 0, 'waiting': 1, 'failed': 2, 'damaged': 0, 'left': 0}
  assert told['counts'] == counts
  assert (told['seconds_left'], told['launch'], told['command']) == (12, None, 'python launch.py x')
  names = [run['id'] for run in disk.read_json(workdir / 'sweep.json')['runs']]
  assert [run['id'] for run in told['runs']] == names
  assert told['runs'][4]['error'] == 'the loss was not finite' and not told['runs'][4]['again']
  with run_files.lock(workdir, ''):
    assert status.record(workdir)['launch'] == str(os.getpid())


def test_a_trial_that_a_search_has_left_behind_is_not_waited_for(workdir):
  recorded = disk.read_json(workdir / 'sweep.json')
  recorded['runs'][2]['left'] = True
  disk.write_json(workdir / 'sweep.json', recorded)
  assert states(workdir)[2] == ('left', 4)
  said = shown(workdir)
  assert '3 done, 0 running, 0 waiting, 2 failed, 1 left' in said and 'left: ' not in said


def test_a_trial_has_the_epochs_up_to_the_next_decision_and_is_not_promised_again(workdir):
  recorded = disk.read_json(workdir / 'sweep.json')
  recorded['runs'][2]['epochs'] = 5  # of ten: it pauses there
  recorded['runs'][4]['stage'] = 'search'
  disk.write_json(workdir / 'sweep.json', recorded)
  assert status.load(workdir)[2].epochs == 5
  said = shown(workdir)
  assert 'left: about 0:02' in said and 'retry_failed' not in said


def test_a_thousand_runs_take_a_page(tmp_path):
  runs = []
  for seed in range(1000):
    overrides = {'model.cell': ('gru', 'lstm')[seed % 2], 'seed': seed, 'optim.clip_norm': seed / 9}
    runs.append({'id': f'run-{seed}', 'overrides': overrides})
  for entry in runs[:60]:
    disk.write_json(tmp_path / entry['id'] / 'error.json', {'error': 'why'})
  disk.write_json(tmp_path / 'sweep.json', {'runs': runs})
  said = shown(tmp_path)
  assert '1000 runs: 0 done, 0 running, 940 waiting, 60 failed' in said
  assert 'and 40 more failed' in said and len(said.splitlines()) < 40
  assert 'gru' in said and '470' in said  # by cell, if there are too many settings


def test_without_sweep_json_the_folders_tell(workdir):
  named = disk.read_json(workdir / 'sweep.json')['runs']
  (workdir / 'sweep.json').write_text('{"runs": [')
  (workdir / 'figures').mkdir()
  (workdir / 'cell-gru_seed-0_0123abcd' / 'config.json').write_text('{')
  disk.write_rows(workdir / 'cell-gru_seed-2_0123abcd' / 'metrics.jsonl', [{'epoch': 1}])
  found = {run.id: run for run in status.load(workdir)}
  assert sorted(run.state for run in found.values()) == ['done'] * 3 + ['failed'] * 2 + ['waiting']
  for entry in named:
    assert found[entry['id']].overrides == entry['overrides']


def test_status_needs_neither_jax_nor_pandas_and_changes_nothing(workdir, launch, tmp_path):
  heavy = tmp_path / 'heavy'
  heavy.mkdir()
  for name in ('jax', 'pandas', 'scipy', 'orbax', 'flax'):
    (heavy / f'{name}.py').write_text('raise ImportError("too heavy")\n')
  before = sorted(workdir.rglob('*'))
  done = launch('--status', f'--workdir={workdir}', env={'PYTHONPATH': str(heavy)}, check=0)
  assert '6 runs: 3 done' in done.stdout
  assert sorted(workdir.rglob('*')) == before
  done = launch(
    '--status', '--json', f'--workdir={workdir}', env={'PYTHONPATH': str(heavy)}, check=0
  )
  assert json.loads(done.stdout) == json.loads(json.dumps(status.record(workdir)))
  # Without --workdir, in the place where a launch of the same config would put it.
  done = launch('--status', env={'PYTHONPATH': str(heavy)})
  assert done.returncode == 2 and 'runs/imdb: no such folder' in done.stderr
  assert json.loads((workdir / 'sweep.json').read_text())['runs']
