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
  if case.text:
    model = _LanguageModel(case)
    carry = model.initial_carry()
    params = model.init(jax.random.key(0), jnp.zeros((case.batch, 1), jnp.int32), carry)
    return jaxed.text(case, model.apply, params, carry)
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


class _LanguageModel(nn.Module):
  case: peers.Case

  def initial_carry(self):
    zeros = jnp.zeros((self.case.batch, self.case.hidden))
    of_layer = (zeros, zeros) if self.case.cell == 'lstm' else zeros
    # Copied, since a step donates its arguments, each array once.
    return jax.tree.map(jnp.copy, (of_layer,) * peers.TEXTS[self.case.text].layers)

  @nn.compact
  def __call__(self, ids, carry):
    xs, after = nn.Embed(peers.TEXTS[self.case.text].vocab_size, self.case.inputs)(ids), []
    for before in carry:
      end, xs = _layer(self.case, return_carry=True)(xs, initial_carry=before)
      after.append(end)
    return nn.Dense(peers.TEXTS[self.case.text].vocab_size)(xs), tuple(after)
