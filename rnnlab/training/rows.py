"""Training and evaluation over rows, that is, independent examples, in batches.

If the inputs are ids `[N, T]` and the model masks their padding, id 0, a batch can have rows of
similar length and be trimmed to fewer columns: `widths`, ascending, are the numbers of columns to
choose from; with () neither is done. In a tree of ids, such as the two sides of a pair, a row's
length is that of its longest side, and all sides are trimmed to one width (narrower ones stay as
they are).
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rnnlab.cells.base import Array

EVAL_BATCH = 256


def epoch_steps(size: int, batch_size: int) -> int:
  """How many batches an epoch of `size` rows has; the last may be partial."""
  return -(-size // batch_size)


def batches(
  widths: tuple[int, ...],
  keys: tuple[Array, Array],
  epoch: int | Array,
  split: Mapping[str, Any],
  batch_size: int,
) -> Callable[[Array], dict[str, Any]]:
  """A function from a step of an epoch to its batch: rows of `split` with their weights, `[B]`.

  The rows are put in a random order, determined by (keys, epoch), and cut into batches; the last is
  filled up with rows of weight 0. With widths, that order is sorted, stably, by the width that each
  row needs before it is cut, and the batches are taken in a random order, determined likewise.
  """
  key, order_key = keys
  size = len(jax.tree.leaves(split['inputs'])[0])
  steps = epoch_steps(size, batch_size)
  order = jax.random.permutation(jax.random.fold_in(order_key, epoch), size)
  places = jnp.arange(steps)
  if widths:
    order = order[jnp.argsort(_buckets(split['inputs'], widths)[order], stable=True)]
    places_key = jax.random.fold_in(jax.random.fold_in(key, 2), epoch)
    places = jax.random.permutation(places_key, steps)
  order = jnp.pad(order, (0, steps * batch_size - size))

  def at(step):
    start = places[step] * batch_size
    rows = jax.lax.dynamic_slice_in_dim(order, start, batch_size)
    weights = (start + jnp.arange(batch_size) < size).astype(jnp.float32)
    return {**_rows(split, rows), 'weights': weights}

  return at


def drawn(
  draw: Callable[[Array, int], dict[str, Any]],
  key: Array,
  epoch: int | Array,
  size: int,
  batch_size: int,
) -> Callable[[Array], dict[str, Any]]:
  """A function from a step of an epoch of `size` examples to its batch, with weights, `[B]`.

  `draw` gets a key derived from (key, epoch, step); see `rnnlab.tasks.base.Task.draw`.
  """
  key = jax.random.fold_in(key, epoch)

  def at(step):
    weights = (step * batch_size + jnp.arange(batch_size) < size).astype(jnp.float32)
    return {**draw(jax.random.fold_in(key, step), batch_size), 'weights': weights}

  return at


def predict(function: Callable[[Any], Array], inputs: Any, widths: tuple[int, ...]) -> Array:
  """The results of `function` for all rows of inputs `[N, ...]`, in batches: `[N, ...]`."""
  size = len(jax.tree.leaves(inputs)[0])
  order = jnp.argsort(_buckets(inputs, widths)) if widths else jnp.arange(size)
  batches = epoch_steps(size, EVAL_BATCH)
  rows = jnp.pad(order, (0, batches * EVAL_BATCH - size)).reshape(batches, EVAL_BATCH)
  outputs = jax.lax.map(lambda rows: trimmed(function, _rows(inputs, rows), widths), rows)
  outputs = outputs.reshape(-1, *outputs.shape[2:])[:size]
  return jnp.zeros_like(outputs).at[order].set(outputs)


def trimmed(function: Callable[[Any], Any], ids: Any, widths: tuple[int, ...]) -> Any:
  """`function(ids)` on a run of columns that holds every id other than 0.

  It has the least of `widths` that suffices, or all columns if none does.
  """
  if not widths:
    return function(ids)
  arrays, tree = jax.tree.flatten(ids)
  used = [(array != 0).any(axis=0) for array in arrays]
  firsts = [jnp.argmax(columns) for columns in used]
  spans = [
    len(columns) - jnp.argmax(columns[::-1]) - first
    for columns, first in zip(used, firsts, strict=True)
  ]
  span = functools.reduce(jnp.maximum, spans)

  def at(width):
    # If fewer than `width` columns follow the first, the slice begins before it.
    def cut(array, first):
      return jax.lax.dynamic_slice_in_dim(array, first, min(width, array.shape[1]), axis=1)

    return lambda: function(jax.tree.unflatten(tree, map(cut, arrays, firsts)))

  steps = max(array.shape[1] for array in arrays)
  widths = (*(width for width in widths if width < steps), steps)
  return jax.lax.switch(_bucket(span, widths), [at(width) for width in widths])


def _bucket(lengths, widths):
  """How many of `widths` are too narrow: the index of the one to take."""
  return jnp.sum(lengths[..., None] > jnp.array(widths), axis=-1)


def _buckets(ids, widths):
  """The bucket of each row of ids `[N, T]`, or of a tree of these, int `[N]`."""
  lengths = [jnp.sum(array != 0, axis=1) for array in jax.tree.leaves(ids)]
  return _bucket(functools.reduce(jnp.maximum, lengths), widths)


def _rows(tree, rows):
  return jax.tree.map(lambda a: a[rows], tree)
