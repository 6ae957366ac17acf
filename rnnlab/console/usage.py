"""What `launch.py --help` shows of an experiment: its docstring and the fields of its config."""

import ast
import os
import pathlib
import re
import shlex
import sys
from typing import Any

FIELD = re.compile(r'^\s*config\.([\w.]+) = .*?(?:\s# (.*))?$', re.MULTILINE)


def page(path: str | os.PathLike, fields: dict[str, Any], helps: dict[str, str]) -> str:
  """The docstring of an experiment's file, and a line for each field: the flag that sets it.

  path: of the experiment's file. fields: {dotted name: value}, as set by the file and the command
  line. helps: {dotted name: help} of the fields of the config, in the order in which they are
  shown. Each field has its help beside it; one without help, such as a cell's option, has the
  comment of the line that first sets it, in the file or in a neighbouring file that it imports. A
  field that is None has its flag in a comment. Needs neither JAX nor pandas.
  """
  path = pathlib.Path(path).resolve()
  imported = {
    pathlib.Path(getattr(m, '__file__', None) or '/').resolve() for m in [*sys.modules.values()]
  } - {path}
  beside = sorted(p for p in imported if p.suffix == '.py' and p.parent == path.parent)
  said = {}
  for file in (*beside, path):
    for name, comment in FIELD.findall(file.read_text()):
      said.setdefault(name, comment)
  said |= helps
  lines = [ast.get_docstring(ast.parse(path.read_text())) or path.name, '', 'Its fields']

  def line_of(name):
    # A cell's options may have been set as one dict, with one comment.
    return name if name in said else name.rpartition('.')[0]

  order = {name: number for number, name in enumerate(helps)}
  ends = {name.partition('.')[0]: number for name, number in order.items()}

  def place(name):
    # A cell's option, such as model.gru.reset, comes after the fields of its part, here model.
    return order.get(name, ends.get(name.partition('.')[0], len(order)))

  for name in sorted(fields, key=lambda name: (place(name), name not in order)):
    comment = said.get(line_of(name))
    if fields[name] is None:  # a placeholder: the flag takes any value but None
      lines.append(f'  # --config.{name}=: {comment}' if comment else f'  # --config.{name}=')
      continue
    flag = f'--config.{name}={shlex.quote(str(fields[name]))}'
    lines.append(f'  {flag:<42}# {comment}' if comment else f'  {flag}')
  return '\n'.join(lines)
