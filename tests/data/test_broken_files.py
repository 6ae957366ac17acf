"""A user's own files, broken in all the usual ways: errors in words, with the row."""

import codecs
import io
import json

import numpy as np
import pandas as pd
import pytest
from ml_collections import FrozenConfigDict

from rnnlab import tasks
from rnnlab.data import DataError, columns, shown
from rnnlab.runs import configs, program


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


def loaded(task, path, **fields):
  """The result of a task's `load` for a file."""
  config = configs.default(task)
  config.data.path = str(path)
  if 'buckets' in config.data:
    config.data.buckets = 1
  config.data.update(fields)
  return tasks.find(task).load(FrozenConfigDict(program.data_of(configs.check(config))))


def csv(*rows, header='text,label'):
  return '\n'.join([header, *rows, '']).encode()


def rows(count, classes=3):
  return [f'word{i} and word{i % 7},c{i % classes}' for i in range(count)]


def with_row(row, at=10, **more):
  """A file that is good except for one row; the header is row 1, so it is row at + 1."""
  lines = rows(40)
  lines[at - 1] = row
  return csv(*lines, **more)


def jsonl(*objects):
  return ''.join(f'{of if isinstance(of, str) else json.dumps(of)}\n' for of in objects).encode()


def good_objects(count=30):
  return [{'text': f'word{i} here', 'label': f'c{i % 3}'} for i in range(count)]


def npz(**arrays):
  buffer = io.BytesIO()
  np.savez(buffer, **arrays)
  return buffer.getvalue()


def xy(count=30, steps=5, features=2):
  draw = np.random.default_rng(0)
  return {'x': draw.normal(size=(count, steps, features)), 'y': np.arange(count) % 3}


def parquet(frame):
  buffer = io.BytesIO()
  frame.to_parquet(buffer)
  return buffer.getvalue()


def changed(array, place, value):
  array = np.array(array, float)
  array[place] = value
  return array


SENTENCE = 'the O\ncat B-ANIMAL\n\n'

