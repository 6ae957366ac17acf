"""What tests share; and settings before any import: Keras computes with JAX, JAX on two CPUs.

Here XLA compiles in the least time, not to the fastest program: nearly all the time of a test is
compilation, and only results are compared. XLA compiles as for a user in the programs of
`for_a_user`, and in functions that a test compiles with `programs.as_for_a_user`.
"""

import contextlib
import fcntl
import functools
import gc
import os
import random
import shutil
import subprocess
import sys
import zipfile

import jax
import pytest
from jax._src.interpreters import mlir
from jaxlib.version import __version_info__ as jaxlib_version

# Tracing makes many objects, and JAX collects XLA's garbage whenever Python does its own.
gc.set_threshold(100_000, 20, 20)
os.environ['KERAS_BACKEND'] = 'jax'
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
KEPT = 2**30  # bytes of compiled programs, above which all are deleted
QUICK = ' --xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1'
if jaxlib_version < (0, 11, 1):  # a later one aborts at an unknown flag
  QUICK += ' --xla_cpu_use_fusion_emitters=false'
FLAGS = os.environ.get('XLA_FLAGS', '').replace(QUICK, '')  # already set if xdist started this
os.environ['XLA_FLAGS'] = FLAGS + QUICK
jax.config.update('jax_num_cpu_devices', 2)  # without a mesh only the first is used

from forks import Forks  # noqa: E402
from programs import ROOT, SMOKE, SWEEP, without  # noqa: E402

from rnnlab.machine.cache import root as cache_root  # noqa: E402

# One cache for all tests and the programs they start, since compiling takes long.
os.environ.setdefault('NUMBA_CACHE_DIR', str(cache_root()))


def pytest_configure(config):
  """Keeps what XLA compiles, for the other test processes and for the next session.

  A program is identified by its code, JAX's version and XLA's flags, so that a change in any of
  them compiles it again. `pytest --cache-clear` deletes all of them.
  """
  folder = config.cache.mkdir('programs')
  if 'PYTEST_XDIST_WORKER' not in os.environ:
    entries = [entry.stat() for entry in os.scandir(folder)]
    if sum(entry.st_size for entry in entries) > KEPT:
      shutil.rmtree(folder)
  jax.config.update('jax_compilation_cache_dir', str(folder))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)


