"""Kernels shared by processes: compiled once per machine, and tried before they are used.

What Numba compiles is kept as object code, with a digest and without pickle, so that a damaged file
is noticed and compiled again. A kernel that has never run on this machine is first compared with
the scan that it replaces; if it fails, the scan is used.
"""

import base64
import hashlib
import importlib.metadata
import json
import pathlib
import threading
from collections.abc import Callable
from concurrent import futures
from typing import Any

import jax
import numpy as np
from absl import logging

from rnnlab.machine import cache

_compiling, _trying = threading.Lock(), threading.Lock()  # a probe compiles, in its thread
_verdicts = {}  # by kernel and digest
_OBJECTS = b'\x7fELF', b'\xcf\xfa\xed\xfe', b'd\x86', b'd\xaa'  # of ELF, Mach-O, and COFF
_engines = []  # kept alive, since their code must stay in place


def digest(*parts: Any) -> str:
  """Names a kernel by all its code depends on: paths of sources, and what str() tells apart."""
  versions = [importlib.metadata.version(name) for name in ('jax', 'jaxlib', 'numpy')]
  whole = hashlib.sha256(repr(versions).encode())
  for part in (pathlib.Path(__file__), *parts):
    whole.update(part.read_bytes() if hasattr(part, 'read_bytes') else str(part).encode() + b'\0')
  return whole.hexdigest()[:32]


def address(name: str, key: str, target: Callable, options: dict) -> int:
  """The address of `target`, from an address to a word, compiled by Numba and kept under a key."""
  with _compiling:
    folder = cache.kernels()
    if folder is None:
      return _placed(*_compile(name, target, options))
    path = folder / f'{name}-{key}.json'
    with cache.one_at_a_time(path):
      found = _load(path)
      if found is None:
        symbol, code = _compile(name, target, options)
        cache.write(path, json.dumps([symbol, base64.b64encode(code).decode()]).encode())
        found = _placed(symbol, code)
    return found


def _compile(name, target, options):
  """The symbol of the function that Numba compiles, and the object code that contains it."""
  from numba.core import ccallback, types

  words = 'Compiling the CPU kernel %s, once for this machine and version: up to half a minute.'
  logging.warning(words, name)
  made = ccallback.CFunc(target, ((types.intp,), types.intp), {}, options)
  made.compile()
  _, _, (code, _) = made._library.serialize_using_object_code()
  return made.native_name, code


def _load(path):
  data = cache.read(path)
  if data is None:
    return None
  try:
    symbol, code = json.loads(data)
    return _placed(symbol, base64.b64decode(code))
  except Exception as error:  # any of LLVM's: the kernel is then compiled again
    logging.warning('%s cannot be loaded (%s).', path, error)
    return None


def _placed(symbol, code):
  """The address of a symbol of object code, which is loaded separately from all other code.

  The code has a copy of each function that it calls. Next to code that Numba compiled earlier, as
  in the process that compiled it, the linker would use the copies already loaded: these are
  optimised differently, and round differently.
  """
  from llvmlite import binding
  from numba.core import registry
  from numba.core.runtime import nrt

  if not code.startswith(_OBJECTS):  # on other bytes LLVM would end the process
    raise ValueError('it is not object code')
  nrt.rtsys.initialize(registry.cpu_target.target_context)  # the memory allocator
  machine = binding.Target.from_triple(binding.get_process_triple()).create_target_machine(jit=True)
  engine = binding.create_mcjit_compiler(binding.parse_assembly(''), machine)
  engine.add_object_file(binding.object_file.ObjectFileRef.from_data(code))
  engine.finalize_object()
  found = engine.get_function_address(symbol)
  if not found:
    raise ValueError(f'it has no {symbol}')
  _engines.append(engine)
  return found


class Wrong(Exception):
  """A kernel's results are not the scan's."""


def works(name: str, key: str, probe: Callable[[], None]) -> bool:
  """Whether `probe` raises nothing; tried once per machine, the verdict being kept under a key.

  It runs in a thread of its own, as the caller may be tracing. A process that it kills leaves a
  mark; after two marks the kernel counts as failing. A failure is logged once per process.
  Exceptions other than Wrong are not kept: another process tries again.
  """
  with _trying:
    if (name, key) not in _verdicts:
      folder = cache.kernels()
      path = folder and folder / f'{name}-{key}.probe'
      reason = _reason(path, probe)
      if reason:
        again = f' (delete {path} to try again)' if path and path.exists() else ''
        words = 'The kernel %s is not used, but the slower scan: %s%s.'
        logging.warning(words, name, reason, again)
      _verdicts[name, key] = not reason
    return _verdicts[name, key]


def _reason(path, probe):
  """Why the kernel can't be used, or '' if it can."""
  if path is None:
    return _tried(probe)[0]
  if cache.read(path) == b'':
    return ''
  with cache.one_at_a_time(path):
    known = cache.read(path)
    deaths = known.count(b'tried ') if known else 0
    if known is not None and not deaths:
      return known.decode()
    if deaths == 2:
      return 'two processes died trying it'
    cache.write(path, b'tried ' * (deaths + 1))
    try:
      reason, is_kept = _tried(probe)
    except BaseException:  # the user stopped it, which says nothing about the kernel
      path.unlink(missing_ok=True)
      raise
    if is_kept:
      cache.write(path, reason.encode())
    else:
      path.unlink(missing_ok=True)
    return reason


def _tried(probe):
  """Why `probe` failed, or '', and whether it would fail again."""
  try:
    with futures.ThreadPoolExecutor(1) as pool:
      pool.submit(probe).result()
  except Wrong as error:
    return str(error), True
  except Exception as error:
    first, *_ = str(error).strip().splitlines() or ['']
    return f'{type(error).__name__}: {first[:200]}', False
  return '', True


def compare(actual: Any, desired: Any, tolerance: float) -> None:
  """Raises Wrong unless each array equals the desired one to tolerance times its largest value."""
  pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(desired), strict=True)
  for a, b in pairs:
    a, b = np.asarray(a), np.asarray(b)
    scale = max(np.abs(b).max(initial=0), 1e-2)
    if a.shape != b.shape or not (np.abs(a - b) <= tolerance * scale).all():
      raise Wrong('its results are not those of the scan')
