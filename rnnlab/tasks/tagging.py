"""Tags each step of a text or a series: names, parts of speech, sleep stages; by span F1.

    tokens -> ids -> embedding -+-> recurrent layers -> at each step a logit for each tag
    series [T, D] --------------+

The arrays of a split: inputs as in `rnnlab.tasks.sequences`; labels, int32 `[N, T]`, -1 where
padded; codes, int32 `[N, C, 2]`, the meaning of the tags, see `scores.span_codes`.

A tag often depends on what follows it, but model.bidirectional is False unless a config sets it, as
for every task.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rnnlab.data import DataError, own, table
from rnnlab.data.base import Dataset, Examples
from rnnlab.tasks import fields, scores, sequences
from rnnlab.tasks.base import Metric, Outputs, Panel, Task
from rnnlab.tasks.fields import Field

SHOWN = 12  # tags in a line for people, at most


def load(config) -> Dataset:
  """The dataset that a config's `data` part describes. Raises DataError, for people."""
  made = sequences.kept(config, _load)
  return made._replace(spec=spec(config, made.encoding, made.vocabulary))


def _load(config):

  def of_table(path):
    frame, rows = table.read(path)
    fields_ = (config.text, 'data.text'), (config.label, 'data.label')
    texts, tags = (
      table.texts(table.column(frame, name, field, path), rows, name, path)
      for name, field in fields_
    )
    return Examples([t.split() for t in texts], [t.split() for t in tags], rows), texts

  title, given, empty = own.read(config, of_table)
  parts, notes = own.split(config, given)
  notes = [*empty, *notes]
  tags = {name: _tags(name, part) for name, part in parts.items()}
  counts = {name: Counter(tag for row in rows for tag in row) for name, rows in tags.items()}
  names = sorted(set().union(*counts.values()))
  if len(names) < 2:
    raise DataError(f'there is only one tag, {names[0]!r}: there is nothing to learn.')
  encoding, vocabulary = sequences.encodings(parts, config)
  encoding |= {'tags': names}
  arrays, lines = sequences.inputs(parts, config, encoding, vocabulary)
  number, codes = {name: i for i, name in enumerate(names)}, scores.span_codes(names)
  splits = {}
  for name, rows in tags.items():
    ids = [np.array([number[tag] for tag in row], np.int32) for row in rows]
    splits[name] = {
      'inputs': arrays[name],
      'labels': sequences.aligned(ids, arrays[name], config, -1, np.int32),
      'codes': np.tile(codes, (len(rows), 1, 1)),
    }
  return Dataset(
    splits,
    title=title,
    line=own.line(parts),
    source=own.source(config),
    fingerprint=sequences.digest(splits),
    vocabulary=vocabulary,
    encoding=encoding,
    notes=(*notes, *lines, *_notes(counts)),
  )


def _tags(name, part) -> list[list[str]]:
  """The tag of each step of each example, as a string."""
  found = []
  for row, one, given in zip(part.rows, part.inputs, part.targets, strict=True):
    if np.ndim(given) != 1:
      raise DataError(f'{name} row {row}: there must be a tag for each step.')
    padded = isinstance(one, np.ndarray) and len(given) > len(one)
    given = given[: len(one)] if padded else given  # y [N, T] beside lengths
    if isinstance(given, np.ndarray) and given.dtype.kind == 'f':
      if (given != np.round(given)).any():  # also where one is NaN
        raise DataError(
          f'{name} row {row}: a tag is missing or a fraction: it must be a whole number or text.'
        )
      given = given.astype(int)
    if len(given) != len(one):
      raise DataError(f'{name} row {row}: {len(one)} steps or tokens, but {len(given)} tags.')
    if not len(given):
      raise DataError(f'{name} row {row} is empty.')
    found.append([str(tag) for tag in given])
  return found


