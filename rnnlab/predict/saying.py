"""Language models on the command line: continuing texts, and scoring how likely they are."""

import argparse
import csv
import io
import json
import math
import pathlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import rich.text

from rnnlab.console import progress
from rnnlab.machine import disk
from rnnlab.predict import language, reading, scoring
from rnnlab.predict.generate import joining
from rnnlab.predict.language import TextModel
from rnnlab.predict.predictor import encode

DEFAULTS: dict[str, Any] = {
  'score': False,
  'length': language.LENGTH,
  'temperature': 1.0,
  'top_k': 0,
  'top_p': 1.0,
  'seed': 0,
  'samples': 1,
  'stop': False,
  'unknown': False,
  'cache': 0,
  'dynamic': False,
}
OF_SCORES = 'score', 'cache', 'dynamic'
SHOWN = 1000  # the most tokens of a line that are shown to people
# Colours by surprisal, as a share of that of a token drawn uniformly from the vocabulary.
COLOURS = (0.15, 'green'), (0.5, ''), (0.85, 'yellow'), (math.inf, 'bold red')
SURPRISING = 0.5  # the share above which, without colours, the bits are written after a token
FEW = 8  # unknown tokens that are named
LEGEND = 'perplexity  bits/char  text: green where expected, red where surprising'


def add_options(parser: argparse.ArgumentParser) -> None:
  """The flags of language models; those not given are None."""
  group = parser.add_argument_group(
    'language models',
    'They continue each text; an empty one, "", begins a line. A word that the model does not know'
    ' is read as <unk>, which it does not write itself unless --unknown is given.',
  )
  add = group.add_argument
  add('--length', type=int, metavar='N', help=f'tokens to write; default: {language.LENGTH}')
  add('--stop', action='store_true', default=None, help='stop where the line ends')
  add('--temperature', type=float, metavar='T', help='0: always the most likely token; default: 1')
  add('--top-k', type=int, metavar='K', help='draw from the K most likely tokens only')
  add('--top-p', type=float, metavar='P', help='from the most likely, whose probabilities sum to P')
  add('--seed', type=int, metavar='N', help='the same seed gives the same text; default: 0')
  add('--samples', type=int, metavar='N', help='how many texts for each')
  add('--unknown', action='store_true', default=None, help='<unk> may be drawn too')
  add(
    '--score',
    action='store_true',
    default=None,
    help='instead: perplexity and bits per character of each text, and its tokens by surprisal; an'
    ' --input that is not a table is read as one text, and --out FILE.csv has a row per token',
  )
  add('--cache', type=int, metavar='N', help='with --score: remember the last N states')
  add(
    '--dynamic',
    action='store_true',
    default=None,
    help='with --score: continue to learn from each text. How much, and the settings of --cache,'
    " are chosen on the validation split of the run's data",
  )


def says(models: Mapping[str, Any]) -> bool:
  """Whether these models, by the names of their settings, are language models."""
  return any(isinstance(model, TextModel) for model in models.values())


def is_file(models: Mapping[str, Any], given: argparse.Namespace) -> bool:
  """Whether language models are given a file that is one text."""
  return says(models) and bool(given.input) and not _is_table(given.input)


def _is_table(path):
  return pathlib.Path(path).suffix.lower() in reading.TABLES


def check(models: Mapping[str, Any], given: argparse.Namespace) -> None:
  """Raises ValueError for flags that are for other models, or do not go together.

  The flags of language models that were not given get their defaults.
  """
  asked = [name for name in DEFAULTS if getattr(given, name) is not None]
  if len({model.members[0].task.name for model in models.values()}) > 1:
    raise ValueError(f'these are runs of several tasks: give --setting, of {", ".join(models)}')
  if not says(models):
    if asked:
      task = next(iter(models.values())).members[0].task.name
      raise ValueError(
        f'--{asked[0].replace("_", "-")} is for language models, but this is a model of {task}'
      )
    return
  if given.explain:
    raise ValueError('--explain is for models that answer: a language model has --score')
  if given.score and (others := [name for name in asked if name not in OF_SCORES]):
    raise ValueError(f'--{others[0].replace("_", "-")} is for continuing texts: not with --score')
  if not given.score and (others := [name for name in asked if name in OF_SCORES]):
    raise ValueError(f'--{others[0]} is for scoring texts: give --score')
  if given.input and not given.score:
    raise ValueError('--input is a file to be scored: give --score')
  if given.column and is_file(models, given):
    raise ValueError(f'--column={given.column}: {given.input} is not a table, so it has no columns')
  for name, value in DEFAULTS.items():
    setattr(given, name, value if getattr(given, name) is None else getattr(given, name))
  for model in models.values():  # raises before anything is said
    _stream(model, '', given)


