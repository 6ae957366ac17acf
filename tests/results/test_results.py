"""Comparisons and claims: which runs are compared, and what verdicts rest on."""

import itertools
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from test_report import write_run, write_runs

from rnnlab import results
from rnnlab.reports import report
from rnnlab.results import flow, measures, statistics
from rnnlab.runs import configs
from rnnlab.runs import folder as run_files
from rnnlab.tasks import translation
from rnnlab.tasks.base import Metric

CLAIM = {
  'claim': 'GRU is ahead',
  'a': {'model.cell': 'lstm'},
  'b': {'model.cell': 'gru'},
  'metric': 'test_accuracy',
  'says': 'b > a',
}


def predict(folder, accuracy, items=1000, seed=0, **arrays):
  """predictions.npz of a run that is right on a share of the items, the easier ones first.

  At its best epoch it is right on 5% more.
  """
  draw = np.random.default_rng(0)
  labels, ease = draw.integers(0, 2, items, dtype=np.int32), draw.random(items)
  noise = np.random.default_rng([seed, int(1e6 * accuracy)]).normal(0, 0.05, items)
  right, best = (ease + noise < np.quantile(ease + noise, accuracy + m) for m in (0, 0.05))
  logits = {
    name: np.where(correct == labels, 1, -1).astype(np.float32)
    for name, correct in (('final', right), ('best', best))
  }
  np.savez(folder / 'predictions.npz', **logits, labels=labels, **arrays)
  return right


def record(workdir, *claims, undone=()):
  """A sweep.json of the finished runs, the undone ones, given as overrides, and the claims."""
  runs = [{'id': path.parent.name, 'overrides': {}} for path in workdir.glob('*/result.json')]
  runs.append({'id': 'trial', 'overrides': {}, 'stage': 'search'})  # which is not waited for
  runs += [{'id': f'undone_{i}', 'overrides': overrides} for i, overrides in enumerate(undone)]
  (workdir / 'sweep.json').write_text(json.dumps({'runs': runs, 'claims': claims}))


def verdicts(workdir, *claims, **kwargs):
  record(workdir, *claims, **kwargs)
  return results.claims(workdir, results.load_runs(workdir))


def grid(workdir, cells=('lstm', 'gru'), sizes=(32, 64), layers=(1,), seeds=3):
  for cell, size, depth, seed in itertools.product(cells, sizes, layers, range(seeds)):
    accuracy = 0.8 + 0.02 * (cell == 'gru') + size / 10000 + depth / 1000 + seed / 1000
    best = accuracy + 0.05
    folder = write_run(workdir, cell, seed, accuracy, best, 1, hidden_size=size, layers=depth)
    predict(folder, accuracy, seed=seed)


def test_a_row_of_the_comparison_is_what_statistics_say(tmp_path):
  rights = {}
  for cell, seed in itertools.product(('lstm', 'gru'), range(4)):
    accuracy = 0.8 + 0.01 * (cell == 'gru') + seed / 500
    folder = write_run(tmp_path, cell, seed, accuracy, accuracy + 0.05, epochs=1)
    rights[cell, seed] = predict(folder, accuracy, seed=seed)
  runs = results.load_runs(tmp_path)
  found = results.compare(runs, tmp_path)
  row = found[found['metric'] == 'test_accuracy'].iloc[0]
  a, b = (runs.loc[runs['model.cell'] == cell, 'test_accuracy'] for cell in ('lstm', 'gru'))
  welch, greater = statistics.welch(a, b), statistics.probability_greater(a, b)
  assert tuple(row[['difference', 'low', 'high', 'p']]) == pytest.approx(tuple(welch))
  names = ['p_greater', 'p_greater_low', 'p_greater_high']
  assert tuple(row[names]) == pytest.approx(tuple(greater)[:3])
  assert row['seeds_needed'] == statistics.seeds_needed(a, b, welch.value)
  correct = [np.stack([rights[cell, seed] for seed in range(4)]) for cell in ('lstm', 'gru')]
  items = statistics.bootstrap_difference(*correct)
  assert row['difference'] == pytest.approx(items.value, abs=0.001)
  assert row['items_low'] == pytest.approx(items.low, abs=0.0005)
  assert row['items_high'] == pytest.approx(items.high, abs=0.0005)
  assert row['p_holm'] == row['p']  # a family of one


