"""Text from language models: against frequencies, brute force, plain loops; without rnnlab."""

import csv
import functools
import itertools
import json
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import predictors
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from programs import COLOURS

import rnnlab
from rnnlab import cells, models, tasks
from rnnlab.console import progress
from rnnlab.data import corpus
from rnnlab.predict import __main__ as main
from rnnlab.predict import adapting, exported_text, generate, language, sampling, saying, scoring
from rnnlab.predict.predictor import Predictor
from rnnlab.predict.sampling import Sampling
from rnnlab.runs import configs
from rnnlab.runs import folder as run_files

WORDS = '<eos>', 'the', 'cat', 'a', 'dog', '<unk>', 'saw', '.'
END, UNKNOWN = 0, 5
OF_WORDS = {'unit': 'word', 'words': 'punctuation', 'lowercase': True, 'end': 0, 'unknown': 5}
BYTES = tuple(f'{byte:02x}' for byte in range(256))
OF_BYTES = {'unit': 'byte', 'lowercase': False, 'end': 10, 'unknown': None}
LETTERS = '<eos>', '<unk>', *'abcdé €'
OF_LETTERS = {'unit': 'character', 'lowercase': False, 'end': 0, 'unknown': 1}


def member(seed=0, vocabulary=WORDS, encoding=OF_WORDS):
  """An untrained language model with parameters that make it decisive."""
  config = configs.default('language_model')
  layers = cells.get('lstm', hidden_size=6), cells.get('gru', hidden_size=5)
  model = models.LanguageModel(layers, len(vocabulary), embed_size=5, init_scale=1.0)
  zeros = jnp.zeros((1, 1), jnp.int32)
  batch = {'inputs': zeros, 'targets': zeros, 'weights': jnp.ones((1, 1))}
  params = jax.jit(model.init)(jax.random.key(seed), batch)['params']
  params['embedding'], params['output'] = 4 * params['embedding'], 4 * params['output']
  params['output_bias'] *= 0
  return Predictor(config, model, params, vocabulary, encoding)


@pytest.fixture(scope='module')
def model():
  return language.text_model([member(3)])


@pytest.fixture(scope='module')
def three():
  return language.text_model([member(seed) for seed in (3, 4, 5)])


def said_of(model, ids):
  """By hand: log-probabilities of the token after the end of a line and these ids."""
  read = np.zeros((1, 32), np.int32)  # what comes after these changes nothing
  read[0, 1 : len(ids) + 1] = ids
  each = [logits(one.model, one.params, read)[0, len(ids)] for one in model.members]
  each = np.asarray(jax.nn.log_softmax(jnp.stack(each)), np.float64)
  return np.log(np.mean(np.exp(each), axis=0))


@functools.partial(jax.jit, static_argnums=0)
def logits(model, params, ids):
  return model.apply({'params': params}, ids, method='logits')[0]


def text_of(ids):
  return corpus.decode(ids, OF_WORDS, WORDS)


# Drawing a token


def smallest(p, top_p):
  """The fewest tokens whose probabilities sum to top_p, by trying all sets, the likeliest first."""
  for size in range(1, len(p) + 1):
    best = max(itertools.combinations(range(len(p)), size), key=lambda ids: sum(p[[*ids]]))
    if sum(p[[*best]]) >= top_p:
      return best


@pytest.mark.parametrize('temperature', [0.5, 1.0, 3.0])
@pytest.mark.parametrize(('top_k', 'top_p'), [(0, 1), (3, 1), (0, 0.75), (4, 0.75), (99, 0.05)])
def test_tokens_are_drawn_as_often_as_they_should_be(temperature, top_k, top_p):
  logits = np.array([0.3, 1.1, -2.0, 0.9, 2.0, -0.5])
  p = np.exp(logits / temperature)
  if top_k:
    p[np.argsort(-p)[top_k:]] = 0
  p /= p.sum()
  if top_p < 1:
    kept = [*smallest(p, top_p)]
    p = np.array([p[i] if i in kept else 0 for i in range(len(p))])
  p /= p.sum()
  count = 40_000
  how = Sampling(temperature, top_k, top_p)
  rows = jnp.broadcast_to(jnp.array(logits, jnp.float32), (count, 6))
  drawn = np.asarray(sampling.next_token(sampling.keys(0, count), rows, how))
  found = np.bincount(drawn, minlength=6) / count
  assert_array_equal(found[p == 0], 0)
  assert_allclose(found, p, atol=4 * 0.5 / np.sqrt(count))


