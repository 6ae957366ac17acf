"""What tasks of token streams share: the fields of their data."""

from typing import Any

from rnnlab.data import corpora, corpus, units
from rnnlab.tasks import fields
from rnnlab.tasks.fields import Field

DATA = {
  'data.source': Field(
    'auto',
    fields.choice(lambda: ('auto', *corpora.SOURCES)),
    "auto: corpus if data.path is given, else package | corpus: data.path's text | package:"
    ' film reviews | tfds: the dataset of TFDS that data.path names',
  ),
  'data.path': Field(
    '', fields.PATH, 'a folder with train.txt, valid.txt and test.txt, or one file, to be split'
  ),
  'data.unit': Field(
    'word', fields.choice(lambda: units.UNITS), 'word | character | byte | subword'
  ),
  'data.words': Field(
    'auto',
    fields.choice(lambda: ('auto', *units.WORDS)),
    'what separates words: spaces | punctuation | auto: spaces; punctuation for package',
  ),
  'data.lowercase': Field(False, fields.FLAG, 'the text is read in lower case'),
  'data.vocab_size': Field(
    10_000, fields.whole(3, why=': <unk>, <eos> and a word'), 'at most; bytes always have 256'
  ),
  'data.min_count': Field(1, fields.whole(1), 'least count in train of words in the vocabulary'),
  'data.validation_fraction': Field(
    0.05, fields.SHARE, 'if there is no such file; 0: the test split is the validation split'
  ),
  'data.test_fraction': Field(0.05, fields.SHARE, 'if there is no such file'),
  'data.max_tokens': Field(0, fields.whole(0), 'the first of each split; 0: all'),
}


def settle(config: Any) -> dict[str, Any]:
  """Which source the data come from, for data.source='auto'."""
  return {'source': corpus.source(config)}
