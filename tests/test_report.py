"""Results, report, figures: the numbers, what is never mixed, what a reader of the page sees."""

import html.parser
import io
import json
import re
import statistics

import matplotlib
import matplotlib.image
import matplotlib.text
import numpy as np
import pandas as pd
import pytest
import rich.console

from rnnlab import figures, report, results

OFFICIAL = 'IMDB, official train and test split (TFDS imdb_reviews 1.0.0)'
HELD_OUT = 'IMDB, 25,000 train reviews: held-out train reviews, not the official test set'
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
  """A finished run's files, as experiment.py leaves them; returns its folder."""
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


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  """The report of six runs, one that failed and one that never began."""
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
  assert list(pairs['metric']) == ['test_accuracy', 'best_test_accuracy']
  row = pairs.iloc[0]
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
  assert 'data.source' not in runs  # the source that was found says it
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


def test_one_seed_has_no_interval(tmp_path):
  write_run(tmp_path, 'lstm', accuracy=0.80)
  write_run(tmp_path, 'gru', accuracy=0.81)
  text = text_of(report.write(tmp_path))
  summary = pd.read_csv(tmp_path / 'summary.csv')
  assert summary.filter(regex='accuracy_(std|low|high)$').isna().all(axis=None)
  assert re.search(r'LSTM +1 +80\.0 +- ', text)
  assert 'no interval (1 and 1 seeds)' in text
  assert 'Too few seeds to tell GRU from LSTM' in Page(tmp_path / 'report.html').text
  assert 'nan' not in text + (tmp_path / 'summary.md').read_text()


def test_equal_accuracies_are_a_tie_without_an_interval(tmp_path):
  for cell in ('lstm', 'gru'):
    for seed in (0, 1):
      write_run(tmp_path, cell, seed, accuracy=0.8)
  row = results.compare(results.load_runs(tmp_path)).iloc[0]
  assert row['difference'] == 0 and row['p_greater'] == 0.5 and np.isnan(row['low'])


def test_where_validation_is_test_it_is_said_and_no_best_epoch_is_shown(tmp_path):
  write_runs(tmp_path, tutorial=True)
  runs = results.load_runs(tmp_path)
  assert runs.filter(like='best').isna().all(axis=None)
  text = text_of(report.write(tmp_path))
  page = Page(tmp_path / 'report.html').text
  for shown in (text, page, (tmp_path / 'summary.md').read_text()):
    assert 'Tutorial protocol: validation is the test split' in ' '.join(shown.split())
    assert ' best' not in shown.lower()
    assert shown.index('Tutorial protocol') < shown.index('1,329,473')


def test_table_reads_well_in_a_log(written):
  text = text_of(report.table(results.load_runs(written)))
  assert max(map(len, text.splitlines())) <= 100
  assert '\x1b' not in text
  assert OFFICIAL in text and '20,000 train, 5,000 validation and 25,000 test examples' in text
  assert re.search(r'LSTM +3 +82\.0 ± 2\.0 +\[77\.0, 87\.0\] +87\.0 ± 2\.0', text)
  assert (
    'GRU - LSTM, test accuracy after the last epoch: +2.0 points, 95% interval [-2.2, 6.2], '
    'P(GRU > LSTM) = 0.83 (3 and 3 seeds)'
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
  assert OFFICIAL in words and 'the test split chose nothing' in words
  assert 'python launch.py --config=experiments/imdb.py' in words
  assert '`gru_9`: `NonFiniteLoss: <script>' in words and '`lstm_7`: `no result' in words
  for figure in re.findall(r'\]\((.*?)\)', words):
    assert (written / figure).exists()


@pytest.mark.parametrize('name', ['learning_curves', 'accuracy_vs_time', 'test_accuracy'])
def test_figures_are_drawn(written, name):
  image = matplotlib.image.imread(written / 'figures' / f'{name}.png')[..., :3]
  assert min(image.shape[:2]) > 300
  for colour in ('0072b2', 'd55e00'):  # LSTM's and GRU's
    wanted = np.array([int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)])
    assert (np.abs(image - wanted).max(axis=-1) < 0.02).sum() > 200
  assert (image.min(axis=-1) > 0.98).mean() > 0.5  # a calm ground


def test_many_groups_get_a_panel_each(tmp_path):
  for cell in ('lstm', 'gru', 'new_cell'):
    for size in (16, 32):
      write_run(tmp_path, cell, hidden_size=size, epochs=1)
  metrics = results.load_metrics(tmp_path)
  metrics['group'] = results.label(metrics)
  for draw in (figures.learning_curves, figures.accuracy_vs_time):
    with matplotlib.rc_context(figures.STYLE):
      titles = [ax.get_title(loc='left').replace('\n', ' ') for ax in draw(metrics).axes]
    assert set(titles) == set(metrics['group']) and len(titles) == 6


def test_labels_at_the_ends_of_lines_do_not_overlap(tmp_path):
  for i, cell in enumerate(('lstm', 'gru', 'elman', 'new_cell')):
    write_run(tmp_path, cell, accuracy=0.8 + i / 10000)
  metrics = results.load_metrics(tmp_path)
  metrics['group'] = results.label(metrics)
  with matplotlib.rc_context(figures.STYLE):
    axes = figures.learning_curves(metrics).axes
  for ax in axes:
    boxes = sorted(
      (matplotlib.text.Text.get_window_extent(text) for text in ax.texts), key=lambda box: box.y0
    )
    assert len(boxes) == 8
    assert all(low.y1 < high.y0 for low, high in zip(boxes, boxes[1:], strict=False))


def test_page_loads_nothing_and_escapes_everything(written):
  text = (written / 'report.html').read_text()
  page = Page(written / 'report.html')
  assert text.count('<svg') == 3
  assert '<script>alert' not in text
  assert 'NonFiniteLoss: <script>alert(1)</script>' in page.text and 'in <module>' in page.text
  for name, value in page.attributes:
    if name in ('src', 'href', 'xlink:href', 'srcset', 'data', 'action'):
      assert value.startswith(('#', 'data:')), (name, value)
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
