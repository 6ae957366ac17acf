"""What a report draws of translations: quality by length, attention, the best and the worst.

`examine` measures what the drawings need of a run's model; `panels` turns this and the translations
of the test split into what a report draws.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rnnlab.data import pairs
from rnnlab.tasks import bleu, edits
from rnnlab.tasks.base import Panel

PICTURED = 3  # sentences whose attention is drawn
TOLD = 4  # of the best sentences, and as many of the worst
CLASSES = 10  # of lengths, at most

SEEDS = (
  ' Lines are means over seeds; bands span the lowest to the highest seed (no band for a '
  'single seed).'
)


def examine(model, params, dataset) -> dict[str, Any]:
  """What the model attends to in a few sentences of the test split, and the sources of all.

  The sentences are at the quartiles of length, so the choice depends only on the data.

  Returns sources, uint8 `[N, L]`, UTF-8 padded at the end with 0; pictured, int32 `[P]`, places in
  the split; pictured_source, int32 `[P, S]`, and pictured_target, int32 `[P, T]`, ids, those of the
  target the most likely at each step; and, for a model with attention, attention, float32
  `[P, T, S]`.
  """
  import jax

  from rnnlab.models import decoding

  source = np.asarray(dataset.splits['test']['inputs']['source'])
  order = np.argsort((source != 0).sum(axis=1), kind='stable')
  rows = order[[len(order) * part // (PICTURED + 1) for part in range(1, PICTURED + 1)]]
  some = source[rows]
  some = some[:, : (some != 0).sum(axis=1).max()]
  search = decoding.Search(pairs.BOS, pairs.EOS, (pairs.PAD, pairs.BOS, pairs.UNK), size=1)

  @jax.jit
  def followed(params, ids):
    return decoding.follow(*decoding.of_models((model,), (params,), some), ids, pairs.BOS)[1]

  ids = np.asarray(decoding.found((model,), (params,), some, search).ids[:, 0])
  ids = ids[:, : (ids != 0).sum(axis=1).max()]
  found = {
    'sources': pairs.as_bytes(dataset.shown(np.arange(len(source)))),
    'pictured': rows.astype(np.int32),
    'pictured_source': some,
    'pictured_target': ids,
  }
  weights = followed(params, ids)
  return found if weights is None else found | {'attention': np.asarray(weights)}


def panels(predictions: Sequence[Mapping[str, Any]], encoding) -> list[Panel]:
  """The score by length, the attention of the first run, and sentences with their translations."""
  first = predictions[0]
  made = [_by_length(predictions, encoding)]
  if 'attention' in first:
    made.append(_attention(first, encoding))
  made.append(_sentences(predictions))
  return made


def _by_length(predictions, encoding):
  """BLEU if it is known, else the share of wrong tokens, over classes of the source's length."""
  lengths = np.asarray(predictions[0]['source_lengths'])
  has_bleu = all('bleu_statistics' in of for of in predictions)
  name = 'bleu_statistics' if has_bleu else 'edit_statistics'
  wide = max(1, -(-int(np.quantile(lengths, 0.98)) // CLASSES))
  classes = (np.maximum(lengths, 1) - 1) // wide
  # The last class has all that are longer, and at least a hundredth of the sentences.
  or_longer = np.cumsum(np.bincount(classes)[::-1])[::-1]
  last = min(CLASSES - 1, int(np.flatnonzero(or_longer >= len(lengths) / 100)[-1]))
  classes = np.minimum(classes, last)
  there = np.unique(classes)

  def score(sums):
    return bleu.score(sums) if has_bleu else 100 * edits.score(sums)[0]

  values = np.array(
    [[score(of[name][classes == i].sum(axis=0)) for i in there] for of in predictions]
  )
  unit = encoding['source']['unit']
  word = 'BLEU' if has_bleu else 'Wrong tokens, %'
  caption = (
    f'The sentences of the test split by the length of their source, in {unit}s; below is their'
    f' number.{SEEDS} {"Higher" if has_bleu else "Lower"} is better.'
  )
  if 'bleu_signature' in predictions[0]:
    caption += f' sacreBLEU: {pairs.from_bytes(predictions[0]["bleu_signature"])[0]}.'
  longest = int(lengths.max())
  data = {
    'x': np.arange(len(there)),
    'y': values.mean(axis=0),
    'low': values.min(axis=0),
    'high': values.max(axis=0),
    'counts': np.bincount(classes)[there],
    'counted': 'sentences',
    'ticks': [_range(i * wide + 1, longest if i == last else (i + 1) * wide) for i in there],
    'x_label': f'{unit}s of the source',
    'y_label': word,
  }
  return Panel('curve', f'{word.split(",")[0]} by length', caption, data)


def _range(low, high):
  return f'{low}–{high}' if low < high else f'{low}'


def _attention(first, encoding):
  """The attention of the first run, with a picture for each sentence."""
  each = []
  for source, target, weights in zip(
    first['pictured_source'], first['pictured_target'], first['attention'], strict=True
  ):
    tokens = [_tokens(source, encoding['source']), _tokens(target, encoding['target'])]
    cut = np.asarray(weights)[: len(tokens[1]), : len(tokens[0])]
    each.append({'source': tokens[0], 'target': tokens[1], 'weights': cut})
  caption = (
    'How much each token of a translation, from top to bottom, attended to each token of its'
    ' source, in the model of the first seed of each setting: white is 0, the full colour 1. The'
    ' sentences are at the quartiles of length in the test split, and each token is the most likely'
    ' one after those before it.'
  )
  return Panel('attention', 'Attention', caption, {'each': each})


def _tokens(ids, side):
  """The tokens up to and including the end, as people read them."""
  known = [int(i) for i in ids if i != pairs.PAD]
  if side['unit'] != 'subword':
    return [side['vocabulary'][i] for i in known]
  return [side['vocabulary'][i] if i < pairs.FIRST else pairs.decode([i], side) for i in known]


def _sentences(predictions):
  """A few sentences that are the same for all settings, and this one's best and worst."""
  first = predictions[0]
  statistics = np.stack([np.asarray(of['edit_statistics'], float) for of in predictions])
  wrong = (statistics[:, :, 0] / np.maximum(statistics[:, :, 1], 1)).mean(axis=0)
  length = statistics[0, :, 1]
  pictured = np.asarray(first['pictured']).tolist()
  best, worst = (
    np.lexsort((np.arange(len(wrong)), -length, sign * wrong))[:TOLD] for sign in (1, -1)
  )
  parts = (('The same for all settings', pictured), ('Best', best), ('Worst', worst))
  lines = []
  for title, rows in parts:
    lines += [f'{title}:', '']
    for row in rows:
      lines += [*_told(first, row), f'  wrong   {wrong[row]:.0%} of {length[row]:.0f} tokens', '']
  caption = (
    'Sentences of the test split, each with the right answer and that of the model of the first'
    f' seed of each setting: {len(pictured)} that are the same for all settings, then the {TOLD}'
    f' with the smallest and the {TOLD} with the largest share of tokens that must be changed, on'
    ' average over seeds, the longest first.'
  )
  return Panel('tokens', 'Translations', caption, {'text': '\n'.join(lines).rstrip()})


def _told(first, row):
  source, translation = (
    pairs.from_bytes(first[name][[row]])[0] for name in ('sources', 'translations')
  )
  right = [text for text in pairs.from_bytes(first['references'][row]) if text]
  return [f'  source  {source}', f'  right   {" / ".join(right)}', f'  says    {translation}']
