"""Results, report, figures: the numbers, what is never mixed, what a reader sees."""

import html.parser
import io
import json
import re
import shutil
import statistics
import subprocess
import urllib.parse

import markdown_it
import matplotlib
import matplotlib.colors
import matplotlib.image
import matplotlib.text
import numpy as np
import pandas as pd
import pytest
import rich.console
from programs import ROOT

from rnnlab import results
from rnnlab.reports import content, drawings, figures, latex, report
from rnnlab.results import measures

OFFICIAL = 'IMDB, official train and test split (TFDS imdb_reviews 1.0.0)'
HELD_OUT = 'IMDB, 25,000 train reviews: held-out train reviews, not the official test set'
EPOCHS = 'at the epoch of best validation accuracy', 'after the last epoch'
ACCURACIES = {'lstm': (0.80, 0.82, 0.84), 'gru': (0.83, 0.85, 0.84)}


def write_run(
  workdir,
  cell='lstm',
  seed=0,
  accuracy=0.8,
  best=0.9,
  epochs=3,
  source='tfds',
  tutorial=False,
  **settings,
):
  """Writes a finished run's files, as experiment.py does; returns its folder."""
  words = [cell, str(seed), source, *map(str, settings.values())]
  folder = workdir / '_'.join(words)
  folder.mkdir(parents=True)
  config = {
    'seed': seed,
    'model': {'cell': cell, 'hidden_size': 64} | settings,
    'data': {'source': source, 'validation_fraction': 0.0 if tutorial else 0.2},
    'train': {'epochs': epochs},
  }
  rows = []
  for epoch in range(1, epochs + 1):
    shape = 1 - 0.3 * np.exp(-epoch / (3 if cell == 'lstm' else 2))
    rows.append(
      {
        'step': 100 * epoch,
        'epoch': epoch,
        'train_loss': 0.7 * np.exp(-epoch / 4),
        'train_accuracy': min(1.0, (accuracy + 0.08) * shape),
        'validation_loss': 0.75 - accuracy * shape / 2 + 0.01 * epoch,
        'validation_accuracy': accuracy * shape,
        'seconds': (12.0 if cell == 'lstm' else 9.0) + 3 * (epoch == 1) + 0.1 * seed,
      }
    )
  final = {name: value for name, value in rows[-1].items() if name not in ('step', 'seconds')}
  result = {
    'id': folder.name,
    'overrides': {'model.cell': cell, 'seed': seed},
    'data': {
      'source': source,
      'title': OFFICIAL if source == 'tfds' else HELD_OUT,
      'fingerprint': '0123456789abcdef',
      'sizes': {'train': 20000, 'validation': 5000, 'test': 25000},
      'validation_is_test': tutorial,
    },
    'final': final | {'test_loss': 0.4, 'test_accuracy': accuracy},
    'best': {
      'epoch': 2,
      'validation_loss': 0.3,
      'validation_accuracy': best,
      'test_loss': 0.35,
      'test_accuracy': best,
    },
    'parameters': 1329473 if cell == 'lstm' else 1317377,
    'recurrent_parameters': 49408 if cell == 'lstm' else 37248,
    'seconds_per_epoch': rows[-1]['seconds'],
    'seconds': sum(row['seconds'] for row in rows),
    'device': 'x86_64 cpu, 2 cores',
    'versions': {'python': '3.11.7', 'jax': '0.10.2'},
    'commit': 'c0ffee' * 6,
    'command': 'python launch.py',
    'finished': '2025-01-02T03:04:05+00:00',
  }
  (folder / 'config.json').write_text(json.dumps(config))
  (folder / 'result.json').write_text(json.dumps(result))
  (folder / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return folder


def write_runs(workdir, **kwargs):
  for cell, accuracies in ACCURACIES.items():
    for seed, accuracy in enumerate(accuracies):
      write_run(workdir, cell, seed, accuracy, accuracy + 0.05, **kwargs)


def write_sweep(workdir, *missing):
  ids = [path.parent.name for path in sorted(workdir.glob('*/result.json'))]
  (workdir / 'sweep.json').write_text(
    json.dumps(
      {
        'experiment': 'imdb',
        'preset': '',
        'command': 'python launch.py --config=experiments/imdb.py',
        'runs': [{'id': run, 'overrides': {}} for run in (*ids[::-1], *missing)],
      }
    )
  )


@pytest.fixture
def workdir(tmp_path):
  """Three seeds of LSTM and GRU."""
  write_runs(tmp_path)
  write_sweep(tmp_path)
  return tmp_path


@pytest.fixture
def undrawn(monkeypatch):
  """For tests of words only: figures have captions but no pictures, which take long."""
  monkeypatch.setattr(figures, 'render', lambda *_, **__: (b'', '<svg></svg>'))


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  """The report on six runs, one that failed and one that never began."""
  path = tmp_path_factory.mktemp('written')
  write_runs(path)
  failed = path / 'gru_9'
  failed.mkdir()
  (failed / 'error.json').write_text(
    json.dumps({'error': 'NonFiniteLoss: <script>alert(1)</script>', 'traceback': 'in <module>'})
  )
  write_sweep(path, 'gru_9', 'lstm_7')
  report.write(path)
  return path


def text_of(renderable, width=100):
  console = rich.console.Console(file=io.StringIO(), width=width)
  console.print(renderable)
  return console.file.getvalue()


class Page(html.parser.HTMLParser):
  """Reads a page: its text outside of scripts and styles, its attributes; tags must balance."""

  def __init__(self, path):
    super().__init__()
    self.open, self.attributes, self.words = [], [], []
    self.feed(path.read_text())
    self.close()
    assert not self.open
    self.text = ' '.join(self.words)

  def handle_starttag(self, tag, attrs):
    self.attributes += attrs
    if tag not in ('meta', 'link', 'br'):
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.attributes += attrs

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if self.open and self.open[-1] not in ('script', 'style'):
      self.words += data.split()


def test_summary_has_the_means_and_intervals_worked_out_by_hand(workdir):
  summary = results.summarise(results.load_runs(workdir)).set_index('group')
  assert set(summary.index) == {'LSTM', 'GRU'}
  for cell, group in (('lstm', 'LSTM'), ('gru', 'GRU')):
    row = summary.loc[group]
    assert row['runs'] == 3
    assert row['test_accuracy_mean'] == pytest.approx(statistics.mean(ACCURACIES[cell]))
    assert row['test_accuracy_std'] == pytest.approx(statistics.stdev(ACCURACIES[cell]))
    half = 4.302652729911275 * statistics.stdev(ACCURACIES[cell]) / 3**0.5  # t of 2 degrees, 97.5%
    assert row['test_accuracy_low'] == pytest.approx(row['test_accuracy_mean'] - half)
    assert row['test_accuracy_high'] == pytest.approx(row['test_accuracy_mean'] + half)
    assert row['best_test_accuracy_mean'] == pytest.approx(row['test_accuracy_mean'] + 0.05)
  assert summary.loc['LSTM', 'parameters'] == 1329473
  assert summary.loc['GRU', 'seconds_per_epoch'] == pytest.approx(9.1)


def test_comparison_is_welch_and_the_share_of_pairs(workdir):
  pairs = results.compare(results.load_runs(workdir))
  assert list(pairs['metric']) == ['best_test_accuracy', 'test_accuracy']
  assert list(pairs['primary']) == [True, False]
  row = pairs.iloc[1]
  assert (row['a'], row['b'], row['n_a'], row['n_b']) == ('lstm', 'gru', 3, 3)
  assert row['difference'] == pytest.approx(0.02)
  # Variances 0.0004 and 0.0001, 3 each: se 0.0129099, 50/17 degrees, whose 97.5% t is 3.2197.
  grid = np.linspace(-60, 60, 2_000_001)
  degrees = 50 / 17
  density = (1 + grid**2 / degrees) ** (-(degrees + 1) / 2)
  mass = np.cumsum(density) / density.sum()
  t = grid[np.searchsorted(mass, 0.975)]
  half = t * (0.0005 / 3) ** 0.5
  assert row['low'] == pytest.approx(0.02 - half, abs=2e-4)
  assert row['high'] == pytest.approx(0.02 + half, abs=2e-4)
  assert row['p_greater'] == pytest.approx((2 + 3 + 2.5) / 9)


def test_different_sources_are_never_averaged_together(workdir):
  write_runs(workdir, source='package')
  runs = results.load_runs(workdir)
  assert 'data.source' not in runs  # the source that was found is named
  summary = results.summarise(runs)
  assert set(summary['group']) == {'GRU (package)', 'GRU (tfds)', 'LSTM (package)', 'LSTM (tfds)'}
  assert set(summary['runs']) == {3}
  pairs = results.compare(runs)
  assert sorted(pairs['source']) == ['package', 'package', 'tfds', 'tfds']
  assert set(pairs['n_a']) == {3}
  text = text_of(report.table(runs))
  assert text.index(HELD_OUT) < text.index('LSTM (package)')
  assert text.index(OFFICIAL) < text.index('LSTM (tfds)')


def test_groups_are_every_setting_that_varies_but_the_seed(tmp_path):
  for cell in ('lstm', 'gru'):
    for size in (64, 128):
      for seed in (0, 1):
        write_run(tmp_path, cell, seed, 0.8 + size / 10000 + seed / 100, hidden_size=size)
  runs = results.load_runs(tmp_path)
  assert {'id', 'model.cell', 'model.hidden_size', 'seed', 'test_accuracy'} <= set(runs)
  assert 'train.epochs' not in runs
  summary = results.summarise(runs)
  assert set(summary['group']) == {
    'LSTM hidden_size=64',
    'LSTM hidden_size=128',
    'GRU hidden_size=64',
    'GRU hidden_size=128',
  }
  assert set(summary['runs']) == {2}
  pairs = results.compare(runs)
  assert len(pairs) == 4  # two sizes, at two epochs
  assert np.allclose(pairs['difference'], 0)
  metrics = results.load_metrics(tmp_path)
  assert len(metrics) == 8 * 3
  assert {'id', 'model.hidden_size', 'seed', 'epoch', 'train_loss', 'seconds'} <= set(metrics)


def test_runs_come_in_the_order_of_the_sweep(workdir):
  ids = [run['id'] for run in json.loads((workdir / 'sweep.json').read_text())['runs']]
  assert list(results.load_runs(workdir)['id']) == ids
  (workdir / 'sweep.json').write_text('{"runs": [')
  assert sorted(results.load_runs(workdir)['id']) == sorted(ids)


@pytest.mark.parametrize(
  'name, damage',
  [
    ('result.json', lambda text: text[:-40]),
    ('result.json', lambda text: text.replace('"final"', '"fnal"')),
    ('result.json', lambda text: '[]'),
    ('config.json', lambda text: ''),
  ],
)
def test_a_damaged_run_is_left_out_and_named(workdir, caplog, name, damage):
  path = workdir / 'gru_1_tfds' / name
  path.write_text(damage(path.read_text()))
  runs = results.load_runs(workdir)
  assert len(runs) == 5 and 'gru_1_tfds' not in set(runs['id'])
  assert str(path) in caplog.text


def test_a_damaged_line_of_metrics_is_left_out_and_named(workdir, caplog):
  path = workdir / 'gru_1_tfds' / 'metrics.jsonl'
  path.write_bytes(path.read_bytes()[:-30])
  metrics = results.load_metrics(workdir)
  assert len(metrics) == 6 * 3 - 1
  assert str(path) in caplog.text


def test_one_seed_has_no_interval(tmp_path, undrawn):
  write_run(tmp_path, 'lstm', accuracy=0.80)
  write_run(tmp_path, 'gru', accuracy=0.81)
  text = text_of(report.write(tmp_path))
  summary = pd.read_csv(tmp_path / 'summary.csv')
  assert summary.filter(regex='accuracy_(std|low|high)$').isna().all(axis=None)
  assert re.search(r'LSTM +1 +90\.0 +- ', text)
  assert 'no interval (1 and 1 seeds)' in text
  assert 'Too few seeds to tell GRU from LSTM' in Page(tmp_path / 'report.html').text
  assert 'nan' not in text + (tmp_path / 'summary.md').read_text()


def test_equal_accuracies_are_a_tie_without_an_interval(tmp_path):
  for cell in ('lstm', 'gru'):
    for seed in (0, 1):
      write_run(tmp_path, cell, seed, accuracy=0.8)
  row = results.compare(results.load_runs(tmp_path)).iloc[0]
  assert row['difference'] == 0 and row['p_greater'] == 0.5 and np.isnan(row['low'])


def write_disagreeing(workdir, **kwargs):
  """GRU is ahead after the last epoch, with p = 0.02; at the selected epoch the two are equal."""
  for cell, last, best in (('lstm', 0.80, (0.85, 0.87, 0.86)), ('gru', 0.83, (0.86, 0.85, 0.87))):
    for seed in range(3):
      write_run(workdir, cell, seed, last + seed / 100, best[seed], **kwargs)


def shown_in(workdir):
  """What each output says about a workdir's runs, as one line of words."""
  told = report.write(workdir)
  shown = {
    'terminal': text_of(told),
    'page': Page(workdir / 'report.html').text,
    'markdown': (workdir / 'summary.md').read_text(),
    'latex': (workdir / 'summary.tex').read_text().replace('-{}', '-'),
    'json': json.dumps(report.record(told)),
    'alternatives': ' '.join(drawing.alternative for drawing in told.drawings),
  }
  return {name: ' '.join(text.split()) for name, text in shown.items()}


def test_the_selected_epoch_makes_the_verdict_and_the_last_is_secondary(tmp_path, undrawn):
  write_disagreeing(tmp_path)
  last = results.compare(results.load_runs(tmp_path)).set_index('metric').loc['test_accuracy']
  assert last['p'] < 0.05  # the two metrics do disagree
  shown = shown_in(tmp_path)
  for name in ('page', 'markdown', 'latex', 'json'):
    told = 'GRU and LSTM are not told apart by test accuracy at the epoch of best validation'
    assert told in shown[name], name
  for name, text in shown.items():
    assert 'is ahead of LSTM in test accuracy' not in text, name
  terminal = shown['terminal']
  best, last = (terminal.index(f'GRU - LSTM, test accuracy {words}') for words in EPOCHS)
  assert best < last and terminal[:last].endswith('secondary: ')
  assert '| GRU - LSTM | last, secondary | +3.0 | [0.7, 5.3] |' in shown['markdown']
  rows = [
    line for line in (tmp_path / 'summary.md').read_text().splitlines() if '| GRU - LSTM' in line
  ]
  tests = {row.split(' | ')[1]: row.split(' | ')[-4:-2] for row in rows}
  assert tests['last, secondary'] == ['-', '-'] and tests['best'] == ['1.000', '1.000']
  primary = {row['metric']: row['primary'] for row in json.loads(shown['json'])['comparisons']}
  assert primary == {'best_test_accuracy': True, 'test_accuracy': False}


def test_where_validation_is_test_the_last_epoch_makes_the_verdict(tmp_path, undrawn):
  write_disagreeing(tmp_path, tutorial=True)
  for name, text in shown_in(tmp_path).items():
    if name not in ('terminal', 'alternatives'):
      assert 'GRU is ahead of LSTM in test accuracy after the last epoch' in text, name
    assert 'secondary' not in text.lower(), name


def test_runs_of_both_protocols_are_each_judged_by_their_own_metric(tmp_path, monkeypatch):
  monkeypatch.setattr(drawings, 'draw', lambda *_: ())
  write_disagreeing(tmp_path)
  write_disagreeing(tmp_path, source='package', tutorial=True)
  shown = shown_in(tmp_path)
  assert '2 comparisons of test accuracy: GRU ahead in 1, 1 not told apart' in shown['page']
  pairs = pd.read_csv(tmp_path / 'comparisons.csv')
  primary = pairs[pairs['primary']].set_index('validation_is_test')
  assert primary['metric'].to_dict() == {False: 'best_test_accuracy', True: 'test_accuracy'}
  assert primary.loc[True, 'p_holm'] == pytest.approx(2 * primary.loc[True, 'p'])


def test_a_headline_of_many_comparisons_counts_what_stays_when_p_is_corrected(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(drawings, 'draw', lambda *_: ())
  for cell, shift in (('lstm', 0), ('gru', 0.022), ('elman', -0.01)):
    for seed in range(3):
      write_run(tmp_path, cell, seed, 0.8, 0.8 + shift + seed / 100)
  pairs = results.compare(results.load_runs(tmp_path)).query('primary')
  assert (pairs['p'] < 0.05).sum() == 1 and (pairs['low'] > 0).sum() + (
    pairs['high'] < 0
  ).sum() == 1
  assert not (pairs['p_holm'] < 0.05).any()
  assert (
    '3 comparisons of test accuracy at the epoch of best validation accuracy: 3 not told apart'
    in shown_in(tmp_path)['page']
  )


def test_a_headline_counts_comparisons_that_could_not_be_tested(tmp_path, undrawn):
  for cell in ('lstm', 'gru', 'elman'):
    write_run(tmp_path, cell)
  assert report.write(tmp_path).finding == (
    '3 comparisons of test accuracy at the epoch of best validation accuracy: too few seeds, or no'
    ' spread, to test any.'
  )
  for cell, seed in (('lstm', 1), ('gru', 1), ('gru', 2), ('lstm', 2)):
    write_run(tmp_path, cell, seed, 0.8, 0.5 + seed / 10)
  assert ': 1 not told apart, 2 not tested, with p' in report.write(tmp_path).finding


def test_a_difference_that_holds_only_before_p_is_corrected_is_said_to(tmp_path, undrawn):
  for cell, accuracy in (('lstm', 0.8), ('gru', 0.822)):
    for seed in range(3):
      write_run(tmp_path, cell, seed, accuracy, accuracy + seed / 100)
  runs = results.load_runs(tmp_path)
  summary, pairs = results.summarise(runs), results.compare(runs)
  assert pairs['p_holm'].where(pairs['primary']).lt(0.1).any()
  pairs['p'], pairs['p_holm'] = 0.04, 0.08
  assert 'GRU and LSTM are not told apart by test accuracy at the epoch of best validation' in (
    said := content.finding(summary, pairs, pd.DataFrame(), 0)
  )
  assert 'validation accuracy once p is corrected for all comparisons of cells: GRU - LSTM' in said


def test_runs_of_both_protocols_on_the_same_data_are_groups_of_their_own(tmp_path):
  write_run(tmp_path / 'held', source='tfds').rename(tmp_path / 'held_out')
  write_run(tmp_path, source='tfds', tutorial=True)
  assert set(results.summarise(results.load_runs(tmp_path))['group']) == {
    'LSTM (held-out validation)',
    'LSTM (tutorial protocol)',
  }


def test_of_a_claim_that_could_not_be_tested_nothing_is_drawn():
  row = {'claim': 'X', 'verdict': 'undecided', 'a': 'LSTM', 'b': 'GRU', 'margin': 0.25}
  known = row | {'effect': '+1.0', 'difference': 1.0, 'low': 0.5, 'high': 1.5}
  untested = row | {'effect': '', 'difference': 1.0, 'low': np.nan, 'high': np.nan}
  (ax,) = figures.claims(pd.DataFrame([known, untested])).axes
  (shade,), ticks = ax.collections, ax.get_yticks()
  height = {*(line.get_ydata()[0] for line in ax.lines if line.get_marker() == 'd')}
  assert height == {ticks[0]} and not shade.get_paths()[0].contains_point((0, ticks[1]))
  assert len(ticks) == 2 and len(ax.lines) == 3


def test_where_validation_is_test_it_is_said_and_no_best_epoch_is_shown(tmp_path, undrawn):
  write_runs(tmp_path, tutorial=True)
  runs = results.load_runs(tmp_path)
  assert runs.filter(like='best').isna().all(axis=None)
  text = text_of(report.write(tmp_path))
  page = Page(tmp_path / 'report.html').text
  for shown in (text, page, (tmp_path / 'summary.md').read_text()):
    assert 'Tutorial protocol: the test split serves as validation' in ' '.join(shown.split())
    assert ' best' not in shown.lower()
    assert shown.index('Tutorial protocol') < shown.index('1,329,473')


def test_table_reads_well_in_a_log(written):
  text = text_of(report.table(results.load_runs(written)))
  assert max(map(len, text.splitlines())) <= 100
  assert '\x1b' not in text
  assert OFFICIAL in text and '20,000 train, 5,000 validation and 25,000 test examples' in text
  assert re.search(r'LSTM +3 +87\.0 ± 2\.0 +\[82\.0, 92\.0\] +82\.0 ± 2\.0', text)
  assert (
    'secondary: GRU - LSTM, test accuracy after the last epoch: +2.0 points, 95% interval '
    '[-2.2, 6.2], P(GRU is better) = 0.83 (3 and 3 seeds)'
  ) in ' '.join(text.split())


def test_files_of_the_report(written):
  summary, runs = pd.read_csv(written / 'summary.csv'), pd.read_csv(written / 'runs.csv')
  assert len(summary) == 2 and len(runs) == 6
  assert {
    'group',
    'model.cell',
    'source',
    'title',
    'runs',
    'parameters',
    'recurrent_parameters',
    'seconds_per_epoch',
    *(
      f'{metric}_{part}'
      for metric in (
        'test_accuracy',
        'test_loss',
        'validation_accuracy',
        'train_loss',
        'best_test_accuracy',
        'best_epoch',
      )
      for part in ('mean', 'std', 'low', 'high')
    ),
  } <= set(summary)
  assert 'seed' not in summary
  assert {'id', 'seed', 'device', 'versions', 'commit', 'command', 'best_epoch'} <= set(runs)
  assert not [path for path in written.rglob('*') if path.name.startswith('.')]
  words = (written / 'summary.md').read_text()
  assert OFFICIAL in words and 'nothing was chosen by the test split' in words
  assert 'python launch.py --config=experiments/imdb.py' in words
  assert '`gru_9`: `NonFiniteLoss: <script>' in words and '`lstm_7`: `no result' in words
  for figure in re.findall(r'\]\((.*?)\)', words):
    assert (written / figure).exists()


@pytest.mark.parametrize(
  'name',
  ['learning_curves', 'accuracy_vs_time', 'test_accuracy', 'paired_seeds', 'frontier'],
)
def test_figures_are_drawn(written, name):
  image = matplotlib.image.imread(written / 'figures' / f'{name}.png')[..., :3]
  assert min(image.shape[:2]) > 300
  for colour in ('0072b2', 'b84d00'):  # LSTM's and GRU's
    wanted = np.array([int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)])
    assert (np.abs(image - wanted).max(axis=-1) < 0.02).sum() > 200
  assert (image.min(axis=-1) > 0.98).mean() > 0.5  # a plain background


def test_many_groups_get_a_panel_each(tmp_path):
  for cell in ('lstm', 'gru', 'new_cell'):
    for size in (16, 32):
      write_run(tmp_path, cell, hidden_size=size, epochs=1)
  metrics = results.load_metrics(tmp_path)
  metrics['group'] = results.label(metrics)
  for draw in (figures.learning_curves, figures.score_vs_time):
    titles = [ax.get_title(loc='left').replace('\n', ' ') for ax in draw(metrics).axes]
    assert set(titles) == set(metrics['group']) and len(titles) == 6


def test_labels_at_the_ends_of_lines_do_not_overlap(tmp_path):
  for i, cell in enumerate(('lstm', 'gru', 'elman', 'new_cell')):
    write_run(tmp_path, cell, accuracy=0.8 + i / 10000)
  metrics = results.load_metrics(tmp_path)
  metrics['group'] = results.label(metrics)
  axes = figures.learning_curves(metrics).axes
  for ax in axes:
    boxes = sorted(
      (matplotlib.text.Text.get_window_extent(text) for text in ax.texts), key=lambda box: box.y0
    )
    assert len(boxes) == 8
    assert all(low.y1 < high.y0 for low, high in zip(boxes, boxes[1:], strict=False))


def drawn(workdir):
  """The functions that draw the figures of these runs' report -> the tables passed to each."""
  frames = {}
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      figures, 'render', lambda draw, *data, note: (frames.update({draw: data}), '')[::-1]
    )
    patch.setattr(report.disk, 'write_atomic', lambda *_: None)
    report.write(workdir)
  return frames


