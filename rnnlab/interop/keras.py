"""Keras 3's recurrent layers, and whole classifiers of them: weights to and from rnnlab's.

Keras is not imported: weights are the list of arrays that `get_weights()` gives and `set_weights`
takes, a model is its config, and a .keras file is a zip of both, an .h5 file an HDF5 file of both.

    layer                   rnnlab                gates          bias
    SimpleRNN               elman                 one            [H]
    LSTM                    lstm                  i, f, c, o     [4H]
    GRU                     gru, reset='after'    z, r, h        [2, 3H]: of inputs, of states
    GRU(reset_after=False)  gru, reset='before'   z, r, h        [3H]
    Bidirectional           a pair of layers      its forward layer's arrays, then the backward's

c is g of rnnlab, h is n. GRU's two biases act as their sum but in h: an import adds them up, an
export puts the sum into that of the inputs and zeros into that of the states. All else comes back
to the bit, and so does an export. A layer without biases is one whose biases are zeros.
"""

import datetime
import io
import itertools
import json
import pathlib
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import h5py
import numpy as np

from rnnlab import cells
from rnnlab.interop import layers
from rnnlab.machine import disk
from rnnlab.models import SequenceClassifier

CELLS = {'SimpleRNN': 'elman', 'LSTM': 'lstm', 'GRU': 'gru'}
DIRECTIONS = 'cell', 'cell_backward'  # a layer's parameters in a SequenceClassifier's
POOLINGS = {'GlobalAveragePooling1D': 'mean', 'GlobalMaxPooling1D': 'max'}
CHAIN = (
  r'Embedding (Dropout )?((Bidirectional|SimpleRNN|LSTM|GRU) )+'
  rf'(({"|".join(POOLINGS)}) )?(Dropout )?Dense'
)
HDF5 = b'\x89HDF\r\n\x1a\n'  # what such a file begins with
MASKED_MAX = (
  "Keras's GlobalMaxPooling1D takes the highest output of all steps, padded ones too, and rnnlab's"
  " pooling='max' that of the real ones: with a mask no weights make the one the other"
)
CONFIG, METADATA, WEIGHTS = 'config.json', 'metadata.json', 'model.weights.h5'  # in a .keras file


def import_layer(cell: str, weights: Sequence, *, reset: str = 'after') -> dict | tuple[dict, dict]:
  """A Keras layer's weights as a layer of rnnlab: w_x `[D, G * H]`, w_h, b and, of a gru, b_hn.

  cell: 'elman', 'lstm' or 'gru', with reset='after' or, for reset_after=False, 'before'. weights:
  `layer.get_weights()`, with biases or without; those of a Bidirectional give a pair of layers.
  The layer's activations must be Keras's defaults, which the weights do not tell.

  Raises ValueError for weights that are not such a layer's, as a GRU's of the other `reset`.

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
    f'a layer has 3 arrays of weights, 2 without biases, a Bidirectional twice as many; these are'
    f' {len(arrays)}'
  )


def export_layer(
  cell: str, layer: Mapping | Sequence, *, reset: str = 'after', use_bias: bool = True
) -> list[np.ndarray]:
  """A layer of rnnlab, or a pair of them, as `layer.set_weights` of Keras takes it.

  use_bias: as of the Keras layer; where False, the biases must be zeros. Raises ValueError where
  they are not, and for a layer whose names and shapes are not those of `cell`.

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
      f' weights make it compute what a gru of reset={reset!r} does. Import it with reset='
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
      'the layer has biases that are not zero, which a Keras layer of use_bias=False has no place'
      ' for: build that with use_bias=True'
    )
  return [p['w_x'], p['w_h']]


def _swap(w):
  """Keras's z, r, h from r, z, n, and back."""
  first, second, last = np.split(w, 3, axis=-1)
  return np.concatenate([second, first, last], axis=-1)


