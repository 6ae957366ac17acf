"""Predicts numbers from texts or series, one or several per row or per step; by RMSE.

    text -> ids -> embedding -+-> recurrent layers -> pooling (or not) -> standardised numbers
    series [T, D] ------------+

The arrays of a split: inputs as in `rnnlab.tasks.sequences`; targets, float32 `[N]`, `[N, V]`, or,
at each step, `[N, T]`, `[N, T, V]`, standardised by the mean and std of train; unit, that std,
float32 `[N]` or `[N, V]`; and, if there is a target at each step, real, bool `[N, T]`, which steps
are not padding.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rnnlab.data import DataError, own, series, table
from rnnlab.data.base import Dataset, Examples
from rnnlab.data.windows import by_time, windows
from rnnlab.tasks import fields, scores, sequences
from rnnlab.tasks.base import Metric, Outputs, Panel, Task
from rnnlab.tasks.fields import Field

POINTS = 2000  # of a panel, at most


def load(config) -> Dataset:
  """The dataset that a config's `data` part describes. Raises DataError, for people."""
  made = sequences.kept(config, _load)
  return made._replace(spec=spec(config, made.encoding, made.vocabulary))


def _load(config):
  idle, why = (
    (('group',), 'not for windows, which are cut by time')
    if config.window
    else (('time', 'features', 'horizon'), 'for windows: give --config.data.window=STEPS')
  )
  for name in idle:
    if config[name] != task.fields[f'data.{name}'].default:
      raise DataError(f'--config.data.{name}={config[name]} is {why}')
  title, parts, names, notes, more = (_windowed if config.window else _whole)(config)
  values = {name: _values(name, part, config.target) for name, part in parts.items()}
  size = values['train'][0].shape[-1]
  names = names or (('value',) if size == 1 else tuple(f'{i + 1}' for i in range(size)))
  for name, found in values.items():
    if wrong := [i for i, one in enumerate(found) if one.shape[-1] != size]:
      raise DataError(f'{name} row {parts[name].rows[wrong[0]]} has no {size} numbers to predict')
  flat = [one.reshape(-1, size) for one in values['train']]
  mean, std = series.scale_of(flat)
  encoding, vocabulary = sequences.encodings(parts, config)
  encoding |= {'values': list(names), 'target': config.target} | more
  encoding |= {'target_mean': mean.tolist(), 'target_std': std.tolist()}
  arrays, lines = sequences.inputs(parts, config, encoding, vocabulary)
  splits = {}
  for name, found in values.items():
    standard = [(one - mean) / std for one in found]
    splits[name] = {'inputs': arrays[name], **_targets(standard, std, arrays[name], config)}
  joined = np.concatenate(flat)
  for name, column in zip(names, joined.T, strict=True):
    lines.append(
      f'{name} in train: mean {column.mean():.4g}, standard deviation {column.std():.4g}, from'
      f' {column.min():.4g} to {column.max():.4g}'
    )
  return Dataset(
    splits,
    title=title,
    line=own.line(parts, 'windows' if config.window else 'rows'),
    source=own.source(config),
    fingerprint=sequences.digest(splits),
    vocabulary=vocabulary,
    encoding=encoding,
    notes=(*notes, *lines),
  )


def _whole(config):
  """Examples of a table of texts, of arrays or of a set."""
  names = _listed(config.label)

  def of_table(path):
    frame, rows = table.read(path)
    texts = table.texts(
      table.column(frame, config.text, 'data.text', path), rows, config.text, path
    )
    targets = _numbers(frame, names, 'data.label', rows, path)
    groups = texts
    if config.group:
      groups = table.column(frame, config.group, 'data.group', path).astype(str).tolist()
    return Examples(texts, list(targets), rows), groups

  title, given, empty = own.read(config, of_table)
  parts, notes = own.split(config, given)
  notes = [*empty, *notes]
  return title, parts, names if own.source(config) == 'table' else (), notes, {}


