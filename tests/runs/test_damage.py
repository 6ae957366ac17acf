"""Damage at rest to a finished sweep's files is noticed wherever they are read, in words."""

import json
import random
import shutil

import pytest
from programs import SMOKE, finals, unseal

import rnnlab
from rnnlab import results
from rnnlab.runs import folder as run_files
from rnnlab.sweeps import status


def flip(content, draw):
  place = draw.randrange(len(content))
  return content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]


def hole(content, draw):
  place, length = draw.randrange(len(content)), draw.randint(1, 64)
  return (content[:place] + bytes(length) + content[place + length :])[: len(content)]


def swap(content, draw):
  """Swaps a digit or a letter for another: JSON that is still valid, but says something else."""
  places = [i for i, byte in enumerate(content) if chr(byte).isalnum()]
  place = draw.choice(places)
  return content[:place] + (b'7' if content[place] != 55 else b'3') + content[place + 1 :]


# The optional files that the runs here have.
KEPT = [name for name in run_files.READ if name != run_files.FLOW]
DAMAGES = {
  'flip': flip,
  'hole': hole,
  'swap': swap,
  'zeros': lambda content, draw: bytes(len(content)),
  'truncate': lambda content, draw: content[: draw.randrange(len(content))],
  'empty': lambda content, draw: b'',
  'garbage': lambda content, draw: draw.randbytes(draw.randint(1, 2 * len(content))),
  'longer': lambda content, draw: content + content,
  'deep': lambda content, draw: b'[' * 100_000,
  'list': lambda content, draw: b'[{"id": 3}]',
  'number': lambda content, draw: b'3\n',
  'NaN': lambda content, draw: b'{"runs": NaN, "final": NaN, "model": NaN, "epoch": NaN}',
}


@pytest.fixture
def copy(finished, tmp_path):
  folder = tmp_path / 'sweep'
  shutil.copytree(finished[0], folder, ignore=shutil.ignore_patterns('checkpoints', 'events*'))
  return folder


def state_of(workdir, name):
  return {run.id: run.state for run in status.load(workdir)}[name]


def same(path, content, name):
  """Whether a file says the same, as a sealed one with another blank does."""
  if name not in ('result.json', 'sweep.json'):
    return path.read_bytes() == content
  try:
    return json.loads(path.read_bytes()) == json.loads(content)
  except (ValueError, RecursionError):
    return False


@pytest.mark.slow
@pytest.mark.parametrize('name', [*KEPT, 'result.json'])
def test_every_damage_to_a_file_of_a_run_is_noticed_by_all_who_read_it(name, copy):
  draw = random.Random(name)
  folder = sorted(copy.glob('cell-*'))[draw.randrange(6)]
  whole = (folder / name).read_bytes()
  assert run_files.verify(folder) == [] and state_of(copy, folder.name) == 'done'
  for kind in [*DAMAGES, *['flip', 'hole', 'swap'] * 3]:
    (folder / name).write_bytes(DAMAGES[kind](whole, draw))
    if same(folder / name, whole, name):
      continue
    assert run_files.verify(folder) == [name], kind
    assert run_files.verify(folder, quick=True) == [name], kind
    assert state_of(copy, folder.name) == 'damaged', kind
    assert not run_files.is_done(folder, 2), kind
    with pytest.raises(ValueError, match=f'{name} is damaged'):
      rnnlab.load(folder)
    assert len(results.load_runs(copy)) == 5, kind
  (folder / name).unlink()
  if name != 'result.json':
    assert state_of(copy, folder.name) == 'damaged' and len(results.load_runs(copy)) == 5
  (folder / name).write_bytes(whole)
  assert state_of(copy, folder.name) == 'done' and len(results.load_runs(copy)) == 6
  assert rnnlab.load(folder).vocabulary


