"""Experiment files: mistakes are reported with their line; neighbours, cells, own fields."""

import json
import runpy
import subprocess
import sys

import fuzz_configs
import numpy as np
import pytest
from ml_collections import ConfigDict
from programs import ROOT, launched

from experiments import imdb
from rnnlab import results
from rnnlab.runs import configs, experiment_file
from rnnlab.sweeps import asking, search, sweep

GOOD = 'from experiments.imdb import get_config\n'
BROKEN = {  # the file, its preset, and words of the error
  'syntax': ('x = 1\ndef get_config(:\n', None, 'made.py:2: '),
  'bytes': (b'x = 1\ny = "\xff"\n', None, "made.py:2: (unicode error) 'utf-8' codec"),
  'import': ('\nimport no_such_room\n', None, 'made.py:2: ModuleNotFoundError: No module named'),
  'raises': ('def f():\n  1 / 0\nf()\n', None, 'made.py:2: ZeroDivisionError: division by zero'),
  'exits': ('import sys\nsys.exit(3)\n', None, 'made.py:2: SystemExit: 3'),
  'attribute': (
    'from experiments import imdb\ndef get_config():\n  c = imdb.get_config()\n  c.modle.x = 1\n',
    None,
    'made.py:4: AttributeError',
  ),
  'nothing': ('x = 1\n', None, 'made.py: must define get_config()'),
  'nearly': ('def get_confg():\n  pass\n', None, 'there is a get_confg, but no get_config'),
  'sweep': (GOOD + 'def swep(add):\n  add({})\n', None, 'there is a swep, but no sweep'),
  'no function': ('get_config = 3\n', None, 'get_config must be a function, not 3'),
  'none': ('def get_config():\n  pass\n', None, 'must return an ml_collections.ConfigDict, not N'),
  'dict': ('def get_config():\n  return {}\n', None, 'ConfigDict, not {}'),
  'needs': ('def get_config(preset):\n  pass\n', None, 'needs a preset: --config='),
  'has none': ('def get_config():\n  pass\n', 'smoke', 'made.py has no presets'),
  'unknown': (GOOD, 'smok', "(did you mean 'smoke'?)"),
  'cell': ('import rnnlab\nrnnlab.cells.add("gru")\n', None, 'made.py:2: rnnlab.cells.add takes a'),
  'lambda': ('import rnnlab\nrnnlab.cells.add(lambda h: h)\n', None, 'made.py:2: rnnlab.cells.add'),
  'neighbour': ('import neighbour\n', None, 'neighbour.py:2: ZeroDivisionError'),
}


@pytest.mark.parametrize('name', BROKEN)
def test_what_is_wrong_with_a_file_is_told_with_its_line(name, tmp_path):
  body, preset, words = BROKEN[name]
  path = tmp_path / 'made.py'
  path.write_bytes(body if isinstance(body, bytes) else body.encode())
  (tmp_path / 'neighbour.py').write_text('\n1 / 0\n')
  before = [*sys.path]
  with pytest.raises(ValueError) as error:
    experiment_file.read(path, preset)
  assert words in str(error.value) and '\n' not in str(error.value)
  assert sys.path == before


def test_a_file_is_executed_once_and_imports_its_neighbours_whenever_it_is_at_work(tmp_path):
  (tmp_path / 'seeds_of_mine.py').write_text('SEEDS = [3, 4]\n')
  (tmp_path / 'made.py').write_text(
    f'print("executed", flush=True)\n{GOOD}'
    'def sweep(add, preset):\n'
    '  from seeds_of_mine import SEEDS\n'
    '  assert preset == "smoke"\n'
    '  for seed in SEEDS:\n'
    '    add({"seed": seed})\n'
  )
  words = [sys.executable, ROOT / 'launch.py', f'--config={tmp_path}/made.py:smoke']
  words += ['--config.data.source=directory', '--config.data.dir=/nowhere']
  done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
  assert done.returncode == 2 and '/nowhere' in done.stderr
  assert done.stdout.count('executed') == 1
  made = experiment_file.read(tmp_path / 'made.py', 'smoke')
  assert [run.config.seed for run in sweep.expand(made.config, made.sweep)] == [3, 4]