def _windowed(config):
  """Windows of tables of numbers with a row per step; each lies wholly within its split."""
  if own.source(config) != 'table':
    raise DataError('data.window is for a table of numbers, with a row per step')
  names, notes = _listed(config.label), []
  found, features = {}, _listed(config.features)
  for name, path in own.files(config).items():
    frame, rows = table.read(path)
    features = features or tuple(column for column in frame if column != config.time)
    found[name] = _steps(frame, rows, path, features, names, config)
  if not config.validation_fraction and found.pop('validation', None):
    notes.append(own.NOT_READ)
  fractions = {name: config[f'{name}_fraction'] for name in ('validation', 'test')}
  fractions = {name: f for name, f in fractions.items() if f and name not in found}
  if 'test' not in fractions.keys() | found.keys():
    raise DataError('there is no test split: give --config.data.test_path or data.test_fraction')
  whole = found['train']
  for name, part in by_time(len(whole[0]), fractions).items():
    found[name] = tuple(of[part] for of in whole)
  parts = {}
  for name in (name for name in own.SPLITS if name in found):
    each = config.target == 'step'
    made = windows(*found[name], config.window, config.horizon, each)
    if not len(made.rows):
      raise DataError(
        f'the {len(found[name][0]):,} steps for {name} hold no window of {config.window} steps with'
        f' a target {config.horizon} later'
      )
    parts[name] = own.take(made, slice(config.max_examples or None))
  return pathlib.Path(config.path).name, parts, names, notes, {'columns': list(features)}


def _steps(frame, rows, path, features, names, config):
  """The inputs, the targets and the row numbers of a table's steps, in the order of time."""
  inputs = _numbers(frame, features, 'data.features', rows, path)
  targets = _numbers(frame, names, 'data.label', rows, path)
  if not config.time:
    return inputs, targets, rows
  given = table.column(frame, config.time, 'data.time', path).tolist()
  order = np.argsort(table.times(given, rows, config.time, path), kind='stable')
  return inputs[order], targets[order], rows[order]


def _numbers(frame, names, field, rows, path):
  """Columns of a table as numbers, float64 `[N, columns]`."""
  columns = [
    table.numbers(table.column(frame, name, field, path), rows, name, path) for name in names
  ]
  if not columns:
    raise DataError(f'{path}: which columns? --config.{field}=COLUMN')
  return np.stack(columns, axis=1)


def _listed(names):
  return tuple(name.strip() for name in names.split(',') if name.strip())


def _values(name, part, target) -> list[np.ndarray]:
  """The targets of each example, float64 `[V]`, or `[T, V]` if there is one at each step."""
  found = []
  for row, one, given in zip(part.rows, part.inputs, part.targets, strict=True):
    try:
      value = np.asarray(given, np.float64)
    except (TypeError, ValueError):
      raise DataError(f'{name} row {row}: {given!r:.60} is not a number') from None
    wanted = 1 if target == 'row' else 2
    value = value[..., None] if value.ndim == wanted - 1 else value
    if value.ndim != wanted or (wanted == 2 and len(value) < len(one)):
      raise DataError(
        f'{name} row {row}: its targets have the shape {list(np.shape(given))}, but'
        f' data.target={target!r} needs ' + ('one per row' if wanted == 1 else 'one at each step')
      )
    value = value[: len(one)] if wanted == 2 else value
    if not np.isfinite(value).all():
      raise DataError(f'{name} row {row}: its target is missing or infinite')
    found.append(value)
  return found


def _targets(standard, std, inputs, config) -> dict[str, np.ndarray]:
  """The arrays of a split other than its inputs."""
  one = len(std) == 1
  unit = np.broadcast_to(np.float32(std), (len(standard), len(std)))
  arrays = {'unit': np.ascontiguousarray(unit[:, 0] if one else unit)}
  if config.target == 'row':
    targets = np.array(standard, np.float32)
  else:
    targets = sequences.aligned(standard, inputs, config, 0, np.float32)
    arrays['real'] = sequences.real(inputs)
  return {'targets': targets[..., 0] if one else targets, **arrays}


def loss(outputs, batch) -> dict[str, tuple[Any, Any]]:
  """The squared error of standardised targets, and the absolute error in their unit, summed.

  For several numbers, it is the mean over them. Each real step counts like a row.
  """
  import jax.numpy as jnp

  weights, unit = batch['weights'], batch['unit']
  if 'real' in batch:
    weights, unit = weights[:, None] * batch['real'], unit[:, None]
  errors = outputs - batch['targets']
  several = errors.ndim > weights.ndim
  errors = jnp.where((weights[..., None] if several else weights) > 0, errors, 0)

  def total(values):
    return jnp.sum(weights * (values.mean(axis=-1) if several else values))

  count = jnp.sum(weights)
  return {'mae': (total(jnp.abs(errors) * unit), count), 'loss': (total(errors**2), count)}


def score(outputs, split) -> dict[str, Any]:
  """The root mean squared error, in the targets' unit, and R2; means over several numbers."""
  import jax.numpy as jnp

  real = split.get('real', jnp.ones(outputs.shape[:1], bool))
  size = 1 if outputs.ndim == real.ndim else outputs.shape[-1]
  found = outputs.reshape(-1, size), split['targets'].reshape(-1, size), real.ravel()
  unit = split['unit'].reshape(-1, size)[0]
  return {'rmse': jnp.mean(scores.rmse(*found) * unit), 'r2': scores.r2(*found)}


