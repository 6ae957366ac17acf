"""The answers of models for examples, and how they are written: JSON, tab-separated, text."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import rich.text

from rnnlab.predict.predictor import (
  Ensemble,
  Word,
  check,
  decoded,
  listed,
  probabilities,
  reads_texts,
  split,
)

COLOURS = 'red', 'green'  # against the answer, or for the first class; and for it
SHOWN = 300  # the most characters of a text that are shown to people
CHANNELS, COLUMNS = 8, 60  # the most in the drawing of a series
BARS = ' ▁▂▃▄▅▆▇█'

Explained = list[Word] | np.ndarray | dict[str, Any]  # the dict: one of these by name of the value


class Answer(NamedTuple):
  """What an ensemble answers for an example.

  number: which example it is, counted from 1.
  text: the text itself; '' for a series.
  setting: the ensemble's name in its sweep; '' for a single run.
  columns: what the task decodes from the mean over the seeds, the answer itself first.
  sure: the name of the column with the answer's probability, '' if there is none.
  seeds: how many there are.
  std: the standard deviation over the seeds (n - 1 degrees of freedom) of that probability or of
    the value (a list if there are several), or None for one seed and for answers at each step.
  agree: how many seeds have the same answer as the mean, or None for values.
  words: how many words the text has, None for a series.
  known: how many of these are in the model's vocabulary.
  explained: the words, or the steps and channels, with their weights, or None if not asked for.
  """

  number: int
  text: str
  setting: str
  columns: Mapping[str, Any]
  sure: str
  seeds: int
  std: float | list[float] | None
  agree: int | None
  words: int | None
  known: int | None
  explained: Explained | None


def answers(
  ensembles: dict[str, Ensemble], examples: Sequence[Any], explain: bool = False, first: int = 1
) -> Iterator[Answer]:
  """Asks each ensemble for each example, and yields its answers example by example.

  ensembles: by the names of their settings.
  examples: one or more of them.
  explain: whether an answer has the words, or the steps, with their weights.
  first: the number of the first example.
  """
  made = {name: _asked(of, examples) for name, of in ensembles.items()}
  for i, example in enumerate(examples):
    for name, ensemble in ensembles.items():
      columns, std, agree, counts = made[name]
      words, known = counts[i] if counts else (None, None)
      yield Answer(
        number=first + i,
        text=_shown(example),
        setting=name,
        columns={column: plain(values[i]) for column, values in columns.items()},
        sure='probability' if 'probability' in columns else '',
        seeds=len(ensemble.members),
        std=None if std is None else plain(std[i]),
        agree=None if agree is None else int(agree[i]),
        words=words,
        known=known,
        explained=_explained(ensemble, example) if explain else None,
      )


def _asked(ensemble, examples):
  """The columns of an ensemble's answers, how much its seeds differ, and the words of texts."""
  check(ensemble.members)
  member = ensemble.members[0]
  outputs = member.outputs
  examples = listed(member, examples)
  each = probabilities(ensemble.members, examples)
  mean = each.mean(axis=0)
  columns = decoded(member, mean, examples)
  std = agree = None
  if len(each) > 1 and not outputs.steps:
    std = each.std(axis=0, ddof=1)
    if outputs.kind == 'classes':
      std = np.take_along_axis(std, mean.argmax(axis=1)[:, None], axis=1)[:, 0]
  if outputs.kind != 'values':
    said = list(columns.values())[0]
    by_each = [list(decoded(member, of_one, examples).values())[0] for of_one in each]
    agree = [sum(plain(a[i]) == plain(said[i]) for a in by_each) for i in range(len(examples))]
  counts = None
  if reads_texts(member):
    known = {*member.vocabulary}
    words = [split(member, example) for example in examples]
    counts = [(len(of), sum(word in known for word in of)) for of in words]
  return columns, std, agree, counts