def test_each_row_is_drawn_by_its_own_logits_and_the_likeliest_taken_where_nothing_is_drawn():
  logits = jnp.array([[0.0, 5.0, 5.0, 1.0], [9.0, 0.0, 0.0, 0.0], [-jnp.inf, -3.0, -9.0, -4.0]])
  keys = sampling.keys(0, 3)
  for how in (Sampling(0.0), Sampling(0.0, 2, 0.1), Sampling(1.0, 1), Sampling(1.0, 0, 1e-9)):
    assert sampling.next_token(keys, logits, how).tolist() == [1, 0, 1]
  # However low the temperature, it is the likeliest token, and never a forbidden one.
  for how in (Sampling(1e-30), Sampling(1e-45), Sampling(1e-45, 0, 0.9)):
    assert sampling.next_token(keys, logits, how).tolist()[1:] == [0, 1]
  assert sampling.next_token(keys, logits, Sampling(0.0, never=(1, 0))).tolist() == [2, 2, 3]


# Continuing a text


@pytest.mark.parametrize('temperature', [0.0, 0.7])
@pytest.mark.parametrize(
  ('name', 'prompt', 'ids'),
  [('model', 'The cat', [1, 2]), ('three', 'the cat\n', [1, 2, 0]), ('three', '', [])],
)
def test_a_text_goes_on_as_in_a_loop_that_reads_all_of_it_again(
  name, prompt, ids, temperature, request
):
  model = request.getfixturevalue(name)
  how = Sampling(temperature, 4, 0.9, (UNKNOWN,))
  draw = jax.jit(functools.partial(sampling.next_token, sampling=how))
  keys = sampling.keys(7, 2)
  expected = []
  for sample in range(2):
    read = [*ids]
    while len(read) < len(ids) + 20:
      logits = jnp.asarray(said_of(model, read), jnp.float32)[None]
      key = sampling.at(keys, len(read))[sample : sample + 1]
      read.append(int(draw(key, logits)[0]))
    expected.append(text_of(read)[len(text_of(ids)) :])
  found = model.generate(prompt, 20, temperature, top_k=4, top_p=0.9, seed=7, samples=2)
  assert found == expected
  assert (expected[0] == expected[1]) == (temperature == 0)
  assert temperature == 0 or len({*expected[1].split()}) > 1


def test_the_same_seed_gives_the_same_text_however_much_is_computed_at_once(model, monkeypatch):
  prompt = 'the cat saw a dog . the dog'  # as long as some of the chunks
  expected = model.generate(prompt, 50, seed=3)
  for chunk in (1, 7, 8, 33):
    monkeypatch.setattr(generate, 'CHUNK', chunk)
    assert model.generate(prompt, 50, seed=3) == expected
  assert model.generate(prompt, 50, seed=4) != expected


def test_a_text_comes_in_parts(model):
  how = language.sampling(model)
  for length, count in ((31, 2), (40, 3)):  # in the first part is the prompt too
    parts = [part for (part,) in generate.texts(model.members, 'the', length, how)]
    assert len(parts) == count and ''.join(parts) == model.generate('the', length)[0]


def test_the_end_of_a_line_is_where_a_text_stops_or_goes_on(model):
  longer = model.generate('the', 60, seed=1, samples=4)
  stopped = model.generate('the', 60, seed=1, samples=4, stop=True)
  assert stopped == [text.partition('\n')[0] for text in longer]
  assert len({*map(len, stopped)}) > 1


