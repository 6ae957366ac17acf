"""How far the gradients of a model in training reach, of a small batch that stays the same."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnlab.cells.base import Array
from rnnlab.models import flow
from rnnlab.recurrence.flow import at_lags
from rnnlab.recurrence.nudges import powers
from rnnlab.training import metrics, windows
from rnnlab.training.train import Program, examples

EXAMPLES = 32


def batch_of(program: Program, split: Mapping[str, Any]) -> dict[str, Any]:
  """EXAMPLES rows of a train split from all over it, or a window of so many streams; or fewer.

  Where training examples are drawn, as many are drawn, which are the same at each call.
  split: a dict of arrays, on the host. Its weights, as of a batch in training, are 1.
  """
  size = examples(split)
  if program.draw:
    drawn = jax.jit(program.draw, static_argnums=1)(jax.random.key(0), min(EXAMPLES, size))
    return drawn | {'weights': np.ones(min(EXAMPLES, size), np.float32)}
  if program.windows:
    count = min(EXAMPLES, program.batch_size)
    steps = program.windows.steps
    return windows.window(split, count, steps, *jnp.array([0, steps]))
  rows = np.linspace(0, size - 1, min(EXAMPLES, size)).astype(int)
  batch = jax.tree.map(lambda a: a[rows], dict(split))
  return batch | {'weights': np.ones(len(rows), np.float32)}


@functools.partial(jax.jit, static_argnums=(0, 1))
def norms(
  program: Program, steps: bool, params: Any, opt_state: Any, values: dict, batch: dict[str, Any]
) -> list[tuple[Array, Array]]:
  """The lags of each layer, and the mean norm of the gradient at each, `[L]`; NaN where no row is.

  They are those of `rnnlab.models.flow`, of each example's own loss without dropout, by the
  parameters as they are evaluated. steps: whether outputs are of each step: of those only the last
  counts.
  """
  model, tx = program.build(values)
  variables = {'params': tx.evaluated(params, opt_state)}

  def apply():
    if program.windows:
      return model.apply(variables, batch)[0]
    return model.apply(variables, batch['inputs'], deterministic=True)

  def loss(outputs):
    return metrics.of(program.loss, program.metrics, outputs, batch)['loss'][0]

  found = []
  for layer in flow.gradient_norms(apply, loss, steps or program.windows is not None):
    chosen = powers(layer.norms.shape[1])
    found.append((jnp.array(chosen), at_lags(layer.norms, layer.mask, chosen)))
  return found
