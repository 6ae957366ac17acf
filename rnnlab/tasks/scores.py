"""Metrics of a whole split, as functions of arrays that JAX can trace.

Those that compare a class with the rest are defined as in scikit-learn, spans as in seqeval. None
is NaN for finite arguments: each docstring says what the metric is where it is undefined.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
  from jax import Array

BINS = 15  # of a calibration
OUTSIDE, BEGIN, INSIDE, END, SINGLE = range(5)  # what a tag says of a span
_PREFIXES = {'O': OUTSIDE, 'B': BEGIN, 'I': INSIDE, 'E': END, 'S': SINGLE}


def confusion(labels: 'Array', predicted: 'Array', classes: int) -> 'Array':
  """How often each class was predicted for each true class: int32 `[C, C]`, the true class first.

  labels, predicted: ints of one shape, from 0 to classes - 1; where a label is below 0, the entry
    does not count.
  """
  import jax.numpy as jnp

  rows = jnp.where(labels < 0, classes, labels).ravel()
  return jnp.zeros((classes, classes), jnp.int32).at[rows, predicted.ravel()].add(1, mode='drop')


def macro_f1(labels: 'Array', predicted: 'Array', classes: int) -> 'Array':
  """The mean F1 of the classes that occur or are predicted; arguments as in `confusion`."""
  import jax.numpy as jnp

  counts = confusion(labels, predicted, classes)
  both = (counts.sum(axis=0) + counts.sum(axis=1)).astype(jnp.float32)  # found, and there
  f1 = 2 * jnp.diagonal(counts) / jnp.maximum(both, 1)
  return f1.sum() / jnp.maximum((both > 0).sum(), 1)


def macro_f1_of_labels(labels: 'Array', predicted: 'Array') -> 'Array':
  """The mean F1 of labels, any of which a row may have; it is 0 for a label that never occurs.

  labels, predicted: `[N, C]`, 1 or True where a row has the label.
  """
  import jax.numpy as jnp

  labels, predicted = labels.astype(bool), predicted.astype(bool)
  right = (labels & predicted).sum(axis=0)
  both = labels.sum(axis=0) + predicted.sum(axis=0)
  return jnp.mean(2 * right / jnp.maximum(both, 1).astype(jnp.float32))


def auroc(scores: 'Array', positive: 'Array') -> 'Array':
  """The area under the ROC curve: how often a positive ranks above a negative.

  A tie counts half. It is 0.5, as by chance, if all rows are positive or none is.

  scores: float `[N]`. positive: 1 or True, `[N]`.
  """
  import jax.numpy as jnp

  found, defined = _auroc(scores, positive)
  return jnp.where(defined, found, 0.5)


def macro_auroc(scores: 'Array', positive: 'Array') -> 'Array':
  """The mean of `auroc` over the columns for which there are positives and negatives, else 0.5.

  For classes this is one against the rest, with a one-hot array as positive.

  scores: float `[N, C]`. positive: 1 or True, `[N, C]`.
  """
  import jax
  import jax.numpy as jnp

  found, defined = jax.vmap(_auroc, in_axes=1)(scores, positive)
  mean = jnp.where(defined, found, 0).sum() / jnp.maximum(defined.sum(), 1)
  return jnp.where(defined.any(), mean, 0.5)


def _auroc(scores, positive):
  """The area, and whether there is one."""
  import jax.numpy as jnp

  positive = positive.astype(bool)
  order = jnp.argsort(scores)
  ranked = scores[order]
  below = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(~positive[order])])
  at_most = below[jnp.searchsorted(ranked, scores, side='right')]
  less = below[jnp.searchsorted(ranked, scores, side='left')]
  count, others = positive.sum(), (~positive).sum()
  # Shares are summed instead of counts, which float32 could not represent exactly.
  share = (at_most + less) / (2 * jnp.maximum(others, 1)).astype(jnp.float32)
  area = jnp.where(positive, share, 0).sum() / jnp.maximum(count, 1)
  return area, (count > 0) & (others > 0)


def calibration(probability: 'Array', right: 'Array') -> tuple['Array', 'Array', 'Array']:
  """How confident answers are, and how often they are right, in BINS of equal width from 0 to 1.

  probability: of the answer that was given, float `[N]`. right: whether it is right, `[N]`.

  Returns for each bin the mean probability and the share of right answers, both float32 `[BINS]`
  and 0 if a bin is empty, and the number of answers, int32 `[BINS]`. A bin includes its upper edge.
  """
  import jax.numpy as jnp

  edges = jnp.asarray(np.arange(1, BINS) / BINS, jnp.float32)
  places = jnp.searchsorted(edges, probability, side='left')
  counts = jnp.zeros(BINS, jnp.int32).at[places].add(1)

  def mean(of):
    total = jnp.zeros(BINS, jnp.float32).at[places].add(of.astype(jnp.float32))
    return total / jnp.maximum(counts, 1)

  return mean(probability), mean(right), counts


def ece(probability: 'Array', right: 'Array') -> 'Array':
  """The expected calibration error (Guo et al. 2017); arguments as in `calibration`.

  It is the mean, over all answers, of the distance between the mean probability of their bin and
  its share of right answers.
  """
  import jax.numpy as jnp

  sure, share, counts = calibration(probability, right)
  return jnp.sum(counts * jnp.abs(sure - share)) / jnp.maximum(counts.sum(), 1)


def rmse(values: 'Array', targets: 'Array', weights: 'Array') -> 'Array':
  """The root of the mean squared error of each column, float32 `[V]`.

  values, targets: float `[M, V]`. weights: 0 or 1, `[M]`, whether a row counts.
  """
  import jax.numpy as jnp

  return jnp.sqrt(_mean((values - targets) ** 2, weights))


def r2(values: 'Array', targets: 'Array', weights: 'Array') -> 'Array':
  """The mean over columns of the share of the targets' variance that is explained.

  For a column whose targets are all equal, it is 1 if they are predicted exactly, else 0. Arguments
  as in `rmse`.
  """
  import jax.numpy as jnp

  unexplained = _mean((values - targets) ** 2, weights)
  variance = _mean((targets - _mean(targets, weights)) ** 2, weights)
  real = weights[:, None] > 0
  least = jnp.where(real, targets, jnp.inf).min(axis=0)
  most = jnp.where(real, targets, -jnp.inf).max(axis=0)
  varies = (most > least) & (variance > 0)  # by rounding, that of equal numbers may be above 0
  share = 1 - unexplained / jnp.where(varies, variance, 1)
  return jnp.mean(jnp.where(varies, share, unexplained == 0))


def _mean(columns, weights):
  import jax.numpy as jnp

  rows = jnp.where(weights[:, None] > 0, columns, 0)
  return rows.sum(axis=0) / jnp.maximum(weights.sum(), 1)


def has_spans(tags: Sequence[str]) -> bool:
  """Whether tags mark spans, in IOB, BIO or IOBES: 'B-PER', 'I-PER', 'O'."""
  prefixes = {tag.partition('-')[0] for tag in tags}
  return bool(prefixes - {'O'}) and prefixes <= _PREFIXES.keys()


def span_codes(tags: Sequence[str]) -> np.ndarray:
  """The meaning of each tag: int32 `[C, 2]`, one of OUTSIDE ... SINGLE, and the number of a type.

  If tags mark no spans (see `has_spans`), like those of parts of speech, each step is a span by
  itself, whose type is its tag; 'O' is none.
  """
  if has_spans(tags):
    parts = [(_PREFIXES[prefix], type_) for prefix, _, type_ in (t.partition('-') for t in tags)]
  else:
    parts = [(OUTSIDE if tag == 'O' else SINGLE, tag) for tag in tags]
  types = {type_: i for i, type_ in enumerate(dict.fromkeys(type_ for _, type_ in parts))}
  codes = [(what, types[type_]) for what, type_ in parts]
  return np.array(codes, np.int32).reshape(-1, 2)


def span_f1(labels: 'Array', predicted: 'Array', codes: 'Array') -> 'Array':
  """F1 of spans by their type and both ends, as seqeval counts them by default (not strict).

  As in conlleval, an inside tag also begins a span after an outside tag or one of another type. It
  is 0 if there is no span at all.

  labels, predicted: a tag at each step, int `[N, T]`; a label below 0 marks padding.
  codes: of the tags, int `[C, 2]`, from `span_codes`; or for each row, `[N, C, 2]`.
  """
  import jax.numpy as jnp

  codes = jnp.broadcast_to(codes, (len(labels), *codes.shape[-2:]))
  real = labels >= 0
  there = _spans(jnp.where(real, labels, 0), real, codes)
  found = _spans(predicted, real, codes)
  same = there['end'] & found['end']
  for part in ('type', 'begin'):
    same &= there[part] == found[part]
  both = there['end'].sum() + found['end'].sum()
  return 2 * same.sum() / jnp.maximum(both, 1).astype(jnp.float32)


def _spans(tags, real, codes) -> Mapping[str, 'Array']:
  """At each step: whether a span ends there, its type, and where it began."""
  import jax
  import jax.numpy as jnp

  what, type_ = jnp.moveaxis(jnp.take_along_axis(codes, tags[:, :, None], axis=1), -1, 0)
  what, type_ = jnp.where(real, what, OUTSIDE), jnp.where(real, type_, -1)
  type_ = jnp.where(what == OUTSIDE, -1, type_)
  before, type_before = (
    jnp.pad(a, ((0, 0), (1, 0)), constant_values=c)[:, :-1]
    for a, c in ((what, OUTSIDE), (type_, -1))
  )
  # A step continues the span before it; otherwise it begins one, unless it is outside.
  goes_on = ((what == INSIDE) | (what == END)) & ((before == BEGIN) | (before == INSIDE))
  goes_on &= type_ == type_before
  starts = (what != OUTSIDE) & ~goes_on
  goes_on_after = jnp.pad(goes_on, ((0, 0), (0, 1)))[:, 1:]
  steps = jnp.where(starts, jnp.arange(tags.shape[1]), -1)
  return {
    'end': (what != OUTSIDE) & ~goes_on_after,
    'type': type_,
    'begin': jax.lax.cummax(steps, axis=1),
  }
