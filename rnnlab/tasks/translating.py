"""What tasks of pairs of texts share: the fields of their data."""

from typing import Any

from rnnlab.data import aligned, pairs, transductions, units
from rnnlab.tasks import fields
from rnnlab.tasks.fields import Field, Kind

_UNIT = fields.choice(lambda: ('auto', *pairs.UNITS))


def _two(value):
  codes = value.split('-') if isinstance(value, str) else []
  return value == '' or (len(codes) == 2 and all(codes) and codes[0] != codes[1])


DATA = {
  'data.source': Field(
    'auto',
    fields.choice(lambda: ('auto', *aligned.SOURCES)),
    "auto: pairs if data.path is given, else cmudict | pairs: data.path's texts | cmudict:"
    ' letters to sounds of English words | homeassistant: the texts of a user interface, in'
    ' data.languages | drawn: pairs that follow data.rule',
  ),
  'data.rule': Field(
    'reverse',
    fields.choice(lambda: transductions.RULES),
    'of drawn pairs: reverse, copy or sort letters | commands: as jump twice and walk left, with'
    ' the actions, all that there are',
  ),
  'data.examples': Field(
    10_000, fields.whole(3), 'drawn pairs of letters; the splits are cut from them, but longer ones'
  ),
  'data.length': Field(10, fields.whole(2, 1000), 'letters of drawn pairs, at most'),
  'data.longer': Field(
    False,
    fields.FLAG,
    'drawn pairs are tested on longer ones: up to twice as many letters, or commands of more than'
    f' {transductions.ACTIONS} actions',
  ),
  'data.path': Field(
    '',
    fields.PATH,
    'a folder with train.de, train.en ...; or what the names of two files share, europarl.de-en for'
    ' europarl.de-en.de and europarl.de-en.en; or a file with two columns separated by a tab',
  ),
  'data.languages': Field(
    '',
    Kind(
      _two,
      lambda: (
        "two endings of files, source and target, like 'de-en', or '' for a table; for"
        " homeassistant, a hyphen within one is written as _, like 'en-pt_BR'"
      ),
    ),
    "endings of the files, or languages of homeassistant, source and target, like 'de-en'",
  ),
  'data.test': Field(
    '', fields.TEXT, "which test files, such as 'test_2016_flickr'; '': the first by name"
  ),
  'data.unit_source': Field('auto', _UNIT, 'word | character | subword | auto: letters in cmudict'),
  'data.unit_target': Field('auto', _UNIT, 'word | character | subword | auto: word'),
  'data.words': Field(
    'auto',
    fields.choice(lambda: ('auto', *units.WORDS)),
    'what separates words: spaces | punctuation | auto: punctuation; spaces for cmudict and drawn',
  ),
  'data.lowercase': Field(False, fields.FLAG, 'both sides are read, and scored, in lower case'),
  'data.vocab_size': Field(
    10_000, fields.whole(pairs.FIRST + 1, why=': four ids are not words'), 'at most, on each side'
  ),
  'data.min_count': Field(1, fields.whole(1), 'least count in train of words in the vocabulary'),
  'data.shared_vocabulary': Field(False, fields.FLAG, 'both sides share one'),
  'data.max_len': Field(
    100, fields.whole(1), 'tokens of a side: longer pairs are left out of train only'
  ),
  'data.validation_fraction': Field(
    0.05, fields.SHARE, 'if there are no such files; 0: the test split is the validation split'
  ),
  'data.test_fraction': Field(0.1, fields.SHARE, 'if there are no such files'),
  'data.split_seed': Field(0, fields.whole(0, 2**63 - 1)),
  'data.max_examples': Field(0, fields.whole(0), 'in each split; 0: all'),
}


def settle(config: Any) -> dict[str, Any]:
  """Which source the data come from, for data.source='auto'."""
  return {'source': aligned.source(config)}
