"""How far gradients reach in a run: the same numbers by other ways, the same training, a picture."""

import random

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


def test_the_norms_of_a_run_are_those_of_its_parameters(done):
  """By the parameters that it ends with, a step's state at a time: what comes after, by jax.grad."""
  found, config = done
  shared = program.prepare(config)
  batch = flow.batch_of(shared.program, shared.dataset.splits['train'])
  steps = config.task.name in ('tagging', 'language_model')
  kept = pd.DataFrame(found.gradient_flow)
  assert sorted(kept['epoch'].unique()) == [0, 1, 2]
  layers = MORE[config.task.name].get('model.layers', 1)
  assert sorted(kept['layer'].unique()) == list(range(1, layers + 1))
  lags, norms = by_hand(found, batch, config, steps)
  last = kept[(kept['epoch'] == 2) & (kept['layer'] == layers)]
  assert last['lag'].tolist() == [lag for lag in (0, 1, 2, 4, 8) if (lags == lag).any()]
  for lag, norm in zip(last['lag'], last['norm'], strict=True):
    assert_allclose(norm, norms[lags == lag].mean(), rtol=1e-4)


def by_hand(found, batch, config, steps):
  """Lags and norms of the last layer's real steps, from the inputs of that layer on."""
  model, params = found.model, found.params
  seen = {}

  def see(call, args, options, context):
    if isinstance(context.module, rnnlab.Recurrent):
      seen.update(layer=context.module.name, xs=args[0], mask=args[1])
    return call(*args, **options)

  task, variables = tasks.find(config.task.name), {'params': params}
  windows = config.task.name == 'language_model'
  given = batch if windows else batch['inputs']
  import flax.linen as nn

  with nn.intercept_methods(see):
    model.apply(variables, given)
  xs, layer = seen['xs'], params[seen['layer']]
  xs = xs.rows() if isinstance(xs, rnnlab.Lookup) else xs
  mask = np.ones(xs.shape[:2], bool) if seen['mask'] is None else np.asarray(seen['mask'])
  lags, norms = [], []
  cell = model.cells[-1] if windows else model.cell
  bidirectional = not windows and model.bidirectional
  for row, real in enumerate(mask):
    length = int(real.sum())
    assert real[:length].all()  # padded behind
    for t in range(length):

      def rest(carry, t=t, row=row, length=length):
        """The row's own loss, of the state after step t."""
        ys = seen_ys[row : row + 1, : t + 1]
        ys = ys.at[:, t].set(jax.tree.leaves(carry)[0])
        after = rnnlab.unroll(
          cell, layer['cell'], xs[row : row + 1, t + 1 : length], initial_carry=carry
        )[1]
        ys = jnp.concatenate([ys, after], axis=1)
        if bidirectional:
          back = rnnlab.unroll(
            cell, layer['cell_backward'], xs[row : row + 1, :length], reverse=True
          )[1]
          ys = jnp.concatenate([ys, back], axis=-1)

        def put(call, args, options, context):
          if isinstance(context.module, rnnlab.Recurrent) and context.module.name == seen['layer']:
            out = call(*args, **options)
            whole = (out[1] if windows else out).at[row : row + 1, :length].set(ys)
            return (out[0], whole) if windows else whole
          return call(*args, **options)

        with nn.intercept_methods(put):
          outputs = model.apply(variables, given)
        outputs = outputs[0] if windows else outputs
        if steps:
          outputs = jax.lax.stop_gradient(outputs).at[row, length - 1].set(outputs[row, length - 1])
        return task.loss(outputs, batch)['loss'][0]

      carries, seen_ys = rnnlab.unroll(
        cell, layer['cell'], xs, mask=jnp.asarray(mask), return_carries=True
      )
      carry = jax.tree.map(lambda a, row=row, t=t: a[row : row + 1, t], carries)
      by = jax.grad(rest)(carry)
      lags.append(length - 1 - t)
      norms.append(np.sqrt(sum((np.asarray(a) ** 2).sum() for a in jax.tree.leaves(by))))
  return np.array(lags), np.array(norms)


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
