"""LSTM, GRU and Elman on a generated problem, three seeds each; each preset is a problem.

    python launch.py --config=experiments/generated.py:PRESET

The presets are those of PRESETS below; the default is temporal_order. Training examples are drawn
anew for each step, 10,000 of them per epoch; validation and test examples are fixed. For all but
the formal languages, the report says what a model without memory reaches. Flags make a problem
harder, for example --config.data.length=200, and a new problem is a file in rnnlab/data/problems.
parity, majority, bucket_sort and modular_arithmetic are trained on up to 40 symbols and tested on
41 to 500 (bucket_sort: 100), as in Deletang et al. (2023). Tested on longer strings are also the
formal languages anbncn, dyck1, dyck2 and reber, where a model says which symbols may come next and
a string is right if every step is right (a^n b^n is in experiments/counting.py).

    python launch.py --config=experiments/generated.py:smoke

Two epochs of tiny models on short strings, to see that everything works.
"""

from rnnlab.runs import configs
from rnnlab.tasks import generated

_LONGER = {'test_min_length': 41, 'test_length': 500, 'test_examples': 1_000}
PRESETS = {
  'temporal_order': {'problem': 'temporal_order'},
  'copy_memory': {'problem': 'copy_memory'},
  'noisy_copy_memory': {'problem': 'copy_memory', 'noise': 0.25},
  'denoising': {'problem': 'denoising'},
  'parity': {'problem': 'parity', **_LONGER},
  'majority': {'problem': 'majority', **_LONGER},
  'bucket_sort': {'problem': 'bucket_sort', **_LONGER, 'length': 40, 'test_length': 100},
  'modular_arithmetic': {'problem': 'modular_arithmetic', **_LONGER},
  'associative_recall': {'problem': 'associative_recall'},
  'retrieval': {'problem': 'retrieval'},
  'anbncn': {'problem': 'anbncn'},
  'dyck1': {'problem': 'dyck', 'brackets': 1},
  'dyck2': {'problem': 'dyck', 'brackets': 2},
  'reber': {'problem': 'reber'},
}
LANGUAGES = ('anbncn', 'dyck1', 'dyck2', 'reber')  # where the symbols that may come next are asked


def get_config(preset=''):
  """The config of `preset`: '' (temporal_order), one of PRESETS, or 'smoke'."""
  if preset not in ('', 'smoke', *PRESETS):
    raise ValueError(
      f'no preset {preset!r} in experiments/generated.py: {", ".join(PRESETS)} or smoke'
    )
  config = configs.default('generated')
  config.data.update(PRESETS.get(preset, PRESETS['temporal_order']))
  config.model.dropout = 0.0
  config.model.recurrent_dropout = 0.0
  config.optim.learning_rate = 3e-3
  config.optim.clip_norm = 1.0
  config.train.batch_size = 64
  config.train.epochs = 20
  if preset in LANGUAGES:
    config.task.metric = 'sequence_accuracy'
  if preset == 'smoke':
    config.data.update(length=10, examples=256, validation_examples=100, test_examples=100)
    config.model.update(hidden_size=8, embed_size=8)
    config.train.epochs = 2
  return config


def sweep(add):
  """Three cells, three seeds each."""
  for seed in range(3):
    for cell in ('lstm', 'gru', 'elman'):
      add({'model.cell': cell, 'seed': seed})


def references(preset):
  """What a model without memory reaches."""
  return generated.references(get_config(preset).data)
