"""Random configs, by flag and by experiment file, sweeps, searches, claims and command lines.

    python tests/whole/fuzz_configs.py 2000 [SEED]

Each case is a launch up to its plan of runs; no run is done. It must end with exit status 0 or 2,
in time: with 2, an error in words; with 0, every field that it set must be in the configs of its
runs. Prints how the cases ended, and those that ended in any other way.

A launch is a fork of this process, which has imported everything but not computed with JAX.
"""

import collections
import contextlib
import json
import os
import pathlib
import random
import runpy
import signal
import sys
import tempfile
import time
import traceback
import warnings

ROOT = pathlib.Path(__file__).parents[2]
SECONDS = 60  # after which a launch is considered hung

# Fields, with valid values in Python, each with a misspelling.
FIELDS = {
  'seed': ['0', '7', 'np.int64(3)', '2**32 - 1'],
  'model.cell': ["'lstm'", "'gru'", "'elman'", "np.str_('gru')"],
  'model.hidden_size': ['1', '16', 'np.int32(8)'],
  'model.embed_size': ['1', '16'],
  'model.layers': ['1', '2'],
  'model.bidirectional': ['True', 'False', 'np.bool_(True)'],
  'model.pooling': ["'last'", "'mean'", "'max'", "'concat'"],
  'model.embed_dropout': ['0.0', '0', '0.5'],
  'model.dropout': ['0.0', '0', '0.5', 'np.float32(0.25)'],
  'model.recurrent_dropout': ['0.1', '0'],
  'model.dropout_per_gate': ['True', 'False'],
  'model.output_dropout': ['0.1', '0'],
  'model.precision': ["'float32'", "'bfloat16'"],
  'model.remat': ['True', 'False'],
  'model.truncate': ['()', '(10, 20)', '[5, 10]', '(np.int64(5), np.int64(5))'],
  'model.init': ["'keras'", "'torch'", "'flax'", "'haiku'"],
  'model.gru.reset': ["'after'", "'before'", 'None'],
  'model.lstm.forget_bias': ['0', '1.5', 'None'],
  'data.dir': ["'somewhere'", "''"],
  'data.vocab_size': ['5', '1000'],
  'data.max_len': ['1', '50'],
  'data.padding': ["'pre'", "'post'"],
  'data.truncation': ["'pre'", "'post'"],
  'data.buckets': ['1', '2'],
  'data.validation_fraction': ['0.1', '0.5'],
  'data.split_seed': ['0', '3'],
  'data.max_examples': ['0', '100'],
  'data.label_noise': ['0', '0.1'],
  'optim.name': ["'adam'", "'sgd'", "'asgd'"],
  'optim.learning_rate': ['1e-3', '1', '1e-30'],
  'optim.epsilon': ['1e-8', '1'],
  'optim.schedule': ["'constant'", "'cosine'", "'step'", "'plateau'"],
  'optim.decay': ['0.5', '1', '1e-3'],
  'optim.decay_after': ['0', '4'],
  'optim.patience': ['1', 'np.int64(3)'],
  'optim.nonmonotone': ['1', '5'],
  'optim.warmup_steps': ['0', '10'],
  'optim.clip_norm': ['0', '1.0'],
  'optim.weight_decay': ['0', '0.1'],
  'optim.weight_noise': ['0', '0.1'],
  'train.batch_size': ['1', '32'],
  'train.epochs': ['1', '3', 'np.int64(2)'],
  'train.patience': ['0', '2'],
  'train.gradient_flow': ['False', 'True'],
}
WRONG_FIELDS = (
  'sed',
  'model',
  'model.hiden_size',
  'modle.cell',
  'train.bach_size',
  'train.epochs.more',
  'epochs',
  'data.Mask',
  'model.lstm',
  'model.gru.rset',
  'model.rnn.size',
  'model.hidden_size.',
  'optim.lr',
  'x' * 300,
  'ünïcode.fïeld',
)
NONSENSE = (
  '-1 -2 2.5 True False None 3 0 1 1.0 10**24 2**32 2**63 -2**63 10**400 10**5000 1e-60 1e39 1e308'
  " 0.999999999999 -0.0 float('nan') float('inf') -float('inf') 'x' '' '3' 'GRU' 'lsmt' '\\0'"
  " '\\udc80' 'a\\nb' b'x' [] [1,2] [[1],2] (1,) (0,0) (1,2,3) (2**31,2**32) {} {'a':1} {1}"
  " object() object int 1j range(3) np.int64(3) np.float32(0.5) np.float64('nan') np.bool_(True)"
  " np.array(3) np.arange(3) np.array([]) np.array(['gru','lstm']) np.str_('x')"
  ' (lambda:0) (x/2for/2x/2in/2[1]) print sys decimal.Decimal(1) fractions.Fraction(1,2)'
  " pathlib.Path('x') ConfigDict() ConfigDict({'a':1}) 'x'*9999 ..."
  " type('T',(),{'__repr__':None})()"
).split()
NONSENSE = [text.replace('/2for/2x/2in/2', ' for x in ') for text in NONSENSE]
TEXTS = [
  *('', '0', '-1', '2.5', 'nan', 'inf', '-inf', '1e400', 'True', 'None', '(', '()', '(1, 2)'),
  *('1_000', '0x10', ' 3', '3 ', '٣', 'x', '\n', '9' * 5000, "'", '"a', '{}', '10**24', '[bold]'),
  *('1e-60', '0.9999999999', str(10**24), str(2**63), '__import__("os").getpid()', '\udc80', '%s'),
  *('[1]', 'GRU', 'lsmt', 'post ', 'a=b', '--seed=3', '(' * 300),
]
BODIES = [  # of experiment files, all of them invalid
  '',
  'def get_config(:\n  pass\n',
  'def get_confg():\n  return imdb.get_config("smoke")\n',
  'get_config = 3\n',
  'import no_such_module\n',
  'from rnnlab import no_such_name\n',
  'raise RuntimeError("on purpose")\n',
  'raise RuntimeError\n',
  'import sys\nsys.exit(3)\n',
  'import sys\nsys.exit("words")\n',
  '1 / 0\n',
  'def get_config():\n  return None\n',
  'def get_config():\n  return {"seed": 1}\n',
  'def get_config():\n  return 1 / 0\n',
  'def get_config():\n  return get_config()\n',
  'def get_config(a, b):\n  return 1\n',
  'def get_config(*, preset):\n  return 1\n',
  'def get_config():\n  yield 1\n',
  'class get_config:\n  pass\n',
  'async def get_config():\n  pass\n',
  'from ml_collections import ConfigDict\ndef get_config():\n  return ConfigDict()\n',
  'import rnnlab\nrnnlab.cells.add("gru")\n',
  'import rnnlab\nrnnlab.cells.add(lambda hidden_size: None)\n',
  'import rnnlab\n@rnnlab.cells.add\ndef gru(hidden_size):\n  return None\n',
  'import rnnlab\n@rnnlab.cells.add\ndef mine():\n  return None\n',
  'def get_config(preset):\n  return 1\n',
  'def get_config():\n  raise KeyError\n',
  'def get_config():\n  raise AttributeError("a\\nb\\nc" * 99)\n',
  'x = "\udc80"\n',
  '\0',
  'def f():\n\treturn 1\n        return 2\n',
  '((' * 200 + '\n',
]
HEAD = """import decimal, fractions, pathlib, sys
import numpy as np
from ml_collections import ConfigDict
from experiments import imdb
"""
SWEEPS = [  # (what a sweep does, whether a plan is possible)
  ('pass', False),
  ('return [{"seed": 1}]', False),
  ('yield {"seed": 1}', False),
  ('return 3', False),
  ('add()', False),
  ('add(1, 2)', False),
  ('add({"seed": 1}, 2)', False),
  ('raise RuntimeError("on purpose")', False),
  ('raise KeyError', False),
  ('while True: add({})', False),
  ('add.serch()', False),
  ('add.search()', False),
  ('sys.exit()', False),
  ('sweep(add)', False),
  ('add({"seed": 1}); add({"seed": 1})', True),
  ('add({"seed": 1}); add({"seed": np.int64(1)})', True),
  ('add({})', True),
  ('[add({"seed": s}) for s in np.arange(3)]', True),
  ('for s in range(2): add({"seed": s, "model.dropout": 0})', True),
]
CLAIM = {
  'claim': "'GRU is ahead'",
  'a': "{'model.cell': 'lstm'}",
  'b': "{'model.cell': 'gru'}",
  'metric': "'test_accuracy'",
  'says': "'b >= a'",
  'margin': '0.01',
}
SEARCH = {
  'arms': "[{'model.cell': 'lstm'}, {'model.cell': 'gru'}]",
  'ranges': "{'optim.learning_rate': ('log', 1e-4, 1e-2)}",
  'trials': '2',
  'seeds': 'range(100, 102)',
  'method': "'sobol'",
  'seed': '0',
  'halving': '(1,)',
}
ENTRIES = (
  "'b > a' 'test_acuracy' 'best_epoch' itertools.count() range(10**9) [1,1] [2,1] [0] [-1] 10**9"
  " 'sobel' 'halton' 'optuna' [{'model.cell':'gru'}] [{'model.cell':1}] [{'modle.cell':'gru'}]"
  " {'model.cell':'gru'} {'model.cell':'gur'} {'model.hidden_size':'64'} {'optim.lr':('log',1,2)}"
  " {'optim.learning_rate':('log',0,1)} {'optim.learning_rate':('log',1,np.inf)}"
  " {'model.dropout':('uniform',0,0.5)} {'model.hidden_size':('choice',8,16)}"
  " {'model.hidden_size':('uniform',8,16.5)} {'model.cell':('uniform',0,1)} {1:('log',1,2)}"
  " {'model.dropout':np.array([0,1])} {'model.dropout':('choice',np.float32(0.5))}"
  " {'model.dropout':'uniform'} {'data.mask':('choice',1,0)} {'seed':('choice',1,2)} {1:2}"
  " [{'model.truncate':[5,10]}] {'model.truncate':(5,10)} {'model.cell':['gru']} np.arange(2)+100"
).split()
COMMANDS = (
  '--executor=xyz --executor= --processes=0 --processes=x --process_id=-1 --coordinator=here'
  ' --json=maybe'
  ' --ray_address=head:1 -config --config --config= --config=experiments --config=/ --config=x.py'
  ' --config=experiments/imbd.py --confg=x --epochs=3 --cell=gru --config.=3 --noconfig.seed'
  ' --noconfig.data.mask=1 --config.model={} --config.model.cell smoke -- -x --workdir=/dev/null/x'
  ' --workdir= --workdir=nothing://x --nosweep=3 --retry_failed=x --flagfile=/nowhere --status=2'
  ' --config.sed --undefok=x --verbosity=x --unknown=1 --no-sweep --sweep=False=True'
).split()


