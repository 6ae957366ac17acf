"""Generated problems: each example is as in the paper, checked by loops without JAX."""

import itertools
import math
import types

import jax
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from rnnlab.data import problems


def fields_of(name, **given):
  found = {field: number.default for field, number in problems.find(name).fields.items()}
  return types.SimpleNamespace(**found | given)


def drawn(name, n, key=0, **given):
  """n examples, arrays on the host."""
  draw, fields = problems.find(name).draw, fields_of(name, **given)
  return jax.device_get(jax.jit(lambda key: draw(key, n, fields))(jax.random.key(key)))


def unpadded(ids):
  """The ids before the padding, which is at the end."""
  ids = ids.tolist()
  count = len(ids) - ids.count(0)
  assert 0 not in ids[:count]
  return ids[:count]


def adding(fields, inputs, target):
  values, markers = inputs.T.astype(np.float64)
  assert len(values) == fields.length and (values >= 0).all() and (values < 1).all()
  half = fields.length // 2
  for part in (markers[:half], markers[half:]):
    assert sorted({*part.tolist()}) in ([0, 1], [1]) and part.sum() == 1
  assert target == pytest.approx(sum(v for v, m in zip(values, markers, strict=True) if m))


def temporal_order(fields, inputs, target):
  letters = ''.join('-EBabcdXY'[i] for i in inputs)
  assert len(letters) == fields.length and letters[0] == 'E' and letters[-1] == 'B'
  middle = letters[1:-1]
  assert not {*middle} & {'E', 'B', '-'}
  places = [i for i, letter in enumerate(letters) if letter in 'XY']
  first, second = places
  assert fields.length // 10 <= first < fields.length // 5
  assert fields.length // 2 <= second < 3 * fields.length // 5
  assert ['XX', 'XY', 'YX', 'YY'][target] == letters[first] + letters[second]


def due(mask, targets):
  """The steps at which answers are due, and the answers."""
  assert (targets[~mask] == 0).all()
  return np.flatnonzero(mask).tolist(), targets[mask].tolist()


def copy_memory(fields, inputs, targets, mask):
  blank, marker = fields.symbols + 1, fields.symbols + 2
  ids, count = inputs.tolist(), fields.count
  given, delay, after = ids[:count], ids[count : count + fields.delay], ids[count + fields.delay :]
  assert all(1 <= i <= fields.symbols for i in given)
  assert delay[-1] == marker and after == [blank] * count
  allowed = {blank} if fields.noise == 0 else {*range(1, blank)}
  assert fields.noise == 0.5 or {*delay[:-1]} <= allowed
  assert marker not in delay[:-1]
  places = [*range(count + fields.delay, 2 * count + fields.delay)]
  assert due(mask, targets) == (places, [i - 1 for i in given])


def denoising(fields, inputs, targets, mask):
  noise, marker = fields.symbols + 1, fields.symbols + 2
  before, after = inputs[: fields.length].tolist(), inputs[fields.length :].tolist()
  assert after == [marker] + [noise] * (fields.count - 1)
  given = [i for i in before if i != noise]
  assert len(given) == fields.count and all(1 <= i <= fields.symbols for i in given)
  places = [*range(fields.length, fields.length + fields.count)]
  assert due(mask, targets) == (places, [i - 1 for i in given])


def parity(fields, inputs, target):
  ids = unpadded(inputs)
  assert fields.min_length <= len(ids) <= fields.length == len(inputs) and {*ids} <= {1, 2}
  assert target == ids.count(2) % 2


def majority(fields, inputs, target):
  ids = unpadded(inputs)
  assert fields.min_length <= len(ids) <= fields.length == len(inputs) and {*ids} <= {1, 2}
  assert target == (ids.count(2) > ids.count(1))


def bucket_sort(fields, inputs, targets, mask):
  blank, marker = fields.symbols + 1, fields.symbols + 2
  ids = unpadded(inputs)
  assert len(inputs) == 2 * fields.length
  length = ids.index(marker)
  assert fields.min_length <= length <= fields.length
  assert ids[length:] == [marker] + [blank] * (length - 1)
  assert all(1 <= i <= fields.symbols for i in ids[:length])
  places = [*range(length, 2 * length)]
  assert due(mask, targets) == (places, sorted(i - 1 for i in ids[:length]))


def modular_arithmetic(fields, inputs, target):
  names = [*map(str, range(fields.modulus)), '+', '-', '*']
  words = [names[i - 1] for i in unpadded(inputs)]
  assert len(words) % 2 and (fields.min_length + 1) // 2 <= (len(words) + 1) // 2
  assert len(words) <= fields.length == len(inputs)
  assert all((word in '+-*') == i % 2 for i, word in enumerate(words))
  assert target == eval(' '.join(words)) % fields.modulus


