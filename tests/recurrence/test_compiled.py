"""Kernels are kept between processes, and tried before use."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from programs import few_cells

import rnnlab
from rnnlab import recurrence
from rnnlab.machine import cache, devices
from rnnlab.recurrence.kernels import compiled, gpu
from rnnlab.recurrence.kernels.cpu import call as cpu


@pytest.fixture(scope='session')
def registered():
  """The CPU kernels, from the cache of all tests, since compiling them takes long."""
  cpu._register('forward')
  cpu._register('backward')


@pytest.fixture
def folder(monkeypatch, tmp_path):
  """An empty cache of its own, nothing tried yet."""
  monkeypatch.setenv('NUMBA_CACHE_DIR', str(tmp_path))
  monkeypatch.setattr(compiled, '_verdicts', {})
  return tmp_path / 'kernels'


def small(frame):
  return frame + 41


def address():
  return compiled.address('small', 'key', small, {})


def run(address):
  import ctypes

  return ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(address)(1)


# The cache.


def test_what_is_compiled_is_found_again_and_said_once(folder, caplog):
  assert run(address()) == 42 and 'Compiling the CPU kernel small' in caplog.text
  caplog.clear()
  assert run(address()) == 42 and not caplog.text
  assert folder.stat().st_mode & 0o777 == 0o700


def _constant(value):
  """A call of a function that each such target has a copy of, of one name, with its own value."""

  @intrinsic
  def call(typing, frame):
    def generate(context, builder, signature, arguments):
      kind = ir.FunctionType(ir.IntType(64), [])
      function = ir.Function(builder.module, kind, 'rnnlab_test_constant')
      function.linkage = 'linkonce_odr'
      function.attributes.add('noinline')
      inside = ir.IRBuilder(function.append_basic_block())
      inside.ret(ir.Constant(ir.IntType(64), value))
      return builder.call(function, [])

    return types.intp(frame), generate

  return call


_one, _two = _constant(1), _constant(2)


def one(frame):
  return _one(frame)


def two(frame):
  return _two(frame)


def test_what_is_compiled_has_the_functions_that_were_compiled_with_it(folder, monkeypatch):
  for _ in ('compiled', 'found'):
    for value, target in ((1, one), (2, two)):
      assert run(compiled.address(target.__name__, 'key', target, {})) == value
  monkeypatch.setattr(cache, 'kernels', lambda: None)
  assert run(compiled.address('two', 'kept nowhere', two, {})) == 2


@pytest.mark.parametrize('damage', ['flip', 'truncate', 'zeros', 'empty', 'garbage', 'of-another'])
def test_a_damaged_file_is_compiled_anew(folder, damage, caplog):
  address()
  (path,) = folder.glob('small-*.json')
  data = path.read_bytes()
  middle = len(data) // 2
  made = {
    'flip': data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
    'truncate': data[:middle],
    'zeros': data[:middle] + bytes(1000) + data[middle + 1000 :],
    'empty': b'',
    'garbage': os.urandom(len(data)),
  }
  if damage == 'of-another':  # intact, but the wrong content
    cache.write(path, b'["a", "bm8="]')
  else:
    path.write_bytes(made[damage])
  caplog.clear()
  assert run(address()) == 42 and 'Compiling' in caplog.text
  assert cache.read(path)
  caplog.clear()
  assert run(address()) == 42 and not caplog.text


@pytest.mark.parametrize('how', ['others may write', 'a link', 'a file'])
def test_a_folder_that_others_may_write_to_is_not_read(folder, how, tmp_path, caplog):
  address()
  if how == 'others may write':
    folder.chmod(0o777)
  else:
    folder.rename(tmp_path / 'moved')
    folder.symlink_to(tmp_path / 'moved') if how == 'a link' else folder.write_text('')
  cache._kernels.cache_clear()
  caplog.clear()
  assert run(address()) == 42 and 'not kept' in caplog.text and 'Compiling' in caplog.text


def test_a_folder_of_another_user_is_not_read(folder, monkeypatch, caplog):
  address()
  monkeypatch.setattr(os, 'geteuid', lambda: 12345)
  cache._kernels.cache_clear()
  assert cache.kernels() is None and 'not yours' in caplog.text


@pytest.mark.slow
def test_processes_that_start_at_once_compile_once(folder):
  code = (
    'from rnnlab.recurrence.kernels import compiled\n'
    'def small(frame): return frame + 41\n'
    'print(compiled.address("small", "key", small, {}) > 0)\n'
  )
  options = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True}
  started = [subprocess.Popen([sys.executable, '-c', code], **options) for _ in range(3)]
  out, err = zip(*(process.communicate() for process in started), strict=True)
  assert out == ('True\n',) * 3 and ''.join(err).count('Compiling') == 1, err


def test_a_prediction_compiles_no_backward_kernel(registered, folder, monkeypatch):
  registered = []
  register = cpu._register
  monkeypatch.setattr(cpu, '_register', lambda name: registered.append(name) or register(name))
  cell = rnnlab.lstm(hidden_size=16)
  params = cell.init(jax.random.key(0), 3)
  xs = jnp.ones((2, 7, 3))
  jax.jit(lambda xs: cpu.unroll(cell, params, xs))(xs)
  assert set(registered) == {'forward'}
  jax.jit(jax.grad(lambda xs: cpu.unroll(cell, params, xs)[1].sum()))(xs)
  assert set(registered) == {'forward', 'backward'}


# The trial.


def test_a_kernel_is_tried_once(folder, monkeypatch):
  tried = []
  for _ in range(2):
    assert compiled.works('k', 'key', lambda: tried.append(1))
    assert compiled.works('k', 'key', lambda: tried.append(1))
    monkeypatch.setattr(compiled, '_verdicts', {})  # as in another process
  assert len(tried) == 1


def test_a_damaged_verdict_is_tried_anew(folder, monkeypatch):
  tried = []
  compiled.works('k', 'key', lambda: tried.append(1))
  (folder / 'k-key.probe').write_bytes(b'\0' * 10)
  monkeypatch.setattr(compiled, '_verdicts', {})
  assert compiled.works('k', 'key', lambda: tried.append(1)) and len(tried) == 2


@pytest.mark.parametrize(('error', 'times'), [(compiled.Wrong('wrong'), 1), (OSError('why'), 2)])
def test_one_that_fails_is_not_used_which_is_said(folder, monkeypatch, caplog, error, times):
  tried = []

  def probe():
    tried.append(1)
    raise error

  for _ in range(2):
    caplog.clear()
    assert not compiled.works('k', 'key', probe)
    assert 'k is not used' in caplog.text and str(error) in caplog.text
    caplog.clear()
    assert not compiled.works('k', 'key', probe) and not caplog.text
    monkeypatch.setattr(compiled, '_verdicts', {})
  assert len(tried) == times


@pytest.mark.slow
def test_one_that_ends_the_process_is_tried_twice(folder):
  code = (
    'import os\n'
    'from rnnlab.recurrence.kernels import compiled\n'
    'print(compiled.works("k", "key", lambda: os._exit(7)))\n'
  )
  done = [
    subprocess.run([sys.executable, '-c', code], capture_output=True, text=True) for _ in range(3)
  ]
  assert [d.returncode for d in done] == [7, 7, 0]
  assert done[2].stdout == 'False\n' and 'died' in done[2].stderr


def test_one_that_the_user_stops_is_tried_again(folder):
  def stop():
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    compiled.works('k', 'key', stop)
  assert compiled.works('k', 'key', lambda: None)


# The CPU kernels.


def value_and_gradients(cell, params, xs):
  def loss(params, xs):
    return (recurrence.unroll(cell, params, xs)[1] ** 2).sum()

  return jax.jit(jax.value_and_grad(loss, (0, 1)))(params, xs)


@pytest.mark.parametrize('direction', ['forward', 'backward'])
@pytest.mark.parametrize(
  'how',
  ['wrong', *(pytest.param(how, marks=pytest.mark.slow) for how in ('not a number', 'raises'))],
)
def test_a_broken_cpu_kernel_is_not_used(registered, folder, monkeypatch, how, direction, caplog):
  call = getattr(cpu, f'_call_{direction}')

  def broken(*args):
    if how == 'raises':
      raise RuntimeError('of the kernel')
    found = call(*args)
    return jax.tree.map(lambda a: a * (1.5 if how == 'wrong' else jnp.nan), found)

  monkeypatch.setattr(cpu, f'_call_{direction}', broken)
  monkeypatch.setattr(cpu, '_kernels', cpu._kernels.__wrapped__)
  cell = rnnlab.gru(hidden_size=16)
  params, xs = cell.init(jax.random.key(0), 3), jnp.ones((2, 4, 3))
  actual = value_and_gradients(cell, params, xs)
  desired = value_and_gradients(cell._replace(fused=None), params, xs)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5), actual, desired)
  assert f'rnnlab_{direction} is not used' in caplog.text


@pytest.mark.parametrize('direction', ['forward', 'backward'])
def test_a_broken_kernel_that_was_asked_for_is_an_error(registered, folder, monkeypatch, direction):
  call = getattr(cpu, f'_call_{direction}')
  monkeypatch.setattr(
    cpu, f'_call_{direction}', lambda *args: jax.tree.map(lambda a: a * 1.5, call(*args))
  )
  monkeypatch.setattr(cpu, '_kernels', cpu._kernels.__wrapped__)
  cell = rnnlab.gru(hidden_size=16)
  params, xs = cell.init(jax.random.key(0), 3), jnp.ones((2, 4, 3))
  run = functools.partial(recurrence.unroll, cell, params, backend='kernel')
  words = f"backend='kernel': the {direction} kernel does not work on this machine"
  if direction == 'backward':
    jax.jit(run)(xs)  # which needs no gradient
  with pytest.raises(ValueError, match=words):
    jax.jit(jax.grad(lambda xs: run(xs)[1].sum()))(xs)


def test_the_trial_takes_no_notice_of_where_it_is_called(registered, folder, monkeypatch):
  """Under a mesh, within vmap and scan, on data of another dtype, with NaN checks."""
  monkeypatch.setattr(cpu, '_kernels', cpu._kernels.__wrapped__)
  cell = rnnlab.lstm(hidden_size=16)
  params, xs = cell.init(jax.random.key(0), 3), jnp.ones((2, 4, 3))

  def within(xs):
    def body(carry, _):
      return carry, jax.vmap(lambda x: cpu.unroll(cell, params, x[None])[1])(xs)

    return jax.lax.scan(body, 0, None, length=2)[1].sum()

  with jax.set_mesh(devices.mesh()), jax.debug_nans(True), jax.numpy_dtype_promotion('strict'):
    jax.jit(jax.grad(within))(xs)
  assert all(compiled._verdicts.values()) and len(compiled._verdicts) == 2


# The GPU kernels, in Pallas' interpreter.


@pytest.mark.parametrize('name', few_cells(gpu.CELLS))
def test_the_gpu_probe_passes_what_is_right_and_not_what_is_broken(name, monkeypatch):
  plan = gpu.Plan(gpu.CELLS[name], False, interpret=True)
  gpu.probe(plan, 16, jax.devices()[0])
  for part in ('_forward', '_backward'):
    right = getattr(gpu, part)

    def broken(*args, right=right):
      return jax.tree.map(lambda a: a * 1.5, right(*args))

    with monkeypatch.context() as patch:
      patch.setattr(gpu, part, broken)
      patch.setattr(gpu, '_kernels', gpu._kernels.__wrapped__)
      with pytest.raises(compiled.Wrong):
        gpu.probe(plan, 16, jax.devices()[0])


def test_on_a_gpu_that_can_not_run_them_it_is_a_scan(folder, monkeypatch, caplog):
  """Here there is no GPU at all, so the trial fails as it would with a broken compiler."""
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  monkeypatch.setattr(gpu, '_kernels', gpu._kernels.__wrapped__)
  cell = rnnlab.lstm(hidden_size=16)
  params, xs = cell.init(jax.random.key(0), 3), jnp.ones((2, 4, 3))
  assert gpu.supports(cell, params, xs)
  f = jax.jit(lambda xs: gpu.unroll(cell, params, xs)[1])
  program = f.trace(xs).lower(lowering_platforms=('cuda',)).as_text()
  assert 'triton' not in program and 'gpu-lstm-16 is not used' in caplog.text
