"""Initial parameters under each `model.init`: the live library's draws, and published formulas.

Keras and Flax are always tested; PyTorch and Haiku if they are installed, their formulas always.
"""

import functools
import sys
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from ml_collections import FrozenConfigDict
from numpy.testing import assert_allclose, assert_array_equal

from experiments import imdb
from rnnlab import cells, models
from rnnlab.cells import base
from rnnlab.models import initial as conventions
from rnnlab.runs import configs
from rnnlab.tasks import sequences

VOCABULARY, INPUTS, HIDDEN, DRAWS = 50, 24, 16, 256
TEXTS = sequences.Spec(VOCABULARY, False, 1, False)
GATES = {'elman': '.', 'lstm': 'ifgo', 'gru': 'rzn'}

every_cell = pytest.mark.parametrize('name', GATES)


def config_of(init, name, **options):
  """A user's config, from fields."""
  config = imdb.get_config('smoke')
  config.model.update(init=init, cell=name, hidden_size=HIDDEN, embed_size=INPUTS)
  config.update_from_flattened_dict({f'model.{name}.{k}': v for k, v in options.items()})
  configs.check(config)
  return config


def draws_of(init, seed=0):
  """DRAWS results of a function of a key, one after the other.

  If a program has several batched QR decompositions of jaxlib's, they may deadlock.
  """
  keys = jax.random.split(jax.random.key(seed), DRAWS)
  return jax.jit(lambda keys: jax.lax.map(init, keys))(keys)


@functools.cache
def drawn(init, name):
  """The initial parameters of DRAWS runs, by part: each [DRAWS, ...]."""
  model = sequences.model(FrozenConfigDict(config_of(init, name).model), TEXTS)
  ids = jnp.zeros((1, 2), int)
  params = draws_of(lambda key: model.init(key, ids)['params'])
  cell = params['Recurrent_0']['cell']
  return parts(
    name,
    embed=params['Embed_0']['embedding'],
    **{part: cell[part] for part in ('w_x', 'w_h')},
    biases=np.split(cell['b'], len(GATES[name]), -1) + [cell[b] for b in cell if b == 'b_hn'],
    head=params['Dense_0']['kernel'],
    head_bias=params['Dense_0']['bias'],
  )


def parts(name, biases, **found):
  """All parts by name, the biases gate by gate in rnnlab's order, then b_hn if there is one."""
  names = [f'b_{gate}' for gate in GATES[name]] + ['b_hn'] * (len(biases) > len(GATES[name]))
  return {k: np.asarray(v) for k, v in (found | dict(zip(names, biases, strict=True))).items()}


# The live libraries.


def live_keras(name):
  import keras

  keras.utils.set_random_seed(0)
  rnn = {'elman': keras.layers.SimpleRNN, 'lstm': keras.layers.LSTM, 'gru': keras.layers.GRU}[name]

  def weights(layer, *shape):
    layer.build(shape)
    return layer.get_weights()

  draws = []
  for _ in range(8):
    (embed,) = weights(keras.layers.Embedding(VOCABULARY, INPUTS), None, None)
    w_x, w_h, b = weights(rnn(HIDDEN), None, None, INPUTS)
    head, head_bias = weights(keras.layers.Dense(1), None, HIDDEN)
    biases = np.split(np.atleast_2d(b), len(GATES[name]), -1)
    if name == 'gru':  # [2, H]: z, r, h
      z, r, h = biases
      biases = [r.sum(0), z.sum(0), h[0], h[1]]
    draws.append((embed, w_x, w_h, [np.ravel(b) for b in biases], head, head_bias))
  embed, w_x, w_h, biases, head, head_bias = zip(*draws, strict=True)
  biases = [np.stack(gate) for gate in zip(*biases, strict=True)]
  return parts(name, biases, embed=embed, w_x=w_x, w_h=w_h, head=head, head_bias=head_bias)


def live_flax(name):
  cell = {'elman': nn.SimpleCell, 'lstm': nn.LSTMCell, 'gru': nn.GRUCell}[name](HIDDEN)
  x = jnp.zeros((1, INPUTS))

  def init(key):
    carry = cell.initialize_carry(key, x.shape)
    embed = nn.Embed(VOCABULARY, INPUTS).init(key, jnp.zeros(1, int))['params']
    head = nn.Dense(1).init(key, jnp.zeros((1, HIDDEN)))['params']
    return embed['embedding'], cell.init(key, carry, x)['params'], head

  embed, params, head = draws_of(init, seed=9)
  w_x, w_h = (
    np.concatenate([params[k]['kernel'] for k in params if k[0] == letter], -1) for letter in 'ih'
  )
  biased = {'elman': ['i'], 'lstm': ['hi', 'hf', 'hg', 'ho'], 'gru': ['ir', 'iz', 'in', 'hn']}[name]
  assert set(biased) == {k for k in params if 'bias' in params[k]}
  biases = [params[k]['bias'] for k in biased]
  head, head_bias = head['kernel'], head['bias']
  return parts(name, biases, embed=embed, w_x=w_x, w_h=w_h, head=head, head_bias=head_bias)