def import_classifier(
  config: Mapping | Sequence[Mapping], weights: Sequence
) -> tuple[SequenceClassifier, dict]:
  """A whole Keras classifier as a `SequenceClassifier` and its params.

  config: `model.get_config()` of a Sequential or a functional model; of a model of a class of your
  own, the list `[keras.saving.serialize_keras_object(layer) for layer in model.layers]`, which must
  be in the order in which the model applies them. weights: `model.get_weights()`.

  The model is Embedding, layers of SimpleRNN, LSTM or GRU, all of one kind and size, or
  Bidirectional ones of them, and Dense: of one unit, with a sigmoid or none, or of one a class,
  with a softmax or none. After the last recurrent layer GlobalAveragePooling1D may come, or, where
  there is no mask, GlobalMaxPooling1D; Dropout after the Embedding and before the Dense. The
  sigmoid or softmax of the logits that the SequenceClassifier gives is what the Keras model
  predicts. Dropout rates are taken over; what else acts in training alone, as initialisers or
  regularisers, is not.

  Raises ValueError, with the reason, for a model of other parts, for activations, states or
  directions that rnnlab has not, and for weights of other shapes than the config's.

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
  return _import_classifier(_parse(config), weights)


def export_classifier(model: SequenceClassifier, params: Mapping) -> tuple[dict, list]:
  """The Keras model that computes what `model` does with `params`, as a config and weights.

  `keras.Sequential.from_config(config)`, then its `set_weights(weights)`. It predicts
  probabilities. Its dropout has the same rates, but where recurrent_dropout is above 0 Keras has a
  mask a gate, whether dropout_per_gate is set or not; remat and truncate have no place there.

  Raises ValueError for a cell that Keras has not, the pooling 'concat' or, with a mask, 'max', a
  precision but 'float32', and params that are not the model's.

  >>> import jax
  >>> model = SequenceClassifier(cells.get('lstm', hidden_size=4), vocab_size=9, embed_size=3)
  >>> params = model.init(jax.random.key(0), np.ones((1, 5), np.int32))['params']
  >>> config, weights = export_classifier(model, params)
  >>> [layer['class_name'] for layer in config['layers']], [w.shape for w in weights]
  (['InputLayer', 'Embedding', 'LSTM', 'Dense'], [(9, 3), (3, 16), (4, 16), (16,), (4, 1), (1,)])
  """
  cell, reset = _cell_of(model.cell)
  if model.precision != 'float32':
    raise ValueError(
      f"the model has precision={model.precision!r}, not 'float32': Keras's bfloat16 rounds other"
      ' things. Export with float32'
    )
  if model.pooling != 'last':
    _keras_pooling(model)
  recurrent = [f'Recurrent_{i}' for i in range(model.layers)]
  layers.check_names('the params', params, ['Embed_0', *recurrent, 'Dense_0'])
  directions = DIRECTIONS if model.bidirectional else DIRECTIONS[:1]
  embedding, dense = params['Embed_0'], params['Dense_0']
  layers.check_names('Embed_0', embedding, ['embedding'])
  layers.check_names('Dense_0', dense, ['kernel', 'bias'])
  embedding = layers.as_array('Embed_0/embedding', embedding['embedding'])
  layers.check_shape('Embed_0/embedding', embedding, (model.vocab_size, model.embed_size))
  weights, width, units = [embedding], model.embed_size, None
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
  return _config(model, cell, reset, units), [*weights, kernel, bias]


def load(path) -> tuple[SequenceClassifier, dict]:
  """The classifier that is in a .keras or an .h5 file, as `import_classifier` gives it.

  Raises ValueError for a file that is damaged or of another kind, as one of weights alone, and what
  that raises.

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
      with h5py.File(io.BytesIO(content)) as file:
        told = file.attrs.get('model_config')
      whole = told and json.loads(told)
    else:
      with zipfile.ZipFile(io.BytesIO(content)) as archive:
        whole = json.loads(archive.read(CONFIG))
        content = archive.read(WEIGHTS)
    name, config = (whole['class_name'], whole['config']) if whole else (None, None)
  except Exception as error:  # zipfile, zlib and h5py raise a dozen kinds on damaged bytes
    kind = '.h5' if is_h5 else '.keras'
    raise ValueError(f'{path} is damaged, or no {kind} file: {error}') from None
  if whole is None:
    raise ValueError(
      f'{path} has weights alone, and does not say what layers they are of. Build the model in'
      ' Keras, load them into it, and give import_classifier its get_config() and get_weights()'
    )
  if name not in ('Sequential', 'Functional'):
    raise ValueError(
      f'{path} is of a model of the class {name}, and such a file does not say what layers it has.'
      ' Load it in Keras, and give import_classifier the list'
      ' [keras.saving.serialize_keras_object(layer) for layer in model.layers] and'
      ' model.get_weights()'
    )
  parsed = _parse(config)
  try:
    with h5py.File(io.BytesIO(content)) as file:
      weights = _h5_weights(file) if is_h5 else _keras_weights(file, config)
  except Exception as error:  # nor has h5py one kind
    where = path if is_h5 else f'{path}: its {WEIGHTS}'
    raise ValueError(f'{where} is damaged: {error}') from None
  return _import_classifier(parsed, weights)


