"""Predictions of trained models for texts: from Python, the command line, and without rnnlab."""

import json
import os
import pty
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from exchanges import damaged, damages
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from programs import ROOT, reported_parameters, unseal

import rnnlab
from experiments import imdb
from rnnlab.data import sources, text
from rnnlab.machine import disk
from rnnlab.predict import exported
from rnnlab.predict.answers import Answer, as_text
from rnnlab.runs import configs
from rnnlab.runs import folder as run_files
from rnnlab.sweeps import executors, sweep
from rnnlab.tasks import sequences

WORDS = tuple(f'w{i}' for i in range(20))


def config_of(reviews=None, **fields):
  config = imdb.get_config('smoke')
  if reviews:
    config.data.update(source='directory', dir=str(reviews))
  config.train.epochs = 3
  config.update_from_flattened_dict(fields)
  return config


def made(seed=0, scale=10.0, **fields):
  """An untrained model, with embeddings large enough to make it decisive."""
  config = config_of(**{'data.vocab_size': 24, 'data.max_len': 12} | fields)
  configs.check(config)
  texts = sequences.Spec(config.data.vocab_size, config.data.mask, 1, False)
  model = sequences.model(config.model, texts)
  params = jax.jit(model.init)(jax.random.key(seed), jnp.zeros((1, 2), jnp.int32))['params']
  params['Embed_0']['embedding'] *= scale
  return rnnlab.Predictor(config, model, params, WORDS)


def label_of(probability):
  return 'positive' if probability > 0.5 else 'negative'


@pytest.fixture(scope='module')
def trained(reviews, tmp_path_factory):
  """A sweep's workdir: two seeds of GRU, one of LSTM, and one that has not ended."""
  workdir = tmp_path_factory.mktemp('trained')
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
    runs = sweep.expand(
      config_of(reviews),
      lambda add: [
        add({'model.cell': c, 'seed': s}) for c, s in (('gru', 0), ('gru', 1), ('lstm', 0))
      ],
    )
    kinds = [event.kind for event in executors.get('serial')(runs, workdir, lambda: False)]
    assert kinds.count('done') == 3
  begun = workdir / 'begun'
  begun.mkdir()
  shutil.copy(workdir / runs[0].id / 'config.json', begun)
  return workdir, [workdir / run.id for run in runs]


@pytest.fixture(scope='module')
def run_predict(environment, forks, tmp_path_factory):
  """Runs `python -m rnnlab.predict` to its end; its output is bytes.

  It is a fork, unless it needs another output or environment.
  """
  folder = tmp_path_factory.mktemp('elsewhere')

  def run(*words, stdin=b'', stdout=subprocess.PIPE, **env):
    if stdout == subprocess.PIPE and not env:
      return forks.run(words, folder, 'rnnlab.predict', stdin)
    return subprocess.run(
      [sys.executable, '-m', 'rnnlab.predict', *map(str, words)],
      input=stdin,
      stdout=stdout,
      stderr=subprocess.PIPE,
      cwd=folder,
      env=environment | {'PYTHONPATH': str(ROOT)} | env,
      timeout=120,
    )

  return run


def test_the_probabilities_are_those_that_the_run_has_reported(trained, reviews):
  _, folders = trained
  texts = sources.SOURCES['directory'].read(reviews)[1]['test'].texts
  for folder in folders:
    reported = np.load(folder / 'predictions.npz')['best']
    assert_allclose(rnnlab.load(folder).predict(texts), 1 / (1 + np.exp(-reported)), atol=1e-6)


def test_the_best_parameters_by_validation_are_kept_or_where_none_are_the_last(
  reviews, tmp_path, monkeypatch
):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  rates = {'optim.learning_rate': 0.3, 'train.epochs': 6}  # so that the last is not the best
  for fraction in (0.2, 0.0):
    config = config_of(reviews, **rates, **{'data.validation_fraction': fraction})
    result = rnnlab.run(config, tmp_path)
    kept = reported_parameters(tmp_path / result.result['id'])
    last, best = (
      {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in leaves}
      for leaves in map(jax.tree_util.tree_leaves_with_path, (result.params, result.best_params))
    )
    assert last != best
    assert kept == (best if fraction else last)


