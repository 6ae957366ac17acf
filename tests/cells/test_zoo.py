"""Every further cell against its equations in NumPy, and its initial parameters."""

import functools
import re
from pathlib import Path

import equations
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose

from rnnlab import cells, models
from rnnlab.cells import base, lru
from rnnlab.recurrence import chunkwise, drop_weights, engine, parallel, products, unroll

BATCH, STEPS, INPUTS, HIDDEN = 2, 5, 2, 4

CASES = {
  name: (name, {}, INPUTS) for name in cells.names() if name not in ('elman', 'gru', 'lstm')
} | {
  'mlstm-heads': ('mlstm', {'heads': 2}, INPUTS),
  'sru-square': ('sru', {}, HIDDEN),
  'rglru-square': ('rglru', {}, HIDDEN),
}


def drawn(cell, inputs, seed=0):
  """params, the states, xs, and the factors of states and ys in the loss; float64."""
  rng = np.random.default_rng(seed)
  params = jax.eval_shape(lambda key: cell.init(key, inputs), jax.random.key(0))
  params = {name: 0.8 * rng.normal(size=w.shape) for name, w in params.items()}
  states = [rng.normal(size=a.shape) for a in jax.tree.leaves(cell.initial_carry((BATCH,)))]
  weights = [rng.normal(size=a.shape) for a in states]
  xs = rng.normal(size=(BATCH, STEPS, inputs))
  return params, states, xs, weights, rng.normal(size=(BATCH, STEPS, HIDDEN))


def of_numpy(name, params, states, xs, d_states, d_ys):
  """The sum of the results times their weights, and its gradients, from the NumPy loop."""
  arrays = params | {f'state {k}': a for k, a in enumerate(states)} | {'xs': xs}

  def loss(arrays):
    p = {k: arrays[k][..., None, :] if v.ndim == 1 else arrays[k] for k, v in params.items()}
    start = tuple(arrays[f'state {k}'] for k in range(len(states)))
    end, ys = equations.unroll(name, p, start, arrays['xs'])

    def total(a, d):
      return (a * d).sum(tuple(range(-d.ndim, 0)))

    return total(ys, d_ys) + sum(total(a, d) for a, d in zip(end, d_states, strict=True))

  return loss(arrays), reference.gradients(loss, arrays)


@pytest.mark.parametrize('case', CASES)
def test_values_and_gradients_are_those_of_the_paper_s_equations(case):
  name, options, inputs = CASES[case]
  cell = cells.get(name, hidden_size=HIDDEN, **options)
  params, states, xs, d_states, d_ys = drawn(cell, inputs)
  value, gradients = of_numpy(name, params, states, xs, d_states, d_ys)
  tree = jax.tree.structure(cell.initial_carry((BATCH,)))

  def loss(params, states, xs):
    carry = jax.tree.unflatten(tree, states)
    end, ys = unroll(cell, params, xs, initial_carry=carry)
    ends = zip(jax.tree.leaves(end), d_states, strict=True)
    return (ys * d_ys).sum() + sum((a * d).sum() for a, d in ends)

  with jax.enable_x64():
    found, (of_params, of_states, of_xs) = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(
      params, list(map(jnp.asarray, states)), xs
    )
  assert_allclose(found, value, 1e-10)
  of_states = {f'state {k}': a for k, a in enumerate(of_states)}
  for key, gradient in (of_params | of_states | {'xs': of_xs}).items():
    assert_allclose(gradient, gradients[key], 1e-8, 1e-10, err_msg=key)


