"""Progress for who looks on: in a terminal, a log and a notebook."""

import io
import sys

import nbclient
import nbformat
import pytest
from programs import ROOT, colours, in_a_terminal

from rnnlab.runs import runlog

# Two runs of two epochs, of which the second fails: shown by launch.py's display, or by run's.
SHOW = """
import collections, sys, types
from rnnlab.runs import runlog
Event = collections.namedtuple('Event', 'run kind fraction text')
runs = [
  types.SimpleNamespace(id=cell, until=0, overrides={'model.cell': cell, 'seed': 0})
  for cell in ('lstm', 'gru')
]
events = [
  Event('lstm', 'progress', 0.3, ''),
  Event('lstm', 'progress', 0.5, 'epoch 1/2: [fine]'),
  Event('gru', 'progress', 0.25, ''),
  Event('gru', 'failed', 1.0, 'why'),
  Event('lstm', 'done', 1.0, 'test accuracy 0.9'),
]
def show(display):
  with display:
    for event in events:
      display.update(event)
"""
LAUNCH = SHOW + 'show(runlog.Display(runs, runlog.consoles()[0]))'
RUN = SHOW + 'show(runlog.watch(runs))'
SAID = ['lstm seed=0: epoch 1/2: [fine]', 'gru seed=0: failed: why', 'test accuracy 0.9']


def terminal(code, folder, **env):
  env = {'PYTHONPATH': str(ROOT), 'TERM': 'xterm-256color'} | env
  status, output = in_a_terminal([sys.executable, '-c', code], env, folder)
  assert status == 0, output
  assert all(text in output for text in SAID)
  return output


@pytest.mark.parametrize('code', [LAUNCH, RUN], ids=['launch.py', 'run'])
def test_a_terminal_has_a_bar_in_colours_unless_no_color_is_set(code, tmp_path):
  output = terminal(code, tmp_path)
  assert colours(output) and '\r' in output.replace('\r\n', '') and 'all 2 runs' in output
  plain = terminal(code, tmp_path, NO_COLOR='1')
  assert not colours(plain) and '━' in plain and 'all 2 runs' in plain


def test_a_dumb_terminal_has_lines(tmp_path):
  output = terminal(LAUNCH, tmp_path, TERM='dumb', COLUMNS='60')
  assert '\x1b' not in output and '\r' not in output.replace('\r\n', '')
  assert len(output.splitlines()) == 3


def test_a_log_has_lines_also_where_it_takes_colours(monkeypatch, capfd):
  made = {}
  exec(SHOW, made)
  monkeypatch.setenv('FORCE_COLOR', '1')
  made['show'](runlog.Display(made['runs'], runlog.consoles()[0]))
  output, errors = capfd.readouterr()
  assert len(output.splitlines()) == 3 and not {'\x1b', '\r'} & {*output} and errors == ''
  assert [text in line for text, line in zip(SAID, output.splitlines(), strict=True)] == [True] * 3
  made['show'](runlog.watch(made['runs']))  # in a log `run` says nothing, unless it is told to
  assert capfd.readouterr() == ('', '')
  made['show'](runlog.watch(made['runs'], progress=True))
  assert len(capfd.readouterr().err.splitlines()) == 3


def test_a_notebook_has_one_picture_that_is_drawn_again(monkeypatch):
  monkeypatch.delenv('PYTEST_CURRENT_TEST')
  cells = [RUN, 'show(runlog.watch(runs, progress=False))', 'show(runlog.watch(runs[:1]))']
  notebook = nbformat.v4.new_notebook(cells=[*map(nbformat.v4.new_code_cell, cells)])
  notebook.cells[2].source = 'events = events[-1:]\n' + notebook.cells[2].source
  nbclient.NotebookClient(notebook, resources={'metadata': {'path': str(ROOT)}}).execute()
  (picture,), silent, (single,) = (cell.outputs for cell in notebook.cells)
  assert silent == []
  assert {*picture.data} == {'text/plain', 'text/html'}
  for text in (*SAID, 'all 2 runs', ' 100%'):
    assert text in picture.data['text/html']
  assert 'all' not in single.data['text/html'] and 'lstm seed=0' in single.data['text/html']


def test_quiet_says_nothing_and_json_leaves_standard_output_to_a_program(monkeypatch, capfd):
  for flags, expected in (((), 'ab'), ((False, True), 'b'), ((True, True), 'b'), ((True,), 'b')):
    messages, output = runlog.consoles(*flags)
    messages.print('a', end='')
    output.print('b', end='')
    said = capfd.readouterr()
    assert said.out == expected
    assert said.err == ('a' if flags == (False, True) else '')


def test_tables_are_as_wide_as_columns_says_and_else_as_a_log(monkeypatch):
  monkeypatch.setattr(runlog.sys, 'stdout', io.StringIO())
  monkeypatch.delenv('COLUMNS', raising=False)
  assert runlog.consoles()[1].width == 100
  monkeypatch.setenv('COLUMNS', '70')
  assert runlog.consoles()[1].width == 70
  monkeypatch.setenv('TERM', 'dumb')
  monkeypatch.setattr(runlog.sys.stdout, 'isatty', lambda: True, raising=False)
  assert runlog.consoles()[1].width == 70
