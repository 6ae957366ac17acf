"""A task's panels for its test split: gathered over seeds, drawn, put into words."""

import itertools
import json

import matplotlib.colors
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from test_report import Page, contrast, write_run

from rnnlab import tasks
from rnnlab.reports import figures, panels, report
from rnnlab.reports.figures.style import COLOURS, SPARE_COLOURS, render
from rnnlab.reports.panels import Shown
from rnnlab.tasks.base import Metric, Panel

NAMES = ['a <b>', '$c$', 'd']


def shown_of_seeds(predictions, encoding):
  """Three panels, whose numbers reveal from which runs and which encoding they were made."""
  right = np.concatenate([of['best'] == of['labels'] for of in predictions])
  counts = np.zeros((3, 3), int)
  for of in predictions:
    np.add.at(counts, (of['labels'], of['best']), 1)
  x = np.linspace(0, 1, 11)
  return [
    Panel('matrix', 'Confusion', 'Rows are true.', {'labels': encoding['names'], 'counts': counts}),
    Panel(
      'curve',
      'Calibration',
      'How sure, and how often right.',
      {'x': x, 'y': x**2, 'counts': np.arange(11), 'reference': 'diagonal', 'y_label': 'Share'},
    ),
    Panel(
      'scatter', 'Errors', 'A dot an example.', {'x': right * 1.0, 'y': right, 'reference': 'zero'}
    ),
  ]


@pytest.fixture(scope='module')
def shown(tmp_path_factory):
  """A workdir of two cells with three seeds, of a task with panels, and its report."""
  path, patch = tmp_path_factory.mktemp('panels'), pytest.MonkeyPatch()
  task = tasks.find('classification')
  patch.setattr(tasks, '_added', {})
  tasks.add(task._replace(name='shows', panels=shown_of_seeds))
  for cell, seed in itertools.product(('lstm', 'gru'), range(3)):
    folder = write_run(path, cell, seed)
    result = json.loads((folder / 'result.json').read_text())
    metrics = [metric._asdict() for metric in (Metric('accuracy', '%', 'higher', '.1%'),)]
    result |= {'task': 'shows', 'metrics': metrics}
    (folder / 'result.json').write_text(json.dumps(result))
    (folder / 'encoding.json').write_text(json.dumps({'names': NAMES}))
    labels = np.repeat([0, 1, 2], [10, 20, 40])
    best = labels.copy()
    best[: seed + 1] = 1 if cell == 'lstm' else 2  # 1 + 2 + 3 of 'a' are mistaken for another
    np.savez(folder / 'predictions.npz', labels=labels, final=labels, best=best)
    # Example 3 is hard for every seed, 4 for two seeds, and each seed has one of its own.
    hard = {3: 0.5 + seed, 10 + seed: 9.0} | ({4: 0.7} if seed else {})
    entries = [
      {'row': row, 'loss': loss, 'true': 'a <b>', 'predicted': NAMES[1 + seed % 2]}
      | {'shown': [[0, 1, 0.5], [2, 2, 2]] if row == 4 else f'text {row} <i>'}
      for row, loss in hard.items()
    ]
    (folder / 'hardest.json').write_text(json.dumps({'examples': entries}))
  yield path, report.write(path)
  patch.undo()


def test_a_panel_is_of_all_seeds_of_a_setting(shown):
  path, told = shown
  drawings = {drawing.name: drawing for drawing in told.drawings}
  assert {'confusion', 'calibration', 'errors'} < drawings.keys()
  said = drawings['confusion'].alternative
  assert 'LSTM: 97.1% on the diagonal; most often confused: 20% of a <b> as $c$' in said
  assert 'GRU: 97.1% on the diagonal; most often confused: 20% of a <b> as d' in said
  assert 'LSTM: Share against x: 0 at 0, 0.25 at 0.5, 1 at 1' in drawings['calibration'].alternative
  for name in ('confusion', 'calibration', 'errors'):
    assert (path / 'figures' / f'{name}.png').stat().st_size > 5000
    assert f'figures/{name}.png' in (path / 'summary.md').read_text()
    assert f'figures/{name}.png' in (path / 'summary.tex').read_text()
  page = Page(path / 'report.html')
  assert 'Rows are true.' in page.text and 'How sure, and how often right.' in page.text
  assert said in [value for name, value in page.attributes if name == 'aria-label']


