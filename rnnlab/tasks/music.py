"""Polyphonic music: which of 88 keys sound in the next frame of a piano roll.

    previous frames -> recurrent layers -> log-odds of each key -> likelihood of the next frame

The experiment of Boulanger-Lewandowski et al. (2012, Modeling temporal dependencies in
high-dimensional sequences) and Chung et al. (2014, Empirical evaluation of gated recurrent neural
networks on sequence modeling). The loss of a frame is the sum over 88 keys of the binary
cross-entropy, given all frames before it; before the first there is silence, so every frame of a
piece is predicted, including the first, as in Chung et al.'s equation.

- nll: the mean over all frames of a split, in nats. It is what is usually reported, and gives every
  prediction the same weight; the papers do not say whether they report this metric or the next.
- piece_nll: the mean over the pieces of the mean over a piece's frames.
- frame_accuracy: right notes / (right + missed + false notes), summed over a split (Bay et al.
  2009), of the notes whose probability is above 1/2.

The arrays of a split: inputs, {'rolls': uint8 `[N, T + 1, 88]`, the frames to be predicted after
the one before them, padded at the end with 0; 'lengths': int32 `[N]`, how many are predicted}.
Train pieces that are longer than data.max_len are cut into parts; each part begins with an empty
state and is given the frame before it. Validation and test pieces are whole.
"""

import pathlib
from typing import Any

import numpy as np

from rnnlab.data import DataError, own, rolls
from rnnlab.data.base import Dataset, Examples
from rnnlab.tasks import fields, sequences
from rnnlab.tasks.base import Metric, Task
from rnnlab.tasks.fields import Field

DRAWN = {'train': 24, 'validation': 8, 'test': 8}  # made-up pieces, of at most 24 frames


def load(config) -> Dataset:
  """The dataset that a config's `data` part describes. Raises DataError, for people."""
  if config.source == 'drawn':
    if config.path:
      raise DataError(f'--config.data.path={config.path} is not read: data.source is drawn')
    title = 'made-up chords, drawn'
    found = {name: rolls.drawn(n, 24, seed) for seed, (name, n) in enumerate(DRAWN.items())}
  elif not config.path:
    raise DataError('give rolls: --config.data.path=FILE, a .mat or an .npz, or a folder of .csv')
  else:
    path = pathlib.Path(config.path).expanduser()
    title, found = path.name, rolls.read(path)
  given = {}
  for name, pieces in found.items():
    examples = Examples(pieces, [None] * len(pieces), np.arange(1, len(pieces) + 1))
    given[name or 'train'] = examples, [piece.tobytes().hex() for piece in pieces]
  parts, notes = own.split(config, given)
  for name, part in parts.items():
    lengths = [*map(len, part.inputs)]
    sounding = sum(int(piece.sum()) for piece in part.inputs) / sum(lengths)
    notes.append(
      f'{name}: {sum(lengths):,} frames, {min(lengths):,} to {max(lengths):,} per piece, with'
      f' {sounding:.2f} notes each'
    )
  splits = {
    name: {'inputs': _arrays(part.inputs, config.max_len if name == 'train' else 0)}
    for name, part in parts.items()
  }
  return Dataset(
    splits,
    title=title,
    line=own.line(parts, 'pieces'),
    source=config.source,
    fingerprint=sequences.digest(splits),
    spec=sequences.Spec(None, True, rolls.KEYS, True),
    encoding={'keys': rolls.KEYS},
    notes=tuple(notes),
  )


def _arrays(pieces, most) -> dict[str, np.ndarray]:
  """Pieces, cut into parts of at most `most` frames (0: uncut), each after the frame before it."""
  found = []
  for piece in pieces:
    led = np.concatenate([np.zeros_like(piece[:1]), piece])
    step = most or len(piece)
    found += [led[start : start + step + 1] for start in range(0, len(piece), step)]
  lengths = np.array([len(part) - 1 for part in found], np.int32)
  padded = np.zeros((len(found), lengths.max() + 1, rolls.KEYS), np.uint8)
  for row, part in zip(padded, found, strict=True):
    row[: len(part)] = part
  return {'rolls': padded, 'lengths': lengths}


def model(config, spec: sequences.Spec):
  """The model that the `model` part of a config describes."""
  from rnnlab import models

  return models.RollModel(sequences.model(config, spec))


def loss(outputs, batch) -> dict[str, tuple[Any, Any]]:
  """The sums of the metrics defined above.

  outputs: `[B, T, 3]`, see `rnnlab.models.RollModel`. batch: has lengths among its inputs, and
  weights `[B]`.
  """
  import jax.numpy as jnp

  weights = batch['weights']
  lengths = batch['inputs']['lengths']
  frames = jnp.sum(weights * lengths)
  nll, hits, misses = jnp.moveaxis(jnp.sum(outputs, axis=1), -1, 0)  # of each piece
  right = jnp.sum(weights * hits)
  total = jnp.sum(weights * nll)
  return {
    'nll': (total, frames),
    'piece_nll': (jnp.sum(weights * nll / lengths), jnp.sum(weights)),
    'frame_accuracy': (right, right + jnp.sum(weights * misses)),
    'loss': (total, frames),
  }


def check(given: dict[str, Any]) -> None:
  """Raises ValueError for fields that don't go together, or need more memory than there is."""
  if given['model.bidirectional']:
    raise ValueError(
      '--config.model.bidirectional=True: a model of the next frame must not see later frames'
    )
  units = given['train.batch_size'] * given['model.hidden_size']
  fields.check_room(given, {'train.batch_size model.hidden_size': units})


_DATA = sequences.data_fields()

task = Task(
  name='music',
  load=load,
  model=model,
  loss=loss,
  metrics=(
    Metric('nll', 'nats per frame', 'lower', '.3f'),
    Metric('piece_nll', 'nats per frame', 'lower', '.3f'),
    Metric('frame_accuracy', '%', 'higher', '.1%'),
    Metric('loss', 'nats per frame', 'lower', '.4f'),
  ),
  fields={
    'model.embed_dropout': Field(0.0, fields.RATE, 'of the notes of the frame before', traced=True),
    'model.output_dropout': sequences.MODEL['model.output_dropout'],
    'model.dropout': Field(0.0, fields.RATE, traced=True),
    'model.recurrent_dropout': Field(0.0, fields.RATE, traced=True),
    'data.source': Field(
      'file',
      fields.choice(lambda: ('file', 'drawn')),
      'file: data.path | drawn: a few made-up pieces, to try out a model without data',
    ),
    'data.path': Field('', fields.PATH, 'a .mat or an .npz of rolls, or a folder of .csv files'),
    'data.max_len': Field(
      0, fields.whole(0), 'frames of the parts that train pieces are cut into; 0: uncut'
    ),
    **{
      f'data.{name}': _DATA[f'data.{name}']
      for name in ('validation_fraction', 'test_fraction', 'split_seed', 'max_examples')
    },
  },
  check=check,
)
