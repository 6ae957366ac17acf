"""The model of piano rolls: which notes sound next, given all frames before."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from rnnlab.cells.base import Array
from rnnlab.models.classifier import SequenceClassifier


class RollModel(nn.Module):
  """Frames -> layers of a cell -> the log-odds that each key sounds next -> their likelihood.

  It is called with 'rolls', `[B, T + 1, K]` of 0 and 1, whose first frame is given and not
  predicted, and 'lengths', int `[B]`, how many frames are predicted. It returns float32
  `[B, T, 3]`, for each frame: the negative log-likelihood in nats, summed over the K keys, which
  are independent given the previous frames; how many notes were predicted correctly; and how many
  were predicted but do not sound, or sound but were not predicted. A note is predicted if its
  probability is above 1/2. Frames beyond the length give 0.

  series: a model of series with K logits at each step.
  """

  series: SequenceClassifier

  def setup(self) -> None:
    nn.share_scope(self, self.series)  # its parameters keep their names

  def __call__(self, inputs: Mapping[str, Array], deterministic: bool = True) -> Array:
    rolls = inputs['rolls'].astype(jnp.float32)
    xs, notes = rolls[:, :-1], rolls[:, 1:]
    logits = self.series({'xs': xs, 'lengths': inputs['lengths']}, deterministic)
    logits = logits.reshape(notes.shape)  # that of a single key lacks the last axis
    nll = jnp.sum(jax.nn.softplus(logits) - notes * logits, axis=-1)
    predicted = logits > 0
    hits = jnp.sum(predicted * notes, axis=-1)
    misses = jnp.sum(predicted != notes, axis=-1)
    real = jnp.arange(notes.shape[1]) < inputs['lengths'][:, None]
    return jnp.where(real[..., None], jnp.stack([nll, hits, misses], axis=-1), 0)