@pytest.mark.parametrize('name', ['slstm', 'mlstm'])
def test_the_stabiliser_changes_no_value(name):
  """From the initial carry: the paper's equations with plain exponentials, no m, float64."""
  cell = cells.get(name, hidden_size=HIDDEN)
  params, _, xs, *_ = drawn(cell, INPUTS)
  h, n = np.zeros((2, BATCH, HIDDEN))
  c = np.zeros((BATCH, HIDDEN, HIDDEN) if name == 'mlstm' else (BATCH, HIDDEN))
  expected = []
  for x in np.moveaxis(xs, 1, 0):
    if name == 'slstm':
      pre = x @ params['w_x'] + h @ params['w_h'] + params['b']
      i, f, z, o = np.split(pre, 4, -1)
      i, f, o = np.exp(i), reference.sigmoid(f), reference.sigmoid(o)
      c, n = f * c + i * np.tanh(z), f * n + i
      h = o * c / n
    else:
      q, k, v, o = np.split(x @ params['w_x'] + params['b'], 4, -1)
      i, f = np.split(x @ params['w_g'] + params['b_g'], 2, -1)
      i, f, k = np.exp(i), reference.sigmoid(f), k / np.sqrt(HIDDEN)
      c = f[..., None] * c + i[..., None] * v[..., :, None] * k[..., None, :]
      n = f * n + i * k
      bound = np.maximum(np.abs((n * q).sum(-1, keepdims=True)), 1)
      h = reference.sigmoid(o) * np.einsum('bij,bj->bi', c, q) / bound
    expected.append(h)
  with jax.enable_x64():
    found = unroll(cell, params, xs)[1]
    assert_allclose(found, np.stack(expected, 1), 1e-10)
  large = {k: np.float32(60 * v) for k, v in params.items()}
  assert np.isfinite(unroll(cell, large, np.float32(xs))[1]).all()


def in_float32(cell, params, states, xs, d_states, d_ys, backend):
  """The sum of the results times their weights, and its gradients, named as in `of_numpy`."""
  tree = jax.tree.structure(cell.initial_carry((BATCH,)))

  def loss(params, states, xs):
    carry = jax.tree.unflatten(tree, states)
    end, ys = unroll(cell, params, xs, initial_carry=carry, backend=backend)
    ends = zip(jax.tree.leaves(end), d_states, strict=True)
    return (ys * d_ys).sum() + sum((a * d).sum() for a, d in ends)

  given = jax.tree.map(jnp.float32, (params, states, xs))
  value, (of_params, of_states, of_xs) = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(*given)
  return value, of_params | {f'state {k}': a for k, a in enumerate(of_states)} | {'xs': of_xs}


@pytest.mark.parametrize('backend', ['scan', 'parallel'])
def test_a_gate_of_0_leaves_the_gradients_of_rglru_finite(backend):
  """A unit whose gate underflows has no gradient there, and the others have what they had alone."""
  cell = cells.get('rglru', hidden_size=HIDDEN)
  params, (h,), xs, (d_h,), d_ys = drawn(cell, INPUTS)
  params['b'][0] = -200.0
  rest = np.arange(1, HIDDEN)
  units = {'b': (of := np.r_[rest, HIDDEN + rest]), 'w_g': of, 'l': rest, 'w_x': rest}
  alone = {name: w[..., units[name]] for name, w in params.items()}
  given = alone, [h[:, 1:]], xs, [d_h[:, 1:]], d_ys[..., 1:]
  value, expected = of_numpy('rglru', *given)
  found, gradients = in_float32(cell, params, [h], xs, [d_h], d_ys, backend)
  kept = (h[:, 0] * (d_h[:, 0] + d_ys[..., 0].sum(1))).sum()
  assert_allclose(found, value + kept, 1e-5, 1e-5)
  assert_allclose(gradients['xs'], expected['xs'], 1e-4, 1e-5)
  for name, of in units.items():
    assert_allclose(gradients[name][..., of], expected[name], 1e-4, 1e-5, err_msg=name)
    assert (gradients[name][..., 0] == 0).all(), name


@pytest.mark.parametrize('backend', ['scan', 'parallel'])
def test_gates_that_let_nothing_in_leave_the_gradients_of_mlstm_finite(backend):
  """One head's m falls to -200 a step, where exp(-m) is beyond float32."""
  cell = cells.get('mlstm', hidden_size=HIDDEN, heads=2)
  params, states, xs, d_states, d_ys = drawn(cell, INPUTS)
  params['b_g'][[0, 2]] = -200.0
  given = states, xs, d_states, d_ys
  value, expected = of_numpy('mlstm', params, *given)
  found, gradients = in_float32(cell, params, *given, backend)
  assert_allclose(found, value, 1e-5)
  for name, gradient in expected.items():
    assert_allclose(gradients[name], gradient, 1e-4, 1e-4, err_msg=name)


