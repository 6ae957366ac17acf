"""The documentation is true: its examples run, its links work, its commands are accepted.

A docstring's example finds `jax`, `jnp`, `np` and `rnnlab` imported; every example finds a finished
sweep in `runs/imdb`.
"""

import doctest
import importlib.util
import pathlib
import re
import shlex
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from programs import ROOT

import rnnlab
from experiments import imdb
from rnnlab import cells, launch, tasks
from rnnlab.machine import provenance
from rnnlab.sweeps import search, sweep


def public():
  """Every public object by its name; for public modules, interop's too, their contents."""
  found = {name: getattr(rnnlab, name) for name in rnnlab.__all__}
  modules = {name: value for name, value in found.items() if isinstance(value, types.ModuleType)}
  for name in rnnlab.interop.__all__:
    modules[f'interop.{name}'] = getattr(rnnlab.interop, name)
  return {name: value for name, value in found.items() if name not in modules} | {
    f'{name}.{function}': value
    for name, module in modules.items()
    for function, value in functions(module).items()
  }


def functions(module):
  """The public functions and classes that are defined in a module."""
  return {
    name: value
    for name, value in vars(module).items()
    if callable(value)
    and not name.startswith('_')
    and getattr(value, '__module__', '') == module.__name__
  }


PUBLIC = public()


@pytest.fixture
def names(monkeypatch):
  """The names that an example finds."""
  monkeypatch.setattr(provenance, 'cores', jax.devices)  # as conftest.py would have them
  monkeypatch.setattr(cells, '_added', {})
  monkeypatch.setattr(tasks, '_added', {})
  yield {'jax': jax, 'jnp': jnp, 'np': np, 'rnnlab': rnnlab}


@pytest.fixture(scope='module')
def folder(tmp_path_factory, reviews):
  """A folder where the smoke config uses the tests' reviews, and `runs/imdb` is finished."""
  folder = tmp_path_factory.mktemp('docs')
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('XDG_CACHE_HOME', str(folder))
    patch.setattr(imdb, 'get_config', with_data(imdb.get_config, reviews))
    patch.chdir(folder)
    rnnlab.run(imdb.get_config('smoke'), 'runs/imdb')
    yield folder


def with_data(get_config, reviews):
  def get(preset=''):
    config = get_config(preset)
    config.data.update(source='directory', dir=str(reviews))
    return config

  return get


@pytest.mark.parametrize('name', PUBLIC)
def test_a_public_name_has_an_example_and_it_runs(name, names, folder):
  value = PUBLIC[name]
  own = vars(sys.modules[value.__module__])
  found = doctest.DocTestFinder(recurse=False).find(value, name, globs=own | names)
  assert found and found[0].examples, f'{name}: no >>> example in its docstring'
  said = []
  doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(found[0], out=said.append)
  assert not said, ''.join(said)


def pages():
  """Each Markdown page by its path, except those that programs write with their results."""
  results = ROOT / 'experiments' / 'results'
  found = [*ROOT.glob('*.md')]
  for folder in ('experiments', 'rnnlab', 'tests'):
    found += [page for page in (ROOT / folder).rglob('*.md') if results not in page.parents]
  return {str(page.relative_to(ROOT)): page.read_text() for page in sorted(found)}


PAGES = pages()


def blocks(language):
  """Each block of code in the pages, with the page that it is in."""
  fence = re.compile(rf'```{language}\n(.*?)```', re.S)
  return [(page, code) for page, text in PAGES.items() for code in fence.findall(text)]


@pytest.fixture
def torch(monkeypatch):
  """PyTorch if installed; otherwise a stand-in that has only a module's weights."""
  if importlib.util.find_spec('torch'):
    return
  lstm = rnnlab.lstm(64)
  layers = [(lstm.init(jax.random.key(i), 128),) * 2 for i in range(2)]
  state_dict = rnnlab.interop.torch.export_module('lstm', layers)
  module = types.SimpleNamespace(state_dict=lambda: state_dict)
  nn = types.SimpleNamespace(LSTM=lambda *sizes, **options: module)
  monkeypatch.setitem(sys.modules, 'torch', types.SimpleNamespace(nn=nn))


