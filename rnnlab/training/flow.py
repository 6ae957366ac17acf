"""How far the gradients of a model in training reach, measured on a small fixed batch."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnlab.cells.base import Array
from rnnlab.models import SequenceClassifier, flow
from rnnlab.recurrence.flow import at_lags
from rnnlab.recurrence.nudges import powers
from rnnlab.training import metrics, windows
from rnnlab.training.train import Program, examples

EXAMPLES = 32


def batch_of(program: Program, split: Mapping[str, Any]) -> dict[str, Any]:
  """EXAMPLES rows spread over a train split, or a window of that many streams; or fewer.

  split: a dict of arrays, on the host. The weights of the batch are 1. If train examples are drawn,
  so is the batch, and it is always the same one.
  """
  if program.draw:
    drawn = program.draw(jax.random.key(0), EXAMPLES)
    return drawn | {'weights': jnp.ones(EXAMPLES)}
  if program.windows:
    count = min(EXAMPLES, program.batch_size)
    steps = program.windows.steps
    return windows.window(split, count, steps, *jnp.array([0, steps]))
  size = examples(split)
  rows = np.linspace(0, size - 1, min(EXAMPLES, size)).astype(int)
  batch = jax.tree.map(lambda a: a[rows], dict(split))
  return batch | {'weights': np.ones(len(rows), np.float32)}


@functools.partial(jax.jit, static_argnums=(0, 1))
def norms(
  program: Program, steps: bool, params: Any, opt_state: Any, values: dict, batch: Any = None
) -> list[tuple[Array, Array]]:
  """For each layer, lags and the mean norm of the gradient at each, `[L]`; NaN if no row has a lag.

  The gradients are those of `rnnlab.models.flow`, for each example's own loss without dropout, with
  the parameters that are evaluated. steps: whether there are outputs at each step, of which only
  the last then counts; this need not be said for streams and for a SequenceClassifier. batch: from
  `batch_of`; None if examples are drawn, which is then done here.
  """
  model, tx = program.build(values)
  steps = steps or program.windows is not None
  steps = steps or isinstance(model, SequenceClassifier) and model.steps
  if batch is None:
    batch = batch_of(program, {})
  variables = {'params': tx.evaluated(params, opt_state)}

  def apply():
    if program.windows:
      return model.apply(variables, batch)[0]
    return model.apply(variables, batch['inputs'], deterministic=True)

  def loss(outputs):
    return metrics.of(program.loss, program.metrics, outputs, batch)['loss'][0]

  found = []
  for layer in flow.gradient_norms(apply, loss, steps):
    chosen = powers(layer.norms.shape[1])
    found.append((jnp.array(chosen), at_lags(layer.norms, layer.mask, chosen)))
  return found
