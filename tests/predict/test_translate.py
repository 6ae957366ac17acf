"""Models that translate: against a plain loop, alone and together, and on the command line."""

import functools
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import predictors
import pytest

import rnnlab
from rnnlab import models, tasks
from rnnlab.data import pairs
from rnnlab.predict import __main__ as main
from rnnlab.predict import exported_pairs, translating, translator
from rnnlab.predict.predictor import Predictor
from rnnlab.runs import configs
from rnnlab.tasks.base import Outputs

SOURCE = (*pairs.SPECIAL, 'ein', 'mann', 'hund', 'schläft', '.')
TARGET = (*pairs.SPECIAL, 'a', 'man', 'dog', 'sleeps', '.')
SIDE = {'unit': 'word', 'words': 'punctuation', 'lowercase': True}
ENCODING = {
  'source': SIDE | {'vocabulary': [*SOURCE]},
  'target': SIDE | {'vocabulary': [*TARGET]},
  'shared': False,
}
TEXTS = ['Ein Mann schläft.', '', 'hund', 'Ein Zebra, ein Mann', 'ein ' * 9]

tasks.add(
  tasks.find('language_model')._replace(
    name='of_pairs',
    encode=lambda texts, config, encoding, vocabulary: pairs.encode(texts, encoding),
    join=lambda ids, encoding, vocabulary: pairs.decode(ids, encoding['target']),
    outputs=lambda encoding: Outputs('sequence', ()),
  )
)


@functools.cache
def member(seed=0, attention='additive'):
  """An untrained model with parameters that make it decisive."""
  config = configs.default('language_model')
  config.task.name = 'of_pairs'
  cell = rnnlab.gru(hidden_size=6)
  model = models.Seq2Seq((cell,), (cell,), len(SOURCE), len(TARGET), 5, attention=attention)
  inputs = {'source': jnp.ones((1, 1), jnp.int32), 'target': jnp.ones((1, 2), jnp.int32)}
  params = jax.jit(model.init)(jax.random.key(seed), inputs)['params']
  params = jax.tree.map(lambda a: 2.5 * a, params)
  return Predictor(config, model, params, TARGET, ENCODING)


@pytest.fixture(scope='module')
def model():
  return translator.of_members([member()])


@pytest.fixture(scope='module')
def three():
  return translator.of_members([member(seed) for seed in range(3)])


def one_by_one(model, text, choose):
  """By hand: (ids, log P), without padding, each token chosen by the logarithms of the mean."""
  source = pairs.encode([text], ENCODING)
  limit = 2 * (source.shape[1] - 1) + 30 if source.shape[1] > 1 else 0
  states, ids, log_prob = [], [], 0.0
  for one in model.members:
    bound = one.model.bind({'params': one.params})
    memory = bound.encode(source)
    states.append([bound, memory, bound.start(memory)])
  while ids[-1:] != [pairs.EOS]:
    each = []
    for state in states:
      bound, memory, carry = state
      logits, state[2], _ = bound.next(memory, carry, jnp.array((ids or [pairs.BOS])[-1:]))
      each.append(np.asarray(jax.nn.log_softmax(logits[0]), np.float64))
    log_probs = np.log(np.exp(each).mean(axis=0))
    chosen = choose(log_probs, len(ids)) if len(ids) < limit else pairs.EOS
    log_prob += log_probs[chosen]
    ids.append(int(chosen))
  return tuple(ids), log_prob


def likeliest(log_probs, _):
  return [pairs.EOS, 4, 5, 6, 7, 8][log_probs[[pairs.EOS, 4, 5, 6, 7, 8]].argmax()]


@pytest.mark.slow
@pytest.mark.parametrize('name', ['model', 'three'])
def test_a_beam_of_one_takes_the_likeliest_token_each_time(name, request):
  model = request.getfixturevalue(name)
  for text, (found, *none) in zip(TEXTS, model.best(TEXTS, 1, beam=1), strict=True):
    ids, log_prob = one_by_one(model, text, likeliest)
    assert found.ids == ids and not none
    np.testing.assert_allclose(found.log_prob, log_prob, rtol=1e-4, atol=1e-5)
    assert found.text == pairs.decode(ids, ENCODING['target'])
  assert model.translate(['', '  '], beam=1) == ['', '']


def test_the_best_of_a_beam_have_the_probability_that_the_model_gives_them(three):
  for text, found in zip(TEXTS, three.best(TEXTS, 3, beam=4, length=1.0), strict=True):
    assert len({one.ids for one in found}) == len(found) == (3 if text else 1)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    for one in found:
      _, log_prob = one_by_one(three, text, lambda _, place, one=one: one.ids[place])
      np.testing.assert_allclose(one.log_prob, log_prob, rtol=1e-4, atol=1e-5)
      np.testing.assert_allclose(one.score, log_prob / ((5 + len(one.ids)) / 6), rtol=1e-4)
  wide = three.best(TEXTS, 1, beam=20, length=0.0)
  greedy = three.best(TEXTS, 1, beam=1)
  assert all(a[0].score >= b[0].score - 1e-5 for a, b in zip(wide, greedy, strict=True))