def _keras_weights(file, config):
  return [
    np.asarray(file[group][str(i)])
    for group, _ in _groups(_chain(config))
    for i in range(len(file[group]))
  ]


def _h5_weights(file):
  """In the order of the names, as Keras 2 and 3 write them."""
  groups = file['model_weights']
  return [
    np.asarray(groups[layer][name])
    for layer in groups.attrs['layer_names']
    for name in groups[layer].attrs['weight_names']
  ]


def save(path, model: SequenceClassifier, params: Mapping) -> None:
  """Writes a .keras file, atomically, which `keras.saving.load_model` and `load` read.

  It holds what `export_classifier` gives, and raises what that raises; ValueError for another
  ending of `path`, which Keras would not read.

  >>> import jax, tempfile
  >>> model = SequenceClassifier(cells.get('lstm', hidden_size=4), vocab_size=9, embed_size=3)
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
    for group, count in _groups(_chain(config)):
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


class _Recurrence(NamedTuple):
  """What a config says of a recurrent layer, as far as all layers of a classifier must agree."""

  kind: str
  reset_after: bool
  units: int
  bidirectional: bool
  dropout: float
  recurrent_dropout: float


class _Parsed(NamedTuple):
  """A config: the model, its recurrence, each layer's name and which directions have a bias."""

  model: SequenceClassifier
  recurrence: _Recurrence
  layers: list[tuple[str, list[bool]]]
  head_bias: bool


def _parse(config) -> _Parsed:
  """Reads a model's config; raises ValueError for what a SequenceClassifier is not."""
  try:
    return _read(config)
  except (AttributeError, IndexError, KeyError, TypeError) as error:
    raise ValueError(
      f'the config is not as Keras 3 writes it ({type(error).__name__}: {error})'
    ) from error


def _read(config):
  chain = _chain(config)
  kinds = [kind for kind, _ in chain]
  if not re.fullmatch(CHAIN, ' '.join(kinds)):
    raise ValueError(
      f'the model is {" -> ".join(kinds) or "empty"}; what can be converted is Embedding ->'
      ' [Dropout ->] one or more of SimpleRNN, LSTM, GRU and Bidirectional ->'
      ' [GlobalAveragePooling1D or GlobalMaxPooling1D ->] [Dropout ->] Dense. Of other models'
      ' convert the recurrent layers one by one, by import_layer'
    )
  for kind, layer in chain:
    _check_precision(layer, _name(kind, layer))
  (_, embedding), *_, (_, head) = chain
  mask = embedding.get('mask_zero', False)
  recurrent = [(k, c) for k, c in chain if k == 'Bidirectional' or k in CELLS]
  pooling = _pooling(chain, mask)
  # Of the last one it is the last output that counts, unless all are pooled.
  last = len(recurrent) - 1 if pooling == 'last' else None
  found = [_recurrence(k, c, i == last, mask) for i, (k, c) in enumerate(recurrent)]
  names = [_name(kind, layer) for kind, layer in recurrent]
  shared = found[0][0]
  for name, (other, _) in zip(names, found, strict=True):
    _check_same(names[0], shared, name, other)
  cell, reset = CELLS[shared.kind], 'after' if shared.reset_after else 'before'
  options = {'reset': reset} if cell == 'gru' else {}
  per_gate = shared.recurrent_dropout > 0 and cell != 'elman'
  model = SequenceClassifier(
    cell=cells.get(cell, hidden_size=shared.units, **options),
    vocab_size=embedding['input_dim'],
    embed_size=embedding['output_dim'],
    layers=len(recurrent),
    bidirectional=shared.bidirectional,
    pooling=pooling,
    mask=mask,
    classes=_classes(head),
    embed_dropout=_rate(chain[1]),
    dropout=shared.dropout,
    recurrent_dropout=shared.recurrent_dropout,
    dropout_per_gate=per_gate,
    output_dropout=_rate(chain[-2]),
  )
  biases = [biases for _, biases in found]
  return _Parsed(model, shared, list(zip(names, biases, strict=True)), head.get('use_bias', True))