def luminance(colour):
  """The luminance of WCAG 2, from 0 for black to 1 for white."""
  channels = matplotlib.colors.to_rgb(colour)
  linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
  low, high = sorted((luminance(one), luminance(other)))
  return (high + 0.05) / (low + 0.05)


def test_contrast_is_that_of_wcag():
  assert contrast('#000000', '#ffffff') == pytest.approx(21)
  assert contrast('#767676', '#ffffff') == pytest.approx(4.54, abs=0.005)  # the known lightest grey


def test_all_words_of_the_page_are_legible_on_its_grounds_by_day_and_by_night():
  page = (ROOT / 'rnnlab' / 'reports' / 'report.html').read_text()
  light, dark = (
    dict(re.findall(r'--([\w-]+): (#\w{6});', block))
    for block in re.findall(r':root {(.*?)}', page, re.S)
  )
  assert light.keys() == dark.keys()
  for colour, name in figures.THEME.items():
    assert light[name] == colour
  used = set(re.findall(r'(?<![\w-])color: var\(--([\w-]+)\)', page))
  assert {'ink', 'muted', 'elman', 'gru'} <= used
  used |= set(figures.THEME.values()) - {'faint', 'grid', 'paper'}  # these are lines and fills
  for scheme in (light, dark):
    for name in used:
      for ground in ('paper', 'wash'):
        assert contrast(scheme[name], scheme[ground]) >= 4.5, (name, ground)


