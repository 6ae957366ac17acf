"""Tags at each step, of tokens and series: trained to a known rule, metrics against seqeval's."""

import functools
import json

import numpy as np
import pytest
import seqeval.metrics
import sklearn.metrics

import rnnlab
from rnnlab import tasks
from rnnlab.data import DataError
from rnnlab.runs import configs, program
from rnnlab.tasks import tagging


def config_of(path, **fields):
  config = configs.default('tagging')
  config.model.update(cell='gru', hidden_size=12, recurrent_dropout=0.0, dropout=0.0, embed_size=8)
  config.optim.learning_rate = 0.03
  config.train.update(batch_size=16, epochs=6)
  config.data.update(path=str(path), max_len=20)
  config.update_from_flattened_dict(fields)
  return configs.check(config)


def loaded(path, **fields):
  return tagging.load(program.data_of(config_of(path, **fields)))


@functools.cache
def sentences():
  """A span begins with mr (a person) or in (a place), and continues until the next 'is'."""
  draw, made = np.random.default_rng(0), []
  for _ in range(300):
    tokens = draw.choice(['mr', 'in', 'is', 'Ann', 'Rome', 'x'], draw.integers(2, 10)).tolist()
    tags, inside = [], None
    for token in tokens:
      inside = {'mr': 'PER', 'in': 'LOC', 'is': None}.get(token, inside)
      begins = 'B' if token in ('mr', 'in') else 'I'
      tags.append(f'{begins}-{inside}' if inside else 'O')
    made.append((tokens, tags))
  return made


@pytest.fixture(scope='module')
def conll(tmp_path_factory):
  path = tmp_path_factory.mktemp('tags') / 'names.conll'
  blocks = ('\n'.join(f'{a} _ {b}' for a, b in zip(*pair, strict=True)) for pair in sentences())
  path.write_text('-DOCSTART- -X- O\n\n' + '\n\n'.join(blocks) + '\n')
  return path


@pytest.fixture(scope='module')
def named(conll):
  return rnnlab.run(config_of(conll))


def said(done, of):
  """True and predicted tags of the test split, a list per sentence."""
  names, labels = np.array(done.encoding['tags']), done.predictions['labels']
  found = done.predictions[of].argmax(axis=-1)
  return [
    [names[row[real >= 0]].tolist() for row, real in zip(ids, labels, strict=True)]
    for ids in (labels, found)
  ]


def test_a_rule_that_needs_a_memory_is_learnt(named):
  assert named.result['best']['test_span_f1'] > 0.99
  assert named.metrics[0]['validation_span_f1'] < 0.9
  assert 'train_span_f1' not in named.metrics[0] and 'train_token_accuracy' in named.metrics[0]


def test_metrics_are_seqeval_s_and_scikit_learn_s(conll):
  done = rnnlab.run(config_of(conll, **{'train.epochs': 1, 'optim.learning_rate': 0.01}))
  true, found = said(done, 'final')
  result = done.result['final']
  assert result['test_span_f1'] == pytest.approx(seqeval.metrics.f1_score(true, found))
  assert 0 < result['test_span_f1'] < 0.95
  flat = [sum(rows, []) for rows in (true, found)]
  accuracy = sklearn.metrics.accuracy_score(*flat)
  assert result['test_token_accuracy'] == pytest.approx(accuracy)
  labels = [*range(len(done.encoding['tags']))]
  kept = done.predictions
  real = kept['labels'] >= 0
  powers = np.exp(kept['final'][real].astype(np.float64))
  shares = powers / powers.sum(axis=1, keepdims=True)
  expected = sklearn.metrics.log_loss(kept['labels'][real], shares, labels=labels)
  assert result['test_loss'] == pytest.approx(expected, rel=1e-4)
  (panel,) = tasks.find('tagging').panels([kept], done.encoding)
  types = [[tag[2:] or 'O' for tag in of] for of in flat]
  expected = sklearn.metrics.confusion_matrix(*types, labels=['LOC', 'PER', 'O'])
  assert panel.data['labels'] == ['LOC', 'PER', 'O']
  best = kept | {'best': kept['final']}
  (panel,) = tasks.find('tagging').panels([best], done.encoding)
  np.testing.assert_array_equal(panel.data['counts'], expected)


def test_what_a_run_keeps_tags_new_sentences(named, conll):
  task, encoding = tasks.find('tagging'), json.loads(json.dumps(named.encoding))
  data = program.data_of(config_of(conll))
  sentence = ['x', 'mr', 'Ann', 'unheard', 'is', 'in', 'Rome']
  inputs = task.encode([sentence, ['is']], data, encoding, named.vocabulary)
  assert inputs.shape == (2, 7) and (inputs[1, 1:] == 0).all()
  outputs = named.model.apply({'params': named.best_params}, inputs)
  decoded = task.decode(outputs, encoding)
  tags = decoded['tags'][0].tolist()
  assert tags[:3] + tags[4:] == ['O', 'B-PER', 'I-PER', 'O', 'B-LOC', 'I-LOC']
  assert decoded['tags'][1][0] == 'O' and 0.5 < decoded['probability'][1][0] <= 1
  spec = task.spec(data, encoding, named.vocabulary)
  assert spec == loaded(conll).spec and task.outputs(encoding).steps
  assert task.outputs(encoding).names == ('B-LOC', 'B-PER', 'I-LOC', 'I-PER', 'O')


