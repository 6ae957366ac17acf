"""PyTorch: a translator, its encoder an nn.LSTM or nn.GRU, its decoder a loop over a cell."""

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from experiments.benchmarks.peers import pairs
from rnnlab.interop.torch import export_module

LAYERS = {'lstm': nn.LSTM, 'gru': nn.GRU}
CELLS = {'lstm': nn.LSTMCell, 'gru': nn.GRUCell}


class Translator(nn.Module):
  """The model of `pairs` with its initial weights; anything that needs no loop is outside of it."""

  def __init__(self, sizes, cell):
    super().__init__()
    d, h, self.is_lstm = sizes.inputs, sizes.hidden, cell == 'lstm'
    self.source_embedding = nn.Embedding(sizes.source_size, d)
    self.target_embedding = nn.Embedding(sizes.target_size, d)
    self.encoder = LAYERS[cell](d, h, bidirectional=True, batch_first=True)
    self.bridge = nn.Linear(2 * h, (1 + self.is_lstm) * h)
    self.cell = CELLS[cell](d + 2 * h, h)
    self.query, self.key = nn.Linear(h, h, bias=False), nn.Linear(2 * h, h, bias=False)
    self.score = nn.Linear(h, 1, bias=False)
    self.output, self.head = nn.Linear(3 * h, h), nn.Linear(h, sizes.target_size)
    self._load(pairs.weights(sizes, cell), cell)

  def _load(self, given, cell):
    encoder, decoder = given['Recurrent_encoder_0'], given['Recurrent_decoder']
    of_cell = export_module(cell, [decoder['cell']])
    found = {
      'source_embedding.weight': given['source_embedding'],
      'target_embedding.weight': given['target_embedding'],
      'bridge.weight': given['bridge_0']['kernel'].T,
      'bridge.bias': given['bridge_0']['bias'],
      'query.weight': decoder['w_query'].T,
      'key.weight': decoder['w_key'].T,
      'score.weight': decoder['v'][None],
      'output.weight': decoder['w_output'].T,
      'output.bias': decoder['b_output'],
      'head.weight': given['output'].T,
      'head.bias': given['output_bias'],
    }
    layers = export_module(cell, [(encoder['cell'], encoder['cell_backward'])])
    found |= {f'encoder.{name}': w for name, w in layers.items()}
    found |= {f'cell.{name.removesuffix("_l0")}': w for name, w in of_cell.items()}
    self.load_state_dict({n: torch.from_numpy(np.ascontiguousarray(w)) for n, w in found.items()})

  def encode(self, source, lengths):
    """The memory (values, keys, and where the source is padded), and the cell's first carry."""
    packed = pack_padded_sequence(
      self.source_embedding(source), lengths, batch_first=True, enforce_sorted=False
    )
    ys, carry = self.encoder(packed)
    values, _ = pad_packed_sequence(ys, batch_first=True, total_length=source.shape[1])
    ends = torch.cat(tuple(carry[0] if self.is_lstm else carry), dim=1)
    start = torch.tanh(self.bridge(ends))
    carry = start.chunk(2, dim=1) if self.is_lstm else start
    return values, self.key(values), source == 0, carry

  def step(self, memory, carry, x):
    """The new carry, and [y, c], from which the output is computed."""
    values, keys, absent = memory
    y = carry[0] if self.is_lstm else carry
    scores = self.score(torch.tanh(self.query(y)[:, None] + keys))[:, :, 0]
    weights = scores.masked_fill(absent, -torch.inf).softmax(dim=1)
    context = torch.bmm(weights[:, None], values)[:, 0]
    carry = self.cell(torch.cat([x, context], dim=1), carry)
    return carry, torch.cat([carry[0] if self.is_lstm else carry, context], dim=1)

  def forward(self, source, lengths, target):
    """The logits of all targets; the output layer is one product over all steps."""
    *memory, carry = self.encode(source, lengths)
    found = []
    for x in self.target_embedding(target[:, :-1]).unbind(1):
      carry, of_step = self.step(memory, carry, x)
      found.append(of_step)
    return self.head(torch.tanh(self.output(torch.stack(found, dim=1))))

  @torch.inference_mode()
  def greedy(self, source, lengths):
    """The sum of the log-probabilities of the most likely tokens, one step after the other."""
    *memory, carry = self.encode(source, lengths)
    last = torch.full((len(source),), pairs.BEGIN)
    done, total = torch.zeros(len(source), dtype=torch.bool), 0.0
    for place in range(int(lengths.max())):
      carry, of_step = self.step(memory, carry, self.target_embedding(last))
      log_p = self.head(torch.tanh(self.output(of_step))).log_softmax(dim=1)
      log_p[:, [0, pairs.BEGIN]] = -torch.inf
      last = torch.where(place + 1 < lengths, log_p.argmax(dim=1), pairs.END)
      total += log_p.gather(1, last[:, None])[~done].sum()
      done |= last == pairs.END
      if done.all():
        break
    return float(total)


def build(case):
  """See `experiments.benchmarks.peers`."""
  sizes = pairs.PAIRS[case.text]
  model = Translator(sizes, case.cell)
  if case.what == 'greedy':
    given = [
      [torch.from_numpy(array) for array in (batch.source, batch.source_lengths)]
      for batch in pairs.sentences(sizes)
    ]
    return (lambda: sum(model.greedy(*batch) for batch in given)), 1
  given = [
    [torch.from_numpy(array) for array in (batch.source, batch.source_lengths, batch.target)]
    for batch in pairs.batches(sizes)
  ]
  optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
  loss = nn.CrossEntropyLoss(ignore_index=0)

  def call():
    found = []
    for batch in given:
      optimizer.zero_grad()
      value = loss(model(*batch).flatten(0, 1), batch[2][:, 1:].flatten())
      value.backward()
      optimizer.step()
      found.append(value.item())
    return found[0]

  return call, pairs.STEPS
