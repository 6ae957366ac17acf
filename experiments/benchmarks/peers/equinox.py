"""Equinox: a cell scanned over one sequence, and vmapped over the batch."""

import equinox as eqx
import jax
import jax.numpy as jnp

from experiments.benchmarks import peers
from experiments.benchmarks.peers import jaxed

CELLS = {'lstm': eqx.nn.LSTMCell, 'gru': eqx.nn.GRUCell}


def build(case):
  """See `experiments.benchmarks.peers`."""
  keys = jax.random.split(jax.random.key(0), 3)
  cell = CELLS[case.cell](case.inputs, case.hidden, key=keys[0])
  zeros = jnp.zeros(case.hidden)
  start = (zeros, zeros) if case.cell == 'lstm' else zeros

  def layer(cell, xs):
    def step(carry, x_t):
      carry = cell(x_t, carry)
      return carry, carry[0] if case.cell == 'lstm' else carry

    return jax.lax.scan(step, start, xs)[1]

  if case.what != 'training':
    params, static = eqx.partition(cell, eqx.is_array)

    def apply(params, xs, lengths):
      return jax.vmap(layer, (None, 0))(eqx.combine(params, static), xs)

    return jaxed.layer(case, apply, params)

  embedding = eqx.nn.Embedding(peers.VOCABULARY, case.inputs, key=keys[1])
  head = eqx.nn.Linear(case.hidden, 'scalar', key=keys[2])
  params, static = eqx.partition((embedding, cell, head), eqx.is_array)

  def classify(params, ids, lengths):
    embedding, cell, head = eqx.combine(params, static)
    return jax.vmap(lambda row: head(layer(cell, jax.vmap(embedding)(row))[-1]))(ids)

  return jaxed.training(case, classify, params)
