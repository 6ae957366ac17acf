"""Statistics against published examples, SciPy and brute force; and the coverage of intervals."""

import itertools

import numpy as np
import pytest
from scipy import stats

from rnnlab.results import statistics
from rnnlab.tasks import bleu

LSTM = 0.851, 0.848, 0.853, 0.846, 0.852, 0.849, 0.850
GRU = 0.853, 0.857, 0.851, 0.855, 0.856
RUNS = 1000  # of a simulation


def has(cover, stated, most=1.0):
  """Whether intervals cover as often as stated, up to a chance of about one in 10,000."""
  low = stats.binom.ppf(1e-4, len(cover), stated)
  return low <= np.sum(cover) <= stats.binom.ppf(1 - 1e-4, len(cover), most)


def moments(n, mean, std):
  """n values with that mean and that standard deviation."""
  values = np.linspace(-1, 1, n)
  return mean + std * values / values.std(ddof=1)


@pytest.mark.parametrize('null', [0.0, -0.002, 0.03])
def test_welch_is_scipys(null):
  found = statistics.welch(LSTM, GRU, null)
  test = stats.ttest_ind(GRU, LSTM, equal_var=False)
  assert found.value == pytest.approx(np.mean(GRU) - np.mean(LSTM))
  assert found[1:3] == pytest.approx(tuple(test.confidence_interval()))
  assert found.p == pytest.approx(stats.ttest_ind(np.subtract(GRU, null), LSTM, equal_var=False)[1])


def test_one_run_or_no_spread_gives_no_interval():
  for a, b in ((LSTM, [0.9]), ([0.8], [0.9]), ([0.1] * 3, [0.7] * 3)):
    found = statistics.welch(a, b)
    assert found.value == pytest.approx(np.mean(b) - np.mean(a))
    assert np.isnan(found[1:]).all()
    assert np.isnan(statistics.seeds_needed(a, b, 0.1))
  assert not np.isnan(statistics.welch([0.1] * 3, GRU).p)  # one of them has some


def test_equivalence_is_the_worked_example_of_lakens():
  """Lakens 2017 (Soc. Psychol. Personal. Sci. 8:355): t(182) = -2.69, p = .004 at d = 0.43."""
  a, b = moments(89, 5.22, 0.83), moments(95, 5.25, 0.95)
  margin = 0.43 * ((0.83**2 + 0.95**2) / 2) ** 0.5
  found = statistics.equivalence(a, b, margin)
  assert round(found.p, 3) == 0.004
  assert found.p == pytest.approx(stats.t.cdf(-2.69, 182), rel=0.02)
  swapped = statistics.equivalence(b, a, margin)
  assert swapped.p == pytest.approx(found.p)


@pytest.mark.parametrize('margin', [0.001, 0.005, 0.01])
def test_equivalence_is_the_worse_of_two_one_sided_tests(margin):
  tests = [
    stats.ttest_ind(np.add(GRU, shift), LSTM, equal_var=False, alternative=side).pvalue
    for shift, side in ((margin, 'greater'), (-margin, 'less'))
  ]
  assert statistics.equivalence(LSTM, GRU, margin).p == pytest.approx(max(tests))


def test_noninferiority_is_the_interval_beside_the_margin():
  low = statistics.welch(GRU, LSTM).low  # LSTM is behind
  assert low < 0
  assert statistics.noninferiority(GRU, LSTM, -1.0001 * low).p < 0.05
  assert statistics.noninferiority(GRU, LSTM, -0.9999 * low).p > 0.05


def test_equivalence_and_welch_err_as_often_as_they_say():
  """At the limit of what they detect, with different spreads and numbers of runs."""
  draw = np.random.default_rng(0)
  found = [(draw.normal(0, 1, 8), draw.normal(1, 2, 12)) for _ in range(RUNS)]
  said = [statistics.equivalence(a, b, 1.0).p < 0.05 for a, b in found]
  assert not has(said, 0.08) and has(np.invert(said), 0.95)
  intervals = [statistics.welch(a, b) for a, b in found]
  assert has([low < 1 < high for _, low, high, _ in intervals], 0.95, 0.95)


