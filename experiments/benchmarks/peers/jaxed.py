"""What the libraries on JAX share: compiling a layer, and training with Optax."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks import peers


def layer(case, apply, params, time_major=False):
  """The call for a layer `apply(params, xs, lengths) -> ys`; both time-major if asked for."""
  xs, weights, _, _, lengths = jax.tree.map(jnp.asarray, peers.data(case))
  if time_major:
    xs, weights = jnp.swapaxes(xs, 0, 1), jnp.swapaxes(weights, 0, 1)

  def loss(params, xs, lengths):
    return jnp.sum(apply(params, xs, lengths) * weights)

  function = apply if case.what == 'forward' else jax.grad(loss, argnums=(0, 1))
  run = functools.partial(jax.jit(function), params, xs, lengths)
  return lambda: jax.block_until_ready(run()), 1


def training(case, apply, params):
  """The call for steps of a classifier `apply(params, ids, lengths) -> logits [B]`.

  One compiled step per batch, its state donated; the host runs ahead of the device, so that it
  waits only for the last step.
  """
  _, _, ids, labels, lengths = peers.data(case)
  batches = jax.tree.map(
    lambda x: [jnp.asarray(b) for b in np.split(x, peers.STEPS)], (ids, labels)
  )
  lengths = [None] * peers.STEPS if lengths is None else np.split(lengths, peers.STEPS)
  tx = optax.adam(1e-3)

  def loss(params, ids, labels, lengths):
    logits = apply(params, ids, lengths)
    return optax.sigmoid_binary_cross_entropy(logits, labels).mean()

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(params, opt_state, ids, labels, lengths):
    grads = jax.grad(loss)(params, ids, labels, lengths)
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  state = params, tx.init(params)

  def call():
    nonlocal state
    for batch in zip(*batches, lengths, strict=True):
      state = step(*state, *batch)
    jax.block_until_ready(state)

  return call, peers.STEPS


def text(case, apply, params, carry):
  """The call for steps of a language model `apply(params, ids, carry) -> (logits, carry)`.

  Compiled and run as in `training`, with the carry passed on.
  """
  _, _, ids, labels, _ = peers.data(case)
  windows = [
    tuple(jnp.asarray(part) for part in pair)
    for pair in zip(*(np.split(x, peers.WINDOWS, axis=1) for x in (ids, labels)), strict=True)
  ]
  tx = optax.chain(optax.clip_by_global_norm(peers.CLIP), optax.sgd(1.0))

  def loss(params, carry, ids, labels):
    logits, carry = apply(params, ids, carry)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), carry

  @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
  def step(params, opt_state, carry, ids, labels):
    grads, carry = jax.grad(loss, has_aux=True)(params, carry, ids, labels)
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, carry

  state = params, tx.init(params), carry

  def call():
    nonlocal state
    for window in windows:
      state = step(*state, *window)
    jax.block_until_ready(state)

  return call, peers.WINDOWS
