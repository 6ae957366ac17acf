"""Training: every example once, the optimiser's steps as written out, resumable at any step."""

import functools
import itertools
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from programs import ROOT

import rnnlab
from rnnlab import cells, models
from rnnlab.data import batching, imdb
from rnnlab.runs import checkpoint
from rnnlab.tasks import classification
from rnnlab.training import optim, rows, train
from rnnlab.training.optim import Optimizer

N, T, BATCH = 150, 6, 4  # 38 steps per epoch, the last of 2 examples; over one chunk


def make(**fields):
  draw = np.random.default_rng(0)
  ids = jnp.asarray(draw.integers(1, 20, (N, T)), jnp.int32)
  labels = jnp.asarray(ids[:, 2] > 10, jnp.int32)
  options = {'cell': cells.get('gru', hidden_size=5), 'vocab_size': 20, 'embed_size': 4}
  model = models.SequenceClassifier(**(options | fields))
  return model, optax.adam(1e-2), {'inputs': ids, 'labels': labels}


@pytest.fixture(scope='module')
def plain():
  return make()


@pytest.fixture(scope='module')
def dropping():
  return make(dropout=0.3, recurrent_dropout=0.3)


@pytest.fixture(scope='module')
def averaging():
  """A falling rate, and an average from the first epoch's end on, as if that had been worse."""
  model, _, data = make(dropout=0.3)
  tx = optim.averaged(optim.plateau(Optimizer(*optax.adam(0.03)), 0.5, 1), 1)
  wanting = tx._replace(init=lambda params: tx.init(params)._replace(best=jnp.float32(jnp.inf)))
  return model, wanting, data


WIDTHS = (2, 3, 6)


def ragged(padding, rows=N, longest=T):
  """Rows of 1 to `longest` ids, and a row without ids; row i holds the id i + 1."""
  lengths = np.random.default_rng(1).integers(1, longest + 1, rows)
  lengths[1] = 0
  real = np.arange(T) < lengths[:, None]
  real = real[:, ::-1] if padding == 'pre' else real
  return lengths, jnp.asarray(np.where(real, np.arange(1, rows + 1)[:, None], 0), jnp.int32)


@functools.cache
def program(model, tx, widths=()):
  task = classification.task
  return train.Program(
    lambda _: (model, Optimizer(*tx)),
    task.loss,
    task.metrics,
    BATCH,
    widths,
    score=task.score,
  )


def start(model, tx, seed=0):
  return train.init_state(program(model, tx), {}, jax.random.key(seed), jnp.zeros((1, 2), int))


def fit(made, epochs, seed=0, state=None):
  model, tx, data = made
  state = start(model, tx, seed) if state is None else state
  of_run = program(model, tx), {}, state, jax.random.key(seed)
  return train.fit(*of_run, data, data, epochs=epochs)


def bits(state):
  return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def test_an_epoch_trains_every_example_once(plain):
  """With a learning rate of 0 the epoch's sums are the split's, whatever the order."""
  model, _, data = plain
  *_, last = fit((model, optax.sgd(0.0), data), 1)
  logits = model.apply({'params': last.state.params}, data['inputs'])
  loss = optax.sigmoid_binary_cross_entropy(logits, data['labels']).mean()
  assert last.row['train_accuracy'] == float(((logits > 0) == data['labels']).sum()) / N
  np.testing.assert_allclose(last.row['train_loss'], loss, rtol=1e-5)
  np.testing.assert_allclose(last.row['validation_loss'], loss, rtol=1e-5)


