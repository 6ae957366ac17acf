"""Published sets: files of packages, from wheels made here, and their content.

The arrays of MNIST-1D are pinned by the digest of those from the package mnist1d 0.0.2.post1.
"""

import hashlib

import numpy as np
import pytest

from rnnlab.data import DataError, mnist1d, sets, wheels

CONTENT = b'1,2\n3,4\n'
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MEMBER = 'tinyset/data/values.csv'


@pytest.fixture
def tinyset(wheel):
  """The wheel of tinyset 1.0, the only one in pip's only index."""
  return wheel('tinyset', '1.0', {MEMBER: CONTENT, 'tinyset/other/values.csv': 'ä\n'})


@pytest.fixture
def index(only_index, tinyset):
  """A folder that is pip's only index, with a wheel of tinyset 1.0; the cache is a folder too."""
  return only_index


def _remove_wheels(folder):
  for wheel in folder.glob('*.whl'):
    wheel.unlink()


def test_a_file_is_downloaded_once(index, tmp_path):
  assert wheels.member('tinyset==1.0', MEMBER, SHA256) == CONTENT
  _remove_wheels(index)
  assert wheels.member('tinyset==1.0', MEMBER, SHA256) == CONTENT
  kept = tmp_path / 'cache/rnnlab/wheels/tinyset==1.0-values.csv'
  assert kept.read_bytes() == CONTENT  # a person may put it there


def test_a_damaged_file_is_downloaded_again(index, tmp_path):
  wheels.member('tinyset==1.0', MEMBER, SHA256)
  kept = tmp_path / 'cache/rnnlab/wheels/tinyset==1.0-values.csv'
  kept.write_bytes(CONTENT[:-1])
  assert wheels.member('tinyset==1.0', MEMBER, SHA256) == CONTENT
  assert kept.read_bytes() == CONTENT


def test_a_file_of_an_installed_package_is_read_there(index, tmp_path, monkeypatch):
  _remove_wheels(index)
  package = tmp_path / 'installed/tinyset'
  (package / 'data').mkdir(parents=True)
  (package / '__init__.py').write_text('raise AssertionError("imported")')
  (package / 'data/values.csv').write_bytes(CONTENT)
  monkeypatch.syspath_prepend(tmp_path / 'installed')
  assert wheels.member('tinyset==1.0', MEMBER, SHA256) == CONTENT
  assert not (tmp_path / 'cache').exists()


def test_other_content_is_refused_and_not_kept(index, tmp_path):
  with pytest.raises(DataError, match='has changed: its sha256 is'):
    wheels.member('tinyset==1.0', MEMBER, '0' * 64)
  assert not list((tmp_path / 'cache/rnnlab/wheels').glob('*.csv'))


def test_without_the_package_or_the_file_a_person_is_told_what_to_do(index):
  with pytest.raises(DataError, match='No matching distribution found(.|\n)*put that file'):
    wheels.member('tinyset==2.0', 'tinyset/none.csv', SHA256)
  with pytest.raises(DataError, match='no tinyset/none.csv in its wheel(.|\n)*put that file'):
    wheels.member('tinyset==1.0', 'tinyset/none.csv', SHA256)


def test_without_pip_a_person_is_told_what_to_do(index, monkeypatch):
  monkeypatch.setattr(wheels.sys, 'executable', '/bin/false')
  with pytest.raises(DataError, match='exit status 1\n.*put that file from the wheel at'):
    wheels.member('tinyset==1.0', MEMBER, SHA256)


def test_many_files_are_downloaded_once_and_kept_as_one(index, tinyset, tmp_path):
  digest = hashlib.sha256(tinyset.read_bytes()).hexdigest()

  def members():
    return wheels.members('tinyset==1.0', ('tinyset/*/values.csv',), digest)

  expected = {MEMBER: CONTENT.decode(), 'tinyset/other/values.csv': 'ä\n'}
  assert members() == expected
  (kept,) = (tmp_path / 'cache/rnnlab/wheels').glob('*.zlib')
  content = tinyset.read_bytes()
  _remove_wheels(index)
  assert members() == expected
  kept.write_bytes(kept.read_bytes()[:-1])  # damaged
  with pytest.raises(DataError, match='No matching distribution found(.|\n)*PIP_FIND_LINKS=FOLDER'):
    members()
  tinyset.write_bytes(content)
  assert members() == expected
  assert wheels.members('tinyset==1.0', (MEMBER,), digest) == {MEMBER: CONTENT.decode()}