def test_a_perplexity_has_an_interval_over_seeds_and_stretches_of_the_text(tmp_path):
  draw, nll = np.random.default_rng(0), {}
  names = ('perplexity', 'exp'), ('loss', '')
  metrics = [Metric(name, '', 'lower', '.3f', link)._asdict() for name, link in names]
  targets, hard = draw.integers(0, 9, 2000), draw.exponential(1, 2000)
  for cell, seed in itertools.product(('lstm', 'gru'), range(3)):
    folder = write_run(tmp_path, cell, seed, epochs=1)
    nll[cell, seed] = hard + draw.normal(4 + 0.1 * (cell == 'gru'), 0.3, 2000) + seed / 100
    mean = nll[cell, seed].mean()
    of = {'perplexity': float(np.exp(mean)), 'loss': float(mean)}
    values = {f'{split}_{n}': v for split in ('train', 'validation', 'test') for n, v in of.items()}
    result = json.loads((folder / 'result.json').read_text())
    result |= {'task': 'language_model', 'metrics': metrics}
    result['final'], result['best'] = values | {'epoch': 1}, values | {'epoch': 1}
    (folder / 'result.json').write_text(json.dumps(result))
    outputs = dict.fromkeys(('final', 'best'), nll[cell, seed])
    np.savez(folder / 'predictions.npz', targets=targets, **outputs)
  runs = results.load_runs(tmp_path)
  row = results.compare(runs, tmp_path).iloc[0]
  groups = [[nll[cell, seed] for seed in range(3)] for cell in ('lstm', 'gru')]
  groups = [np.stack([statistics.of_blocks(run) for run in group]) for group in groups]
  assert row['difference'] == pytest.approx(groups[1].mean() - groups[0].mean())
  low, high = statistics.bootstrap_difference(*groups)[1:3]
  chance = 0.05 * (high - low)  # of the draws, which are others
  assert (row['items_low'], row['items_high']) == pytest.approx((low, high), abs=chance)
  np.savez(folder / 'predictions.npz', targets=targets, final=nll['lstm', 0], best=nll['lstm', 0])
  found = results.compare(runs, tmp_path)
  assert found['items_low'].isna().all() and found['low'].notna().all()


@pytest.fixture(scope='module')
def translations(tmp_path_factory):
  """A workdir of six translators, and the edits for the sentences of each, `[N, 4]`."""
  workdir, draw, edits = tmp_path_factory.mktemp('translations'), np.random.default_rng(0), {}
  lengths, targets = draw.integers(3, 9, 300), draw.integers(0, 9, (300, 9))
  metrics = [metric._asdict() for metric in translation.task.metrics]
  for cell, seed in itertools.product(('lstm', 'gru'), range(3)):
    folder = write_run(workdir, cell, seed, epochs=1)
    wrong = draw.binomial(lengths, 0.3 - 0.03 * (cell == 'gru') + seed / 100)
    edits[cell, seed] = np.stack([wrong, lengths, wrong > 0, np.ones(300, int)], axis=1)
    nll = lengths * draw.normal(2, 0.1, 300)
    loss = float(nll.sum() / lengths.sum())
    values = {f'{s}_loss': loss for s in ('train', 'validation', 'test')}
    values |= {name.replace('loss', 'perplexity'): float(np.exp(loss)) for name in values}
    rates = wrong.sum() / lengths.sum(), np.mean(wrong > 0)
    once = dict(zip(('test_token_error_rate', 'test_sentence_error_rate'), rates, strict=True))
    result = json.loads((folder / 'result.json').read_text())
    result |= {'task': 'translation', 'metrics': metrics, 'final': values | {'epoch': 1}}
    result['best'] = values | {'epoch': 1} | once
    (folder / 'result.json').write_text(json.dumps(result))
    outputs = dict.fromkeys(('final', 'best'), np.stack([nll, lengths], axis=1))
    arrays = {'targets': targets, 'edit_statistics': edits[cell, seed]}
    np.savez(folder / 'predictions.npz', **outputs, **arrays)
  return workdir, edits


