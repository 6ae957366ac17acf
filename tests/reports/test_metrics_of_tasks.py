"""Reports of a task whose metric is better when lower, and of several tasks in a workdir."""

import itertools
import json
import re

import numpy as np
import pandas as pd
import pytest
from programs import ROOT
from test_report import OFFICIAL, Page, axes_of, edit, shown_in, write_run

from rnnlab import results
from rnnlab.reports import drawings, figures, report
from rnnlab.results import measures, statistics

METRICS = [
  {'name': 'rmse', 'unit': '°C', 'better': 'lower', 'format': '.3f'},
  {'name': 'within', 'unit': '%', 'better': 'higher', 'format': '.1f'},
  {'name': 'loss', 'unit': '', 'better': 'lower', 'format': '.4f'},
]
OTHER_METRICS = [
  {'name': 'accuracy', 'unit': '%', 'better': 'higher', 'format': '.1%'},
  {'name': 'loss', 'unit': '', 'better': 'lower', 'format': '.3f'},
]
SIDES = {'a': {'model.cell': 'lstm'}, 'b': {'model.cell': 'gru'}, 'metric': 'best_test_rmse'}


def write_series_run(workdir, cell='lstm', seed=0, rmse=0.8, best=None, **settings):
  """A finished run of a regression on series, whose share `within` bounds is always the same."""
  best = rmse if best is None else best
  folder = write_run(workdir, cell, seed, rmse, best, source='generated', **settings)
  for name in ('metrics.jsonl', 'result.json'):
    lines = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    for value in (part for line in lines for part in (line, line.get('final'), line.get('best'))):
      for column in [c for c in value or () if c.endswith('_accuracy')]:
        value[column.replace('accuracy', 'rmse')] = value.pop(column)
        value[column.replace('accuracy', 'within')] = 0.75
    (folder / name).write_text(''.join(json.dumps(line) + '\n' for line in lines))
  edit(folder / 'result.json', lambda r: r.update(task='series', metrics=METRICS))
  edit(folder / 'result.json', lambda r: r['data'].update(title='Sines'))
  return folder


def write_series(workdir, lstm=0.8, gru=0.6):
  for (cell, rmse), seed in itertools.product((('lstm', lstm), ('gru', gru)), range(3)):
    write_series_run(workdir, cell, seed, rmse + 0.1 + seed / 100, rmse + seed / 100)


@pytest.fixture(scope='module')
def series(tmp_path_factory):
  """A workdir of the regression, in which GRU's errors are 0.2 °C below LSTM's, and its report."""
  path = tmp_path_factory.mktemp('series')
  write_series(path)
  return path, shown_in(path)


def test_who_has_the_lower_error_is_ahead(series):
  path, shown = series
  said = (
    'GRU is ahead of LSTM in test rmse at the epoch of best validation rmse: GRU - LSTM is '
    '-0.200 °C, 95% interval [-0.223, -0.177].'
  )
  for name in ('page', 'markdown', 'latex', 'json'):
    assert said in shown[name].replace(r'\%', '%').replace(r'\u00b0', '°'), name
  assert 'P(GRU is better) = 1.00' in shown['terminal']
  row = pd.read_csv(path / 'comparisons.csv').query('primary').iloc[0]
  assert row['metric'] == 'best_test_rmse' and row['difference'] == pytest.approx(-0.2)
  assert row['p_greater'] == 0  # P(b > a), of the values themselves


def test_tables_speak_of_the_metric_in_its_unit(series):
  path, shown = series
  assert 'Lower rmse is better.' in shown['terminal']
  row = r'LSTM +3 0\.810 ± 0\.010 +\[0\.785, 0\.835\] 0\.910 ± 0\.010'
  assert re.search(row, shown['terminal'])
  header = (
    '| Group | Runs | Test rmse, °C, best validation | 95% interval | Secondary: last epoch, °C |'
    ' 95% interval | Parameters |'
  )
  assert header in shown['markdown']
  assert (
    '| Other metric | Group | Test, best validation | 95% interval | Validation, best validation |'
  ) in shown['markdown']
  for name in ('markdown', 'latex', 'page'):
    row = r'within, %.*?LSTM.*?75\.0 ± 0\.0.*?\[75\.0, 75\.0\].*?75\.0 ± 0\.0'
    assert re.search(row, shown[name].replace('\\%', '%').replace('$\\pm$', '±'), re.DOTALL), name
  assert '| Test rmse, A - B | Epoch | Difference, °C |' in shown['markdown']
  assert '| GRU - LSTM | best | -0.200 | [-0.223, -0.177] | 1.00 | [' in shown['markdown']
  for name, text in shown.items():
    assert 'accuracy' not in text and 'points' not in text, name
  summary = pd.read_csv(path / 'summary.csv').set_index('group')
  assert summary.loc['GRU', 'best_test_rmse_mean'] == pytest.approx(0.61)
  assert (summary['task'] == 'series').all()


