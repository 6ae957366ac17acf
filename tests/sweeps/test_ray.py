"""Whole programs on a real Ray cluster, of two nodes here: one is killed, runs fail, Ctrl-C."""

import contextlib
import os
import signal
import subprocess

import pytest
from conftest import do
from ml_collections import ConfigDict
from programs import ROOT, SMOKE, finals, read_until

pytest.importorskip('ray', reason='Ray is optional: pip install -r experiments/cluster.txt')

from ray.cluster_utils import Cluster  # noqa: E402

from rnnlab.machine import provenance  # noqa: E402
from rnnlab.runs import configs
from rnnlab.sweeps.executors import ray as executor  # noqa: E402

# Of a size for which no kernel is compiled, since code newly sent to a cluster has none yet; and
# long enough to be stopped in the middle.
SIZE = (
  '--config.model.cell=gru',
  '--config.model.hidden_size=8',
  '--config.data.buckets=1',
  '--config.train.epochs=12',
)
WORDS = SMOKE, *SIZE


@pytest.fixture(scope='module')
def unbroken(tmp_path_factory, reviews, for_a_user):
  """The figures of WORDS done by processes, each limited to one core like Ray's workers."""
  workdir = tmp_path_factory.mktemp('unbroken') / 'sweep'
  words = *WORDS, f'--workdir={workdir}', '--executor=process'
  done = do(words, reviews, workdir.parent, for_a_user)
  assert done.returncode == 0, done.stdout + done.stderr
  return finals(workdir)


@pytest.fixture(scope='module')
def cluster(for_a_user, tmp_path_factory):
  """Two nodes. The second finds no clone, and a run stops there after its second epoch.

  The file `held` then has the run's name, and the place from which the node imports rnnlab.
  """
  folder = tmp_path_factory.mktemp('hold')
  held = folder / 'held'
  (folder / 'sitecustomize.py').write_text(
    'import importlib.machinery, os, pathlib, signal, sys\n'
    'class NoClone:\n'
    '  def find_spec(name, path=None, target=None):\n'
    "    if name == 'rnnlab':\n"
    f'      paths = [path for path in sys.path if path != {str(ROOT)!r}]\n'
    '      return importlib.machinery.PathFinder.find_spec(name, paths)\n'
    'sys.meta_path.insert(0, NoClone)\n'
    'replace = os.replace\n'
    'def hold(source, target, **kwargs):\n'
    '  replace(source, target, **kwargs)\n'
    '  target = pathlib.Path(target)\n'
    "  if target.name == 'metrics.jsonl' and len(target.read_text().splitlines()) == 2:\n"
    '    said = f\'{target.parent.name} {sys.modules["rnnlab"].__file__}\'\n'
    f'    pathlib.Path({str(held)!r}).write_text(said)\n'
    '    signal.pause()\n'
    'os.replace = hold\n'
  )
  node = {'num_cpus': 1, 'object_store_memory': 100 * 2**20, 'include_dashboard': False}
  with pytest.MonkeyPatch.context() as patch:
    for name, value in for_a_user.items():
      patch.setenv(name, value)
    cluster = Cluster(initialize_head=True, head_node_args=node)
    patch.setenv('PYTHONPATH', str(folder))
    cluster.second, cluster.held = cluster.add_node(**node), held
  yield cluster
  cluster.shutdown()


def test_a_killed_node_costs_nothing_but_time_and_a_failing_run_fails_alone(
  cluster, unbroken, start, tmp_path
):
  experiment = tmp_path / 'one_diverges.py'
  experiment.write_text(
    f'import runpy\n'
    f'imdb = runpy.run_path({str(ROOT / "experiments" / "imdb.py")!r})\n'
    f"get_config = lambda: imdb['get_config']('smoke')\n"
    f'def sweep(add):\n'
    f"  imdb['sweep'](add)\n"
    f"  add({{'optim.learning_rate': 1e38}})\n"
  )
  words = f'--config={experiment}', *SIZE, '--workdir=killed', '--executor=ray'
  process = start(*words, f'--ray_address={cluster.address}', stderr=subprocess.STDOUT)

  def gathered():
    """Whether the first epoch of the stopped run has reached the launcher."""
    run = cluster.held.read_text().partition(' ')[0] if cluster.held.exists() else ''
    return run and (tmp_path / 'killed' / run / 'metrics.jsonl').exists()

  while not gathered() and process.poll() is None:
    with contextlib.suppress(subprocess.TimeoutExpired):
      process.wait(0.02)  # not at once again, which would take a core from the sweep
  cluster.remove_node(cluster.second, allow_graceful=False)
  output = process.stdout.read()
  assert process.wait() == 1 and 'Traceback' not in output
  assert output.count('continuing elsewhere from the last checkpoint') == 1
  assert output.count('epoch 1/12') == 3, 'a run began anew'
  assert '_ray_pkg_' in cluster.held.read_text(), 'the node did not use the code it was sent'
  assert finals(tmp_path / 'killed') == unbroken
  assert '1 of 4 runs failed' in output and 'lower optim.learning_rate' in output
  assert len(list((tmp_path / 'killed').glob('*/error.json'))) == 1
  assert 'lower optim.learning_rate' in (tmp_path / 'killed' / 'report.html').read_text()


