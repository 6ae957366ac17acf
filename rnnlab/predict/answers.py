"""The predictions for texts as answers, and how an answer is written: JSON, tab-separated, text."""

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import rich.text

from rnnlab.data import text
from rnnlab.predict.predictor import Ensemble, Word, encode, probabilities

COLOURS = 'red', 'green'  # of what speaks for negative, and for positive
SHOWN = 300  # characters of a text at most, where people read


def label(probability: float) -> str:
  """The likelier label."""
  return 'positive' if probability > 0.5 else 'negative'


class Answer(NamedTuple):
  """What an ensemble answers for a text.

  number: which text it is, counted from 1.
  text: the text itself.
  setting: the ensemble's name in its sweep; '' where it is one run.
  label: 'positive' or 'negative', whichever is likelier.
  probability: that the text is positive, the mean over the seeds.
  seeds: how many there are.
  std: the standard deviation over the seeds (n - 1 degrees of freedom), or None for one seed.
  agree: how many seeds have the same label as the mean.
  words: how many words the text has.
  known: how many of these are in the model's vocabulary.
  explained: the words with their weights, or None where nobody asked for them.
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
  """Asks each ensemble for each text, and yields its answers text by text.

  ensembles: by the names of their settings.
  texts: one or more of them.
  explain: whether an answer has the words with their weights.
  first: the number of the first text.
  """
  encoded = encode([member for of in ensembles.values() for member in of.members], texts)
  each = {name: probabilities(of.members, encoded) for name, of in ensembles.items()}
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


def as_json(answer: Answer) -> str:
  """An answer as a JSON object on one line."""
  fields = answer._asdict()
  del fields['text']
  if not answer.setting:
    del fields['setting'], fields['seeds'], fields['std'], fields['agree']
  fields['probability'] = round(answer.probability, 6)
  if answer.explained is None:
    del fields['explained']
  else:
    fields['explained'] = [[w.text, round(w.weight, 6), w.known] for w in answer.explained]
  return json.dumps(fields)


def as_tsv(answer: Answer) -> str:
  """An answer as fields between tabs: label, probability; of a sweep std, agree, setting; words."""
  fields = [answer.label, f'{answer.probability:.6f}']
  if answer.setting:
    std = '' if answer.std is None else f'{answer.std:.6f}'
    fields += [std, f'{answer.agree}/{answer.seeds}', answer.setting]
  if answer.explained is not None:
    fields.append(' '.join(f'{_printable(w.text)}:{w.weight:+.3f}' for w in answer.explained))
  return '\t'.join(fields)


def as_text(answer: Answer, colours: bool) -> rich.text.Text:
  """An answer for people; without colours a number after a word shows its weight."""
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
