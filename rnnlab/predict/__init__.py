"""What trained models say of texts: of one run, or of the ensemble of a setting's seeds.

    model = rnnlab.load('runs/imdb/RUN')
    model.predict(['A fine film.'])

`python -m rnnlab.predict` says it on the command line.
"""

import collections
import functools
import io
import json
import pathlib
import zipfile
from collections.abc import Sequence
from concurrent import futures
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import traverse_util
from ml_collections import ConfigDict

from rnnlab.data import batching, text
from rnnlab.interop import files
from rnnlab.machine import provenance
from rnnlab.runs import configs, runlog
from rnnlab.tasks import text_classification

ROWS = 64  # in a batch, or fewer, so that a batch has no more than
IDS = 2**16
NARROWEST = 32  # columns that a batch is trimmed to, or twice, four times, ... as many
PLATFORMS = 'cpu', 'cuda', 'rocm', 'tpu'


class Word(NamedTuple):
  """A word of a text, and by how much it moved the log-odds of the text's being positive.

  known: whether it is of the vocabulary; all others are one word to the model.
  """

  text: str
  weight: float
  known: bool


class Predictor(NamedTuple):
  """A trained classifier, with all that it needs to read a text.

  params: the ones a run reports. vocabulary: in id order, the first word having id 4.

  >>> (ensemble,) = rnnlab.load_ensembles('runs/imdb').values()
  >>> (predictor,) = ensemble.members
  >>> [word.text for word in predictor.explain('A good film!')]
  ['a', 'good', 'film']
  """

  config: ConfigDict
  model: nn.Module
  params: Any
  vocabulary: tuple[str, ...]

  @property
  def members(self) -> tuple['Predictor', ...]:
    """Itself, as an `Ensemble` of one."""
    return (self,)

  def predict(self, texts: Sequence[str]) -> np.ndarray:
    """The probability that each text is positive, float32 `[N]`; of a text, whatever others are.

    Raises TypeError, saying which, for what is no str, ValueError for a model of several classes or
    one whose answer is NaN.
    """
    return probabilities_by(self.members, encode(self.members, texts))[0]

  def explain(self, text: str) -> list[Word]:
    """The words that the model reads of a text, each with the log-odds' gradient times the input.

    A word's weight is the sum over its embedding of value times gradient (Shrikumar et al. 2016),
    taken through all steps: to first order, what the log-odds would lack if the embedding were 0.
    """
    return _explain(self, text)


class Ensemble(NamedTuple):
  """Runs of one setting, which differ in the seed, or one.

  >>> (ensemble,) = rnnlab.load_ensembles('runs/imdb').values()
  >>> ensemble.predict(['a good film', '']).shape, ensemble.each(['a good film', '']).shape
  ((2,), (1, 2))
  """

  members: tuple[Predictor, ...]

  def each(self, texts: Sequence[str]) -> np.ndarray:
    """Each member's probabilities, float32 `[M, N]`."""
    return probabilities_by(self.members, encode(self.members, texts))

  def predict(self, texts: Sequence[str]) -> np.ndarray:
    """The mean of the members' probabilities, float32 `[N]`."""
    return self.each(texts).mean(axis=0)

  def explain(self, text: str) -> list[Word]:
    """The words of a text with the mean of the members' weights; see `Predictor.explain`."""
    return [
      Word(words[0].text, float(np.mean([word.weight for word in words])), words[0].known)
      for words in zip(*(_explain(member, text) for member in self.members), strict=True)
    ]


