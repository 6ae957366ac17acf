"""Kneser-Ney n-grams against the definition, word by word, from dictionaries."""

import collections
import math
import random
import subprocess
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments import ngram
from rnnlab.data import cache
from rnnlab.tasks import streams

END, WORDS = 0, 6  # ids 0 to 5


def draw(seed, lines):
  """A text of `lines` lines, some of them empty; the first words are the most frequent."""
  source = random.Random(seed)
  text = []
  for _ in range(lines):
    text += [min(source.randint(1, 5), source.randint(1, 5)) for _ in range(source.randint(0, 7))]
    text.append(END)
  return text


class Slow:
  """Interpolated modified Kneser-Ney by the definition of Chen and Goodman (1998), and slow."""

  def __init__(self, train, size, order):
    self.size, self.order = size, order
    self.raw, lefts = collections.Counter(), collections.defaultdict(set)
    line = ['<s>']
    for word in train:
      line.append(word)
      for n in range(1, order + 1):
        if len(line) >= n and line[-n:] != ['<s>']:
          self.raw[tuple(line[-n:])] += 1
          if len(line) > n:
            lefts[tuple(line[-n:])].add(line[-n - 1])
      line = ['<s>'] if word == END else line
    self.after = {
      gram: count if gram[0] == '<s>' else len(lefts[gram]) for gram, count in self.raw.items()
    }
    self.discounts = {}

  def discount(self, counts, n, count):
    """D for the count of an n-gram; counts: self.raw or self.after."""
    key = n, counts is self.raw
    if key not in self.discounts:
      of = collections.Counter(c for gram, c in counts.items() if len(gram) == n)
      if all(of[i] for i in (1, 2, 3, 4)):
        share = of[1] / (of[1] + 2 * of[2])
        found = [i - (i + 1) * share * of[i + 1] / of[i] for i in (1, 2, 3)]
        self.discounts[key] = [min(max(d, 0), i) for i, d in enumerate(found, start=1)]
      else:
        self.discounts[key] = [0.5, 1, 1.5]
    return self.discounts[key][min(count, 3) - 1]

  def p(self, context, word, longest=True):
    """The probability of a word after a context, a tuple that may begin with '<s>'."""
    n = len(context) + 1
    counts = self.raw if longest else self.after
    beyond = self.p(context[1:], word, False) if n > 1 else 1 / self.size
    following = {v: counts[(*context, v)] for v in range(self.size) if (*context, v) in counts}
    if not following:
      return beyond
    taken = {v: self.discount(counts, n, count) for v, count in following.items()}
    own = following.get(word, 0) - taken.get(word, 0)
    return (own + sum(taken.values()) * beyond) / sum(following.values())

  def scores(self, text):
    """The logarithm of the probability of each word of a text, given the words before it."""
    line, logs = ['<s>'], []
    for word in text:
      # A line that is shorter than the context begins with '<s>', and is counted as it is.
      context = tuple(line[-(self.order - 1) :]) if self.order > 1 else ()
      longest = len(context) == self.order - 1
      logs.append(math.log(self.p(context, word, longest)))
      line = ['<s>'] if word == END else [*line, word]
    return logs


@pytest.mark.parametrize('lines', [300, 8])  # with 8, counts are few for the discounts
def test_scores_are_those_of_the_definition(lines):
  train, test = draw(0, lines), draw(1, 12)
  found = ngram.scores(np.array(train), np.array(test), WORDS, END)
  assert found.shape == (5, len(test)) and found.dtype == np.float64
  for order in range(1, 6):
    expected = Slow(train, WORDS, order).scores(test)
    np.testing.assert_allclose(found[order - 1], expected, rtol=1e-12, err_msg=str(order))


@pytest.mark.parametrize('context', [(), (1,), (1, 2), (5, 5, 5), (3, 1, 2, 1, 1)])
def test_probabilities_sum_to_1(context):
  train = draw(0, 100)
  tests = [[*context, word, END] for word in range(WORDS)]  # END twice is an empty line
  found = ngram.scores(np.array(train), np.concatenate(tests), WORDS, END)
  place = len(context) + np.arange(WORDS) * (len(context) + 2)
  np.testing.assert_allclose(np.exp(found[:, place]).sum(axis=1), 1, rtol=1e-12)


def test_a_word_that_train_has_not_is_possible():
  found = ngram.scores(np.array([1, 2, END] * 5), np.array([7, 1, 2, END]), 8, END)
  assert np.isfinite(found).all() and (found[:, 0] < found[:, 2]).all()


@pytest.fixture
def corpus(tmp_path, monkeypatch):
  """A folder of a corpus of two repeated lines; the cache is a folder too."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  folder = tmp_path / 'lines'
  folder.mkdir()
  for name, count in (('train', 40), ('valid', 2), ('test', 3)):
    (folder / f'{name}.txt').write_text('the cat sat on the mat\nthe dog lay there\n' * count)
  return folder


def config(path):
  usual = {name.split('.')[1]: field.default for name, field in streams.DATA.items()}
  return ConfigDict(usual | {'path': str(path)})


def test_a_reference_is_of_its_data_alone_and_kept(corpus, monkeypatch):
  (found,) = ngram.references(config(corpus))
  assert found['title'] == 'lines, 10 words' and found['test_examples'] == 36
  assert (
    found['says'].startswith('For scale, the test perplexity of n-grams')
    and '(n = 5)' in (found['says'])
  )
  assert len([*cache.cache.root().glob('ngrams-*.npz')]) == 1
  monkeypatch.setattr(ngram, 'scores', None)  # not computed again
  assert ngram.references(config(corpus)) == [found]


def test_no_reference_without_data(tmp_path, caplog):
  assert ngram.references(config(tmp_path / 'none')) == []
  assert 'there is no such file or folder' in caplog.text


def test_perplexities_are_printed(corpus):
  command = [sys.executable, '-m', 'experiments.ngram', str(corpus)]
  done = subprocess.run(command, capture_output=True, text=True, check=True)
  title, *lines = done.stdout.splitlines()
  assert title == 'lines, 10 words: test perplexity, of 36 tokens' and len(lines) == 5
  assert lines[0].startswith('n = 1  ')
  done = subprocess.run([*command[:3], 'none'], capture_output=True, text=True, check=False)
  assert done.returncode == 1 and done.stderr == 'none: there is no such file or folder.\n'
