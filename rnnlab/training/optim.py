"""Makes an optimiser from a config: an optax chain, and its reaction to the end of an epoch."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rnnlab.cells.base import Array
from rnnlab.recurrence import is_off

OPTIMIZERS = ('adam', 'nadam', 'rmsprop', 'adagrad', 'sgd', 'momentum', 'asgd')
SCHEDULES = ('constant', 'linear', 'cosine', 'step', 'plateau')


class Optimizer(NamedTuple):
  """What trains parameters: an optax transformation, and how it reacts to validation.

  init, update: those of the transformation; `Optimizer(*optax.sgd(1.0))` ignores validation.
  stepped: `(opt_state, params) -> opt_state`, called after a step with the new parameters.
  end_epoch: `(opt_state, params, score, improved) -> opt_state`, at the end of an epoch. score: a
    float32 scalar, the primary metric on the validation split, times its sign, so that higher is
    better. improved: bool, whether it is the best so far.
  evaluated: `(params, opt_state) -> params`, the parameters to evaluate and keep: an average over
    steps, or `params` themselves. `end_epoch` does not change its result.
  perturbed: `(params, key) -> params`, where a step takes its gradient: `params` with noise, or
    `params` themselves.
  """

  init: Callable[[Any], Any]
  update: Callable[..., tuple[Any, Any]]
  stepped: Callable[[Any, Any], Any] = lambda opt_state, _: opt_state
  end_epoch: Callable[[Any, Any, Array, Array], Any] = lambda opt_state, *_: opt_state
  evaluated: Callable[[Any, Any], Any] = lambda params, _: params
  perturbed: Callable[[Any, Array], Any] = lambda params, _: params


def schedule(config: Any, total_steps: int | Array, epoch_steps: int = 1) -> optax.Schedule:
  """The learning rate by step: a linear warm-up, then constant, or falling to 0 at `total_steps`.

  With 'step' it is multiplied by config.decay at the start of each epoch, of `epoch_steps`, after
  the first config.decay_after epochs. With 'plateau' the factor depends on validation: see
  `plateau`. `config` is that of `optimizer`. Unlike in optax, its numbers may be traced.
  """

  def rate(step):
    after = (step - config.warmup_steps) / jnp.maximum(total_steps - config.warmup_steps, 1)
    after = jnp.clip(after, 0, 1)
    share = {
      'constant': lambda: jnp.ones_like(after),
      'linear': lambda: 1 - after,
      'cosine': lambda: (1 + jnp.cos(jnp.pi * after)) / 2,
      'step': lambda: config.decay ** jnp.maximum(step // epoch_steps + 1 - config.decay_after, 0),
      'plateau': lambda: jnp.ones_like(after),
    }[config.schedule]()
    warmed = step / jnp.maximum(config.warmup_steps, 1)
    return config.learning_rate * jnp.where(step < config.warmup_steps, warmed, share)

  return rate


def optimizer(config: Any, total_steps: int | Array, epoch_steps: int = 1) -> Optimizer:
  """Clip the gradient's global norm, scale it by `config.name`, decay weights, then the rate.

  `config` has the fields of an experiment's `optim`, whose numbers may be traced, as total_steps;
  see `schedule`.
  Weight decay comes after the scaling (decoupled: Loshchilov & Hutter 2019) and spares vectors, so
  that biases are not decayed. With 'asgd', which is SGD inside `averaged`, it spares none, as in
  Merity et al. (2018).
  """
  scale = {
    'adam': lambda: optax.scale_by_adam(eps=config.epsilon),
    'nadam': lambda: scale_by_nadam(eps=config.epsilon),
    'rmsprop': lambda: optax.scale_by_rms(eps=config.epsilon),
    'adagrad': lambda: optax.scale_by_rss(eps=config.epsilon),
    'sgd': optax.identity,
    'momentum': lambda: optax.trace(decay=0.9),
    'asgd': optax.identity,
  }[config.name]()
  chain = [scale, optax.scale_by_learning_rate(schedule(config, total_steps, epoch_steps))]
  if not is_off(config.weight_decay):
    mask = None if config.name == 'asgd' else _matrices
    chain.insert(1, optax.add_decayed_weights(config.weight_decay, mask))
  if not is_off(config.clip_norm):
    chain.insert(0, optax.clip_by_global_norm(config.clip_norm))
  made = Optimizer(*optax.chain(*chain))
  if config.schedule == 'plateau':
    made = plateau(made, config.decay, config.patience)
  if config.name == 'asgd':
    made = averaged(made, config.nonmonotone)
  if not is_off(config.weight_noise):
    made = made._replace(perturbed=functools.partial(noisy, std=config.weight_noise))
  return made


def noisy(params: Any, key: Array, std: float | Array) -> Any:
  """The parameters with normal noise of this standard deviation on each (Graves 2011)."""
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(key, len(leaves))
  draws = [
    p + std * jax.random.normal(k, p.shape, p.dtype) for p, k in zip(leaves, keys, strict=True)
  ]
  return jax.tree.unflatten(tree, draws)


class PlateauState(NamedTuple):
  """The inner state, the factor of the rate, and the epochs since the last improvement or fall."""

  inner: Any
  factor: Array
  waited: Array


def plateau(tx: Optimizer, decay: float | Array, patience: int | Array) -> Optimizer:
  """Multiplies the updates of `tx` by `decay` each time `patience` epochs pass without improvement.

  These are consecutive epochs, none of which is better by validation than the best before it. A
  patience of 1 and a decay of 1/4 give the rule of PyTorch's language model example; PyTorch's
  ReduceLROnPlateau with a threshold of 0 does the same with a patience lower by one.
  """

  def init(params):
    return PlateauState(tx.init(params), jnp.ones((), jnp.float32), jnp.zeros((), jnp.int32))

  def update(gradients, state, params=None):
    updates, inner = tx.update(gradients, state.inner, params)
    return jax.tree.map(lambda u: u * state.factor, updates), state._replace(inner=inner)

  def stepped(state, params):
    return state._replace(inner=tx.stepped(state.inner, params))

  def end_epoch(state, params, score, improved):
    inner = tx.end_epoch(state.inner, params, score, improved)
    waited = jnp.where(improved, 0, state.waited + 1)
    falls = waited >= patience
    factor = jnp.where(falls, state.factor * decay, state.factor)
    return PlateauState(inner, factor, jnp.where(falls, 0, waited))

  def evaluated(params, state):
    return tx.evaluated(params, state.inner)

  return Optimizer(init, update, stepped, end_epoch, evaluated)


class AveragedState(NamedTuple):
  """The inner state, the mean of the parameters over `count` steps, and the epochs' scores.

  count: how many steps, 0 as long as there is no mean. recent: the scores of the last epochs,
  float32 `[n]`, the oldest first, -inf before the first epoch. best: the best score before these.
  """

  inner: Any
  mean: Any
  count: Array  # type: ignore[assignment]  # which a tuple has a method of
  recent: Array
  best: Array


def averaged(tx: Optimizer, n: int) -> Optimizer:
  """Averages the parameters of `tx` from an epoch on (NT-ASGD: Merity et al. 2018, algorithm 1).

  Averaging begins at the end of the first epoch that is worse by validation than the best epoch
  before it, not counting the last `n`. The mean is over the parameters there and after each later
  step; training itself continues as without it.
  """

  def init(params):
    never = jnp.full(n, -jnp.inf, jnp.float32)
    mean = jax.tree.map(jnp.copy, params)  # a copy: the steps donate their state's buffers
    return AveragedState(tx.init(params), mean, jnp.zeros((), jnp.int32), never, never.max())

  def update(gradients, state, params):
    updates, inner = tx.update(gradients, state.inner, params)
    return updates, state._replace(inner=inner)

  def stepped(state, params):
    averages, count = state.count > 0, state.count + 1

    def moved(mean, p):
      return jnp.where(averages, mean + (p - mean) / count, mean)

    mean, inner = jax.tree.map(moved, state.mean, params), tx.stepped(state.inner, params)
    return state._replace(inner=inner, mean=mean, count=jnp.where(averages, count, 0))

  def end_epoch(state, params, score, improved):
    inner = tx.end_epoch(state.inner, params, score, improved)
    begins = (state.count == 0) & (score < state.best)
    mean = jax.tree.map(lambda m, p: jnp.where(begins, p, m), state.mean, params)
    scores = jnp.append(state.recent, score)
    best = jnp.fmax(state.best, scores[0])  # if one is NaN, the other
    return AveragedState(inner, mean, jnp.where(begins, 1, state.count), scores[1:], best)

  def evaluated(params, state):
    params = tx.evaluated(params, state.inner)
    return jax.tree.map(lambda m, p: jnp.where(state.count > 0, m, p), state.mean, params)

  return Optimizer(init, update, stepped, end_epoch, evaluated)


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
