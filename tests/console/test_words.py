"""Errors and near matches in words."""

import pytest

from rnnlab.console import words

FIELDS = ['seed', 'model.cell', 'model.hidden_size', 'train.epochs']


@pytest.mark.parametrize(
  ('word', 'known', 'found'),
  [
    ('ltsm', ['gru', 'lstm'], 'lstm'),
    ('GRU', ['gru', 'lstm'], 'gru'),
    ('gru', ['GRU', 'lstm'], 'GRU'),
    ('modle.cell', FIELDS, 'model.cell'),
    ('epochs', FIELDS, 'train.epochs'),
    ('hiden_size', FIELDS, 'model.hidden_size'),
    ('model.hiden_size', FIELDS, 'model.hidden_size'),
    (3, ['3d'], '3d'),
  ],
)
def test_the_near_match_is_named_whole_or_by_its_last_part(word, known, found):
  assert words.near(word, known) == f' (did you mean {found!r}?)'


def test_what_is_near_to_nothing_has_no_match():
  assert words.near('transformer', ['gru', 'lstm']) == words.near('x', []) == ''


@pytest.mark.parametrize(
  ('error', 'told'),
  [
    (ValueError('no cell'), 'no cell'),
    (OSError(28, 'No space left on device'), 'the disk is full: free some space'),
    (KeyError('a'), "KeyError: 'a'"),
    (RuntimeError('first\nsecond'), 'RuntimeError: first'),
    (RuntimeError(), 'RuntimeError: no message'),
    (ValueError('x' * 900), 'x' * 500),
  ],
)
def test_an_error_for_people_keeps_its_words_and_another_gets_its_class(error, told):
  said = words.describe_error(error)
  assert said == told or told.startswith('the disk') and said.startswith(told)
