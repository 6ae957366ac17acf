"""A stand-in: Penn Treebank's folder, by words."""

import hashlib
import pathlib
from collections import Counter

import numpy as np

from rnnlab.data.base import Dataset


def load(config) -> Dataset:
  found = {}
  for name, file in (('train', 'train'), ('validation', 'valid'), ('test', 'test')):
    path = pathlib.Path(config.path).expanduser() / f'ptb.{file}.txt'
    lines = path.read_text('utf-8').splitlines()
    found[name] = [w for line in lines for w in (*line.split(), '<eos>')]
  counts = Counter(found['train'])
  vocabulary = tuple(sorted(counts, key=lambda w: (-counts[w], w)))
  ids = {w: i for i, w in enumerate(vocabulary)}
  splits = {}
  for name, words in found.items():
    targets = np.array([ids.get(w, ids['<unk>']) for w in words], np.int32)
    inputs = np.concatenate([[ids['<eos>']], targets[:-1]]).astype(np.int32)
    chars = np.array([len(w) + 1 if w != '<eos>' else 1 for w in words], np.int32)
    splits[name] = {'inputs': inputs, 'targets': targets, 'characters': chars}
  digest = hashlib.sha256(b''.join(s['targets'].tobytes() for s in splits.values())).hexdigest()
  line = ', '.join(f'{len(s["targets"]):,} {n}' for n, s in splits.items()) + ' tokens'
  return Dataset(
    splits,
    str(config.path),
    line,
    'corpus',
    digest,
    len(vocabulary),
    (),
    vocabulary,
    {'unit': 'word'},
  )
