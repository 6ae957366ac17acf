"""The output layer over a vocabulary, whole and adaptive, against plain NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from rnnlab.machine import devices
from rnnlab.models import adaptive, softmax

ROWS, FEATURES = 13, 6


def drawn(vocab_size, rows=ROWS, seed=0):
  draw = np.random.default_rng(seed)
  targets = draw.integers(0, vocab_size, rows)
  targets[:2] = 0, vocab_size - 1
  weights = draw.uniform(0, 2, rows)
  weights[3] = 0
  return draw.normal(size=(rows, FEATURES)), targets, weights


def log_softmax(logits):
  logits = logits - logits.max(axis=-1, keepdims=True).real
  return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def of_all(p, vocab_size):
  return log_softmax(p['hs'] @ p['w'] + p['b'][..., None, :])


def of_clusters(p, vocab_size):
  """Grave et al. (2017): each token's probability, by its definition."""
  cuts = adaptive.cutoffs(vocab_size)
  head = log_softmax(p['hs'] @ p['head'] + p['bias'][..., None, :])
  parts = [head[..., : cuts[0]]]
  for i in range(1, len(cuts)):
    within = log_softmax(p['hs'] @ p[f'down_{i}'] @ p[f'out_{i}'])
    parts.append(head[..., cuts[0] + i - 1, None] + within)
  leading = np.broadcast_shapes(*(part.shape[:-1] for part in parts))
  parts = [np.broadcast_to(part, (*leading, part.shape[-1])) for part in parts]
  return np.concatenate(parts, axis=-1)


def plain(log_p, p, targets, weights):
  at = np.broadcast_to(targets[:, None], (*log_p.shape[:-1], 1))
  found = -np.take_along_axis(log_p, at, axis=-1)[..., 0]
  return (weights * found).sum(axis=-1), found


KINDS = {
  'all': (
    of_all,
    lambda hs, targets, p, _: softmax.nll(hs, targets, p['w'], p['b']),
    lambda hs, targets, weights, p, _: softmax.total_nll(hs, targets, weights, p['w'], p['b']),
  ),
  'adaptive': (of_clusters, adaptive.nll, adaptive.total_nll),
}


def parameters(kind, vocab_size):
  draw = np.random.default_rng(1)
  shapes = {'w': (FEATURES, vocab_size), 'b': (vocab_size,)}
  if kind == 'adaptive':
    init = jax.nn.initializers.glorot_uniform()
    made = jax.eval_shape(
      lambda key: adaptive.init(key, init, FEATURES, vocab_size), jax.random.key(0)
    )
    shapes = {name: of.shape for name, of in made.items()}
  return {name: draw.normal(size=shape) for name, shape in shapes.items()}


def to_jax(tree):
  return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), tree)