@pytest.mark.parametrize('mask', [True, False])
def test_a_text_has_the_same_bits_whatever_others_are_with_it(mask):
  predictor = made(**{'data.mask': mask, 'data.buckets': 1, 'data.max_len': 70})
  draw = np.random.default_rng(0)
  texts = [' '.join(draw.choice(WORDS, n)) for n in draw.integers(0, 90, 150)]
  together = predictor.predict(texts)
  assert_array_equal(predictor.predict(texts[::-1])[::-1], together)
  assert_array_equal([predictor.predict([words])[0] for words in texts[:9]], together[:9])
  assert len(set(together)) > 100
  assert predictor.predict([]).shape == (0,)


MODELS = {
  'lstm': {},
  'gru, long texts cut in front': {'model.cell': 'gru', 'data.max_len': 5},
  'cut behind, padded behind': {
    'data.max_len': 5,
    'data.truncation': 'post',
    'data.padding': 'post',
  },
  'both ways, two layers, unmasked': {
    'model.bidirectional': True,
    'model.layers': 2,
    'model.pooling': 'concat',
    'data.mask': False,
    'data.buckets': 1,
  },
  'gradients truncated in training': {'model.truncate': (2, 4), 'model.remat': True},
  'elman of 5 units': {'model.cell': 'elman', 'model.hidden_size': 5},
  'bfloat16': {'model.precision': 'bfloat16'},
}
TEXT = 'W0 w3, w19; w7... (unheard-of) w11 w5'  # of eight words, each once


# Rounded operands are too coarse for difference quotients.
@pytest.mark.parametrize('name', [name for name in MODELS if name != 'bfloat16'])
def test_the_weight_of_a_word_is_what_the_log_odds_change_by_as_its_embedding_grows(name):
  predictor = made(**MODELS[name])
  words = [word.text for word in predictor.explain(TEXT)]
  expected = ['w0', 'w3', 'w19', 'w7', 'unheard', 'of', 'w11', 'w5']
  if predictor.config.data.max_len == 5:
    behind = predictor.config.data.truncation == 'post'  # where the start is read too
    expected = expected[:4] if behind else expected[-5:]
  assert words == expected

  def log_odds(word, scale):
    params = jax.tree.map(jnp.array, predictor.params)
    at = text.FIRST_WORD + WORDS.index(word)
    table = params['Embed_0']['embedding']
    params['Embed_0']['embedding'] = table.at[at].multiply(scale)
    probability = predictor._replace(params=params).predict([TEXT])[0].astype(float)
    return np.log(probability / (1 - probability))

  weights = {word.text: word.weight for word in predictor.explain(TEXT) if word.known}
  assert weights.keys() == set(expected) & set(WORDS)
  for word, weight in weights.items():
    quotient = (log_odds(word, 1.02) - log_odds(word, 0.98)) / 0.04
    assert weight == pytest.approx(quotient, abs=3e-4 + 0.01 * abs(quotient))
  assert max(map(abs, weights.values())) > 0.01


@pytest.mark.parametrize('fields', MODELS.values(), ids=MODELS)
def test_an_exported_model_gives_the_same_probabilities(fields, tmp_path):
  predictor = made(**fields)
  texts = [TEXT, '', 'unheard', *(' '.join(WORDS[:n]) for n in range(12))] * 5  # 75: two batches
  rnnlab.export(predictor, tmp_path / 'model.zip')
  found = exported.load(tmp_path / 'model.zip')
  # With rounded operands, it matters on which side of a half a sum falls.
  atol = 5e-3 if fields.get('model.precision') == 'bfloat16' else 1e-6
  assert_allclose(found(texts), predictor.predict(texts), atol=atol)
  assert found([]).shape == (0,)