OWN_CELL = f"""
import jax.numpy as jnp
import rnnlab
ONE = float(jnp.ones(3).sum())  # computed as the file is read
{GOOD}
@rnnlab.cells.add
def mine(hidden_size, *, bias=1.0):
  return rnnlab.lstm(hidden_size, forget_bias=bias * ONE)

def sweep(add):
  for seed in (0, 1):
    add({{'model.cell': 'mine', 'model.mine.bias': 0, 'seed': seed}})
"""


@pytest.mark.slow
def test_a_cell_that_a_file_adds_is_known_to_every_process_and_to_predict(launch, tmp_path):
  (tmp_path / 'own.py').write_text(OWN_CELL)
  data = ['--config.train.epochs=1', '--config.data.buckets=1']
  for way in ('serial', 'process'):
    launch('--config=own.py:smoke', f'--executor={way}', f'--workdir={way}', *data, check=0)
  alone, aside = (
    sorted(path.parent.name for path in tmp_path.glob(f'{way}/*/result.json'))
    for way in ('serial', 'process')
  )
  assert len(alone) == 2 and alone == aside
  config = json.loads(next(tmp_path.glob('serial/*/config.json')).read_text())
  assert config['model']['mine'] == {'bias': 0}
  ask = [sys.executable, '-m', 'rnnlab.predict', tmp_path / 'serial', 'good']
  env = {'PYTHONPATH': str(ROOT), 'PATH': ''}
  for more, status, said in (([], 2, "no cell 'mine'"), (['--config=own.py:smoke'], 0, 'mine')):
    done = subprocess.run(
      [*ask, *more], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == status and said in done.stdout + done.stderr
  ray = launch('--config=own.py:smoke', '--executor=ray')
  assert ray.returncode == 2 and 'Traceback' not in ray.stderr


# Fields.


def smoke():
  return runpy.run_path(str(ROOT / 'experiments' / 'imdb.py'))['get_config']('smoke')


def changed(name, value):
  config = smoke()
  with config.unlocked(), config.ignore_type():
    config.update_from_flattened_dict({name: value})
  return config


def test_the_main_job_has_every_field_as_it_is_by_default():
  config = configs.flat(configs.default())
  assert config == {name: field.default for name, field in configs.fields().items()}
  main = runpy.run_path(str(ROOT / 'experiments' / 'imdb.py'))['get_config']()
  assert configs.flat(main) == config | {'model.lstm.forget_bias': None, 'model.gru.reset': None}
  assert configs.flat(configs.check(main)) == configs.flat(main)


@pytest.mark.parametrize(
  ('name', 'near'),
  [
    ('model.hiden_size', 'model.hidden_size'),
    ('train.bach_size', 'train.batch_size'),
    ('sed', 'seed'),
    ('model.gru.rset', 'reset'),
    ('model.grru.reset', 'model.gru'),
  ],
)
def test_a_field_that_no_code_reads_is_an_error_wherever_it_is(name, near):
  import rnnlab

  config = smoke()
  *parts, last = name.split('.')
  place = config
  with config.unlocked():
    for part in parts:
      if part not in place:
        place[part] = ConfigDict()
      place = place[part]
    place[last] = 1
  claim = fuzz_configs.CLAIM | {'a': f'{{{name!r}: 1}}'}
  claim = {entry: eval(text) for entry, text in claim.items()}

  def searching(arms=({},), ranges=(('optim.learning_rate', ('log', 1e-4, 1e-2)),)):
    return lambda add: add.search(arms, dict(ranges), trials=2, seeds=[100])

  for wrong in (
    lambda: rnnlab.run(config),
    lambda: configs.check_fields(config),
    lambda: sweep.expand(smoke(), lambda add: add({name: 1})),
    lambda: sweep.expand(smoke(), searching(arms=[{name: 1}])),
    lambda: sweep.expand(smoke(), searching(ranges=[(name, ('uniform', 1, 2))])),
    lambda: results.check_claims([claim], smoke()),
  ):
    with pytest.raises(ValueError, match='no field') as error:
      wrong()
    assert near in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize('name', ['train.epochs', 'seed', 'model.cell', 'optim.epsilon'])
def test_a_field_that_is_missing_is_named(name):
  fields = configs.flat(smoke())
  del fields[name]
  with pytest.raises(ValueError, match=f'has no field {name!r}; start from'):
    configs.check(ConfigDict(configs.nested(fields)))


@pytest.mark.parametrize(
  ('name', 'value', 'kept'),
  [
    ('seed', np.int64(3), 3),
    ('train.epochs', np.uint8(2), 2),
    ('model.dropout', 0, 0.0),
    ('model.dropout', np.float32(0.25), 0.25),
    ('model.cell', np.str_('gru'), 'gru'),
    ('data.mask', np.bool_(True), True),
    ('model.truncate', [np.int64(5), 10], (5, 10)),
  ],
)
def test_values_are_kept_as_plain_python_of_the_field_s_type(name, value, kept):
  (run,) = sweep.expand(smoke(), lambda add: add({name: value}))
  for found in (configs.flat(run.config)[name], run.overrides[name]):
    assert found == kept and type(found) is type(kept)
  assert configs.flat(configs.check(changed(name, value)))[name] == kept
  same = sweep.expand(smoke(), lambda add: [add({name: value}), add({name: kept})])
  assert len(same) == 1


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    ('train.epochs', 2.5),
    ('train.epochs', True),
    ('train.epochs', '3'),
    ('train.epochs', None),
    ('train.epochs', 2.0),
    ('seed', True),
    ('seed', np.bool_(True)),
    ('seed', np.arange(3)),
    ('seed', np.array(3)),
    ('seed', 10**400),
    ('data.mask', 1),
    ('data.split_seed', 10**24),
    ('model.embed_size', 2**63),
    ('model.layers', 10**6),
    ('model.dropout', float('nan')),
    ('model.dropout', 1 - 1e-12),
    ('optim.learning_rate', float('inf')),
    ('optim.learning_rate', 1e-60),
    ('optim.learning_rate', 1e39),
    ('optim.clip_norm', 1e-60),
    ('model.cell', ['gru']),
    ('model.cell', object()),
    ('data.dir', None),
    ('data.dir', 'a\0b'),
    ('model.truncate', (5, 2**40 * 5)),
    ('model.lstm.forget_bias', 'one'),
    ('model.lstm.forget_bias', float('nan')),
    ('model.gru.reset', 3),
    ('model.gru.reset', [object()]),
  ],
)
def test_a_value_of_a_wrong_type_or_range_is_named(name, value):
  for wrong in (
    lambda: configs.check(changed(name, value)),
    lambda: sweep.expand(smoke(), lambda add: add({name: value})),
  ):
    with pytest.raises(ValueError) as error:
      wrong()
    assert f'--config.{name}=' in str(error.value) and len(str(error.value)) < 500


