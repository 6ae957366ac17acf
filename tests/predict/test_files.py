"""Files of examples and the same files with predictions: each kind, and malformed ones."""

import csv
import json

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from predictors import NAMES, TEXTS, series, tagger, three

import rnnlab
from rnnlab.data import columns
from rnnlab.predict import answers, reading, writing

SERIES = [
  np.random.default_rng(0).normal(size=(n, 2)).astype(np.float32) for n in (3, 1, 40, 100, 7)
]


@pytest.fixture(scope='module')
def texts():
  return three()


@pytest.fixture(scope='module')
def values():
  return series()


def through(member, source, out, column=''):
  """Writes `out`, as --input and --out do."""
  ensemble = rnnlab.Ensemble((member,))
  with writing.writing(out, source) as write:
    for block in reading.blocks(source, member, column):
      write(block, answers.columns(ensemble, block.examples))


def table(path, ending):
  """A table of texts that need quoting, with other columns, in a file with this ending."""
  frame = pd.DataFrame(
    {
      'id': [f'0{i}' for i in range(5)],
      'text': TEXTS,
      'note': ['a,b', 'say "x"', '', 'two\nl', '好'],
    }
  )
  source = path / f'in{ending}'
  if ending == '.parquet':
    frame.assign(id=frame['id'].astype(int)).to_parquet(source)
  elif ending == '.jsonl':
    frame.to_json(source, orient='records', lines=True, force_ascii=False)
  else:
    frame.to_csv(source, index=False, sep='\t' if ending == '.tsv' else ',')
  return frame, source


@pytest.mark.parametrize('ending', ['.csv', '.tsv', '.jsonl', '.parquet'])
def test_a_table_is_written_again_with_the_predictions_in_further_columns(
  ending, texts, tmp_path, monkeypatch
):
  monkeypatch.setattr(reading, 'ROWS', 2)  # so that there are several blocks
  frame, source = table(tmp_path, ending)
  before = source.read_bytes()
  out = tmp_path / f'out{ending}'
  through(texts, source, out)
  assert source.read_bytes() == before and {p.name for p in tmp_path.iterdir()} == {
    source.name,
    out.name,
  }
  found = {
    '.csv': lambda: pd.read_csv(out, dtype={'id': str}, keep_default_na=False),
    '.tsv': lambda: pd.read_csv(out, dtype={'id': str}, keep_default_na=False, sep='\t'),
    '.jsonl': lambda: pd.read_json(out, lines=True, dtype={'id': str}),
    '.parquet': lambda: pd.read_parquet(out),
  }[ending]()
  given = frame.assign(id=range(5)) if ending == '.parquet' else frame
  assert_array_equal(found[list(frame)], given)
  expected = texts.answers(TEXTS)
  assert found['predicted_label'].tolist() == expected['label'].tolist()
  for name in ('probability', *(f'probability_{name}' for name in NAMES)):
    assert_allclose(found[f'predicted_{name}'], expected[name], rtol=1e-5)
  assert list(found)[len(list(frame)) :] == [f'predicted_{name}' for name in expected]


def test_a_byte_order_mark_stays_and_other_kinds_of_tables_can_be_written(texts, tmp_path):
  source = tmp_path / 'in.csv'
  source.write_bytes('text,好\nw1,1\nw2,2\n'.encode('utf-8-sig'))
  through(texts, source, tmp_path / 'out.csv')
  assert (tmp_path / 'out.csv').read_bytes().startswith('\ufefftext,好,predicted_label'.encode())
  through(texts, source, tmp_path / 'out.jsonl')
  rows = [json.loads(line) for line in (tmp_path / 'out.jsonl').read_text().splitlines()]
  assert [row['好'] for row in rows] == ['1', '2'] and rows[0]['predicted_label'] in NAMES


def test_the_column_is_that_of_the_run_s_config_or_the_one_given(texts, tmp_path):
  source = tmp_path / 'in.csv'
  source.write_text('review,other,text\nw1,w2,w3\n')

  def read(member, column=''):
    return [of for block in reading.blocks(source, member, column) for of in block.examples]

  config = texts.config.copy_and_resolve_references().unlock()
  config.data.text = 'review'
  assert read(texts) == ['w3']
  assert read(texts._replace(config=config)) == ['w1']
  assert read(texts._replace(config=config), 'other') == ['w2']