def live_torch(name):
  torch = pytest.importorskip('torch')
  torch.manual_seed(0)
  rnn = {'elman': torch.nn.RNN, 'lstm': torch.nn.LSTM, 'gru': torch.nn.GRU}[name]
  draws = []
  for _ in range(64):
    w_x, w_h, b_x, b_h = (p.detach().numpy() for p in rnn(INPUTS, HIDDEN).parameters())
    b_x, b_h = (np.split(b, len(GATES[name])) for b in (b_x, b_h))
    biases = [x + h for x, h in zip(b_x, b_h, strict=True)]
    if name == 'gru':
      biases = [*biases[:2], b_x[2], b_h[2]]
    head = torch.nn.Linear(HIDDEN, 1)
    head, head_bias = head.weight.detach().numpy().T, head.bias.detach().numpy()
    embed = torch.nn.Embedding(VOCABULARY, INPUTS).weight.detach().numpy()
    draws.append((embed, w_x.T, w_h.T, biases, head, head_bias))
  embed, w_x, w_h, biases, head, head_bias = zip(*draws, strict=True)
  biases = [np.stack(gate) for gate in zip(*biases, strict=True)]
  return parts(name, biases, embed=embed, w_x=w_x, w_h=w_h, head=head, head_bias=head_bias)


def live_haiku(name):
  hk = pytest.importorskip('haiku')
  core = {'elman': hk.VanillaRNN, 'lstm': hk.LSTM, 'gru': hk.GRU}[name]

  def run():
    core(HIDDEN)(jnp.zeros((1, INPUTS)), core(HIDDEN).initial_state(1))
    hk.Embed(VOCABULARY, INPUTS)(jnp.zeros(1, int))
    hk.Linear(1, name='head')(jnp.zeros((1, HIDDEN)))

  params = draws_of(hk.transform(run).init, seed=9)
  embed, head = params.pop('embed')['embeddings'], params.pop('head')
  params = {k.split('/')[-1]: v for k, v in params.items()}
  if name == 'elman':
    w_x, w_h = (params[k]['w'] for k in ('linear', 'linear_1'))
    biases = [params['linear']['b'] + params['linear_1']['b']]
  elif name == 'lstm':
    w_x, w_h = np.split(params['linear']['w'], [INPUTS], 1)
    i, g, f, o = np.split(params['linear']['b'], 4, -1)
    biases = [i, f + 1, g, o]
  else:
    w_x, w_h = params['gru']['w_i'], params['gru']['w_h']
    z, r, n = np.split(params['gru']['b'], 3, -1)
    biases = [r, z, n]
  head, head_bias = head['w'], head['b']
  return parts(name, biases, embed=embed, w_x=w_x, w_h=w_h, head=head, head_bias=head_bias)


LIVE = {'keras': live_keras, 'flax': live_flax, 'torch': live_torch, 'haiku': live_haiku}


@pytest.mark.slow
@pytest.mark.parametrize('init', LIVE)
@every_cell
def test_a_run_starts_as_the_live_library_does(init, name):
  theirs, ours = LIVE[init](name), drawn(init, name)
  assert set(ours) == set(theirs)
  for part, expected in theirs.items():
    actual = ours[part]
    assert actual.shape[1:] == expected.shape[1:], part
    if np.ptp(expected) == 0:
      assert_array_equal(np.unique(actual), np.unique(expected), part)
    else:
      assert scipy.stats.ks_2samp(actual.ravel(), expected.ravel()).pvalue > 1e-3, part
      size = min(actual.size, expected.size)
      assert_allclose(actual.std(), expected.std(), 4 / np.sqrt(2 * size), err_msg=part)
  assert orthogonal(ours['w_h']) == orthogonal(theirs['w_h'])


