"""A user's own examples: cut without a key on both sides, the same each time, and described."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from rnnlab.data import DataError, own, series
from rnnlab.data.base import Examples


def config(**fields):
  given = {'validation_fraction': 0.2, 'test_fraction': 0.1, 'max_examples': 0, 'split_seed': 0}
  return ConfigDict(given | fields)


def examples(count, start=0):
  names = [f't{i}' for i in range(start, start + count)]
  return Examples(names, [int(n[1:]) for n in names], np.arange(2, count + 2))


def test_splits_are_disjoint_and_each_stratum_has_its_share():
  one = examples(1000)
  strata = np.arange(1000) % 4 == 0
  parts, notes = own.split(config(), {'train': (one, one.inputs)}, strata.astype(int))
  assert [*parts] == ['train', 'validation', 'test'] and not notes
  assert [len(part.rows) for part in parts.values()] == [700, 200, 100]
  assert sorted(i for part in parts.values() for i in part.inputs) == sorted(one.inputs)
  for part in parts.values():
    assert (np.array(part.targets) % 4 == 0).mean() == 0.25
    assert [f't{target}' for target in part.targets] == part.inputs
    assert (part.rows - 2 == part.targets).all()
  again, _ = own.split(config(), {'train': (one, one.inputs)}, strata.astype(int))
  other, _ = own.split(config(split_seed=1), {'train': (one, one.inputs)}, strata.astype(int))
  assert again['test'].inputs == parts['test'].inputs != other['test'].inputs


def test_a_group_is_never_on_both_sides_and_given_splits_are_left():
  one, test = examples(100), examples(10, 95)
  groups = [i // 5 for i in range(100)]
  given = {'train': (one, groups), 'test': (test, [19] * 5 + [20] * 5)}
  parts, notes = own.split(config(), given)
  assert parts['test'].inputs == test.inputs
  train, validation = ({int(t) // 5 for t in parts[n].targets} for n in ('train', 'validation'))
  assert len(parts['validation'].rows) == 20 and not train & validation
  assert notes == [
    '80 of the 100 train rows equal an earlier one',
    '5 of the 10 test rows are in train too',
  ]
  _, notes = own.split(config(group='author'), given)
  assert notes == [
    'the 100 train rows are in 20 groups, by author',
    '5 of the 10 test rows are of a group in train',
  ]


def test_few_examples_are_drawn_from_the_whole():
  one = examples(1000)
  strata = (np.arange(1000) >= 500).astype(int)
  parts, _ = own.split(config(max_examples=20), {'train': (one, one.inputs)}, strata)
  for part in parts.values():
    assert len(part.rows) == 20 and (np.array(part.targets) >= 500).sum() == 10


@pytest.mark.parametrize(
  ('fields', 'words'),
  [
    ({'test_fraction': 0.0}, 'no test split'),
    ({'test_fraction': 0.5, 'validation_fraction': 0.5}, 'no rows left for train'),
  ],
)
def test_a_split_without_rows_is_told(fields, words):
  one = examples(10)
  with pytest.raises(DataError, match=words):
    own.split(config(**fields), {'train': (one, one.inputs)})


@pytest.mark.parametrize(
  ('path', 'kind'), [('a.csv', 'table'), ('b.NPZ', 'arrays'), ('c.conll', 'columns')]
)
def test_a_file_is_read_by_its_ending(path, kind):
  assert own.source(ConfigDict({'source': 'auto', 'path': path})) == kind
  with pytest.raises(DataError, match='which format'):
    own.source(ConfigDict({'source': 'auto', 'path': 'a.docx'}))


def test_series_are_cut_padded_and_scaled():
  given = [np.arange(8.0).reshape(4, 2), np.arange(2.0).reshape(1, 2)]
  front, back = (series.pad(given, 3, how) for how in ('pre', 'post'))
  np.testing.assert_array_equal(front['xs'][0], given[0][1:])
  np.testing.assert_array_equal(back['xs'][0], given[0][:3])
  np.testing.assert_array_equal(front['xs'][1], [[0, 1], [0, 0], [0, 0]])
  assert front['lengths'].tolist() == [3, 1] and front['xs'].dtype == np.float32
  steps = np.concatenate(given)
  mean, std = series.scale_of([*given])
  np.testing.assert_allclose(mean, steps.mean(axis=0))
  np.testing.assert_allclose(std, steps.std(axis=0))
  assert series.scale_of([np.full((1000, 1), 0.1)])[1] == 1
