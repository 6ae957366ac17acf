"""The architecture holds: what a wing may import, how long files are, which words occur where."""

import ast
import functools
import pathlib
import re

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / 'rnnlab'
# Each wing imports from itself and from those before it.
WINGS = (
  'machine',
  'console',
  'cells',
  'recurrence',
  'models',
  'data',
  'interop',
  'tasks',
  'training',
  'runs',
  'sweeps',
  'results',
  'reports',
  'predict',
)
LONGEST_FILE, LONGEST_FUNCTION = 400, 60
# The wings that may know what the data are about, and by which metric texts are judged.
OF_A_TASK = 'tasks', 'data', 'predict'
WORDS = re.compile(r'imdb|review|accuracy', re.IGNORECASE)
# Where public functions need not annotate each argument and result.
UNTYPED = 'recurrence/kernels/cpu/', 'tasks/', 'reports/'

# Those that read files of versions with only one task, and the one with the main job.
MAY_KNOW = 'results/measures.py', 'runs/configs.py', 'launch.py'


@functools.cache
def parsed():
  """The syntax tree of each file of the package, by its path in it."""
  paths = sorted(PACKAGE.rglob('*.py'))
  return {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text()) for path in paths}


def imported(file, tree):
  """The modules and names of rnnlab that a file imports, anywhere in it, as paths of names."""
  package = ['rnnlab', *file.split('/')[:-1]]
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      names = [name.name.split('.') for name in node.names]
    elif isinstance(node, ast.ImportFrom):
      above = package[: len(package) + 1 - node.level] if node.level else []
      module = above + (node.module.split('.') if node.module else [])
      names = [[*module, name.name] for name in node.names]
    else:
      continue
    yield from (name for name in names if name[0] == 'rnnlab')


def functions(tree):
  return [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


def lines(function):
  """How many lines of code a function has, without its docstring."""
  first, *_ = function.body
  docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
  told = first.end_lineno - first.lineno + 1 if docstring else 0
  return function.end_lineno - function.lineno + 1 - told


def test_each_folder_of_the_package_is_a_wing():
  folders = {path.parent.relative_to(PACKAGE).parts[0] for path in PACKAGE.glob('*/*.py')}
  assert folders <= {*WINGS}


@pytest.mark.parametrize('wing', WINGS)
def test_a_wing_imports_nothing_from_those_after_it(wing):
  later = {*WINGS[WINGS.index(wing) + 1 :]}
  found = {
    (file, name[1])
    for file, tree in parsed().items()
    if file.startswith(f'{wing}/')
    for name in imported(file, tree)
    if len(name) > 1 and name[1] in later
  }
  assert not found


def test_no_file_is_long():
  counts = {file: len((PACKAGE / file).read_text().splitlines()) for file in parsed()}
  assert not {file for file, count in counts.items() if count > LONGEST_FILE}


def test_no_function_is_long():
  found = {
    f'{file}: {function.name}'
    for file, tree in parsed().items()
    for function in functions(tree)
    if lines(function) > LONGEST_FUNCTION
  }
  assert not found


def test_only_tasks_and_data_and_predictions_know_what_is_classified():
  """Everything except the examples in docstrings, which use the existing experiment."""
  files = [path for path in PACKAGE.rglob('*') if path.suffix in ('.py', '.html', '.tex')]
  found = {
    (file, line.strip())
    for path in files
    if (file := path.relative_to(PACKAGE).as_posix()).split('/')[0] not in OF_A_TASK
    for line in path.read_text().splitlines()
    if WORDS.search(line) and not line.lstrip().startswith(('>>>', '...'))
  }
  assert not {(file, line) for file, line in found if file not in MAY_KNOW}


def untyped(node):
  """The arguments of a function without a type, and 'return' if that has none."""
  args = node.args
  named = [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]
  bare = [arg.arg for arg in named if arg and not arg.annotation and arg.arg not in ('self', 'cls')]
  return bare + ['return'] * (node.returns is None and node.name != '__init__')


def test_public_functions_say_their_types():
  found = {}
  for file, tree in parsed().items():
    if file.startswith(UNTYPED):
      continue
    classes = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name[0] != '_']
    for node in [*tree.body, *(inner for of in classes for inner in of.body)]:
      if isinstance(node, ast.FunctionDef) and node.name[0] != '_' and untyped(node):
        found[f'{file}: {node.name}'] = untyped(node)
  assert not found


def test_no_two_files_of_tests_have_the_same_name():
  """Pytest imports each by its bare name."""
  names = sorted(path.name for path in pathlib.Path(__file__).parent.rglob('*.py'))
  assert names == sorted({*names})
