"""Predictions for every kind of output: several classes, several labels, values."""

import json
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from predictors import (
  NAMES,
  TAGS,
  TEXTS,
  WORDS,
  logits_of,
  outputs_of,
  series,
  softmax,
  tagger,
  three,
)

import rnnlab
from rnnlab.data import text
from rnnlab.predict import exported
from rnnlab.predict import predictor as predicting
from rnnlab.predict.answers import answers, as_json, as_text, as_tsv


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
  params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))['params']
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


# Series, with a task of two values per row, in their unit.

DRAW = np.random.default_rng(0)
SERIES = [DRAW.normal(size=(steps, 2)).astype(np.float32) for steps in (3, 1, 40, 100, 7)]


def values_by_hand(predictor, xs):
  """The values for one series alone, without any padding."""
  inputs = {'xs': xs[None], 'lengths': np.array([len(xs)])}
  found = outputs_of(predictor, inputs)[0]
  return np.asarray(found, np.float64) * [2.0, 0.5] + [10.0, -1.0]


def test_values_of_series_are_in_their_unit_and_do_not_depend_on_the_others():
  predictor = series()
  found = predictor.predict(SERIES)
  assert_allclose(found, [values_by_hand(predictor, xs) for xs in SERIES], atol=1e-5)
  assert_array_equal(predictor.predict(SERIES[::-1])[::-1], found)
  assert_array_equal([predictor.predict([xs])[0] for xs in SERIES], found)
  table = predictor.answers(SERIES)
  assert list(table) == ['height', 'weight']
  assert_allclose(table.to_numpy(), found, rtol=1e-6)
  ensemble = rnnlab.Ensemble((predictor, series(1)))
  each = [predictor.predict(SERIES), series(1).predict(SERIES)]
  assert_allclose(ensemble.predict(SERIES), np.mean(each, axis=0), rtol=1e-6)
  for i, answer in enumerate(answers({'gru': ensemble}, SERIES)):
    assert_allclose(answer.std, np.std(each, axis=0, ddof=1)[i], rtol=1e-5)
    assert answer.agree is None and answer.words is None
    small = answer._replace(columns={'height': 3.21e-8, 'weight': 0.25})
    assert json.loads(as_json(small))['height'] == 3.21e-8
    assert as_tsv(small).split('\t')[:2] == ['3.21e-08', '0.25']
    small = np.array([3.21e-8, 0.25], np.float32)
    assert exported.line(small, 'values', ['height', 'weight']) == '3.21e-08\t0.25'
    assert_allclose(json.loads(as_json(answer))['height'], np.mean(each, axis=0)[i, 0], rtol=1e-6)


@pytest.mark.parametrize('of', ['height', 'weight'])
def test_a_step_s_weight_is_the_change_of_the_value_as_its_input_grows(of):
  predictor, xs = series(), SERIES[4]
  asked = predictor.classes.index(of)
  found = predictor.explain(xs, of)
  assert found.shape == xs.shape
  for step, channel in np.ndindex(*xs.shape):
    up, down = xs.copy(), xs.copy()
    up[step, channel] *= 1.02
    down[step, channel] *= 0.98
    change = values_by_hand(predictor, up)[asked] - values_by_hand(predictor, down)[asked]
    assert found[step, channel] == pytest.approx(change / 0.04, abs=1e-3)
  assert np.abs(found).max() > 0.01


def test_an_explanation_of_series_is_drawn_in_a_line_a_channel_and_listed_in_json():
  predictor = series()
  (answer,) = answers({'': rnnlab.Ensemble((predictor,))}, [SERIES[3]], explain=True)
  lines = as_text(answer, colours=False).plain.splitlines()
  assert as_text(answer, colours=True).plain.splitlines() == lines
  assert lines[0].endswith('row 1')
  weights = {of: predictor.explain(SERIES[3], of) for of in ('height', 'weight')}
  assert [line.strip() for line in lines if line.strip().endswith(':')] == ['height:', 'weight:']
  drawn = [line for line in lines if 'channel' in line]
  assert len(drawn) == 4 and all(len(line) < 100 for line in drawn)
  most = int(np.abs(weights['height'][:, 0]).argmax())
  assert f'most by step {most + 1}: {weights["height"][most, 0]:+.2f}' in drawn[0]
  row = json.loads(as_json(answer))
  assert_allclose(row['explained']['weight'], weights['weight'], atol=1e-6)


