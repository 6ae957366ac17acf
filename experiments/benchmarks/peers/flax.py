"""Flax linen: nn.RNN over OptimizedLSTMCell or GRUCell."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.benchmarks import peers
from experiments.benchmarks.peers import jaxed

CELLS = {'lstm': nn.OptimizedLSTMCell, 'gru': nn.GRUCell}


def build(case):
  """See `experiments.benchmarks.peers`."""
  if case.what == 'training':
    model = _Classifier(case)
    params = model.init(jax.random.key(0), jnp.zeros((1, case.steps), jnp.int32), None)
    return jaxed.training(case, model.apply, params)
  model = _layer(case)
  params = model.init(jax.random.key(0), jnp.zeros((1, case.steps, case.inputs)))

  def apply(params, xs, lengths):
    return model.apply(params, xs, seq_lengths=lengths)

  return jaxed.layer(case, apply, params)


def _layer(case, return_carry=False):
  def rnn():
    return nn.RNN(CELLS[case.cell](case.hidden), return_carry=return_carry)

  return nn.Bidirectional(rnn(), rnn()) if case.bidirectional else rnn()


class _Classifier(nn.Module):
  case: peers.Case

  @nn.compact
  def __call__(self, ids, lengths):
    xs = nn.Embed(peers.VOCABULARY, self.case.inputs)(ids)
    carry, _ = _layer(self.case, return_carry=True)(xs, seq_lengths=lengths)
    h = carry[1] if self.case.cell == 'lstm' else carry  # at each row's last real step
    return nn.Dense(1)(h)[:, 0]
