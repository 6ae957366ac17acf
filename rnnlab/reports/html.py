"""A report as a page, report.html: one file, that loads nothing."""

import os
import pathlib
import string
import urllib.parse
from html import escape

from rnnlab.reports import tables
from rnnlab.reports.content import NOTES, Block, Report, search_words
from rnnlab.runs import folder as run_files


def page(told: Report, workdir: pathlib.Path) -> str:
  """The text of report.html; workdir: where the files are that it links to."""
  template = pathlib.Path(__file__).with_name('report.html').read_text('utf-8')
  return string.Template(template).substitute(
    title=escape(told.title),
    finding=escape(told.finding),
    claims=_claims(told.claims),
    results=''.join(map(_results, told.blocks)),
    figures=_drawn(told, search=False),
    search=_search(told, workdir),
    runs=''.join(
      _caption(block, 1) + _of_runs(workdir, *tables.of_runs(block.runs)) for block in told.blocks
    ),
    notes=escape(NOTES),
    made=''.join(
      f'<dt>{escape(name)}</dt>' + ''.join(f'<dd>{escape(value)}</dd>' for value in values)
      for name, values in told.made_by.items()
      if name not in ('Config', 'Again')
    ),
    again=escape('\n'.join(told.made_by['Again'])),
    config=escape('\n'.join(told.made_by['Config'])),
    failed=_missing(told.missing),
  )


def _claims(claims):
  items = ''.join(
    f'<li><span class="verdict {escape(row.verdict)}">{escape(row.verdict)}</span> '
    f'{escape(row.sentence)}</li>\n'
    for row in claims.itertuples()
  )
  return f'<section><h2>Claims</h2><ul class="claims">{items}</ul></section>' * bool(items)


def _results(block: Block):
  """The tables of a block."""
  others = ''
  if len(block.others):
    others = (
      f'<details><summary>{len(block.others)} comparisons of other settings</summary>'
      f'{_grid(*_escaped(*tables.of_pairs(block.others)))}</details>'
    )
  return (
    _caption(block)
    + _grid(*_escaped(*tables.of_groups(block.summary, wide=True)))
    + (_grid(*_escaped(*tables.of_pairs(block.pairs))) if len(block.pairs) else '')
    + others
    + f'<p class="notes">{escape(block.references)}</p>' * bool(block.references)
  )


def _caption(block, lines=None):
  lines = block.caption.splitlines()[:lines]
  return f'<p class="data">{"<br>".join(map(escape, lines))}</p>'


def _drawn(told, search):
  """The figures of a search, or of what is compared."""
  data = ''.join(dict.fromkeys(_caption(block, 1) for block in told.blocks))
  return ''.join(
    f'<figure><div class="scroll" tabindex="0"><div role="img" '
    f'aria-label="{escape(drawing.alternative)}">{drawing.svg}</div></div>'
    f'<figcaption>{escape(drawing.caption)}{data * (not search)}</figcaption></figure>'
    for drawing in told.drawings
    if drawing.searched == search
  )


def _search(told, workdir):
  """The section on the trials of searches, where there are any."""
  if not told.trials:
    return ''
  arms = ''.join(
    f'<p class="notes">{escape(search_words(trials))}</p>'
    f'{_grid(*_escaped(*tables.of_arms(trials)))}'
    for trials in told.trials
  )
  every = ''.join(
    f'<details><summary>All {len(trials)} trials</summary>'
    f'{_of_runs(workdir, *tables.of_trials(trials))}</details>'
    for trials in told.trials
  )
  return f'<section><h2>Search</h2>{arms}{_drawn(told, search=True)}{every}</section>'


def _missing(missing):
  items = ''.join(
    f'<li><code>{escape(run)}</code>: {escape(error)}'
    + (f'<details><summary>Traceback</summary><pre>{escape(trace)}</pre></details>' * bool(trace))
    + '</li>'
    for run, error, trace in missing
  )
  return f'<section><h2>Runs without a result</h2><ul>{items}</ul></section>' * bool(items)


def _grid(header, rows, kind=''):
  """A table; the cells of its rows are HTML."""
  head = ''.join(f'<th scope="col">{escape(" ".join(name.split()))}</th>' for name in header)
  body = ''.join(f'<tr>{"".join(f"<td>{cell}</td>" for cell in row)}</tr>\n' for row in rows)
  return (
    f'<div class="scroll{" tall" * (len(rows) > 30)}" tabindex="0">'
    f'<table class="sortable {kind}"><thead><tr>{head}</tr></thead>\n'
    f'<tbody>{body}</tbody></table></div>'
  )


def _escaped(header, rows):
  return header, [list(map(escape, row)) for row in rows]


def _of_runs(workdir, header, rows):
  """A table of runs, whose first column is the id, with links to their files."""
  rows = [[*map(escape, row), _links(workdir, row[0])] for row in rows]
  return _grid([*header, 'Files'], rows, 'runs')


def _links(workdir, run):
  names = run_files.RESULT, run_files.METRICS, run_files.CONFIG
  files = (pathlib.Path(run) / name for name in names)
  return ' '.join(
    f'<a href="{urllib.parse.quote(os.fsencode(path))}">{path.stem}</a>'
    for path in files
    if (workdir / path).exists()
  )