# The number of parameters by D and H, as in rnnlab/cells/README.md.
COUNTS = {
  'cifg': lambda d, h: 3 * h * (d + h + 1),
  'elman': lambda d, h: h * (d + h + 1),
  'gru': lambda d, h: 3 * h * (d + h + 1) + h,
  'indrnn': lambda d, h: h * (d + 2),
  'irnn': lambda d, h: h * (d + h + 1),
  'lru': lambda d, h: 3 * h * d + 2 * h * h + 3 * h,
  'lstm': lambda d, h: 4 * h * (d + h + 1),
  'lstm_layer_norm': lambda d, h: 4 * h * (d + h + 1) + 10 * h,
  'lstm_no_forget': lambda d, h: 3 * h * (d + h + 1),
  'lstm_peephole': lambda d, h: 4 * h * (d + h + 1) + 3 * h,
  'mgu': lambda d, h: 2 * h * (d + h + 1),
  'mingru': lambda d, h: 2 * h * (d + 1),
  'minlstm': lambda d, h: 3 * h * (d + 1),
  'mlstm': lambda d, h: 4 * h * (d + 1) + 2 * (d + 1),
  'qrnn': lambda d, h: 3 * h * (d + 1),
  'rglru': lambda d, h: 2 * h * (d + 1) + h + (h * d if d != h else 0),
  'slstm': lambda d, h: 4 * h * (d + h + 1),
  'sru': lambda d, h: (3 if d == h else 4) * h * d + 4 * h,
}


def test_every_cell_has_a_row_of_the_page_and_the_parameters_that_it_says():
  page = (Path(cells.__file__).parent / 'README.md').read_text()
  table = page.partition('## What each learns')[0]
  assert sorted(COUNTS) == cells.names() == sorted(re.findall(r'^\| `(\w+)`', table, re.MULTILINE))
  for name, count in COUNTS.items():
    for d, h in ((3, 5), (4, 4)):
      cell = cells.get(name, hidden_size=h)
      params = jax.eval_shape(lambda key, c=cell, d=d: c.init(key, d), jax.random.key(0))
      assert sum(p.size for p in params.values()) == count(d, h), name


def test_what_the_cells_start_from():
  def initial(name, inputs=INPUTS, size=200, **options):
    return cells.get(name, hidden_size=size, **options).init(jax.random.key(0), inputs)

  params = initial('irnn', scale=0.5)
  assert_allclose(params['w_h'], 0.5 * np.eye(200))
  assert 0.0008 < params['w_x'].std() < 0.0012
  params = initial('lru', r_min=0.4, r_max=0.9)
  r = np.exp(-np.exp(params['nu']))
  assert 0.4 < r.min() < 0.47 and 0.88 < r.max() < 0.9
  assert_allclose(np.exp(params['gamma']), np.sqrt(1 - r**2), 1e-5)
  a = reference.sigmoid(np.float64(initial('rglru')['l'])) ** 8
  assert 0.9 <= a.min() < 0.91 and 0.99 < a.max() <= 0.9991
  for name, at in (('lstm_peephole', 4), ('cifg', 0), ('lstm_layer_norm', 4), ('slstm', 4)):
    b = initial(name, size=4, forget_bias=2.0)['b']
    assert (b[at : at + 4] == 2).all() and b.sum() == 8, name
  assert initial('mlstm', heads=2, forget_bias=2.0)['b_g'].tolist() == [0, 0, 2, 2]


