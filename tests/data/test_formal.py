"""Formal languages: strings against recognisers, next symbols against all short strings."""

import collections
import itertools
import re
import types

import jax
import numpy as np
import pytest

from rnnlab.data import problems
from rnnlab.data.problems import base

LETTERS = {'anbn': 'Sab', 'anbncn': 'Sabc', 'reber': 'BTPSXVE'}
# Reber's grammar as a regular expression: the rest from two of its states, and the whole.
_FROM_4 = '(?:XT*VP)*(?:S|XT*VV)'
REBER = f'B(?:TS*X{_FROM_4}|PT*V(?:V|P{_FROM_4}))E'
EMBEDDED = re.compile(f'BT{REBER}TE|BP{REBER}PE')
LANGUAGES = 'anbn', 'anbncn', 'dyck-1', 'dyck-2', 'reber'


def of(language, **given):
  """A problem's numbers, by default its own."""
  name, _, kinds = language.partition('-')
  numbers = {name: number.default for name, number in problems.find(name).fields.items()}
  return types.SimpleNamespace(**numbers | ({'brackets': int(kinds)} if kinds else {}) | given)


def drawn(language, count, **given):
  """The arrays of `count` examples, and their strings, with no start symbol and '$' at the end."""
  problem = problems.find(language.partition('-')[0])
  arrays = jax.device_get(problem.draw(jax.random.key(0), count, of(language, **given)))
  names = letters(language)
  texts = []
  for ids, mask in zip(arrays['inputs'], arrays['mask'], strict=True):
    text = ''.join(names[i - 1] for i in ids[mask])
    assert not ids[~mask].any() and ids[mask].all()
    texts.append(text + 'E' if language == 'reber' else text[1:] + '$')
  return arrays, texts


def letters(language):
  if language in LETTERS:
    return LETTERS[language]
  kinds = int(language[-1])
  return 'S' + '([{'[:kinds] + ')]}'[:kinds]


def belongs(language, text):
  """Whether a string, with its end, is in the language."""
  if language == 'reber':
    return bool(EMBEDDED.fullmatch(text))
  text, end = text[:-1], text[-1:]
  if language.startswith('anbn'):
    parts = 'abc'[: len(LETTERS[language]) - 1]
    size = len(text) // len(parts)
    return end == '$' and size > 0 and text == ''.join(letter * size for letter in parts)
  before = None
  while before != text:
    before, text = text, re.sub(r'\(\)|\[\]|\{\}', '', text)
  return end == '$' and not text


def members(language):
  """All short strings of the language, by trying all possible ones."""
  if language == 'reber':
    for length in range(2, 8):
      for middle in map(''.join, itertools.product('TPSXV', repeat=length)):
        for outer in 'TP':
          yield f'B{outer}B{middle}E{outer}E'
  elif language.startswith('anbn'):
    for sizes in itertools.product(range(1, 7), repeat=len(LETTERS[language]) - 1):
      yield ''.join(letter * size for letter, size in zip('abc', sizes, strict=False)) + '$'
  else:
    for length in range(0, 9, 2):
      yield from (
        ''.join(of) + '$' for of in itertools.product(letters(language)[1:], repeat=length)
      )


SHORT = {
  'anbn': {'n': 4},
  'anbncn': {'n': 4},
  'dyck-1': {'length': 6, 'depth': 3},
  'dyck-2': {'length': 6, 'depth': 3},
  'reber': {'length': 11},
}
LONG = {
  'anbn': {'min_n': 7, 'n': 90},
  'anbncn': {'min_n': 7, 'n': 90},
  'dyck-1': {'length': 60, 'depth': 4},
  'dyck-2': {'length': 60, 'depth': 9},
  'reber': {'length': 90},
}


@pytest.mark.parametrize('language', LANGUAGES)
def test_every_string_belongs_to_the_language(language):
  arrays, texts = drawn(language, 300, **LONG[language])
  assert all(belongs(language, text) for text in texts)
  assert arrays['inputs'].dtype == np.int32 and arrays['targets'].dtype == bool
  made = problems.find(language.partition('-')[0]).sizes(of(language))
  assert arrays['targets'].shape == (*arrays['inputs'].shape, made.outputs)
  assert arrays['inputs'].max() == made.symbols