@pytest.mark.parametrize('chunk', [1, 100, 2**22])
@pytest.mark.parametrize(('kind', 'vocab_size'), [('all', 1), ('all', 29), ('adaptive', 60)])
def test_values_and_gradients(kind, vocab_size, chunk, monkeypatch):
  monkeypatch.setattr(softmax, 'CHUNK', chunk)
  log_p, nll, total_nll = KINDS[kind]
  hs, targets, weights = drawn(vocab_size)
  p = parameters(kind, vocab_size)
  desired, each = plain(log_p(p | {'hs': hs}, vocab_size), p, targets, weights)
  ids, rates = jnp.asarray(targets), jnp.asarray(weights, jnp.float32)

  def value(p, hs):
    total, found = total_nll(hs, ids, rates, p, vocab_size)
    return 3 * total, (total, found)

  differentiated = jax.jit(jax.value_and_grad(value, (0, 1), has_aux=True))
  (_, (total, found)), grads = differentiated(to_jax(p), to_jax(hs))
  np.testing.assert_allclose(total, desired, rtol=1e-5)
  np.testing.assert_allclose(found, each, rtol=1e-5, atol=1e-6)
  found = jax.jit(nll, static_argnums=3)(to_jax(hs), ids, to_jax(p), vocab_size)
  np.testing.assert_allclose(found, each, rtol=1e-5, atol=1e-6)

  def loss(inputs):
    return 3 * plain(log_p(inputs, vocab_size), inputs, targets, weights)[0]

  wanted = reference.gradients(loss, p | {'hs': hs})
  for name, grad in (grads[0] | {'hs': grads[1]}).items():
    np.testing.assert_allclose(grad, wanted[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_no_row_is_left_out_where_all_are_of_one_cluster():
  p, vocab_size = parameters('adaptive', 60), 60
  hs, targets, weights = drawn(vocab_size)
  for only in (0, 5, 59):
    targets[:] = only
    each = plain(of_clusters(p | {'hs': hs}, vocab_size), p, targets, weights)[1]
    found = adaptive.nll(to_jax(hs), jnp.asarray(targets), to_jax(p), vocab_size)
    np.testing.assert_allclose(found, each, rtol=1e-5)


def test_the_probabilities_of_clusters_are_one_together():
  p = parameters('adaptive', 60)
  hs = drawn(60)[0]
  found = adaptive.log_probabilities(to_jax(hs), to_jax(p), 60)
  np.testing.assert_allclose(np.exp(found).sum(axis=-1), 1, rtol=1e-5)
  np.testing.assert_allclose(found, of_clusters(p | {'hs': hs}, 60), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('wrong', [-1, 60, 61, 1000])
@pytest.mark.parametrize('kind', KINDS)
def test_targets_that_are_no_ids(kind, wrong):
  _, nll, total_nll = KINDS[kind]
  hs, targets, weights = drawn(60)
  targets[4] = wrong
  ids, p = jnp.asarray(targets), to_jax(parameters(kind, 60))
  hs, weights = to_jax((hs, weights))
  with pytest.raises(ValueError, match=rf'targets\[4\] is {wrong}, but there are 60 rows'):
    nll(hs, ids, p, 60)
  with pytest.raises(ValueError, match=rf'targets\[4\] is {wrong}, but there are 60 rows'):
    total_nll(hs, ids, weights, p, 60)
  found = jax.jit(lambda ids: nll(hs, ids, p, 60))(ids)
  np.testing.assert_array_equal(np.isnan(found), np.arange(ROWS) == 4)
  total, each = jax.jit(lambda ids: total_nll(hs, ids, weights, p, 60))(ids)
  assert np.isnan(total)
  np.testing.assert_array_equal(np.isnan(each), np.arange(ROWS) == 4)


@pytest.mark.parametrize('kind', KINDS)
def test_a_population(kind):
  """Under vmap, as when a sweep trains its runs together, each has its own values and gradients."""
  _, nll, total_nll = KINDS[kind]
  p = to_jax(parameters(kind, 60))
  members = [to_jax(drawn(60, seed=seed)[::2]) for seed in (0, 1)]
  ids = [jnp.asarray(drawn(60, seed=seed)[1]) for seed in (0, 1)]
  own = [jax.tree.map(lambda a, scale=scale: scale * a, p) for scale in (1.0, 0.5)]

  def value(p, hs, ids, weights):
    return total_nll(hs, ids, weights, p, 60)

  step = jax.value_and_grad(value, (0, 1), has_aux=True)
  stack = lambda trees: jax.tree.map(lambda *a: jnp.stack(a), *trees)  # noqa: E731
  hs, weights = stack(members)
  found = jax.jit(jax.vmap(step))(stack(own), hs, stack(ids), weights)
  each = [step(q, h, i, r) for q, (h, r), i in zip(own, members, ids, strict=True)]
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, stack(each)
  )


@pytest.mark.parametrize('kind', KINDS)
def test_one_row(kind):
  log_p, nll, _ = KINDS[kind]
  hs, targets, weights = (a[1:2] for a in drawn(60))
  p = parameters(kind, 60)
  each = plain(log_p(p | {'hs': hs}, 60), p, targets, weights)[1]
  found = nll(to_jax(hs), jnp.asarray(targets), to_jax(p), 60)
  np.testing.assert_allclose(found, each, rtol=1e-5)


@pytest.mark.parametrize('vocab_size', [29, 30])
def test_columns_are_split_over_devices(vocab_size):
  hs, targets, weights = drawn(vocab_size)
  p = parameters('all', vocab_size)
  arguments = to_jax((hs, p['w'], p['b']))

  def value(hs, w, b):
    return softmax.total_nll(hs, jnp.asarray(targets), to_jax(weights), w, b)[0]

  desired = jax.jit(jax.value_and_grad(value, (0, 1, 2)))(*arguments)
  with jax.set_mesh(devices.mesh()):
    found = jax.jit(jax.value_and_grad(value, (0, 1, 2)))(*arguments)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, desired)


def test_features_in_bfloat16_are_summed_in_float32():
  vocab_size = 60
  hs, targets, weights = drawn(vocab_size)
  p = parameters('all', vocab_size)
  rounded = jnp.asarray(hs, jnp.bfloat16)
  w = jnp.asarray(p['w'], jnp.bfloat16)
  exact = {'hs': np.asarray(rounded, np.float64), 'w': np.asarray(w, np.float64), 'b': p['b']}
  each = plain(of_all(exact, vocab_size), p, targets, weights)[1]
  found = softmax.nll(rounded, jnp.asarray(targets), w, to_jax(p['b']))
  assert found.dtype == jnp.float32
  np.testing.assert_allclose(found, each, rtol=1e-5, atol=1e-5)

  def value(hs, w):
    return softmax.total_nll(hs, jnp.asarray(targets), to_jax(weights), w, to_jax(p['b']))[0]

  d_hs, d_w = jax.grad(value, (0, 1))(rounded, w.astype(jnp.float32))
  assert (d_hs.dtype, d_w.dtype) == (jnp.bfloat16, jnp.float32)

  def loss(inputs):
    return plain(of_all(inputs, vocab_size), inputs, targets, weights)[0]

  wanted = reference.gradients(loss, exact)
  np.testing.assert_allclose(d_hs.astype(jnp.float32), wanted['hs'], rtol=1e-2, atol=1e-2)
  np.testing.assert_allclose(d_w, wanted['w'], rtol=1e-4, atol=1e-5)


def test_memory_is_that_of_a_chunk(monkeypatch):
  """Not that of the logits of all rows, which would be 50 times as much."""
  rows, vocab_size, chunk = 5_000, 1_000, 10**5
  monkeypatch.setattr(softmax, 'CHUNK', chunk)
  shapes = [(rows, 8), (8, vocab_size), (vocab_size,), (rows,), (rows,)]
  types = ['float32'] * 3 + ['int32', 'float32']
  given = [jax.ShapeDtypeStruct(s, t) for s, t in zip(shapes, types, strict=True)]

  def value(hs, w, b, targets, weights):
    return softmax.total_nll(hs, targets, weights, w, b)[0]

  compiled = jax.jit(jax.value_and_grad(value, (0, 1, 2))).lower(*given).compile()
  assert compiled.memory_analysis().temp_size_in_bytes < 4 * (8 * chunk + 20 * rows)


def of_real(p, targets, weights, smoothing):
  """The weighted sum of label smoothing's objective by definition, and the nll and objective."""
  log_p = of_all(p, p['w'].shape[-1])
  at = np.broadcast_to(targets[:, None], (*log_p.shape[:-1], 1))
  right = -np.take_along_axis(log_p, at, axis=-1)[..., 0]
  smooth = (1 - smoothing) * right - smoothing * log_p.mean(axis=-1)
  return (weights * smooth).sum(axis=-1), right, smooth


@pytest.mark.parametrize('chunk', [1, 100, 2**22])
@pytest.mark.parametrize('smoothing', [0.0, 0.2])
@pytest.mark.parametrize('weigh', ['alike', 'each', 'none'])
def test_rows_that_are_real(weigh, smoothing, chunk, monkeypatch):
  monkeypatch.setattr(softmax, 'CHUNK', chunk)
  hs, targets, weights = drawn(29)
  real = np.arange(ROWS) % 3 != 1 if weigh != 'none' else np.zeros(ROWS, bool)
  weights = weights if weigh == 'each' else np.full(ROWS, 0.7)
  p = parameters('all', 29) | {'hs': hs}
  counted = np.where(real, weights, 0)
  desired, right, smooth = of_real(p, targets, counted, smoothing)

  @jax.jit
  def value(p, smoothing):
    rows = p['hs'], jnp.asarray(targets), jnp.asarray(real), p['w'], p['b']
    nll, objective = softmax.real_nll(*rows, smoothing=smoothing)
    return (jnp.asarray(weights, jnp.float32) * objective + nll * 0).sum(), (nll, objective)

  (total, (nll, objective)), grads = jax.value_and_grad(value, has_aux=True)(to_jax(p), smoothing)
  np.testing.assert_allclose(total, desired, rtol=1e-5)
  np.testing.assert_allclose(nll, np.where(real, right, 0), rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(objective, np.where(real, smooth, 0), rtol=1e-5, atol=1e-6)
  wanted = reference.gradients(lambda p: of_real(p, targets, counted, smoothing)[0], p)
  for name, grad in grads.items():
    np.testing.assert_allclose(grad, wanted[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_real_rows_of_a_population_and_of_devices():
  hs, targets, weights = to_jax(drawn(30)[0]), *drawn(30)[1:]
  p, real = to_jax(parameters('all', 30)), jnp.arange(ROWS) % 4 != 2
  weights = jnp.asarray(weights, jnp.float32)

  def value(hs, p, weights):
    given = hs, jnp.asarray(targets), real, p['w'], p['b']
    return (weights * softmax.real_nll(*given, smoothing=0.1)[1]).sum()

  step = jax.jit(jax.value_and_grad(value, (0, 1)))
  alone = [step(hs, p, of) for of in (weights, jnp.ones(ROWS))]
  together = jax.jit(jax.vmap(step, (None, None, 0)))(hs, p, jnp.stack([weights, jnp.ones(ROWS)]))
  with jax.set_mesh(devices.mesh()):
    split = [step(hs, p, of) for of in (weights, jnp.ones(ROWS))]
  for i, desired in enumerate(alone):
    for found in (jax.tree.map(lambda a, i=i: a[i], together), split[i]):
      jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, desired
      )
