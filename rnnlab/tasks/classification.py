"""Classifies texts or series into one of C classes, or assigns several labels; by accuracy.

    text -> ids -> embedding -+-> recurrent layers -> pooling -> logits
    series [T, D] ------------+

Two classes have one logit, the log-odds of the second. The data are a user's own, a published set,
or, if no file is given, IMDB's reviews.

The arrays of a split: inputs as in `rnnlab.tasks.sequences`; labels, int32 `[N]`, or, if rows have
several labels, float32 `[N, C]`, 1 where the row has the label; and for train, if classes are
weighted, importance, float32 `[N]`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rnnlab.data import DataError, batching, imdb, labelling, own, sources
from rnnlab.data.base import Dataset
from rnnlab.tasks import fields, scores, sequences
from rnnlab.tasks.base import Metric, Outputs, Panel, Task
from rnnlab.tasks.fields import Field

# JAX, and what loads it, is imported where it is used: --help and --status answer at once.

CLASSES = 'negative', 'positive'  # of reviews, and of runs that kept no names
MOST = 20  # classes whose counts are printed


def load(config) -> Dataset:
  """The dataset that a config's `data` part describes. Raises DataError and ValueError."""
  made = _reviews(config) if _is_imdb(config) else sequences.kept(config, _own)
  widths: tuple[int, ...] = ()
  inputs = made.splits['train']['inputs']
  if config.buckets > 1 and not isinstance(inputs, dict):
    widths = batching.widths((inputs != 0).sum(axis=1), config.buckets)
  return made._replace(spec=spec(config, made.encoding, made.vocabulary), widths=widths)


def _is_imdb(config) -> bool:
  """Whether the data are IMDB's reviews."""
  return config.source in sources.SOURCES or config.source == 'auto' and not config.path


def _reviews(config):
  data = imdb.load(config)
  names = ('train', 'validation', 'test') if config.validation_fraction else ('train', 'test')
  splits = {name: getattr(data, name) for name in names}
  sizes = ', '.join(
    f'{len(getattr(data, name).ids):,} {name}' for name in ('train', 'validation', 'test')
  )
  return Dataset(
    splits={name: {'inputs': split.ids, 'labels': split.labels} for name, split in splits.items()},
    title=data.title,
    line=f'{sizes} reviews',
    source=data.source,
    fingerprint=data.fingerprint,
    vocabulary=data.vocabulary,
    encoding={'tokens': 'words', 'classes': CLASSES, 'several': False},
  )


def _own(config):
  """A user's own data, or a published set."""
  title, given, empty = own.read(config, lambda path: labelling.of_table(path, config))
  given = {name: (labelling.labelled(name, one), *more) for name, (one, *more) in given.items()}
  classes = labelling.classes(given['train'][0], config)
  code = {name: i for i, name in enumerate(classes)}
  strata = np.array([code[of[0]] if of else len(code) for of in given['train'][0].targets])
  parts, notes = own.split(config, given, strata, bool(config.time))
  notes = [*empty, *notes]
  counts = labelling.counts(parts, code)
  shown = sorted(counts.items(), key=lambda pair: -pair[1])
  told = ', '.join(f'{name} {count:,}' for name, count in shown[:MOST])
  more = f' and {len(shown) - MOST} more' if len(shown) > MOST else ''
  notes.append(f'{len(classes)} classes in train: {told}{more}')
  encoding, vocabulary = sequences.encodings(parts, config)
  several = labelling.has_several(given['train'][0], config)
  if several and config.class_weights != 'none':
    raise DataError('data.class_weights is for one class per row; these rows have several labels')
  encoding |= {'classes': list(classes), 'several': several}
  arrays, lines = sequences.inputs(parts, config, encoding, vocabulary)
  splits = {
    name: {'inputs': arrays[name], 'labels': labelling.coded(name, part, code, several)}
    for name, part in parts.items()
  }
  if config.class_weights == 'balanced':
    share = len(parts['train'].rows) / (len(classes) * np.array([counts[of] for of in classes]))
    splits['train']['importance'] = share[splits['train']['labels']].astype(np.float32)
  return Dataset(
    splits,
    title=title,
    line=own.line(parts),
    source=own.source(config),
    fingerprint=sequences.digest(splits),
    vocabulary=vocabulary,
    encoding=encoding,
    notes=(*notes, *lines),
  )


