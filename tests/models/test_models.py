"""The model around the recurrence: pooling against NumPy, masks, dropout, parameters."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import few_cells

from rnnlab import cells, models, recurrence
from rnnlab.models import adapters


def classifier(**fields):
  options = {'cell': cells.get('lstm', hidden_size=4), 'vocab_size': 20, 'embed_size': 3}
  return models.SequenceClassifier(**(options | fields))


def init(model, ids):
  return jax.jit(model.init)(jax.random.key(0), ids)['params']


IDS = jnp.array([[1, 5, 7, 2, 9], [0, 0, 1, 4, 3], [1, 8, 0, 0, 0], [0, 0, 0, 0, 0]])


@pytest.mark.parametrize('how', models.POOLINGS)
@pytest.mark.parametrize('bidirectional', [False, True])
@pytest.mark.parametrize('masked', [False, True])
def test_pooling_against_a_loop(how, bidirectional, masked):
  draw = np.random.default_rng(0)
  ys = draw.normal(size=(4, 5, 6)).astype(np.float32)
  mask = np.asarray(IDS != 0) if masked else None

  def pooled(row, real):
    steps = [y for y, r in zip(row, real, strict=True) if r]
    if not steps:
      return np.zeros(6 if how != 'concat' else 18)
    last = steps[-1].copy()
    if bidirectional:
      last[3:] = steps[0][3:]
    parts = {'last': last, 'mean': np.mean(steps, 0), 'max': np.max(steps, 0)}
    return np.concatenate(list(parts.values())) if how == 'concat' else parts[how]

  real = mask if masked else np.ones((4, 5), bool)
  expected = np.stack([pooled(row, r) for row, r in zip(ys, real, strict=True)])
  found = models.pool(jnp.asarray(ys), mask, how, bidirectional)
  np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
  ['layers', 'bidirectional', 'pooling', 'classes'],
  [(1, False, 'last', 1), (2, True, 'concat', 3), (1, True, 'mean', 1), (2, False, 'max', 2)],
)
@pytest.mark.parametrize('cell', few_cells(cells.names()))
def test_logits_have_their_shape_and_every_parameter_a_gradient(
  cell, layers, bidirectional, pooling, classes
):
  model = classifier(
    cell=cells.get(cell, hidden_size=4),
    layers=layers,
    bidirectional=bidirectional,
    pooling=pooling,
    classes=classes,
    mask=True,
  )

  @jax.jit
  def gradients(params):
    params = jax.tree.map(lambda p: p + 0.01, params)  # off zero, where a symmetry may hide errors
    return jax.grad(lambda p: (model.apply({'params': p}, IDS) ** 2).sum())(params)

  params = init(model, IDS)
  shape = jax.eval_shape(lambda p: model.apply({'params': p}, IDS), params).shape
  assert shape == ((4,) if classes == 1 else (4, classes))
  for path, grad in jax.tree_util.tree_leaves_with_path(gradients(params)):
    assert np.isfinite(grad).all() and np.any(grad), path


def test_parameters_have_readable_names_and_keras_s_initialisers():
  model = classifier(layers=2, bidirectional=True)
  params = init(model, IDS)
  assert set(params) == {'Embed_0', 'Recurrent_0', 'Recurrent_1', 'Dense_0'}
  assert set(params['Recurrent_0']) == {'cell', 'cell_backward'}
  assert set(params['Recurrent_0']['cell']) == {'w_x', 'w_h', 'b'}
  assert params['Recurrent_1']['cell']['w_x'].shape == (8, 16)
  table = init(classifier(vocab_size=2000), IDS)['Embed_0']['embedding']
  assert -0.05 <= table.min() < -0.049 and 0.049 < table.max() <= 0.05
  assert abs(float(table.mean())) < 1e-3


def test_the_tutorial_s_model_has_its_published_parameter_counts():
  """10000*128 + 4*(128+64+1)*64 + 65; GRU with one bias per gate and one more for the candidate."""
  ids = jnp.zeros((1, 2), int)
  counts = {}
  for name in ('lstm', 'gru'):
    model = classifier(cell=cells.get(name, hidden_size=64), vocab_size=10_000, embed_size=128)
    counts[name] = sum(p.size for p in jax.tree.leaves(init(model, ids)))
  assert counts == {
    'lstm': 1_280_000 + 4 * (128 + 64 + 1) * 64 + 65,
    'gru': 1_280_000 + 3 * (128 + 64 + 1) * 64 + 64 + 65,
  }


@pytest.mark.parametrize('bidirectional', [False, True])
def test_with_a_mask_the_padding_side_and_amount_do_not_matter(bidirectional):
  model = classifier(mask=True, bidirectional=bidirectional, pooling='concat')
  left = jnp.array([[0, 0, 0, 1, 5, 9]])
  right = jnp.array([[1, 5, 9, 0]])
  params = init(model, left)
  apply = jax.jit(lambda ids: model.apply({'params': params}, ids))
  a, b = apply(left), apply(right)
  np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize(
  'rate', ['embed_dropout', 'dropout', 'recurrent_dropout', 'output_dropout']
)
@pytest.mark.parametrize('per_gate', [False, True])
def test_each_dropout_acts_in_training_alone_and_by_its_key(rate, per_gate):
  model = classifier(dropout_per_gate=per_gate, **{rate: 0.5})
  params = init(model, IDS)

  @jax.jit
  def logits(seed):
    rngs = {'dropout': jax.random.key(seed)}
    return model.apply({'params': params}, IDS, deterministic=False, rngs=rngs)

  plain = classifier().apply({'params': params}, IDS)
  np.testing.assert_array_equal(model.apply({'params': params}, IDS), plain)
  np.testing.assert_array_equal(logits(1), logits(1))
  assert (logits(1) != logits(2)).any() and (logits(1) != plain).any()


def test_dropout_keeps_the_mean_of_the_linear_head():
  """The head is linear, so the mean over many masks of its inputs is the plain output."""
  model = classifier(output_dropout=0.5)
  params = init(model, IDS)
  keys = jax.random.split(jax.random.key(0), 4000)
  apply = jax.jit(
    jax.vmap(
      lambda k: model.apply({'params': params}, IDS, deterministic=False, rngs={'dropout': k})
    )
  )
  plain = model.apply({'params': params}, IDS)
  np.testing.assert_allclose(apply(keys).mean(0), plain, atol=0.02)


@pytest.mark.parametrize('locked', [False, True])
def test_locked_dropout_drops_a_value_at_all_steps_or_at_none(locked):
  xs = jnp.asarray(np.random.default_rng(0).uniform(1, 2, (20, 7, 30)), jnp.float32)
  layer, rngs = models.Dropout(0.4, locked=locked), {'dropout': jax.random.key(0)}
  found = layer.apply({}, xs, deterministic=False, rngs=rngs)
  factor = np.asarray(found / xs)
  kept = factor != 0
  np.testing.assert_allclose(factor[kept], 1 / 0.6, rtol=1e-6)
  assert abs(kept[:, 0].mean() - 0.6) < 5 * np.sqrt(0.6 * 0.4 / 600)
  assert (kept == kept[:, :1]).all() == locked
  assert (kept != kept[:1]).any()  # each row has its own
  np.testing.assert_array_equal(layer.apply({}, xs), xs)
  traced = jax.jit(
    lambda rate: models.Dropout(rate, locked).apply({}, xs, deterministic=False, rngs=rngs)
  )
  np.testing.assert_allclose(traced(0.4), found, rtol=1e-6)


def test_word_dropout_drops_a_word_wherever_it_stands():
  ids = np.random.default_rng(0).integers(0, 1000, (40, 50))
  xs = jnp.asarray(np.random.default_rng(1).uniform(1, 2, (*ids.shape, 3)), jnp.float32)
  layer, rngs = models.WordDropout(0.3, 1000), {'dropout': jax.random.key(0)}
  found = np.asarray(layer.apply({}, xs, ids, deterministic=False, rngs=rngs) / xs).round(5)
  factors = {}
  for word, factor in zip(ids.ravel(), found.reshape(-1, 3), strict=True):
    assert (factors.setdefault(word, factor) == factor).all()
  values = np.array([*factors.values()])
  assert len(values) < ids.size / 2 and (values == values[:, :1]).all()
  kept = values[:, 0] != 0
  np.testing.assert_allclose(values[kept], 1 / 0.7, rtol=1e-5)
  assert abs(kept.mean() - 0.7) < 5 * np.sqrt(0.7 * 0.3 / len(kept))
  np.testing.assert_array_equal(layer.apply({}, xs, ids), xs)


# `Recurrent` in somebody else's model.

XS = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 6)), 'float32')


def recurrent(**fields):
  return models.Recurrent(cells.get('gru', hidden_size=6), **fields)


def run(params, xs=XS, **options):
  return recurrence.unroll(cells.get('gru', hidden_size=6), params['cell'], xs, **options)[1]


def same(actual, desired):
  np.testing.assert_allclose(actual, desired, 1e-5, 1e-6)


def test_recurrent_in_a_sequential_that_is_shown_by_tabulate():
  model = nn.Sequential([nn.Embed(20, 6), recurrent(), recurrent(), nn.Dense(2)])
  variables = jax.jit(model.init)(jax.random.key(0), IDS)
  params = variables['params']
  assert set(params) == {'layers_0', 'layers_1', 'layers_2', 'layers_3'}
  xs = params['layers_0']['embedding'][IDS]
  ys = run(params['layers_2'], run(params['layers_1'], xs))
  expected = ys @ params['layers_3']['kernel'] + params['layers_3']['bias']
  same(jax.jit(model.apply)(variables, IDS), expected)
  table = nn.tabulate(model, jax.random.key(0), console_kwargs={'width': 200})(IDS)
  assert table.count('Recurrent') == 2 and 'w_h' in table
  assert f'{sum(p.size for p in jax.tree.leaves(params)):,}' in table


def test_recurrent_with_a_mask_and_dropout_among_a_stranger_s_layers():
  class Model(nn.Module):
    @nn.compact
    def __call__(self, xs, mask, train):
      ys = recurrent(dropout=0.5, bidirectional=True)(nn.LayerNorm()(xs), mask, not train)
      return nn.Dense(1)(jnp.where(mask[..., None], ys, 0).sum(1))

  mask = jnp.array([[1, 1, 1, 1], [0, 1, 1, 0], [1, 0, 0, 0]], bool)
  variables = Model().init(jax.random.key(0), XS, mask, False)
  assert set(variables['params']) == {'LayerNorm_0', 'Recurrent_0', 'Dense_0'}
  apply = jax.jit(Model().apply, static_argnums=3)
  plain = apply(variables, XS, mask, False)
  same(apply(variables, jnp.where(mask[..., None], XS, 9.0), mask, False), plain)
  assert (apply(variables, XS, jnp.ones_like(mask), False)[1:] != plain[1:]).all()
  first, again, other = (
    apply(variables, XS, mask, True, rngs={'dropout': jax.random.key(seed)}) for seed in (1, 1, 2)
  )
  np.testing.assert_array_equal(first, again)
  assert (first != plain).any() and (first != other).any()


def test_recurrent_lifted_by_vmap_is_an_ensemble():
  over = {'variable_axes': {'params': 0}, 'split_rngs': {'params': True, 'dropout': True}}
  several = nn.vmap(models.Recurrent, in_axes=None, axis_size=3, **over)
  model = several(cells.get('gru', hidden_size=6))
  variables = model.init(jax.random.key(0), XS)
  params = variables['params']
  assert (params['cell']['w_h'][0] != params['cell']['w_h'][1]).any()
  members = [run(jax.tree.map(lambda w, i=i: w[i], params)) for i in range(3)]
  same(jax.jit(model.apply)(variables, XS), jnp.stack(members))


def test_recurrent_lifted_by_scan_is_a_stack_of_layers():
  class Stack(nn.Module):
    @nn.compact
    def __call__(self, xs):
      layers = nn.scan(
        lambda layer, xs, _: (layer(xs), None),
        variable_axes={'params': 0},
        split_rngs={'params': True},
        length=3,
      )
      return layers(recurrent(name='layer'), xs, None)[0]

  variables = Stack().init(jax.random.key(0), XS)
  params, expected = variables['params']['layer'], XS
  assert (params['cell']['w_h'][0] != params['cell']['w_h'][1]).any()
  for i in range(3):
    expected = run(jax.tree.map(lambda w, i=i: w[i], params), expected)
  same(jax.jit(Stack().apply)(variables, XS), expected)


def test_recurrent_lifted_by_remat_and_jit_has_the_same_gradients():
  variables = recurrent().init(jax.random.key(0), XS)

  def gradients(lift):
    model = lift(models.Recurrent)(cells.get('gru', hidden_size=6))
    return jax.grad(lambda v: jnp.sin(model.apply(v, XS)).sum())(variables)['params']['cell']

  expected = jax.grad(lambda p: jnp.sin(run(p)).sum())(variables['params'])['cell']
  for lift in (lambda module: module, nn.remat, nn.jit):
    jax.tree.map(same, gradients(lift), expected)


def test_recurrent_holds_what_an_rnn_of_linen_with_the_cell_holds():
  cell = cells.get('lstm', hidden_size=6)
  rnn = nn.RNN(adapters.LinenCell(cell))
  variables = models.Recurrent(cell).init(jax.random.key(0), XS)
  same(rnn.apply(variables, XS), models.Recurrent(cell).apply(variables, XS))


def test_recurrent_says_what_shape_it_takes():
  for shape in ((6,), (2, 3, 4, 6)):
    with pytest.raises(ValueError, match=r'xs must be \[batch, time, features\] or'):
      recurrent().init(jax.random.key(0), jnp.zeros(shape))


def test_pool_names_the_near_match():
  with pytest.raises(ValueError, match="'maxx'.*did you mean 'max'"):
    models.pool(jnp.ones((2, 3, 4)), None, 'maxx')


@pytest.mark.parametrize('how', models.POOLINGS)
@pytest.mark.parametrize('masked', [False, True])
def test_no_steps_pool_to_zeros(how, masked):
  none = jnp.ones((2, 0, 4))
  as_one = models.pool(jnp.ones((2, 1, 4)), jnp.zeros((2, 1), bool), how, bidirectional=True)
  found = models.pool(none, none[..., 0] > 0 if masked else None, how, bidirectional=True)
  np.testing.assert_array_equal(found, as_one)


@pytest.mark.parametrize('wrong', [10, -1])
def test_an_id_outside_the_vocabulary_is_refused_or_seen(wrong):
  """If known, an error; if traced, a row of NaN, and only that row, in training and evaluation."""
  model = models.SequenceClassifier(cells.get('gru', hidden_size=16), vocab_size=10, embed_size=3)
  ids = np.array([[1, 2, 3], [4, wrong, 5], [9, 0, 1]])
  variables = model.init(jax.random.key(0), ids[:1])
  with pytest.raises(ValueError, match=rf'ids\[1, 1\] is {wrong}.*from 0 to 9'):
    model.apply(variables, ids)
  with pytest.raises(ValueError, match='ids must be integers'):
    model.apply(variables, ids / 2)
  for deterministic in (True, False):
    apply = jax.jit(functools.partial(model.apply, deterministic=deterministic))
    logits = apply(variables, ids)
    assert np.isnan(logits).tolist() == [False, True, False], deterministic


SERIES = {
  'xs': np.random.default_rng(1).normal(size=(4, 5, 3)).astype(np.float32),
  'lengths': np.array([5, 3, 1, 0], np.int32),
}


@pytest.mark.parametrize('bidirectional', [False, True])
@pytest.mark.parametrize('steps', [False, True])
def test_a_series_has_the_answers_it_has_alone_whatever_pads_it(steps, bidirectional):
  model = classifier(
    vocab_size=None, embed_size=None, steps=steps, bidirectional=bidirectional, layers=2, classes=2
  )
  params = init(model, SERIES)
  assert sorted(params) == ['Dense_0', 'Recurrent_0', 'Recurrent_1']
  apply = jax.jit(lambda series: model.apply({'params': params}, series))
  found = apply(SERIES)
  assert found.shape == ((4, 5, 2) if steps else (4, 2))
  for i, length in enumerate(SERIES['lengths'][:3]):
    alone = {'xs': SERIES['xs'][i : i + 1, :length], 'lengths': SERIES['lengths'][i : i + 1]}
    expected = apply(alone)[0]
    np.testing.assert_allclose(found[i, :length] if steps else found[i], expected, atol=1e-6)
  other = SERIES | {'xs': np.where(SERIES['xs'] == SERIES['xs'][3], 1e3, SERIES['xs'])}
  np.testing.assert_allclose(apply(other)[3], found[3], atol=1e-6)


def test_steps_of_tokens_are_those_of_the_layers_and_a_head():
  model = classifier(mask=True, steps=True)
  params = init(model, IDS)
  found = model.apply({'params': params}, IDS)
  xs = params['Embed_0']['embedding'][IDS]
  cell = cells.get('lstm', hidden_size=4)
  ys = recurrence.unroll(cell, params['Recurrent_0']['cell'], xs, mask=IDS != 0)[1]
  expected = ys @ params['Dense_0']['kernel'][:, 0] + params['Dense_0']['bias']
  assert found.shape == IDS.shape
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_model_of_series_says_what_it_takes():
  model = classifier(vocab_size=None)
  for wrong in (IDS, {'xs': SERIES['xs']}):
    with pytest.raises(TypeError, match="takes a dict of 'xs'"):
      model.init(jax.random.key(0), wrong)
  for changed, words in (
    ({'lengths': np.array([9, 3, 1, 0])}, 'row 0 has length 9, but xs has 5 time steps'),
    ({'xs': SERIES['xs'][0]}, r"'xs' must be float \[B, T, D\], not float32"),
  ):
    with pytest.raises(ValueError, match=words):
      model.init(jax.random.key(0), SERIES | changed)
  key, as_list = jax.random.key(0), SERIES | {'lengths': [5, 3, 1, 0]}
  found, expected = (model.init_with_output(key, given)[0] for given in (as_list, SERIES))
  np.testing.assert_array_equal(found, expected)


def test_a_vocabulary_needs_an_embedding():
  with pytest.raises(ValueError, match='a model with a vocab_size needs an embed_size'):
    classifier(embed_size=None).init(jax.random.key(0), IDS)


@pytest.mark.parametrize('rate', [1.0, -0.5, 1.5])
def test_a_rate_that_is_none_is_refused(rate):
  rngs, xs = {'dropout': jax.random.key(0)}, jnp.ones((2, 3, 4))
  with pytest.raises(ValueError, match=f'rate must be at least 0 and below 1, not {rate}'):
    models.layers.Dropout(rate).apply({}, xs, False, rngs=rngs)
  with pytest.raises(ValueError, match=f'not {rate}'):
    models.layers.WordDropout(rate, 9).apply({}, xs, jnp.ones((2, 3), int), False, rngs=rngs)


def test_a_piano_of_one_key():
  draw = np.random.default_rng(0)
  rolls = draw.integers(0, 2, (3, 4, 1)).astype(np.float32)
  model = models.RollModel(classifier(vocab_size=None, embed_size=None, steps=True))
  inputs = {'rolls': rolls, 'lengths': np.array([3, 3, 2])}
  found, variables = model.init_with_output(jax.random.key(0), inputs)
  series = {'xs': rolls[:, :-1], 'lengths': inputs['lengths']}
  logits = np.float64(model.series.apply(variables, series))
  right = np.where(rolls[:, 1:, 0] == 1, logits, -logits)
  real = np.arange(3) < inputs['lengths'][:, None]
  assert found.shape == (3, 3, 3)
  np.testing.assert_allclose(found[..., 0], np.where(real, np.log1p(np.exp(-right)), 0), 1e-5)
  wrong = (logits > 0) != (rolls[:, 1:, 0] == 1)
  np.testing.assert_array_equal(found[..., 2], real & wrong)
