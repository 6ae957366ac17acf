"""rnnlab.interop.keras against live Keras on JAX, its files, and safetensors files."""

import functools
import itertools
import json
import os
import pathlib
import subprocess
import sys
import zipfile

import h5py
import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
import safetensors.numpy
from exchanges import damaged, damages
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose, assert_array_equal
from programs import ROOT

import rnnlab
from experiments import imdb as experiment
from rnnlab import cells, interop, recurrence
from rnnlab.data import imdb
from rnnlab.interop import files
from rnnlab.interop import keras as ik
from rnnlab.models import SequenceClassifier

BATCH, STEPS, INPUTS, HIDDEN = 4, 6, 3, 5
OPTIONS = {
  'elman': ('elman', {}),
  'lstm': ('lstm', {}),
  'gru-after': ('gru', {'reset': 'after'}),
  'gru-before': ('gru', {'reset': 'before'}),
}
MASKS = {
  'lengths': np.arange(STEPS) < np.array([[6], [3], [1], [0]]),
  'left-padding': np.arange(STEPS) >= np.array([[0], [3], [5], [6]]),
  'holes': np.array(
    [[1, 0, 1, 1, 0, 1], [0, 1, 1, 0, 1, 0], [1, 1, 1, 1, 1, 1], [0, 0, 1, 0, 0, 0]]
  ),
}
TFDS_ROOT = pathlib.Path(os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets').expanduser()
each_cell = pytest.mark.parametrize('name', list(OPTIONS))


def make(name, hidden_size=HIDDEN):
  cell, options = OPTIONS[name]
  return cells.get(cell, hidden_size=hidden_size, **options)


def keras_layer(name, units=HIDDEN, both=False, **options):
  if name.startswith('gru'):
    layer = keras.layers.GRU(units, reset_after=name == 'gru-after', **options)
  else:
    layer = {'elman': keras.layers.SimpleRNN, 'lstm': keras.layers.LSTM}[name](units, **options)
  return keras.layers.Bidirectional(layer) if both else layer


def normal(weights, seed=0):
  """Random weights, unlike those that a layer starts with, biases included."""
  rng = np.random.default_rng(seed)
  return [(0.6 * rng.normal(size=w.shape)).astype('float32') for w in weights]


def assert_same(actual, desired):
  """Equal trees of arrays, to the bit."""
  assert jax.tree.structure(actual) == jax.tree.structure(desired)
  for a, d in zip(jax.tree.leaves(actual), jax.tree.leaves(desired), strict=True):
    assert isinstance(a, np.ndarray) and a.dtype == d.dtype and a.shape == d.shape
    assert a.tobytes() == np.asarray(d).tobytes()


# Layers.


def combinations():
  """Cell x layers x directions x biases x mask or none: a quarter, with every pair of values."""
  for values in itertools.product(range(4), (1, 2), (False, True), (False, True), (False, True)):
    i, layers, both, bias, masked = values
    quick = (layers + both + masked) % 2 == 0 and (i + both + bias) % 2 == 0
    name = list(OPTIONS)[i]
    words = [name, f'{layers}-layers', 'both-ways' if both else 'forward']
    words += ['bias' if bias else 'no-bias', 'masked' if masked else 'no-mask']
    marks = () if quick else pytest.mark.slow
    yield pytest.param(name, *values[1:], id='-'.join(words), marks=marks)


@pytest.mark.parametrize(('name', 'layers', 'both', 'bias', 'masked'), list(combinations()))
def test_values_and_gradients_are_kerass(name, layers, both, bias, masked):
  cell, options = OPTIONS[name]
  theirs, sizes = [], [INPUTS, *[HIDDEN * (1 + both)] * (layers - 1)]
  for size in sizes:
    layer = keras_layer(name, both=both, use_bias=bias, return_sequences=True)
    if not both:
      layer.zero_output_for_mask = True
    layer.build((BATCH, STEPS, size))
    theirs.append(layer)
  weights = [normal(layer.get_weights(), seed) for seed, layer in enumerate(theirs)]
  params = [ik.import_layer(cell, w, **options) for w in weights]

  def run_theirs(weights, xs, mask):
    for layer, w in zip(theirs, weights, strict=True):
      states = [v.value for v in layer.non_trainable_variables]
      xs, _ = layer.stateless_call(w, states, xs, mask=mask)
    return xs

  def run_ours(params, xs, mask):
    return recurrence.stacked(make(name), params, xs, mask=mask)[1]

  @jax.jit
  def both_sides(params, weights, xs, d_ys, mask):
    found = []
    for run, p in (run_ours, params), (run_theirs, weights):
      ys, pull = jax.vjp(lambda p, xs, run=run: run(p, xs, mask), p, xs)
      found.append((ys, *pull(d_ys)))
    return found

  rng = np.random.default_rng(9)
  xs = rng.normal(size=(BATCH, STEPS, INPUTS)).astype('float32')
  d_ys = rng.normal(size=(BATCH, STEPS, HIDDEN * (1 + both))).astype('float32')
  for mask in MASKS.values() if masked else [None]:
    ours, expected = both_sides(params, weights, xs, d_ys, None if mask is None else mask > 0)
    ys, d_params, d_xs = ours
    assert_allclose(ys, expected[0], 1e-5, 1e-5)
    assert_allclose(d_xs, expected[2], 1e-5, 1e-5)
    for layer, desired in zip(d_params, expected[1], strict=True):
      actual = gradients_as_kerass(cell, layer, desired, options)
      for a, d in zip(actual, desired, strict=True):
        assert_allclose(a, d, 1e-5, 1e-5)


def gradients_as_kerass(cell, layer, desired, options):
  """Gradients by our parameters equal those by Keras's: a sum of biases has that of either one."""
  exported = ik.export_layer(cell, jax.tree.map(np.asarray, layer), **options)
  for i, w in enumerate(exported):
    if w.ndim == 2 and w.shape[0] == 2 and i % 3 == 2:
      w[1, : 2 * HIDDEN] = w[0, : 2 * HIDDEN]
  if len(desired) % 3:  # has no biases
    return [w for i, w in enumerate(exported) if i % 3 < 2]
  return exported


arrays = functools.partial(
  hnp.arrays, elements=st.floats(-1e3, 1e3, width=16).filter(lambda x: x != 0)
)


@st.composite
def keras_weights(draw):
  """A cell, its options, and the weights of a layer or of a bidirectional one."""
  cell, options = OPTIONS[draw(st.sampled_from(list(OPTIONS)))]
  inputs, hidden = draw(st.integers(1, 4)), draw(st.integers(1, 4))
  dtype = draw(st.sampled_from(['float16', 'float32', 'float64']))
  width = {'elman': 1, 'lstm': 4, 'gru': 3}[cell] * hidden
  bias = [(2, width) if options == {'reset': 'after'} else (width,)]
  shapes = [(inputs, width), (hidden, width), *draw(st.sampled_from([bias, []]))]
  weights = [draw(arrays(dtype, shape)) for shape in shapes * draw(st.integers(1, 2))]
  return cell, options, weights


@settings(max_examples=100, deadline=None)
@given(keras_weights())
def test_what_is_imported_comes_back(given):
  cell, options, weights = given
  biased = len(weights) % 3 == 0
  layer = ik.import_layer(cell, weights, **options)
  exported = ik.export_layer(cell, layer, **options, use_bias=biased)
  assert len(exported) == len(weights)
  for i, (w, back) in enumerate(zip(weights, exported, strict=True)):
    if biased and i % 3 == 2 and w.ndim == 2:  # two biases: their sum, and h's as they are
      of_h = slice(w.shape[1] // 3 * 2, None)
      sums = np.stack([w[0] + w[1], np.zeros_like(w[0])])
      sums[:, of_h] = w[:, of_h]
      w = sums
    assert_same(back, w)
  assert_same(ik.import_layer(cell, exported, **options), layer)


@pytest.mark.parametrize(
  ('cell', 'options', 'shapes', 'says'),
  [
    ('gru', {}, [(3, 12), (4, 12), (12,)], 'reset_after=False.*no weights make it.*before'),
    ('gru', {'reset': 'before'}, [(3, 12), (4, 12), (2, 12)], "reset_after=True.*reset='after'"),
    ('lstm', {}, [(3, 12), (4, 12), (12,)], r'\[H, 4 \* H\] .*not \[4, 12\], which is of gru'),
    ('lstm', {}, [(3, 12), (4, 16), (16,)], r'the kernel must be of shape \[D, 16\]'),
    ('lstm', {}, [(3, 16), (4, 16), (12,)], r'the bias must be of shape \[16\]'),
    ('lstm', {}, [(3, 16)] + [(4, 16)] * 3, r'the backward kernel must be of shape \[3, 16\]'),
    ('lstm', {}, [(3, 16)], '3 arrays of weights, 2 without biases'),
    ('gru', {'reset': 'never'}, [], "'before' or 'after'"),
    ('mgu', {}, [], "no conversion for the cell 'mgu'"),
  ],
)
def test_weights_of_no_such_layer_are_refused(cell, options, shapes, says):
  with pytest.raises(ValueError, match=f'(?s){says}'):
    ik.import_layer(cell, [np.zeros(shape) for shape in shapes], **options)


def test_a_layer_of_no_such_cell_is_refused():
  lstm = {'w_x': np.zeros((3, 16)), 'w_h': np.zeros((4, 16)), 'b': np.ones(16)}
  with pytest.raises(ValueError, match='biases that are not zero'):
    ik.export_layer('lstm', lstm, use_bias=False)
  with pytest.raises(ValueError, match='lacks b'):
    ik.export_layer('lstm', {'w_x': lstm['w_x'], 'w_h': lstm['w_h']})
  with pytest.raises(ValueError, match='no b_hn'):
    ik.export_layer('gru', {**lstm, 'w_x': np.zeros((3, 12)), 'w_h': np.zeros((4, 12))})
  with pytest.raises(ValueError, match='pair'):
    ik.export_layer('lstm', [lstm] * 3)
  with pytest.raises(ValueError, match='not a dict'):
    ik.import_layer('lstm', lstm)


# Classifiers.


def classifier(
  name,
  *,
  layers=1,
  both=False,
  mask=False,
  bias=True,
  units=1,
  activation='sigmoid',
  pooling='last',
):
  """The tutorial's Keras model, small."""
  sizes = [{'return_sequences': i < layers - 1 or pooling != 'last'} for i in range(layers)]
  pool = {'mean': keras.layers.GlobalAveragePooling1D, 'max': keras.layers.GlobalMaxPooling1D}
  model = keras.Sequential(
    [
      keras.Input((None,), dtype='int32'),
      keras.layers.Embedding(20, 6, mask_zero=mask),
      *[keras_layer(name, both=both, use_bias=bias, **size) for size in sizes],
      *([pool[pooling]()] if pooling in pool else []),
      keras.layers.Dense(units, activation=activation, use_bias=bias),
    ]
  )
  model.set_weights(normal(model.get_weights()))
  return model


IDS = np.random.default_rng(1).integers(1, 20, (8, 12)).astype('int32')
IDS[np.arange(12) < np.arange(8)[:, None]] = 0  # padded in front
IDS[5, 10:] = IDS[6, 8] = 0  # at the end, and in between


def kerass(model, ids=IDS):
  states = [v.value for v in model.non_trainable_variables]
  run = jax.jit(lambda weights, ids: model.stateless_call(weights, states, ids)[0])
  return np.asarray(run([v.value for v in model.trainable_variables], ids))


def ours(model, params, ids=IDS, activation='sigmoid'):
  logits = jax.jit(model.apply)({'params': params}, ids)
  if activation == 'softmax':
    return np.asarray(jax.nn.softmax(logits))
  return np.asarray(jax.nn.sigmoid(logits) if activation == 'sigmoid' else logits)[:, None]


def assert_equal_models(theirs, model, params, activation='sigmoid'):
  expected = kerass(theirs)
  assert np.ptp(expected) > 0.01  # says something
  assert_allclose(ours(model, params, activation=activation), expected, rtol=0, atol=1e-5)


SHAPES = {
  'tutorial': {},
  'masked': {'mask': True},
  'stacked': {'layers': 2},
  'both-ways': {'both': True},
  'all-of-it': {'layers': 2, 'both': True, 'mask': True},
  'no-bias': {'bias': False},
  'classes': {'units': 3, 'activation': 'softmax'},
  'logits': {'activation': None},
  'mean': {'pooling': 'mean', 'both': True},
  'masked-mean': {'pooling': 'mean', 'both': True, 'mask': True, 'layers': 2},
  'max': {'pooling': 'max'},
}
CLASSIFIERS = [
  *itertools.product(OPTIONS, ['tutorial', 'all-of-it']),
  *itertools.product(['lstm'], ['masked', 'stacked', 'both-ways', 'no-bias', 'classes', 'logits']),
  *itertools.product(['lstm'], ['mean', 'masked-mean', 'max']),
  ('gru-after', 'no-bias'),
]
QUICK_SHAPES = 'all-of-it', 'masked', 'no-bias', 'max'  # the last with a layer without weights


def classifier_of_rnnlab(name, shape, **fields):
  """rnnlab's counterpart of `classifier(name, **shape)`."""
  return SequenceClassifier(
    make(name),
    vocab_size=20,
    embed_size=6,
    layers=shape.get('layers', 1),
    bidirectional=shape.get('both', False),
    mask=shape.get('mask', False),
    pooling=shape.get('pooling', 'last'),
    classes=shape.get('units', 1),
    **fields,
  )


@pytest.mark.parametrize(
  ('name', 'shape'),
  [
    pytest.param(name, shape, marks=() if shape in QUICK_SHAPES else pytest.mark.slow)
    for name, shape in CLASSIFIERS
  ],
)
def test_a_classifier_of_keras_predicts_the_same(name, shape, tmp_path):
  shape = SHAPES[shape]
  theirs = classifier(name, **shape)
  activation = shape.get('activation', 'sigmoid')
  theirs.compile('adam', 'binary_crossentropy')  # which a file also holds
  theirs.save(tmp_path / 'theirs.keras')
  model, params = ik.load(tmp_path / 'theirs.keras')
  theirs.save(tmp_path / 'theirs.h5')
  older, older_params = ik.load(tmp_path / 'theirs.h5')
  assert older == model == classifier_of_rnnlab(name, shape)
  assert_same(older_params, params)
  expected = jax.eval_shape(model.init, jax.random.key(0), IDS)['params']
  assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, expected)
  assert_equal_models(theirs, model, params, activation)
  again = ik.import_classifier(theirs.get_config(), theirs.get_weights())
  assert again[0] == model
  assert_same(again[1], params)


@pytest.mark.parametrize(
  ('name', 'shape'),
  [
    pytest.param(name, shape, marks=() if shape in QUICK_SHAPES else pytest.mark.slow)
    for name, shape in CLASSIFIERS
    if shape not in ('no-bias', 'logits')
  ],
)
def test_a_classifier_of_rnnlab_predicts_the_same_in_keras(name, shape, tmp_path):
  shape = SHAPES[shape]
  model = classifier_of_rnnlab(
    name,
    shape,
    embed_dropout=0.1,
    dropout=0.2,
    recurrent_dropout=0.3,
    dropout_per_gate=name != 'elman',
    output_dropout=0.4,
  )
  shapes = jax.eval_shape(model.init, jax.random.key(0), IDS)['params']
  leaves, structure = jax.tree.flatten(shapes)
  params = structure.unflatten(normal(leaves, seed=3))
  ik.save(tmp_path / 'ours.keras', model, params)
  theirs = keras.saving.load_model(tmp_path / 'ours.keras')
  assert_equal_models(theirs, model, params, shape.get('activation', 'sigmoid'))
  config, weights = ik.export_classifier(model, params)
  rebuilt = keras.Sequential.from_config(config)
  rebuilt.set_weights(weights)
  assert_array_equal(kerass(rebuilt), kerass(theirs))
  for back in (
    ik.import_classifier(config, weights),
    ik.load(tmp_path / 'ours.keras'),
    ik.import_classifier(theirs.get_config(), theirs.get_weights()),
  ):
    assert back[0] == model
    assert_same(back[1], params)


def functional(mask=True, spoil=None):
  ids = keras.Input((None,), dtype='int32')
  xs = keras.layers.Embedding(20, 6, mask_zero=mask)(ids)
  xs = keras.layers.Dropout(0.25)(xs)
  xs = keras_layer('lstm', both=True, return_sequences=True)(xs)
  xs = keras_layer('lstm', both=True)(xs)
  if spoil:
    xs = spoil(ids, xs)
  model = keras.Model(ids, keras.layers.Dense(1, 'sigmoid')(xs))
  model.set_weights(normal(model.get_weights()))
  return model


@pytest.mark.parametrize('mask', [False, True])
def test_a_functional_model_is_imported_with_its_mask(mask, tmp_path):
  theirs = functional(mask)
  theirs.save(tmp_path / 'theirs.keras')
  model, params = ik.load(tmp_path / 'theirs.keras')
  assert (model.mask, model.embed_dropout, model.layers, model.bidirectional) == (
    mask,
    0.25,
    2,
    True,
  )
  assert_equal_models(theirs, model, params)
  assert_same(ik.import_classifier(theirs.get_config(), theirs.get_weights())[1], params)


class Subclassed(keras.Model):
  """A model written like the tutorial's."""

  def __init__(self):
    super().__init__()
    self.embedding = keras.layers.Embedding(20, 6)
    self.gru = keras_layer('gru-before', dropout=0.2, recurrent_dropout=0.2)
    self.head = keras.layers.Dense(1, activation='sigmoid')

  def call(self, ids):
    return self.head(self.gru(self.embedding(ids)))


def test_a_model_of_ones_own_class_is_imported_by_its_layers(tmp_path):
  theirs = Subclassed()
  theirs(IDS)
  theirs.set_weights(normal(theirs.get_weights()))
  told = [keras.saving.serialize_keras_object(layer) for layer in theirs.layers]
  model, params = ik.import_classifier(told, theirs.get_weights())
  assert (model.dropout, model.recurrent_dropout, model.dropout_per_gate) == (0.2, 0.2, True)
  assert_equal_models(theirs, model, params)
  theirs.save(tmp_path / 'theirs.keras')
  with pytest.raises(ValueError, match=r'class Subclassed.*serialize_keras_object\(layer\)'):
    ik.load(tmp_path / 'theirs.keras')
  with pytest.raises(ValueError, match='serialize_keras_object'):
    ik.import_classifier(theirs.get_config(), theirs.get_weights())


def told(**changes):
  """The config of two masked LSTM layers, with changes: `lstm__units=3` is one of the first's."""
  config = classifier('lstm', layers=2, mask=True).get_config()
  parts = dict(zip(('input', 'embedding', 'lstm', 'last', 'head'), config['layers'], strict=True))
  for name, value in changes.items():
    part, _, field = name.partition('__')
    if field in ('class_name', 'config', 'module', 'registered_name'):
      parts[part][field] = value
    else:
      parts[part]['config'][field] = value
  return config


@pytest.mark.parametrize(
  ('changes', 'says'),
  [
    ({'lstm__activation': 'relu'}, "activation='relu'.*'tanh'.*no weights make"),
    ({'lstm__recurrent_activation': 'hard_sigmoid'}, "recurrent_activation='hard_sigmoid'"),
    ({'last__go_backwards': True}, 'go_backwards=True.*only in bidirectional ones'),
    ({'last__stateful': True}, 'stateful=True.*starts each row from a zero state'),
    ({'last__return_state': True}, 'return_state=True'),
    ({'last__return_sequences': True}, 'return_sequences=True.*must be False'),
    ({'lstm__return_sequences': False}, 'return_sequences=False.*must be True'),
    ({'last__zero_output_for_mask': True}, 'zero_output_for_mask=True.*after padding'),
    ({'last__units': 9}, 'units=5 and .* units=9.*one by one, by import_layer'),
    ({'last__class_name': 'GRU'}, "kind='LSTM' and .* kind='GRU'"),
    ({'last__recurrent_dropout': 0.5}, 'recurrent_dropout=0.0 and .*0.5'),
    ({'last__class_name': 'ConvLSTM1D'}, 'Embedding -> LSTM -> ConvLSTM1D -> Dense; what can be'),
    ({'lstm__module': 'mine', 'lstm__registered_name': 'mine>LSTM'}, "of mine, not one of Keras's"),
    ({'lstm__dtype': {'config': {'name': 'mixed_bfloat16'}}}, 'mixed_bfloat16'),
    ({'head__dtype': 'float16'}, 'float16'),
    ({'head__activation': 'softmax'}, "Dense of 1 has activation='softmax'.*sigmoid"),
    ({'lstm__time_major': True}, 'time_major=True.*rows first'),
    ({'head__units': 2}, "Dense of 2 has activation='sigmoid'.*softmax"),
    ({'embedding__input_dim': 21}, r'Embedding.*\[21, 6\], not \[20, 6\]'),
    ({'head__use_bias': False}, 'has 8 arrays, not 9'),
    ({'lstm__config': None}, 'not one written by Keras 3'),
  ],
  ids=lambda value: None if isinstance(value, dict) else value[:30],
)
def test_a_classifier_that_rnnlab_has_not_is_refused(changes, says):
  weights = classifier('lstm', layers=2, mask=True).get_weights()
  ik.import_classifier(told(), weights)
  with pytest.raises(ValueError, match=f'(?s){says}'):
    ik.import_classifier(told(**changes), weights)


def test_a_bidirectional_that_rnnlab_has_not_is_refused():
  def changed(change):
    config = classifier('lstm', both=True).get_config()
    change(config['layers'][2]['config'])
    return config

  for change, says in (
    (lambda c: c.update(merge_mode='sum'), "merge_mode='sum'"),
    (lambda c: c['backward_layer']['config'].update(activation='relu'), "backward.*'relu'"),
    (lambda c: c['backward_layer']['config'].update(units=4), 'units=5 and .* units=4'),
    (lambda c: c['layer']['config'].update(go_backwards=True), 'forward.*go_backwards=True'),
    (lambda c: c['layer'].update(class_name='ConvLSTM1D'), 'of ConvLSTM1D'),
  ):
    with pytest.raises(ValueError, match=says):
      ik.import_classifier(changed(change), [])


def test_a_functional_model_that_is_no_line_is_refused():
  lstm = keras_layer('lstm', units=10)
  dropout = keras.layers.Dropout(0.5)

  def masked(ids, xs):
    return lstm(keras.layers.Embedding(20, 6)(ids), mask=keras.ops.not_equal(ids, 0))

  for spoil, says in (
    (
      lambda ids, xs: keras.layers.Add()([xs, lstm(keras.layers.Embedding(20, 6)(ids))]),
      'a chain of layers',
    ),
    (lambda ids, xs: keras.layers.Dropout(0.5)(xs, training=True), 'called with training=True'),
    (lambda ids, xs: dropout(dropout(xs)), 'is used 2 times'),
    (masked, "a mask without the Embedding's mask_zero=True"),
  ):
    theirs = functional(spoil=spoil)
    with pytest.raises(ValueError, match=says):
      ik.import_classifier(theirs.get_config(), theirs.get_weights())


def small(**fields):
  """A model, and params of it."""
  fields = {'vocab_size': 20, 'embed_size': 6} | fields
  model = SequenceClassifier(fields.pop('cell', make('gru-after')), **fields)
  return model, jax.tree.map(np.asarray, model.init(jax.random.key(0), IDS)['params'])


def test_a_classifier_that_keras_has_not_is_refused():
  def step(params, carry, x_t, dot):
    return carry, carry

  model, params = small()
  for changes, says in (
    ({'pooling': 'concat'}, "pooling='concat', for which Keras has no layer"),
    ({'pooling': 'max', 'mask': True}, 'with a mask, no weights make'),
    ({'precision': 'bfloat16'}, "precision='bfloat16'"),
    ({'steps': True}, 'one answer per row'),
    ({'cell': make('gru-after')._replace(step=step)}, 'has none in Keras; elman, lstm, gru'),
    ({'cell': rnnlab.elman(5, activation='relu')}, 'elman.* is rectified'),
    ({'cell': cells.get('irnn', hidden_size=5)}, 'irnn.* is rectified'),
    ({'cell': make('lstm')}, 'has b_hn'),
    ({'cell': make('gru-before')}, "of a gru of reset='after'"),
    ({'layers': 2}, 'lacks Recurrent_1'),
    ({'bidirectional': True}, 'lacks cell_backward'),
    ({'classes': 3}, r'Dense_0/kernel must be of shape \[5, 3\]'),
    ({'vocab_size': 7}, r'Embed_0/embedding must be of shape \[7, 6\]'),
  ):
    with pytest.raises(ValueError, match=says):
      ik.export_classifier(model.clone(**changes), params)


# Files.


def test_a_file_for_keras_is_called_keras(tmp_path):
  with pytest.raises(ValueError, match='.keras, unlike .*model.h5'):
    ik.save(tmp_path / 'model.h5', *small())
  assert not list(tmp_path.iterdir())


@pytest.fixture(scope='module')
def file_of_keras(tmp_path_factory):
  """The content of a .keras file, and what is in it."""
  path = tmp_path_factory.mktemp('files') / 'theirs.keras'
  classifier('gru-after').save(path)
  return path.read_bytes(), ik.load(path)


@settings(max_examples=200, deadline=None)
@given(damage=damages)
def test_a_damaged_file_of_keras_is_said_to_be_or_is_read_right(
  file_of_keras, damage, tmp_path_factory
):
  content, (model, params) = file_of_keras
  path = tmp_path_factory.getbasetemp() / 'damaged.keras'
  path.write_bytes(damaged(content, damage))
  try:
    found = ik.load(path)
  except ValueError as error:
    assert str(path) in str(error)
  else:
    assert found[0] == model
    assert_same(found[1], params)


@settings(max_examples=200, deadline=None)
@given(damage=damages)
def test_a_damaged_h5_file_is_refused_in_words_or_read(damage, tmp_path_factory):
  # HDF5 has no digests: changed numbers cannot be detected.
  base = tmp_path_factory.getbasetemp()
  if not (base / 'whole.h5').exists():
    classifier('gru-after').save(base / 'whole.h5')
  path = base / 'damaged.h5'
  path.write_bytes(damaged((base / 'whole.h5').read_bytes(), damage))
  try:
    ik.load(path)
  except ValueError as error:
    assert 0 < len(str(error)) < 1000


def test_an_h5_file_whose_strings_have_no_end_is_refused(tmp_path):
  """HDF5 itself loops forever on such a file: a free object of size 0 is followed by itself."""
  path = tmp_path / 'model.h5'
  classifier('lstm').save(path)
  content = path.read_bytes()
  objects = [content.index(b'GCOL') + 16]
  while content[objects[-1]]:  # its number: that of the last one, the free space, is 0
    size = int.from_bytes(content[objects[-1] + 8 : objects[-1] + 16], 'little')
    objects.append(objects[-1] + 16 + -(-size // 8) * 8)
  for at in (objects[1], objects[-2], objects[-1]):
    path.write_bytes(content[:at] + bytes(16) + content[at + 16 :])
    with pytest.raises(ValueError, match='model.h5 is damaged.* a heap of strings in it is broken'):
      ik.load(path)


def test_an_h5_file_whose_names_are_not_strings_is_refused(tmp_path):
  """HDF5 itself ends the process when it reads such an attribute."""
  path = tmp_path / 'model.h5'
  classifier('lstm').save(path)
  content = path.read_bytes()
  of_type = content.index(b'weight_names') + 16
  assert content[of_type : of_type + 2] == b'\x19\x01'  # variable length, of characters
  path.write_bytes(content[: of_type + 1] + b'\xe4' + content[of_type + 2 :])
  with pytest.raises(ValueError, match='model.h5 is damaged: weight_names is not of strings'):
    ik.load(path)


def test_an_h5_file_of_keras_2_is_read(tmp_path):
  """Its config has no modules and different inputs; its names of weights end in :0."""
  theirs = classifier('lstm', both=True)
  theirs.save(tmp_path / 'theirs.h5')
  with h5py.File(tmp_path / 'theirs.h5', 'r+') as file:
    config = json.loads(file.attrs['model_config'])
    for layer in config['config']['layers']:
      layer.pop('module', None)
      layer['config']['dtype'] = 'float32'
    config['config']['layers'][0]['config'] = {'batch_input_shape': [None, None], 'dtype': 'int32'}
    config['config']['layers'][2]['config']['layer']['config']['dtype'] = 'float32'
    config['config']['layers'][2]['config']['layer']['config']['time_major'] = False
    del config['config']['layers'][2]['config']['backward_layer']
    file.attrs['model_config'] = json.dumps(config)
    file.attrs['keras_version'] = '2.15.0'
    for group in file['model_weights'].values():
      if names := [name for name in group.attrs.get('weight_names', [])]:
        for name in names:
          group.move(name, f'{name}:0')
        group.attrs['weight_names'] = [f'{name}:0' for name in names]
  assert_equal_models(theirs, *ik.load(tmp_path / 'theirs.h5'))


def test_weights_alone_are_said_to_be(tmp_path):
  theirs = classifier('lstm')
  theirs.save_weights(tmp_path / 'theirs.weights.h5')
  with pytest.raises(ValueError, match='theirs.weights.h5 has only weights.*get_weights'):
    ik.load(tmp_path / 'theirs.weights.h5')


def test_a_file_that_is_of_another_kind_is_said_to_be(tmp_path, file_of_keras):
  with pytest.raises(FileNotFoundError):
    ik.load(tmp_path / 'none.keras')
  path = tmp_path / 'other.keras'
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('config.json', json.dumps({'class_name': 'Sequential', 'config': {}}))
  with pytest.raises(ValueError, match='other.keras is damaged, or not a .keras file'):
    ik.load(path)
  with zipfile.ZipFile(path, 'w') as archive:
    config = classifier('lstm').get_config()
    archive.writestr('config.json', json.dumps({'class_name': 'Sequential', 'config': config}))
    archive.writestr('model.weights.h5', b'not this')
  with pytest.raises(ValueError, match='other.keras: its model.weights.h5 is damaged'):
    ik.load(path)


letters = st.characters(exclude_characters='/', exclude_categories=['Cs'])
names = st.text(letters, min_size=1).filter(lambda name: name != '__metadata__')  # safetensors' own
leaves = hnp.arrays(
  st.sampled_from(['bool', 'int8', 'uint16', 'int64', 'float16', 'float32', 'float64']),
  hnp.array_shapes(min_dims=0, max_dims=3, min_side=0),
)
trees = st.recursive(leaves, lambda inner: st.dictionaries(names, inner, min_size=1, max_size=3))


@settings(max_examples=50, deadline=None)
@given(tree=st.dictionaries(names, trees, max_size=3), fortran=st.booleans())
def test_a_tree_comes_back_from_its_file(tree, fortran, tmp_path_factory):
  path = tmp_path_factory.getbasetemp() / 'tree.safetensors'
  files.save(path, jax.tree.map(lambda a: np.array(a, order='F' if fortran else 'C'), tree))
  assert_same(files.load(path), tree)


def test_params_in_a_file_have_readable_names_and_are_safetensors(tmp_path):
  _, params = small(bidirectional=True)
  path = tmp_path / 'params.safetensors'
  files.save(path, jax.tree.map(jnp.asarray, params))
  found = safetensors.numpy.load_file(path)
  assert sorted(found) == [
    'Dense_0/bias',
    'Dense_0/kernel',
    'Embed_0/embedding',
    *(
      f'Recurrent_0/{d}/{w}' for d in ('cell', 'cell_backward') for w in ('b', 'b_hn', 'w_h', 'w_x')
    ),
  ]
  assert_array_equal(found['Recurrent_0/cell/w_h'], params['Recurrent_0']['cell']['w_h'])
  assert_same(files.load(path), params)


@pytest.mark.parametrize('name', ['params.safetensors', 'model.keras'])
def test_a_file_is_written_whole_or_not_at_all(name, tmp_path, monkeypatch):
  def write(path, model, params):
    if path.suffix == '.keras':
      ik.save(path, model, params)
    else:
      files.save(path, params)

  path = tmp_path / name
  write(path, *small())
  before = path.read_bytes()

  def full(descriptor):
    raise OSError('No space left on device')

  monkeypatch.setattr(os, 'fsync', full)
  with pytest.raises(OSError, match='No space'):
    write(path, *small(vocab_size=30))
  assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
  ('tree', 'says'),
  [
    ({'a': {'b/c': np.zeros(1)}}, "a/'b/c' is not a name"),
    ({'': np.zeros(1)}, 'is not a name'),
    ({'__metadata__': np.zeros(1)}, '__metadata__ is not a name'),
    ({0: np.zeros(1)}, '0 is not a name'),
    ({'a': {'b': {}}}, 'a/b is an empty dict'),
    ({'a': 'text'}, 'a is of type <U4'),
    ({'a': (np.zeros(2), np.zeros(2))}, 'a is not one array but a tuple'),
    ({'a': jnp.zeros(2, jnp.bfloat16)}, 'a is of type bfloat16: cast it, for example to float32'),
    ([np.zeros(1)], 'not a list'),
  ],
)
def test_a_tree_that_would_not_come_back_is_refused(tree, says, tmp_path):
  with pytest.raises(ValueError, match=says):
    files.save(tmp_path / 'tree.safetensors', tree)
  assert not list(tmp_path.iterdir())


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_safetensors_file_that_was_cut_is_said_to_be_damaged(data, tmp_path_factory):
  path = tmp_path_factory.getbasetemp() / 'cut.safetensors'
  files.save(path, {'cell': {'w_h': np.ones((4, 12)), 'b': np.arange(12)}})
  content = path.read_bytes()
  path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
  with pytest.raises(ValueError, match='cut.safetensors is damaged, or not a safetensors file'):
    files.load(path)


@settings(max_examples=200, deadline=None)
@given(damage=damages)
def test_a_damaged_safetensors_file_is_refused_in_words_or_read(damage, tmp_path_factory):
  # It has no digests: changed numbers cannot be detected.
  path = tmp_path_factory.getbasetemp() / 'damaged.safetensors'
  files.save(path, {'cell': {'w_h': np.ones((4, 12)), 'b': np.arange(12)}})
  path.write_bytes(damaged(path.read_bytes(), damage))
  try:
    found = files.load(path)
  except ValueError as error:
    assert str(path) in str(error)
  else:
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(found))


def test_a_safetensors_file_of_others_is_read_or_refused(tmp_path):
  path = tmp_path / 'theirs.safetensors'
  with pytest.raises(FileNotFoundError):
    files.load(path)
  arrays = {'lstm.weight': np.ones((2, 3)), 'head/b': np.arange(2)}
  path.write_bytes(safetensors.numpy.save(arrays, metadata={'made': 'elsewhere'}))
  assert_same(files.load(path), {'head': {'b': np.arange(2)}, 'lstm.weight': np.ones((2, 3))})
  path.write_bytes(safetensors.numpy.save({'a': np.ones(1), 'a/b': np.ones(1)}))
  with pytest.raises(ValueError, match="'a/b'"):
    files.load(path)
  header = b'{"a":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'
  path.write_bytes(len(header).to_bytes(8, 'little') + header + b'\0\0')
  with pytest.raises(ValueError, match="type 'BF16', which NumPy lacks"):
    files.load(path)


def test_importing_interop_imports_no_library():
  code = """
import sys, rnnlab.interop
assert not {'jax', 'numpy', 'h5py', 'safetensors'} & set(sys.modules)
from rnnlab.interop import files, flax, haiku, keras, torch
assert not {'keras', 'tensorflow', 'torch', 'haiku'} & set(sys.modules)
assert rnnlab.interop.keras is keras
"""
  done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  with pytest.raises(AttributeError, match='tensorflow'):
    interop.tensorflow  # noqa: B018


# The tutorial's model.


@pytest.fixture(scope='module')
def tutorial(tmp_path_factory):
  """The tutorial's config for one epoch, and its data: the official reviews."""
  if not list(TFDS_ROOT.glob('imdb_reviews/plain_text/*/dataset_info.json')):
    pytest.skip(f'TFDS has no imdb_reviews prepared in {TFDS_ROOT}')
  config = experiment.get_config('tutorial')
  config.data.source, config.data.dir = 'tfds', str(TFDS_ROOT)
  config.train.epochs = 1
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
    yield config, imdb.load(config.data)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['lstm', 'gru-after', 'gru-before'])
