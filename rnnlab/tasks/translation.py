"""Translates texts, token by token, each given the source and the tokens before it.

    source -> encoder -> memory <- attention <- decoder -> logits of the vocabulary -> -log p(token)

The splits are those of `rnnlab.data.pairs`. The model's output for a pair is float32 `[2]`: the
negative log-likelihood of the target in nats, and the number of its tokens, including the end.

Epochs are chosen by perplexity, given the right previous tokens (teacher forcing). The quality of
the translations that a model writes by itself is measured once, on the test split, at the end of a
run: of greedy translations and, if model.beam asks for it, of those of a beam search.
"""

import functools
import importlib.util
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rnnlab.data import aligned, batching, pairs
from rnnlab.data.base import Dataset
from rnnlab.tasks import bleu, edits, fields, translating, translation_panels
from rnnlab.tasks.base import Metric, Outputs, Task
from rnnlab.tasks.fields import Field

# JAX, and what loads it, is imported where it is used: --help and --status answer at once.

ROWS = 256  # hypotheses computed at once
RATES = 'token_error_rate', 'sentence_error_rate'


def load(config) -> Dataset:
  """The pairs that a config's `data` part describes. Raises DataError."""
  made = pairs.load(config)
  sides = made.splits['train']['inputs'].values()
  lengths = np.max([(ids != 0).sum(axis=1) for ids in sides], axis=0)
  notes = made.notes
  if made.source in aligned.SENTENCES and not _has_sacrebleu():
    notes += ('BLEU is left out: pip install -r experiments/translation.txt',)
  return made._replace(widths=batching.widths(lengths, config.buckets), notes=notes)


def _has_sacrebleu():
  return importlib.util.find_spec('sacrebleu') is not None


def model(config, spec: pairs.Spec):
  """The model that the `model` part of a config describes, for sides of these sizes."""
  from rnnlab import models
  from rnnlab.models import initial

  def layers(name):
    options = dict(getattr(config, name, {}))
    one = initial.cell(config.init, name, hidden_size=config.hidden_size, **options)
    return (one,) * config.layers

  return models.Seq2Seq(
    encoder=layers(config.cell),
    decoder=layers(config.decoder_cell or config.cell),
    source_size=spec.source,
    target_size=spec.target,
    embed_size=config.embed_size,
    bidirectional=config.bidirectional,
    attention=config.attention,
    attention_size=config.attention_size,
    input_feeding=config.input_feeding,
    shared=spec.shared,
    tied=config.tied,
    embed_dropout=config.embed_dropout,
    dropout=config.dropout,
    recurrent_dropout=config.recurrent_dropout,
    output_dropout=config.output_dropout,
    word_dropout=config.word_dropout,
    scheduled_sampling=config.scheduled_sampling,
    label_smoothing=config.label_smoothing,
    precision=config.precision,
    remat=config.remat,
    convention=config.init,
    beam=config.beam,
  )


def loss(outputs, batch) -> dict[str, tuple[Any, Any]]:
  """The sums of the negative log-likelihood of tokens, which give perplexity too.

  outputs: `[B, 2]`; in training, a dict of 'nll', 'tokens' and 'objective', `[B]` each.
  """
  import jax.numpy as jnp

  weights, given = batch['weights'], isinstance(outputs, Mapping)
  nll, tokens = (outputs['nll'], outputs['tokens']) if given else outputs.T
  count = jnp.sum(weights * tokens)
  total = jnp.sum(weights * nll), count
  sums = {'perplexity': total, 'loss': total}
  if given:
    sums['objective'] = jnp.sum(weights * outputs['objective']), count
  return sums