def spec(config, encoding, vocabulary) -> sequences.Spec:
  """What the model has to know."""
  size, steps = len(encoding['values']), encoding['target'] == 'step'
  return sequences.spec(config, encoding, size, steps)


def outputs(encoding) -> Outputs:
  """Outputs are standardised numbers, for a row or at each step."""
  mean, std = encoding['target_mean'], encoding['target_std']
  if len(mean) == 1:
    mean, std = mean[0], std[0]
  else:
    mean, std = tuple(mean), tuple(std)
  return Outputs('values', tuple(encoding['values']), encoding['target'] == 'step', mean, std)


def decode(outputs_, encoding) -> dict[str, Sequence[Any]]:
  """The numbers in the targets' own units: a column for each, with arrays `[T]` if at each step."""
  found = _in_units(np.asarray(outputs_, np.float64), encoding)
  names = encoding['values']
  if len(names) == 1:
    return {'value': found if found.ndim == 1 else [*found]}
  columns = {f'value_{name}': found[..., i] for i, name in enumerate(names)}
  return {name: one if one.ndim == 1 else [*one] for name, one in columns.items()}


def _in_units(standard, encoding):
  mean, std = (np.array(encoding[f'target_{of}']) for of in ('mean', 'std'))
  return standard * (std[0] if len(std) == 1 else std) + (mean[0] if len(mean) == 1 else mean)


def panels(predictions: Sequence[Mapping[str, Any]], encoding) -> list[Panel]:
  """Predicted values and errors against true values, for each number.

  They are of all runs together; of more than POINTS points, some are shown, evenly spaced.
  """
  pairs = []
  for of in predictions:
    found, true = (
      _in_units(np.asarray(array, np.float64), encoding)
      for array in (of.get('best', of['final']), of['targets'])
    )
    real = np.asarray(of.get('real', np.ones(len(true), bool)))
    size = len(encoding['values'])
    pairs.append([array.reshape(*real.shape, size)[real] for array in (true, found)])
  true, found = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
  places = np.unique(np.linspace(0, len(true) - 1, POINTS).astype(int))
  made = []
  for i, name in enumerate(encoding['values']):
    x, y = true[places, i], found[places, i]
    caption = f'{len(places):,} of the {len(true):,} predictions of the test split.'
    made.append(
      Panel(
        'scatter',
        f'Predicted and true {name}',
        f'{caption} On the line, the two are equal.',
        {'x': x, 'y': y, 'reference': 'diagonal', 'x_label': 'true', 'y_label': 'predicted'},
      )
    )
    made.append(
      Panel(
        'scatter',
        f'Errors of {name}',
        f'{caption} The error is the predicted value minus the true one.',
        {'x': x, 'y': y - x, 'reference': 'zero', 'x_label': 'true', 'y_label': 'error'},
      )
    )
  return made


task = Task(
  name='regression',
  load=load,
  model=sequences.model,
  loss=loss,
  metrics=(
    Metric('rmse', '', 'lower', '.4g'),
    Metric('mae', '', 'lower', '.4g'),
    Metric('r2', '', 'higher', '.3f'),
    Metric('loss', '', 'lower', '.4f'),
  ),
  fields={
    **sequences.MODEL,
    'model.pooling': sequences.POOLING,
    **sequences.data_fields(),
    'data.label': Field(
      'label', fields.TEXT, "the column to predict; or several, with ',' between"
    ),
    'data.features': Field(
      '', fields.TEXT, "for windows: the columns of the inputs; '': all but data.time"
    ),
    'data.time': Field(
      '', fields.TEXT, "for windows: a column, numbers or dates, to sort by; '': in order"
    ),
    'data.group': Field(
      '', fields.TEXT, "a column; rows that share its value stay in one split; '': equal texts do"
    ),
    'data.target': Field('row', fields.choice(lambda: ('row', 'step')), 'row | step'),
    'data.window': Field(
      0, fields.whole(0), 'steps of a window of a table with a row per step; 0: no windows'
    ),
    'data.horizon': Field(1, fields.whole(1), 'for windows: how many steps later the target is'),
  },
  check=sequences.check,
  settle=sequences.settle,
  score=score,
  encode=sequences.encode,
  decode=decode,
  outputs=outputs,
  spec=spec,
  panels=panels,
)