def test_what_is_made_of_sums_has_intervals_over_seeds_and_examples(translations):
  workdir, edits = translations
  runs = results.load_runs(workdir)
  found = results.compare(runs, workdir).set_index('metric')
  rates = 'best_test_token_error_rate', 'best_test_sentence_error_rate'
  assert list(found.index) == ['best_test_perplexity', 'test_perplexity', *rates]
  assert found['primary'].tolist() == [True, False, False, False]
  numbers = ['items_low', 'items_high', 'p_items']
  assert found[numbers].notna().all(axis=None)
  # A ratio's draws, by brute force: random runs and sentences, and the ratio of their sums.
  draw, drawn = np.random.default_rng(1), []
  groups = [np.array([edits[cell, seed] for seed in range(3)]) for cell in ('lstm', 'gru')]
  for _ in range(2000):
    rows = draw.integers(300, size=300)
    sums = [group[:, rows].sum(axis=1) for group in groups]
    drawn.append([(of[:, 0] / of[:, 1]).mean() for of in sums])
  apart = np.abs(np.diff(drawn, axis=1))
  row = found.loc[rates[0]]
  assert row['p_items'] == pytest.approx(
    np.mean(apart - apart.mean() > abs(row['difference'])), abs=0.02
  )
  sentences = [group[:, :, 2].astype(bool) for group in groups]
  value, low, high, _ = statistics.bootstrap_difference(*sentences)
  row = found.loc[rates[1]]
  assert row['difference'] == pytest.approx(value)
  chance = 0.05 * (high - low)  # of the draws, which are others
  assert (row['items_low'], row['items_high']) == pytest.approx((low, high), abs=chance)
  assert results.compare(runs)[numbers].isna().all(axis=None)
  summary = results.summarise(runs, workdir).set_index('model.cell').loc['lstm']
  ends = [summary[f'{rates[1]}_items_{end}'] for end in ('low', 'high')]
  (resampled,) = statistics.resample(sentences[:1])
  assert ends == pytest.approx(statistics.over_both(resampled)[1:3], abs=chance)
  assert 'best_test_perplexity_items_low' not in summary


def test_what_is_known_once_is_compared_in_a_table_of_its_own(translations):
  told = report.write(translations[0])
  (block,) = told.blocks
  assert set(block.pairs['metric']) == {'best_test_perplexity', 'test_perplexity'}
  assert len(block.once) == 2 and 'token error rate' not in told.finding
  for name in ('summary.md', 'summary.tex', 'report.html'):
    text = (translations[0] / name).read_text()
    assert text.count('sentence error rate') >= 3 and 'Koehn' in text, name
  page = (translations[0] / 'summary.md').read_text()
  assert '| token error rate (lower is better) | GRU - LSTM | -' in page and 'points | [' in page
  assert 'stretches of it' not in page  # of a test split that is one text


@pytest.mark.parametrize(
  'damage',
  [
    lambda path: path.unlink(),
    lambda path: path.write_bytes(path.read_bytes()[:-200]),
    lambda path: path.write_bytes(b''),
    lambda path: predict(path.parent, 0.8274, items=500),
    lambda path: [predict(gru, 0.8, items=500) for gru in path.parent.parent.glob('gru*')],
    lambda path: predict(path.parent, 0.7),
  ],
  ids=['missing', 'cut short', 'empty', 'of other items', 'all of other items', 'no such share'],
)
def test_without_all_predictions_of_the_same_items_the_interval_is_over_seeds_alone(
  tmp_path, damage
):
  grid(tmp_path, sizes=(32,))
  path = next(tmp_path.glob('gru*/predictions.npz'))
  runs = results.load_runs(tmp_path)
  assert results.compare(runs, tmp_path)[['low', 'items_low']].notna().all(axis=None)
  damage(path)
  found = results.compare(runs, tmp_path)
  assert found['low'].notna().all() and found[['items_low', 'items_high']].isna().all(axis=None)
  assert results.compare(runs)['items_low'].isna().all()


def test_a_mean_over_classes_that_is_near_the_share_has_no_interval_of_the_share(tmp_path):
  grid(tmp_path, sizes=(32,))
  for path in tmp_path.glob('*/result.json'):
    result = json.loads(path.read_text())
    predict(path.parent, result['final']['test_accuracy'], items=20_000)
    for at in ('final', 'best'):
      result[at]['test_accuracy'] += 4e-4
    path.write_text(json.dumps(result))
  found = results.compare(results.load_runs(tmp_path), tmp_path)
  assert found['low'].notna().all() and found['items_low'].isna().all()


def test_of_several_classes_the_greatest_logit_is_predicted(tmp_path):
  grid(tmp_path, sizes=(32,))
  runs = results.load_runs(tmp_path)
  two = results.compare(runs, tmp_path)
  for path in tmp_path.glob('*/predictions.npz'):
    with np.load(path) as file:
      arrays = dict(file)
    for name in ('final', 'best'):  # logits of three classes, the last of which is never likely
      score = arrays[name]
      arrays[name] = np.stack([-score, score, np.full_like(score, -9)], axis=1)
    np.savez(path, **arrays)
  pd.testing.assert_frame_equal(results.compare(runs, tmp_path), two)


