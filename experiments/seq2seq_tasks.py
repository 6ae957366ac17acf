"""LSTM against GRU as encoder and decoder of strings that follow a rule: three seeds each.

    python launch.py --config=experiments/seq2seq_tasks.py:PRESET

The presets are 'reverse' (where none is given), 'copy' and 'sort', of strings of letters, and
'commands', a language like that of SCAN (Lake and Baroni 2018): 'jump twice and walk left' asks for
JUMP JUMP LEFT WALK. The pairs are generated, and no string is in two splits. Perplexity chooses the
epoch and is compared first; the share of strings that are not wholly right (sentence_error_rate) is
measured at the end.

    python launch.py --config=experiments/seq2seq_tasks.py:commands --config.data.longer=True

The test split is of longer ones than those of training: of commands those of more than 22 actions,
which is the length split of SCAN, of letters strings up to twice as long.

    python launch.py --config=experiments/seq2seq_tasks.py:smoke

Two epochs of tiny models on short strings, to see that everything works.
"""

from rnnlab.data import transductions
from rnnlab.runs import configs

PRESETS = (*transductions.RULES, 'smoke')


def get_config(preset=''):
  """The config of `preset`: '' (reverse), or one of PRESETS."""
  if preset not in ('', *PRESETS):
    raise ValueError(f'no preset {preset!r} in experiments/seq2seq_tasks.py: {", ".join(PRESETS)}')
  config = configs.default('translation')
  config.data.source = 'drawn'
  config.data.rule = preset if preset in transductions.RULES else 'reverse'
  config.model.update(hidden_size=64, embed_size=32, attention_size=64, bidirectional=True)
  config.model.dropout = config.model.recurrent_dropout = 0.0
  config.optim.learning_rate = 3e-3
  config.optim.schedule = 'linear'
  config.optim.clip_norm = 1.0
  config.train.batch_size = 64
  config.train.epochs = 10
  if preset == 'smoke':
    config.data.update(length=4, examples=300)
    config.model.update(hidden_size=16, embed_size=8, attention_size=8)
    config.train.update(batch_size=32, epochs=2)
  return config


def sweep(add):
  """Both cells, three seeds each."""
  for seed in range(3):
    for cell in ('lstm', 'gru'):
      add({'model.cell': cell, 'seed': seed})