def test_the_hardest_examples_are_those_that_most_seeds_find_hard(shown):
  path, told = shown
  (title, group, examples), (_, other, _) = told.hardest
  assert {group, other} == {'LSTM', 'GRU'} and title == told.blocks[0].title
  assert [(e.row, e.seeds) for e in examples] == [(4, 3), (5, 2), (11, 1), (12, 1), (13, 1)]
  first, second, *_ = examples
  assert first.loss == pytest.approx(1.5) and first.predicted == '$c$ / d'
  assert second.lines == ['0.0,26.0 80.0,14.0 160.0,20.0', '0.0,2.0 80.0,2.0 160.0,2.0']
  page = Page(path / 'report.html')
  assert page.text.count('text 3 <i>') == 2 and 'a <b>' in page.text
  assert (path / 'report.html').read_text().count('<polyline') == 4


def test_a_matrix_shows_counts_and_shares_of_rows(shown):
  counts = np.array([[8, 2, 0], [0, 1995, 5], [0, 0, 0]])
  of = Panel('matrix', 'Confusion', '', {'labels': NAMES, 'counts': counts})
  (ax,) = figures.panels(Shown('matrix', 'Confusion', '', [('LSTM', 'lstm', of)])).axes
  words = [text.get_text() for text in ax.texts]
  assert words == ['80%', '8', '20%', '2', '>99%', '1,995', '<1%', '5']
  rows = [label.get_text() for label in ax.get_yticklabels()]
  assert rows == ['a <b> (10)', '$c$ (2,000)', 'd (0)']
  assert ax.get_ylim() == (3, 0)  # the first class on top


@pytest.mark.parametrize('colour', [*COLOURS.values(), *SPARE_COLOURS])
def test_words_in_a_matrix_are_legible_on_every_colour_of_it(monkeypatch, colour):
  monkeypatch.setitem(COLOURS, 'lstm', colour)
  shares = np.arange(1, 101)
  counts = np.stack([shares, 100 - shares], axis=1)[:10]
  of = Panel('matrix', 'x', '', {'labels': range(10), 'counts': np.eye(10) * 99 + counts[0, 0]})
  (ax,) = figures.panels(Shown('matrix', 'x', '', [('LSTM', 'lstm', of)])).axes
  (mesh,) = ax.collections
  mesh.update_scalarmappable()
  for value in np.linspace(0, 1, 30):
    ground = matplotlib.colors.to_hex(mesh.cmap(value))
    assert contrast(ax.texts[0].get_color(), ground) >= 4.5, (colour, value)


@pytest.mark.parametrize('kind', ['matrix', 'curve', 'scatter'])
@pytest.mark.parametrize('groups', [1, 2, 4])
def test_words_of_panels_do_not_leave_the_picture(kind, groups):
  classes = {1: 60, 2: 20, 4: 3}[groups]
  data = {
    'matrix': {'labels': ['a long name ' * 3] * classes, 'counts': np.eye(classes)},
    'curve': {'x': [0, 1], 'y': [np.nan, 0.5], 'reference': 'diagonal'},
    'scatter': {'x': np.arange(3000), 'y': np.arange(3000.0), 'reference': 'diagonal'},
  }[kind]
  of = [(f'LSTM {i}', 'lstm', Panel(kind, 'A title', '', data)) for i in range(groups)]
  shown = Shown(kind, 'A title', 'A caption.', of)
  assert len(list(panels.alternative(shown))) == groups + 1
  assert ('2,000 of 3,000 points' in panels.caption(shown)) == (kind == 'scatter')
  fig = figures.panels(shown, note='a note')
  fig.draw_without_rendering()
  for ax in fig.axes:
    box = ax.get_tightbbox()
    assert box.x0 >= 0 and box.x1 <= fig.bbox.x1 and box.y0 >= 0 and box.y1 <= fig.bbox.y1