@pytest.mark.parametrize(
  ('name', 'options', 'words'),
  [
    ('indrnn', {'activation': 'rely'}, "'tanh' or 'relu', not 'rely'"),
    ('mlstm', {'heads': 3}, 'heads must divide hidden_size=4, and not be 3'),
    ('mlstm', {'heads': 0}, 'heads must divide'),
    ('lru', {'r_min': 0.9, 'r_max': 0.5}, 'r_min=0.9 and r_max=0.5'),
    ('lru', {'max_phase': -1.0}, 'max_phase > 0, not -1.0'),
  ],
)
def test_an_option_that_can_t_be_is_an_error_in_words(name, options, words):
  with pytest.raises(ValueError, match=words):
    cells.get(name, hidden_size=HIDDEN, **options)


def test_dropout_of_weights_that_a_cell_has_not_is_an_error_in_words():
  cell = cells.get('mingru', hidden_size=HIDDEN)
  params = cell.init(jax.random.key(0), INPUTS)
  with pytest.raises(ValueError, match=r'weight_dropout .* mingru\(hidden_size=4\) has none'):
    drop_weights(jax.random.key(0), cell, params, INPUTS, 0.5)
  assert drop_weights(jax.random.key(0), cell, params, INPUTS, 0.0) is params


# All steps at once.


def assert_parallel_is_the_scan(cell, params, xs, carry, **options):
  """Values and gradients with respect to parameters, inputs and carry, in float64."""

  def run(backend):
    def f(params, xs, carry):
      return unroll(cell, params, xs, initial_carry=carry, backend=backend, **options)

    out, pull = jax.vjp(f, params, xs, carry)
    return out, pull(jax.tree.map(jnp.cos, out))

  with jax.enable_x64():
    found, expected = jax.jit(lambda: (run('parallel'), run('scan')))()
    jax.tree.map(lambda a, b: assert_allclose(a, b, 1e-9, 1e-12), found, expected)


LINEAR = [name for name in cells.names() if base.linear(cells.get(name, hidden_size=1))]


@pytest.mark.parametrize('reverse', [False, True], ids=['forward', 'reverse'])
@pytest.mark.parametrize('name', LINEAR)
def test_all_steps_at_once_are_the_scan(name, reverse):
  """With padding in gaps, resets, a carry, dropout, all carries returned; and without these."""
  cell = cells.get(name, hidden_size=HIDDEN)
  params, states, xs, *_ = drawn(cell, INPUTS)
  rng = np.random.default_rng(1)
  options = {
    'mask': np.array([[1, 0, 1, 1, 0], [0, 1, 1, 1, 1]], bool),
    'resets': np.array([[1, 0, 1, 0, 0], [0, 1, 0, 0, 1]], bool),
    'dropout': [rng.choice([0.0, 2.0], (BATCH, p.width)) for p in products(cell, params, INPUTS)],
    'return_carries': True,
  }
  carry = jax.tree.unflatten(jax.tree.structure(cell.initial_carry((BATCH,))), states)

  for given in ({}, options):
    assert_parallel_is_the_scan(cell, params, xs, carry, reverse=reverse, **given)


@pytest.mark.parametrize('reverse', [False, True], ids=['forward', 'reverse'])
def test_a_tree_of_steps_is_the_loop_over_them(reverse):
  """Complex factors, values and gradients."""
  rng = np.random.default_rng(0)
  a, b, carry = (
    lru.LRUCarry(*rng.normal(size=(2, *shape))) for shape in ((7, 2, 3),) * 2 + ((2, 3),)
  )
  expected, state = [], carry.real + 1j * carry.imag
  for t in reversed(range(7)) if reverse else range(7):
    state = (a.real[t] + 1j * a.imag[t]) * state + b.real[t] + 1j * b.imag[t]
    expected.append(state)
  expected = np.stack(expected[::-1] if reverse else expected)

  @functools.partial(jax.jit, static_argnums=0)
  def run(way, *arrays):
    out, pull = jax.vjp(lambda *given: way(lru.times, *given, reverse), *arrays)
    return out, pull(jax.tree.map(jnp.cos, out))

  with jax.enable_x64():
    found, slopes = run(parallel.in_a_tree, a, b, carry)
    assert_allclose(found.real + 1j * found.imag, expected, 1e-10)
    other, others = run(parallel.one_by_one, a, b, carry)
  jax.tree.map(lambda a, b: assert_allclose(a, b, 1e-9, 1e-12), (found, slopes), (other, others))