def test_what_is_unknown_is_not_said_unless_asked_for(model):
  one = member()
  params = {**one.params, 'output_bias': one.params['output_bias'].at[UNKNOWN].set(20.0)}
  often = language.text_model([one._replace(params=params)])
  assert '<unk>' not in often.generate('the', 50)[0]
  assert often.generate('the', 3, unknown=True) == [' <unk> <unk> <unk>']


def test_a_space_after_a_prompt_is_not_put_twice(model):
  (expected,) = model.generate('the cat', 5, temperature=0.0, seed=2)
  for prompt in ('the cat ', 'The  cat '):
    assert model.generate(prompt, 5, temperature=0.0) == [expected.removeprefix(' ')]


@pytest.mark.parametrize(
  ('encoding', 'vocabulary', 'letters'),
  [
    (OF_WORDS, WORDS, 'the cat." \n'),
    (OF_BYTES, BYTES, 'aé€😀\n\ufffd'),
    (OF_LETTERS, LETTERS, 'abcdé €\n'),
  ],
)
def test_ids_are_joined_as_they_come(encoding, vocabulary, letters):
  one = Predictor(configs.default('language_model'), None, {}, vocabulary, encoding)

  @settings(max_examples=60, deadline=None)
  @given(text=st.text(letters), cuts=st.lists(st.integers(1, 5), max_size=5))
  def check(text, cuts):
    ids = corpus.encode(text, encoding, vocabulary)
    more, parts, start = generate.joining(one), [], 0
    for cut in [*cuts, len(ids)]:
      parts.append(more(ids[start : start + cut], False))
      start += cut
    parts.append(more([], True))
    assert ''.join(parts) == corpus.decode(ids, encoding, vocabulary)
    if encoding is OF_BYTES and '\ufffd' not in text:
      assert '\ufffd' not in ''.join(parts)

  check()


def test_bytes_go_on_in_the_middle_of_nothing():
  model = language.text_model([member(0, BYTES, OF_BYTES)])
  (text,) = model.generate('é€', 40)
  assert len(text.encode(errors='replace')) >= 40


@pytest.mark.parametrize(
  ('fields', 'words'),
  [
    ({'temperature': -0.1}, 'temperature=-0.1: it must be 0'),
    ({'temperature': float('nan')}, 'temperature=nan: it must be 0'),
    ({'top_p': 0}, 'top_p=0.0: it must be a probability'),
    ({'top_p': 1.5}, 'top_p=1.5: it must be a probability'),
    ({'top_k': -1}, 'top_k=-1: it must be a whole number'),
    ({'length': 0}, 'length=0: it must be a whole number from 1'),
    ({'samples': 0}, 'samples=0: it must be a whole number from 1'),
    ({'seed': -1}, 'seed=-1: it must be a whole number from 0'),
  ],
)
def test_numbers_out_of_range_are_told(model, fields, words):
  with pytest.raises(ValueError, match=re.escape(words)):
    model.generate('the', **fields)


def test_what_is_no_language_model_or_no_text_is_told(model):
  for prompt in (b'the', ['the'], None):
    with pytest.raises(TypeError, match='the prompt is .* give a str'):
      model.generate(prompt)
  with pytest.raises(TypeError, match='position 1'):
    model.score(['a', 3])
  with pytest.raises(TypeError, match='give a list'):
    model.score('a')
  with pytest.raises(AttributeError, match='it has generate, score, surprisals, adapted and step'):
    model.predict(['a'])
  one = member()
  with pytest.raises(ValueError, match='at least one member'):
    language.text_model([])
  with pytest.raises(ValueError, match='different vocabularies'):
    language.text_model([one, one._replace(vocabulary=WORDS[::-1])])
  with pytest.raises(ValueError, match="must have 'end', an id: None"):
    language.text_model([one._replace(encoding={'unit': 'word'})])
  with pytest.raises(ValueError, match="has 'unknown' = 5, but the vocabulary has 3"):
    language.text_model([one._replace(vocabulary=WORDS[:3])])
  broken = jax.tree.map(lambda a: a * jnp.nan, one.params)
  diverged = language.text_model([one._replace(params=broken)])
  for ask in (lambda: diverged.generate('a'), lambda: diverged.score(['a'])):
    with pytest.raises(ValueError, match='gives NaN'):
      ask()


