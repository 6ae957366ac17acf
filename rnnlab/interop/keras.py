"""Keras 3's recurrent layers, and whole classifiers made of them: weights to and from rnnlab's.

Keras is not imported. Weights are the list of arrays that `get_weights()` gives and `set_weights`
takes; a model is its config (see `keras_config`); a .keras file is a zip of both, and an .h5 file
is an HDF5 file of both.

    layer                   rnnlab                gates          bias
    SimpleRNN               elman                 one            [H]
    LSTM                    lstm                  i, f, c, o     [4H]
    GRU                     gru, reset='after'    z, r, h        [2, 3H]: of inputs, of states
    GRU(reset_after=False)  gru, reset='before'   z, r, h        [3H]
    Bidirectional           a pair of layers      its forward layer's arrays, then the backward's

Keras's gate c is rnnlab's g, and its h is n. Of GRU's two biases only the sum matters, except in
h: an import adds them up, and an export puts the sum into the bias of the inputs and zeros into
that of the states. Everything else is the same to the bit after an import and an export, or the
reverse. A layer without biases is imported with biases of zero.
"""

import datetime
import io
import itertools
import json
import os
import pathlib
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike

from rnnlab.interop import hdf5, keras_config, layers
from rnnlab.machine import disk
from rnnlab.models import SequenceClassifier

DIRECTIONS = 'cell', 'cell_backward'  # the names of a layer's parameters in a SequenceClassifier
HDF5 = b'\x89HDF\r\n\x1a\n'  # the first bytes of an HDF5 file
CONFIG, METADATA, WEIGHTS = 'config.json', 'metadata.json', 'model.weights.h5'  # in a .keras file


def import_layer(cell: str, weights: Sequence[ArrayLike], *, reset: str = 'after') -> layers.Layer:
  """Converts a Keras layer's weights to the parameters of a layer of rnnlab.

  The layer must have Keras's default activations, since the weights do not tell which it has.

  cell: 'elman', 'lstm' or 'gru'.
  weights: `layer.get_weights()`, with or without biases, of floats.
  reset: of a gru, 'after', or 'before' where Keras's layer has reset_after=False.

  Returns w_x `[D, G * H]`, w_h `[H, G * H]`, b `[G * H]` and, for a gru that resets after, b_hn
  `[H]`; for the weights of a Bidirectional layer a pair of such dicts, (forward, backward). Raises
  ValueError for weights that are not those of such a layer, such as a GRU's of the other `reset`.

  >>> weights = [np.ones((3, 16)), np.ones((4, 16)), np.zeros(16)]
  >>> {name: w.shape for name, w in import_layer('lstm', weights).items()}
  {'w_x': (3, 16), 'w_h': (4, 16), 'b': (16,)}
  """
  layers.check_cell(cell, reset, reset, 'Keras')
  if not isinstance(weights, list | tuple):
    raise ValueError(
      f'weights must be the list of arrays that get_weights() gives, not a {type(weights).__name__}'
    )
  arrays = [layers.as_array(f'array {i} of the weights', w) for i, w in enumerate(weights)]
  if len(arrays) in (2, 3):
    return _import(cell, reset, arrays)
  if len(arrays) in (4, 6):
    half = len(arrays) // 2
    forward = _import(cell, reset, arrays[:half], 'the forward')
    backward = _import(cell, reset, arrays[half:], 'the backward')
    layers.check_shape('the backward kernel', backward['w_x'], forward['w_x'].shape)
    return forward, backward
  raise ValueError(
    f'a layer has 3 arrays of weights, 2 without biases, a Bidirectional twice as many; here are'
    f' {len(arrays)}'
  )


