"""XLA's structs against the header that jaxlib ships, and what a target refuses."""

import itertools
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab.recurrence.kernels.cpu import call as cpu
from rnnlab.recurrence.kernels.cpu import cells, ffi, sequence

HEADER = pathlib.Path(jax.ffi.include_dir(), 'xla/ffi/api/c_api.h')
B, T, D, H = 3, 5, 2, 16


def test_each_field_lies_where_the_header_has_it(tmp_path):
  compiler = shutil.which('cc') or shutil.which('gcc')
  assert compiler, 'a C compiler reads the header: install one to run this test'
  places = [(name, field) for name, s in ffi.STRUCTS.items() for field, _ in s._fields_]
  for i, (name, field) in enumerate(places):
    if name == 'XLA_FFI_Metadata_Extension' and field != 'metadata':
      places[i] = name, f'extension_base.{field}'
  lines = '\n'.join(
    f'printf("%zu %zu\\n", offsetof(struct {name}, {field}), sizeof(((struct {name}*)0)->{field}));'
    for name, field in places
  )
  source = tmp_path / 'offsets.c'
  source.write_text(f'#include <stdio.h>\n#include "{HEADER}"\nint main() {{\n{lines}\n}}\n')
  subprocess.run([compiler, source, '-o', tmp_path / 'offsets'], check=True)
  out = subprocess.run([tmp_path / 'offsets'], check=True, capture_output=True, text=True).stdout
  there = [tuple(map(int, line.split())) for line in out.splitlines()]
  here = [
    (getattr(s, field).offset, getattr(s, field).size)
    for s in ffi.STRUCTS.values()
    for field, _ in s._fields_
  ]
  assert dict(zip(places, here, strict=True)) == dict(zip(places, there, strict=True))


def test_the_numbers_are_those_of_the_header():
  text = HEADER.read_text()

  def number(name):
    return int(re.search(rf'\b{name}\b\s*=?\s*(\d+)', text)[1])

  assert (number('XLA_FFI_API_MAJOR'), number('XLA_FFI_API_MINOR')) == ffi.version()
  assert ffi.version() in ffi.KNOWN and min(ffi.KNOWN) == ffi.VERSION
  names = 'XLA_FFI_Extension_Metadata', 'XLA_FFI_ArgType_BUFFER', 'XLA_FFI_RetType_BUFFER'
  names += ('XLA_FFI_Error_Code_INVALID_ARGUMENT',)
  names += tuple(f'XLA_FFI_DataType_{name}' for name in ('PRED', 'S32', 'U8', 'F32'))
  wanted = (ffi.METADATA, ffi.BUFFER, ffi.BUFFER, ffi.INVALID_ARGUMENT)
  wanted += (ffi.BOOL, ffi.INT32, ffi.UINT8, ffi.FLOAT32)
  assert tuple(map(number, names)) == wanted


def operands(kind, save=True):
  """Arguments and results of the forward target, as arrays and shapes."""
  gates, blocks = (4, 4) if kind == 0 else (3, 4 if kind == 1 else 3)
  c, long = B if kind == 0 else 0, T if save else 0
  f32 = np.float32
  arguments = [
    np.array([kind, 0], np.int32),
    np.ones((B, T, D), f32),
    np.ones((B, T), bool),
    np.zeros((0, T), np.int32),
    np.ones((D, gates * H), f32),
    np.ones(gates * H, f32),
    np.ones((H, gates * H), f32),
    np.ones(H if kind == 1 else 0, f32),
    np.ones((B, H), f32),
    np.ones((c, H), f32),
    np.ones((gates, B, D), f32),
    np.ones((1, B, H), f32),
  ]
  results = [(B, T, H), (B, H), (c, H), (long, B, H), (long, c, H), (long, B, blocks * H)]
  results.append((sequence.room_size(sequence.forward_rooms(kind, save, B, T, D, H)),))
  return arguments, results


def call(arguments, results, name='forward'):
  cpu._register(name)
  dtypes = [jnp.float32] * (len(results) - 1) + [jnp.int32]  # the last is the room to work in
  shapes = map(jax.ShapeDtypeStruct, results, dtypes)
  return jax.block_until_ready(jax.ffi.ffi_call(f'rnnlab_{name}', list(shapes))(*arguments))


