"""A report as LaTeX, summary.tex."""

from rnnlab.reports import tables
from rnnlab.reports.content import MAX_LISTED, NOTES, Report, search_words

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
  """The text of summary.tex: a document that compiles on its own, to take tables from."""

  def grid(header, rows):
    head = ' & '.join(
      rf'\shortstack[{"r" if i else "l"}]{{{_tex(name)}}}' for i, name in enumerate(header)
    ).replace('\n', r'\\')
    yield r'\begin{longtable}{>{\raggedright}p{5cm}' + 'r' * (len(header) - 1) + '}'
    yield from (r'\toprule', rf'{head} \\', r'\midrule', r'\endhead')
    yield from (' & '.join(map(_tex, row)) + r' \\' for row in rows)
    yield from (r'\bottomrule', r'\end{longtable}', '')

  def drawn(search):
    size = r'width=\linewidth,height=.95\textheight,keepaspectratio'
    for drawing in told.drawings:  # the caption is part of the picture
      if drawing.searched == search:
        picture = rf'\includegraphics[{size}]{{figures/{drawing.name}.png}}'
        yield rf'\begin{{figure}}[p]{picture}\end{{figure}}'

  def itemize(items):
    return [r'\begin{itemize}', *(rf'\item {item}' for item in items), r'\end{itemize}', '']

  lines = [
    r'\documentclass{article}',
    r'\usepackage[landscape,margin=1.5cm]{geometry}',
    r'\usepackage{array,booktabs,graphicx,longtable}',
    r'\setlength{\tabcolsep}{4pt}',
    r'\setlength{\emergencystretch}{3em}',
    r'\begin{document}',
    r'\small',
    rf'\section*{{{_tex(told.title)}}}',
    rf'\textbf{{{_tex(told.finding)}}}',
    '',
  ]
  if len(told.claims):
    lines += [r'\section*{Claims}', *itemize(map(_tex, told.claims['sentence']))]
  for block in told.blocks:
    lines += [_tex(block.caption).replace('\n', r'\\' + '\n'), '']
    lines += grid(*tables.of_groups(block.summary, wide=True))
    for pairs in (block.pairs, block.others):
      if 0 < len(pairs) <= MAX_LISTED:
        lines += grid(*tables.of_pairs(pairs))
      elif len(pairs):
        lines += [f'{len(pairs)} comparisons are in report.html and comparisons.csv.', '']
    lines += [_tex(block.references), '']
  lines += [_tex(NOTES), '', *drawn(search=False)]
  lines += [r'\section*{Search}'] * bool(told.trials)
  for trials in told.trials:
    lines += [_tex(search_words(trials)), '', *grid(*tables.of_arms(trials))]
  lines += drawn(search=True)
  lines += [r'\clearpage', r'\section*{Made by}']
  lines += itemize(
    rf'{name}: \texttt{{{_tex(value)}}}'
    for name, values in told.made_by.items()
    if name not in ('Config', 'Again')
    for value in values
  )
  return '\n'.join([*lines, r'\end{document}']) + '\n'


def _tex(text):
  return ''.join(TEX.get(letter, letter) for letter in text)
