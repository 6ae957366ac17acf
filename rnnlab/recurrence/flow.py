"""How far gradients reach: their norms at each step of a recurrence, and what a step does to them.

Let s_t be the whole carry of a cell after step t (h for a GRU, h and c for an LSTM). These
functions measure the gradients with respect to s_t of a loss and of the last state s_T, the
Jacobian of a step, and, for cells with gates, how long the gates let a state last. Padded steps
have no state of their own. A step's lag is the number of real steps after it, so the lags of each
row count from its own end.

Gradients are computed by a plain scan. All inputs have a batch axis; a small batch is enough.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from rnnlab.cells.base import Array, Carry, Cell, Lookup, Params, matmul
from rnnlab.recurrence import checks
from rnnlab.recurrence.nudges import lags, no_nudges, norms, nudged
from rnnlab.recurrence.split import Values, variables
from rnnlab.recurrence.unroll import unroll

LOW, HIGH = 0.1, 0.9  # beyond which a gate is saturated


class Gates(NamedTuple):
  """What the gates of a cell do over the real steps of a batch.

  low, high: float `[G]`, the share of values below 0.1 and above 0.9 for each sigmoid of a step, in
    the step's order: f, i, o for `lstm`, r, z for `gru`.
  memory: a carry whose arrays have the shape of one row's: 1 / (1 - f), about the number of steps
    after which a number has faded to 1/e of itself, for the mean f of its forget gate; NaN if there
    is no such gate. A forget gate is what a step multiplies an array of the carry with, elementwise
    and outside products with weights, if it depends on more than parameters.

  >>> cell, xs = rnnlab.lstm(hidden_size=4, forget_bias=5.0), jnp.zeros((2, 5, 3))
  >>> gates = rnnlab.flow.gate_statistics(cell, cell.init(jax.random.key(0), 3), xs)
  >>> gates.high.tolist()
  [1.0, 0.0, 0.0]
  """

  low: np.ndarray
  high: np.ndarray
  memory: Carry


def gradients(
  loss: Callable[[Carry, Array], Array], cell: Cell, params: Params, xs: Array, **options: Any
) -> Carry:
  """The gradient of a loss with respect to the carry after each step.

  It is a carry whose arrays are `[B, T, ...]`, and 0 at padded steps.

  loss: `(carry, ys [B, T, H]) -> a scalar`, a function of what `recurrence.unroll` returns: the
    last carry and the outputs.
  cell, params, xs: as in `recurrence.unroll`, with a batch axis.
  options: lengths or mask, and initial_carry, as in `recurrence.unroll`.

  Raises what `recurrence.unroll` raises.

  >>> cell, xs = rnnlab.lstm(hidden_size=4), jnp.ones((2, 5, 3))
  >>> params = cell.init(jax.random.key(0), 3)
  >>> by = rnnlab.flow.gradients(lambda carry, ys: ys[:, -1].sum(), cell, params, xs)
  >>> by.h.shape, by.h[0, -1].tolist(), by.c[0, -1].tolist()
  ((2, 5, 4), [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0])
  """
  xs, mask, carry = _checked(cell, params, xs, **options)

  def of(nudges):
    return loss(*nudged(cell, params, xs, nudges, mask=mask, initial_carry=carry))

  return jax.grad(of)(no_nudges(carry, xs.shape[1]))


def gradient_norms(
  loss: Callable[[Carry, Array], Array], cell: Cell, params: Params, xs: Array, **options: Any
) -> Array:
  """The norms of `gradients`, over all arrays of the carry together, `[B, T]`.

  >>> cell, xs = rnnlab.gru(hidden_size=4), jnp.ones((2, 5, 3))
  >>> params = cell.init(jax.random.key(0), 3)
  >>> rnnlab.flow.gradient_norms(lambda carry, ys: ys[:, -1].sum(), cell, params, xs)[:, -1]
  Array([2., 2.], dtype=float32)
  """
  return norms(gradients(loss, cell, params, xs, **options))


def jacobian_norms(
  cell: Cell, params: Params, xs: Array, key: Array, *, probes: int = 16, **options: Any
) -> Array:
  """The Frobenius norms of ds_T / ds_t, `[B, T]`, estimated by random projections.

  For a vector u of independent standard normals, the expectation of |u ds_T/ds_t|^2 is the square
  of the norm (Hutchinson 1989). It is averaged over `probes` such vectors, drawn with `key`; each
  takes one backward pass. The other arguments are those of `gradients`.

  Raises ValueError for fewer probes than 1, and what `recurrence.unroll` raises.

  >>> cell, xs = rnnlab.gru(hidden_size=4), jnp.ones((2, 5, 3))
  >>> params = cell.init(jax.random.key(0), 3)
  >>> norms = rnnlab.flow.jacobian_norms(cell, params, xs, jax.random.key(1), probes=64)
  >>> norms.shape, 1.8 < norms[0, -1].item() < 2.2  # that of the identity of 4 numbers is 2
  ((2, 5), True)
  """
  if probes < 1:
    raise ValueError(f'probes must be at least 1, not {probes}')
  xs, mask, carry = _checked(cell, params, xs, **options)

  def last(nudges):
    return nudged(cell, params, xs, nudges, mask=mask, initial_carry=carry)[0]

  end, back = jax.vjp(last, no_nudges(carry, xs.shape[1]))
  leaves, tree = jax.tree.flatten(end)

  def squared(key):
    keys = jax.random.split(key, len(leaves))
    u = [jax.random.normal(k, a.shape, a.dtype) for k, a in zip(keys, leaves, strict=True)]
    return norms(back(jax.tree.unflatten(tree, u))[0]) ** 2

  return jnp.sqrt(jax.lax.map(squared, jax.random.split(key, probes)).mean(axis=0))


def at_lags(values: Array, mask: Array, chosen: Sequence[int]) -> Array:
  """The mean over rows of `values [B, T]` at each of the chosen lags; NaN if no row has the lag.

  mask: bool `[B, T]`, True at real steps.

  >>> rnnlab.flow.at_lags(jnp.array([[1.0, 2.0, 3.0]]), jnp.ones((1, 3), bool), (0, 2, 4))
  Array([ 3.,  1., nan], dtype=float32)
  """
  where = (lags(mask) == jnp.array(chosen)[:, None, None]) & mask
  return jnp.where(where, values, 0).sum(axis=(1, 2)) / where.sum(axis=(1, 2))


def spectral_radius(cell: Cell, params: Params, xs: Array, **options: Any) -> np.ndarray:
  """The spectral radius of the step's Jacobian ds_t / ds_{t-1}, `[B, T]`; NaN at padded steps.

  If all steps were alike, gradients would eventually vanish if it is below 1, and could explode if
  it is above. The whole Jacobian is computed, `[n, n]` for the n numbers of a carry, so batches
  should be small. The arguments are those of `gradients`.

  >>> cell, xs = rnnlab.elman(hidden_size=4), jnp.zeros((2, 3, 3))
  >>> radius = rnnlab.flow.spectral_radius(cell, cell.init(jax.random.key(0), 3), xs)
  >>> radius.round(3)[0].tolist()  # as W_h starts orthogonal
  [1.0, 1.0, 1.0]
  """
  rows, mask = _rows(cell, params, xs, **options)
  found = np.full(mask.shape, np.nan)
  for i, place in enumerate(np.argwhere(mask)):
    jacobian = _jacobian(cell, params, *jax.tree.map(lambda a, i=i: a[i], rows))
    found[tuple(place)] = np.abs(np.linalg.eigvals(jacobian)).max()
  return found


@jax.jit(static_argnums=0)
def _jacobian(cell, params, carry, x):
  """The Jacobian of one row's step, `[n, n]`."""
  flat, unravel = ravel_pytree(carry)

  def step(flat):
    one = jax.tree.map(lambda a: a[None], unravel(flat))
    return ravel_pytree(cell.step(params, one, x[None], matmul)[0])[0]

  return jax.jacfwd(step)(flat)