def test_an_ensemble_is_the_mean_of_its_members_and_its_export_too(tmp_path):
  members = tuple(made(seed) for seed in range(3))
  ensemble = rnnlab.Ensemble(members)
  each = np.array([member.predict([TEXT, 'w1']) for member in members])
  assert_array_equal(ensemble.each([TEXT, 'w1']), each)
  assert_allclose(ensemble.predict([TEXT, 'w1']), each.mean(axis=0), rtol=1e-6)
  weights = [[word.weight for word in member.explain(TEXT)] for member in members]
  found = [word.weight for word in ensemble.explain(TEXT)]
  assert_allclose(found, np.mean(weights, axis=0), rtol=1e-6)
  rnnlab.export(ensemble, tmp_path / 'model.zip')
  assert_allclose(exported.load(tmp_path / 'model.zip')([TEXT, 'w1']), each.mean(axis=0), atol=1e-6)
  other = members[0]._replace(vocabulary=WORDS[::-1])
  with pytest.raises(ValueError, match='different vocabularies'):
    rnnlab.export(rnnlab.Ensemble((*members, other)), tmp_path / 'model.zip')
  other = made(3, **{'data.truncation': 'post'})
  with pytest.raises(ValueError, match='differ in max_len, padding, truncation, mask'):
    rnnlab.export(rnnlab.Ensemble((*members, other)), tmp_path / 'model.zip')


def test_a_text_for_a_list_of_texts_is_a_mistake_that_is_said():
  with pytest.raises(TypeError, match='list of texts'):
    made().predict('w1 w2')


@pytest.fixture(scope='module')
def zipped(tmp_path_factory):
  """A model, and the zip to which it was exported."""
  predictor, path = made(), tmp_path_factory.mktemp('zipped') / 'model.zip'
  rnnlab.export(predictor, path)
  return predictor, path


def test_which_text_is_none_is_said_and_a_table_is_none(zipped):
  predictor, path = zipped
  asked = predictor.predict, rnnlab.Ensemble((predictor,)).each, exported.load(path)
  for predict_ in asked:
    for texts, says in (
      (pd.DataFrame({'text': ['w1'], 'label': [1]}), 'one column of a table, not a DataFrame'),
      (pd.Series(['w1', None], index=[7, 8], dtype=object), 'position 1, counted from 0, is None'),
      (['w1', b'w1'], "position 1, counted from 0, is b'w1', of type bytes"),
      (iter(['w1', 'w2', float('nan')]), 'position 2, counted from 0, is nan'),
      ('w1', 'not one text'),
    ):
      with pytest.raises(TypeError, match=says):
        predict_(texts)
    expected = predict_(['w1', 'w2 w3'])
    for texts in (iter(('w1', 'w2 w3')), np.array(['w1', 'w2 w3']), pd.Series(['w1', 'w2 w3'])):
      assert_array_equal(predict_(texts), expected)
  with pytest.raises(TypeError, match='of type list'):
    predictor.explain(['w1'])


def test_members_of_different_vocabularies_read_all_of_a_generator(zipped):
  one, _ = zipped
  other = one._replace(vocabulary=WORDS[::-1])
  texts = ['w1 w2', 'w3']
  found = rnnlab.Ensemble((one, other)).each(iter(texts))
  assert_array_equal(found, [one.predict(texts), other.predict(texts)])


def test_a_model_of_several_classes_is_refused_in_words(tmp_path):
  one = made()
  model = one.model.clone(classes=3)
  params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))['params']
  predictor = one._replace(model=model, params=params)
  for ask in (
    lambda: predictor.predict(['w1']),
    lambda: predictor.explain('w1'),
    lambda: rnnlab.export(predictor, tmp_path / 'model.zip'),
  ):
    with pytest.raises(ValueError, match='the model has 3 classes'):
      ask()
  assert not list(tmp_path.iterdir())


def test_an_ensemble_of_none_is_refused_in_words():
  with pytest.raises(ValueError, match='at least one member'):
    rnnlab.Ensemble(()).predict(['w1'])


