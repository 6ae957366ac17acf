"""Consecutive episodes, the carry of every step, layers that differ, and which backend runs."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose, assert_array_equal
from programs import few_cells
from test_recurrence import (
  BATCH,
  HIDDEN,
  INPUTS,
  MASKS,
  NAMES,
  STEPS,
  cast,
  differentiated,
  drops,
  drops_of_products,
  loop_on,
  make,
  problem,
  where,
)

import rnnlab
from rnnlab import models, recurrence
from rnnlab.recurrence import bidirectional, stacked, unroll

RESETS = np.array([[1, 0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1], [0, 1, 1, 0, 0, 1, 0]], bool)

each_cell = pytest.mark.parametrize('name', few_cells(NAMES))
each_direction = pytest.mark.parametrize('reverse', [False, True], ids=['forward', 'reverse'])


def near(actual, desired, tolerance=1e-5):
  jax.tree.map(lambda a, d: assert_allclose(a, d, tolerance, tolerance), actual, desired)


def before_steps(resets, reverse):
  """Where a run resets the carry before a step, in the order of computation.

  In a reversed run, this is at an episode's last step, which is the one before another's first.
  """
  if not reverse:
    return resets
  fresh = np.zeros_like(resets)
  for b, t in itertools.product(range(len(resets)), range(resets.shape[1] - 1)):
    fresh[b, t] = resets[b, t + 1]
  return fresh


@functools.cache
def loop(name, mask, reverse, dropout):
  p = problem(name)
  run = functools.partial(reference.unroll, resets=before_steps(RESETS, reverse))
  return loop_on(name, p, MASKS[mask], reverse, *drops(p, dropout), unroll=run)


def ours(name, mask, reverse, dropout, dtype='float64', **options):
  """Carry, ys and all gradients of `problem(name)` with RESETS."""
  p, cell = problem(name), make(name)
  structure = jax.tree.structure(cell.initial_carry((1,), jnp.float32))

  def run(params, xs, carry, masks):
    carry, ys = unroll(
      cell,
      params,
      xs,
      resets=RESETS,
      reverse=reverse,
      initial_carry=structure.unflatten(carry),
      dropout=masks,
      **where(mask),
      **options,
    )
    return tuple(jax.tree.leaves(carry)), ys

  masks = drops_of_products(name, p, dropout)
  args = cast((p.params, p.xs, p.carry, (p.d_carry, p.d_ys), masks), dtype)
  return differentiated(run)(*args)


@pytest.mark.parametrize(
  ('mask', 'dropout'), [('no-mask', 'no-dropout'), ('holes', 'mask-per-gate')]
)
@each_direction
@pytest.mark.parametrize('name', NAMES)
def test_resets_equal_the_numpy_loop(name, mask, reverse, dropout):
  with jax.enable_x64():
    near(ours(name, mask, reverse, dropout), loop(name, mask, reverse, dropout), 1e-10)


@each_direction
def test_resets_with_remat(reverse):
  with jax.enable_x64():
    actual = ours('lstm', 'holes', reverse, 'one-mask', remat=True)
    near(actual, loop('lstm', 'holes', reverse, 'one-mask'), 1e-10)


@pytest.mark.parametrize('truncate', [(7, 14), (3, 9), (2, 8)])
@each_direction
def test_resets_with_truncate_where_the_episodes_are_short(reverse, truncate):
  """If windows reach back beyond each step's episode, the gradients are the complete ones."""
  with jax.enable_x64():
    actual = ours('gru-before', 'holes', reverse, 'one-mask', truncate=truncate)
    near(actual[0], loop('gru-before', 'holes', reverse, 'one-mask')[0], 1e-10)
    if truncate[1] >= 2 * STEPS:
      near(actual[1], loop('gru-before', 'holes', reverse, 'one-mask')[1], 1e-10)


def episodes(resets):
  """The episodes of each row, as slices."""
  for row in resets:
    cuts = [0, *(t for t in range(1, len(row)) if row[t]), len(row)]
    yield [slice(*ends) for ends in itertools.pairwise(cuts)]


def one_by_one(run, xs, resets):
  """ys of `run(episode [1, T', D])` on every episode by itself."""
  return np.stack(
    [
      np.concatenate([np.asarray(run(xs[b : b + 1, part]))[0] for part in parts])
      for b, parts in enumerate(episodes(resets))
    ]
  )


WHOLE = {
  'both-ways': lambda cell, params, xs, **options: bidirectional(
    cell, (params[0], params[1]), xs, **options
  )[1],
  'bfloat16': lambda cell, params, xs, **options: unroll(
    cell, params[0], xs, dtype=jnp.bfloat16, **options
  )[1],
  'reverse': lambda cell, params, xs, **options: unroll(
    cell, params[0], xs, reverse=True, **options
  )[1],
  'layers': lambda cell, params, xs, **options: stacked(
    cell, [(params[0], params[1]), params[2]], xs, **options
  )[1],
}


