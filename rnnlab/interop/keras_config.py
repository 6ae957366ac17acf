"""Converts between a Keras model's config and rnnlab's `SequenceClassifier`.

A config is what Keras's `get_config()` returns: nested dicts and lists, without the weights. Keras
itself is not imported. A config that a SequenceClassifier cannot compute is refused with the
reason.
"""

import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rnnlab import cells
from rnnlab.models import SequenceClassifier

CELLS = {'SimpleRNN': 'elman', 'LSTM': 'lstm', 'GRU': 'gru'}
POOLINGS = {'GlobalAveragePooling1D': 'mean', 'GlobalMaxPooling1D': 'max'}
CHAIN = (
  r'Embedding (Dropout )?((Bidirectional|SimpleRNN|LSTM|GRU) )+'
  rf'(({"|".join(POOLINGS)}) )?(Dropout )?Dense'
)
MASKED_MAX = (
  "Keras's GlobalMaxPooling1D takes the maximum over all steps, padded ones too, and rnnlab's"
  " pooling='max' over the real ones: with a mask, no weights make one the same as the other"
)


class Recurrence(NamedTuple):
  """The properties that all recurrent layers of a classifier must share."""

  kind: str
  reset_after: bool
  units: int
  bidirectional: bool
  dropout: float
  recurrent_dropout: float


class Parsed(NamedTuple):
  """The content of a config.

  model: the classifier that computes what the Keras model does.
  recurrence: the properties that its recurrent layers share.
  layers: for each recurrent layer, its name and whether each of its directions has a bias.
  head_bias: whether the Dense has a bias.
  """

  model: SequenceClassifier
  recurrence: Recurrence
  layers: list[tuple[str, list[bool]]]
  head_bias: bool


def parse(config: Mapping | Sequence[Mapping]) -> Parsed:
  """Reads a model's config; raises ValueError if it is not that of a SequenceClassifier."""
  try:
    return _read(config)
  except (AttributeError, IndexError, KeyError, TypeError) as error:
    raise ValueError(
      f'the config is not one written by Keras 3 ({type(error).__name__}: {error})'
    ) from error


def _read(config):
  chain = chain_of(config)
  kinds = [kind for kind, _ in chain]
  if not re.fullmatch(CHAIN, ' '.join(kinds)):
    raise ValueError(
      f'the model is {" -> ".join(kinds) or "empty"}; what can be converted is Embedding ->'
      ' [Dropout ->] one or more of SimpleRNN, LSTM, GRU and Bidirectional ->'
      ' [GlobalAveragePooling1D or GlobalMaxPooling1D ->] [Dropout ->] Dense. For other'
      ' models convert the recurrent layers one by one, by import_layer'
    )
  for kind, layer in chain:
    _check_precision(layer, _name(kind, layer))
  (_, embedding), *_, (_, head) = chain
  mask = embedding.get('mask_zero', False)
  recurrent = [(k, c) for k, c in chain if k == 'Bidirectional' or k in CELLS]
  pooling = _pooling(chain, mask)
  # Of the last layer only the last output is used, unless all are pooled.
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
  return Parsed(model, shared, list(zip(names, biases, strict=True)), head.get('use_bias', True))


def _pooling(chain, mask):
  """How a classifier pools its outputs; raises ValueError for a pooling that rnnlab lacks."""
  for kind, config in chain:
    if kind in POOLINGS:
      for field, known in (('data_format', 'channels_last'), ('keepdims', False)):
        if config.get(field, known) != known:
          raise ValueError(f'{kind} has {field}={config[field]!r}, but it must be {known!r}')
      if kind == 'GlobalMaxPooling1D' and mask:
        raise ValueError(MASKED_MAX)
      return POOLINGS[kind]
  return 'last'


def keras_pooling(model: SequenceClassifier) -> str:
  """The class of the Keras layer that pools as a model does; raises ValueError where none does."""
  if model.pooling == 'max' and model.mask:
    raise ValueError(MASKED_MAX)
  for kind, pooling in POOLINGS.items():
    if model.pooling == pooling:
      return kind
  raise ValueError(
    f'the model has pooling={model.pooling!r}, for which Keras has no layer: it has layers'
    " for 'last', 'mean' and 'max'"
  )


