"""One run on several devices: the same values and gradients, each device with its part."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P
from programs import few_cells

import rnnlab
from rnnlab import cells, models, recurrence
from rnnlab.machine import devices
from rnnlab.tasks import classification, language_model
from rnnlab.training import train, windows
from rnnlab.training.optim import Optimizer

B, T, D, H = 4, 7, 3, 5


@pytest.fixture(scope='module')
def mesh():
  assert jax.device_count() == 2
  return devices.mesh()


def close(a, b, rtol):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol), a, b)


@pytest.mark.parametrize(('masked', 'dropout'), [(False, False), (True, True)])
@pytest.mark.parametrize('name', few_cells(cells.names()))
def test_values_and_gradients_are_those_of_one_device(name, masked, dropout, mesh):
  cell = cells.get(name, hidden_size=H)
  keys = jax.random.split(jax.random.key(0), 5)
  params = cell.init(keys[0], D), cell.init(keys[1], D)
  xs = jax.random.normal(keys[2], (B, T, D))
  weights = jax.random.normal(keys[3], (B, T, 2 * H))
  lengths = jnp.array([7, 0, 3, 5]) if masked else None
  draw = functools.partial(recurrence.dropout_masks, rate=0.3, recurrent_rate=0.3, per_gate=True)
  masks = tuple(draw(keys[4], cell, p, B, D) if dropout else None for p in params)

  def loss(params, xs, masks):
    carry, ys = rnnlab.bidirectional(cell, params, xs, lengths=lengths, dropout=masks)
    return jnp.sum(ys * weights) + sum(map(jnp.sum, jax.tree.leaves(carry))), ys

  def run():
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(params, xs, masks)

  (_, ys), grads = one = run()
  with jax.set_mesh(mesh):
    (_, ys), grads = two = run()
  close(one, two, 1e-5)
  for split in (ys, grads[1]):
    assert [s.data.shape[0] for s in split.addressable_shards] == [B // 2] * 2


def test_a_batch_that_cannot_be_halved_is_not(mesh):
  cell = cells.get('gru', hidden_size=H)
  params = cell.init(jax.random.key(0), D)
  xs = jax.random.normal(jax.random.key(1), (3, T, D))
  run = jax.jit(lambda: rnnlab.unroll(cell, params, xs))
  one = run()
  with jax.set_mesh(mesh):
    close(one, run(), 1e-6)


def test_under_vmap_and_within_a_shard_map_of_the_users(mesh):
  cell = cells.get('lstm', hidden_size=H)
  params = cell.init(jax.random.key(0), D)
  xs = jax.random.normal(jax.random.key(1), (3, B, T, D))

  def run(xs):
    return rnnlab.unroll(cell, params, xs)[1]

  one = jax.vmap(run)(xs)
  with jax.set_mesh(mesh):
    close(one, jax.jit(jax.vmap(run))(xs), 1e-6)
    own = jax.shard_map(run, in_specs=P('batch'), out_specs=P('batch'), check_vma=False)
    close(one[0], jax.jit(own)(xs[0]), 1e-6)


@pytest.mark.slow
def test_training_is_that_of_one_device_and_splits_the_embedding(mesh, monkeypatch):
  monkeypatch.setattr(devices, 'LARGE', 20 * 4)
  draw = np.random.default_rng(0)
  ids = draw.integers(0, 20, (50, T)).astype(np.int32)
  data = {'inputs': ids, 'labels': (ids[:, 2] > 10).astype(np.int32)}
  model = models.SequenceClassifier(
    cells.get('gru', hidden_size=H),
    vocab_size=20,
    embed_size=4,
    mask=True,
    embed_dropout=0.2,
    dropout=0.2,
    recurrent_dropout=0.2,
  )
  tx, key = Optimizer(*optax.adam(1e-2)), jax.random.key(3)
  task = classification.task
  program = train.Program(
    lambda _: (model, tx), task.loss, task.metrics, 8, widths=(4,), score=task.score
  )

  def trained():
    state = devices.place(train.init_state(program, {}, key, ids[:1]))
    split = devices.place(data)
    # A last batch of 2 rows and a width to trim to, so that every kind of step occurs.
    steps = train.fit(program, {}, state, key, split, split, epochs=2)
    seen = [(p.row, p.state, jax.tree.map(np.asarray, p.state.params)) for p in steps]
    return seen, seen[-1][1].params['Embed_0']['embedding']

  one, _ = trained()
  before = train.train_steps._cache_size()
  with jax.set_mesh(mesh):
    two, embedding = trained()
    assert embedding.sharding.spec == P(None, 'batch')
    assert [s.data.shape for s in embedding.addressable_shards] == [(20, 2)] * 2
    # The state comes out split as it went in, so that one program serves all steps.
    assert train.train_steps._cache_size() == before + 1
  assert len(one) == 2
  for (row, _, params), (row_2, _, params_2) in zip(one, two, strict=True):
    close(params, params_2, 1e-4)
    np.testing.assert_allclose(row['validation_loss'], row_2['validation_loss'], rtol=1e-4)


@pytest.mark.parametrize('tied', [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_language_model_is_that_of_one_device_and_its_vocabulary_stays_split(
  tied, mesh, monkeypatch
):
  size = 340
  monkeypatch.setattr(devices, 'LARGE', size * 4)
  draw = np.random.default_rng(0)
  stream = {'inputs': draw.integers(0, size, 400).astype(np.int32)}
  stream |= {'targets': np.roll(stream['inputs'], -1), 'characters': np.ones(400, np.int32)}
  model = models.LanguageModel(
    (cells.get('gru', hidden_size=6), cells.get('lstm', hidden_size=4)),
    vocab_size=size,
    embed_size=4,
    tied=tied,
    embed_dropout=0.2,
  )
  tx, key = Optimizer(*optax.adam(1e-2)), jax.random.key(3)
  task = language_model.task
  program = train.Program(
    lambda _: (model, tx), task.loss, task.metrics, 4, windows=windows.Windows(T)
  )

  def trained():
    split = devices.place(stream)
    state = train.init_state(program, {}, key, windows.example(stream))
    state = devices.place(state)
    steps = train.fit(program, {}, state, key, split, split, epochs=2)
    seen = [(p.row, p.state, jax.tree.map(np.asarray, p.state.params)) for p in steps if p.row]
    return seen, seen[-1][1], split

  one, _, _ = trained()
  before = train.train_steps._cache_size()
  with jax.set_mesh(mesh):
    two, state, placed = trained()
    split = P('batch') if tied else P(None, 'batch')
    moments = state.opt_state[0]
    for tree in (state.params, state.best_params, moments.mu, moments.nu):
      assert tree['embedding'].sharding.spec == split
      assert tied or tree['output'].sharding.spec == P(None, 'batch')
      assert tree['output_bias'].sharding.spec == P('batch')
    assert train.train_steps._cache_size() == before + 1
    text = train.train_steps.lower(program, state, {}, key, placed, 1).compile().as_text()
  # At no step do the devices exchange an array as long as the vocabulary, or half as long.
  moved = re.findall(r'= (.*) (?:all-gather|all-to-all|all-reduce|collective-permute)\(', text)
  assert moved and not re.search(rf'\b({size}|{size // 2})\b', ' '.join(moved))
  for (row, _, params), (row_2, _, params_2) in zip(one, two, strict=True):
    close(params, params_2, 1e-4)
    np.testing.assert_allclose(row['validation_loss'], row_2['validation_loss'], rtol=1e-4)


def test_a_run_on_one_core_of_several_says_so(monkeypatch):
  monkeypatch.setattr(devices.os, 'cpu_count', lambda: 2)
  for cores, words in (([1], '1 core of 2'), ([0, 1], '2 cores')):
    monkeypatch.setattr(devices.provenance, 'cores', lambda cores=cores: cores)
    assert devices.provenance.device().endswith(words)


def test_where_jax_has_computed_already_its_devices_are_said_to_stay(monkeypatch, caplog):
  monkeypatch.setattr(devices.provenance, 'cores', lambda: [0, 1, 2])
  jnp.zeros(1).block_until_ready()
  devices.use_cores()
  assert 'keeps its devices: 2' in caplog.text and 'JAX_NUM_CPU_DEVICES=3' in caplog.text


def test_a_platform_that_does_not_exist_is_told_in_words(monkeypatch):
  def none():
    raise RuntimeError("Unable to initialize backend 'nonsense'\nand more")

  monkeypatch.setattr(jax, 'default_backend', none)
  with pytest.raises(ValueError, match="nothing to compute on: Unable to .* 'nonsense'$"):
    devices.mesh()
