"""A language model beyond its perplexity: where it is surprised, and by how much.

`examine` measures a run's model; `panels` turns its measurements and the nll of the test split into
what a report draws. Tokens are known only by their ids, ordered by falling count in train.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rnnlab.tasks.base import Panel

STEPS = (1, 2, 5, 10, 20, 50, 100, 200)  # between two resets of the carry; each divides the last
MOST = 10_000  # tokens on which perplexity with little context is measured: more would take long
SAMPLED = 200  # tokens of a sample
SMALL = ('character', 'byte')  # units for which bits are shown in place of perplexity
PLACES = 30  # in a line; the last one stands for all later ones too

SEEDS = (
  ' Lines are means over seeds; bands span the lowest to the highest seed (no band for a '
  'single seed). Lower is better.'
)


def examine(model, params, dataset) -> dict[str, Any]:
  """How much context a model uses, and what it writes.

  Returns context_steps, int32 `[K]`; context_nll, float32 `[K]`, the mean nats per token if the
  carry is reset every so many steps, over stretches of the test split with at most MOST tokens in
  all; and sample, int32 `[SAMPLED]`, ids drawn one after another, starting after the end of a line,
  with seed 0.
  """
  from rnnlab.models import contexts

  split, steps = dataset.splits['test'], np.array(STEPS, np.int32)
  return {
    'context_steps': steps,
    'context_nll': contexts.nll(model, params, split, steps, STEPS[-1], MOST),
    'sample': contexts.sample(model, params, dataset.encoding['end'], SAMPLED),
  }


def panels(predictions: Sequence[Mapping[str, Any]], encoding) -> list[Panel]:
  """Perplexity by frequency, by place in the line and by context, and a sample of the first run.

  For characters and bytes, bits replace perplexity, as is usual.
  """
  first = predictions[0]
  targets = np.asarray(first['targets'])
  nlls = np.stack([np.asarray(of.get('best', of['final']), float) for of in predictions])
  unit = {'subword': 'piece'}.get(encoding['unit'], encoding['unit'])
  edges, log = _edges(int(targets.max()) + 1), '' if unit in SMALL else 'y'
  made = [
    _of_classes(
      f'by frequency of the {unit}',
      f'The tokens of the test split by the rank of the {unit} in train, 1 being the most frequent;'
      ' below is the number of tokens.',
      {'x_label': f'rank of the {unit} in train', 'ticks': _ranges(edges), 'log': log},
      (np.searchsorted(edges, targets + 1), nlls, unit),
    )
  ]
  ends = np.flatnonzero(targets == encoding['end'])
  if len(ends) > 1:
    made.append(_by_place(ends, nlls, unit))
  if all('context_nll' in of for of in predictions):
    made.append(_by_context(predictions, unit))
  if 'sample' in first:
    caption = (
      f'What the model of the first seed of each setting writes after the end of a line:'
      f' {len(first["sample"])} tokens, each drawn from the probabilities that the model gives'
      ' (temperature 1, seed 0).'
    )
    made.append(Panel('tokens', 'Samples', caption, {'ids': first['sample']}))
  return made


def _by_place(ends, nlls, unit):
  """By the place in a line, from 1: single places up to PLACES, or, if lines are long, ranges."""
  tokens = np.arange(nlls.shape[1])
  places = tokens - np.concatenate([[-1], ends])[np.searchsorted(ends, tokens)]
  if np.median(places) < PLACES:
    edges = np.arange(1, PLACES + 1)
    ticks = [*map(str, edges[:-1]), f'{PLACES}+']
  else:
    edges = _edges(int(places.max()))
    ticks = _ranges(edges)
  return _of_classes(
    'by place in the line',
    f'The tokens of the test split by their place in the line, 1 being its first {unit}; below is'
    ' the number of tokens. The end of a line is its last token.',
    {'x_label': 'place in the line', 'ticks': ticks},
    (np.minimum(np.searchsorted(edges, places), len(edges) - 1), nlls, unit),
  )


def _of_classes(title, caption, data, tokens):
  """A curve over classes of tokens. tokens: their classes `[N]`, their nll `[R, N]`, the unit."""
  classes, nlls, unit = tokens
  counts = np.bincount(classes, minlength=len(data['ticks']))
  sums = np.stack([np.bincount(classes, nll, minlength=len(counts)) for nll in nlls])
  there = counts > 0
  word, values = _measure(sums[:, there] / counts[there], unit)
  ticks = [tick for tick, known in zip(data['ticks'], there, strict=True) if known]
  band = _band(values) | {'x': np.arange(len(ticks)), 'counts': counts[there], 'counted': 'tokens'}
  data = data | band | {'ticks': ticks, 'y_label': word}
  return Panel('curve', f'{word} {title}', caption + SEEDS, data)


def _by_context(predictions, unit):
  steps = predictions[0]['context_steps']
  word, values = _measure(np.stack([of['context_nll'] for of in predictions]).astype(float), unit)
  caption = (
    f'Stretches of the test split, of {STEPS[-1]} {unit}s each and at most {MOST:,} in all, where'
    f' the model forgets everything it has read every so many steps: it then predicts a {unit} from'
    ' at most this many before it, and on average from half as many.'
  )
  axes = {'x_label': 'steps between resets', 'y_label': word, 'log': 'x'}
  data = {'x': steps} | _band(values) | axes
  return Panel('curve', f'{word} by context', caption + SEEDS, data)


def _measure(nll, unit):
  """(its name, its values): perplexity, or, for small units, bits."""
  return (f'Bits per {unit}', nll / math.log(2)) if unit in SMALL else ('Perplexity', np.exp(nll))


def _band(values):
  """Mean, lowest and highest of values `[R, K]` over R seeds."""
  return {'y': values.mean(axis=0), 'low': values.min(axis=0), 'high': values.max(axis=0)}


def _edges(last):
  """The upper ends of ranges of numbers from 1 to `last`: 3, 10, 30, ..."""
  edges = [3]
  while edges[-1] < last:
    edges.append(3 * 10 ** (len(edges) // 2) if len(edges) % 2 == 0 else edges[-1] // 3 * 10)
  return np.array([*edges[:-1], last])


def _ranges(edges):
  """Ranges of numbers with these upper ends, in words."""
  starts = [1, *(edge + 1 for edge in edges[:-1])]
  return [f'{a:,}–{b:,}' if a < b else f'{a:,}' for a, b in zip(starts, edges, strict=True)]