def _pooling(chain, mask):
  """What a classifier makes one vector of its outputs by; raises ValueError for a way not here."""
  for kind, config in chain:
    if kind in POOLINGS:
      for field, known in (('data_format', 'channels_last'), ('keepdims', False)):
        if config.get(field, known) != known:
          raise ValueError(f'{kind} has {field}={config[field]!r}, where it must be {known!r}')
      if kind == 'GlobalMaxPooling1D' and mask:
        raise ValueError(MASKED_MAX)
      return POOLINGS[kind]
  return 'last'


def _keras_pooling(model):
  """The Keras layer of a model's pooling; raises ValueError where there is none."""
  if model.pooling == 'max' and model.mask:
    raise ValueError(MASKED_MAX)
  for kind, pooling in POOLINGS.items():
    if model.pooling == pooling:
      return kind
  raise ValueError(
    f'the model has pooling={model.pooling!r}, for which Keras has no layer: it has some for'
    " 'last', 'mean' and 'max'"
  )


def _chain(config) -> list[tuple[str, Mapping]]:
  """The layers that a config says, in order, each as its class and its own config."""
  line = config
  if isinstance(config, Mapping):
    if 'layers' not in config:
      raise ValueError(
        'the config does not say what layers the model has, as that of a model of a class of your'
        ' own. Give [keras.saving.serialize_keras_object(layer) for layer in model.layers], in the'
        ' order in which the model applies them'
      )
    line = _line(config) if 'output_layers' in config else config['layers']
  chain = []
  for layer in line:
    kind = layer['class_name']
    if layer.get('module', 'keras.layers') != 'keras.layers' or layer.get('registered_name'):
      raise ValueError(f"the layer {kind} is of {layer.get('module')}, not one of Keras's own")
    if kind != 'InputLayer':
      chain.append((kind, layer['config']))
  return chain


def _line(config) -> list[Mapping]:
  """The layers of a functional model, but inputs and masks; raises unless they are a line."""
  inputs, masks, line = [], [], []
  for layer in config['layers']:
    kind, name, nodes = layer['class_name'], layer['name'], layer['inbound_nodes']
    if kind == 'InputLayer':
      inputs.append(name)
      continue
    if len(nodes) != 1:
      raise ValueError(f'the layer {name} is used {len(nodes)} times, not once')
    args, kwargs = nodes[0]['args'], nodes[0]['kwargs']
    if kind == 'NotEqual' and _source(args[0]) in inputs and list(args[1:]) == [0]:
      masks.append(name)  # what mask_zero becomes
      continue
    before = [line[-1]['name']] if line else inputs
    if [_source(arg) for arg in args] != before:
      raise ValueError(
        f'the layer {name} takes more, or other things, than what the layer before it gives: the'
        ' model must be one line of layers'
      )
    for word, value in kwargs.items():
      if value and not (word == 'mask' and _source(value) in masks):
        raise ValueError(f'the layer {name} is called with {word}={value!r}, which rnnlab has not')
      if value and word == 'mask' and not line[0]['config'].get('mask_zero'):
        raise ValueError(f"the layer {name} has a mask without the Embedding's mask_zero=True")
    line.append(layer)
  outputs = config['output_layers']
  outputs = outputs if outputs and isinstance(outputs[0], list | tuple) else [outputs]
  if len(inputs) != 1 or not line or [output[0] for output in outputs] != [line[-1]['name']]:
    raise ValueError(
      'the model must have one input, of ids, and one output, that of its last layer; it has'
      f' {len(inputs)} and {len(outputs)}'
    )
  return line