# How likely texts are


@pytest.mark.parametrize('name', ['model', 'three'])
def test_a_text_is_scored_as_in_a_loop(name, request):
  model = request.getfixturevalue(name)
  words = ['the', 'zebra', 'saw', 'a', 'dog', '.', '<eos>']
  ids = [WORDS.index(word) if word in WORDS else UNKNOWN for word in words]
  bits = [-said_of(model, ids[:i])[one] / np.log(2) for i, one in enumerate(ids)]
  tokens = model.surprisals('The zebra saw a dog.')
  assert [token.text for token in tokens] == words
  assert [token.known for token in tokens] == [word != 'zebra' for word in words]
  assert_allclose([token.bits for token in tokens], bits, rtol=1e-5)
  (row,) = model.score(['The zebra saw a dog.\n']).to_dict('records')
  assert_allclose(row['perplexity'], 2 ** np.mean(bits), rtol=1e-5)
  # Words with a space after each, and the end of the line.
  characters = len('the zebra saw a dog .\n')
  assert_allclose(row['bits_per_character'], sum(bits) / characters, rtol=1e-5)
  assert (row['tokens'], row['unknown'], row['text']) == (7, 1, 'The zebra saw a dog.\n')


def test_a_long_text_and_many_are_scored_as_the_model_has_them_in_one_go(model):
  draw = np.random.default_rng(0)
  texts = [' '.join(draw.choice(WORDS[1:5], n)) for n in (0, 1, 30, 31, 32, 33, 700, 9, 3, 2, 1, 8)]
  one = model.members[0]
  found = scoring.score(model.members, texts)
  for scored, text in zip(found, texts, strict=True):
    targets = np.array([*corpus.encode(text, OF_WORDS, WORDS), END])
    read = np.zeros((1, 1024), np.int32)
    read[0, 1 : len(targets)] = targets[:-1]
    log_p = np.asarray(jax.nn.log_softmax(logits(one.model, one.params, read)[0]))
    expected = -log_p[np.arange(len(targets)), targets] / np.log(2)
    assert_allclose([token.bits for token in scored.tokens], expected, rtol=2e-5)
  again = scoring.score(model.members, texts[::-1])[::-1]
  assert [one.tokens for one in again] == [one.tokens for one in found]
  assert scoring.score(model.members, texts[2:3])[0].tokens == found[2].tokens
  assert model.score([]).shape == (0, 5)


def test_lines_of_a_text_go_on_from_each_other(model):
  text = 'the cat\n\na dog saw .'
  (whole,) = scoring.score(model.members, [text])
  lines = [*whole.lines(END)]
  assert [line.text for line in lines] == ['the cat', '', 'a dog saw .']
  assert sum((line.tokens for line in lines), []) == whole.tokens
  (alone,) = scoring.score(model.members, ['a dog saw .'])
  assert alone.tokens[0].bits != lines[2].tokens[0].bits


def test_a_step_says_what_comes_next(three):
  carry, ids = None, [2, 4, 1]
  for place, one in enumerate([END, *ids]):
    logits, carry = three.step([one, END], carry)
    expected = said_of(three, ids[:place])
    assert_allclose(jax.nn.log_softmax(logits[0]), expected, atol=1e-5)
  with pytest.raises(ValueError, match=r'ids must be \[B\]'):
    three.step([[1]])


