"""How far the gradients of a model in training reach, of a small batch that stays the same."""

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
  """EXAMPLES rows of a train split from all over it, or a window of so many streams; or fewer.

  split: a dict of arrays, on the host. The weights, as of a batch in training, are 1. Where train
  examples are drawn, the batch is too, always the same one.
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
  """The lags of each layer, and the mean norm of the gradient at each, `[L]`; NaN where no row is.

  They are those of `rnnlab.models.flow`, of each example's own loss without dropout, by the
  parameters as they are evaluated. steps: whether outputs are of each step, which is known of
  streams and of a SequenceClassifier: of those only the last counts. batch: of `batch_of`; None
  where examples are drawn, which is then done here.
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
