"""What a config must be, and the run that it describes.

FIELDS has every field once: what it is by default, what it may be, what it is for. Beside these a
config has the options of cells, `model.CELL.OPTION`, which are what the cell's factory takes. What
is neither is an error, wherever it was written, as no code would read it. Loads JAX only to check.
"""

import ast
import hashlib
import inspect
import json
import math
import os
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from rnnlab.console.words import near
from rnnlab.runs import experiment_file

TINY = float(np.finfo(np.float32).tiny)  # programs compute in float32, which has nothing below


class Kind(NamedTuple):
  """What a field may be. right: whether a value is. what: it in words. words: of a choice."""

  right: Callable[[Any], bool]
  what: Callable[[], str]
  words: Callable[[], Sequence[str]] = tuple


class Field(NamedTuple):
  """A field of a config.

  traced: whether a compiled program takes it as an argument, so that runs that differ in it alone
  share one; False too of what a program has nothing to do with. Of what is off at 0, as a dropout,
  the program is of runs that have it, or that have it not.
  """

  default: Any
  kind: Kind
  help: str = ''
  traced: bool = False


def _whole(least, most=2**31 - 1, why=''):
  upper = f' and at most {most:,}' if most < math.inf else ''
  return Kind(
    lambda value: type(value) is int and least <= value <= most,
    lambda: f'a whole number, at least {least:,}{upper}{why}',
  )


def _number(right, what):
  def fits(value):
    if type(value) is not float or not math.isfinite(value):
      return False
    with np.errstate(over='ignore'):
      kept = np.float32(value)
    return (value == 0 or TINY <= abs(kept) < np.inf) and bool(right(kept))

  return Kind(fits, lambda: f'{what}, in float32')


def _choice(words):
  return Kind(
    lambda value: isinstance(value, str) and value in words(),
    lambda: f'one of {", ".join(words())}',
    words,
  )


def _cells():
  from rnnlab import cells

  return cells.names()


def _of(room, name):
  """The words in a room of rnnlab that loads JAX."""

  def words():
    import importlib

    return getattr(importlib.import_module(f'rnnlab.{room}'), name)

  return words


def _is_truncation(value):
  from rnnlab import recurrence

  return value == () or recurrence.is_truncation(value) and max(value) < 2**31


_FLAG = Kind(lambda value: type(value) is bool, lambda: 'True or False')
_PATH = Kind(
  lambda value: isinstance(value, str) and '\0' not in value, lambda: "a path, or '' for none"
)
NAME_MAX = 255  # bytes of a folder's name, on most file systems
READABLE = 150  # of a name that would be longer
_RATE = _number(lambda rate: 0 <= rate < 1, 'a number, at least 0 and below 1')
_SHARE = _number(lambda share: 0 <= share <= 0.5, 'a number from 0 to 0.5')
_ABOVE_0 = _number(lambda x: x > 0, 'a number above 0')
_FROM_0 = _number(lambda x: x >= 0, 'a number, at least 0')
_ENDS = _choice(lambda: ('pre', 'post'))
_SIZE = _whole(1, math.inf)  # how much is too much depends on the machine: see `_room`
_EXACT = 2**24  # whole numbers up to which float32 has each

