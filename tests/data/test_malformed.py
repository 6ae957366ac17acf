"""Files that are damaged, or not what they should be, are told of by name and row."""

import io

import numpy as np
import pytest

from rnnlab import tasks
from rnnlab.data import DataError
from rnnlab.runs import configs

GOOD = 'text,label\n' + ''.join(f'word number {i},{"ab"[i % 2]}\n' for i in range(20))


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


def npz(**arrays):
  file = io.BytesIO()
  np.savez(file, **arrays)
  return file.getvalue()


def load(tmp_path, task, name, content, **fields):
  config = configs.default(task).data
  config.path = str(tmp_path / name)
  if content is not None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
  for field, value in fields.items():
    config[field] = value
  return tasks.find(task).load(config)


X, Y = np.arange(200, dtype=np.float32).reshape(20, 5, 2), np.arange(20) % 2
NAN = np.where(np.arange(20)[:, None, None] == 6, np.nan, X)
LINES = ''.join(f'{{"text": "t {i}", "label": "{i % 2}"}}\n' for i in range(20))

TABLES = {
  'long row': ('a.csv', GOOD + 'a, b,c,d\n', r'row 22 has 4 fields'),
  'short row': ('a.csv', GOOD + 'alone\n', r'row 22: it has 1 fields, fewer than'),
  'after a blank line': ('a.csv', GOOD + '\nwords,\n', r'label is missing in row 23'),
  'open quote': ('a.csv', GOOD + '"open,a\n', r'row 22: a quotation mark'),
  'near column': ('a.csv', GOOD.replace('label', 'labels', 1), r"no column 'label'.*labels"),
  'one class': ('a.csv', 'text,label\na,x\nb,x\nc,x\n', r'only one class'),
  'floats': ('a.csv', GOOD.replace(',a', ',0.5').replace(',b', ',1.5'), r'row 2: label is 0.5'),
  'no label': ('a.csv', GOOD + 'words,\n', r'label is missing in row 22'),
  'empty': ('a.csv', '', r'is empty'),
  'header only': ('a.csv', 'text,label\n', r'no rows'),
  'twice': ('a.csv', GOOD.replace('text,', 'label,', 1), r"row 1: .* 'label' is there twice"),
  'nameless': ('a.csv', GOOD.replace('text,', ',', 1), r'row 1: a column has no name'),
  'binary': ('a.csv', GOOD + 'a\0b,a\n', r'line 22: there is a zero byte'),
  'latin-1': ('a.csv', GOOD.encode() + b'caf\xe9,a\n', r'line 22: byte 0xe9 is not UTF-8'),
  'semicolons': ('a.csv', GOOD.replace(',', ';'), r"no column 'text'"),
  'all labels differ': (
    'a.csv', 'text,label\n' + ''.join(f't{i},l{i}\n' for i in range(50)), r'different labels',
  ),
  'no texts': ('a.csv', 'text,label\n' + ',a\n,b\n' * 10, r'all 20 texts are empty'),
  'ending': ('a.docx', GOOD, r'of which format'),
  'no file': ('a.csv', None, r'no such file'),
  'parquet': ('a.parquet', b'PAR1 and nothing', r'is damaged, or no Parquet'),
  'a list': ('a.jsonl', LINES + '[1]\n', r'line 21: each line must be a JSON object'),
  'nested': ('a.jsonl', LINES + '{"text": {"a": 1}, "label": "1"}\n', r'row 21: text must be'),
  'missing key': ('a.jsonl', LINES + '{"text": "a"}\n', r"line 21: it does not have .*label"),
  'broken line': ('a.jsonl', LINES + '{"text": "a\n', r'line 21: it is no JSON'),
  'no zip': ('a.npz', b'PK and more', r'is damaged, or no .npz'),
  'cut npz': ('a.npz', npz(x=X, y=Y)[:300], r'is damaged, or no .npz'),
  'pickle': ('a.npz', npz(x=np.array([X, 1], object), y=Y), r'x holds objects'),
  'names': ('a.npz', npz(inputs=X, y=Y), r'no array x'),
  'no y': ('a.npz', npz(x=X), r'no array y'),
  'types': ('a.npz', npz(x=X.astype(str), y=Y), r'x must be numbers'),
  'another N': ('a.npz', npz(x=X, y=Y[:9]), r'y has 9 rows, and x 20'),
  'y of floats': ('a.npz', npz(x=X, y=np.full((20, 2), 0.5)), r'row 1: several labels'),
  'flat x': ('a.npz', npz(x=X[:, 0, 0], y=Y), r'x must be \[N, T, D\]'),
  'NaN': ('a.npz', npz(x=NAN, y=Y), r'row 7 of x, step 1, feature 1'),
  'no length': ('a.npz', npz(x=X, y=Y, lengths=Y), r'row 1: lengths is 0'),
  'too long': ('a.npz', npz(x=X, y=Y, lengths=Y + 5), r'row 2: lengths is 6, and x has 5 steps'),
}  # fmt: skip