def loss(logits, batch) -> dict[str, tuple[Any, Any]]:
  """Cross-entropy, in nats, and accuracy, summed over a batch.

  logits: `[B]` for two classes (the log-odds of class 1), or `[B, C]`. batch: labels, int `[B]`, or
  float `[B, C]` for several labels per row: each is then judged by its own log-odds, and a row is
  right if all its labels are; weights, float `[B]`; and importance, if the loss is weighted by
  class.
  """
  import jax
  import jax.numpy as jnp

  labels, weights = batch['labels'], batch['weights']
  if labels.ndim == 2:
    losses = (jax.nn.softplus(logits) - labels * logits).sum(axis=-1)
    right = ((logits > 0) == (labels > 0)).all(axis=-1)
  elif logits.ndim == 1:
    losses = jax.nn.softplus(logits) - labels * logits
    right = (logits > 0) == labels
  else:
    picked = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
    losses = jax.nn.logsumexp(logits, axis=-1) - picked
    right = jnp.argmax(logits, axis=-1) == labels
  correct = right.astype(jnp.float32)
  count = jnp.sum(weights)
  given = weights * batch['importance'] if 'importance' in batch else weights
  total = jnp.sum(given) if 'importance' in batch else count
  return {
    'accuracy': (jnp.sum(weights * correct), count),
    'loss': (jnp.sum(given * losses), total),
  }


def score(logits, split) -> dict[str, Any]:
  """Macro F1, the area under the ROC curve and the calibration error of a whole split."""
  import jax
  import jax.numpy as jnp

  labels = split['labels']
  if labels.ndim == 2:
    sure = jax.nn.sigmoid(jnp.abs(logits)).ravel()
    right = ((logits > 0) == (labels > 0)).ravel()
    f1 = scores.macro_f1_of_labels(labels, logits > 0)
    area = scores.macro_auroc(logits, labels)
  elif logits.ndim == 1:
    predicted = (logits > 0).astype(jnp.int32)
    sure, right = jax.nn.sigmoid(jnp.abs(logits)), predicted == labels
    f1, area = scores.macro_f1(labels, predicted, 2), scores.auroc(logits, labels)
  else:
    predicted, classes = jnp.argmax(logits, axis=-1), logits.shape[-1]
    probability = jax.nn.softmax(logits, axis=-1)
    sure, right = probability.max(axis=-1), predicted == labels
    f1 = scores.macro_f1(labels, predicted, classes)
    area = scores.macro_auroc(probability, jax.nn.one_hot(labels, classes))
  return {'macro_f1': f1, 'auroc': area, 'ece': scores.ece(sure, right)}


def spec(config, encoding, vocabulary) -> sequences.Spec:
  """What the model has to know; for two classes it outputs one number."""
  count = len(encoding.get('classes', CLASSES))
  several = encoding.get('several', False)
  return sequences.spec(config, encoding, 1 if count == 2 and not several else count, False)


def encode(examples: Sequence[Any], config, encoding, vocabulary) -> Any:
  """New texts or series as inputs of the model; see `sequences.encode`."""
  return sequences.encode(examples, config, {'tokens': 'words'} | encoding, vocabulary)


def outputs(encoding) -> Outputs:
  """The log-odds of the second of two classes or of each label, or a logit for each class."""
  names = tuple(encoding.get('classes', CLASSES))
  if encoding.get('several'):
    return Outputs('labels', names)
  return Outputs('binary' if len(names) == 2 else 'classes', names)


