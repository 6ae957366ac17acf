"""From a config to an optax chain."""

import jax
import jax.numpy as jnp
import optax

from rnnlab.recurrence import is_off

OPTIMIZERS = ('adam', 'nadam', 'rmsprop', 'adagrad', 'sgd', 'momentum')
SCHEDULES = ('constant', 'linear', 'cosine')


def schedule(config, total_steps) -> optax.Schedule:
  """The learning rate by step: a linear warm-up, then constant or falling to 0 at `total_steps`.

  `config` is that of `optimizer`. Its numbers may be traced, which those of optax's may not.
  """

  def rate(step):
    after = (step - config.warmup_steps) / jnp.maximum(total_steps - config.warmup_steps, 1)
    after = jnp.clip(after, 0, 1)
    share = {
      'constant': jnp.ones_like(after),
      'linear': 1 - after,
      'cosine': (1 + jnp.cos(jnp.pi * after)) / 2,
    }[config.schedule]
    warmed = step / jnp.maximum(config.warmup_steps, 1)
    return config.learning_rate * jnp.where(step < config.warmup_steps, warmed, share)

  return rate


def optimizer(config, total_steps) -> optax.GradientTransformation:
  """Clip the gradient's global norm, scale it by `config.name`, decay weights, then the rate.

  `config` has the fields of an experiment's `optim`, whose numbers may be traced, as total_steps.
  Weight decay comes after the scaling (decoupled: Loshchilov & Hutter 2019) and spares vectors, so
  that biases are not decayed.
  """
  scale = {
    'adam': lambda: optax.scale_by_adam(eps=config.epsilon),
    'nadam': lambda: optax.scale_by_adam(eps=config.epsilon, nesterov=True),
    'rmsprop': lambda: optax.scale_by_rms(eps=config.epsilon),
    'adagrad': lambda: optax.scale_by_rss(eps=config.epsilon),
    'sgd': optax.identity,
    'momentum': lambda: optax.trace(decay=0.9),
  }[config.name]()
  chain = [scale, optax.scale_by_learning_rate(schedule(config, total_steps))]
  if not is_off(config.weight_decay):
    chain.insert(1, optax.add_decayed_weights(config.weight_decay, mask=_matrices))
  if not is_off(config.clip_norm):
    chain.insert(0, optax.clip_by_global_norm(config.clip_norm))
  return optax.chain(*chain)


def _matrices(params):
  return jax.tree.map(lambda p: p.ndim > 1, params)
