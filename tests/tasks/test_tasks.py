"""Tasks by name, the requirements of a task, and a whole one from a file outside the package."""

import functools
import io
import json
import pathlib
import shutil
import signal
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from programs import ROOT, finals, read_until

import rnnlab
from rnnlab import tasks
from rnnlab.console import progress, usage
from rnnlab.reports import report
from rnnlab.runs import configs, experiment, experiment_file
from rnnlab.runs import folder as run_files
from rnnlab.sweeps import conduct, sweep
from rnnlab.tasks import base, fields

SERIES = pathlib.Path(__file__).parent / 'series.py'
TEXTS = tasks.find('classification')


@pytest.fixture(autouse=True)
def added(monkeypatch):
  monkeypatch.setattr(tasks, '_added', {})
  monkeypatch.setattr(experiment_file, '_read', [])


def read(preset=''):
  return experiment_file.read(SERIES, preset)


def conducted(executor, workdir, preset='', stop=lambda: False, change=None):
  """Does what the file asks for, like a launch; returns the plan, and the runs that failed."""
  made = read(preset)
  made.config.update_from_flattened_dict(change or {})
  request = sweep.ask(made.config, made.sweep, command='command')
  asked = conduct.Asked(request, [], 'series', preset)
  workdir.mkdir(exist_ok=True)
  output = io.StringIO()
  console = progress.Console(file=output, width=200)
  options = {'options': {}, 'retry_failed': False, 'wandb': False}
  with run_files.lock(workdir, 'busy'):
    done = conduct.conduct(asked, workdir, '', console, stop, executor=executor, **options)
  return *done, output.getvalue()


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """The file's sweep done without interruption by an executor: its workdir, and the output."""

  @functools.cache
  def run(executor):
    workdir = tmp_path_factory.mktemp('whole')
    _, failed, said = conducted(executor, workdir)
    assert not failed
    return workdir, said

  return run


def test_a_task_is_found_by_its_file_and_the_near_match_is_named():
  known = 'classification', 'generated', 'language_model', 'music', 'regression', 'tagging'
  assert {*known} <= {*tasks.names()}
  assert TEXTS.metrics[0] == tasks.Metric('accuracy', '%', 'higher', '.1%')
  with pytest.raises(ValueError, match="did you mean 'classification'"):
    tasks.find('text_clasification')
  assert tasks.find('rnnlab.tasks.classification:task') is TEXTS
  for name in ('rnnlab.no_such_room:task', 'rnnlab.tasks.classification:tusk'):
    with pytest.raises(ValueError, match=f'there is no task {name!r}'):
      tasks.find(name)


def test_a_task_that_was_added_is_known_and_a_file_s_name_is_taken():
  with pytest.raises(ValueError, match='already, rnnlab/tasks/classification.py'):
    tasks.add(TEXTS)
  mine = tasks.add(TEXTS._replace(name='mine'))
  assert tasks.find('mine') is mine and tasks.added('mine') and 'mine' in tasks.names()


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    ({'name': 'no name'}, 'its name must be an identifier'),
    ({'metrics': ()}, "the last called 'loss'"),
    ({'metrics': TEXTS.metrics[::-1]}, "the last called 'loss'"),
    ({'metrics': (*TEXTS.metrics, TEXTS.metrics[1])}, 'metrics must be different'),
    ({'metrics': (tasks.Metric('loss', better='less'),)}, "better 'higher' or 'lower'"),
    ({'metrics': (tasks.Metric('loss', format='.3q'),)}, 'its format cannot format'),
    ({'metrics': (tasks.Metric('loss', '%', format='.1f'),)}, 'a share, and nothing else, has'),
    ({'metrics': (tasks.Metric('loss', 'V', format='.1%'),)}, 'a share, and nothing else, has'),
    ({'fields': {'train.steps': tasks.Field(1, fields.SIZE)}}, 'model.NAME or data.NAME'),
  ],
)
def test_what_is_no_task_is_told(change, words):
  with pytest.raises(ValueError, match=words):
    tasks.add(TEXTS._replace(**{'name': 'mine'} | change))
  with pytest.raises(ValueError, match='not a function'):
    base.check(lambda: TEXTS)


def test_a_config_has_the_fields_of_its_task_and_no_other():
  config = read().config
  assert configs.check(config).data.to_dict() == {'steps': 6, 'noise': 0.1, 'draw': 0}
  assert [*configs.fields('series')][:4] == ['seed', 'task.name', 'task.metric', 'model.cell']
  for wrong, words in (
    ({'data.vocab_size': 9}, "no field 'data.vocab_size'"),
    ({'data.stps': 9}, r"no field 'data.stps' \(did you mean 'data.steps'\?\)"),
    ({'data.steps': 1}, 'data.steps=1: must be a whole number, at least 2'),
    ({'task.name': 'seris'}, r"did you mean 'series'\?"),
    ({'task.name': 'classification'}, "no field 'data.draw'"),
  ):
    with pytest.raises(ValueError, match=words):
      configs.change(config, wrong)
  assert configs.parse('data.noise', '1', 'series') == 1.0
  helps = {name: field.help for name, field in configs.fields('series').items()}
  page = usage.page(SERIES, configs.flat(config), helps)
  assert '--config.data.steps=6' in page and '# of a wave' in page and 'vocab_size' not in page


