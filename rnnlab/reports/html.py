"""A report as a page, report.html: one self-contained file."""

import os
import pathlib
import urllib.parse

import jinja2

from rnnlab.reports import tables
from rnnlab.reports.content import HARDEST, Report, notes, search_words
from rnnlab.runs import folder as run_files


def page(told: Report, workdir: pathlib.Path) -> str:
  """The text of report.html. workdir: the folder of the files that it links to."""
  templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
  )

  def links(run):
    names = run_files.RESULT, run_files.METRICS, run_files.CONFIG
    files = [pathlib.Path(run) / name for name in names]
    return [
      (urllib.parse.quote(os.fsencode(path)), path.stem)
      for path in files
      if (workdir / path).exists()
    ]

  return templates.get_template('report.html').render(
    told=told,
    tables=tables,
    notes=notes(told),
    hardest_notes=HARDEST,
    search_words=search_words,
    links=links,
  )
