"""Where a number came from."""

import subprocess

import pytest

from rnnlab.machine import provenance


@pytest.fixture
def repository(tmp_path, monkeypatch):
  """A repository with one commit, in which a copy of this package is."""

  def git(*words):
    who = '-c', 'user.name=a', '-c', 'user.email=a'
    subprocess.run(['git', *who, *words], cwd=tmp_path, check=True, capture_output=True)

  file = tmp_path / 'rnnlab' / 'machine' / 'provenance.py'
  file.parent.mkdir(parents=True)
  file.write_text('')
  monkeypatch.setattr(provenance, '__file__', str(file))
  git('init')
  return file, git


def test_a_commit_is_that_of_this_code_and_says_what_is_not_in_it(repository):
  file, git = repository
  commit = provenance.commit.__wrapped__
  (file.parents[2] / 'mine.py').write_text('')
  git('add', 'mine.py')
  git('commit', '-m', 'of the user')
  assert commit() is None  # the package is only installed there
  git('add', '.')
  git('commit', '-m', 'of the package')
  clean = commit()
  assert len(clean) == 40
  (file.parents[1] / 'cells').mkdir()
  (file.parents[1] / 'cells' / 'mine.py').write_text('')
  assert commit() == f'{clean}-dirty'
  git('add', '.')
  git('commit', '-m', 'a cell')
  file.write_text('changed')
  assert commit().endswith('-dirty')
