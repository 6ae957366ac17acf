"""Text to token ids, as Keras's preprocessing and its IMDB dataset have them.

Id 0 pads, 1 starts a text, 2 stands for a word out of vocabulary, 3 is unused; the word of rank r
(1 is the most frequent) has id r + 3.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

START, UNKNOWN, FIRST_WORD = 1, 2, 4

_SPACED = str.maketrans(dict.fromkeys('!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n', ' '))


def tokenize(text: str) -> list[str]:
  """The lower-case words of a text; punctuation but the apostrophe parts them, as a space does."""
  # Split on spaces alone, as Keras: some reviews have other white space (U+0085) inside words.
  return [word for word in text.lower().translate(_SPACED).split(' ') if word]


def vocabulary(texts: Iterable[str], size: int) -> tuple[str, ...]:
  """The most frequent words in id order, as many as have ids below `size`: at most size - 4.

  Words of equal count rank by first appearance.
  """
  counts = Counter()
  for text in texts:
    counts.update(tokenize(text))
  return tuple(word for word, _ in counts.most_common(max(size - FIRST_WORD, 0)))


def encode(texts: Iterable[str], words: Sequence[str]) -> list[list[int]]:
  """Each text as the start id and its words' ids, where `words` is a vocabulary in id order."""
  id_of = {word: i for i, word in enumerate(words, FIRST_WORD)}
  return [[START, *(id_of.get(word, UNKNOWN) for word in tokenize(text))] for text in texts]
