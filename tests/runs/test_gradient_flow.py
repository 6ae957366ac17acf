"""How far gradients reach in a run: the numbers by another way, and the training as without."""

import functools
import random

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

import rnnlab
from rnnlab import tasks
from rnnlab.models import flow as of_model
from rnnlab.runs import configs, program, run
from rnnlab.runs import folder as run_files
from rnnlab.training import flow


@pytest.fixture(autouse=True, scope='module')
def cache(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
    yield


def config_of(task, path, **fields):
  config = configs.default(task)
  config.model.update(cell='gru', hidden_size=5)
  config.train.update(batch_size=8, epochs=2, gradient_flow=True)
  config.data.path = str(path)
  config.update_from_flattened_dict(fields)
  return configs.check(config)


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  """The data of each task, of sequences whose lengths differ."""
  folder, draw = tmp_path_factory.mktemp('data'), np.random.default_rng(0)
  x, lengths = draw.normal(size=(60, 9, 2)), draw.integers(4, 10, 60)
  of = {'classification': x[:, 0, 0] > 0, 'regression': x.sum((1, 2)), 'tagging': x[:, :, 0] > 0}
  for task, y in of.items():
    np.savez(
      folder / f'{task}.npz',
      x=x,
      y=y.astype(float if task == 'regression' else int),
      lengths=lengths,
    )
  words = random.Random(0).choices('abcdef', k=1200)
  for name, part in (('train', words[:800]), ('valid', words[800:1000]), ('test', words[1000:])):
    (folder / f'{name}.txt').write_text(' '.join(part) + '\n')
  return {task: folder / f'{task}.npz' for task in of} | {'language_model': folder}


MORE = {
  'classification': {'model.layers': 2},
  'regression': {'model.cell': 'lstm', 'model.bidirectional': True},
  'tagging': {},
  'language_model': {'model.embed_size': 4, 'model.layers': 2, 'train.window': 7},
}


@pytest.fixture(scope='module', params=MORE)
def done(request, written):
  """A run that keeps how far gradients reach, and its config."""
  config = config_of(request.param, written[request.param], **MORE[request.param])
  return rnnlab.run(config), config


def test_the_norms_are_those_of_a_loss_of_what_comes_after_a_step(done):
  """By jax.grad of the model, of which the last layer goes on from a step's state that is given."""
  found, config = done
  shared, windows = program.prepare(config), config.task.name == 'language_model'
  batch = flow.batch_of(shared.program, shared.dataset.splits['train'])
  steps, seen, model = config.task.name in ('tagging', 'language_model'), {}, found.model

  def outputs(change):
    """The model's, with what `change` makes of a call of the last layer."""

    def intercept(call, args, options, context):
      layer = context.module
      if not isinstance(layer, rnnlab.Recurrent) or layer.name != f'Recurrent_{layers - 1}':
        return call(*args, **options)
      return change(layer, call(*args, **options), *args[:2])

    with nn.intercept_methods(intercept):
      of = model.apply({'params': found.params}, batch if windows else batch['inputs'])
    return of[0] if windows else of

  def from_step(t, carry):
    def change(layer, out, xs, mask):
      xs = xs.rows() if isinstance(xs, rnnlab.Lookup) else xs
      mask = jnp.ones(xs.shape[:2], bool) if mask is None else mask
      params = layer.variables['params']['cell']
      run = functools.partial(rnnlab.unroll, layer.cell, params, backend='scan')
      carries, ys = run(xs, mask=mask, return_carries=True)
      seen.update(mask=np.asarray(mask), carry=jax.tree.map(lambda a: a[:, t], carries))
      if carry is None:
        return out
      h, *_ = jax.tree.leaves(carry)
      rest = run(xs[:, t + 1 :], mask=mask[:, t + 1 :], initial_carry=carry)[1]
      ys = jnp.concatenate([ys[:, :t], jnp.where(mask[:, t, None], h, 0)[:, None], rest], axis=1)
      whole = out[1] if windows else out
      ys = jnp.concatenate([ys, whole[..., ys.shape[-1] :]], axis=-1)
      return (out[0], ys) if windows else ys

    return outputs(change)

  def loss(carry, t):
    of = from_step(t, carry)
    if steps:  # of the last real step alone
      last = seen['mask'].sum(axis=1)[:, None] - 1 == np.arange(seen['mask'].shape[1])
      last = last.reshape(*last.shape, *[1] * (of.ndim - 2))
      of = jnp.where(last, of, jax.lax.stop_gradient(of))
    return tasks.find(config.task.name).loss(of, batch)['loss'][0]

  layers = MORE[config.task.name].get('model.layers', 1)
  kept = pd.DataFrame(found.gradient_flow)
  assert set(kept['epoch']) == {0, 1, 2} and set(kept['layer']) == set(range(1, layers + 1))
  kept = kept[(kept['epoch'] == 2) & (kept['layer'] == layers)].set_index('lag')['norm']
  norms = {}
  for t in range(9 - 2 * windows):
    from_step(t, None)
    by = jax.grad(loss)(seen['carry'], t)
    of_rows = np.sqrt(sum((np.asarray(a) ** 2).sum(axis=1) for a in jax.tree.leaves(by)))
    for norm, real in zip(of_rows, seen['mask'], strict=True):
      if real[t]:
        norms.setdefault(int(real[t + 1 :].sum()), []).append(norm)
  assert kept.index.tolist() == [lag for lag in (0, 1, 2, 4, 8) if lag in norms]
  assert_allclose(kept, [np.mean(norms[lag]) for lag in kept.index], rtol=1e-4)


def test_the_training_is_the_same_to_the_bit(done):
  found, config = done
  config = configs.change(config, {'train.gradient_flow': False})[0]
  plain = rnnlab.run(config)
  assert plain.gradient_flow == [] and found.gradient_flow
  for a, b in zip(jax.tree.leaves(found.params), jax.tree.leaves(plain.params), strict=True):
    assert a.tobytes() == b.tobytes()


def test_a_run_that_was_broken_off_keeps_the_same_rows(written, tmp_path):
  config = config_of('tagging', written['tagging'])
  spec = configs.specify(program.settle(config))
  for _ in run.events(spec, tmp_path / 'whole'):
    pass
  for _ in run.events(spec._replace(until=1), tmp_path / 'broken'):
    pass
  part = run_files.read_flow(tmp_path / 'broken' / spec.id)
  assert {row['epoch'] for row in part} == {0, 1}
  for _ in run.events(spec, tmp_path / 'broken'):
    pass
  whole = (tmp_path / 'whole' / spec.id / run_files.FLOW).read_bytes()
  assert whole and (tmp_path / 'broken' / spec.id / run_files.FLOW).read_bytes() == whole
  assert not run_files.verify(tmp_path / 'broken' / spec.id)
  assert run_files.FLOW in run_files.read_result(tmp_path / 'broken' / spec.id)['digests']


def test_a_model_without_a_recurrent_layer_is_told():
  with pytest.raises(ValueError, match='the model has none'):
    of_model.gradient_norms(lambda: jnp.ones(2), jnp.sum)