def cases(count, seed):
  """(what is wrong, the launch's words, its experiment's file, a dict of the fields it sets)."""
  for number in range(count):
    draw = random.Random(f'{seed} {number}')
    yield draw.choice([by_flag, by_flag, by_file, by_file, sweep, sweep, search, claims, command])(
      draw
    )


def drawn(draw, wrong):
  """A field and a Python expression, and whether the two together are certainly wrong."""
  if wrong and draw.random() < 0.4:
    return draw.choice(WRONG_FIELDS), draw.choice(['1', "'x'", 'True']), True
  field = draw.choice([*FIELDS])
  return field, draw.choice(NONSENSE if wrong else FIELDS[field]), False


def by_flag(draw):
  words, expected, wrong = [], {}, False
  for _ in range(draw.randint(1, 3)):
    field, expression, unknown = drawn(draw, draw.random() < 0.4)
    if field in expected or 'cell' in field and expression == 'None':
      continue
    value = plain(expression) if expression in FIELDS.get(field, ()) else draw.choice(TEXTS)
    if value is None:
      continue
    words.append(f'--config.{field}={value}')
    wrong |= unknown
    if not unknown:
      expected[field] = value if expression in FIELDS[field] else ANY
  words.append(draw.choice(['--nosweep', '--sweep']))
  return wrong, words, None, expected


