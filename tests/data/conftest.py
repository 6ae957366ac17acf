"""What tests of data share: packages from wheels made here."""

import zipfile

import pytest


@pytest.fixture
def only_index(tmp_path, monkeypatch):
  """A folder that is pip's only index, empty at first; the cache is a folder too."""
  folder = tmp_path / 'index'
  folder.mkdir()
  monkeypatch.setenv('PIP_CONFIG_FILE', '/dev/null')
  monkeypatch.setenv('PIP_NO_INDEX', '1')
  monkeypatch.setenv('PIP_FIND_LINKS', str(folder))
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  return folder


@pytest.fixture
def wheel(only_index):
  """A function that adds a wheel to `only_index`: (package's name, version, contents by path) -> file.

  The wheel is for a newer Python, as those of some data are.
  """

  def add(name, version, files):
    about = f'{name}-{version}.dist-info'
    path = only_index / f'{name}-{version}-py3-none-any.whl'
    metadata = f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Python: >=99\n'
    more = {
      'METADATA': metadata,
      'WHEEL': 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n',
      'RECORD': '',
    }
    with zipfile.ZipFile(path, 'w') as made:
      for member, content in [*files.items(), *((f'{about}/{of}', more[of]) for of in more)]:
        made.writestr(member, content)
    return path

  return add