def test_all_steps_are_taken_at_once_where_that_pays(monkeypatch):
  def found(steps, backend='auto', kind='cpu'):
    asked = []
    monkeypatch.setattr(
      parallel, 'scan', lambda *a, **k: asked.append(1) or engine.scan(cell.step, *a[1:], **k)
    )
    monkeypatch.setattr(parallel.devices, 'backend', lambda: kind)
    xs = jax.ShapeDtypeStruct((2, steps, INPUTS), jnp.float32)
    jax.eval_shape(lambda p, xs: unroll(cell, p, xs, backend=backend), params, xs)
    return bool(asked)

  cell = cells.get('mingru', hidden_size=64)
  params = cell.init(jax.random.key(0), INPUTS)
  assert found(1024) and not found(1025) and found(1025, kind='gpu') and found(1025, 'parallel')
  assert not found(5, 'scan') and not found(0, 'parallel')


@pytest.mark.parametrize('name', LINEAR)
def test_a_layer_takes_all_steps_at_once(name):
  """Flax rebuilds the NamedTuples that a module is given; the values are those of the paper."""
  cell = cells.get(name, hidden_size=HIDDEN)
  params, _, xs, *_ = drawn(cell, INPUTS)
  states = [np.zeros((BATCH, HIDDEN)) for _ in jax.tree.leaves(cell.initial_carry((BATCH,)))]
  as_rows = {k: w[None] if w.ndim == 1 else w for k, w in params.items()}
  with jax.enable_x64():
    layer = models.Recurrent(cell, backend='parallel')
    found = jax.jit(layer.apply)({'params': {'cell': params}}, xs)
  assert_allclose(found, equations.unroll(name, as_rows, states, xs)[1], 1e-10)


def test_models_take_all_steps_at_once(monkeypatch):
  asked, scan = [], parallel.scan
  monkeypatch.setattr(parallel, 'scan', lambda *a, **k: asked.append(1) or scan(*a, **k))
  cell, ids = cells.get('lru', hidden_size=HIDDEN), np.ones((BATCH, STEPS), np.int32)
  stream = {'inputs': ids, 'targets': ids, 'weights': np.ones((BATCH, STEPS), np.float32)}
  for model, given, count in (
    (models.SequenceClassifier(cell, 9, 3, layers=2, bidirectional=True), ids, 4),
    (models.LanguageModel((cell,) * 2, 9, 3), stream, 2),
    (models.Seq2Seq((cell,), (cell,), 9, 9, 3), {'source': ids, 'target': ids}, 1),
  ):
    asked.clear()
    jax.eval_shape(model.init, jax.random.key(0), given)
    assert len(asked) == count, type(model).__name__


@pytest.mark.parametrize('sizes', ['batch, 4', '2, steps', 'batch, steps'])
@pytest.mark.parametrize('kind', ['cpu', 'gpu'])
def test_a_linear_cell_is_exported_with_unknown_sizes(sizes, kind, monkeypatch):
  cell = cells.get('mingru', hidden_size=HIDDEN)
  params, _, xs, *_ = drawn(cell, INPUTS)
  layer = models.Recurrent(cell)
  shape = *jax.export.symbolic_shape(sizes), INPUTS
  with monkeypatch.context() as patch:
    patch.setattr(parallel.devices, 'backend', lambda: kind)
    exported = jax.export.export(jax.jit(lambda xs: layer.apply({'params': {'cell': params}}, xs)))(
      jax.ShapeDtypeStruct(shape, jnp.float32)
    )
  states, xs = [np.zeros((BATCH, HIDDEN))], xs[:, :4]
  as_rows = {k: w[None] if w.ndim == 1 else w for k, w in params.items()}
  expected = equations.unroll('mingru', as_rows, states, xs)[1]
  assert_allclose(exported.call(np.float32(xs)), expected, 1e-5, 1e-6)


