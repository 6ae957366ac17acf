"""Classification of one's own data, trained in memory on learnable problems."""

import numpy as np
import pytest
from sklearn import metrics

import rnnlab
from rnnlab.data import DataError
from rnnlab.runs import configs


def config_of(path, **fields):
  config = configs.default('classification')
  config.data.path = str(path)
  given = {
    'data.buckets': 1,
    'model.hidden_size': 8,
    'model.embed_size': 8,
    'model.pooling': 'max',
    'model.dropout': 0.0,
    'model.recurrent_dropout': 0.0,
    'optim.learning_rate': 0.03,
    'train.epochs': 20,
  }
  config.update_from_flattened_dict(given | fields)
  return config


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


def series(path, several):
  """Series whose first feature is high in the class's third of the time."""
  draw = np.random.default_rng(0)
  labels = draw.integers(0, 3, 150)
  xs = draw.normal(0, 0.2, (150, 9, 2))
  flags = np.eye(3, dtype=int)[labels]
  if several:
    flags |= np.eye(3, dtype=int)[(labels + 1) % 3] * draw.integers(0, 2, (150, 1))
  xs[:, :, 0] += 3 * np.repeat(flags, 3, axis=1)
  np.savez(path, x=xs, y=flags if several else labels)


@pytest.mark.parametrize('several', [pytest.param(False, marks=pytest.mark.slow), True])
def test_series_are_learnt_and_measured_as_scikit_learn_does(tmp_path, several):
  series(tmp_path / 'a.npz', several)
  done = rnnlab.run(config_of(tmp_path / 'a.npz', **{'task.metric': 'macro_f1'}))
  assert done.result['metrics'][0]['name'] == 'macro_f1'
  best, true = done.result['best'], done.predictions['labels']
  logits = done.predictions['best']
  predicted = logits > 0 if several else logits.argmax(axis=1)
  assert best['test_macro_f1'] > 0.9
  assert best['test_macro_f1'] == pytest.approx(
    metrics.f1_score(true, predicted, average='macro'), abs=1e-6
  )
  assert best['test_accuracy'] == pytest.approx(metrics.accuracy_score(true, predicted), abs=1e-6)
  assert 'train_macro_f1' not in done.metrics[0] and 'train_accuracy' in done.metrics[0]
  if several:
    with pytest.raises(DataError, match='for one class per row'):
      rnnlab.run(config_of(tmp_path / 'a.npz', **{'data.class_weights': 'balanced'}))


def test_balanced_classes_weigh_the_same_in_the_loss_of_training(tmp_path):
  path = tmp_path / 'a.csv'
  rows = [f'word{i},{"rare" if i % 5 == 0 else "often"}' for i in range(100)]
  path.write_text('\n'.join(['text,label', *rows, '']))
  config = config_of(path, **{'data.class_weights': 'balanced'})
  split = rnnlab.tasks.find('classification').load(config.data).splits['train']
  rare = split['labels'] == 1
  total = split['importance'].sum()
  assert split['importance'][rare].sum() == pytest.approx(total / 2, rel=1e-5)
  assert total == pytest.approx(len(rare), rel=1e-5)
  config.data.label_noise = 0.1
  with pytest.raises(ValueError, match='come from the clean labels'):
    configs.check(config)


@pytest.mark.parametrize('name', ['data.scale', 'data.test_fraction', 'data.group'])
def test_what_the_reviews_do_not_depend_on_is_refused(name):
  config = configs.default('classification')
  given = {'data.scale': False, 'data.test_fraction': 0.1, 'data.group': 'author'}
  config.update_from_flattened_dict({name: given[name]})
  with pytest.raises(ValueError, match=f'{name}={given[name]} is for data of your own'):
    configs.check(config)