def test_many_files_of_another_wheel_are_refused_and_not_kept(index, tmp_path):
  with pytest.raises(DataError, match='The wheel of tinyset==1.0 has changed: its sha256 is'):
    wheels.members('tinyset==1.0', (MEMBER,), '0' * 64)
  assert not list((tmp_path / 'cache/rnnlab/wheels').glob('*.zlib'))


def test_a_pattern_that_nothing_matches_is_told_with_what_there_is(tinyset):
  digest = hashlib.sha256(tinyset.read_bytes()).hexdigest()
  with pytest.raises(
    DataError, match='no tinyset/./none.csv in its wheel;.* there are values.csv$'
  ):
    wheels.members('tinyset==1.0', (MEMBER, 'tinyset/*/none.csv'), digest)


def test_a_ts_file_by_hand():
  text = '# made\n@dimensions 2\n@classLabel true a b\n@data\n1,2,3:4,5,6:a\n\n7.5:-8e-1:b\n'
  got = sets.ts(text)
  np.testing.assert_array_equal(got.inputs[0], np.float32([[1, 4], [2, 5], [3, 6]]))
  np.testing.assert_array_equal(got.inputs[1], np.float32([[7.5, -0.8]]))
  assert {series.dtype for series in got.inputs} == {np.dtype('float32')}
  assert (got.targets, got.rows.tolist()) == (['a', 'b'], [5, 7])


@pytest.mark.parametrize('line', ['1,2:3:a', '1,x:3,4:a', 'a', '1,2:3,?:a', '1,nan:3,4:a'])
def test_a_damaged_line_of_a_ts_file_is_named(line):
  with pytest.raises(DataError, match='^line 3: '):
    sets.ts(f'@data\n1,2:3,4:a\n{line}\n')


def test_a_ts_file_without_data_is_refused():
  with pytest.raises(DataError, match='@data'):
    sets.ts('@dimensions 2\n1,2:3,4:a\n')


def test_mnist_1d_is_the_published_one(monkeypatch):
  got = sets.SETS['mnist1d'].load()
  assert {name: len(part.inputs) for name, part in got.items()} == {'train': 4_000, 'test': 1_000}
  assert got['train'].inputs[0].shape == (40, 1)
  # The first values and labels from mnist1d 0.0.2.post1, in addition to the digest.
  np.testing.assert_allclose(
    got['train'].inputs[0][:3, 0], [-0.332006, -0.47191, -0.778697], atol=1e-5
  )
  assert got['train'].targets[:8] == list('26456660')
  monkeypatch.setattr(mnist1d, '_SEED', 43)
  with pytest.raises(DataError, match='not the published ones'):
    mnist1d.generate()


@pytest.mark.slow
@pytest.mark.parametrize(
  ('name', 'sizes', 'classes', 'lengths'),
  [
    ('japanese_vowels', (270, 370), 9, (7, 29)),
    ('digits', (1_797,), 10, (8, 8)),
    ('sms_spam', (5_574,), 2, (2, 910)),
  ],
)
def test_published_counts(name, sizes, classes, lengths):
  try:
    got = sets.SETS[name].load()
  except DataError as error:
    if 'cannot be downloaded' not in str(error):
      raise
    pytest.skip(str(error))
  inputs = [example for part in got.values() for example in part.inputs]
  labels = [label for part in got.values() for label in part.targets]
  assert tuple(len(part.inputs) for part in got.values()) == sizes
  assert len({*labels}) == classes
  assert (min(map(len, inputs)), max(map(len, inputs))) == lengths
  if name == 'sms_spam':  # as the collection's page counts them
    assert (labels.count('ham'), labels.count('spam')) == (4_827, 747)