def test_all_words_in_a_figure_are_legible(tmp_path):
  for cell in ('lstm', 'gru', 'elman', 'a', 'b', 'c'):
    for size in (8, 16):
      write_run(tmp_path, cell, hidden_size=size, epochs=2)
  frames = drawn(tmp_path)
  few = [
    frame[frame['group'].str.contains('LSTM|GRU')] for frame in frames[figures.learning_curves]
  ]
  for draw, data in [*frames.items(), (figures.learning_curves, few)]:
    for text in draw(*data, note='a note').findobj(matplotlib.text.Text):
      if text.get_text():
        assert text.get_alpha() in (None, 1), text.get_text()
        assert contrast(text.get_color(), figures.PAPER) >= 4.5, (draw.__name__, text.get_text())


def test_a_figure_is_described_for_those_who_do_not_see_it(written):
  page, words = Page(written / 'report.html'), (written / 'summary.md').read_text()
  labels = [value for name, value in page.attributes if name == 'aria-label']
  assert len(labels) == 5 == len(set(labels))
  for said in (
    'LSTM: mean 87.0%, 95% interval 82.0% to 92.0%, 3 runs.',
    'GRU is ahead of LSTM in 2 of 3 seeds; their means differ by +2.0 points, 89.0% against 87.0%.',
    'GRU: 89.0% in 30 seconds.',
    'GRU: validation accuracy is highest after epoch 3, 78.4%, and ends after epoch 3 at 78.4%;',
    'LSTM: validation accuracy is highest after 39 seconds, 73.0%, and ends after 39 seconds',
  ):
    assert sum(said in label for label in labels) == 1, said
    assert said in words
  captions = re.findall(r'<figcaption>(.*?)<p', (written / 'report.html').read_text(), re.S)
  assert not set(captions) & set(labels)


