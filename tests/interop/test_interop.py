"""Things that are not weights at all, given to each of interop's conversions."""

import copy

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnlab.interop import flax, haiku, keras, torch

D, H = 3, 2


def layer(gates):
  return {
    'w_x': np.ones((D, gates * H), 'float32'),
    'w_h': np.ones((H, gates * H), 'float32'),
    'b': np.ones(gates * H, 'float32'),
  }


LSTM = layer(4)
GRU = layer(3) | {'b_hn': np.ones(H, 'float32')}
# Each conversion, and arguments for it.
CONVERSIONS = {
  'keras layer': (lambda w: keras.import_layer('lstm', w), list(LSTM.values())),
  'keras pair': (lambda w: keras.import_layer('lstm', w), list(LSTM.values()) * 2),
  'torch module': (
    lambda w: torch.import_module('gru', w),
    torch.export_module('gru', [GRU, GRU | {'w_x': np.ones((H, 3 * H), 'float32')}]),
  ),
  'flax layer': (lambda w: flax.import_layer('gru', w), flax.export_layer('gru', GRU)),
  'haiku layer': (lambda w: haiku.import_layer('lstm', w), haiku.export_layer('lstm', LSTM)),
  'to keras': (lambda p: keras.export_layer('gru', p), GRU),
  'to torch': (lambda p: torch.export_module('lstm', p), [LSTM]),
  'to flax': (lambda p: flax.export_layer('lstm', p), (LSTM, LSTM)),
  'to haiku': (lambda p: haiku.export_layer('lstm', p), LSTM),
}


class Tensor:
  """Like PyTorch's tensors in bfloat16, on a GPU, or with gradients."""

  dtype = 'torch.bfloat16'

  def __array__(self, *args, **kwargs):
    raise TypeError('Got unsupported ScalarType BFloat16\nand more')


SPOILT = {
  'none': lambda w: None,
  'text': lambda w: 'weights',
  'number': lambda w: 3.0,
  'integers': lambda w: np.ones(w.shape, int),
  'complex': lambda w: w * 1j,
  'objects': lambda w: w.astype(object),
  'ragged': lambda w: [[1.0], [1.0, 2.0]],
  'tensor': lambda w: Tensor(),
  'transposed': lambda w: w.T,
  'deeper': lambda w: w[None],
  'flat': np.ravel,
  'empty': lambda w: w[:0],
  'first': lambda w: w[0],
  'wider': lambda w: np.concatenate([w, w], axis=-1),
  'dict': lambda w: {'kernel': w},
}


def places(tree, above=()):
  items = tree.items() if isinstance(tree, dict) else enumerate(tree)
  for name, inner in items:
    yield (*above, name)
    if not isinstance(inner, np.ndarray):
      yield from places(inner, (*above, name))


@settings(max_examples=300, deadline=None)
@given(
  name=st.sampled_from(sorted(CONVERSIONS)), kind=st.sampled_from(sorted(SPOILT)), data=st.data()
)
def test_what_is_no_weights_is_refused_in_words(name, kind, data):
  convert, tree = CONVERSIONS[name]
  tree = list(tree) if isinstance(tree, tuple) else tree
  *above, last = data.draw(st.sampled_from(list(places(tree))))
  spoilt = inner = copy.deepcopy(tree)
  for part in above:
    inner = inner[part]
  whole = inner[last]
  what = whole if isinstance(whole, np.ndarray) else np.ones((D, H))
  inner[last] = SPOILT[kind](what)
  try:
    convert(spoilt)
  except ValueError as error:
    assert 0 < len(str(error)) < 1000
  else:
    # D is not given anywhere: another number of rows, or of columns in PyTorch, may be right.
    of_inputs = (name, last) == ('torch module', 'weight_ih_l0')
    assert kind in ('transposed', 'flat', 'empty') or (kind == 'wider' and of_inputs), kind


@pytest.mark.parametrize('name', sorted(CONVERSIONS))
def test_tensors_that_numpy_cannot_take_say_what_to_do(name):
  convert, tree = CONVERSIONS[name]

  def tensors(tree):
    if isinstance(tree, np.ndarray):
      return Tensor()
    if isinstance(tree, dict):
      return {name: tensors(inner) for name, inner in tree.items()}
    return type(tree)(map(tensors, tree))

  with pytest.raises(ValueError, match=r'BFloat16.*tensor.detach\(\).cpu\(\).float\(\)'):
    convert(tensors(tree))


def test_bfloat16_of_jax_is_taken():
  weights = [jnp.asarray(w, jnp.bfloat16) for w in LSTM.values()]
  assert keras.import_layer('lstm', weights)['w_h'].dtype == jnp.bfloat16


@pytest.mark.parametrize(
  'layers', [None, 'weights', 3.0, LSTM, [None], [3.0], [(LSTM, LSTM, LSTM)]]
)
def test_what_is_no_list_of_layers_is_refused_in_words(layers):
  with pytest.raises(ValueError, match='must be a (list of layers|dict of arrays)'):
    torch.export_module('lstm', layers)