def test_no_answer_depends_on_the_other_texts(three):
  together = three.best(TEXTS, 2, beam=3, coverage=0.3)
  for text, found in zip(TEXTS, together, strict=True):
    assert three.best([text], 2, beam=3, coverage=0.3) == [found]
  assert three.best([]) == [] and three.draw([]) == []


def test_what_is_drawn_is_drawn_by_the_seed(model):
  first = model.draw(TEXTS, samples=3, seed=1)
  assert first == model.draw(TEXTS, samples=3, seed=1) != model.draw(TEXTS, samples=3, seed=2)
  assert [one[:2] for one in first] == model.draw(TEXTS, samples=2, seed=1)
  assert len({one.ids for one in first[0]}) > 1
  cold = model.draw(TEXTS, temperature=0)
  assert [one[0].ids for one in cold] == [one[0].ids for one in model.best(TEXTS, 1, beam=1)]


def test_what_is_unknown_is_not_said_unless_asked_for(model):
  drawn = model.draw(TEXTS[:1], samples=40, temperature=5, unknown=True)[0]
  assert any(pairs.UNK in one.ids for one in drawn)
  assert not any(
    pairs.UNK in one.ids for one in model.draw(TEXTS[:1], samples=40, temperature=5)[0]
  )
  assert translator.unknown(model, 'Ein Zebra, ein Mann') == ['zebra', ',']


def test_attention_is_that_of_each_step(three):
  text = 'Ein Zebra schläft.'
  best = three.best([text], 1)[0][0]
  found = three.attention(text)
  assert found.source == ('ein', 'zebra', 'schläft', '.', '<eos>')
  assert found.target == tuple(TARGET[i] for i in best.ids)
  each = []
  for one in three.members:
    bound = one.model.bind({'params': one.params})
    memory = bound.encode(pairs.encode([text], ENCODING))
    carry, rows = bound.start(memory), []
    for token in (pairs.BOS, *best.ids[:-1]):
      _, carry, weights = bound.next(memory, carry, jnp.array([token]))
      rows.append(weights[0])
    each.append(rows)
  np.testing.assert_allclose(found.weights, np.mean(each, axis=0), atol=1e-5)
  with pytest.raises(ValueError, match='no attention to show'):
    translator.of_members([member(attention='none')]).attention(text)


def test_what_does_not_fit_is_told(model):
  with pytest.raises(ValueError, match='at least one member'):
    translator.of_members([])
  other = member(1)._replace(vocabulary=(*TARGET[:-1], '!'))
  with pytest.raises(ValueError, match='different vocabularies'):
    translator.of_members([member(), other])
  with pytest.raises(ValueError, match='not that of the target side'):
    translator.of_members([other])
  with pytest.raises(ValueError, match='vocabulary of the target side'):
    translator.of_members([member()._replace(encoding={'source': ENCODING['source']})])
  with pytest.raises(TypeError, match='text'):
    model.translate('ein mann')
  with pytest.raises(AttributeError, match='it has translate, best, draw and attention'):
    model.generate('ein')
  broken = member()._replace(params=jax.tree.map(lambda a: a * jnp.nan, member().params))
  with pytest.raises(ValueError, match='gives NaN'):
    translator.of_members([broken]).translate(TEXTS)
  for options in ({'beam': 0}, {'length': -1}, {'count': 0}):
    with pytest.raises(ValueError, match='it must be|must be 0'):
      model.best(['ein'], **options)


@pytest.mark.slow
def test_an_exported_model_translates_without_rnnlab(three, model, tmp_path):
  rnnlab.export(three, tmp_path / 'three.zip')
  there = exported_pairs.load(tmp_path / 'three.zip')
  for options in ((1,), (4, 1.0), (3, 0.6, 0.2)):
    assert there.translate(TEXTS, *options) == three.translate(
      TEXTS, **dict(zip(('beam', 'length', 'coverage'), options, strict=False))
    )
  assert there.translate([]) == []
  with pytest.raises(TypeError, match='list of texts'):
    there.translate('ein')
  code = f"""
import runpy, sys
sys.path = [path for path in sys.path if 'rnnlab' not in path]
sys.argv = ['three.zip', *{TEXTS!r}, '--beam=3']
runpy.run_path({str(tmp_path / 'three.zip')!r}, run_name='__main__')
assert not any(name.startswith(('rnnlab', 'flax')) for name in sys.modules)
"""
  alone = [sys.executable, '-I', '-c', code]
  said = subprocess.run(alone, cwd=tmp_path, capture_output=True, text=True, check=True)
  assert said.stdout.split('\n') == [*three.translate(TEXTS, beam=3), '']
  rnnlab.export(translator.of_members([member(attention='none')]), tmp_path / 'bare.zip')
  assert not exported_pairs.load(tmp_path / 'bare.zip').attends
  (tmp_path / 'bare.zip').write_bytes(b'none')
  with pytest.raises(ValueError, match='is damaged, or not an exported translation model'):
    exported_pairs.load(tmp_path / 'bare.zip')