@pytest.mark.parametrize('ending', ['csv', 'jsonl'])
def test_a_table_holds_the_same_as_lines_of_tokens(conll, tmp_path, ending):
  path = tmp_path / f'a.{ending}'
  rows = [{'text': ' '.join(tokens), 'label': ' '.join(tags)} for tokens, tags in sentences()]
  if ending == 'csv':
    lines = ['text,label', *(f'{row["text"]},{row["label"]}' for row in rows)]
  else:
    lines = [json.dumps(row) for row in rows]
  path.write_text('\n'.join(lines) + '\n')
  data, other = loaded(path), loaded(conll)
  assert data.encoding == other.encoding and 'tags in train: ' in ' '.join(data.notes)
  rows, expected = (sum(len(s['labels']) for s in d.splits.values()) for d in (data, other))
  assert rows == expected == 300


@pytest.mark.parametrize('end', ['pre', 'post'])
def test_tags_are_cut_and_padded_with_their_tokens(conll, end):
  data = loaded(conll, **{'data.max_len': 5, 'data.padding': end, 'data.truncation': end})
  known = {' '.join(tokens): tags for tokens, tags in sentences()}
  names, words = data.encoding['tags'], (*['?'] * 4, *data.vocabulary)
  for row, labels in zip(*(data.splits['train'][n] for n in ('inputs', 'labels')), strict=True):
    np.testing.assert_array_equal(labels < 0, row == 0)
    tokens = ' '.join(words[i] for i in row if i)
    tags = [names[i] for i in labels if i >= 0]
    whole = [
      pair
      for pair in known.items()
      if (pair[0].endswith if end == 'pre' else pair[0].startswith)(tokens)
    ]
    assert any((t[-len(tags) :] if end == 'pre' else t[: len(tags)]) == tags for _, t in whole)


def test_a_series_is_tagged_by_what_it_was(tmp_path):
  """Whether a step is above the one before it: numbers as tags, with different lengths."""
  draw = np.random.default_rng(1)
  x, lengths = draw.normal(size=(200, 9)), draw.integers(4, 10, 200)
  y = np.diff(x, axis=1, prepend=0) > 0
  np.savez(tmp_path / 'a.npz', x=x, y=y.astype(int), lengths=lengths)
  done = rnnlab.run(config_of(tmp_path / 'a.npz', **{'train.epochs': 12}))
  assert done.encoding['tags'] == ['0', '1']
  assert done.result['best']['test_token_accuracy'] > 0.9
  true, found = said(done, 'best')
  accuracy = sklearn.metrics.accuracy_score(sum(true, []), sum(found, []))
  assert done.result['best']['test_token_accuracy'] == pytest.approx(accuracy)


def test_the_primary_metric_may_be_another(conll):
  config = config_of(conll, **{'task.metric': 'token_accuracy'})
  assert tasks.of(config).metrics[0].name == 'token_accuracy'


@pytest.mark.parametrize(
  ('rows', 'words'),
  [
    ('a b,X Y Z', 'train row 2: 2 steps or tokens, but 3 tags'),
    ('a b,X X', "only one tag, 'X'"),
  ],
)
def test_what_cannot_be_is_told(tmp_path, rows, words):
  path = tmp_path / 'a.csv'
  path.write_text('text,label\n' + ''.join(f'w{i} {rows[2:]}\n' for i in range(20)))
  with pytest.raises(DataError, match=words.replace('row 2', r'row \d+')):
    loaded(path)


def test_lists_of_tokens_are_never_read_with_their_padding(conll):
  with pytest.raises(DataError, match='lists of tokens need data.mask=True'):
    loaded(conll, **{'data.mask': False})


def test_a_stray_tag_of_another_split_is_told_as_spans_then_do_not_count(tmp_path):
  for name, tags in (('train', 'B-X I-X O'), ('test', 'B-X X O')):
    rows = ''.join(f'w{i} in it,{tags}\n' for i in range(20))
    (tmp_path / f'{name}.csv').write_text('text,label\n' + rows)
  told = "as 'X' shows: span F1 counts each step as one"
  train, test = tmp_path / 'train.csv', tmp_path / 'test.csv'
  assert told in ' '.join(loaded(train, **{'data.test_path': str(test)}).notes)
  assert 'span F1' not in ' '.join(loaded(train).notes)


def test_tags_beyond_the_length_of_a_series_are_not_read(tmp_path):
  draw = np.random.default_rng(5)
  x, lengths = draw.normal(size=(30, 6, 1)), draw.integers(2, 6, 30)
  y = np.where(np.arange(6) < lengths[:, None], draw.integers(0, 3, (30, 6)), np.nan)
  np.savez(tmp_path / 'a.npz', x=x, y=y, lengths=lengths)
  data = loaded(tmp_path / 'a.npz')
  labels = np.concatenate([split['labels'].ravel() for split in data.splits.values()])
  assert sorted(labels[labels >= 0]) == sorted(y[~np.isnan(y)])
  y[7, 1] = np.nan
  np.savez(tmp_path / 'a.npz', x=x, y=y, lengths=lengths)
  with pytest.raises(DataError, match='row 8: a tag is missing or a fraction'):
    loaded(tmp_path / 'a.npz')


def test_fractions_are_no_tags(tmp_path):
  np.savez(tmp_path / 'a.npz', x=np.ones((20, 3)) * np.arange(20)[:, None], y=np.full((20, 3), 0.5))
  with pytest.raises(DataError, match='whole number or text'):
    loaded(tmp_path / 'a.npz')
