"""Numbers from series and texts: trained to a known error; metrics against scikit-learn's."""

import datetime
import functools
import json

import numpy as np
import pytest
import sklearn.metrics

import rnnlab
from rnnlab import tasks
from rnnlab.data import DataError, windows
from rnnlab.runs import configs, program
from rnnlab.tasks import regression

DRAW = np.random.default_rng(0)


def config_of(path, **fields):
  config = configs.default('regression')
  config.model.update(cell='gru', hidden_size=8, recurrent_dropout=0.0, dropout=0.0, embed_size=8)
  config.optim.learning_rate = 0.02
  config.train.update(batch_size=32, epochs=8)
  config.data.update(path=str(path), max_len=20)
  config.update_from_flattened_dict(fields)
  return configs.check(config)


def loaded(path, **fields):
  return regression.load(program.data_of(config_of(path, **fields)))


@functools.cache
def autoregression():
  """x[t + 1] = -0.8 x[t] + noise of deviation 5, around 100: no forecast has an error below 5."""
  noise, found = np.random.default_rng(1).normal(0, 5, 1200), [0.0]
  for e in noise:
    found.append(-0.8 * found[-1] + e)
  return 100 + np.array(found)


@pytest.fixture(scope='module')
def table(tmp_path_factory):
  """The series in any order, by its time."""
  path = tmp_path_factory.mktemp('series') / 'steps.csv'
  values = autoregression()
  rows = [f'{i},{float(values[i])!r}\n' for i in np.random.default_rng(2).permutation(len(values))]
  path.write_text('hour,level\n' + ''.join(rows))
  return path


@pytest.fixture(scope='module')
def forecast(table):
  fields = {'data.label': 'level', 'data.time': 'hour', 'data.window': 6}
  return rnnlab.run(config_of(table, **fields))


def test_a_forecast_reaches_the_noise_and_no_further(forecast):
  best = forecast.result['best']
  assert 4.4 < best['test_rmse'] < 5.6  # the deviation of the series itself is 8.3
  assert 0.5 < best['test_r2'] < 0.75  # 1 - 0.36 = 0.64 of it can be explained


@pytest.mark.parametrize('of', ['final', 'best'])
def test_metrics_are_scikit_learn_s_in_the_unit_of_the_targets(forecast, of):
  task, kept = tasks.find('regression'), forecast.predictions
  true, found = (task.decode(kept[name], forecast.encoding)['value'] for name in ('targets', of))
  # By time, in the original order: the last fifth, with each window and its targets inside.
  np.testing.assert_allclose(true, autoregression()[-240:][6:], rtol=1e-6)
  for name, truth in (
    ('rmse', sklearn.metrics.root_mean_squared_error),
    ('mae', sklearn.metrics.mean_absolute_error),
    ('r2', sklearn.metrics.r2_score),
  ):
    assert forecast.result[of][f'test_{name}'] == pytest.approx(truth(true, found), rel=1e-4)


def test_what_a_run_keeps_reads_new_series_and_says_what_outputs_mean(forecast):
  task, encoding = tasks.find('regression'), json.loads(json.dumps(forecast.encoding))
  config = config_of('steps.csv').data
  model = forecast.model
  assert task.spec(config, encoding, ()) == (None, True, 1, False)
  values = autoregression()[-240:]
  series = [values[i : i + 6, None] for i in range(len(values) - 6)]
  inputs = task.encode(series, config, encoding, ())
  found = model.apply({'params': forecast.best_params}, inputs)
  np.testing.assert_allclose(found, forecast.predictions['best'], atol=1e-5)
  answer = task.outputs(encoding)
  np.testing.assert_allclose(
    task.decode(found, encoding)['value'], np.asarray(found) * answer.std + answer.mean
  )
  with pytest.raises(ValueError, match=r'position 1.*finite numbers \[T, 1\]'):
    task.encode([series[0], np.ones((3, 2))], config, encoding, ())


def test_panels_hold_every_prediction_of_every_run(forecast):
  predicted, errors = tasks.find('regression').panels([forecast.predictions] * 2, forecast.encoding)
  assert predicted.kind == errors.kind == 'scatter' and len(predicted.data['x']) == 468
  np.testing.assert_allclose(predicted.data['x'][:234], autoregression()[-234:], rtol=1e-6)
  np.testing.assert_allclose(
    predicted.data['x'] + errors.data['y'], predicted.data['y'], rtol=1e-12
  )
  assert '468 of the 468' in predicted.caption