def test_runs_of_before_their_task_changed_its_formats_are_of_the_same_group(tmp_path):
  for seed in range(4):
    folder = write_run(tmp_path, 'lstm', seed)
    if seed > 1:
      path = folder / 'result.json'
      metrics = [{'name': 'accuracy', 'unit': '%', 'better': 'higher', 'format': '.2%'}]
      metrics.append({'name': 'loss', 'unit': '', 'better': 'lower', 'format': '.4f'})
      result = json.loads(path.read_text()) | {'task': 'classification', 'metrics': metrics}
      path.write_text(json.dumps(result))
  (row,) = results.summarise(results.load_runs(tmp_path)).to_dict('records')
  assert row['runs'] == 4 and '.2%' in row['metrics']


@pytest.fixture(scope='module')
def reported(tmp_path_factory):
  """A workdir of six runs that has its report."""
  workdir = tmp_path_factory.mktemp('reported')
  for cell, seed in itertools.product(('lstm', 'gru'), range(3)):
    write_run(workdir, cell, seed, 0.8 + seed / 100 + 0.02 * (cell == 'gru'))
  report.write(workdir)
  return workdir


@pytest.mark.parametrize('kept', ['all', 'without metrics', 'without task and metrics'])
def test_a_runs_csv_of_any_version_is_read_as_the_runs_are(reported, kept):
  runs, read = results.load_runs(reported), pd.read_csv(reported / 'runs.csv')
  assert len(json.loads(read['metrics'][0])) == 2
  read = read.drop(columns=[name for name in ('task', 'metrics') if name in kept])
  pd.testing.assert_series_equal(results.label(read), results.label(runs))
  for tabled in (results.summarise, results.compare):
    assert len(tabled(read))
    pd.testing.assert_frame_equal(tabled(read), tabled(runs), check_dtype=False)
  assert measures.metrics_of(read) == measures.metrics_of(runs)


def test_every_pair_of_settings_that_differ_in_one_is_compared(tmp_path):
  grid(tmp_path, cells=('gru', 'lstm', 'elman'), sizes=(64, 32, 128), layers=(1, 2), seeds=2)
  runs = results.load_runs(tmp_path)
  found = results.compare(runs, tmp_path, over=results.settings(runs))
  found = found[found['metric'] == 'test_accuracy']
  counts = found['setting'].value_counts().to_dict()
  # 18 groups: for cells, 3 pairs in 6 places; for sizes, 3 in 6; for layers, 1 in 9.
  assert counts == {'model.cell': 18, 'model.hidden_size': 18, 'model.layers': 9}
  sizes = found[found['setting'] == 'model.hidden_size']
  assert (sizes['a'] < sizes['b']).all() and sizes['model.hidden_size'].isna().all()
  np.testing.assert_allclose(sizes['difference'], (sizes['b'] - sizes['a']).astype(float) / 10000)
  assert found['items_low'].notna().all()
  cells = found[found['setting'] == 'model.cell']
  assert (cells['model.cell'] == '').all() and 'lstm' not in set(cells['b'])
  names = results.label(found)
  assert 'GRU hidden_size=32' in set(names[found['setting'] == 'model.layers'])
  assert (
    names[found['setting'] == 'model.cell'].str.strip() == 'hidden_size=32 layers=1'
  ).sum() == 3
  # The family is all of them.
  np.testing.assert_allclose(found['p_holm'], statistics.holm(found['p']))
  pd.testing.assert_frame_equal(
    found[found['setting'] == 'model.cell'].drop(columns='p_holm').reset_index(drop=True),
    results.compare(runs, tmp_path)
    .query('metric == "test_accuracy"')
    .drop(columns='p_holm')
    .reset_index(drop=True),
    check_dtype=False,
    rtol=0.05,  # the bootstrap draws for other groups too
  )


def test_a_run_that_is_there_twice_is_one_seed(tmp_path, caplog):
  grid(tmp_path, sizes=(32,), seeds=2)
  alone = results.summarise(results.load_runs(tmp_path))
  for name in ('gru_0_tfds_32_1', 'gru_1_tfds_32_1'):
    shutil.copytree(tmp_path / name, tmp_path / f'z_{name}')
    path = tmp_path / f'z_{name}' / 'config.json'
    config = json.loads(path.read_text())
    config['model']['hidden_size'] = 32.0  # which is the same
    path.write_text(json.dumps(config))
  assert not caplog.records
  runs = results.load_runs(tmp_path)
  pd.testing.assert_frame_equal(results.summarise(runs), alone)
  assert results.compare(runs)['n_b'].tolist() == [2, 2]
  words = 'z_gru_0_tfds_32_1 has the config of gru_0_tfds_32_1: it is the same run, left out'
  assert words in caplog.text