@pytest.mark.parametrize(
  ('page', 'code'), blocks('python'), ids=lambda words: words.splitlines()[0]
)
def test_the_python_of_a_page_runs_as_it_is_written(page, code, names, torch, folder):
  found = {'__name__': '__main__'}  # and nothing else: each block must run alone
  exec(code, found)
  if 'ys' in found:
    assert found['ys'].shape == (2, 5, 64)
  if 'sweep' in found:
    asked = []

    def add(overrides):
      asked.append(overrides)

    add.search = lambda *args, **options: asked.append(search.Search(*args, **options))
    found['sweep'](add)
    if isinstance(asked[0], search.Search):
      search.check(asked[0], ())
    else:
      assert len(sweep.expand(found['get_config'](), found['sweep'])) == len(asked) > 1


def test_the_pages_shadow_no_library_and_the_readme_activates_what_its_commands_use():
  code = '\n'.join(code for _, code in blocks('python'))
  for library in ('torch', 'keras', 'flax', 'haiku'):
    assert not re.search(rf'from rnnlab.*import.*\b{library}\b', code), library
  shell = '\n'.join(code for page, code in blocks('sh') if page == 'README.md')
  first = re.search(r'^(?:python|pip) ', shell, re.M)
  assert shell.index('. .venv/bin/activate') < first.start()


def anchors(page):
  """The anchors in a page: its headings, as GitHub turns them into anchors."""
  text = re.sub(r'^```.*?^```', '', page.read_text(), flags=re.S | re.M)
  headings = re.findall(r'^#+ (.*)', text, re.M)
  return {re.sub(r'[^\w -]', '', heading).lower().replace(' ', '-') for heading in headings}


@pytest.mark.parametrize('page', PAGES)
def test_a_link_of_a_page_leads_somewhere(page):
  for target in re.findall(r'\]\(([^)\s]+)\)', PAGES[page]):
    path, _, anchor = target.partition('#')
    if path.startswith('https://'):
      continue
    file = (ROOT / page).parent / path if path else ROOT / page
    assert file.exists(), target
    assert not anchor or anchor in anchors(file), target


OF_THE_READER = {'rnnlab/cells/ugrnn.py'}  # what a page has the reader write


@pytest.mark.parametrize('page', PAGES)
def test_each_row_of_a_table_has_as_many_cells_as_its_header(page):
  for table in re.findall(r'(?:^\|.*\n)+', PAGES[page], re.M):
    cells_of = [re.sub(r'`[^`]*`', '', row).count('|') for row in table.splitlines()]
    assert len(set(cells_of)) == 1, f'{page}: {table.splitlines()[0]}'


@pytest.mark.parametrize('page', PAGES)
def test_a_file_that_a_page_names_exists(page):
  named = re.findall(r'(?<![\w./])(?:experiments|rnnlab|tests)/[\w./-]*\w', PAGES[page])
  for path in {*named} - OF_THE_READER:
    assert 'NAME' in path or (ROOT / path).exists(), path


def commands(start):
  """The commands in the pages that begin like this, in blocks and in text, as lists of words."""
  lines = [line.removeprefix('srun ') for _, code in blocks('sh') for line in code.splitlines()]
  lines += re.findall(r'`([^`\n]+)`', '\n'.join(PAGES.values()))
  found = [
    shlex.split(line.partition(' | ')[0].partition(' < ')[0], comments=True)
    for line in lines
    if line.startswith(start)
  ]
  assert found
  return found


@pytest.mark.parametrize('words', commands('python launch.py'), ids=' '.join)
def test_launch_takes_a_command_of_the_pages(words, monkeypatch, capsys):
  """As far as --help checks: the experiment, its preset, each flag, each field with its value."""
  monkeypatch.chdir(ROOT)
  values = flags.FLAGS.flag_values_dict()
  words = [word.replace('/path/to/mine.py', 'experiments/imdb.py') for word in words[1:]]
  try:
    with pytest.raises(SystemExit) as ended:
      launch.parse([*words, '--help'])
  finally:
    for name, value in values.items():
      flags.FLAGS[name].value = value
  assert not ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
  'words', commands('python -m experiments') + commands('python -m rnnlab'), ids=' '.join
)
def test_a_module_of_a_command_exists_and_has_its_flags(words):
  _, _, module, *words = words
  spec = importlib.util.find_spec(module)
  package = importlib.util.find_spec(spec.parent)
  source = ''.join(
    file.read_text()
    for folder in package.submodule_search_locations
    for file in pathlib.Path(folder).rglob('*.py')
  )
  for flag in (word.partition('=')[0] for word in words if word.startswith('--')):
    assert re.search(rf"'(--)?{flag[2:]}'", source), flag
