"""Language models as whole runs: interrupted and continued, stored, and refused."""

import json
import random

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from programs import finals
from reference import unroll

from rnnlab.data import DataError
from rnnlab.interop import files
from rnnlab.reports import report
from rnnlab.runs import configs, program, run
from rnnlab.runs import folder as run_files
from rnnlab.sweeps import executors, sweep

WORDS = [f'w{i}' for i in range(12)]
CELLS = ('lstm', 'gru')
SIZES = {'model.hidden_size': 5, 'model.embed_size': 3}


def written(folder, seed=0, lines=(120, 20, 30)):
  """A corpus in which a word is often followed by the next one of WORDS."""
  draw = random.Random(seed)
  folder.mkdir(parents=True, exist_ok=True)
  for name, count in zip(('train', 'valid', 'test'), lines, strict=True):
    rows = []
    for _ in range(count):
      words = [draw.randrange(len(WORDS))]
      while draw.random() < 0.9:
        words.append((words[-1] + 1) % len(WORDS) if draw.random() < 0.8 else draw.randrange(12))
      rows.append(' '.join(WORDS[i] for i in words))
    (folder / f'{name}.txt').write_text('\n'.join(rows) + '\n')
  return folder


@pytest.fixture(autouse=True, scope='module')
def cache(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
    yield


@pytest.fixture(scope='module')
def config(tmp_path_factory):
  """A config with windows of several lengths, all kinds of dropout, and an average of the steps."""
  found = configs.default('language_model')
  found.data.path = str(written(tmp_path_factory.mktemp('corpus')))
  found.update_from_flattened_dict(SIZES)
  found.model.update(layers=2, layer_dropout=0.1, weight_dropout=0.1, word_dropout=0.1, alpha=1.0)
  found.optim.update(name='asgd', learning_rate=2.0, clip_norm=0.5, nonmonotone=1)
  found.train.update(batch_size=2, window=6, window_spread=1.0, window_offset=True, epochs=3)
  return program.settle(found)


def runs(config, seeds=(0,)):
  of = [{'model.cell': cell, 'seed': seed} for cell in CELLS for seed in seeds]
  return sweep.expand(config, lambda add: [add(one) for one in of])


@pytest.fixture(scope='module')
def whole(config, tmp_path_factory):
  """Two uninterrupted runs."""
  workdir = tmp_path_factory.mktemp('whole')
  events = list(executors.get('serial')(runs(config), workdir, lambda: False))
  assert [event.kind for event in events].count('done') == 2
  return workdir


@pytest.mark.slow
def test_broken_off_anywhere_in_an_epoch_it_goes_on_to_the_same_bits(config, whole, tmp_path):
  """Including the carry in the middle of a stream."""
  draw = random.Random(0)
  for spec in runs(config):
    done, breaks = False, 0
    while not done:
      events = run.events(spec, tmp_path)
      left = draw.randint(1, 4)
      for event in events:
        done = event.kind == 'done'
        left -= 1
        if not done and not left:
          breaks += 1
          with pytest.raises(KeyboardInterrupt):
            events.throw(KeyboardInterrupt)
          break
    assert breaks > 3
  found = finals(tmp_path)
  assert found == finals(whole)
  assert any("['carry']" in name for *_, (_, arrays) in found.values() for name in arrays)


@pytest.mark.slow
def test_a_population_has_the_metrics_of_its_runs_by_themselves(config, whole, tmp_path):
  events = list(executors.get('population')(runs(config, (0, 1)), tmp_path, lambda: False))
  assert [event.kind for event in events].count('done') == 4
  found = finals(tmp_path)
  for name, (final, best, rows, _) in finals(whole).items():
    asked = [np.load(at / name / run_files.PREDICTIONS) for at in (whole, tmp_path)]
    np.testing.assert_allclose(*(of['context_nll'] for of in asked), rtol=1e-4)
    np.testing.assert_array_equal(*(of['sample'] for of in asked))
    assert found[name][0] == pytest.approx(final, rel=1e-4)
    assert found[name][1] == pytest.approx(best, rel=1e-4)
    assert [row['epoch'] for row in found[name][2]] == [row['epoch'] for row in rows]


@pytest.mark.parametrize('cell', CELLS)
def test_what_a_run_says_is_what_its_files_say_in_a_plain_loop(config, whole, cell):
  """From the files alone, the test text itself, and the equations, in float64."""
  (folder,) = whole.glob(f'cell-{cell}*')
  result = json.loads((folder / 'result.json').read_text())
  vocabulary = (folder / run_files.VOCABULARY).read_text().split()
  ids = {word: i for i, word in enumerate(vocabulary)}
  text = (whole / config.data.path / 'test.txt').read_text()
  targets = [ids[word] for line in text.splitlines() for word in (*line.split(), '<eos>')]
  params = jax.tree.map(lambda a: np.asarray(a, np.float64), files.load(folder / run_files.PARAMS))

  def loop(rows, anew):
    """The nll of rows of (input, target) pairs, with the carry reset where `anew` is true."""
    inputs, targets = np.moveaxis(rows, -1, 0)
    xs = params['embedding'][inputs]
    for layer in ('Recurrent_0', 'Recurrent_1'):
      zeros = np.zeros((len(xs), SIZES['model.hidden_size']))
      name, carry = ('lstm', (zeros, zeros)) if cell == 'lstm' else ('gru-after', (zeros,))
      _, xs = unroll(name, params[layer]['cell'], xs, carry, resets=anew)
    logits = xs @ params['output'] + params['output_bias']
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return -np.take_along_axis(log_p, targets[..., None], axis=-1)[..., 0]

  pairs = np.stack([[ids['<eos>'], *targets[:-1]], targets], axis=-1)
  nll = loop(pairs[None], np.zeros((1, len(pairs)), bool))[0]
  assert result['best']['test_loss'] == pytest.approx(nll.mean(), rel=1e-5)
  assert result['best']['test_perplexity'] == pytest.approx(np.exp(nll.mean()), rel=1e-5)
  bits = nll.sum() / np.log(2) / len(text)
  assert result['best']['test_bits_per_character'] == pytest.approx(bits, rel=1e-5)
  with np.load(folder / run_files.PREDICTIONS) as kept:
    np.testing.assert_allclose(kept['best'], nll, rtol=1e-4, atol=1e-5)
    assert kept['targets'].tolist() == targets
    assert kept['sample'].shape == (200,) and 0 <= kept['sample'].min() <= kept['sample'].max() < 14
    starts = np.linspace(0, len(pairs) - 200, len(pairs) // 200).astype(int)
    rows = np.stack([pairs[start : start + 200] for start in starts])
    assert kept['context_steps'].tolist() == [1, 2, 5, 10, 20, 50, 100, 200]
    for steps, found in zip(kept['context_steps'], kept['context_nll'], strict=True):
      anew = np.broadcast_to(np.arange(200) % steps == 0, rows.shape[:2])
      assert found == pytest.approx(loop(rows, anew).mean(), rel=1e-5)


@pytest.mark.parametrize(
  ('fields', 'words'),
  [
    ({'model.bidirectional': True}, 'must not see what comes next'),
    ({'model.tied': True, 'model.softmax': 'adaptive'}, 'give one of them'),
    ({'train.window': 0}, 'at least 1'),
    ({'train.window_spread': -1.0}, 'at least 0'),
  ],
)
def test_fields_that_do_not_go_together_are_refused(config, fields, words):
  with pytest.raises(ValueError, match=words):
    configs.change(ConfigDict(config), fields)


def test_a_text_shorter_than_a_batch_of_windows_is_told(config):
  varied = ConfigDict(config)
  varied.train.window = 4000
  with pytest.raises(DataError, match=r'(?s)2 streams of windows of 4002 steps.*train\.window'):
    program.prepare(varied)


@pytest.mark.slow
def test_the_report_shows_what_is_known_of_the_models_and_what_they_write(whole):
  told = report.write(whole)
  names = {drawing.name: drawing for drawing in told.drawings}
  for name in ('frequency_of_the_word', 'place_in_the_line', 'context'):
    assert 'GRU: Perplexity against' in names[f'perplexity_by_{name}'].alternative
  (texts,) = told.texts
  assert texts.title == 'Samples' and {group for group, _ in texts.groups} == {'LSTM', 'GRU'}
  page, lines = ((whole / file).read_text() for file in ('report.html', 'summary.md'))
  for group, text in texts.groups:
    (folder,) = whole.glob(f'cell-{group.lower()}*')
    with np.load(folder / run_files.PREDICTIONS) as kept:
      vocabulary = (folder / run_files.VOCABULARY).read_text().split()
      words = [vocabulary[i] for i in kept['sample']]
    assert text.split() == [word for word in words if word != '<eos>']
    assert text.count('\n') == words.count('<eos>')
    assert text.split('\n')[0] in page and text.split('\n')[0] in lines
  assert 'test tokens' in page and '50 stretches' in page
