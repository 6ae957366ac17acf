"""The scan of a step that has been taken apart, and its jvp rule."""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from rnnlab.cells.base import Array
from rnnlab.recurrence.product import blocks_of, joined, products
from rnnlab.recurrence.split import Parts, Values, variables


def hold(real: Array | None, new: list[Array], old: list[Array]) -> list[Array]:
  """`new` at real steps, `old` at others; lists of arrays."""
  if real is None:
    return new
  return [
    jnp.where(real.reshape(-1, *[1] * (a.ndim - 1)), a, b) for a, b in zip(new, old, strict=True)
  ]


def renewed(where: Array | None, new: list[Array], carry: list[Array]) -> list[Array]:
  """`carry`, but `new` at the rows that are reset."""
  return carry if where is None else hold(where, new, carry)


class Loop(NamedTuple):
  """The fixed part of a scan: the step, taken apart, and the options of `engine.scan`."""

  parts: Parts
  reverse: bool
  dtype: Any
  every: bool


def scan_parts(loop: Loop) -> Callable:
  """`run(invariants, carry, xs, real, resets, masks) -> carry, ys, carries`, with its jvp rule.

  The carry is a list of arrays; carries, the ones after every step, are None unless `loop.every`.
  """

  @jax.custom_jvp
  def run(invariants, carry, xs, real, resets, masks):
    return _forward(loop, invariants, carry, xs, real, resets, masks, keep=False)[:3]

  run.defjvp(functools.partial(_jvp, loop), symbolic_zeros=True)
  return run


def _weights(parts, invariants, masks):
  """Each product's blocks of weights; cut outside the loop, where XLA would cut at each step."""
  weights = [invariants[parts.place(w)] for w in parts.weights]
  return [d if _is_zero(d) else blocks_of(d, mask) for d, mask in zip(weights, masks, strict=True)]


def _linear_values(parts, products, invariant):
  """Values of the linear variables, from functions to blocks: of k, and of an invariant."""
  blocks = {}

  def find(var):
    if var not in blocks:
      if var in parts.products:
        blocks[var] = products(parts.products[var])
      elif var not in parts.linear:
        blocks[var] = [invariant(var)]
      else:
        equation = parts.linear[var]
        found = _run_on_blocks(equation, [find(v) for v in equation.invars])
        blocks.update(zip(equation.outvars, found, strict=True))
    return blocks[var]

  return lambda var: joined(find(var))


def _rest_values(parts, invariants, carry, x, missing):
  """Values of all the variables of the rest; `missing` makes the pre-activations."""
  values = Values(parts.invariants, invariants, missing)
  values.update(zip(parts.carry, carry, strict=True))
  values[parts.x] = x
  return values


def _forward(loop, invariants, carry, xs, real, resets, masks, keep):
  """carry, ys, carries and, if `keep`, what the tangents need from each step: `_Saved`."""
  parts = loop.parts
  w = _weights(parts, invariants, masks)
  anew, start = resets or (None, None)

  def body(carry, inputs):
    x, real, anew = inputs
    carry = renewed(anew, start, carry)
    before = _linear_values(
      parts,
      lambda k: products(w[k], values.read(parts.operands[k]), masks[k], loop.dtype),
      lambda var: invariants[parts.place(var)],
    )
    values = _rest_values(parts, invariants, carry, x, before)
    for equation in parts.rest:
      values.run(equation)
    new, y = [values.read(v) for v in parts.new], values.read(parts.y)
    saved = None
    if keep:
      operands = [
        None if parts.source(k) is not None else values[v] for k, v in enumerate(parts.operands)
      ]
      saved = _Saved(carry, operands, [values[v] for v in parts.kept])
    new = hold(real, new, carry)
    y = hold(real, [y], [jnp.zeros_like(y)])[0]
    return new, (y, new if loop.every else None, saved)

  carry, (ys, carries, saved) = jax.lax.scan(body, carry, (xs, real, anew), reverse=loop.reverse)
  return carry, ys, carries, saved


class _Saved(NamedTuple):
  """What is kept of each step."""

  carry: list  # before the step
  operands: list  # by product, those that are neither x nor from the carry
  kept: list  # the pre-activations


def _jvp(loop, primals, tangents):
  parts = loop.parts
  invariants, _, xs, real, resets, masks = primals
  d_invariants, d_carry, d_xs, _, d_resets, _ = tangents
  last, ys, after, saved = _forward(loop, *primals, keep=True)
  d_kept = _d_kept(loop, primals, tangents, saved)

  of_rest = [v for equation in parts.rest for v in equation.invars]
  in_rest = set(variables([*of_rest, *parts.new, parts.y]))
  floats = [i for i, v in enumerate(parts.carry) if jnp.issubdtype(v.aval.dtype, jnp.inexact)]
  moved = [
    v for v in parts.invariants if v in in_rest and not _is_zero(d_invariants[parts.place(v)])
  ]
  d_moved = [d_invariants[parts.place(v)] for v in moved]
  d_x_rest = None if parts.x not in in_rest or _is_zero(d_xs) else d_xs
  # Transposed here, once, so that the backward loop can use them as they lie in memory.
  w_t = [[block.T for block in blocks] for blocks in _weights(parts, invariants, masks)]
  step = functools.partial(_d_step, loop, invariants, masks, w_t, moved, floats)

  anew = d_reset = None
  if resets is not None:
    anew, d_reset = resets.where, [_dense(d_resets.carry[i], parts.carry[i]) for i in floats]

  @jax.checkpoint
  def body(d_carry, inputs):
    x, d_x, saved, d_kept, real, anew = inputs
    d_carry = renewed(anew, d_reset, d_carry)
    d_new, d_y = step(d_moved, d_carry, x, d_x, saved, d_kept)
    d_new = hold(real, d_new, d_carry)
    return d_new, (hold(real, [d_y], [jnp.zeros_like(d_y)])[0], d_new if loop.every else None)

  d_start = [_dense(d_carry[i], parts.carry[i]) for i in floats]
  d_floats, (d_ys, d_after) = jax.lax.scan(
    body, d_start, (xs, d_x_rest, saved, d_kept, real, anew), reverse=loop.reverse
  )

  def of_all(values, d_floats):
    found = [np.zeros(value.shape, jax.dtypes.float0) for value in values]
    for i, d in zip(floats, d_floats, strict=True):
      found[i] = d
    return found

  d_after = of_all(after, d_after) if loop.every else None
  return (last, ys, after), (of_all(last, d_floats), d_ys, d_after)


