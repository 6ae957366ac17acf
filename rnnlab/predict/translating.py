"""Translation on the command line: texts in another language, and where their words come from."""

import argparse
import itertools
import json
import pathlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import rich.cells
import rich.text

from rnnlab.console import progress
from rnnlab.machine import disk
from rnnlab.predict import reading, translator
from rnnlab.predict.translator import Attention, Translation, Translator

OWN = 'beam', 'nbest', 'length_penalty', 'coverage_penalty'
DRAWS = 'temperature', 'top_k', 'top_p', 'seed', 'samples'  # flags that language models have too
NOT_OURS = 'length', 'stop', 'score', 'cache', 'dynamic'  # only for language models
PICTURE = '.png'
SHADES = ' ░▒▓█'
TALLEST = 12  # the most letters of a source token above a drawing, written downwards
WIDEST = 16  # the most letters of a target token beside it
PICTURED = 12  # the most texts in a picture
FEW = 8  # unknown words that are named
BLOCK = 1024  # lines of a text translated before they are shown


def add_options(parser: argparse.ArgumentParser) -> None:
  """The flags of models that translate; those not given are None."""
  group = parser.add_argument_group(
    'translation',
    'The best translation of each text that a beam search finds or, with --temperature or'
    ' --samples, random ones. --input may be any text file, with one text per line. --explain'
    ' shows how much each token attended to each source token; with --out FILE.png, as a picture.',
  )
  add = group.add_argument
  width = translator.BEAM
  add('--beam', type=int, metavar='K', help=f'hypotheses to keep; default: {width}')
  add('--nbest', type=int, metavar='N', help='the N best of each text, each after its score')
  add(
    '--length-penalty',
    type=float,
    metavar='A',
    help=f'a score is log P / ((5 + tokens) / 6)^A; default: {translator.LENGTH}',
  )
  add(
    '--coverage-penalty',
    type=float,
    metavar='B',
    help='on source tokens that are not attended to; default: 0',
  )


def translates(models: Mapping[str, Any]) -> bool:
  """Whether these models, by the names of their settings, translate."""
  return any(isinstance(model, Translator) for model in models.values())


def is_picture(given: argparse.Namespace) -> bool:
  """Whether a picture is asked for, with --explain and --out."""
  return bool(given.explain and given.out) and given.out.lower().endswith(PICTURE)


def check(models: Mapping[str, Any], given: argparse.Namespace) -> None:
  """Raises ValueError for flags that are for other models, or do not go together."""
  if not translates(models):
    if asked := _given(given, OWN):
      raise ValueError(f'--{asked[0]} is for models that translate, and this one does not')
    if is_picture(given):
      raise ValueError(f'--out={given.out}: this model does not translate, and has no picture')
    return
  if not all(isinstance(model, Translator) for model in models.values()):
    raise ValueError(f'these are runs of several tasks: give --setting, of {", ".join(models)}')
  if asked := _given(given, NOT_OURS):
    raise ValueError(f'--{asked[0]} is for language models, but this is a model that translates')
  drawn, searched = _given(given, DRAWS), _given(given, OWN)
  if drawn and searched:
    raise ValueError(f'--{searched[0]} is for a search, and --{drawn[0]} for draws: give one')
  if given.explain and (given.nbest or given.samples):
    raise ValueError('--explain shows one translation of each text: not with --nbest or --samples')
  if given.out and not given.explain and (given.nbest or given.samples):
    raise ValueError('--out has one translation of each text: not with --nbest or --samples')
  if given.out and len(models) > 1 and not given.explain:
    raise ValueError(f'--out takes one setting: give --setting, one of {", ".join(models)}')
  if given.explain and given.out and not is_picture(given):
    raise ValueError(f'--out={given.out}: with --explain it must end in {PICTURE}')
  for model in models.values():  # raises before anything is said
    _translate(model, [], given)


def _given(given, names):
  return [name.replace('_', '-') for name in names if getattr(given, name) is not None]