def _source(argument) -> str | None:
  """The name of the layer that an argument in a functional config is the output of, or None."""
  if not isinstance(argument, Mapping) or argument.get('class_name') != '__keras_tensor__':
    return None
  return argument['config']['keras_history'][0]


def _recurrence(kind, config, last, mask) -> tuple[_Recurrence, list[bool]]:
  """What a recurrent layer is, and for each of its directions whether it has a bias."""
  name = _name(kind, config)
  if kind != 'Bidirectional':
    recurrence, bias = _direction(kind, config, name, last, mask)
    return recurrence, [bias]
  if config.get('merge_mode', 'concat') != 'concat':
    raise ValueError(
      f"{name} has merge_mode={config['merge_mode']!r}; rnnlab has the two directions' outputs side"
      " by side, which is 'concat'"
    )
  forward = config['layer']
  mirrored = {**forward, 'config': {**forward['config'], 'go_backwards': True}}
  both = forward, config.get('backward_layer') or mirrored
  chain = _chain(both)
  found = []
  for part, (inner, its), backwards in zip(('forward', 'backward'), chain, (0, 1), strict=True):
    if inner not in CELLS:
      raise ValueError(f'{name} is of {inner}, not of SimpleRNN, LSTM or GRU')
    _check_precision(its, name)
    found.append(_direction(inner, its, f'the {part} layer of {name}', last, mask, backwards))
  (one, bias), (other, backward_bias) = found
  _check_same(f'the forward layer of {name}', one, 'the backward one', other)
  return one._replace(bidirectional=True), [bias, backward_bias]


def _direction(kind, config, name, last, mask, backwards=False) -> tuple[_Recurrence, bool]:
  differs = 'no weights make the one function the other'
  checks = [
    ('activation', 'tanh', differs),
    ('recurrent_activation', 'sigmoid', differs),
    ('go_backwards', bool(backwards), 'rnnlab has backward layers in bidirectional ones alone'),
    ('return_sequences', not last, 'the layer that gives its last output alone is the last one'),
    ('return_state', False, 'the state is not used'),
    ('stateful', False, 'rnnlab starts each row from a state of zeros'),
    ('time_major', False, 'rnnlab has rows first, then steps'),
  ]
  if mask and last:
    checks += [('zero_output_for_mask', False, 'the last output would be 0 after padding')]
  for field, known, why in checks:
    if config.get(field, known) != known:
      raise ValueError(f'{name} has {field}={config[field]!r}, where it must be {known!r}: {why}')
  recurrence = _Recurrence(
    kind,
    config.get('reset_after', True),
    config['units'],
    False,
    config.get('dropout', 0.0),
    config.get('recurrent_dropout', 0.0),
  )
  return recurrence, config.get('use_bias', True)


def _check_same(name, one, other_name, other):
  """Raises ValueError where two layers differ in what they have in common in a classifier."""
  for field, a, b in zip(_Recurrence._fields, one, other, strict=True):
    if a != b:
      raise ValueError(
        f"{name} has {field}={a!r} and {other_name} {field}={b!r}: a SequenceClassifier's layers"
        ' differ in weights alone. Convert them one by one, by import_layer, for rnnlab.unroll'
      )


def _check_precision(config, name):
  policy = config.get('dtype') or 'float32'
  policy = policy.get('config', {}).get('name') if isinstance(policy, Mapping) else policy
  if policy != 'float32':
    raise ValueError(
      f'{name} computes by the dtype policy {policy or config["dtype"]!r}, rnnlab in float32: build'
      " the model with dtype='float32', and give it the weights"
    )