@contextlib.contextmanager
def shared(tmp_path_factory, name):
  """A folder for all test processes, and whether it is still empty: the first process fills it."""
  base = tmp_path_factory.getbasetemp()
  folder = (base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base) / name
  folder.mkdir(exist_ok=True)
  with open(folder / 'lock', 'w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    yield folder, not (folder / 'filled').exists()
    (folder / 'filled').touch()


@pytest.fixture(scope='session')
def reviews(tmp_path_factory):
  """An aclImdb folder of 300 + 100 reviews whose words often reveal their label."""
  with shared(tmp_path_factory, 'reviews') as (folder, empty):
    if empty:
      write_reviews(folder / 'aclImdb')
  return folder / 'aclImdb'


def write_reviews(folder):
  draw = random.Random(0)
  words = [f'word{i}' for i in range(200)]
  for split, count in (('train', 150), ('test', 50)):
    for label, marks in (('neg', ['bad', 'dull']), ('pos', ['good', 'fine'])):
      (folder / split / label).mkdir(parents=True)
      for i in range(count):
        text = draw.choices(words + marks * 40, k=draw.randint(5, 60))
        (folder / split / label / f'{i}_1.txt').write_text(' '.join(text))


@pytest.fixture(scope='session')
def environment(tmp_path_factory, pytestconfig):
  """The environment of a launch: its own cache, and the tests' cache of compiled programs."""
  cache = tmp_path_factory.mktemp('cache')
  return os.environ | {
    'XDG_CACHE_HOME': str(cache),
    'JAX_COMPILATION_CACHE_DIR': str(pytestconfig.cache.mkdir('programs')),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
    'COLUMNS': '200',
    'PYTHONPATH': '',
  }


@pytest.fixture(scope='session')
def for_a_user(environment):
  """The same, but XLA compiles as for a user."""
  return environment | {'XLA_FLAGS': FLAGS}


@pytest.fixture(autouse=True, scope='module')
def forget_programs():
  """Frees the programs compiled by a file's tests; all of them are written in one MLIR context.

  XLA maps each program into memory, and dies silently at the limit on a process's mappings (Linux's
  vm.max_map_count). JAX would make a context for each program, which takes a fifth of a small one's
  time; if a later JAX makes it elsewhere, that time is lost.
  """
  with pytest.MonkeyPatch.context() as patch:
    if hasattr(mlir, 'make_ir_context'):
      patch.setattr(mlir, 'make_ir_context', functools.cache(mlir.make_ir_context))
    yield
  jax.clear_caches()


@pytest.fixture(scope='session')
def forks(environment):
  """A process in that environment that has imported what launch.py imports, to be forked."""
  with contextlib.closing(Forks(environment)) as forks:
    yield forks


def given(reviews, words):
  """The words of a launch, with those for the data added unless they are given."""
  data = ['--config.data.source=directory', f'--config.data.dir={reviews}']
  return [*without(data, words), *words]


def do(words, reviews, folder, env, root=ROOT):
  """Runs launch.py to its end in a folder; returns the finished process."""
  return subprocess.run(
    [sys.executable, root / 'launch.py', *given(reviews, words)],
    cwd=folder,
    env=env,
    capture_output=True,
    text=True,
    timeout=300,
  )


@pytest.fixture
def launch(reviews, environment, request, tmp_path):
  """Runs launch.py to its end in tmp_path; returns the finished process.

  It is a fork, unless it needs another environment or belongs to another clone.
  """

  def run(*words, root=ROOT, env=None, check=None):
    if env is None and root == ROOT:
      done = request.getfixturevalue('forks').run(given(reviews, words), tmp_path)
      done.stdout, done.stderr = done.stdout.decode(), done.stderr.decode()
    else:
      done = do(words, reviews, tmp_path, environment | (env or {}), root)
    if check is not None:
      assert done.returncode == check, done.stdout + done.stderr
    return done

  return run


@pytest.fixture
def start(reviews, for_a_user, tmp_path):
  """Starts launch.py in tmp_path, compiling as for a user; its output is a pipe."""

  def run(*words, env=for_a_user, **options):
    return subprocess.Popen(
      [sys.executable, ROOT / 'launch.py', *given(reviews, words)],
      cwd=tmp_path,
      env=env,
      text=True,
      **({'stdout': subprocess.PIPE} | options),
    )

  return run


@pytest.fixture(scope='session')
def finished(tmp_path_factory, reviews, environment):
  """A smoke sweep done without interruption: its workdir, not to be changed, and its output."""
  with shared(tmp_path_factory, 'finished') as (folder, empty):
    if empty:
      words = SMOKE, f'--workdir={folder}/sweep', '--executor=process'
      done = do(words, reviews, folder, environment)
      assert done.returncode == 0, done.stdout + done.stderr
      (folder / 'said').write_text(done.stdout)
  return folder / 'sweep', (folder / 'said').read_text()


@pytest.fixture(scope='session')
def whole(tmp_path_factory, reviews, for_a_user):
  """Does SWEEP in one go, with an executor, compiling as for a user; returns its workdir."""

  @functools.cache
  def run(executor):
    workdir = tmp_path_factory.mktemp('whole') / 'sweep'
    words = *SWEEP, f'--workdir={workdir}', f'--executor={executor}'
    done = do(words, reviews, workdir.parent, for_a_user)
    assert done.returncode == 0, done.stdout + done.stderr
    return workdir

  return run


@pytest.fixture
def only_index(tmp_path, monkeypatch):
  """A folder that is pip's only index, empty at first; the cache is a folder too."""
  folder = tmp_path / 'index'
  folder.mkdir()
  monkeypatch.setenv('PIP_CONFIG_FILE', '/dev/null')
  monkeypatch.setenv('PIP_NO_INDEX', '1')
  monkeypatch.setenv('PIP_FIND_LINKS', str(folder))
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  return folder


@pytest.fixture
def wheel(only_index):
  """A function that adds a wheel to `only_index`: (package, version, contents by path) -> its path.

  The wheel is for a newer Python, as those of some data are.
  """

  def add(name, version, files):
    about = f'{name}-{version}.dist-info'
    path = only_index / f'{name}-{version}-py3-none-any.whl'
    metadata = f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Python: >=99\n'
    more = {
      'METADATA': metadata,
      'WHEEL': 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n',
      'RECORD': '',
    }
    with zipfile.ZipFile(path, 'w') as made:
      for member, content in [*files.items(), *((f'{about}/{of}', more[of]) for of in more)]:
        made.writestr(member, content)
    return path

  return add