def test_cells_with_a_size_each_are_compared(tmp_path):
  for cell, size in (('lstm', 36), ('gru', 46), ('elman', 100)):
    grid(tmp_path, cells=(cell,), sizes=(size,), layers=(1,), seeds=2)
  runs = results.load_runs(tmp_path)
  found = results.compare(runs)
  found = found[found['metric'] == 'test_accuracy']
  assert {*zip(found['a'], found['b'], strict=True)} == {
    ('lstm', 'gru'),
    ('lstm', 'elman'),
    ('elman', 'gru'),
  }
  assert found['model.hidden_size'].isna().all()
  grid(tmp_path, cells=('gru',), sizes=(64,), layers=(1,), seeds=2)  # now without the size
  assert results.compare(results.load_runs(tmp_path)).empty


def test_many_values_of_a_setting_are_compared_with_the_next(tmp_path):
  grid(tmp_path, cells=('gru',), sizes=range(10, 200, 10), seeds=1)
  runs = results.load_runs(tmp_path)
  found = results.compare(runs, over=['model.hidden_size'])
  assert len(found) == 2 * 18
  assert (found['b'] - found['a'] == 10).all()


def test_runs_of_one_group_have_an_empty_comparison(tmp_path):
  write_run(tmp_path, 'gru', epochs=1)
  runs = results.load_runs(tmp_path)
  found = results.compare(runs, tmp_path, over=results.settings(runs))
  assert found.empty and {'items_low', 'p_holm', 'a', 'source'} <= set(found)


@pytest.mark.parametrize(
  'says, margin, gru, verdict',
  [
    ('b > a', None, 0.82, 'supported'),
    ('b > a', None, 0.78, 'refuted'),
    ('b > a', None, 0.8001, 'undecided'),
    ('b < a', None, 0.78, 'supported'),
    ('b < a', None, 0.82, 'refuted'),
    ('b = a', 0.01, 0.8001, 'supported'),
    ('b = a', 0.01, 0.82, 'refuted'),
    ('b = a', 0.01, 0.78, 'refuted'),
    ('b = a', 0.01, 0.8099, 'undecided'),
    ('b = a', 0.01, 0.7899, 'undecided'),
    ('b = a', 0.0005, 0.8, 'undecided'),
    ('b >= a', 0.01, 0.7999, 'supported'),
    ('b >= a', 0.01, 0.82, 'supported'),
    ('b >= a', 0.01, 0.78, 'refuted'),
    ('b >= a', 0.01, 0.7901, 'undecided'),
  ],
)
def test_verdicts(tmp_path, says, margin, gru, verdict):
  for cell, mean in (('lstm', 0.8), ('gru', gru)):
    for seed in range(5):
      write_run(tmp_path, cell, seed, mean + 0.001 * (seed - 2), epochs=1)
  claim = CLAIM | {'says': says} | ({'margin': margin} if margin else {})
  row = verdicts(tmp_path, claim).iloc[0]
  assert row['verdict'] == verdict
  assert row['sentence'].startswith(
    f'GRU is ahead: {verdict}, GRU - LSTM in test accuracy after the last'
  )
  assert f'{100 * (gru - 0.8):+z.2f} points' in row['sentence']
  assert '5 and 5 seeds' in row['sentence'] and '\n' not in row['sentence']
  assert row['difference'] == pytest.approx(gru - 0.8)
  assert row['low'] < row['difference'] < row['high']
  assert row['p'] == row['p_holm'] and (row['n_a'], row['n_b']) == (5, 5)
  assert ('seeds a side' in row['sentence']) == (verdict == 'undecided')


def test_no_one_is_told_to_run_more_seeds_than_they_will(tmp_path):
  """The means differ by rounding alone."""
  values = 0.8, 0.8123, 0.8234, 0.8011
  for cell, found in (('lstm', values), ('gru', values[::-1])):
    for seed, accuracy in enumerate(found):
      write_run(tmp_path, cell, seed, accuracy, accuracy, epochs=1)
  (row,) = verdicts(tmp_path, CLAIM).to_dict('records')
  assert row['verdict'] == 'undecided' and 'seeds a side' not in row['sentence']


