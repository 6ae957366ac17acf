"""Metrics as weighted sums, added up over a split and divided once at the end."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rnnlab.cells.base import Array
from rnnlab.tasks.base import Metric

Sums = dict[str, tuple[Array, Array]]  # of each metric: the sum, and that of the weights


def zeros(metrics: Sequence[Metric]) -> Sums:
  """The sums of no examples, float32."""
  return {m.name: (jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32)) for m in metrics}


def of(loss, metrics: Sequence[Metric], outputs: Array, batch: Mapping[str, Any]) -> Sums:
  """The sums of a batch, by a task's `loss`; raises ValueError unless they are its metrics'."""
  sums = loss(outputs, batch)
  if {*sums} != {metric.name for metric in metrics}:
    raise ValueError(
      f"the task's loss gives the sums {sorted(sums)}, and its metrics are"
      f' {sorted(metric.name for metric in metrics)}'
    )
  return sums


def add(a: Sums, b: Sums) -> Sums:
  """The sums of two disjoint sets of examples together."""
  return jax.tree.map(jnp.add, a, b)


def names(metrics: Sequence[Metric]) -> list[str]:
  """The metrics' names in the order of a row: the loss, then the others."""
  return ['loss', *(metric.name for metric in metrics if metric.name != 'loss')]


def means(split: str, sums: Sums, metrics: Sequence[Metric]) -> dict[str, float]:
  """`{'<split>_loss': a mean, '<split>_<metric>': a mean, ...}` as Python floats."""
  return {f'{split}_{name}': float(sums[name][0]) / float(sums[name][1]) for name in names(metrics)}
