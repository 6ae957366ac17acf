"""rnnlab.recurrence against NumPy loops, Keras and Flax, and against itself."""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from numpy.testing import assert_allclose, assert_array_equal

from rnnlab import cells
from rnnlab.cells.base import Cell
from rnnlab.recurrence import (
    Product,
    bidirectional,
    dropout_masks,
    lengths_to_mask,
    products,
    stacked,
    unroll,
)

BATCH, STEPS, INPUTS, HIDDEN = 3, 7, 5, 4
TOLERANCE = {'float32': 1e-5, 'float64': 1e-10}

OPTIONS = {
    'elman': ('elman', {}),
    'lstm': ('lstm', {}),
    'gru-after': ('gru', {'reset': 'after'}),
    'gru-before': ('gru', {'reset': 'before'}),
}
NAMES = list(OPTIONS)
MASKS = {
    'no-mask': None,
    'lengths': np.arange(STEPS) < np.array([[7], [4], [1]]),
    'left-padding': np.arange(STEPS) >= np.array([[0], [3], [6]]),
    'holes': np.array([[1, 0, 1, 1, 0, 1, 1], [0, 1, 1, 0, 0, 1, 0], [1, 1, 1, 1, 1, 1, 0]], bool),
    'empty-row': np.arange(STEPS) < np.array([[5], [0], [7]]),
}
# What is compared here is what a program computes, not how fast: five times quicker to compile.
QUICK = {'xla_backend_optimization_level': 0, 'xla_cpu_use_fusion_emitters': False}

each_cell = pytest.mark.parametrize('name', NAMES)
each_direction = pytest.mark.parametrize('reverse', [False, True], ids=['forward', 'reverse'])
each_dtype = pytest.mark.parametrize('dtype', ['float32', 'float64'])


def make(name, hidden_size=HIDDEN):
  cell, options = OPTIONS[name]
  return cells.get(cell, hidden_size=hidden_size, **options)


class Problem(NamedTuple):
  """Arguments of an unroll, the masks of each gate, and what to multiply carry and ys with."""

  params: dict
  xs: np.ndarray
  carry: tuple
  drop_x: np.ndarray
  drop_h: np.ndarray
  d_carry: tuple
  d_ys: np.ndarray


@functools.cache
def problem(name, batch=BATCH, steps=STEPS, inputs=INPUTS, hidden=HIDDEN, seed=0):
  rng = np.random.default_rng(seed)
  cell = make(name, hidden)
  shapes = jax.eval_shape(lambda key: cell.init(key, inputs), jax.random.key(0))
  states = len(jax.tree.leaves(cell.initial_carry((batch,), jnp.float32)))
  gates = reference.GATES[name]

  def normal(*shape):
    return rng.normal(size=shape)

  def drop(*shape):
    return rng.choice([0.0, 1.0, 2.0], size=shape)

  return Problem(
      params={k: 0.6 * normal(*v.shape) for k, v in shapes.items()},
      xs=normal(batch, steps, inputs),
      carry=tuple(normal(batch, hidden) for _ in range(states)),
      drop_x=drop(gates, batch, inputs),
      drop_h=drop(gates, batch, hidden),
      d_carry=tuple(normal(batch, hidden) for _ in range(states)),
      d_ys=normal(batch, steps, hidden),
  )


def drops(p, dropout):
  """The masks of each gate for the loop, `[G, B, K]`."""
  if dropout == 'no-dropout':
    return None, None
  if dropout == 'one-mask':
    return tuple(np.broadcast_to(m[:1], m.shape) for m in (p.drop_x, p.drop_h))
  return p.drop_x, p.drop_h


def drops_of_products(name, p, dropout):
  """The same for unroll: one for each product of the step."""
  if dropout == 'no-dropout':
    return None
  if dropout == 'one-mask':
    return (p.drop_x[0],) + (p.drop_h[0],) * (2 if name == 'gru-before' else 1)
  if name == 'gru-before':
    return p.drop_x, p.drop_h[:2], p.drop_h[2:]
  return p.drop_x, p.drop_h