@pytest.mark.parametrize('form', ['padded', 'one after another'])
def test_series_of_an_npz_are_answered_each_by_its_own_length(form, values, tmp_path):
  lengths = np.array([len(xs) for xs in SERIES])
  padded = np.zeros((5, 100, 2), np.float32)
  for row, xs in zip(padded, SERIES, strict=True):
    row[: len(xs)] = xs
  x = padded if form == 'padded' else np.concatenate(SERIES)
  np.savez(tmp_path / 'in.npz', x=x, lengths=lengths, y=np.arange(5))
  through(values, tmp_path / 'in.npz', tmp_path / 'out.npz')
  found = np.load(tmp_path / 'out.npz')
  assert_array_equal(found['x'], x)
  assert_array_equal(found['y'], np.arange(5))
  expected = values.predict(SERIES)
  assert_allclose(found['predicted_height'], expected[:, 0], rtol=1e-6)
  assert_allclose(found['predicted_weight'], expected[:, 1], rtol=1e-6)


MALFORMED = {
  'a row too long': ('a.csv', b'text,n\nw1,1\n"w\n2",3,4\n', 'line 3: it has 3 fields.*header 2'),
  'a row too short': ('a.tsv', b'text\tn\nw1\n', 'line 2: it has 1 fields'),
  'a quotation mark unclosed': ('a.csv', b'text,n\nw1,1\n"w2,1\nw3,1\n', 'line 3: .*not closed'),
  'a text after a quotation': ('a.csv', b'text\n"w1"w2\n', "line 2: ',' expected"),
  'empty': ('a.csv', b'', 'is empty'),
  'a header only': ('a.csv', b'text,n\n', 'has no rows'),
  'twice a column': ('a.csv', b'text,text\nw1,w2\n', "two columns are called 'text'"),
  'a near match': ('a.csv', b'txt,n\nw1,1\n', "no column 'text' .did you mean 'txt'.*--column"),
  'not UTF-8': ('a.csv', b'text\nw1\nw\xff\n', 'line 3: byte 2, 0xff, is not UTF-8'),
  'UTF-16': ('a.csv', 'text\nw1\n'.encode('utf-16'), 'UTF-16'),
  'no JSON': ('a.jsonl', b'{"text": "w1"}\n{"text": \n', 'line 2 is not JSON'),
  'no object': ('a.jsonl', b'{"text": "w1"}\n["w1"]\n', r'line 2 is \["w1"\], but must be'),
  'a column missing': ('a.jsonl', b'{"text": "w1"}\n\n{"a": "w1"}\n', 'line 3: there is no column'),
  'a number': ('a.jsonl', b'{"text": 5}\n', 'row 1: text is 5, but must be a text'),
  'null': ('a.jsonl', b'{"text": null}\n', 'row 1: text is None'),
  'deep': ('a.jsonl', b'[' * 100_000, 'line 1 is not JSON'),
  'no Parquet': ('a.parquet', b'PAR1 nothing', 'is damaged, or not a Parquet'),
  'an unknown ending': ('a.xlsx', b'PK', 'must end in one of .csv'),
  'series for a model of texts': ('a.npz', b'PK', 'this model reads texts'),
  'tokens for a model of texts': ('a.conll', b'w1 O\n', 'not one for each token'),
}


