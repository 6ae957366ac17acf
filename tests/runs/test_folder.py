"""A run's folder: its files by name, what they say about the run, and the lock."""

import ast
import multiprocessing
import pathlib

import numpy as np
import pytest

import rnnlab
from rnnlab.runs import folder as run_files

NAMES = {
  *('config.json', 'metrics.jsonl', 'result.json', 'error.json', 'sweep.json'),
  *('params.safetensors', 'vocabulary.txt', 'predictions.npz'),
}
CONFIG = {'model': {'cell': 'gru'}, 'seed': 3}
ROWS = [{'epoch': 1, 'train_loss': 0.5}, {'epoch': 2, 'train_loss': 0.25}]


def test_no_other_module_spells_out_the_name_of_a_file_of_a_run():
  """Docstrings and messages may name a file within a sentence: only whole constants count."""
  package = pathlib.Path(rnnlab.__file__).parent
  spelt = {}
  for path in package.rglob('*.py'):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Constant) and isinstance(node.value, str):
        if found := NAMES & {node.value.rpartition('/')[2]}:
          spelt.setdefault(path.relative_to(package).as_posix(), set()).update(found)
  spelt.pop('interop/keras.py', None)  # a .keras file has a config.json of its own inside
  assert spelt == {'runs/folder.py': NAMES}


@pytest.fixture
def done(tmp_path):
  """A finished run of two epochs in a workdir."""
  folder = tmp_path / 'cell-gru_seed-3_0123abcd'
  run_files.write_config(folder, CONFIG)
  run_files.write_metrics(folder, ROWS)
  run_files.write_result(folder, {'final': {'test_loss': 0.3}, 'epochs': 2})
  return folder


def test_a_run_is_begun_then_ended_and_done_once_all_its_rows_are_there(tmp_path):
  folder = tmp_path / 'run'
  assert not run_files.is_run(folder) and run_files.folders(tmp_path) == []
  run_files.write_config(folder, CONFIG)
  assert run_files.is_run(folder) and not run_files.has_ended(folder)
  run_files.write_metrics(folder, ROWS)
  assert run_files.folders(tmp_path) == [folder]
  assert run_files.folders(tmp_path, run_files.RESULT) == []
  run_files.write_result(folder, {'final': {}})
  assert run_files.has_ended(folder) and run_files.folders(tmp_path, run_files.RESULT) == [folder]
  assert run_files.is_done(folder, 2) and not run_files.is_done(folder, 3)


def test_what_is_written_is_read_again_and_a_wrong_form_counts_as_missing(done):
  assert run_files.read_config(done) == CONFIG
  assert run_files.read_metrics(done) == ROWS
  assert run_files.read_result(done)['final'] == {'test_loss': 0.3}
  assert run_files.read_config(done, {'seed': str}) is None
  assert run_files.read_result(done, {'final': {'test_accuracy': float}}) is None
  assert run_files.read_config(done.with_name('nowhere')) is None


def test_a_result_tells_which_file_was_changed_after_it(done):
  assert run_files.verify(done) == [] and run_files.is_done(done, 2)
  run_files.write_config(done, CONFIG | {'seed': 4})
  assert run_files.verify(done) == ['config.json'] and not run_files.is_done(done, 2)
  (done / 'result.json').write_text((done / 'result.json').read_text().replace('0.3', '0.4'))
  assert run_files.verify(done) == ['result.json']


def test_a_failure_is_told_until_it_is_forgotten(tmp_path):
  folder = tmp_path / 'run'
  assert run_files.failure(folder) is None
  run_files.write_failure(folder, 'the loss was not finite', False, 'Traceback')
  told = {'error': 'the loss was not finite', 'again': False, 'traceback': 'Traceback'}
  assert run_files.failure(folder) == told
  assert run_files.folders(tmp_path, run_files.ERROR) == [folder]
  (folder / 'error.json').write_text('{}')
  assert run_files.failure(folder) == {'error': 'no words', 'again': True}
  for _ in range(2):
    run_files.forget_failure(folder)
    assert run_files.failure(folder) is None


def test_a_sweep_is_sealed_and_one_that_names_a_run_elsewhere_is_not_read(tmp_path):
  content = {'runs': [{'id': 'a', 'overrides': {}}], 'command': 'python launch.py'}
  run_files.write_sweep(tmp_path, content)
  assert run_files.read_sweep(tmp_path).items() >= content.items()
  run_files.write_sweep(tmp_path, {'runs': [{'id': '../a'}]})
  assert run_files.read_sweep(tmp_path)['runs'] == []


def test_numpy_s_numbers_are_sealed_as_they_are_written():
  values = {'one': np.float32(1), 'more': {'a': np.int64(3)}, 'pair': (1, 2.0), 'nan': np.nan}
  sealed = run_files.seal(values)
  assert run_files.is_sealed(sealed) and not run_files.is_sealed(sealed | {'one': 2})


def hold(folder, ready, go):
  with run_files.lock(folder, 'busy'):
    ready.set()
    go.wait()


def test_a_lock_is_one_process_s_and_goes_with_it(tmp_path):
  context = multiprocessing.get_context('spawn')
  ready, go = context.Event(), context.Event()
  process = context.Process(target=hold, args=(tmp_path, ready, go))
  process.start()
  ready.wait()
  with pytest.raises(run_files.Busy, match='at work'):
    with run_files.lock(tmp_path, 'at work', wait=0.1):
      pass
  process.kill()
  process.join()
  with run_files.lock(tmp_path, 'at work'):
    pass
