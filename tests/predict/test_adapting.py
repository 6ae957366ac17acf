"""Language models that adapt to the text they are scored on: against plain float64 loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import rnnlab
from rnnlab import cells, models
from rnnlab.predict import adapting, scoring
from rnnlab.predict.adapting import Adaptation, Cache, Dynamic
from rnnlab.predict.predictor import Predictor
from rnnlab.runs import configs

SIZE, UNITS = 7, 4  # sizes of the vocabulary and of the state


def member(cell='elman', adaptive=False, size=SIZE):
  """An untrained language model of one layer."""
  config = configs.default('language_model')
  layers = (cells.get(cell, hidden_size=UNITS),)
  model = models.LanguageModel(layers, size, embed_size=3, adaptive=adaptive, init_scale=0.8)
  zeros = jnp.zeros((1, 1), jnp.int32)
  batch = {'inputs': zeros, 'targets': zeros, 'weights': jnp.ones((1, 1))}
  params = jax.jit(model.init)(jax.random.key(1), batch)['params']
  return Predictor(config, model, params, tuple(map(str, range(size))), {'end': 0, 'unknown': None})


def stream_of(count, size=SIZE, seed=0):
  """A stream in which some tokens recur."""
  ids = np.random.default_rng(seed).zipf(1.7, count + 1) % size
  return {'inputs': ids[:-1].astype(np.int32), 'targets': ids[1:].astype(np.int32)}


def float64(params):
  return jax.tree.map(lambda a: np.asarray(a, np.float64), params)


def window_of(params, h, inputs, targets):
  """An Elman network over a window of B rows: nll and states `[T, B, ...]`, gradients, carry.

  The gradients are of the mean nll, by hand, through the window only.
  """
  (layer,) = (params[name]['cell'] for name in params if name.startswith('Recurrent'))
  hs, nlls, ps = [h], [], []
  for ids, ts in zip(inputs.T, targets.T, strict=True):
    x = params['embedding'][ids]
    hs.append(np.tanh(x @ layer['w_x'] + hs[-1] @ layer['w_h'] + layer['b']))
    logits = hs[-1] @ params['output'] + params['output_bias']
    p = np.exp(logits)
    ps.append(p / p.sum(axis=1, keepdims=True))
    nlls.append(-np.log(ps[-1][range(len(ts)), ts]))
  g = jax.tree.map(np.zeros_like, params)
  (of_layer,) = (g[name]['cell'] for name in g if name.startswith('Recurrent'))
  d_h = np.zeros_like(h)
  for t in reversed(range(inputs.shape[1])):
    d = ps[t].copy()
    d[range(len(d)), targets[:, t]] -= 1
    d /= targets.size
    g['output'] += hs[t + 1].T @ d
    g['output_bias'] += d.sum(axis=0)
    d_a = (d_h + d @ params['output'].T) * (1 - hs[t + 1] ** 2)
    of_layer['w_x'] += params['embedding'][inputs[:, t]].T @ d_a
    of_layer['w_h'] += hs[t].T @ d_a
    of_layer['b'] += d_a.sum(axis=0)
    np.add.at(g['embedding'], inputs[:, t], d_a @ layer['w_x'].T)
    d_h = d_a @ layer['w_h'].T
  return np.array(nlls), np.array(hs[1:]), g, hs[-1]


@pytest.mark.parametrize(('count', 'window'), [(43, 5), (700, 5), (9, 3)])
def test_dynamic_evaluation_is_as_a_loop_that_changes_the_parameters(count, window):
  one, stream = member(), stream_of(count)
  draw = np.random.default_rng(2)
  rms = jax.tree.map(lambda a: jnp.asarray(draw.gamma(1, 0.02, a.shape), jnp.float32), one.params)
  # A decay strong enough to be capped in places.
  dynamic = Dynamic(rate=0.002, decay=0.4, epsilon=1e-3, window=window)
  trained = float64(one.params)
  scale = float64(rms)
  every = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(scale)])
  pull = jax.tree.map(lambda r: np.minimum(0.4 * r / every.mean(), 1), scale)
  assert (0.4 * every / every.mean() > 1).any()
  params, h = trained, np.zeros((1, UNITS))
  nlls, states = [], []
  for start in range(0, count, window):
    cut = (stream[name][None, start : start + window] for name in ('inputs', 'targets'))
    nll, hs, g, h = window_of(params, h, *cut)
    params = jax.tree.map(
      lambda p, d, r, s, first: p - 0.002 * d / (r + 1e-3) + s * (first - p),
      *(params, g, scale, pull, trained),
    )
    nlls.append(nll[:, 0])
    states.append(hs[:, 0])
  found, hs = adapting.read(one, stream, dynamic, rms)
  assert_allclose(found, np.concatenate(nlls), rtol=2e-4, atol=2e-5)
  assert_allclose(hs, np.concatenate(states), rtol=2e-3, atol=2e-5)
  # The effect compared here is not small.
  assert np.abs(found - adapting.read(one, stream)[0]).max() > 0.05


def test_gradients_are_known_from_windows_of_the_train_split(monkeypatch):
  one, split = member(), stream_of(100)
  rows = {name: array[:99].reshape(3, 33) for name, array in split.items()}
  for most, count in ((1000, 6), (2, 2)):
    monkeypatch.setattr(adapting, 'MOST', most)
    squares, h = jax.tree.map(lambda a: 0.0, one.params), np.zeros((3, UNITS))
    for start in range(0, 5 * count, 5):
      cut = (rows[name][:, start : start + 5] for name in ('inputs', 'targets'))
      *_, g, h = window_of(float64(one.params), h, *cut)
      squares = jax.tree.map(lambda s, d: s + d * d, squares, g)
    expected = jax.tree.map(lambda s, c=count: np.sqrt(s / c), squares)
    found = adapting.gradients(one, split, 3, 5)
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, expected)


@pytest.mark.parametrize(('count', 'size'), [(1, 4), (30, 1), (30, 4), (30, 99), (600, 520)])
def test_a_cache_gives_what_a_loop_over_what_is_remembered_gives(count, size):
  draw = np.random.default_rng(count)
  hs = draw.normal(size=(count, 5)).astype(np.float32)
  targets = draw.integers(0, 6, count)
  nll = draw.gamma(2, size=count)
  expected = []
  for t in range(count):
    powers = [(targets[i], np.exp(0.3 * hs[t].astype(float) @ hs[i])) for i in range(t)][-size:]
    if not powers:
      expected.append(nll[t])
      continue
    cached = sum(p for w, p in powers if w == targets[t]) / sum(p for _, p in powers)
    expected.append(-np.log(0.8 * np.exp(-nll[t]) + 0.2 * cached))
  found = adapting.mixed(nll, adapting.remembered(hs, targets, size, 0.3), 0.2)
  assert_allclose(found, expected, rtol=1e-10)
  assert_allclose(adapting.mixed(nll, adapting.remembered(hs, targets, size, 0.3), 0.0), nll)


@pytest.mark.parametrize(('cell', 'adaptive'), [('lstm', False), ('gru', True)])
def test_what_does_not_adapt_is_scored_as_ever_and_a_future_changes_nothing(cell, adaptive):
  one, stream = member(cell, adaptive, 40), stream_of(400, 40)
  (expected,) = scoring.nll(one, [stream])
  rms = jax.tree.map(lambda a: jnp.full(a.shape, 0.01), one.params)
  assert_allclose(adapting.nll(one, stream, Adaptation()), expected, rtol=1e-5)
  still = Adaptation(Dynamic(0.0), Cache(9, 0.0), rms)
  assert_allclose(adapting.nll(one, stream, still), expected, rtol=1e-5)
  way = Adaptation(Dynamic(0.01), Cache(50), rms)
  (found,) = scoring.nll(one, [stream], way)
  assert np.abs(found - expected).max() > 0.1
  assert_array_equal(found, scoring.nll(one, [stream_of(9, 40), stream], way)[1])
  other = {name: array.copy() for name, array in stream.items()}
  other['targets'][300:] = 3
  other['inputs'][301:] = 3
  assert_array_equal(scoring.nll(one, [other], way)[0][:300], found[:300])


def test_members_adapt_each_in_its_way_and_their_probabilities_are_averaged():
  one, two = member(), member()._replace(params=jax.tree.map(lambda a: 1.5 * a, member().params))
  ways = Adaptation(cache=Cache(5, 0.2)), Adaptation(cache=Cache(9, 0.3, 1.0))
  encoding = {'unit': 'word', 'words': 'spaces', 'lowercase': False, 'end': 0, 'unknown': 1}
  words = '<eos>', '<unk>', *'abcde'
  members = [m._replace(vocabulary=words, encoding=encoding) for m in (one, two)]
  text = 'a b a b c d a b a'
  model = rnnlab.predict.TextModel(tuple(members), ways)
  each = [
    [token.bits for token in rnnlab.predict.TextModel((m,), (way,)).surprisals(text)]
    for m, way in zip(members, ways, strict=True)
  ]
  expected = -np.log2(np.mean(2.0 ** -np.array(each), axis=0))
  assert_allclose([token.bits for token in model.surprisals(text)], expected)
  plain = rnnlab.predict.TextModel(tuple(members)).score([text]).perplexity[0]
  assert model.score([text]).perplexity[0] != plain