def gate_statistics(cell: Cell, params: Params, xs: Array, **options: Any) -> Gates:
  """How often gates are saturated, and how long the forget gates let a state last: see `Gates`.

  The arguments are those of `gradients`.

  >>> cell, xs = rnnlab.lstm(hidden_size=4), jnp.zeros((2, 5, 3))
  >>> gates = rnnlab.flow.gate_statistics(cell, cell.init(jax.random.key(0), 3), xs)
  >>> gates.high.shape, gates.memory.c.round(2)  # of sigmoid(1), as the forget gate starts
  ((3,), array([3.72, 3.72, 3.72, 3.72]))
  """
  (carry, x), _ = _rows(cell, params, xs, **options)

  def flat(params, carry, x):
    carry, y = cell.step(params, carry, x, matmul)
    return jax.tree.leaves(carry), y

  jaxpr = jax.make_jaxpr(flat)(params, carry, x)
  leaves, tree = jax.tree.flatten(carry)
  own = len(jax.tree.leaves(params))
  states = jaxpr.jaxpr.invars[own : own + len(leaves)]
  inputs = [*jax.tree.leaves((params, carry, x)), *jaxpr.consts]
  values = Values([*jaxpr.jaxpr.invars, *jaxpr.jaxpr.constvars], inputs)
  moving = {*jaxpr.jaxpr.invars[own:]}  # what depends on more than parameters
  low, high, memory = [], [], [np.full(a.shape[1:], np.nan) for a in leaves]
  for equation in jaxpr.jaxpr.eqns:
    values.run(equation)
    if moving.isdisjoint(variables(equation.invars)):
      continue
    moving.update(equation.outvars)
    if 'logistic' in _names(equation):
      gate = np.asarray(values[equation.outvars[0]])
      low.append((gate < LOW).mean())
      high.append((gate > HIGH).mean())
    if found := _forgotten(equation, states, moving, jaxpr.jaxpr.eqns):
      place, f = found
      mean = np.asarray(values[f], np.float64).mean(axis=0)
      with np.errstate(divide='ignore'):
        memory[place] = np.broadcast_to(1 / (1 - mean), memory[place].shape)
  return Gates(np.array(low), np.array(high), jax.tree.unflatten(tree, memory))


