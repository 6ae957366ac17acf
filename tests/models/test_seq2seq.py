"""Encoders and decoders against the equations in a float64 loop; masks and dropouts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

import rnnlab
from rnnlab.models import Seq2Seq

E, H, A, U, V = 3, 4, 5, 8, 7
CELLS = {'lstm': rnnlab.lstm(H), 'gru-after': rnnlab.gru(H)}
INPUTS = {
  'source': np.array([[4, 5, 6, 2], [7, 2, 0, 0]], np.int32),
  'target': np.array([[1, 4, 2, 0], [1, 5, 6, 2]], np.int32),
}
SMOOTHING = 0.2
DROPOUTS = 'embed_dropout', 'dropout', 'recurrent_dropout', 'output_dropout', 'word_dropout'


def made(name, kind, both=False, layers=1, **fields):
  cells = (CELLS[name],) * layers
  return Seq2Seq(cells, cells, U, V, E, both, kind, A, **fields)


def drawn(model):
  """Parameters with generic values, in float64."""
  shapes = jax.eval_shape(model.init, jax.random.key(0), INPUTS)['params']
  draw = np.random.default_rng(0)
  return jax.tree.map(lambda a: draw.normal(0, 0.4, a.shape), shapes)


def dense(p, xs):
  return xs @ p['kernel'] + p['bias'][..., None, :]


def joined(*parts):
  leading = np.broadcast_shapes(*(part.shape[:-1] for part in parts))
  return np.concatenate([np.broadcast_to(a, (*leading, a.shape[-1])) for a in parts], axis=-1)


def encoded(name, p, kind, both, layers):
  """The outputs `[B, S, M]` at the source's real steps, and each layer's carry."""
  ids = INPUTS['source']
  if kind == 'none':
    ids = np.array([[2, 6, 5, 4], [2, 7, 0, 0]])
  real, states = ids != 0, 2 if name == 'lstm' else 1
  zeros = (np.zeros((2, H)),) * states
  ys, carries = p['source_embedding'][..., ids, :], []
  for i in range(layers):
    of, xs = p[f'Recurrent_encoder_{i}'], ys
    carry, ys = reference.unroll(name, of['cell'], xs, zeros, mask=real)
    if both:
      _, back = reference.unroll(name, of['cell_backward'], xs, zeros, mask=real, reverse=True)
      ends = joined(ys[..., [0, 1], [3, 1], :], back[..., 0, :])
      values = np.tanh(dense(p[f'bridge_{i}'], ends))
      carry = tuple(values[..., k * H : (k + 1) * H] for k in range(states))
      ys = joined(ys, back)
    # A Dense for LSTM's carry returns the parts in the order of its leaves, as here.
    carries.append(carry)
  return ys, real, carries


def decoded(name, p, kind, memory, there, carries):
  """The last layer's outputs `[B, T, H]`, with teacher forcing."""
  ids, real = INPUTS['target'][:, :-1], INPUTS['target'][:, 1:] != 0
  of, xs = p['Recurrent_decoder'], p['target_embedding'][..., ids, :]
  carry = carries[0]
  y, output = carry[0], np.zeros((2, H))

  def context(y):
    query = (y @ of['w_query'])[..., None, :]
    if kind == 'additive':
      hidden = np.tanh(query + memory @ of['w_key'][..., None, :, :])
      scores = (hidden * of['v'][..., None, None, :]).sum(axis=-1)
    else:
      scores = (query * memory).sum(axis=-1)
    exps = np.where(there, np.exp(scores), 0)
    return (exps / exps.sum(axis=-1, keepdims=True))[..., None, :] @ memory

  def cell(carry, x):
    gates = reference.GATES[name]
    return reference.CELLS[name](of['cell'], carry, [x] * gates, [carry[0]] * gates)

  ys = []
  for t in range(3):
    x, moves = xs[..., t, :], real[:, t, None]
    if kind == 'none':
      new = cell(carry, x)
      out = new[0]
    else:
      found = context(y)[..., 0, :]
      new = cell(carry, joined(x, found if kind == 'additive' else output))
      if kind == 'multiplicative':
        found = context(new[0])[..., 0, :]
      out = np.tanh(joined(new[0], found) @ of['w_output'] + of['b_output'][..., None, :])
    carry = tuple(np.where(moves, a, b) for a, b in zip(new, carry, strict=True))
    y, output = np.where(moves, new[0], y), np.where(moves, out, output)
    ys.append(np.where(moves, out, 0))
  ys = np.stack(np.broadcast_arrays(*ys), axis=-2)
  for i, first in enumerate(carries[1:]):
    above = p[f'Recurrent_above_{i}']['cell']
    _, ys = reference.unroll(name, above, ys, first, mask=real)
  return ys


