"""Runs' folders on the move, and whole programs whose workdir is a URL."""

import os
import subprocess
import sys

import fsspec
import pytest
from programs import ROOT, SMOKE, finals

from rnnlab.machine import disk
from rnnlab.runs import folder as run_files
from rnnlab.runs.run import Event
from rnnlab.sweeps import storage

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
  """Whenever a file is written, the folder holds only whole checkpoints."""
  folder, seen = tmp_path / 'run', []
  storage.write(folder, {'checkpoints/8/log': b'old', 'checkpoints/8/state/d/0': b'old'})
  write_atomic = storage.disk.write_atomic

  def spying(path, content):
    write_atomic(path, content)
    seen.append(storage.read(folder))

  monkeypatch.setattr(storage.disk, 'write_atomic', spying)
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
  # To another machine, and to one whose mirror is outdated and damaged.
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
  files = FILES | {run_files.PARAMS: b'1'}
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
  assert (tmp_path / 'other' / 'run' / run_files.PARAMS).read_bytes() == b'1'


def test_a_mirror_in_which_another_process_works_is_left_alone(url, tmp_path, monkeypatch):
  storage.write(tmp_path / 'there' / 'run', UNFINISHED)
  storage.push(tmp_path / 'there', url, 'run')
  (tmp_path / 'mirror').mkdir()
  with run_files.lock(tmp_path / 'mirror', ''):
    with monkeypatch.context() as patch:
      patch.setattr(os, 'getpid', lambda: -1)  # as for any other process
      storage.pull(url, tmp_path / 'mirror')
      assert not (tmp_path / 'mirror' / 'run').exists()
    storage.pull(url, tmp_path / 'mirror')
  assert storage.read(tmp_path / 'mirror' / 'run') == UNFINISHED


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


def test_a_sending_that_failed_loses_nothing_and_is_made_up_for(url, tmp_path, monkeypatch):
  mirror = tmp_path / 'mirror'
  storage.write(mirror / 'run', UNFINISHED)
  storage.push(mirror, url, 'run')
  ended = FILES | {'metrics.jsonl': b'{"epoch": 2}\n'}
  storage.write(mirror / 'run', ended)
  storage.write(mirror / 'new', UNFINISHED)  # unknown to the remote
  (mirror / 'sweep.json').write_text('{}')

  def fail(*_):
    raise ConnectionError('the network is down')

  with monkeypatch.context() as patch:
    patch.setattr(storage, '_put', fail)
    with pytest.raises(OSError, match=f'cannot write {url}: the network is down'):
      storage.push(mirror, url, 'run')
  storage.pull(url, mirror)  # as the next launch does first
  assert storage.read(mirror / 'run') == ended and storage.read(mirror / 'new') == UNFINISHED
  storage.push_report(mirror, url)
  assert {name: everything(url)[f'run/{name}'] for name in ended} == ended
  assert {name: everything(url)[f'new/{name}'] for name in UNFINISHED} == UNFINISHED
  # If another machine has continued the run, it is ahead.
  storage.pull(url, tmp_path / 'other')
  storage.write(tmp_path / 'other' / 'new', {'metrics.jsonl': b'{"epoch": 7}\n'})
  storage.push(tmp_path / 'other', url, 'new')
  storage.pull(url, mirror)
  assert storage.read(mirror / 'new')['metrics.jsonl'] == b'{"epoch": 7}\n'


def test_a_finished_run_is_whole_though_parts_were_not_fetched_and_these_stay_there(url, tmp_path):
  files = {name: b'{}' for name in run_files.READ}
  storage.write(tmp_path / 'mirror' / 'run', files)
  digests = run_files.digests(tmp_path / 'mirror' / 'run')
  result = run_files.seal({'final': {}, 'digests': digests})
  disk.write_json(tmp_path / 'mirror' / 'run' / 'result.json', result)
  storage.push(tmp_path / 'mirror', url, 'run')
  other = tmp_path / 'other'
  storage.pull(url, other)
  assert not (other / 'run' / run_files.PARAMS).exists() and run_files.verify(other / 'run') == []
  (other / 'run' / 'config.json').write_text('[]')
  assert run_files.verify(other / 'run') == ['config.json']
  storage.push_report(other, url)
  assert everything(url)[f'run/{run_files.PARAMS}'] == b'{}'
  storage.pull(url, other)
  assert run_files.verify(other / 'run') == []


