"""PyTorch: nn.LSTM or nn.GRU, time-major, which is faster, and packed if rows are padded."""

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from experiments.benchmarks import peers
from experiments.benchmarks.peers import torch_pairs

LAYERS = {'lstm': nn.LSTM, 'gru': nn.GRU}


def build(case):
  """See `experiments.benchmarks.peers`."""
  if case.what in ('pairs', 'greedy'):
    return torch_pairs.build(case)
  return {'training': _training, 'text': _text}.get(case.what, _layer)(case)


def _module(case):
  return LAYERS[case.cell](case.inputs, case.hidden, bidirectional=case.bidirectional)


def _pack(xs, lengths):
  if lengths is None:
    return xs
  return pack_padded_sequence(xs, lengths, enforce_sorted=False)


def _tensors(case):
  return [x if x is None else torch.from_numpy(x) for x in peers.data(case)]


def _layer(case):
  xs, weights, _, _, lengths = _tensors(case)
  xs, weights = (x.transpose(0, 1).contiguous() for x in (xs, weights))
  module = _module(case)
  wanted = [*module.parameters(), xs.requires_grad_()]

  def ys():
    out = module(_pack(xs, lengths))[0]
    if lengths is None:
      return out
    return pad_packed_sequence(out, total_length=case.steps)[0]

  def gradient():
    return torch.autograd.grad((ys() * weights).sum(), wanted)

  return (torch.inference_mode()(ys) if case.what == 'forward' else gradient), 1


class _Classifier(nn.Module):
  def __init__(self, case):
    super().__init__()
    self.embedding = nn.Embedding(peers.VOCABULARY, case.inputs)
    self.layer = _module(case)
    self.head = nn.Linear(case.hidden, 1)

  def forward(self, ids, lengths):
    carry = self.layer(_pack(self.embedding(ids), lengths))[1]
    h = carry[0] if isinstance(carry, tuple) else carry  # [1, B, H], at each row's last real step
    return self.head(h[0])[:, 0]


def _training(case):
  _, _, ids, labels, lengths = _tensors(case)
  ids = [x.T.contiguous() for x in ids.long().split(case.batch)]
  labels = labels.float().split(case.batch)
  lengths = [None] * peers.STEPS if lengths is None else lengths.split(case.batch)
  model = _Classifier(case)
  optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
  loss = nn.BCEWithLogitsLoss()

  def call():
    for i, y, n in zip(ids, labels, lengths, strict=True):
      optimizer.zero_grad()
      loss(model(i, n), y).backward()
      optimizer.step()

  return call, peers.STEPS


class _LanguageModel(nn.Module):
  def __init__(self, case):
    super().__init__()
    text = peers.TEXTS[case.text]
    self.embedding = nn.Embedding(text.vocab_size, case.inputs)
    self.layers = LAYERS[case.cell](case.inputs, case.hidden, text.layers)
    self.head = nn.Linear(case.hidden, text.vocab_size)

  def forward(self, ids, carry):
    ys, carry = self.layers(self.embedding(ids), carry)
    return self.head(ys), carry


def _text(case):
  _, _, ids, labels, _ = _tensors(case)
  ids, labels = (
    [x.contiguous() for x in stream.T.long().split(case.steps)] for stream in (ids, labels)
  )
  model = _LanguageModel(case)
  optimizer = torch.optim.SGD(model.parameters(), lr=1.0, fused=True)
  loss, carry = nn.CrossEntropyLoss(), None

  def call():
    nonlocal carry
    for i, y in zip(ids, labels, strict=True):
      optimizer.zero_grad()
      logits, carry = model(i, carry)
      loss(logits.flatten(0, 1), y.flatten()).backward()
      nn.utils.clip_grad_norm_(model.parameters(), peers.CLIP)
      optimizer.step()
      carry = tuple(x.detach() for x in carry) if isinstance(carry, tuple) else carry.detach()

  return call, peers.WINDOWS