# Runs and their folders


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """The folder of a language model's run, and that of its corpus."""
  folder = tmp_path_factory.mktemp('texts')
  draw = np.random.default_rng(0)
  for name, count in (('train', 80), ('valid', 10), ('test', 40)):
    lines = [f'{" ".join(draw.choice(["the", "cat", "a", "dog"], 5))} .\n' for _ in range(count)]
    (folder / f'{name}.txt').write_text(''.join([*lines, 'an owl\n']))
  config = configs.default('language_model')
  fields = {'cell': 'elman', 'hidden_size': 4, 'embed_size': 4}
  config.model.update(fields)
  config.data.update(path=str(folder), source='corpus')
  config.train.update(epochs=1, batch_size=4, window=10)
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
    result = rnnlab.run(config, folder / 'runs').result
  return folder / 'runs' / result['id'], folder


@pytest.fixture
def ask(monkeypatch, capsys):
  """The output of `python -m rnnlab.predict`, and its errors."""

  def run(*words):
    monkeypatch.setattr(sys, 'argv', ['predict', *map(str, words)])
    try:
      main.main()
    except SystemExit as end:
      assert end.code == 2
    return capsys.readouterr()

  return run


def test_a_file_is_scored_as_the_run_has_reported_of_it(run, ask, tmp_path):
  folder, texts = run
  reported = run_files.read_result(folder)['best']
  said = ask(folder, '--score', f'--input={texts}/test.txt', f'--out={tmp_path}/bits.csv')
  found = re.search(r'perplexity ([\d.]+), ([\d.]+) bits per character', said.err)
  assert_allclose(float(found[1]), reported['test_perplexity'], atol=0.01)
  assert_allclose(float(found[2]), reported['test_bits_per_character'], atol=1e-4)
  table = pd.read_csv(tmp_path / 'bits.csv', keep_default_na=False)
  predictions = np.load(folder / 'predictions.npz')
  assert_allclose(table.surprisal, predictions['best'] / np.log(2), rtol=1e-4)
  assert [*table.columns] == ['line', 'token', 'surprisal', 'known']
  lines = (texts / 'test.txt').read_text().splitlines()
  assert [*table.groupby('line').token.agg(' '.join)] == [f'{line} <eos>' for line in lines]
  said = ask(folder, '--score', f'--input={texts}/test.txt').out.splitlines()
  assert [line.split('\t')[2] for line in said] == lines


def test_a_run_adapts_as_is_best_for_its_validation_split(run, ask, monkeypatch):
  folder, texts = run
  monkeypatch.setattr(adapting, 'RATES', (0.0, 0.002, 0.004))
  flags = '--score', f'--input={texts}/test.txt', '--cache=20', '--dynamic'
  said = ask(folder, *flags)
  plain = rnnlab.load(folder)
  model = plain.adapted(cache=20, dynamic=True)
  (way,) = model.adapt
  assert f'chosen on the validation split: {way}\n' in said.err
  text = (texts / 'test.txt').read_text()
  perplexity = model.score([text]).perplexity[0]
  assert f'perplexity {perplexity:.2f}, ' in said.err
  assert perplexity != plain.score([text]).perplexity[0]
  assert model.generate('the cat') == plain.generate('the cat')
  # No other one is better on the validation split, by this test's own loop.
  valid = (texts / 'valid.txt').read_text()
  (one,), tried = plain.members, {}
  for rate in (0.0, 0.002, 0.004):
    changed = way._replace(dynamic=way.dynamic._replace(rate=rate, decay=0.02), cache=None)
    tried[rate] = plain._replace(adapt=(changed,)).score([valid]).perplexity[0]
  assert way.dynamic.rate == min(tried, key=tried.get)
  best = model.score([valid]).perplexity[0]
  for share, flatness in itertools.product((0.0, 0.1, 0.3), (0.1, 1.0)):
    changed = way._replace(cache=way.cache._replace(share=share, flatness=flatness))
    assert best <= plain._replace(adapt=(changed,)).score([valid]).perplexity[0] * (1 + 1e-9)
  with pytest.raises(ValueError, match='cache=-1: it must be a whole number'):
    plain.adapted(cache=-1)
  task, config = one.task, one.config.copy_and_resolve_references()
  data = task.load(config.data)._replace(splits={})
  tasks.add(task._replace(name='unvalidated', load=lambda config: data))
  config.task.name = 'unvalidated'
  with pytest.raises(ValueError, match='has no validation split'):
    language.text_model([one._replace(config=config)]).adapted(cache=5)


