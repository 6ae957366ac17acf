"""From text to token ids. Those of words are the same as in Keras's preprocessing and IMDB dataset.

Id 0 pads, 1 starts a text, 2 is a word out of vocabulary, 3 is unused; the word of rank r (1 is the
most frequent) has id r + 3.
"""

import codecs
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set

START, UNKNOWN, FIRST_WORD = 1, 2, 4

_SPACED = str.maketrans(dict.fromkeys('!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n', ' '))


def tokenize(text: str) -> list[str]:
  """The lower-case words of a text; ASCII's marks but the apostrophe count as a space."""
  # Split only on spaces, like Keras: some reviews have other white space (U+0085) inside words.
  return [word for word in text.lower().translate(_SPACED).split(' ') if word]


def characters(text: str) -> list[str]:
  """The characters of a text in Unicode's composed form (NFC); any white space is one space."""
  return list(unicodedata.normalize('NFC', ' '.join(text.split())))


def utf8(text: str) -> list[str]:
  """The bytes of a text in UTF-8, each as two hexadecimal digits."""
  return [f'{byte:02x}' for byte in text.encode(errors='replace')]


TOKENS = {'words': tokenize, 'characters': characters, 'bytes': utf8}


def tokenizer(tokens: str) -> Callable[[str], list[str]]:
  """The function that splits a text into tokens.

  tokens: a name in TOKENS, or the JSON text of a tokeniser of Hugging Face's `tokenizers`. Raises
  ValueError for another name, for a text that is not a tokeniser, and if the library is not
  installed.
  """
  if tokens in TOKENS:
    return TOKENS[tokens]
  try:
    import tokenizers
  except ImportError:
    raise ValueError(
      "a Hugging Face tokeniser needs their library: pip install 'tokenizers>=0.20,<1'"
    ) from None
  try:
    made = tokenizers.Tokenizer.from_str(tokens)
  except Exception as error:  # the library raises Exception itself
    raise ValueError(f'it is not the file of a Hugging Face tokeniser: {error}') from error
  # A vocabulary is stored with one token per line.
  return lambda text: [token.replace('\n', '\\n') for token in made.encode(text).tokens]


def listed(texts: Iterable[str]) -> list[str]:
  """The texts as a list.

  Raises TypeError, with the position of the first, for items that are not str, and for anything but
  a sequence of texts, such as one text, or a table.
  """
  if isinstance(texts, str | bytes):
    raise TypeError('give a list of texts, not one text')
  if isinstance(texts, Mapping | Set) or getattr(texts, 'ndim', 1) != 1:
    raise TypeError(
      f'give the texts in order, as a list or as one column of a table, not a'
      f' {type(texts).__name__}'
    )
  if not isinstance(texts, Iterable):
    raise TypeError(f'give a list of texts, not {texts!r:.60}')
  texts = list(texts)
  for i, words in enumerate(texts):
    if not isinstance(words, str):
      raise TypeError(
        f'the text at position {i}, counted from 0, is {words!r:.60}, of type'
        f' {type(words).__name__}: each must be a str'
      )
  return texts


def decode(line: bytes) -> str:
  """A line of a file as a text: without the line's end and a byte order mark.

  Each byte that is not UTF-8 is read as U+FFFD. Raises ValueError for UTF-16, recognised by its
  mark.
  """
  if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
    raise ValueError(
      'the texts are in UTF-16 and must be in UTF-8: convert them, as with'
      ' `iconv -f UTF-16 -t UTF-8 FILE`'
    )
  line = line.removeprefix(codecs.BOM_UTF8).removesuffix(b'\n').removesuffix(b'\r')
  return line.decode(errors='replace')


def vocabulary(texts: Iterable[str], size: int, tokens: str = 'words') -> tuple[str, ...]:
  """The most frequent tokens in id order, with ids below `size`: at most size - 4 tokens.

  Tokens of equal count rank by first appearance. tokens: see `tokenizer`.
  """
  counts, split = Counter(), tokenizer(tokens)
  for text in texts:
    counts.update(split(text))
  return tuple(word for word, _ in counts.most_common(max(size - FIRST_WORD, 0)))


def encode(texts: Iterable[str], words: Sequence[str], tokens: str = 'words') -> list[list[int]]:
  """Each text as the start id and its tokens' ids, where `words` is a vocabulary in id order."""
  id_of, split = {word: i for i, word in enumerate(words, FIRST_WORD)}, tokenizer(tokens)
  return [[START, *[id_of.get(word, UNKNOWN) for word in split(text)]] for text in texts]