def test_an_option_of_a_cell_that_no_run_has_is_an_error():
  with pytest.raises(ValueError, match='model.gru.reset is read only by the cell gru'):
    sweep.expand(smoke(), lambda add: add({'model.cell': 'lstm', 'model.gru.reset': 'before'}))
  # A pinned cell is the sweep's only one, so settings of other cells do not matter.
  over = lambda add: add({'model.cell': 'gru', 'model.gru.reset': 'before'})  # noqa: E731
  (run,) = sweep.expand(smoke(), over, pinned=('model.cell',))
  assert run.config.model.cell == 'lstm'


# Sweeps, searches and claims.


@pytest.mark.parametrize(
  ('over', 'words'),
  [
    (lambda add: None, 'the sweep adds no run; for the one run of the config: --nosweep'),
    (lambda add: ({'seed': s} for s in (1, 2)), 'remove `yield`'),
    (lambda add: [{'seed': 1}], 'must call add'),
    (lambda add: add(3), 'overrides are a dict'),
    (lambda add: add({1: 2}), 'is not a field'),
    (lambda add: [add({'seed': s}) for s in range(10**9)], 'asks for more than 5 runs'),
    (lambda add: add.search([{}], {'model.dropout': ('uniform', 0, 0.5)}, 9, [1]), 'more than 5'),
    (lambda add: add.search(3, {}, 1, [1]), 'arms=3: must be a list'),
    (lambda add: add.search([{}], {'model.dropout': 3}, 1, [1]), 'must be a range'),
    (lambda add: add.search([{}], [1], 1, [1]), 'no ranges'),
    (lambda add: add.search([{}], {'model.dropout': ('uniform', 0, 0.5)}, 1, 7), 'seeds=7: must'),
    (lambda add: add.search([{}], {'seed': np.arange(2)}, 1, [1]), 'seed=array'),
  ],
)
def test_a_sweep_that_is_none_is_told(over, words, monkeypatch):
  monkeypatch.setattr(asking, 'MOST', 5)
  with pytest.raises(ValueError) as error:
    sweep.expand(smoke(), over)
  assert words in str(error.value)


