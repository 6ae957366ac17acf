"""How far gradients reach in a model: their norms at each step of its `Recurrent` layers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rnnlab import recurrence
from rnnlab.cells.base import Array, Lookup
from rnnlab.models.layers import Recurrent
from rnnlab.recurrence.nudges import lags, no_nudges, norms, nudged


class Layer(NamedTuple):
  """The norms of a loss's gradients by a layer's carries, `[B, T]`, and which steps are real."""

  norms: Array
  mask: Array


def gradient_norms(
  apply: Callable[[], Any], loss: Callable[[Any], Array], steps: bool = False
) -> list[Layer]:
  """The norms of `rnnlab.flow.gradient_norms` in each `Recurrent` of a model, in order.

  In a bidirectional one, they are those of the forward direction. A layer's truncate and precision
  have no part: they are those of the full gradient, in the parameters' precision.

  apply: calls the model without dropout, for example `lambda: model.apply(variables, inputs)`.
  loss: `(what apply returns) -> a scalar`.
  steps: whether the model has outputs at each step, `[B, T, ...]`: then only those at each row's
    last real step count, so that lags are counted from the step of the loss.

  Raises ValueError for a model without a `Recurrent`.
  """

  def run(nudges):
    layers = []

    def intercept(call, args, options, context):
      if not isinstance(context.module, Recurrent) or context.method_name != '__call__':
        return call(*args, **options)
      given = None if nudges is None else nudges[len(layers)]
      layer, out = _run(context.module, given, *args, **options)
      layers.append(layer)
      return out

    with nn.intercept_methods(intercept):
      outputs = apply()
    if not layers:
      raise ValueError('gradients are measured in layers of rnnlab.Recurrent: the model has none')
    return loss(_only_last(outputs, layers[-1][1]) if steps else outputs), layers

  shapes = jax.eval_shape(lambda: run(None)[1])
  zeros = [jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), nudges) for nudges, _ in shapes]
  grads, layers = jax.grad(run, has_aux=True)(zeros)
  return [Layer(norms(by), mask) for by, (_, mask) in zip(grads, layers, strict=True)]


def _only_last(outputs, mask):
  """Outputs `[B, T, ...]` through which a gradient passes only at each row's last real step."""
  last = (mask & (lags(mask) == 0)).reshape(*mask.shape, *[1] * (outputs.ndim - 2))
  return jnp.where(last, outputs, jax.lax.stop_gradient(outputs))


def _run(
  layer,
  nudges,
  xs,
  mask=None,
  deterministic=True,
  resets=None,
  initial_carry=None,
  return_carry=False,
):
  """A call of `layer` with its forward direction nudged: ((nudges, mask), what it returns)."""
  xs = xs.rows() if isinstance(xs, Lookup) else xs
  params = layer.variables['params']
  real = jnp.ones(xs.shape[:2], bool) if mask is None else mask
  start, start_backward = (
    initial_carry
    if layer.bidirectional and initial_carry
    else (
      initial_carry,
      None,
    )
  )
  if start is None:
    start = layer.cell.initial_carry(xs.shape[:1], xs.dtype)
  if nudges is None:
    nudges = no_nudges(start, xs.shape[1])
  given = {'mask': real, 'resets': resets}
  carry, ys = nudged(layer.cell, params['cell'], xs, nudges, initial_carry=start, **given)
  if layer.bidirectional:
    given |= {'reverse': True, 'initial_carry': start_backward}
    back, of_back = recurrence.unroll(layer.cell, params['cell_backward'], xs, **given)
    carry, ys = (carry, back), jnp.concatenate([ys, of_back], axis=-1)
  return (nudges, real), (carry, ys) if return_carry else ys
