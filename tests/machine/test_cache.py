"""The folder of caches: a user's own, and that of a user without a home."""

import os
import pathlib
import pwd
import subprocess
import sys
import tempfile

import pytest

from rnnlab.machine import cache


def test_the_root_is_where_the_user_has_it(monkeypatch, tmp_path):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  assert cache.root() == tmp_path / 'rnnlab'
  monkeypatch.delenv('XDG_CACHE_HOME')
  monkeypatch.setenv('HOME', str(tmp_path))
  assert cache.root() == tmp_path / '.cache' / 'rnnlab'
  monkeypatch.setenv('XDG_CACHE_HOME', '~/caches')
  assert cache.root() == tmp_path / 'caches' / 'rnnlab'
  monkeypatch.setenv('XDG_CACHE_HOME', 'caches')
  assert cache.root() == pathlib.Path('caches', 'rnnlab')
  assert not any(tmp_path.iterdir())


@pytest.mark.parametrize('home', [None, ''])
def test_a_user_without_a_home_has_a_private_temporary_folder(home, monkeypatch, tmp_path):
  monkeypatch.delenv('XDG_CACHE_HOME', raising=False)
  monkeypatch.delenv('HOME') if home is None else monkeypatch.setenv('HOME', home)
  monkeypatch.setattr(pwd, 'getpwuid', {}.__getitem__)
  monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
  for clear in (cache._temporary.cache_clear, lambda: None):
    clear()
    root = cache.root()
    assert root == tmp_path / f'rnnlab-{os.getuid()}' and root.stat().st_mode & 0o777 == 0o700
  root.chmod(0o777)  # as if another had made it
  cache._temporary.cache_clear()
  other = cache.root()
  assert other != root and other.stat().st_mode & 0o777 == 0o700
  cache._temporary.cache_clear()


@pytest.mark.parametrize('home', [None, ''])
def test_programs_and_data_need_no_home(home, tmp_path):
  environment = os.environ | {'TMPDIR': str(tmp_path)}
  for name in ('XDG_CACHE_HOME', 'HOME', 'JAX_COMPILATION_CACHE_DIR', 'TFDS_DATA_DIR'):
    environment.pop(name, None)
  if home is not None:
    environment['HOME'] = home
  code = (
    'import pwd; pwd.getpwuid = {}.__getitem__\n'
    'from rnnlab.machine import devices\n'
    'from rnnlab.sweeps import storage\n'
    'from rnnlab.data import sources\n'
    'devices.keep_programs(); storage.local("memory://a"); sources.tfds_root("")\n'
  )
  subprocess.run([sys.executable, '-c', code], check=True, env=environment)
