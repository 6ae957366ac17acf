"""What tasks of texts and of series share: the model, the fields, and inputs as arrays.

Texts, or lists of tokens, become ids, int32 `[N, T]`, 0 where padded; series, float `[T, D]`,
become {'xs': float32 `[N, T, D]`, padded at the end, 'lengths': int32 `[N]`}.
"""

import hashlib
import inspect
import itertools
import pathlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rnnlab.data import DataError, batching, cache, own, series, sets, text
from rnnlab.data.base import Dataset, Examples
from rnnlab.tasks import fields, scores
from rnnlab.tasks.fields import Field, Kind

GIVEN = 'given'  # examples are lists of tokens already, not texts to be split


class Spec(NamedTuple):
  """What the model has to know of the data.

  vocab_size: ids are below it; None for series. mask: whether id 0 takes no part. size: how many
  numbers the model outputs. steps: whether it does so at each step.
  """

  vocab_size: int | None
  mask: bool
  size: int
  steps: bool


def model(config, spec: Spec):
  """The model that the `model` part of a config describes."""
  from rnnlab import models
  from rnnlab.models import initial

  options = dict(getattr(config, config.cell, {}))
  return models.SequenceClassifier(
    cell=initial.cell(config.init, config.cell, hidden_size=config.hidden_size, **options),
    vocab_size=spec.vocab_size,
    embed_size=getattr(config, 'embed_size', None),
    layers=config.layers,
    bidirectional=config.bidirectional,
    pooling=getattr(config, 'pooling', 'last'),
    mask=spec.mask,
    classes=spec.size,
    embed_dropout=config.embed_dropout,
    dropout=config.dropout,
    recurrent_dropout=config.recurrent_dropout,
    dropout_per_gate=config.dropout_per_gate,
    output_dropout=config.output_dropout,
    precision=config.precision,
    remat=config.remat,
    truncate=config.truncate or None,
    convention=config.init,
    steps=spec.steps,
  )


def spec(config, encoding: Mapping[str, Any], size: int, steps: bool) -> Spec:
  """What the model has to know of data of this encoding."""
  vocab_size = None if 'features' in encoding else config.vocab_size
  return Spec(vocab_size, config.mask, size, steps)


_ENDS = fields.choice(lambda: ('pre', 'post'))

MODEL = {
  'model.embed_size': Field(128, fields.SIZE, 'of tokens; series have no embedding'),
  'model.embed_dropout': Field(0.0, fields.RATE, 'of the inputs of the first layer', traced=True),
  'model.output_dropout': Field(0.0, fields.RATE, traced=True),
}

POOLING = Field(
  'last', fields.choice(fields.of('models', 'POOLINGS')), 'last | mean | max | concat'
)


def data_fields(end: str = 'pre') -> dict[str, Field]:
  """The fields of the data. end: at which end examples are padded, or cut if too long."""
  return {
    'data.source': Field(
      'auto',
      fields.choice(lambda: ('auto', *own.FORMATS, *sets.SETS)),
      "auto (by data.path's extension) | table | arrays | columns | a set's name",
    ),
    'data.path': Field('', fields.PATH, 'one file, to be split, or that of the train split'),
    'data.validation_path': Field('', fields.PATH, "'': split off train"),
    'data.test_path': Field('', fields.PATH, "'': split off train"),
    'data.text': Field('text', fields.TEXT, 'the column of the text'),
    'data.label': Field('label', fields.TEXT, 'the column to be predicted'),
    'data.tokens': Field(
      'words',
      Kind(
        lambda value: isinstance(value, str) and (value in text.TOKENS or value.endswith('.json')),
        lambda: f'one of {", ".join(text.TOKENS)}, or the path of a Hugging Face .json',
        lambda: tuple(text.TOKENS),
      ),
      "words | characters | bytes | the .json file of one of Hugging Face's tokenizers",
    ),
    'data.scale': Field(True, fields.FLAG, 'series: standardise each feature by train'),
    'data.vocab_size': Field(10_000, fields.whole(5, why=': ids 0 to 3 are not words')),
    'data.max_len': Field(200, fields.whole(1), 'steps; the rest of longer examples is dropped'),
    'data.padding': Field(end, _ENDS, 'pre | post; series are always padded at the end'),
    'data.truncation': Field(end, _ENDS, 'pre | post'),
    'data.mask': Field(True, fields.FLAG, 'the padding of texts takes no part'),
    'data.validation_fraction': Field(
      0.2, fields.SHARE, 'of train before it is cut; 0: the test split is the validation split'
    ),
    'data.test_fraction': Field(0.2, fields.SHARE, 'of all, if there is no test split'),
    'data.split_seed': Field(0, fields.whole(0, 2**63 - 1)),
    'data.max_examples': Field(0, fields.whole(0), 'in each split; 0: all'),
  }