def test_a_task_s_own_answers_at_each_step_are_as_long_as_the_example():
  predictor = series(steps=True)
  found = predictor.predict(SERIES)
  table = predictor.answers(SERIES)
  for i, xs in enumerate(SERIES):
    expected = values_by_hand(predictor, xs)
    assert_allclose(found[i, : len(xs)], expected, atol=1e-5)
    assert_allclose(table['height'][i], expected[:, 0], atol=1e-5)
  cut = predictor.answers([np.concatenate([SERIES[3], SERIES[0]])])['height'][0]  # the last 100
  assert cut[:3] == [None] * 3 and len(cut) == 103 and None not in cut[3:]
  with pytest.raises(ValueError, match='at each step cannot be explained'):
    predictor.explain(SERIES[0])


def test_an_exported_model_of_series_gives_the_same_values(tmp_path, monkeypatch, capsys):
  mean, std = [3.0, -1.0], [2.0, 0.1]
  ensemble = rnnlab.Ensemble(tuple(series(seed, mean=mean, std=std) for seed in (0, 1)))
  path = tmp_path / 'model.zip'
  rnnlab.export(ensemble, path)
  found = exported.load(path)
  examples = [xs * std + mean for xs in SERIES * 30]  # 150: three batches
  expected = ensemble.predict(examples)
  assert_allclose(expected[:5], rnnlab.Ensemble((series(0), series(1))).predict(SERIES), atol=1e-5)
  assert_allclose(found(examples), expected, atol=1e-5)
  assert (found([]).shape, found.kind, found.names) == ((0, 2), 'values', ['height', 'weight'])
  for wrong in (np.ones((3, 5)), np.ones((0, 2)), np.full((3, 2), np.nan)):
    with pytest.raises(ValueError, match='position 1'):
      found([examples[0], wrong])
  lengths = np.array([len(xs) for xs in SERIES])
  np.savez(tmp_path / 'x.npz', x=np.concatenate(examples[:5]), lengths=lengths)
  monkeypatch.setattr('sys.argv', [str(path), str(tmp_path / 'x.npz')])
  runpy.run_path(str(path), run_name='__main__')
  rows = [line.split('\t') for line in capsys.readouterr().out.splitlines()]
  assert_allclose(np.array(rows, float), expected[:5], atol=1e-5)


def test_several_labels_have_a_probability_each(tmp_path):
  labels = [series(seed, kind='labels') for seed in range(2)]
  ensemble = rnnlab.Ensemble((labels[0], labels[1]))
  logits = [[(values_by_hand(of, xs) - [10, -1]) / [2, 0.5] for xs in SERIES] for of in labels]
  expected = (1 / (1 + np.exp(-np.array(logits)))).mean(axis=0)
  assert_allclose(ensemble.predict(SERIES), expected, atol=1e-6)
  assert ensemble.answers(SERIES)['labels'].tolist() == [
    [name for name, p in zip(('height', 'weight'), row, strict=True) if p > 0.5] for row in expected
  ]
  (answer,) = answers({'': ensemble}, SERIES[:1])
  assert answer.agree == sum(
    (np.array(of)[0] > 0).tolist() == (expected[0] > 0.5).tolist() for of in logits
  )
  rnnlab.export(ensemble, tmp_path / 'model.zip')
  found = exported.load(tmp_path / 'model.zip')
  assert_allclose(found(SERIES), expected, atol=1e-6)
  for given, line in (
    ([0.25, 0.75], 'weight\t0.250000\t0.750000'),
    ([0.75, 0.875], 'height, weight\t0.750000\t0.875000'),
    ([0.25, 0.125], '\t0.250000\t0.125000'),
  ):
    assert exported.line(np.array(given), found.kind, found.names) == line


