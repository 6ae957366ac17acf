"""Predictions of trained models for new examples, by one run or by the ensemble of a setting.

    model = rnnlab.load('runs/imdb/RUN')
    model.predict(['A fine film.'])
    model = rnnlab.load('runs/texts/RUN')
    model.generate('The film')
    model = rnnlab.load('runs/translation/RUN')
    model.translate(['Ein Mann schläft.'])

`python -m rnnlab.predict` does the same on the command line.
"""

import collections
import json
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import traverse_util
from ml_collections import ConfigDict

from rnnlab import tasks
from rnnlab.console import progress
from rnnlab.console.words import describe_error
from rnnlab.data import batching, text
from rnnlab.interop import files
from rnnlab.machine import disk
from rnnlab.predict import translator
from rnnlab.predict.archive import export
from rnnlab.predict.language import TextModel, text_model
from rnnlab.predict.predictor import (
  Ensemble,
  Predictor,
  Word,
  check,
  encode,
  features,
  is_text,
  says_tokens,
  translates,
  writes,
)
from rnnlab.predict.translator import Translator
from rnnlab.runs import configs
from rnnlab.runs import folder as run_files
from rnnlab.training import windows

__all__ = [
  'Ensemble',
  'Predictor',
  'TextModel',
  'Translator',
  'Word',
  'export',
  'load',
  'load_ensembles',
]


def load(run_dir: str | os.PathLike) -> Predictor | TextModel | Translator:
  """Loads the model of a finished run.

  It is a TextModel for a language model, a Translator for translation, and otherwise a Predictor.

  run_dir: the run's folder.

  Raises FileNotFoundError if there is no such folder, and ValueError if it has no finished run, or
  a damaged one.

  >>> (run,) = rnnlab.load_runs('runs/imdb')['id']
  >>> rnnlab.load(f'runs/imdb/{run}').config.model.cell
  'lstm'
  """
  member = _load(run_dir)
  return _together([member]) if writes(member) else member


def _load(run_dir):
  """The model of a finished run as a member of an ensemble."""
  folder = pathlib.Path(run_dir)
  config = run_files.read_config(folder)
  if damaged := run_files.verify(folder):
    raise ValueError(
      f'{folder}: {", ".join(damaged)} {"is" if len(damaged) == 1 else "are"} damaged or missing:'
      ' give the command of its sweep again, which repairs it'
    )
  if config is None:
    if not folder.is_dir():
      raise FileNotFoundError(f'{folder}: no such folder')
    if _runs(folder):
      raise ValueError(f'{folder} is a sweep: give one of its runs, or use load_ensembles')
    raise ValueError(
      f'{folder} is not the folder of a run or a sweep of launch.py: there is no config.json'
    )
  if not run_files.has_ended(folder):
    raise ValueError(f'{folder} is a run that has not ended: see launch.py --status')
  if not disk.fits(config, {'model': dict, 'data': dict}):
    raise ValueError(f'{folder}/config.json is damaged, or of another version of rnnlab')
  return _read(folder, ConfigDict(configs.present(config)))


def _read(folder, config):
  """The model of a run's folder that is intact."""
  task = _task(folder, config)
  if not (folder / run_files.PARAMS).exists():
    raise ValueError(
      f'{folder} has no {run_files.PARAMS}: older versions kept none. Delete its result.json and'
      ' give the command of its sweep again: the run then ends again from its last checkpoint, and'
      ' keeps them'
    )
  encoding = _encoding(folder / run_files.ENCODING)
  vocabulary = _vocabulary(folder / run_files.VOCABULARY)
  try:
    # JSON has no tuples, and a model's fields must be hashable.
    config.model.truncate = tuple(config.model.truncate)
    model = task.model(config.model, task.spec(config.data, encoding, vocabulary))
    empty = Predictor(config, model, {}, vocabulary, encoding)
    if is_text(empty) and not writes(empty):
      batching.pad((), config.data.max_len, config.data.padding, config.data.truncation)
    needed = _shapes(empty) if vocabulary or not writes(empty) else {}
  except Exception as error:  # a damaged config may hold anything, and a cell may be anyone's code
    raise ValueError(
      f'{folder}/config.json is damaged, or of another version of rnnlab: {describe_error(error)}'
    ) from error
  if (is_text(empty) or says_tokens(empty)) and not vocabulary:
    raise ValueError(
      f'{folder} has no {run_files.VOCABULARY}, without which no text can be read. Delete its'
      ' result.json and give the command of its sweep again, which writes it'
    )
  if writes(empty):
    _together([empty])
  elif is_text(empty) and len(vocabulary) + text.FIRST_WORD > config.data.vocab_size:
    raise ValueError(_no_words(folder / run_files.VOCABULARY))
  check([empty])
  params = files.load(folder / run_files.PARAMS)
  found = _flat_shapes(params)
  for name in needed | found:
    if found.get(name) != needed.get(name):
      raise ValueError(
        f'{folder}/{run_files.PARAMS}: the parameters do not fit the model; has its code changed?'
        f' {name} is {_shape(found.get(name))}, and must be {_shape(needed.get(name))}'
      )
  return empty._replace(params=jax.tree.map(jnp.asarray, params))