# The command line


@pytest.fixture
def ask(monkeypatch, capsys, model, three):
  """The output of `python -m rnnlab.predict` for a run, or a sweep of three, and its errors."""
  loaded = {'RUN': {'': model}, 'SWEEP': {'one': model, 'all': three}}
  loaded['BARE'] = {'': translator.of_members([member(attention='none')])}
  loaded['CLASSES'] = {'': rnnlab.Ensemble((predictors.three(),))}
  monkeypatch.setattr(main, '_loaded', lambda folder, setting: loaded[folder])

  def run(*words):
    monkeypatch.setattr(sys, 'argv', ['predict', *map(str, words)])
    try:
      main.main()
    except SystemExit as end:
      assert end.code == 2
    return capsys.readouterr()

  return run


def test_each_text_has_a_line(ask, model, three):
  texts = TEXTS[2:]
  assert ask('RUN', *texts).out.split('\n') == [*model.translate(texts), '']
  said = ask('RUN', '--nbest=2', '--beam=4', '--length-penalty=1', *texts).out.splitlines()
  best = [one for of in model.best(texts, 2, beam=4, length=1.0) for one in of]
  assert said == [f'{one.score:.4f}\t{one.text}' for one in best]
  drawn = [one[0].text for one in model.draw(texts, temperature=2.0, seed=3)]
  assert ask('RUN', '--temperature=2', '--seed=3', *texts).out.splitlines() == drawn
  said = ask('SWEEP', texts[0]).out.splitlines()
  assert said == [
    f'{of.translate(texts[:1])[0]}\t{n}' for of, n in ((model, 'one'), (three, 'all'))
  ]
  said = ask('RUN', 'Ein Zebra', 'Ein Löwe').err
  assert said == 'rnnlab.predict: unknown to the model, read as <unk>: zebra, löwe\n'


def test_json_has_all_of_it(ask, model):
  (line,) = ask('RUN', '--json', '--explain', TEXTS[0]).out.splitlines()
  said, best = json.loads(line), model.best(TEXTS[:1], 1)[0][0]
  assert (said['number'], said['text'], said['translation']) == (1, TEXTS[0], best.text)
  assert said['score'] == round(best.score, 6) and said['log_prob'] == round(best.log_prob, 6)
  right = model.attention(TEXTS[0])
  assert said['attention']['source'] == [*right.source]
  np.testing.assert_allclose(said['attention']['weights'], right.weights, atol=1e-4)


def test_files_are_translated_line_by_line(ask, model, tmp_path):
  (tmp_path / 'test.de').write_text('\n'.join(TEXTS) + '\n')
  right = ''.join(f'{" ".join(text.split())}\n' for text in model.translate(TEXTS))
  assert ask('RUN', f'--input={tmp_path}/test.de').out == right
  said = ask('RUN', f'--input={tmp_path}/test.de', f'--out={tmp_path}/test.en')
  assert (tmp_path / 'test.en').read_text() == right and said.out == ''
  (tmp_path / 'a.tsv').write_text('text\tn\nein hund\t1\n')
  ask('RUN', f'--input={tmp_path}/a.tsv', f'--out={tmp_path}/b.jsonl', '--beam=2')
  found = json.loads((tmp_path / 'b.jsonl').read_text())
  best = model.best(['ein hund'], 1, beam=2)[0][0]
  assert (found['n'], found['predicted_translation']) == ('1', best.text)
  np.testing.assert_allclose(found['predicted_score'], best.score, rtol=1e-5)