@pytest.mark.parametrize('hidden', [16, HIDDEN], ids=['kernel', 'scan'])
@pytest.mark.parametrize('how', WHOLE)
def test_an_episode_is_as_if_alone(how, hidden):
  cell = rnnlab.lstm(hidden)
  params = [cell.init(jax.random.key(i), n) for i, n in enumerate((INPUTS, INPUTS, 2 * hidden))]
  xs = np.asarray(problem('lstm').xs, np.float32)
  run = functools.partial(WHOLE[how], cell, params)
  near(run(xs, resets=RESETS), one_by_one(run, xs, RESETS))


def test_an_episode_of_a_module_is_as_if_alone():
  layer = models.Recurrent(make('gru-after'), bidirectional=True)
  xs = np.asarray(problem('lstm').xs, np.float32)
  variables = layer.init(jax.random.key(0), xs)
  found = layer.apply(variables, xs, resets=RESETS)
  near(found, one_by_one(functools.partial(layer.apply, variables), xs, RESETS))


@pytest.mark.parametrize('hidden', [16, HIDDEN], ids=['kernel', 'scan'])
def test_a_reset_goes_to_the_cell_s_own_start_and_not_to_the_given_carry(hidden):
  cell = rnnlab.gru(hidden)
  cell = cell._replace(initial_carry=lambda shape, dtype: jnp.full((*shape, hidden), 0.5, dtype))
  params = cell.init(jax.random.key(0), INPUTS)
  xs = np.asarray(problem('lstm').xs, np.float32)
  given = jnp.full((BATCH, hidden), -2.0)
  resets = np.zeros((BATCH, STEPS), bool)
  resets[1:, 0] = True
  _, ys = unroll(cell, params, xs, resets=resets, initial_carry=given)
  near(ys[0], unroll(cell, params, xs, initial_carry=given)[1][0])
  near(ys[1:], unroll(cell, params, xs)[1][1:])


@each_direction
def test_resets_without_a_batch_axis_and_without_steps(reverse):
  cell = make('gru-after')
  params, xs = cell.init(jax.random.key(0), INPUTS), np.asarray(problem('lstm').xs, np.float32)
  run = functools.partial(unroll, cell, params, reverse=reverse)
  near(run(xs[2], resets=RESETS[2])[1], run(xs, resets=RESETS)[1][2])
  assert run(xs[:, :0], resets=RESETS[:, :0])[1].shape == (BATCH, 0, HIDDEN)


@pytest.mark.parametrize(
  ('resets', 'error', 'word'),
  [
    (RESETS[:, 1:], ValueError, 'bool[3, 6]'),
    (RESETS.astype(int), ValueError, 'int32[3, 7]'),
    (RESETS.tolist(), TypeError, 'list'),
  ],
)
def test_wrong_resets_are_refused(resets, error, word):
  cell = make('gru-after')
  params = cell.init(jax.random.key(0), INPUTS)
  with pytest.raises(error, match='resets') as caught:
    unroll(cell, params, np.zeros((BATCH, STEPS, INPUTS), np.float32), resets=resets)
  assert word in str(caught.value)


def test_a_learnt_start_has_its_gradient_through_resets():
  """The initial carry depends on the parameters; the gradient is the sum over all episodes."""
  cell = make('elman')
  params, xs = cell.init(jax.random.key(0), INPUTS), np.asarray(problem('lstm').xs, np.float32)

  def begun(start):
    return cell._replace(initial_carry=lambda shape, _: jnp.broadcast_to(start, (*shape, HIDDEN)))

  def whole(start):
    return jnp.sin(unroll(begun(start), params, xs, resets=RESETS)[1]).sum()

  def alone(start):
    return sum(
      jnp.sin(unroll(begun(start), params, xs[b : b + 1, part])[1]).sum()
      for b, parts in enumerate(episodes(RESETS))
      for part in parts
    )

  near(jax.grad(whole)(jnp.ones(HIDDEN)), jax.grad(alone)(jnp.ones(HIDDEN)), 1e-4)


REMAT = pytest.param({'remat': True}, marks=pytest.mark.slow)