def test_a_figure_wants_no_style_of_its_caller_and_leaves_theirs_alone(tmp_path):
  write_runs(tmp_path)
  for draw, data in drawn(tmp_path).items():
    with matplotlib.rc_context({'figure.constrained_layout.use': False, 'axes.labelcolor': 'red'}):
      before = dict(matplotlib.rcParams)
      figure = draw(*data)
      figure.savefig(io.BytesIO())
      assert dict(matplotlib.rcParams) == before
    assert all(ax.xaxis.label.get_color() == figures.INK for ax in figure.axes)


HOSTILE = '<script>alert(1)|$x_1$ [x](y) ![z][w] `c` *b* ~~s~~ &lt; % # \\q ^ {k} "q" _i_'


@pytest.fixture(scope='module')
def hostile(tmp_path_factory):
  """A report in which everything that a user names has the worst possible name."""
  path = tmp_path_factory.mktemp('hostile')
  for cell in ('lstm', HOSTILE):
    for seed in range(2):
      run = write_run(path / 'x', seed=seed, accuracy=0.8 + seed / 100, epochs=1)
      run = run.rename(path / f'{len(cell)}_{seed}$_[a](b)')
      config = json.loads((run / 'config.json').read_text())
      config['model'] |= {'cell': cell, 'name': HOSTILE}
      (run / 'config.json').write_text(json.dumps(config))
      result = json.loads((run / 'result.json').read_text())
      result['data']['title'] = HOSTILE
      result |= {'command': f'python launch.py --x={HOSTILE}\udcff', 'device': HOSTILE}
      (run / 'result.json').write_text(json.dumps(result | {'versions': {'a': HOSTILE}}))
  (path / 'failed').mkdir()
  error = {'error': f'{HOSTILE}\n# a\n- b', 'traceback': HOSTILE}
  (path / 'failed' / 'error.json').write_text(json.dumps(error))
  sides = {'a': {'model.cell': 'lstm'}, 'b': {'model.cell': HOSTILE}}
  claim = sides | {'claim': HOSTILE, 'metric': 'best_test_accuracy', 'says': 'b > a'}
  write_sweep(path)
  sweep = json.loads((path / 'sweep.json').read_text())
  sweep |= {'experiment': HOSTILE, 'preset': HOSTILE, 'command': HOSTILE, 'claims': [claim] * 2}
  (path / 'sweep.json').write_text(json.dumps(sweep))
  return path, text_of(report.write(path))


