"""For each task, a run on a user's own files predicts from a file what the run itself reported."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from predictors import softmax

import rnnlab
from rnnlab.predict import reading
from rnnlab.runs import configs

DRAW = np.random.default_rng(0)


def chinese(path, rows):
  lines = [
    f'{"".join(DRAW.choice([*"好坏天地人日"], DRAW.integers(2, 9)))},{"甲乙丙"[i % 3]}'
    for i in range(rows)
  ]
  path.write_text('text,label\n' + '\n'.join(lines) + '\n', encoding='utf-8')


def series(path, rows):
  each = [DRAW.normal(5, 3, (n, 2)) for n in DRAW.integers(2, 9, rows)]
  np.savez(path, x=np.concatenate(each), lengths=[*map(len, each)], y=[x.mean() for x in each])


def tokens(path, rows):
  lines = [
    ''.join(f'{word} {"AB"[word in "xy"]}\n' for word in DRAW.choice([*'uvwxyz'], 5))
    for _ in range(rows)
  ]
  path.write_text('\n'.join(lines))


OWN = {
  'classification': ('.csv', chinese, {'data.tokens': 'characters'}, softmax),
  'regression': ('.npz', series, {}, None),
  'tagging': ('.conll', tokens, {}, softmax),
}


@pytest.mark.parametrize(
  'task',
  [pytest.param(n, marks=() if n == 'regression' else pytest.mark.slow) for n in OWN],
)
def test_a_file_is_answered_as_the_run_has_reported_of_its_test_split(task, tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  ending, write, fields, as_answers = OWN[task]
  paths = [tmp_path / f'{name}{ending}' for name in ('train', 'test')]
  for path, rows in zip(paths, (60, 12), strict=True):
    write(path, rows)
  config = configs.default(task)
  config.update_from_flattened_dict(
    {'data.path': str(paths[0]), 'data.test_path': str(paths[1]), 'data.max_len': 12} | fields
  )
  config.model.update(cell='elman', hidden_size=4, embed_size=4)
  config.train.update(epochs=1, batch_size=12)
  folder = tmp_path / 'runs' / rnnlab.run(config, tmp_path / 'runs').result['id']
  model = rnnlab.load(folder)
  (block,) = reading.blocks(paths[1], model)
  reported = np.load(folder / 'predictions.npz')['best']
  mean, std = model.outputs.mean, model.outputs.std
  expected = as_answers(reported) if as_answers else reported * std + mean
  assert_allclose(model.predict(block.examples), expected, atol=1e-5)
