"""What is logged to TensorBoard and Weights & Biases, read back by their own protocols."""

import importlib.util
import json
import runpy

import numpy as np
import pytest
from programs import ROOT

from rnnlab.machine import disk
from rnnlab.runs import configs, run, trackers

CONFIG = {'seed': 3, 'model': {'cell': 'gru', 'dropout': 0.5, 'mask': True, 'truncate': ()}}
ROWS = [
  {'step': 5 * epoch, 'epoch': epoch, 'train_loss': 1 / epoch, 'seconds': 1.0}
  for epoch in (1, 2, 4)
]


def board_events(folder):
  """The Events in a folder's one TensorBoard file."""
  from tensorboardX.proto.event_pb2 import Event

  (path,) = folder.glob('events.out.tfevents.*')
  content = path.read_bytes()
  while content:  # records: length (8 bytes), its checksum (4), the event, its checksum (4)
    length = int.from_bytes(content[:8], 'little')
    yield Event.FromString(content[12 : 12 + length])
    content = content[16 + length :]


def wandb_records(folder):
  """The Records in a run's one offline W&B file, in LevelDB's log format after 7 bytes."""
  from wandb.proto.wandb_internal_pb2 import Record

  (path,) = folder.glob('wandb/offline-run-*/*.wandb')
  content, at, record = path.read_bytes(), 7, b''
  while at < len(content):
    if (left := 32768 - at % 32768) < 7:  # a block's rest, too short for a head
      at += left
      continue
    length, kind = int.from_bytes(content[at + 4 : at + 6], 'little'), content[at + 6]
    record += content[at + 7 : at + 7 + length]
    at += 7 + length
    if kind in (1, 4):  # whole, or its last part
      yield Record.FromString(record)
      record = b''


def test_a_resumed_run_has_each_epoch_once_in_tensorboard(tmp_path):
  for already in (ROWS[:1], ROWS[:2]):
    for path in tmp_path.iterdir():  # its name has the second it was made in
      path.rename(f'{path}.earlier')
    board = trackers.TensorBoard(tmp_path, CONFIG, already)
    for row in ROWS[len(already) :]:
      board.write(row)
    board.close()
  values = [
    (e.step, v.tag, v.simple_value) for e in board_events(tmp_path) for v in e.summary.value
  ]
  losses = [(step, value) for step, tag, value in values if tag == 'train/loss']
  assert losses == [(5, 1.0), (10, 0.5), (20, 0.25)]


@pytest.mark.slow
def test_metrics_jsonl_tensorboard_and_wandb_agree_also_after_a_break(
  tmp_path, reviews, monkeypatch
):
  """A run that is stopped in its second epoch of three, and continued; W&B if it is installed."""
  monkeypatch.setenv('WANDB_MODE', 'offline')
  monkeypatch.setenv('WANDB_ERROR_REPORTING', 'false')
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  config = runpy.run_path(str(ROOT / 'experiments' / 'imdb.py'))['get_config']('smoke')
  config.data.update(source='directory', dir=str(reviews), buckets=1)
  config.model.update(cell='elman', hidden_size=3, embed_size=2)
  config.train.update(epochs=3, batch_size=4)  # an epoch is more than one chunk of steps
  spec = configs.specify(config)._replace(wandb=bool(importlib.util.find_spec('wandb')))
  folder = tmp_path / 'sweep' / spec.id
  events, rows = run.events(spec, folder.parent), []
  for event in events:
    if rows and not event.text:
      with pytest.raises(KeyboardInterrupt):
        events.throw(KeyboardInterrupt)
      break
    rows = disk.read_rows(folder / 'metrics.jsonl')
  assert len(rows) == 1
  agree(folder, rows, {})
  for path in folder.glob('events.out.tfevents.*'):  # its name has the second it was made in
    path.rename(f'{path}.earlier')
  for _ in run.events(spec, folder.parent):
    pass
  rows, result = (
    disk.read_rows(folder / 'metrics.jsonl'),
    disk.read_json(folder / 'result.json'),
  )
  assert [row['epoch'] for row in rows] == [1, 2, 3]
  tested = {name: v for name, v in result['final'].items() if name.startswith('test_')}
  assert len(tested) == len(result['metrics'])
  agree(folder, rows, tested)