FIELDS = {
  'seed': Field(0, _whole(0, 2**32 - 1)),
  'model.cell': Field('lstm', _choice(_cells), 'any file in rnnlab/cells/'),
  'model.hidden_size': Field(64, _SIZE),
  'model.embed_size': Field(128, _SIZE),
  'model.layers': Field(1, _whole(1, 1000)),
  'model.bidirectional': Field(False, _FLAG),
  'model.pooling': Field('last', _choice(_of('models', 'POOLINGS')), 'last | mean | max | concat'),
  'model.embed_dropout': Field(0.0, _RATE, traced=True),
  'model.dropout': Field(0.2, _RATE, traced=True),
  'model.recurrent_dropout': Field(0.2, _RATE, traced=True),
  'model.dropout_per_gate': Field(False, _FLAG),
  'model.output_dropout': Field(0.0, _RATE, traced=True),
  'model.precision': Field(
    'float32',
    _choice(_of('models', 'PRECISIONS')),
    "float32 | bfloat16, of the operands of the cell's products",
  ),
  'model.remat': Field(
    False, _FLAG, 'memory that grows as the root of max_len, for one more run forward'
  ),
  'model.truncate': Field(
    (),
    Kind(_is_truncation, lambda: f'() or {_of("recurrence", "TRUNCATION")()}'),
    '(k1, k2): gradients of k1 steps go back k2; (): to the first step',
  ),
  'model.init': Field(
    'keras',
    _choice(_of('models.initial', 'NAMES')),
    'keras | torch | flax | haiku: whose initial weights and GRU',
  ),
  'data.name': Field('imdb', _choice(lambda: ('imdb',))),
  'data.source': Field(
    'auto',
    _choice(lambda: ('auto', *_of('data.sources', 'SOURCES')())),
    'auto | tfds | directory | package',
  ),
  'data.dir': Field(
    '', _PATH, "TFDS's data_dir; or an aclImdb folder or tar.gz for source=directory"
  ),
  'data.vocab_size': Field(10_000, _whole(5, 2**31 - 1, ': ids 0 to 3 are not words')),
  'data.max_len': Field(200, _whole(1)),
  'data.padding': Field('pre', _ENDS, 'pre | post'),
  'data.truncation': Field('pre', _ENDS, 'pre | post'),
  'data.mask': Field(True, _FLAG, 'the padding takes no part'),
  'data.buckets': Field(
    4, _whole(1), 'widths that batches are padded to, by length; above 1 needs mask'
  ),
  'data.validation_fraction': Field(
    0.2, _SHARE, 'of train; 0: the test split is the validation split'
  ),
  'data.split_seed': Field(0, _whole(0, 2**63 - 1)),
  'data.max_examples': Field(0, _whole(0), 'in each split; 0: all'),
  'data.label_noise': Field(
    0.0, _SHARE, 'the share of the train labels that are turned round', traced=True
  ),
  'optim.name': Field('adam', _choice(_of('training.optim', 'OPTIMIZERS'))),
  'optim.learning_rate': Field(1e-3, _ABOVE_0, traced=True),
  'optim.epsilon': Field(1e-8, _ABOVE_0, traced=True),
  'optim.schedule': Field(
    'constant', _choice(_of('training.optim', 'SCHEDULES')), 'constant | linear | cosine'
  ),
  'optim.warmup_steps': Field(0, _whole(0, _EXACT), traced=True),
  'optim.clip_norm': Field(0.0, _FROM_0, '0: no clipping', traced=True),
  'optim.weight_decay': Field(0.0, _FROM_0, traced=True),
  'train.batch_size': Field(32, _whole(1)),
  'train.epochs': Field(10, _whole(1, _EXACT), traced=True),
  'train.patience': Field(
    0, _whole(0), 'epochs without a better validation accuracy to stop after; 0: none'
  ),
}
VALUES = tuple(name for name, field in FIELDS.items() if field.traced)
HOSTS = 'seed', 'train.patience'  # that a program has nothing to do with


class RunSpec(NamedTuple):
  """A run to do.

  overrides: what sets it apart in its sweep. command: the one given. until: the epoch after which
  it pauses, 0 for its end. stage: 'search' for a trial of a search, '' for what is compared. wandb:
  whether Weights & Biases is told of it too. source: the file, and the preset, of the experiment
  that adds its cell, None where rnnlab has it.
  """

  id: str
  overrides: dict[str, Any]
  config: ConfigDict
  command: str = ''
  until: int = 0
  stage: str = ''
  wandb: bool = False
  source: tuple[str, str | None] | None = None


def default() -> ConfigDict:
  """A config in which every field is as in FIELDS."""
  return ConfigDict(nested({name: field.default for name, field in FIELDS.items()}))


