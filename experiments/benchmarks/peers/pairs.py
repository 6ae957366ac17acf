"""The translator that libraries are measured on: its data and initial weights, the same for all.

    encoder one layer, bidirectional; the decoder starts from tanh(W s + b), s both last outputs
    decoder a_s = v . tanh(W_q y_{t-1} + W_k m_s), c_t = sum_s softmax(a)_s m_s
              y_t = cell([x_t, c_t]),  logits_t = W tanh(W_o [y_t, c_t] + b_o) + b

as in `rnnlab.models.Seq2Seq` with additive attention (Bahdanau et al. 2015).
"""

from typing import Any, NamedTuple

import numpy as np

STEPS = 5  # training steps in a call
SENTENCES = 1_000  # translated by a call of greedy decoding
ROWS = 250  # sentences at once
BEGIN, END = 1, 2  # ids; 0 pads, and words are from 4 on


class Pairs(NamedTuple):
  """Sizes: B pairs, up to T tokens per side, embeddings of D, H units, H features in attention."""

  batch: int
  steps: int
  inputs: int
  hidden: int
  source_size: int
  target_size: int


PAIRS = {
  'multi30k': Pairs(64, 20, 256, 256, 7_800, 5_900),  # German to English, words seen twice
  'tiny-pairs': Pairs(2, 6, 4, 3, 11, 9),
}


class Batch(NamedTuple):
  """Pairs: source `[B, S]` and target `[B, T + 1]`, int64, padded at the end with 0; lengths."""

  source: np.ndarray
  target: np.ndarray
  source_lengths: np.ndarray
  target_lengths: np.ndarray


def batches(pairs: Pairs) -> list[Batch]:
  """A batch for each step of a call; lengths are spread evenly from 2/5 of T to T."""
  draw = np.random.default_rng(0)
  return [_batch(draw, pairs, pairs.batch) for _ in range(STEPS)]


def sentences(pairs: Pairs) -> list[Batch]:
  """The sources to translate, in batches of similar length, as wide as the longest of a batch.

  A translation gets as many tokens as its source has, which is about the length of real ones.
  """
  drawn = _batch(np.random.default_rng(1), pairs, SENTENCES)
  order = np.argsort(drawn.source_lengths, kind='stable').reshape(-1, ROWS)
  parts = [Batch(*(array[rows] for array in drawn)) for rows in order]
  return [part._replace(source=part.source[:, : part.source_lengths.max()]) for part in parts]


def _batch(draw, pairs, rows):
  def side(size):
    lengths = draw.permutation(
      np.linspace(0.4 * pairs.steps, pairs.steps, rows).round().astype(int)
    )
    ids = draw.integers(4, size, (rows, pairs.steps))
    return ids * (np.arange(pairs.steps) < lengths[:, None]), lengths

  source, source_lengths = side(pairs.source_size)
  target, target_lengths = side(pairs.target_size)
  target = np.pad(target, [(0, 0), (1, 0)], constant_values=BEGIN)
  return Batch(source, target, source_lengths, target_lengths)


def weights(pairs: Pairs, cell: str) -> dict[str, Any]:
  """The initial weights, float32, under rnnlab's names."""
  d, h, draw = pairs.inputs, pairs.hidden, np.random.default_rng(2)
  gates, states = {'lstm': (4, 2), 'gru': (3, 1)}[cell]

  def uniform(*shape):
    return draw.uniform(-(h**-0.5), h**-0.5, shape).astype(np.float32)

  def of_cell(inputs):
    made = {
      'w_x': uniform(inputs, gates * h),
      'w_h': uniform(h, gates * h),
      'b': uniform(gates * h),
    }
    return made | ({'b_hn': uniform(h)} if cell == 'gru' else {})

  return {
    'source_embedding': uniform(pairs.source_size, d),
    'target_embedding': uniform(pairs.target_size, d),
    'Recurrent_encoder_0': {'cell': of_cell(d), 'cell_backward': of_cell(d)},
    'bridge_0': {'kernel': uniform(2 * h, states * h), 'bias': uniform(states * h)},
    'Recurrent_decoder': {
      'cell': of_cell(d + 2 * h),
      'w_query': uniform(h, h),
      'w_key': uniform(2 * h, h),
      'v': uniform(h),
      'w_output': uniform(3 * h, h),
      'b_output': uniform(h),
    },
    'output': uniform(h, pairs.target_size),
    'output_bias': uniform(pairs.target_size),
  }


def tokens(pairs: Pairs, greedy: bool) -> int:
  """The tokens of the target side that one repeat of a call reads or writes."""
  if greedy:
    return int(sum(batch.source_lengths.sum() for batch in sentences(pairs)))
  return int(sum(batch.target_lengths.sum() for batch in batches(pairs))) // STEPS


def flops(pairs: Pairs, cell: str, greedy: bool) -> float:
  """Operations in the products with weights in one repeat of a call, at real steps."""
  d, h, gates = pairs.inputs, pairs.hidden, {'lstm': 4, 'gru': 3}[cell]
  of_source = 2 * (d + h) * gates * h + 2 * h * h  # both directions, and keys
  of_target = (d + 3 * h) * gates * h + h * h + 3 * h * h + h * pairs.target_size
  written = tokens(pairs, greedy)
  if greedy:
    return 2.0 * written * (of_source + of_target)
  read = sum(batch.source_lengths.sum() for batch in batches(pairs)) / STEPS
  return float(6 * (read * of_source + written * of_target))
