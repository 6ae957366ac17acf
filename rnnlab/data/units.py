"""Text as token ids and back, a token being a word, a character, a byte or a piece of a word.

Ids are 0 to V - 1 by falling count in train. END is the end of a line, which is a token of its own,
and UNKNOWN anything outside the vocabulary; bytes and pieces are never unknown.

The encoding says how a text is tokenised, as JSON that is kept with each run: 'unit', one of UNITS;
'lowercase', whether it is read in lower case; 'words', for words, one of WORDS: how they are
separated; 'tokenizer', for pieces, the JSON of a tokeniser of Hugging Face's `tokenizers`; 'end',
the id of END; 'unknown', that of UNKNOWN, or None.

Words are separated by 'spaces', that is any white space, in a text whose punctuation is already set
apart by white space; by 'punctuation' in any other text. There a run of letters and digits is a
word, including an apostrophe or a decimal point within it, a run of full stops is one word, and so
is each other mark. A hyphen that is not between two letters or digits is a dash, –.
By spaces, an END in a text is the end of a line.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

if __package__:
  from rnnlab.data import DataError
else:  # in the zip of an exported model, beside its reader
  DataError = ValueError  # type: ignore[assignment, misc]

END, UNKNOWN = '<eos>', '<unk>'
UNITS = 'word', 'character', 'byte', 'subword'
WORDS = 'spaces', 'punctuation'
PIECES = 257  # the smallest vocabulary of pieces: the bytes, and END

_DASH = re.compile(r'(?<!\w)-+|-+(?!\w)')
_WORD = re.compile(rf"{UNKNOWN}|\w+(?:['’]\w+|(?<=\d)[.,]\d+)*|\n|\.\.+|[^\w\s]")
_NO_SPACE_BEFORE, _NO_SPACE_AFTER = {*".,;:!?%)]}…'’-/", '...'}, {*'([{$£#-/'}


def split(text: str, encoding: Mapping[str, Any]) -> Sequence[str]:
  r"""The tokens of a text in order. Characters are themselves, '\n' too; bytes as in Latin-1."""
  text = text.encode(errors='replace').decode()  # without lone surrogates, which a file can't have
  text = text.lower() if encoding['lowercase'] else text
  match encoding['unit']:
    case 'character':
      return text
    case 'byte':
      return text.encode().decode('latin-1')
    case 'subword':
      *lines, last = tokenizer(encoding['tokenizer']).encode_batch(text.split('\n'))
      found = itertools.chain.from_iterable([*line.tokens, END] for line in lines)
      return [*found, *last.tokens]
  if encoding['words'] == 'spaces':
    return text.replace('\n', f' {END} ').split()
  return [END if word == '\n' else word for word in _WORD.findall(_DASH.sub('–', text))]


def given(encoding: Mapping[str, Any]) -> list[str]:
  """The tokens in every vocabulary, in `split`'s form: END, UNKNOWN, all bytes, or all pieces."""
  match encoding['unit']:
    case 'byte':
      return [chr(byte) for byte in range(256)]
    case 'subword':
      id_of = tokenizer(encoding['tokenizer']).get_vocab()
      return sorted(id_of, key=id_of.__getitem__)
  return [end(encoding['unit']), UNKNOWN]


def end(unit: str) -> str:
  r"""END in `split`'s form."""
  return '\n' if unit in ('character', 'byte') else END


def symbols(vocabulary: Iterable[str], unit: str) -> list[str]:
  """The words of a vocabulary in `split`'s form."""
  if unit == 'byte':
    return [chr(int(word, 16)) for word in vocabulary]
  return ['\n' if unit == 'character' and word == END else word for word in vocabulary]


def names(found: Iterable[str], unit: str) -> tuple[str, ...]:
  """Tokens of `split` as written in a vocabulary, a line each. A byte is two hexadecimal digits."""
  if unit == 'byte':
    return tuple(f'{ord(one):02x}' for one in found)
  return tuple(END if one == '\n' else one for one in found)


