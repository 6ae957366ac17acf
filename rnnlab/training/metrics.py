"""Metrics as weighted sums, added up over a split and divided once at the end."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rnnlab.cells.base import Array
from rnnlab.tasks.base import Metric

Sums = dict[str, tuple[Array, Array]]  # for each metric: the sum, and the sum of the weights


def zeros(metrics: Sequence[Metric]) -> Sums:
  """The sums over no examples, float32."""
  return {m.name: (jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32)) for m in metrics}


def of(
  loss: Callable[[Any, Mapping[str, Any]], Sums],
  metrics: Sequence[Metric],
  outputs: Array,
  batch: Mapping[str, Any],
) -> Sums:
  """The sums of a batch from a task's `loss`: those of `metrics` that are means, and 'objective'.

  Raises ValueError if there is no sum for 'loss', or one for an unknown metric.
  """
  sums, known = loss(outputs, batch), {metric.name for metric in metrics}
  if 'loss' not in sums or not {*sums} - {'objective'} <= known:
    raise ValueError(
      f"the task's loss gives the sums {sorted(sums)}: there must be one for 'loss', and no others"
      f" than for its metrics {sorted(known)} and 'objective'"
    )
  return sums


def of_split(
  loss: Callable[[Any, Mapping[str, Any]], Sums],
  score: Callable[[Any, Mapping[str, Any]], dict[str, Any]] | None,
  metrics: Sequence[Metric],
  outputs: Array,
  split: Mapping[str, Any],
) -> Sums:
  """The sums of a whole split, each example counted once, for each of `metrics`.

  A metric from the task's `score` is its own sum, with weight 1. Raises ValueError for a metric
  that comes from neither `loss` nor `score`, or from both.
  """
  weights = jnp.ones(len(jax.tree.leaves(split)[0]), jnp.float32)
  sums = of(loss, metrics, outputs, {**split, 'weights': weights})
  sums.pop('objective', None)
  scores = score(outputs, split) if score else {}
  if {*sums} & {*scores} or {*sums, *scores} != {metric.name for metric in metrics}:
    raise ValueError(
      f"of the task's metrics {sorted(metric.name for metric in metrics)} each must be given either"
      f' by its loss, which gives {sorted(sums)}, or by its score, which gives {sorted(scores)}'
    )
  return sums | {name: (value, jnp.ones((), jnp.float32)) for name, value in scores.items()}


def add(sums: Sums, more: Sums) -> Sums:
  """The sums of two disjoint sets of examples together; `more` may have fewer metrics."""
  return sums | {name: jax.tree.map(jnp.add, sums[name], more[name]) for name in more}


def names(metrics: Sequence[Metric]) -> list[str]:
  """The metrics' names in the order of a row: the loss, then the others."""
  return ['loss', *(metric.name for metric in metrics if metric.name != 'loss')]


def means(split: str, sums: Sums, metrics: Sequence[Metric]) -> dict[str, float]:
  """`{'<split>_loss': a mean, '<split>_<metric>': a mean, ...}` as Python floats.

  A metric that was never added up, such as one of whole splits during training, is left out.
  """
  given = [name for name in names(metrics) if name in sums and sums[name][1]]
  by_name = {metric.name: metric for metric in metrics}
  return {
    f'{split}_{name}': by_name[name].of_mean(float(sums[name][0]) / float(sums[name][1]))
    for name in given
  }
