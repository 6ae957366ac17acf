"""Which strings are right, the size up to which all are, and the curve: against plain loops."""

import jax
import numpy as np
import pytest

import rnnlab
from rnnlab import tasks
from rnnlab.runs import configs
from rnnlab.tasks import by_size

STEPS, SYMBOLS = 5, 3


def split(sizes, seed=0):
  """Arrays of strings of random sets; size 0 has no step."""
  draw = np.random.default_rng(seed)
  mask = np.arange(STEPS) < draw.integers(1, STEPS + 1, len(sizes))[:, None]
  targets = draw.random((len(sizes), STEPS, SYMBOLS)) < 0.5
  return {'targets': targets, 'mask': mask, 'size': np.array(sizes, np.int32)}


def outputs_of(arrays, wrong, seed=1):
  """Log-odds that are right except for one symbol in each string of `wrong`, and padded steps."""
  draw = np.random.default_rng(seed)
  odds = np.where(arrays['targets'], 1, -1) * draw.uniform(0.1, 3, arrays['targets'].shape)
  odds[~arrays['mask']] *= -1
  for row in wrong:
    step = draw.choice(np.flatnonzero(arrays['mask'][row]))
    odds[row, step, draw.integers(SYMBOLS)] *= -1
  return odds.astype(np.float32)


def up_to(sizes, is_right):
  best = 0
  for size in sorted({*sizes}):
    if not all(ok for of, ok in zip(sizes, is_right, strict=True) if of == size):
      break
    best = size
  return best


@pytest.mark.parametrize('wrong', [[], [0], [3], [5, 2], [6], range(8)])
def test_a_model_is_right_up_to_the_size_before_the_first_wrong_string(wrong):
  sizes = [2, 9, 4, 4, 7, 2, 12, 3]
  arrays = split(sizes)
  outputs = outputs_of(arrays, wrong)
  is_right = [i not in wrong for i in range(len(sizes))]
  np.testing.assert_array_equal(by_size.right(outputs, arrays), is_right)
  found = jax.jit(by_size.score)(outputs, arrays)
  assert {name: float(of) for name, of in found.items()} == {'right_up_to': up_to(sizes, is_right)}


def test_the_curve_is_the_share_of_strings_that_are_right_of_all_runs():
  sizes = [1, 2, 2, 3, 4, 4]
  arrays = split(sizes)
  predictions = [
    {'final': outputs_of(arrays, [1, 5]), **arrays},
    {'final': outputs_of(arrays, range(6)), 'best': outputs_of(arrays, [3]), **arrays},
  ]
  (panel,) = by_size.panels(predictions, {})
  np.testing.assert_array_equal(panel.data['x'], [1, 2, 3, 4])
  np.testing.assert_allclose(panel.data['y'], [1, 3 / 4, 1 / 2, 3 / 4])
  np.testing.assert_array_equal(panel.data['counts'], [2, 4, 2, 4])


def test_a_curve_of_many_sizes_has_few_points_which_count_all_strings():
  sizes = np.random.default_rng(2).permutation(np.arange(1, 334))
  arrays = split(sizes)
  wrong = np.flatnonzero(sizes > 200)
  (panel,) = by_size.panels([{'final': outputs_of(arrays, wrong), **arrays}], {})
  x, y, counts = (panel.data[name] for name in ('x', 'y', 'counts'))
  assert len(x) == by_size.POINTS and counts.sum() == 333
  np.testing.assert_allclose(counts @ x, sizes.sum())
  np.testing.assert_allclose(counts @ y, 200)


def test_other_kinds_of_problems_have_neither_figure_nor_curve():
  config = configs.default('generated')
  names = [metric.name for metric in tasks.of(config).metrics]
  assert config.data.problem == 'adding' and 'right_up_to' not in names
  assert by_size.panels([{'final': np.zeros(3), 'targets': np.zeros(3)}], {}) == []


def test_a_run_tells_up_to_which_n_it_is_right():
  config = configs.default('generated')
  config.data.update(problem='anbn', n=3, test_n=9, examples=2560)
  config.data.update(validation_examples=3, test_examples=9)
  config.model.update(cell='lstm', hidden_size=8, dropout=0.0, recurrent_dropout=0.0, embed_size=4)
  config.optim.learning_rate = 0.02
  config.train.epochs = 3
  config.task.metric = 'right_up_to'
  done = rnnlab.run(configs.check(config))
  assert done.metrics[-1]['validation_right_up_to'] == 3  # all there are
  found = done.predictions
  is_right = [
    all(
      (odds > 0).tolist() == true.tolist() for odds, true, counts in zip(*of, strict=True) if counts
    )
    for of in zip(found['best'], found['targets'], found['mask'], strict=True)
  ]
  told = up_to(found['size'].tolist(), is_right)
  assert done.result['best']['test_right_up_to'] == told >= 3