def encode(text: str, encoding: Mapping[str, Any], vocabulary: Sequence[str]) -> np.ndarray:
  """The ids of a text, int32 `[N]`; with END only for each end of a line in it."""
  id_of = {one: i for i, one in enumerate(symbols(vocabulary, encoding['unit']))}
  return np.array([id_of.get(one, encoding['unknown']) for one in split(text, encoding)], np.int32)


def decode(ids: Iterable[int], encoding: Mapping[str, Any], vocabulary: Sequence[str]) -> str:
  """The text of ids, for people, in order. More ids only extend the text of the first ones.

  Words separated by spaces have one between any two; with 'punctuation', spaces are set as in
  print. Bytes that are not a character, as the last may be while more are to come, are U+FFFD.
  """
  unit = encoding['unit']
  found = [vocabulary[i] for i in ids]
  match unit:
    case 'character':
      return ''.join(symbols(found, unit))
    case 'byte':
      return bytes.fromhex(''.join(found)).decode(errors='replace')
    case 'subword':
      return b''.join(map(_bytes, found)).decode(errors='replace')
  return ''.join(_spaced(found, encoding['words'] == 'punctuation'))


def _spaced(words: Iterable[str], joined: bool) -> Iterator[str]:
  """The words and what is between them."""
  tight, quoted = True, False
  for word in words:
    if word == END:
      yield '\n'
      tight, quoted = True, False
      continue
    closes = word in _NO_SPACE_BEFORE or (word == '"' and quoted)
    if not tight and not (joined and closes):
      yield ' '
    yield word
    tight = joined and (word in _NO_SPACE_AFTER or (word == '"' and not quoted))
    quoted ^= word == '"'


def lengths(found: Sequence[str], unit: str) -> np.ndarray:
  """How many characters each token of `split` stands for, int32; a word with a space after it.

  For bytes it is the number of bytes, 1. A character in several pieces counts with the piece of its
  first byte.
  """
  if unit == 'word':
    return np.array([1 if word == END else len(word) + 1 for word in found], np.int32)
  if unit == 'subword':
    return np.array([sum(b & 0xC0 != 0x80 for b in _bytes(piece)) for piece in found], np.int32)
  return np.ones(len(found), np.int32)


# Pieces of words: byte pair encoding of bytes, as in GPT-2.


def tokenizer(content: str) -> Any:
  """The tokeniser from this JSON. Raises DataError if Hugging Face's library is not installed."""
  return _library().Tokenizer.from_str(content)


def trained(lines: Iterable[str], size: int) -> str:
  """The JSON of a tokeniser with at most `size` pieces, including END, from the lines of a text.

  Raises DataError if Hugging Face's library is not installed, and for a size below PIECES.
  """
  if size < PIECES:
    raise DataError(
      f'--config.data.vocab_size={size}: a vocabulary of pieces holds each byte and the end of a'
      f' line, so at least {PIECES}'
    )
  library = _library()
  made = library.Tokenizer(library.models.BPE())
  made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
  made.decoder = library.decoders.ByteLevel()
  trainer = library.trainers.BpeTrainer(
    vocab_size=size,
    special_tokens=[END],
    initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  made.train_from_iterator(lines, trainer)
  return made.to_str()


def _library():
  try:
    import tokenizers
  except ImportError:
    raise DataError(
      "--config.data.unit=subword needs Hugging Face's library: pip install 'tokenizers>=0.20,<1'"
    ) from None
  return tokenizers


_PRINTED = [*range(33, 127), *range(161, 173), *range(174, 256)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTED]
# GPT-2's letters for bytes: a printed one is itself, the others are the letters from 256 on.
_BYTE_OF = {chr(b): b for b in _PRINTED} | {chr(256 + i): b for i, b in enumerate(_OTHERS)}


def _bytes(piece):
  return b'\n' if piece == END else bytes(_BYTE_OF[letter] for letter in piece)