def _translate(model, texts, given) -> list[list[Translation]]:
  """The translations of texts that the command line asks for."""

  def asked(**names):
    found = {ours: getattr(given, flag) for ours, flag in names.items()}
    return {name: value for name, value in found.items() if value is not None}

  unknown = bool(given.unknown)
  if _given(given, DRAWS):
    return model.draw(texts, unknown=unknown, **asked(**dict(zip(DRAWS, DRAWS, strict=True))))
  penalties = asked(beam='beam', length='length_penalty', coverage='coverage_penalty')
  nbest = 1 if given.nbest is None else given.nbest
  return model.best(texts, nbest, unknown=unknown, **penalties)


def answer(
  models: Mapping[str, Translator], given: argparse.Namespace, blocks: Iterable[Sequence[str]]
) -> int:
  """Translates texts and prints the results; returns how many texts there were.

  models: by the names of their settings. given: the command line. blocks: the texts, some at a
  time.
  """
  console = progress.plain_console()
  people = console.is_terminal and not given.json
  count, unknown, pictures = 0, {}, []
  for texts in blocks:
    found = {name: _translate(model, texts, given) for name, model in models.items()}
    for i, text in enumerate(texts):
      for name, model in models.items():
        unknown |= dict.fromkeys(translator.unknown(model, text))
        several = len(found[name][i]) > 1
        for translation in found[name][i]:
          where = {'number': count + i + 1} | ({'setting': name} if name else {})
          attention = model.attention(text, translation) if given.explain else None
          if given.json:
            print(_as_json(where, text, translation, attention))
          elif people:
            _show(console, where, text, translation, attention, several)
          else:
            print(_as_tsv(where, translation, attention, several))
          pictures += [(name, model.config.model.cell, attention)]
    count += len(texts)
    sys.stdout.flush()
  if is_picture(given) and count:
    _draw(given.out, pictures)
  if unknown:
    named = ', '.join(map(_printable, [*unknown][:FEW])) + ', ...' * (len(unknown) > FEW)
    print(f'rnnlab.predict: unknown to the model, read as <unk>: {named}', file=sys.stderr)
  return count


def lines(given: argparse.Namespace) -> Iterator[list[str]] | None:
  """The lines of --input in blocks if it is a text; None if it is a table or not given."""
  if not given.input or pathlib.Path(given.input).suffix.lower() in reading.TABLES:
    return None
  path = pathlib.Path(given.input)
  if path.is_dir():
    raise ValueError(f'{path} is a folder: give a file')
  if given.column:
    raise ValueError(f'--column={given.column}: {path} is not a table, so it has no columns')
  return _blocks(line.rstrip('\r\n') for line in reading.text_lines(path))


def _blocks(texts):
  while block := [*itertools.islice(texts, BLOCK)]:
    yield block


def write(
  models: Mapping[str, Translator], given: argparse.Namespace, blocks: Iterable[Sequence[str]]
) -> None:
  """Writes the translation of each text to --out, one per line."""
  (model,) = models.values()
  if pathlib.Path(given.out).resolve() == pathlib.Path(given.input).resolve():
    raise ValueError(f'--out={given.out} is the input itself: give another file')
  told = [of[0].text for texts in blocks for of in _translate(model, texts, given)]
  disk.write_atomic(given.out, ''.join(f'{_line(text)}\n' for text in told))
  print(f'wrote {given.out}: {len(told):,} rows', file=sys.stderr)


def columns(
  model: Translator, texts: Sequence[str], given: argparse.Namespace
) -> dict[str, list[Any]]:
  """The new columns of a table of texts: the translation of each, its score and log P."""
  best = [of_text[0] for of_text in _translate(model, texts, given)]
  return {
    'translation': [one.text for one in best],
    'score': [one.score for one in best],
    'log_prob': [one.log_prob for one in best],
  }


def _line(text):
  return ' '.join(text.split())