def by_file(draw):
  if draw.random() < 0.25:
    return True, draw.choice([[], ['--nosweep']]), draw.choice(BODIES), {}
  lines, expected, wrong = [], {}, False
  for _ in range(draw.randint(1, 3)):
    field, expression, unknown = drawn(draw, draw.random() < 0.4)
    how = draw.choice(['set', 'set', 'unlocked', 'delete'] if unknown is False else ['set'])
    if how == 'delete':
      part, _, last = field.rpartition('.')
      lines.append(f'del config{"." * bool(part)}{part}["{last}"]')
      wrong |= 'gru' not in field and 'lstm' not in field
      expected[field] = ANY
      continue
    lines.append(f'put(config, {field!r}, {expression})')
    wrong |= unknown
    if not unknown:
      expected[field] = plain(expression) if expression in FIELDS[field] else ANY
  body = f"""{HEAD}
def put(config, name, value):
  *parts, last = name.split('.')
  with config.unlocked(), config.ignore_type():
    for part in parts:
      if not isinstance(config.get(part), ConfigDict):
        config[part] = ConfigDict()
      config = config[part]
    config[last] = value

def get_config():
  config = imdb.get_config('smoke')
  {
    '''
  '''.join(lines)
  }
  return config
"""
  return wrong, ['--nosweep'], body, expected