def test_figures_and_their_words_know_which_way_is_better(series):
  path, shown = series
  names = {picture.stem for picture in (path / 'figures').iterdir()}
  assert names == {'test_rmse', 'paired_seeds', 'frontier', 'learning_curves', 'rmse_vs_time'}
  told = shown['alternatives']
  assert 'GRU is ahead of LSTM in 3 of 3 seeds; their means differ by -0.200 °C, 0.610 °C' in told
  assert 'validation rmse is lowest after epoch 1, ' in told
  captions = re.findall(r'(?m)^\*([^*].*)\*$', (path / 'summary.md').read_text())
  assert len(captions) == 5
  assert all(caption.endswith('Lower rmse is better.') for caption in captions)
  runs = results.load_runs(path)
  epochs = results.load_metrics(path).assign(group=lambda frame: results.label(frame))
  first, second, third, _ = axes_of(figures.learning_curves, epochs)
  assert (first.get_ylabel(), second.get_ylabel(), third.get_ylabel()) == ('RMSE, °C', '', 'Loss')
  epochs['train_within'] = np.nan  # like a metric of a whole split
  _, second, third, _ = axes_of(figures.learning_curves, epochs)
  assert 'dashed train' in third.get_title('left') and len(third.lines) == 4
  assert 'train' not in second.get_title('left') and len(second.lines) == 2
  (ax,) = axes_of(figures.score_vs_time, epochs)
  assert ax.get_ylabel() == 'RMSE, °C'
  runs = runs.assign(group=results.label(runs))
  axes = axes_of(figures.test_scores, runs, results.summarise(runs))
  assert axes[0].get_xlabel() == 'Test RMSE, °C' and '%' not in axes[0].texts[0].get_text()


@pytest.mark.parametrize('first', [1.4, 100.0])
def test_first_epochs_far_above_all_later_ones_do_not_hide_these(series, first):
  path, _ = series
  epochs = results.load_metrics(path).assign(group=lambda frame: results.label(frame))
  start = epochs[epochs['epoch'] == 1]
  values = [first, *(1 + 1 / n for n in range(2, 41))]
  many = [
    start.assign(epoch=n, validation_rmse=value, train_rmse=value)
    for n, value in enumerate(values, start=1)
  ]
  ax = axes_of(figures.learning_curves, pd.concat(many))[0]
  low, high = ax.get_ylim()
  assert low < values[-1] and values[4] < high
  assert (first < high) == (first < 2)


def test_the_frontier_of_a_metric_that_should_be_low(series):
  row = results.summarise(results.load_runs(series[0])).iloc[0].to_dict()
  points = [(10, 0.80), (20, 0.85), (30, 0.70), (30, 0.75), (40, 0.70), (50, 0.60)]
  summary = pd.DataFrame(
    [row | {'group': str(x), 'seconds': x, 'best_test_rmse_mean': y} for x, y in points]
  )
  (ax,) = axes_of(figures.frontier, summary)
  (ringed,) = [line for line in ax.lines if line.get_markerfacecolor() == 'none']
  assert [*zip(*ringed.get_data(), strict=True)] == [(10, 0.80), (30, 0.70), (50, 0.60)]
  summary['best_validation_rmse_mean'] = summary['best_test_rmse_mean']
  assert sorted(figures.select(summary, 2)['best_test_rmse_mean']) == [0.60, 0.70]


