"""Scores of translations, from sums over sentences: against slow code, and sacreBLEU's own."""

import functools
import sys

import numpy as np
import pytest

from rnnlab.tasks import bleu, edits

HYPOTHESES = [
  'the the the the the the the',
  'A man in an orange hat is starring at something.',
  "A Boston Terrier is running on lush green grass in front of a white fence; isn't it?",
  'A girl breaks a stick.',
  'Five people wearing winter jackets and helmets stand in the snow, with 3.5 snowmobiles.',
  '',
]
REFERENCES = [
  ['The cat is on the mat.', 'There is a cat on the mat.'],
  ['A man in an orange hat starring at something.'],
  ["A Boston Terrier is running on green grass in front of a white fence; isn't it?"],
  ['A girl in karate uniform breaking a stick with a front kick.', 'A girl breaks a stick.', 'No'],
  ['Five people in winter jackets and with helmets stand in the snow, with 3.5 snowmobiles.'],
  ['A black dog.'],
]


# Edits


def levenshtein(a, b):
  """The Levenshtein distance, by its definition."""

  @functools.cache
  def of(i, j):
    if not i or not j:
      return i + j
    return min(of(i - 1, j) + 1, of(i, j - 1) + 1, of(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

  return of(len(a), len(b))


def test_distances_are_those_of_the_definition():
  draw = np.random.default_rng(0)
  texts = [
    [[*'abc'][i] for i in draw.integers(0, 3, draw.integers(0, 9))] for _ in range(400)
  ]  # fmt: skip
  ours, right = texts[:200], texts[200:]
  expected = [levenshtein(a, b) for a, b in zip(ours, right, strict=True)]
  assert edits.distances(ours, right).tolist() == expected
  assert len({*expected}) > 6
  assert edits.distances([[]], [[]]).tolist() == [0]
  assert edits.distances([], []).tolist() == []
  assert edits.distances([[*'kitten']], [[*'sitting']]).tolist() == [3]


def test_the_best_reference_counts():
  hypotheses = ['R IY D', 'K AE', 'B', '']
  references = [['R EH D', 'R IY D'], ['K AE T S', 'K AH T', 'K AE T'], ['T'], ['AH B']]
  found = edits.statistics(hypotheses, references)
  assert found.tolist() == [[0, 3, 0, 1], [1, 3, 1, 1], [1, 1, 1, 1], [2, 2, 1, 1]]
  assert edits.score(found.sum(axis=0)) == (4 / 9, 3 / 4)
  assert edits.score(found[[0, 0, 1]].sum(axis=0)) == (1 / 9, 1 / 3)
  with pytest.raises(ValueError, match='position 1, counted from 0, has no reference'):
    edits.statistics(['a', 'b'], [['a'], []])


# BLEU and chrF


def corpus_score(metric, rows):
  """The score by sacreBLEU's usual interface, and its signature."""
  metrics = pytest.importorskip('sacrebleu.metrics', reason='optional: experiments/translation.txt')
  made = {'bleu': metrics.BLEU, 'chrf': metrics.CHRF}[metric]()
  references = [REFERENCES[row] for row in rows]
  lists = [[of[i] if i < len(of) else None for of in references] for i in range(3)]
  if not any(lists[2]):
    lists = lists[: 1 + any(lists[1])]
  return made.corpus_score([HYPOTHESES[row] for row in rows], lists).score, str(
    made.get_signature()
  )


@pytest.mark.parametrize('metric, columns', [('bleu', 10), ('chrf', 18)])
def test_scores_of_sums_are_those_of_sacrebleu(metric, columns):
  expected, signature = corpus_score(metric, range(6))
  found = bleu.statistics(HYPOTHESES, REFERENCES, metric)
  assert found.shape == (6, columns) and found.dtype == np.int64
  assert bleu.score(found.sum(axis=0), metric) == expected and 20 < expected < 90
  assert bleu.signature(REFERENCES, metric) == signature and 'nrefs:var' in signature
  for rows in ([1, 1, 4, 2], [3, 0, 0, 1, 4], [1], [5]):  # as drawn by a bootstrap
    expected, signature = corpus_score(metric, rows)
    assert bleu.score(found[rows].sum(axis=0), metric) == pytest.approx(expected, rel=1e-12), rows
    assert bleu.signature([REFERENCES[row] for row in rows], metric) == signature


def test_matches_are_counted_as_the_paper_has_them():
  """Its example: of seven words 'the', two count, as one reference has two; the closest has 8."""
  pytest.importorskip('sacrebleu', reason='optional: experiments/translation.txt')
  found = bleu.statistics(HYPOTHESES[:1], [[text.lower() for text in REFERENCES[0]]])
  assert found.tolist() == [[7, 7, 2, 0, 0, 0, 7, 6, 5, 4]]  # 'the cat is on the mat .' has 7


def test_what_cannot_be_scored_is_told(monkeypatch):
  with pytest.raises(ValueError, match='position 1, counted from 0, has no reference'):
    bleu.statistics(['a', 'b'], [['a'], []])
  monkeypatch.setitem(sys.modules, 'sacrebleu.metrics', None)
  with pytest.raises(ValueError, match='pip install .sacrebleu'):
    bleu.statistics(['a'], [['a']])
