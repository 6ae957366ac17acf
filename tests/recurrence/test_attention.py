"""Decoders with attention, values and gradients, against the equations in a float64 loop."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from reference import CELLS as STEPS

import rnnlab
from rnnlab.machine import devices
from rnnlab.recurrence import attention
from rnnlab.recurrence.attention import Decoder

B, T, S, D, M, H, A = 2, 4, 3, 3, 5, 4, 6
MADE = {'lstm': rnnlab.lstm(H), 'gru-after': rnnlab.gru(H), 'elman': rnnlab.elman(H)}
REAL = np.array([[True] * 4, [True, True, False, False]])
THERE = np.array([[True, True, False], [True] * 3])


def given(decoder, seed=0):
  """Parameters with generic values, inputs, and a memory, in float64."""
  params = attention.init(decoder, jax.random.key(seed), D, M)
  draw = np.random.default_rng(seed)
  params = jax.tree.map(lambda a: np.asarray(a, np.float64) + draw.normal(0, 0.3, a.shape), params)
  return params, draw.normal(size=(B, T, D)), draw.normal(size=(B, S, M))


def softmax(scores):
  scores = np.where(THERE, np.exp(scores), 0)
  return scores / scores.sum(axis=-1, keepdims=True)


def plain(name, kind, feeding, p, xs, memory):
  """The outputs `[B, T, H]`, 0 at padding; any of p, xs and memory may have leading axes."""
  states = (np.zeros((B, H)),) * (2 if name == 'lstm' else 1)
  y = output = states[0]
  outputs = []

  def context(query):
    query = query @ p['w_query']
    if kind == 'additive':
      hidden = np.tanh(query[..., None, :] + memory @ p['w_key'][..., None, :, :])
      scores = (hidden * p['v'][..., None, None, :]).sum(axis=-1)
    else:
      scores = (query[..., None, :] * memory).sum(axis=-1)
    return (softmax(scores)[..., None] * memory).sum(axis=-2)

  def cell(states, x):
    gates = reference.GATES[name]
    return STEPS[name](p['cell'], states, [x] * gates, [states[0]] * gates)

  def both(*parts):
    leading = np.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return np.concatenate([np.broadcast_to(a, (*leading, a.shape[-1])) for a in parts], axis=-1)

  for t in range(T):
    x, real = xs[..., t, :], REAL[:, t, None]
    if kind == 'additive':
      found = context(y)
      new = cell(states, both(x, found))
    else:
      new = cell(states, both(x, output) if kind != 'none' and feeding else x)
      found = None if kind == 'none' else context(new[0])
    out = (
      new[0]
      if kind == 'none'
      else np.tanh(both(new[0], found) @ p['w_output'] + p['b_output'][..., None, :])
    )
    states = tuple(np.where(real, a, b) for a, b in zip(new, states, strict=True))
    y, output = np.where(real, new[0], y), np.where(real, out, output)
    outputs.append(np.where(real, out, 0))
  return np.stack(np.broadcast_arrays(*outputs), axis=-2)


def to_jax(tree):
  return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), tree)


KINDS = [('additive', True), ('multiplicative', True), ('multiplicative', False), ('none', True)]


@pytest.mark.parametrize(
  ('name', 'kind', 'feeding'),
  [
    pytest.param(name, *kind, marks=pytest.mark.slow if (i + j) % 2 else ())
    for (i, name), (j, kind) in itertools.product(enumerate(MADE), enumerate(KINDS))
  ],
)
def test_outputs_and_gradients(name, kind, feeding):
  decoder = Decoder(MADE[name], kind, A, feeding)
  params, xs, memory = given(decoder)
  weights = np.random.default_rng(1).normal(size=(B, T, H))

  def run(params, xs, memory):
    values = attention.remember(decoder, params, memory, jnp.asarray(THERE))
    return attention.decode(decoder, params, xs, values, mask=jnp.asarray(REAL))[1]

  arguments = to_jax((params, xs, memory))
  np.testing.assert_allclose(
    run(*arguments), plain(name, kind, feeding, params, xs, memory), rtol=1e-4, atol=1e-5
  )
  grads = jax.jit(jax.grad(lambda *a: (weights * run(*a)).sum(), (0, 1, 2)))(*arguments)
  flat, tree = jax.tree.flatten((params, xs, memory))

  def loss(inputs):
    params, xs, memory = jax.tree.unflatten(tree, [inputs[i] for i in range(len(flat))])
    outputs = plain(name, kind, feeding, params, xs, memory)
    unused = 0 * memory.sum(axis=(-1, -2, -3))  # like the memory without attention
    return (weights * outputs).sum(axis=(-1, -2, -3)) + unused

  wanted = reference.gradients(loss, dict(enumerate(flat)))
  for i, found in enumerate(jax.tree.leaves(grads)):
    np.testing.assert_allclose(found, wanted[i], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize('kind', ['additive', 'multiplicative'])
def test_the_weights_of_attention_are_of_what_is_there_and_make_the_context(kind):
  decoder = Decoder(MADE['lstm'], kind, A)
  params, xs, memory = to_jax(given(decoder))
  values = attention.remember(decoder, params, memory, jnp.asarray(THERE))
  found = attention.attention_weights(decoder, params, xs, values)
  assert found.shape == (B, T, S)
  np.testing.assert_allclose(found.sum(axis=-1), 1, rtol=1e-5)
  assert not found[0, :, 2].any()
  _, outputs = attention.decode(decoder, params, xs, values)
  carry = attention.initial_carry(decoder, B)
  for t in range(T):
    carry, output = attention.step(decoder, params, values, carry, xs[:, t])
    np.testing.assert_allclose(output, outputs[:, t], rtol=1e-5, atol=1e-6)
    context = jnp.einsum('bs,bsm->bm', found[:, t], memory)
    both = jnp.concatenate([carry.y, context], axis=-1)
    again = jnp.tanh(both @ params['w_output'] + params['b_output'])
    np.testing.assert_allclose(again, output, rtol=1e-4, atol=1e-5)


def test_a_memory_of_nothing_gives_no_context_and_finite_gradients():
  decoder = Decoder(MADE['gru-after'], 'additive', A)
  params, xs, memory = to_jax(given(decoder))
  nothing = jnp.zeros((B, S), bool)

  def run(params, memory):
    values = attention.remember(decoder, params, memory, nothing)
    return attention.decode(decoder, params, xs, values)[1]

  assert (run(params, memory) == run(params, memory + 1)).all()
  grads = jax.grad(lambda *a: run(*a).sum(), (0, 1))(params, memory)
  assert all(np.isfinite(grad).all() for grad in jax.tree.leaves(grads))


def test_rows_are_split_over_devices():
  decoder = Decoder(MADE['lstm'], 'multiplicative')
  params, xs, memory = to_jax(given(decoder))

  def run(params, xs, memory):
    values = attention.remember(decoder, params, memory, jnp.asarray(THERE))
    return attention.decode(decoder, params, xs, values, mask=jnp.asarray(REAL))[1]

  value = jax.jit(jax.value_and_grad(lambda *a: (run(*a) ** 2).sum(), (0, 1, 2)))
  desired = value(params, xs, memory)
  with jax.set_mesh(devices.mesh()):
    found = value(params, xs, memory)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, desired)


@pytest.mark.parametrize(('kind', 'feeding'), KINDS)
def test_what_is_decoded_in_two_parts_is_what_is_decoded_at_once(kind, feeding):
  decoder = Decoder(MADE['lstm'], kind, A, feeding)
  params, xs, memory = to_jax(given(decoder))
  values = attention.remember(decoder, params, memory, jnp.asarray(THERE))
  real = jnp.asarray(REAL)
  carry, whole = attention.decode(decoder, params, xs, values, mask=real)
  half, first = attention.decode(decoder, params, xs[:, :2], values, mask=real[:, :2])
  end, second = attention.decode(decoder, params, xs[:, 2:], values, carry=half, mask=real[:, 2:])
  np.testing.assert_allclose(jnp.concatenate([first, second], axis=1), whole, rtol=1e-5, atol=1e-6)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), end, carry)
  # The second row ends after two steps: its last output is that of its second.
  np.testing.assert_allclose(carry.output, jnp.stack([whole[0, 3], whole[1, 1]]), rtol=1e-5)
  steps = attention.initial_carry(decoder, B)
  for t in range(2):
    steps, _ = attention.step(decoder, params, values, steps, xs[:, t])
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), half, steps)


def test_another_attention_is_told():
  with pytest.raises(ValueError, match="one of .*, not 'aditive'.*additive"):
    attention.init(Decoder(MADE['lstm'], 'aditive'), jax.random.key(0), D, M)