def adapted(models: Mapping[str, Any], given: argparse.Namespace) -> dict[str, Any]:
  """The models, adapting to texts if this is asked for; prints how they adapt."""
  if not says(models) or not (given.cache or given.dynamic):
    return dict(models)
  found = {}
  for name, model in models.items():
    found[name] = model.adapted(given.cache, given.dynamic)
    for member, way in zip(model.members, found[name].adapt, strict=True):
      of = f'{name}, seed {member.config.seed}: ' if name else ''
      print(f'rnnlab.predict: {of}chosen on the validation split: {way}', file=sys.stderr)
  return found


def _stream(model, prompt, given):
  sampling = language.sampling(model, given.temperature, given.top_k, given.top_p, given.unknown)
  return language.stream(
    model, prompt, given.length, sampling, given.seed, given.samples, given.stop
  )


def answer(
  models: Mapping[str, TextModel], given: argparse.Namespace, blocks: Iterable[Sequence[str]]
) -> int:
  """Continues texts, or scores them, and prints the results; returns how many texts there were.

  models: by the names of their settings. given: the command line. blocks: the texts, some at a
  time.
  """
  console = progress.plain_console()
  people = console.is_terminal and not given.json
  if people and given.score:
    console.print(LEGEND, style='dim', highlight=False)
  count, unknown = 0, set()
  for texts in blocks:
    found = {
      name: scoring.score(model.members, texts, model.adapt) if given.score else [None] * len(texts)
      for name, model in models.items()
    }
    for i, text in enumerate(texts):
      for name, model in models.items():
        where = {'number': count + i + 1} | ({'setting': name} if name else {})
        if scored := found[name][i]:
          unknown |= {*scored.unknown}
          _print_score(model, scored, where, console if people else None, given.json)
          continue
        _tell_unknown(_unknown(model.members[0], text) - unknown)
        unknown |= _unknown(model.members[0], text)
        _go_on(model, text, where, console if people else None, given)
    count += len(texts)
    sys.stdout.flush()
  if given.score:
    _tell_unknown(unknown)
  return count


def _unknown(member, text):
  """The tokens of a text that a model does not know."""
  (stream,) = encode(member, [text])
  pairs = zip(stream['tokens'], stream['targets'], strict=True)
  return {token for token, i in pairs if i == member.encoding['unknown']}


def _tell_unknown(tokens):
  if tokens:
    named = ', '.join(map(_printable, sorted(tokens)[:FEW])) + ', ...' * (len(tokens) > FEW)
    print(f'rnnlab.predict: unknown to the model, read as <unk>: {named}', file=sys.stderr)


def _go_on(model, prompt, where, console, given):
  """Prints the continuation of a prompt as it is computed; several samples one after another.

  console: that of a terminal, else None.
  """
  parts = _stream(model, prompt, given)
  if given.json:
    for i, texts in enumerate(zip(*parts, strict=True), 1):
      print(json.dumps(where | {'prompt': prompt, 'sample': i, 'text': ''.join(texts)}))
    return
  shown = _printable if console else str
  samples = [parts] if given.samples == 1 else zip(*parts, strict=True)
  for i, texts in enumerate(samples, 1):
    title = [where['setting']] if 'setting' in where else []
    title += [f'{i} of {given.samples}'] if given.samples > 1 else []
    if title and console:
      console.print(f'{", ".join(title)}:', style='dim', highlight=False)
    elif title:
      print(f'{", ".join(title)}:')
    if console:
      console.print(rich.text.Text(shown(prompt), 'bold'), end='', soft_wrap=True)
    else:
      print(prompt, end='')
    for part in texts:
      print(shown(''.join(part)), end='', flush=True)
    print()