def test_claims_are_adjusted_for_the_family_those_to_come_among_them(tmp_path):
  write_runs(tmp_path)
  near = CLAIM | {'metric': 'seconds_per_epoch', 'says': 'b < a', 'claim': 'GRU is faster'}
  found = verdicts(tmp_path, CLAIM, near, CLAIM | {'b': {'model.cell': 'elman'}})
  assert list(found['verdict']) == ['undecided', 'supported', 'undecided']
  assert found['p_holm'][1] == pytest.approx(3 * found['p'][1])
  assert found['p_holm'][0] == pytest.approx(2 * found['p'][0])
  assert np.isnan(found['p_holm'][2]) and 'no run of Elman' in found['sentence'][2]
  assert 'seconds' in found['sentence'][1] and 'adjusted for 3 claims' in found['sentence'][1]


def test_numbers_of_parameters_need_no_test(tmp_path):
  write_run(tmp_path, 'lstm', epochs=1)
  write_run(tmp_path, 'gru', epochs=1)
  claim = CLAIM | {'metric': 'recurrent_parameters'}
  found = verdicts(tmp_path, claim, claim | {'says': 'b < a'}, CLAIM)
  assert list(found['verdict']) == ['refuted', 'supported', 'undecided']
  assert found['difference'][0] == 37248 - 49408
  assert found['sentence'][0] == (
    'GRU is ahead: refuted, GRU - LSTM in recurrent parameters is -12,160.'
  )
  assert 'two seeds' in found['sentence'][2]


def test_a_claim_waits_for_all_of_its_runs(tmp_path):
  write_runs(tmp_path)
  claim = CLAIM | {'says': 'b = a', 'margin': 0.2}
  assert verdicts(tmp_path, claim).iloc[0]['verdict'] == 'supported'
  more = {'model.cell': 'gru', 'seed': 3}, {'model.cell': 'elman', 'seed': 3}
  row = verdicts(tmp_path, claim, undone=more).iloc[0]
  assert row['verdict'] == 'undecided' and '1 of its runs is not done yet' in row['sentence']
  assert (row['n_a'], row['n_b']) == (3, 3)
  (tmp_path / 'undone_0').mkdir()
  (tmp_path / 'undone_0' / 'error.json').write_text('{"error": "NonFiniteLoss", "traceback": ""}')
  row = verdicts(tmp_path, claim, undone=more).iloc[0]
  assert row['verdict'] == 'supported' and '1 failed and took no part' in row['sentence']


def test_a_claim_names_every_setting_in_which_its_runs_differ(tmp_path):
  grid(tmp_path)
  row = verdicts(tmp_path, CLAIM).iloc[0]
  assert row['verdict'] == 'undecided' and 'differ in model.hidden_size' in row['sentence']
  named = CLAIM | {side: CLAIM[side] | {'model.hidden_size': 64} for side in 'ab'}
  # A field that no run varies is not in load_runs, but in config.json.
  named['a'] |= {'data.validation_fraction': 0.2}
  row = verdicts(tmp_path, named).iloc[0]
  assert row['verdict'] == 'supported' and row['b'] == 'GRU hidden_size=64'
  same = CLAIM | {'a': named['b'], 'b': named['b'] | {'data.validation_fraction': 0.2}}
  assert 'the same runs' in verdicts(tmp_path, same).iloc[0]['sentence']


def test_a_claim_on_different_data_is_undecided(tmp_path):
  for seed in range(3):
    write_run(tmp_path, 'lstm', seed, 0.8 + seed / 1000, epochs=1)
    write_run(tmp_path, 'gru', seed, 0.9 + seed / 1000, epochs=1, source='package')
  row = verdicts(tmp_path, CLAIM).iloc[0]
  assert row['verdict'] == 'undecided' and 'different data' in row['sentence']


def test_a_sweep_without_claims_has_none(tmp_path):
  write_run(tmp_path, epochs=1)
  found = verdicts(tmp_path)
  assert found.empty and {'claim', 'verdict', 'sentence', 'p_holm'} <= set(found)


