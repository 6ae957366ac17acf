"""Many runs as one program: their states are stacked, and they take each step together.

Members share a `train.Program` and the data, and differ in their key, the numbers in `values`, and
the arrays of the train split that are their own. Each has its own data order, dropout and end: no
bit of it depends on the other members.

Members are split over the devices of a mesh with the axis 'member'. A device takes its members in
blocks of `lanes`: a block is one vmap, and blocks follow one another. An accelerator has all its
members in one block. On a CPU, a single member already fills the cache of a core, and vmap would
only evict its data: blocks hold one member.
"""

import functools
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rnnlab.cells.base import Array
from rnnlab.machine import devices
from rnnlab.training import train
from rnnlab.training.train import Program, TrainState

SECONDS = 2.0  # what a call should take, so that the caller can look in between
ROOM = 0.8  # the share of the memory to be filled


class Fixed(NamedTuple):
  """What belongs to one member and does not change."""

  values: dict[str, Array]
  key: Array
  own: dict[str, Array]  # its own versions of arrays of the train split


class Group(NamedTuple):
  """Members stacked along the first axis of all arrays, with copies at the end to fill devices.

  lanes: the most members in a block.
  """

  program: Program
  lanes: int
  mesh: Mesh
  states: TrainState
  fixed: Fixed


class Turn(NamedTuple):
  """What `fit` yields: the progress of some members in one call.

  states: of all members, on the device. steps: {member: its step now}, for the members in question.
  rows: at the end of an epoch, the row of each. failed: a diagnosis of each member whose loss is no
  longer finite. outputs: for members that ended, the outputs on the test split by their last
  parameters, and by their best if the program selects them.
  seconds: a member's share of the wall time.
  """

  states: TrainState
  steps: dict[int, int]
  rows: dict[int, dict]
  failed: dict[int, str]
  outputs: dict[int, tuple[np.ndarray, ...]]
  seconds: float


def mesh() -> Mesh:
  """All devices, along the axis 'member'."""
  return jax.make_mesh((jax.device_count(),), ('member',), axis_types=(AxisType.Auto,))


