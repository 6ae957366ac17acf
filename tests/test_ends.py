"""Where a sweep can't go on: locks are free, no process is left, and it ends with the same bits."""

import functools
import io
import multiprocessing
import runpy
import signal
import subprocess

import pytest
from programs import ROOT, SWEEP, finals, read_until

import rnnlab
from rnnlab import conduct, executors, runlog, storage, sweep

IMDB = runpy.run_path(str(ROOT / 'experiments' / 'imdb.py'))
EXECUTORS = ['serial', 'cores', 'population', pytest.param('process', marks=pytest.mark.slow)]


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
  """Does a sweep of two seeds, as a launch; returns the runs that failed."""

  asked = config.copy_and_resolve_references(), two, [], (), 'made', '', 'command'
  workdir.mkdir(exist_ok=True)
  console = runlog.Console(file=output or io.StringIO(), width=100)
  options = {'options': {}, 'retry_failed': False, 'wandb': False}
  never = lambda: False  # noqa: E731
  with runlog.lock(workdir, 'busy'):
    _, failed = conduct.conduct(
      conduct.Asked(*asked), workdir, url, console, never, executor=executor, **options
    )
  return failed


@pytest.fixture(scope='module')
def whole(config, tmp_path_factory):
  """The figures of a sweep done without a break, by an executor."""

  @functools.cache
  def run(executor):
    workdir = tmp_path_factory.mktemp('whole')
    assert not conducted(executor, config, workdir)
    return finals(workdir)

  return run


def free(workdir):
  """Whether no process, this one included, holds the workdir or a run of it, and none is left."""
  folders = [path.parent for path in workdir.rglob('.lock')]
  assert folders
  left = multiprocessing.active_children()
  return not left and not [folder for folder in folders if runlog.holder(folder)]


class Gone(io.StringIO):
  """Output that fails as soon as an epoch's end is to be told."""

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
  [(BrokenPipeError(), runlog.Unheard), (OSError(28, 'No space left on device'), OSError)],
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
  """At each sending from the second on: runs that are at work stop, and nothing else is lost."""
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
  """Of an executor's events as such: what it holds is free once they are closed."""
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
  update, begun = runlog.Display.update, []

  def fails(display, event):
    begun.append(event)
    if 'epoch 1/2' in event.text:
      raise error
    update(display, event)

  config = config.copy_and_resolve_references()
  with monkeypatch.context() as patch:
    patch.setattr(runlog.Display, 'update', fails)
    with pytest.raises(error) as caught:
      rnnlab.run(config, tmp_path)
  assert free(tmp_path) and list(tmp_path.glob('*/checkpoints/[0-9]*'))
  del begun[:]
  with monkeypatch.context() as patch:
    patch.setattr(runlog.Display, 'update', lambda _, event: begun.append(event))
    rnnlab.run(config, tmp_path)
  assert not [event for event in begun if 'epoch 1/2' in event.text]
  ((*found, (at, arrays)),) = finals(tmp_path).values()
  assert (*found, (at, arrays)) in whole('serial').values(), caught


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ('cores', 'process', 'population')]


@pytest.mark.parametrize('executor', ['serial', *SLOW])
def test_a_reader_that_goes_away_ends_the_program(executor, start, tmp_path):
  """As `launch.py | head` does, with the status and the silence of `yes | head`."""
  process = start(*SWEEP, '--workdir=out', f'--executor={executor}', stderr=subprocess.PIPE)
  read_until('epoch 1/2', process)
  process.stdout.close()
  try:
    assert process.stderr.read() == ''
    assert process.wait(timeout=120) == 128 + signal.SIGPIPE
  finally:
    process.kill()
  assert free(tmp_path / 'out')
