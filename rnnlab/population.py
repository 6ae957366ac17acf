"""Many runs as one program: their states are stacked, and each step is taken by all of them.

Members share a `train.Task` and the data, and differ in their key, the numbers of `values`, and the
labels they are given. Each has its own order of the data, its own dropout, its own end: what is in
the others changes none of its bits.

Members are split over the devices of a mesh with the axis 'member'. A device takes its members in
blocks of `lanes`: a block is one vmap, and blocks come one after the other. An accelerator has all
its members in one block. A core of a CPU is filled by one, and vmap would only spoil its cache: it
has blocks of one.
"""

import functools
import time
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rnnlab import train
from rnnlab.cells.base import Array
from rnnlab.train import Task, TrainState

SECONDS = 2.0  # what a call should take, between two looks from outside


class Fixed(NamedTuple):
  """What a member has of its own and keeps."""

  values: dict[str, Array]
  key: Array
  labels: Array  # int32 [N], of the train split


class Group(NamedTuple):
  """Members stacked along the first axis of all arrays; those beyond the last fill it up."""

  task: Task
  lanes: int
  mesh: Mesh
  states: TrainState
  fixed: Fixed


class Turn(NamedTuple):
  """What `fit` yields: some members, at one step, after a call or at their epoch's end.

  rows: at the epoch's end each member's row. failed: what befell those whose loss is not finite
  any more. seconds: a member's share of the wall time.
  """

  group: Group
  members: list[int]
  step: int
  rows: dict[int, dict]
  failed: dict[int, str]
  seconds: float


def mesh() -> Mesh:
  """All devices, along the axis 'member'."""
  return jax.make_mesh((jax.device_count(),), ('member',), axis_types=(AxisType.Auto,))


def stack(
  task: Task, states: list[TrainState], fixed: list[Fixed], mesh: Mesh, lanes: int = 1
) -> Group:
  """A group of these members; with `lanes` above 1 batches are not trimmed, but masked alone.

  A trimmed step is one of several programs, and a vmap of members that want different ones would do
  all of them.
  """
  task = task._replace(trim=task.trim and lanes == 1)
  size = mesh.shape['member'] * lanes
  fill = -len(states) % size

  def put(*leaves):
    if jnp.issubdtype(leaves[0].dtype, jax.dtypes.prng_key):
      a = jnp.stack([*leaves, *leaves[:1] * fill])
    else:
      a = np.stack([np.asarray(leaf) for leaf in (*leaves, *leaves[:1] * fill)])
    return jax.device_put(a, NamedSharding(mesh, P('member')))

  return Group(task, lanes, mesh, jax.tree.map(put, *states), jax.tree.map(put, *fixed))


def member(stacked, i: int):
  """What is a member's in a tree of stacked arrays, which are on the host."""
  return jax.tree.map(lambda a: np.asarray(a[i]), stacked)


def fit(
  group: Group,
  ids: Array,
  validation,
  *,
  epochs: list[int],
  patience: list[int],
  alive: set[int],
) -> Iterator[Turn]:
  """Trains each member in `alive` to the end of its epochs, or of its patience, as `train.fit`.

  `ids [N, T]` are the train split, `validation` a pair (ids, labels). Members at an earlier step
  are first brought to where the others are. The consumer may take a member out of `alive`. A
  Turn's group is only good until the next is asked for.
  """
  steps = train.epoch_steps(len(ids), group.task.batch_size)
  shared = jax.device_put((ids, *validation), NamedSharding(group.mesh, P()))
  at, best = (np.array(jax.device_get(a)) for a in (group.states.step, group.states.best_epoch))
  count = 5  # steps in a call
  while True:
    for i in list(alive):
      epoch = int(at[i]) // steps
      if epoch >= epochs[i] or train.is_out_of_patience(patience[i], epoch, best[i]):
        alive.discard(i)
    if not alive:
      return
    began = time.perf_counter()
    step = int(min(at[i] for i in alive))
    now = sorted(i for i in alive if at[i] == step)
    epoch = step // steps + 1
    taken = min(count, epoch * steps - step)
    group, _ = _call(_advance, group, now, shared[0], np.int32(taken))
    step += taken
    at[now] = step
    bad, last_loss = jax.device_get((group.states.bad_step, group.states.last_loss))
    seconds = time.perf_counter() - began
    count = max(1, min(round(count * SECONDS / seconds), 2 * count, steps))
    failed = {
      i: train.diagnosis(int(bad[i]), float(last_loss[i]), steps) for i in now if bad[i] >= 0
    }
    alive -= failed.keys()
    rows, well = {}, [i for i in now if i not in failed]
    if step == epoch * steps and well:
      group, sums = _call(_end_epoch, group, well, *shared[1:], np.int32(epoch))
      sums, best = jax.device_get((sums, group.states.best_epoch))
      rows = {i: train.row_of(step, epoch, member(sums, i)) for i in well}
    seconds = (time.perf_counter() - began) / len(now)
    yield Turn(group, now, step, rows, failed, seconds)