# Task, file, content, fields of data, words of the error.
BROKEN = {
  'a row of more fields': ('a.csv', with_row('one,two,three,c0'), {}, 'row 11: it has 4 fields'),
  'a row of fewer fields': (
    'a.csv',
    with_row('alone'),
    {},
    'row 11.*1 fields',
  ),
  'a field too many in each row': (
    'a.csv',
    csv(*[f'word {i}, yes,c{i % 3}' for i in range(30)]),
    {},
    'row 2: it has 3 fields',
  ),
  'a broken row after blank lines': (
    'a.csv',
    csv(*rows(9), '', '', 'a,b,c'),
    {},
    'row 13: it has 3 fields',
  ),
  'an entry twice': (
    'a.jsonl',
    jsonl(*good_objects(), '{"text": "a", "text": "b"}'),
    {},
    'line 31.*twice',
  ),
  'unclosed quotes': ('a.csv', with_row('"never closed,c0'), {}, 'row 11.*never closed'),
  'a missing column': (
    'a.csv',
    csv(*rows(30), header='txt,label'),
    {},
    "'text'.*did you mean 'txt'",
  ),
  'no column of the label': ('a.csv', csv(*rows(30), header='text,lable'), {}, "mean 'lable'"),
  'semicolons': ('a.csv', csv(*['a b;c0'] * 9, header='text;label'), {}, "no column 'text'"),
  'one class': ('a.csv', csv(*rows(30, 1)), {}, "only one class, 'c0'"),
  'labels that are numbers': (
    'a.csv',
    csv(*[f'word{i} a,{i / 4}' for i in range(30)]),
    {},
    'row [23].*not a class but a number.*regression',
  ),
  'a label of its own for each': (
    'a.csv',
    csv(*[f'a b,{i}' for i in range(60)]),
    {},
    'right column',
  ),
  'a label is missing': ('a.csv', with_row('some words,'), {}, 'missing in row 11'),
  'labels are missing': (
    'a.csv',
    csv(*rows(30), 'a,', 'b,', 'c,nan'),
    {},
    r'3 rows \(32, 33, 34\)',
  ),
  'an empty file': ('a.csv', b'', {}, 'is empty'),
  'a header alone': ('a.csv', csv(), {}, 'no rows'),
  'blank lines alone': ('a.csv', b'\n\n\n', {}, 'a.csv'),
  'a column twice': ('a.csv', csv(*rows(9), header='text,text'), {}, "'text' occurs twice"),
  'a column without a name': ('a.csv', csv(*rows(9), header='text,'), {}, 'no name'),
  'zeros': ('a.csv', csv(*rows(9)) + b'\0\0\0', {}, 'line 11.*zero byte'),
  'another encoding': (
    'a.csv',
    with_row('caf\u00e9 au lait,c0').decode().encode('latin1'),
    {},
    'line 11.*UTF-8',
  ),
  'broken UTF-16': ('a.csv', b'\xff\xfe' + b'a\0b\0c', {}, 'UTF-16'),
  'no text at all': ('a.csv', csv(*['  ,c0', ' ,c1'] * 20), {}, 'all 40 texts are empty'),
  'an unknown ending': ('a.xlsx', b'PK', {'source': 'table'}, 'end in .csv'),
  'no ending': ('a', b'text', {}, 'format'),
  'too few rows': ('a.csv', csv('a,c0', 'b,c1'), {}, 'no rows are left|train has no row|left'),
  'the wrong separator in .tsv': ('a.tsv', csv(*rows(30)), {}, "no column 'text'"),
  'a line that is no JSON': (
    'a.jsonl',
    jsonl(*good_objects(), '{"text": '),
    {},
    'line 31.*not JSON',
  ),
  'a list of JSON': ('a.jsonl', jsonl(*good_objects(), '["a", "b"]'), {}, 'line 31.*object'),
  'a number of JSON': ('a.jsonl', jsonl(*good_objects(), '7'), {}, 'line 31.*object'),
  'an entry is missing': (
    'a.jsonl',
    jsonl(*good_objects(), {'text': 'a'}),
    {},
    "line 31.*does not have the entry 'label'",
  ),
  'an entry too many': (
    'a.jsonl',
    jsonl(*good_objects(), {'text': 'a', 'label': 'c0', 'more': 1}),
    {},
    "line 31.*'more'",
  ),
  'a text that is a number': (
    'a.jsonl',
    jsonl(*good_objects(), {'text': 7, 'label': 'c0'}),
    {},
    'row 31.*not 7',
  ),
  'a text that is nested': (
    'a.jsonl',
    jsonl(*good_objects(), {'text': ['a'], 'label': 'c0'}),
    {},
    'row 31.*list',
  ),
  'a label that is nested': (
    'a.jsonl',
    jsonl(*good_objects(), {'text': 'a', 'label': {}}),
    {},
    'row 31',
  ),
  'a label of several that is nested': (
    'a.jsonl',
    jsonl(*good_objects(), {'text': 'a', 'label': {'a': 1}}),
    {'separator': ';'},
    'row 31: label must be a label or a list',
  ),
  'a class called none': ('a.csv', with_row('some words,none'), {}, 'row 11.*another name'),
  'nests too deep': ('a.jsonl', b'[' * 200_000, {}, 'line 1: it is not JSON'),
  'a broken byte after a mark': (
    'a.csv',
    codecs.BOM_UTF8 + b'text,label\n\xffcd,c0\n',
    {},
    'line 2: byte 0xff is not UTF-8',
  ),
  'a truth value among numbers': (
    'a.jsonl',
    jsonl(*[{'text': f'w{i}', 'label': i} for i in range(30)], {'text': 'a', 'label': True}),
    {'task': 'regression'},
    'row 31: label must be a number, not True',
  ),
  'a label that is null': (
    'a.jsonl',
    jsonl(*good_objects(), {'text': 'a', 'label': None}),
    {},
    'missing in row 31',
  ),
  'an empty line': (
    'a.jsonl',
    jsonl(*good_objects(), '', good_objects(1)[0]),
    {},
    'line 31.*empty',
  ),
  'no Parquet': ('a.parquet', b'PAR1 and nothing', {}, 'damaged|pyarrow'),
  'NaN in x': (
    'a.npz',
    npz(x=changed(xy()['x'], (3, 1, 0), np.nan), y=xy()['y']),
    {},
    'row 4.*step 2, feature 1',
  ),
  'infinity in x': (
    'a.npz',
    npz(x=changed(xy()['x'], (3, 1, 0), np.inf), y=xy()['y']),
    {},
    'row 4.*step 2',
  ),
  'lengths beyond T': ('a.npz', npz(**xy(), lengths=np.r_[[5] * 29, 6]), {}, 'row 30.*is 6'),
  'lengths of 0': ('a.npz', npz(**xy(), lengths=np.r_[[5] * 29, 0]), {}, 'row 30.*above 0'),
  'lengths of another N': ('a.npz', npz(**xy(), lengths=np.full(29, 5)), {}, '29'),
  'lengths that are no numbers': (
    'a.npz',
    npz(**xy(), lengths=np.full(30, 5.0)),
    {},
    'whole numbers',
  ),
  'y of one value': ('a.npz', npz(x=xy()['x'], y=3), {}, 'y is a single value'),
  'series or steps': (
    'a.npz',
    npz(x=xy()['x'][:, :, 0], y=xy()['y'], lengths=np.ones(30, int)),
    {},
    r'single steps \[N, D\]: give it as \[N, T, D\]',
  ),
  'y of another N': ('a.npz', npz(x=xy()['x'], y=np.arange(29) % 3), {}, '29 rows'),
  'no y': ('a.npz', npz(x=xy()['x']), {}, 'no array y'),
  'no x': ('a.npz', npz(X=xy()['x'], y=xy()['y']), {}, 'no array x'),
  'an array that nothing reads': ('a.npz', npz(**xy(), z=np.ones(30)), {}, "array 'z'"),
  'objects of Python': (
    'a.npz',
    npz(x=np.array([[1], [1, 2]], object), y=np.arange(2)),
    {},
    'Python objects',
  ),
  'x of texts': (
    'a.npz',
    npz(x=np.array([['a', 'b']] * 9), y=np.arange(9) % 3),
    {},
    'must be numbers',
  ),
  'x of one axis': ('a.npz', npz(x=np.ones(9), y=np.arange(9) % 3), {}, 'must be'),
  'x without steps': ('a.npz', npz(x=np.ones((9, 0, 2)), y=np.arange(9) % 3), {}, 'no steps'),
  'x without rows': ('a.npz', npz(x=np.ones((0, 3, 2)), y=np.ones(0, int)), {}, 'no rows'),
  'y of fractions': (
    'a.npz',
    npz(x=xy()['x'], y=np.arange(30) / 7),
    {},
    'not a class but a number',
  ),
  'y of NaN': ('a.npz', npz(x=xy()['x'], y=np.full(30, np.nan)), {}, 'row 1.*missing'),
  'y of rows that are not 0 and 1': (
    'a.npz',
    npz(x=xy()['x'], y=np.full((30, 2), 0.5)),
    {},
    '0 and 1',
  ),
  'a truncated .npz': ('a.npz', npz(**xy())[:200], {}, 'damaged'),
  'a .npy': ('a.npz', b'\x93NUMPY\x01\x00', {}, 'damaged|single array'),
  'tags without tokens': ('a.conll', b'the\ncat\n\n', {}, 'line 1.*no tag'),
  'a ragged line': ('a.conll', (SENTENCE * 9 + 'a b c d\n').encode(), {}, 'line 28.*4 fields'),
  'no sentences': ('a.conll', b'\n\n\n', {}, 'no sentences'),
  'no tokens but marks': ('a.conll', b'-DOCSTART- O\n\n', {}, 'no sentences'),
  'an empty .conll': ('a.conll', b'', {}, 'empty|no sentences'),
  'tags that are no UTF-8': ('a.conll', b'caf\xe9 O\n', {}, 'line 1.*UTF-8'),
  'a value that is no number': (
    'a.csv',
    csv(*[f'word{i},{i}' for i in range(30)], 'a,about 3'),
    {'task': 'regression'},
    "row 32.*'about 3'",
  ),
  'a value that is missing': (
    'a.csv',
    csv(*[f'word{i},{i}' for i in range(30)], 'a,'),
    {'task': 'regression'},
    'row 32',
  ),
}