def _task(folder, config):
  """The task of a run. Raises ValueError if it is unknown or cannot predict."""
  name = configs.flat(config).get('task.name', tasks.DEFAULT)
  if not isinstance(name, str):
    raise ValueError(f'{folder}/config.json is damaged: task.name is {name!r:.60}')
  config.task = {'name': name}
  try:
    task = tasks.find(name)
  except ValueError as error:
    raise ValueError(f'{folder} is a run of the task {name}: {error}') from error
  needs = ('encode', 'decode' if task.join is None else 'join', 'outputs', 'spec')
  if missing := [part for part in needs if getattr(task, part) is None]:
    raise ValueError(
      f'{folder} is a run of the task {name}, which cannot predict: it has no {", ".join(missing)}'
      ' (rnnlab/tasks/base.py says what these are). Of a sweep, give the folder of a run of another'
      ' task'
    )
  return task


def _encoding(path):
  """What a run kept of its data; nothing for runs from before there was such a file."""
  if not path.exists():
    return {}
  found = disk.read_json(path)
  if not isinstance(found, dict):
    raise ValueError(f'{path} is damaged: give the command of its sweep again, which repairs it')
  return found


def _shapes(empty):
  """The shape of each parameter of a model, by its path."""
  if translates(empty):
    inputs: Any = {'source': np.zeros((1, 1), np.int32), 'target': np.zeros((1, 2), np.int32)}
  elif says_tokens(empty):
    inputs = windows.example({name: np.zeros(1, np.int32) for name in ('inputs', 'targets')})
  else:
    example = '' if is_text(empty) else np.zeros((1, features(empty)), np.float32)
    inputs = encode(empty, [example])
  variables = jax.eval_shape(empty.model.init, jax.random.key(0), inputs)
  return _flat_shapes(variables['params'])


def _flat_shapes(tree):
  return {name: w.shape for name, w in traverse_util.flatten_dict(tree, sep='/').items()}


def _shape(shape):
  return 'absent' if shape is None else f'of shape {list(shape)}'


def _vocabulary(path):
  """The words in a run's file; none if there is no file, as for series."""
  if not path.exists():
    return ()
  try:
    words = path.read_bytes().decode().split('\n')
  except UnicodeDecodeError:
    words = []
  # All lines except the last, which is empty, are words, and each occurs once.
  if words[-1:] != [''] or len({*words}) < len(words):
    raise ValueError(_no_words(path))
  return tuple(words[:-1])


def _no_words(path):
  return f'{path} is damaged: it is not the list of words of this model'


def load_ensembles(workdir: str | os.PathLike) -> dict[str, Ensemble | TextModel | Translator]:
  """Loads the finished runs of a sweep as ensembles, one for each setting, by names such as 'gru'.

  A name consists of the cell and each field of the config, except the seed, in which settings
  differ. Trials of a search are left out. The ensemble is a TextModel for a language model, and a
  Translator for translation.

  workdir: the sweep's folder.

  Raises FileNotFoundError if there is no such folder, and ValueError if it has no finished run.

  >>> list(rnnlab.load_ensembles('runs/imdb'))
  ['lstm']
  """
  workdir = pathlib.Path(workdir)
  folders = _runs(workdir)
  done = [folder for folder in folders if run_files.has_ended(folder)]
  if not done:
    if folders:
      raise ValueError(f'{workdir}: none of {len(folders)} runs has ended')
    load(workdir)  # says what is wrong
    raise ValueError(f'{workdir} is a run, not a sweep: use load')
  if len(done) < len(folders):
    logging.warning('%d of %d runs have not ended', len(folders) - len(done), len(folders))
  groups, known = collections.defaultdict(list), set()
  for folder, predictor in zip(done, map(_load, done), strict=True):
    same = run_files.canonical(predictor.config.to_dict())
    if same in known:
      logging.warning('%s has the config of another run: it is the same, left out', folder.name)
      continue
    known.add(same)
    flat = traverse_util.flatten_dict(predictor.config.to_dict(), sep='.')
    del flat['seed']
    groups[json.dumps(flat)].append(predictor)
  settings = [json.loads(setting) for setting in groups]
  names = ['model.cell'] + [
    name
    for name in dict.fromkeys(name for setting in settings for name in setting)
    if name != 'model.cell' and any(s.get(name) != settings[0].get(name) for s in settings)
  ]
  return {
    progress.label({name: setting.get(name) for name in names}): _together(members)
    for setting, members in zip(settings, groups.values(), strict=True)
  }


def _together(members):
  """The models of a setting as one."""
  if translates(members[0]):
    return translator.of_members(members)
  return text_model(members) if says_tokens(members[0]) else Ensemble(tuple(members))


def _runs(workdir):
  """The folders of a sweep's runs, without the trials of a search, in the sweep's order."""
  stages = {run['id']: run.get('stage', '') for run in run_files.read_sweep(workdir)['runs']}
  found = {path.name for path in run_files.folders(workdir)}
  names = [name for name in stages if name in found] + sorted(found - stages.keys())
  return [workdir / name for name in names if not stages.get(name)]
