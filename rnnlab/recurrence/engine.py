"""The scan of a cell's step, with a reverse pass that is fast for every cell.

Plain differentiation of `lax.scan` adds up the weights' gradients inside the loop, and keeps
whatever the step's operations happen to need. Here a step is first taken apart, as a jaxpr:

    invariants        what depends on parameters alone: weights, biases
    products          P_k = v_k w_k, the calls of `dot`
    pre-activations   what is linear in products and invariants: their sums, cut into gates
    the rest          all else

Of each step only the carry and the pre-activations are kept, each gate an array of its own; the
rest is computed again from them on the way back. With d for a tangent,

    dP_k = dv_k w_k + v_k dw_k

The second term is one matrix product over all steps, outside the loop, and where v_k is the input
so is the first: the loop is left with the state's own products. That is a jvp rule in plain JAX,
which JAX transposes: the gradients of weights, biases and inputs become a product each after the
reverse loop. Forward mode, vmap, checkpoint and higher derivatives work as with `lax.scan`.

A step that can't be taken apart, as its weights change from step to step, is scanned as it is.
"""

import collections
import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import Literal

from rnnlab.recurrence import checks

LINEAR = {'add', 'sub', 'neg', 'split', 'slice', 'reshape', 'squeeze', 'broadcast_in_dim'}


class Resets(NamedTuple):
  """Where a carry is made anew before a step is done, moved or not, and what it is then."""

  where: Any  # bool [T, B]; within a step [B]
  carry: Any


def scan(
  step, params, carry, xs, *, real=None, resets=None, masks=None, reverse=False, dtype=None,
  every=False,
):  # fmt: skip
  """Scans `step`, a `Cell`'s, over time: `xs [T, B, D]` -> the last carry and `ys [T, B, H]`.

  real: bool `[T, B]` or None. Where it is False the carry stays, y is 0 and xs must be finite.
  resets: `Resets` or None; no gradient goes past one.
  masks: for each product None, or what its operand is multiplied by, `[B, K]` or `[G, B, K]`.
  dtype: of the products' operands, or None for their own; sums and carries keep their dtype.
  every: returns `(ys, carries)` in place of ys, the carries after each step, `[T, B, ...]`.
  """
  leaves, tree = jax.tree.flatten(carry)
  resets = None if resets is None else Resets(resets.where, jax.tree.leaves(resets.carry))

  def flat(params, carry, x, dot):
    carry, y = step(params, jax.tree.unflatten(tree, carry), x, dot)
    return jax.tree.leaves(carry), y

  apart = _take_apart(flat, params, leaves, xs, masks, dtype)
  if apart is None:
    carry, ys, carries = _scan_whole(
      flat, params, leaves, xs, real, resets, masks, reverse, dtype, every
    )
  else:
    parts, invariants, masks = apart
    run = _scan_parts(parts, reverse, dtype, every)
    carry, ys, carries = run(invariants, leaves, xs, real, resets, masks)
  carry = jax.tree.unflatten(tree, carry)
  return carry, (ys, jax.tree.unflatten(tree, carries)) if every else ys


def product(w, v, mask=None, dtype=None):
  """`v [..., B, K] @ w [K, M]`, v times a mask: `[B, K]`, or `[G, B, K]`, one a block of M."""
  return _whole(_products(_blocks(w, mask), v, mask, dtype))


def _blocks(w, mask):
  """The columns of `w` in a block for each mask; or all of them, where they share one."""
  return [w] if mask is None or mask.ndim == 2 else jnp.split(w, len(mask), axis=1)


def _products(blocks, v, mask, dtype, transposed=False):
  """`product` as a list, from the blocks of w, or from each block's transpose."""

  def matmul(w, v):
    kind = jnp.result_type(v, w)
    if dtype is not None:
      v, w = v.astype(dtype), w.astype(dtype)
    # Flat, as XLA's products of arrays of three axes are slower on a CPU.
    flat = v.reshape(math.prod(v.shape[:-1]), v.shape[-1])
    axes = ((1,), (1 if transposed else 0,)), ((), ())
    out = jax.lax.dot_general(*_promoted(flat, w), axes, preferred_element_type=kind)
    return out.reshape(*v.shape[:-1], out.shape[-1])

  if mask is None:
    return [matmul(blocks[0], v)]
  masks = mask if mask.ndim == 3 else [mask]
  return [matmul(w, v * m) for w, m in zip(blocks, masks, strict=True)]


def _whole(blocks):
  return blocks[0] if len(blocks) == 1 else jnp.concatenate(blocks, axis=-1)


def _promoted(*arrays):
  kind = jnp.result_type(*arrays)
  return [a.astype(kind) for a in arrays]


