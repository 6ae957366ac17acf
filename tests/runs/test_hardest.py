"""The test examples that a run finds hardest: their losses, and how they are shown."""

import types

import numpy as np
import pytest

from rnnlab import tasks
from rnnlab.data.base import Dataset
from rnnlab.data.shown import shown
from rnnlab.runs.hardest import MOST, hardest
from rnnlab.tasks.base import Outputs

TEXTS = tasks.find('classification')


def dataset(inputs, encoding=None, **arrays):
  """A dataset with these test inputs."""
  rest = {'title': '', 'line': '', 'source': '', 'fingerprint': ''}
  split = {'inputs': inputs, **arrays}
  return Dataset({'test': split}, **rest, vocabulary=('good', 'bad'), encoding=encoding or {})


def test_the_hardest_are_those_of_the_highest_cross_entropy():
  draw = np.random.default_rng(0)
  labels, logits = draw.integers(0, 3, 250), draw.normal(size=(250, 3)).astype(np.float32)
  logits[7] = np.nan  # has no loss, and is not among them
  data = dataset(np.full((250, 2), 4), {'classes': ['x', 'y', 'z']}, labels=labels)
  found = hardest(TEXTS, data, logits)
  with np.errstate(invalid='ignore'):
    losses = np.log(np.exp(logits.astype(float)).sum(axis=1)) - logits[np.arange(250), labels]
  order = [row for row in np.argsort(-losses) if row != 7][:MOST]
  assert [example['row'] for example in found] == order
  np.testing.assert_allclose([e['loss'] for e in found], losses[order], rtol=1e-5)
  assert [e['true'] for e in found] == [['x', 'y', 'z'][labels[row]] for row in order]
  assert [e['predicted'] for e in found] == [['x', 'y', 'z'][logits[r].argmax()] for r in order]
  assert {e['shown'] for e in found} == {'good good'}


def test_an_example_is_shown_as_it_is_read():
  ids = np.array([[0, 1, 4, 2, 5], [4] * 5])
  assert shown(dataset(ids), np.array([0])) == ['good … bad']
  assert shown(dataset(ids, {'tokens': 'characters'}), np.array([0])) == ['good…bad']
  assert len(shown(dataset(np.full((1, 200), 4)), np.array([0]))[0]) == 300
  source = dataset(ids)._replace(shown=lambda rows: ['Good! ' * 100 for _ in rows])
  assert shown(source, np.array([1])) == [('Good! ' * 100)[:300]]
  xs = np.arange(2000, dtype=np.float32).reshape(2, 200, 5)
  ((first, second, third),) = shown(dataset({'xs': xs, 'lengths': np.array([3, 9])}), np.array([0]))
  assert (first, second, third) == ([0, 5, 10], [1, 6, 11], [2, 7, 12])
  ((line, *_),) = shown(dataset({'xs': xs, 'lengths': np.array([200, 9])}), np.array([0]))
  assert len(line) == 64 and (line[0], line[-1]) == (0, 995)
  assert shown(dataset(np.zeros((2, 3, 4))), np.array([0, 1])) == ['', '']


@pytest.mark.parametrize(
  'means, target, words',
  [
    (Outputs('values', ('t',), mean=10.0, std=2.0), np.array([0.25]), '10.5'),
    (Outputs('values', ('a', 'b'), mean=(1.0, 2.0), std=(1.0, 1.0)), np.array([[0, 1.0]]), '1, 3'),
    (Outputs('labels', ('a', 'b', 'c')), np.array([[1, 0, 1]]), 'a, c'),
    (Outputs('classes', ('a', 'b'), steps=True), np.array([[1, 0]]), ''),
    (None, np.array([3]), ''),
  ],
)
def test_what_was_true_is_said_in_words(means, target, words):
  task = types.SimpleNamespace(
    batches='rows',
    loss=lambda outputs, batch: {'loss': (outputs.sum(), batch['weights'].sum())},
    outputs=means and (lambda encoding: means),
    decode=None,
  )
  (found,) = hardest(task, dataset(np.zeros((1, 1)), targets=target), np.ones((1, 2), np.float32))
  assert found == {'row': 0, 'loss': 2.0, 'shown': '', 'true': words, 'predicted': ''}