@pytest.mark.parametrize(
  'says, margin, gru, verdict',
  [
    ('b < a', None, 0.6, 'supported'),
    ('b < a', None, 0.9, 'refuted'),
    ('b <= a', 0.1, 0.801, 'supported'),
    ('b <= a', 0.1, 0.6, 'supported'),
    ('b <= a', 0.1, 1.0, 'refuted'),
    ('b <= a', 0.1, 0.899, 'undecided'),
    ('b = a', 0.1, 0.801, 'supported'),
  ],
)
def test_claims_of_an_error(tmp_path, says, margin, gru, verdict):
  write_series(tmp_path, gru=gru)
  claim = SIDES | {'claim': 'it is so', 'says': says} | ({'margin': margin} if margin else {})
  measured = measures.read(METRICS)
  assert results.check_claims([claim], metrics=measured) == [claim]
  with pytest.raises(ValueError, match="no metric 'best_test_rmse'"):
    results.check_claims([claim])
  (tmp_path / 'sweep.json').write_text(json.dumps({'claims': [claim]}))
  (row,) = results.claims(tmp_path, results.load_runs(tmp_path)).to_dict('records')
  assert row['verdict'] == verdict, row['sentence']
  words = f'GRU - LSTM in test rmse at the epoch of best validation rmse is {gru - 0.8:+.4f} °C'
  assert words in row['sentence']
  assert not margin or f'margin {margin:.4f}' in row['sentence']


@pytest.mark.slow
def test_tasks_of_one_workdir_are_told_apart(tmp_path):
  write_series(tmp_path)
  for cell, seed in itertools.product(('lstm', 'gru'), range(3)):
    write_run(tmp_path, cell, seed, 0.8 + seed / 100, 0.9 + seed / 100)
  told = report.write(tmp_path)
  assert len(told.blocks) == 2 and len(told.summary) == 4
  assert set(told.summary['group']) == {'LSTM', 'GRU'}
  assert told.finding.count('series: GRU is ahead of LSTM in test rmse') == 1
  assert told.finding.count('GRU and LSTM are not told apart by test accuracy') == 1
  assert set(told.comparisons['metric']) == {
    f'{best}test_{name}' for best in ('best_', '') for name in ('rmse', 'accuracy')
  }
  names = {drawing.name for drawing in told.drawings}
  assert {'series_test_rmse', f'{measures.OLD_TASK}_test_accuracy'} <= names and len(names) == 10
  runs = results.load_runs(tmp_path).set_index('task')
  assert runs.loc['series', 'test_accuracy'].isna().all()
  assert runs.loc['series', 'test_rmse'].notna().all()
  assert set(results.summarise(results.load_runs(tmp_path))['group']) == {
    f'{cell} ({task}) ({source})'
    for cell in ('LSTM', 'GRU')
    for task, source in (('series', 'generated'), (measures.OLD_TASK, 'tfds'))
  }


@pytest.fixture(scope='module')
def problems(tmp_path_factory):
  """A workdir of one task on two sets of data whose metrics differ, and its report."""
  path = tmp_path_factory.mktemp('problems')
  write_series(path)
  for cell, seed in itertools.product(('lstm', 'gru'), range(3)):
    folder = write_run(path, cell, seed, 0.8 + seed / 100, 0.9 + seed / 100)
    edit(folder / 'result.json', lambda r: r.update(task='series', metrics=OTHER_METRICS))
    edit(folder / 'result.json', lambda r: r['data'].update(title='Sums'))
  return path, report.write(path)


def test_metrics_of_one_task_each_have_their_part_of_the_headline(problems):
  _, told = problems
  assert told.finding.startswith('Sines: GRU is ahead of LSTM in test rmse at the epoch')
  assert ' Sums: GRU and LSTM are not told apart by test accuracy' in told.finding


def test_metrics_of_one_task_each_have_their_figures(problems):
  path, told = problems
  names = [drawing.name for drawing in told.drawings]
  assert len(set(names)) == len(names) == 10
  assert {f'{name}.png' for name in names} == {x.name for x in (path / 'figures').iterdir()}
  data = {drawing.name: drawing.data for drawing in told.drawings}
  assert data['series_1_learning_curves'] == ('Data: Sines',)
  assert data['series_2_learning_curves'] == ('Data: Sums',)


def test_a_figure_of_the_page_names_the_data_that_it_shows_and_no_others(problems):
  path, told = problems
  captions = re.findall('<figcaption>(.*?)</figcaption>', (path / 'report.html').read_text())
  for caption, drawing in zip(captions, told.drawings, strict=True):
    data = 'Sines' if drawing.name.startswith('series_1') else 'Sums'
    assert caption.count('Data:') == 1 and caption.endswith(f'<p class="data">Data: {data}</p>')