@pytest.mark.parametrize('case', BROKEN)
def test_a_broken_file_is_told_in_a_line_or_two(case, tmp_path):
  name, content, fields, says = BROKEN[case]
  path = tmp_path / name
  path.write_bytes(content)
  task = 'tagging' if name.endswith('.conll') else fields.get('task', 'classification')
  fields = {name: value for name, value in fields.items() if name != 'task'}
  with pytest.raises((DataError, ValueError), match=f'(?s){says}') as raised:
    loaded(task, path, **fields)
  said = str(raised.value)
  assert len(said) < 500 and said.count('\n') < 3 and 'Traceback' not in said


def test_no_file_and_a_folder_are_told(tmp_path):
  for path in (tmp_path / 'none.csv', tmp_path / 'folder.csv', tmp_path / 'none.npz'):
    if path.stem == 'folder':
      path.mkdir()
    with pytest.raises(DataError, match='no such file|is a folder'):
      loaded('classification', path)


def test_a_class_that_train_lacks_is_told_with_its_row(tmp_path):
  for name, classes in (('train', 3), ('test', 4)):
    (tmp_path / f'{name}.csv').write_bytes(csv(*rows(30, classes)))
  with pytest.raises(DataError, match="test row 5 has the class 'c3'"):
    loaded('classification', tmp_path / 'train.csv', test_path=str(tmp_path / 'test.csv'))


