"""BLEU (Papineni et al. 2002) and chrF (Popović 2015) as in sacreBLEU, from sums; on the host.

sacreBLEU adds up counts over sentences and computes its score from the sums. Here the counts of
each sentence are kept, so that a bootstrap only has to add up other rows:
`score(statistics(hypotheses, references)[rows].sum(axis=0))`.

The library is optional, as nothing else needs it: `pip install -r experiments/translation.txt`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

METRICS = 'bleu', 'chrf'


def statistics(
  hypotheses: Sequence[str], references: Sequence[Sequence[str]], metric: str = 'bleu'
) -> np.ndarray:
  """What `score` needs of each sentence: int64 `[N, K]`.

  For BLEU, K = 10: the lengths of the hypothesis and the closest reference, then, for n-grams of 1
  to 4 words, how many match and how many there are. For chrF, K = 18: for n-grams of 1 to 6
  letters, how many the hypothesis has, how many the best reference has, and how many match.

  hypotheses: N texts as people write them; sacreBLEU splits them into words. references: for each,
  its right translations, at least one. metric: one of METRICS. Raises ValueError if sacreBLEU is
  not installed, and for a sentence without a reference.
  """
  if without := [row for row, right in enumerate(references) if not right]:
    raise ValueError(f'the sentence at position {without[0]}, counted from 0, has no reference')
  many = max(map(len, references), default=1)
  # sacreBLEU takes one list for the first references, one for the second, ..., with None for gaps.
  lists = [[right[i] if i < len(right) else None for right in references] for i in range(many)]
  # No public function gives a sentence's counts; sacreBLEU's own bootstrap uses these two.
  return np.array(_metric(metric)._extract_corpus_statistics([*hypotheses], lists), np.int64)


def score(sums: Any, metric: str = 'bleu') -> float:
  """The score, from 0 to 100. sums: `[K]`, of rows of `statistics` for the same metric."""
  return float(_metric(metric)._compute_score_from_stats(np.asarray(sums).tolist()).score)


def scores(sums: Any, metric: str = 'bleu') -> np.ndarray:
  """`score` of several sums: float64 `[M]` of `[M, K]`."""
  made = _metric(metric)
  return np.array([made._compute_score_from_stats(row).score for row in np.asarray(sums).tolist()])


def signature(references: Sequence[Sequence[str]], metric: str = 'bleu') -> str:
  """How sacreBLEU scored, for a table's caption: 'nrefs:1|case:mixed|eff:no|tok:13a|...'."""
  made = _metric(metric)
  counts = {*map(len, references)}
  made.num_refs = counts.pop() if len(counts) == 1 else -1  # which it shows as 'var'
  return str(made.get_signature())


def _metric(name):
  try:
    from sacrebleu.metrics import BLEU, CHRF
  except ImportError:
    raise ValueError(
      "BLEU and chrF need the library sacreBLEU: pip install 'sacrebleu>=2.5,<3'"
    ) from None
  return {'bleu': lambda: BLEU(force=True), 'chrf': CHRF}[name]()  # force: no warning of its own
