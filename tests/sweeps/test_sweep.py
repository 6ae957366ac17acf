"""Sweeps: their runs, the names of these, which are done; locks and files."""

import collections
import json
import pathlib
import runpy

import numpy as np
import pytest
from ml_collections import ConfigDict
from programs import launched

from rnnlab import cells
from rnnlab.machine import disk, provenance
from rnnlab.runs import configs
from rnnlab.runs import run as running
from rnnlab.sweeps import executors, sweep

ROOT = pathlib.Path(__file__).parents[2]
IMDB = runpy.run_path(str(ROOT / 'experiments' / 'imdb.py'))


def config(**fields):
  made = IMDB['get_config']('smoke')
  made.update_from_flattened_dict({name.replace('__', '.'): v for name, v in fields.items()})
  return made


def test_the_main_job_is_both_cells_and_three_seeds():
  runs = sweep.expand(config(), IMDB['sweep'])
  asked = {(run.config.model.cell, run.config.seed) for run in runs}
  assert asked == {(cell, seed) for cell in ('lstm', 'gru') for seed in (0, 1, 2)}
  assert len({run.id for run in runs}) == 6


def test_what_the_command_line_sets_is_not_swept():
  runs = sweep.expand(config(seed=7), IMDB['sweep'], pinned=('seed',))
  assert [(run.config.model.cell, run.config.seed) for run in runs] == [('lstm', 7), ('gru', 7)]


def test_a_sweep_that_is_asked_once_is_had_over_settled_data_too():
  asked = []

  def over(add):
    asked.append(add)
    for size in (4, 5):
      add({'model.hidden_size': size, 'model.pooling': 'mean'})
    add({'model.cell': 'gru'})
    add.search([{}], {'optim.learning_rate': ('log', 1e-4, 1e-2)}, trials=2, seeds=[1])

  pinned = ('model.pooling',)
  there = lambda config: ConfigDict(config.to_dict() | {'data': {**config.data, 'dir': 'there'}})  # noqa: E731
  request = sweep.settled(sweep.ask(config(), over, pinned, 'command'), there)
  assert len(asked) == 1
  other = sweep.ask(config(data__dir='there'), over, pinned, 'command')
  assert request == other and sweep.plan_of(request) == sweep.plan_of(other)
  assert {run.config.data.dir for run in sweep.plan_of(request).runs} == {'there'}


def test_an_id_tells_the_overrides_and_changes_with_any_field():
  (run,) = sweep.expand(config())
  assert run.id.startswith('cell-lstm_seed-0_')
  (other,) = sweep.expand(config(optim__epsilon=1e-7))
  assert other.id.startswith('cell-lstm_seed-0_') and other.id != run.id
  swept = [r for r in sweep.expand(config(), IMDB['sweep']) if r.overrides == run.overrides]
  assert [r.id for r in swept] == [run.id]


def finish(run, workdir, name=None):
  """Writes a finished run's files, as far as a plan reads them."""
  folder = workdir / (name or run.id)
  disk.write_json(folder / 'config.json', run.config.to_dict())
  epochs = run.config.train.epochs
  disk.write_rows(folder / 'metrics.jsonl', [{'epoch': e + 1} for e in range(epochs)])
  disk.write_json(folder / 'result.json', {'final': {}})


def test_runs_of_equal_config_are_one_run_whatever_the_overrides_say(tmp_path):
  seeds = lambda add: [add({'seed': seed}) for seed in (0, 1)]  # noqa: E731
  before = sweep.plan(config(), seeds, tmp_path)
  for run in before.runs:
    finish(run, tmp_path)
  size, rate = config().model.hidden_size, config().data.label_noise
  assert rate == 0

  def named(add):
    for seed in (0, 1, 2):
      add({'model.hidden_size': size, 'seed': seed})
      add({'data.label_noise': 0, 'seed': seed})
      add({'data.label_noise': 0.0, 'model.hidden_size': size, 'seed': seed})

  plan = sweep.plan(config(), named, tmp_path)
  assert [run.id for run in plan.runs][:2] == [run.id for run in before.runs]
  assert [run.config.seed for run in plan.runs] == [0, 1, 2]
  assert [run.config.seed for run in plan.todo] == [2]


def test_of_runs_that_are_there_twice_the_one_that_has_ended_is_taken(tmp_path):
  (run,) = sweep.expand(config())
  end = run.id.rpartition('_')[2]
  disk.write_json(tmp_path / run.id / 'config.json', run.config.to_dict())
  finish(run, tmp_path, f'another_{end}')
  plan = sweep.plan(config(), None, tmp_path)
  assert [run.id for run in plan.runs] == [f'another_{end}'] and not plan.todo
  # A folder with another config than the one that it was made for is not that run.
  disk.write_json(tmp_path / f'another_{end}' / 'config.json', run.config.to_dict() | {'seed': 1})
  (planned,) = sweep.plan(config(seed=1), None, tmp_path).runs
  assert planned.id.startswith('cell-lstm_seed-1_')


