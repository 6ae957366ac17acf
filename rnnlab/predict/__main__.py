"""The command line for predictions of trained models.

    python -m rnnlab.predict RUN_DIR "text" ...

For each text, each line of standard input, or each row of the file --input, it prints a line: for
two classes the label and the probability of the second, for more the label and its probability,
and otherwise the values. Given the folder of a sweep, it prints a line for each setting, from the
ensemble of its seeds. With --out it writes the input again, with the predictions in new columns.

A language model instead continues each text or, with --score, says how likely it is. A translation
model prints the translation of each text on a line of its own.
"""

import argparse
import collections
import contextlib
import functools
import logging as stdlib_logging
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from rnnlab import cells
from rnnlab.console import progress
from rnnlab.console.words import describe_error
from rnnlab.data import DataError, text
from rnnlab.machine import devices
from rnnlab.predict import (
  Ensemble,
  TextModel,
  Translator,
  export,
  load,
  load_ensembles,
  reading,
  saying,
  translating,
  writing,
)
from rnnlab.predict.answers import answers, as_json, as_text, as_tsv, columns
from rnnlab.predict.predictor import is_text, reads_texts
from rnnlab.runs import experiment_file
from rnnlab.runs import folder as run_files
from rnnlab.sweeps import storage


def main() -> None:
  """Does what the command line asks for; an error is reported in one line, with exit status 2."""
  given = _parser().parse_intermixed_args()
  stdlib_logging.basicConfig(format='warning: %(message)s', force=True)
  devices.keep_programs()
  try:
    if sys.stdout is None:
      raise ValueError('standard output is closed')
    sys.stdout.reconfigure(errors='backslashreplace')
    if given.config:
      file, is_file, preset = given.config.rpartition('.py:')
      experiment_file.read(*((f'{file}.py', preset) if is_file else (given.config,)))
    _check(given)
    ensembles = _loaded(given.run_dir, given.setting)
    translating.check(ensembles, given)
    (_translate if translating.translates(ensembles) else _predict)(ensembles, given)
    sys.stdout.flush()
  except BrokenPipeError:  # of `| head`
    os._exit(0)
  except (ValueError, OSError, DataError) as error:
    with contextlib.suppress(OSError, AttributeError):  # it may be what has failed
      sys.stdout.flush()
    print(f'rnnlab.predict: {describe_error(error)}', file=sys.stderr)
    sys.exit(2)
  except KeyboardInterrupt:
    sys.exit(130)


def _parser():
  parser = argparse.ArgumentParser(
    prog='python -m rnnlab.predict',
    description='Predictions of a trained model for texts, one per line: the label and the'
    ' probability that it is positive. Given a sweep, a line for each setting: the mean of its'
    " seeds, their standard deviation, and how many of them have the mean's label.",
    epilog='If the output is not a terminal, tabs separate the fields: label, probability; for a'
    ' sweep, standard deviation, seeds that agree, setting; with --explain, words and weights; with'
    ' --score, perplexity, bits per character, setting, text.',
  )
  add = parser.add_argument
  add('run_dir', metavar='RUN_DIR', help='the folder of a run, or of a sweep: a path or a URL')
  add('texts', metavar='TEXT', nargs='*', help='default: the lines of standard input')
  add('--input', metavar='FILE', help='instead: a .csv, .tsv, .jsonl, .parquet, .npz or .conll')
  add('--column', metavar='NAME', default='', help="of the text; default: the run's, or text")
  add('--out', metavar='FILE', help='write the input again, with the predictions added')
  add('--explain', action='store_true', help='show what moved the answer; green: towards it')
  add('--json', action='store_true', help='one JSON object per line')
  add('--config', metavar='FILE.py[:PRESET]', help="the experiment that adds the run's own cell")
  add('--setting', metavar='NAME', help='of a sweep, only these runs, for example gru')
  add('--export', metavar='FILE.zip', help='write the model as a program for jax and flatbuffers')
  saying.add_options(parser)
  translating.add_options(parser)
  return parser


def _check(given):
  if given.input and given.texts:
    raise ValueError('give texts or --input, not both')
  for name in ('out', 'column'):
    if getattr(given, name) and not given.input and not translating.is_picture(given):
      raise ValueError(f'--{name} needs --input, the file that it refers to')


def _loaded(run_dir, setting):
  folder, url = storage.local(run_dir)
  if url:
    storage.pull(url, folder, params=True)
  if run_files.is_run(folder):
    if setting:
      raise ValueError(f'--setting={setting}: {run_dir} is one run, not a sweep')
    model = load(folder)
    whole = isinstance(model, TextModel | Translator)
    return {'': model if whole else Ensemble((model,))}
  ensembles = load_ensembles(folder)
  if setting is None:
    return ensembles
  if setting not in ensembles:
    near = cells.near(setting, ensembles)
    raise ValueError(f'--setting={setting}{near}: there are {", ".join(ensembles)}')
  return {setting: ensembles[setting]}


