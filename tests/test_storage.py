"""Runs' folders on the move, and whole programs whose workdir is a URL."""

import subprocess
import sys

import fsspec
import pytest
from programs import ROOT, SMOKE, finals

from rnnlab import runlog, storage
from rnnlab.experiment import Event

FILES = {
  'config.json': b'{}',
  'metrics.jsonl': b'{"epoch": 1}\n',
  'checkpoints/8/state/d/0': b'\x00\x01',
  'checkpoints/8/log': b'[]',
  'checkpoints/16/state/d/0': b'\x02',
  'result.json': b'{"final": 1}',
}
UNFINISHED = {name: content for name, content in FILES.items() if name != 'result.json'}


@pytest.fixture(params=['memory', 'file'])
def url(request, tmp_path):
  if request.param == 'file':
    return (tmp_path / 'remote').as_uri()
  fsspec.filesystem('memory').store.clear()
  return 'memory://bucket/sweep'


def everything(url):
  fs, root = fsspec.url_to_fs(url)
  return {name.removeprefix(f'{root}/'): fs.cat_file(name) for name in fs.find(root)}


def test_a_folder_is_written_as_it_was_read_without_locks_and_temporary_files(tmp_path):
  storage.write(tmp_path / 'a', FILES)
  (tmp_path / 'a' / '.lock').touch()
  (tmp_path / 'a' / 'checkpoints' / '24.orbax-checkpoint-tmp').mkdir()
  (tmp_path / 'a' / 'checkpoints' / '24.orbax-checkpoint-tmp' / 'half').touch()
  assert storage.read(tmp_path / 'a') == FILES
  storage.prune(tmp_path / 'a', [name for name in FILES if 'checkpoints/8' not in name])
  assert sorted(path.name for path in (tmp_path / 'a' / 'checkpoints').glob('[0-9]*')) == [
    '16',
    '24.orbax-checkpoint-tmp',
  ]


def test_a_reader_never_finds_half_a_checkpoint_nor_a_result_without_the_rest(
  tmp_path, monkeypatch
):
  """At each file that is written the folder holds whole checkpoints only."""
  folder, seen = tmp_path / 'run', []
  storage.write(folder, {'checkpoints/8/log': b'old', 'checkpoints/8/state/d/0': b'old'})
  write_atomic = storage.runlog.write_atomic

  def spying(path, content):
    write_atomic(path, content)
    seen.append(storage.read(folder))

  monkeypatch.setattr(storage.runlog, 'write_atomic', spying)
  storage.write(folder, dict(reversed(FILES.items())))
  assert len(seen) == len(FILES)
  for files in seen:
    for step in ('8', '16'):
      found = {name: content for name, content in files.items() if f'checkpoints/{step}/' in name}
      whole = {name: content for name, content in FILES.items() if f'checkpoints/{step}/' in name}
      assert found in ({}, whole, dict.fromkeys(whole, b'old'))
    assert ('result.json' in files) == (files == FILES)


def test_a_remote_folder_comes_back_and_only_what_is_new_is_sent(url, tmp_path, monkeypatch):
  workdir = tmp_path / 'mirror'
  storage.write(workdir / 'run', UNFINISHED)
  storage.push(workdir, url, 'run')
  assert {name: everything(url)[f'run/{name}'] for name in UNFINISHED} == UNFINISHED
  sent, put = [], storage._put
  monkeypatch.setattr(
    storage, '_put', lambda fs, to, files: (sent.extend(files), put(fs, to, files))
  )
  newer = {'checkpoints/24/log': b'[1]', 'metrics.jsonl': b'{"epoch": 2}\n'}
  storage.write(workdir / 'run', newer)
  left = {name: value for name, value in (UNFINISHED | newer).items() if '/8/' not in name}
  storage.prune(workdir / 'run', left)
  storage.push(workdir, url, 'run')
  assert sorted(sent) == ['.files.new', *sorted(newer)]
  assert not [name for name in everything(url) if '/8/' in name]
  # To another machine, and to one whose mirror is of before and damaged.
  storage.write(tmp_path / 'old' / 'run', UNFINISHED | {'checkpoints/16/state/d/0': b'damaged'})
  for mirror in (tmp_path / 'new', tmp_path / 'old'):
    storage.pull(url, mirror)
    assert storage.read(mirror / 'run') == left


