"""Populations: each member equals its solo run, whatever happens to the others."""

import collections
import functools
import json
import runpy
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from programs import ROOT, finals

from rnnlab.machine import devices
from rnnlab.runs import program
from rnnlab.sweeps import executors, sweep
from rnnlab.sweeps.executors.population import groups
from rnnlab.tasks import classification
from rnnlab.training import optim, population, train
from rnnlab.training.optim import Optimizer

IMDB = runpy.run_path(str(ROOT / 'experiments' / 'imdb.py'))
# Members that differ in everything in which they may.
MEMBERS = (
  {'seed': 0},
  {'seed': 1, 'optim.learning_rate': 1e-2},
  {'seed': 2, 'model.dropout': 0.4, 'model.recurrent_dropout': 0.1},
  {'seed': 3, 'optim.clip_norm': 0.02, 'optim.weight_decay': 0.1, 'optim.epsilon': 1e-3},
  {'seed': 4, 'train.epochs': 3, 'optim.warmup_steps': 2, 'data.label_noise': 0.3},
)


def specs(reviews, members=MEMBERS, **fields):
  config = IMDB['get_config']('smoke')
  config.data.update(source='directory', dir=str(reviews))
  config.model.update(cell='gru', hidden_size=3, embed_size=4, output_dropout=0.1)
  config.optim.update(schedule='cosine', warmup_steps=1, clip_norm=1.0, weight_decay=0.01)
  config.data.label_noise = 0.1
  config.update_from_flattened_dict(fields)
  return sweep.expand(config, lambda add: [add(member) for member in members])


def do(executor, runs, workdir, stop=lambda: False):
  workdir.mkdir(exist_ok=True)
  return list(executors.get(executor)(runs, workdir, stop))