@functools.cache
def loop(name, mask, reverse, dropout):
  """Carry, ys and the gradients of the NumPy loop on `problem(name)`."""
  p = problem(name)
  drop_x, drop_h = drops(p, dropout)
  return loop_on(name, p, MASKS[mask], reverse, drop_x, drop_h)


def loop_on(name, p, mask, reverse, drop_x=None, drop_h=None):
  def run(inputs):
    carry = tuple(inputs[f'carry{i}'] for i in range(len(p.carry)))
    params = {k: inputs[k] for k in p.params}
    return reference.unroll(
        name, params, inputs['xs'], carry, mask=mask, reverse=reverse, drop_x=drop_x, drop_h=drop_h
    )

  def loss(inputs):
    carry, ys = run(inputs)
    total = (ys * p.d_ys).sum((-1, -2, -3))
    return total + sum((c * d).sum((-1, -2)) for c, d in zip(carry, p.d_carry, strict=True))

  inputs = p.params | {'xs': p.xs} | {f'carry{i}': c for i, c in enumerate(p.carry)}
  grads = reference.gradients(loss, inputs)
  d_carry = tuple(grads[f'carry{i}'] for i in range(len(p.carry)))
  return run(inputs), ({k: grads[k] for k in p.params}, grads['xs'], d_carry)


def differentiated(f):
  """jit of `(params, xs, carry, cotangents, *rest) -> f(params, xs, carry, *rest), gradients`."""

  def run(params, xs, carry, cotangents, *rest):
    out, pull = jax.vjp(lambda *args: f(*args, *rest), params, xs, carry)
    return out, pull(cotangents)

  return jax.jit(run, compiler_options=QUICK)


@functools.cache
def compiled(name, reverse):
  """unroll with its gradients, from and to tuples of states in place of the cell's own carry."""
  cell = make(name)
  structure = jax.tree.structure(cell.initial_carry((BATCH,), jnp.float32))

  def run(params, xs, carry, where, dropout):
    carry, ys = unroll(
        cell,
        params,
        xs,
        reverse=reverse,
        initial_carry=structure.unflatten(carry),
        dropout=dropout,
        **where,
    )
    return tuple(jax.tree.leaves(carry)), ys

  return differentiated(run)


def where(mask):
  """unroll's argument for a name in MASKS."""
  if mask == 'no-mask':
    return {}
  if mask == 'lengths':
    return {'lengths': MASKS[mask].sum(1)}
  return {'mask': MASKS[mask]}


def cast(tree, dtype):
  """NumPy floats of `tree` as JAX arrays of dtype; integers and booleans stay."""
  return jax.tree.map(
      lambda a: jnp.asarray(a, dtype if np.issubdtype(a.dtype, np.floating) else None), tree
  )


def run(name, reverse, dtype, p=None, mask='no-mask', dropout='no-dropout'):
  """unroll's `(carry, ys), gradients` on a problem, all in dtype."""
  p = p or problem(name)
  args = (p.params, p.xs, p.carry, (p.d_carry, p.d_ys), where(mask))
  return compiled(name, reverse)(*cast((*args, drops_of_products(name, p, dropout)), dtype))


def assert_close(actual, desired, dtype):
  """Equal trees, to the tolerance of dtype, which every leaf of `actual` has."""
  assert jax.tree.structure(actual) == jax.tree.structure(desired)
  for (path, a), d in zip(jax.tree.leaves_with_path(actual), jax.tree.leaves(desired), strict=True):
    assert a.dtype == dtype
    tolerance = TOLERANCE[dtype]
    assert_allclose(a, d, tolerance, tolerance, err_msg=jax.tree_util.keystr(path))


def assert_same(actual, desired):
  """Equal trees, to the bit."""
  jax.tree.map(assert_array_equal, actual, desired)


# Against a NumPy loop.


@each_dtype
@pytest.mark.parametrize('dropout', ['no-dropout', 'one-mask', 'mask-per-gate'])
@each_direction
@pytest.mark.parametrize('mask', MASKS)
@each_cell
def test_equals_the_numpy_loop(name, mask, reverse, dropout, dtype):
  with jax.enable_x64(dtype == 'float64'):
    actual = run(name, reverse, dtype, mask=mask, dropout=dropout)
    assert_close(actual, loop(name, mask, reverse, dropout), dtype)