def associative_recall(fields, inputs, targets, mask):
  ids, half = inputs.tolist(), fields.symbols // 2
  assert len(ids) == fields.length and all(1 <= i <= fields.symbols for i in ids)
  context = ids[: 2 * fields.pairs]
  table = dict(zip(context[::2], context[1::2], strict=True))
  assert len(table) == fields.pairs and all(1 <= key <= half for key in table)
  assert all(half < value for value in table.values())
  places, answers = due(mask, targets)
  assert all(place >= 2 * fields.pairs and place % 2 == 0 for place in places)
  assert sorted(ids[place] for place in places) == sorted(table)
  assert answers == [table[ids[place]] - half - 1 for place in places]


def retrieval(fields, inputs, targets, mask):
  keys, values = np.split(inputs, [fields.symbols], axis=1)
  assert inputs.shape == (2 * fields.pairs, 2 * fields.symbols) and set(np.unique(inputs)) <= {0, 1}
  assert (keys.sum(axis=1) == 1).all()
  assert values.sum(axis=1).tolist() == [1] * fields.pairs + [0] * fields.pairs
  given, asked = np.split(keys.argmax(axis=1), 2)
  table = dict(zip(given.tolist(), values.argmax(axis=1).tolist(), strict=False))
  assert len(table) == fields.pairs and sorted(table) == sorted(asked.tolist())
  places = [*range(fields.pairs, 2 * fields.pairs)]
  assert due(mask, targets) == (places, [table[key] for key in asked.tolist()])


def of_lengths(greatest, **more):
  """Numbers of a problem whose lengths are drawn."""
  return st.integers(1, greatest).flatmap(
    lambda length: st.fixed_dictionaries(
      {'length': st.just(length), 'min_length': st.integers(1, length)} | more
    )
  )


def of(**numbers):
  return st.fixed_dictionaries(numbers)


SMALL = st.integers(1, 6)
# By name: its check, and numbers that it may have.
PROBLEMS = {
  'adding': (adding, of(length=st.integers(2, 12))),
  'temporal_order': (temporal_order, of(length=st.integers(10, 40))),
  'copy_memory': (
    copy_memory,
    of(delay=SMALL, count=SMALL, symbols=st.integers(2, 5), noise=st.sampled_from([0.0, 0.5, 1.0])),
  ),
  'denoising': (
    denoising,
    of(length=st.integers(4, 9), count=st.integers(1, 4), symbols=st.integers(2, 5)),
  ),
  'parity': (parity, of_lengths(9)),
  'majority': (majority, of_lengths(9)),
  'bucket_sort': (bucket_sort, of_lengths(6, symbols=st.integers(2, 5))),
  'modular_arithmetic': (modular_arithmetic, of_lengths(9, modulus=st.integers(2, 7))),
  'associative_recall': (
    associative_recall,
    of(
      pairs=st.integers(1, 3),
      length=st.integers(12, 17),
      symbols=st.integers(6, 9),
      power=st.sampled_from([0.01, 1.0]),
    ),
  ),
  'retrieval': (retrieval, of(pairs=st.integers(1, 3), symbols=st.integers(3, 5))),
}


@pytest.mark.parametrize('draws', [2, pytest.param(10, marks=pytest.mark.slow)])
@pytest.mark.parametrize('name', PROBLEMS)
def test_each_example_is_as_the_paper_has_it(name, draws):
  rule, numbers = PROBLEMS[name]
  problem = problems.find(name)

  # A failure is not shrunk, since each size is compiled.
  @settings(max_examples=draws, deadline=None, derandomize=True, phases=[Phase.generate])
  @given(numbers, st.integers(0, 2**32 - 1))
  def holds(given, key):
    fields = fields_of(name, **given)
    if problem.check:
      problem.check(fields)
    arrays = drawn(name, 30, key, **given)
    sizes, at_each_step = problem.sizes(fields), problem.kind == 'classes'
    assert {*arrays} == {'inputs', 'targets'} | ({'mask'} if at_each_step else set())
    assert arrays['inputs'].dtype == ('int32' if sizes.symbols else 'float32')
    assert arrays['targets'].dtype == ('float32' if problem.kind == 'value' else 'int32')
    if sizes.symbols:
      assert arrays['inputs'].max() <= sizes.symbols
      assert 0 <= arrays['targets'].min() and arrays['targets'].max() < sizes.outputs
    parts = [arrays[one] for one in ('inputs', 'targets', 'mask') if one in arrays]
    for example in zip(*parts, strict=True):
      rule(fields, *example)

  holds()


def test_every_problem_is_tested():
  """The formal languages are tested by recognisers, elsewhere."""
  assert {name for name in problems.names() if problems.find(name).kind != 'sets'} == {*PROBLEMS}


@pytest.mark.parametrize('name', problems.names())
def test_a_problem_s_numbers_are_of_one_type_wherever_they_are(name):
  for field, number in problems.find(name).fields.items():
    kinds = {type(other.default) for other in problems.numbers()[field].values()}
    assert kinds == {type(number.least)} == {type(number.default)}
    assert 0 <= number.least <= number.default <= number.most


