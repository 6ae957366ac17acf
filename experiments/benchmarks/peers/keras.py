"""Keras 3 on the backend that KERAS_BACKEND names, JAX or TensorFlow."""

import functools

import keras
import numpy as np

from experiments.benchmarks import peers

LAYERS = {'lstm': keras.layers.LSTM, 'gru': keras.layers.GRU}


def build(case):
  """See `experiments.benchmarks.peers`."""
  keras.backend.clear_session()
  if case.what == 'training':
    return _training(case)
  return (_on_jax if keras.backend.backend() == 'jax' else _on_tensorflow)(case), 1


def _module(case, sequences):
  rate = 0.0 if case.dropout == 'none' else peers.RATE
  layer = LAYERS[case.cell](
    case.hidden, return_sequences=sequences, dropout=rate, recurrent_dropout=rate
  )
  return keras.layers.Bidirectional(layer) if case.bidirectional else layer


def _arrays(case):
  """A built layer, xs, weights, and the mask of lengths in Keras's form."""
  xs, weights, _, _, lengths = peers.data(case)
  layer = _module(case, sequences=True)
  layer.build(xs.shape)
  mask = None if lengths is None else np.arange(case.steps) < lengths[:, None]
  return layer, xs, weights, mask


def _on_jax(case):
  import jax
  import jax.numpy as jnp

  layer, *arrays = _arrays(case)
  xs, weights, mask = jax.tree.map(jnp.asarray, arrays)
  state = [v.value for v in layer.non_trainable_variables]  # the seeds of its dropout

  def forward(params, xs, mask, state):
    return layer.stateless_call(params, state, xs, mask=mask, training=True)

  def loss(params, xs, mask, state):
    ys, state = forward(params, xs, mask, state)
    return jnp.sum(ys * weights), state

  gradient = jax.grad(loss, argnums=(0, 1), has_aux=True)
  params = [v.value for v in layer.trainable_variables]
  run = functools.partial(
    jax.jit(forward if case.what == 'forward' else gradient), params, xs, mask
  )

  def call():
    nonlocal state
    _, state = jax.block_until_ready(run(state))

  return call


def _on_tensorflow(case):
  import tensorflow as tf

  layer, *arrays = _arrays(case)
  xs, weights, mask = (x if x is None else tf.constant(x) for x in arrays)

  def forward(xs):
    return layer(xs, mask=mask, training=True)

  def gradient(xs):
    with tf.GradientTape() as tape:
      tape.watch(xs)
      value = tf.reduce_sum(forward(xs) * weights)
    return tape.gradient(value, [*layer.trainable_weights, xs])

  return functools.partial(tf.function(forward if case.what == 'forward' else gradient), xs)


def _training(case):
  _, _, ids, labels, _ = peers.data(case)
  model = keras.Sequential(
    [
      keras.Input((case.steps,), dtype='int32'),
      keras.layers.Embedding(peers.VOCABULARY, case.inputs, mask_zero=case.lengths),
      _module(case, sequences=False),
      keras.layers.Dense(1, activation='sigmoid'),
    ]
  )
  model.compile(optimizer='adam', loss='binary_crossentropy')
  fit = functools.partial(model.fit, batch_size=case.batch, shuffle=False, verbose=0)
  return lambda: fit(ids, labels), peers.STEPS