def test_markup_in_a_text_or_a_setting_is_text():
  columns = {'label': 'positive', 'probability': 0.9}
  answer = Answer(
    1, '[red]good[/x]', '[bold]', columns, 'probability', 1, None, 1, 1, 1, explained=None
  )
  assert as_text(answer, True).plain == 'positive  0.900, [bold]  [red]good[/x]'


def test_words_without_an_embedding_are_refused_in_words():
  predictor = made()
  predictor = predictor._replace(vocabulary=(*WORDS, 'one', 'more'))
  with pytest.raises(ValueError, match='22 words has ids below 26, but .* embedding of 24'):
    predictor.predict(['more'])


def test_parameters_may_be_numpy_arrays(zipped, tmp_path):
  predictor, path = zipped
  plain = predictor._replace(params=jax.tree.map(np.asarray, predictor.params))
  assert_array_equal(plain.predict([TEXT]), predictor.predict([TEXT]))
  assert plain.explain(TEXT) == predictor.explain(TEXT)
  rnnlab.export(plain, tmp_path / 'model.zip')
  assert_array_equal(exported.load(tmp_path / 'model.zip')([TEXT]), exported.load(path)([TEXT]))


def test_a_model_that_has_diverged_has_no_answer():
  predictor = made()
  params = jax.tree.map(jnp.array, predictor.params)
  params['Dense_0']['bias'] = params['Dense_0']['bias'] + jnp.nan
  ensemble = rnnlab.Ensemble((predictor, predictor._replace(params=params)))
  with pytest.raises(ValueError, match='lstm, seed 0, answers NaN'):
    ensemble.predict(['w1'])


@settings(max_examples=60, deadline=None)
@given(damage=damages)
def test_a_damaged_zip_is_said_to_be_or_answers_right(zipped, damage, tmp_path_factory):
  predictor, path = zipped
  other = tmp_path_factory.getbasetemp() / 'damaged.zip'
  other.write_bytes(damaged(path.read_bytes(), damage))
  try:
    found = exported.load(other)
  except ValueError as error:
    assert f'{other} is damaged, or no exported model' in str(error)
  else:
    assert_allclose(found([TEXT]), predictor.predict([TEXT]), atol=1e-6)


def test_a_sweep_is_an_ensemble_for_each_setting(trained, caplog):
  workdir, folders = trained
  found = rnnlab.load_ensembles(workdir)
  assert list(found) == ['gru', 'lstm']
  assert [len(ensemble.members) for ensemble in found.values()] == [2, 1]
  expected = [rnnlab.load(folder).predict(['good']) for folder in folders]
  assert_array_equal(found['gru'].each(['good']), expected[:2])
  assert_array_equal(found['lstm'].each(['good']), expected[2:])
  assert '1 of 4 runs have not ended' in caplog.text


def test_a_run_that_is_there_twice_is_one_member(trained, tmp_path, caplog):
  workdir, folders = trained
  shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
  shutil.copytree(folders[0], tmp_path / 'z_again')
  assert len(rnnlab.load_ensembles(tmp_path)['gru'].members) == 2
  assert 'z_again has the config of another run' in caplog.text


def test_settings_are_named_by_what_differs_and_trials_of_a_search_take_no_part(trained, tmp_path):
  _, (gru, *_) = trained
  runs = []
  for name, rate, stage in (('a', 0.1, ''), ('b', 0.1, ''), ('c', 0.2, ''), ('d', 0.1, 'search')):
    shutil.copytree(gru, tmp_path / name)
    unseal(tmp_path / name)
    config = json.loads((gru / 'config.json').read_text())
    config['model']['output_dropout'], config['seed'] = rate, len(runs)
    disk.write_json(tmp_path / name / 'config.json', config)
    runs.append({'id': name, 'stage': stage})
  disk.write_json(tmp_path / 'sweep.json', {'runs': runs})
  sizes = {name: len(of.members) for name, of in rnnlab.load_ensembles(tmp_path).items()}
  assert sizes == {'gru output_dropout=0.1': 2, 'gru output_dropout=0.2': 1}