def _hold(real, new, old):
  """`new` at real steps, `old` at others; lists of arrays."""
  if real is None:
    return new
  return [
    jnp.where(real.reshape(-1, *[1] * (a.ndim - 1)), a, b) for a, b in zip(new, old, strict=True)
  ]


def _renewed(where, new, carry):
  """`carry`, but `new` at the rows that begin anew."""
  return carry if where is None else _hold(where, new, carry)


def _scan_whole(step, params, carry, xs, real, resets, masks, reverse, dtype, every):
  anew, start = resets or (None, None)

  def body(carry, inputs):
    x, real, anew = inputs
    carry = _renewed(anew, start, carry)
    each = iter(masks) if masks else None

    def dot(w, v):
      return product(w, v, next(each) if each else None, dtype)

    new, y = step(params, carry, x, dot)
    new = _hold(real, new, carry)
    return new, (_hold(real, [y], [jnp.zeros_like(y)])[0], new if every else None)

  carry, (ys, carries) = jax.lax.scan(body, carry, (xs, real, anew), reverse=reverse)
  return carry, ys, carries


class _Parts(NamedTuple):
  """A step taken apart: variables and equations of its jaxpr."""

  invariants: list  # that the loop needs
  carry: list
  x: Any
  new: list  # the next carry
  y: Any
  products: dict  # a product's variable -> k
  weights: list  # by k, as are operands
  operands: list
  linear: dict  # a variable that is linear in products and invariants -> its equation
  kept: list  # those of products and linear that the rest uses: the pre-activations
  rest: list  # equations

  def source(self, k):
    """Where product k's operand is found: 'x', the index of an array of the carry, or None."""
    v = self.operands[k]
    return 'x' if v is self.x else self.carry.index(v) if v in self.carry else None


class _Values(dict):
  """Variables' values; `missing(var)` makes those that are asked for before they are set."""

  def __init__(self, variables, values, missing=None):
    super().__init__(zip(variables, values, strict=True))
    self.missing = missing

  def __missing__(self, var):
    self[var] = value = self.missing(var)
    return value

  def read(self, atom):
    return atom.val if isinstance(atom, Literal) else self[atom]

  def run(self, equation):
    primitive = equation.primitive
    params = primitive.get_bind_params(equation.params)
    with equation.ctx.manager:
      out = primitive.bind(*map(self.read, equation.invars), **params)
    self.update(zip(equation.outvars, out if primitive.multiple_results else [out], strict=True))


def _variables(atoms):
  return [a for a in atoms if not isinstance(a, Literal)]


def _take_apart(step, params, carry, xs, masks, dtype):
  """`_Parts`, the values of its invariants and the masks; None where the step can't be."""
  x = jax.ShapeDtypeStruct(xs.shape[1:], xs.dtype)
  found = []

  def shapes(params, carry, x):
    def dot(w, v):
      p = product(w, v, masks[len(found)] if masks else None, dtype)
      found.append(jax.ShapeDtypeStruct(p.shape, p.dtype))
      return p

    return step(params, carry, x, dot)

  def apart(params, carry, x, found):
    calls = []

    def dot(w, v):
      calls.append((w, v))
      return found[len(calls) - 1]

    new, y = step(params, carry, x, dot)
    return new, y, [w for w, _ in calls], [v for _, v in calls]

  try:
    checks.step(carry, jax.eval_shape(shapes, params, carry, x)[0])
    jaxpr = jax.make_jaxpr(apart)(params, carry, x, found)
  except jax.errors.UnexpectedTracerError:  # a dot within a jit or checkpoint of the step's own
    return None
  leaves = jax.tree.leaves(params)
  ins, outs = iter(jaxpr.jaxpr.invars), iter(jaxpr.jaxpr.outvars)
  of_params, of_carry, (of_x,), of_found = (
    [next(ins) for _ in part] for part in (leaves, carry, [x], found)
  )
  new, (y,), weights, operands = ([next(outs) for _ in part] for part in (carry, [x], found, found))

  values = _Values([*of_params, *jaxpr.jaxpr.constvars], [*leaves, *jaxpr.consts])
  moving = {*of_carry, of_x, *of_found}
  equations = []
  for equation in jaxpr.jaxpr.eqns:
    if moving.isdisjoint(_variables(equation.invars)):
      values.run(equation)
    else:
      equations.append(equation)
      moving.update(equation.outvars)
  if not all(
    w not in moving and w.aval.ndim == 2 and v in moving and v.aval.ndim == 2
    for w, v in zip(weights, _variables(operands), strict=True)
  ):
    return None

  users = collections.defaultdict(list)
  for equation in equations:
    for v in _variables(equation.invars):
      users[v].append(equation)
  for v in _variables([*new, y, *operands]):
    users[v].append(None)

  linear, rest = dict.fromkeys(of_found), []
  for equation in equations:
    eaten = {v for v in _variables(equation.invars) if v in linear}
    if (
      eaten
      and equation.primitive.name in LINEAR
      and all(v in linear or v not in moving for v in _variables(equation.invars))
      and not any(isinstance(v, Literal) for v in equation.invars)
      # What is linear is kept in place of what it is made of, so that it must not be more.
      and all(_serve_alone(users[v]) for v in eaten)
      and sum(v.aval.size for v in equation.outvars) <= sum(v.aval.size for v in eaten)
    ):
      linear |= dict.fromkeys(equation.outvars, equation)
    else:
      rest.append(equation)
  of_rest = {None, *map(id, rest)}
  kept = [v for v in linear if any((u and id(u)) in of_rest for u in users[v])]
  invariants = dict.fromkeys(weights)
  for atoms in (*(e.invars for e in equations), new, [y]):
    invariants |= dict.fromkeys(v for v in _variables(atoms) if v not in moving)
  products = {v: k for k, v in enumerate(of_found)}
  parts = _Parts(
    list(invariants), of_carry, of_x, new, y, products, weights, operands, linear, kept, rest
  )
  return parts, [values[v] for v in invariants], masks or [None] * len(found)