def test_the_order_is_a_new_permutation_each_epoch(plain):
  """A model that reveals the rows of its batches, over two epochs cut at odd places."""
  seen = []

  class Spy:
    def apply(self, variables, ids, **_):
      jax.debug.callback(lambda x: seen.append(np.asarray(x)), ids[:, 0], ordered=True)
      return ids[:, 0] * 0.0 + variables['params']

  ids = jnp.tile(jnp.arange(N)[:, None], (1, T))
  model, tx = Spy(), optax.sgd(0.0)
  state = start(plain[0], tx)._replace(
    params=jnp.zeros(()), best_params=jnp.zeros(()), opt_state=tx.init(jnp.zeros(()))
  )
  labels = jnp.zeros(N, jnp.int32)
  for count in (10, 28, 22, 16):  # cut anywhere, also within an epoch
    of_run = state, {}, jax.random.key(0)
    split = {'inputs': ids, 'labels': labels}
    state = train.train_steps(program(model, tx), *of_run, split, count)
  jax.effects_barrier()
  first, second = np.concatenate(seen[:38]), np.concatenate(seen[38:])
  assert sorted(first[:N]) == sorted(second[:N]) == list(range(N))
  assert list(first) != list(second) and list(first[:N]) != list(range(N))
  assert float(state.totals['loss'][1]) == 2 * N


def test_buckets_batch_rows_of_like_length_and_each_row_once(plain):
  """The same for rows of different lengths, with batches trimmed to the width they need."""
  seen = []

  class Spy:
    def apply(self, variables, ids, **_):
      jax.debug.callback(lambda x: seen.append(np.asarray(x)), ids, ordered=True)
      return ids.sum(axis=1) * variables['params']

  model, tx, key = Spy(), optax.sgd(1e-6), jax.random.key(0)
  labels = plain[2]['labels']
  first = start(plain[0], tx)
  first = first._replace(params=jnp.ones(()), best_params=jnp.ones(()), opt_state=tx.init(1.0))

  def run(ids, counts):
    seen.clear()
    state = jax.tree.map(jnp.copy, first)
    for count in counts:
      split = {'inputs': ids, 'labels': labels}
      state = train.train_steps(program(model, tx, WIDTHS), state, {}, key, split, count)
    jax.effects_barrier()
    return bits(state), float(state.totals['loss'][1]), list(seen)

  for padding in ('pre', 'post'):
    lengths, ids = ragged(padding)
    whole, count, batches = run(ids, (38, 38))
    assert count == 2 * N and run(ids, (10, 28, 1, 36, 1))[0] == whole
    orders = []
    for epoch in (batches[:38], batches[38:]):
      rows = np.concatenate([batch.max(axis=1) for batch in epoch]) - 1
      # The row without ids reads as -1; the two rows that fill up the last batch are row 0.
      assert sorted(rows) == sorted([-1, 0, 0, 0, *range(2, N)])
      assert sum((batch != 0).sum() for batch in epoch) == lengths.sum() + 2 * lengths[0]
      needed = [np.searchsorted(WIDTHS, (batch != 0).sum(axis=1)) for batch in epoch]
      assert [batch.shape[1] for batch in epoch] == [WIDTHS[max(n)] for n in needed]
      assert sum(min(n) < max(n) for n in needed) <= len(WIDTHS)  # at the edges, and the filled
      orders.append([max(n) for n in needed])
      assert orders[-1] != sorted(orders[-1])
    assert orders[0] != orders[1]


@pytest.mark.parametrize('cell', ['lstm', 'gru'])
def test_a_trimmed_batch_has_the_loss_and_gradients_of_the_padded(cell):
  """A row of weight 0 is short, or so long that nothing can be trimmed: it must not matter."""
  tx = Optimizer(*optax.sgd(1.0))
  labels, weights = jnp.array([1, 0, 1, 1]), jnp.array([1.0, 1.0, 1.0, 0.0])
  state = None
  for rate in (0.0, 0.3):
    options = {'cell': cells.get(cell, hidden_size=5), 'mask': True}
    model, _, _ = make(dropout=rate, recurrent_dropout=rate, **options)
    state = start(model, tx) if state is None else state
    step = jax.jit(functools.partial(train.train_step, program(model, tx, (3,)), model, tx))
    rest = {'labels': labels, 'weights': weights}
    for padding, longest in itertools.product(('pre', 'post'), (1, 3)):
      ids = ragged(padding, rows=4, longest=longest)[1]
      trimmed, padded = (
        step(state, jax.random.key(1), rest | {'inputs': ids.at[3].set(last)})
        for last in (ids[0], jnp.full(T, 7))
      )
      close(trimmed, padded)