def changed(tmp_path, folder, name, content):
  copy = tmp_path / 'copy'
  shutil.copytree(folder, copy)
  unseal(copy)
  (copy / name).unlink()
  if content is not None:
    (copy / name).write_bytes(content)
  return copy


DAMAGED = {
  'not ended': ('result.json', None, 'has not ended'),
  'older version': (run_files.PARAMS, None, 'Delete its result.json'),
  'no words': (run_files.VOCABULARY, None, 'has no vocabulary.txt'),
  'damaged parameters': (run_files.PARAMS, b'\x08\0\0\0\0\0\0\0{', 'is damaged'),
  'another config': ('config.json', b'{"model": {}}', 'another version'),
}


@pytest.mark.parametrize('name, content, words', DAMAGED.values(), ids=DAMAGED)
def test_a_run_that_cannot_be_used_is_said(name, content, words, trained, tmp_path):
  _, (folder, *_) = trained
  with pytest.raises(ValueError, match=words):
    rnnlab.load(changed(tmp_path, folder, name, content))


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
  damage=damages,
  name=st.sampled_from(['config.json', 'result.json', run_files.PARAMS, run_files.VOCABULARY]),
)
def test_a_damaged_run_is_refused_in_words_or_is_as_it_was(trained, damage, name, tmp_path_factory):
  _, (folder, *_) = trained
  whole = rnnlab.load(folder)
  copy = tmp_path_factory.getbasetemp() / 'damaged-run'
  shutil.copytree(folder, copy, dirs_exist_ok=True)
  (copy / name).write_bytes(damaged((folder / name).read_bytes(), damage))
  try:
    found = rnnlab.load(copy)
  except ValueError as error:
    assert str(copy) in str(error) and len(str(error)) < 1000
  else:
    assert found.config == whole.config and found.vocabulary == whole.vocabulary
    assert_array_equal(found.predict(['good bad']), whole.predict(['good bad']))
  finally:
    shutil.rmtree(copy)


def test_a_damaged_run_of_before_digests_is_refused_in_words(trained, tmp_path):
  _, (folder, *_) = trained
  config = json.loads((folder / 'config.json').read_text())

  def told(part, **fields):
    return json.dumps(config | {part: config[part] | fields}).encode()

  for i, (name, content, says) in enumerate(
    [
      ('config.json', told('model', hidden_size=17), 'fit the model.*Dense_0.kernel is of shape'),
      ('config.json', told('model', layers=2), 'Recurrent_1/cell/b is absent'),
      ('config.json', told('model', hidden_size='x'), 'config.json is damaged'),
      ('config.json', told('model', truncate=5), 'config.json is damaged'),
      ('config.json', told('model', cell='ltsm'), 'config.json is damaged'),
      ('config.json', told('data', max_len=-1), 'config.json is damaged.*max_len'),
      ('config.json', json.dumps({'model': 3, 'data': 4}).encode(), 'config.json is damaged'),
      (run_files.VOCABULARY, b'good\nbad', 'is not the list of words'),
      (run_files.VOCABULARY, b'good\nbad\ngood\n', 'is not the list of words'),
      (run_files.VOCABULARY, b'caf\xe9\n', 'is not the list of words'),
      (
        run_files.VOCABULARY,
        b''.join(b'%d\n' % i for i in range(9999)),
        'is not the list of words',
      ),
    ]
  ):
    copy = changed(tmp_path / str(i), folder, name, content)
    with pytest.raises(ValueError, match=f'(?s){says}'):
      rnnlab.load(copy)


def test_a_folder_that_is_none_of_a_run_is_said(trained, tmp_path):
  workdir, (folder, *_) = trained
  for load in (rnnlab.load, rnnlab.load_ensembles):
    with pytest.raises(FileNotFoundError, match='nowhere: no such folder'):
      load(tmp_path / 'nowhere')
    with pytest.raises(ValueError, match='not the folder of a run or a sweep'):
      load(tmp_path)
  with pytest.raises(ValueError, match='is a sweep'):
    rnnlab.load(workdir)
  with pytest.raises(ValueError, match='is a run, not a sweep'):
    rnnlab.load_ensembles(folder)


