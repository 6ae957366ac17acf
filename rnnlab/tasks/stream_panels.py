"""What is known of a language model beyond its perplexity: where it is surprised, and by how much.

`examine` asks the model of a run, `panels` makes of its answers and of the nll of the test split
what a report draws. Tokens are known by their ids alone, which go by falling count in train.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rnnlab.tasks.base import Panel

STEPS = (1, 2, 5, 10, 20, 50, 100, 200)  # between two resets of the carry; each divides the last
MOST = 10_000  # tokens of which perplexity is asked with little context: more take their time
SAMPLED = 200  # tokens of a sample
PLACES = 30  # in a line, of which the last stands for those after it too

SEEDS = (
  ' Lines are means over seeds, the band goes from the lowest to the highest seed (none for a '
  'single seed). Lower is better.'
)


def examine(model, params, dataset) -> dict[str, Any]:
  """How much context a model makes use of, and what it writes.

  Returns context_steps, int32 `[K]`; context_nll, float32 `[K]`, the mean nats per token where the
  carry is made anew every so many steps, of stretches of the test split that have MOST tokens
  together; and sample, int32 `[SAMPLED]`, ids that are drawn one after the other after the end of a
  line, by seed 0.
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

  Of characters and bytes it is bits, as is usual for them.
  """
  first = predictions[0]
  targets = np.asarray(first['targets'])
  nlls = np.stack([np.asarray(of.get('best', of['final']), float) for of in predictions])
  unit = {'subword': 'piece'}.get(encoding['unit'], encoding['unit'])
  edges = _edges(int(targets.max()) + 1)
  made = [
    _of_classes(
      f'by frequency of the {unit}',
      f'The tokens of the test split by the rank of the {unit} in train, 1 being the most frequent,'
      ' and below how many tokens they are.',
      {'x_label': f'rank of the {unit} in train', 'ticks': _ranges(edges), 'log': 'y'},
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
      f'What the model of the first seed of each setting goes on with after the end of a line:'
      f' {len(first["sample"])} tokens, each drawn from the probabilities that the model gives'
      ' (temperature 1, seed 0).'
    )
    made.append(Panel('tokens', 'Samples', caption, {'ids': first['sample']}))
  return made


def _by_place(ends, nlls, unit):
  """By the place in a line, 1 its first token: each up to PLACES, or classes of long lines."""
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
    f'The tokens of the test split by their place in the line, 1 being the first {unit} of it, and'
    ' below how many tokens they are. The end of a line is its last token.',
    {'x_label': 'place in the line', 'ticks': ticks},
    (np.minimum(np.searchsorted(edges, places), len(edges) - 1), nlls, unit),
  )


def _of_classes(title, caption, data, tokens):
  """A curve over classes of tokens. tokens: the class of each `[N]`, their nll `[R, N]`, a unit."""
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
    f'Stretches of the test split, of {STEPS[-1]} {unit}s each and {MOST:,} together at most, where'
    f' the model forgets all that it has read every so many steps: it then predicts a {unit} from'
    ' this many before it at most, and on average from half as many.'
  )
  axes = {'x_label': 'steps between two new starts', 'y_label': word, 'log': 'x'}
  data = {'x': steps} | _band(values) | axes
  return Panel('curve', f'{word} by context', caption + SEEDS, data)


def _measure(nll, unit):
  """(what it is called, its values): perplexity, or of small units bits."""
  return (
    (f'Bits per {unit}', nll / math.log(2))
    if unit in ('character', 'byte')
    else ('Perplexity', np.exp(nll))
  )


def _band(values):
  """Of values `[R, K]` of R seeds."""
  return {'y': values.mean(axis=0), 'low': values.min(axis=0), 'high': values.max(axis=0)}


def _edges(last):
  """The upper ends of classes of numbers from 1 to `last`: 3, 10, 30, ..."""
  edges = [3]
  while edges[-1] < last:
    edges.append(3 * 10 ** (len(edges) // 2) if len(edges) % 2 == 0 else edges[-1] // 3 * 10)
  return np.array([*edges[:-1], last])


def _ranges(edges):
  """Classes of numbers, of which these are the upper ends, in words."""
  starts = [1, *(edge + 1 for edge in edges[:-1])]
  return [f'{a:,}–{b:,}' if a < b else f'{a:,}' for a, b in zip(starts, edges, strict=True)]