def test_every_damage_to_the_record_of_a_sweep_is_taken_as_its_loss(copy):
  draw = random.Random(0)
  whole = (copy / 'sweep.json').read_bytes()
  for kind in [*DAMAGES, *['flip', 'hole', 'swap'] * 3]:
    (copy / 'sweep.json').write_bytes(DAMAGES[kind](whole, draw))
    if same(copy / 'sweep.json', whole, 'sweep.json'):
      continue
    assert run_files.read_sweep(copy)['runs'] == [], kind
    assert [run.state for run in status.load(copy)] == ['done'] * 6, kind
    assert len(results.load_runs(copy)) == 6, kind


WRONG = {
  'config.json': [
    {},
    {'model': []},
    {'model': {'cell': 3}},
    {'train': {'epochs': 'two'}},
    {'train': 3},
    {'seed': []},
  ],
  'metrics.jsonl': [3, [], {'epoch': 'one'}, {'epoch': 1, 'seconds': 'x'}, {'epoch': 10**30}, {}],
  'result.json': [
    *({}, {'final': 3}, {'final': {}, 'epochs': 'two'}, {'final': {}, 'epochs': 10**18}),
    *({'best': [1]}, {'data': {'title': []}}, {'overrides': []}, {'seconds': 'x'}),
    *({'versions': [1]}, {'seconds': 10**400}, {'epochs': True}),
  ],
  'error.json': [3, [], {'error': 3}, {'again': 'no'}],
  'sweep.json': [
    *({'runs': 3}, {'runs': [3]}, {'runs': [{'id': 3}]}, {'runs': [{'id': '../..'}]}),
    *({'runs': [{'id': 'a/b'}]}, {'searches': [{'arms': 3}]}, {'claims': 3}, {'command': []}),
    {'runs': [{'id': 'x', 'overrides': []}]},
  ],
}


@pytest.mark.parametrize(
  'name',
  [pytest.param(n, marks=() if n == 'result.json' else pytest.mark.slow) for n in WRONG],
)
def test_a_wrong_structure_in_a_file_without_digests_ends_no_reader(name, copy):
  """Like files of a version before there were digests."""
  folder = sorted(copy.glob('cell-*'))[0]
  unseal(folder)
  assert state_of(copy, folder.name) == 'done'
  path = (copy if name == 'sweep.json' else folder) / name
  whole = json.loads(path.read_text()) if name in ('config.json', 'result.json') else {}
  for wrong in WRONG[name]:
    content = whole | wrong if wrong and whole else wrong
    path.write_text(json.dumps(content) + '\n')
    assert len(status.load(copy)) >= 6
    status.record(copy)
    assert run_files.is_done(folder, 2) in (True, False)
    assert len(results.load_runs(copy)) >= 5
    results.load_metrics(copy)
    results.missing_runs(copy, ())
    try:
      rnnlab.load(folder)
      rnnlab.load_ensembles(copy)
    except ValueError as error:
      assert str(folder) in str(error)


@pytest.mark.slow
def test_a_launch_mends_what_is_damaged_and_does_nothing_else_again(finished, launch, tmp_path):
  copy, draw = tmp_path / 'sweep', random.Random(1)
  shutil.copytree(finished[0], copy)
  damaged = dict(zip(sorted(copy.glob('cell-*')), KEPT[2:], strict=False))
  for folder, name in damaged.items():
    path = folder / name
    path.write_bytes(flip(path.read_bytes(), draw))
  (left,) = {*copy.glob('cell-*')} - damaged.keys()
  before = {path: path.stat().st_mtime_ns for path in left.glob('*')}
  done = launch('--status', f'--workdir={copy}', check=0)
  assert '1 done, 0 running, 0 waiting, 0 failed, 5 damaged' in done.stdout
  for folder, name in damaged.items():
    assert f'damaged: {folder.name}: {name}; the next launch does it again' in done.stdout
  done = launch(SMOKE, f'--workdir={copy}', '--executor=process', check=0)
  for folder, name in damaged.items():
    assert f'{folder.name}: {name} damaged or missing: the run is done again' in done.stdout
  assert 'Traceback' not in done.stdout + done.stderr
  assert before == {path: path.stat().st_mtime_ns for path in before}
  assert all(run_files.verify(folder) == [] for folder in copy.glob('cell-*'))
  assert finals(copy) == finals(finished[0])