def encodings(parts: Mapping[str, Examples], config) -> tuple[dict[str, Any], tuple[str, ...]]:
  """How inputs are read: an encoding, which JSON can hold, and the vocabulary, from train alone.

  For series {'features', 'mean', 'std'}; for tokens {'tokens': data.tokens, or GIVEN}. Raises
  DataError, with the row, if series have different numbers of features.
  """
  inputs, rows = parts['train'].inputs, parts['train'].rows
  if isinstance(inputs[0], np.ndarray):
    features = inputs[0].shape[-1]
    for name, part in parts.items():
      for row, one in zip(part.rows, part.inputs, strict=True):
        if one.shape[-1] != features:
          raise DataError(
            f'{name} row {row} has {one.shape[-1]} features, and train row {rows[0]} {features}'
          )
    mean, std = series.scale_of(inputs) if config.scale else (np.zeros(features), np.ones(features))
    return {'features': features, 'mean': mean.tolist(), 'std': std.tolist()}, ()
  how = _tokens(config.tokens) if isinstance(inputs[0], str) else GIVEN
  size = config.vocab_size
  if how == GIVEN:
    if not config.mask:
      raise DataError(
        'data.mask=False is for texts, which are then padded to data.max_len: lists of tokens need'
        ' data.mask=True'
      )
    counts = Counter(itertools.chain.from_iterable(inputs))
    vocabulary = tuple(token for token, _ in counts.most_common(size - text.FIRST_WORD))
  else:
    vocabulary = text.vocabulary(inputs, size, how)
  if not vocabulary:
    raise DataError(f'there is no word in the {len(inputs):,} texts to train on')
  return {'tokens': how}, vocabulary


def _tokens(given):
  """The argument of `text.tokenizer`: a name, or the content of the file if given a path."""
  if given in text.TOKENS:
    return given
  path = pathlib.Path(given).expanduser()
  try:
    content = path.read_text('utf-8')
    text.tokenizer(content)
    return content
  except (OSError, ValueError) as error:
    raise DataError(f'data.tokens={given}: {error}') from error


def encode(examples: Sequence[Any], config, encoding, vocabulary) -> Any:
  """New examples as inputs of the model; see `Task.encode`.

  Raises TypeError for texts that are not, and ValueError for series of other features.
  """
  if 'features' in encoding:
    scaled = [scale(one, encoding, i) for i, one in enumerate(examples)]
    steps = min(max(map(len, scaled), default=1), config.max_len)
    return series.pad(scaled, max(steps, 1), config.truncation)
  ids = _ids(examples, encoding, vocabulary)
  return _padded(ids, config, to_longest=encoding['tokens'] == GIVEN)


def _ids(examples, encoding, vocabulary):
  """The ids of each text or list of tokens, of any length."""
  if encoding['tokens'] == GIVEN:
    id_of = {token: i for i, token in enumerate(vocabulary, text.FIRST_WORD)}
    return [[id_of.get(token, text.UNKNOWN) for token in tokens] for tokens in examples]
  return text.encode(text.listed(examples), vocabulary, encoding['tokens'])


def _padded(ids, config, to_longest):
  width = config.max_len
  if to_longest:
    width = min(max(map(len, ids), default=1), width)
  return batching.pad(ids, max(width, 1), config.padding, config.truncation)


def scale(one: Any, encoding, place: int) -> np.ndarray:
  """A series, float32 `[T, D]`, standardised by train's mean and std. place: its number, from 0."""
  one = np.asarray(one, np.float64)
  features = encoding['features']
  one = one[:, None] if one.ndim == 1 and features == 1 else one
  if one.ndim != 2 or one.shape[1] != features or not np.isfinite(one).all():
    raise ValueError(
      f'the series at position {place}, counted from 0, has the shape {list(one.shape)}: it must be'
      f' finite numbers [T, {features}]'
    )
  return ((one - encoding['mean']) / encoding['std']).astype(np.float32)


