"""A few hundred random calls of the recurrence, in a process that must not die."""

import os
import pathlib
import subprocess
import sys

import pytest
from programs import ROOT

# The library with glibc's checks of the heap.
CHECKING = pathlib.Path('/lib/x86_64-linux-gnu/libc_malloc_debug.so.0')


@pytest.mark.slow
def test_random_calls_are_answered_or_refused_in_words(environment):
  env = environment | {'MALLOC_CHECK_': '3', 'MALLOC_PERTURB_': '165', 'PYTHONPATH': str(ROOT)}
  if CHECKING.exists():
    env['LD_PRELOAD'] = os.pathsep.join(filter(None, [os.environ.get('LD_PRELOAD'), str(CHECKING)]))
  done = subprocess.run(
    [sys.executable, ROOT / 'tests' / 'recurrence' / 'fuzz_recurrence.py', '300'],
    env=env,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]
  assert "'right': 150, " in done.stdout and "'wrong': 150, " in done.stdout
