"""rnnlab computes the same as PyTorch's modules with their weights, and exports them again.

PyTorch is optional: if it is not installed, its recorded answers are used, from
tests/interop/interop_torch.npz, which can be made again with
`PYTHONPATH=. python tests/interop/test_interop_torch.py --record`.
"""

import functools
import itertools
import pathlib
import subprocess
import sys
import typing

import numpy as np
import pytest
from exchanges import HIDDEN, INPUTS, LENGTHS, STEPS, XS, answer, draw, few_quick, loss_weights
from numpy.testing import assert_allclose, assert_array_equal
from programs import ROOT

from rnnlab.interop import torch as interop

RECORDED = pathlib.Path(__file__).with_name('interop_torch.npz')
GATES = {'elman': 1, 'lstm': 4, 'gru': 3}


class Case(typing.NamedTuple):
  cell: str
  layers: int
  directions: int
  masked: bool
  bias: bool

  def __str__(self):
    padding = 'padded' if self.masked else 'full'
    bias = 'bias' if self.bias else 'no bias'
    return f'{self.cell}, {self.layers}x{self.directions}, {padding}, {bias}'


CASES = [Case(*c) for c in itertools.product(GATES, (1, 2), (1, 2), (False, True), (True, False))]
MODULES = [case for case in CASES if not case.masked]


def state_dict(case):
  """Random weights, with the names, shapes and order of a PyTorch module."""
  rows = GATES[case.cell] * HIDDEN
  weights = {}
  for layer, suffix in itertools.product(range(case.layers), ('', '_reverse')[: case.directions]):
    inputs = case.directions * HIDDEN if layer else INPUTS
    shapes = {'weight_ih': (rows, inputs), 'weight_hh': (rows, HIDDEN)}
    if case.bias:
      shapes |= {'bias_ih': (rows,), 'bias_hh': (rows,)}
    for kind, shape in shapes.items():
      weights[f'{kind}_l{layer}{suffix}'] = draw(*shape, seed=10 + len(weights))
  return weights


def module(case):
  """The PyTorch module with `state_dict`, which must accept all of it."""
  import torch

  kind = {'elman': torch.nn.RNN, 'lstm': torch.nn.LSTM, 'gru': torch.nn.GRU}[case.cell]
  made = kind(
    INPUTS,
    HIDDEN,
    num_layers=case.layers,
    bidirectional=case.directions == 2,
    bias=case.bias,
    batch_first=True,
  )
  made.load_state_dict({name: torch.from_numpy(w) for name, w in state_dict(case).items()})
  return made


def of_torch(case):
  """PyTorch's outputs, final states and gradients, concatenated in one vector."""
  import torch
  from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

  made = module(case)
  xs = given = torch.tensor(XS, requires_grad=True)
  if case.masked:
    given = pack_padded_sequence(xs, LENGTHS, batch_first=True, enforce_sorted=False)
  ys, states = made(given)
  if case.masked:
    ys, _ = pad_packed_sequence(ys, batch_first=True, total_length=STEPS)
  states = torch.stack(states if case.cell == 'lstm' else [states])
  loss = (ys * torch.from_numpy(loss_weights(ys.shape[-1]))).sum() + (states**2).sum()
  loss.backward()
  found = [ys, states, xs.grad, *(weight.grad for weight in made.parameters())]
  return np.concatenate([part.detach().numpy().ravel() for part in found])


@functools.cache
def of_rnnlab(case):
  """The same from rnnlab, with PyTorch's weights."""
  ours = answer(case.cell, interop.import_module(case.cell, state_dict(case)), masked=case.masked)
  # Both of PyTorch's biases have the gradient of their sum, which is that of bias_ih here; except
  # for a GRU's of n, which export puts where they belong.
  gradients = interop.export_module(case.cell, ours.layers)
  for name in gradients:
    if name.startswith('bias_hh'):
      summed = slice(2 * HIDDEN) if case.cell == 'gru' else slice(None)
      gradients[name][summed] = gradients[name.replace('_hh', '_ih')][summed]
  kept = [gradients[name] for name in state_dict(case)]
  return np.concatenate([part.ravel() for part in (ours.ys, ours.states, ours.xs, *kept)])


