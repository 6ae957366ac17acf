"""From a config to an optax chain."""

import jax
import optax

OPTIMIZERS = ('adam', 'nadam', 'rmsprop', 'adagrad', 'sgd', 'momentum')
SCHEDULES = ('constant', 'linear', 'cosine')


def schedule(config, total_steps: int) -> optax.Schedule:
  """The learning rate by step: a linear warm-up, then constant or falling to 0 at `total_steps`."""
  rate, warmup = config.learning_rate, config.warmup_steps
  decay_steps = max(total_steps - warmup, 1)
  after = {
    'constant': lambda: optax.constant_schedule(rate),
    'linear': lambda: optax.linear_schedule(rate, 0.0, decay_steps),
    'cosine': lambda: optax.cosine_decay_schedule(rate, decay_steps),
  }[config.schedule]()
  if not warmup:
    return after
  return optax.join_schedules([optax.linear_schedule(0.0, rate, warmup), after], [warmup])


def optimizer(config, total_steps: int) -> optax.GradientTransformation:
  """Clip the gradient's global norm, scale it by `config.name`, decay weights, then the rate.

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
  if config.weight_decay:
    chain.insert(1, optax.add_decayed_weights(config.weight_decay, mask=_matrices))
  if config.clip_norm:
    chain.insert(0, optax.clip_by_global_norm(config.clip_norm))
  return optax.chain(*chain)


def _matrices(params):
  return jax.tree.map(lambda p: p.ndim > 1, params)
