"""Some cases of `tests/whole/fuzz_configs.py`: any config is planned, or refused in words."""

import subprocess
import sys

import fuzz_configs
import pytest


@pytest.mark.slow
def test_random_configs_sweeps_searches_claims_and_commands(environment):
  """In a process that has not computed, since it is forked."""
  done = subprocess.run(
    [sys.executable, fuzz_configs.__file__, '60', '1'],
    env=environment,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  planned = int(done.stdout.split(' cases: ')[1].split(' planned')[0])
  assert 10 < planned < 50