def close(actual, expected):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), actual, expected
  )


def test_predictions_come_in_the_order_of_the_split_in_buckets_or_not():
  """For a split that does not fill a batch."""
  cell = cells.get('elman', hidden_size=5)
  options = {'mask': True, 'vocab_size': 800, 'bidirectional': True, 'pooling': 'concat'}
  model, tx, _ = make(cell=cell, **options)
  params = start(model, tx).params
  for padding in ('pre', 'post'):
    _, ids = ragged(padding, rows=3 * rows.EVAL_BATCH - 5)
    expected = model.apply({'params': params}, ids)
    assert len(set(np.asarray(expected))) > 300
    # Widths from a split whose rows are shorter, as a train split's may be.
    for widths in ((), WIDTHS[:2]):
      found = train.predict(program(model, tx, widths), params, {}, {'inputs': ids})
      np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_run_in_buckets_takes_the_widths_of_its_data(reviews, monkeypatch, tmp_path):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  config = runpy.run_path(str(ROOT / 'experiments' / 'imdb.py'))['get_config']('smoke')
  config.data.update(source='directory', dir=str(reviews), mask=True, buckets=2)
  config.model.update(cell='elman', hidden_size=3)
  config.train.epochs = 1
  seen = []
  trimmed = rows.trimmed

  def spy(function, ids, widths):
    seen.append(widths)
    return trimmed(function, ids, widths)

  monkeypatch.setattr(rows, 'trimmed', spy)
  run = rnnlab.run(config)
  lengths = (imdb.load(config.data).train.ids != 0).sum(axis=1)
  expected = batching.widths(lengths, 2)
  assert len(expected) == 2 and seen == [expected] * 3  # to train, validate, and test
  assert run.metrics[0]['step'] == 8


@pytest.mark.slow
def test_a_cell_of_a_notebook_runs_by_its_name_and_once_defined_anew_anew(
  reviews, monkeypatch, tmp_path
):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  monkeypatch.setattr(cells, '_added', {})
  config = runpy.run_path(str(ROOT / 'experiments' / 'imdb.py'))['get_config']('smoke')
  config.data.update(source='directory', dir=str(reviews))
  config.model.update(cell='leaky', hidden_size=3, leaky={'keep': 0.9})
  config.train.epochs = 1

  def run():
    return rnnlab.run(config).predictions['final']

  with pytest.raises(ValueError, match="'leaky'"):
    run()

  @cells.add
  def leaky(hidden_size, keep):
    elman = rnnlab.elman(hidden_size)

    def step(params, h, x_t, dot):
      h = keep * h + (1 - keep) * elman.step(params, h, x_t, dot)[0]
      return h, h

    return elman._replace(step=step)

  first = run()
  np.testing.assert_array_equal(run(), first)

  @cells.add
  def leaky(hidden_size, keep):  # noqa: F811
    return rnnlab.elman(hidden_size)

  again = run()
  config.model.cell = 'elman'
  np.testing.assert_array_equal(again, run())
  assert (again != first).any()


def test_a_step_is_the_gradient_step_of_its_batch(plain):
  model, _, data = plain
  ids, labels = data['inputs'], data['labels']
  tx = Optimizer(*optax.sgd(0.5))
  state = start(model, tx)
  weights = jnp.array([1.0, 1.0, 0.0])  # a partial batch: the third row only fills it up

  def mean_loss(params):
    logits = model.apply({'params': params}, ids[:2])
    return optax.sigmoid_binary_cross_entropy(logits, labels[:2]).mean()

  grads = jax.jit(jax.grad(mean_loss))(state.params)
  batch = {'inputs': ids[:3], 'labels': labels[:3], 'weights': weights}
  step = jax.jit(functools.partial(train.train_step, program(model, tx), model, tx))
  after = step(state, jax.random.key(1), batch)
  expected = jax.tree.map(lambda p, g: p - 0.5 * g, state.params, grads)
  close(after.params, expected)
  assert int(after.step) == 1 and float(after.totals['loss'][1]) == 2


