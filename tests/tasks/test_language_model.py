"""Language models as whole runs: broken off and gone on with, stored, and refused."""

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
  """Of windows of several lengths, dropout of all kinds, and an average of the steps."""
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
  """Two runs that nothing breaks off."""
  workdir = tmp_path_factory.mktemp('whole')
  events = list(executors.get('serial')(runs(config), workdir, lambda: False))
  assert [event.kind for event in events].count('done') == 2
  return workdir


def test_broken_off_anywhere_in_an_epoch_it_goes_on_to_the_same_bits(config, whole, tmp_path):
  """The carry, in the middle of a stream, with it."""
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


def test_a_population_has_the_metrics_of_its_runs_by_themselves(config, whole, tmp_path):
  events = list(executors.get('population')(runs(config, (0, 1)), tmp_path, lambda: False))
  assert [event.kind for event in events].count('done') == 4
  found = finals(tmp_path)
  for name, (final, best, rows, _) in finals(whole).items():
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
  xs = params['embedding'][[ids['<eos>'], *targets[:-1]]][None]
  for layer in ('Recurrent_0', 'Recurrent_1'):
    zeros = np.zeros((1, SIZES['model.hidden_size']))
    name, carry = ('lstm', (zeros, zeros)) if cell == 'lstm' else ('gru-after', (zeros,))
    _, xs = unroll(name, params[layer]['cell'], xs, carry)
  logits = xs[0] @ params['output'] + params['output_bias']
  log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
  nll = -log_p[np.arange(len(targets)), targets]
  assert result['best']['test_loss'] == pytest.approx(nll.mean(), rel=1e-5)
  assert result['best']['test_perplexity'] == pytest.approx(np.exp(nll.mean()), rel=1e-5)
  bits = nll.sum() / np.log(2) / len(text)
  assert result['best']['test_bits_per_character'] == pytest.approx(bits, rel=1e-5)
  with np.load(folder / run_files.PREDICTIONS) as kept:
    np.testing.assert_allclose(kept['best'], nll, rtol=1e-4, atol=1e-5)
    assert kept['targets'].tolist() == targets


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
