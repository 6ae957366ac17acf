"""Haiku: hk.LSTM or hk.GRU in hk.dynamic_unroll, time-major. Its GRU resets before the product."""

import haiku as hk
import jax
import jax.numpy as jnp

from experiments.benchmarks import peers
from experiments.benchmarks.peers import jaxed

CELLS = {'lstm': hk.LSTM, 'gru': hk.GRU}


def build(case):
  """See `experiments.benchmarks.peers`."""

  def layer(xs, lengths=None):
    core = CELLS[case.cell](case.hidden)
    return hk.dynamic_unroll(core, xs, core.initial_state(xs.shape[1]))[0]

  def classifier(ids, lengths=None):
    ys = layer(hk.Embed(peers.VOCABULARY, case.inputs)(ids.T))
    return hk.Linear(1)(ys[-1])[:, 0]

  training = case.what == 'training'
  model = hk.without_apply_rng(hk.transform(classifier if training else layer))
  shape = (1, case.steps) if training else (case.steps, 1, case.inputs)
  params = model.init(jax.random.key(0), jnp.zeros(shape, jnp.int32 if training else jnp.float32))
  if training:
    return jaxed.training(case, model.apply, params)
  return jaxed.layer(case, model.apply, params, time_major=True)