def with_sweep(code, more=''):
  return f"""import itertools
{HEAD}
get_config = imdb.get_config

def sweep(add):
  {code}
{more}"""


def sweep(draw):
  if draw.random() < 0.3:
    code, right = draw.choice(SWEEPS)
    return not right, [], with_sweep(code), {}
  expected, wrong, pairs = {}, False, []
  for _ in range(draw.randint(1, 3)):
    field, expression, unknown = drawn(draw, draw.random() < 0.4)
    if field in expected:
      continue
    pairs.append(f'{field!r}: {expression}')
    wrong |= unknown
    if not unknown:
      expected[field] = plain(expression) if expression in FIELDS[field] else ANY
  return wrong, [], with_sweep('add({' + ', '.join(pairs) + '})'), expected


def search(draw):
  options = dict(SEARCH)
  for _ in range(draw.randint(0, 2)):
    options[draw.choice([*SEARCH])] = draw.choice([*ENTRIES, *ENTRIES, *NONSENSE])
  if draw.random() < 0.1:
    options['trails'] = '3'
  if draw.random() < 0.1:
    del options[draw.choice([*options])]
  code = f'add.search({", ".join(f"{name}={value}" for name, value in options.items())})'
  return 'trails' in options, [], with_sweep(code), {}


def claims(draw):
  entries, wrong = dict(CLAIM), False
  for _ in range(draw.randint(0, 2)):
    entries[draw.choice([*CLAIM])] = draw.choice([*ENTRIES, *NONSENSE])
  if draw.random() < 0.1:
    entries['margn'], wrong = '1', True
  if draw.random() < 0.1:
    del entries[draw.choice([*entries])]
  claim = '{' + ', '.join(f'{name!r}: {value}' for name, value in entries.items()) + '}'
  said = draw.choice([f'[{claim}]'] * 4 + [claim, f'({claim} for _ in [1])', *NONSENSE])
  code = f'def claims():\n  return {said}\n'
  return wrong, [], with_sweep("add({'model.cell': 'gru'})", code), {}


def command(draw):
  words = draw.sample(COMMANDS, draw.randint(1, 2))
  if draw.random() < 0.3:
    words.append(draw.choice(['--status', '--json', '--quiet']))
  return False, words, None, {}


ANY = object()  # which values are valid is not known here


def plain(expression):
  import numpy as np

  value = eval(expression, {'np': np})
  return value.item() if isinstance(value, np.generic) else value


def launch(words, body, folder):
  """The exit status of a launch in a fork, and the configs of its plan; its output is there."""
  program = str(ROOT / 'launch.py')
  if body is not None:
    (folder / 'made.py').write_bytes(body.encode('utf-8', 'surrogateescape'))
    words = ['--config=made.py', *words]
  elif not any(word.startswith('--config=') for word in words):
    words = [f'--config={ROOT}/experiments/imdb.py:smoke', *words]
  if not (child := os.fork()):
    status = 1
    try:
      os.chdir(folder)
      for number, name in ((1, 'said'), (2, 'errors')):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), number)
      signal.alarm(SECONDS)
      sys.argv = [program, *words]
      stop_at_the_plan()
      runpy.run_path(program, run_name='__main__')
      status = 0
    except SystemExit as end:
      status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
      traceback.print_exc()
    with contextlib.suppress(Exception):
      sys.stdout.flush()
      sys.stderr.flush()
    os._exit(status)
  status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
  return status, (folder / 'said').read_bytes() + (folder / 'errors').read_bytes()


