"""The notebooks run from top to bottom."""

import pathlib

import nbclient
import nbformat
import pytest

NOTEBOOKS = pathlib.Path(__file__).parents[1] / 'experiments' / 'notebooks'


@pytest.mark.parametrize('path', sorted(NOTEBOOKS.glob('*.ipynb')), ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path, environment, monkeypatch):
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  notebook = nbformat.read(path, as_version=4)
  client = nbclient.NotebookClient(
    notebook, timeout=300, resources={'metadata': {'path': str(path.parent)}}
  )
  client.execute()
  pictures = [
    output
    for cell in notebook.cells
    for output in cell.get('outputs', [])
    if 'image/png' in output.get('data', {})
  ]
  assert len(pictures) == 2