def test_data_that_are_gone_are_told_in_words(run, ask):
  folder, texts = run
  (texts / 'valid.txt').rename(texts / 'gone.txt')
  try:
    said = ask(folder, 'the cat', '--score', '--cache=5')
  finally:
    (texts / 'gone.txt').rename(texts / 'valid.txt')
  assert said.out == '' and re.match('rnnlab.predict: .*valid', said.err)


def test_a_run_is_asked_by_python_and_by_the_command_line_alike(run, ask):
  folder, _ = run
  model = rnnlab.load(folder)
  given = {'length': 30, 'temperature': 0.5, 'top_k': 3, 'top_p': 0.9, 'seed': 5, 'samples': 2}
  flags = [f'--{name.replace("_", "-")}={value}' for name, value in given.items()]
  expected = model.generate('the cat', **given)
  said = ask(folder, 'the cat', '--json', *flags).out.splitlines()
  assert [json.loads(line)['text'] for line in said] == expected
  assert json.loads(said[1]) == {'number': 1, 'prompt': 'the cat', 'sample': 2, 'text': expected[1]}
  assert ask(folder, 'the cat', *flags[:-1]).out == f'the cat{expected[0]}\n'
  (ensemble,) = rnnlab.load_ensembles(folder.parent).values()
  assert ensemble.generate('the cat', **given) == expected
  said = json.loads(ask(folder, 'the owl', '--score', '--json').out)
  assert [*map(tuple, said['tokens'])] == [
    (token.text, float(f'{token.bits:.7g}'), token.known) for token in model.surprisals('the owl')
  ]
  row = model.score(['the owl']).iloc[0]
  assert_allclose(said['perplexity'], row.perplexity, rtol=1e-6)
  assert_allclose(said['bits_per_character'], row.bits_per_character, rtol=1e-6)


@pytest.mark.slow
def test_each_setting_of_a_sweep_has_its_own_text_and_its_own_scores(three, capsys):
  """And each of several samples has a title."""
  settings = {'a': three, 'b': language.text_model([member(3)])}
  for flags in ([], ['--samples=2'], ['--score']):
    given = main._parser().parse_args(['RUN', 'the cat', *flags])
    saying.check(settings, given)
    assert saying.answer(settings, given, [['the cat'], ['a dog']]) == 2
    said = capsys.readouterr().out
    if flags == ['--score']:
      expected = [
        f'{row.perplexity:.6g}\t{row.bits_per_character:.6g}\t{name}\t{text}\n'
        for text in ('the cat', 'a dog')
        for name, model in settings.items()
        for row in model.score([text]).itertuples()
      ]
    else:
      count = given.samples
      expected = [
        f'{name}{f", {i + 1} of {count}" * (count > 1)}:\n{prompt}{text}\n'
        for prompt in ('the cat', 'a dog')
        for name, model in settings.items()
        for i, text in enumerate(model.generate(prompt, samples=count))
      ]
    assert said == ''.join(expected)
  with pytest.raises(ValueError, match='of several tasks: give --setting, of a, b'):
    saying.check({'a': three, 'b': rnnlab.Ensemble((predictors.three(),))}, given)
  both = {'a': rnnlab.Ensemble((predictors.tagger(),)), 'b': rnnlab.Ensemble((predictors.three(),))}
  with pytest.raises(ValueError, match='of several tasks: give --setting, of a, b'):
    saying.check(both, given)