def export_layer(
  cell: str, layer: layers.AnyLayer, *, reset: str = 'after', use_bias: bool = True
) -> list[np.ndarray]:
  """Converts the parameters of a layer of rnnlab to the arguments of Keras's `layer.set_weights`.

  cell: 'elman', 'lstm' or 'gru'.
  layer: the parameters, or a pair (forward, backward) of them for a Bidirectional layer.
  reset: of a gru, 'after', or 'before' where Keras's layer has reset_after=False.
  use_bias: the Keras layer's use_bias.

  Raises ValueError if use_bias is False and a bias is not zero, and for a layer whose names and
  shapes are not those of `cell`.

  >>> layer = {'w_x': np.ones((3, 12)), 'w_h': np.ones((4, 12)), 'b': np.zeros(12)}
  >>> [w.shape for w in export_layer('gru', layer, reset='before')]
  [(3, 12), (4, 12), (12,)]
  """
  layers.check_cell(cell, reset, reset, 'Keras')
  if isinstance(layer, Mapping):
    return _export(cell, layers.read(cell, reset, layer), use_bias)
  layers.check_pair('the layer', layer)
  names = 'the forward layer', 'the backward layer'
  both = [layers.read(cell, reset, p, name) for p, name in zip(layer, names, strict=True)]
  return [w for p in both for w in _export(cell, p, use_bias)]


def _import(cell, reset, arrays, of='the'):
  kernel, recurrent, *bias = arrays
  hidden = layers.check_recurrent(f'{of} recurrent kernel', cell, recurrent, axis=1)
  width, why = recurrent.shape[1], f', as H is {hidden}'
  layers.check_shape(f'{of} kernel', kernel, ('D', width), why)
  p = {'w_x': kernel, 'w_h': recurrent}
  if cell != 'gru':
    p['b'] = bias[0] if bias else np.zeros(width, kernel.dtype)
    layers.check_shape(f'{of} bias', p['b'], (width,), why)
    return p
  after = reset == 'after'
  shape = (2, width) if after else (width,)
  b = bias[0] if bias else np.zeros(shape, kernel.dtype)
  if b.shape == ((width,) if after else (2, width)):
    raise ValueError(
      f'{of} bias is of shape {list(b.shape)}, that of GRU(reset_after={not after}), which applies'
      f' the reset gate {"before" if after else "after"} the product of state and weights: no'
      f' weights make it compute the same as a gru of reset={reset!r}. Import it with reset='
      f"'{'before' if after else 'after'}'"
    )
  layers.check_shape(f'{of} bias', b, shape, why)
  if after:
    of_state = b[1].copy()
    p['b_hn'] = of_state[2 * hidden :].copy()
    of_state[2 * hidden :] = 0
    b = b[0] + of_state
  swapped = {name: _swap(w) for name, w in {**p, 'b': b}.items() if name != 'b_hn'}
  return p | swapped


def _export(cell, p, use_bias):
  if cell == 'gru':
    p = {name: w if name == 'b_hn' else _swap(w) for name, w in p.items()}
  bias = p['b']
  if 'b_hn' in p:
    zeros = np.zeros(2 * len(p['b_hn']), bias.dtype)
    bias = np.stack([bias, np.concatenate([zeros, p['b_hn']])])
  if use_bias:
    return [p['w_x'], p['w_h'], bias]
  if bias.any():
    raise ValueError(
      'the layer has biases that are not zero, and a Keras layer with use_bias=False has no place'
      ' for them: build it with use_bias=True'
    )
  return [p['w_x'], p['w_h']]


def _swap(w):
  """The columns of Keras's gates z, r, h from those of r, z, n, or the other way round."""
  first, second, last = np.split(w, 3, axis=-1)
  return np.concatenate([second, first, last], axis=-1)


