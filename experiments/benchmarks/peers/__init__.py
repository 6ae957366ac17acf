"""What experiments/benchmarks/speed.py measures, and the libraries that it measures, one per file.

A peer's file has one function, `build(case) -> (call, repeats)`: `call()` does the work of a case
`repeats` times, and returns once it is done. The first call of a translator returns, as a float, a
value that must be the same for all libraries: the loss before the first step, or log-probabilities.
"""

import importlib.metadata
import importlib.util
from typing import NamedTuple

import numpy as np

from experiments.benchmarks.peers import pairs

VOCABULARY = 10_000
STEPS = 25  # training steps in a call, the chunk of `rnnlab.training.train.fit`
WINDOWS = 3  # of a text in a call: these steps are longer
CLIP = 0.25  # the norm at which gradients of a text are clipped
RATE = 0.2  # of dropout, on inputs and on states
GATES = {'lstm': 4, 'gru': 3}
DROPOUTS = ('none', 'shared', 'per gate')


class Text(NamedTuple):
  """A language model: B streams, windows of T steps, embeddings of D, layers of H units."""

  batch: int
  steps: int
  inputs: int
  hidden: int
  layers: int
  vocab_size: int


TEXTS = {
  'ptb-small': Text(20, 20, 200, 200, 2, 10_000),  # Zaremba et al. 2014, without dropout
  'ptb-medium': Text(20, 35, 650, 650, 2, 10_000),
  'characters': Text(32, 128, 128, 512, 1, 100),
  'vocabulary-50k': Text(32, 64, 200, 200, 1, 50_000),
  'tiny': Text(2, 6, 4, 3, 2, 11),
}


class Case(NamedTuple):
  """One thing to measure.

  what: 'forward', ys of a layer; 'gradient', those of sum(ys * weights) for the parameters and xs;
  'training', a step of the tutorial's classifier, in one direction; 'text', a step of the language
  model named by `text`, in TEXTS; 'pairs', a step of the translator named by `text` in
  `pairs.PAIRS`, and 'greedy', its translations of a thousand sentences. inputs is D, hidden H.
  lengths: whether rows are padded on the right, a quarter of all steps in total.
  """

  what: str
  cell: str
  batch: int
  steps: int
  inputs: int
  hidden: int
  dropout: str = 'none'
  lengths: bool = False
  bidirectional: bool = False
  text: str = ''

  @property
  def name(self) -> str:
    """Such as `lstm gradient 32x200x128x64 lengths`."""
    words = [self.cell, self.what, 'x'.join(map(str, self[2:6]))]
    words += [self.text] * bool(self.text)
    words += ['bidirectional'] * self.bidirectional + ['lengths'] * self.lengths
    words += [f'dropout {self.dropout}'] * (self.dropout != 'none')
    return ' '.join(words)

  @property
  def repeats(self) -> int:
    """How many times a call does the work of the case."""
    return {'training': STEPS, 'text': WINDOWS, 'pairs': pairs.STEPS}.get(self.what, 1)


class Peer(NamedTuple):
  """A library: its file here, the packages it needs, what it can do, its process's environment."""

  module: str
  packages: tuple[str, ...]  # (as imported; the first is the library itself)
  dropouts: tuple[str, ...] = ('none',)
  lengths: bool = True
  bidirectional: bool = True
  texts: bool = False
  pairs: bool = False
  environment: dict[str, str] = {}

  def can(self, case: Case) -> bool:
    """Whether the library offers what the case measures."""
    return (
      case.dropout in self.dropouts
      and self.lengths >= case.lengths
      and self.bidirectional >= case.bidirectional
      and (self.texts or case.what != 'text')
      and (self.pairs or case.what not in ('pairs', 'greedy'))
    )

  def missing(self) -> list[str]:
    """The packages that are not installed."""
    return [name for name in self.packages if importlib.util.find_spec(name) is None]

  def versions(self) -> str:
    """Such as `keras 3.15.1, jax 0.10.2`."""
    return ', '.join(f'{name} {_version(name)}' for name in self.packages)


def _version(package):
  for name in (_DISTRIBUTIONS.get(package, package), package):
    try:
      return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      pass
  return importlib.import_module(package).__version__


