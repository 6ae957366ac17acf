"""What trained models say of texts.

    python -m rnnlab.predict RUN_DIR "text" ...

For each text, or each line of standard input, a line: its label and the probability that it is
positive. Given the folder of a sweep: a line for each setting, of the ensemble of its seeds.
"""

import argparse
import collections
import functools
import io
import json
import logging as stdlib_logging
import os
import pathlib
import queue
import sys
import threading
import zipfile
from collections.abc import Iterator, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import flax.errors
import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import rich.console
import rich.text
from absl import logging
from flax import traverse_util
from ml_collections import ConfigDict

from rnnlab import cells, devices, experiment, provenance, runlog, storage
from rnnlab.data import batching, text
from rnnlab.interop import files

ROWS = 64  # in a batch, or fewer, so that a batch has no more than
IDS = 2**16
NARROWEST = 32  # columns that a batch is trimmed to, or twice, four times, ... as many
PLATFORMS = 'cpu', 'cuda', 'rocm', 'tpu'
COLOURS = 'red', 'green'  # of what speaks for negative, and for positive
SHOWN = 300  # characters of a text at most, where people read


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
    """The probability that each text is positive, float32 `[N]`; of a text, whatever others are."""
    return _predict(self.members, _encode(self.members, texts))[0]

  def explain(self, text: str) -> list[Word]:
    """The words that the model reads of a text, each with the log-odds' gradient times the input.

    A word's weight is the sum over its embedding of value times gradient (Shrikumar et al. 2016),
    taken through all steps: to first order, what the log-odds would lack if the embedding were 0.
    """
    return _explain(self, text)


class Ensemble(NamedTuple):
  """Runs of one setting, which differ in the seed, or one."""

  members: tuple[Predictor, ...]

  def each(self, texts: Sequence[str]) -> np.ndarray:
    """Each member's probabilities, float32 `[M, N]`."""
    return _predict(self.members, _encode(self.members, texts))

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

  Raises FileNotFoundError without the folder and ValueError where there is no finished run in it.
  """
  folder = pathlib.Path(run_dir)
  config = runlog.read_json(folder / 'config.json')
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
  if missing := [n for n in (runlog.PARAMS, runlog.VOCABULARY) if not (folder / n).exists()]:
    raise ValueError(
      f'{folder} has no {missing[0]}: older versions kept none. Delete its result.json and give the'
      ' command of its sweep again: the run ends anew from its last checkpoint, and keeps it'
    )
  config = ConfigDict(config)
  try:
    # JSON has no tuples, and a model's fields must be hashable.
    config.model.truncate = tuple(config.model.truncate)
    model = experiment.model_of(config.model, config.data.vocab_size, config.data.mask)
  except (AttributeError, KeyError) as error:
    raise ValueError(f'{folder}/config.json is of another version of rnnlab: {error}') from error
  vocabulary = (folder / runlog.VOCABULARY).read_bytes().decode().split('\n')[:-1]
  params = jax.tree.map(jnp.asarray, files.load(folder / runlog.PARAMS))
  return Predictor(config, model, params, tuple(vocabulary))


def load_ensembles(workdir) -> dict[str, Ensemble]:
  """The finished runs of a sweep, an ensemble for each setting, by its name, as 'gru'.

  A name tells the cell, and each field of the config but the seed in which settings differ. Trials
  of a search take no part. Raises FileNotFoundError without the folder and ValueError where there
  is no finished run in it.
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
  groups = collections.defaultdict(list)
  for predictor in map(load, done):
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
  recorded = runlog.read_json(workdir / 'sweep.json') or {}
  stages = {run['id']: run.get('stage', '') for run in recorded.get('runs', [])}
  found = {path.parent.name for path in workdir.glob('*/config.json')}
  names = [name for name in stages if name in found] + sorted(found - stages.keys())
  return [workdir / name for name in names if not stages.get(name)]


def _encode(members, texts):
  """The ids of `texts` by each vocabulary among those of `members`."""
  if isinstance(texts, str):
    raise TypeError('give a list of texts, not one text')
  return {words: text.encode(texts, words) for words in {m.vocabulary: None for m in members}}


def _predict(members, encoded):
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
  (sequences,) = _encode([predictor], [words]).values()
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
  """Writes a model, or the mean of an ensemble, as a zip that needs JAX and NumPy alone.

  `python PATH "text"` runs it; see `rnnlab.exported`, which is in the zip. The function is
  StableHLO of ids `[B, max_len]`, B being any, for CPUs, NVIDIA's and AMD's GPUs, and TPUs. Raises
  ValueError where the members read texts by different vocabularies.
  """
  members = predictor.members
  if len({member.vocabulary for member in members}) > 1:
    raise ValueError('these runs have different vocabularies: export one of them')
  data = members[0].config.data

  @jax.jit
  def function(ids):
    found = [_forward.__wrapped__(member.model, member.params, ids) for member in members]
    return sum(found) / len(found)

  (batch,) = jax.export.symbolic_shape('batch')
  shape = jax.ShapeDtypeStruct((batch, data.max_len), jnp.int32)
  function = jax.export.export(function, platforms=PLATFORMS)(shape).serialize()
  fields = ('max_len', 'padding', 'truncation')
  encoding = {field: data[field] for field in fields} | {'words': members[0].vocabulary}
  here = pathlib.Path(__file__).parent
  with io.BytesIO() as buffer:
    with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED) as archive:
      archive.writestr('__main__.py', (here / 'exported.py').read_text())
      for room in (text, batching):
        archive.writestr(pathlib.Path(room.__file__).name, pathlib.Path(room.__file__).read_text())
      archive.writestr('text.json', json.dumps(encoding))
      archive.writestr('function.stablehlo', bytes(function))
    runlog.write_atomic(path, buffer.getvalue())