@pytest.mark.parametrize('options', [{}, REMAT, {'truncate': (2, 4)}], ids=str)
@each_direction
@pytest.mark.parametrize('name', ['lstm', 'gru-before'])
def test_each_carry_is_the_last_of_the_run_so_far(name, reverse, options):
  cell, p = make(name), problem(name)
  params, xs = cast((p.params, p.xs), 'float32')
  options = options | where('holes') | {'resets': RESETS, 'reverse': reverse}
  carries, ys = unroll(cell, params, xs, return_carries=True, **options)
  carry, expected = unroll(cell, params, xs, **options)
  near(ys, expected)
  near(jax.tree.map(lambda a: a[:, 0 if reverse else -1], carries), carry)
  part = slice(4, STEPS) if reverse else slice(0, 5)  # a run that ends at step 4
  cut = options | {'mask': MASKS['holes'][:, part], 'resets': RESETS[:, part]}
  cut.pop('truncate', None)
  near(jax.tree.map(lambda a: a[:, 4], carries), unroll(cell, params, xs[:, part], **cut)[0])


@each_cell
def test_the_carries_have_gradients(name):
  """For those of one step: the gradient of the run that ends there."""
  cell, p = make(name), problem(name)
  with jax.enable_x64():
    params, xs = cast((p.params, p.xs), 'float64')

    def at(params, xs):
      carries, _ = unroll(cell, params, xs, return_carries=True, **where('holes'))
      return sum(jnp.sin(a[:, 3]).sum() for a in jax.tree.leaves(carries))

    def cut(params, xs):
      carry, _ = unroll(cell, params, xs[:, :4], mask=MASKS['holes'][:, :4])
      return sum(jnp.sin(a).sum() for a in jax.tree.leaves(carry))

    near(jax.grad(at, (0, 1))(params, xs), jax.grad(cut, (0, 1))(params, xs), 1e-10)


def test_layers_and_directions_have_all_carries_too():
  cell = make('lstm')
  params = [cell.init(jax.random.key(i), n) for i, n in enumerate((INPUTS, INPUTS, 2 * HIDDEN))]
  xs = np.asarray(problem('lstm').xs, np.float32)
  layers = [(params[0], params[1]), params[2]]
  ((forward, backward), top), ys = stacked(cell, layers, xs, return_carries=True)
  last, expected = stacked(cell, layers, xs)
  near(ys, expected)
  assert forward.c.shape == backward.c.shape == top.c.shape == (BATCH, STEPS, HIDDEN)
  ends = (forward, -1), (backward, 0), (top, -1)
  for (carries, end), carry in zip(ends, (*last[0], last[1]), strict=True):
    near(jax.tree.map(lambda a, end=end: a[:, end], carries), carry)
  near(ys, top.h)


def test_layers_go_on_from_the_carries_that_they_returned():
  """With different cells and sizes: two halves equal the whole."""
  layers = rnnlab.lstm(4), rnnlab.gru(16), rnnlab.elman(3)
  sizes = INPUTS, 4, 16
  keys = jax.random.split(jax.random.key(0), 3)
  params = [cell.init(*of) for cell, *of in zip(layers, keys, sizes, strict=True)]
  xs = np.asarray(problem('lstm').xs, np.float32)
  carries, ys = stacked(layers, params, xs)
  half, first = stacked(layers, params, xs[:, :3])
  found, second = stacked(layers, params, xs[:, 3:], initial_carry=half)
  near((found, jnp.concatenate([first, second], 1)), (carries, ys))
  assert [jax.tree.leaves(carry)[0].shape[-1] for carry in carries] == [4, 16, 3]


def test_dropout_between_layers_is_each_value_s_own_and_not_of_the_last_outputs():
  cell = make('gru-after')
  params = [cell.init(jax.random.key(i), n) for i, n in enumerate((INPUTS, HIDDEN))]
  xs = np.asarray(problem('lstm').xs, np.float32)
  key = jax.random.key(3)
  run = functools.partial(stacked, cell, params, xs)
  _, ys = run(layer_dropout=0.5, key=key)
  between = recurrence.drop(jax.random.fold_in(key, 1), unroll(cell, params[0], xs)[1], 0.5)
  kept = np.asarray(between != 0)
  assert 0.3 < kept.mean() < 0.7 and (kept[:, 0] != kept[:, 1]).any()
  near(ys, unroll(cell, params[1], between)[1])
  assert_array_equal(run(layer_dropout=0.5, key=key)[1], ys)
  assert (run(layer_dropout=0.5, key=jax.random.key(4))[1] != ys).any()
  assert_array_equal(run(layer_dropout=0.0)[1], run()[1])
  traced = jax.jit(lambda rate: run(layer_dropout=rate, key=key)[1])
  near(traced(0.5), ys)


