"""Statistics of groups of runs, as pure functions of arrays: how surely one group beats another.

Throughout, a and b are the values of two groups of independent runs, one value per seed, and b is
compared with a: a difference is b's mean minus a's. All intervals are 95% intervals. If a group is
empty, or holds a value that is not finite, every answer is NaN.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import special, stats

Values = Sequence[float] | np.ndarray
TAIL = 0.975  # what lies below the upper end of a 95% interval
Z = special.ndtri(TAIL)
BLOCKS, LEAST = 50, 20  # of a stream, and tokens in each
DRAWS = 2000  # of a bootstrap: their randomness moves an end by some 2% of the interval


class Estimate(NamedTuple):
  """A value, its 95% interval, and p of the test that goes with it; NaN for what is not known."""

  value: float
  low: float
  high: float
  p: float = np.nan


class Resampled(NamedTuple):
  """A group of R runs on N test items, and its bootstrap.

  For items that are right or wrong: share `[R]` is the share of items that each run gets right;
  items `[N]` the share of runs that are right on each item; interaction the part of the mean's
  variance that is due to neither runs nor items alone; draws `[DRAWS]` the mean share of resampled
  runs on resampled items, and given `[DRAWS]` that of the runs themselves on resampled items.
  """

  share: np.ndarray
  items: np.ndarray
  interaction: float
  draws: np.ndarray
  given: np.ndarray


def welch(a: Values, b: Values, null: float = 0.0) -> Estimate:
  """The difference in means, Welch's t interval, and p of the two-sided test against `null`.

  Welch 1947. There is no interval and no p if a group has one run, or if neither has any spread.
  """
  if not _are_known(a, b):
    return Estimate(*[np.nan] * 3)
  difference: Any = np.mean(b) - np.mean(a)
  error, degrees = _satterthwaite(*map(_of_mean, (a, b)))
  half = special.stdtrit(degrees, TAIL) * error
  p = 2 * special.stdtr(degrees, -abs(difference - null) / error)
  return Estimate(difference, difference - half, difference + half, p)


def equivalence(a: Values, b: Values, margin: float) -> Estimate:
  """As `welch`, with p of two one-sided tests (TOST): small if |difference| is below `margin`.

  Schuirmann 1987, with Welch's standard error. p < 5% means that the 90% interval lies within the
  margin, which has to be chosen before the runs are seen.
  """
  found = welch(a, b)
  if np.isnan(found.p):
    return found
  error, degrees = _satterthwaite(*map(_of_mean, (a, b)))
  return found._replace(p=special.stdtr(degrees, (abs(found.value) - margin) / error))


def noninferiority(a: Values, b: Values, margin: float) -> Estimate:
  """As `welch`, with p of the two-sided test against -`margin`.

  If p is small, a difference above -margin means that b is not worse than a by as much as `margin`,
  and one below it that b is worse by more than that. p < 5% means that the 95% interval lies on one
  side of -margin, the convention of non-inferiority trials (ICH E9).
  """
  return welch(a, b, -margin)


def holm(p: Values) -> np.ndarray:
  """The p-values of a family, adjusted for the number of tests (Holm 1979); NaN is no test."""
  p = np.asarray(p, float)
  order = np.argsort(p)  # NaN goes last
  tests = np.arange(np.count_nonzero(~np.isnan(p)), 0, -1)
  adjusted = np.full(len(p), np.nan)
  first = order[: len(tests)]
  adjusted[first] = np.minimum(np.maximum.accumulate(tests * p[first]), 1)
  return adjusted


def probability_greater(a: Values, b: Values) -> Estimate:
  """P(b > a) for one run of each, with ties counted half, and its interval.

  The interval is method 5 of Newcombe 2006 (Statistics in Medicine 25:559), a score interval with
  the variance of Hanley and McNeil 1982: it stays within 0 to 1, and does not shrink to a point if
  one group is ahead in all pairs. Its coverage is 93 to 98% for five runs or more per group with
  similar spreads, and falls to 90% for three runs, or if one spread is four times the other; to
  85% in both cases together.
  """
  a, b = np.asarray(a, float), np.asarray(b, float)
  if not _are_known(a, b):
    return Estimate(*[np.nan] * 3)
  value = ((b[:, None] > a) + 0.5 * (b[:, None] == a)).mean()
  others = (len(a) + len(b)) / 2 - 1

  def within(p):
    variance = p * (1 - p) * (1 + others * ((1 - p) / (2 - p) + p / (1 + p))) / (len(a) * len(b))
    return (p - value) ** 2 <= Z**2 * variance

  def end(outer):
    inner = value
    for _ in range(50):  # bisection, as with a value of 0 or 1 both ends searched may be roots
      middle = (inner + outer) / 2
      inner, outer = (middle, outer) if within(middle) else (inner, middle)
    return outer

  return Estimate(value, end(0.0), end(1.0))


def seeds_needed(a: Values, b: Values, difference: float, power: float = 0.8) -> float:
  """How many runs per group Welch's test at 5% needs to detect `difference` with `power`.

  The spreads are those of a and b, and the answer is no more certain than they are. inf if the
  difference is 0, NaN if there is no spread to go by.
  """
  if not _are_known(a, b, [difference]):
    return np.nan
  variances = [_of_mean(x)[0] * len(x) for x in (a, b)]
  with np.errstate(over='ignore'):
    if not 0 < sum(variances) ** 2 < np.inf:
      return np.nan
  shape = sum(variances) ** 2 / sum(v**2 for v in variances)  # degrees of freedom, over n - 1
  with np.errstate(divide='ignore'):
    n = (Z + special.ndtri(power)) ** 2 * sum(variances) / np.float64(difference) ** 2
  if n > 1e4:  # t is practically normal
    return np.ceil(n)

  def found(n):
    degrees, shift = shape * (n - 1), abs(difference) / np.sqrt(sum(variances) / n)
    if shift > 30:  # more than scipy's noncentral t can do, and practically certain
      return 1.0
    return stats.nct.sf(special.stdtrit(degrees, TAIL), degrees, shift)

  n = max(2, int(n))  # the normal approximation, always too few
  while found(n) < power:
    n += 1
  return float(n)


def resample(groups: Sequence[np.ndarray], seed: int = 0) -> list[Resampled]:
  """Each group's bootstrap, over runs and test items; the items drawn are the same for all groups.

  groups: bool arrays `[R, N]`, whether a run is right on an item, with the same N items in all; or
  float arrays of any other score per item whose mean is compared, such as `of_blocks` gives. Runs
  and items are drawn independently (the pigeonhole bootstrap, Owen 2007). The same `seed` gives the
  same draws. Raises ValueError if there are no items.
  """
  if not groups[0].shape[1]:
    raise ValueError('there are no test items to resample')
  draw = np.random.default_rng(seed)
  runs = np.concatenate(groups)
  runs = runs.astype(np.float32 if runs.dtype == bool else float)
  items = runs.shape[1]
  shares = np.empty((len(runs), DRAWS))
  for part in np.array_split(np.arange(DRAWS), DRAWS * items // 2**22 + 1):
    drawn = draw.integers(items, size=(len(part), items), dtype=np.int32)
    counts = np.stack([np.bincount(row, minlength=items) for row in drawn]).astype(runs.dtype)
    shares[:, part] = runs @ counts.T / items  # exact in any order if items are right or wrong
  ends = np.cumsum([len(group) for group in groups])[:-1]
  found = []
  for group, resampled in zip(np.split(runs, ends), np.split(shares, ends), strict=True):
    r = len(group)
    share, right = group.mean(axis=1, dtype=float), group.mean(axis=0, dtype=float)
    squares = np.square(group).mean(dtype=float)
    rest = squares - (share**2).mean() - (right**2).mean() + share.mean() ** 2
    weights = draw.multinomial(r, np.full(r, 1 / r), size=DRAWS) / r
    interaction = rest / max(1, r - 1) / (items - 1) if items > 1 else np.nan
    drawn, given = (weights * resampled.T).sum(axis=1), resampled.mean(axis=0, dtype=float)
    found.append(Resampled(share, right, interaction, drawn, given))
  return found


def of_sums(sums: Values, score: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
  """A score that is made of sums over items, as BLEU is, as a mean over items, for `resample`.

  sums: `[N, K]`, what each item adds. score: what makes scores `[M]` of sums `[M, K]`. Returns
  float64 `[N]`, whose mean is the score of all items, and whose spread is that of the jackknife's
  pseudo-values (Tukey 1958): N times what the score loses without an item, to first order. Empty
  where there are fewer than two items, or a score without one of them is not finite.
  """
  sums = np.asarray(sums, float)
  n = len(sums)
  if n < 2:
    return np.empty(0)
  total = sums.sum(axis=0, keepdims=True)
  with np.errstate(all='ignore'):
    (value,), without = score(total), score(total - sums)
    found = value + (n - 1) * (without.mean() - without)
  return found if np.isfinite(found).all() else np.empty(0)


def of_blocks(nll: Values) -> np.ndarray:
  """The exponential of a mean, written as a mean over BLOCKS stretches of a stream, for `resample`.

  nll: `[N]`, of the tokens in their order. Returns float64 `[BLOCKS]`, whose mean is exp(mean nll)
  and whose spread gives, to first order, the spread of that (the delta method). Neighbouring tokens
  share a topic and a style, so stretches must be long to be independent: there are only as many as
  it takes to know the spread of their mean to 10%. On Penn Treebank, single tokens treated as
  independent made it less than half as large. Empty if a stretch has fewer than LEAST tokens, or if
  a number is not finite.
  """
  nll = np.asarray(nll, float)
  if len(nll) < BLOCKS * LEAST or not np.isfinite(nll).all():
    return np.empty(0)
  edges = np.linspace(0, len(nll), BLOCKS + 1).astype(int)
  mean = nll.mean()
  apart = np.add.reduceat(nll - mean, edges[:-1])
  return np.exp(mean) * (1 + BLOCKS / len(nll) * apart)


def two_way(a: Resampled, b: Resampled) -> Estimate:
  """The difference in mean share, over runs and test items. a, b: from one call of `resample`.

  The interval is the bootstrap's quantiles about the difference, rescaled. As they come, they are
  too narrow for few runs, whose spread they take to be exact, and too wide for many, as each draw
  has the interaction of runs and items three times (Owen 2007). So their variance is scaled to the
  unbiased one of two crossed random effects (with that over items floored at 0), and their reach to
  Student's t with Satterthwaite's degrees of freedom; p is from the same t. Coverage is 93 to 97%
  for five runs or more per group, and 91% at worst for three.
  """
  difference = b.share.mean() - a.share.mean()
  n = len(a.items)
  if n < 2:
    return Estimate(difference, np.nan, np.nan)
  over_items = np.var(b.items - a.items, ddof=1) / n - a.interaction - b.interaction
  error, degrees = _satterthwaite(
    _of_mean(a.share), _of_mean(b.share), (max(0.0, over_items), n - 1)
  )
  draws = b.draws - a.draws - difference
  if np.isnan(error):
    return Estimate(difference, np.nan, np.nan)
  scale = error / draws.std(ddof=1) * special.stdtrit(degrees, TAIL) / Z
  low, high = difference + scale * np.quantile(draws, (1 - TAIL, TAIL))
  return Estimate(difference, low, high, 2 * special.stdtr(degrees, -abs(difference) / error))


def over_both(a: Resampled) -> Estimate:
  """The mean share over runs and over test items: `two_way` against what is always 0, without p."""
  nothing = np.zeros(DRAWS)
  never = Resampled(np.zeros(2), np.zeros_like(a.items), 0.0, nothing, nothing)
  return two_way(never, a)._replace(p=np.nan)


def paired(a: Resampled, b: Resampled) -> float:
  """p of paired bootstrap resampling (Koehn 2004) of the runs as they are, as sacreBLEU has it.

  How often on resampled test items the mean of b's runs is further from that of a's than in the
  mean over the draws, by as much as they differ on the test set itself or more. It says nothing of
  other seeds, and is known of one run each. From one call of `resample`.
  """
  apart = np.abs(b.given - a.given)
  above = np.sum(apart - apart.mean() >= abs(b.share.mean() - a.share.mean()))
  return float((above + 1) / (len(apart) + 1))


def bootstrap_difference(correct_a: Values, correct_b: Values, seed: int = 0) -> Estimate:
  """`two_way` of bool arrays `[R_a, N]` and `[R_b, N]`: whether a run is right on a test item.

  Both have the same N items. There is no interval if a group has one run, or if the shares of
  neither have any spread.
  """
  return two_way(*resample([np.asarray(correct_a), np.asarray(correct_b)], seed))


def expected_maximum(
  values: Values, replace: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """The best value that a search of n trials can be expected to find, for n from 1 to N.

  values `[N]`: a metric of N independent trials. Returns mean, low, high, each `[N]`. Trials are
  drawn without replacement, which is unbiased (Tang et al. 2020), or with it (Dodge et al. 2019),
  which is biased downwards. The interval is the jackknife's, with Student's t; for a smooth
  distribution its coverage is 90 to 95% if n is up to a fifth of N, and too low beyond that, where
  it is NaN. For values in two clusters its coverage may be as low as 80%.
  """
  values = np.sort(np.asarray(values, float))
  n = len(values)
  mean, low, high = _maximum_weights(n, n, replace) @ values, np.full(n, np.nan), np.full(n, np.nan)
  if known := n // 5:
    without = np.stack([np.delete(values, i) for i in range(n)])
    left = without @ _maximum_weights(n - 1, known, replace).T
    half = special.stdtrit(n - 1, TAIL) * np.sqrt((n - 1) * left.var(axis=0))
    low[:known], high[:known] = mean[:known] - half, mean[:known] + half
  return mean, low, high


def expected_best(values: Values, sign: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """`expected_maximum` if higher values are better (`sign` 1), or the expected minimum (-1)."""
  mean, low, high = (sign * part for part in expected_maximum(sign * np.asarray(values, float)))
  return (mean, low, high) if sign > 0 else (mean, high, low)


def _maximum_weights(n, budgets, replace):
  """`[budgets, n]`: the chance that the i-th smallest of n is the greatest of 1, 2, ... drawn."""
  i, drawn = np.arange(n + 1), 0 if replace else np.arange(budgets)[:, None]
  among_the_first = np.maximum(i - drawn, 0) / (n - drawn) * np.ones((budgets, 1))
  return np.diff(np.cumprod(among_the_first, axis=0))


def _are_known(*groups):
  return all(len(values) and np.isfinite(values).all() for values in groups)


def _of_mean(values):
  """(variance of the mean, its degrees of freedom)."""
  n = len(values)
  if n < 2:
    return np.nan, 0
  # The computed variance of equal floats need not be 0.
  with np.errstate(over='ignore'):
    return (np.var(values, ddof=1) / n if np.ptp(values) > 0 else 0.0), n - 1


def _satterthwaite(*parts):
  """(error, degrees of freedom) of a sum of independent (variance, degrees); NaN without spread."""
  variances, degrees = np.array(parts).T
  if not variances[:2].sum() > 0:
    return np.nan, np.nan
  total = variances.sum()
  with np.errstate(over='ignore'):
    squares = (variances**2 / degrees).sum()
  if not 0 < squares < np.inf:  # a spread too large or small to be squared counts as none
    return np.nan, np.nan
  return np.sqrt(total), total**2 / squares