def columns(ensemble: Ensemble, examples: Sequence[Any]) -> dict[str, Sequence[Any]]:
  """The columns of an ensemble's answers, N values each; for several seeds also std and agree.

  For two classes, the probability is that of the second, and is called probability_NAME.
  """
  found, std, agree, _ = _asked(ensemble, examples)
  outputs = ensemble.members[0].outputs
  if outputs.kind == 'binary' and not outputs.steps:
    name = f'probability_{outputs.names[1]}'
    found = {name if column == 'probability' else column: of for column, of in found.items()}
  differing = {'std': std, 'agree': agree if len(ensemble.members) > 1 else None}
  return found | {name: of for name, of in differing.items() if of is not None}


def _shown(example):
  if isinstance(example, str):
    return example
  return ' '.join(example) if all(isinstance(token, str) for token in example) else ''


def _explained(ensemble, example):
  outputs = ensemble.members[0].outputs
  if outputs.kind == 'values' and len(outputs.names) > 1:
    return {name: ensemble.explain(example, name) for name in outputs.names}
  return ensemble.explain(example)


def plain(value: Any) -> Any:
  """A NumPy value as one of plain Python, also within nested lists."""
  if isinstance(value, np.ndarray | np.generic):
    return value.tolist()
  return [plain(of) for of in value] if isinstance(value, list | tuple) else value


def as_json(answer: Answer) -> str:
  """An answer as a JSON object on one line."""
  fields = {'number': answer.number, 'setting': answer.setting} | dict(answer.columns)
  fields |= {'seeds': answer.seeds, 'std': answer.std, 'agree': answer.agree}
  fields |= {'words': answer.words, 'known': answer.known}
  if not answer.setting:
    for name in ('setting', 'seeds', 'std', 'agree'):
      del fields[name]
  for name in ('agree', 'words', 'known'):
    if fields.get(name, 0) is None:
      del fields[name]
  for name, value in answer.columns.items():
    fields[name] = _rounded(value, _is_of_values(answer))
  if answer.explained is not None:
    fields['explained'] = _as_lists(answer.explained)
  return json.dumps(fields)


def _is_of_values(answer):
  """Whether an answer is numbers in the unit of the targets, not a class, labels or tags."""
  return not answer.sure and not isinstance(next(iter(answer.columns.values())), str)


def _rounded(value, of_values):
  """Probabilities to 6 places; values to float32's precision."""
  if isinstance(value, list):
    return [_rounded(of, of_values) for of in value]
  if isinstance(value, float):
    return float(f'{value:.7g}') if of_values else round(value, 6)
  return value


def _as_lists(explained):
  if isinstance(explained, dict):
    return {name: _as_lists(of) for name, of in explained.items()}
  if isinstance(explained, np.ndarray):
    return [[round(float(w), 6) for w in step] for step in explained]
  return [[w.text, round(w.weight, 6), w.known] for w in explained]


def head(answer: Answer) -> dict[str, Any]:
  """The columns that fit on a line: the answer and its probability, or all values."""
  if not answer.sure:
    return dict(answer.columns)
  first = next(iter(answer.columns))
  return {name: answer.columns[name] for name in (first, answer.sure)}


def as_tsv(answer: Answer) -> str:
  """An answer as tab-separated fields: answer, probability; for a sweep also std, agree, setting.

  An explanation, such as words and weights for texts, follows in a last field.
  """
  form = '.7g' if _is_of_values(answer) else '.6f'
  fields = [_field(value, form) for value in head(answer).values()]
  if answer.setting:
    agree = '' if answer.agree is None else f'{answer.agree}/{answer.seeds}'
    fields += ['' if answer.std is None else _field(answer.std, form), agree, answer.setting]
  if answer.explained is not None:
    many = isinstance(answer.explained, dict)
    for explained in answer.explained.values() if many else [answer.explained]:
      if isinstance(explained, list):
        fields.append(' '.join(f'{_printable(w.text)}:{w.weight:+.3f}' for w in explained))
      else:
        fields.append(json.dumps(_as_lists(explained)))
  return '\t'.join(fields)