def test_a_run_that_kills_its_workers_is_given_up(launch, for_a_user, tmp_path):
  (tmp_path / 'deadly').mkdir()
  (tmp_path / 'deadly' / 'sitecustomize.py').write_text(
    'import os\n'
    'replace = os.replace\n'
    'def deadly(source, target, **kwargs):\n'
    '  replace(source, target, **kwargs)\n'
    "  if '/rnnlab-' in str(target) and str(target).endswith('metrics.jsonl'):\n"
    '    os.kill(os.getpid(), 9)\n'
    'os.replace = deadly\n'
  )
  deadly = for_a_user | {'PYTHONPATH': str(tmp_path / 'deadly')}
  done = launch(*WORDS, '--nosweep', '--workdir=out', '--executor=ray', env=deadly)
  assert done.returncode == 1 and 'its workers died 3 times' in done.stderr
  assert 'Traceback' not in done.stdout + done.stderr
  assert list((tmp_path / 'out').glob('*/error.json'))


def test_ctrl_c_saves_and_another_executor_goes_on_to_the_bit(
  unbroken, start, launch, for_a_user, tmp_path
):
  words = *WORDS, '--workdir=stopped'
  process = start(*words, '--executor=ray', stderr=subprocess.STDOUT, start_new_session=True)
  read_until('epoch 1/12', process)
  os.killpg(process.pid, signal.SIGINT)
  output = process.stdout.read()
  assert process.wait() == 130
  assert 'to go on: python' in output and 'Traceback' not in output
  assert list((tmp_path / 'stopped').glob('*/checkpoints/[0-9]*'))
  assert len(list((tmp_path / 'stopped').glob('*/result.json'))) < 3
  launch(*words, '--executor=process', env=for_a_user, check=0)
  assert finals(tmp_path / 'stopped') == unbroken


def test_no_cluster_is_told_in_words():
  with pytest.raises(ValueError, match='(?s)no Ray at 127.0.0.1:1: .*refused.*ray start --head'):
    executor._connect('127.0.0.1:1')


@pytest.fixture
def spec(reviews):
  from experiments import imdb

  config = ConfigDict(imdb.get_config('smoke').to_dict())
  config.data.source, config.data.dir = 'directory', str(reviews)
  return configs.specify(config)


def check(spec, versions=None, code=None, fingerprint=''):
  versions = provenance.versions() | (versions or {})
  code = executor._code() | (code or {})
  executor._check(
    [spec], executor.Origin(versions, code, None, {spec.id: fingerprint}, ()), 'node7'
  )


def test_a_worker_with_another_version_is_refused(spec):
  with pytest.raises(executor.Unfit, match='node7 has jax .* and the launcher 0.1.2'):
    check(spec, versions={'jax': '0.1.2'})


def test_a_worker_with_other_code_is_refused(spec):
  with pytest.raises(
    executor.Unfit, match='node7 has a different rnnlab .*: cells/mine.py differs'
  ):
    check(spec, code={'cells/mine.py': 'digest'})


def test_a_worker_with_other_data_is_refused(spec, monkeypatch, tmp_path):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  with pytest.raises(executor.Unfit, match='node7 has different data from the launcher'):
    check(spec, fingerprint='another')


def test_a_worker_without_data_is_told_what_to_do(spec):
  spec.config.data.dir = '/nowhere'
  with pytest.raises(executor.Unfit, match='(?s)node7 has no data.*TFDS_DATA_DIR.*/nowhere'):
    check(spec)