def examine(model, params, dataset) -> dict[str, Any]:
  """The greedy translations of the test split, and how good they are.

  Returns translations, uint8 `[N, L]`, UTF-8 padded at the end with 0; source_lengths, int32 `[N]`,
  in tokens without the end; edit_statistics, int64 `[N, 4]`, see `rnnlab.tasks.edits`; if sacreBLEU
  is installed and the data are pairs of sentences, bleu_statistics and chrf_statistics, see
  `rnnlab.tasks.bleu`, and bleu_signature, uint8 `[1, L]`; the metrics computed from their sums; and
  what a report draws, see `rnnlab.tasks.translation_panels`. If the model's beam is wider than 1,
  the translations that the search finds, with their statistics and metrics, are there too, under
  names with 'beam_' before them, and the seconds that each way of translating took, compilation
  included.
  """
  source = np.asarray(dataset.splits['test']['inputs']['source'])
  found: dict[str, Any] = {'source_lengths': (source != 0).sum(axis=1, dtype=np.int32) - 1}
  for prefix, size in (('', 1), ('beam_', model.beam))[: 1 + (model.beam > 1)]:
    began = time.perf_counter()
    translations = translated(model, params, source, dataset.encoding, size)
    seconds = time.perf_counter() - began
    found |= {f'{prefix}{name}': of for name, of in _scored(translations, dataset).items()}
    if model.beam > 1:
      found[f'{prefix or "greedy_"}time'] = seconds
  if 'bleu' in found:
    signature = bleu.signature(pairs.references(dataset.splits['test']))
    found['bleu_signature'] = pairs.as_bytes([signature])
  return found | translation_panels.examine(model, params, dataset)


def _scored(translations, dataset):
  """Translations of the test split, what each adds to sums, and the figures that these make."""
  references = pairs.references(dataset.splits['test'])
  statistics = edits.statistics(translations, references)
  of_tokens, of_sentences = edits.score(statistics.sum(axis=0))
  found = {
    'translations': pairs.as_bytes(translations),
    'edit_statistics': statistics,
    'token_error_rate': of_tokens,
    'sentence_error_rate': of_sentences,
  }
  if dataset.source in aligned.SENTENCES and _has_sacrebleu():
    for name in bleu.METRICS:
      of = found[f'{name}_statistics'] = bleu.statistics(translations, references, name)
      found[name] = bleu.score(of.sum(axis=0), name)
  return found


def sums(predictions, outputs) -> dict[str, tuple[Any, Any]]:
  """What each pair of the test split adds to the sums that metrics are made of, and how they are.

  predictions: what `examine` gives is among them. outputs: `[N, 2]`.
  """
  found: dict[str, tuple[Any, Any]] = {'perplexity': (outputs, lambda s: np.exp(s[:, 0] / s[:, 1]))}
  scores = {name: ('edit', lambda sums, i=i: edits.score(sums)[i]) for i, name in enumerate(RATES)}
  if _has_sacrebleu():
    scores |= {name: (name, functools.partial(bleu.scores, metric=name)) for name in bleu.METRICS}
  for prefix in ('', 'beam_'):
    for name, (of, score) in scores.items():
      if (kept := f'{prefix}{of}_statistics') in predictions:
        found[f'{prefix}{name}'] = predictions[kept], score
  return found