def test_what_a_user_names_is_escaped_everywhere(hostile):
  path, text = hostile
  assert HOSTILE in ' '.join(text.split())
  page = Page(path / 'report.html')
  assert (path / 'report.html').read_text().count('<script') == 1 and page.text.count(HOSTILE) > 20
  for name, value in page.attributes:
    if name == 'href' and not value.startswith(('#', 'data:')):
      assert (path / urllib.parse.unquote(value)).is_file()
  latex = re.sub(
    r'\\(?:[%&#_{}$-]|text\w+\{\})|\$[|<>\\pm]+\$', '', (path / 'summary.tex').read_text()
  )
  for table in re.findall(r'\\endhead(.*?)\\bottomrule', latex, re.S):
    for row in table.strip().splitlines():
      assert not set('$#_^~%') & set(row), row


def test_markdown_shows_what_a_user_names_as_it_is(hostile):
  reader = markdown_it.MarkdownIt('commonmark').enable(['table', 'strikethrough'])
  shown = reader.render((hostile[0] / 'summary.md').read_text())
  assert not re.findall(r'<(?:script|s|a|h\d>[ab])\b', shown)
  seen = html.unescape(re.sub(r'<[^>]*>', '', shown))
  assert ' '.join(seen.split()).count(HOSTILE) >= 10


def test_page_loads_nothing_and_escapes_everything(written):
  text = (written / 'report.html').read_text()
  page = Page(written / 'report.html')
  assert text.count('<svg') == 5
  assert '<script>alert' not in text
  assert 'NonFiniteLoss: <script>alert(1)</script>' in page.text and 'in <module>' in page.text
  links = 0
  for name, value in page.attributes:
    if name in ('src', 'href', 'xlink:href', 'srcset', 'data', 'action'):
      if not value.startswith(('#', 'data:')):
        assert name == 'href' and (written / urllib.parse.unquote(value)).is_file(), value
        links += 1
  assert links == 6 * 3  # result, metrics and config of each run
  assert all(url.startswith(('#', '"#')) for url in re.findall(r'url\(([^)]*)\)', text))
  assert '@import' not in text and 'http-equiv="Content-Security-Policy"' in text
  for words in (
    '6 of 8 runs',
    OFFICIAL,
    'GRU and LSTM are not told apart',
    'jax 0.10.2',
    'c0ffee' * 6,
    'x86_64 cpu, 2 cores',
    '0123456789abcdef',
    'train.epochs = 3',
    'model.cell = lstm | gru',
    'lstm_7',
    'git checkout ' + 'c0ffee' * 6,
    'python -m pip install jax==0.10.2',
  ):
    assert words in page.text, words