def test_attention_is_drawn(ask, model, monkeypatch, tmp_path):
  (line,) = ask('RUN', '--explain', 'ein hund').out.splitlines()
  right = model.attention('ein hund')
  most = [right.source[i] for i in right.weights.argmax(axis=1)]
  shown = [one.rpartition(':')[0] for one in line.split('\t')[1].split(' ')]
  assert shown == [f'{a}<{b}' for a, b in zip(right.target, most, strict=True)]
  weights = np.array([[0.0, 1.0], [0.5, 0.25], [0.1, 0.9]])
  one = translator.Attention(('ab', '<eos>'), ('c', 'd e', '<eos>'), weights)
  drawn = [str(of) for of in translating.drawing(one, 80)]
  assert drawn[:5] == ['        < ', '        e ', '        o ', '      a s ', '      b > ']
  assert drawn[5:] == ['    c   ██', '  d e ▒▒░░', '<eos>   ██']
  narrow = [str(of) for of in translating.drawing(one, 8)]
  assert narrow[-2:] == ['<eos>  ', '      and 1 more, which do not fit']
  options = {'force_terminal': True, 'no_color': True, 'width': 200}
  monkeypatch.setattr(
    translating.progress, 'plain_console', lambda: translating.progress.Console(**options)
  )
  assert '<eos> ' in ask('RUN', '--explain', 'ein hund').out


def test_attention_is_a_picture(ask, tmp_path):
  said = ask('SWEEP', '--explain', f'--out={tmp_path}/a.png', 'ein hund', TEXTS[0])
  assert (tmp_path / 'a.png').read_bytes().startswith(b'\x89PNG') and 'a.png' in said.err


@pytest.mark.parametrize(
  ('words', 'told'),
  [
    (['RUN', 'x', '--length=3'], '--length is for language models'),
    (['RUN', 'x', '--beam=0'], 'beam=0: it must be'),
    (['RUN', 'x', '--beam=3', '--seed=1'], '--beam is for a search, and --seed for draws'),
    (['RUN', 'x', '--explain', '--nbest=2'], 'not with --nbest or --samples'),
    (['RUN', '--input=a.tsv', '--out=b.tsv', '--nbest=2'], 'one translation of each text'),
    (['RUN', 'x', '--nbest=0'], 'a whole number of translations, 1 or more'),
    (['RUN', 'x', '--explain', '--out=a.txt'], '--out needs --input'),
    (['RUN', '--input=a.de', '--explain', '--out=a.txt'], 'it must end in .png'),
    (['RUN', '--input=a.de', '--column=x'], 'a.de is not a table'),
    (['SWEEP', '--input=a.de', '--out=a.en'], '--out takes one setting'),
    (['BARE', 'x', '--explain'], 'no attention to show'),
    (['BARE', 'x', '--coverage-penalty=1'], 'attends to its source'),
    (['CLASSES', 'x', '--beam=3'], '--beam is for models that translate'),
    (['CLASSES', 'x', '--explain', '--out=a.png'], 'does not translate, and has no picture'),
  ],
)
def test_what_does_not_go_together_is_told(ask, words, told):
  said = ask(*words)
  assert said.err.startswith('rnnlab.predict: ') and told in said.err and said.out == ''
  assert len(said.err.splitlines()) == 1


# A run and its folder


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """The folder of a run, and that of its pairs."""
  folder = tmp_path_factory.mktemp('pairs')
  draw = np.random.default_rng(0)
  for name, count in (('train', 60), ('val', 10), ('test', 12)):
    lines = [' '.join(draw.choice([*'abcd'], draw.integers(1, 6))) for _ in range(count)]
    (folder / f'{name}.xx').write_text('\n'.join(lines) + '\n')
    (folder / f'{name}.yy').write_text('\n'.join(lines).upper() + '\n')
  config = configs.default('translation')
  config.model.update(cell='gru', hidden_size=8, embed_size=8, attention_size=8)
  config.data.update(path=str(folder), languages='xx-yy', source='pairs')
  config.train.update(epochs=2, batch_size=8)
  config.optim.learning_rate = 0.02
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
    result = rnnlab.run(config, folder / 'runs').result
  return folder / 'runs' / result['id'], folder


@pytest.mark.slow
def test_a_run_is_asked_as_it_has_answered(run, monkeypatch, capsys):
  folder, data = run
  kept = np.load(folder / 'predictions.npz')
  right = pairs.from_bytes(kept['translations'])
  texts = (data / 'test.xx').read_text().splitlines()
  assert pairs.from_bytes(kept['sources']) == texts
  model = rnnlab.load(folder)
  assert model.translate(texts, beam=1) == right
  monkeypatch.setattr(sys, 'argv', ['predict', str(folder), '--beam=1', *texts])
  main.main()
  assert capsys.readouterr().out.splitlines() == right
  ensemble = rnnlab.load_ensembles(folder.parent)['gru']
  assert ensemble.translate(texts[:2], beam=1) == right[:2]
  for place, row in enumerate(kept['pictured']):
    found = model.attention(texts[row], model.best([texts[row]], 1, beam=1)[0][0])
    weights = kept['attention'][place][: len(found.target), : len(found.source)]
    np.testing.assert_allclose(found.weights, weights, atol=1e-4)
