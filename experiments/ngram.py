"""N-gram models of a corpus: the perplexity that a recurrent model must beat.

    python -m experiments.ngram [FOLDER or FILE] [--unit=character] [--lowercase]

Without a path, of the film reviews of the package. --vocab_size=10000 is the default.

Modified Kneser-Ney smoothing, interpolated (Chen and Goodman 1998, section 3): the probability of a
word w after the n - 1 words c is

    p(w | c) = (count(c w) - D(count(c w))) / sum over v of count(c v) + left(c) p(w | c')

where c' is c without its first word, and left(c) is the share that the discounts D take from all v.
D has one value each for counts of 1, of 2 and of more, estimated from how many n-grams have counts
of 1 to 4. The count of the longest n-grams, and of those that begin a line, is how often they
occur; that of all others is the number of different words that they occur after. Below unigrams,
all words are equally likely. Each line is a text of its own, preceded by the end of the one before.

On Penn Treebank, n from 2 to 5 gives 185.7, 148.3, 142.7 and 141.2 (published for 3 and 5: 148.3
and 141.2, Mikolov 2012), in a second and 150 MB.
"""

import argparse
import inspect
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from rnnlab.data import DataError, cache, corpus, units
from rnnlab.runs import configs


class Grams(NamedTuple):
  """All n-grams of one n in a text of N tokens.

  keys: those that occur, sorted: the number of the first n - 1 words times V, plus the last word.
  counts: how often each occurs. first: a place where each ends. at: the one that ends at each
  place, int `[N]`, -1 where the line is too short.
  """

  keys: np.ndarray
  counts: np.ndarray
  first: np.ndarray
  at: np.ndarray


def scores(train: np.ndarray, test: np.ndarray, size: int, end: int, order: int = 5) -> np.ndarray:
  """The natural logarithm of the probability of each token of `test`, float64 `[order, N]`.

  Row n - 1 comes from the n-gram model. train, test: ids, int `[N]`, each line with its end. size:
  V, the number of words in the vocabulary. end: the id of the end of a line.
  """
  train, test = (np.concatenate([[end], of]).astype(np.int64) for of in (train, test))
  far, near = _longest(train, end), _longest(test, end)
  levels = [*_grams(train, far, size, order)]
  logs = np.empty((order, len(test)))
  below = np.full(len(test), 1 / size)  # p(w | c')
  before, here = np.zeros(len(test), int), test  # c and c w as numbers in `train`, -1 if not there
  for n, grams in enumerate(levels, start=1):
    if n > 1:
      before = np.where(near >= n, np.roll(here, 1), -1)
      here = _find(grams.keys, before * size + test, before >= 0)
    owner = grams.keys // size
    logs[n - 1] = np.log(_mixed(grams.counts, owner, before, here, below))
    if n < order:
      after = np.bincount(grams.at[levels[n].first], minlength=len(grams.keys))
      if n > 1:
        begins = far[grams.first] == n
        after[begins] = grams.counts[begins]
      below = _mixed(after, owner, before, here, below)
  return logs[:, 1:]


def _longest(text, end):
  """The length of the longest n-gram ending at each place; it begins with the end of a line."""
  places = np.arange(len(text))
  ends = np.maximum.accumulate(np.where(text == end, places, 0))
  return np.concatenate([[0], places[1:] - ends[:-1] + 1])


def _grams(text, longest, size, order) -> Iterator[Grams]:
  yield (grams := Grams(np.arange(size), np.bincount(text[1:], minlength=size), text[:0], text))
  for n in range(2, order + 1):
    there = np.flatnonzero(longest >= n)
    keys, first, at, counts = np.unique(
      grams.at[there - 1] * size + text[there], True, True, return_counts=True
    )
    numbers = np.full(len(text), -1)
    numbers[there] = at
    yield (grams := Grams(keys, counts, there[first], numbers))


def _find(keys, asked, possible):
  """Where each of `asked` is in `keys`, -1 where it is not, or is not `possible`."""
  place = np.searchsorted(keys, asked)
  return np.where(possible & (np.append(keys, -1)[place] == asked), place, -1)


def _mixed(counts, owner, before, here, below):
  """p(w | c) for each place of a text, from p(w | c'); owner: the c of each n-gram c w."""
  taken = _discounts(counts)[np.minimum(counts, 3)]
  # A 0 is appended for the index -1.
  own, total, left = (
    np.append(of, 0)
    for of in (counts - taken, np.bincount(owner, counts), np.bincount(owner, taken))
  )
  # A c that begins no n-gram has a number beyond the end, or is -1.
  before = np.minimum(before, len(total) - 1)
  known = total[before] > 0
  p = own[here] + left[before] * below
  return np.where(known, p / np.where(known, total[before], 1), below)


def _discounts(counts):
  """D for counts of 0, 1, 2, and 3 or more; if counts are too few to tell: 0, 0.5, 1 and 1.5."""
  n = np.bincount(np.minimum(counts, 5), minlength=6)[:5]
  if not n[1:].all():
    return np.array([0, 0.5, 1, 1.5])
  share = n[1] / (n[1] + 2 * n[2])
  found = [i - (i + 1) * share * n[i + 1] / n[i] for i in (1, 2, 3)]
  return np.array([0, *np.clip(found, 0, (1, 2, 3))])


def perplexities(data: Any) -> tuple[str, int, list[float]]:
  """The title, the number of tokens of the test split, and its perplexity for n from 1 to 5.

  data: the `data` part of a config. Raises rnnlab.data.DataError if there are no data.
  """
  made = corpus.load(data)
  path = cache.path('ngrams', made.fingerprint, inspect.getsource(sys.modules[__name__]))
  if (kept := cache.read(path)) is None:
    train, test = made.splits['train']['targets'], made.splits['test']['targets']
    logs = scores(train, test, len(made.vocabulary), made.encoding['end'])
    kept = {'perplexities': np.exp(-logs.mean(axis=1))}
    cache.write(path, kept | {'fingerprint': np.array(cache.fingerprint(kept))})
  return made.title, len(made.splits['test']['targets']), kept['perplexities'].tolist()


def references(data: Any) -> list[dict[str, Any]]:
  """What an experiment's `references` may return; [], with a warning, if there are no data.

  The report shows it only beside runs on the same data, so not if a flag has changed the data.
  """
  try:
    title, size, found = perplexities(data)
  except DataError as error:
    logging.warning('No n-grams to compare with: %s', error)
    return []
  told = ', '.join(f'{value:.1f} (n = {n})' for n, value in enumerate(found, start=1))
  says = f'For scale, the test perplexity of n-grams with modified Kneser-Ney smoothing: {told}.'
  return [{'says': says, 'title': title, 'test_examples': size}]


def main() -> None:
  """Prints the perplexities of a corpus."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('path', nargs='?', default='', help='a folder or a file; else film reviews')
  parser.add_argument('--unit', choices=units.UNITS, default='word')
  parser.add_argument('--vocab_size', type=int, default=10_000)
  parser.add_argument('--lowercase', action='store_true')
  data = configs.default('language_model').data
  data.update(vars(parser.parse_args()))
  try:
    title, size, found = perplexities(data)
  except DataError as error:
    sys.exit(str(error))
  print(f'{title}: test perplexity, of {size:,} tokens')
  for n, value in enumerate(found, start=1):
    print(f'n = {n}  {value:.2f}')


if __name__ == '__main__':
  main()
