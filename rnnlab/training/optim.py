"""From a config to an optax chain."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rnnlab.cells.base import Array
from rnnlab.recurrence import is_off

OPTIMIZERS = ('adam', 'nadam', 'rmsprop', 'adagrad', 'sgd', 'momentum')
SCHEDULES = ('constant', 'linear', 'cosine', 'step')


def schedule(config: Any, total_steps: int | Array, epoch_steps: int = 1) -> optax.Schedule:
  """The learning rate by step: a linear warm-up, then constant, or falling to 0 at `total_steps`.

  Of 'step' it is multiplied by config.decay at the start of each epoch, of `epoch_steps`, after the
  first config.decay_after.
  `config` is that of `optimizer`. Its numbers may be traced, which those of optax's may not.
  """

  def rate(step):
    after = (step - config.warmup_steps) / jnp.maximum(total_steps - config.warmup_steps, 1)
    after = jnp.clip(after, 0, 1)
    share = {
      'constant': lambda: jnp.ones_like(after),
      'linear': lambda: 1 - after,
      'cosine': lambda: (1 + jnp.cos(jnp.pi * after)) / 2,
      'step': lambda: config.decay ** jnp.maximum(step // epoch_steps + 1 - config.decay_after, 0),
    }[config.schedule]()
    warmed = step / jnp.maximum(config.warmup_steps, 1)
    return config.learning_rate * jnp.where(step < config.warmup_steps, warmed, share)

  return rate


def optimizer(
  config: Any, total_steps: int | Array, epoch_steps: int = 1
) -> optax.GradientTransformation:
  """Clip the gradient's global norm, scale it by `config.name`, decay weights, then the rate.

  `config` has the fields of an experiment's `optim`, whose numbers may be traced, as total_steps;
  see `schedule`.
  Weight decay comes after the scaling (decoupled: Loshchilov & Hutter 2019) and spares vectors, so
  that biases are not decayed.
  """
  scale = {
    'adam': lambda: optax.scale_by_adam(eps=config.epsilon),
    'nadam': lambda: scale_by_nadam(eps=config.epsilon),
    'rmsprop': lambda: optax.scale_by_rms(eps=config.epsilon),
    'adagrad': lambda: optax.scale_by_rss(eps=config.epsilon),
    'sgd': optax.identity,
    'momentum': lambda: optax.trace(decay=0.9),
  }[config.name]()
  chain = [scale, optax.scale_by_learning_rate(schedule(config, total_steps, epoch_steps))]
  if not is_off(config.weight_decay):
    chain.insert(1, optax.add_decayed_weights(config.weight_decay, mask=_matrices))
  if not is_off(config.clip_norm):
    chain.insert(0, optax.clip_by_global_norm(config.clip_norm))
  return optax.chain(*chain)


class NadamState(NamedTuple):
  """The steps so far, the product of their momenta, and the means of gradients and squares."""

  count: Array  # type: ignore[assignment]  # which a tuple has a method of
  product: Array
  mean: Any
  square: Any


def scale_by_nadam(
  b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, momentum_decay: float = 0.004
) -> optax.GradientTransformation:
  """Nadam (Dozat 2016), whose momentum grows from b1 / 2 to b1 by a schedule.

      mu_t = b1 * (1 - 0.96 ** (t * momentum_decay) / 2)
      m_t = b1 * m_{t-1} + (1 - b1) * g_t,    v_t = b2 * v_{t-1} + (1 - b2) * g_t ** 2
      m' = mu_{t+1} * m_t / (1 - mu_1 ... mu_{t+1}) + (1 - mu_t) * g_t / (1 - mu_1 ... mu_t)
      update = m' / (sqrt(v_t / (1 - b2 ** t)) + eps)

  momentum_decay: 0.004 in Dozat's paper and in PyTorch, 1 in Keras.
  """

  def init(params):
    zeros = jax.tree.map(jnp.zeros_like, params)
    return NadamState(jnp.zeros((), jnp.int32), jnp.ones((), jnp.float32), zeros, zeros)

  def update(gradients, state, params=None):
    count = state.count + 1
    t = count.astype(jnp.float32)
    mu, mu_next = (b1 * (1 - 0.5 * 0.96 ** (n * momentum_decay)) for n in (t, t + 1))
    product = state.product * mu
    mean = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mean, gradients)
    square = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g**2, state.square, gradients)

    def scaled(g, m, v):
      m = mu_next * m / (1 - product * mu_next) + (1 - mu) * g / (1 - product)
      return (m / (jnp.sqrt(v / (1 - b2**t)) + eps)).astype(g.dtype)

    scaled_gradients = jax.tree.map(scaled, gradients, mean, square)
    return scaled_gradients, NadamState(count, product, mean, square)

  return optax.GradientTransformation(init, update)


def _matrices(params):
  return jax.tree.map(lambda p: p.ndim > 1, params)
