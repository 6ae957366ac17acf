"""A language model that continues to learn from the text that it is scored on.

There are two ways, which can be combined. Dynamic evaluation (Krause et al. 2018) reads the text
window by window, and after each window takes a step of gradient descent on what was just scored,
scaled for each parameter and pulled back towards the trained parameters:

    params <- params - rate * g / (rms + epsilon) + pull * (trained - params)
    pull = min(decay * rms / mean(rms), 1)

where g is the gradient of the window's mean negative log-likelihood and rms the root of the mean
square of such gradients over the train split.

The neural cache (Grave et al. 2017) remembers the last states h_i with the tokens x_i that followed
them, and predicts these again when the state is similar:

    p(w) = (1 - share) p_model(w) + share p_cache(w)
    p_cache(w) is proportional to the sum over i with x_i = w of exp(flatness * h_t . h_i)

Both use only what came before in the text, so what they give is a likelihood. Their settings are
chosen on the validation split, never on the text.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnlab.predict import forward
from rnnlab.predict.predictor import Predictor
from rnnlab.runs import program
from rnnlab.training import windows

WINDOW = 64  # steps of a window if nothing is learnt after it
BLOCK = 64  # windows in a call
ROWS = 512  # states that are compared at once with those before them
MOST = 1000  # windows of the train split whose gradients are measured
TOKENS = 10_000  # of the validation split, used to choose settings
RATES = 0.0, 0.0005, 0.001, 0.002, 0.004, 0.008
DECAYS = 0.02, 0.0, 0.005, 0.05  # the first is used while a rate is chosen
SHARES = 0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3
FLATNESS = 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0


class Dynamic(NamedTuple):
  """How a model learns from a text.

  rate, decay, epsilon: see above. window: the steps between two changes.
  """

  rate: float
  decay: float = 0.02
  epsilon: float = 1e-3
  window: int = 5


class Cache(NamedTuple):
  """How a model remembers a text.

  size: how many states. share: of the probability. flatness: the factor on the products of states;
  at 0, everything remembered counts equally.
  """

  size: int
  share: float = 0.1
  flatness: float = 0.3


class Adaptation(NamedTuple):
  """How a model adapts to a text. dynamic, cache: None if not in this way.

  rms: for dynamic, a tree like the params; see `gradients`.
  """

  dynamic: Dynamic | None = None
  cache: Cache | None = None
  rms: Any = None

  def __str__(self) -> str:
    told = []
    if self.dynamic:
      told.append(f'dynamic evaluation: rate {self.dynamic.rate:g}, decay {self.dynamic.decay:g}')
    if self.cache:
      share, flatness = self.cache.share, self.cache.flatness
      told.append(f'cache of {self.cache.size:,}: share {share:g}, flatness {flatness:g}')
    return '; '.join(told)


def nll(member: Predictor, stream: Mapping[str, Any], adaptation: Adaptation) -> np.ndarray:
  """The negative log-likelihoods of the targets of a stream in nats, float64 `[N]`.

  stream: 'inputs' and 'targets', int32 `[N]`.
  """
  dynamic, cache, rms = adaptation
  found, hs = read(member, stream, dynamic, rms)
  if cache is None:
    return found
  return mixed(found, remembered(hs, stream['targets'], cache.size, cache.flatness), cache.share)


def read(
  member: Predictor, stream: Mapping[str, Any], dynamic: Dynamic | None = None, rms: Any = None
) -> tuple[np.ndarray, np.ndarray]:
  """Reads a stream from the start of a line, with or without learning from it; see `nll`.

  Returns the negative log-likelihoods of its targets, float64 `[N]`, and the states that they are
  predicted from, float32 `[N, H]`.
  """
  model, size = forward.portable(member.model), len(stream['targets'])
  steps = dynamic.window if dynamic else WINDOW
  rates = (dynamic.rate, dynamic.decay, dynamic.epsilon) if dynamic else ()
  state = member.params, model.apply({}, 1, method='initial_carry')
  parts = []
  for start in range(0, size, steps * BLOCK):
    batch = {name: np.zeros(steps * BLOCK, np.int32) for name in ('inputs', 'targets')}
    weights = np.zeros(steps * BLOCK, np.float32)
    count = min(size - start, steps * BLOCK)
    for name, array in batch.items():
      array[:count] = stream[name][start : start + count]
    weights[:count] = 1
    cut = {n: a.reshape(BLOCK, 1, steps) for n, a in {**batch, 'weights': weights}.items()}
    many = -(-count // steps)
    state, found, hs = _block(model, member.params, rms, rates, state, cut, many)
    parts.append(
      (np.asarray(found).ravel()[:count], np.asarray(hs).reshape(-1, hs.shape[-1])[:count])
    )
  found, hs = (np.concatenate(of) for of in zip(*parts, strict=True))
  return found.astype(np.float64), hs


@functools.partial(jax.jit, static_argnums=0)
def _block(model, trained, rms, rates, state, batches, count):
  """Reads the first `count` windows; returns the state after them, nll `[W, T]`, hs `[W, T, H]`."""
  one = jax.tree.map(lambda a: a[0], batches)
  shapes = jax.eval_shape(lambda: _window(model, *state, one)[1])
  _, nll, hs = jax.tree.map(
    lambda a: jnp.zeros((len(batches['inputs']), *a.shape[1:]), a.dtype), shapes
  )

  def body(i, carried):
    (params, carry), nll, hs = carried
    batch = jax.tree.map(lambda a: a[i], batches)
    if rates:
      window = functools.partial(_window, model)
      (_, (carry, new, h)), g = jax.value_and_grad(window, has_aux=True)(params, carry, batch)
      params = _step(params, g, trained, rms, *rates)
    else:
      _, (carry, new, h) = _window(model, params, carry, batch)
    return (params, carry), nll.at[i].set(new[0]), hs.at[i].set(h[0])

  return jax.lax.fori_loop(0, count, body, (state, nll, hs))


def _window(model, params, carry, batch):
  """The mean nll of a window, and its carry, nll `[B, T]` and hs `[B, T, H]`."""
  total, nll, hs, carry = model.apply({'params': params}, batch, carry, method='scored')
  return total / jnp.maximum(batch['weights'].sum(), 1), (carry, nll, hs)


def _step(params, g, trained, rms, rate, decay, epsilon):
  """The parameters after a step of dynamic evaluation."""
  mean = _mean(rms)

  def one(p, g, start, r):
    return p - rate * g / (r + epsilon) + jnp.minimum(decay * r / mean, 1) * (start - p)

  return jax.tree.map(one, params, g, trained, rms)


def _mean(tree):
  leaves = jax.tree.leaves(tree)
  return sum(leaf.sum() for leaf in leaves) / sum(leaf.size for leaf in leaves)


def gradients(member: Predictor, split: Mapping[str, Any], batch_size: int, window: int) -> Any:
  """The root mean square of each parameter's gradient, as a tree like the params.

  The gradients are those of the mean negative log-likelihood of windows of batch_size streams, into
  which training cuts the split, for at most the first MOST windows.
  """
  count = min(MOST, max(1, len(split['inputs']) // batch_size // window))
  arrays = {name: jnp.asarray(split[name]) for name in ('inputs', 'targets')}
  model = forward.portable(member.model)
  return _rms(model, batch_size, window, member.params, arrays, count)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _rms(model, batch_size, window, params, split, count):
  def body(i, carried):
    squares, carry = carried
    batch = windows.window(split, batch_size, window, i * window, window)
    loss = functools.partial(_window, model)
    (_, (carry, *_)), g = jax.value_and_grad(loss, has_aux=True)(params, carry, batch)
    return jax.tree.map(lambda s, g: s + g * g, squares, g), carry

  start = model.apply({}, batch_size, method='initial_carry')
  zeros = jax.tree.map(jnp.zeros_like, params)
  squares, _ = jax.lax.fori_loop(0, count, body, (zeros, start))
  return jax.tree.map(lambda s: jnp.sqrt(s / count), squares)


def remembered(hs: np.ndarray, targets: np.ndarray, size: int, flatness: float) -> np.ndarray:
  """The logarithm of the cache's probability of each target, float64 `[N]`.

  hs `[N, H]`: the states that targets, int `[N]`, are predicted from. A target that is not among
  the last `size` tokens gets -inf; the first one, before which nothing is remembered, NaN.
  """
  hs, found = hs.astype(np.float64), np.full(len(hs), np.nan)
  for start in range(0, len(hs), ROWS):
    end = min(start + ROWS, len(hs))
    first = max(0, start - size)
    scores = flatness * (hs[start:end] @ hs[first:end].T)
    back = np.arange(start, end)[:, None] - np.arange(first, end)  # steps since then
    scores[(back < 1) | (back > size)] = -np.inf
    with np.errstate(divide='ignore', invalid='ignore'):
      powers = np.exp(scores - scores.max(axis=1, keepdims=True))
      same = targets[start:end, None] == targets[first:end]
      found[start:end] = np.log((powers * same).sum(axis=1)) - np.log(powers.sum(axis=1))
  return found


def mixed(nll: np.ndarray, cached: np.ndarray, share: float) -> np.ndarray:
  """The negative log-likelihoods of model and cache combined. cached: see `remembered`."""
  with np.errstate(divide='ignore', invalid='ignore'):
    both = -np.logaddexp(np.log1p(-share) - nll, np.log(share) + cached)
  return np.where(np.isnan(cached), nll, both)


def choose(member: Predictor, cache: int = 0, dynamic: bool = False) -> Adaptation:
  """How a model is to adapt: the best on the validation split of some values of each setting.

  They include no adaptation at all: a rate or a share of 0. With both, the cache is chosen for the
  model that learns.

  cache: how many states are remembered; 0: none. dynamic: whether the model learns.

  Raises ValueError for a size below 0 and if the run has no validation split, and DataError if its
  data are no longer there.
  """
  if cache != int(cache) or cache < 0:
    raise ValueError(f'cache={cache}: it must be a whole number of states, or 0 for no cache')
  splits = member.task.load(program.data_of(member.config)).splits
  if 'validation' not in splits:
    raise ValueError(
      'this run has no validation split, which is needed to choose rates: train it with'
      ' --config.data.validation_fraction above 0'
    )
  stream = {n: np.asarray(splits['validation'][n][:TOKENS]) for n in ('inputs', 'targets')}
  learns, rms = None, None
  if dynamic:
    rms = gradients(member, splits['train'], member.config.train.batch_size, Dynamic(0).window)
    learns = _best_dynamic(member, stream, rms)
  if not cache:
    return Adaptation(learns, None, rms)
  found, hs = read(member, stream, learns, rms)
  tried = {}
  for flatness in FLATNESS:
    cached = remembered(hs, stream['targets'], cache, flatness)
    tried |= {Cache(cache, s, flatness): mixed(found, cached, s).mean() for s in SHARES}
  return Adaptation(learns, min(tried, key=tried.__getitem__), rms)


def _best_dynamic(member, stream, rms):
  def loss(dynamic):
    mean = read(member, stream, dynamic, rms)[0].mean()
    return mean if np.isfinite(mean) else np.inf

  first, *others = DECAYS
  tried = {(way := Dynamic(rate, first)): loss(way) for rate in RATES}
  best = min(tried, key=tried.__getitem__)
  if best.rate:
    tried |= {(way := best._replace(decay=decay)): loss(way) for decay in others}
  return min(tried, key=tried.__getitem__)