def inputs(
  parts: Mapping[str, Examples], config, encoding, vocabulary
) -> tuple[dict[str, Any], list[str]]:
  """The inputs of each split, and a line about their lengths."""
  lengths = {}
  if 'features' in encoding:
    arrays = {
      name: encode(part.inputs, config, encoding, vocabulary) for name, part in parts.items()
    }
    lengths = {name: np.array([*map(len, part.inputs)]) for name, part in parts.items()}
  else:
    arrays = {}
    for name, part in parts.items():
      ids = _ids(part.inputs, encoding, vocabulary)
      # Padding that takes no part need not be wider than the longest example.
      arrays[name] = _padded(ids, config, config.mask or encoding['tokens'] == GIVEN)
      lengths[name] = np.array([*map(len, ids)])
  train = lengths['train']
  note = (
    f'lengths in train: median {int(np.median(train)):,}, 95 % up to'
    f' {int(np.quantile(train, 0.95)):,}, longest {train.max():,}'
  )
  shares = {name: (of > config.max_len).mean() for name, of in lengths.items()}
  if told := ', '.join(f'{share:.1%} of {name}' for name, share in shares.items() if share):
    note += f'; {told} are longer than data.max_len={config.max_len} and are cut'
  return arrays, [note]


def real(arrays: Any) -> np.ndarray:
  """Which steps of inputs are not padding, bool `[N, T]`."""
  if isinstance(arrays, dict):
    return np.arange(arrays['xs'].shape[1]) < arrays['lengths'][:, None]
  return arrays != 0


def aligned(values: Iterable[np.ndarray], arrays: Any, config, fill: Any, dtype: Any) -> np.ndarray:
  """Values at each step of the examples, cut and padded like their inputs: `[N, T, ...]`."""
  where, values = real(arrays), list(values)
  found = np.full((*where.shape, *np.shape(values[0])[1:]), fill, dtype)
  for row, steps, of in zip(found, where, values, strict=True):
    count = int(steps.sum())
    row[steps] = of[len(of) - count :] if config.truncation == 'pre' else of[:count]
  return found


def digest(splits: Mapping[str, Mapping[str, Any]]) -> str:
  """A digest of all arrays, in hexadecimal."""
  found = hashlib.sha256()
  for name, split in splits.items():
    for key, value in split.items():
      of = value if isinstance(value, dict) else {'': value}
      for part, array in of.items():
        found.update(f'{name} {key} {part} {array.dtype} {array.shape}\n'.encode())
        found.update(np.ascontiguousarray(array).data)
  return found.hexdigest()


def settle(config) -> dict[str, Any]:
  """Which source the data come from, for data.source='auto'."""
  return {'source': own.source(config)}


def check(given: dict[str, Any]) -> None:
  """Raises ValueError for fields that need more memory than there is."""
  embed_size, hidden_size = given['model.embed_size'], given['model.hidden_size']
  width = given['data.max_len'] if given.get('data.buckets', 1) == 1 else 1
  directions = 1 + given['model.bidirectional']
  deeper = (given['model.layers'] - 1) * (directions + 1) * hidden_size
  fields.check_room(
    given,
    {
      # Weights count twice, as they have gradients; a cell counts with one gate.
      'data.vocab_size model.embed_size': 2 * given['data.vocab_size'] * embed_size,
      'model.hidden_size model.embed_size model.layers': (
        2 * directions * hidden_size * (embed_size + hidden_size + deeper)
      ),
      'train.batch_size data.max_len model.hidden_size': (
        given['train.batch_size'] * (width + hidden_size)
      ),
    },
  )


def kept(config, load: Callable[[Any], Dataset]) -> Dataset:
  """What `load` returns for a config's `data` part, from the disk cache if it is there.

  The cache identifies the files that the config names by size and modification time; it does not
  know the versions of the libraries that read and encode them.
  """
  source = own.source(config)
  if source in sets.SETS:
    there = {'set': [sets.SETS[source].title]}
  else:
    files = own.files(config).items()
    there = {name: cache.identity(path) for name, path in files if path.exists()}
  if (
    config.tokens not in text.TOKENS and (path := pathlib.Path(config.tokens).expanduser()).exists()
  ):
    there['tokens'] = cache.identity(path)
  settings = {name: value for name, value in config.items() if name != 'buckets'}
  code = [
    pathlib.Path(inspect.getfile(of)).read_text('utf-8') for of in (load, kept, scores.has_spans)
  ]
  path = cache.path('own', settings | {'source': source}, there, code)
  return cache.dataset(path, lambda: load(config))