def test_one_label_that_a_row_may_have_is_a_column_too(tmp_path):
  predictor = three()._replace(encoding={'classes': ['spam'], 'several': True})
  model = predictor.model.clone(classes=1)
  params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))['params']
  predictor = predictor._replace(model=model, params=params)
  expected = 1 / (1 + np.exp(-logits_of(predictor, TEXTS)))
  assert_allclose(predictor.predict(TEXTS), expected, atol=1e-6)
  assert_allclose(predictor.answers(TEXTS)['probability_spam'], expected, atol=1e-6)
  assert predictor.explain('w1 w2')[0].text == 'w1'
  rnnlab.export(predictor, tmp_path / 'model.zip')
  found = exported.load(tmp_path / 'model.zip')
  assert_allclose(found(TEXTS), expected, atol=1e-6)
  assert exported.line(found(['w1'])[0], found.kind, found.names).count('\t') == 1


def sentences(count=70):
  draw = np.random.default_rng(0)
  lengths = draw.choice([1, 2, 7, 16, 17, 25, 32, 39], count)  # a program is compiled for each
  return [[*draw.choice([*WORDS, 'unheard'], n)] for n in lengths]


def tags_by_hand(predictor, tokens):
  """The probabilities of the tags of one sentence alone, without any padding: `[T, C]`."""
  ids = [WORDS.index(t) + text.FIRST_WORD if t in WORDS else text.UNKNOWN for t in tokens]
  return softmax(outputs_of(predictor, np.array([ids]))[0])


@pytest.mark.parametrize('padding', ['post', pytest.param('pre', marks=pytest.mark.slow)])
def test_each_token_has_a_tag_whatever_other_sentences_there_are(padding):
  given = sentences()
  ensemble = rnnlab.Ensemble(tuple(tagger(seed, **{'data.padding': padding}) for seed in (0, 1)))
  table = ensemble.answers(given)
  for tokens, tags, probabilities in zip(given, table['tags'], table['probability'], strict=True):
    mean = np.mean([tags_by_hand(member, tokens) for member in ensemble.members], axis=0)
    assert tags == [TAGS[i] for i in mean.argmax(axis=1)]
    assert_allclose(probabilities, mean.max(axis=1), atol=1e-5)
  assert {tag for tags in table['tags'] for tag in tags} == {*TAGS}
  alone = [ensemble.members[0].answers([tokens])['probability'][0] for tokens in given[:5]]
  together = ensemble.members[0].answers(given)['probability'][:5]
  for one, same in zip(alone, together, strict=True):
    assert_array_equal(one, same)
  first, *_ = answers({'lstm': ensemble}, given)
  row = json.loads(as_json(first))
  assert (row['tags'], row['agree'] <= 2) == (table['tags'][0], True)
  assert as_tsv(first).split('\t')[0] == ' '.join(row['tags'])


@pytest.mark.parametrize('end', ['pre', 'post'])
def test_each_token_has_the_same_tag_where_its_sentence_is_read_in_a_shorter_chunk(
  end, monkeypatch
):
  monkeypatch.setattr(predicting, 'CHUNK', 2)
  model = tagger(**{'data.padding': end})
  given = [['w1', 'w2'], ['w7'], ['w3', 'w4', 'w5', 'w6', 'w8'], ['w1']]
  for tokens, tags in zip(given, model.answers(given)['tags'], strict=True):
    assert tags == [TAGS[i] for i in tags_by_hand(model, tokens).argmax(axis=1)]


@pytest.mark.parametrize('end', ['pre', 'post'])
def test_tokens_that_are_cut_off_have_no_tag(end):
  tokens = ['w1', 'w2', 'w3', 'w4', 'w5']
  fields = {'data.max_len': 3, 'data.truncation': end, 'data.padding': end}
  (tags,) = tagger(**fields).answers([tokens])['tags']
  seen = tokens[2:] if end == 'pre' else tokens[:3]
  expected = [TAGS[i] for i in tags_by_hand(tagger(**fields), seen).argmax(axis=1)]
  assert tags == ([None, None, *expected] if end == 'pre' else [*expected, None, None])