def specify(config: ConfigDict, overrides: dict | None = None, command: str = '') -> RunSpec:
  """The run of `config`, named by its cell, its seed and `overrides`."""
  named = {'model.cell': config.model.cell, 'seed': config.seed} | (overrides or {})
  source = experiment_file.adding(config.model.cell)
  return RunSpec(run_id(named, config), named, config, command, source=source)


def run_id(overrides: dict, config: ConfigDict) -> str:
  """A folder name: the overrides, as far as they fit, then a hash of the whole config."""
  words = [
    re.sub(r'[^\w.+-]', '', f'{name.split(".")[-1]}-{value}') for name, value in overrides.items()
  ]
  name, end = '_'.join(words), f'_{config_hash(config.to_dict())}'
  if len(f'{name}{end}'.encode()) > NAME_MAX:
    name = name.encode()[:READABLE].decode(errors='ignore')
  return f'{name}{end}'


def config_hash(config: dict) -> str:
  """The hash that ends the name of a config's run."""
  text = json.dumps(config, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:8]


def split(config: ConfigDict) -> tuple[FrozenConfigDict, dict[str, np.float32]]:
  """What the program of a run is compiled from, and the numbers it is then given, by dotted name.

  The first has True or False for each of VALUES, as it is 0 or not, and the second those that are
  not.
  """
  shape, values = config.to_dict(), {}
  for name in (*VALUES, *HOSTS):
    part, _, field = name.rpartition('.')
    fields = shape[part] if part else shape
    if name in HOSTS:
      del fields[field]
      continue
    if fields[field]:
      values[name] = np.float32(fields[field])
    fields[field] = bool(fields[field])
  return FrozenConfigDict(shape), values


def check(config: ConfigDict) -> ConfigDict:
  """The config of a run, its values plain Python of the field's type: 1 is 1.0 where that is meant.

  Raises ValueError, naming the field and what it may be, for a config that describes no run.
  """
  return _run(flat(config))


def change(config: ConfigDict, overrides: dict[str, Any]) -> tuple[ConfigDict, dict[str, Any]]:
  """The config of a run with `overrides`, by dotted name, and these as it has them.

  Raises ValueError as `check`.
  """
  if not isinstance(overrides, dict):
    raise ValueError(
      f"{words(overrides)}: overrides are a dict, as {{'model.cell': 'gru', 'seed': 1}}"
    )
  run = _run(flat(config) | overrides)
  fields = flat(run)
  return run, {name: fields[name] for name in overrides}


def check_fields(config: ConfigDict) -> ConfigDict:
  """As `check` of each field, but not of what they are together, which a sweep may yet change."""
  return ConfigDict(nested(_fields(flat(config))))


def check_options(names, cells: Sequence[str]) -> None:
  """Raises ValueError for an option among `names` of a cell that is none of `cells`."""
  for name in names:
    cell = name.split('.')[1] if name not in FIELDS else None
    if cell and cell not in cells:
      raise ValueError(f'{name} is read by the cell {cell} alone, and here is no run of it')


def take(name: str, value) -> Any:
  """What a field keeps of a value: plain Python, and float where that is meant.

  Raises ValueError for a field that there is not, or that may not be so.
  """
  if not isinstance(name, str):
    raise ValueError(f"{words(name)} is no field; fields have names, as 'model.cell'")
  try:
    kept = plain(value)
  except ValueError as error:
    raise ValueError(f'--config.{name}={error}') from None
  if name not in FIELDS:
    return _take_option(name, kept)
  default, kind, *_ = FIELDS[name]
  if type(default) is float and type(kept) is int and abs(kept) < 1e300:
    kept = float(kept)
  if kind.right(kept):
    return kept
  close = near(kept, kind.words()) if isinstance(kept, str) else ''
  raise ValueError(f'--config.{name}={words(kept)}{close}: must be {kind.what()}')


