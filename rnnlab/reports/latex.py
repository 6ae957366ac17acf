"""A report as LaTeX, summary.tex.

It leaves out what is for reading on a screen, which summary.md has: texts that models wrote, runs
without a result, and the figure and table of the claims.
"""

import pathlib

import jinja2
from markupsafe import Markup

from rnnlab.reports import tables
from rnnlab.reports.content import MAX_LISTED, Report, notes, search_words

TEX = {letter: f'\\{letter}' for letter in '&%$#_{}'} | {
  '\\': r'\textbackslash{}',
  '~': r'\textasciitilde{}',
  '^': r'\textasciicircum{}',
  '±': r'$\pm$',
  '<': '$<$',
  '>': '$>$',
  '|': '$|$',
  '-': '-{}',  # no ligature of two
}


def latex(told: Report) -> str:
  """The text of summary.tex: a document that compiles on its own, whose tables can be copied."""
  templates = jinja2.Environment(
    '<%',
    '%>',
    '<<',
    '>>',
    '<#',
    '#>',
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
    # The output of a macro is Markup and stays as it is; all else is escaped by LaTeX's rules.
    autoescape=True,
    finalize=lambda value: value if isinstance(value, Markup) else Markup(_tex(str(value))),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
  )
  return templates.get_template('summary.tex').render(
    told=told,
    tables=tables,
    notes=notes(told),
    most=MAX_LISTED,
    search_words=search_words,
    newline=Markup(r'\\'),
  )


def _tex(text):
  return ''.join(TEX.get(letter, letter) for letter in text)