def test_holm_is_the_worked_example():
  found = statistics.holm([0.01, 0.04, np.nan, 0.03, 0.005])
  np.testing.assert_allclose(found, [0.03, 0.06, np.nan, 0.06, 0.02])
  np.testing.assert_allclose(statistics.holm([0.9, 0.6]), 1)
  assert statistics.holm([]).shape == (0,)


def test_chance_of_being_ahead_is_the_worked_example_of_brunner_and_munzel():
  """Their pain scores (Biometrical J. 2000, 42:17); the estimate is that of R's lawstat."""
  a = 1, 2, 1, 1, 1, 1, 1, 1, 1, 1, 2, 4, 1, 1
  b = 3, 3, 4, 3, 1, 2, 3, 1, 1, 5, 4
  found = statistics.probability_greater(a, b)
  assert found.value == pytest.approx(0.788961, abs=1e-6)
  assert 0.55 < found.low < 0.62 and 0.88 < found.high < 0.95
  swapped = statistics.probability_greater(b, a)
  np.testing.assert_allclose(swapped[:3], 1 - np.array([found.value, found.high, found.low]))


def hanley_mcneil(p, m, n):
  """The standard error of an area p, of m and n (Radiology 1982, 143:29)."""
  q1, q2 = p / (2 - p), 2 * p**2 / (1 + p)
  return ((p * (1 - p) + (m - 1) * (q1 - p**2) + (n - 1) * (q2 - p**2)) / (m * n)) ** 0.5


def test_chance_of_being_ahead_has_a_score_interval():
  for a, b in ((LSTM[:5], GRU), (GRU, LSTM[:5]), (LSTM, LSTM), (LSTM, np.add(LSTM, 0.003))):
    found = statistics.probability_greater(a, b)
    for end in found[1:3]:
      distance = 1.959964 * hanley_mcneil(end, len(a), len(b))
      assert abs(end - found.value) == pytest.approx(distance, abs=1e-6)
  # With one and one it is Wilson's interval for one trial.
  assert statistics.probability_greater([1], [2])[:3] == pytest.approx(
    (1, 1 / (1 + 1.959964**2), 1)
  )


@pytest.mark.parametrize('runs', [5, 10, 30])
@pytest.mark.parametrize('true', [0.5, 0.8, 0.95])
def test_chance_of_being_ahead_is_covered(runs, true):
  draw = np.random.default_rng(1)
  shift = stats.norm.ppf(true) * 2**0.5
  found = [
    statistics.probability_greater(draw.normal(size=runs), draw.normal(shift, 1, runs))
    for _ in range(RUNS)
  ]
  assert has([low <= true <= high for _, low, high, _ in found], 0.93, 0.98)


@pytest.mark.parametrize('effect, seeds', [(0.5, 64), (0.8, 26), (1.0, 17), (1.2, 12)])
def test_seeds_needed_are_cohens(effect, seeds):
  """Cohen 1988, table 2.4.1: power 0.80, two-sided 5%."""
  a = moments(10, 0, 1)
  assert statistics.seeds_needed(a, a, effect) == seeds
  assert statistics.seeds_needed(a, a, -effect) == seeds


def test_seeds_needed_give_the_power_for_unequal_spreads():
  a, b = moments(5, 0, 1), moments(5, 0, 3)
  n = int(statistics.seeds_needed(a, b, 6.0))
  draw = np.random.default_rng(2)
  told, less = (
    stats.ttest_ind(
      draw.normal(0, 1, (4000, m)), draw.normal(6, 3, (4000, m)), axis=1, equal_var=False
    ).pvalue
    < 0.05
    for m in (n, n - 1)
  )
  assert has(told, 0.79) and has(less, 0.0, 0.8)


def test_seeds_needed_of_no_difference_are_endless_and_of_a_great_one_two():
  assert statistics.seeds_needed(LSTM, GRU, 0.0) == np.inf
  assert statistics.seeds_needed(LSTM, GRU, 1e3) == 2
  # On either side of the switch to the normal distribution.
  many = [statistics.seeds_needed(LSTM, GRU, d) for d in (1.05e-4, 1e-4, 0.95e-4)]
  assert many == sorted(many)