def test_a_search_takes_numpy_s_numbers():
  ranges = {'model.hidden_size': ('choice', *np.array([8, 16]))}
  options = {'trials': np.int64(2), 'seeds': np.arange(100, 102), 'seed': np.int64(0)}
  made = search.check(search.Search([{}], ranges, **options), ())
  assert json.dumps([made.ranges, made.seeds, made.trials]) == json.dumps(
    [{'model.hidden_size': ['choice', 8, 16]}, [100, 101], 2]
  )


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    ({'margin': object()}, 'claim 1: margin=<object'),
    ({'margin': float('nan')}, 'needs a margin above 0'),
    ({'margin': True}, 'needs a margin above 0'),
    ({'margin': (x for x in [1])}, 'claim 1: margin=<generator'),
    ({'says': 'b > a'}, 'is tested without a margin'),
    ({'claim': 3}, 'claim must be a text, not 3'),
    ({'metric': ['test_accuracy']}, 'metric must be a text'),
    ({'a': {'model.hidden_size': '64'}}, 'must be a whole number'),
    ({'a': {'model.cell': 'lsmt'}}, "did you mean 'lstm'"),
    ({'a': {'model.cell': (c for c in 'ab')}}, 'claim 1: a: --config.model.cell=<generator'),
  ],
)
def test_a_claim_that_holds_what_it_may_not_is_told(change, words):
  claim = {name: eval(text) for name, text in fuzz_configs.CLAIM.items()}
  with pytest.raises(ValueError) as error:
    results.check_claims([claim | change], smoke())
  assert words in str(error.value)


def test_references_come_from_the_file_and_are_kept_in_sweep_json(tmp_path):
  path = tmp_path / 'made.py'
  path.write_text(GOOD)
  assert experiment_file.read(path).references() == []
  path.write_text(GOOD + 'def references(preset):\n  return ["Seen with " + preset]\n')
  references = results.check_references(experiment_file.read(path, 'smoke').references())
  asked = launched()._replace(references=references)
  sweep.record(tmp_path, asked, sweep.Plan([], [], []))
  assert results.references_of(results.sweep_of(tmp_path)) == ['Seen with smoke']
  path.write_text(GOOD + 'def refrences():\n  pass\n')
  with pytest.raises(ValueError, match='there is a refrences, but no references'):
    experiment_file.read(path)
  path.write_text(GOOD + 'def references(a, b):\n  pass\n')
  with pytest.raises(ValueError, match=r'must be references\(\) or references\(preset\)'):
    experiment_file.read(path).references()
  assert results.check_references(imdb.references()) == imdb.references()


def test_claims_are_kept_as_json_has_them():
  claim = {name: eval(text) for name, text in fuzz_configs.CLAIM.items()}
  numpy = claim | {'margin': np.float64(0.01), 'a': {'model.truncate': (5, 10)}}
  kept = results.check_claims([numpy], smoke())
  assert kept == json.loads(json.dumps(kept)) == [claim | {'a': {'model.truncate': [5, 10]}}]
  for wrong in (None, (c for c in [claim]), {'claim': 'x'}, 'claims'):
    with pytest.raises(ValueError, match='must be a list'):
      results.check_claims(wrong, smoke())