def load(run_dir) -> Predictor:
  """The model of a finished run.

  Raises FileNotFoundError without the folder and ValueError where there is no finished run in it,
  or a damaged one.

  >>> (run,) = rnnlab.load_runs('runs/imdb')['id']
  >>> rnnlab.load(f'runs/imdb/{run}').config.model.cell
  'lstm'
  """
  folder = pathlib.Path(run_dir)
  config = runlog.read_json(folder / 'config.json')
  if damaged := runlog.verify(folder):
    raise ValueError(
      f'{folder}: {", ".join(damaged)} {"is" if len(damaged) == 1 else "are"} damaged or missing:'
      ' give the command of its sweep again, which mends it'
    )
  if config is None:
    if not folder.is_dir():
      raise FileNotFoundError(f'{folder}: no such folder')
    if _runs(folder):
      raise ValueError(f'{folder} is a sweep: give one of its runs, or use load_ensembles')
    raise ValueError(
      f'{folder} is the folder of no run, nor of a sweep, of launch.py: there is no config.json'
    )
  if not (folder / 'result.json').exists():
    raise ValueError(f'{folder} is a run that has not ended: launch.py --status says how far it is')
  config = ConfigDict(configs.present(config))
  task = configs.flat(config).get('task.name', text_classification.task.name)
  if task != text_classification.task.name:
    raise ValueError(f'{folder} is a run of the task {task}: only runs that read texts can predict')
  if missing := [n for n in (runlog.PARAMS, runlog.VOCABULARY) if not (folder / n).exists()]:
    raise ValueError(
      f'{folder} has no {missing[0]}: older versions kept none. Delete its result.json and give the'
      ' command of its sweep again: the run ends anew from its last checkpoint, and keeps it'
    )
  try:
    # JSON has no tuples, and a model's fields must be hashable.
    config.model.truncate = tuple(config.model.truncate)
    batching.pad((), config.data.max_len, config.data.padding, config.data.truncation)
    texts = text_classification.Texts(config.data.vocab_size, config.data.mask)
    model = text_classification.model(config.model, texts)
    needed = _shapes(model)
  except Exception as error:  # a damaged config may hold anything, and a cell's code be anyone's
    raise ValueError(
      f'{folder}/config.json is damaged, or of another version of rnnlab: {runlog.say(error)}'
    ) from error
  params = files.load(folder / runlog.PARAMS)
  found = _flat_shapes(params)
  for name in needed | found:
    if found.get(name) != needed.get(name):
      raise ValueError(
        f'{folder}/{runlog.PARAMS}: the parameters do not fit the model; has its code changed?'
        f' {name} is {_shape(found.get(name))}, and must be {_shape(needed.get(name))}'
      )
  vocabulary = _vocabulary(folder / runlog.VOCABULARY, config.data.vocab_size)
  return Predictor(config, model, jax.tree.map(jnp.asarray, params), vocabulary)


@functools.lru_cache
def _shapes(model):
  """The shape of each parameter of a model, by its path."""
  ids = jax.ShapeDtypeStruct((1, 2), jnp.int32)
  return _flat_shapes(jax.eval_shape(model.init, jax.random.key(0), ids)['params'])


def _flat_shapes(tree):
  return {name: w.shape for name, w in traverse_util.flatten_dict(tree, sep='/').items()}


def _shape(shape):
  return 'absent' if shape is None else f'of shape {list(shape)}'


def _vocabulary(path, size):
  try:
    words = path.read_bytes().decode().split('\n')
  except UnicodeDecodeError:
    words = []
  # Lines but the last, which is empty, are words, each once; at most as many as have ids.
  if words[-1:] != [''] or len({*words}) < len(words) or len(words) > size - text.FIRST_WORD + 1:
    raise ValueError(f'{path} is damaged: it is no list of the words that the model has read')
  return tuple(words[:-1])