@pytest.fixture(autouse=True, scope='module')
def cache(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
    yield


@pytest.fixture(scope='module')
def whole(reviews, tmp_path_factory):
  """The members' numbers, by an executor without interruption."""

  @functools.cache
  def run(executor):
    workdir = tmp_path_factory.mktemp('whole')
    events = do(executor, specs(reviews), workdir)
    assert [event.kind for event in events].count('done') == len(MEMBERS)
    return finals(workdir)

  return run


def close(found, expected):
  """The same metrics, in the first epoch within 1e-5; bits are equal only within one program."""
  assert list(found) == list(expected)
  for run, (final, best, rows, _) in found.items():
    assert rows[0] == pytest.approx(expected[run][2][0], abs=1e-5)
    assert len(rows) == len(expected[run][2])
    for mine, its in ((final, expected[run][0]), (best, expected[run][1])):
      assert mine == pytest.approx(its, abs=1e-4)


def in_lanes(monkeypatch, count):
  """Blocks of `count` members, as an accelerator would have all of them."""
  monkeypatch.setattr(population, 'lanes', lambda members, mesh: count)


def test_runs_that_differ_in_numbers_alone_share_a_program(reviews):
  several = (
    *MEMBERS,
    {'model.dropout': 0.0},
    {'model.cell': 'lstm'},
    {'model.hidden_size': 4},
    {'train.patience': 2, 'seed': 9},
    {'optim.schedule': 'linear'},
    {'data.max_len': 20},
  )
  found = [[run.overrides for run in group] for group in groups(specs(reviews, several))]
  assert sorted(map(len, found)) == [1, 1, 1, 1, 1, len(MEMBERS) + 1]


@pytest.mark.slow
def test_members_are_their_solo_runs(reviews, whole, tmp_path):
  do('population', specs(reviews), tmp_path / 'sweep')
  assert finals(tmp_path / 'sweep') == whole('population')
  close(whole('population'), whole('serial'))
  with np.load(next(tmp_path.glob('sweep/*/predictions.npz'))) as file:
    shapes = {name: file[name].shape for name in file}
  assert shapes == dict.fromkeys(('labels', 'final', 'best'), (100,))


@pytest.mark.slow
@pytest.mark.parametrize('lanes', [2, 5])
def test_a_vmap_of_members_has_their_solo_metrics(reviews, whole, lanes, monkeypatch, tmp_path):
  """In several blocks, and in one; batches are masked where a solo run's are trimmed."""
  in_lanes(monkeypatch, lanes)
  do('population', specs(reviews), tmp_path / 'sweep')
  close(finals(tmp_path / 'sweep'), whole('serial'))


@pytest.mark.slow
@pytest.mark.parametrize('lanes', [1, 3])
def test_a_member_that_is_driven_to_nan_leaves_the_others_their_bits(
  reviews, lanes, monkeypatch, tmp_path
):
  in_lanes(monkeypatch, lanes)
  runs = specs(reviews)
  (wild,) = specs(reviews, ({'seed': 2, 'optim.learning_rate': 1e38, 'optim.clip_norm': 1e38},))
  do('population', runs[:5], tmp_path / 'calm')
  events = do('population', [*runs[:2], wild, *runs[3:]], tmp_path / 'wild')
  calm, others = finals(tmp_path / 'calm'), finals(tmp_path / 'wild')
  assert others == {run: calm[run] for run in others} and len(others) == 4
  (failed,) = [event for event in events if event.kind == 'failed']
  error = json.loads((tmp_path / 'wild' / wild.id / 'error.json').read_text())['error']
  assert failed.run == wild.id and 'not finite at step' in error and 'learning_rate' in error


def test_order_and_dropout_are_a_solo_run_s_to_the_bit():
  """A model that reveals the rows of each step, with bits drawn from its dropout."""
  seen = collections.defaultdict(collections.Counter)

  def see(member, ids, bits):
    seen[int(member)][ids.tobytes(), bits.tobytes()] += 1

  class Spy:
    def init(self, key, ids):
      return {'params': {'member': jnp.zeros(())}}

    def apply(self, variables, ids, deterministic, rngs=None):
      member = variables['params']['member']
      if not deterministic:
        bits = jax.random.bits(rngs['dropout'], (8,))
        jax.debug.callback(see, member, ids, bits)
      return ids[:, 0] * 0.0 + member

  ids = np.arange(1, 151, dtype=np.int32).reshape(50, 3)
  labels, numbers = np.zeros(50, np.int32), range(3)
  task = classification.task
  program = train.Program(
    lambda _: (Spy(), Optimizer(*optax.sgd(0.0))), task.loss, task.metrics, 4, score=task.score
  )
  data = {'inputs': ids, 'labels': labels}
  keys = [jax.random.key(seed) for seed in numbers]

  def state(member):
    start = train.init_state(program, {}, keys[member], ids[:1])
    params = {'member': jnp.float32(member)}
    return start._replace(params=params, best_params=jax.tree.map(jnp.copy, params))

  for member in numbers:
    list(train.fit(program, {}, state(member), keys[member], data, data, epochs=2))
  jax.effects_barrier()
  alone = {member: counter.copy() for member, counter in seen.items()}
  assert [sum(alone[member].values()) for member in numbers] == [26] * 3
  fixed = [population.Fixed({}, key, {'labels': labels}) for key in keys]
  for lanes in (1, 2):
    seen.clear()
    states = [state(member) for member in numbers]
    group = population.stack(program, states, fixed, population.mesh(), lanes)
    ends = {'epochs': [2] * 3, 'until': [0] * 3, 'patience': [0] * 3}
    list(population.fit(group, data, data, data, **ends, alive=set(numbers)))
    jax.effects_barrier()
    # If a block is filled up with its last member, that one is seen twice.
    assert {member: set(counter) for member, counter in seen.items()} == {
      member: set(counter) for member, counter in alone.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize('lanes', [1, 2])
def test_an_average_and_a_falling_rate_are_a_solo_run_s(lanes):
  """To the bit those of a population of one, and up to rounding those of the run itself."""

  class Line:
    def init(self, key, xs):
      return {'params': {'w': jax.random.normal(key, (3,)), 'b': jnp.zeros(())}}

    def apply(self, variables, xs, deterministic, rngs=None):
      return xs @ variables['params']['w'] + variables['params']['b']

  def build(values):
    config = types.SimpleNamespace(**(fields | values))
    return Line(), optim.optimizer(config, 0)

  fields = {'name': 'asgd', 'schedule': 'plateau', 'nonmonotone': 1, 'warmup_steps': 0}
  fields |= {'weight_decay': 0.0, 'clip_norm': 0.0, 'learning_rate': 2.0, 'weight_noise': 0.0}
  draw, task = np.random.default_rng(0), classification.task
  split, validation = (
    {'inputs': draw.normal(size=(60, 3)).astype(np.float32), 'labels': draw.integers(0, 2, 60)}
    for _ in range(2)
  )
  program = train.Program(build, task.loss, task.metrics[::-1], 4, score=task.score)
  values = [{'decay': np.float32(0.1 * i), 'patience': np.float32(i)} for i in (1, 2, 3)]
  keys = [jax.random.key(seed) for seed in range(3)]

  def state(i):
    return train.init_state(program, values[i], keys[i], split['inputs'])

  def trained(members, lanes):
    fixed = [population.Fixed(values[i], keys[i], {'labels': split['labels']}) for i in members]
    states, count = [state(i) for i in members], len(members)
    group = population.stack(program, states, fixed, population.mesh(), lanes)
    ends = {'epochs': [6] * count, 'until': [0] * count, 'patience': [0] * count}
    data = split, validation, validation
    *_, turn = population.fit(group, *data, **ends, alive={*range(count)})
    return [population.member(jax.device_get(turn.states), i) for i in range(count)]

  together = trained(range(3), lanes)
  assert all(0 < of.opt_state.count < 6 * 15 for of in together)
  assert len({float(of.opt_state.inner.factor) for of in together}) == 3
  for i, found in enumerate(together):
    *_, last = train.fit(program, values[i], state(i), keys[i], split, validation, epochs=6)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, found, jax.tree.map(np.asarray, last.state))
    if lanes == 1:
      jax.tree.map(np.testing.assert_array_equal, found, *trained([i], 1))


@pytest.mark.slow
def test_a_member_s_patience_is_its_own(reviews, tmp_path):
  members = ({'seed': 0}, {'seed': 0, 'train.patience': 1}, {'seed': 1})
  runs = specs(reviews, members, **{'train.epochs': 6, 'optim.learning_rate': 0.5})
  do('population', runs, tmp_path / 'population')
  found = finals(tmp_path / 'population')
  rows, stopped = {}, {}
  for run in runs:
    rows[run.id] = found[run.id][2]
    result = json.loads((tmp_path / 'population' / run.id / 'result.json').read_text())
    stopped[run.id] = result['stopped']
    assert result['epochs'] == len(rows[run.id]) and sweep.is_done(run, tmp_path / 'population')
  long, short, other = (rows[run.id] for run in runs)
  accuracies = [row['validation_accuracy'] for row in long]
  best = [max(accuracies[:i]) for i in range(1, 7)]
  waits = next(i for i in range(1, 6) if accuracies[i] <= best[i - 1])
  assert len(short) == waits + 1 < 6 and short == long[: len(short)] and len(other) == 6
  assert list(stopped.values()) == ['', 'patience', '']


@pytest.mark.slow
@pytest.mark.parametrize('executor', ['serial', 'population'])
def test_a_run_pauses_at_an_epoch_and_goes_on_to_the_same_bits(executor, reviews, whole, tmp_path):
  runs = specs(reviews)
  events = do(executor, [run._replace(until=1) for run in runs], tmp_path / 'sweep')
  assert [event.kind for event in events].count('paused') == len(runs)
  assert not list(tmp_path.glob('sweep/*/result.json'))
  assert all(
    len((tmp_path / 'sweep' / run.id / 'metrics.jsonl').read_text().splitlines()) == 1
    for run in runs
  )
  do(executor, runs[:2], tmp_path / 'sweep')
  do(executor, [run._replace(until=5) for run in runs[2:]], tmp_path / 'sweep')
  assert finals(tmp_path / 'sweep') == whole(executor)


@pytest.mark.slow
def test_members_that_are_behind_catch_up_and_a_stop_saves_all(reviews, whole, tmp_path):
  workdir, runs = tmp_path / 'sweep', specs(reviews)
  looks = iter([False] * 6 + [True] * 100)
  with pytest.raises(KeyboardInterrupt):
    do('population', runs, workdir, stop=lambda: next(looks))
  assert len(list(workdir.glob('*/checkpoints/[0-9]*'))) >= len(runs)
  shutil.rmtree(workdir / runs[1].id / 'checkpoints')
  do('population', runs[3:4], workdir)
  do('population', [*runs[:3], runs[4]], workdir)
  assert finals(workdir) == whole('population')


@pytest.mark.slow
def test_a_group_larger_than_memory_is_cut_and_has_the_same_bits(
  reviews, whole, monkeypatch, tmp_path
):
  sizes = []
  stack = population.stack

  def spy(program, states, *rest):
    sizes.append(len(states))
    return stack(program, states, *rest)

  monkeypatch.setattr(population, 'stack', spy)
  monkeypatch.setattr(population, 'capacity', lambda *_: 2)
  do('population', specs(reviews), tmp_path / 'sweep')
  assert sizes == [2, 2, 1]
  assert finals(tmp_path / 'sweep') == whole('population')


@pytest.mark.slow
def test_what_drops_from_a_trimmed_batch_is_not_in_a_block_with_others(
  reviews, monkeypatch, tmp_path
):
  """A mask over the text's own steps depends on their number: a solo run's are trimmed."""
  in_lanes(monkeypatch, 2)
  taken = []
  stack = population.stack

  def spy(*arguments):
    taken.append(arguments[-1])
    return stack(*arguments)

  monkeypatch.setattr(population, 'stack', spy)
  for rate, buckets in ((0.1, 2), (0.1, 1), (0.0, 2)):
    fields = {'model.embed_dropout': rate, 'data.buckets': buckets, 'train.epochs': 1}
    runs = specs(reviews, MEMBERS[:2], **fields)
    do('population', runs, tmp_path / f'{rate}-{buckets}')
  assert taken == [1, 2, 2]


@pytest.mark.slow
def test_capacity_is_what_the_compiler_says_will_fit(reviews, monkeypatch):
  config = specs(reviews)[0].config
  shared = program.prepare(config)
  start = program.begin(shared, config)
  fixed = population.Fixed(start.values, start.key, start.own)
  member = shared.program, start.state, fixed, shared.splits['train'], population.mesh()
  needs = {lanes: population._needs(*member, lanes) for lanes in (1, 2, 3, 4, 8)}
  monkeypatch.setattr(population, '_needs', lambda *arguments: needs[arguments[-1]])

  def capacity(memory, backend):
    monkeypatch.setattr(devices, 'memory', lambda: memory / population.ROOM)
    with monkeypatch.context() as patch:
      patch.setattr(population.jax, 'default_backend', lambda: backend)
      return population.capacity(*member, 10)

  for backend in ('cpu', 'gpu'):
    assert capacity(0, backend) <= 2 and capacity(10**12, backend) >= 10
  # An accelerator's block holds all of a device's members, which together need that memory.
  assert capacity(needs[4], 'gpu') // 2 in (3, 4, 5)
  assert capacity(needs[8], 'gpu') // 2 in (6, 7, 8, 9, 10)


@pytest.mark.slow
@pytest.mark.parametrize('executor', ['serial', 'population'])
def test_where_validation_is_the_test_split_its_last_logits_are_the_test(
  executor, reviews, tmp_path
):
  """Also after an interruption between the last checkpoint and the result, to the bit."""
  runs = specs(reviews, MEMBERS[:2], **{'data.validation_fraction': 0.0})
  do(executor, runs, tmp_path)
  whole, told = finals(tmp_path), {}
  for run in runs:
    final, best, rows, _ = whole[run.id]
    assert best is None
    for metric in ('loss', 'accuracy'):
      assert final[f'test_{metric}'] == pytest.approx(rows[-1][f'validation_{metric}'], rel=1e-6)
    told[run.id] = (tmp_path / run.id / 'predictions.npz').read_bytes()
    (tmp_path / run.id / 'result.json').unlink()
  do(executor, runs, tmp_path)
  assert finals(tmp_path) == whole
  for run in runs:
    assert (tmp_path / run.id / 'predictions.npz').read_bytes() == told[run.id]