def test_a_workdir_without_runs_says_what_to_do(tmp_path):
  with pytest.raises(FileNotFoundError, match='no such folder.*python launch.py --workdir='):
    results.load_runs(tmp_path / 'none')
  with pytest.raises(ValueError, match='no finished run.*python launch.py --workdir='):
    results.load_runs(tmp_path)
  write_sweep(tmp_path, 'lstm_0')
  (tmp_path / 'lstm_0').mkdir()
  (tmp_path / 'lstm_0' / 'error.json').write_text('{"error": "the disk is full"}')
  with pytest.raises(ValueError, match='lstm_0: the disk is full'):
    report.write(tmp_path)


def axes_of(draw, *frames):
  return draw(*frames).axes


def test_seeds_are_paired_with_their_own_of_the_other_cell(tmp_path):
  for seed, accuracy in enumerate((0.80, 0.82, 0.84)):
    write_run(tmp_path, 'lstm', seed, accuracy, accuracy)
  for seed, accuracy in ((1, 0.81), (2, 0.86), (3, 0.99)):
    write_run(tmp_path, 'gru', seed, accuracy, accuracy)
  write_run(tmp_path, 'gru', 0, 0.5, 0.5, hidden_size=128)  # seed 0, but another setting
  runs = results.load_runs(tmp_path)
  pairs = results.compare(runs)
  paired = drawings.paired(runs, pairs)
  assert sorted(zip(paired['x'], paired['y'], strict=True)) == [(0.82, 0.81), (0.84, 0.86)]
  pairs = pairs.assign(where='', pair=pairs.index).loc[paired['pair'].unique()]
  left, right = axes_of(figures.paired_seeds, pairs, paired)
  joined = [tuple(line.get_ydata()) for line in left.lines if tuple(line.get_xdata()) == (0, 1)]
  assert sorted(joined) == [(0.82, 0.81), (0.84, 0.86)]
  dots = next(line for line in right.lines if line.get_marker() == 'o')
  assert sorted(dots.get_ydata()) == pytest.approx([-1, 2])


def test_the_frontier_is_what_no_group_beats_in_both(tmp_path):
  write_run(tmp_path)
  row = results.summarise(results.load_runs(tmp_path)).iloc[0].to_dict()
  points = {(10, 0.80), (20, 0.79), (30, 0.85), (30, 0.83), (40, 0.85), (50, 0.90)}
  summary = pd.DataFrame(
    [row | {'group': str(x), 'seconds': x, 'best_test_accuracy_mean': y} for x, y in sorted(points)]
  )
  (ax,) = axes_of(figures.frontier, summary)
  (ringed,) = [line for line in ax.lines if line.get_markerfacecolor() == 'none']
  assert [*zip(*ringed.get_data(), strict=True)] == [(10, 0.80), (30, 0.85), (50, 0.90)]


def test_a_response_is_of_numbers_that_take_many_values_on_an_axis_that_fits_them():
  draw = np.random.default_rng(0)
  runs = pd.DataFrame(
    {
      'id': map(str, range(40)),
      'model.cell': ['lstm', 'gru'] * 20,
      'optim.learning_rate': 10 ** draw.uniform(-5, -1, 40),
      'model.dropout': draw.uniform(0, 1, 40),
      'model.layers': [1, 2] * 20,
      'data.mask': [True, False] * 20,
      'y': draw.uniform(0.5, 0.9, 40),
      'validation_is_test': False,
      'metrics': measures.as_json(measures.OLD_METRICS),
    }
  )
  axes = axes_of(figures.response, runs)
  assert [(ax.get_xlabel(), ax.get_xscale()) for ax in axes] == [
    ('optim.learning_rate', 'log'),
    ('model.dropout', 'linear'),
  ]
  for ax in axes:
    low, high = ax.get_xlim()
    assert low <= runs[ax.get_xlabel()].min() and runs[ax.get_xlabel()].max() <= high


@pytest.mark.slow
def test_of_many_groups_figures_show_the_best_by_validation_of_each_cell_and_say_so(tmp_path):
  for cell in ('lstm', 'gru'):
    for i in range(12):
      validation = 0.7 + i / 100 + 0.2 * (cell == 'gru')
      write_run(tmp_path, cell, best=validation, hidden_size=i + 1, epochs=2)
  report.write(tmp_path)
  page = Page(tmp_path / 'report.html')
  assert (
    'Shown are 12 of 24 groups: those with the best validation accuracy, as many of each cell'
    in page.text
  )
  assert 'Shown are 6 of 12 pairs: those with the best validation accuracy;' in page.text
  summary = results.summarise(results.load_runs(tmp_path))
  shown = figures.select(summary, 12)
  assert set(shown['model.cell']) == {'lstm', 'gru'}
  assert set(shown['model.hidden_size']) == {7, 8, 9, 10, 11, 12}
  for name in ('test_accuracy', 'learning_curves', 'response'):
    image = matplotlib.image.imread(tmp_path / 'figures' / f'{name}.png')
    assert max(image.shape) < 4000


@pytest.fixture(scope='module')
def searched(tmp_path_factory):
  """A report of a search: eight trials per arm, all but the two best stopped early; and claims."""
  path = tmp_path_factory.mktemp('searched')
  runs, arms = [], []
  for cell in ('lstm', 'gru'):
    trials, chosen = [], []
    for i in range(8):
      rate, accuracy = 10.0 ** -(i % 5 + 1), 0.6 + i / 100
      setting = {'optim.learning_rate': rate * (1 + i)}
      runs.append(
        {'id': f'{cell}_t{i}', 'stage': 'search'}
        | {'overrides': {'model.cell': cell, 'seed': 0, **setting}}
      )
      trials.append(
        {'id': f'{cell}_t{i}', 'setting': setting, 'epochs': 3 if i > 5 else 1}
        | {'validation_accuracy': accuracy, 'state': 'done' if i > 5 else 'left'}
      )
      if i > 5:  # a trial that ran to its end; its test accuracy must not appear
        write_run(path, cell, seed=0, accuracy=0.111, best=0.111).rename(path / f'{cell}_t{i}')
    for seed, accuracy in enumerate((0.81, 0.82, 0.83), 100):
      accuracy += 0.05 * (cell == 'gru')
      folder = write_run(path, cell, seed, accuracy, accuracy)
      config = json.loads((folder / 'config.json').read_text())
      config['optim'] = {'learning_rate': 0.1 if cell == 'lstm' else 0.2}
      (folder / 'config.json').write_text(json.dumps(config))
      chosen.append(folder.name)
      runs.append({'id': folder.name, 'overrides': {'model.cell': cell, 'seed': seed}, 'stage': ''})
    arm = {'overrides': {'model.cell': cell}, 'trials': trials, 'best': f'{cell}_t7'}
    arms.append(arm | {'runs': chosen})
  sides = {'a': {'model.cell': 'lstm'}, 'b': {'model.cell': 'gru'}, 'metric': 'best_test_accuracy'}
  sweep = {'experiment': 'imdb', 'preset': '', 'command': 'python launch.py', 'runs': runs}
  search = {'method': 'sobol', 'ranges': {'optim.learning_rate': ['log', 0.01, 1]}, 'arms': arms}
  claims = [
    sides | {'claim': 'GRU beats LSTM & all_that', 'says': 'b > a'},
    sides | {'claim': 'LSTM beats GRU', 'says': 'b < a'},
  ]
  (path / 'sweep.json').write_text(json.dumps(sweep | {'searches': [search], 'claims': claims}))
  return path, text_of(report.write(path))