def test_same_key_same_bits_other_key_other_bits(dropping):
  runs = [[bits(p.state) for p in fit(dropping, 1, seed)][-1] for seed in (0, 0, 1)]
  assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize('of', ['dropping', pytest.param('averaging', marks=pytest.mark.slow)])
def test_going_on_from_any_yield_gives_the_same_bits(of, request, tmp_path):
  """Through a checkpoint on disk, in the middle of an epoch and at its end."""
  made = model, tx, _ = request.getfixturevalue(of)
  whole = [(bits(p.state), p.row) for p in fit(made, 2)]
  assert [row is not None for _, row in whole] == [False, True, False, True]
  like = start(model, tx)
  for cut in range(3):
    steps = fit(made, 2)
    for _ in range(cut + 1):
      progress = next(steps)
    with checkpoint.manager(tmp_path / str(cut)) as checkpoints:
      checkpoint.save(checkpoints, progress.state, {'rows': [1]})
    with checkpoint.manager(tmp_path / str(cut)) as checkpoints:
      state, log = checkpoint.restore(checkpoints, like)
    assert log == {'rows': [1]} and bits(state) == whole[cut][0]
    assert [(bits(p.state), p.row) for p in fit(made, 2, state=state)] == whole[cut + 1 :]


def test_what_is_judged_and_kept_is_the_average_of_the_steps(averaging):
  """The optimiser receives each epoch's score once, and whether it is the best so far."""
  model, tx, data = averaging
  told = []

  def end_epoch(state, params, score, improved):
    jax.debug.callback(lambda *seen: told.append([*map(float, seen)]), score, improved)
    return tx.end_epoch(state, params, score, improved)

  kept, run = [], program(model, tx._replace(end_epoch=end_epoch))
  run = run._replace(metrics=run.metrics[::-1])  # by the loss, which is better when lower
  of_run = run, {}, start(model, tx), jax.random.key(0), data, data
  for progress in train.fit(*of_run, epochs=4):
    state, row = progress.state, progress.row
    if row:
      kept.append(jax.tree.map(np.array, tx.evaluated(state.params, state.opt_state)))
      logits = model.apply({'params': kept[-1]}, data['inputs'])
      loss = optax.sigmoid_binary_cross_entropy(logits, data['labels']).mean()
      np.testing.assert_allclose(row['validation_loss'], loss, rtol=1e-5)
      best = kept[int(state.best_epoch) - 1]
      jax.tree.map(np.testing.assert_array_equal, state.best_params, best)
      assert told[-1] == [pytest.approx(-row['validation_loss']), best is kept[-1]]
  assert len(told) == 4
  embeddings = [params['Embed_0']['embedding'] for params in (kept[-1], state.params)]
  assert np.abs(np.subtract(*embeddings)).max() > 1e-3
  last, _ = train.test(run, state, {}, data)
  close(last, model.apply({'params': kept[-1]}, data['inputs']))

  state, _, _ = train.close_epoch(run, start(model, tx), {}, data, 1)
  params = [jax.tree.map(np.array, state.params)]
  for count in (1, 1, 1):
    state = train.train_steps(run, state, {}, jax.random.key(0), data, count)
    params.append(jax.tree.map(np.array, state.params))
  mean = jax.tree.map(lambda *of: np.mean(of, axis=0), *params)
  close(tx.evaluated(state.params, state.opt_state), mean)


def test_the_best_epoch_is_the_first_with_the_highest_validation_accuracy(plain):
  model, _, data = plain
  states = [(p.row, p.state.params) for p in fit((model, optax.adam(0.1), data), 6) if p.row]
  *_, last = fit((model, optax.adam(0.1), data), 6)
  accuracies = [row['validation_accuracy'] for row, _ in states]
  best = int(np.argmax(accuracies))
  assert int(last.state.best_epoch) == best + 1 and min(accuracies) < max(accuracies)
  assert float(last.state.best_score) == pytest.approx(accuracies[best], rel=1e-6)


