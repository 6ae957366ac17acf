"""The notebooks run from top to bottom, and are stored with their outputs."""

import pathlib

import nbclient
import nbformat
import pytest

NOTEBOOKS = pathlib.Path(__file__).parents[2] / 'experiments' / 'notebooks'
MOST = 300_000  # bytes of a notebook with its pictures


@pytest.fixture(params=sorted(NOTEBOOKS.glob('*.ipynb')), ids=lambda path: path.stem)
def path(request):
  return request.param


def shown(notebook):
  """The kinds of output of each code cell, except for libraries' warnings."""
  codes = [cell for cell in notebook.cells if cell.cell_type == 'code']
  return [
    {kind for o in cell.outputs if o.get('name') != 'stderr' for kind in o.get('data', ['text'])}
    for cell in codes
  ]


@pytest.mark.slow
def test_a_notebook_runs_from_top_to_bottom(path, environment, monkeypatch):
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  notebook = nbformat.read(path, as_version=4)
  kept = shown(notebook)
  client = nbclient.NotebookClient(
    notebook, timeout=300, resources={'metadata': {'path': str(path.parent)}}
  )
  client.execute()
  assert shown(notebook) == kept
  assert any('image/png' in kinds for kinds in kept)


def test_a_notebook_is_kept_as_it_ran(path):
  notebook = nbformat.read(path, as_version=4)
  codes = [cell for cell in notebook.cells if cell.cell_type == 'code']
  assert [cell.execution_count for cell in codes] == list(range(1, len(codes) + 1))
  assert not [o for cell in codes for o in cell.outputs if 'stderr' in o.get('name', '')]
  assert path.stat().st_size < MOST