def test_the_lines_of_standard_input_are_prompts(run, ask, tmp_path, monkeypatch):
  folder, _ = run
  (tmp_path / 'lines').write_text('the cat\n\n')
  with open(tmp_path / 'lines') as f:
    monkeypatch.setattr(sys, 'stdin', f)
    said = ask(folder, '--length=4', '--json').out.splitlines()
  assert [json.loads(line)['prompt'] for line in said] == ['the cat', '']
  model = rnnlab.load(folder)
  assert [json.loads(line)['text'] for line in said] == [
    model.generate(prompt, 4)[0] for prompt in ('the cat', '')
  ]


def test_words_that_a_model_does_not_know_are_told(run, ask):
  folder, _ = run
  for words in (('the zebra', '--length=1'), ('the zebra', '--score')):
    said = ask(folder, *words)
    assert 'unknown to the model, read as <unk>: zebra\n' in said.err
    assert 'the zebra' in said.out


def test_a_table_of_texts_gets_columns(run, ask, tmp_path):
  folder, _ = run
  (tmp_path / 'in.csv').write_text('text,n\nthe cat,1\n"a dog, a dog",2\n')
  ask(folder, '--score', f'--input={tmp_path}/in.csv', f'--out={tmp_path}/out.csv')
  with open(tmp_path / 'out.csv') as f:
    rows = [*csv.DictReader(f)]
  assert [*rows[0]] == ['text', 'n', 'predicted_perplexity', 'predicted_bits_per_character']
  expected = rnnlab.load(folder).score(['the cat', 'a dog, a dog'])
  assert_allclose([float(row['predicted_perplexity']) for row in rows], expected.perplexity, 1e-5)


@pytest.mark.parametrize('no_color', [False, True])
def test_people_see_surprisal_in_colours_or_in_bits(run, ask, monkeypatch, no_color):
  folder, _ = run
  options = {'force_terminal': True, 'color_system': 'standard', 'no_color': no_color}
  monkeypatch.setattr(
    saying.progress, 'plain_console', lambda: progress.Console(width=200, **options)
  )
  said = ask(folder, '--score', 'the cat dog zebra').out
  styles = {code for found in re.findall(r'\x1b\[([\d;]*)m', said) for code in found.split(';')}
  assert bool(styles & COLOURS) == (not no_color)
  plain = re.sub(r'\x1b\[[\d;]*m', '', said)
  assert bool(re.search(r'zebra\(\d+\.\d\)', plain)) == no_color
  said = ask(folder, 'the\x1bcat', '--length=3').out
  assert 'the?cat' in re.sub(r'\x1b\[[\d;]*m', '', said)


@pytest.mark.parametrize(
  ('words', 'told'),
  [
    (['x', '--temperature=-1'], 'temperature=-1.0: it must be 0'),
    (['x', '--explain'], '--explain is for models that answer'),
    (['x', '--score', '--seed=3'], '--seed is for continuing texts: not with --score'),
    (['x', '--cache=9'], '--cache is for scoring texts: give --score'),
    (['x', '--score', '--cache=-9'], 'cache=-9: it must be a whole number of states'),
    (['--input=FILE'], '--input is a file to be scored: give --score'),
    (['--score', '--input=FILE', '--column=x'], 'is not a table, so it has no columns'),
    (['--score', '--input=FILE', '--out=x.npz'], '--out=x.npz: it must end in .csv or .tsv'),
    (['--score', '--input=EMPTY'], 'EMPTY is empty'),
    (['--score', '--input=LATIN'], 'LATIN, line 2: byte 2, 0xe9, is not UTF-8'),
  ],
)
def test_what_does_not_go_together_is_told(run, ask, tmp_path, words, told):
  folder, texts = run
  (tmp_path / 'EMPTY').write_text('\n\n')
  (tmp_path / 'LATIN').write_bytes(b'a\nb\xe9')
  for name in ('EMPTY', 'LATIN'):
    words = [word.replace(name, f'{tmp_path}/{name}') for word in words]
  said = ask(folder, *(word.replace('FILE', f'{texts}/test.txt') for word in words))
  assert said.err.startswith('rnnlab.predict: ') and told in said.err and said.out == ''
  assert len(said.err.splitlines()) == 1