def test_the_tutorials_model_trained_in_keras_predicts_the_same(name, tutorial, tmp_path):
  _, data = tutorial
  theirs = keras.Sequential(
    [
      keras.Input((200,), dtype='int32'),
      keras.layers.Embedding(10_000, 128),
      keras_layer(name, 64, dropout=0.2, recurrent_dropout=0.2),
      keras.layers.Dense(1, activation='sigmoid'),
    ]
  )
  theirs.compile('adam', 'binary_crossentropy', metrics=['accuracy'])
  theirs.fit(data.train.ids, data.train.labels, batch_size=32, epochs=1, verbose=0)
  expected = theirs.predict(data.test.ids, batch_size=500, verbose=0)
  assert ((expected[:, 0] > 0.5) == data.test.labels).mean() > 0.7
  theirs.save(tmp_path / 'theirs.keras')
  model, params = ik.load(tmp_path / 'theirs.keras')
  assert (model.dropout, model.recurrent_dropout, model.dropout_per_gate) == (0.2, 0.2, True)
  batches = [ours(model, params, ids) for ids in np.split(data.test.ids, 50)]
  difference = np.abs(np.concatenate(batches) - expected)
  print(f'{name}, Keras to rnnlab: {difference.max():.2e} of {len(difference):,} at most')
  assert difference.shape == (25_000, 1) and difference.max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize('name', ['lstm', 'gru-after', 'gru-before'])
def test_the_tutorials_model_trained_here_predicts_the_same_in_keras(name, tutorial, tmp_path):
  config, data = tutorial
  config.model.cell, options = OPTIONS[name]
  config.model.gru.reset = options.get('reset', 'after')
  done = rnnlab.run(config)
  assert done.result['final']['test_accuracy'] > 0.7
  ik.save(tmp_path / 'ours.keras', done.model, done.params)
  theirs = keras.saving.load_model(tmp_path / 'ours.keras')
  probabilities = theirs.predict(data.test.ids, batch_size=500, verbose=0)[:, 0]
  difference = np.abs(probabilities - jax.nn.sigmoid(done.predictions['final']))
  print(f'{name}, rnnlab to Keras: {difference.max():.2e} of {len(difference):,} at most')
  assert difference.shape == (25_000,) and difference.max() < 1e-5