def _classes(head) -> int:
  """How many classes the logits of a Dense are of, as SequenceClassifier counts them."""
  units, activation = head['units'], head.get('activation', 'linear')
  known = 'sigmoid' if units == 1 else 'softmax'
  if activation not in (known, 'linear', None):
    raise ValueError(
      f'the Dense of {units} has activation={activation!r}; what can be converted is a {known} or'
      ' none'
    )
  return units


def _rate(layer) -> float:
  """The rate of a layer where it is a Dropout, else 0."""
  kind, config = layer
  if kind != 'Dropout':
    return 0.0
  if config.get('noise_shape'):
    raise ValueError(
      f'{_name(kind, config)} has noise_shape={config["noise_shape"]!r}; rnnlab drops single units'
    )
  return config['rate']


def _name(kind, config) -> str:
  return config.get('name') or kind


def _import_classifier(parsed, weights):
  model, recurrence = parsed.model, parsed.recurrence
  cell, reset = _cell_of(model.cell)
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


def _cell_of(cell) -> tuple[str, str]:
  """A cell's name and reset; raises ValueError for one that Keras has not."""
  module = getattr(cell.step, '__module__', '')
  name = module.removeprefix('rnnlab.cells.')
  if name not in CELLS.values() or name == module:
    raise ValueError(f'the cell of {module} has none in Keras; {", ".join(CELLS.values())} have')
  return name, 'before' if cell.fused == 'gru-before' else 'after'


def _config(model, cell, reset, units) -> dict[str, Any]:
  """The config of a Keras Sequential for a SequenceClassifier."""

  def layer(kind, **config):
    config = {'dtype': 'float32'} | config
    return {'module': 'keras.layers', 'class_name': kind, 'config': config, 'registered_name': None}

  kind = next(kind for kind, name in CELLS.items() if name == cell)
  options = {'reset_after': reset == 'after'} if cell == 'gru' else {}
  options |= {'dropout': float(model.dropout), 'recurrent_dropout': float(model.recurrent_dropout)}

  def recurrent(i):
    sequences = i < model.layers - 1 or model.pooling != 'last'
    one = layer(kind, units=units, return_sequences=sequences, **options)
    return layer('Bidirectional', layer=one) if model.bidirectional else one

  def dropout(rate):
    return [layer('Dropout', rate=float(rate))] if rate else []

  return {
    'name': 'classifier',
    'layers': [
      layer('InputLayer', batch_shape=[None, None], dtype='int32'),
      layer(
        'Embedding',
        input_dim=model.vocab_size,
        output_dim=model.embed_size,
        mask_zero=model.mask,
      ),
      *dropout(model.embed_dropout),
      *map(recurrent, range(model.layers)),
      *([] if model.pooling == 'last' else [layer(_keras_pooling(model))]),
      *dropout(model.output_dropout),
      layer(
        'Dense', units=model.classes, activation='sigmoid' if model.classes == 1 else 'softmax'
      ),
    ],
  }


def _groups(chain) -> Iterator[tuple[str, int]]:
  """Where a .keras file has the weights of layers, in get_weights' order, and how many, all told.

  The names are those of the classes, not of the layers, with numbers from the second one on.
  """
  seen = dict.fromkeys((kind for kind, _ in chain), 0)
  for kind, _ in chain:
    group = 'layers/' + ('simple_rnn' if kind == 'SimpleRNN' else kind.lower())
    group += f'_{seen[kind]}' if seen[kind] else ''
    seen[kind] += 1
    if kind == 'Bidirectional':
      yield f'{group}/forward_layer/cell/vars', 3
      yield f'{group}/backward_layer/cell/vars', 3
    elif kind in CELLS:
      yield f'{group}/cell/vars', 3
    elif kind in ('Embedding', 'Dense'):
      yield f'{group}/vars', 1 if kind == 'Embedding' else 2