def _as_tsv(where, translation, attention, several):
  fields = [f'{translation.score:.4f}'] * several + [_line(translation.text)]
  fields += [where['setting']] if 'setting' in where else []
  if attention is not None:
    best = attention.weights.argmax(axis=1)
    pairs = zip(attention.target, best, attention.weights.max(axis=1), strict=True)
    fields.append(' '.join(f'{to}<{attention.source[i]}:{share:.2f}' for to, i, share in pairs))
  return '\t'.join(fields)


def _as_json(where, text, translation, attention):
  fields = where | {
    'text': text,
    'translation': translation.text,
    'score': round(translation.score, 6),
    'log_prob': round(translation.log_prob, 6),
  }
  if attention is not None:
    weights = [[round(float(one), 4) for one in row] for row in attention.weights]
    fields['attention'] = {
      'source': attention.source, 'target': attention.target, 'weights': weights,
    }  # fmt: skip
  return json.dumps(fields, ensure_ascii=False)


def _show(console, where, text, translation, attention, several):
  """Prints a translation for people."""
  line = rich.text.Text(f'{translation.score:9.3f}  ' * several)
  line.append(_printable(_line(translation.text)), 'bold')
  if 'setting' in where:
    line.append(f'  {where["setting"]}')
  line.append(f'  {_printable(_line(text))}' * (attention is None), 'dim')
  console.print(line, soft_wrap=True)
  if attention is not None:
    for part in drawing(attention, console.width):
      console.print(part, soft_wrap=True)
    console.print()


def drawing(attention: Attention, width: int) -> Iterator[rich.text.Text]:
  """The lines of a drawing: source tokens written downwards, and below them a row per target token.

  The darker a place, the more the token on the left attended to the one above. width: of the
  terminal, in columns; a last line says how many tokens had no room.
  """
  shown = [_short(token, WIDEST) for token in attention.target]
  left = max(map(rich.cells.cell_len, shown), default=0)
  cell = 2 if left + 2 * len(attention.source) + 2 <= width else 1
  room = max(1, (width - left - 2) // cell)
  heads = [_short(token, TALLEST) for token in attention.source[:room]]
  tall = max(map(len, heads), default=0)
  for row in range(tall):
    letters = (head.rjust(tall)[row] for head in heads)
    yield rich.text.Text(' ' * (left + 1) + ''.join(f'{one:<{cell}}' for one in letters), 'dim')
  for token, weights in zip(shown, attention.weights, strict=True):
    blocks = (SHADES[min(int(share * 5), 4)] * cell for share in weights[:room].tolist())
    pad = ' ' * (left - rich.cells.cell_len(token))
    yield rich.text.Text(f'{pad}{token} {"".join(blocks)}')
  if (rest := len(attention.source) - room) > 0:
    yield rich.text.Text(f'{" " * left} and {rest} more, which do not fit', 'dim')


def _short(token, most):
  token = _printable(token.replace(' ', '␣') if token.strip() == '' else token.strip())
  return token if len(token) <= most else f'{token[: most - 1]}…'


def _draw(path, pictures):
  """Writes a figure with the attention of each text."""
  from rnnlab.reports import figures
  from rnnlab.reports.panels import Shown
  from rnnlab.tasks.base import Panel

  each: dict[tuple[str, str], list[Any]] = {}
  for name, cell, attention in pictures[:PICTURED]:
    each.setdefault((name, cell), []).append(attention._asdict())
  groups = [
    (name, cell, Panel('attention', '', '', {'each': found}))
    for (name, cell), found in each.items()
  ]
  shown = Shown('attention', 'Attention', '', groups)
  png, _ = figures.render(figures.panels, shown, note='')
  disk.write_atomic(path, png)
  some = f', of the first {PICTURED} texts' * (len(pictures) > PICTURED)
  print(f'wrote {path}{some}', file=sys.stderr)


def _printable(text):
  return ''.join(c if c.isprintable() else '?' for c in text)