def load_ensembles(workdir) -> dict[str, Ensemble]:
  """The finished runs of a sweep, an ensemble for each setting, by its name, as 'gru'.

  A name tells the cell, and each field of the config but the seed in which settings differ. Trials
  of a search take no part. Raises FileNotFoundError without the folder and ValueError where there
  is no finished run in it.

  >>> list(rnnlab.load_ensembles('runs/imdb'))
  ['lstm']
  """
  workdir = pathlib.Path(workdir)
  folders = _runs(workdir)
  done = [folder for folder in folders if (folder / 'result.json').exists()]
  if not done:
    if folders:
      raise ValueError(f'{workdir}: none of {len(folders)} runs has ended')
    load(workdir)  # says what is wrong
    raise ValueError(f'{workdir} is a run, not a sweep: use load')
  if len(done) < len(folders):
    logging.warning('%d of %d runs have not ended', len(folders) - len(done), len(folders))
  groups, known = collections.defaultdict(list), set()
  for folder, predictor in zip(done, map(load, done), strict=True):
    same = runlog.canonical(predictor.config.to_dict())
    if same in known:
      logging.warning('%s has the config of another run: it is the same and left out', folder.name)
      continue
    known.add(same)
    flat = traverse_util.flatten_dict(predictor.config.to_dict(), sep='.')
    del flat['seed']
    groups[json.dumps(flat)].append(predictor)
  settings = [json.loads(setting) for setting in groups]
  names = ['model.cell'] + [
    name
    for name in dict.fromkeys(name for setting in settings for name in setting)
    if name != 'model.cell' and any(s.get(name) != settings[0].get(name) for s in settings)
  ]
  return {
    runlog.label({name: setting.get(name) for name in names}): Ensemble(tuple(members))
    for setting, members in zip(settings, groups.values(), strict=True)
  }


def _runs(workdir):
  """The folders of a sweep's runs, without the trials of a search, in the sweep's order."""
  stages = {run['id']: run.get('stage', '') for run in runlog.read_sweep(workdir)['runs']}
  found = {path.parent.name for path in workdir.glob('*/config.json')}
  names = [name for name in stages if name in found] + sorted(found - stages.keys())
  return [workdir / name for name in names if not stages.get(name)]


def encode(members, texts):
  """The ids of `texts` by each vocabulary among those of `members`."""
  _check(members)
  texts = text.listed(texts)
  return {words: text.encode(texts, words) for words in {m.vocabulary: None for m in members}}


def _check(members):
  """Raises ValueError for no model, and one that has other answers than a probability or words."""
  if not members:
    raise ValueError('an ensemble needs at least one member')
  for member in members:
    if (classes := getattr(member.model, 'classes', 1)) != 1:
      raise ValueError(
        f'a model of {classes} classes cannot be asked or exported here: what it says must be'
        ' whether a text is positive (classes=1). Its logits are `model.apply({"params": params},'
        ' ids)`'
      )
    ids = len(member.vocabulary) + text.FIRST_WORD
    if ids > getattr(member.model, 'vocab_size', ids):
      raise ValueError(
        f'a vocabulary of {len(member.vocabulary):,} words has ids below {ids:,}, and the model an'
        f' embedding of {member.model.vocab_size:,}: this is not the vocabulary that it was'
        ' trained with'
      )


def probabilities_by(members, encoded):
  """The probabilities by each of `members`, which read texts alike: float32 `[M, N]`."""
  found = np.zeros((len(members), len(encoded[members[0].vocabulary])), np.float32)

  def compute(job):
    row, ids, places = job
    return row, places, np.asarray(_forward(members[row].model, members[row].params, ids))

  jobs = (
    (row, ids, places)
    for row, member in enumerate(members)
    for ids, places in _batches(member.config.data, encoded[member.vocabulary])
  )
  # XLA runs the steps of a batch on one core.
  with futures.ThreadPoolExecutor(len(provenance.cores())) as pool:
    for row, places, probabilities in pool.map(compute, jobs):
      found[row, places] = probabilities[: len(places)]
  for member, row in zip(members, found, strict=True):
    if np.isnan(row).any():
      raise ValueError(
        f'the model of {member.config.model.cell}, seed {member.config.seed}, answers NaN, which is'
        ' no probability: its training has diverged. Leave this run out'
      )
  return found