def import_classifier(
  config: Mapping | Sequence[Mapping], weights: Sequence[ArrayLike]
) -> tuple[SequenceClassifier, dict[str, Any]]:
  """Converts a whole Keras classifier to a `SequenceClassifier` and its params.

  The Keras model must be an Embedding; layers of SimpleRNN, LSTM or GRU, all of one kind and size,
  or Bidirectional layers of these; and a Dense. The Dense has one unit, with a sigmoid or without
  an activation, or one unit for each class, with a softmax or without. After the last recurrent
  layer there may be a GlobalAveragePooling1D or, if there is no mask, a GlobalMaxPooling1D; there
  may be a Dropout after the Embedding and one before the Dense. The sigmoid or softmax of
  the logits of the SequenceClassifier is what the Keras model predicts. Dropout rates are kept;
  whatever else matters only in training, such as initialisers and regularisers, is not.

  config: `model.get_config()` of a Sequential or a functional model. For a model of your own class,
    the list `[keras.saving.serialize_keras_object(layer) for layer in model.layers]`, in the order
    in which the model applies the layers.
  weights: `model.get_weights()`.

  Raises ValueError, with the reason, for a model with other parts, for activations, states or
  directions that rnnlab does not have, and for weights whose shapes are not those of the config.

  >>> parts = [
  ...   ('Embedding', {'input_dim': 9, 'output_dim': 3, 'mask_zero': True}),
  ...   ('LSTM', {'units': 4, 'dropout': 0.2}),
  ...   ('Dense', {'units': 1, 'activation': 'sigmoid'}),
  ... ]
  >>> config = [{'class_name': name, 'config': config} for name, config in parts]
  >>> weights = [np.ones(shape) for shape in ((9, 3), (3, 16), (4, 16), 16, (4, 1), 1)]
  >>> model, params = import_classifier(config, weights)
  >>> model.mask, model.dropout, params['Recurrent_0']['cell']['w_h'].shape
  (True, 0.2, (4, 16))
  """
  return _import_classifier(keras_config.parse(config), weights)


def export_classifier(
  model: SequenceClassifier, params: Mapping[str, Any]
) -> tuple[dict[str, Any], list[np.ndarray]]:
  """Converts a classifier and its params to the config and the weights of a Keras model.

  Give the first to `keras.Sequential.from_config`, and the second to `set_weights` of the result.
  The Keras model predicts probabilities of one class per row; make its Dense's activation 'sigmoid'
  for several labels, 'linear' for numbers, which stay standardised. With recurrent_dropout, Keras
  has a mask per gate, as rnnlab with dropout_per_gate. It has no remat and truncate.

  model: a classifier of an elman, lstm or gru cell.
  params: its params, float32.

  Raises ValueError for a cell that Keras does not have, for pooling='concat', for pooling='max'
  with a mask, for a precision other than 'float32', for a model of series or with an answer at
  each step, and for params that are not the model's.

  >>> import jax
  >>> cell = rnnlab.cells.get('lstm', hidden_size=4)
  >>> model = SequenceClassifier(cell, vocab_size=9, embed_size=3)
  >>> params = model.init(jax.random.key(0), np.ones((1, 5), np.int32))['params']
  >>> config, weights = export_classifier(model, params)
  >>> [layer['class_name'] for layer in config['layers']], [w.shape for w in weights]
  (['InputLayer', 'Embedding', 'LSTM', 'Dense'], [(9, 3), (3, 16), (4, 16), (16,), (4, 1), (1,)])
  """
  cell, reset = keras_config.cell_of(model.cell)
  if model.precision != 'float32':
    raise ValueError(
      f"the model has precision={model.precision!r}, not 'float32': Keras's bfloat16 rounds"
      ' differently. Export with float32'
    )
  if model.vocab_size is None or model.steps:
    raise ValueError('only a model of ids with one answer per row can be exported to Keras')
  if model.pooling != 'last':
    keras_config.keras_pooling(model)
  recurrent = [f'Recurrent_{i}' for i in range(model.layers)]
  layers.check_names('the params', params, ['Embed_0', *recurrent, 'Dense_0'])
  directions = DIRECTIONS if model.bidirectional else DIRECTIONS[:1]
  embedding, dense = params['Embed_0'], params['Dense_0']
  layers.check_names('Embed_0', embedding, ['embedding'])
  layers.check_names('Dense_0', dense, ['kernel', 'bias'])
  embedding = layers.as_array('Embed_0/embedding', embedding['embedding'])
  layers.check_shape('Embed_0/embedding', embedding, (model.vocab_size, model.embed_size))
  weights, width, units = [embedding], model.embed_size, 0
  for name in recurrent:
    layers.check_names(name, params[name], directions)
    for direction in directions:
      where = f'{name}/{direction}'
      p = layers.read(cell, reset, params[name][direction], where)
      units = units or len(p['w_h'])
      columns = layers.GATES[cell] * units
      layers.check_shape(f'{where}/w_x', p['w_x'], (width, columns))
      layers.check_shape(f'{where}/w_h', p['w_h'], (units, columns))
      weights += _export(cell, p, True)
    width = units * len(directions)
  kernel, bias = (layers.as_array(f'Dense_0/{name}', dense[name]) for name in ('kernel', 'bias'))
  layers.check_shape('Dense_0/kernel', kernel, (width, model.classes))
  layers.check_shape('Dense_0/bias', bias, (model.classes,))
  return keras_config.config_of(model, cell, reset, units), [*weights, kernel, bias]