@pytest.mark.parametrize('case', few_quick(CASES))
def test_computes_what_pytorch_computed_when_it_was_recorded(case):
  with np.load(RECORDED) as recorded:
    assert_allclose(of_rnnlab(case), recorded[str(case)], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('case', few_quick(CASES))
def test_computes_what_pytorch_computes(case):
  pytest.importorskip('torch')
  assert_allclose(of_rnnlab(case), of_torch(case), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('case', MODULES, ids=str)
def test_a_round_trip_from_pytorch_keeps_all_but_how_its_biases_are_split(case):
  weights = state_dict(case)
  back = interop.export_module(case.cell, interop.import_module(case.cell, weights), bias=case.bias)
  assert list(back) == list(weights)
  for name, w in back.items():
    assert w.flags.c_contiguous and w.dtype == 'float32'
    if name.startswith('weight'):
      assert_array_equal(w, weights[name])
    elif name.startswith('bias_ih'):
      other = name.replace('_ih', '_hh')
      total = weights[name] + weights[other]
      if case.cell == 'gru':  # the two of n do not add up
        total[2 * HIDDEN :] = weights[name][2 * HIDDEN :]
        assert_array_equal(back[other][2 * HIDDEN :], weights[other][2 * HIDDEN :])
      assert_array_equal(w, total)
      assert not back[other][: 2 * HIDDEN].any()


@pytest.mark.parametrize('dtype', ['float32', 'float64', 'float16'])
@pytest.mark.parametrize('case', MODULES, ids=str)
def test_a_round_trip_from_rnnlab_is_exact(case, dtype):
  weights = {name: w.astype(dtype) for name, w in state_dict(case).items()}
  layers = interop.import_module(case.cell, weights)
  back = interop.import_module(case.cell, interop.export_module(case.cell, layers))
  assert len(back) == case.layers
  for layer, again in zip(layers, back, strict=True):
    assert type(again) is type(layer) is (tuple if case.directions == 2 else dict)
    pair, again = (layer, again) if case.directions == 2 else ([layer], [again])
    for params, found in zip(pair, again, strict=True):
      assert list(found) == list(params)
      for name, w in found.items():
        assert_array_equal(w, params[name], strict=True)
        assert w.dtype == dtype and w.flags.c_contiguous


def test_what_is_imported_does_not_change_with_the_module():
  weights = {name: np.zeros((1, 1), 'float32') for name in ('weight_ih_l0', 'weight_hh_l0')}
  [layer] = interop.import_module('elman', weights)
  weights['weight_hh_l0'] += 1
  assert layer['w_h'] == 0


def test_a_live_state_dict_is_taken_as_it_is():
  pytest.importorskip('torch')
  case = Case('gru', 2, 2, False, True)
  [layer, _] = interop.import_module('gru', module(case).state_dict())
  assert_array_equal(layer[1]['w_x'], state_dict(case)['weight_ih_l0_reverse'].T)


LSTM = Case('lstm', 2, 2, False, True)


def without(*names):
  return {name: w for name, w in state_dict(LSTM).items() if name not in names}


@pytest.mark.parametrize(
  ('weights', 'said'),
  [
    ([1], "the module's state_dict must be a dict of arrays by name, not a list"),
    ({}, 'lacks weight_ih_l0, weight_hh_l0'),
    (without('weight_hh_l1'), 'lacks weight_hh_l1;'),
    (without('bias_hh_l1_reverse'), 'lacks bias_hh_l1_reverse;'),
    (without() | {'head.weight': draw(2)}, 'has head.weight'),
    ({f'rnn.{name}': w for name, w in without().items()}, 'has rnn.weight_ih_l0'),
    (without() | {'weight_hr_l0': draw(2, 4)}, 'weight_hr_l0 .* proj_size'),
    (without() | {'weight_hh_l0': draw(16)}, r'weight_hh_l0 .* \[4 \* H, H\] .* \[16\]'),
    (without() | {'weight_hh_l0': draw(12, 4)}, r'\[4 \* H, H\] .* \[12, 4\], which is of gru'),
    (without() | {'weight_ih_l0': draw(15, 3)}, r'weight_ih_l0 .* \[16, D\], not \[15, 3\]'),
    (without() | {'weight_ih_l0_reverse': draw(16, 2)}, r'\[16, 3\], not \[16, 2\]'),
    (without() | {'weight_ih_l1': draw(16, 4)}, r'weight_ih_l1 .* \[16, 8\], not \[16, 4\]'),
    (without() | {'bias_ih_l1': draw(4)}, r'bias_ih_l1 .* \[16\], not \[4\]'),
    (without() | {'bias_ih_l1': draw(16, 1)}, r'bias_ih_l1 .* \[16\], not \[16, 1\]'),
  ],
)
def test_what_is_no_lstm_is_refused(weights, said):
  with pytest.raises(ValueError, match=said):
    interop.import_module('lstm', weights)


LAYER = {'w_x': draw(3, 12), 'w_h': draw(4, 12), 'b': draw(12), 'b_hn': draw(4)}
BEFORE = {name: LAYER[name] for name in ('w_x', 'w_h', 'b')}


@pytest.mark.parametrize(
  ('layers', 'options', 'said'),
  [
    ([LAYER], {'reset': 'before'}, "PyTorch's GRU .* after .* Use a gru of reset='after'"),
    ([BEFORE], {}, "layer 0 has no b_hn, .* reset='after': GRUs that"),
    ([LAYER], {'bias': False}, 'layer 0 has a bias .* bias=True'),
    ([LAYER | {'b': draw(12) * 0}], {'bias': False}, 'layer 0 has a bias .* bias=True'),
    ([LAYER, LAYER], {}, r'weight_ih_l1 .* \[12, 4\], not \[12, 3\]'),
    ([(LAYER, LAYER | {'w_x': draw(2, 12)})], {}, r'weight_ih_l0_reverse .* \[12, 3\]'),
    ([(LAYER, LAYER), LAYER], {}, 'equally many directions'),
    ([], {}, 'one or more'),
    ([(LAYER, LAYER | {'w_h': draw(4, 4)})], {}, r'w_h of layer 0, reverse .* which is of elman'),
    ([LAYER | {'w_x': draw(12)}], {}, r'w_x of layer 0 .* \[D, 12\], not \[12\]'),
    ([LAYER | {'b_hn': draw(12)}], {}, r'b_hn of layer 0 .* \[4\], not \[12\]'),
    ([LAYER | {'b_n': draw(4)}], {}, 'layer 0 has b_n'),
  ],
)
def test_layers_that_no_gru_of_pytorch_is_are_refused(layers, options, said):
  with pytest.raises(ValueError, match=said):
    interop.export_module('gru', layers, **options)


def test_conversions_import_no_library_but_numpy():
  code = (
    'import sys; from rnnlab.interop import flax, haiku, torch;'
    " names = {name.partition('.')[0] for name in sys.modules};"
    " print(names & {'flax', 'haiku', 'jax', 'keras', 'torch'})"
  )
  done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
  assert done.stdout == 'set()\n', done.stdout + done.stderr


def test_other_cells_and_resets_are_refused_on_import():
  with pytest.raises(ValueError, match="'mgu'.*elman, lstm, gru"):
    interop.import_module('mgu', state_dict(LSTM))
  with pytest.raises(ValueError, match='different functions'):
    interop.import_module('gru', state_dict(LSTM), reset='before')
  with pytest.raises(ValueError, match="not 'later'"):
    interop.import_module('gru', state_dict(LSTM), reset='later')


if __name__ == '__main__' and sys.argv[1:] == ['--record']:
  np.savez_compressed(RECORDED, **{str(case): of_torch(case) for case in CASES})