def agree(folder, rows, tested):
  """Asserts that both trackers have, each once, the numbers of the rows and of the test."""
  expected = [
    {
      name.replace('_', '/', 1): value
      for name, value in row.items()
      if name not in ('step', 'epoch')
    }
    for row in rows
  ]
  if tested:
    expected[-1] |= {name.replace('_', '/', 1): value for name, value in tested.items()}
  expected = dict(zip((row['step'] for row in rows), expected, strict=True))
  assert {'train/loss', 'validation/accuracy', 'seconds'} <= expected[rows[0]['step']].keys()
  board = [(e.step, v.tag, v.simple_value) for e in board_events(folder) for v in e.summary.value]
  board = [(step, tag, value) for step, tag, value in board if not tag.startswith('_')]
  assert len(board) == sum(map(len, expected.values()))
  for step, tag, value in board:
    assert value == np.float32(expected[step][tag])
  if importlib.util.find_spec('wandb'):
    assert wandb_history(folder) == expected


def wandb_history(folder):
  """A run's rows in W&B, by step."""
  rows = [
    {'/'.join(item.nested_key) or item.key: json.loads(item.value_json) for item in r.history.item}
    for r in wandb_records(folder)
    if r.WhichOneof('record_type') == 'history'
  ]
  history = {row.pop('_step'): row for row in rows}
  assert len(history) == len(rows)
  return {
    step: {name: value for name, value in row.items() if not name.startswith('_')}
    for step, row in history.items()
  }


def test_tensorboard_has_the_run_s_config_as_hyper_parameters_without_a_folder_of_their_own(
  tmp_path,
):
  from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

  board = trackers.TensorBoard(tmp_path, CONFIG, ROWS)
  board.close()
  (found,) = [
    HParamsPluginData.FromString(value.metadata.plugin_data.content)
    for event in board_events(tmp_path)
    for value in event.summary.value
    if value.tag == '_hparams_/session_start_info'
  ]
  hparams = {
    name: getattr(value, value.WhichOneof('kind'))
    for name, value in found.session_start_info.hparams.items()
  }
  assert hparams == {
    'seed': 3,
    'model.cell': 'gru',
    'model.dropout': 0.5,
    'model.mask': True,
    'model.truncate': '()',
  }
  assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


@pytest.fixture
def offline(monkeypatch):
  pytest.importorskip('wandb', reason='pip install -r experiments/trackers.txt')
  monkeypatch.setenv('WANDB_MODE', 'offline')
  monkeypatch.setenv('WANDB_ERROR_REPORTING', 'false')


def test_a_resumed_run_has_each_epoch_once_in_wandb_under_its_own_id(tmp_path, offline):
  folders = [tmp_path / 'sweep' / f'gru_seed-{seed}' for seed in (3, 4)]
  for folder in folders:
    folder.mkdir(parents=True)
  boards = [trackers.WandB(folder, CONFIG, ROWS[:1]) for folder in folders]  # open side by side
  for row in ROWS[1:]:
    for board in boards:
      board.write(row)
  for board in boards:
    board.close()
  board = trackers.WandB(folders[0], CONFIG, ROWS[:2])  # its last epoch is done again
  board.write(ROWS[2])
  board.write({'step': 20, 'test_accuracy': 0.75})
  board.close()
  for folder, last in zip(folders, ({'test/accuracy': '0.75'}, {}), strict=True):
    records = list(wandb_records(folder))
    (run,) = [record.run for record in records if record.WhichOneof('record_type') == 'run']
    assert (run.run_id, run.run_group) == (folder.name, 'sweep')
    config = {item.key: item.value_json for item in run.config.update}
    assert config['seed'] == '3' and '"gru"' in config['model']
    rows = [
      {'/'.join(item.nested_key) or item.key: item.value_json for item in record.history.item}
      for record in records
      if record.WhichOneof('record_type') == 'history'
    ]
    seen = [{k: row[k] for k in row if k == '_step' or '/' in k} for row in rows]
    assert seen == [
      {'_step': '5', 'train/loss': '1'},
      {'_step': '10', 'train/loss': '0.5'},
      {'_step': '20', 'train/loss': '0.25', **last},
    ]