def chain_of(config: Mapping | Sequence[Mapping]) -> list[tuple[str, Mapping]]:
  """The layers that a config names, in order, each as the name of its class and its own config."""
  line = config
  if isinstance(config, Mapping):
    if 'layers' not in config:
      raise ValueError(
        'the config does not say what layers the model has, as with a model of your own'
        ' class. Give [keras.saving.serialize_keras_object(layer) for layer in model.layers], in'
        ' the order in which the model applies them'
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
  """The layers of a functional model, leaving out inputs and masks.

  Raises ValueError unless each layer takes the output of the one before it and nothing else.
  """
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
      masks.append(name)  # the layer that mask_zero becomes
      continue
    before = [line[-1]['name']] if line else inputs
    if [_source(arg) for arg in args] != before:
      raise ValueError(
        f'the layer {name} takes more or other inputs than the output of the layer before it: the'
        ' model must be a chain of layers'
      )
    for word, value in kwargs.items():
      if value and not (word == 'mask' and _source(value) in masks):
        raise ValueError(f'the layer {name} is called with {word}={value!r}, which rnnlab lacks')
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


def _recurrence(kind, config, last, mask) -> tuple[Recurrence, list[bool]]:
  """What a recurrent layer is, and for each of its directions whether it has a bias."""
  name = _name(kind, config)
  if kind != 'Bidirectional':
    recurrence, bias = _direction(kind, config, name, last, mask)
    return recurrence, [bias]
  if config.get('merge_mode', 'concat') != 'concat':
    raise ValueError(
      f"{name} has merge_mode={config['merge_mode']!r}; rnnlab concatenates the two directions'"
      " outputs, which is 'concat'"
    )
  forward = config['layer']
  mirrored = {**forward, 'config': {**forward['config'], 'go_backwards': True}}
  both = forward, config.get('backward_layer') or mirrored
  chain = chain_of(both)
  found = []
  for part, (inner, its), backwards in zip(('forward', 'backward'), chain, (0, 1), strict=True):
    if inner not in CELLS:
      raise ValueError(f'{name} is of {inner}, not of SimpleRNN, LSTM or GRU')
    _check_precision(its, name)
    found.append(_direction(inner, its, f'the {part} layer of {name}', last, mask, backwards))
  (one, bias), (other, backward_bias) = found
  _check_same(f'the forward layer of {name}', one, 'the backward one', other)
  return one._replace(bidirectional=True), [bias, backward_bias]


def _direction(kind, config, name, last, mask, backwards=False) -> tuple[Recurrence, bool]:
  differs = 'no weights make one function the other'
  checks = [
    ('activation', 'tanh', differs),
    ('recurrent_activation', 'sigmoid', differs),
    ('go_backwards', bool(backwards), 'rnnlab has backward layers only in bidirectional ones'),
    ('return_sequences', not last, 'only the last layer returns its last output alone'),
    ('return_state', False, 'the state is not used'),
    ('stateful', False, 'rnnlab starts each row from a zero state'),
    ('time_major', False, 'rnnlab has rows first, then steps'),
  ]
  if mask and last:
    checks += [('zero_output_for_mask', False, 'the last output would be 0 after padding')]
  for field, known, why in checks:
    if config.get(field, known) != known:
      raise ValueError(f'{name} has {field}={config[field]!r}, but it must be {known!r}: {why}')
  recurrence = Recurrence(
    kind,
    config.get('reset_after', True),
    config['units'],
    False,
    config.get('dropout', 0.0),
    config.get('recurrent_dropout', 0.0),
  )
  return recurrence, config.get('use_bias', True)


def _check_same(name, one, other_name, other):
  """Raises ValueError if two layers differ in what the layers of a classifier must share."""
  for field, a, b in zip(Recurrence._fields, one, other, strict=True):
    if a != b:
      raise ValueError(
        f"{name} has {field}={a!r} and {other_name} {field}={b!r}: a SequenceClassifier's layers"
        ' differ only in weights. Convert them one by one, by import_layer, for rnnlab.unroll'
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
  """The number of classes of a Dense's logits, as SequenceClassifier counts them."""
  units, activation = head['units'], head.get('activation', 'linear')
  known = 'sigmoid' if units == 1 else 'softmax'
  if activation not in (known, 'linear', None):
    raise ValueError(
      f'the Dense of {units} has activation={activation!r}; what can be converted is a {known} or'
      ' none'
    )
  return units


def _rate(layer) -> float:
  """The rate of a layer if it is a Dropout, else 0."""
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


def cell_of(cell: cells.Cell) -> tuple[str, str]:
  """A cell's name and its reset; raises ValueError for a cell that Keras does not have."""
  module = getattr(cell.step, '__module__', '')
  name = module.removeprefix('rnnlab.cells.')
  if name not in CELLS.values() or name == module:
    raise ValueError(f'the cell of {module} has none in Keras; {", ".join(CELLS.values())} have')
  # irnn and elman(activation='relu') have elman's step, but rectify a negative number to 0.
  step: Any = cell.step
  if name == 'elman' and not step({'w_x': 0, 'w_h': 0, 'b': -1.0}, 0, 0, operator.mul)[0]:
    raise ValueError(
      f"{cell} is rectified, and is not converted: rnnlab writes no SimpleRNN(activation='relu'),"
      ' only that of tanh. Export the weights of each layer by export_layer'
    )
  return name, 'before' if cell.fused == 'gru-before' else 'after'


def config_of(model: SequenceClassifier, cell: str, reset: str, units: int) -> dict[str, Any]:
  """The config of a Keras Sequential for a SequenceClassifier."""

  def layer(kind, **config):
    config = {'dtype': 'float32'} | config
    return {'module': 'keras.layers', 'class_name': kind, 'config': config, 'registered_name': None}

  kind = next(kind for kind, name in CELLS.items() if name == cell)
  options: dict[str, Any] = {'reset_after': reset == 'after'} if cell == 'gru' else {}
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
      *([] if model.pooling == 'last' else [layer(keras_pooling(model))]),
      *dropout(model.output_dropout),
      layer(
        'Dense', units=model.classes, activation='sigmoid' if model.classes == 1 else 'softmax'
      ),
    ],
  }


def groups(chain: Sequence[tuple[str, Mapping]]) -> Iterator[tuple[str, int]]:
  """Where a .keras file keeps the weights of a chain of layers, in the order of `get_weights()`.

  Yields the path of each group of arrays in the file, and how many arrays the group has. The paths
  name the class of a layer, not the layer, with a number added from the second layer of a class on.
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
