"""A step taken apart: what depends only on parameters, what is linear, and the rest."""

import collections
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import Literal

from rnnlab.cells.base import Array
from rnnlab.recurrence import checks
from rnnlab.recurrence.product import product

LINEAR = {'add', 'sub', 'neg', 'split', 'slice', 'reshape', 'squeeze', 'broadcast_in_dim'}


class Parts(NamedTuple):
  """A step taken apart: variables and equations of its jaxpr."""

  invariants: list  # those that the loop needs
  carry: list
  x: Any
  new: list  # the next carry
  y: Any
  products: dict  # a product's variable -> k
  weights: list  # by k, like operands
  operands: list
  linear: dict  # a variable that is linear in products and invariants -> its equation
  kept: list  # those of products and linear that the rest uses: the pre-activations
  rest: list  # equations

  def place(self, var: Any) -> int:
    """The index of an invariant among all."""
    return self.invariants.index(var)

  def source(self, k: int) -> str | int | None:
    """Where product k's operand is found: 'x', the index of an array of the carry, or None."""
    v = self.operands[k]
    return 'x' if v is self.x else self.carry.index(v) if v in self.carry else None


class Values(dict):
  """Variables' values; `missing(var)` makes those that are read before they are set."""

  def __init__(self, variables, values, missing=None):
    super().__init__(zip(variables, values, strict=True))
    self.missing = missing

  def __missing__(self, var):
    self[var] = value = self.missing(var)
    return value

  def read(self, atom: Any) -> Any:
    return atom.val if isinstance(atom, Literal) else self[atom]

  def run(self, equation: Any) -> None:
    primitive = equation.primitive
    params = primitive.get_bind_params(equation.params)
    with equation.ctx.manager:
      out = primitive.bind(*map(self.read, equation.invars), **params)
    self.update(zip(equation.outvars, out if primitive.multiple_results else [out], strict=True))


def variables(atoms: Iterable[Any]) -> list[Any]:
  """The atoms of a jaxpr that are not literals."""
  return [a for a in atoms if not isinstance(a, Literal)]


def take_apart(
  step: Callable,
  params: Any,
  carry: list[Array],
  xs: Array,
  masks: Sequence[Array | None] | None,
  dtype: Any,
) -> tuple[Parts, list[Array], Sequence[Array | None]] | None:
  """`Parts`, the values of its invariants and the masks; None if the step can't be taken apart.

  step: `(params, carry, x, dot) -> carry, y`, with carries as lists of arrays; the other arguments
  are as in `engine.scan`.
  """
  traced = _traced(step, params, carry, xs, masks, dtype)
  if traced is None:
    return None
  jaxpr, count = traced
  leaves = jax.tree.leaves(params)
  ins, outs = iter(jaxpr.jaxpr.invars), iter(jaxpr.jaxpr.outvars)
  of_params, of_carry, (of_x,), of_found = (
    [next(ins) for _ in range(n)] for n in (len(leaves), len(carry), 1, count)
  )
  new, (y,), weights, operands = (
    [next(outs) for _ in range(n)] for n in (len(carry), 1, count, count)
  )
  values = Values([*of_params, *jaxpr.jaxpr.constvars], [*leaves, *jaxpr.consts])
  moving = {*of_carry, of_x, *of_found}
  equations = _run_invariants(jaxpr.jaxpr.eqns, values, moving)
  if not all(
    w not in moving and w.aval.ndim == 2 and v in moving and v.aval.ndim == 2
    for w, v in zip(weights, variables(operands), strict=True)
  ):
    return None
  linear, kept, rest = _linear(equations, moving, of_found, [*new, y, *operands])
  invariants = dict.fromkeys(weights)
  for atoms in (*(e.invars for e in equations), new, [y]):
    invariants |= dict.fromkeys(v for v in variables(atoms) if v not in moving)
  products = {v: k for k, v in enumerate(of_found)}
  parts = Parts(
    list(invariants), of_carry, of_x, new, y, products, weights, operands, linear, kept, rest
  )
  return parts, [values[v] for v in invariants], masks or [None] * count


def _traced(step, params, carry, xs, masks, dtype):
  """The step's jaxpr, from params, carry, x and its products to new carry, y, weights and operands.

  Also returns how many products it has. None if `dot` is called within a jit or a checkpoint.
  """
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
    return jax.make_jaxpr(apart)(params, carry, x, found), len(found)
  except jax.errors.UnexpectedTracerError:  # the step calls dot within its own jit or checkpoint
    return None


def _run_invariants(equations, values, moving):
  """Runs the equations that depend only on parameters; returns the others, adding to `moving`."""
  others = []
  for equation in equations:
    if moving.isdisjoint(variables(equation.invars)):
      values.run(equation)
    else:
      others.append(equation)
      moving.update(equation.outvars)
  return others


def _linear(equations, moving, products, results):
  """The linear variables, those of them to keep, and the equations of the rest; see `Parts`."""
  users = collections.defaultdict(list)
  for equation in equations:
    for v in variables(equation.invars):
      users[v].append(equation)
  for v in variables(results):
    users[v].append(None)

  linear, rest = dict.fromkeys(products), []
  for equation in equations:
    eaten = {v for v in variables(equation.invars) if v in linear}
    if (
      eaten
      and equation.primitive.name in LINEAR
      and all(v in linear or v not in moving for v in variables(equation.invars))
      and not any(isinstance(v, Literal) for v in equation.invars)
      # Linear variables are kept in place of their operands, so they must not be larger.
      and all(_serve_alone(users[v]) for v in eaten)
      and sum(v.aval.size for v in equation.outvars) <= sum(v.aval.size for v in eaten)
    ):
      linear |= dict.fromkeys(equation.outvars, equation)
    else:
      rest.append(equation)
  of_rest = {None, *map(id, rest)}
  kept = [v for v in linear if any((u and id(u)) in of_rest for u in users[v])]
  return linear, kept, rest


def _serve_alone(users):
  """Whether one equation uses the whole variable, or several use one slice each."""
  first = users[0]
  return first is not None and all(
    u is first or u is not None and u.primitive.name == first.primitive.name == 'slice'
    for u in users
  )