@pytest.mark.parametrize('each', [False, True])
def test_windows_against_a_loop(each):
  xs, ys = DRAW.normal(size=(12, 2)), DRAW.normal(size=(12, 1))
  found = windows.windows(xs, ys, np.arange(1, 13), 4, 3, each)
  assert len(found.rows) == 6  # the last begins at 5 (from 0), ends at 8, and 8 + 3 is 11
  for start, row in enumerate(found.rows):
    assert row == start + 1
    np.testing.assert_array_equal(found.inputs[start], xs[start : start + 4])
    wanted = [ys[start + t + 3] for t in range(4)]
    np.testing.assert_array_equal(found.targets[start], wanted if each else wanted[-1])


def test_splits_are_cut_in_time_and_no_window_is_in_two(table):
  data = loaded(table, **{'data.label': 'level', 'data.time': 'hour', 'data.window': 6})
  encoding, values = data.encoding, autoregression()
  for name, (first, last) in {
    'train': (0, 721),
    'validation': (721, 961),
    'test': (961, 1201),
  }.items():
    xs = data.splits[name]['inputs']['xs'][..., 0] * encoding['std'][0] + encoding['mean'][0]
    np.testing.assert_allclose(xs[0], values[first : first + 6], rtol=1e-5)
    np.testing.assert_allclose(xs[-1], values[last - 7 : last - 1], rtol=1e-5)
  targets = data.splits['train']['targets']
  assert targets.mean() == pytest.approx(0, abs=1e-5) and targets.std() == pytest.approx(1)


@pytest.mark.parametrize(
  'form', ['%d/%m/%Y', '%m/%d/%Y', '%d.%m.%y', '%Y-%m-%d', '%d %B %Y, %H:%M']
)
def test_windows_follow_the_days_however_they_are_written(tmp_path, form):
  """100 days from 28 December, each with its number; some could be read in two ways."""
  first, path = datetime.date(2023, 12, 28), tmp_path / 'days.csv'
  days = [(first + datetime.timedelta(days=i)).strftime(form) for i in range(100)]
  rows = [f'"{days[i]}",{i}\n' for i in np.random.default_rng(4).permutation(100)]
  path.write_text('day,level\n' + ''.join(rows))
  fields = {'data.label': 'level', 'data.time': 'day', 'data.window': 2}
  data = loaded(path, **fields, **{'data.validation_fraction': 0.0})
  mean, std = (data.encoding[of][0] for of in ('mean', 'std'))
  for name, last in (('train', 80), ('test', 100)):
    found = data.splits[name]['inputs']['xs'][..., 0] * std + mean
    start = np.arange(last - len(found) - 2, last - 2)
    np.testing.assert_allclose(found, np.stack([start, start + 1], axis=1), atol=1e-3)


@pytest.mark.parametrize(
  ('days', 'words'),
  [
    (['1', '2', '', '4'], "row 4: day must be a number or a date, not ''"),
    (['1/2/2023', '3/4/2023'], r"row 2: day is '1/2/2023', and no row tells"),
    (['13/2/2023', '2/14/2023'], r'day first in row 2, .* month first in row 3'),
    (['2/14/2023', 'nan'], 'row 3: day must be'),
  ],
)
def test_a_time_that_cannot_be_told_is_refused(tmp_path, days, words):
  path = tmp_path / 'a.csv'
  path.write_text('day,level\n' + ''.join(f'{day},1\n' for day in days))
  with pytest.raises(DataError, match=words):
    loaded(path, **{'data.label': 'level', 'data.time': 'day', 'data.window': 2})


def test_windows_of_a_validation_file_are_not_read_if_the_test_split_validates(table):
  fields = {'data.label': 'level', 'data.time': 'hour', 'data.window': 6}
  fields |= {'data.validation_path': str(table), 'data.validation_fraction': 0.0}
  data = loaded(table, **fields)
  assert [*data.splits] == ['train', 'test']
  assert 'validation: not read, as --config.data.validation_fraction=0' in data.notes


def ragged(path, **arrays):
  """Series of 3 to 9 steps of two features; targets are their running sum, and twice that."""
  draw = np.random.default_rng(3)
  lengths = draw.integers(3, 10, 60)
  xs = draw.normal(size=(lengths.sum(), 2)).astype(np.float32)
  sums = np.concatenate([np.cumsum(x.sum(axis=1)) for x in np.split(xs, np.cumsum(lengths)[:-1])])
  made = {'x': xs, 'lengths': lengths, 'y': np.stack([sums, 2 * sums + 7], axis=1)}
  np.savez(path, **(made | arrays))
  return path