def plain(name, kind, both, layers, p):
  """The nll of each target, without and with label smoothing: two arrays `[..., B]`."""
  hs = decoded(name, p, kind, *encoded(name, p, kind, both, layers))
  logits = hs @ p['output'][..., None, :, :] + p['output_bias'][..., None, None, :]
  log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
  targets = INPUTS['target'][:, 1:]
  right = -np.take_along_axis(
    log_p, np.broadcast_to(targets[..., None], (*log_p.shape[:-1], 1)), axis=-1
  )[..., 0]
  smooth = (1 - SMOOTHING) * right - SMOOTHING * log_p.mean(axis=-1)
  return [np.where(targets != 0, of, 0).sum(axis=-1) for of in (right, smooth)]


MODELS = [
  ('lstm', 'additive', True, 1),
  pytest.param('lstm', 'multiplicative', False, 2, marks=pytest.mark.slow),
  ('lstm', 'none', False, 1),
  ('gru-after', 'additive', False, 1),
  ('gru-after', 'multiplicative', True, 1),
]


@pytest.mark.parametrize(('name', 'kind', 'both', 'layers'), MODELS)
def test_the_loss_and_its_gradients_are_those_of_the_equations(name, kind, both, layers):
  model = made(name, kind, both, layers, label_smoothing=SMOOTHING)
  params = drawn(model)
  weights = np.array([1.0, 0.3])
  nll, smooth = plain(name, kind, both, layers, params)
  given = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), params)
  outputs = jax.jit(model.apply)({'params': given}, INPUTS)
  np.testing.assert_allclose(outputs, np.stack([nll, [2, 3]], axis=1), rtol=1e-5)

  @jax.jit
  @functools.partial(jax.value_and_grad, has_aux=True)
  def run(params):
    found = model.apply({'params': params}, INPUTS, deterministic=False)
    return (weights * found['objective']).sum(), found

  (_, found), grads = run(given)
  np.testing.assert_allclose(found['nll'], nll, rtol=1e-5)
  np.testing.assert_allclose(found['objective'], smooth, rtol=1e-5)
  assert found['tokens'].tolist() == [2, 3]
  flat, tree = jax.tree.flatten(params)

  def loss(inputs):
    p = jax.tree.unflatten(tree, [inputs[i] for i in range(len(flat))])
    return (weights * plain(name, kind, both, layers, p)[1]).sum(axis=-1)

  wanted = reference.gradients(loss, dict(enumerate(flat)))
  for (path, grad), right in zip(
    jax.tree_util.tree_leaves_with_path(grads), wanted.values(), strict=True
  ):
    np.testing.assert_allclose(
      grad, right, rtol=1e-3, atol=1e-5, err_msg=jax.tree_util.keystr(path)
    )


def test_what_is_evaluated_has_the_gradient_that_training_has_without_smoothing():
  model = made('gru-after', 'additive')
  params = jax.tree.map(jnp.float32, drawn(model))

  def evaluated(params):
    return model.apply({'params': params}, INPUTS)[:, 0].sum()

  def trained(params):
    return model.apply({'params': params}, INPUTS, deterministic=False)['objective'].sum()

  found, wanted = jax.jit(jax.grad(evaluated))(params), jax.jit(jax.grad(trained))(params)
  assert any(np.any(leaf) for leaf in jax.tree.leaves(wanted))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), found, wanted)