def _field(value, form='.6f'):
  if isinstance(value, list):
    return ' '.join(_field(of, form) for of in value)
  if value is None:  # a step that the model has not seen
    return '_'
  return format(value, form) if isinstance(value, float) else _printable(str(value))


def as_text(answer: Answer, colours: bool) -> rich.text.Text:
  """An answer for people; without colours a number after a word shows its weight."""
  (name, said), *_ = answer.columns.items()
  line = rich.text.Text()
  if answer.sure:
    # For two classes, the probability is the second's, so it is below a half for the first.
    probability = answer.columns[answer.sure]
    colour = COLOURS[isinstance(probability, float) and probability > 0.5]
    line.append(f'{_field(said):8}', f'bold {colour}')
    line.append(f'  {probability:.3f}' if isinstance(probability, float) else '')
  else:
    shown = [f'{_number(value)}' for value in answer.columns.values()]
    line.append('  '.join(shown), 'bold')
  if answer.setting:
    if answer.std is not None:
      stds = answer.std if isinstance(answer.std, list) else [answer.std]
      line.append(' ± ' + ', '.join(f'{s:.3f}' if answer.sure else _number(s) for s in stds))
      if answer.agree is not None:
        line.append(f', {answer.agree} of {answer.seeds} seeds')
    line.append(f', {answer.setting}')
  if answer.known == 0:
    line.append('  no words' if not answer.words else '  no word that the model knows')
  if answer.words is None:
    line.append(f'  row {answer.number}', 'dim')
  if answer.explained is None:
    line.append(f'  {_printable(" ".join(answer.text[:SHOWN].split()))}' * bool(answer.text), 'dim')
    return line
  many = answer.explained if isinstance(answer.explained, dict) else {'': answer.explained}
  for name, explained in many.items():
    if name or isinstance(explained, list):
      line.append(f'\n {name}{":" if name else ""}')
    if isinstance(explained, list):
      _append_words(line, explained, colours)
    else:
      _append_series(line, explained, colours)
  return line


def _append_words(line, words, colours):
  most = max([abs(word.weight) for word in words], default=0) or 1
  for word in words:
    share = abs(word.weight) / most
    colour = COLOURS[word.weight > 0]
    style = f'bold {colour}' if share > 0.5 else colour if share > 0.1 else 'dim'
    line.append(' ')
    line.append(_printable(word.text), style if colours else '')
    if not colours and share > 0.1:
      line.append(f'({word.weight:+.2f})')


def _append_series(line, weights, colours):
  """A bar for each step, or for every few steps, of the channels that moved the answer most."""
  steps, channels = weights.shape
  wide = -(-steps // COLUMNS) or 1
  starts = np.arange(0, steps, wide)
  binned = np.add.reduceat(weights, starts, axis=0) if steps else weights
  most = np.abs(binned).max(initial=0) or 1
  order = np.argsort(-np.abs(weights).sum(axis=0), kind='stable')[:CHANNELS]
  for channel in sorted(order):
    line.append(f'\n  channel {channel + 1:<3} ')
    for weight in binned[:, channel]:
      bar = BARS[int(np.ceil(abs(weight) / most * (len(BARS) - 1)))]
      line.append(bar, COLOURS[int(weight > 0)] if colours else '')
    if steps:
      step = int(np.abs(weights[:, channel]).argmax())
      line.append(
        f' {weights[:, channel].sum():+.2f}, most by step {step + 1}: {weights[step, channel]:+.2f}'
      )
  if channels > CHANNELS:
    line.append(f'\n  and {channels - CHANNELS} channels that moved it less')


def _number(value):
  if isinstance(value, list):
    return ' '.join(map(_number, value))
  return f'{value:.6g}' if isinstance(value, float) else _printable(str(value))


def _printable(words):
  return ''.join(c if c.isprintable() else '?' for c in words)