@pytest.mark.parametrize('of_arrays', ['joined', 'padded'])
def test_numbers_at_each_step_count_where_steps_are_real(tmp_path, of_arrays):
  path = ragged(tmp_path / 'a.npz')
  if of_arrays == 'padded':
    kept = dict(np.load(path))
    x, y = np.full((60, 11, 2), 5.0), np.full((60, 11, 2), np.nan)
    ends = np.cumsum(kept['lengths'])
    for i, (end, length) in enumerate(zip(ends, kept['lengths'], strict=True)):
      x[i, :length], y[i, :length] = kept['x'][end - length : end], kept['y'][end - length : end]
    np.savez(path, x=x, y=y, lengths=kept['lengths'])
  done = rnnlab.run(config_of(path, **{'data.target': 'step', 'train.epochs': 2}))
  task, kept = tasks.find('regression'), done.predictions
  assert kept['final'].shape == kept['targets'].shape and kept['final'].shape[2] == 2
  real, encoding = kept['real'], done.encoding
  true, found = (task.decode(kept[name], encoding) for name in ('targets', 'final'))
  assert [*true] == ['value_1', 'value_2']
  true, found = (
    np.stack([np.stack(column)[real] for column in of.values()], axis=1) for of in (true, found)
  )
  np.testing.assert_allclose(true[:, 1], 2 * true[:, 0] + 7, rtol=1e-4, atol=1e-4)
  for name, truth in (
    ('rmse', sklearn.metrics.root_mean_squared_error),
    ('mae', sklearn.metrics.mean_absolute_error),
    ('r2', sklearn.metrics.r2_score),
  ):
    assert done.result['final'][f'test_{name}'] == pytest.approx(truth(true, found), rel=1e-4)
  standard = (kept['final'] - kept['targets'])[real]
  assert done.result['final']['test_loss'] == pytest.approx((standard**2).mean(), rel=1e-4)
  assert len(task.panels([kept], encoding)) == 4


def test_texts_have_numbers_and_rows_of_a_group_stay_together(tmp_path):
  path = tmp_path / 'texts.csv'
  words = [['up'] * (i % 4) + ['down'] * (i % 3) + [f'w{i}'] for i in range(60)]
  rows = [f'{" ".join(w)},{i % 4},{i % 3},{i // 10}\n' for i, w in enumerate(words)]
  path.write_text('text,ups,downs,author\n' + ''.join(rows))
  data = loaded(path, **{'data.label': 'ups, downs', 'data.group': 'author'})
  assert data.encoding['values'] == ['ups', 'downs'] and data.encoding['tokens'] == 'words'
  train = data.splits['train']
  assert train['inputs'].shape[1] == 7 and train['targets'].shape == (len(train['inputs']), 2)
  sizes = [len(split['inputs']) for split in data.splits.values()]
  assert sum(sizes) == 60 and not any(size % 10 for size in sizes)
  targets = train['targets'] * train['unit'] + data.encoding['target_mean']
  ups = (train['inputs'] == 4 + data.vocabulary.index('up')).sum(axis=1)
  np.testing.assert_allclose(targets[:, 0], ups, atol=1e-5)
  assert any('ups in train: mean' in note for note in data.notes)


@pytest.mark.parametrize(
  ('fields', 'words'),
  [
    ({'data.label': 'levl', 'data.window': 6}, r"no column 'levl' \(did you mean 'level'\?\)"),
    ({'data.label': 'level', 'data.window': 300}, 'hold no window of 300 steps'),
    ({'data.label': 'level'}, "no column 'text'"),
    ({'data.label': 'level', 'data.time': 'hour'}, 'data.time=hour is for windows'),
    ({'data.label': 'level', 'data.features': 'level'}, 'data.features=level is for windows'),
    ({'data.label': 'level', 'data.horizon': 2}, 'data.horizon=2 is for windows'),
    ({'data.group': 'hour', 'data.window': 6}, 'data.group=hour is not for windows'),
    ({'data.label': ' ,', 'data.window': 6}, 'which columns.*data.label=COLUMN'),
    ({'data.source': 'arrays', 'data.window': 5}, 'data.window is for a table'),
    ({'data.test_fraction': 0.0, 'data.label': 'level', 'data.window': 6}, 'no test split'),
  ],
)
def test_what_cannot_be_is_told(table, fields, words):
  with pytest.raises(DataError, match=words):
    loaded(table, **fields)


@pytest.mark.parametrize(
  ('arrays', 'fields', 'words'),
  [
    ({'y': np.full(60, np.nan)}, {}, r'row 1\b.*missing or infinite'),
    ({'y': np.array(['a'] * 60)}, {}, "row 1: .*'a'.* is not a number"),
    ({'y': np.ones(60)}, {'data.target': 'step'}, 'needs one at each step'),
    ({'y': np.ones((60, 3, 1))}, {}, 'needs one per row'),
  ],
)
def test_arrays_that_hold_no_targets_are_told(tmp_path, arrays, fields, words):
  with pytest.raises(DataError, match=words):
    loaded(ragged(tmp_path / 'a.npz', **arrays), **fields)


def test_no_data_are_told():
  with pytest.raises(DataError, match='which data'):
    program.settle(config_of(''))