def load(path: str | os.PathLike) -> tuple[SequenceClassifier, dict[str, Any]]:
  """Reads the classifier in a .keras or an .h5 file, converted by `import_classifier`.

  Raises ValueError for a file that is damaged or of another kind, such as one with only weights,
  and whenever `import_classifier` does.

  >>> (run,) = rnnlab.load_runs('runs/imdb')['id']
  >>> trained = rnnlab.load(f'runs/imdb/{run}')
  >>> save('lstm.keras', trained.model, trained.params)
  >>> model, params = load('lstm.keras')
  >>> model.mask, params['Recurrent_0']['cell']['w_h'].shape
  (True, (16, 64))
  """
  content = pathlib.Path(path).read_bytes()
  is_h5 = content.startswith(HDF5)
  try:
    if is_h5:
      hdf5.check_heaps(content)
      with h5py.File(io.BytesIO(content)) as file:
        told = hdf5.strings(file, 'model_config') if 'model_config' in file.attrs else None
      whole = None if told is None else json.loads(told)
    else:
      with zipfile.ZipFile(io.BytesIO(content)) as archive:
        whole = json.loads(archive.read(CONFIG))
        content = archive.read(WEIGHTS)
    name, config = (whole['class_name'], whole['config']) if whole else ('', {})
  except Exception as error:  # zipfile, zlib and h5py raise a dozen kinds on damaged bytes
    kind = '.h5' if is_h5 else '.keras'
    raise ValueError(f'{path} is damaged, or not a {kind} file: {error}') from None
  if whole is None:
    raise ValueError(
      f'{path} has only weights, and does not say which layers they belong to. Build the model in'
      ' Keras, load them into it, and give import_classifier its get_config() and get_weights()'
    )
  if name not in ('Sequential', 'Functional'):
    raise ValueError(
      f'{path} holds a model of the class {name}, and such a file does not say what layers it has.'
      ' Load it in Keras, and give import_classifier the list'
      ' [keras.saving.serialize_keras_object(layer) for layer in model.layers] and'
      ' model.get_weights()'
    )
  parsed = keras_config.parse(config)
  try:
    with h5py.File(io.BytesIO(content)) as file:
      weights = _h5_weights(file) if is_h5 else _keras_weights(file, config)
  except Exception as error:  # h5py too raises a dozen kinds
    where = path if is_h5 else f'{path}: its {WEIGHTS}'
    raise ValueError(f'{where} is damaged: {error}') from None
  return _import_classifier(parsed, weights)


def _keras_weights(file: h5py.File, config: Mapping) -> list[np.ndarray]:
  """The arrays of a .keras file, in the order of `get_weights()`."""
  return [
    np.asarray(file[group][str(i)])
    for group, _ in keras_config.groups(keras_config.chain_of(config))
    for i in range(len(file[group]))
  ]