@pytest.mark.parametrize('change, drawn', [({}, True), ({'halving': [1, 2]}, False)])
def test_what_the_best_of_n_would_be_is_told_of_independent_trials_only(
  searched, monkeypatch, tmp_path, change, drawn
):
  monkeypatch.setattr(figures, 'render', lambda *_, **__: (b'', '<svg></svg>'))
  shutil.copytree(searched[0], tmp_path / 'copy')
  edit(tmp_path / 'copy' / 'sweep.json', lambda sweep: sweep['searches'][0].update(change))
  names = [drawing.name for drawing in report.write(tmp_path / 'copy').drawings]
  assert ('expected_maximum' in names) == drawn


@pytest.mark.parametrize('known', [True, False])
def test_train_is_told_of_only_where_it_is_drawn(known):
  rows = [
    {'id': cell, 'group': cell, 'model.cell': cell, 'epoch': epoch, 'validation_accuracy': 0.5}
    for cell in ('lstm', 'gru', 'elman', 'irnn', 'slstm')
    for epoch in (1, 2)
  ]
  epochs = measures.of_now(pd.DataFrame(rows)).assign(
    validation_is_test=False, train_accuracy=0.6 if known else np.nan
  )
  title = figures.learning_curves(epochs).get_suptitle()
  assert ('dashed train' in title) == known and title.startswith('Accuracy: solid validation')


def test_trials_of_a_search_are_told_apart_from_the_runs_that_are_compared(searched):
  path, text = searched
  summary = pd.read_csv(path / 'summary.csv')
  assert list(summary['group']) == ['LSTM', 'GRU'] and list(summary['runs']) == [3, 3]
  pairs = pd.read_csv(path / 'comparisons.csv')
  assert pairs['difference'].to_numpy() == pytest.approx([0.05, 0.05])  # each as it was tuned
  page = Page(path / 'report.html').text
  for shown in (text, page, (path / 'summary.md').read_text(), (path / 'summary.tex').read_text()):
    assert '11.1' not in shown
  assert '## Search' in (path / 'summary.md').read_text()
  assert '| GRU | 8 | 63.5 | 67.0 | 0.008 |' in (path / 'summary.md').read_text()
  for name in ('search_response', 'expected_maximum'):
    assert (path / 'figures' / f'{name}.png').exists()
  assert 'gru_t3' in page and 'All 16 trials' in page


def test_where_only_trials_are_done_yet_the_report_is_of_the_search(searched, tmp_path):
  shutil.copytree(searched[0], tmp_path, dirs_exist_ok=True)
  for folder in tmp_path.glob('*_10[0-2]_tfds'):
    shutil.rmtree(folder)
  report.write(tmp_path)
  page = Page(tmp_path / 'report.html')
  assert 'All 16 trials' in page.text and '2 claims: 2 undecided.' in page.text
  assert 'Each dot is the test accuracy' not in page.text


def test_other_settings_are_compared_as_a_family_of_their_own(tmp_path, undrawn):
  draw = np.random.default_rng(0)
  for cell in ('lstm', 'gru'):
    for size in (32, 64, 128):
      for seed in range(3):
        write_run(tmp_path, cell, seed, 0.8 + draw.uniform(0, 0.02), hidden_size=size, epochs=1)
  report.write(tmp_path)
  pairs = pd.read_csv(tmp_path / 'comparisons.csv').query('metric == "test_accuracy"')
  cells = pairs[pairs['setting'] == 'model.cell']
  assert len(cells) == 3 and len(pairs) == 3 + 2 * 3
  assert cells['p_holm'].min() == pytest.approx(min(1, 3 * cells['p'].min()))
  words = (tmp_path / 'summary.md').read_text()
  assert '| GRU - LSTM hidden_size=64 | best |' in words
  assert '| hidden_size 64 - 32: GRU | best |' in words
  assert '12 comparisons of other settings' in Page(tmp_path / 'report.html').text


def test_verdicts_of_the_claims_come_first(searched):
  path, text = searched
  page = Page(path / 'report.html')
  assert '2 claims: 1 supported, 1 refuted.' in page.text
  assert page.text.index('LSTM beats GRU: refuted') < page.text.index('Data: IMDB')
  assert ('class', 'verdict supported') in page.attributes
  assert text.startswith('GRU beats LSTM & all_that: supported')
  words = (path / 'summary.md').read_text()
  assert words.index('- LSTM beats GRU: refuted') < words.index('| Group')


@pytest.mark.parametrize(
  'number, after, late',
  [
    (1, 0, 'undecided.'),
    (1, 1, 'It was written down after 1 run was done.'),
    (1, 8, 'It was written down after 8 runs were done.'),
    (2, 8, '2 claims: 2 undecided. They were written down after 8 runs were done.'),
  ],
)
def test_claims_written_down_after_runs_are_told_to_be(number, after, late):
  claims = pd.DataFrame({'verdict': ['undecided'] * number, 'sentence': ['X: undecided.'] * number})
  nothing = pd.DataFrame()
  assert content.finding(nothing, nothing, claims, after).endswith(late)


def test_latex_is_a_whole_document_with_nothing_unescaped(searched):
  path, _ = searched
  text = (path / 'summary.tex').read_text()
  assert text.startswith('\\documentclass') and text.rstrip().endswith('\\end{document}')
  begun, ended = (re.findall(rf'\\{word}{{(\w+)}}', text) for word in ('begin', 'end'))
  assert sorted(begun) == sorted(ended) and begun.count('longtable') == 4
  assert r'GRU beats LSTM \& all\_that: supported' in text
  for table in re.findall(r'\\begin{longtable}.*?\\end{longtable}', text, re.DOTALL):
    assert all(rule in table for rule in (r'\toprule', r'\midrule', r'\bottomrule'))
    columns = len(re.search(r'p{5cm}(r+)}', table)[1])
    rows = [line for line in table.splitlines() if line.endswith(r'\\') and '&' in line]
    assert len(rows) > 1 and all(line.count(' & ') == columns for line in rows)
  for picture in re.findall(r'\\includegraphics\[.*?\]{(.*?)}', text):
    assert (path / picture).is_file()
  assert latex._tex(r'50% & a_b ~ \x {^} #$ <1>') == (
    r'50\% \& a\_b \textasciitilde{} \textbackslash{}x \{\textasciicircum{}\} \#\$ $<$1$>$'
  )


