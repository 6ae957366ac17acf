"""Other uses of a model of a stream: predicting with little context, and continuing by itself."""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rnnlab.cells.base import Array


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def nll(
  model: nn.Module, params: Any, split: Mapping[str, Array], every: Array, longest: int, most: int
) -> Array:
  """The mean outputs of a model of a stream whose carry is reset every so many steps.

  So a token is predicted from the tokens since the last reset, at least one and at most `every`.
  Rows of `longest` steps, evenly spaced in the stream, are run side by side.

  model: takes a batch with 'resets', as `LanguageModel` does. split: arrays `[N]`. every: int32
  `[K]`, each a divisor of longest. most: how many tokens to read at most, but at least one row.
  Returns float32 `[K]`.
  """
  size = len(split['inputs'])
  rows, steps = max(1, min(size, most) // longest), np.arange(longest)
  starts = np.linspace(0, max(size - longest, 0), rows).astype(int)
  places = starts[:, None] + steps
  weights = jnp.asarray(places < size, jnp.float32)
  batch = {name: array[places % size] for name, array in split.items()} | {'weights': weights}

  def mean(every):
    resets = jnp.broadcast_to(steps % every == 0, places.shape)
    outputs, _ = model.apply({'params': params}, batch | {'resets': resets})
    return jnp.sum(weights * outputs) / weights.sum()

  return jax.lax.map(mean, every)


@functools.partial(jax.jit, static_argnums=(0, 3))
def sample(model: nn.Module, params: Any, first: Array | int, count: int, seed: int = 0) -> Array:
  """A continuation by a model after a token, drawn from its probabilities: ids, int32 `[count]`.

  The draws equal those of the first sample of `rnnlab.predict` at temperature 1.

  first: the id to begin with. seed: of the draws.
  """
  key = jax.random.fold_in(jax.random.key(seed), 0)

  def one(state, place):
    token, carry = state
    logits, carry = model.apply({'params': params}, token[None, None], carry, method='logits')
    drawn = jax.random.categorical(jax.random.fold_in(key, place), logits[0, 0])
    drawn = drawn.astype(jnp.int32)
    return (drawn, carry), drawn

  start = jnp.int32(first), model.apply({'params': params}, 1, method='initial_carry')
  return jax.lax.scan(one, start, jnp.arange(count))[1]
