"""The figures of a report on translations, against counts by hand."""

import importlib.util
import json

import numpy as np
import pytest

from rnnlab.data import pairs
from rnnlab.tasks import bleu, edits, translation_panels

RIGHT = ['a b', 'a b c d', 'e f g h i j', 'k l m n o p q r s t u v']
SAID = [
  ['a b', 'a x c d', 'e f g h i j', 'nothing'],
  ['a b', 'a b c d', 'e f g', 'k l m n o p q r s t u w'],
]
SIDE = {'unit': 'word', 'words': 'spaces', 'lowercase': False}
ENCODING = {name: SIDE | {'vocabulary': [*pairs.SPECIAL, *'abcd']} for name in pairs.SIDES}


def run_of(said, scored=False):
  references = [[text] for text in RIGHT]
  found = {
    'translations': pairs.as_bytes(said),
    'sources': pairs.as_bytes([text.upper() for text in RIGHT]),
    'references': pairs.as_bytes(RIGHT)[:, None],
    'source_lengths': np.array([len(text.split()) for text in RIGHT]),
    'edit_statistics': edits.statistics(said, references),
    'pictured': np.array([1, 2]),
    'pictured_source': np.array([[4, 5, 2], [6, 2, 0]]),
    'pictured_target': np.array([[7, 2], [3, 2]]),
    'attention': np.array([[[1, 0, 0], [0, 0.5, 0.5]], [[0.75, 0.25, 0], [0, 1, 0]]]),
  }
  return found | ({'bleu_statistics': bleu.statistics(said, references)} if scored else {})


def test_scores_are_those_of_sentences_of_a_length():
  curve, *_ = translation_panels.panels([run_of(said) for said in SAID], ENCODING)
  wide = 2  # 12 words in ten classes
  shares = [[0, 25, 0, 100], [0, 0, 50, 100 / 12]]
  np.testing.assert_allclose(curve.data['y'], np.mean(shares, axis=0))
  np.testing.assert_allclose(curve.data['low'], np.min(shares, axis=0))
  np.testing.assert_allclose(curve.data['high'], np.max(shares, axis=0))
  assert curve.data['ticks'] == [f'{n - wide + 1}–{n}' for n in (2, 4, 6, 12)]
  assert curve.data['counts'].tolist() == [1, 1, 1, 1] and 'Lower is better' in curve.caption


def test_few_long_sentences_are_in_the_class_before_them():
  lengths = [*range(1, 21)] * 15 + [40]
  wrong = [length % 2 for length in lengths]
  run = {
    'source_lengths': np.array(lengths),
    'edit_statistics': np.array([[w, n, w, 1] for w, n in zip(wrong, lengths, strict=True)]),
  }
  curve = translation_panels._by_length([run], ENCODING)
  assert curve.data['ticks'][-2:] == ['17–18', '19–40']
  assert curve.data['counts'].tolist() == [30] * 9 + [31]
  np.testing.assert_allclose(curve.data['y'][-1], 100 * 15 / (15 * (19 + 20) + 40))


@pytest.mark.skipif(not importlib.util.find_spec('sacrebleu'), reason='needs sacreBLEU')
def test_where_bleu_is_known_it_is_bleu():
  runs = [run_of(said, scored=True) for said in SAID]
  runs[0]['bleu_signature'] = pairs.as_bytes([bleu.signature([[text] for text in RIGHT])])
  curve, *_ = translation_panels.panels(runs, ENCODING)
  right = [bleu.score(run['bleu_statistics'][3]) for run in runs]
  np.testing.assert_allclose(curve.data['y'][3], np.mean(right))
  assert curve.title == 'BLEU by length' and ' sacreBLEU: nrefs:1|case:mixed|' in curve.caption


def test_attention_is_cut_to_the_tokens_that_there_are():
  runs = [run_of(said) for said in SAID]
  _, attention, _ = translation_panels.panels(runs, ENCODING)
  long, short = attention.data['each']
  assert (long['source'], long['target']) == (['a', 'b', '<eos>'], ['d', '<eos>'])
  assert (short['source'], short['target']) == (['c', '<eos>'], ['<unk>', '<eos>'])
  np.testing.assert_array_equal(short['weights'], [[0.75, 0.25], [0, 1]])
  del runs[0]['attention']
  assert [of.kind for of in translation_panels.panels(runs, ENCODING)] == ['curve', 'tokens']


def test_sentences_are_the_same_ones_the_best_and_the_worst(monkeypatch):
  monkeypatch.setattr(translation_panels, 'TOLD', 1)
  *_, told = translation_panels.panels([run_of(said) for said in SAID], ENCODING)
  parts = told.data['text'].split('\n\n')
  assert [part for part in parts if part.endswith(':')] == [
    'The same for all settings:', 'Best:', 'Worst:',
  ]  # fmt: skip
  assert parts[1] == (
    '  source  A B C D\n  right   a b c d\n  says    a x c d\n  wrong   12% of 4 tokens'
  )
  assert parts[4] == '  source  A B\n  right   a b\n  says    a b\n  wrong   0% of 2 tokens'
  assert parts[6].startswith('  source  K L') and '54% of 12 tokens' in parts[6]
  json.dumps(told.data)