def test_an_id_is_bounded_and_those_that_fit_are_as_ever():
  fields = ['data.label_noise', 'optim.weight_decay', 'model.recurrent_dropout']
  override = {name: 0.1234567891234567 for name in fields}
  (run,) = sweep.expand(config(), lambda add: add(override))
  assert run.id.startswith(
    'cell-lstm_seed-0_label_noise-0.1234567891234567_weight_decay-0.1234567891234567_recurrent_'
  )
  names = [f'model.{"é" * 40}{number}' for number in range(9)]
  ids = {configs.run_id(dict.fromkeys(names, seed), config(seed=seed)) for seed in range(3)}
  assert len(ids) == 3
  for name in ids:
    assert len(name.encode()) <= 255 and name.startswith('é' * 40)


def test_a_sweep_over_a_field_that_is_not_there_is_told():
  with pytest.raises(ValueError, match='modle'):
    sweep.expand(config(), lambda add: add({'modle.cell': 'gru'}))
  with pytest.raises(ValueError, match='hidden_size'):
    sweep.expand(config(), lambda add: add({'model.hidden_size': 'big'}))
  with pytest.raises(ValueError, match='hidden_size'):
    sweep.expand(config(), lambda add: add({'model.hidden_size': -3}))


def test_done_means_a_result_and_every_epoch_s_row(tmp_path):
  (run,) = sweep.expand(config())
  folder = tmp_path / run.id
  assert not sweep.is_done(run, tmp_path)
  disk.write_json(folder / 'result.json', {'final': {}})
  assert not sweep.is_done(run, tmp_path)
  disk.write_rows(folder / 'metrics.jsonl', [{'epoch': 1}])
  assert not sweep.is_done(run, tmp_path)
  disk.write_rows(folder / 'metrics.jsonl', [{'epoch': 1}, {'epoch': 2}])
  assert sweep.is_done(run, tmp_path)
  (folder / 'result.json').write_text('{"fin')
  assert not sweep.is_done(run, tmp_path)


def test_the_record_keeps_runs_of_earlier_launches(tmp_path):
  first, second = sweep.expand(config()), sweep.expand(config(seed=1))
  sweep.record(tmp_path, launched('imdb', 'smoke', 'one'), sweep.Plan(first, first, []))
  sweep.record(tmp_path, launched('imdb', 'smoke', 'two'), sweep.Plan(second, second, []))
  recorded = json.loads((tmp_path / 'sweep.json').read_text())
  assert [run['id'] for run in recorded['runs']] == [first[0].id, second[0].id]
  assert recorded['command'] == 'two'


def test_the_record_tells_whether_claims_were_made_before_the_runs(tmp_path):
  runs = sweep.expand(config(), IMDB['sweep'])

  def recorded(claims, done):
    asked = launched(claims=claims)
    sweep.record(tmp_path, asked, sweep.Plan(runs, runs[done:], []))
    found = json.loads((tmp_path / 'sweep.json').read_text())
    assert found['claims'] == claims
    return found['claims_after']

  assert recorded([{'claim': 'one'}], done=0) == 0
  assert recorded([{'claim': 'one'}], done=4) == 0
  assert recorded([{'claim': 'other'}], done=4) == 4
  assert recorded([{'claim': 'other'}], done=6) == 4


@pytest.mark.parametrize(
  ['field', 'value'],
  [
    ('model.hidden_size', 0),
    ('model.dropout', 1.0),
    ('model.recurrent_dropout', -0.1),
    ('model.pooling', 'sum'),
    ('model.precision', 'bf16'),
    ('model.truncate', (50, 120)),
    ('model.truncate', (0, 0)),
    ('model.truncate', (50,)),
    ('model.cell', 'lsmt'),
    ('data.vocab_size', 4),
    ('data.max_len', 0),
    ('data.buckets', 0),
    ('data.padding', 'left'),
    ('data.validation_fraction', 0.9),
    ('optim.learning_rate', float('nan')),
    ('optim.schedule', 'cosin'),
    ('optim.decay', 0.0),
    ('optim.patience', 0),
    ('optim.nonmonotone', 0),
    ('train.batch_size', 0),
    ('seed', -1),
  ],
)
def test_a_value_out_of_range_is_named(field, value):
  made = config()
  made.update_from_flattened_dict({field: value})
  with pytest.raises(ValueError, match=f'--config.{field}='):
    configs.check(made)


@pytest.mark.parametrize(
  ['field', 'value'],
  [('train.patience', 1), ('optim.schedule', 'plateau'), ('optim.name', 'asgd')],
)
def test_what_goes_by_validation_must_not_go_by_the_test_split(field, value):
  made = config()
  made.update_from_flattened_dict({field: value})
  configs.check(made)
  made.data.validation_fraction = 0.0
  words = (
    f'--config.{field}={value} needs .*fraction above 0: .* the test split would decide when to'
  )
  with pytest.raises(ValueError, match=words):
    configs.check(made)