@pytest.mark.parametrize(
  'change, words',
  [
    ({'metric': 'test_acuracy'}, "no metric 'test_acuracy' (did you mean 'test_accuracy'?)"),
    ({'says': 'b != a'}, "no says 'b != a'"),
    ({'says': 'b = a'}, "'b = a' needs a margin above 0, on the scale of result.json (0.01 is"),
    ({'says': 'b >= a', 'margin': 1}, 'a margin of 1 is +100.0 points, and 0.01 is one point'),
    ({'margin': 0.01}, "'b > a' is tested without a margin"),
    ({'says': 'b >= a', 'margin': 0}, 'needs a margin'),
    ({'margn': 0.1}, "no entry 'margn' (did you mean 'margin'?)"),
    ({'a': {'model.cell': 'gru'}}, 'the same runs'),
    ({'a': 'lstm'}, 'must be overrides'),
    ({'b': {}}, "has no 'b'"),
    ({'claim': ''}, "has no 'claim'"),
    ({'a': {'modle.cell': 'lstm'}}, "no field 'modle.cell' (did you mean 'model.cell'?)"),
  ],
)
def test_a_mistake_in_a_claim_is_told_before_the_runs(change, words):
  config = configs.default()
  results.check_claims([CLAIM], config)
  with pytest.raises(ValueError) as error:
    results.check_claims([CLAIM, CLAIM | change], config)
  assert words in str(error.value) and 'claim 2' in str(error.value)


def test_a_run_of_an_older_version_is_of_the_setting_of_one_of_this(tmp_path):
  """One config says data.name, the other task.name; which field it is does not matter."""
  for seed in range(2):
    path = write_run(tmp_path, 'lstm', seed) / 'config.json'
    config = json.loads(path.read_text())
    if seed:
      config['task'] = {'name': 'classification'}
    else:
      config['data']['name'] = 'imdb'
    path.write_text(json.dumps(config))
  runs = results.load_runs(tmp_path)
  assert not {'data.name', 'task.name'} & {*runs}
  assert results.summarise(runs)['runs'].tolist() == [2]


def test_claims_are_a_list_of_dicts():
  for wrong in ([['b > a']], 'b > a', {'claim': 'x'}):
    with pytest.raises(ValueError, match='must be a'):
      results.check_claims(wrong)


def test_the_time_of_a_population_is_one_figure_and_tests_nothing(tmp_path):
  for cell, seconds in (('lstm', 9.0), ('gru', 7.5)):
    for seed in range(3):
      path = write_run(tmp_path, cell, seed) / 'result.json'
      result = json.loads(path.read_text()) | {'seconds_per_epoch': seconds}
      path.write_text(json.dumps(result))
  faster = {'claim': 'faster', 'metric': 'seconds_per_epoch', 'says': 'b < a'}
  (row,) = verdicts(
    tmp_path, faster | {'a': {'model.cell': 'lstm'}, 'b': {'model.cell': 'gru'}}
  ).to_dict('records')
  assert row['verdict'] == 'undecided'
  assert '7.5 s and 9 s' in row['sentence'] and 'population' in row['sentence']


def test_a_claim_on_another_task_names_it_and_is_of_its_metrics():
  config = configs.default()
  sides = [{'task.name': 'regression', 'model.cell': cell} for cell in ('lstm', 'gru')]
  claim = dict(zip('ab', sides, strict=True)) | {'claim': 'GRU errs less', 'says': 'b < a'}
  claim |= {'metric': 'best_test_rmse'}
  assert results.check_claims([claim | {'command': 'python x'}], config)[0]['command'] == 'python x'
  with pytest.raises(ValueError, match="no metric 'best_test_accuracy'"):
    results.check_claims([claim | {'metric': 'best_test_accuracy'}], config)
  with pytest.raises(ValueError, match="'data.class_weights'"):
    wrong = {side: claim[side] | {'data.class_weights': 'none'} for side in 'ab'}
    results.check_claims([claim | wrong], config)
  with pytest.raises(ValueError, match="did you mean 'regression'"):
    results.check_claims([claim | {'a': sides[0] | {'task.name': 'regresion'}}], config)


def test_settings_are_named_where_they_differ_on_the_same_data():
  rows = [('lstm', 'a', 64, 5), ('gru', 'a', 80, 5), ('lstm', 'b', 10, 40), ('gru', 'b', 10, 40)]
  names = ('model.cell', 'title', 'model.hidden_size', 'train.epochs')
  frame = pd.DataFrame(rows, columns=names).assign(source='x', validation_is_test=False)
  assert list(results.label(frame)) == [
    'LSTM hidden_size=64 (a)',
    'GRU hidden_size=80 (a)',
    'LSTM (b)',
    'GRU (b)',
  ]