@pytest.mark.parametrize('kind', range(3), ids=cells.KINDS)
def test_a_target_refuses_what_it_is_not_for(kind):
  """Each operand with another size, rank or type, and with one operand more or fewer."""
  arguments, results = operands(kind)
  call(arguments, results)
  wrong = []
  for i, a in enumerate(arguments):
    for axis, step in itertools.product(range(a.ndim), (-1, 1)):
      shape = list(a.shape)
      shape[axis] = max(shape[axis] + step, 0)
      if tuple(shape) != a.shape:
        # A mask without rows is one that may be left out.
        wrong.append((i, np.ones(shape, a.dtype), shape[0] == 0 and i in (2, 11)))
    wrong.append((i, a[None], False))
    wrong.append((i, a.astype(np.float16), False))
  for i, a, is_fine in wrong:
    given = arguments[:i] + [a] + arguments[i + 1 :]
    if is_fine:
      call(given, results)
      continue
    with pytest.raises(Exception, match='CPU kernel is not for operand'):
      call(given, results)
  for i, shape in enumerate(results):
    for axis, step in itertools.product(range(len(shape)), (-1, 1)):
      other = [*shape[:axis], max(shape[axis] + step, 0), *shape[axis + 1 :]]
      if tuple(other) == shape:
        continue
      with pytest.raises(Exception, match='CPU kernel is not for operand'):
        call(arguments, results[:i] + [tuple(other)] + results[i + 1 :])
  for given, taken in ((arguments[:-1], results), (arguments, results[:-1])):
    with pytest.raises(Exception, match='operand 00'):
      call(given, taken)
  with pytest.raises(Exception, match='operand 00'):
    call([np.array([7, 0], np.int32), *arguments[1:]], results)


def of_table(name):
  """Arguments and results of an LSTM target whose ids, argument 3, select rows of a table of 4."""
  save = name == 'backward'
  (flags, _, real, _, w_x, b, w_h, b_hn, h, c, drop_x, drop_h), results = operands(0, save)
  ids, w_x, drop_x = np.full((B, T), 3, np.int32), w_x[:0], drop_x[:0, :, :0]
  kind = 0, B, T, 0, H
  if name == 'forward':
    table = np.ones((1, 4, 4 * H), np.float32)
    arguments = [flags, table, real, ids, w_x, b, w_h, b_hn, h, c, drop_x, drop_h]
    rooms = sequence.forward_rooms(0, save, *kind[1:])
    return arguments, results[:-1] + [(sequence.room_size(rooms),)]
  ys, *_, hs, cs, kept, _ = (np.ones(shape, np.float32) for shape in results)
  xs = np.ones((B, T, 0), np.float32)
  arguments = [flags, xs, real, ids, w_x, w_h, drop_x, drop_h, hs, cs, kept, ys, h, c]
  results = [xs.shape, (4, 4 * H), w_x.shape, b.shape, w_h.shape, b_hn.shape, h.shape, c.shape]
  return arguments, [*results, (sequence.room_size(sequence.backward_rooms(*kind)),)]


@pytest.mark.parametrize('name', ['forward', 'backward'])
def test_a_target_reads_within_the_table_alone(name):
  arguments, results = of_table(name)
  call(arguments, results, name)
  for beside in (-1, 4):
    arguments[3] = np.full((B, T), beside, np.int32)
    with pytest.raises(Exception, match='CPU kernel is not for operand'):
      call(arguments, results, name)


@pytest.mark.parametrize('name', ['forward', 'backward'])
def test_a_target_takes_inputs_or_a_table_but_not_both(name):
  arguments, results = of_table(name)
  arguments[3] = arguments[3][:0]
  with pytest.raises(Exception, match='CPU kernel is not for operand'):
    call(arguments, results, name)
  arguments, results = operands(0)
  arguments[3] = np.zeros((B, T), np.int32)
  with pytest.raises(Exception, match='CPU kernel is not for operand'):
    call(arguments, results)


def test_for_another_version_of_xla_it_is_a_scan(monkeypatch, caplog):
  monkeypatch.setattr(ffi, 'version', lambda: (1, 0))
  monkeypatch.setattr(cpu, '_is_known_to_fit', cpu._is_known_to_fit.__wrapped__)
  assert not cpu._works('forward', None)
  assert 'not 1.0' in caplog.text


def test_xla_is_told_the_version_that_this_is_written_for():
  """An older XLA refuses the target."""
  code = (
    'import ctypes, jax, numba\n'
    'jax.devices()\n'
    'from numba.core import types\n'
    'from rnnlab.recurrence.kernels.cpu import ffi\n'
    'ffi._VERSION_WORD = 0 | 99 << 32\n'
    '@numba.cfunc(types.intp(types.intp))\n'
    'def target(frame): return 0 if ffi.is_question(frame) else 0\n'
    'capsule = jax.ffi.pycapsule(ctypes.CFUNCTYPE(ctypes.c_void_p)(target.address))\n'
    'jax.ffi.register_ffi_target("new", capsule, platform="cpu")\n'
  )
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
  assert done.returncode == 1 and '0.99' in done.stderr, done.stderr