def test_the_best_epoch_is_the_first_of_the_best_in_the_metric_s_direction(plain):
  """By a loss: NaN is never better, and any number is better than NaN."""
  higher, lower = (classification.task.metrics[i] for i in (0, -1))
  curve = [np.nan, 3.0, 2.0, 4.0, 4.0, 2.0, np.nan]
  for metric, expected in ((higher, 4.0), (lower, 2.0)):
    best, at = np.nan, 0
    for i, value in enumerate(map(np.float32, curve)):
      if train.is_better(metric, value, best):
        best, at = value, i
    assert best == expected and at == curve.index(expected)

  model, _, data = plain
  metrics = classification.task.metrics[::-1]
  run = program(model, optax.adam(0.1))._replace(metrics=metrics)
  state = train.init_state(run, {}, jax.random.key(0), jnp.zeros((1, 2), int))
  *_, last = steps = list(train.fit(run, {}, state, jax.random.key(0), data, data, epochs=6))
  losses = [progress.row['validation_loss'] for progress in steps if progress.row]
  best = int(np.argmin(losses))
  assert int(last.state.best_epoch) == best + 1
  assert float(last.state.best_score) == pytest.approx(losses[best], rel=1e-6)


def test_a_loss_of_other_sums_than_the_metrics_is_told(plain):
  model, tx, data = plain
  run = program(model, tx)._replace(loss=lambda outputs, batch: {'lost': (outputs.sum(), 1.0)})
  state = train.init_state(run, {}, jax.random.key(0), jnp.zeros((1, 2), int))
  with pytest.raises(ValueError, match=r"sums \['lost'\]: there must be one for 'loss'"):
    next(train.fit(run, {}, state, jax.random.key(0), data, data, epochs=1))
  run = program(model, tx)._replace(score=None)
  words = r"by its loss, which gives \['accuracy', 'loss'\], or by its score, which gives \[\]"
  with pytest.raises(ValueError, match=words):
    list(train.fit(run, {}, state, jax.random.key(0), data, data, epochs=1))


def test_it_learns(plain):
  *_, last = fit(plain, 16)
  assert last.row['validation_accuracy'] > 0.95


def test_a_diverging_loss_is_told_with_its_step(plain):
  model, _, data = plain
  with pytest.raises(train.NonFiniteLoss, match=r'at step [1-9]\d* \(epoch 1\).*learning_rate'):
    list(fit((model, optax.sgd(1e38), data), 1))


def test_bad_parameters_are_told_apart_from_divergence(plain):
  model, tx, _ = plain
  state = start(model, tx)
  state = state._replace(params=jax.tree.map(lambda p: p * jnp.nan, state.params))
  with pytest.raises(train.NonFiniteLoss, match='step 0.*before any update'):
    list(fit(plain, 1, state=state))


def test_two_checkpoints_are_kept_and_a_damaged_one_is_passed_over(plain, tmp_path, caplog):
  model, tx, _ = plain
  like = start(model, tx)
  with checkpoint.manager(tmp_path) as checkpoints:
    for step in (1, 2, 3):
      checkpoint.save(checkpoints, like._replace(step=jnp.int32(step)), {'rows': [step]})
    assert sorted(checkpoints.all_steps()) == [2, 3]
  for path in (tmp_path / '3').rglob('*'):
    if path.is_file():
      path.write_bytes(b'')
  with checkpoint.manager(tmp_path) as checkpoints:
    state, log = checkpoint.restore(checkpoints, like)
  assert int(state.step) == 2 and log == {'rows': [2]}
  for path in (tmp_path / '2').rglob('*'):
    if path.is_file():
      path.unlink()
  with checkpoint.manager(tmp_path) as checkpoints:
    assert checkpoint.restore(checkpoints, like) is None