def test_series_of_other_features_are_told_with_their_row(tmp_path):
  (tmp_path / 'train.npz').write_bytes(npz(**xy()))
  (tmp_path / 'test.npz').write_bytes(npz(**xy(features=3)))
  with pytest.raises(DataError, match='test row 1 has 3 features'):
    loaded('classification', tmp_path / 'train.npz', test_path=str(tmp_path / 'test.npz'))


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16'])
def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path, encoding):
  path = tmp_path / 'a.csv'
  path.write_bytes(csv(*rows(30)).decode().encode(encoding))
  data = loaded('classification', path)
  assert data.encoding['classes'] == ['c0', 'c1', 'c2']
  assert sum(len(split['labels']) for split in data.splits.values()) == 30


def test_a_line_of_ten_megabytes_is_a_row(tmp_path):
  path = tmp_path / 'a.csv'
  path.write_bytes(with_row('long ' * 2_000_000 + ',c0'))
  data = loaded('classification', path, max_len=7)
  assert data.splits['train']['inputs'].shape[1] <= 7


def test_no_text_is_on_both_sides_and_classes_keep_their_shares(tmp_path):
  path = tmp_path / 'a.csv'
  path.write_bytes(csv(*[f'text {i // 2},c{i // 2 % 3}' for i in range(300)]))
  data = loaded('classification', path, padding='post')
  ids = {name: {*map(bytes, split['inputs'])} for name, split in data.splits.items()}
  # A number that train lacks is unknown, so only differences in known words are compared.
  assert not ids['train'] & ids['test'] and not ids['train'] & ids['validation']
  for split in data.splits.values():
    counts = np.bincount(split['labels'])
    assert counts.max() - counts.min() <= 2
  assert any('150 of the 300 train rows equal an earlier one' in note for note in data.notes)


def test_the_cache_gives_the_same_and_a_changed_file_is_read_again(tmp_path):
  path = tmp_path / 'a.csv'
  path.write_bytes(csv(*rows(30)))
  first, again = loaded('classification', path), loaded('classification', path)
  assert first._replace(splits={}) == again._replace(splits={})
  for name, split in first.splits.items():
    for key, array in split.items():
      np.testing.assert_array_equal(array, again.splits[name][key])
  (kept,) = (tmp_path / 'cache' / 'rnnlab').glob('own-*.npz')
  kept.write_bytes(kept.read_bytes()[:-40])
  assert loaded('classification', path).fingerprint == first.fingerprint
  path.write_bytes(csv(*rows(36)))
  assert loaded('classification', path).fingerprint != first.fingerprint


