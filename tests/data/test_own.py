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


@pytest.mark.parametrize('labels', [1, 10])
def test_a_split_of_groups_has_its_size_and_few_labels_their_shares(labels):
  """Groups of 10 rows, of one label each, or of ten."""
  one = examples(1000)
  groups = [f'g{i // 10}' for i in range(1000)]
  of = [i % 10 if labels > 1 else i // 10 % 2 for i in range(1000)]
  parts, _ = own.split(config(group='who'), {'train': (one, groups)}, np.array(of))
  assert [len(part.rows) for part in parts.values()] == [700, 200, 100]
  if labels == 1:
    assert [np.mean([of[i] for i in part.targets]) for part in parts.values()] == [0.5] * 3


def test_most_examples_are_no_fewer_than_there_are():
  """Texts that occur twice, with different labels, are drawn like the others."""
  one = examples(100)
  twice = one._replace(inputs=[f't{i // 2}' for i in range(100)])
  given = {'train': (twice, twice.inputs), 'test': (one, one.inputs)}
  strata = np.arange(100) % 2
  few, _ = own.split(config(max_examples=100, validation_fraction=0.0), given, strata)
  assert [len(part.rows) for part in few.values()] == [100, 100]


def test_a_validation_file_is_not_read_if_the_test_split_validates():
  one, other, test = examples(50), examples(20, 100), examples(20, 200)
  given = {name: (of, of.inputs) for name, of in [('train', one), ('validation', other)]}
  given['test'] = test, test.inputs
  parts, notes = own.split(config(validation_fraction=0.0), given)
  assert {name: part.inputs for name, part in parts.items()} == {
    'train': one.inputs,
    'test': test.inputs,
  }
  assert notes == ['validation: not read, as --config.data.validation_fraction=0']
  parts, notes = own.split(config(), given)
  assert parts['validation'].inputs == other.inputs and not notes


@pytest.mark.parametrize(
  ('fields', 'words'),
  [
    ({'path': 'a.npz', 'group': 'who'}, 'data.group=who is for a table, but .*=arrays is none'),
    ({'path': 'a.conll', 'time': 'when'}, 'data.time=when is for a table, but .*=columns is none'),
    ({'path': 'a.npz', 'separator': ';'}, 'data.separator=; is for a table'),
    ({'source': 'digits', 'time': 'when'}, 'for a table, but .*=digits is a published set'),
    (
      {'source': 'digits', 'test_path': 'a.npz'},
      'data.test_path=a.npz is for a file, but .*digits',
    ),
    ({'source': 'digits', 'path': 'a.npz'}, 'data.path=a.npz is for a file'),
  ],
)
def test_what_a_source_does_not_depend_on_is_refused(fields, words):
  nothing = dict.fromkeys(['path', 'validation_path', 'test_path', 'group', 'time'], '')
  with pytest.raises(DataError, match=words):
    own.read(config(**nothing | {'source': 'auto'} | fields), None)


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
