"""Piano rolls from .mat, .npz and folders of .csv files, and errors for wrong ones."""

import numpy as np
import pytest
import scipy.io

from rnnlab.data import DataError, rolls

PIECES = rolls.drawn(4, 9, seed=3)
PARTS = {'train': PIECES[:2], 'validation': PIECES[2:3], 'test': PIECES[3:]}


def cell(pieces):
  """Arrays of different lengths as a MATLAB cell."""
  found = np.empty((1, len(pieces)), object)
  for i, piece in enumerate(pieces):
    found[0, i] = piece
  return found


def mat(path, parts):
  scipy.io.savemat(path, {rolls.IN_MAT[name]: cell(of) for name, of in parts.items()})
  return path


def npz(path, parts):
  arrays = {}
  for name, of in parts.items():
    arrays[f'x_{name}'] = np.concatenate(of)
    arrays[f'lengths_{name}'] = np.array([*map(len, of)])
  np.savez(path, **arrays)
  return path


def folder(path, parts):
  for name, of in parts.items():
    (path / name).mkdir(parents=True)
    for i, piece in enumerate(of):
      np.savetxt(path / name / f'{i}.csv', piece, delimiter=',')
  return path


@pytest.mark.parametrize('write, name', [(mat, 'a.mat'), (npz, 'a.npz'), (folder, 'a')])
def test_the_same_rolls_come_from_each_format(tmp_path, write, name):
  found = rolls.read(write(tmp_path / name, PARTS))
  assert {name: len(of) for name, of in found.items()} == {'train': 2, 'validation': 1, 'test': 1}
  for split, pieces in PARTS.items():
    for piece, one in zip(pieces, found[split], strict=True):
      assert one.dtype == np.uint8
      np.testing.assert_array_equal(one, piece)


def test_a_folder_without_splits_is_one_set_of_pieces(tmp_path):
  folder(tmp_path, {'all': PIECES})
  found = rolls.read(tmp_path / 'all')
  assert [*found] == [''] and len(found['']) == len(PIECES)


def test_what_is_wrong_is_said_with_its_place(tmp_path):
  loud, narrow = PIECES[0] * 1, PIECES[0][:, :50]
  loud[2, 4] = 90
  path = mat(tmp_path / 'loud.mat', {'train': [PIECES[1], loud]})
  with pytest.raises(DataError, match='piece 2 of train, frame 3, key 5: the value is 90'):
    rolls.read(path)
  with pytest.raises(DataError, match=r'piece 1 of train: a roll is numbers \[T, 88\]'):
    rolls.read(mat(tmp_path / 'narrow.mat', {'train': [narrow]}))
  with pytest.raises(DataError, match='has no traindata'):
    rolls.read(mat(tmp_path / 'test.mat', {'test': PIECES}))
  (tmp_path / 'bad.mat').write_bytes(b'MATLAB 5.0 MAT-file, and no more')
  with pytest.raises(DataError, match='is damaged, or not a .mat'):
    rolls.read(tmp_path / 'bad.mat')
  with pytest.raises(DataError, match='has no x_train beside x_validation, x_test'):
    rolls.read(
      npz(tmp_path / 'no_train.npz', {name: PARTS[name] for name in ('test', 'validation')})
    )
  with pytest.raises(DataError, match='has a folder valid: the splits are train, validation, test'):
    rolls.read(folder(tmp_path / 'valid', PARTS | {'valid': PIECES}))
  with pytest.raises(DataError, match='has no .csv files'):
    (tmp_path / 'folders' / 'a.csv').mkdir(parents=True)
    rolls.read(tmp_path / 'folders')
  for content, what in (
    ('0,1\n', 'line 1: it has 2 values, and must have 88'),
    (','.join(['0'] * 88) + '\n\n' + ','.join(['1'] * 88), 'line 2: it is empty'),
    (','.join(['note'] * 88), 'line 1: a value is not a number'),
    ('', r'a roll is numbers \[T, 88\]'),
  ):
    (tmp_path / 'csv').mkdir(exist_ok=True)
    (tmp_path / 'csv' / 'a.csv').write_text(content)
    with pytest.raises(DataError, match=what):
      rolls.read(tmp_path / 'csv')
  with pytest.raises(DataError, match='no such file or folder'):
    rolls.read(tmp_path / 'none.mat')
  with pytest.raises(DataError, match='rolls are a .mat, an .npz, or a folder'):
    rolls.read(tmp_path / 'csv' / 'a.csv')