def test_a_curve_may_have_a_band_named_places_and_logarithmic_axes():
  y = np.array([3.0, 40.0, 2000.0])
  data = {'x': np.arange(3), 'y': y, 'low': y / 2, 'high': 2 * y, 'counts': [5, 6, 7]}
  data |= {'ticks': ['1–3', '4–10', '11+'], 'log': 'y', 'counted': 'tokens'}
  of = [(cell.upper(), cell, Panel('curve', 'A title', '', data)) for cell in ('lstm', 'gru')]
  shown = Shown('curve', 'A title', '', of)
  ax, below = figures.panels(shown).axes
  assert ax.get_yscale() == 'log' and below.get_ylabel() == 'Tokens'
  assert [tick.get_text() for tick in below.get_xticklabels()] == data['ticks']
  band, _ = ax.collections
  ends = band.get_paths()[0].vertices[:, 1]
  assert (ends.min(), ends.max()) == (1.5, 4000)
  assert [bar.get_height() for bar in below.patches] == [5, 6, 7]  # once, as both have the same
  assert (
    list(panels.alternative(shown))[1] == 'LSTM: y against x: 3 at 1–3, 40 at 4–10, 2e+03 at 11+'
  )
  data = {'x': [1, 10, 100], 'y': [3, 2, 1], 'log': 'x'}
  (ax,) = figures.panels(
    Shown('curve', 'A title', '', [('LSTM', 'lstm', Panel('curve', 'A title', '', data))])
  ).axes
  assert (ax.get_xscale(), ax.get_yscale()) == ('log', 'linear')


@pytest.mark.parametrize('x', [np.arange(5, 500, 10), np.linspace(0.5, 1, 10), [0.1, 0.9], [3.0]])
def test_bars_are_seen_and_do_not_overlap(x):
  data = {'x': x, 'y': np.ones(len(x)), 'counts': np.ones(len(x))}
  of = [('LSTM', 'lstm', Panel('curve', 'A title', '', data))]
  _, below = figures.panels(Shown('curve', 'A title', '', of)).axes
  widths = {round(bar.get_width(), 6) for bar in below.patches}
  whole = np.ptp(below.get_xlim())
  assert len(widths) == 1 and 0.005 * whole < widths.pop() < np.diff(x).min(initial=whole)


def test_labels_of_lines_keep_apart_on_a_logarithmic_axis():
  metric = Metric('perplexity', '', 'lower', '.2f', 'exp')
  rows = [
    {'id': group, 'group': group, 'model.cell': group, 'epoch': epoch, 'validation_is_test': False}
    | {'train_perplexity': value * 1.01, 'validation_perplexity': value, 'seconds': 1.0}
    | {'metrics': json.dumps([metric._asdict()])}
    for group, last in (('lstm', 80.0), ('gru', 81.0))
    for epoch, value in enumerate((9000.0, 400.0, last), 1)
  ]
  fig = figures.learning_curves(pd.DataFrame(rows))
  (ax,) = (ax for ax in fig.axes if ax.texts)
  assert ax.get_yscale() == 'log'
  boxes = sorted((Text.get_window_extent(label) for label in ax.texts), key=lambda box: box.y0)
  assert all(a.y1 <= b.y0 for a, b in itertools.pairwise(boxes)) and len(boxes) == 4
  assert ax.bbox.y0 <= boxes[0].y1 and boxes[-1].y1 <= ax.bbox.y0 + ax.bbox.height / 2


def test_letters_that_no_font_here_has_are_left_to_the_browser(recwarn, caplog):
  def draw(*_, note):
    fig = figures.style.new_figure(3, 2, note)
    fig.text(0.1, 0.5, 'x \ue123 y')  # of the private use area
    return fig

  figures.style._tell_of_fonts.cache_clear()
  _, svg = render(draw, note='')
  assert 'x \ue123 y' in svg and 'install a font' in caplog.text and not recwarn.list


def test_a_task_that_is_not_known_here_and_runs_without_predictions_have_no_panels(
  shown, tmp_path, caplog
):
  path, told = shown
  runs = told.blocks[0].runs.assign(group='all')
  assert len(list(panels.of_task(path, 'shows', runs))) == 3
  assert list(panels.of_task(tmp_path, 'shows', runs)) == []
  assert list(panels.of_task(path, 'unheard_of', runs)) == [] and 'unheard_of' in caplog.text
  for npz in path.glob('*lstm*/predictions.npz'):
    np.savez(npz, labels=np.zeros(3), final=np.zeros(3), best=np.zeros(3))
  one = runs[runs['model.cell'] == 'lstm'].assign(group='LSTM')
  assert list(panels.of_task(path, 'shows', one)) == [] and 'panels of LSTM' in caplog.text