def translated(model, params, source, encoding, size=1) -> list[str]:
  """The translations of sources, int32 `[N, S]`: greedy, or of a beam search of this size."""
  from rnnlab.models import decoding

  never = pairs.PAD, pairs.BOS, pairs.UNK
  search = decoding.Search(pairs.BOS, pairs.EOS, never, size, decoding.LENGTH)

  def of_batch(source):
    return decoding.found((model,), (params,), source, search)

  found = decoding.in_batches(of_batch, source, max(1, ROWS // size))
  return [pairs.decode(ids.tolist(), encoding['target']) for ids in found.ids[:, 0]]


def encode(texts: Sequence[str], config, encoding, vocabulary) -> np.ndarray:
  """The ids of sources, int32 `[N, S]`: see `rnnlab.data.pairs.encode`."""
  return pairs.encode(texts, encoding)


def join(ids, encoding, vocabulary) -> str:
  """The text of ids of the target side."""
  return pairs.decode(ids, encoding['target'])


def outputs(encoding) -> Outputs:
  """Outputs are likelihoods of another text."""
  return Outputs('sequence', ())


def spec(config, encoding, vocabulary) -> pairs.Spec:
  """How many ids each side has."""
  return pairs.spec(encoding)


def check(given: dict[str, Any]) -> None:
  """Raises ValueError for fields that don't go together, or need more memory than there is."""
  for name in ('model.truncate', 'model.dropout_per_gate'):
    if given[name]:
      raise ValueError(
        f'--config.{name}={fields.words(given[name])}: translation does not support this field'
      )
  if given['data.longer'] and given['data.source'] != 'drawn':
    raise ValueError(
      '--config.data.longer=True: only drawn pairs are tested on longer ones, with'
      f' --config.data.source=drawn, and not those of {given["data.source"]!r}'
    )
  embed_size, hidden_size = given['model.embed_size'], given['model.hidden_size']
  if given['model.tied'] and embed_size != hidden_size:
    raise ValueError(
      "--config.model.tied=True: the output shares the weights of the target's embedding, so"
      f' model.embed_size={embed_size} must equal model.hidden_size={hidden_size}'
    )
  directions = 1 + given['model.bidirectional']
  fields.check_room(
    given,
    {
      # Weights count twice, as they have gradients; each side has at least one word.
      'model.embed_size model.hidden_size': (
        2 * (pairs.FIRST + 1) * (2 * embed_size + hidden_size) + 2 * directions * hidden_size**2
      ),
      'model.attention_size model.hidden_size': (
        2 * (given['model.attention'] == 'additive') * given['model.attention_size'] * hidden_size
      ),
      'train.batch_size model.hidden_size': given['train.batch_size'] * hidden_size,
    },
  )


def _cells():
  from rnnlab import cells

  return cells.names()


FIELDS = {
  'model.decoder_cell': Field(
    '',
    fields.choice(lambda: ('', *_cells())),
    "the decoder's cell, any file in rnnlab/cells/; '': model.cell",
  ),
  'model.embed_size': Field(128, fields.SIZE, 'of both sides'),
  'model.attention': Field(
    'additive',
    fields.choice(fields.of('recurrence.attention', 'KINDS')),
    'additive | multiplicative | none: the source is read backwards',
  ),
  'model.attention_size': Field(128, fields.SIZE, 'features that additive attention compares'),
  'model.input_feeding': Field(
    True, fields.FLAG, 'multiplicative attention: a step is given the previous output'
  ),
  'model.tied': Field(
    False, fields.FLAG, "the output shares the target's embedding; hidden_size must equal its size"
  ),
  'model.embed_dropout': Field(
    0.0, fields.RATE, 'of both embeddings, one mask for all steps', traced=True
  ),
  'model.output_dropout': Field(
    0.0, fields.RATE, "of the decoder's outputs, one mask for all steps", traced=True
  ),
  'model.word_dropout': Field(
    0.0, fields.RATE, 'of the previous tokens that the decoder is given', traced=True
  ),
  'model.scheduled_sampling': Field(
    0.0,
    fields.RATE,
    'of the tokens before, in place of which the decoder reads its own likeliest (Bengio et al.'
    ' 2015); a step of training then runs the decoder twice',
    traced=True,
  ),
  'model.label_smoothing': Field(
    0.0, fields.RATE, 'the part of the probability spread over all tokens', traced=True
  ),
  'model.beam': Field(
    1,
    fields.whole(1, 1000),
    'hypotheses of a beam search that the test split is translated by at the end, beside the'
    ' likeliest token at each step; 1: none',
  ),
  'data.buckets': Field(4, fields.whole(1), 'widths that batches are padded to, by length'),
}


def _written(prefix):
  """The metrics of what a model writes."""
  found = [Metric(f'{prefix}{name}', '', 'higher', '.2f', once=True) for name in bleu.METRICS]
  return found + [Metric(f'{prefix}{name}', '%', 'lower', '.2%', once=True) for name in RATES]


task = Task(
  name='translation',
  load=load,
  model=model,
  loss=loss,
  metrics=(
    Metric('perplexity', '', 'lower', '.3f', link='exp'),
    *_written(''),
    *_written('beam_'),
    Metric('greedy_time', 'seconds', 'lower', '.1f', once=True),
    Metric('beam_time', 'seconds', 'lower', '.1f', once=True),
    Metric('loss', 'nats per token', 'lower', '.4f'),
  ),
  fields={**FIELDS, **translating.DATA},
  check=check,
  settle=translating.settle,
  encode=encode,
  join=join,
  sums=sums,
  outputs=outputs,
  spec=spec,
  examine=examine,
  panels=translation_panels.panels,
)