def score_file(models: Mapping[str, TextModel], given: argparse.Namespace) -> None:
  """Scores a file as one text, continuing from line to line, and prints it line by line.

  With --out it instead writes a table of the lines' tokens and their surprisal in bits. At the end
  it prints the perplexity of the whole. Raises ValueError for a file that is not UTF-8, or empty.
  """
  if given.out and len(models) > 1:
    raise ValueError(f'--out takes one setting: give --setting, one of {", ".join(models)}')
  text = ''.join(reading.text_lines(pathlib.Path(given.input))).replace('\r\n', '\n')
  if not text.strip():
    raise ValueError(f'{given.input} is empty')
  console = progress.plain_console()
  people = console.is_terminal and not given.json
  for name, model in models.items():
    (scored,) = scoring.score(model.members, [text], model.adapt)
    if given.out:
      _write(given.out, model, scored)
    else:
      if people:
        console.print(f'{name}:\n{LEGEND}' if name else LEGEND, style='dim', highlight=False)
      for i, line in enumerate(scored.lines(model.members[0].encoding['end']), 1):
        where = {'number': i} | ({'setting': name} if name else {})
        _print_score(model, line, where, console if people else None, given.json)
    told = f'{name}: ' * bool(name) + f'perplexity {scored.perplexity:.2f}'
    told += f', {scored.bits_per_character:.4f} bits per character, {len(scored.tokens):,} tokens'
    told += f', {len(scored.unknown):,} of them unknown' * bool(scored.unknown)
    print(told, file=sys.stderr)


def _write(path, model, scored):
  separator = {'.csv': ',', '.tsv': '\t', '.tab': '\t'}.get(pathlib.Path(path).suffix.lower())
  if separator is None:
    raise ValueError(f'--out={path}: it must end in .csv or .tsv, with a row per token')
  with io.StringIO(newline='') as f:
    writer = csv.writer(f, delimiter=separator, lineterminator='\n')
    writer.writerow(['line', 'token', 'surprisal', 'known'])
    for i, line in enumerate(scored.lines(model.members[0].encoding['end']), 1):
      writer.writerows([i, t.text, f'{t.bits:.6g}', int(t.known)] for t in line.tokens)
    disk.write_atomic(path, f.getvalue())
  print(f'wrote {path}: {len(scored.tokens):,} rows', file=sys.stderr)


def columns(model: TextModel, texts: Sequence[str]) -> dict[str, list[float]]:
  """The new columns of a table of texts: the perplexity and bits per character of each."""
  found = scoring.score(model.members, texts, model.adapt)
  return {
    'perplexity': [one.perplexity for one in found],
    'bits_per_character': [one.bits_per_character for one in found],
  }


def _print_score(model, scored, where, console, as_json):
  per_character = scored.bits_per_character
  if as_json:
    said = {'text': scored.text, 'perplexity': _rounded(scored.perplexity)}
    tokens = [[token.text, _rounded(token.bits), token.known] for token in scored.tokens]
    print(
      json.dumps(where | said | {'bits_per_character': _rounded(per_character), 'tokens': tokens})
    )
  elif console:
    line = rich.text.Text(f'{scored.perplexity:10.2f}  {per_character:9.3f}  ')
    if 'setting' in where:
      line.append(f'{where["setting"]}  ', 'dim')
    _append_tokens(line, model.members[0], scored, not console.no_color)
    console.print(line, highlight=False, soft_wrap=True)
  else:
    setting = [where['setting']] if 'setting' in where else []
    text = ' '.join(scored.text.split())
    print('\t'.join([f'{scored.perplexity:.6g}', f'{per_character:.6g}', *setting, text]))


def _append_tokens(line, member, scored, colours):
  """Appends a text, its tokens coloured by surprisal or, without colours, with their bits."""
  more, most = joining(member), math.log2(len(member.vocabulary))
  unknown = member.encoding['unknown']
  for i, token in zip(scored.ids[:SHOWN], scored.tokens, strict=False):
    shown = more([i], False)
    if i == unknown:
      shown = shown.replace(member.vocabulary[unknown], token.text)
    share = token.bits / most
    style = next(style for until, style in COLOURS if share <= until or share != share)
    blank = len(shown) - len(shown.lstrip(' '))
    line.append(_printable(shown[:blank]))
    shown = _printable(shown[blank:].replace('\n', '⏎'))
    line.append(
      shown, f'{style} underline'.strip() * colours if not token.known else style * colours
    )
    if not colours and share > SURPRISING:
      line.append(f'({token.bits:.1f})')
  line.append(' ...' * (len(scored.ids) > SHOWN))


def _rounded(value):
  return float(f'{value:.7g}')


def _printable(text):
  return ''.join(c if c.isprintable() or c in '\n\t' else '?' for c in text)