@pytest.mark.slow
def test_each_line_of_standard_input_has_a_line_whatever_it_holds(
  trained, run_predict, environment, tmp_path
):
  _, (folder, *_) = trained
  lines = [
    b'\xef\xbb\xbfgood fine good',  # a byte order mark
    b'bad\r',  # a line's end, of Windows
    b'',
    b'xyzzy plugh',
    b'good ' * 100_000,
    b'good \xff\xfe fine',
    b'good\tfine',
    b'fine',  # and no line's end
  ]
  done = run_predict(folder, stdin=b'\n'.join(lines))
  said = done.stderr.decode()
  assert done.returncode == 0, said
  rows = [line.split('\t') for line in done.stdout.decode().splitlines()]
  plain = ['good fine good', 'bad', '', 'xyzzy plugh', 'good ' * 60, 'good ? fine', 'good fine']
  expected = rnnlab.load(folder).predict([*plain[:5], 'good xyzzy fine', *plain[6:], 'fine'])
  assert_allclose([float(row[1]) for row in rows], expected, atol=2e-6)
  assert [row[0] for row in rows] == [label_of(p) for p in expected]
  assert {row[0] for row in rows} == {'positive', 'negative'}
  assert '1 of 8, text 3: no words' in said
  assert '1 of 8, text 4: no word that the model knows' in said
  assert '1 of 8, text 6: not UTF-8' in said
  assert len(said.splitlines()) == 3

  exported_ = tmp_path / 'model.zip'
  rnnlab.export(rnnlab.load(folder), exported_)
  alone = subprocess.run(
    [sys.executable, exported_],
    input=b'\n'.join(lines),
    capture_output=True,
    cwd=tmp_path,
    env=environment,
    timeout=120,
  )
  assert alone.returncode == 0, alone.stderr
  others = [line.split('\t') for line in alone.stdout.decode().splitlines()]
  assert [row[0] for row in others] == [row[0] for row in rows]
  assert_allclose([float(row[1]) for row in others], expected, atol=2e-6)

  done = run_predict(folder)
  assert (done.returncode, done.stdout) == (0, b'')
  assert b'no texts: standard input was empty' in done.stderr


@pytest.mark.slow
def test_nothing_of_the_environment_stops_or_changes_an_answer(trained, run_predict, tmp_path):
  _, (folder, *_) = trained
  texts = ['good 好 naïve 😀 \x85', '[red]bad[/x]']
  words = folder, '--json', '--explain', f'--export={tmp_path}/model.zip', *texts
  environment = {'JAX_ENABLE_X64': '1', 'JAX_DEBUG_NANS': '1'}
  done = run_predict(*words, LC_ALL='C', PYTHONIOENCODING='ascii', **environment)
  assert done.returncode == 0, done.stderr
  rows = [json.loads(line) for line in done.stdout.decode('ascii').splitlines()]
  predictor = rnnlab.load(folder)
  assert_allclose([row['probability'] for row in rows], predictor.predict(texts), atol=2e-6)
  for row, words in zip(rows, texts, strict=True):
    assert [word for word, *_ in row['explained']] == text.tokenize(words)
  found = exported.load(tmp_path / 'model.zip')
  assert_allclose(found(texts), predictor.predict(texts), atol=1e-6)


@pytest.mark.slow
def test_a_closed_or_broken_stream_ends_it_without_a_traceback(
  trained, zipped, environment, tmp_path
):
  _, (folder, *_) = trained
  ours = f'{sys.executable} -m rnnlab.predict {folder}'
  (tmp_path / 'texts').write_text('good\n' * 20_000)
  for command, status, says in (
    (f'{ours} good >&-', 2, 'standard output is closed'),
    (f'{ours} <&-', 2, 'standard input is closed'),
    (f'{ours} good > /dev/full', 2, 'disk is full'),
    (f'{ours} < texts | head -1', 0, ''),
    (f'{sys.executable} {zipped[1]} < texts | head -1', 0, ''),
  ):
    done = subprocess.run(
      ['bash', '-o', 'pipefail', '-c', command],
      capture_output=True,
      text=True,
      cwd=tmp_path,
      env=environment | {'PYTHONPATH': str(ROOT)},
      timeout=300,
    )
    assert (done.returncode, says in done.stderr) == (status, True), done.stderr
    assert 'Traceback' not in done.stderr and 'Exception' not in done.stderr