@pytest.mark.parametrize(
  ('kind', 'both', 'layers', 'precision'),
  [
    ('additive', True, 2, 'float32'),
    ('none', False, 2, 'float32'),
    ('multiplicative', False, 1, 'bfloat16'),
  ],
)
def test_step_by_step_it_says_what_it_does_with_teacher_forcing(kind, both, layers, precision):
  model = made('lstm', kind, both, layers, precision=precision)
  variables = {'params': jax.tree.map(jnp.float32, drawn(model))}
  source, target = INPUTS['source'], INPUTS['target']
  memory = model.apply(variables, source, method='encode')
  carry = model.apply(variables, memory, method='start')
  total = np.zeros(2)
  for ids, right in zip(target.T[:-1], target.T[1:], strict=True):
    logits, carry, attention = model.apply(variables, memory, carry, ids, method='next')
    assert logits.shape == (2, V)
    said = jnp.take_along_axis(jax.nn.log_softmax(logits), right[:, None], axis=1)[:, 0]
    total -= np.where(right != 0, said, 0)
    assert (attention is None) == (kind == 'none')
    if kind != 'none':
      np.testing.assert_allclose(attention.sum(axis=1), 1, rtol=1e-5)
      assert not attention[:, source[1] == 0][1].any()
  np.testing.assert_allclose(model.apply(variables, INPUTS)[:, 0], total, rtol=1e-5)


@pytest.mark.parametrize('kind', ['additive', 'none'])
def test_padding_takes_no_part(kind):
  model = made('gru-after', kind, both=kind != 'none')
  variables = {'params': jax.tree.map(jnp.float32, drawn(model))}
  wider = {name: np.pad(ids, [(0, 0), (0, 3)]) for name, ids in INPUTS.items()}
  np.testing.assert_allclose(
    model.apply(variables, wider), model.apply(variables, INPUTS), rtol=1e-6
  )


@pytest.mark.parametrize('rate', DROPOUTS)
def test_each_dropout_acts_in_training_alone_and_by_its_key(rate):
  params = jax.tree.map(jnp.float32, drawn(made('lstm', 'multiplicative', layers=2)))

  @jax.jit
  def run(seed, p):
    model = made('lstm', 'multiplicative', layers=2, **{rate: p})
    rngs = {'dropout': jax.random.key(seed)}
    return model.apply({'params': params}, INPUTS, deterministic=False, rngs=rngs)['nll']

  kept = made('lstm', 'multiplicative', layers=2, **{rate: 0.5}).apply({'params': params}, INPUTS)
  np.testing.assert_allclose(run(0, 0.0), kept[:, 0], rtol=1e-5)
  np.testing.assert_array_equal(run(1, 0.5), run(1, 0.5))
  assert (run(1, 0.5) != kept[:, 0]).any() and (run(1, 0.5) != run(2, 0.5)).any()


@pytest.mark.slow
def test_it_reads_its_own_tokens_as_often_as_it_is_to():
  """At rate 1 like a loop that reads its likeliest token, at rate 0 like teacher forcing."""
  fields = {'both': True, 'layers': 2}
  plain = made('lstm', 'additive', **fields)
  params = jax.tree.map(jnp.float32, drawn(plain))
  long = INPUTS | {'target': np.array([[1, 4, 5, 6, 4, 2], [1, 5, 6, 2, 0, 0]], np.int32)}

  def run(params, rate):
    model = made('lstm', 'additive', **fields, scheduled_sampling=rate)
    rngs = {'dropout': jax.random.key(3)}
    return model.apply({'params': params}, long, deterministic=False, rngs=rngs)['nll']

  def loop(params):
    memory = plain.apply({'params': params}, long['source'], method='encode')
    carry = plain.apply({'params': params}, memory, method='start')
    read, total = long['target'][:, 0], 0.0
    for right in long['target'][:, 1:].T:
      logits, carry, _ = plain.apply({'params': params}, memory, carry, read, method='next')
      said = jnp.take_along_axis(jax.nn.log_softmax(logits), right[:, None], axis=1)[:, 0]
      total -= jnp.where(right != 0, said, 0)
      read = jnp.argmax(logits, axis=-1)
    return total

  given = plain.apply({'params': params}, long)[:, 0]
  np.testing.assert_allclose(run(params, 1.0), loop(params), rtol=1e-5)
  assert abs(loop(params) - given).max() > 1e-3
  np.testing.assert_allclose(jax.jit(run)(params, 0.0), given, rtol=1e-5)  # as a traced number
  program = {rate: str(jax.make_jaxpr(lambda p, r=rate: run(p, r))(params)) for rate in (0.0, 0.5)}
  assert 'random_bits' in program[0.5] and 'random_bits' not in program[0.0]

  def objective(params):
    model = made('lstm', 'additive', **fields, scheduled_sampling=1.0)
    rngs = {'dropout': jax.random.key(3)}
    found = model.apply({'params': params}, long, deterministic=False, rngs=rngs)
    return found['objective'].sum()

  grads, wanted = (jax.grad(of)(params) for of in (objective, lambda p: loop(p).sum()))
  for grad, right in zip(*map(jax.tree.leaves, (grads, wanted)), strict=True):
    np.testing.assert_allclose(grad, right, rtol=1e-3, atol=1e-5)