def test_a_search_for_the_lowest_error(tmp_path, monkeypatch):
  drawn = {}
  monkeypatch.setattr(
    figures, 'render', lambda draw, *data, note: (drawn.update({draw: data}), '')[::-1]
  )
  monkeypatch.setattr(drawings.disk, 'write_atomic', lambda *_: None)
  for seed in (100, 101):
    write_series_run(tmp_path, seed=seed)
  trials = [
    {'id': f't{i}', 'setting': {'optim.learning_rate': 0.1 + i}, 'epochs': 3, 'state': 'done'}
    | {'validation_rmse': 1.0 + i}
    for i in range(6)
  ]
  runs = [
    {'id': t['id'], 'stage': 'search', 'overrides': {'model.cell': 'lstm', **t['setting']}}
    for t in trials
  ]
  arm = {'overrides': {'model.cell': 'lstm'}, 'trials': trials, 'best': 't0', 'runs': []}
  ranges = {'optim.learning_rate': ['log', 0.01, 1]}
  search = {'method': 'sobol', 'ranges': ranges, 'arms': [arm]}
  (tmp_path / 'sweep.json').write_text(json.dumps({'runs': runs, 'searches': [search]}))
  told = report.write(tmp_path)
  words = {drawing.name: drawing.alternative for drawing in told.drawings if drawing.searched}
  assert words.keys() == {'search_response', 'expected_minimum'}
  assert 'LSTM is best at 0.1, 1.000 °C' in words['search_response']
  assert '3.500 °C of one trial, 1.000 °C of 6' in words['expected_minimum']
  (ax,) = axes_of(figures.expected_best, *drawn[figures.expected_best])
  assert ax.get_title(loc='left') == 'Expected validation rmse of a search'


def test_the_least_to_be_expected_is_that_of_all_choices():
  values = np.array([3.0, 1.0, 4.0, 1.5, 9.0, 2.6])
  mean, low, high = statistics.expected_best(values, -1)
  for n in range(1, 7):
    chosen = [min(some) for some in itertools.combinations(values, n)]
    assert mean[n - 1] == pytest.approx(np.mean(chosen))
  assert low[0] <= mean[0] <= high[0]
  for one, two in zip(
    statistics.expected_best(values, 1), statistics.expected_maximum(values), strict=True
  ):
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
  'change',
  [
    {'better': 'up'},
    {'format': '.1q'},
    {'unit': None},
    {'name': 'rsme'},  # the result has no value for it
  ],
)
def test_a_run_whose_metrics_are_damaged_is_left_out_and_named(tmp_path, caplog, change):
  write_series_run(tmp_path)
  path = write_series_run(tmp_path, seed=1) / 'result.json'
  edit(path, lambda result: result['metrics'][0].update(change))
  assert len(results.load_runs(tmp_path)) == 1 and str(path) in caplog.text


def test_references_stand_beside_the_data_they_are_of(tmp_path, monkeypatch):
  monkeypatch.setattr(drawings, 'draw', lambda *_: ())
  write_run(tmp_path)
  write_series_run(tmp_path)
  references = [
    'Of every task: nothing is perfect.',
    {'says': 'Of the official set: 91%.', 'title': OFFICIAL[:10], 'test_examples': 25000},
    {'says': 'Of a smaller set: 92%.', 'title': OFFICIAL[:10], 'test_examples': 1000},
  ]
  (tmp_path / 'sweep.json').write_text(json.dumps({'references': references}))
  said = {block.runs['task'].iloc[0]: block.references for block in report.write(tmp_path).blocks}
  assert said == {
    'series': references[0],
    measures.OLD_TASK: f'{references[0]} Of the official set: 91%.',
  }
  for text in ('report.html', 'summary.md', 'summary.tex'):
    assert (tmp_path / text).read_text().count('Of the official set: 91') == 1
  assert Page(tmp_path / 'report.html').text.count('nothing is perfect') == 2


@pytest.mark.parametrize(
  'wrong', ['words', [3], [{'title': 'x'}], [{'says': 'x', 'titel': 'y'}], [{'says': 3}]]
)
def test_references_of_another_form_are_told(wrong, caplog):
  with pytest.raises(ValueError, match='reference'):
    results.check_references(wrong)
  assert results.references_of({'references': wrong}) == [] and 'left out' in caplog.text


def test_results_and_reports_know_no_task():
  known = re.compile('imdb|review|accurac', re.I)
  for wing in ('results', 'reports'):
    for path in sorted((ROOT / 'rnnlab' / wing).rglob('*.*')):
      if path.suffix in ('.py', '.html'):
        lines = path.read_text().splitlines()
        # The meaning of old results, in one place; and the examples, from the main job's workdir.
        lines = [x for x in lines if '>>> ' not in x and "Metric('accuracy'," not in x]
        assert not known.search('\n'.join(lines)), path
