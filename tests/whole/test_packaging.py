"""Packaging: the names that editors see, extras, and a complete source distribution."""

import ast
import fnmatch
import subprocess
import tomllib

import pytest
from packaging.requirements import Requirement
from programs import ROOT

import rnnlab


def requirements(path):
  lines = (line.split('#')[0].strip() for line in (ROOT / path).read_text().splitlines())
  return [line for line in lines if line]


def test_a_type_checker_sees_each_public_name_where_it_is_defined():
  seen = {}
  for node in ast.parse((ROOT / 'rnnlab' / '__init__.pyi').read_text()).body:
    if isinstance(node, ast.ImportFrom):
      for name in node.names:
        assert name.asname == name.name  # without `as` a stub does not export it
        seen[name.name] = node.module
  assert seen == {
    name: f'rnnlab.{rnnlab._HOME[name]}'
    if name in rnnlab._HOME
    else f'rnnlab.{rnnlab._MODULES[name]}'.rpartition('.')[0]
    for name in rnnlab.__all__
  }
  assert (ROOT / 'rnnlab' / 'py.typed').exists()


def test_each_version_bound_has_one_source():
  """The package reads the requirement files, which must not include other files."""
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())
  assert not {'dependencies', 'optional-dependencies'} & project['project'].keys()
  dynamic = project['tool']['setuptools']['dynamic']
  extras = {name: told['file'] for name, told in dynamic['optional-dependencies'].items()}
  optional = ('cluster', 'files', 'search', 'trackers', 'translation')
  assert extras == {name: f'experiments/{name}.txt' for name in optional} | {
    'test': 'tests/requirements.txt'
  }
  needed = [dynamic['dependencies']['file'], extras['test']]
  assert requirements('requirements.txt') == [f'-r {path}' for path in needed]
  names = [Requirement(line).name for path in needed for line in requirements(path)]
  assert len(names) == len({*names}) > 20 and 'jax' in names and 'pytest' in names
  for path in extras.values():
    assert [Requirement(line).name for line in requirements(path)]


def test_the_source_distribution_has_all_that_its_tests_need():
  """As MANIFEST.in says, whose files setuptools adds to the modules of the package."""
  wanted = ['rnnlab', 'experiments', 'tests', 'launch.py', 'requirements.txt', 'CHANGELOG.md']
  listed = ['git', 'ls-files', '--cached', '--others', '--exclude-standard', *wanted]
  kept = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
  if not kept:
    pytest.skip('not a git checkout')
  packed = set()
  for line in (ROOT / 'MANIFEST.in').read_text().splitlines():
    command, *words = line.split()
    if command == 'include':
      packed |= {*words}
    else:
      assert command == 'recursive-include'
      folder, *patterns = words
      packed |= {
        name
        for name in kept
        if name.startswith(f'{folder}/')
        and any(fnmatch.fnmatch(name.rpartition('/')[2], pattern) for pattern in patterns)
      }
  assert {name for name in kept if not name.startswith('rnnlab/') or '.py' not in name} <= packed