def test_parquet_and_json_lines_are_read_as_csv_is(tmp_path):
  pytest.importorskip('pyarrow', reason='pandas reads Parquet by pyarrow')
  frame = pd.DataFrame(good_objects())
  (tmp_path / 'a.parquet').write_bytes(parquet(frame))
  (tmp_path / 'a.jsonl').write_bytes(jsonl(*good_objects()))
  frame.to_csv(tmp_path / 'a.csv', index=False)
  found = {
    loaded('classification', tmp_path / f'a.{of}').fingerprint for of in ('parquet', 'jsonl', 'csv')
  }
  assert len(found) == 1


def test_several_labels_a_row(tmp_path):
  path = tmp_path / 'a.csv'
  labels = ['a;b', 'b', 'a', '']
  path.write_bytes(csv(*[f'word{i},{labels[i % 4]}' for i in range(40)]))
  data = loaded('classification', path, separator=';')
  assert data.encoding['classes'] == ['a', 'b'] and data.encoding['several']
  total = np.concatenate([split['labels'] for split in data.splits.values()]).sum(axis=0)
  assert total.tolist() == [20, 20]


def test_labels_in_lists_are_those_of_a_separator(tmp_path):
  pytest.importorskip('pyarrow', reason='pandas reads Parquet by pyarrow')
  labels = ['a;b', 'b', 'a', '']
  texts = [f'word{i}' for i in range(40)]
  lists = [[one for one in labels[i % 4].split(';') if one] or None for i in range(40)]
  (tmp_path / 'a.csv').write_bytes(csv(*[f'{t},{labels[i % 4]}' for i, t in enumerate(texts)]))
  (tmp_path / 'a.jsonl').write_bytes(
    jsonl(*[{'text': t, 'label': of} for t, of in zip(texts, lists, strict=True)])
  )
  frame = pd.DataFrame({'text': texts, 'label': lists})
  (tmp_path / 'a.parquet').write_bytes(parquet(frame))
  found = {
    loaded('classification', tmp_path / f'a.{of}', separator=';').fingerprint
    for of in ('csv', 'jsonl', 'parquet')
  }
  assert len(found) == 1
  with pytest.raises(DataError, match='row 1: label must be a label, not '):
    loaded('classification', tmp_path / 'a.parquet')


def test_dates_are_no_numbers(tmp_path):
  pytest.importorskip('pyarrow', reason='pandas reads Parquet by pyarrow')
  days = pd.date_range('2023-01-01', periods=30)
  path = tmp_path / 'a.parquet'
  path.write_bytes(parquet(pd.DataFrame({'text': ['a b'] * 30, 'label': days})))
  with pytest.raises(DataError, match='row 1: label must be a number, not Timestamp'):
    loaded('regression', path)


def test_signs_alone_make_no_number(tmp_path):
  (tmp_path / 'a.csv').write_bytes(csv(*[f'word{i},+-{i % 3}' for i in range(60)]))
  data = loaded('classification', tmp_path / 'a.csv')
  assert data.encoding['classes'] == ['+-0', '+-1', '+-2']


def test_labels_of_bytes_are_utf_8(tmp_path):
  y = np.array([('café', 'thé')[i % 2].encode() for i in range(30)])
  (tmp_path / 'a.npz').write_bytes(npz(x=xy()['x'], y=y))
  assert loaded('classification', tmp_path / 'a.npz').encoding['classes'] == ['café', 'thé']


def test_what_is_cut_is_told_of_each_split(tmp_path):
  for name, words in (('train', 'a b'), ('test', 'a b c')):
    lines = [f'{words} w{i},c{i % 3}' for i in range(30)]
    (tmp_path / f'{name}.csv').write_bytes(csv(*lines))
  fields = {'test_path': str(tmp_path / 'test.csv'), 'validation_fraction': 0.0}
  notes = loaded('classification', tmp_path / 'train.csv', max_len=4, **fields).notes
  # A text has one id more than words, for its beginning.
  assert '; 100.0% of test are longer than data.max_len=4 and are cut' in ' '.join(notes)