@pytest.mark.parametrize('reverse', [False, True], ids=['forward', 'reverse'])
@pytest.mark.parametrize('way', [parallel.one_by_one, parallel.in_a_tree], ids=['loop', 'tree'])
@pytest.mark.parametrize('name', ['mingru', 'lru'])
def test_nothing_passes_a_reset(name, way, reverse, monkeypatch):
  """Each episode is what it is alone, though the other one has a NaN; one row starts from NaN."""
  monkeypatch.setattr(parallel, 'recurrence', way)
  cell = cells.get(name, hidden_size=HIDDEN)
  params, _, xs, *_ = drawn(cell, INPUTS)
  broken = np.float32(xs)
  broken[:, 4 if reverse else 0, 0] = np.nan
  resets = np.zeros((BATCH, STEPS), bool)
  resets[:, 3 if reverse else 2] = True

  @jax.jit
  def run(xs, resets=None):
    options = {'resets': resets, 'backend': 'parallel', 'reverse': reverse}
    return unroll(cell, params, xs, **options)

  after = np.s_[:, :3] if reverse else np.s_[:, 2:]
  carry, ys = run(broken, resets)
  alone, expected = run(np.float32(xs)[after])
  assert_allclose(ys[after], expected, 1e-5, 1e-6)
  jax.tree.map(lambda a, b: assert_allclose(a, b, 1e-5, 1e-6), carry, alone)

  def loss(params, xs, carry, resets):
    options = {'initial_carry': carry, 'resets': resets, 'backend': 'parallel', 'reverse': reverse}
    return jnp.sin(unroll(cell, params, xs, **options)[1]).sum()

  zeros = cell.initial_carry((BATCH,))
  spoilt = jax.tree.map(lambda a: a.at[0].set(jnp.nan), zeros)
  first = np.zeros((BATCH, STEPS), bool)
  first[:, 0] = not reverse
  slopes = jax.jit(jax.grad(loss, (0, 1)))
  if not reverse:  # where there is no place for a reset before the first step
    found, expected = (slopes(params, xs, *rest) for rest in ((spoilt, first), (zeros, None)))
    jax.tree.map(lambda a, b: assert_allclose(a, b, 1e-4, 1e-5), found, expected)


def test_a_cell_runs_in_parallel_only_by_the_step_that_is_linear():
  cell = cells.get('mingru', hidden_size=HIDDEN)
  params, _, xs, *_ = drawn(cell, INPUTS)
  changed = cell._replace(step=lambda p, h, x, dot: cell.step(p, h, -x, dot))
  for backend in ('auto', 'scan'):
    found = unroll(changed, params, xs, backend=backend)[1]
    assert_allclose(found, unroll(cell, params, -xs)[1], 1e-5, 1e-6)
  for other, options, words in (
    (changed, {}, '.*mingru.* is not linear in its carry'),
    (cells.get('lstm', hidden_size=HIDDEN), {}, '.*lstm.* is not linear'),
    (cell, {'remat': True}, 'it does not support remat'),
    (cell, {'truncate': (1, 2)}, 'it does not support truncate'),
  ):
    with pytest.raises(ValueError, match=f"backend='parallel': {words}"):
      other_params = other.init(jax.random.key(0), INPUTS)
      unroll(other, other_params, np.float32(xs), backend='parallel', **options)


def test_no_steps_and_one_row_run_in_parallel():
  cell = cells.get('lru', hidden_size=HIDDEN)
  params = cell.init(jax.random.key(0), INPUTS)
  carry, ys = unroll(cell, params, jnp.zeros((BATCH, 0, INPUTS)), backend='parallel')
  assert ys.shape == (BATCH, 0, HIDDEN) and (carry.real == 0).all()
  xs = jax.random.normal(jax.random.key(1), (STEPS, INPUTS))
  found, expected = (unroll(cell, params, xs, backend=b) for b in ('parallel', 'scan'))
  jax.tree.map(lambda a, b: assert_allclose(a, b, 1e-5, 1e-6), found, expected)


# Chunks of steps.