@pytest.mark.parametrize('name, content, says', MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_table_is_told_with_its_row_and_nothing_is_written(
  name, content, says, texts, tmp_path
):
  source = tmp_path / name
  source.write_bytes(content)
  with pytest.raises(ValueError, match=f'(?s){says}') as caught:
    through(texts, source, tmp_path / f'out{source.suffix}')
  assert str(source) in str(caught.value) and len(str(caught.value)) < 600
  assert [path.name for path in tmp_path.iterdir()] == [name]


X = np.ones((3, 4, 2), np.float32)


def _with(value):
  x = X.copy()
  x[1, 2, 0] = value
  return x


MALFORMED_SERIES = {
  'NaN': ({'x': _with(np.nan)}, 'row 2: x is nan at step 3, channel 1'),
  'infinite': ({'x': _with(np.inf)}, 'row 2: x is inf at step 3'),
  'other channels': ({'x': np.ones((3, 4, 5))}, r'row 1: it is \[4, 5\], but must be \[T, 2\]'),
  'no x': ({'z': X}, 'has no array x, but z'),
  'words': ({'x': np.array(['a'])}, 'x must be numbers'),
  'a pickle': ({'x': np.array([None, {}], object)}, 'not an .npz of plain arrays'),
  'a length beyond': ({'x': X, 'lengths': np.array([4, 5, 1])}, 'row 2: its length is 5'),
  'a length of 0': ({'x': X, 'lengths': np.array([4, 4, 0])}, 'row 3: its length is 0'),
  'too few lengths': ({'x': X, 'lengths': np.array([4])}, 'x has 3 rows, but lengths has 1'),
  'lengths as floats': ({'x': X, 'lengths': np.ones(3)}, 'lengths must be whole numbers'),
  'none': ({'x': X[:0]}, 'has no rows'),
  'there already': ({'x': X, 'predicted_height': np.ones(3)}, 'has an array predicted_height'),
}


@pytest.mark.parametrize('arrays, says', MALFORMED_SERIES.values(), ids=MALFORMED_SERIES)
def test_a_malformed_npz_is_told_with_its_row(arrays, says, values, tmp_path):
  np.savez(tmp_path / 'in.npz', **arrays)
  with pytest.raises(ValueError, match=says):
    through(values, tmp_path / 'in.npz', tmp_path / 'out.npz')
  assert [path.name for path in tmp_path.iterdir()] == ['in.npz']


def test_a_truncated_npz_is_told_and_a_missing_one(values, tmp_path):
  np.savez(tmp_path / 'whole.npz', x=X)
  content = (tmp_path / 'whole.npz').read_bytes()
  for size in (0, 10, len(content) // 2, len(content) - 30):
    (tmp_path / 'in.npz').write_bytes(content[:size])
    with pytest.raises(ValueError, match='in.npz is damaged'):
      [*reading.blocks(tmp_path / 'in.npz', values)]
  with pytest.raises(FileNotFoundError):
    [*reading.blocks(tmp_path / 'nowhere.npz', values)]
  with pytest.raises(ValueError, match='is a folder'):
    [*reading.blocks(tmp_path, values)]


def test_what_is_written_is_of_the_input_s_kind_and_never_the_input(texts, tmp_path):
  source = tmp_path / 'in.csv'
  source.write_text('text,predicted_label\nw1,x\n')
  for out, says in (
    (source, 'is the input itself'),
    (tmp_path / 'out.npz', 'must end in .csv, .tsv, .tab, .jsonl'),
    (tmp_path / 'out.csv', 'there is a column predicted_label already'),
  ):
    with pytest.raises(ValueError, match=says):
      through(texts, source, out)
  assert source.read_text() == 'text,predicted_label\nw1,x\n'
  assert [path.name for path in tmp_path.iterdir()] == ['in.csv']


def test_lines_of_tokens_have_the_answer_of_each_as_a_last_field(tmp_path):
  source, out = tmp_path / 'in.conll', tmp_path / 'out.conll'
  source.write_bytes('-DOCSTART- -X- O\n\nw1 NNP B-ORG\nw2 VBZ O\n\n\r\n好\tO\n'.encode())
  member = tagger(**{'data.max_len': 1})  # the second token is ignored
  through(member, source, out)
  (one, _), (other,) = member.answers([['w1', 'w2'], ['好']])['tags']
  assert out.read_text() == f'w1 NNP B-ORG {one}\nw2 VBZ O _\n\n好\tO\t{other}\n\n'
  source.write_text('New York \tB-LOC\nw1\tO\n')
  (block,) = reading.blocks(source, member)
  assert block.examples == [['New York', 'w1']] == columns.read(source).inputs
  table = tmp_path / 'in.csv'
  table.write_text('text,id\nw1 w2,7\n')
  through(member, table, tmp_path / 'out.csv')
  assert pd.read_csv(tmp_path / 'out.csv')['predicted_tags'].tolist() == [f'{one} _']


def test_a_large_table_is_read_in_blocks(texts, tmp_path):
  source = tmp_path / 'in.csv'
  with open(source, 'w', newline='') as f:
    csv.writer(f).writerows([['text'], *[[f'w{i % 20}'] for i in range(2500)]])
  sizes = [len(block.examples) for block in reading.blocks(source, texts)]
  assert sizes == [1024, 1024, 452]


def test_of_a_long_series_each_row_has_the_answer_of_the_window_that_ends_there(values, tmp_path):
  config = values.config.copy_and_resolve_references().unlock()
  config.data.window, config.data.time = 3, 'day'
  member = values._replace(config=config, encoding=dict(values.encoding) | {'columns': ['b', 'a']})
  xs = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
  frame = pd.DataFrame({'day': range(8), 'a': xs[:, 1], 'c': 'x', 'b': xs[:, 0]})
  source = tmp_path / 'in.csv'
  frame.to_csv(source, index=False)
  rows, examples = zip(*reading.blocks(source, member), strict=True)
  assert (len(rows[0]), len(examples[0])) == (8, 6)
  assert_allclose(examples[0], [xs[i : i + 3] for i in range(6)], rtol=1e-6)
  times = 1.7e9 + np.arange(8)  # float32 would make them one number
  frame.assign(a=times).to_csv(source, index=False)
  (_, (window, *_)), *_ = reading.blocks(source, member)
  assert_array_equal(window[:, 1], times[:3])
  for wrong, says in (
    (frame.drop(columns='b'), "row 2: there is no column 'b'"),
    (frame.assign(b=[1, 2, 'x', 4, 5, 6, 7, 8]), "row 4: b is 'x', not a finite number"),
    (frame[::-1], 'row 3: day decreases'),
  ):
    wrong.to_csv(source, index=False)
    with pytest.raises(ValueError, match=says):
      [*reading.blocks(source, member)]