def test_a_sending_that_was_cut_off_leaves_what_was_there(url, tmp_path, monkeypatch):
  storage.write(tmp_path / 'mirror' / 'run', UNFINISHED)
  storage.push(tmp_path / 'mirror', url, 'run')
  storage.write(tmp_path / 'mirror' / 'run', {'checkpoints/24/log': b'1', 'checkpoints/24/x': b'2'})
  put = storage._put

  def half(fs, folder, files):
    put(fs, folder, dict(list(files.items())[:1]))
    raise ConnectionError('the network is down')

  monkeypatch.setattr(storage, '_put', half)
  with pytest.raises(OSError, match='cannot write .*: the network is down'):
    storage.push(tmp_path / 'mirror', url, 'run')
  assert [name for name in everything(url) if '/24/' in name]
  storage.pull(url, tmp_path / 'other')
  assert storage.read(tmp_path / 'other' / 'run') == UNFINISHED


def test_of_finished_runs_checkpoints_are_not_fetched_nor_unasked_the_parameters(url, tmp_path):
  files = FILES | {runlog.PARAMS: b'1'}
  storage.write(tmp_path / 'mirror' / 'run', files)
  storage.push(tmp_path / 'mirror', url, 'run')
  storage.pull(url, tmp_path / 'other')
  assert sorted(storage.read(tmp_path / 'other' / 'run')) == [
    'config.json',
    'metrics.jsonl',
    'result.json',
  ]
  storage.pull(url, tmp_path / 'mirror')
  assert storage.read(tmp_path / 'mirror' / 'run') == files
  storage.pull(url, tmp_path / 'other', params=True)
  assert (tmp_path / 'other' / 'run' / runlog.PARAMS).read_bytes() == b'1'


def test_what_a_stop_left_is_sent_too(url, tmp_path):
  def events():
    storage.write(tmp_path / 'run', {'config.json': b'{}'})
    yield Event('run', 'progress', 0.5)
    storage.write(tmp_path / 'run', UNFINISHED)
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    list(storage.pushing(events(), tmp_path, url))
  storage.pull(url, tmp_path / 'other')
  assert storage.read(tmp_path / 'other' / 'run') == UNFINISHED


def test_a_path_and_a_file_url_are_local_and_an_unknown_url_is_an_error(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  assert storage.local('runs/imdb') == (storage.pathlib.Path('runs/imdb'), '')
  assert storage.local('file:///data/imdb') == (storage.pathlib.Path('/data/imdb'), '')
  mirror, url = storage.local('memory://bucket/imdb/')
  assert url == 'memory://bucket/imdb' and mirror.is_relative_to(tmp_path)
  with pytest.raises(ValueError, match='--workdir=nothing://x: Protocol not known'):
    storage.local('nothing://x')


# fsspec's memory is that of a process: the launch, and what is asked of it after, are in one.
PROGRAM = """
import pathlib, runpy, shutil, sys
from rnnlab import runlog, storage
program, copy, *words = sys.argv[1:]
sys.argv = [program, *words]
try:
  runpy.run_path(program, run_name='__main__')
except SystemExit as end:
  assert not end.code, end.code
mirror, url = storage.local('memory://bucket/sweep')
shutil.copytree(mirror, f'{copy}-mirror')
import fsspec
fs, root = fsspec.url_to_fs(url)
fs.get(root, copy, recursive=True)
"""


def test_a_sweep_whose_workdir_is_a_url_leaves_there_what_a_local_one_does(
  reviews, environment, tmp_path
):
  words = SMOKE, '--workdir=memory://bucket/sweep', '--executor=serial', '--nosweep'
  data = '--config.data.source=directory', f'--config.data.dir={reviews}'
  done = subprocess.run(
    [sys.executable, '-c', PROGRAM, ROOT / 'launch.py', tmp_path / 'copy', *words, *data],
    env=environment | {'PYTHONPATH': str(ROOT)},
    cwd=tmp_path,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  assert 'memory://bucket/sweep' in done.stdout
  mirror, copy = tmp_path / 'copy-mirror', tmp_path / 'copy'
  assert finals(copy) == finals(mirror) and len(finals(copy)) == 1
  for name in ('sweep.json', 'report.html', 'summary.csv', 'figures/learning_curves.png'):
    assert (copy / name).read_bytes() == (mirror / name).read_bytes()
  assert not (tmp_path / 'runs').exists()