@pytest.mark.parametrize('reverse', [False, True], ids=['forward', 'reverse'])
@pytest.mark.parametrize('heads', [1, pytest.param(2, marks=pytest.mark.slow)])
def test_chunks_of_steps_are_the_scan(heads, reverse, monkeypatch):
  """Three chunks, the last of which is not full; padding in gaps, a carry, dropout."""
  monkeypatch.setattr(chunkwise, 'CHUNK', 3)
  cell = cells.get('mlstm', hidden_size=HIDDEN, heads=heads)
  params, states, xs, *_ = drawn(cell, INPUTS)
  xs = np.concatenate([xs, xs[:, ::-1]], axis=1)[:, :8]
  rng = np.random.default_rng(1)
  mask = rng.random((BATCH, 8)) < 0.6
  mask[0, :4] = False  # a chunk of nothing but padding
  dropout = [rng.choice([0.0, 2.0], (BATCH, p.width)) for p in products(cell, params, INPUTS)]
  carry = jax.tree.unflatten(jax.tree.structure(cell.initial_carry((BATCH,))), states)

  for given in ({}, {'mask': mask, 'dropout': dropout}):
    assert_parallel_is_the_scan(cell, params, xs, carry, reverse=reverse, **given)


def test_chunks_lose_nothing_to_strong_gates():
  """In float32: what is kept after steps that forget everything equals the scan's."""
  cell = cells.get('mlstm', hidden_size=HIDDEN)
  params, _, xs, *_ = drawn(cell, INPUTS)
  params = {k: np.float32(w) for k, w in params.items()} | {'b_g': np.float32([0, 30])}
  params['w_g'] = np.float32([[0, -400], [0, 0]])
  xs = np.float32(np.tile(xs, (1, 12, 1)))
  xs[:, :30, 0], xs[:, 30:, 0] = 1.0, 0.07  # forgets by exp(-370) a step, then keeps nearly all
  found, expected = (unroll(cell, params, xs, backend=b) for b in ('parallel', 'scan'))
  jax.tree.map(lambda a, b: assert_allclose(a, b, 1e-5, 1e-6), found, expected)


@pytest.mark.parametrize('steps', [1, 16, 32])
def test_short_sequences_of_many_rows_are_those_of_the_scan(steps):
  """XLA's fusions differ at such sizes: a single chunk of steps was garbage from 256 rows on."""
  cell = cells.get('mlstm', hidden_size=64)
  params = cell.init(jax.random.key(0), 64)
  xs = jax.random.normal(jax.random.key(1), (256, steps, 64))
  found, expected = (
    jax.jit(functools.partial(unroll, cell, backend=backend))(params, xs)[1]
    for backend in ('parallel', 'scan')
  )
  assert_allclose(found, expected, 1e-4, 1e-4)


def test_chunks_are_taken_where_they_can_be(monkeypatch):
  cell = cells.get('mlstm', hidden_size=16)
  asked = []
  scan = chunkwise.scan
  monkeypatch.setattr(chunkwise, 'scan', lambda *a, **k: asked.append(1) or scan(*a, **k))

  def found(cell=cell, steps=40, **options):
    asked.clear()
    params = cell.init(jax.random.key(0), INPUTS)
    xs = jax.ShapeDtypeStruct((BATCH, steps, INPUTS), jnp.float32)
    jax.eval_shape(lambda p, xs: unroll(cell, p, xs, **options), params, xs)
    return bool(asked)

  flags = np.zeros((BATCH, 40), bool)
  assert found() and found(backend='parallel') and found(mask=~flags)
  assert not found(backend='scan') and not found(steps=0)
  several = cells.get('mlstm', hidden_size=16, heads=2)
  assert not found(several) and found(several, backend='parallel')
  for options in ({'resets': flags}, {'return_carries': True}, {'remat': True}):
    assert not found(**options)
    with pytest.raises(
      ValueError, match=f"backend='parallel': it does not support {[*options][0]}"
    ):
      found(backend='parallel', **options)
  changed = cell._replace(step=lambda p, c, x, dot: cell.step(p, c, -x, dot))
  assert not found(changed)
  with pytest.raises(ValueError, match="mlstm.* has chunks of steps.*, backend='parallel'"):
    found(backend='kernel')