def test_a_sweep_says_of_each_text_what_each_setting_s_seeds_say(trained, run_predict):
  workdir, folders = trained
  texts = ['good fine', 'dull, <b>bad</b>']
  done = run_predict(workdir, '--json', '--explain', *texts)
  assert done.returncode == 0, done.stderr
  assert done.stderr.decode().strip() == 'warning: 1 of 4 runs have not ended'
  rows = [json.loads(line) for line in done.stdout.splitlines()]
  assert [(row['number'], row['setting']) for row in rows] == [
    (1, 'gru'),
    (1, 'lstm'),
    (2, 'gru'),
    (2, 'lstm'),
  ]
  first, second, other = (rnnlab.load(folder) for folder in folders)
  for i, words in enumerate(texts):
    of_gru, of_lstm = rows[2 * i : 2 * i + 2]
    each = [float(member.predict([words])[0]) for member in (first, second)]
    assert of_gru['probability'] == pytest.approx(np.mean(each), abs=2e-6)
    assert of_gru['std'] == pytest.approx(np.std(each, ddof=1), abs=2e-6)
    assert of_gru['agree'] == sum((p > 0.5) == (np.mean(each) > 0.5) for p in each)
    assert (of_gru['seeds'], of_lstm['seeds'], of_lstm['std']) == (2, 1, None)
    assert of_lstm['probability'] == pytest.approx(other.predict([words])[0], abs=2e-6)
    for (word, weight, known), same in zip(of_lstm['explained'], other.explain(words), strict=True):
      assert (word, known) == (same.text, same.known)
      assert weight == pytest.approx(same.weight, abs=1e-5)
  assert [word for word, *_ in rows[2]['explained']] == ['dull', 'b', 'bad', 'b']
  assert (rows[2]['words'], rows[2]['known']) == (4, 2)

  done = run_predict(workdir, '--setting=gru', texts[0])
  label, probability, std, agree, setting = done.stdout.decode().rstrip('\n').split('\t')
  assert (label, setting) == (rows[0]['label'], 'gru')
  assert agree == f'{rows[0]["agree"]}/2'
  assert float(probability) == rows[0]['probability']
  assert float(std) == pytest.approx(rows[0]['std'], abs=1e-6)


@pytest.mark.slow
def test_in_a_terminal_words_are_coloured_and_where_colours_are_unwanted_have_numbers(
  trained, run_predict
):
  _, (folder, *_) = trained
  said = []
  for env in ({'TERM': 'xterm'}, {'TERM': 'xterm', 'NO_COLOR': '1'}):
    ours, theirs = pty.openpty()
    done = run_predict(folder, '--explain', 'good bad\x1b[2J', stdout=theirs, **env)
    os.close(theirs)
    assert done.returncode == 0, done.stderr
    said.append(os.read(ours, 10_000).decode())
    os.close(ours)
  coloured, plain = said
  assert '\x1b[1;32mgood' in coloured or '\x1b[32mgood' in coloured
  assert '(+' not in coloured
  assert '\x1b[32m' not in plain and '31m' not in plain
  assert 'good(+' in plain
  for of in said:
    assert '\x1b[2J' not in of  # what a text holds does nothing to the terminal


