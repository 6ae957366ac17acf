"""The dropouts of a language model: where each acts, only in training, by its key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab import cells, models
from rnnlab.runs import configs
from rnnlab.tasks import language_model

V, E, H = 11, 6, 5
IDS = np.random.default_rng(0).integers(0, V, (2, 3, 8)).astype(np.int32)
BATCH = {'inputs': IDS[0], 'targets': IDS[1], 'weights': np.ones((3, 8), np.float32)}
RATES = (
  'word_dropout',
  'embed_dropout',
  'layer_dropout',
  'output_dropout',
  'dropout',
  'recurrent_dropout',
  'weight_dropout',
)


def model_of(**fields):
  return models.LanguageModel((cells.get('lstm', hidden_size=H),) * 2, V, E, **fields)


@pytest.fixture(scope='module')
def params():
  return jax.jit(model_of().init)(jax.random.key(0), BATCH)['params']


@pytest.mark.parametrize('rate', RATES)
def test_each_dropout_acts_in_training_alone_and_by_its_key(rate, params):
  @jax.jit
  def run(seed, p):
    rngs = {'dropout': jax.random.key(seed)}
    model = model_of(**{rate: p}, alpha=1.0)
    outputs, carry = model.apply({'params': params}, BATCH, deterministic=False, rngs=rngs)
    return outputs['nll'], outputs['penalty'], carry

  plain, carry = model_of().apply({'params': params}, BATCH)
  without, penalty, end = run(0, 0.0)
  np.testing.assert_allclose(without, plain, rtol=1e-5)
  nll, dropped, after = run(1, 0.5)
  np.testing.assert_array_equal(run(1, 0.5)[0], nll)
  assert (run(2, 0.5)[0] != nll).any() and (nll != plain).any()
  first, last = ((a.h != b.h).any() for a, b in zip(after, end, strict=True))
  assert (first, last) == (
    rate not in ('layer_dropout', 'output_dropout'),
    rate != 'output_dropout',
  )
  assert dropped != penalty
  given, _ = model_of(**{rate: 0.5}).apply({'params': params}, BATCH)
  np.testing.assert_array_equal(given, plain)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), end, carry)


def test_locked_dropout_is_the_same_at_each_step_of_a_window(params):
  """If a cell returns its input, and all steps have the same token, the loss is the same too."""

  def step(params, carry, x_t, dot):
    y = x_t + 0 * dot(params['w'], x_t)
    return y, y

  def initial_carry(batch_shape, dtype=jnp.float32):
    return jnp.zeros((*batch_shape, E), dtype)

  through = cells.Cell(lambda key, size: {'w': jnp.ones((size, E))}, initial_carry, step)
  batch = BATCH | {'inputs': np.full((3, 8), 4), 'targets': np.full((3, 8), 7)}
  for rate in ('embed_dropout', 'layer_dropout', 'output_dropout', 'word_dropout'):
    for locked in (True, False):
      model = models.LanguageModel((through,) * 2, V, E, locked=locked, **{rate: 0.5})
      variables = jax.jit(model.init)(jax.random.key(0), batch)
      for seed in range(3):
        rngs = {'dropout': jax.random.key(seed)}
        outputs, _ = model.apply(variables, batch, deterministic=False, rngs=rngs)
        nll = np.asarray(outputs['nll'])
        assert (nll == nll[:, :1]).all() == (locked or rate == 'word_dropout')
        assert (nll == nll[:1]).all() == (rate == 'word_dropout')


def test_rows_have_the_gradients_that_each_has_alone(params):
  """All rows together have so many steps that products are taken of the table's rows."""
  rows = 12
  inputs, targets = np.random.default_rng(1).integers(0, V, (2, rows, 8)).astype(np.int32)
  assert rows * 8 >= models.language_model.FEW * V

  def gradients(params, rows):
    batch = {'inputs': inputs[rows], 'targets': targets[rows]}
    batch['weights'] = np.ones_like(batch['inputs'], np.float32)

    def objective(params):
      outputs, _ = model_of().apply({'params': params}, batch, deterministic=False)
      return outputs['total']

    return jax.grad(objective)(params)

  alone = [gradients(params, [row]) for row in range(rows)]
  desired = jax.tree.map(lambda *parts: np.sum(parts, axis=0), *alone)
  actual = gradients(params, slice(None))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5), actual, desired)


def test_what_is_scored_starts_anew_where_a_row_is_reset(params):
  resets = np.zeros((3, 8), bool)
  resets[:, 5] = True
  _, nll, _, carry = model_of().apply(
    {'params': params}, BATCH | {'resets': resets}, method='scored'
  )
  tail = {name: of[:, 5:] for name, of in BATCH.items()}
  expected, end = model_of().apply({'params': params}, tail)
  np.testing.assert_allclose(nll[:, 5:], expected, rtol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-6), carry, end)


def test_in_float64_a_model_starts_by_itself(params):
  with jax.enable_x64():
    wide = jax.tree.map(lambda a: jnp.asarray(np.float64(a)), params)
    found, carry = model_of().apply({'params': wide}, BATCH)
  assert {of.dtype.name for of in jax.tree.leaves(carry)} == {'float64'}
  np.testing.assert_allclose(found, model_of().apply({'params': params}, BATCH)[0], rtol=1e-5)


@pytest.mark.parametrize(
  ('fields', 'words'),
  [
    ({'tied': True}, 'tied needs a last layer of embed_size=6 units, not 5'),
    ({'tied': True, 'adaptive': True}, 'so tied must be False'),
  ],
)
def test_fields_that_exclude_each_other_are_told(fields, words):
  with pytest.raises(ValueError, match=words):
    model_of(**fields).init(jax.random.key(0), BATCH)


def test_a_config_s_rates_are_the_model_s():
  config = configs.default('language_model').model
  rates = {rate: i / 10 for i, rate in enumerate(RATES, 1)}
  config.update(rates | {'locked': True})
  made = language_model.model(config, V)
  assert {rate: getattr(made, rate) for rate in RATES} == rates and made.locked
  assert not models.LanguageModel.locked
