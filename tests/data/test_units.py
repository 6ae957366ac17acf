"""Texts tokenised and joined again: words, characters, bytes and pieces of words."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnlab.data import DataError, units

LETTERS = 'aé\n –😀'


def encoding(unit, vocabulary=(), **more):
  numbers = {
    'end': vocabulary.index('0a' if unit == 'byte' else units.END) if vocabulary else 0,
    'unknown': vocabulary.index(units.UNKNOWN) if units.UNKNOWN in vocabulary else None,
  }
  return {'unit': unit, 'lowercase': False} | numbers | more


BYTES = tuple(f'{i:02x}' for i in range(256))
CHARACTERS = units.END, units.UNKNOWN, *(one for one in LETTERS if one != '\n')


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_a_text_is_got_back_from_its_bytes(text):
  ids = units.encode(text, encoding('byte', BYTES), BYTES)
  assert bytes(ids.tolist()) == text.encode(errors='replace')
  assert units.decode(ids, encoding('byte', BYTES), BYTES) == text.encode(errors='replace').decode()


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet=LETTERS))
def test_a_text_is_got_back_from_its_characters(text):
  how = encoding('character', CHARACTERS)
  ids = units.encode(text, how, CHARACTERS)
  assert len(ids) == len(text) and units.decode(ids, how, CHARACTERS) == text
  assert (ids == how['end']).sum() == text.count('\n') and how['unknown'] not in ids


def test_what_is_not_of_the_vocabulary_is_unknown():
  words = units.UNKNOWN, units.END, 'the', 'film'
  how = encoding('word', words, words='spaces', lowercase=True)
  ids = units.encode('The  film was\ngood \n', how, words)
  assert ids.tolist() == [2, 3, 0, 1, 0, 1] and ids.dtype == 'int32'
  assert units.decode(ids, how, words) == 'the film <unk>\n<unk>\n'
  assert units.encode('', how, words).tolist() == []
  marks = '(', '"', 'a', '.', units.END, units.UNKNOWN
  how = encoding('word', marks, words='spaces')
  assert units.decode(range(6), how, marks) == '( " a .\n<unk>'
  how = encoding('character', CHARACTERS)
  assert units.encode('a\ud800b', how, CHARACTERS).tolist() == [2, 1, 1]


@pytest.mark.parametrize(
  'text, words, again',
  [
    ('It\'s "good", no?', 'It\'s " good " , no ?', None),
    ('A well-made 3.5 hour film... (1,000 km)!', None, None),
    ('Good - but slow -- very.', 'Good – but slow – very .', 'Good – but slow – very.'),
    ('An <unk> of\nlines.\n', 'An <unk> of <eos> lines . <eos>', None),
    ('the brothers\' "one" "two" £5', 'the brothers \' " one " " two " £ 5', None),
    ('and/or: well  made', 'and / or : well made', 'and/or: well made'),
  ],
)
def test_punctuation_is_parted_from_words_and_joined_to_them(text, words, again):
  how = encoding('word', words='punctuation')
  found = units.split(text, how)
  if words is not None:
    assert ' '.join(found) == words
  vocabulary = tuple(dict.fromkeys(found))
  assert units.decode([*map(vocabulary.index, found)], how, vocabulary) == (again or text)


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet='a9 .,"\'-–(…\n'))
def test_a_text_grows_at_its_end(text):
  """Text already on the terminal stays right as more tokens come."""
  how = encoding('word', words='punctuation')
  found = units.split(text, how)
  vocabulary = tuple(dict.fromkeys(found))
  ids = [*map(vocabulary.index, found)]
  said = [units.decode(ids[:n], how, vocabulary) for n in range(len(ids) + 1)]
  assert all(more.startswith(less) for less, more in zip(said, said[1:], strict=False))


# Pieces


@pytest.fixture(scope='module')
def pieces():
  """An encoding of 300 pieces and its vocabulary."""
  pytest.importorskip('tokenizers', reason='optional: experiments/files.txt')
  lines = ['the theatre then there', 'another other the thé'] * 20
  how = encoding('subword', tokenizer=units.trained(lines, 300), unknown=None)
  return how, units.names(units.given(how), 'subword')


def test_pieces_are_of_more_than_a_byte(pieces):
  how, vocabulary = pieces
  assert units.END in vocabulary and 257 < len(vocabulary) <= 300
  assert 'Ġthe' in units.split('the the', how)
  assert len(units.split('the the there', how)) <= 4


@settings(max_examples=50, deadline=None)
@given(text=st.text(alphabet=LETTERS + 'the'))
def test_a_text_is_got_back_from_its_pieces(pieces, text):
  how, vocabulary = pieces
  ids = units.encode(text, how, vocabulary)
  assert units.decode(ids, how, vocabulary) == text
  assert units.lengths(units.split(text, how), 'subword').sum() == len(text)


def test_the_tokeniser_itself_joins_pieces_as_we_do(pieces):
  how, _ = pieces
  text = 'the thé – 😀 there'
  tokenizer = units.tokenizer(how['tokenizer'])
  assert tokenizer.decode(tokenizer.encode(text).ids) == text
  found = units.split(text, how)
  assert [units._bytes(piece) for piece in found] == _offsets(tokenizer, text)


def _offsets(tokenizer, text):
  """The bytes of each token, from the tokeniser's own mapping of bytes."""
  import tokenizers

  whole = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)
  letters = ''.join(word for word, _ in whole)
  of_letter = dict(zip(letters, text.encode(), strict=True))
  return [bytes(of_letter[one] for one in token) for token in tokenizer.encode(text).tokens]


def test_few_pieces_are_refused():
  with pytest.raises(DataError, match='vocab_size=256: .* so at least 257'):
    units.trained(['a'], 256)


def test_pieces_without_the_library_are_refused_in_words(monkeypatch):
  monkeypatch.setitem(__import__('sys').modules, 'tokenizers', None)
  with pytest.raises(DataError, match=r"unit=subword needs .*: pip install 'tokenizers"):
    units.trained(['a'], 300)
