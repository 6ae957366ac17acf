"""The report as Markdown, for summary.md."""

import re

from rnnlab.reports import tables
from rnnlab.reports.content import MAX_LISTED, Report, notes, search_words

# Keys of made_by: a run's config is in its config.json, and the commands for doing it all again
# come after the list.
NOT_LISTED = 'Config', 'Again'


def markdown(told: Report) -> str:
  """The text of summary.md."""
  code = lambda text: f'`{" ".join(text.split()).replace("`", chr(39))}`'  # noqa: E731

  def grid(header, rows):
    yield f'| {" | ".join(map(_md, header))} |'
    yield f'| {" | ".join(["---", *["---:"] * (len(header) - 1)])} |'
    yield from (f'| {" | ".join(map(_md, row))} |' for row in rows)
    yield ''

  def drawn(search):
    for drawing in told.drawings:
      if drawing.searched == search:
        yield from (f'![{_md(drawing.alternative)}](figures/{drawing.name}.png)', '')
        yield from (f'*{_md(drawing.caption)}*', '')

  lines = [f'# {_md(told.title)}', '', f'**{_md(told.finding)}**', '']
  if len(told.claims):
    lines += ['## Claims', '', *(f'- {_md(sentence)}' for sentence in told.claims['sentence']), '']
  for block in told.blocks:
    lines += [
      *map(_md, block.caption.splitlines()),
      '',
      *grid(*tables.of_groups(block.summary, wide=True)),
    ]
    if len(block.metrics) > 1:
      lines += grid(*tables.of_others(block.summary))
    for pairs, table in (
      (block.pairs, tables.of_pairs),
      (block.others, tables.of_pairs),
      (block.once, tables.of_once),
    ):
      if 0 < len(pairs) <= MAX_LISTED:
        lines += grid(*table(pairs))
      elif len(pairs):
        many = f'{len(pairs)} comparisons, too many to list here, are in report.html'
        lines += [f'{many} and comparisons.csv.', '']
    lines += [_md(block.references), ''] * bool(block.references)
  lines += [_md(notes(told)), '', *drawn(search=False)]
  lines += [line for texts in told.texts for line in _quoted(texts)]
  lines += ['## Search', ''] * bool(told.trials)
  for trials in told.trials:
    lines += [_md(search_words(trials)), '', *grid(*tables.of_arms(trials))]
  lines += drawn(search=True)
  if told.missing:
    lines += [
      '## Runs without a result',
      '',
      *(f'- {code(run)}: {code(error)}' for run, error, _ in told.missing),
      '',
    ]
  if told.holds:
    lines += ['## What holds', '', f'![{_md(told.holds.alternative)}](figures/what_holds.png)', '']
    lines += [f'*{_md(told.holds.caption)}*', '', *grid(*tables.of_claims(told.claims))]
  made = [
    f'- {n}: {", ".join(map(code, v))}' for n, v in told.made_by.items() if n not in NOT_LISTED
  ]
  lines += ['## Made by', '', *made, '', '```', *told.made_by['Again'], '```']
  return '\n'.join(lines) + '\n'


def _quoted(texts):
  """The lines of a `Texts`: its title, its caption, the data, and the text of each group."""
  yield from (f'## {_md(texts.title)}', '', _md(texts.caption), '', _md(texts.data), '')
  for group, text in texts.groups:
    yield from (f'{_md(group)}:', '', *(f'> {_md(line)}  ' for line in text.split('\n')), '')


def _md(text):
  """`text` in one line of Markdown, with whatever would be mark-up or HTML escaped."""
  text = ' '.join(text.split())
  text = re.sub(r'[\\`*|~$]|\](?=[(:\[])|<(?=[\w/!?])|&(?=#?\w+;)', r'\\\g<0>', text)
  text = re.sub(r'(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])', r'\\_', text)
  return re.sub(r'^([#+>-]+|\d+[.)])(?=\s)', r'\\\1', text)