def test_a_mistake_is_a_line_and_exit_status_2(trained, run_predict, tmp_path):
  workdir, _ = trained
  for words, expected in (
    ([tmp_path / 'nowhere', 'good'], 'nowhere: no such folder'),
    ([workdir, '--setting=gur', 'good'], "--setting=gur (did you mean 'gru'?)"),
    ([workdir, f'--export={tmp_path}/model.zip'], '--export takes one setting: give --setting'),
    ([workdir, '--out=x.csv', 'good'], '--out needs --input'),
    ([workdir, '--input=x.csv', 'good'], 'give texts or --input, not both'),
    ([workdir, '--setting=gru', f'--input={tmp_path}/no.csv'], 'no.csv'),
  ):
    done = run_predict(*words)
    assert done.returncode == 2 and not done.stdout
    assert expected in done.stderr.decode() and 'Traceback' not in done.stderr.decode()
  assert not list(tmp_path.iterdir())


def test_a_file_is_answered_line_by_line_or_written_again_with_the_answers(
  trained, run_predict, tmp_path
):
  workdir, folders = trained
  source, out = tmp_path / 'in.csv', tmp_path / 'out.csv'
  texts = ['good, fine', 'bad', 'dull\n"bad"']
  pd.DataFrame({'review': texts, 'stars': [5, 1, 2]}).to_csv(source, index=False)
  members = [rnnlab.load(folder) for folder in folders[:2]]
  each = np.array([member.predict(texts) for member in members])

  done = run_predict(folders[0], f'--input={source}', '--column=review')
  assert done.returncode == 0, done.stderr
  rows = [line.split('\t') for line in done.stdout.decode().splitlines()]
  assert [row[0] for row in rows] == [label_of(p) for p in each[0]]
  assert_allclose([float(row[1]) for row in rows], each[0], atol=2e-6)

  of_sweep = f'--input={source}', f'--out={out}', '--setting=gru'
  done = run_predict(workdir, *of_sweep, '--column=review')
  assert done.returncode == 0 and not done.stdout, done.stderr
  assert f'wrote {out}: 3 rows' in done.stderr.decode()
  found = pd.read_csv(out)
  assert found['review'].tolist() == texts and found['stars'].tolist() == [5, 1, 2]
  assert found['predicted_label'].tolist() == [label_of(p) for p in each.mean(axis=0)]
  assert_allclose(found['predicted_probability_positive'], each.mean(axis=0), rtol=1e-5)
  assert_allclose(found['predicted_std'], each.std(axis=0, ddof=1), atol=1e-6)
  agree = ((each > 0.5) == (each.mean(axis=0) > 0.5)).sum(axis=0)
  assert found['predicted_agree'].tolist() == agree.tolist()

  out.unlink()
  done = run_predict(workdir, *of_sweep)
  assert done.returncode == 2 and not out.exists()
  assert b"there is no column 'text', but review, stars" in done.stderr


ALONE = """
import json, runpy, sys

class Absent:
  def find_spec(self, name, *_):
    if name.partition('.')[0] in ('rnnlab', 'flax', 'numba', 'orbax', 'ml_collections'):
      raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
predict = runpy.run_path('model.zip')['load']('model.zip')
json.dump([float(p) for p in predict(json.load(sys.stdin))], sys.stdout)
"""


@pytest.mark.slow
def test_an_exported_model_works_where_rnnlab_is_not(trained, run_predict, environment, tmp_path):
  workdir, _ = trained
  done = run_predict(workdir, '--setting=gru', f'--export={tmp_path}/model.zip')
  assert done.returncode == 0, done.stderr
  texts = ['good fine', '', 'dull xyzzy', 'bad ' * 1000]
  expected = rnnlab.load_ensembles(workdir)['gru'].predict(texts)

  def alone(*words, stdin):
    return subprocess.run(
      [sys.executable, *words],
      input=stdin,
      capture_output=True,
      text=True,
      cwd=tmp_path,
      env=environment,
      check=True,
      timeout=120,
    ).stdout

  assert_allclose(json.loads(alone('-c', ALONE, stdin=json.dumps(texts))), expected, atol=1e-6)
  rows = [line.split('\t') for line in alone('model.zip', stdin='\n'.join(texts)).splitlines()]
  assert [row[0] for row in rows] == [label_of(p) for p in expected]
  assert_allclose([float(row[1]) for row in rows], expected, atol=2e-6)