def _serve_alone(users):
  """Whether one equation takes the whole of a variable, or several a slice each."""
  first = users[0]
  return first is not None and all(
    u is first or u is not None and u.primitive.name == first.primitive.name == 'slice'
    for u in users
  )


def _scan_parts(parts, reverse, dtype, every):
  """`run(invariants, carry, xs, real, resets, masks)` -> the last carry, ys and, if `every`, all
  carries, with its jvp rule."""
  index = {v: i for i, v in enumerate(parts.invariants)}
  of_rest = [v for equation in parts.rest for v in equation.invars]
  in_rest = set(_variables([*of_rest, *parts.new, parts.y]))
  floats = [i for i, v in enumerate(parts.carry) if jnp.issubdtype(v.aval.dtype, jnp.inexact)]
  count = range(len(parts.weights))

  def weights(invariants, masks):
    """Each product's blocks of weights; cut outside of loops, as XLA would cut at each step."""
    return [
      d if _is_zero(d) else _blocks(d, mask)
      for d, mask in zip([invariants[index[w]] for w in parts.weights], masks, strict=True)
    ]

  def linear_values(products, invariant):
    """Values of what is linear, from functions of k, giving blocks, and of an invariant."""
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

    return lambda var: _whole(find(var))

  def rest_values(invariants, carry, x, missing):
    """Values of all the variables of the rest; `missing` makes the pre-activations."""
    values = _Values(parts.invariants, invariants, missing)
    values.update(zip(parts.carry, carry, strict=True))
    values[parts.x] = x
    return values

  def forward(invariants, carry, xs, real, resets, masks, keep):
    w = weights(invariants, masks)
    anew, start = resets or (None, None)

    def body(carry, inputs):
      x, real, anew = inputs
      carry = _renewed(anew, start, carry)
      before = linear_values(
        lambda k: _products(w[k], values.read(parts.operands[k]), masks[k], dtype),
        lambda var: invariants[index[var]],
      )
      values = rest_values(invariants, carry, x, before)
      for equation in parts.rest:
        values.run(equation)
      new, y = [values.read(v) for v in parts.new], values.read(parts.y)
      kept = None
      if keep:
        operands = [
          None if parts.source(k) is not None else values[parts.operands[k]] for k in count
        ]
        kept = carry, operands, [values[v] for v in parts.kept]
      new = _hold(real, new, carry)
      y = _hold(real, [y], [jnp.zeros_like(y)])[0]
      return new, (y, new if every else None, kept)

    carry, (ys, carries, kept) = jax.lax.scan(body, carry, (xs, real, anew), reverse=reverse)
    return carry, ys, carries, kept

  @jax.custom_jvp
  def run(invariants, carry, xs, real, resets, masks):
    return forward(invariants, carry, xs, real, resets, masks, keep=False)[:3]

  @functools.partial(run.defjvp, symbolic_zeros=True)
  def rule(primals, tangents):
    invariants, carry, xs, real, resets, masks = primals
    d_invariants, d_carry, d_xs, _, d_resets, d_masks = tangents
    last, ys, after, (carries, operands, kept) = forward(*primals, keep=True)
    w, d_w = weights(invariants, masks), weights(d_invariants, masks)

    def outside(k):
      """The part of dP_k that the loop is not needed for, at all steps."""
      source = parts.source(k)
      v = xs if source == 'x' else operands[k] if source is None else carries[source]
      terms = [(d_w[k], v, masks[k])]
      if source == 'x':
        terms.append((w[k], d_xs, masks[k]))
      if masks[k] is not None:
        terms.append((w[k], v, d_masks[k]))
      terms = [_products(*term, dtype) for term in terms if not any(map(_is_zero, term))]
      if not terms:
        return [_zeros(list(parts.products)[k], len(xs))]
      return [sum(blocks) for blocks in zip(*terms, strict=True)]

    def at_a_step(d_products):
      d = linear_values(d_products.__getitem__, lambda var: _dense(d_invariants[index[var]], var))
      return [d(v) for v in parts.kept]

    d_kept = jax.vmap(at_a_step, axis_size=len(xs))([outside(k) for k in count])

    moved = [v for v in parts.invariants if v in in_rest and not _is_zero(d_invariants[index[v]])]
    d_moved = [d_invariants[index[v]] for v in moved]
    moved_values = [invariants[index[v]] for v in moved]
    d_x_rest = None if parts.x not in in_rest or _is_zero(d_xs) else d_xs
    # Transposed here, once: on the way back the loop then multiplies by them as they lie.
    w_t = [[block.T for block in blocks] for blocks in w]

    @jax.checkpoint
    def body(d_carry, inputs):
      x, d_x, carry, operands, kept, d_kept, real, anew = inputs
      d_carry = _renewed(anew, d_reset, d_carry)

      def replay(moved_values, floating, x, kept):
        def of_state(k):
          source = parts.source(k)
          if source == 'x':
            return [_zeros(list(parts.products)[k])]
          known = operands[k] if source is None else carry[source]
          return _moved(w_t[k], values.read(parts.operands[k]), known, masks[k], dtype)

        moves = linear_values(of_state, _zeros)
        given = dict(zip(parts.kept, kept, strict=True))
        values = rest_values(invariants, carry, x, lambda var: given[var] + moves(var))
        values.update(zip(moved, moved_values, strict=True))
        values.update((parts.carry[i], c) for i, c in zip(floats, floating, strict=True))
        for equation in parts.rest:
          values.run(equation)
        return [values.read(parts.new[i]) for i in floats], values.read(parts.y)

      at = moved_values, [carry[i] for i in floats], x, kept
      _, (d_new, d_y) = jax.jvp(replay, at, (d_moved, d_carry, _dense(d_x, parts.x), d_kept))
      d_new = _hold(real, d_new, d_carry)
      return d_new, (_hold(real, [d_y], [jnp.zeros_like(d_y)])[0], d_new if every else None)

    anew = d_reset = None
    if resets is not None:
      anew, d_reset = resets.where, [_dense(d_resets.carry[i], parts.carry[i]) for i in floats]
    d_start = [_dense(d_carry[i], parts.carry[i]) for i in floats]
    d_floats, (d_ys, d_after) = jax.lax.scan(
      body, d_start, (xs, d_x_rest, carries, operands, kept, d_kept, real, anew), reverse=reverse
    )

    def of_all(values, d_floats):
      found = [np.zeros(value.shape, jax.dtypes.float0) for value in values]
      for i, d in zip(floats, d_floats, strict=True):
        found[i] = d
      return found

    d_after = of_all(after, d_after) if every else None
    return (last, ys, after), (of_all(last, d_floats), d_ys, d_after)

  return run


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
def _moved(w_t, v, known, mask, dtype):
  """The products of `v - known`, which is 0, but whose tangent need not be."""
  return [jnp.zeros((*v.shape[:-1], len(w)), jnp.result_type(v, w)) for w in w_t]


@_moved.defjvp
def _moved_jvp(dtype, primals, tangents):
  w_t, _, _, mask = primals
  _, d_v, d_known, _ = tangents
  return _moved(*primals, dtype), _products(w_t, d_v - d_known, mask, dtype, transposed=True)


def _run_on_blocks(equation, operands):
  """The results of a linear equation, each a list of blocks of columns, as are its operands."""
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
  out = equation.primitive.bind(*map(_whole, operands), **params)
  return [[o] for o in (out if equation.primitive.multiple_results else [out])]


def _is_zero(d):
  return isinstance(d, SymbolicZero)


def _zeros(var, *leading):
  return jnp.zeros((*leading, *var.aval.shape), var.aval.dtype)


def _dense(d, var):
  return _zeros(var) if d is None or _is_zero(d) else d