def parse(name: str, text: str) -> Any:
  """The value that a flag's text stands for in a field, by the type of what it is by default.

  Raises ValueError where it stands for none; whether it is in range, `take` says.
  """
  default = FIELDS[name].default if name in FIELDS else _option(name)[2].default
  try:
    if isinstance(default, bool):
      return {'true': True, 't': True, '1': True, 'false': False, 'f': False, '0': False}[
        text.lower()
      ]
    if isinstance(default, int) and name in FIELDS:
      return int(text)
    if isinstance(default, int | float):
      return float(text)
    if isinstance(default, str):
      return text
    value = ast.literal_eval(text)
    return value if isinstance(value, tuple) or name not in FIELDS else (value,)
  except (KeyError, ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
    return take(name, text)  # which says what it must be, or has a text where it may be one


def plain(value) -> Any:
  """A value in plain Python: of NumPy's scalars what they hold; a list as a tuple.

  Raises ValueError for what is no number, text, truth, None, nor a list of such, as an array.
  """
  if isinstance(value, np.generic):
    value = value.item()
  if isinstance(value, list | tuple):
    return tuple(map(plain, value))
  if value is None or type(value) in (bool, int, float, str):
    return value
  for kind in (str, int, float):  # as of an enumeration
    if isinstance(value, kind):
      return kind(value)
  raise ValueError(f'{words(value)} is a {type(value).__name__}: must be a number, text or truth')


def words(value) -> str:
  """A value in one line, shortened."""
  try:
    line = ' '.join(repr(value).split())
  except Exception:  # of an object of the user's, or a number of too many digits
    line = f'<{type(value).__name__}>'
  return line if len(line) <= 80 else f'{line[:76]} ...'


def flat(config) -> dict[str, Any]:
  """The values of a config, or of a nested dict, by dotted name."""
  if isinstance(config, ConfigDict | FrozenConfigDict):
    config = config.to_dict()
  if not isinstance(config, dict):
    raise ValueError(f'a config must be a ConfigDict, not {words(config)}')
  found = {}
  for name, value in config.items():
    if isinstance(value, dict):
      found |= {f'{name}.{inner}': v for inner, v in flat(value).items()}
    else:
      found[name] = value
  return found


def nested(fields: dict[str, Any]) -> dict[str, Any]:
  """The dict of dicts of which `fields` is `flat`."""
  found = {}
  for name, value in fields.items():
    *parts, last = name.split('.')
    place = found
    for part in parts:
      place = place.setdefault(part, {})
    place[last] = value
  return found


def _fields(fields):
  taken = {name: take(name, value) for name, value in fields.items()}
  if missing := [name for name in FIELDS if name not in taken]:
    more = f', nor {len(missing) - 1} more' if len(missing) > 1 else ''
    raise ValueError(
      f'the config has no field {missing[0]!r}{more}; begin with'
      ' rnnlab.runs.configs.default(), which has all of them'
    )
  return taken


def _run(fields):
  """The config of these fields, which together have to describe a run."""
  fields = _fields(fields)
  if fields['data.buckets'] > 1 and not fields['data.mask']:
    raise ValueError(
      f'--config.data.buckets={fields["data.buckets"]} needs --config.data.mask=True: without a'
      ' mask the padding is part of what the model sees, and cutting it off changes the model.'
      ' Either set the mask, or --config.data.buckets=1'
    )
  if fields['train.patience'] and not fields['data.validation_fraction']:
    raise ValueError(
      f'--config.train.patience={fields["train.patience"]} needs --config.data.validation_fraction'
      ' above 0: without it the test split would say when to stop'
    )
  _room(fields)
  config = ConfigDict(nested(fields))
  _make_cell(config.model)
  return config


def _room(fields):
  """Raises ValueError where the least that a run takes is more than this machine's memory."""
  vocab_size, embed_size = fields['data.vocab_size'], fields['model.embed_size']
  hidden_size, directions = fields['model.hidden_size'], 1 + fields['model.bidirectional']
  deeper = (fields['model.layers'] - 1) * (directions + 1) * hidden_size
  width = fields['data.max_len'] if fields['data.buckets'] == 1 else 1
  batch_size = fields['train.batch_size']
  least = {
    # Numbers of 4 bytes; of weights, which have a gradient, twice, and of a cell's one gate.
    'data.vocab_size model.embed_size': 2 * vocab_size * embed_size,
    'model.hidden_size model.embed_size model.layers': (
      2 * directions * hidden_size * (embed_size + hidden_size + deeper)
    ),
    'train.batch_size data.max_len model.hidden_size': batch_size * (width + hidden_size),
  }
  here = memory()
  for names, count in least.items():
    if 4 * count > here:
      given = ' '.join(f'--config.{name}={words(fields[name])}' for name in names.split())
      raise ValueError(
        f'{given}: take at least {size_words(4 * count)} of memory, and this machine has'
        f' {size_words(here)}'
      )


def memory() -> float:
  """The bytes of memory that this machine has."""
  try:
    return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  except (AttributeError, ValueError, OSError):  # not known here
    return math.inf


def size_words(count: int) -> str:
  """So many bytes, for people."""
  if count >= 10**30:
    return 'more than 10^12 EB'
  size, unit = (10**18, 'EB') if count >= 10**18 else (10**9, 'GB')
  return f'{count // size:,} {unit}'


def _option(name):
  """(cell, option, the parameter of its factory) of a field `model.CELL.OPTION`, or ValueError."""
  from rnnlab import cells

  part, _, rest = name.partition('.')
  cell, _, option = rest.partition('.')
  parts = [f'model.{cell}' for cell in cells.names()]
  if part == 'model' and option and cell not in cells.names():
    raise ValueError(f'the config has no field {words(name)}{near(f"model.{cell}", parts)}')
  if part != 'model' or not option:
    known = [*FIELDS, *parts]
    inner = [field for field in known if field.startswith(f'{name}.')]
    hint = f': it is a part, with fields as {inner[0]!r}' if inner else near(name, known)
    raise ValueError(f'the config has no field {words(name)}{hint}')
  options = {
    option: parameter
    for option, parameter in inspect.signature(cells.find(cell)).parameters.items()
    if option != 'hidden_size'
  }
  if option not in options:
    has = f'it has {", ".join(options)}' if options else 'it has none'
    raise ValueError(
      f'the config has no field {words(name)}: the cell {cell} has no option'
      f' {option!r}{near(option, options)}; {has}'
    )
  return cell, option, options[option]


def _take_option(name, value):
  cell, _, parameter = _option(name)
  default = parameter.default
  if value is None:  # the convention's, or the factory's own
    return value
  for kinds, what in (
    ((bool,), 'True or False'),
    ((int, float), 'a finite number'),
    ((str,), 'a text'),
  ):
    if type(default) in kinds:
      finite = not isinstance(value, int | float) or _is_finite(value)
      if type(value) in kinds and finite:
        return float(value) if type(default) is float else value
      raise ValueError(f'--config.{name}={words(value)}: must be {what}, as the cell {cell} has it')
  return value


def _is_finite(value):
  return math.isfinite(value) if isinstance(value, float) else abs(value) < 2**63


def _make_cell(model):
  """Raises ValueError for options of a cell that its factory refuses, or where it makes no Cell."""
  from rnnlab import cells
  from rnnlab.models import conventions

  options = dict(model.get(model.cell, {}))
  try:
    made = conventions.cell(model.init, model.cell, hidden_size=model.hidden_size, **options)
  except ValueError:
    raise
  except Exception as error:
    raise ValueError(
      f'the cell {model.cell} cannot be made with hidden_size={model.hidden_size}'
      f' {options or ""}: {type(error).__name__}: {" ".join(str(error).split())[:300]}'
    ) from error
  if not isinstance(made, cells.Cell):
    raise ValueError(f'the factory of the cell {model.cell} must return a Cell, not {words(made)}')