def test_an_old_config_is_read_as_it_was_meant():
  new = configs.default().to_dict()
  old = {part: of for part, of in new.items() if part != 'task'}
  old['data'] = new['data'] | {'name': 'imdb'}
  assert configs.present(old) == new and configs.present(new) == new
  assert configs.check(ConfigDict(configs.present(old))) == configs.default()


def test_a_run_of_an_older_workdir_is_found_and_keeps_its_words(tmp_path):
  """Its folder's name ends in a hash of that config; later launches find it by that too."""
  config = configs.default()
  config.data.source = 'package'
  old = {part: of for part, of in config.to_dict().items() if part != 'task'}
  old['data'] = old['data'] | {'name': 'imdb'}
  name = f'cell-lstm_seed-0_{configs.config_hash(old)}'
  path = tmp_path / name / 'config.json'
  path.parent.mkdir()
  run_files.write_config(path.parent, old)
  before = path.read_bytes()
  (run,) = sweep.plan(config, None, tmp_path).runs
  assert run.id == name and run.config.task.name == 'classification'
  with experiment.Folder(run, tmp_path):
    assert path.read_bytes() == before
  config.seed = 1
  with experiment.Folder(run._replace(config=config), tmp_path):
    assert json.loads(path.read_text())['seed'] == 1


@pytest.mark.parametrize(
  'executor', ['serial', 'population', pytest.param('process', marks=pytest.mark.slow)]
)
def test_a_task_of_one_s_own_is_trained_and_its_least_error_is_the_best(executor, whole):
  workdir, said = whole(executor)
  assert '40 train waves, 20 validation waves, 30 test waves' in said
  assert 'V, validation error 0.' in said
  for path in workdir.glob('*/result.json'):
    result = json.loads(path.read_text())
    assert result['task'] == 'series'
    assert result['metrics'] == [
      {'name': 'error', 'unit': 'V', 'better': 'lower', 'format': '.3f', 'link': '', 'once': False},
      {'name': 'loss', 'unit': '', 'better': 'lower', 'format': '.4f', 'link': '', 'once': False},
    ]
    rows = run_files.read_metrics(path.parent)
    errors = [row['validation_error'] for row in rows]
    assert len(errors) == 3 and result['best']['validation_error'] == min(errors)
    assert result['best']['epoch'] == 1 + int(np.argmin(errors))
    assert result['data']['sizes'] == {'train': 40, 'validation': 20, 'test': 30}
    assert not (path.parent / 'vocabulary.txt').exists()
    kept = np.load(path.parent / 'predictions.npz')
    for name in ('final', 'best'):
      error = np.abs(kept[name] - kept['targets'])
      assert result[name]['test_error'] == pytest.approx(error.mean(), rel=1e-5)
      assert result[name]['test_loss'] == pytest.approx((error**2).mean(), rel=1e-5)


def test_it_learns():
  made = read()
  made.config.train.epochs = 30
  done = rnnlab.run(made.config)
  # Down to the noise: the mean size of a normal deviate of 0.1 is 0.08.
  assert done.metrics[0]['validation_error'] > 0.2
  assert done.result['best']['test_error'] < 0.16


@pytest.mark.parametrize(
  'executor',
  ['serial', *(pytest.param(name, marks=pytest.mark.slow) for name in ('population', 'process'))],
)
def test_a_sweep_that_is_stopped_goes_on_to_the_same_bits(executor, whole, tmp_path):
  looks = iter([False] * 2)
  with pytest.raises(KeyboardInterrupt):
    conducted(executor, tmp_path / 'stopped', stop=lambda: next(looks, True))
  assert not list(tmp_path.glob('stopped/*/result.json'))
  assert not conducted(executor, tmp_path / 'stopped')[1]
  assert finals(tmp_path / 'stopped') == finals(whole(executor)[0])


@pytest.mark.slow
def test_a_search_finds_the_setting_of_the_least_error(tmp_path):
  """Of four learning rates, one diverges; half of the trials continue after an epoch."""
  plan, failed, said = conducted('population', tmp_path, 'search')
  (arm,) = sweep.arms(plan)
  trials = {trial['setting']['optim.learning_rate']: trial for trial in arm['trials']}
  assert {*trials} == {1e-5, 1e-3, 0.1, 1e30}
  assert trials[1e30]['state'] == 'failed' and trials[1e30]['validation_error'] is None
  ended = {rate: t['validation_error'] for rate, t in trials.items() if t['state'] == 'done'}
  assert len(ended) == 2 and min(ended.values()) > 0
  best = min(ended, key=ended.get)
  assert trials[best]['id'] == arm['best'] and 0.1 in ended
  assert f'by validation error, {ended[best]:.3f} V: learning_rate={best}' in said
  left = next(t for t in trials.values() if t['state'] == 'left')
  assert left['validation_error'] > min(ended.values())
  runs = [run for run in plan.runs if not run.stage]
  assert {run.config.seed for run in runs} == {100, 101}
  assert {run.config.optim.learning_rate for run in runs} == {best}