def _batches(data, sequences):
  """Arrays of ids, and which of the sequences each has in its first rows.

  How many rows and columns an array has depends on no other sequence, and so no probability does.
  """
  widths = _widths(data)
  needed = np.searchsorted(widths, [min(len(ids), data.max_len) for ids in sequences])
  for i, width in enumerate(widths):
    rows = max(1, min(ROWS, IDS // width))
    places = np.flatnonzero(needed == i)
    for start in range(0, len(places), rows):
      here = places[start : start + rows]
      filled = [sequences[place] for place in here] + [[]] * (rows - len(here))
      yield batching.pad(filled, width, data.padding, data.truncation), here


def _widths(data):
  """The widths of batches, ascending: padding is cut where the model does not see it."""
  widths = [data.max_len]
  while data.mask and widths[0] >= 2 * NARROWEST:
    widths.insert(0, -(-widths[0] // 2))
  return widths


def _portable(model):
  """The same function, without the kernels of a CPU or a GPU and without what training asks for.

  So it is quick to compile and nothing but StableHLO, and no gradient is cut.
  """
  return model.clone(cell=model.cell._replace(fused=None), remat=False, truncate=None)


@functools.partial(jax.jit, static_argnums=0)
def _forward(model, params, ids):
  return jax.nn.sigmoid(_portable(model).apply({'params': params}, ids))


def _explain(predictor, words):
  data = predictor.config.data
  (sequences,) = encode([predictor], [words]).values()
  ((ids, _),) = _batches(data, sequences)
  weights = np.asarray(_weights(predictor.model, predictor.params, ids[0]))
  # A row's ids are those of the start and the words in order, cut as the words are here.
  read = [None, *text.tokenize(words)]
  read = read[-data.max_len :] if data.truncation == 'pre' else read[: data.max_len]
  found = zip(read, weights[ids[0] != 0], ids[0][ids[0] != 0], strict=True)
  return [Word(word, float(weight), bool(i != text.UNKNOWN)) for word, weight, i in found if word]


@functools.partial(jax.jit, static_argnums=0)
def _weights(model, params, ids):
  """Gradient times input of each of `ids [T]`, `[T]`, the sum over the embedding's features."""
  steps = len(ids)
  table = params['Embed_0']['embedding']
  # Each step looks up an embedding of its own, in a table of this text's steps.
  model = _portable(model).clone(vocab_size=steps + 1)
  places = jnp.where(ids != 0, jnp.arange(1, steps + 1), 0)

  def log_odds(xs):
    own = {'Embed_0': {'embedding': jnp.concatenate([table[:1], xs])}}
    return model.apply({'params': params | own}, places[None])[0]

  xs = table[ids]
  return (jax.grad(log_odds)(xs) * xs).sum(axis=-1)


def export(predictor: Predictor | Ensemble, path) -> None:
  """Writes a model, or the mean of an ensemble, as a zip that needs jax and flatbuffers alone.

  `python PATH "text"` runs it; see `exported.py`, which is in the zip. The function is
  StableHLO of ids `[B, max_len]`, B being any, for CPUs, NVIDIA's and AMD's GPUs, and TPUs. Raises
  ValueError where the members read texts by different vocabularies, and for a model of several
  classes.

  >>> rnnlab.export(rnnlab.load_ensembles('runs/imdb')['lstm'], 'lstm.zip')
  """
  members = predictor.members
  _check(members)
  if len({member.vocabulary for member in members}) > 1:
    raise ValueError('these runs have different vocabularies: export one of them')
  data = members[0].config.data
  # Under a trace a NumPy array cannot be indexed.
  both = [(member, jax.tree.map(jnp.asarray, member.params)) for member in members]

  @jax.jit
  def function(ids):
    found = [_forward.__wrapped__(member.model, params, ids) for member, params in both]
    return sum(found) / len(found)

  (batch,) = jax.export.symbolic_shape('batch')
  shape = jax.ShapeDtypeStruct((batch, data.max_len), jnp.int32)
  function = jax.export.export(function, platforms=PLATFORMS)(shape).serialize()
  fields = ('max_len', 'padding', 'truncation')
  encoding = {field: data[field] for field in fields} | {'words': members[0].vocabulary}
  here = pathlib.Path(__file__).parent
  with io.BytesIO() as buffer:
    with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED) as archive:
      archive.writestr('__main__.py', (here / 'exported.py').read_bytes())
      for room in (text, batching):
        archive.writestr(pathlib.Path(room.__file__).name, pathlib.Path(room.__file__).read_bytes())
      archive.writestr('text.json', json.dumps(encoding))
      archive.writestr('function.stablehlo', bytes(function))
    runlog.write_atomic(path, buffer.getvalue())


def label(probability: float) -> str:
  """The likelier label."""
  return 'positive' if probability > 0.5 else 'negative'