def right(draw, groups, runs, items, of_run, of_item, of_both, shift=0.0):
  """For `groups` pairs of groups, whether a run is right on an item; and the true b minus a.

  An item is equally hard for all runs; for b as hard as for a, up to shift and a part of its own.
  """
  shape = groups, runs, items
  common = draw.normal(0, 1, (groups, 1, items))
  pairs = [
    0.8
    + better
    + common
    + draw.normal(0, of_run, (groups, runs, 1))
    + draw.normal(0, of_item, (groups, 1, items))
    + draw.normal(0, of_both, shape)
    > 0
    for better in (0, shift)
  ]
  scale = (1 + of_run**2 + of_item**2 + of_both**2) ** 0.5
  return *pairs, stats.norm.cdf((0.8 + shift) / scale) - stats.norm.cdf(0.8 / scale)


EFFECTS = {
  'runs': dict(of_run=0.15, of_item=0.0, of_both=0.3),
  'items': dict(of_run=0.02, of_item=0.5, of_both=0.3),
  'both together': dict(of_run=0.0, of_item=0.0, of_both=1.0),
  'all': dict(of_run=0.08, of_item=0.3, of_both=0.7),
}


@pytest.mark.parametrize('runs, stated', [(3, 0.91), (5, 0.93)])
@pytest.mark.parametrize('name', EFFECTS)
def test_two_way_intervals_cover(monkeypatch, name, runs, stated):
  monkeypatch.setattr(statistics, 'DRAWS', 400)
  draw = np.random.default_rng(3)
  a, b, true = right(draw, 500, runs, 200, **EFFECTS[name], shift=0.1)
  found = statistics.resample([*a, *b])
  estimates = map(statistics.two_way, found[: len(a)], found[len(a) :])
  assert has([low <= true <= high for _, low, high, _ in estimates], stated, 0.975)


def test_two_way_has_the_variance_that_chance_gives():
  draw = np.random.default_rng(4)
  a, b, _ = right(draw, 2000, 4, 150, **EFFECTS['all'])
  differences = b.mean(axis=(1, 2)) - a.mean(axis=(1, 2))
  found = statistics.resample([*a[:500], *b[:500]])
  variances = [
    sum(x.share.var(ddof=1) / 4 for x in pair)
    + (pair[1].items - pair[0].items).var(ddof=1) / 150
    - sum(x.interaction for x in pair)
    for pair in zip(found[:500], found[500:], strict=True)
  ]
  assert np.mean(variances) == pytest.approx(differences.var(), rel=0.1)


def test_two_way_is_students_t_of_two_crossed_random_effects():
  a, b, _ = right(np.random.default_rng(12), 1, 4, 60, **EFFECTS['all'], shift=0.5)
  a, b = a[0], b[0]
  found = statistics.bootstrap_difference(a, b)
  parts = [(x.mean(axis=1).var(ddof=1) / 4, 3) for x in (a, b)]
  rests = [x - x.mean(axis=1, keepdims=True) - x.mean(axis=0) + x.mean() for x in (a, b)]
  over_items = (b.mean(axis=0) - a.mean(axis=0)).var(ddof=1) / 60
  over_items -= sum((rest**2).sum() / (3 * 59) / (4 * 60) for rest in rests)
  assert over_items > 0
  parts.append((over_items, 59))
  variance = sum(v for v, _ in parts)
  degrees = variance**2 / sum(v**2 / d for v, d in parts)
  assert found.p == pytest.approx(2 * stats.t.sf(abs(found.value) / variance**0.5, degrees))
  width = 2 * stats.t.ppf(0.975, degrees) * variance**0.5
  assert found.high - found.low == pytest.approx(width, rel=0.07)