def predict(group: Group, members: list[int], ids: Array) -> tuple[Group, tuple]:
  """The logits of a split, by the last parameters and by the best, each [members, ...]."""
  ids = jax.device_put(ids, NamedSharding(group.mesh, P()))
  group, logits = _call(_predict, group, members, ids)
  return group, jax.tree.map(lambda a: np.asarray(a)[members], logits)


def _advance(task, state, fixed, ids, count):
  values, key, labels = fixed
  return train.advance(task, state, values, key, ids, labels, count), ()


def _end_epoch(task, state, fixed, ids, labels, epoch):
  return train.end_epoch(task, state, fixed.values, ids, labels, epoch)


def _predict(task, state, fixed, ids):
  both = state.params, state.best_params
  return state, tuple(train.predict(task, params, fixed.values, ids) for params in both)


def _call(function, group, members, *shared):
  """`function` on some members; the group after it, and what else it gives, of all members."""
  task, lanes, mesh, states, fixed = group
  devices = mesh.shape['member']
  size = len(states.step) // devices
  who, counts = np.zeros((devices, size), np.int32), np.zeros(devices, np.int32)
  for device in range(devices):
    here = [i % size for i in members if i // size == device]
    counts[device] = len(here)
    who[device] = here + [here[-1] if here else 0] * (size - len(here))
  who, counts = who.ravel(), -(-counts // lanes)
  states, out = _each(function, task, lanes, mesh, states, fixed, who, counts, shared)
  return group._replace(states=states), out


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnums=4)
def _each(function, task, lanes, mesh, states, fixed, who, counts, shared):
  """`function(task, state, fixed, *shared)` for some members: `(states, out)`.

  who: int [members], on each device the members to take, by their place there, repeated at the end;
  counts: int [devices], how many blocks of them. A block of one member is no vmap, so that its
  program does not depend on how many members there are.
  """
  call = one = functools.partial(function, task)
  if lanes > 1:
    call = jax.vmap(one, in_axes=(0, 0, *[None] * len(shared)))

  def on_device(states, fixed, who, counts, shared):
    def take(tree, at):
      return jax.tree.map(lambda a: a[at], tree)

    def put(a, at, new):
      if lanes == 1:
        return jax.lax.dynamic_update_index_in_dim(a, new, at, 0)
      return a.at[at].set(new)

    def body(i, carried):
      at = who[i] if lanes == 1 else jax.lax.dynamic_slice_in_dim(who, i * lanes, lanes)
      new = call(take(carried[0], at), take(fixed, at), *shared)
      return jax.tree.map(lambda a, b: put(a, at, b), carried, new)

    first = jax.tree.map(lambda a: a[0], (states, fixed))
    out = jax.eval_shape(one, *first, *shared)[1]
    outs = jax.tree.map(lambda a: jnp.zeros((len(who), *a.shape), a.dtype), out)
    return jax.lax.fori_loop(0, counts[0], body, (states, outs))

  over, whole = P('member'), P()
  return jax.shard_map(
    on_device,
    mesh=mesh,
    in_specs=(over, over, over, over, whole),
    out_specs=(over, over),
    check_vma=False,
  )(states, fixed, who, counts, shared)
