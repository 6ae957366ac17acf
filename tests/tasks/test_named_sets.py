"""Classification of a published set: from its name to a trained model, in memory."""

import numpy as np
import pytest

from rnnlab import tasks
from rnnlab.data import sets
from rnnlab.data.base import Examples
from rnnlab.data.sets import Set
from rnnlab.runs import configs

TASK = tasks.find('classification')


@pytest.fixture
def config(monkeypatch):
  """A config of the set 'digits', replaced by series that reveal their class."""

  def load():
    draw = np.random.default_rng(0)
    labels = [str(i % 3) for i in range(60)]
    inputs = [draw.normal(int(label), 0.1, (4 + i % 3, 2)) for i, label in enumerate(labels)]
    return {'train': Examples(inputs, labels, np.arange(1, 61))}

  monkeypatch.setitem(sets.SETS, 'digits', Set(load, 'a toy', 'none'))
  made = configs.default('classification')
  made.data.source = 'digits'
  made.model.hidden_size = 4
  return made


def test_the_dataset_s_model_gives_a_logit_a_class_and_new_series_are_read_as_it_was(config):
  import jax

  data = TASK.load(config.data)
  assert {name: len(split['labels']) for name, split in data.splits.items()} == {
    'train': 36,
    'validation': 12,
    'test': 12,
  }
  model = TASK.model(config.model, data.spec)
  split = data.splits['test']
  logits = model.init_with_output(jax.random.key(0), split['inputs'])[0]
  assert logits.shape == (12, 3)
  sums = TASK.loss(logits, split | {'weights': np.ones(12, np.float32)})
  picked = np.asarray(jax.nn.log_softmax(logits))[np.arange(12), split['labels']]
  np.testing.assert_allclose(sums['loss'], (-picked.sum(), 12), rtol=1e-5)
  assert TASK.spec(config.data, data.encoding, data.vocabulary) == data.spec
  series = [np.float32([[1, 2], [3, 4]])]
  found = TASK.encode(series, config.data, data.encoding, data.vocabulary)
  mean, std = np.array(data.encoding['mean']), np.array(data.encoding['std'])
  np.testing.assert_allclose(found['xs'][0, :2], (series[0] - mean) / std, rtol=1e-5)
  assert found['lengths'].tolist() == [2] and found['xs'].shape == (1, 2, 2)
  assert list(TASK.decode(logits, data.encoding)['label'][:1]) == [str(logits[0].argmax())]