def test_a_claim_may_be_on_the_way_to_a_target(tmp_path):
  """Of a share, where higher is better, and of a loss; the epoch counts, not the best one."""
  curves = {'lstm': [0.5, 0.7, 0.79, 0.81, 0.7], 'gru': [0.5, 0.8, 0.75, 0.9, 0.9]}
  for cell, seed in itertools.product(curves, range(4)):
    folder = write_run(tmp_path, cell, seed, 0.8 + seed / 1000, epochs=5)
    lines = [
      {'epoch': i, 'step': 10 * i, 'seconds': i * (2.0 + seed / 10), 'validation_accuracy': value}
      | {'validation_loss': 1 - value, 'train_accuracy': 0.9, 'train_loss': 0.1}
      for i, value in enumerate(curves[cell][seed % 2 :], 1)  # odd seeds are an epoch earlier
    ]
    (folder / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    result = json.loads((folder / 'result.json').read_text())
    result['seconds_per_epoch'] = 2 + seed / 10
    (folder / 'result.json').write_text(json.dumps(result))
  seconds = {'lstm': (8.0, 6.3, 8.8, 6.9), 'gru': (4.0, 2.1, 4.4, 2.3)}  # of 4 or 3, 2 or 1 epochs
  claim = CLAIM | {'says': 'b < a', 'metric': 'steps_to_target', 'target': 0.8}
  timed = claim | {'metric': 'seconds_to_target'}
  found = verdicts(tmp_path, claim, timed, claim | {'target': 0.85})
  assert list(found['verdict']) == ['supported', 'supported', 'undecided']
  assert list(found['difference'][:2]) == pytest.approx(
    [15 - 35, np.mean(seconds['gru']) - np.mean(seconds['lstm'])]
  )
  assert 'in steps to a validation accuracy of 80.0% is -20 steps' in found['sentence'][0]
  assert 'seconds to a validation accuracy of 80.0%' in found['sentence'][1]
  assert found['sentence'][2].endswith('as 4 of 4 runs of LSTM never reached the target.')
  found = verdicts(tmp_path, claim | {'b': {'model.cell': 'elman'}})  # of which no run is done
  assert list(found['verdict']) == ['undecided'] and 'no run of Elman' in found['sentence'][0]
  wrong = (
    ({'target': None}, 'needs a target'),
    ({'target': float('nan')}, 'needs a target'),
    ({'metric': 'test_accuracy'}, 'leave it out'),
  )
  for change, says in wrong:
    with pytest.raises(ValueError, match=says):
      results.check_claims([claim | change])


def test_a_claim_may_be_on_how_far_gradients_reach(tmp_path):
  for cell, power in (('lstm', -1.0), ('gru', -3.0)):
    for seed in range(4):
      folder = write_run(tmp_path, cell, seed, 0.8)
      norms = [(0, 2, 0.1), (0, 0, 4.0), (0, 9, 0.0)]  # with nothing left at first
      norms += [(3, 0, 5.0), (3, 9, 5 * 10 ** (power + seed / 10))]
      rows = [{'epoch': e, 'layer': 1, 'lag': lag, 'norm': norm} for e, lag, norm in norms]
      run_files.write_flow(folder, [*rows, {'epoch': 3, 'layer': 2, 'lag': 9, 'norm': 7.0}])
  claim = {'claim': 'LSTM reaches further', 'says': 'b > a'}
  claim |= {'a': {'model.cell': 'gru'}, 'b': {'model.cell': 'lstm'}}
  first, last = (f'{when}_gradient_reach' for when in ('first', 'last'))
  found = verdicts(tmp_path, claim | {'metric': last}, claim | {'metric': first})
  assert list(found['verdict']) == ['supported', 'undecided']
  assert found['difference'][0] == pytest.approx(2)
  reach = flow.reach_of(tmp_path, results.load_runs(tmp_path))
  assert set(reach[first]) == {-38} and reach[last].min() == pytest.approx(-3)


def test_what_is_not_known_before_or_after_training_is_not_that_of_another_epoch(tmp_path):
  shares = {0: None, 1: 1e-3, 2: 1e-2, 3: None}  # there is no row for a norm that is not finite
  rows = [{'epoch': e, 'layer': 1, 'lag': 0, 'norm': 1.0} for e in shares]
  rows += [{'epoch': e, 'layer': 1, 'lag': 9, 'norm': of} for e, of in shares.items() if of]
  run_files.write_flow(write_run(tmp_path), rows)
  known = [row for row in rows if row['epoch'] in (1, 2)]
  run_files.write_flow(write_run(tmp_path, 'gru'), known)
  runs = results.load_runs(tmp_path)
  reach = flow.reach_of(tmp_path, runs).set_index(runs['model.cell'])
  assert reach.loc['lstm'].isna().all()
  assert reach.loc['gru'].tolist() == pytest.approx([-3, -2])