def _d_kept(loop, primals, tangents, saved):
  """The part of the pre-activations' tangents that does not need the loop, at all steps."""
  parts = loop.parts
  invariants, _, xs, _, _, masks = primals
  d_invariants, _, d_xs, _, _, d_masks = tangents
  w, d_w = _weights(parts, invariants, masks), _weights(parts, d_invariants, masks)

  def outside(k):
    """The part of dP_k that does not need the loop."""
    source = parts.source(k)
    v = xs if source == 'x' else saved.operands[k] if source is None else saved.carry[source]
    terms = [(d_w[k], v, masks[k])]
    if source == 'x':
      terms.append((w[k], d_xs, masks[k]))
    if masks[k] is not None:
      terms.append((w[k], v, d_masks[k]))
    terms = [products(*term, loop.dtype) for term in terms if not any(map(_is_zero, term))]
    if not terms:
      return [_zeros(list(parts.products)[k], len(xs))]
    return [sum(blocks) for blocks in zip(*terms, strict=True)]

  def at_a_step(d_products):
    d = _linear_values(
      parts, d_products.__getitem__, lambda var: _dense(d_invariants[parts.place(var)], var)
    )
    return [d(v) for v in parts.kept]

  of_all = [outside(k) for k in range(len(parts.weights))]
  return jax.vmap(at_a_step, axis_size=len(xs))(of_all)


def _d_step(loop, invariants, masks, w_t, moved, floats, d_moved, d_carry, x, d_x, saved, d_kept):
  """The tangents of a step's new carry and of y.

  moved: the invariants of the rest that have a tangent; floats: which arrays of the carry have one.
  """
  parts = loop.parts

  def replay(moved_values, floating, x, kept):
    def of_state(k):
      source = parts.source(k)
      if source == 'x':
        return [_zeros(list(parts.products)[k])]
      known = saved.operands[k] if source is None else saved.carry[source]
      return _moved(w_t[k], values.read(parts.operands[k]), known, masks[k], loop.dtype)

    moves = _linear_values(parts, of_state, _zeros)
    given = dict(zip(parts.kept, kept, strict=True))
    values = _rest_values(parts, invariants, saved.carry, x, lambda v: given[v] + moves(v))
    values.update(zip(moved, moved_values, strict=True))
    values.update((parts.carry[i], c) for i, c in zip(floats, floating, strict=True))
    for equation in parts.rest:
      values.run(equation)
    return [values.read(parts.new[i]) for i in floats], values.read(parts.y)

  moved_values = [invariants[parts.place(v)] for v in moved]
  at = moved_values, [saved.carry[i] for i in floats], x, saved.kept
  return jax.jvp(replay, at, (d_moved, d_carry, _dense(d_x, parts.x), d_kept))[1]


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
def _moved(w_t, v, known, mask, dtype):
  """The products of `v - known`, which is 0 but may have a non-zero tangent."""
  return [jnp.zeros((*v.shape[:-1], len(w)), jnp.result_type(v, w)) for w in w_t]


@_moved.defjvp
def _moved_jvp(dtype, primals, tangents):
  w_t, _, _, mask = primals
  _, d_v, d_known, _ = tangents
  return _moved(*primals, dtype), products(w_t, d_v - d_known, mask, dtype, transposed=True)


def _run_on_blocks(equation, operands):
  """The results of a linear equation, each as a list of blocks of columns, like its operands."""
  name, params = equation.primitive.name, equation.primitive.get_bind_params(equation.params)
  count = max(map(len, operands))
  if count > 1 and name in ('add', 'sub', 'neg') and {1, count}.issuperset(map(len, operands)):
    each = [o if len(o) == count else jnp.split(o[0], count, axis=-1) for o in operands]
    return [[equation.primitive.bind(*blocks, **params) for blocks in zip(*each, strict=True)]]
  if count > 1 and name == 'split' and params['axis'] == operands[0][0].ndim - 1:
    width = operands[0][0].shape[-1]
    ends = np.cumsum((0, *params['sizes'])) / width
    if (ends == ends.astype(int)).all():
      return [operands[0][a:b] for a, b in itertools.pairwise(ends.astype(int))]
  out = equation.primitive.bind(*map(joined, operands), **params)
  return [[o] for o in (out if equation.primitive.multiple_results else [out])]


def _is_zero(d):
  return isinstance(d, SymbolicZero)


def _zeros(var, *leading):
  return jnp.zeros((*leading, *var.aval.shape), var.aval.dtype)


def _dense(d, var):
  return _zeros(var) if d is None or _is_zero(d) else d