def shares(values, count):
  return np.bincount(np.ravel(values), minlength=count) / np.size(values)


def test_what_is_drawn_evenly_is_drawn_evenly():
  """To five standard deviations of a share."""
  n = 4000

  def even(values, count):
    deviation = math.sqrt((1 / count) * (1 - 1 / count) / np.size(values))
    np.testing.assert_allclose(shares(values, count), 1 / count, atol=5 * deviation)

  even(drawn('temporal_order', n, length=10)['targets'], 4)
  even(drawn('parity', n, length=6, min_length=2)['targets'], 2)
  lengths = (drawn('parity', n, length=6, min_length=2)['inputs'] > 0).sum(axis=1)
  even(lengths - 2, 5)
  copied = drawn('copy_memory', n, delay=3, count=2, symbols=3)
  even(copied['targets'][copied['mask']], 3)
  found = drawn('denoising', n, length=4, count=1, symbols=2)['inputs'][:, :4]
  even(np.argmax(found < 3, axis=1), 4)
  markers = drawn('adding', n, length=6)['inputs'][..., 1]
  even(np.argmax(markers[:, :3], axis=1), 3)
  even(np.argmax(markers[:, 3:], axis=1), 3)
  recalled = drawn('associative_recall', n, length=12, pairs=1, symbols=6, power=1.0)
  even(np.argmax(recalled['mask'], axis=1) // 2 - 1, 5)
  found = drawn('retrieval', n, pairs=2, symbols=3)
  even(found['targets'][:, 2:], 3)
  even(found['inputs'][..., :3].argmax(axis=-1), 3)


def test_keys_come_again_soon_by_a_power_law():
  """x^(power - 1), as in the published code."""
  n = 4000
  recalled = drawn('associative_recall', n, length=12, pairs=1, symbols=6, power=0.01)
  weights = np.arange(1, 6) ** -0.99
  found = shares(np.argmax(recalled['mask'], axis=1) // 2 - 1, 5)
  np.testing.assert_allclose(found, weights / weights.sum(), atol=5 * 0.5 / math.sqrt(n))


@pytest.mark.parametrize('share', [0.0, 0.25])
def test_noise_is_a_share_of_the_blanks(share):
  ids = drawn('copy_memory', 500, delay=21, count=1, symbols=4, noise=share)['inputs'][:, 1:21]
  assert (ids < 5).mean() == pytest.approx(share, abs=5 * 0.5 / math.sqrt(10_000))


def test_what_is_reached_without_memory_is_told():
  targets = drawn('adding', 4000, length=20)['targets'].astype(np.float64)
  baseline = problems.find('adding').baseline(fields_of('adding'))
  assert np.mean((targets - 1) ** 2) == pytest.approx(baseline.value, rel=0.1)
  for name in problems.names():
    found = problems.find(name).baseline
    if name == 'majority' or not found:
      continue
    if (told := found(fields_of(name))).metric == 'accuracy':
      # The share of random answers that are right is one over the number of possible answers.
      assert told.value == 1 / problems.find(name).sizes(fields_of(name)).outputs


@pytest.mark.parametrize('sizes', [(1, 9), (4, 4), (5, 5), (2, 7)])
def test_the_last_bit_says_as_much_about_the_majority_as_in_all_strings(sizes):
  shares = []
  for n in range(sizes[0], sizes[1] + 1):
    strings = np.array(list(itertools.product([0, 1], repeat=n)))
    more = 2 * strings.sum(axis=1) > n
    # The best answer to each last bit, over all strings of a length.
    shares.append(np.mean(more == strings[:, -1]))
  fields = fields_of('majority', min_length=sizes[0], length=sizes[1])
  assert problems.find('majority').baseline(fields).value == pytest.approx(np.mean(shares))


@pytest.mark.parametrize(
  ('name', 'given', 'words'),
  [
    ('parity', {'min_length': 50}, 'min_length=50: must be at most the length, 40'),
    ('denoising', {'count': 101}, 'count=101: must be at most the length, 100'),
    ('associative_recall', {'pairs': 33}, 'pairs=33: must be at most half of the 64 symbols'),
    ('associative_recall', {'pairs': 17}, 'needs a length of at least 68 steps, but it is 64'),
    ('retrieval', {'pairs': 17}, 'pairs=17: must be at most the number of keys'),
  ],
)
def test_numbers_that_do_not_go_together_are_told(name, given, words):
  with pytest.raises(ValueError, match=words):
    problems.find(name).check(fields_of(name, **given))


def test_an_unknown_problem_is_told_with_the_near_match():
  with pytest.raises(ValueError, match="no problem 'addng'.*did you mean 'adding'"):
    problems.find('addng')
