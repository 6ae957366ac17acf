"""Searches: what they draw, which trials continue, what is compared; on hand-written results."""

import itertools
import json
import math
import pathlib
import re
import runpy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import ROOT, launched

from rnnlab import results
from rnnlab.machine import disk
from rnnlab.runs import configs
from rnnlab.sweeps import search, sweep

IMDB = runpy.run_path(str(ROOT / 'experiments' / 'imdb.py'))
ARMS = [{'model.cell': 'lstm'}, {'model.cell': 'gru'}]
RANGES = {
  'optim.learning_rate': ('log', 1e-4, 1e-2),
  'model.dropout': ('uniform', 0.0, 0.5),
  'model.hidden_size': ('choice', 16, 32),
}


def config(**fields):
  made = IMDB['get_config']('smoke')
  made.train.epochs = 8
  made.update_from_flattened_dict({name.replace('__', '.'): v for name, v in fields.items()})
  return made


def asks(arms=ARMS, ranges=RANGES, **options):
  """A sweep of one search."""
  options = {'trials': 8, 'seeds': range(100, 102)} | options
  return lambda add: add.search(arms, ranges, **options)


def objective(spec, epoch):
  """A made-up validation accuracy that rises over the epochs to the setting's own value.

  Less dropout rises faster, so that curves cross.
  """
  rate, dropout = spec.config.optim.learning_rate, spec.config.model.dropout
  height = 0.9 - 0.1 * abs(math.log10(rate) + 3) - 0.2 * abs(dropout - 0.3)
  return height * (1 - (0.3 + dropout) ** epoch)


def do(spec, workdir, fails=lambda spec: False):
  """Leaves the files of a run."""
  folder = pathlib.Path(workdir) / spec.id
  if fails(spec):
    disk.write_json(folder / 'error.json', {'error': 'not finite', 'again': False})
    return
  rows = [
    {'epoch': epoch, 'validation_accuracy': objective(spec, epoch)}
    for epoch in range(1, (spec.until or spec.config.train.epochs) + 1)
  ]
  disk.write_rows(folder / 'metrics.jsonl', rows)
  if not spec.until:
    disk.write_json(folder / 'result.json', {'final': {}, 'epochs': len(rows)})


def finish(config, over, workdir, fails=lambda spec: False):
  """Does a sweep to its end; returns its stages, each as the (id, until) to be done."""
  stages = []
  while todo := sweep.plan(config, over, workdir).todo:
    stages.append([(spec.id, spec.until) for spec in todo])
    for spec in todo:
      do(spec, workdir, fails)
  return stages


def test_an_option_of_a_cell_that_the_config_does_not_set_may_be_searched():
  ranges = {'model.lstm.forget_bias': ('uniform', 0.0, 2.0)}
  plan = sweep.plan(configs.default(), asks([{'model.cell': 'lstm'}], ranges, trials=4))
  found = {run.config.model.lstm.forget_bias for run in plan.runs}
  assert len(found) == 4 and all(0 < bias < 2 for bias in found)


@pytest.mark.parametrize('method', search.METHODS)
def test_each_arm_has_as_many_trials_and_then_its_best_setting_runs_with_fresh_seeds(
  method, tmp_path
):
  if method == 'optuna':
    pytest.importorskip('optuna')
  over = asks(method=method, trials=16)
  finish(config(), over, tmp_path)
  plan = sweep.plan(config(), over, tmp_path)
  trials = [run for run in plan.runs if run.stage == 'search']
  finals = [run for run in plan.runs if run.stage == '']
  for cell in ('lstm', 'gru'):
    mine = [run for run in trials if run.config.model.cell == cell]
    assert len(mine) == 16 and {run.config.seed for run in mine} == {0}
    best = max(mine, key=lambda run: objective(run, 8))
    again = [run for run in finals if run.config.model.cell == cell]
    assert [run.config.seed for run in again] == [100, 101]
    for run in again:
      for name in ('optim.learning_rate', 'model.dropout', 'model.hidden_size'):
        assert run.overrides[name] == best.overrides[name]
  assert {run.id for run in trials}.isdisjoint(run.id for run in finals)