def test_the_kernel_and_the_scan_can_be_asked_for(monkeypatch):
  from rnnlab.recurrence.kernels.cpu import call as cpu

  taken = []
  kernel = cpu.unroll
  monkeypatch.setattr(cpu, 'unroll', lambda *a, **k: taken.append(1) or kernel(*a, **k))
  cell = rnnlab.gru(16)
  params, xs = cell.init(jax.random.key(0), INPUTS), np.ones((BATCH, STEPS, INPUTS), np.float32)
  found = {b: unroll(cell, params, xs, backend=b)[1] for b in ('kernel', 'scan', 'auto')}
  assert len(taken) == 2
  near(found['kernel'], found['scan'])
  assert_array_equal(found['kernel'], found['auto'])
  stacked(cell, [params, (cell.init(jax.random.key(1), 16),) * 2], xs, backend='scan')
  models.Recurrent(cell, backend='scan').init(jax.random.key(0), xs)
  assert len(taken) == 2
  stacked(cell, [params, (cell.init(jax.random.key(1), 16),) * 2], xs, backend='kernel')
  assert len(taken) == 5


@pytest.mark.parametrize(
  ('cell', 'options', 'words'),
  [
    (rnnlab.elman(16), {}, ['the cell elman(hidden_size=16) has none']),
    (
      rnnlab.lstm(16)._replace(step=lambda *given: rnnlab.lstm(16).step(*given)),
      {},
      ['that of lstm needs the step and the initial_carry of its factory'],
    ),
    (rnnlab.gru(16), {'remat': True, 'dtype': jnp.bfloat16}, ['none supports dtype and remat']),
    (rnnlab.gru(16), {'truncate': (1, 2)}, ['truncate']),
    (rnnlab.gru(16), {'return_carries': True}, ['return_carries']),
  ],
)
def test_where_no_kernel_can_run_it_is_said_why(cell, options, words):
  params, xs = cell.init(jax.random.key(0), INPUTS), np.ones((BATCH, STEPS, INPUTS), np.float32)
  with pytest.raises(ValueError, match="backend='kernel'") as error:
    unroll(cell, params, xs, backend='kernel', **options)
  assert all(word in str(error.value) for word in words), str(error.value)


def test_an_unknown_backend_is_said_with_the_near_match():
  cell = make('elman')
  params = cell.init(jax.random.key(0), INPUTS)
  with pytest.raises(ValueError, match="'kernal'.*did you mean 'kernel'"):
    unroll(cell, params, np.ones((BATCH, STEPS, INPUTS), np.float32), backend='kernal')


def test_resets_with_the_rows_split_over_devices():
  cell = rnnlab.lstm(16)
  params, xs = cell.init(jax.random.key(0), INPUTS), np.asarray(problem('lstm').xs[:2], np.float32)
  run = functools.partial(unroll, cell, params, resets=RESETS[:2])
  expected = run(xs, backend='scan')
  with jax.set_mesh(rnnlab.mesh()):
    near(jax.jit(run)(xs), expected)
    near(run(xs, backend='kernel'), expected)
    near(jax.jit(functools.partial(run, backend='kernel'))(xs), expected)


def test_resets_within_a_shard_map_of_the_user_s_own():
  cell = rnnlab.gru(16)
  params, xs = cell.init(jax.random.key(0), INPUTS), np.asarray(problem('lstm').xs[:2], np.float32)

  def run(xs, resets):
    return unroll(cell, params, xs, resets=resets, backend='kernel')[1]

  rows = jax.sharding.PartitionSpec('rows')
  mesh = jax.sharding.Mesh(np.array(jax.devices()), ('rows',))
  split = jax.shard_map(run, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False)
  near(jax.jit(split)(xs, RESETS[:2]), run(xs, RESETS[:2]))


@pytest.mark.parametrize('backend', ['kernel', 'scan'])
@each_direction
def test_a_reset_at_every_step_makes_each_step_a_sequence_of_its_own(backend, reverse):
  """In reverse the first step to be computed, the last one, starts from the given carry."""
  cell = rnnlab.lstm(16)
  params, xs = cell.init(jax.random.key(0), INPUTS), np.asarray(problem('lstm').xs, np.float32)
  given = jax.tree.map(lambda a: a - 2, cell.initial_carry((BATCH,), jnp.float32))
  resets = np.ones((BATCH, STEPS), bool)
  options = {'resets': resets, 'reverse': reverse, 'initial_carry': given, 'backend': backend}
  carry, ys = unroll(cell, params, xs, **options)
  for t in range(STEPS):
    start = given if reverse and t == STEPS - 1 else None
    last, alone = unroll(cell, params, xs[:, t : t + 1], initial_carry=start, backend='scan')
    near(ys[:, t : t + 1], alone)
    if t == (0 if reverse else STEPS - 1):
      near(carry, last)

  def loss(params, given):
    return jnp.sin(unroll(cell, params, xs, **options | {'initial_carry': given})[1]).sum()

  d_given = jax.grad(loss, 1)(params, given)
  assert any(np.asarray(d).any() for d in d_given) == reverse
