"""Sweeps in this process and as programs: where they can't continue, and what must not matter."""

import functools
import gc
import io
import multiprocessing
import os
import runpy
import signal
import subprocess

import jax
import pytest
from programs import ROOT, SWEEP, finals, read_until

import rnnlab
from rnnlab.console import progress
from rnnlab.runs import folder as run_files
from rnnlab.runs import program
from rnnlab.sweeps import conduct, executors, storage, sweep

IMDB = runpy.run_path(str(ROOT / 'experiments' / 'imdb.py'))
OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in ('population', 'cores', 'process')]
EXECUTORS = ['serial', *OTHERS]


@pytest.fixture(autouse=True, scope='module')
def cache(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
    yield


@pytest.fixture(scope='module')
def config(reviews):
  config = IMDB['get_config']('smoke')
  config.data.update(source='directory', dir=str(reviews), buckets=1)
  config.model.update(cell='gru', hidden_size=3, embed_size=4)
  return config


def two(add):
  add({'seed': 0})
  add({'seed': 1})


def conducted(executor, config, workdir, url='', output=None):
  """Does a sweep of two seeds, like a launch; returns the runs that failed."""

  request = sweep.ask(config.copy_and_resolve_references(), two, command='command')
  workdir.mkdir(exist_ok=True)
  console = progress.Console(file=output or io.StringIO(), width=100)
  options = {'options': {}, 'retry_failed': False, 'wandb': False}
  never = lambda: False  # noqa: E731
  with run_files.lock(workdir, 'busy'):
    _, failed = conduct.conduct(
      conduct.Asked(request, [], 'made', ''),
      workdir,
      url,
      console,
      never,
      executor=executor,
      **options,
    )
  return failed


@pytest.fixture(scope='module')
def whole(config, tmp_path_factory):
  """The figures of a sweep done without interruption by an executor."""

  @functools.cache
  def run(executor):
    workdir = tmp_path_factory.mktemp('whole')
    assert not conducted(executor, config, workdir)
    return finals(workdir)

  return run


def free(workdir):
  """Whether no process, this one included, holds the workdir or a run in it, and none is left."""
  folders = [path.parent for path in workdir.rglob('.lock')]
  assert folders
  left = multiprocessing.active_children()
  return not left and not [folder for folder in folders if run_files.holder(folder)]


class Gone(io.StringIO):
  """Output that fails as soon as the end of an epoch is to be reported."""

  def __init__(self, error):
    super().__init__()
    self.error = error

  def write(self, text):
    if 'epoch 1/2' in text:
      raise self.error
    return super().write(text)


@pytest.mark.parametrize('executor', EXECUTORS)
@pytest.mark.parametrize(
  ('error', 'told'),
  [
    (BrokenPipeError(), progress.Unheard),
    pytest.param(OSError(28, 'No space left on device'), OSError, marks=pytest.mark.slow),
  ],
)
def test_output_that_fails(error, told, executor, config, whole, tmp_path):
  with pytest.raises(told) as caught:  # whose traceback holds all frames
    conducted(executor, config, tmp_path / 'broken', output=Gone(error))
  assert free(tmp_path / 'broken')
  assert list(tmp_path.glob('broken/*/checkpoints/[0-9]*'))
  assert not list(tmp_path.glob('broken/*/error.json'))
  assert not conducted(executor, config, tmp_path / 'broken')
  assert finals(tmp_path / 'broken') == whole(executor), caught


@pytest.mark.parametrize('executor', EXECUTORS)
def test_a_url_that_fails(executor, config, whole, monkeypatch, tmp_path):
  """At each upload from the second on: runs in progress stop, and nothing else is lost."""
  url, sent, push = (tmp_path / 'remote').as_uri(), [], storage.push

  def fails(*words):
    sent.append(words)
    if len(sent) > 1:
      raise ConnectionError('the network is down')
    push(*words)

  with monkeypatch.context() as patch:
    patch.setattr(storage, 'push', fails)
    with pytest.raises(ConnectionError, match='the network is down') as caught:
      conducted(executor, config, tmp_path / 'broken', url)
  assert free(tmp_path / 'broken')
  assert not conducted(executor, config, tmp_path / 'broken', url)
  assert finals(tmp_path / 'broken') == whole(executor), caught


@pytest.mark.parametrize('executor', EXECUTORS)
def test_a_consumer_that_raises(executor, config, tmp_path):
  """For an executor's events themselves: whatever it holds is released once they are closed."""
  specs = sweep.expand(config, two)
  events = executors.get(executor)(specs, tmp_path)
  next(events)
  events.close()
  assert free(tmp_path)
  assert list(executors.get(executor)(specs, tmp_path))[-1].kind == 'done'


@pytest.mark.parametrize('error', [OSError, KeyboardInterrupt])
def test_a_call_that_is_broken_off_leaves_a_checkpoint_and_goes_on(
  error, config, whole, monkeypatch, tmp_path
):
  update, begun = progress.Display.update, []

  def fails(display, event):
    begun.append(event)
    if 'epoch 1/2' in event.text:
      raise error
    update(display, event)

  config = config.copy_and_resolve_references()
  with monkeypatch.context() as patch:
    patch.setattr(progress.Display, 'update', fails)
    with pytest.raises(error) as caught:
      rnnlab.run(config, tmp_path)
  assert free(tmp_path) and list(tmp_path.glob('*/checkpoints/[0-9]*'))
  del begun[:]
  with monkeypatch.context() as patch:
    patch.setattr(progress.Display, 'update', lambda _, event: begun.append(event))
    rnnlab.run(config, tmp_path)
  assert not [event for event in begun if 'epoch 1/2' in event.text]
  ((*found, (at, arrays)),) = finals(tmp_path).values()
  assert (*found, (at, arrays)) in whole('serial').values(), caught


@pytest.mark.slow
@pytest.mark.parametrize('executor', ['serial', 'cores', 'process', 'population'])
def test_a_reader_that_goes_away_ends_the_program(executor, start, environment, tmp_path):
  """Like `launch.py | head`, with the status and the silence of `yes | head`."""
  words = *SWEEP, '--workdir=out', f'--executor={executor}'
  process = start(*words, env=environment, stderr=subprocess.PIPE)
  read_until('epoch 1/2', process)
  process.stdout.close()
  try:
    assert process.stderr.read() == ''
    assert process.wait(timeout=120) == 128 + signal.SIGPIPE
  finally:
    process.kill()
  assert free(tmp_path / 'out')


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_all_while_workers_start_is_the_launcher_s(
  number, start, environment, tmp_path
):
  words = *SWEEP, '--workdir=out', '--executor=process'
  process = start(*words, env=environment, stderr=subprocess.STDOUT, start_new_session=True)
  read_until('executor: process', process)
  os.killpg(process.pid, number)
  output = process.stdout.read()
  assert process.wait() == 128 + number
  assert 'to go on: python' in output and 'Traceback' not in output
  assert not list(tmp_path.glob('out/*/error.json'))


@pytest.mark.slow
def test_of_many_programs_the_compiled_ones_go(config, monkeypatch, tmp_path):
  """Runs of one size share theirs; with more sizes than are kept, the number stays the same."""
  monkeypatch.setattr(program, 'PROGRAMS', 2)
  program._build.cache_clear()
  jax.clear_caches()

  def several(add):
    for size, seed in ((2, 0), (2, 1), (3, 0), (4, 0), (5, 0)):
      add({'model.hidden_size': size, 'seed': seed})

  counts = []
  for event in executors.get('serial')(sweep.expand(config, several), tmp_path):
    if event.kind == 'done':
      gc.collect()
      counts.append(len(jax.devices()[0].client.live_executables()))
  one, same, two, *more = counts
  assert one == same < two and max(more) <= two and len(more) == 2


def test_what_the_environment_asks_of_jax_changes_no_bit(config, whole, tmp_path):
  with jax.enable_x64(True), jax.debug_nans(True):
    assert not conducted('serial', config, tmp_path / 'runs')
    alone = rnnlab.run(config)
  found = finals(tmp_path / 'runs')
  assert found == whole('serial')
  assert alone.result['final'] in [final for final, *_ in found.values()]


@pytest.mark.slow
def test_an_experiment_file_may_compute(launch, tmp_path):
  """With JAX, before the launcher does: it has the cores as its devices, like the launch later."""
  (tmp_path / 'computes.py').write_text(
    'import os\n'
    'import jax\n'
    'from experiments.imdb import get_config\n'
    'assert jax.device_count() == len(os.sched_getaffinity(0))\n'
  )
  environment = {'JAX_ENABLE_X64': '1', 'JAX_DEBUG_NANS': '1'}
  words = '--config=computes.py:smoke', '--nosweep', '--config.data.buckets=1', '--executor=cores'
  done = launch(*words, '--workdir=out', env=environment, check=0)
  assert done.stderr == ''


def test_a_platform_that_jax_has_not_is_said(launch):
  done = launch(SWEEP[0], '--workdir=out', env={'JAX_PLATFORMS': 'nonsense'}, check=2)
  assert "Unable to initialize backend 'nonsense'" in done.stderr
  assert len(done.stderr.splitlines()) == 1