def test_draws_are_of_runs_and_of_items_by_brute_force():
  draw = np.random.default_rng(5)
  a, b, _ = right(draw, 1, 4, 30, **EFFECTS['all'])
  a, b = a[0], b[0]
  found = statistics.resample([a, b])
  plain = []
  for _ in range(20_000):
    items = draw.integers(30, size=30)
    plain.append([x[draw.integers(4, size=4)][:, items].mean() for x in (a, b)])
  plain = np.array(plain).T
  draws = np.array([x.draws for x in found])
  np.testing.assert_allclose(draws.mean(axis=1), plain.mean(axis=1), atol=0.01)
  np.testing.assert_allclose(np.cov(draws), np.cov(plain), rtol=0.15)  # so items are shared
  assert np.cov(plain)[0, 1] > 0.3 * np.cov(plain)[0, 0]


def test_interaction_is_the_mean_square_of_a_table():
  x = np.random.default_rng(6).random((4, 9)) < 0.7
  rest = x - x.mean(axis=1, keepdims=True) - x.mean(axis=0) + x.mean()
  assert statistics.resample([x])[0].interaction == pytest.approx((rest**2).sum() / (3 * 8) / 36)


def test_bootstrap_is_the_same_each_time_and_another_for_another_seed():
  draw = np.random.default_rng(7)
  a, b = draw.random((3, 50)) < 0.8, draw.random((4, 50)) < 0.9
  found = statistics.bootstrap_difference(a, b)
  assert found == statistics.bootstrap_difference(a, b)
  other = statistics.bootstrap_difference(a, b, seed=1)
  assert found.value == other.value == b.mean() - a.mean()
  assert found[1:3] != other[1:3]
  assert found[1:3] == pytest.approx(other[1:3], abs=0.1 * (found.high - found.low))


def test_bootstrap_of_many_items_is_near_the_normal_and_never_less_than_welchs():
  draw = np.random.default_rng(8)
  a, b, _ = right(draw, 1, 10, 4000, **EFFECTS['items'])
  found = statistics.bootstrap_difference(a[0], b[0])
  assert found.high - found.value == pytest.approx(found.value - found.low, rel=0.15)
  welch = statistics.welch(a[0].mean(axis=1), b[0].mean(axis=1))
  assert found.high - found.low > 1.5 * (welch.high - welch.low)  # it has the items' chance too


def test_the_interval_of_a_mean_covers_the_chance_of_runs_and_of_items(monkeypatch):
  monkeypatch.setattr(statistics, 'DRAWS', 400)
  a, _, _ = right(np.random.default_rng(17), 500, 5, 200, **EFFECTS['all'])
  scale = (1 + sum(EFFECTS['all'][name] ** 2 for name in ('of_run', 'of_item', 'of_both'))) ** 0.5
  true = stats.norm.cdf(0.8 / scale)
  found = [statistics.over_both(one) for one in statistics.resample([*a])]
  assert has([low <= true <= high for _, low, high, _ in found], 0.92, 0.985)
  assert np.isnan(found[0].p) and found[0].value == pytest.approx(a[0].mean())


def test_bootstrap_of_one_run_has_no_interval():
  a = np.random.default_rng(9).random((3, 50)) < 0.8
  assert np.isnan(statistics.bootstrap_difference(a[:1], a)[1:]).all()
  assert np.isnan(statistics.bootstrap_difference(a[[0, 0]], a[[0, 0, 0]])[1:]).all()