@pytest.mark.skipif(not shutil.which('pdflatex'), reason='there is no LaTeX here')
def test_latex_compiles(searched):
  path, _ = searched
  command = ['pdflatex', '-interaction=nonstopmode', '-halt-on-error', 'summary.tex']
  done = subprocess.run(command, cwd=path, capture_output=True, text=True, timeout=120)
  assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.skipif(not shutil.which('node'), reason='there is no JavaScript here')
def test_tables_are_sorted_as_numbers_where_they_are_numbers(written):
  script = re.search(r'<script>(.*?)</script>', (written / 'report.html').read_text(), re.DOTALL)[1]
  order = script[: script.index('for (const table')]
  columns = [
    ['-5', '-3', '0.1', '1e3', '-'],
    ['[-2.2, 6.2]', '[77.0, 87.0]', '[102.0, 103.0]', '-'],
    ['9.5 ± 1.0', '10.2 ± 0.1', '82.0'],
    ['999', '1,329,473', '> 10,000,000'],
    ['GRU size=8', 'GRU size=16', 'LSTM'],
  ]
  given = f'{json.dumps(columns)}.map(column => column.reverse()'
  down = '.sort((a, b) => compare(a, b, -1))'
  code = f'{order}; console.log(JSON.stringify([{given}.sort(compare)), {given}{down})]))'
  done = subprocess.run(['node', '-e', code], capture_output=True, text=True, timeout=60)
  assert json.loads(done.stdout)[0] == columns, done.stderr
  last = [[one for one in column if one == '-'] for column in columns]
  downwards = [[one for one in column[::-1] if one != '-'] for column in columns]
  assert json.loads(done.stdout)[1] == [a + b for a, b in zip(downwards, last, strict=True)]


def edit(path, change):
  value = json.loads(path.read_text())
  change(value)
  path.write_text(json.dumps(value))


def without_numbers(workdir):
  for cell in ('lstm', 'gru'):
    for seed in range(2):
      write_run(workdir, cell, seed, np.nan, np.nan)


def a_group_without_numbers(workdir):
  write_runs(workdir)
  write_run(workdir, 'elman', 0, np.nan, np.nan)
  write_run(workdir, 'elman', 1, np.inf, -np.inf)


def metrics_without_columns(workdir):
  write_runs(workdir)
  for i, path in enumerate(workdir.glob('*/metrics.jsonl')):
    path.write_text('' if i else '{"epoch": 1, "seconds": null, "train_loss": "x"}\n')


def predictions_of_other_test_sets(workdir):
  write_runs(workdir)
  for n, path in enumerate(sorted(workdir.glob('*/result.json'))):
    edit(path, lambda result, n=n: result['data'].update(fingerprint=str(n)))
    right = {'labels': np.zeros(n), 'final': np.full(n, -1.0), 'best': np.full(n, np.nan)}
    np.savez(path.with_name('predictions.npz'), **right)


def no_best_epoch(workdir):
  write_runs(workdir)
  for path in workdir.glob('*/result.json'):
    edit(path, lambda result: result.update(best=None))


NONE = 'No run has a finite test accuracy at the epoch of best validation'
NOT_APART = 'GRU and LSTM are not told apart'


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize(
  'make, finding',
  [
    (without_numbers, NONE),
    pytest.param(a_group_without_numbers, NOT_APART, marks=pytest.mark.slow),
    pytest.param(metrics_without_columns, NOT_APART, marks=pytest.mark.slow),
    pytest.param(predictions_of_other_test_sets, NOT_APART, marks=pytest.mark.slow),
    pytest.param(no_best_epoch, NONE, marks=pytest.mark.slow),
  ],
)
def test_odd_runs_have_a_report_all_the_same(tmp_path, make, finding):
  make(tmp_path)
  told = report.write(tmp_path)
  assert told.finding.startswith(finding)
  assert 'nan' not in text_of(told) + (tmp_path / 'summary.md').read_text()
  json.dumps(report.record(told), allow_nan=False)
  assert (tmp_path / 'report.html').exists() and (tmp_path / 'summary.tex').exists()


def test_equal_accuracies_of_all_seeds_are_no_lack_of_seeds(tmp_path, monkeypatch):
  monkeypatch.setattr(drawings, 'draw', lambda *_: ())
  for cell, accuracy in (('lstm', 0.8), ('gru', 0.81)):
    for seed in range(3):
      write_run(tmp_path, cell, seed, accuracy, accuracy)
  finding = report.write(tmp_path).finding
  assert finding.startswith('GRU cannot be tested against LSTM') and 'no seed changes' in finding


def test_a_claim_that_cannot_be_tested_is_undecided_and_takes_no_report_with_it(
  workdir, monkeypatch
):
  monkeypatch.setattr(drawings, 'draw', lambda *_: ())
  sides = {'a': {'model.cell': 'lstm'}, 'b': {'model.cell': 'gru'}, 'metric': 'test_accuracy'}
  wrong = [
    {'claim': 'half'},
    sides | {'claim': 'margin', 'says': 'b = a', 'margin': None},
    sides | {'claim': 'lists', 'says': 'b > a', 'a': {'model.cell': ['lstm']}},
    sides | {'claim': 'no field', 'says': 'b > a', 'a': {'model.nope': 1}},
    sides | {'claim': 'words', 'says': {'b': 'a'}},
  ]
  right = sides | {'claim': 'right', 'says': 'b > a'}
  edit(workdir / 'sweep.json', lambda sweep: sweep.update(claims=[*wrong, right]))
  claims = report.write(workdir).claims
  assert list(claims['verdict']) == ['undecided'] * 6
  assert 'margin: undecided, as it cannot be tested:' in claims['sentence'][1]
  assert 'needs a margin above 0' in claims['sentence'][1]
  assert 'model.nope' in claims['sentence'][3]
  assert 'is +2.00 points' in claims['sentence'][5]
  edit(workdir / 'sweep.json', lambda sweep: sweep.update(claims=[]))
  assert (workdir / 'claims.csv').exists()
  report.write(workdir)
  assert not (workdir / 'claims.csv').exists()