@pytest.mark.slow
def test_a_launch_that_is_killed_goes_on_to_the_same_bits(whole, for_a_user, tmp_path):
  words = [sys.executable, ROOT / 'launch.py', f'--config={SERIES}', '--workdir=killed']
  words += ['--executor=process', '--config.train.epochs=40']
  here = {'cwd': tmp_path, 'env': for_a_user, 'text': True}
  killed = subprocess.Popen(words, stdout=subprocess.PIPE, **here)
  read_until('epoch 2/40', killed)
  killed.send_signal(signal.SIGKILL)
  killed.wait()
  assert not list(tmp_path.glob('killed/*/result.json'))
  for workdir in ('killed', 'whole'):
    subprocess.run([*words, f'--workdir={workdir}'], capture_output=True, **here)
  found = finals(tmp_path / 'killed')
  assert len(found) == 2 and found == finals(tmp_path / 'whole')


def test_a_report_is_of_the_task_s_own_metric(whole, tmp_path):
  workdir = shutil.copytree(whole('serial')[0], tmp_path / 'series')
  told = report.write(workdir)
  (row,) = told.summary.to_dict('records')
  found = [json.loads(path.read_text()) for path in workdir.glob('*/result.json')]
  errors = [result['best']['test_error'] for result in found]
  assert row['runs'] == 2 and row['best_test_error_mean'] == pytest.approx(np.mean(errors))
  assert f'{np.mean(errors):.3f}' in (workdir / 'summary.md').read_text()
  page = (workdir / 'report.html').read_text()
  assert 'waves with noise 0.1' in page and 'accuracy' not in page
  assert (workdir / 'figures' / 'test_error.png').exists()


def test_predictions_are_refused_in_words_of_a_run_that_reads_no_texts(whole):
  folder = next(path.parent for path in whole('serial')[0].glob('*/result.json'))
  with pytest.raises(ValueError, match='is a run of the task series'):
    rnnlab.load(folder)


def test_without_a_validation_split_the_test_split_is_it_and_nothing_is_chosen(monkeypatch):
  read()
  series = tasks.find('series')

  def load(config):
    data = series.load(config)
    return data._replace(splits={n: s for n, s in data.splits.items() if n != 'validation'})

  tasks.add(series._replace(load=load))
  config = configs.default('series')
  config.model.update(cell='elman', hidden_size=2)
  config.train.epochs = 1
  done = rnnlab.run(config)
  assert done.result['best'] is None and done.result['data']['validation_is_test']
  assert done.result['final']['test_error'] == pytest.approx(
    done.metrics[-1]['validation_error'], rel=1e-6
  )


def test_what_differs_from_run_to_run_is_drawn_from_its_key(monkeypatch):
  """A task that negates its targets: as if its data were negated."""
  read()
  series = tasks.find('series')
  turned = tasks.add(
    series._replace(name='turned', vary=lambda split, config, key: {'targets': -split['targets']})
  )

  def load(config):
    data = series.load(config)
    train = data.splits['train']
    return data._replace(splits=data.splits | {'train': train | {'targets': -train['targets']}})

  tasks.add(series._replace(name='loaded', load=load))

  def run(name):
    config = configs.default(name)
    config.model.update(cell='elman', hidden_size=2)
    config.train.epochs = 1
    return rnnlab.run(config)

  found, expected = run(turned.name), run('loaded')
  assert found.metrics[0]['train_loss'] == expected.metrics[0]['train_loss']
  np.testing.assert_array_equal(found.predictions['final'], expected.predictions['final'])


def test_a_metric_is_shown_with_its_unit_once():
  accuracy, error = TEXTS.metrics[0], tasks.Metric('error', 'V', 'lower', '.2f')
  assert accuracy.shown(0.8461) == '84.6%' and accuracy.number(0.84616, 1) == '84.62'
  assert accuracy.change_shown(-0.021) == '-2.1 points' and accuracy.change(-1e-9) == '+0.0'
  assert accuracy.interval(0.5, 1) == '[50.0, 100.0]' and accuracy.interval(jnp.nan, 1) == '-'
  assert accuracy.number(float('nan')) == '-' and error.shown(None) == 'unknown'
  assert (accuracy.sign, error.sign, accuracy.scale, error.scale) == (1, -1, 100, 1)
  assert error.shown(jnp.float32(0.5)) == '0.50 V'


def test_sizes_in_words_are_in_the_greatest_unit_that_they_reach():
  found = [fields.size_words(count) for count in (512 * 10**6, 10**9, 7 * 10**12, 10**18, 10**30)]
  assert found == ['512 MB', '1 GB', '7,000 GB', '1 EB', 'more than 10^12 EB']