@pytest.mark.parametrize('method', ['random', 'sobol', 'halton'])
def test_all_arms_are_given_the_same_settings(method):
  runs = sweep.expand(config(), asks(method=method))
  points = {
    cell: [
      [run.overrides[name] for name in RANGES]
      for run in runs
      if run.overrides['model.cell'] == cell
    ]
    for cell in ('lstm', 'gru')
  }
  assert points['lstm'] == points['gru'] and len(points['gru']) == 8
  other = sweep.expand(config(), asks(method=method, seed=1))
  assert {run.id for run in runs}.isdisjoint(run.id for run in other)


@given(
  method=st.sampled_from(['random', 'sobol', 'halton']),
  low=st.floats(1e-6, 1.0),
  times=st.floats(1.01, 1e4),
  trials=st.integers(1, 40),
  seed=st.integers(0, 99),
)
def test_draws_lie_in_their_ranges_in_four_digits(method, low, times, trials, seed):
  low = float(f'{low:.4g}')
  high = float(f'{low * times:.4g}')
  ranges = {'a': ('log', low, high), 'b': ('uniform', -high, low), 'c': ('uniform', 3, 7)}
  points = search.ask(search.Search([{}], ranges, trials, [100], method, seed), [])
  assert points.shape == (trials, 3)
  for a, b, c in points:
    rate, flat, whole = (
      search.value(given, u, name == 'c')
      for (name, given), u in zip(ranges.items(), (a, b, c), strict=True)
    )
    assert low <= rate <= high and -high <= flat <= low and whole in (3, 4, 5, 6, 7)
    for number in (rate, flat):
      assert number == float(f'{number:.4g}')
    assert type(whole) is int


@pytest.mark.parametrize('method', ['sobol', 'halton'])
def test_quasi_random_draws_cover_each_range_evenly(method):
  """16 points have one in each 16th of a range (Sobol), or no two of 1/32 apart left empty."""
  asked = search.Search([{}], {'a': ('uniform', 0, 1), 'b': ('log', 1e-4, 1.0)}, 16, [1], method)
  points = search.ask(asked, [])
  flat = sorted(search.value(('uniform', 0.0, 1.0), u) for u in points[:, 0])
  decades = [math.log10(search.value(('log', 1e-4, 1.0), u)) for u in points[:, 1]]
  gaps = np.diff([0, *flat, 1])
  assert gaps.max() < 2 / 16 + 1e-3
  assert np.histogram(decades, 4, (-4, 0))[0].min() >= (4 if method == 'sobol' else 3)


@pytest.mark.parametrize('method', search.METHODS)
def test_more_trials_keep_those_there_are(method):
  if method == 'optuna':
    pytest.importorskip('optuna')
  few, more = (
    search.ask(search.Search([{}], RANGES, trials, [1], method), []) for trials in (5, 8)
  )
  assert few.tolist() == more[:5].tolist()


def test_whole_numbers_are_drawn_evenly_with_both_ends():
  drawn = [search.value(('uniform', 1, 4), u, True) for u in (np.arange(400) + 0.5) / 400]
  assert [drawn.count(n) for n in (1, 2, 3, 4)] == [100] * 4
  assert search.value(('log', 16, 64), 0.0, True) == 16
  assert search.value(('log', 16, 64), 1.0, True) == 64


def test_ids_configs_and_overrides_agree_and_are_short():
  for run in sweep.expand(config(), asks()):
    assert run.config.optim.learning_rate == run.overrides['optim.learning_rate']
    assert f'learning_rate-{run.overrides["optim.learning_rate"]}_' in run.id
    assert len(run.id) < 90


