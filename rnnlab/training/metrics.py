"""Losses and accuracies as weighted sums with counts, divided once at the end."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnnlab.cells.base import Array


class Totals(NamedTuple):
  """Sums over examples: of the loss (nats), of correct answers, of the examples' weights."""

  loss: Array
  correct: Array
  count: Array


def zeros() -> Totals:
  """The totals of no examples, float32."""
  return Totals(*(jnp.zeros((), jnp.float32) for _ in Totals._fields))


def totals(logits: Array, labels: Array, weights: Array) -> Totals:
  """Cross-entropy and accuracy, summed over a batch.

  logits: `[B]` for two classes (the log-odds of class 1), or `[B, C]`. labels: int `[B]`.
  weights: float `[B]`, 0 for a row that only fills the batch up.
  """
  if logits.ndim == 1:
    losses = jax.nn.softplus(logits) - labels * logits
    predicted = logits > 0
  else:
    picked = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
    losses = jax.nn.logsumexp(logits, axis=-1) - picked
    predicted = jnp.argmax(logits, axis=-1)
  correct = (predicted == labels).astype(jnp.float32)
  return Totals(jnp.sum(weights * losses), jnp.sum(weights * correct), jnp.sum(weights))


def add(a: Totals, b: Totals) -> Totals:
  """The totals of two disjoint sets of examples together."""
  return jax.tree.map(jnp.add, a, b)


def means(split: str, sums: Totals) -> dict[str, float]:
  """`{'<split>_loss': nats an example, '<split>_accuracy': share}` as Python floats."""
  loss, correct, count = (float(x) for x in sums)
  return {f'{split}_loss': loss / count, f'{split}_accuracy': correct / count}