def test_a_damaged_run_is_told(run, tmp_path):
  folder, _ = run
  config = run_files.read_config(folder)
  for name, content, told in (
    ('vocabulary.txt', '', 'has no vocabulary.txt'),
    ('vocabulary.txt', 'the\ncat\n', 'but the vocabulary has'),
    ('encoding.json', '{"unit": "word"}', "must have 'end', an id"),
  ):
    there = tmp_path / f'{name}{len(content)}'
    there.mkdir()
    for file in ('params.safetensors', 'vocabulary.txt', 'encoding.json', 'hardest.json'):
      (there / file).write_bytes((folder / file).read_bytes())
    (there / name).write_text(content)
    if not content:
      (there / name).unlink()
    run_files.write_config(there, config)
    run_files.write_result(there, {'final': {}})
    with pytest.raises(ValueError, match=told):
      rnnlab.load(there)


@pytest.mark.slow
def test_an_exported_model_says_the_same_without_rnnlab(run, three, tmp_path):
  folder, _ = run
  path = tmp_path / 'm.zip'
  rnnlab.export(rnnlab.load(folder), path)
  rnnlab.export(three, tmp_path / 'three.zip')
  code = f"""
import runpy, sys, jax, numpy as np
assert not any('rnnlab' in name for name in sys.modules)
load = runpy.run_path('{tmp_path}/three.zip')['load']
model = load('{tmp_path}/three.zip')
logits, carry = model.step([0, 3])
logits, carry = model.step([1, 1], carry)
print(np.asarray(jax.nn.log_softmax(logits)).tolist())
print(repr(model.generate('The cat', 20, temperature=0.0)))
model = load({str(path)!r})
print(repr(model.generate('the cat ', 20, temperature=0.0)))
print(repr(model.generate('the', 30, top_p=0.9, seed=4, stop=True)))
assert not any('rnnlab' in name for name in sys.modules)
sys.argv = ['m.zip', 'the cat', '', '--length=9', '--temperature=0']
runpy.run_path({str(path)!r}, run_name='__main__')
"""
  done = subprocess.run(
    [sys.executable, '-P', '-c', code], capture_output=True, text=True, cwd=tmp_path
  )
  assert done.returncode == 0, done.stderr
  log_p, of_three, greedy, drawn, *said = done.stdout.splitlines()
  assert_allclose(json.loads(log_p)[0], said_of(three, [1]), atol=1e-5)
  model = rnnlab.load(folder)
  assert [eval(of_three)] == three.generate('The cat', 20, temperature=0.0)
  assert [eval(greedy)] == model.generate('the cat ', 20, temperature=0.0)
  assert [eval(drawn)] == model.generate('the', 30, top_p=0.9, seed=4, stop=True)
  expected = ''.join(f'{p}{model.generate(p, 9, temperature=0.0)[0]}\n' for p in ('the cat', ''))
  assert said == expected.splitlines()


def test_what_no_longer_fits_a_zip_is_told(tmp_path, three):
  rnnlab.export(three, tmp_path / 'm.zip')
  content = (tmp_path / 'm.zip').read_bytes()
  (tmp_path / 'm.zip').write_bytes(content[: len(content) // 2])
  with pytest.raises(ValueError, match='m.zip is damaged, or not an exported language model'):
    exported_text.load(tmp_path / 'm.zip')
  own = [one._replace(encoding=OF_WORDS | {'unit': 'phoneme'}) for one in three.members]
  with pytest.raises(ValueError, match='cannot be exported'):
    rnnlab.export(language.text_model(own), tmp_path / 'own.zip')


def test_a_model_that_answers_is_not_asked_to_go_on():
  given = main._parser().parse_args(['RUN', 'text', '--score'])
  with pytest.raises(
    ValueError, match='--score is for language models, but this is a model of cla'
  ):
    saying.check({'': rnnlab.Ensemble((predictors.three(),))}, given)