def _predict(ensembles, given):
  """Does what is asked of models that answer, and of language models."""
  saying.check(ensembles, given)
  ensembles = saying.adapted(ensembles, given)
  if given.export:
    _export(ensembles, given.export)
  if saying.is_file(ensembles, given):
    saying.score_file(ensembles, given)
  elif given.out:
    _write(ensembles, given)
  elif saying.says(ensembles) and (given.texts or given.input or not given.export):
    notes = collections.defaultdict(list)
    _tell(notes, saying.answer(ensembles, given, _examples(ensembles, given, notes)))
  elif given.texts or given.input or not given.export:
    _answer(ensembles, given)


def _translate(ensembles, given):
  """Does what is asked of models that translate."""
  if given.export:
    _export(ensembles, given.export)
    if not (given.texts or given.input):
      return
  notes = collections.defaultdict(list)
  lines = translating.lines(given)
  blocks = _examples(ensembles, given, notes) if lines is None else lines
  if not given.out or translating.is_picture(given):
    _tell(notes, translating.answer(ensembles, given, blocks))
  elif lines is None:
    _write(ensembles, given)
  else:
    translating.write(ensembles, given, lines)


def _export(ensembles, path):
  if len(ensembles) > 1:
    raise ValueError(f'--export takes one setting: give --setting, one of {", ".join(ensembles)}')
  (ensemble,) = ensembles.values()
  export(ensemble, path)
  given = '"text"' if is_text(ensemble.members[0]) else 'FILE.npz'
  print(f'wrote {path}; to use it: python {path} {given}', file=sys.stderr)


def _write(ensembles, given):
  """Writes the input with the predictions of one setting added."""
  if len(ensembles) > 1:
    raise ValueError(f'--out takes one setting: give --setting, one of {", ".join(ensembles)}')
  (ensemble,) = ensembles.values()
  asked: Callable[..., Any] = saying.columns if saying.says(ensembles) else columns
  if translating.translates(ensembles):
    asked = functools.partial(translating.columns, given=given)
  count = 0
  with writing.writing(given.out, given.input) as write:
    for block in reading.blocks(given.input, ensemble.members[0], given.column):
      none = [None] * (len(block.rows) - len(block.examples))
      found = asked(ensemble, block.examples)
      write(block, {name: [*none, *values] for name, values in found.items()})
      count += len(block.rows)
  print(f'wrote {given.out}: {count:,} rows', file=sys.stderr)


def _answer(ensembles, given):
  console = progress.plain_console()
  people = console.is_terminal and not given.json
  if people:
    console.print(_heading(ensembles), style='dim', highlight=False)
  count, notes = 0, collections.defaultdict(list)
  for examples in _examples(ensembles, given, notes):
    for answer in answers(ensembles, examples, given.explain, count + 1):
      if people:
        console.print(
          as_text(answer, colours=not console.no_color),
          highlight=False,
          no_wrap=not given.explain,
          overflow=None if given.explain else 'ellipsis',
        )
      else:
        print(as_json(answer) if given.json else as_tsv(answer))
      if answer.known == 0:
        which = 'no word that the model knows' if answer.words else 'no words'
        notes[f'{which}: answered like an empty text'].append(answer.number)
    sys.stdout.flush()
    count += len(examples)
  _tell(notes, count)


def _tell(notes, count):
  """Prints what was noted of which texts, or that there were no texts."""
  if not count:
    print('rnnlab.predict: no texts: standard input was empty', file=sys.stderr)
  for what, numbers in notes.items():
    numbers = list(dict.fromkeys(numbers))
    shown = ', '.join(map(str, numbers[:5])) + (', ...' if len(numbers) > 5 else '')
    of = f'text{"s" * (len(numbers) > 1)} {shown}'
    print(f'rnnlab.predict: {len(numbers)} of {count}, {of}: {what}', file=sys.stderr)


def _examples(ensembles, given, notes):
  """The examples, in blocks; those that were not UTF-8 are recorded in notes."""
  member = next(iter(ensembles.values())).members[0]
  if given.input:
    for block in reading.blocks(given.input, member, given.column):
      yield block.examples
    return
  if not is_text(member):
    raise ValueError('this model reads series: give --input=FILE')
  if not given.texts and sys.stdin is None:
    raise ValueError('no texts: standard input is closed')
  count = 0
  for block in [map(os.fsencode, given.texts)] if given.texts else _lines(sys.stdin.fileno()):
    texts = []
    for line in block:
      texts.append(text.decode(line))
      if '\ufffd' in texts[-1] and line.decode(errors='ignore').encode() != line:
        notes['not UTF-8: each broken byte is read as \ufffd'].append(count + len(texts))
    count += len(texts)
    yield texts if reads_texts(member) else [words.split() for words in texts]


def _heading(ensembles):
  outputs = next(iter(ensembles.values())).members[0].outputs
  if outputs.kind == 'binary':
    return f'label     P({outputs.names[1]})'
  if outputs.kind == 'labels':
    return '  '.join(['labels', *(f'P({name})' for name in outputs.names)])
  return 'label     P(label)' if outputs.kind == 'classes' else '  '.join(outputs.names)


def _lines(descriptor: int) -> Iterator[list[bytes]]:
  """The lines of a file, in blocks of all that have arrived: single lines if a person types."""
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
      yield lines
  if rest:
    yield [rest]
  if failed:
    raise failed[0]


if __name__ == '__main__':
  main()
