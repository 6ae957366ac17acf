"""Music: likelihoods and notes against loops in float64, cuts, and weight noise."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnlab
from rnnlab import tasks
from rnnlab.data import DataError, rolls
from rnnlab.runs import configs, program
from rnnlab.tasks import music
from rnnlab.training import optim, train

JSB = pathlib.Path(__file__).parents[3] / 'shared' / 'data' / 'music' / 'JSB_Chorales.mat'


def config_of(**fields):
  config = configs.default('music')
  config.model.update(cell='gru', hidden_size=6)
  config.data.source = 'drawn'
  config.optim.update(name='rmsprop', learning_rate=0.02, weight_noise=0.01, clip_norm=1.0)
  config.train.update(batch_size=5, epochs=3)
  config.update_from_flattened_dict(fields)
  return configs.check(config)


def loaded(**fields):
  return music.load(program.data_of(config_of(**fields)))


@pytest.fixture(scope='module')
def trained():
  return rnnlab.run(config_of())


def by_hand(params, piece):
  """(nll of each frame, correct notes, wrong or missed ones) of a piece, by loops in float64.

  The GRU is that of Cho et al. (2014), the reset gate after the product, as in Keras.
  """
  cell = {k: np.asarray(v, np.float64) for k, v in params['Recurrent_0']['cell'].items()}
  head = {k: np.asarray(v, np.float64) for k, v in params['Dense_0'].items()}
  h = np.zeros(6)
  frame, nlls, right, wrong = np.zeros(rolls.KEYS), [], 0, 0
  for notes in piece:
    x_r, x_z, x_n = np.split(frame @ cell['w_x'] + cell['b'], 3)
    h_r, h_z, h_n = np.split(h @ cell['w_h'], 3)
    r, z = 1 / (1 + np.exp(-x_r - h_r)), 1 / (1 + np.exp(-x_z - h_z))
    h = z * h + (1 - z) * np.tanh(x_n + r * (h_n + cell['b_hn']))
    logits = h @ head['kernel'] + head['bias']
    nll = 0.0
    for logit, note in zip(logits, notes, strict=True):
      p = 1 / (1 + np.exp(-logit))
      nll -= np.log(p if note else 1 - p)
      right += bool(note and p > 0.5)
      wrong += bool((p > 0.5) != bool(note))
    nlls.append(nll)
    frame = notes.astype(np.float64)
  return nlls, right, wrong


def test_metrics_are_those_of_loops_over_pieces_frames_and_keys(trained):
  pieces = rolls.drawn(music.DRAWN['test'], 24, seed=2)
  found = [by_hand(trained.params, piece) for piece in pieces]
  frames = [nll for nlls, *_ in found for nll in nlls]
  right, wrong = (sum(of[i] for of in found) for i in (1, 2))
  result = trained.result['final']
  assert result['test_nll'] == pytest.approx(np.mean(frames), rel=1e-4)
  assert result['test_loss'] == result['test_nll']
  pieces_mean = np.mean([np.mean(nlls) for nlls, *_ in found])
  assert result['test_piece_nll'] == pytest.approx(pieces_mean, rel=1e-4)
  assert result['test_frame_accuracy'] == pytest.approx(right / (right + wrong), rel=1e-4)
  assert trained.predictions['final'].shape == (8, max(map(len, pieces)), 3)


def test_a_loss_counts_rows_by_their_weights_and_notes_of_all_rows_together():
  outputs = np.zeros((3, 2, 3), np.float32)
  outputs[0, 0], outputs[1], outputs[2] = (6, 1, 3), ((1, 2, 0), (2, 0, 1)), 100
  batch = {'inputs': {'lengths': np.array([1, 2, 2])}, 'weights': np.array([1.0, 1, 0])}
  sums = {name: [float(x) for x in of] for name, of in music.loss(outputs, batch).items()}
  assert sums['nll'] == sums['loss'] == [9, 3]
  assert sums['piece_nll'] == [7.5, 2]
  assert sums['frame_accuracy'] == [3, 7]


def test_training_learns_which_keys_are_played(trained):
  first, last = trained.metrics[0], trained.metrics[-1]
  assert last['validation_nll'] < 0.8 * first['train_nll']


def test_long_pieces_are_cut_for_training_alone_each_after_the_frame_before():
  whole, cut = loaded(), loaded(**{'data.max_len': 7})
  np.testing.assert_array_equal(
    whole.splits['test']['inputs']['rolls'], cut.splits['test']['inputs']['rolls']
  )
  pieces = rolls.drawn(music.DRAWN['train'], 24, seed=0)
  inputs, row = cut.splits['train']['inputs'], 0
  for piece in pieces:
    before, joined = np.zeros(rolls.KEYS), []
    while sum(map(len, joined)) < len(piece):
      length = inputs['lengths'][row]
      np.testing.assert_array_equal(inputs['rolls'][row, 0], before)
      joined.append(inputs['rolls'][row, 1 : length + 1])
      assert not inputs['rolls'][row, length + 1 :].any()
      before, row = joined[-1][-1], row + 1
    np.testing.assert_array_equal(np.concatenate(joined), piece)
  assert row == len(inputs['lengths'])


def test_pieces_without_splits_are_cut_into_three(tmp_path):
  pieces = rolls.drawn(20, 8, seed=5)
  np.savez(tmp_path / 'a.npz', x=np.concatenate(pieces), lengths=[*map(len, pieces)])
  data = loaded(**{'data.source': 'file', 'data.path': str(tmp_path / 'a.npz')})
  counts = {name: len(split['inputs']['lengths']) for name, split in data.splits.items()}
  assert counts == {'train': 12, 'validation': 4, 'test': 4}


def test_what_cannot_be_is_said():
  with pytest.raises(DataError, match='give rolls'):
    loaded(**{'data.source': 'file'})
  with pytest.raises(DataError, match='a.mat is not read: data.source is drawn'):
    loaded(**{'data.path': 'a.mat'})
  with pytest.raises(ValueError, match='must not see later frames'):
    config_of(**{'model.bidirectional': True})


def test_weight_noise_is_normal_anew_for_each_key_and_off_at_0():
  config = config_of(**{'optim.weight_noise': 0.075}).optim
  params = {'w': jnp.ones((300, 200)), 'b': jnp.zeros(50_000)}
  tx = optim.optimizer(config, 10)
  found, again, other = (tx.perturbed(params, jax.random.key(seed)) for seed in (0, 0, 1))
  for name in params:
    noise = np.asarray(found[name] - params[name], np.float64)
    assert abs(noise.mean()) < 1e-3 and noise.std() == pytest.approx(0.075, rel=0.02)
    np.testing.assert_array_equal(found[name], again[name])
    assert (found[name] != other[name]).mean() > 0.99
  noise = [np.ravel(found[name] - params[name])[:50_000] for name in params]
  assert abs(np.corrcoef(*noise)[0, 1]) < 0.02
  config.weight_noise = 0.0
  assert optim.optimizer(config, 10).perturbed(params, jax.random.key(0)) is params


def test_gradients_are_taken_at_the_noisy_parameters_and_step_the_others():
  """A step of SGD by hand."""
  config = config_of(**{'optim.name': 'sgd', 'optim.clip_norm': 0.0, 'optim.weight_noise': 0.5})
  shared = program.prepare(config)
  start = program.begin(shared, config)
  model, tx = shared.program.build(start.values)
  batch = {**shared.splits['train'], 'weights': jnp.ones(24)}
  key = jax.random.key(7)

  def mean(params):
    total, count = music.loss(model.apply({'params': params}, batch['inputs']), batch)['loss']
    return total / count

  gradient = jax.grad(mean)(tx.perturbed(start.state.params, key))
  expected = jax.tree.map(lambda p, g: p - 0.02 * g, start.state.params, gradient)
  found = train.train_step(shared.program, model, tx, start.state, key, batch).params
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)


@pytest.mark.skipif(not JSB.exists(), reason=f'the JSB chorales are not at {JSB}')
def test_the_chorales_are_read_as_they_were_published():
  data = loaded(**{'data.source': 'file', 'data.path': str(JSB)})
  lengths = {name: split['inputs']['lengths'] for name, split in data.splits.items()}
  assert {name: len(of) for name, of in lengths.items()} == {
    'train': 229,
    'validation': 76,
    'test': 77,
  }
  assert {name: of.sum() for name, of in lengths.items()} == {
    'train': 13807,
    'validation': 4602,
    'test': 4725,
  }
  assert tasks.find('music').metrics[0].name == 'nll'