@pytest.mark.parametrize('language', LANGUAGES)
def test_what_may_come_next_is_what_comes_next_in_some_string(language):
  follows = collections.defaultdict(set)
  for text in members(language):
    if belongs(language, text):
      for i, letter in enumerate(text):
        follows[text[:i]].add(letter)
  names = LETTERS['reber'] if language == 'reber' else f'{letters(language)[1:]}$'
  arrays, texts = drawn(language, 200, **SHORT[language])
  for text, mask, sets in zip(texts, arrays['mask'], arrays['targets'], strict=True):
    first = 1 if language == 'reber' else 0  # the first input is its B, or a start symbol
    assert mask.sum() == len(text) - first and not sets[~mask].any()
    for i, allowed in enumerate(sets[mask], first):
      assert {name for name, yes in zip(names, allowed, strict=True) if yes} == follows[text[:i]]


@pytest.mark.parametrize('language', LANGUAGES)
def test_lengths_are_evenly_spread_from_the_least_to_the_greatest(language):
  arrays, texts = drawn(language, 1000, **LONG[language])
  length = {'anbn': 2, 'anbncn': 3}.get(language, 1)
  own = 0 if language == 'reber' else 1
  sizes = np.array([len(text) - own for text in texts]) / length
  np.testing.assert_array_equal(arrays['size'], sizes)
  lengths = {'dyck-1': range(2, 61, 2), 'dyck-2': range(2, 61, 2), 'reber': range(9, 91)}
  assert {*sizes} == {*lengths.get(language, range(7, 91))}
  counts = collections.Counter(sizes).values()
  assert max(counts) - min(counts) <= 1


def test_numbers_are_spread_whole_where_they_are_as_many_as_there_are():
  found = np.array(base.spread(jax.random.key(3), 7, 4, 10))
  assert sorted(found) == [*range(4, 11)] and found.tolist() != sorted(found)


def test_each_number_is_as_likely_as_any_where_they_do_not_divide_each_other():
  keys = jax.random.split(jax.random.key(0), 4000)
  found = jax.device_get(jax.vmap(lambda key: base.spread(key, 3, 1, 5))(keys))
  counts = np.bincount(found.ravel(), minlength=6)[1:]
  np.testing.assert_allclose(counts, 2400, atol=5 * np.sqrt(2400))


def test_large_splits_of_great_numbers_do_not_overflow():
  found = np.array(base.spread(jax.random.key(0), 50_000, 1, 100_000))
  assert found.min() >= 1 and found.max() <= 100_000
  np.testing.assert_array_equal(np.diff(np.sort(found)), 2)


def test_of_each_length_every_string_of_reber_is_as_likely_as_any():
  """With equally likely arcs of a state: each symbol except six halves a string's probability."""
  there = {text for text in members('reber') if len(text) == 11 and belongs('reber', text)}
  _, texts = drawn('reber', 20_000, min_length=11, length=11)
  counts = collections.Counter(texts)
  assert counts.keys() == there
  expected = 20_000 / len(there)
  np.testing.assert_allclose([*counts.values()], expected, atol=5 * np.sqrt(expected))


@pytest.mark.parametrize(('kinds', 'depth', 'length'), [(1, 2, 8), (2, 3, 6)])
def test_every_string_of_brackets_is_drawn_that_is_no_deeper_and_no_longer(kinds, depth, length):
  language = f'dyck-{kinds}'

  def deepest(text):
    return max(itertools.accumulate(1 if c in '([{' else -1 for c in text[:-1]))

  wanted = {
    text for text in members(language) if 1 < len(text) <= length + 1 and belongs(language, text)
  }
  _, texts = drawn(language, 6000, length=length, depth=depth)
  assert {*texts} == {text for text in wanted if deepest(text) <= depth}


def test_long_strings_of_reber_have_chances_that_do_not_vanish():
  _, texts = drawn('reber', 4, min_length=1500, length=1500)
  assert all(EMBEDDED.fullmatch(text) for text in texts) and len({*texts}) == 4


@pytest.mark.parametrize(
  ('language', 'given'),
  [
    ('anbn', {'min_n': 60}),
    ('anbncn', {'min_n': 60}),
    ('dyck-2', {'length': 3, 'min_length': 3}),
    ('reber', {'length': 10, 'min_length': 11}),
  ],
)
def test_a_range_without_a_string_is_refused(language, given):
  with pytest.raises(ValueError, match='--config.data.min_'):
    problems.find(language.partition('-')[0]).check(of(language, **given))
