"""A library's process: measures on request, and is idle in between.

    python -m experiments.benchmarks.peers.worker NAME

A request is a line of JSON on stdin, its answer a line on stdout:
`{"build": [...a case...]}` -> `{"compile_s": s, "seconds": s per repeat, "memory_mb": or null,
"loss": what the first call of a translator returns, else null}`;
`{"calls": n}` -> `{"seconds": s per repeat}`. A failure is answered with `{"error": "..."}`.
"""

import ctypes
import gc
import importlib
import json
import os
import pathlib
import signal
import sys
import time

from experiments.benchmarks import peers

SIZES = ('batch', 'steps', 'inputs', 'hidden')
STATUS = pathlib.Path('/proc/self/status')


def main(name):
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
  answers = os.fdopen(os.dup(1), 'w', buffering=1)
  os.dup2(2, 1)  # output of libraries must not be taken for an answer
  library, call, repeats = None, None, 1
  for line in sys.stdin:
    question = json.loads(line)
    try:
      if 'build' in question:
        library = library or load(name)
        call = None
        case = peers.Case(*question['build'])
        beyond = of_no_size(library.build, case)
        answer, call, repeats = build(library.build, case)
        if beyond is not None:
          answer['memory_mb'] -= beyond
      else:
        answer = {'seconds': seconds(call, question['calls']) / repeats}
    except Exception as error:
      call = None
      answer = {'error': f'{type(error).__name__}: {error}'[:300]}
    answers.write(json.dumps(answer) + '\n')


def build(make, case):
  """Prepares a case with `make(case) -> call, repeats`; measures its first call and its memory."""
  free()
  before = memory_mb('VmRSS')
  call, repeats = make(case)
  start = time.perf_counter()
  loss = call()
  first = time.perf_counter() - start
  free(programs=False)
  if before is not None:
    pathlib.Path('/proc/self/clear_refs').write_text('5')  # resets the high-water mark
  call()
  peak = memory_mb('VmHWM')
  later = seconds(call, 1)
  answer = {
    'compile_s': max(first - later, 0),
    'seconds': later / repeats,
    'memory_mb': peak - before if before is not None else None,
    'loss': loss if isinstance(loss, float) else None,
  }
  return answer, call, repeats


def of_no_size(make, case):
  """The memory of a language model's step that does not depend on its size, such as its program.

  None for other cases, and if memory is not known.
  """
  if case.what != 'text':
    return None
  tiny = case._replace(text='tiny', **dict(zip(SIZES, peers.TEXTS['tiny'], strict=False)))
  return build(make, tiny)[0]['memory_mb']


def seconds(call, calls):
  """The wall time of a call, on average."""
  start = time.perf_counter()
  for _ in range(calls):
    call()
  return (time.perf_counter() - start) / calls


def free(programs=True):
  """Returns the last case's memory to the system, so that the next starts from the same level."""
  if programs and 'jax' in sys.modules:
    sys.modules['jax'].clear_caches()
  gc.collect()
  if sys.platform == 'linux':
    ctypes.CDLL(None).malloc_trim(0)


def memory_mb(field):
  """A field of Linux's status of this process, in MB; None elsewhere."""
  if not STATUS.exists():
    return None
  (line,) = (x for x in STATUS.read_text().splitlines() if x.startswith(field))
  return int(line.split()[1]) * 1024 / 1e6


def load(name):
  """The library's file here, warmed up, so that loading it counts for no case's memory or time."""
  peer = peers.PEERS.get(name)
  library = importlib.import_module(f'experiments.benchmarks.peers.{peer.module if peer else name}')
  both = bool(peer and peer.bidirectional)
  build(library.build, peers.Case('gradient', 'lstm', 1, 2, 2, 2, bidirectional=both))
  return library


if __name__ == '__main__':
  main(sys.argv[1])