FOREIGN = [
  *('{"../../evil": "0"}', '{"/evil": "0"}', '{"a/../../evil": "0"}', '{"a\\\\evil": "0"}'),
  *('{".lock": "0"}', '{"evil": 3}', '["evil"]', '3', '{"evil', '', '[' * 100_000),
]


@pytest.mark.parametrize('index', FOREIGN, ids=range(len(FOREIGN)))
def test_of_a_remote_only_what_belongs_there_is_taken(index, url, tmp_path, caplog):
  storage.write(tmp_path / 'mirror' / 'run', UNFINISHED)
  storage.push(tmp_path / 'mirror', url, 'run')
  fs, root = fsspec.url_to_fs(url)
  fs.pipe_file(f'{root}/run/.files', index.encode())
  fs.pipe_file(f'{root}/a\\b', b'')
  fs.pipe_file(f'{root}/.lock', b'')
  before = sorted(tmp_path.rglob('*'))
  storage.pull(url, tmp_path / 'mirror')
  assert 'run/.files is damaged' in caplog.text
  assert sorted(tmp_path.rglob('*')) == sorted({*before, *(tmp_path / 'remote').rglob('*')})
  assert storage.read(tmp_path / 'mirror' / 'run') == UNFINISHED
  storage.push(tmp_path / 'mirror', url, 'run')
  storage.pull(url, tmp_path / 'other')
  assert storage.read(tmp_path / 'other' / 'run') == UNFINISHED


@pytest.mark.parametrize('error', [PermissionError(13, 'no'), RuntimeError('no'), KeyError('no')])
def test_a_remote_that_cannot_be_read_is_said(error, tmp_path, monkeypatch):
  fsspec.filesystem('memory').store.clear()
  storage.write(tmp_path / 'mirror' / 'run', FILES)
  storage.push(tmp_path / 'mirror', 'memory://bucket', 'run')

  def fail(*_, **__):
    raise error

  for method in ('exists', 'ls', 'cat_file', 'cat'):
    with monkeypatch.context() as patch:
      patch.setattr(type(fsspec.filesystem('memory')), method, fail)
      with pytest.raises(OSError, match='cannot read memory://bucket: .*no'):
        storage.pull('memory://bucket', tmp_path / 'other')
  (tmp_path / 'file').touch()
  with pytest.raises(OSError, match='there is a file, not a folder'):
    storage.pull((tmp_path / 'file').as_uri(), tmp_path / 'other')


def test_a_long_url_has_a_mirror_and_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  mirrors = [storage.local(f'memory://{"é" * 300}/{number}')[0] for number in range(2)]
  assert mirrors[0] != mirrors[1] and max(len(path.name) for path in mirrors) <= 255
  monkeypatch.setenv('HOME', str(tmp_path))
  assert storage.local('~/runs') == (tmp_path / 'runs', '')
  assert storage.local('runs/~') == (storage.pathlib.Path('runs/~'), '')


def test_a_path_and_a_file_url_are_local_and_an_unknown_url_is_an_error(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  assert storage.local('runs/imdb') == (storage.pathlib.Path('runs/imdb'), '')
  assert storage.local('file:///data/imdb') == (storage.pathlib.Path('/data/imdb'), '')
  mirror, url = storage.local('memory://bucket/imdb/')
  assert url == 'memory://bucket/imdb' and mirror.is_relative_to(tmp_path)
  with pytest.raises(ValueError, match='--workdir=nothing://x: Protocol not known'):
    storage.local('nothing://x')


# fsspec's memory belongs to a process, so the launch and the later queries share one.
PROGRAM = """
import pathlib, runpy, shutil, sys
from rnnlab.sweeps import storage
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


@pytest.mark.slow
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
