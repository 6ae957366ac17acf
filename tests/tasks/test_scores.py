"""Metrics of a whole split, against scikit-learn's, seqeval's and loops."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqeval.metrics
import sklearn.metrics

from rnnlab.tasks import scores

SEEDS = range(5)


def traced(function, *args, **options):
  """Computed in a compiled program; as a float64 for comparisons."""
  found = jax.jit(lambda *a: function(*a, **options))(*map(jnp.asarray, args))
  assert np.isfinite(found).all()
  return np.asarray(found, np.float64)


def labelled(seed, classes=4, size=60):
  """Labels whose last class is rare or absent, and predictions that are often right."""
  draw = np.random.default_rng(seed)
  labels = draw.integers(0, classes - (seed % 2), size)
  predicted = np.where(draw.random(size) < 0.6, labels, draw.integers(0, classes, size))
  return labels, predicted


@pytest.mark.parametrize('seed', SEEDS)
def test_confusion_and_macro_f1_are_scikit_learn_s(seed):
  labels, predicted = labelled(seed)
  if seed == 4:
    labels, predicted = labels % 2, predicted % 2  # two of the classes do not occur
  expected = sklearn.metrics.confusion_matrix(labels, predicted, labels=range(4))
  np.testing.assert_array_equal(traced(scores.confusion, labels, predicted, classes=4), expected)
  expected = sklearn.metrics.f1_score(labels, predicted, average='macro', zero_division=0)
  assert traced(scores.macro_f1, labels, predicted, classes=4) == pytest.approx(expected)
  padded = np.append(labels, [-1, -1]), np.append(predicted, [0, 3])
  assert traced(scores.macro_f1, *padded, classes=4) == pytest.approx(expected)


@pytest.mark.parametrize('seed', SEEDS)
def test_macro_f1_of_several_labels_is_scikit_learn_s(seed):
  draw = np.random.default_rng(seed)
  labels, predicted = draw.random((2, 30, 5)) < 0.4
  labels[:, 4] = predicted[:, 4] = False
  expected = sklearn.metrics.f1_score(labels, predicted, average='macro', zero_division=0)
  assert traced(scores.macro_f1_of_labels, labels, predicted) == pytest.approx(expected)


@pytest.mark.parametrize('ties', [False, True])
@pytest.mark.parametrize('seed', SEEDS)
def test_auroc_is_scikit_learn_s(seed, ties):
  draw = np.random.default_rng(seed)
  found = draw.normal(size=(200, 3)).astype(np.float32)
  if ties:
    found = np.round(found)
  labels = draw.integers(0, 3, 200)
  positive = labels[:, None] == range(3)
  each = [sklearn.metrics.roc_auc_score(p, s) for p, s in zip(positive.T, found.T, strict=True)]
  assert traced(scores.auroc, found[:, 1], positive[:, 1]) == pytest.approx(each[1], abs=2e-6)
  assert traced(scores.macro_auroc, found, positive) == pytest.approx(np.mean(each), abs=2e-6)
  powers = np.exp(found.astype(np.float64))
  shares = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
  expected = sklearn.metrics.roc_auc_score(labels, shares, multi_class='ovr', average='macro')
  assert traced(scores.macro_auroc, shares, positive) == pytest.approx(expected, abs=2e-6)


def test_auroc_leaves_out_what_has_no_pair_to_order():
  found = np.random.default_rng(0).normal(size=(20, 3))
  positive = np.zeros((20, 3), bool)
  assert traced(scores.auroc, found[:, 0], positive[:, 0]) == 0.5
  assert traced(scores.auroc, found[:, 0], ~positive[:, 0]) == 0.5
  assert traced(scores.macro_auroc, found, positive) == 0.5
  positive[:7, 1] = True
  expected = sklearn.metrics.roc_auc_score(positive[:, 1], found[:, 1])
  assert traced(scores.macro_auroc, found, positive) == pytest.approx(expected)


def test_auroc_of_many_rows_is_as_exact_as_of_few():
  draw = np.random.default_rng(0)
  positive = draw.random(100_000) < 0.3
  found = (draw.normal(size=100_000) + positive).astype(np.float32)
  expected = sklearn.metrics.roc_auc_score(positive, found)
  assert traced(scores.auroc, found, positive) == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize('seed', SEEDS)
def test_calibration_error_against_a_loop(seed):
  draw = np.random.default_rng(seed)
  probability = draw.beta(4, 2, 300).astype(np.float32)
  probability[:4] = 0, 1, 9 / 15, 9 / 15  # an edge belongs to the bin below it
  right = draw.random(300) < probability**2
  total, rows = 0, []
  for i in range(15):
    low, high = np.float32(i / 15), np.float32((i + 1) / 15)
    here = (probability > low if i else probability >= low) & (probability <= high)
    rows.append(
      (probability[here].mean(), right[here].mean(), here.sum()) if here.any() else (0,) * 3
    )
    total += rows[-1][2] / 300 * abs(rows[-1][0] - rows[-1][1])
  assert traced(scores.ece, probability, right) == pytest.approx(total, abs=1e-6)
  found = np.transpose(scores.calibration(probability, right))
  np.testing.assert_allclose(found, rows, atol=1e-6)
  assert traced(scores.ece, np.ones(3), np.ones(3)) == 0


@pytest.mark.parametrize('seed', SEEDS)
def test_errors_of_values_are_scikit_learn_s(seed):
  draw = np.random.default_rng(seed)
  targets = draw.normal(size=(40, 3)).astype(np.float32)
  values = (targets + draw.normal(0, 0.5, targets.shape)).astype(np.float32)
  targets[:, 2] = 1.5  # without variance, and missed
  weights = (draw.random(40) < 0.7).astype(np.float32)
  values[weights == 0] = 1e30  # values that do not count may be anything
  rows = weights > 0
  each = [
    sklearn.metrics.root_mean_squared_error(targets[rows, i], values[rows, i]) for i in range(3)
  ]
  np.testing.assert_allclose(traced(scores.rmse, values, targets, weights), each, rtol=1e-5)
  expected = sklearn.metrics.r2_score(targets[rows], values[rows])
  assert traced(scores.r2, values, targets, weights) == pytest.approx(expected, abs=1e-5)
  same = np.full((4, 1), 2.0)
  assert traced(scores.r2, same, same, np.ones(4)) == sklearn.metrics.r2_score(same, same) == 1
  # By rounding, the mean of equal numbers may be another, in scikit-learn too: there 1.5 is exact.
  expected = sklearn.metrics.r2_score(np.full(7, 1.5), np.full(7, 2.0))
  for count, value in ((7, 0.1), (3, 1.7), (1000, 1.7)):
    same = np.full((count, 1), value, np.float32)
    assert traced(scores.r2, same + 0.5, same, np.ones(count)) == expected == 0


SCHEMES = {
  'bio': ['O', 'B-PER', 'I-PER', 'B-LOC', 'I-LOC'],
  'iob': ['I-PER', 'O', 'I-LOC', 'B-LOC'],
  'iobes': ['O', *(f'{p}-{t}' for t in ('PER', 'LOC-IN') for p in 'BIES')],
  'bare': ['O', 'B', 'I'],
}


@pytest.mark.parametrize('scheme', SCHEMES)
@pytest.mark.parametrize('seed', SEEDS)
def test_span_f1_is_seqeval_s_for_tags_in_any_order(seed, scheme):
  tags = SCHEMES[scheme]
  assert scores.has_spans(tags)
  draw = np.random.default_rng(seed)
  lengths = draw.integers(0, 9, 50)
  lengths[0] = 8  # one without padding
  labels = draw.integers(0, len(tags), (50, 8))
  predicted = np.where(
    draw.random(labels.shape) < 0.8, labels, draw.integers(0, len(tags), (50, 8))
  )
  said = [
    [[tags[i] for i in row[:length]] for row, length in zip(ids, lengths, strict=True)]
    for ids in (labels, predicted)
  ]
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # a tag without a type
    expected = seqeval.metrics.f1_score(*said)
  labels = np.where(np.arange(8) < lengths[:, None], labels, -1)
  codes = scores.span_codes(tags)
  assert traced(scores.span_f1, labels, predicted, codes) == pytest.approx(expected)
  each = np.broadcast_to(codes, (50, *codes.shape))
  assert traced(scores.span_f1, labels, predicted, each) == pytest.approx(expected)


def test_span_f1_where_there_is_no_span_and_where_tags_name_none():
  outside = np.zeros((2, 3), int)
  assert traced(scores.span_f1, outside, outside, scores.span_codes(['O', 'B-X'])) == 0
  tags = ['NOUN', 'VERB', 'O', 'B']
  assert not scores.has_spans(tags) and not scores.has_spans(['O'])
  labels, predicted = np.array([[0, 0, 1, 2]]), np.array([[0, 1, 1, 0]])
  found = traced(scores.span_f1, labels, predicted, scores.span_codes(tags))
  assert found == pytest.approx(2 * 2 / (3 + 4))
