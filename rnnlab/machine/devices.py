"""One run on several devices, each of which takes a part of every batch. On a CPU, a core is one.

    rnnlab.use_cores()  # before anything else of JAX
    with jax.set_mesh(rnnlab.mesh()):
      ...  # training, or `unroll` alone

Under a mesh with the axis 'batch', `recurrence.unroll` splits the rows of its batch over that axis.
On a CPU it then uses all cores, where XLA alone would run a scan of small matrices on one. XLA
splits what is around the recurrence as it sees fit (GSPMD). Results are those of one device up to
rounding.
"""

import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rnnlab.machine import cache, provenance

LARGE = 2**18  # elements: an array with this many or more is split over the devices, not copied


def use_cores() -> None:
  """Makes each core that this process may use a device of JAX's CPU back end.

  If JAX has computed already, its devices stay as they are, with a warning.

  >>> rnnlab.use_cores()  # before anything else of JAX
  >>> rnnlab.mesh().axis_names
  ('batch',)
  """
  count = len(provenance.cores())
  if jax.config.jax_num_cpu_devices != count:  # type: ignore[attr-defined]
    try:
      jax.config.update('jax_num_cpu_devices', count)
    except RuntimeError:
      logging.warning(
        'JAX has computed before it was told to use %d cores, and keeps its devices: %d. Call'
        ' rnnlab.use_cores() first of all, or set JAX_NUM_CPU_DEVICES=%d.',
        count,
        jax.local_device_count(),
        count,
      )


def backend() -> str:
  """The kind of device that computes: 'cpu', 'gpu' or 'tpu'. Raises ValueError if there is none."""
  try:
    return jax.default_backend()
  except RuntimeError as error:
    raise ValueError(f'JAX has nothing to compute on: {str(error).splitlines()[0]}') from error


def keep_programs() -> None:
  """Keeps the programs that JAX compiles in `cache.root()`/programs, for later processes.

  They are kept elsewhere if JAX_COMPILATION_CACHE_DIR says so.
  """
  if not jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
    jax.config.update('jax_compilation_cache_dir', str(cache.root() / 'programs'))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)


def memory() -> int:
  """The bytes to compute in: all of an accelerator's memory, or the free memory of a CPU."""
  stats = jax.devices()[0].memory_stats() or {}
  if 'bytes_limit' in stats:
    return stats['bytes_limit']
  try:
    lines = pathlib.Path('/proc/meminfo').read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith('MemAvailable'))
  except (OSError, StopIteration):  # not Linux
    return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // 2


def mesh() -> Mesh:
  """The devices for one run, along the axis 'batch': the cores of a CPU, or one accelerator.

  Recurrent networks have matrices too small to gain from a second accelerator. Under
  jax.distributed, which the user asks for, the mesh has all devices of all processes.

  >>> cell, xs = rnnlab.gru(hidden_size=4), jnp.ones((2, 5, 3))
  >>> with jax.set_mesh(rnnlab.mesh()):  # one row per device, if there are two
  ...   carry, ys = rnnlab.unroll(cell, cell.init(jax.random.key(0), 3), xs)
  >>> ys.shape
  (2, 5, 4)
  """
  every = backend() == 'cpu' or jax.distributed.is_initialized()
  devices = jax.devices() if every else jax.devices()[:1]
  return jax.make_mesh((len(devices),), ('batch',), axis_types=(AxisType.Auto,), devices=devices)


def place(tree: Any) -> Any:
  """Puts a tree of arrays on the devices of the current mesh, or without a mesh on one device.

  A large array of floats is split along its last axis, so that each device holds, looks up and
  updates some of an embedding's features. An embedding whose weights are also the output's is split
  by token instead, as the logits are: split by feature, it would be rearranged at every step. The
  output's bias is split by token too, and the carry of a `TrainState` by row. Others are copied to
  all devices, as are the weights of recurrent layers, since each device needs all of them at every
  step.
  """
  mesh = jax.sharding.get_mesh()
  if 'batch' not in mesh.shape:
    return jax.device_put(tree)

  def put(a, spec):
    sharding = NamedSharding(mesh, spec)
    if isinstance(a, np.ndarray):
      # device_put checks that all processes have equal arrays, which fails on NaN.
      return jax.make_array_from_callback(a.shape, sharding, a.__getitem__)
    return jax.device_put(a, sharding)

  return jax.tree.map(put, tree, _specs(tree, mesh.shape['batch']))


def placed(tree: Any) -> Any:
  """The tree as `place` would put it, in a compiled function; without a mesh, the tree itself.

  A state that comes out placed as it went in can go into the same program again.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if 'batch' not in mesh.auto_axes:
    return tree
  specs = _specs(tree, mesh.shape['batch'])
  return jax.tree.map(jax.lax.with_sharding_constraint, tree, specs)


def _specs(tree, count):
  """How each array of a tree is split over `count` devices."""
  tied = _tied(tree)

  def spec(path, a):
    names = [str(getattr(key, 'key', getattr(key, 'name', ''))) for key in path]
    large = a.size >= LARGE and jnp.issubdtype(a.dtype, jnp.floating)
    by_token = large and tied.get(path[:-1]) == len(a)
    if by_token or 'carry' in names[:1] or 'output_bias' in names[-1:]:
      axis = 0
    elif large and not any(name.startswith('Recurrent') for name in names):
      axis = a.ndim - 1
    else:
      return P()
    return P() if a.shape[axis] % count else P(*[None] * axis, 'batch')

  return jax.tree_util.tree_map_with_path(spec, tree)


def _tied(tree):
  """V of each group of parameters with an output's bias, but no weights of it, by its path."""
  biases, untied = {}, set()
  for path, a in jax.tree_util.tree_leaves_with_path(tree):
    names = [getattr(key, 'key', '') for key in path]
    if 'output_bias' in names[-1:]:
      biases[path[:-1]] = a.size
    untied.update(path[:i] for i, name in enumerate(names) if name == 'output')
  return {path: size for path, size in biases.items() if path not in untied}


def over_batch(function: Callable, arguments: tuple, axes: tuple, out_axes: Any) -> Any:
  """`function(*arguments)`, computed on each device of the current mesh for its part of the batch.

  arguments: trees of arrays. axes, out_axes: for each argument and each result, the axis of the
  batch, or None if it has none. Without a mesh, or if the batch cannot be cut into equal parts, the
  function is called once with all of it.
  """
  mesh = jax.sharding.get_abstract_mesh()
  count = mesh.shape['batch'] if 'batch' in mesh.auto_axes else 1
  sizes = {
    leaf.shape[axis]
    for argument, axis in zip(arguments, axes, strict=True)
    if axis is not None
    for leaf in jax.tree.leaves(argument)
  }
  if count == 1 or len(sizes) != 1 or min(sizes) % count:
    return function(*arguments)

  def specs(tree, axes):
    def spec(leaf, axis):
      return P() if axis is None else P(*[None] * (axis % leaf.ndim), 'batch')

    return tuple(
      jax.tree.map(lambda leaf, axis=axis: spec(leaf, axis), part)
      for part, axis in zip(tree, axes, strict=True)
    )

  results = jax.eval_shape(function, *arguments)
  return jax.shard_map(
    function,
    in_specs=specs(arguments, axes),
    out_specs=specs(results, out_axes),
    check_vma=False,
  )(*arguments)