def _h5_weights(file: h5py.File) -> list[np.ndarray]:
  """The arrays of an .h5 file, in the order of the names that Keras 2 and 3 write into it."""
  groups = file['model_weights']
  return [
    np.asarray(groups[layer][name])
    for layer in hdf5.strings(groups, 'layer_names')
    for name in hdf5.strings(groups[layer], 'weight_names')
  ]


def save(path: str | os.PathLike, model: SequenceClassifier, params: Mapping[str, Any]) -> None:
  """Writes a .keras file, atomically, for `keras.saving.load_model` and `load`.

  The file holds what `export_classifier` returns. Raises ValueError whenever that does, and for a
  path that does not end in .keras, which Keras would not read.

  >>> import jax, tempfile
  >>> cell = rnnlab.cells.get('lstm', hidden_size=4)
  >>> model = SequenceClassifier(cell, vocab_size=9, embed_size=3)
  >>> params = model.init(jax.random.key(0), np.ones((1, 5), np.int32))['params']
  >>> with tempfile.TemporaryDirectory() as folder:
  ...   save(f'{folder}/lstm.keras', model, params)
  ...   load(f'{folder}/lstm.keras')[0] == model
  True
  """
  if not str(path).endswith('.keras'):
    raise ValueError(f'Keras reads models from files whose name ends in .keras, unlike {path}')
  config, weights = export_classifier(model, params)
  arrays = iter(weights)
  content = io.BytesIO()
  with h5py.File(content, 'w') as file:
    for group, count in keras_config.groups(keras_config.chain_of(config)):
      for i in range(count):
        file[f'{group}/{i}'] = next(arrays)
  whole = {'module': 'keras', 'class_name': 'Sequential', 'config': config, 'registered_name': None}
  now = datetime.datetime.now().strftime('%Y-%m-%d@%H:%M:%S')
  archive = io.BytesIO()
  with zipfile.ZipFile(archive, 'w') as zipped:
    zipped.writestr(METADATA, json.dumps({'keras_version': '3', 'date_saved': now}))
    zipped.writestr(CONFIG, json.dumps(whole))
    zipped.writestr(WEIGHTS, content.getvalue())
  disk.write_atomic(path, archive.getvalue())


def _import_classifier(parsed, weights):
  model, recurrence = parsed.model, parsed.recurrence
  cell, reset = keras_config.cell_of(model.cell)
  arrays = [layers.as_array(f'array {i} of the weights', w) for i, w in enumerate(weights)]
  counts = [1, *(2 + bias for _, biases in parsed.layers for bias in biases), 1 + parsed.head_bias]
  if len(arrays) != sum(counts):
    raise ValueError(f'the model of this config has {sum(counts)} arrays, not {len(arrays)}')
  left = iter(arrays)
  (embedding,), *parts, head = ([*itertools.islice(left, count)] for count in counts)
  layers.check_shape("the Embedding's array", embedding, (model.vocab_size, model.embed_size))
  params, parts, width = {'Embed_0': {'embedding': embedding}}, iter(parts), model.embed_size
  for i, (name, biases) in enumerate(parsed.layers):
    layer = params[f'Recurrent_{i}'] = {}
    for direction, _ in zip(DIRECTIONS, biases, strict=False):
      p = layer[direction] = _import(cell, reset, next(parts), f"{name}'s")
      columns = layers.GATES[cell] * recurrence.units
      layers.check_shape(f"{name}'s kernel", p['w_x'], (width, columns))
    width = recurrence.units * len(biases)
  bias = head[1] if parsed.head_bias else np.zeros(model.classes, head[0].dtype)
  layers.check_shape("the Dense's kernel", head[0], (width, model.classes))
  layers.check_shape("the Dense's bias", bias, (model.classes,))
  return model, params | {'Dense_0': {'kernel': head[0], 'bias': bias}}