def lanes(members: int, mesh: Mesh) -> int:
  """The best number of members in a block: one on a CPU, else all members of a device."""
  return 1 if jax.default_backend() == 'cpu' else -(-members // mesh.shape['member'])


def stack(
  program: Program, states: list[TrainState], fixed: list[Fixed], mesh: Mesh, lanes: int
) -> Group:
  """A group of these members; with `lanes` above 1 batches are masked, but not trimmed.

  A trimmed step is one of several branches, and a vmap of members that need different ones would
  compute all of them.
  """
  fill = -len(states) % mesh.shape['member']

  def put(*leaves):
    leaves = *leaves, *leaves[:1] * fill
    if jnp.issubdtype(leaves[0].dtype, jax.dtypes.prng_key):
      stacked = jnp.stack(leaves)
    else:
      stacked = np.stack([np.asarray(leaf) for leaf in leaves])
    return jax.device_put(stacked, NamedSharding(mesh, P('member')))

  program = program._replace(trim=program.trim and lanes == 1)
  return Group(program, lanes, mesh, jax.tree.map(put, *states), jax.tree.map(put, *fixed))


def member(stacked: Any, i: int) -> Any:
  """The part of one member in a tree of stacked arrays, which are on the host."""
  return jax.tree.map(lambda a: np.asarray(a[i]), stacked)


def fit(
  group: Group,
  split: Mapping[str, Array],
  validation: Mapping[str, Array],
  test: Mapping[str, Array],
  *,
  epochs: list[int],
  until: list[int],
  patience: list[int],
  alive: set[int],
) -> Iterator[Turn]:
  """Trains each member in `alive` like `train.fit`, to its end or to the end of epoch `until`.

  `split` is the train split, `validation` and `test` are the others; an `until` of 0 means the end
  of training. Members at an earlier step are first advanced to where the others are. `fit` removes
  members that have failed, ended or reached their `until` from `alive` before it yields the Turn
  that says so, and the consumer may remove others. Asking for the next Turn reuses the memory of
  this one's states, so copy what you keep.
  """
  steps = train.steps_of(group.program, split)
  whole = NamedSharding(group.mesh, P())
  shared = dict(split), dict(validation), dict(test)
  split, validation, test = jax.device_put(shared, whole)
  at, best = (np.array(jax.device_get(a)) for a in (group.states.step, group.states.best_epoch))
  count = 5  # steps in a call
  of_validation = {}  # outputs by member, if validation is the test split

  def is_over(i):
    epoch = int(at[i]) // steps
    return epoch >= epochs[i] or train.is_out_of_patience(patience[i], epoch, int(best[i]))

  def pauses(i):
    return 0 < until[i] <= at[i] // steps and not is_over(i)

  alive.difference_update([i for i in alive if pauses(i)])
  while alive:
    began = time.perf_counter()
    if over := [i for i in sorted(alive) if is_over(i)]:
      group, outputs = _of_test(group, over, validation, test, of_validation)
      alive.difference_update(over)
      seconds = (time.perf_counter() - began) / len(over)
      yield Turn(group.states, {i: int(at[i]) for i in over}, {}, {}, outputs, seconds)
      continue
    step = int(min(at[i] for i in alive))
    now = sorted(i for i in alive if at[i] == step)
    epoch = step // steps + 1
    taken = min(count, epoch * steps - step)
    group, _ = _call(_advance, group, now, split, np.int32(taken))
    step += taken
    at[now] = step
    failed = _failed(group, now, steps)
    seconds = time.perf_counter() - began
    # The number of steps in a call does not change the results.
    count = max(1, min(round(count * SECONDS / seconds), 2 * count, steps))
    alive -= failed.keys()
    rows, well = {}, [i for i in now if i not in failed]
    if step == epoch * steps and well:
      group, rows, outputs = _end(group, well, validation, step, epoch)
      best = jax.device_get(group.states.best_epoch)
      of_validation |= {i: outputs[i] for i in well if is_over(i) and not group.program.selects}
      alive.difference_update([i for i in well if pauses(i)])
    seconds = (time.perf_counter() - began) / len(now)
    yield Turn(group.states, dict.fromkeys(now, step), rows, failed, {}, seconds)


def _failed(group, members, steps):
  """{member: diagnosis} for those of `members` whose loss is no longer finite."""
  bad, last_loss = jax.device_get((group.states.bad_step, group.states.last_loss))
  return {
    i: train.diagnosis(int(bad[i]), float(last_loss[i]), steps) for i in members if bad[i] >= 0
  }


def _end(group, members, validation, step, epoch):
  """Ends an epoch of `members`: the group, their rows, and all outputs if they are needed."""
  group, (sums, outputs) = _call(_end_epoch, group, members, validation, np.int32(epoch))
  sums = jax.device_get(sums)
  rows = {i: train.row_of(group.program, step, epoch, member(sums, i)) for i in members}
  return group, rows, None if group.program.selects else jax.device_get(outputs)


def _of_test(group, over, validation, test, of_validation):
  """The group, and the outputs on the test split of the members in `over`, as in a Turn.

  If validation is the test split, they are those of the end of the last epoch; these are taken from
  `of_validation`, or computed again if the run was interrupted since.
  """
  if group.program.selects:
    group, outputs = _call(_test, group, over, test)
    outputs = jax.device_get(outputs)
    return group, {i: member(outputs, i) for i in over}
  if unknown := [i for i in over if i not in of_validation]:
    group, (_, outputs) = _call(_end_epoch, group, unknown, validation, np.int32(0))
    of_validation |= {i: np.asarray(outputs[i]) for i in unknown}
  return group, {i: (of_validation.pop(i),) for i in over}


def capacity(
  program: Program,
  state: TrainState,
  fixed: Fixed,
  split: Mapping[str, Array],
  mesh: Mesh,
  members: int,
) -> int:
  """How many of `members` members like this one fit into memory at once; at least one.

  `split` is the train split.
  """
  count, room = mesh.shape['member'], ROOM * devices.memory()
  of_member = sum(leaf.nbytes for leaf in jax.tree.leaves((state, fixed.values, fixed.own)))

  needs = functools.partial(_needs, program, state, fixed, split, mesh)
  if jax.default_backend() != 'cpu':
    two, three = needs(2), needs(3)  # not 1: a single member is trained by another program
    return count * max(1, 2 + int((room - two) // max(three - two, of_member)))
  # A core's blocks hold one member, however many there are: each further member costs its state, a
  # copy on the way to disk, and another while the group is stacked. If members are few, it is clear
  # without compiling that they fit.
  if 3 * of_member * members < room / 4:
    return members
  return max(1, int((room - count * needs(1)) / (3 * of_member)))


def _needs(program, state, fixed, split, mesh, lanes):
  """The bytes that a device needs to train a block of `lanes` members, by the compiler."""

  def shapes(tree, *leading, spec):
    def shape(a):
      sharding = NamedSharding(mesh, spec)
      return jax.ShapeDtypeStruct((*leading, *np.shape(a)), a.dtype, sharding=sharding)

    return jax.tree.map(shape, tree)

  count, over = mesh.shape['member'], P('member')
  members = shapes((state, fixed, np.int32(0)), count * lanes, spec=over)
  counts, shared = shapes(np.int32(0), count, spec=over), shapes((split, np.int32(0)), spec=P())
  program = program._replace(trim=program.trim and lanes == 1)
  lowered = _each.lower(_advance, program, lanes, mesh, *members, counts, shared)
  memory = lowered.compile().memory_analysis()
  return memory.argument_size_in_bytes + memory.temp_size_in_bytes


def _advance(program, state, fixed, split, count):
  values, key, own = fixed
  return train.advance(program, state, values, key, split | own, count), ()


def _end_epoch(program, state, fixed, split, epoch):
  after, sums, outputs = train.end_epoch(program, state, fixed.values, split, epoch)
  return after, (sums, outputs)


def _test(program, state, fixed, split):
  return state, train.test(program, state, fixed.values, split)


def _call(function, group, members, *shared):
  """Applies `function` to some members: the group after it, and its other output for all."""
  program, lanes, mesh, states, fixed = group
  count = mesh.shape['member']
  size = len(states.step) // count
  here = [[i % size for i in members if i // size == device] for device in range(count)]
  # If few members are left, blocks are smaller; each size is compiled once.
  lanes = min(lanes, 1 << (max(map(len, here)) - 1).bit_length())
  who = np.zeros((count, -(-size // lanes) * lanes), np.int32)
  for row, mine in zip(who, here, strict=True):
    again = mine[-1:] * (-len(mine) % lanes)  # a repeated member does no harm within a block
    row[: len(mine) + len(again)] = mine + again
  counts = np.array([-(-len(mine) // lanes) for mine in here], np.int32)
  states, out = _each(function, program, lanes, mesh, states, fixed, who.ravel(), counts, shared)
  return group._replace(states=states), out


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnums=4)
def _each(function, program, lanes, mesh, states, fixed, who, counts, shared):
  """`function(program, state, fixed, *shared)` for some members: `(states, out)`.

  who: int, for each device the members to take, by their place there, in blocks. counts: int
  [devices], how many blocks. A block of one uses no vmap, so that the results of a member do not
  depend on how many there are.
  """
  call = one = functools.partial(function, program)
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
    outs = jax.tree.map(lambda a: jnp.zeros((len(states.step), *a.shape), a.dtype), out)
    return jax.lax.fori_loop(0, counts[0], body, (states, outs))

  over, whole = P('member'), P()
  return jax.shard_map(
    on_device,
    mesh=mesh,
    in_specs=(over, over, over, over, whole),
    out_specs=(over, over),
    check_vma=False,
  )(states, fixed, who, counts, shared)