class Answer(NamedTuple):
  """What an ensemble says of a text.

  number: of the text, from 1. probability: the mean of the seeds'; std: theirs (n - 1), None of
  one; agree: how many have the mean's label. words: how many the text has; known: to the model.
  """

  number: int
  text: str
  setting: str
  label: str
  probability: float
  seeds: int
  std: float | None
  agree: int
  words: int
  known: int
  explained: list[Word] | None


def answers(
  ensembles: dict[str, Ensemble], texts: Sequence[str], explain: bool = False, first: int = 1
) -> Iterator[Answer]:
  """What each ensemble says of each text, text by text; these are numbered from `first`."""
  encoded = _encode([member for of in ensembles.values() for member in of.members], texts)
  each = {name: _predict(of.members, encoded) for name, of in ensembles.items()}
  for i, words in enumerate(texts):
    for name, ensemble in ensembles.items():
      found = each[name][:, i]
      probability = float(found.mean())
      ids = encoded[ensemble.members[0].vocabulary][i]
      yield Answer(
        number=first + i,
        text=words,
        setting=name,
        label=label(probability),
        probability=probability,
        seeds=len(found),
        std=float(found.std(ddof=1)) if len(found) > 1 else None,
        agree=int(((found > 0.5) == (probability > 0.5)).sum()),
        words=len(ids) - 1,
        known=len(ids) - 1 - ids.count(text.UNKNOWN),
        explained=ensemble.explain(words) if explain else None,
      )


def label(probability: float) -> str:
  """The likelier label."""
  return 'positive' if probability > 0.5 else 'negative'


def as_json(answer: Answer) -> str:
  """A line of JSON."""
  fields = answer._asdict()
  del fields['text']
  if not answer.setting:
    del fields['setting'], fields['seeds'], fields['std'], fields['agree']
  fields['probability'] = round(answer.probability, 6)
  if answer.explained is None:
    del fields['explained']
  else:
    fields['explained'] = [[w.text, round(w.weight, 6), w.known] for w in answer.explained]
  return json.dumps(fields, ensure_ascii=False)


def as_tsv(answer: Answer) -> str:
  """A line of fields between tabs: label, probability; of a sweep std, agree, setting; words."""
  fields = [answer.label, f'{answer.probability:.6f}']
  if answer.setting:
    std = '' if answer.std is None else f'{answer.std:.6f}'
    fields += [std, f'{answer.agree}/{answer.seeds}', answer.setting]
  if answer.explained is not None:
    fields.append(' '.join(f'{_printable(w.text)}:{w.weight:+.3f}' for w in answer.explained))
  return '\t'.join(fields)


def as_text(answer: Answer, colours: bool) -> rich.text.Text:
  """Lines for people; without colours a word's weight is told by a number."""
  colour = COLOURS[answer.label == 'positive']
  line = rich.text.Text.assemble((f'{answer.label:8}', f'bold {colour}'))
  line.append(f'  {answer.probability:.3f}')
  if answer.setting:
    if answer.std is not None:
      line.append(f' ± {answer.std:.3f}, {answer.agree} of {answer.seeds} seeds')
    line.append(f', {answer.setting}')
  if not answer.known:
    line.append('  no words' if not answer.words else '  no word that the model knows')
  if answer.explained is None:
    line.append(f'  {_printable(" ".join(answer.text[:SHOWN].split()))}', 'dim')
    return line
  line.append('\n ')
  most = max([abs(word.weight) for word in answer.explained], default=0) or 1
  for word in answer.explained:
    share = abs(word.weight) / most
    colour = COLOURS[word.weight > 0]
    style = f'bold {colour}' if share > 0.5 else colour if share > 0.1 else 'dim'
    line.append(' ')
    line.append(_printable(word.text), style if colours else '')
    if not colours and share > 0.1:
      line.append(f'({word.weight:+.2f})')
  return line


def _printable(words):
  return ''.join(c if c.isprintable() else '?' for c in words)


