"""Progress as shown in a terminal, a log and a notebook."""

import io
import sys

import nbclient
import nbformat
import pytest
import rich.console
from programs import ROOT, colours, in_a_terminal

from rnnlab.console import progress

# Two runs of two epochs, of which the second fails: shown by launch.py's display, or by run's.
SHOW = """
import collections, sys, types
from rnnlab.console import progress
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
LAUNCH = SHOW + 'show(progress.Display(runs, progress.consoles()[0]))'
RUN = SHOW + 'show(progress.watch(runs))'
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
  made['show'](progress.Display(made['runs'], progress.consoles()[0]))
  output, errors = capfd.readouterr()
  assert len(output.splitlines()) == 3 and not {'\x1b', '\r'} & {*output} and errors == ''
  assert [text in line for text, line in zip(SAID, output.splitlines(), strict=True)] == [True] * 3
  made['show'](progress.watch(made['runs']))  # in a log `run` says nothing by default
  assert capfd.readouterr() == ('', '')
  made['show'](progress.watch(made['runs'], progress=True))
  assert len(capfd.readouterr().err.splitlines()) == 3


def test_the_display_tells_progress_and_time_left_in_a_log(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
  output = io.StringIO()
  made = {}
  exec(SHOW, made)
  Event, runs = made['Event'], made['runs']
  with progress.Display(runs, rich.console.Console(file=output, width=200)) as display:
    for second, fraction, text in ((1, 0.0, ''), (11, 0.1, ''), (30, 0.5, 'epoch 1/2: fine')):
      now[0] = float(second)
      display.update(Event(runs[0].id, 'progress', fraction, text))
    display.update(Event(runs[1].id, 'failed', 1.0, 'why'))
  first, second, third = output.getvalue().splitlines()
  assert first.startswith('[0:11]') and 'lstm seed=0' in first
  assert second == '[0:30]  25% 1:27 left | lstm seed=0: epoch 1/2: fine'
  assert third.endswith('gru seed=0: failed: why')


@pytest.mark.parametrize(('epochs', 'shown'), [(50, range(1, 51)), (300, range(1, 301, 6))])
def test_of_many_epochs_a_log_has_fifty_and_the_last(epochs, shown):
  output, made = io.StringIO(), {}
  exec(SHOW, made)
  with progress.Display(made['runs'], rich.console.Console(file=output, width=200)) as display:
    for epoch in range(1, epochs + 1):
      for run in made['runs']:
        text = f'epoch {epoch}/{epochs}'
        display.update(made['Event'](run.id, 'progress', epoch / epochs, text))
      display.update(made['Event'](run.id, 'progress', epoch / epochs, 'its worker died'))
  lines = [line.split(' | ')[1] for line in output.getvalue().splitlines()]
  assert [line for line in lines if 'died' in line] == ['gru seed=0: its worker died'] * epochs
  lines = [line for line in lines if 'died' not in line]
  expected = sorted({*shown, epochs})
  for cell in ('lstm', 'gru'):
    assert [line for line in lines if cell in line] == [
      f'{cell} seed=0: epoch {epoch}/{epochs}' for epoch in expected
    ]


@pytest.mark.slow
def test_a_notebook_has_one_picture_that_is_drawn_again(monkeypatch):
  monkeypatch.delenv('PYTEST_CURRENT_TEST')
  cells = [RUN, 'show(progress.watch(runs, progress=False))', 'show(progress.watch(runs[:1]))']
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
    messages, output = progress.consoles(*flags)
    messages.print('a', end='')
    output.print('b', end='')
    said = capfd.readouterr()
    assert said.out == expected
    assert said.err == ('a' if flags == (False, True) else '')


def test_tables_are_as_wide_as_columns_says_and_else_as_a_log(monkeypatch):
  monkeypatch.setattr(progress.sys, 'stdout', io.StringIO())
  monkeypatch.delenv('COLUMNS', raising=False)
  assert progress.consoles()[1].width == 100
  monkeypatch.setenv('COLUMNS', '70')
  assert progress.consoles()[1].width == 70
  monkeypatch.setenv('TERM', 'dumb')
  monkeypatch.setattr(progress.sys.stdout, 'isatty', lambda: True, raising=False)
  assert progress.consoles()[1].width == 70