def decode(outputs_, encoding) -> dict[str, Any]:
  """The most likely class of each row, and its probability; for two classes, that of the second.

  For several labels per row: those with a probability above one half, and the probability of each
  label. outputs_: `[N]` for two classes, else `[N, C]`.
  """
  names = np.array(encoding.get('classes', CLASSES))
  logits = np.asarray(outputs_, np.float64)
  if encoding.get('several'):
    logits = logits.reshape(len(logits), -1)
    of_each = {f'probability_{name}': _sigmoid(logits[:, i]) for i, name in enumerate(names)}
    return {'labels': [', '.join(names[row > 0]) for row in logits]} | of_each
  if logits.ndim == 1:
    return {'label': names[(logits > 0).astype(int)], 'probability': _sigmoid(logits)}
  found = np.exp(logits - logits.max(axis=1, keepdims=True))
  found /= found.sum(axis=1, keepdims=True)
  of_each = {f'probability_{name}': found[:, i] for i, name in enumerate(names)}
  return {'label': names[found.argmax(axis=1)], 'probability': found.max(axis=1)} | of_each


def _sigmoid(logits):
  with np.errstate(over='ignore'):
    return 1 / (1 + np.exp(-logits))


def panels(predictions: Sequence[Mapping[str, Any]], encoding) -> list[Panel]:
  """The confusion matrix, unless rows have several labels, and the calibration.

  Both are over all runs together.
  """
  import jax

  names = list(encoding.get('classes', CLASSES))
  confusion = jax.jit(scores.confusion, static_argnums=2)
  size, found, counts = len(names), [], 0
  for of in predictions:
    labels, logits = np.asarray(of['labels']), np.asarray(of.get('best', of['final']))
    if labels.ndim == 2:
      logits = logits.reshape(labels.shape)
      sure, right = _sigmoid(np.abs(logits)).ravel(), ((logits > 0) == (labels > 0)).ravel()
    else:
      if logits.ndim == 1:
        predicted, sure = (logits > 0).astype(int), _sigmoid(np.abs(logits))
      else:
        predicted, sure = logits.argmax(axis=1), decode(logits, encoding)['probability']
      right = predicted == labels
      counts = counts + np.asarray(confusion(labels, predicted, size))
    found.append((sure, right))
  sure, right = (np.concatenate(of) for of in zip(*found, strict=True))
  mean, share, many = map(np.asarray, jax.jit(scores.calibration)(sure, right))
  made = []
  if np.ndim(counts):
    made.append(
      Panel(
        'matrix',
        'Confusion matrix',
        'The test examples of all runs together: rows are the true classes, columns the answers.',
        {'labels': names, 'counts': counts, 'x_label': 'answered', 'y_label': 'true'},
      )
    )
  made.append(
    Panel(
      'curve',
      'Calibration',
      'Answers by the probability that the model gave them, and the share of them that is right. On'
      ' the diagonal both agree; below it, the model is overconfident.',
      {
        **{'x': mean[many > 0], 'y': share[many > 0], 'counts': many[many > 0]},
        **{'reference': 'diagonal', 'x_label': 'probability', 'y_label': 'share right'},
      },
    )
  )
  return made


def vary(train, config, key) -> dict[str, Any]:
  """A run's labels with label noise: each is changed with probability data.label_noise."""
  import jax
  import jax.numpy as jnp

  if not config.data.label_noise:
    return {}
  labels = train['labels']
  key = jax.random.fold_in(key, 3)
  turned = jax.random.bernoulli(key, config.data.label_noise, labels.shape)
  others = 1 - labels
  if labels.ndim == 1 and (classes := int(labels.max()) + 1) > 2:
    others = (labels + jax.random.randint(jax.random.fold_in(key, 0), labels.shape, 1, classes)) % (
      classes
    )
  return {'labels': jnp.where(turned, others, labels)}