@pytest.mark.parametrize('case', TABLES)
def test_a_malformed_file_is_told_with_its_row(tmp_path, case):
  name, content, words = TABLES[case]
  with pytest.raises((DataError, ValueError), match=words) as error:
    load(tmp_path, 'classification', name, content)
  assert type(error.value) in (DataError, ValueError) and str(error.value).count('\n') < 2


@pytest.mark.parametrize(
  ('content', 'words'),
  [
    ('a B\nb O\nc\n', 'line 3: it has 1 fields'),
    ('a\nb\n', 'line 1: there is a token and no tag'),
    ('\n\n', 'no sentences'),
    ('', 'no sentences|is empty'),
  ],
)
def test_malformed_columns_are_told_with_their_line(tmp_path, content, words):
  with pytest.raises(DataError, match=words):
    load(tmp_path, 'tagging', 'a.conll', content)


@pytest.mark.parametrize('value', ['', 'many', 'nan', 'inf'])
def test_a_target_that_is_no_number_is_told_with_its_row(tmp_path, value):
  content = 'text,label\n' + 'some words,1.5\n' * 8 + f'more words,{value}\n'
  with pytest.raises(DataError, match='row 10: label must be a number'):
    load(tmp_path, 'regression', 'a.csv', content)


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16'])
def test_a_byte_order_mark_is_read(tmp_path, encoding):
  made = load(tmp_path, 'classification', 'a.csv', GOOD.encode(encoding))
  assert made.encoding['classes'] == ['a', 'b']


def test_a_class_that_train_lacks_and_other_features_are_told(tmp_path):
  (tmp_path / 'v.csv').write_text('text,label\nx,a\ny,z\n')
  with pytest.raises(DataError, match="validation row 3 has the class 'z'"):
    load(tmp_path, 'classification', 'a.csv', GOOD, validation_path=str(tmp_path / 'v.csv'))
  (tmp_path / 't.npz').write_bytes(npz(x=X[..., :1], y=Y))
  with pytest.raises(DataError, match='test row 1 has 1 features'):
    load(tmp_path, 'classification', 'a.npz', npz(x=X, y=Y), test_path=str(tmp_path / 't.npz'))


def test_a_damaged_cache_is_made_anew(tmp_path):
  made = load(tmp_path, 'classification', 'a.csv', GOOD)
  (kept,) = (tmp_path / 'cache').rglob('own-*.npz')
  config = configs.default('classification').data
  config.path = str(tmp_path / 'a.csv')
  for damage in (lambda: None, lambda: kept.write_bytes(kept.read_bytes()[:-200])):
    damage()
    again = tasks.find('classification').load(config)
    assert again.fingerprint == made.fingerprint and again.notes == made.notes
    assert (again.splits['train']['inputs'] == made.splits['train']['inputs']).all()