def _names(equation):
  """The primitive of an equation or, if it is a call, the primitives of what is called."""
  inner = equation.params.get('jaxpr')
  return [equation.primitive.name] if inner is None else [e.primitive.name for e in inner.eqns]


def _forgotten(equation, states, moving, equations):
  """The index in `states` of what an equation multiplies with a forget gate, and that gate."""
  if equation.primitive.name != 'mul':
    return None
  (product,) = equation.outvars
  if any(e.primitive.name == 'dot_general' and product in e.invars for e in equations):
    return None
  for state, gate in (equation.invars, equation.invars[::-1]):
    if state in states and gate in moving and gate not in states:
      return states.index(state), gate
  return None


def _rows(cell, params, xs, **options):
  """(previous carry, x) of every real step, arrays `[N, ...]`, and the mask, on the host."""
  xs, mask, carry = _checked(cell, params, xs, **options)
  carries, _ = unroll(cell, params, xs, mask=mask, initial_carry=carry, return_carries=True)

  def before(first, after):
    return jnp.concatenate([first[:, None], after[:, :-1]], axis=1)

  mask = np.asarray(mask)
  return jax.tree.map(lambda a: a[mask], (jax.tree.map(before, carry, carries), xs)), mask


def _checked(cell, params, xs, *, lengths=None, mask=None, initial_carry=None):
  """xs `[B, T, D]`, the mask and the initial carry, from the arguments of `unroll`."""
  checks.cell(cell)
  xs = checks.xs(xs)
  xs = xs.rows() if isinstance(xs, Lookup) else xs
  if xs.ndim != 3:
    raise ValueError(f'xs must be [B, T, D], with a batch axis, not {checks.said(xs)}')
  batch, steps, input_size = xs.shape
  params = checks.params(cell, params, input_size)
  kind = checks.kind(params, xs)
  mask = checks.mask(lengths, mask, (batch,), steps)
  mask = jnp.ones((batch, steps), bool) if mask is None else mask
  if initial_carry is None:
    initial_carry = cell.initial_carry((batch,), kind)
  return xs.astype(kind), mask, checks.carry(cell, initial_carry, (batch,), kind)
