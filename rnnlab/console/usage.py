"""What `launch.py --help` says of an experiment: the words of its file, its config's fields."""

import ast
import pathlib
import re
import shlex
import sys

from rnnlab.runs import configs, runlog

FIELD = re.compile(r'^\s*config\.([\w.]+) = .*?(?:\s# (.*))?$', re.MULTILINE)


def page(path, config: dict) -> str:
  """The docstring of an experiment's file, and a line a field: the flag that sets it as it is.

  config: as the file and the command line make it. Beside a field is its help; beside one that is
  none of `configs.fields`, as a cell's option, the comment of the line that first sets it, in the
  file or in one beside it that it imports. The flag of a field that is None is a comment itself.
  Needs neither JAX nor pandas.
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
  task = configs.flat(config).get('task.name')
  known = configs.fields(task) if task else configs.fields()
  said |= {name: field.help for name, field in known.items()}
  lines = [ast.get_docstring(ast.parse(path.read_text())) or path.name, '', 'Its fields']

  def line_of(name):
    # A dict that is set as one, as a cell's options, has its line there.
    return name if name in said else name.rpartition('.')[0]

  order = {name: number for number, name in enumerate(known)}
  ends = {name.partition('.')[0]: number for name, number in order.items()}

  def place(name):
    # An option comes after the fields of its part.
    return order.get(name, ends.get(name.partition('.')[0], len(order)))

  fields = dict(runlog.flat(config))
  for name in sorted(fields, key=lambda name: (place(name), name not in order)):
    comment = said.get(line_of(name))
    if fields[name] == 'None':  # a placeholder, which takes a value but not this one
      lines.append(f'  # --config.{name}=: {comment}' if comment else f'  # --config.{name}=')
      continue
    flag = f'--config.{name}={shlex.quote(str(fields[name]))}'
    lines.append(f'  {flag:<42}# {comment}' if comment else f'  {flag}')
  return '\n'.join(lines)