def nlls(draw, runs, size, topic):
  """The nll of tokens for two groups of runs, `[2, R, N]`, and the difference to be estimated.

  A text has topics of some hundred tokens, which suit one group more than the other.
  """
  topics = np.repeat(draw.normal(0, topic, (2, size // 40)), 40, axis=1)
  of_runs = draw.normal([[4.0], [4.1]], 0.02, (2, runs))
  found = of_runs[:, :, None] + topics[:, None] + draw.exponential(1, (2, 1, size)) - 1
  # Over all possible runs, the mean of exp(a run's mean) is greater than exp of the mean of means.
  true = np.diff(np.exp([4.0 + 0.02**2 / 2, 4.1 + 0.02**2 / 2]))[0]
  return found + draw.normal(0, 0.3, found.shape), true


def test_intervals_of_perplexity_cover_the_chance_of_the_text(monkeypatch):
  monkeypatch.setattr(statistics, 'DRAWS', 400)
  draw, covered, naive = np.random.default_rng(13), [], []
  for _ in range(150):
    found, true = nlls(draw, 5, 4000, topic=0.5)
    a, b = (np.stack([statistics.of_blocks(run) for run in runs]) for runs in found)
    value, low, high, _ = statistics.bootstrap_difference(a, b)
    means = np.exp(found.mean(axis=2)).mean(axis=1)
    assert value == pytest.approx(means[1] - means[0])
    covered.append(low <= true <= high)
    error = np.sqrt(np.var(means[1] * found[1].mean(0) - means[0] * found[0].mean(0)) / 4000)
    naive.append(abs(value - true) <= 1.96 * error)
  assert has(covered, 0.90, 0.98)
  assert np.mean(naive) < 0.7


def translated(runs, sentences=60):
  """The sentences' BLEU statistics for two groups of runs, int `[2, R, N, 10]`, from sacreBLEU."""
  metrics = pytest.importorskip('sacrebleu.metrics', reason='optional: experiments/translation.txt')
  draw = np.random.default_rng(14)
  right = [draw.integers(0, 9, draw.integers(5, 12)) for _ in range(sentences)]

  def said(wrong):
    texts = [np.where(draw.random(len(of)) < wrong, 9, of) for of in right]
    return [' '.join(map(str, text)) for text in texts]

  references = [[' '.join(map(str, of)) for of in right]]
  texts = [[said(wrong) for _ in range(runs)] for wrong in (0.3, 0.27)]
  made = metrics.BLEU()
  sums = [[made._extract_corpus_statistics(run, references) for run in group] for group in texts]
  return np.array(sums), texts, references


def test_a_score_of_sums_has_the_spread_of_its_bootstrap():
  sums, *_ = translated(2)
  found = [[statistics.of_sums(run, bleu.scores) for run in group] for group in sums]
  draw, drawn = np.random.default_rng(15), []
  for _ in range(1000):
    rows = draw.integers(60, size=60)
    drawn.append([bleu.score(group[0][rows].sum(axis=0)) for group in sums])
  for items, group, brute in zip(found, sums, np.array(drawn).T, strict=True):
    assert items[0].mean() == pytest.approx(bleu.score(group[0].sum(axis=0)))
    assert items[0].std() / 60**0.5 == pytest.approx(brute.std(), rel=0.1)
  differences = np.subtract(*np.array(drawn).T).std()  # of the same sentences
  assert (found[0][0] - found[1][0]).std() / 60**0.5 == pytest.approx(differences, rel=0.1)


def test_of_a_mean_each_item_is_its_own_and_of_a_ratio_it_is_the_delta_methods():
  sums = np.random.default_rng(16).integers(1, 9, (500, 2)).astype(float)
  counted = np.stack([sums[:, 0], np.ones(500)], axis=1)
  of_mean = statistics.of_sums(counted, lambda s: s[:, 0] / s[:, 1])
  np.testing.assert_allclose(of_mean, sums[:, 0])
  total, other = sums.sum(axis=0)
  expected = total / other + (sums[:, 0] - total / other * sums[:, 1]) / (other / 500)
  found = statistics.of_sums(sums, lambda s: s[:, 0] / s[:, 1])
  np.testing.assert_allclose(found, expected, atol=0.02)
  assert len(statistics.of_sums(sums[:1], lambda s: s[:, 0])) == 0
  assert len(statistics.of_sums([[1, 1], [0, 0]], lambda s: s[:, 0] / s[:, 1])) == 0


def test_paired_bootstrap_is_sacrebleus():
  sums, texts, references = translated(1)
  significance = pytest.importorskip('sacrebleu.significance')
  named = [('a', texts[0][0]), ('b', texts[1][0])]
  from sacrebleu.metrics import BLEU

  test = significance.PairedTest(named, {'BLEU': BLEU(references=references)}, None, 'bs', 4000)
  _, scores = test()
  expected = scores['BLEU'][1].p_value
  a, b = statistics.resample([statistics.of_sums(run, bleu.scores)[None] for run in sums[:, 0]])
  assert 0.02 < expected < 0.5 and statistics.paired(a, b) == pytest.approx(expected, abs=0.03)
  assert statistics.paired(a, a) == 1


def test_a_short_stream_and_one_that_is_not_finite_have_no_stretches():
  assert len(statistics.of_blocks(np.ones(999))) == 0
  assert statistics.of_blocks(np.full(1000, 2.0)) == pytest.approx([np.exp(2)] * 50)
  assert len(statistics.of_blocks(np.append(np.ones(2000), np.inf))) == 0


def test_expected_maximum_is_that_of_all_choices():
  values = np.random.default_rng(10).normal(size=6)
  values[1] = values[2]
  mean, _, _ = statistics.expected_maximum(values)
  again, _, _ = statistics.expected_maximum(values, replace=True)
  for n in range(1, 7):
    assert mean[n - 1] == pytest.approx(
      np.mean([max(some) for some in itertools.combinations(values, n)])
    )
    assert again[n - 1] == pytest.approx(
      np.mean([max(some) for some in itertools.product(values, repeat=n)])
    )
  assert len(statistics.expected_maximum(np.arange(3000.0))[0]) == 3000


def test_expected_maximum_is_covered_and_unbiased_without_replacement():
  """Of 50 trials; the expected greatest of n standard normals is 0, 0.5642, 1.1630 and 1.5388."""
  draw = np.random.default_rng(11)
  found = [statistics.expected_maximum(draw.normal(size=50)) for _ in range(400)]
  mean, low, high = np.array(found).swapaxes(0, 1)
  for n, true in ((1, 0.0), (2, 0.5642), (5, 1.1630), (10, 1.5388)):
    covered = (low[:, n - 1] <= true) & (true <= high[:, n - 1])
    assert has(covered, 0.90, 0.96)
    error = mean[:, n - 1].std() / 400**0.5
    assert abs(mean[:, n - 1].mean() - true) < 4 * error
  assert np.isnan(low[:, 10:]).all() and np.isnan(high[:, 10:]).all()


DEGENERATE = [
  *([], [0.8], [0.8, 0.8], [0.8, 0.9], [0.1 + 0.2, 0.3], [1e-170, 2e-170], [1e200, 3e200]),
  *([np.nan], [0.8, np.nan], [0.8, np.inf], [-np.inf, np.inf]),
]


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('b', DEGENERATE, ids=str)
@pytest.mark.parametrize('a', DEGENERATE, ids=str)
def test_degenerate_groups_have_no_interval_and_no_p_and_no_warning(a, b):
  known = all(len(group) and np.isfinite(group).all() for group in (a, b))
  for found in (
    statistics.welch(a, b),
    statistics.equivalence(a, b, 0.01),
    statistics.noninferiority(a, b, 0.01),
    statistics.probability_greater(a, b),
  ):
    assert np.isfinite(found.value) == known
    assert np.isnan(found.low) == np.isnan(found.high) and not found.low > found.high
    assert np.isnan(found.p) or 0 <= found.p <= 1
  if min(len(a), len(b)) < 2 or not known:
    assert np.isnan(statistics.welch(a, b)[1:]).all()
  needed = statistics.seeds_needed(a, b, statistics.welch(a, b).value)
  assert np.isnan(needed) or needed >= 2


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('items', [1, 2, 3])
def test_few_test_items_have_an_interval_or_none_and_no_warning(items):
  right = np.arange(4 * items).reshape(4, items) % 3 > 0
  for a, b in ((right[:2], right[2:]), (right[:1], right[2:]), (right[:2], right[:2])):
    found = statistics.bootstrap_difference(a, b)
    assert found.value == pytest.approx(b.mean() - a.mean(), abs=1e-12)
    assert np.isnan(found.low) or found.low <= found.value <= found.high
    assert items > 1 or np.isnan(found.low)


def test_without_test_items_there_is_nothing_to_resample():
  with pytest.raises(ValueError, match='no test items'):
    statistics.bootstrap_difference(np.zeros((2, 0), bool), np.zeros((2, 0), bool))