def test_bytes_are_shown_as_text(tmp_path):
  texts = ['thé ' + 'a' * i for i in range(30)]
  (tmp_path / 'a.csv').write_bytes(csv(*[f'{text},c{i % 3}' for i, text in enumerate(texts)]))
  data = loaded('classification', tmp_path / 'a.csv', tokens='bytes', test_fraction=0.5)
  assert {*shown.shown(data, np.arange(10))} <= {*texts}


def test_a_document_begins_a_sentence(tmp_path):
  path = tmp_path / 'a.conll'
  path.write_text('a X\nb Y\n-DOCSTART- O\nc X\n\nd Y\n')
  found = columns.read(path)
  assert found.inputs == [['a', 'b'], ['c'], ['d']] and found.rows.tolist() == [1, 4, 6]


def test_rows_of_one_label_in_train_have_one_elsewhere(tmp_path):
  x, y = xy()['x'], np.eye(3, dtype=int)[np.arange(30) % 3]
  (tmp_path / 'train.npz').write_bytes(npz(x=x, y=y))
  for flags in ([1, 1, 0], [0, 0, 0]):
    y[4] = flags
    (tmp_path / 'test.npz').write_bytes(npz(x=x, y=y))
    with pytest.raises(DataError, match=f'test row 5 has {sum(flags)} labels'):
      loaded('classification', tmp_path / 'train.npz', test_path=str(tmp_path / 'test.npz'))


def test_empty_texts_are_left_out_and_told(tmp_path):
  path = tmp_path / 'a.csv'
  path.write_bytes(with_row('   ,c0'))
  data = loaded('classification', path)
  assert 'left out of a.csv, because the text is empty: row 11' in data.notes
  assert sum(len(split['labels']) for split in data.splits.values()) == 39


def test_a_tokeniser_of_hugging_face_takes_texts_apart_and_is_kept(tmp_path):
  tokenizers = pytest.importorskip('tokenizers', reason='optional: experiments/files.txt')
  made = tokenizers.Tokenizer(
    tokenizers.models.WordLevel({'good': 0, 'bad': 1, '?': 2}, unk_token='?')
  )
  made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  made.save(str(tmp_path / 'made.json'))
  (tmp_path / 'a.csv').write_bytes(csv(*[f'good bad bad odd{i},c{i % 3}' for i in range(30)]))
  data = loaded('classification', tmp_path / 'a.csv', tokens=str(tmp_path / 'made.json'))
  assert data.vocabulary == ('bad', 'good', '?')
  assert data.splits['test']['inputs'][0].tolist() == [1, 5, 4, 4, 6]
  config = configs.default('classification').data
  task = tasks.find('classification')
  (tmp_path / 'made.json').unlink()
  ids = task.encode(['bad good'], config, data.encoding, data.vocabulary)
  assert ids[0, -3:].tolist() == [1, 4, 5]
  for name, says in (
    ('none.json', 'No such file'),
    ('a.json', 'not the file of a Hugging Face tokeniser'),
  ):
    (tmp_path / 'a.json').write_text('{}')
    with pytest.raises(DataError, match=says):
      loaded('classification', tmp_path / 'a.csv', tokens=str(tmp_path / name))


def test_by_time_the_latest_rows_are_tested_on(tmp_path):
  draw = np.random.default_rng(0)
  days = draw.permutation(60)
  dates = [f'2024-{1 + day // 28:02}-{1 + day % 28:02}' for day in days]
  lines = [f'word{day} a,c{day % 3},{date}' for day, date in zip(days, dates, strict=True)]
  path = tmp_path / 'a.csv'
  path.write_bytes(csv(*lines, header='text,label,day'))
  data = loaded('classification', path, time='day', padding='post')
  for name, first, size in (('validation', 36, 12), ('test', 48, 12)):
    labels = data.splits[name]['labels']
    assert labels.tolist() == [day % 3 for day in range(first, first + size)]
  path.write_bytes(csv(*lines, 'a b,c0,someday', header='text,label,day'))
  with pytest.raises(DataError, match="row 62: day must be a number or a date, not 'someday'"):
    loaded('classification', path, time='day')