def orthogonal(draws):
  """How the recurrent matrix is orthogonal: each of its 'gates', the 'whole', or not at all."""
  found = set()
  for w in draws:
    gates = np.split(w, w.shape[1] // HIDDEN, 1)
    if all(np.allclose(gate.T @ gate, np.eye(HIDDEN), atol=1e-4) for gate in gates):
      found.add('gates')
    else:
      found.add('whole' if np.allclose(w @ w.T, np.eye(HIDDEN), atol=1e-4) else '')
  (kind,) = found
  return kind


# Formulas: torch/nn/modules/{rnn,linear,sparse}.py; haiku/_src/{recurrent,basic,embed}.py.


def uniform(bound):
  return scipy.stats.uniform(-bound, 2 * bound)


def two_uniforms(bound):
  """The sum of two uniform distributions."""
  return scipy.stats.triang(0.5, -2 * bound, 4 * bound)


def truncated(scale):
  return scipy.stats.truncnorm(-2, 2, scale=scale)


def formulas(init, name):
  """The distribution of each part, or its constant value."""
  biases = [f'b_{gate}' for gate in GATES[name]]
  if init in ('torch', 'awd'):
    bound = 1 / np.sqrt(HIDDEN)
    each, head = uniform(bound), uniform(1 / np.sqrt(HIDDEN))
    found = {'embed': scipy.stats.norm(0, 1), 'w_x': each, 'w_h': each}
    found |= dict.fromkeys(biases, two_uniforms(bound)) | {'head': head, 'head_bias': head}
    found |= {'b_n': each, 'b_hn': each} if name == 'gru' else {}
    if init == 'awd':  # awd-lstm-lm's model.py: init_weights, and torch.nn.LSTM's own
      found |= {'embed': uniform(0.1), 'head': uniform(0.1), 'head_bias': 0}
    return found
  found = {'embed': truncated(1), 'head': truncated(1 / np.sqrt(HIDDEN)), 'head_bias': 0}
  found |= dict.fromkeys(biases, 0)
  if name == 'lstm':
    joint = truncated(1 / np.sqrt(INPUTS + HIDDEN))
    return found | {'w_x': joint, 'w_h': joint, 'b_f': 1}
  correction = 0.87962566103423978 if name == 'gru' else 1  # VarianceScaling's; Linear has none
  sizes = {'w_x': INPUTS, 'w_h': HIDDEN}
  return found | {part: truncated(1 / np.sqrt(n) / correction) for part, n in sizes.items()}


@pytest.mark.parametrize('init', ['torch', 'haiku', 'awd'])
@every_cell
def test_a_run_starts_as_published(init, name):
  expected, ours = formulas(init, name), drawn(init, name)
  assert set(ours) == set(expected)
  for part, law in expected.items():
    if isinstance(law, int):
      assert (ours[part] == law).all(), part
    else:
      assert scipy.stats.kstest(ours[part].ravel(), law.cdf).pvalue > 1e-3, part
      assert_allclose(ours[part].std(), law.std(), 4 / np.sqrt(2 * ours[part].size), err_msg=part)
  assert not orthogonal(ours['w_h'])


# Keras's is the default, and what rnnlab has always had, to the bit.


@every_cell
def test_the_default_is_keras_s_as_it_was_to_the_bit(name):
  key, gates = jax.random.key(3), len(GATES[name])
  k_x, k_h = jax.random.split(key)
  b = np.zeros(gates * HIDDEN, 'float32')
  if name == 'lstm':
    b[HIDDEN : 2 * HIDDEN] = 1
  glorot, orthogonal = jax.nn.initializers.glorot_uniform(), jax.nn.initializers.orthogonal()
  expected = {
    'w_x': glorot(k_x, (INPUTS, gates * HIDDEN)),
    'w_h': orthogonal(k_h, (HIDDEN, gates * HIDDEN)),
    'b': b,
  }
  if name == 'gru':
    expected['b_hn'] = np.zeros(HIDDEN, 'float32')
  assert imdb.get_config().model.init == 'keras'
  model = sequences.model(FrozenConfigDict(config_of('keras', name).model), TEXTS)
  for cell in (cells.get(name, hidden_size=HIDDEN), model.cell):
    jax.tree.map(assert_array_equal, cell.init(key, INPUTS), expected)
  embed = conventions.get(model.convention).embed(key, (VOCABULARY, INPUTS))
  uniform = jax.nn.initializers.uniform(scale=0.1)
  assert_array_equal(embed, uniform(key, (VOCABULARY, INPUTS)) - 0.05)


# Explicit options take precedence over the convention.


def test_a_value_in_the_config_goes_before_the_convention_s():
  def cell(init, name, **options):
    model = FrozenConfigDict(config_of(init, name, **options).model)
    return sequences.model(model, TEXTS).cell

  variants = {init: cell(init, 'gru').fused for init in conventions.NAMES}
  assert variants == {init: 'gru-after' for init in conventions.NAMES} | {'haiku': 'gru-before'}
  assert cell('haiku', 'gru', reset='after').fused == 'gru-after'
  assert cell('keras', 'gru', reset='before').fused == 'gru-before'

  def bias_of_f(cell):
    return cell.init(jax.random.key(0), INPUTS)['b'][HIDDEN : 2 * HIDDEN]

  for init in ('keras', 'flax', 'haiku'):
    assert (bias_of_f(cell(init, 'lstm')) == (init != 'flax')).all()
    for value in (0.0, 2.5):
      assert (bias_of_f(cell(init, 'lstm', forget_bias=value)) == value).all()
  drawn, raised = (bias_of_f(cell('torch', 'lstm', forget_bias=value)) for value in (0.0, 2.0))
  assert_allclose(raised, drawn + 2, 1e-6)  # on top of what is drawn
  assert np.unique(drawn).size > 1


def test_an_initialiser_that_is_given_goes_before_the_convention_s():
  twos = jax.nn.initializers.constant(2.0)
  for init in conventions.NAMES:
    cell = conventions.cell(init, 'lstm', hidden_size=HIDDEN, recurrent_init=twos)
    params = cell.init(jax.random.key(0), INPUTS)
    assert (params['w_h'] == 2).all() and np.unique(params['w_x']).size > 100


@pytest.mark.parametrize('init', conventions.NAMES)
def test_the_same_call_is_the_same_cell(init):
  """So that the runs of a sweep share a program."""
  for name in cells.names():
    first, again = (conventions.cell(init, name, hidden_size=HIDDEN) for _ in range(2))
    assert first is again


# Cells that know nothing of it, or only a part.


@pytest.fixture
def new_cell(monkeypatch):
  """Registers a factory as the cell `fresh`, as a file of that name would."""

  def make(factory):
    module = types.ModuleType('rnnlab.cells.fresh')
    module.fresh = factory
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(cells, 'names', lambda: ['fresh'])

  yield make


@pytest.mark.parametrize('init', conventions.NAMES)
def test_a_cell_without_such_options_starts_as_it_does_by_itself(init, new_cell):
  def fresh(hidden_size, *, reset=7, forget_bias=3.0):
    def draw(key, input_size):
      return {
        'w_h': base.recurrent_init(key, (hidden_size, hidden_size)),
        'options': (reset, forget_bias),
      }

    return base.Cell(draw, None, None)

  new_cell(fresh)
  params = conventions.cell(init, 'fresh', hidden_size=HIDDEN).init(jax.random.key(0), INPUTS)
  expected = base.recurrent_init(jax.random.key(0), (HIDDEN, HIDDEN))
  assert_array_equal(params['w_h'], expected)
  assert params['options'] == (7, 3.0)  # options of lstm and gru, not of any namesake


@pytest.mark.parametrize('init', conventions.NAMES)
def test_a_cell_that_has_some_of_the_options_is_given_them(init, new_cell):
  def fresh(hidden_size, *, recurrent_init=None, size=1):
    return base.Cell(lambda key, _: {'w_h': recurrent_init(key, (hidden_size,) * 2)}, None, None)

  new_cell(fresh)
  ours = conventions.cell(init, 'fresh', hidden_size=HIDDEN, size=2)
  draws = draws_of(lambda key: ours.init(key, 1)['w_h'])
  same = uniform(HIDDEN**-0.5)
  law = {'torch': same, 'awd': same, 'haiku': truncated(HIDDEN**-0.5)}.get(init)
  if law:
    assert scipy.stats.kstest(np.ravel(draws), law.cdf).pvalue > 1e-3
  assert orthogonal(np.asarray(draws)) == ('' if law else 'gates')


# Errors.


def test_what_there_is_not_is_said_with_the_near_match():
  config = imdb.get_config('smoke')
  config.model.init = 'karas'
  with pytest.raises(ValueError, match=r"model\.init='karas' \(did you mean 'keras'\?\).*torch"):
    configs.check(config)
  for call in (
    lambda: conventions.cell('touch', 'lstm', hidden_size=4),
    lambda: models.SequenceClassifier(None, 9, 4, convention='touch').init(
      jax.random.key(0), jnp.zeros((1, 2), int)
    ),
  ):
    with pytest.raises(
      ValueError, match="'touch'.*did you mean 'torch'.*keras, torch, flax, haiku, awd"
    ):
      call()


@pytest.mark.parametrize('size', [0, -1, 1.5, True, '4'])
@pytest.mark.parametrize('init', conventions.NAMES)
def test_hidden_size_must_be_a_whole_number(init, size):
  with pytest.raises(ValueError, match='hidden_size'):
    conventions.cell(init, 'lstm', hidden_size=size)


def test_an_option_that_a_cell_has_not_is_said():
  with pytest.raises(ValueError, match="lstm has no option 'reset'"):
    conventions.cell('haiku', 'lstm', hidden_size=4, reset='after')
