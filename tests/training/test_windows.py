"""Windows of a stream: how they are cut, and evaluation against a plain loop in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from reference import unroll

from rnnlab import cells, models
from rnnlab.data import DataError
from rnnlab.tasks import language_model
from rnnlab.training import train, windows
from rnnlab.training.optim import Optimizer
from rnnlab.training.windows import Windows


def stream(size, vocab=7, seed=0):
  """A stream of tokens that follow each other by a rule, some of the time."""
  draw = np.random.default_rng(seed)
  targets = draw.integers(0, vocab, size)
  targets[1::2] = (targets[::2][: size // 2] + 1) % vocab
  inputs = np.concatenate([[0], targets[:-1]])
  return {'inputs': inputs.astype(np.int32), 'targets': targets.astype(np.int32)}


def model_of(cell, layers=2, **options):
  return models.LanguageModel(
    cells=(cell,) * layers, vocab_size=7, embed_size=5, init_scale=0.8, **options
  )


CELLS = {
  'elman': cells.get('elman', hidden_size=4),
  'lstm': cells.get('lstm', hidden_size=4, forget_bias=3.0),
  'gru-after': cells.get('gru', hidden_size=4),
}


def expected(name, params, split):
  """The negative log-likelihood of each target, by a loop over the whole stream."""
  params = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
  xs = params['embedding'][split['inputs']][None]
  for layer in ('Recurrent_0', 'Recurrent_1'):
    zeros = np.zeros((1, 4))
    carry = (zeros, zeros) if name == 'lstm' else (zeros,)
    _, xs = unroll(name, params[layer]['cell'], xs, carry)
  logits = xs[0] @ params['output'] + params['output_bias']
  logits -= logits.max(axis=1, keepdims=True)
  log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
  return -log_p[np.arange(len(log_p)), split['targets']]


@pytest.mark.parametrize(
  ('name', 'size'),
  [
    pytest.param('elman', 1, marks=pytest.mark.slow),
    pytest.param('gru-after', 64, marks=pytest.mark.slow),
    pytest.param('lstm', 63, marks=pytest.mark.slow),
    ('lstm', 500),
  ],
)
def test_a_stream_is_evaluated_as_a_whole(name, size, monkeypatch):
  split, model = stream(size), model_of(CELLS[name])
  params = jax.jit(model.init)(jax.random.key(0), windows.example(split))['params']
  desired = expected(name, params, split)
  for streams, steps, warm in ((64, 64, 8), (5, 7, 1), (40, 2, 1)):
    monkeypatch.setattr(windows, 'STREAMS', streams)
    monkeypatch.setattr(windows, 'STEPS', steps)
    monkeypatch.setattr(windows, 'WARM', warm)
    found = windows.predict(model, params, split)
    np.testing.assert_allclose(found, desired, rtol=2e-5, atol=2e-5)


def test_a_carry_that_remembers_all_is_followed_to_the_end(monkeypatch):
  """A sum of all inputs forgets nothing: no part can be guessed from the positions before it."""

  def initial_carry(batch_shape, dtype):
    return jnp.zeros((*batch_shape, 1), dtype)

  def step(params, carry, x_t, dot):
    carry = carry + dot(params['w'], x_t)
    return carry, carry

  def init(key, input_size):
    return {'w': jnp.ones((input_size, 1)) / 100}

  counter = cells.Cell(init, initial_carry, step, name='counter')
  split = stream(400)
  model = models.LanguageModel(cells=(counter,), vocab_size=7, embed_size=5)
  params = jax.jit(model.init)(jax.random.key(0), windows.example(split))['params']
  monkeypatch.setattr(windows, 'STEPS', 8)
  found = windows.predict(model, params, split)
  h = np.cumsum(np.asarray(params['embedding'], np.float64)[split['inputs']].sum(axis=1)) / 100
  logits = h[:, None] * np.asarray(params['output'])[0] + np.asarray(params['output_bias'])
  desired = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(400), split['targets']]
  np.testing.assert_allclose(found, desired, rtol=1e-5)


def test_windows_follow_each_other_in_each_of_the_streams():
  split = {'inputs': np.arange(103, dtype=np.int32)}
  starts, lengths = windows.cuts(Windows(5), jax.random.key(0), 0, 103, 4)
  assert starts.tolist() == [0, 5, 10, 15, 20] and lengths.tolist() == [5] * 5
  for start in starts:
    batch = windows.window(split, 4, 5, start, 5)
    assert batch['inputs'].tolist() == [[25 * b + start + t for t in range(5)] for b in range(4)]
    assert batch['weights'].tolist() == [[1.0] * 5] * 4


def test_lengths_and_offsets_are_drawn_for_each_epoch():
  cut, key = Windows(20, spread=3.0, halved=0.25, offset=True), jax.random.key(0)
  drawn = [windows.cuts(cut, key, epoch, 100_000, 4) for epoch in (0, 1)]
  again = windows.cuts(cut, key, 1, 100_000, 4)
  assert (again[0] == drawn[1][0]).all() and (drawn[0][0][0] != drawn[1][0][0])
  for starts, lengths in drawn:
    assert (np.diff(starts) == lengths[:-1]).all()
    assert 4 <= lengths.min() and lengths.max() <= cut.width == 26
    assert np.mean(lengths < 17) == pytest.approx(0.25 + 0.75 * 0.12, abs=0.03)
    assert lengths.sum() == pytest.approx(25_000, rel=0.02)
  split = {'inputs': np.arange(40, dtype=np.int32)}
  batch = windows.window(split, 2, 8, 17, 6)
  assert batch['inputs'].tolist() == [[17, 18, 19, 20, 21, 22, 23, 24], [37, 38, 39, *range(5)]]
  assert batch['weights'].tolist() == [[1.0] * 6 + [0.0] * 2] * 2


def test_a_corpus_shorter_than_a_batch_is_told():
  with pytest.raises(DataError, match=r'99 tokens: 4 streams of windows of 25 steps need .* 100'):
    windows.epoch_steps(99, 4, Windows(25))
  assert windows.epoch_steps(100, 4, Windows(25)) == 1


@pytest.mark.parametrize('options', [{}, {'tied': True, 'embed': 4}, {'alpha': 2.0, 'beta': 1.0}])
def test_the_loss_of_a_window_and_its_gradient(options):
  """Against the same equations in float64, by complex steps."""
  options = dict(options)
  embed = options.pop('embed', 5)
  model = models.LanguageModel(
    cells=(CELLS['lstm'],) * 2, vocab_size=7, embed_size=embed, init_scale=0.8, **options
  )
  split = stream(40)
  batch = windows.window(split, 2, 6, 3, 5)
  batch |= {'characters': jnp.ones((2, 6), jnp.int32)}
  variables = jax.jit(model.init)(jax.random.key(1), batch)
  carry = jax.tree.map(lambda a: a + 0.3, model.initial_carry(2))

  def objective(params):
    outputs, _ = model.apply({'params': params}, batch, carry, deterministic=False)
    total, count = language_model.loss(outputs, batch)['objective']
    return total / count

  def desired(flat):
    params = jax.tree.unflatten(tree, flat)
    first = params['embedding']
    xs = first[..., batch['inputs'], :]
    for layer in ('Recurrent_0', 'Recurrent_1'):
      start = tuple(np.full((2, 4), 0.3) for _ in range(2))
      _, xs = unroll('lstm', params[layer]['cell'], xs, start)
    w = np.swapaxes(first, -1, -2) if options.get('tied') else params['output']
    logits = xs @ w[..., None, :, :] + params['output_bias'][..., None, None, :]
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    targets = np.broadcast_to(np.asarray(batch['targets'])[..., None], (*log_p.shape[:-1], 1))
    nll = -np.take_along_axis(log_p, targets, axis=-1)[..., 0]
    weights = np.asarray(batch['weights'], np.float64)
    value = (weights * nll).sum(axis=(-1, -2)) / weights.sum()
    if 'alpha' in options:
      value = value + 2 * (weights[..., None] * xs**2).sum(axis=(-1, -2, -3)) / weights.sum() / 4
      change, on = xs[..., 1:, :] - xs[..., :-1, :], weights[:, 1:]
      value = value + (on[..., None] * change**2).sum(axis=(-1, -2, -3)) / on.sum() / 4
    return value

  params = variables['params']
  flat, tree = jax.tree.flatten(jax.tree.map(lambda a: np.asarray(a, np.float64), params))
  value, grads = jax.value_and_grad(objective)(params)
  np.testing.assert_allclose(value, desired(flat), rtol=1e-5)
  by_place = dict(enumerate(flat))
  wanted = reference.gradients(lambda p: desired([p[i] for i in range(len(flat))]), by_place)
  for i, found in enumerate(jax.tree.leaves(grads)):
    np.testing.assert_allclose(found, wanted[i], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_windows_of_many_lengths_go_on_where_the_last_one_ended_with_steps_as_long():
  """Merity et al. 2018, section 5: the rate is scaled by the window's length."""
  cut, split, batch_size = Windows(6, spread=1.5, halved=0.4, offset=True), stream(200), 3
  split |= {'characters': np.ones(200, np.int32)}
  model, task = model_of(CELLS['lstm']), language_model.task
  key, tx = jax.random.key(0), Optimizer(*optax.sgd(1.0))

  def trained(tx, count):
    made = functools.partial(train.Program, lambda _: (model, tx), task.loss, task.metrics)
    program = made(batch_size, windows=cut)
    start = train.init_state(program, {}, key, windows.example(split))
    return start, train.train_steps(program, jax.tree.map(jnp.copy, start), {}, key, split, count)

  order_key, _ = jax.random.split(jax.random.fold_in(key, 1))
  starts, lengths = windows.cuts(cut, order_key, 0, 200, batch_size)
  assert len({*lengths.tolist()}) > 3
  places = np.arange(batch_size)[:, None] * 66 + np.arange(starts[0], starts[-1] + lengths[-1])
  start, end = trained(Optimizer(*optax.sgd(0.0)), len(starts))
  params = jax.tree.map(lambda a: np.asarray(a, np.float64), start.params)
  xs = params['embedding'][split['inputs'][places % 198]]
  for layer, found in zip(('Recurrent_0', 'Recurrent_1'), end.carry, strict=True):
    carry, xs = unroll('lstm', params[layer]['cell'], xs, (np.zeros((3, 4)),) * 2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), tuple(found), carry)

  def mean(params):
    first = {name: array[places[:, : lengths[0]] % 198] for name, array in split.items()}
    return model.apply({'params': params}, first | {'weights': np.ones_like(first['inputs'])})[
      0
    ].mean()

  _, after = trained(tx, 1)
  share = lengths[0] / 6
  assert share != 1
  desired = jax.tree.map(lambda p, g: p - share * g, start.params, jax.grad(mean)(start.params))
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
  jax.tree.map(close, after.params, desired)