def test_halving_goes_on_with_the_better_half_from_where_it_paused(tmp_path):
  over = asks(halving=(2, 4))
  stages = finish(config(), over, tmp_path)
  untils = [[until for _, until in stage] for stage in stages]
  assert untils == [[2] * 16, [4] * 8, [0] * 4, [0] * 4]
  first = {spec.id: spec for spec in sweep.expand(config(), over)}
  for cell in ('lstm', 'gru'):
    ahead = [run for run in first.values() if run.config.model.cell == cell]
    for stage, rung in ((1, 2), (2, 4)):
      ahead = sorted(ahead, key=lambda run: -objective(run, rung))[: len(ahead) // 2]  # noqa: B023
      went = {run for run, _ in stages[stage] if first[run].config.model.cell == cell}
      assert went == {run.id for run in ahead}
  assert {run for run, _ in stages[3]}.isdisjoint(first)


def test_halving_judges_by_the_best_epoch_up_to_the_rung(tmp_path):
  """A trial that was good early continues, though the others are better at the rung itself."""
  over = asks([{}], trials=4, halving=(3,))
  runs = sweep.expand(config(), over)
  curves = [[0.9, 0.1, 0.1], [0.2, 0.3, 0.4], [0.2, 0.3, 0.5], [0.1, 0.1, 0.1]]
  for run, curve in zip(runs, curves, strict=True):
    rows = [{'epoch': i, 'validation_accuracy': x} for i, x in enumerate(curve, 1)]
    disk.write_rows(tmp_path / run.id / 'metrics.jsonl', rows)
  todo = sweep.plan(config(), over, tmp_path).todo
  assert [run.id for run in todo] == [runs[0].id, runs[2].id]
  assert {run.until for run in todo} == {0}


@pytest.mark.slow
@settings(max_examples=6, deadline=None)
@given(
  method=st.sampled_from(['sobol', 'random']),
  halving=st.sampled_from([(), (2,), (1, 3)]),
  failing=st.sets(st.integers(0, 7), max_size=5),
  order=st.randoms(use_true_random=False),
)
def test_whatever_is_done_first_and_wherever_it_breaks_off_the_same_is_done_and_found(
  method, halving, failing, order, tmp_path_factory
):
  over = asks(method=method, halving=halving, trials=4)
  doomed = {sweep.expand(config(), over)[i].id for i in failing}

  def fails(spec):  # if there are rungs, after the first
    return spec.id in doomed and spec.until != 1

  whole, broken = tmp_path_factory.mktemp('whole'), tmp_path_factory.mktemp('broken')
  stages, done = finish(config(), over, whole, fails), []
  while todo := sweep.plan(config(), over, broken).todo:
    for spec in order.sample(todo, order.randint(1, len(todo))):
      do(spec, broken, fails)
      done.append((spec.id, spec.until))
  assert sorted(done) == sorted(itertools.chain(*stages))
  ends = [sweep.plan(config(), over, workdir) for workdir in (whole, broken)]
  assert ends[0].searches == ends[1].searches


def test_optuna_s_trials_come_in_batches_and_are_replayed_from_the_results(tmp_path):
  pytest.importorskip('optuna')
  over = asks(method='optuna', trials=20, halving=(2,))
  stages = finish(config(), over, tmp_path / 'a')
  assert len(stages[0]) == 16 and len(stages[1]) == 8  # a batch of 8 per arm, then its better half
  assert finish(config(), over, tmp_path / 'b') == stages
  plan = sweep.plan(config(), over, tmp_path / 'a')
  assert [len(arm['trials']) for arm in plan.searches[0]['arms']] == [20, 20]


@pytest.mark.parametrize('seed', range(3))
def test_optuna_s_later_trials_are_better_than_its_random_first(seed):
  pytest.importorskip('optuna')
  ranges, told = {'a': ('uniform', 0, 1), 'b': ('choice', *range(10))}, []
  asked = search.Search([{}], ranges, 32, [100], 'optuna', seed)
  while len(points := search.ask(asked, told)):
    told += [1.0 - abs(a - 0.3) - abs(b - 0.8) for a, b in points]
  assert len(told) == 32 and np.mean(told[16:]) > np.mean(told[:8])


def test_optuna_s_failed_trials_are_the_worst_where_lower_values_are_better_too():
  """Scores are then negative: a failed trial must not rank before others."""
  pytest.importorskip('optuna')
  ranges, told = {'a': ('uniform', 0, 1), 'b': ('uniform', 0, 1)}, []
  asked = search.Search([{}], ranges, 48, [100], 'optuna')
  while len(points := search.ask(asked, told)):
    told += [-math.inf if a > 0.5 else -100 * (1 + abs(a - 0.3)) for a, _ in points]
  failed = [score == -math.inf for score in told]
  assert sum(failed[:16]) > 6 and sum(failed[-16:]) < 4


def test_a_trial_that_failed_is_the_worst_and_does_not_stop_the_search(tmp_path):
  over = asks(trials=4)
  doomed = max(sweep.expand(config(), over)[:4], key=lambda run: objective(run, 8)).id
  finish(config(), over, tmp_path, lambda spec: spec.id == doomed)
  lstm, gru = sweep.plan(config(), over, tmp_path).searches[0]['arms']
  states = {trial['id']: trial['state'] for trial in lstm['trials'] + gru['trials']}
  assert states.pop(doomed) == 'failed' and set(states.values()) == {'done'}
  assert lstm['best'] != doomed and len(lstm['runs']) == len(gru['runs']) == 2


def test_a_trial_whose_worker_died_is_done_again_before_anything_is_decided(tmp_path):
  over = asks(trials=2)
  first, *others = sweep.expand(config(), over)
  for run in others:
    do(run, tmp_path)
  disk.write_json(tmp_path / first.id / 'error.json', {'error': 'killed', 'again': True})
  plan = sweep.plan(config(), over, tmp_path)
  lstm, gru = plan.searches[0]['arms']
  assert not lstm['best'] and gru['best']  # and the other arm does not wait for it
  assert [run.id for run in plan.todo] == [first.id, *gru['runs']]


def test_an_arm_of_failures_alone_has_no_best(tmp_path):
  over = asks(trials=4, halving=(2,))
  finish(config(), over, tmp_path, lambda spec: spec.config.model.cell == 'gru')
  plan = sweep.plan(config(), over, tmp_path)
  lstm, gru = plan.searches[0]['arms']
  assert lstm['best'] and not gru['best'] and gru['runs'] == []
  assert any('gru: all 4 trials failed' in line for line in sweep.findings(plan))


def test_equals_go_by_their_order(tmp_path):
  over = asks([{}], trials=5, halving=(1,))
  runs = sweep.expand(config(), over)
  for run in runs:
    disk.write_rows(tmp_path / run.id / 'metrics.jsonl', [{'epoch': 1, 'validation_accuracy': 0.5}])
  todo = sweep.plan(config(), over, tmp_path).todo
  assert [run.id for run in todo] == [run.id for run in runs[:3]]


def test_a_sweep_may_mix_runs_and_searches(tmp_path):
  def over(add):
    add({'model.cell': 'elman'})
    asks(trials=2)(add)
    asks([{'model.layers': 2}], {'model.dropout': ('uniform', 0.0, 0.3)}, trials=3)(add)
    add({'model.cell': 'lstm', 'seed': 5})

  runs = sweep.expand(config(), over)
  assert [run.stage for run in runs] == ['', '', *['search'] * 7]
  stages = finish(config(), over, tmp_path)
  assert [len(stage) for stage in stages] == [9, 6]


@pytest.mark.parametrize('halving', [(), (2,)])
def test_a_trial_that_the_sweep_asks_for_as_a_run_too_is_compared(halving):
  def over(add):
    asks([{}], {'model.hidden_size': ('choice', 16, 32)}, halving=halving)(add)
    add({'model.hidden_size': 16})

  runs = sweep.expand(config(), over)
  found = {run.config.model.hidden_size: (run.stage, run.until) for run in runs}
  assert found == {16: ('', 0), 32: ('search', 2 if halving else 0)} and len(runs) == 2


def test_searches_that_share_trials_both_come_to_their_end(tmp_path):
  def over(add):
    asks(halving=(2,))(add)
    asks(halving=(4,))(add)

  finish(config(), over, tmp_path)
  assert all(arm['best'] for arm in sweep.arms(sweep.plan(config(), over, tmp_path)))


def test_what_the_command_line_sets_is_not_sampled_and_said(tmp_path):
  pinned = ('model.cell', 'model.dropout')
  free = sweep.expand(config(), asks())
  plan = sweep.plan(config(model__dropout=0.1), asks(), tmp_path, pinned)
  assert len(plan.runs) == 8  # the arms became one
  assert {run.config.model.dropout for run in plan.runs} == {0.1}
  rates = [run.config.optim.learning_rate for run in plan.runs]
  assert rates == [run.config.optim.learning_rate for run in free[:8]]
  assert any('model.dropout is set on the command line' in line for line in sweep.findings(plan))
  assert plan.searches[0]['pinned'] == ['model.dropout']


BAD = {
  'method': (asks(method='sobel'), "method='sobel' (did you mean 'sobol'?)"),
  'trials': (asks(trials=0), 'trials=0: must be a whole number'),
  'no arms': (asks(arms=[]), 'no arms'),
  'no ranges': (asks(ranges={}), 'no ranges'),
  'kind': (asks(ranges={'model.dropout': ('normal', 0, 1)}), 'must be a range'),
  'empty': (asks(ranges={'model.dropout': ('uniform', 0.5, 0.5)}), 'is empty'),
  'one end': (asks(ranges={'model.dropout': ('uniform', 0.5)}), 'two numbers'),
  'no choice': (asks(ranges={'model.dropout': ('choice',)}), 'nothing to choose from'),
  'log of 0': (asks(ranges={'optim.learning_rate': ('log', 0, 1e-2)}), 'begin above 0'),
  'infinite': (asks(ranges={'optim.learning_rate': ('log', 1, math.inf)}), 'finite'),
  'no such field': (asks(ranges={'optim.lr': ('log', 1e-4, 1e-2)}), 'lr'),
  'no such arm': (asks([{'modle.cell': 'gru'}]), 'modle'),
  'too high': (asks(ranges={'model.dropout': ('uniform', 0.0, 1.0)}), 'model.dropout=1.0'),
  'not a cell': (asks([{}], {'model.cell': ('choice', 'gru', 'lsmt')}), "did you mean 'lstm'"),
  'arm and range': (asks([{'model.dropout': 0.1}]), 'set both by an arm and in the ranges'),
  'rung at the end': (asks(halving=(2, 8)), 'must be below --config.train.epochs=8'),
  'rungs in disorder': (asks(halving=(4, 2)), 'ascending'),
  'stale seeds': (asks(seeds=range(3)), "0 is the trials' seed"),
  'no seeds': (asks(seeds=()), 'seeds is empty'),
  'bad seeds': (asks(seeds=(-1,)), '--config.seed=-1'),
  'seed as a range': (asks(ranges={'seed': ('choice', 1, 2)}), 'seed cannot be searched'),
  'misspelt option': (asks(trails=3), 'trails'),
}


@pytest.mark.parametrize('name', BAD)
def test_a_search_that_cannot_be_is_told_before_anything_runs(name):
  over, words = BAD[name]
  with pytest.raises(ValueError, match=re.escape(words)):
    sweep.expand(config(), over)


def test_a_search_never_selects_on_the_test_split():
  with pytest.raises(ValueError, match='validation is the test split'):
    sweep.expand(config(data__validation_fraction=0.0), asks())


def test_a_seed_of_the_command_line_leaves_no_fresh_ones():
  with pytest.raises(ValueError, match='leave it out'):
    sweep.expand(config(), asks(), pinned=('seed',))


def test_without_optuna_its_search_says_what_to_install(monkeypatch):
  monkeypatch.setattr(search.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ValueError, match='pip install optuna'):
    sweep.expand(config(), asks(method='optuna'))


def test_done_knows_of_a_pause_and_of_an_early_stop(tmp_path):
  (run,) = sweep.expand(config())
  folder = tmp_path / run.id
  rows = [{'epoch': epoch} for epoch in (1, 2, 3)]
  disk.write_rows(folder / 'metrics.jsonl', rows)
  done = {until: sweep.is_done(run._replace(until=until), tmp_path) for until in (2, 3, 4, 0)}
  assert done == {2: True, 3: True, 4: False, 0: False}
  disk.write_json(folder / 'result.json', {'final': {}})
  assert not sweep.is_done(run, tmp_path)
  disk.write_json(folder / 'result.json', {'final': {}, 'epochs': 3})
  assert sweep.is_done(run, tmp_path) and sweep.is_done(run._replace(until=4), tmp_path)


def recorded(workdir, over):
  plan = sweep.plan(config(), over, workdir)
  sweep.record(workdir, launched('made'), plan)
  return json.loads((workdir / 'sweep.json').read_text())


def test_the_record_tells_stages_what_was_left_and_the_budget(tmp_path):
  over = asks(trials=4, halving=(2,))
  finish(config(), over, tmp_path)
  told = recorded(tmp_path, over)
  (asked,) = told['searches']
  assert asked['method'] == 'sobol' and asked['trials'] == 4 and asked['halving'] == [2]
  assert asked['ranges']['optim.learning_rate'] == ['log', 1e-4, 1e-2]
  for arm in asked['arms']:
    assert sorted(trial['epochs'] for trial in arm['trials']) == [2, 2, 8, 8]
    assert {trial['state'] for trial in arm['trials'] if trial['epochs'] == 2} == {'left'}
  runs = told['runs']
  assert sum(run['stage'] == 'search' for run in runs) == 8 and len(runs) == 12
  assert sum(run.get('left', False) for run in runs) == 4
  finished = {path.parent.name for path in tmp_path.glob('*/result.json')}
  assert len(finished) == 8 and results.missing_runs(tmp_path, finished) == []


def test_runs_of_a_setting_that_is_no_longer_the_best_are_no_longer_compared(tmp_path):
  few, more = asks([{}], trials=2), asks([{}], trials=16)
  finish(config(), few, tmp_path)
  before = recorded(tmp_path, few)
  finish(config(), more, tmp_path)
  after = recorded(tmp_path, more)
  (old,), (new,) = before['searches'][0]['arms'], after['searches'][0]['arms']
  assert old['best'] != new['best'] and len(new['trials']) == 16
  compared = [run['id'] for run in after['runs'] if run['stage'] == '']
  assert compared == new['runs']
  assert all(run['left'] for run in after['runs'] if run['id'] in old['runs'])


SEARCH = """
import runpy
imdb = runpy.run_path({imdb!r})

def get_config():
  config = imdb['get_config']('smoke')
  config.data.max_len = 20
  config.data.buckets = 1
  config.model.hidden_size = 4
  return config

def sweep(add):
  add.search(
    [{{'model.cell': 'lstm'}}, {{'model.cell': 'gru'}}],
    {{'optim.learning_rate': ('log', 1e-3, 1e-1)}},
    method='random',
    trials=2,
    seed=1,
    halving=(1,),
    seeds=[100],
  )
"""


@pytest.mark.slow
def test_a_search_runs_to_its_end_from_one_command(launch, tmp_path):
  experiment, workdir = tmp_path / 'tuned.py', tmp_path / 'out'
  experiment.write_text(SEARCH.format(imdb=str(ROOT / 'experiments' / 'imdb.py')))
  words = f'--config={experiment}', '--workdir=out', '--executor=serial'
  said, again = (launch(*words, check=0).stdout for _ in range(2))
  assert '; now 4 trials to epoch 1' in said and '; now 2 trials to their end' in said
  assert 'lstm: best of 2 trials by validation accuracy' in said
  assert '; now 2 runs to compare' in said
  assert '6 runs, 6 done' in again and 'executor' not in again

  arms = json.loads((workdir / 'sweep.json').read_text())['searches'][0]['arms']
  for arm in arms:
    states = {trial['state']: workdir / trial['id'] for trial in arm['trials']}
    best, left = states['done'], states['left']
    scores = [
      [row['validation_accuracy'] for row in disk.read_rows(folder / 'metrics.jsonl')]
      for folder in (best, left)
    ]
    assert len(scores[0]) == 2 and len(scores[1]) == 1 and scores[0][0] >= scores[1][0]
    assert arm['best'] == best.name and not (left / 'result.json').exists()
    assert list(left.glob('checkpoints/[0-9]*'))
    (final,) = arm['runs']
    trial, run = (disk.read_json(workdir / x / 'config.json') for x in (arm['best'], final))
    assert (trial.pop('seed'), run.pop('seed')) == (1, 100) and trial == run

  runs = results.load_runs(workdir)
  assert sorted(runs['stage']) == ['', '', 'search', 'search']
  assert list(runs[runs['stage'] == '']['id']) == [arm['runs'][0] for arm in arms]
  assert len((workdir / 'summary.csv').read_text().splitlines()) == 3  # a row per cell
  assert 'have no result' not in (workdir / 'summary.md').read_text()
