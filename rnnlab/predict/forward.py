"""The forward pass of a trained model over batches of encoded examples, and its gradient."""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rnnlab.cells.base import Cell
from rnnlab.tasks.base import Outputs

ROWS = 64  # in a batch, or fewer, so that a batch has no more steps than
STEPS = 2**16
NARROWEST = 32  # the fewest columns to which masked steps are trimmed, unless there are fewer


class Batch(NamedTuple):
  """Some examples that a model answers at once.

  inputs: those of the model. places: the index among all examples of each of the first rows, int
  `[n]`; later rows only fill up the batch. columns: which of all steps it holds. there: where these
  are among its own steps.
  """

  inputs: Any
  places: np.ndarray
  columns: slice
  there: slice


def batches(data: ConfigDict, inputs: Any) -> Iterator[Batch]:
  """Cuts encoded examples into batches of few shapes.

  The number of rows and columns of an example's batch depends only on that example, and so does its
  answer, to the bit.

  data: the data part of a run's config; for ids it has max_len, mask and padding.
  inputs: from a task's `encode`: ids int32 `[N, T]`, or a dict of 'xs' float32 `[N, T, D]` and
    'lengths' int32 `[N]`.
  """
  series = isinstance(inputs, dict)
  xs, lengths = (inputs['xs'], inputs['lengths']) if series else (inputs, used(data, inputs))
  steps = xs.shape[1]
  widths = _series_widths(steps) if series else _widths(data)
  needed = np.searchsorted(widths, lengths)
  in_front = not series and data.padding == 'pre'
  for i, width in enumerate(widths):
    rows = max(1, min(ROWS, STEPS // width))
    places = np.flatnonzero(needed == i)
    some = min(width, steps)
    columns = slice(steps - some, steps) if in_front else slice(0, some)
    there = slice(width - some, width) if in_front else slice(0, some)
    for start in range(0, len(places), rows):
      here = places[start : start + rows]
      batch: Any = np.zeros((rows, width, *xs.shape[2:]), xs.dtype)
      batch[: len(here), there] = xs[here, columns]
      if series:
        filled = np.zeros(rows, np.int32)
        filled[: len(here)] = lengths[here]
        batch = {'xs': batch, 'lengths': filled}
      yield Batch(batch, here, columns, there)


def used(data: ConfigDict, ids: np.ndarray) -> np.ndarray:
  """How many columns each row of ids needs, int `[N]`: all of them if padding is not masked."""
  return (ids != 0).sum(axis=1) if data.mask else np.full(len(ids), data.max_len)


def _widths(data):
  """The widths of batches, ascending: padding is cut only where the model does not see it."""
  widths = [data.max_len]
  while data.mask and widths[0] >= 2 * NARROWEST:
    widths.insert(0, -(-widths[0] // 2))
  return widths


def _series_widths(steps):
  """The same for series, whose padding models never see."""
  widths = [NARROWEST]
  while widths[-1] < steps:
    widths.append(2 * widths[-1])
  return widths


def portable(model: nn.Module) -> nn.Module:
  """The same model without kernels for CPU or GPU, and without what only training needs.

  It compiles quickly, exports as pure StableHLO, and its gradients are not truncated.
  """
  plain: dict[str, Any] = {'remat': False, 'truncate': None}
  if isinstance(cell := getattr(model, 'cell', None), Cell):
    plain['cell'] = cell._replace(fused=None)
  for name in ('cells', 'encoder', 'decoder'):
    if layers := getattr(model, name, ()):
      plain[name] = tuple(cell._replace(fused=None) for cell in layers)
  return model.clone(**{name: value for name, value in plain.items() if hasattr(model, name)})


def answers(model: nn.Module, outputs: Outputs, params: Any, inputs: Any) -> jax.Array:
  """Probabilities, or values in the unit of the targets, for a batch of inputs: float32 `[B, ...]`.

  outputs: what the model's outputs mean. For two classes, the probability is that of the second.
  """
  found: Any = portable(model).apply({'params': params}, inputs)
  if outputs.kind == 'classes':
    return jax.nn.softmax(found)
  if outputs.kind == 'values':
    return found * jnp.float32(outputs.std) + jnp.float32(outputs.mean)
  return jax.nn.sigmoid(found)


compiled = functools.partial(jax.jit, static_argnums=(0, 1))(answers)


def as_outputs(answers: np.ndarray, outputs: Outputs) -> np.ndarray:
  """The outputs of a model that gives these answers, float64 `[N, ...]`: `answers` inverted."""
  found = np.asarray(answers, np.float64)
  if outputs.kind == 'values':
    return (found - np.array(outputs.mean)) / np.array(outputs.std)
  if outputs.kind == 'classes':  # if all are 0, nothing was answered: a step of padding
    return np.log(np.maximum(found, np.finfo(float).tiny))
  with np.errstate(divide='ignore'):
    return np.log(found) - np.log1p(-found)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def gradient_times_input(
  model: nn.Module, outputs: Outputs, of: int, params: Any, inputs: Any
) -> jax.Array:
  """How much each step of an example moves its answer, to first order.

  It is an input of the recurrence times the gradient of the answer with respect to it (Shrikumar et
  al. 2016). The answer is the log-odds of a class or a label, or a value in its unit.

  of: which of `outputs.names` is explained.
  inputs: one example, in a batch of one: ids int32 `[1, T]`, or 'xs' float32 `[1, T, D]` with
    'lengths'.

  Returns, for ids, the sums over the features of each step's embedding, float32 `[T]`; for series
  float32 `[T, D]`.
  """
  model = portable(model)

  def answer(found):
    if outputs.kind == 'binary':
      return found if of else -found
    if not found.ndim:
      return found * jnp.float32(outputs.std)
    if outputs.kind == 'classes':
      return found[of] - jax.nn.logsumexp(jnp.delete(found, of))
    return found[of] * jnp.broadcast_to(jnp.float32(outputs.std), found.shape)[of]

  if isinstance(inputs, dict):
    xs = inputs['xs']
    moved = jax.grad(lambda xs: answer(model.apply({'params': params}, inputs | {'xs': xs})[0]))
    return (moved(xs) * xs)[0]
  ids = inputs[0]
  steps = len(ids)
  table = params['Embed_0']['embedding']
  # Each step looks up an embedding of its own, in a table of this text's steps.
  model = model.clone(vocab_size=steps + 1)
  places = jnp.where(ids != 0, jnp.arange(1, steps + 1), 0)

  def of_embeddings(xs):
    own = {'Embed_0': {'embedding': jnp.concatenate([table[:1], xs])}}
    return answer(model.apply({'params': params | own}, places[None])[0])

  xs = table[ids]
  return (jax.grad(of_embeddings)(xs) * xs).sum(axis=-1)