def stop_at_the_plan():
  """Replaces `conduct` by a function that writes the plan and ends the launch successfully."""
  from rnnlab.data import sources
  from rnnlab.machine import devices
  from rnnlab.runs import configs
  from rnnlab.sweeps import asking, conduct, sweep

  def planned(asked, workdir, *_, **__):
    plan = sweep.plan_of(asked.request, workdir)
    sweep.record(workdir, asked, plan)
    for spec in plan.runs[: not os.getpid() % 8]:
      traced(spec.config)
    runs = [configs.flat(spec.config) for spec in plan.runs]
    pathlib.Path('plan.json').write_text(json.dumps(runs))
    sys.exit(0)

  conduct.conduct = planned
  asking.MOST = 200  # so that endless loops are found soon
  sources.resolve = lambda data: data.source  # which may use the network
  devices.keep_programs = lambda: None


def traced(config):
  """Traces the start of a run, without computing: an accepted config must make a run."""
  import jax

  from rnnlab import cells, tasks
  from rnnlab.runs import configs, program
  from rnnlab.tasks import sequences
  from rnnlab.training import train

  if config.model.layers > 3:
    return
  shape, values = configs.split(config)
  task, cell = tasks.find(shape.task.name), cells.find(shape.model.cell)
  spec = sequences.Spec(shape.data.vocab_size, shape.data.mask, 1, False)
  build = program._build(shape, 2, spec, task.model, cell)
  compiled = train.Program(build, task.loss, task.metrics, shape.train.batch_size, score=task.score)
  key, ids = jax.random.key(config.seed), jax.numpy.zeros((1, 2), int)
  jax.eval_shape(lambda: train.init_state(compiled, values, key, ids))


def faults(case, status, said, folder):
  """What is wrong with the way in which a case ended, if anything."""
  wrong, _, _, expected = case
  said = said.decode(errors='replace')
  if status not in (0, 2):
    return f'status {status}'
  if 'Traceback' in said:
    return 'a traceback'
  if status == 2:
    lines = said.strip().splitlines()
    errors = [line for line in lines if line.startswith('launch.py: ')]
    return '' if len(errors) == 1 and len(lines) <= 5 and len(said) < 2500 else 'no words, or many'
  if wrong:
    return 'accepted'
  if not (folder / 'plan.json').exists():
    return '' if not expected else 'no plan'
  for run in json.loads((folder / 'plan.json').read_text()):
    for field, value in expected.items():
      found = run.get(field)
      if isinstance(value, list | tuple):
        value = list(value)
      if field.endswith(('reset', 'forget_bias')) and value is ANY:
        continue
      if field not in run or value is not ANY and found != value:
        return f'{field}={value!r} became {found!r}'
  return ''


def main(count, seed=0):
  """Does `count` cases; returns whether all ended as they must."""
  import forks

  forks.load()
  warnings.simplefilter('ignore')  # JAX's, about forks: no threads run yet
  os.environ['COLUMNS'] = '200'
  began, ended, found = time.monotonic(), collections.Counter(), []
  for number, case in enumerate(cases(count, seed)):
    with tempfile.TemporaryDirectory() as folder:
      folder = pathlib.Path(folder)
      status, said = launch(*case[1:3], folder)
      ended[status] += 1
      if fault := faults(case, status, said, folder):
        found.append(fault)
        words = said.decode(errors='replace')
        print(ascii(f'case {number}: {fault}\n  {case[:2]}\n{case[2] or ""}\n{words}'), flush=True)
  print(
    f'{count} cases: {ended[0]} planned, {ended[2]} refused in words, {len(found)} faults;'
    f' {time.monotonic() - began:.0f} s'
  )
  return not found


if __name__ == '__main__':
  sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]
  sys.exit(not main(int(sys.argv[1]), *map(int, sys.argv[2:])))
