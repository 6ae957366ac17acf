"""Whole programs of two processes that do one run together, each held to one core."""

import json
import os
import signal
import socket
import subprocess
import sys

import jax
import pytest
from programs import ROOT, SMOKE, finals, read_until

import rnnlab
from experiments import imdb
from rnnlab.machine import provenance

# An embedding large enough to be split, enough epochs to be interrupted between, and a cell that
# compiles fast.
FIELDS = {
  'data.buckets': 1,
  'data.vocab_size': 9000,
  'model.cell': 'elman',
  'model.embed_size': 32,
  'model.hidden_size': 8,
  'train.epochs': 12,
}
RUN = SMOKE, '--nosweep', *(f'--config.{name}={value}' for name, value in FIELDS.items())
TOGETHER = """
import sys
import jax, numpy as np
import rnnlab
from rnnlab.machine import devices, hosts

devices.use_cores()
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
me = jax.process_index()
assert hosts.first(lambda: me) == 0
try:
  hosts.first(lambda: [][me])
  raise SystemExit('no error')
except IndexError:
  pass
assert hosts.agree(me == 1) and not hosts.agree(False)
mesh = rnnlab.mesh()
assert [device.process_index for device in mesh.devices] == [0, 1]
with jax.set_mesh(mesh):
  table = np.arange(devices.LARGE, dtype=np.float32).reshape(-1, 2)
  table[0] = np.nan
  placed = devices.place(table)
  assert [shard.data.shape[1] for shard in placed.addressable_shards] == [1]
  np.testing.assert_array_equal(hosts.fetch(placed), table)
  cell = rnnlab.gru(hidden_size=16)
  params = cell.init(jax.random.key(0), 3)
  xs = np.random.default_rng(0).random((6, 5, 3), np.float32)
  ys = jax.jit(lambda *given: rnnlab.unroll(cell, *given)[1])(*devices.place((params, xs)))
  assert [shard.data.shape for shard in ys.addressable_shards] == [(3, 5, 16)]
  ys = hosts.fetch(ys)
np.testing.assert_allclose(ys, rnnlab.unroll(cell, params, xs)[1], rtol=1e-5, atol=1e-6)
jax.distributed.shutdown()
"""


@pytest.fixture
def pair(environment, tmp_path):
  """Starts Python as two processes: {place} is the address where they meet, {id} their number."""
  cores = provenance.cores()

  def start(*words):
    with socket.socket() as free:
      free.bind(('127.0.0.1', 0))
      port = free.getsockname()[1]
    try:
      for i in range(2):
        os.sched_setaffinity(0, {cores[i % len(cores)]})  # which it inherits
        yield subprocess.Popen(
          [sys.executable, *(word.format(place=f'127.0.0.1:{port}', id=i) for word in words)],
          cwd=tmp_path,
          env=environment | {'PYTHONPATH': str(ROOT)},
          text=True,
          stdout=subprocess.PIPE,
          stderr=subprocess.STDOUT,
        )
    finally:
      os.sched_setaffinity(0, cores)

  return lambda *words: list(start(*words))


@pytest.fixture
def launch_two(pair, reviews):
  """Starts launch.py as two processes that do a run together."""

  def start(*words):
    return pair(
      str(ROOT / 'launch.py'),
      *words,
      '--config.data.source=directory',
      f'--config.data.dir={reviews}',
      '--executor=distributed',
      '--coordinator={place}',
      '--processes=2',
      '--process_id={id}',
    )

  return start


def end(processes):
  """Waits for both; returns the output and exit status of each."""
  said = [process.communicate(timeout=300)[0] for process in processes]
  return [*zip(said, [process.returncode for process in processes], strict=True)]


@pytest.mark.slow
def test_each_process_has_its_part_of_a_batch_and_of_a_large_array(pair):
  for said, status in end(pair('-c', TOGETHER, '{place}', '{id}')):
    assert status == 0, said


@pytest.mark.slow
def test_two_processes_give_the_figures_of_one_and_broken_off_the_same_bits(
  launch_two, reviews, environment, monkeypatch, tmp_path
):
  words = *RUN, '--workdir=out{id}'
  (led, status), (followed, follower_status) = end(launch_two(*words))
  assert status == 0, led
  assert follower_status == 0, followed
  assert 'epoch 12/12' in led and '100%' not in followed and 'epoch' not in followed
  assert not (tmp_path / 'out1').exists()
  whole = finals(tmp_path / 'out0')
  (result,) = (tmp_path / 'out0').glob('*/result.json')
  assert '2 processes' in json.loads(result.read_text())['device']

  monkeypatch.setenv('XDG_CACHE_HOME', environment['XDG_CACHE_HOME'])
  config = imdb.get_config('smoke')
  given = {'data.source': 'directory', 'data.dir': str(reviews)}
  config.update_from_flattened_dict(FIELDS | given)
  with jax.set_mesh(rnnlab.mesh()):
    alone = rnnlab.run(config)
  ((final, best, rows, _),) = whole.values()
  # Rounding differences grow tenfold every three epochs.
  assert final == pytest.approx(alone.result['final'], rel=1e-2)
  assert best == pytest.approx(alone.result['best'], rel=1e-2)
  for row, other in zip(rows[:2], alone.metrics[:2], strict=True):
    assert row | {'seconds': 0} == pytest.approx(other | {'seconds': 0}, rel=1e-5)

  words = *RUN, '--workdir=broken'
  broken = tmp_path / 'broken'
  for number, process in (signal.SIGKILL, 1), (signal.SIGINT, 1), (signal.SIGKILL, 0):
    both = launch_two(*words)
    read_until('validation accuracy', both[0])  # an epoch's end
    both[process].send_signal(number)
    (led, status), (followed, follower_status) = end(both)
    assert not list(broken.glob('*/result.json')), 'over before it was broken off'
    if number == signal.SIGINT:
      assert status == follower_status == 130, led + followed
      assert 'to go on: python' in led and 'Traceback' not in led + followed
    else:
      assert status and follower_status
    if process == 1 and number == signal.SIGKILL:
      assert 'another process has ended' in led and 'Traceback' not in led
  for said, status in end(launch_two(*words)):
    assert status == 0, said
  assert finals(broken) == whole


@pytest.mark.slow
def test_a_mistake_that_the_first_process_finds_ends_all(launch_two):
  (led, status), (followed, follower_status) = end(launch_two(*RUN, '--config.train.batch_size=33'))
  assert status == follower_status == 2
  assert 'batch_size=33 cannot be split over 2 devices' in led
  assert 'Traceback' not in led + followed