def settle(config) -> dict[str, Any]:
  """Which source the data come from, for data.source='auto'."""
  return {'source': sources.resolve(config) if _is_imdb(config) else own.source(config)}


OF_OWN = (  # the fields that IMDB's reviews do not depend on
  *('data.path', 'data.validation_path', 'data.test_path', 'data.text', 'data.label'),
  *('data.separator', 'data.group', 'data.time', 'data.tokens', 'data.class_weights'),
  *('data.scale', 'data.test_fraction'),
)


def check(given: dict[str, Any]) -> None:
  """Raises ValueError for fields that don't go together, or need more memory than there is."""
  if given['data.buckets'] > 1 and not given['data.mask']:
    raise ValueError(
      f'--config.data.buckets={given["data.buckets"]} needs --config.data.mask=True: without a'
      ' mask the model sees the padding, so cutting it off would change the model.'
      ' Set the mask, or --config.data.buckets=1'
    )
  is_imdb = given['data.source'] in sources.SOURCES
  if is_imdb or given['data.source'] == 'auto' and not given['data.path']:
    for name in OF_OWN:
      if given[name] != task.fields[name].default:
        raise ValueError(
          f'--config.{name}={given[name]} is for data of your own, but these are the reviews of'
          ' IMDB: give a file, --config.data.path=FILE'
        )
  if given['data.time'] and given['data.group']:
    raise ValueError('--config.data.time and --config.data.group are two ways to split: give one')
  if given['data.class_weights'] != 'none' and given['data.separator']:
    raise ValueError(
      f'--config.data.class_weights={given["data.class_weights"]} is for one class per row, but'
      ' --config.data.separator says that there may be several'
    )
  if given['data.class_weights'] != 'none' and given['data.label_noise']:
    raise ValueError(
      f'--config.data.class_weights={given["data.class_weights"]} come from the clean labels: with'
      ' --config.data.label_noise they would reveal which labels are clean. Give one of the two'
    )
  sequences.check(given)


task = Task(
  name='classification',
  load=load,
  model=sequences.model,
  loss=loss,
  metrics=(
    Metric('accuracy', '%', 'higher', '.1%'),
    Metric('macro_f1', '%', 'higher', '.1%'),
    Metric('auroc', '', 'higher', '.3f'),
    Metric('ece', '', 'lower', '.3f'),
    Metric('loss', 'nats per example', 'lower', '.3f'),
  ),
  fields={
    **sequences.MODEL,
    'model.pooling': sequences.POOLING,
    **sequences.data_fields(),
    'data.source': Field(
      'auto',
      fields.choice(lambda: ('auto', *sources.SOURCES, *own.FORMATS, *own.sets.SETS)),
      "auto | tfds | directory | package (IMDB) | table | arrays | columns | a set's name",
    ),
    'data.dir': Field(
      '', fields.PATH, "TFDS's data_dir; or an aclImdb folder or tar.gz for source=directory"
    ),
    'data.label': Field('label', fields.TEXT, 'the column of the label'),
    'data.separator': Field('', fields.TEXT, "between several labels of a row; '': one label"),
    'data.group': Field(
      '', fields.TEXT, "a column; rows that share its value stay in one split; '': equal texts do"
    ),
    'data.time': Field(
      '', fields.TEXT, "a column of a table; the latest rows are the test split; '': random split"
    ),
    'data.class_weights': Field(
      'none',
      fields.choice(lambda: ('none', 'balanced')),
      'none | balanced: weights of the loss in training',
    ),
    'data.buckets': Field(
      4, fields.whole(1), 'widths that batches are padded to, by length; above 1 needs mask'
    ),
    'data.label_noise': Field(
      0.0, fields.SHARE, 'the share of the train labels that are changed', traced=True
    ),
  },
  check=check,
  settle=settle,
  vary=vary,
  score=score,
  encode=encode,
  decode=decode,
  outputs=outputs,
  spec=spec,
  panels=panels,
)
