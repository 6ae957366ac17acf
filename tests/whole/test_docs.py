"""The examples of the documentation run: of every public name, and the README's Python.

An example finds `jax`, `jnp`, `np` and `rnnlab` imported, and a finished sweep in `runs/imdb`.
"""

import doctest
import importlib.util
import re
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import ROOT

import rnnlab
from experiments import imdb
from rnnlab import cells, tasks
from rnnlab.machine import provenance
from rnnlab.sweeps import search, sweep


def public():
  """Every public object by its name; of the public modules, interop's too, what is in them."""
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
  """What an example finds."""
  monkeypatch.setattr(provenance, 'cores', jax.devices)  # as conftest.py would have them
  monkeypatch.setattr(cells, '_added', {})
  monkeypatch.setattr(tasks, '_added', {})
  yield {'jax': jax, 'jnp': jnp, 'np': np, 'rnnlab': rnnlab}


@pytest.fixture(scope='module')
def folder(tmp_path_factory, reviews):
  """Where the smoke config has the tests' reviews, and `runs/imdb` is finished."""
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


def blocks():
  pages = (ROOT / 'README.md').read_text() + (ROOT / 'PACKAGE.md').read_text()
  return re.findall(r'```python\n(.*?)```', pages, re.S)


@pytest.fixture
def torch(monkeypatch):
  """PyTorch, which the tests do not need: else what stands for it has a module's weights alone."""
  if importlib.util.find_spec('torch'):
    return
  lstm = rnnlab.lstm(64)
  layers = [(lstm.init(jax.random.key(i), 128),) * 2 for i in range(2)]
  state_dict = rnnlab.interop.torch.export_module('lstm', layers)
  module = types.SimpleNamespace(state_dict=lambda: state_dict)
  nn = types.SimpleNamespace(LSTM=lambda *sizes, **options: module)
  monkeypatch.setitem(sys.modules, 'torch', types.SimpleNamespace(nn=nn))


@pytest.mark.parametrize('code', blocks(), ids=lambda code: code.splitlines()[0])
def test_the_python_of_the_readme_runs_as_it_is_written(code, names, torch, folder):
  found = {'__name__': '__main__'}  # and nothing else: each block is to run alone
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
      assert len(sweep.expand(found['get_config'](), found['sweep'])) == 30


def test_the_readme_shadows_no_library_and_activates_what_its_commands_use():
  readme = (ROOT / 'README.md').read_text()
  code = '\n'.join(blocks())
  for library in ('torch', 'keras', 'flax', 'haiku'):
    assert not re.search(rf'from rnnlab.*import.*\b{library}\b', code), library
  shell = '\n'.join(re.findall(r'```sh\n(.*?)```', readme, re.S))
  first = re.search(r'^(?:python|pip) ', shell, re.M)
  assert shell.index('. .venv/bin/activate') < first.start()