def _notes(counts):
  train = counts['train']
  shown = [f'{tag} {count:,}' for tag, count in train.most_common(SHOWN)]
  more = f' and {len(train) - SHOWN} more' if len(train) > SHOWN else ''
  lines = [f'{len(train)} tags in train: {", ".join(shown)}{more}']
  for name, of in counts.items():
    if missing := sorted(of.keys() - train.keys()):
      lines.append(f'tags of {name} that train lacks: {", ".join(missing[:SHOWN])}')
  names = sorted(set().union(*counts.values()))
  if not scores.has_spans(names):
    other = next(tag for tag in names if tag != 'O' and not scores.has_spans([tag]))
    lines.append(
      f'the tags do not mark spans (B-, I-, O), as {other!r} shows: span F1 counts each step as one'
    )
  return lines


def loss(outputs, batch) -> dict[str, tuple[Any, Any]]:
  """Cross-entropy, in nats, and whether the most likely tag is right, summed over real steps.

  outputs: logits `[B, T, C]`. batch: labels, int `[B, T]`, -1 where padded, and weights `[B]`.
  """
  import jax
  import jax.numpy as jnp

  labels = batch['labels']
  weights = batch['weights'][:, None] * (labels >= 0)
  picked = jnp.take_along_axis(outputs, jnp.maximum(labels, 0)[..., None], axis=-1)[..., 0]
  losses = jax.nn.logsumexp(outputs, axis=-1) - picked
  right = jnp.argmax(outputs, axis=-1) == labels
  count = jnp.sum(weights)
  return {
    'token_accuracy': (jnp.sum(weights * right), count),
    'loss': (jnp.sum(weights * losses), count),
  }


def score(outputs, split) -> dict[str, Any]:
  """F1 of spans; see `scores.span_f1`."""
  predicted = outputs.argmax(axis=-1)
  return {'span_f1': scores.span_f1(split['labels'], predicted, split['codes'])}


def spec(config, encoding, vocabulary) -> sequences.Spec:
  """What the model has to know of the data."""
  return sequences.spec(config, encoding, len(encoding['tags']), steps=True)


def outputs(encoding) -> Outputs:
  """A logit for each tag, at each step."""
  return Outputs('classes', tuple(encoding['tags']), steps=True)


def decode(outputs_, encoding) -> dict[str, Sequence[Any]]:
  """The most likely tag at each step, and its probability: N arrays `[T]` each."""
  names = np.array(encoding['tags'])
  logits = np.asarray(outputs_, np.float64)
  found = np.exp(logits - logits.max(axis=-1, keepdims=True))
  found /= found.sum(axis=-1, keepdims=True)
  return {'tags': [*names[found.argmax(axis=-1)]], 'probability': [*found.max(axis=-1)]}


def panels(predictions: Sequence[Mapping[str, Any]], encoding) -> list[Panel]:
  """How often a step of each type was tagged as each type, over all runs together.

  If tags mark spans, their types are compared, such as PER for B-PER and I-PER, else the tags.
  """
  tags = encoding['tags']
  types = [tag.partition('-')[2] or tag for tag in tags] if scores.has_spans(tags) else tags
  names = sorted({*types}, key=lambda name: (name == 'O', name))
  place = np.array([names.index(type_) for type_ in types])
  counts = np.zeros((len(names), len(names)), np.int64)
  for of in predictions:
    labels = np.asarray(of['labels'])
    real = labels >= 0
    found = np.asarray(of.get('best', of['final'])).argmax(axis=-1)
    np.add.at(counts, (place[labels[real]], place[found[real]]), 1)
  caption = (
    f'The {counts.sum():,} steps of the test split by their true type (rows) and the type of the'
    ' most likely tag (columns).'
  )
  return [
    Panel('matrix', 'Types taken for each other', caption, {'labels': names, 'counts': counts})
  ]


task = Task(
  name='tagging',
  load=load,
  model=sequences.model,
  loss=loss,
  metrics=(
    Metric('span_f1', '%', 'higher', '.1%'),
    Metric('token_accuracy', '%', 'higher', '.1%'),
    Metric('loss', 'nats per step', 'lower', '.3f'),
  ),
  fields={
    **sequences.MODEL,
    **sequences.data_fields('post'),
    'data.text': Field('text', fields.TEXT, 'of a table: the tokens, separated by spaces'),
    'data.label': Field('label', fields.TEXT, 'of a table: their tags, likewise'),
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
