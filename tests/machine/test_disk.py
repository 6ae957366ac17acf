"""Files are whole or absent, and damaged ones count as missing."""

import json

import numpy as np
import pytest

from rnnlab.machine import disk


def test_files_are_whole_or_not_there(tmp_path, monkeypatch):
  path = tmp_path / 'a.json'
  disk.write_json(path, {'a': 1})

  def full(*_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(disk.os, 'replace', full)
  with pytest.raises(OSError):
    disk.write_json(path, {'a': 2})
  assert json.loads(path.read_text()) == {'a': 1}
  assert [p.name for p in tmp_path.iterdir()] == ['a.json']


def test_numpy_s_numbers_are_written_as_python_s_and_what_json_lacks_is_refused(tmp_path):
  values = {'a': np.float32(0.5), 'b': np.int64(3), 'c': np.bool_(True), 'd': np.arange(2)}
  plain = {'a': 0.5, 'b': 3, 'c': True, 'd': [0, 1]}
  disk.write_json(tmp_path / 'a.json', values)
  assert disk.read_json(tmp_path / 'a.json') == plain
  del values['d'], plain['d'], values['c'], plain['c']
  disk.write_rows(tmp_path / 'a.jsonl', [values])
  assert disk.read_rows(tmp_path / 'a.jsonl') == [plain]
  before = disk.read_json(tmp_path / 'a.json')
  for wrong in (object(), {1, 2}, iter([])):
    with pytest.raises(ValueError, match='JSON has no'):
      disk.write_json(tmp_path / 'a.json', {'a': wrong})
  assert disk.read_json(tmp_path / 'a.json') == before


def test_damaged_files_count_as_missing(tmp_path, caplog):
  (tmp_path / 'list.json').write_text('[1]')
  (tmp_path / 'bytes.json').write_bytes(b'\xff\xfe{}')
  (tmp_path / 'rows.jsonl').write_bytes(b'{"epoch": 1}\n{"epo\n\xff\n{"epoch": 3}\n')
  for name in ('list.json', 'bytes.json', 'none.json'):
    assert disk.read_json(tmp_path / name) is None
  assert disk.read_rows(tmp_path / 'rows.jsonl') == [{'epoch': 1}, {'epoch': 3}]