_DISTRIBUTIONS = {'haiku': 'dm-haiku', 'tensorflow': 'tensorflow-cpu'}
_KERAS = ('none', 'per gate')
PEERS = {
  'rnnlab': Peer('rnnlab', ('rnnlab', 'jax', 'flax', 'optax'), DROPOUTS, texts=True, pairs=True),
  'keras-jax': Peer('keras', ('keras', 'jax'), _KERAS, environment={'KERAS_BACKEND': 'jax'}),
  'keras-tensorflow': Peer(
    'keras', ('keras', 'tensorflow'), _KERAS, environment={'KERAS_BACKEND': 'tensorflow'}
  ),
  'torch': Peer('torch', ('torch',), texts=True, pairs=True),
  'flax': Peer('flax', ('flax', 'jax', 'optax'), texts=True),
  'haiku': Peer('haiku', ('haiku', 'jax', 'optax'), lengths=False, bidirectional=False),
  'equinox': Peer('equinox', ('equinox', 'jax', 'optax'), lengths=False, bidirectional=False),
}


class Data(NamedTuple):
  """Arrays of a case, the same for all libraries: for a layer, or for the steps of a call.

  For a text, ids and labels are the streams, int [B, WINDOWS T].
  """

  xs: np.ndarray | None  # [B, T, D]
  weights: np.ndarray | None  # [B, T, H], 0 at padded steps; 2H if bidirectional
  ids: np.ndarray | None  # int [25 B, T], 0 at padded steps
  labels: np.ndarray | None  # int [25 B]
  lengths: np.ndarray | None  # int [B] or [25 B]


def data(case: Case) -> Data:
  """Draws the arrays of a case."""
  draw = np.random.default_rng(0)
  if case.text:
    shape = case.batch, WINDOWS * case.steps + 1
    stream = draw.integers(0, TEXTS[case.text].vocab_size, shape, dtype=np.int32)
    return Data(None, None, stream[:, :-1], stream[:, 1:], None)
  training = case.what == 'training'
  rows = case.batch * STEPS if training else case.batch
  lengths = draw.permutation(real_steps(case, rows)).astype(np.int32)
  real = np.arange(case.steps) < lengths[:, None]
  given = lengths if case.lengths else None
  if training:
    ids = draw.integers(1, VOCABULARY, (rows, case.steps), dtype=np.int32)
    return Data(None, None, ids * real, draw.integers(0, 2, rows, dtype=np.int32), given)
  outputs = case.hidden * (1 + case.bidirectional)
  xs = draw.standard_normal((rows, case.steps, case.inputs), dtype=np.float32)
  weights = draw.standard_normal((rows, case.steps, outputs), dtype=np.float32)
  return Data(xs, weights * real[..., None], None, None, given)


def real_steps(case: Case, rows: int) -> np.ndarray:
  """The length of each row: all steps, or lengths spread evenly from half of them to all."""
  first = case.steps / 2 if case.lengths else case.steps
  return np.linspace(first, case.steps, rows).round().astype(int)


def flops(case: Case) -> float:
  """Operations in the matrix products of one repeat of a call, counted from shapes and real steps.

  2 K M for a row's product with a `[K, M]` weight, and twice that again for its two gradients.
  """
  if case.what in ('pairs', 'greedy'):
    return pairs.flops(pairs.PAIRS[case.text], case.cell, case.what == 'greedy')
  vectors = real_steps(case, case.batch).sum() * (1 + case.bidirectional)
  operands = case.inputs + case.hidden
  head = 2 * case.batch * case.hidden * (case.what == 'training')
  if case.text:
    text = TEXTS[case.text]
    operands += 2 * case.hidden * (text.layers - 1)
    head = 2 * vectors * case.hidden * text.vocab_size
  layers = 2 * vectors * operands * GATES[case.cell] * case.hidden
  return float((layers + head) * (1 if case.what == 'forward' else 3))


def tokens(case: Case) -> int:
  """The tokens that one repeat of a call reads or writes: of a text, or of the target of pairs."""
  if case.what in ('pairs', 'greedy'):
    return pairs.tokens(pairs.PAIRS[case.text], case.what == 'greedy')
  return case.batch * case.steps if case.what == 'text' else 0