def test_a_decoder_of_another_cell_and_one_embedding_for_all():
  model = Seq2Seq(
    (rnnlab.elman(5),), (rnnlab.cells.get('mlstm', hidden_size=4),), V, V, 4, shared=True, tied=True
  )
  outputs, variables = model.init_with_output(
    jax.random.key(0), INPUTS | {'source': np.ones((2, 3), int)}
  )
  assert np.isfinite(outputs).all()
  assert {'source_embedding', 'output_bias'} == {
    name for name in variables['params'] if not name.startswith(('Recurrent', 'bridge'))
  }


def test_without_attention_a_decoder_of_slstm_starts_from_the_source():
  """But not its normaliser and stabiliser, which say that the memory holds nothing yet."""
  cell = rnnlab.cells.get('slstm', hidden_size=H)
  model = Seq2Seq((CELLS['gru-after'],), (cell,), U, V, E, attention='none')
  found, variables = model.init_with_output(jax.random.key(0), INPUTS)
  other = INPUTS | {'source': np.array([[7, 4, 2, 0], [5, 2, 0, 0]], np.int32)}
  assert (found[:, 0] != model.apply(variables, other)[:, 0]).all()
  encoded = model.apply(variables, INPUTS['source'], method='encode')
  carry, start = encoded.carries[0], cell.initial_carry((2,))
  assert (carry.h != 0).all()
  np.testing.assert_array_equal((carry.n, carry.m), (start.n, start.m))


@pytest.mark.parametrize('heads', [1, H])
def test_without_attention_a_decoder_of_mlstm_cannot_start_from_another_cell_s_source(heads):
  cell = rnnlab.cells.get('mlstm', hidden_size=H, heads=heads)
  model = Seq2Seq((CELLS['gru-after'],), (cell,), U, V, E, attention='none')
  with pytest.raises(ValueError, match=r'without attention, .* the carry of mlstm\(.* has none'):
    model.init(jax.random.key(0), INPUTS)


@pytest.mark.parametrize(
  ('counts', 'fields', 'words'),
  [
    ((2, 1), {}, 'equally many cells, not 2 and 1'),
    ((1, 1), {'shared': True}, f'source_size={U} and target_size={V}'),
  ],
)
def test_sizes_that_do_not_fit_are_told(counts, fields, words):
  cells = [(CELLS['gru-after'],) * count for count in counts]
  with pytest.raises(ValueError, match=words):
    Seq2Seq(*cells, U, V, E, **fields).init(jax.random.key(0), INPUTS)


def test_in_float64_it_starts_by_itself():
  model = made('gru-after', 'multiplicative')
  params = drawn(model)
  narrow = model.apply({'params': jax.tree.map(jnp.float32, params)}, INPUTS)
  with jax.enable_x64():
    found = model.apply({'params': jax.tree.map(jnp.asarray, params)}, INPUTS)
  np.testing.assert_allclose(found, narrow, rtol=1e-4)


def test_ids_that_are_none_are_told():
  model = made('lstm', 'additive')
  with pytest.raises(ValueError, match='target'):
    model.init(jax.random.key(0), INPUTS | {'target': np.full((2, 3), V)})
