"""Predictions for every kind of output: several classes, several labels, values."""

import json
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import rnnlab
from experiments import imdb
from rnnlab.data import batching, text
from rnnlab.predict import exported
from rnnlab.predict.answers import answers, as_json, as_tsv
from rnnlab.runs import configs
from rnnlab.tasks import sequences

WORDS = tuple(f'w{i}' for i in range(20))
NAMES = 'sport', 'politics', 'art'
TEXTS = ['w0 w3 w19', '', 'unheard w7', ' '.join(WORDS), 'w5 ' * 30]


def softmax(logits):
  powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
  return powers / powers.sum(axis=-1, keepdims=True)


def three(seed=0, **fields):
  """A model of three classes that was never trained, decided by large embeddings."""
  config = imdb.get_config('smoke')
  config.update_from_flattened_dict({'data.vocab_size': 24, 'data.max_len': 12} | fields)
  configs.check(config)
  model = sequences.model(config.model, sequences.Spec(24, config.data.mask, 1, False))
  model = model.clone(classes=3)
  params = model.init(jax.random.key(seed), jnp.zeros((1, 2), jnp.int32))['params']
  params['Embed_0']['embedding'] *= 10
  return rnnlab.Predictor(config, model, params, WORDS, {'classes': list(NAMES)})


def logits_of(predictor, texts):
  """By hand: the model on ids that are padded to max_len, all in one batch."""
  data = predictor.config.data
  ids = text.encode(texts, predictor.vocabulary)
  padded = batching.pad(ids, data.max_len, data.padding, data.truncation)
  return np.asarray(predictor.model.apply({'params': predictor.params}, padded), np.float64)


def test_several_classes_have_a_probability_each_and_the_likeliest_is_the_label():
  predictor = three()
  expected = softmax(logits_of(predictor, TEXTS))
  found = predictor.predict(TEXTS)
  assert predictor.classes == NAMES and found.shape == (5, 3) and found.dtype == np.float32
  assert_allclose(found, expected, atol=1e-6)
  table = predictor.answers(TEXTS)
  assert table['label'].tolist() == [NAMES[i] for i in expected.argmax(axis=1)]
  assert_allclose(table['probability'], expected.max(axis=1), atol=1e-6)
  for i, name in enumerate(NAMES):
    assert_allclose(table[f'probability_{name}'], expected[:, i], atol=1e-6)
  assert len({*table['label']}) > 1


def test_a_text_s_classes_have_the_same_bits_whatever_others_are_with_it():
  predictor = three(**{'data.max_len': 70})
  draw = np.random.default_rng(0)
  texts = [' '.join(draw.choice(WORDS, n)) for n in draw.integers(0, 90, 150)]
  together = predictor.predict(texts)
  assert_array_equal(predictor.predict(texts[::-1])[::-1], together)
  assert_array_equal([predictor.predict([words])[0] for words in texts[:9]], together[:9])


def test_an_ensemble_of_several_classes_is_the_mean_and_says_how_much_its_seeds_differ():
  members = tuple(three(seed) for seed in range(3))
  each = np.array([softmax(logits_of(member, TEXTS)) for member in members])
  ensemble = rnnlab.Ensemble(members)
  assert_allclose(ensemble.predict(TEXTS), each.mean(axis=0), atol=1e-6)
  mean = each.mean(axis=0)
  likeliest = mean.argmax(axis=1)
  for i, answer in enumerate(answers({'gru': ensemble}, TEXTS)):
    assert answer.columns['label'] == NAMES[likeliest[i]]
    assert answer.columns['probability'] == pytest.approx(mean[i].max(), abs=1e-6)
    assert answer.std == pytest.approx(each[:, i, likeliest[i]].std(ddof=1), abs=1e-6)
    assert answer.agree == (each[:, i].argmax(axis=1) == likeliest[i]).sum()
    row = json.loads(as_json(answer))
    assert row['probability'] == round(answer.columns['probability'], 6)
    assert as_tsv(answer).split('\t')[:2] == [row['label'], f'{row["probability"]:.6f}']
  other = members[0]._replace(encoding={'classes': ['x', 'y', 'z']})
  with pytest.raises(ValueError, match='different classes'):
    rnnlab.Ensemble((members[0], other)).predict(TEXTS)


@pytest.mark.parametrize('of', [None, *NAMES])
def test_a_word_s_weight_is_the_change_of_the_log_odds_of_the_class_asked_for(of):
  predictor = three()
  words = 'w0 w3 w19 w7 w5'
  asked = NAMES.index(of) if of else int(logits_of(predictor, [words])[0].argmax())

  def log_odds(word, scale):
    params = jax.tree.map(jnp.array, predictor.params)
    at = text.FIRST_WORD + WORDS.index(word)
    params['Embed_0']['embedding'] = params['Embed_0']['embedding'].at[at].multiply(scale)
    p = softmax(logits_of(predictor._replace(params=params), [words]))[0, asked]
    return np.log(p / (1 - p))

  found = predictor.explain(words, of)
  assert [word.text for word in found] == words.split()
  for word in found:
    quotient = (log_odds(word.text, 1.02) - log_odds(word.text, 0.98)) / 0.04
    assert word.weight == pytest.approx(quotient, abs=3e-4 + 0.01 * abs(quotient))
  assert max(abs(word.weight) for word in found) > 0.01


def test_of_two_classes_either_can_be_asked_for_and_an_unknown_one_is_said():
  predictor = three()
  model = predictor.model.clone(classes=1)
  params = model.init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))['params']
  two = predictor._replace(model=model, params=params, encoding={'classes': ['ham', 'spam']})
  spam = [word.weight for word in two.explain('w1 w2')]
  assert spam == [word.weight for word in two.explain('w1 w2', 'spam')]
  assert_allclose([word.weight for word in two.explain('w1 w2', 'ham')], np.negative(spam))
  assert {*two.answers(TEXTS)['label']} <= {'ham', 'spam'}
  with pytest.raises(ValueError, match="no 'spma' .did you mean 'spam'"):
    two.explain('w1', 'spma')


def test_an_exported_model_of_several_classes_gives_the_same(tmp_path, monkeypatch, capsys):
  ensemble = rnnlab.Ensemble((three(0), three(1)))
  path = tmp_path / 'model.zip'
  rnnlab.export(ensemble, path)
  found = exported.load(path)
  assert_allclose(found(TEXTS), ensemble.predict(TEXTS), atol=1e-6)
  assert found([]).shape == (0, 3)
  monkeypatch.setattr('sys.argv', [str(path), *TEXTS])
  runpy.run_path(str(path), run_name='__main__')
  rows = [line.split('\t') for line in capsys.readouterr().out.splitlines()]
  table = ensemble.answers(TEXTS)
  assert [row[0] for row in rows] == table['label'].tolist()
  assert_allclose([float(row[1]) for row in rows], table['probability'], atol=2e-6)
