"""From labelled examples to arrays: cutting, scaling and padding, against the plain definitions."""

from types import SimpleNamespace

import numpy as np
import pytest

from rnnlab.data import DataError, labelled
from rnnlab.data.base import Examples
from rnnlab.data.sets import Set


def config(**fields):
  """The data part of a config, in which `fields` are not as by default."""
  given = {'source': 'toy', 'validation_fraction': 0.25, 'test_fraction': 0.25, 'split_seed': 0}
  given |= {'max_examples': 0, 'scale': True, 'vocab_size': 50, 'max_len': 6}
  given |= {'padding': 'pre', 'truncation': 'pre'}
  return SimpleNamespace(**given | fields)


def toy(size=80, seed=0):
  """Series of 2 features and 3 to 6 steps, of three classes; every tenth is the one before it."""
  rng = np.random.default_rng(seed)
  inputs = [rng.normal(size=(rng.integers(3, 7), 2)).astype(np.float32) for _ in range(size)]
  for i in range(9, size, 10):
    inputs[i] = inputs[i - 1]
  labels = [('a', 'a', 'b', 'c')[i // 2 % 4] for i in range(size)]
  return Examples(inputs, labels, np.arange(1, size + 1))


@pytest.fixture
def sets(monkeypatch):
  """The named sets; a test adds its own."""
  found = {}
  monkeypatch.setattr(labelled, 'SETS', found)
  return found


def test_every_example_is_in_one_split_and_equal_ones_are_together():
  parts = labelled.cut({'train': toy()}, config())
  rows = np.concatenate([part.rows for part in parts.values()])
  assert sorted(rows) == list(range(1, 81))
  seen = {name: {x.tobytes() for x in part.inputs} for name, part in parts.items()}
  assert not seen['train'] & seen['test'] and not seen['train'] & seen['validation']
  assert not seen['validation'] & seen['test']
  examples = toy()
  for part in parts.values():  # each row still has its own input and label
    for x, label, row in zip(part.inputs, part.targets, part.rows, strict=True):
      np.testing.assert_array_equal(x, examples.inputs[row - 1])
      assert label == examples.targets[row - 1]


def test_a_draw_is_stratified_and_does_not_depend_on_the_order():
  examples = toy(size=400)
  drawn, rest = labelled.draw(examples, 100, seed=3)
  assert len(drawn.targets) + len(rest.targets) == 400
  for label, share in (('a', 50), ('b', 25), ('c', 25)):
    assert share - 2 <= drawn.targets.count(label) <= share
  other = labelled.draw(examples, 100, seed=4)[0]
  assert {*drawn.rows} != {*other.rows}
  turned = Examples(examples.inputs[::-1], examples.targets[::-1], examples.rows[::-1])
  assert {*labelled.draw(turned, 100, seed=3)[0].rows} == {*drawn.rows}


def test_official_splits_stay_as_they_are():
  parts = {'train': toy(), 'test': toy(30, seed=1)}
  got = labelled.cut(parts, config(validation_fraction=0.0))
  assert got['test'] is parts['test'] and got['train'] is parts['train']
  assert list(got) == ['train', 'test']


def test_series_are_scaled_by_the_train_split_alone(sets):
  sets['toy'] = Set(lambda: {'train': toy(), 'test': toy(30, seed=1)}, 'a toy', 'none')
  data = labelled.load(config())
  xs, lengths = data.splits['train']['inputs'].values()
  real = np.arange(xs.shape[1]) < lengths[:, None]
  assert xs.dtype == np.float32 and lengths.dtype == np.int32 and not xs[~real].any()
  np.testing.assert_allclose(xs[real].mean(axis=0), 0, atol=1e-6)
  np.testing.assert_allclose(xs[real].std(axis=0), 1, rtol=1e-6)
  first = toy(30, seed=1).inputs[0]
  mean, std = data.encoding['mean'], data.encoding['std']
  test = data.splits['test']['inputs']
  np.testing.assert_allclose(test['xs'][0, : len(first)], (first - mean) / std, rtol=1e-5)
  assert test['lengths'][0] == len(first)
  assert data.encoding['classes'] == ['a', 'b', 'c']
  assert data.line == '60 train, 20 validation, 30 test examples of 3 classes'


def test_a_feature_that_never_changes_is_not_divided_by_nothing():
  series = [np.float32([[1, 5], [3, 5]])]
  assert labelled.statistics(series) == {'mean': [2.0, 5.0], 'std': [1.0, 1.0]}
  assert labelled.statistics(series, scale=False) == {'mean': [0.0, 0.0], 'std': [1.0, 1.0]}


def test_texts_become_ids_of_the_words_to_train_on(sets):
  train = Examples(['up up on', 'down on'] * 8, ['yes', 'no'] * 8, np.arange(1, 17))
  test = Examples(['on up off'], ['yes'], np.array([1]))
  sets['toy'] = Set(lambda: {'train': train, 'test': test}, 'a toy', 'none')
  data = labelled.load(config(validation_fraction=0.0))
  assert data.vocabulary == ('up', 'on', 'down')
  assert data.splits['test']['inputs'].tolist() == [[0, 0, 1, 5, 4, 2]]
  assert data.splits['test']['labels'].tolist() == [1]


def test_what_cannot_be_learnt_is_refused(sets):
  strange = toy(30, seed=1)._replace(targets=['a'] * 29 + ['z'])
  sets['toy'] = Set(lambda: {'train': toy(), 'test': strange}, 'a toy', 'none')
  with pytest.raises(ValueError, match=r"no example of \['z'\]"):
    labelled.load(config())
  with pytest.raises(ValueError, match='no examples are left for validation'):
    labelled.cut({'train': toy(4)}, config(validation_fraction=0.01))
  with pytest.raises(DataError, match='series 2 has 5 steps; at most 4'):
    labelled.pad([np.zeros((4, 1)), np.zeros((5, 1))], 4)
