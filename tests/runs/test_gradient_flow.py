"""How far gradients reach in a run: the numbers computed differently, and training unchanged."""

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
  if path:
    config.data.path = str(path)
  config.update_from_flattened_dict(fields)
  return configs.check(config)


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  """The data of each task, with sequences of different lengths."""
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
  'generated': {
    'data.problem': 'copy_memory',
    'data.delay': 3,
    'data.count': 2,
    'data.examples': 40,
  },
  'language_model': {'model.embed_size': 4, 'model.layers': 2, 'train.window': 7},
}


SLOW = 'regression', 'generated', 'tagging'


@pytest.fixture(
  scope='module',
  params=[pytest.param(of, marks=pytest.mark.slow) if of in SLOW else of for of in MORE],
)
def done(request, written):
  """A run that records how far gradients reach, and its config."""
  config = config_of(request.param, written.get(request.param), **MORE[request.param])
  return rnnlab.run(config), config


def test_the_norms_are_those_of_a_loss_of_what_comes_after_a_step(done):
  """By jax.grad of the model, whose last layer continues from a given state of a step."""
  found, config = done
  shared, windows = program.prepare(config), config.task.name == 'language_model'
  batch = flow.batch_of(shared.program, shared.dataset.splits['train'])
  layers = MORE[config.task.name].get('model.layers', 1)

  def outputs(change):
    """The model's outputs, with the last layer's call replaced by the result of `change`."""

    def intercept(call, args, options, context):
      layer, out = context.module, call(*args, **options)
      if not isinstance(layer, rnnlab.Recurrent) or layer.name != f'Recurrent_{layers - 1}':
        return out
      xs, mask, *_ = args
      xs = xs.rows() if isinstance(xs, rnnlab.Lookup) else xs
      return change(layer, out, xs, jnp.ones(xs.shape[:2], bool) if mask is None else mask)

    with nn.intercept_methods(intercept):
      of = found.model.apply({'params': found.params}, batch if windows else batch['inputs'])
    return of[0] if windows else of

  def unroll(layer, xs, **options):
    params = layer.variables['params']['cell']
    return rnnlab.unroll(layer.cell, params, xs, backend='scan', **options)

  seen = {}

  def see(layer, out, xs, mask):
    seen.update(mask=mask, carries=unroll(layer, xs, mask=mask, return_carries=True)[0])
    return out

  outputs(see)
  mask, carries = seen['mask'], seen['carries']
  times = jnp.arange(mask.shape[1])

  @jax.jit
  @jax.grad
  def gradient(carry, t):
    def go_on(layer, out, xs, mask):
      before = out[1] if windows else out
      _, after = unroll(layer, xs, mask=mask & (times > t), initial_carry=carry)
      size, (h, *_) = after.shape[-1], jax.tree.leaves(carry)
      at = (times == t)[:, None], (times > t)[:, None]
      ys = jnp.where(at[0], h[:, None], jnp.where(at[1], after, before[..., :size]))
      ys = jnp.concatenate([jnp.where(mask[..., None], ys, 0), before[..., size:]], axis=-1)
      return (out[0], ys) if windows else ys

    of = outputs(go_on)
    if config.task.name in (
      'language_model',
      'tagging',
      'generated',
    ):  # only of the last real step
      last = mask.sum(axis=1)[:, None] - 1 == times
      last = last.reshape(*last.shape, *[1] * (of.ndim - 2))
      of = jnp.where(last, of, jax.lax.stop_gradient(of))
    return tasks.find(config.task.name).loss(of, batch)['loss'][0]

  norms = {}
  for t in times:
    by = jax.tree.leaves(gradient(jax.tree.map(lambda a, t=t: a[:, t], carries), t))
    of_rows = np.sqrt(sum((np.asarray(a) ** 2).sum(axis=1) for a in by))
    for norm, real in zip(of_rows, mask, strict=True):
      if real[t]:
        norms.setdefault(int(real[t + 1 :].sum()), []).append(norm)
  kept = pd.DataFrame(found.gradient_flow)
  assert set(kept['epoch']) == {0, 1, 2} and set(kept['layer']) == set(range(1, layers + 1))
  kept = kept[(kept['epoch'] == 2) & (kept['layer'] == layers)].set_index('lag')['norm']
  assert kept.index.tolist() == [lag for lag in (0, 1, 2, 4, 8, 16) if lag in norms]
  assert_allclose(kept, [np.mean(norms[lag]) for lag in kept.index], rtol=1e-4)


def test_the_training_is_the_same_to_the_bit(done):
  found, config = done
  config = configs.change(config, {'train.gradient_flow': False})[0]
  plain = rnnlab.run(config)
  assert plain.gradient_flow == [] and found.gradient_flow
  for a, b in zip(jax.tree.leaves(found.params), jax.tree.leaves(plain.params), strict=True):
    assert a.tobytes() == b.tobytes()


@pytest.mark.slow
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