def test_choose_goes_by_the_device_and_by_how_the_runs_share_it(monkeypatch):
  def chosen(runs, backend='cpu', cores=2):
    monkeypatch.setattr(provenance, 'cores', lambda: list(range(cores)))
    monkeypatch.setattr('jax.default_backend', lambda: backend)
    return executors.choose(runs)[0]

  runs = sweep.expand(config(), IMDB['sweep'])  # two cells, three seeds each
  assert chosen(runs) == 'process'  # 3 and 3 on two cores would be 2 and 2 rounds, not 3
  assert chosen(runs, cores=3) == 'population'
  assert chosen([run for run in runs if run.config.seed < 2]) == 'population'
  assert chosen(runs[:1]) == 'cores'
  assert chosen(runs[:2]) == 'process'  # one of each
  assert chosen(runs, cores=1) == chosen(runs[:1], cores=1) == 'serial'
  assert chosen(runs, 'gpu') == 'population'
  assert chosen(runs[:1], 'gpu') == chosen(runs[:2], 'gpu') == 'serial'
  monkeypatch.setattr(cells, '_added', {'gru': cells.find('gru')})  # as in a notebook
  assert chosen(runs) == 'population' and chosen(runs[:1]) == 'cores'
  assert chosen([run._replace(source=('mine.py', '')) for run in runs]) == 'process'


def test_run_in_memory_is_the_run_of_launch_py(tmp_path, capsys):
  """The same with progress, which a log shows if asked for, as without."""
  import rnnlab

  folder = tmp_path / 'aclImdb'
  draw = np.random.default_rng(0)
  for split in ('train', 'test'):
    for label in ('neg', 'pos'):
      (folder / split / label).mkdir(parents=True)
      for i in range(20):
        words = ' '.join(f'w{k}' for k in draw.integers(0, 30, 12))
        (folder / split / label / f'{i}_1.txt').write_text(words)
  made = config(data__source='directory', data__dir=str(folder), data__max_len=12)
  memory = rnnlab.run(made, progress=True)
  output, lines = capsys.readouterr()
  assert output == '' and '\r' not in lines
  assert ['epoch 1/2' in lines, 'epoch 2/2' in lines, 'test accuracy' in lines] == [True] * 3
  disk = rnnlab.run(made, tmp_path / 'runs')
  assert capsys.readouterr() == ('', '')
  assert memory.result['final'] == disk.result['final'] and memory.result['best']['epoch'] in (1, 2)
  assert [r['train_loss'] for r in memory.metrics] == [r['train_loss'] for r in disk.metrics]
  runs = rnnlab.load_runs(tmp_path / 'runs')
  assert list(runs['test_accuracy']) == [memory.result['final']['test_accuracy']]
  assert np.isfinite(memory.params['Dense_0']['kernel']).all()


def test_a_run_continues_only_on_the_data_that_it_began_with(reviews, tmp_path, monkeypatch):
  spec = configs.specify(config(data__source='directory', data__dir=str(reviews)))
  collections.deque(running.events(spec._replace(until=1), tmp_path), maxlen=0)
  shared = running.prepare(spec.config)
  other = shared._replace(dataset=shared.dataset._replace(fingerprint='other'))
  with monkeypatch.context() as patch:
    patch.setattr(running, 'prepare', lambda _: other)
    with pytest.raises(ValueError, match='the data have changed since this run began'):
      collections.deque(running.events(spec, tmp_path), maxlen=0)
  *_, last = running.events(spec, tmp_path)
  assert last.kind == 'done'


def test_a_sweep_may_add_runs_of_another_config_and_task():
  other = configs.default('regression')
  other.train.epochs = 7

  def over(add):
    add({'seed': 1})
    add({'seed': 1, 'model.cell': 'gru'}, other)

  one, two = sweep.expand(config(train__epochs=3, model__hidden_size=5), over)
  assert (one.config.task.name, two.config.task.name) == ('classification', 'regression')
  assert (two.config.train.epochs, two.config.model.cell) == (7, 'gru')
  assert two.config.model.hidden_size == other.model.hidden_size
  pinned = ('model.hidden_size', 'data.label_noise')  # which regression does not have
  _, two = sweep.expand(config(model__hidden_size=5), over, pinned)
  assert two.config.model.hidden_size == 5 and two.config.train.epochs == 7
  assert 'label_noise' not in two.config.data
  given = config()
  given.model.gru = {'reset': 'before'}  # an option of a cell, which no config has by default
  _, two = sweep.expand(given, over, ('model.gru.reset',))
  assert two.config.model.gru.reset == 'before'
  settled = sweep.settled(sweep.ask(config(), over), lambda config: config).runs
  assert [run.config.task.name for run in settled] == ['classification', 'regression']
  with pytest.raises(ValueError, match='takes a ConfigDict as config'):
    sweep.expand(config(), lambda add: add({}, {'seed': 1}))
  with pytest.raises(ValueError, match="no field 'optim.momentun'"):
    other.optim.momentun = 0.9
    sweep.expand(config(), over)