def main() -> None:
  """Does what the command line asks for; a mistake is a line for people and exit status 2."""
  given = _parser().parse_intermixed_args()
  stdlib_logging.basicConfig(format='warning: %(message)s', force=True)
  devices.keep_programs()
  sys.stdout.reconfigure(errors='backslashreplace')
  try:
    ensembles = _loaded(given.run_dir, given.setting)
    if given.export:
      _export(ensembles, given.export)
    if given.texts or not given.export:
      _answer(ensembles, given)
    sys.stdout.flush()
  except (ValueError, OSError, flax.errors.FlaxError) as error:
    if isinstance(error, BrokenPipeError):  # of `| head`
      os._exit(0)
    words = runlog.say(error)
    if isinstance(error, flax.errors.FlaxError):
      words = f'the parameters do not fit the model; has its code changed? {words}'
    sys.stdout.flush()
    print(f'rnnlab.predict: {words}', file=sys.stderr)
    sys.exit(2)
  except KeyboardInterrupt:
    sys.exit(130)


def _parser():
  parser = argparse.ArgumentParser(
    prog='python -m rnnlab.predict',
    description='What a trained model says of texts: a line each, of the label and the'
    ' probability that it is positive. Given a sweep, a line for each setting: of the mean of its'
    " seeds, with the standard deviation of these and how many have the mean's label.",
    epilog='Where the output is no terminal, the fields have tabs between them: label,'
    ' probability; of a sweep standard deviation, seeds that agree, setting; with --explain words'
    ' and weights.',
  )
  add = parser.add_argument
  add('run_dir', metavar='RUN_DIR', help='the folder of a run, or of a sweep: a path or a URL')
  add('texts', metavar='TEXT', nargs='*', help='default: the lines of standard input')
  add('--explain', action='store_true', help='show the words that moved it, green to positive')
  add('--json', action='store_true', help='a JSON object a line')
  add('--setting', metavar='NAME', help='of a sweep only these runs, as gru')
  add('--export', metavar='FILE.zip', help='write the model as a program that needs JAX alone')
  return parser


def _loaded(run_dir, setting):
  folder, url = storage.local(run_dir)
  if url:
    storage.pull(url, folder, params=True)
  if (folder / 'config.json').exists():
    if setting:
      raise ValueError(f'--setting={setting}: {run_dir} is one run, not a sweep')
    return {'': Ensemble((load(folder),))}
  ensembles = load_ensembles(folder)
  if setting is None:
    return ensembles
  if setting not in ensembles:
    near = cells.near(setting, ensembles)
    raise ValueError(f'--setting={setting}{near}: there are {", ".join(ensembles)}')
  return {setting: ensembles[setting]}


def _export(ensembles, path):
  if len(ensembles) > 1:
    raise ValueError(f'--export is of one setting: give --setting, of {", ".join(ensembles)}')
  (ensemble,) = ensembles.values()
  export(ensemble, path)
  print(f'wrote {path}; to use it: python {path} "text"', file=sys.stderr)


def _answer(ensembles, given):
  console = rich.console.Console()
  people = console.is_terminal and not given.json
  if people:
    console.print('label     P(positive)', style='dim', highlight=False)
  count, notes = 0, collections.defaultdict(list)
  for texts in [given.texts] if given.texts else _lines(sys.stdin.fileno()):
    texts = [os.fsencode(words) if isinstance(words, str) else words for words in texts]
    decoded = [words.decode(errors='replace') for words in texts]
    for i, words in enumerate(texts):
      if words != decoded[i].encode():
        notes['not UTF-8: each broken byte is read as \ufffd'].append(count + i + 1)
    for answer in answers(ensembles, decoded, given.explain, count + 1):
      if people:
        console.print(
          as_text(answer, colours=not console.no_color),
          highlight=False,
          no_wrap=not given.explain,
          overflow=None if given.explain else 'ellipsis',
        )
      else:
        print(as_json(answer) if given.json else as_tsv(answer))
      if not answer.known:
        which = 'no word that the model knows' if answer.words else 'no words'
        notes[f'{which}: the answer is that to nothing'].append(answer.number)
    sys.stdout.flush()
    count += len(texts)
  if not count:
    print('rnnlab.predict: no texts: standard input was empty', file=sys.stderr)
  for what, numbers in notes.items():
    numbers = list(dict.fromkeys(numbers))
    shown = ', '.join(map(str, numbers[:5])) + (', ...' if len(numbers) > 5 else '')
    of = f'text{"s" * (len(numbers) > 1)} {shown}'
    print(f'rnnlab.predict: {len(numbers)} of {count}, {of}: {what}', file=sys.stderr)


def _lines(descriptor) -> Iterator[list[bytes]]:
  """The lines of a file, as many at a time as have come by then; one, where a person types."""
  blocks, failed = queue.Queue(32), []

  def read():
    try:
      while block := os.read(descriptor, 2**16):
        blocks.put(block)
    except OSError as error:
      failed.append(error)
    blocks.put(b'')

  threading.Thread(target=read, daemon=True).start()
  arrived, rest = [b' '], b''
  while arrived[-1]:
    arrived = [blocks.get()]
    while arrived[-1] and not blocks.empty():
      arrived.append(blocks.get())
    *lines, rest = (rest + b''.join(arrived)).split(b'\n')
    if lines:
      yield [line.removesuffix(b'\r') for line in lines]
  if rest:
    yield [rest]
  if failed:
    raise failed[0]


if __name__ == '__main__':
  main()
