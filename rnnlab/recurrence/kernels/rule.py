"""A function with a forward and a backward kernel: its derivatives, vmap, and where kernels run.

Reverse mode uses the kernels; forward mode and higher derivatives differentiate the same function
written in plain JAX. JAX's own mechanisms do not suffice for this: custom_vjp has no forward mode,
and linear_call has neither vmap nor second derivatives.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


def always(name: str, inputs: Any) -> bool:
  return True


class Kernels(NamedTuple):
  """What is fixed when a function `(data, inputs) -> outputs` of trees of arrays is made.

  The kernels have no gradient by `data`; if that is asked for, `scan` is differentiated.

  scan: `(data, inputs) -> outputs, saved`, in plain JAX.
  forward: `(save, data, inputs) -> outputs, saved`; saved is None unless `save`.
  backward: `(data, inputs, saved, d_outputs) -> d_inputs`.
  platform: where the two kernels run, 'cuda' or 'cpu'; elsewhere `scan` does. None: anywhere.
  works: `(name, inputs) -> bool`, whether 'forward' or 'backward' can be used there; otherwise
    `scan` is used. Asked when a function is traced.
  must: whether it is an error if `works` returns False.
  """

  scan: Callable
  forward: Callable
  backward: Callable
  platform: str | None
  works: Callable = always
  must: bool = False

  def serve(self, name: str, inputs: Any) -> bool:
    """Whether the kernel of this name runs; raises ValueError if it must and can't."""
    found = self.works(name, inputs)
    if self.must and not found:
      raise ValueError(
        f"backend='kernel': the {name} kernel does not work on this machine, for the reason"
        " given by a warning in the log; backend='auto' uses the scan instead"
      )
    return found


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def run(kernels: Kernels, save: bool, data: Any, inputs: Any) -> tuple:
  """`outputs, saved`; saved is None unless `save`."""
  if not kernels.serve('forward', inputs):
    return _plain(kernels, save)(data, inputs)
  return _on_platform(
    kernels, functools.partial(kernels.forward, save), _plain(kernels, save), data, inputs
  )


@functools.partial(run.defjvp, symbolic_zeros=True)
def _run_jvp(kernels, save, primals, tangents):
  moving = [d for d in jax.tree.leaves(tangents[0]) if d.dtype != jax.dtypes.float0]
  tangents = jax.tree.map(_dense, tangents)
  if not all(isinstance(d, SymbolicZero) for d in moving):
    return jax.jvp(_plain(kernels, save), primals, tangents)
  data, inputs = primals
  outputs, saved = run(kernels, True, data, inputs)
  d_outputs = _differential(kernels, (data, inputs, saved), tangents[1])
  # `saved` is never differentiated: higher derivatives are those of the plain scan.
  d_saved = jax.tree.map(jnp.zeros_like, saved) if save else None
  return (outputs, saved if save else None), (d_outputs, d_saved)


def _plain(kernels, save):
  def scan(data, inputs):
    outputs, saved = kernels.scan(data, inputs)
    return outputs, saved if save else None

  return scan


def _on_platform(kernels, kernel, plain, *arguments):
  if kernels.platform is None:
    return kernel(*arguments)
  return jax.lax.platform_dependent(*arguments, **{kernels.platform: kernel}, default=plain)


def _dense(tangent):
  if not isinstance(tangent, SymbolicZero):
    return tangent
  zeros = np.zeros if tangent.dtype == jax.dtypes.float0 else jnp.zeros
  return zeros(tangent.shape, tangent.dtype)


def _differential(kernels, residuals, tangent):
  """The differential of `run` at residuals `(data, inputs, saved)`, from inputs to outputs."""
  values, structure = jax.tree.flatten(residuals)
  inputs = jax.tree.structure(tangent)

  def scan(values):
    data, at, _ = structure.unflatten(values)
    return lambda inputs: kernels.scan(data, inputs)[0], at

  outputs = jax.tree.structure(jax.eval_shape(*scan(values)))

  def push(values, tangents):
    f, at = scan(values)
    return jax.tree.leaves(jax.jvp(f, (at,), (inputs.unflatten(tangents),))[1])

  def pull(values, cotangents):
    f, at = scan(values)
    return jax.tree.leaves(jax.vjp(f, at)[1](outputs.unflatten(cotangents)))

  def fused_pull(values, cotangents):
    if not kernels.serve('backward', structure.unflatten(values)[1]):
      return pull(values, cotangents)

    def kernel(values, cotangents):
      residuals = structure.unflatten(values)
      return jax.tree.leaves(kernels.backward(*residuals, outputs.unflatten(cotangents)))

    return _on_platform(kernels, kernel, pull, values, cotangents)

  found = linear_p.bind(
    *values,
    *jax.tree.leaves(tangent),
    this=Linear(push, push),
    transpose=Linear(fused_pull, pull),
    count=len(values),
  )
  return outputs.unflatten(found)


class Linear(NamedTuple):
  """`(residuals, arguments) -> results`, lists of arrays, linear in the arguments."""

  run: Callable
  plain: Callable  # the same for JAX's own transformations


linear_p = Primitive('fused_linear')  # its operands: `count` residuals, then the arguments
linear_p.multiple_results = True


@linear_p.def_impl
def _linear(*values, this, transpose, count):
  return this.run(list(values[:count]), list(values[count:]))


@linear_p.def_abstract_eval
def _linear_shapes(*avals, this, transpose, count):
  shapes = jax.eval_shape(this.plain, list(avals[:count]), list(avals[count:]))
  return [ShapedArray(a.shape, a.dtype) for a in shapes]


def _linear_transpose(cotangents, *values, this, transpose, count):
  cotangents = map(ad.instantiate_zeros, cotangents)
  found = linear_p.bind(*values[:count], *cotangents, this=transpose, transpose=this, count=count)
  return [None] * count + found


def _linear_jvp(primals, tangents, *, this, transpose, count):
  moving = [i for i, t in enumerate(tangents) if not isinstance(t, ad.Zero)]

  def f(*moved):
    values = list(primals)
    for i, value in zip(moving, moved, strict=True):
      values[i] = value
    return this.plain(values[:count], values[count:])

  return jax.jvp(f, [primals[i] for i in moving], [tangents[i] for i in moving])


def _linear_batch(values, axes, *, this, transpose, count):
  (size,) = {v.shape[axis] for v, axis in zip(values, axes, strict=True) if axis is not None}
  arguments = [
    jnp.broadcast_to(v, (size, *v.shape)) if axis is None else jnp.moveaxis(v, axis, 0)
    for v, axis in zip(values[count:], axes[count:], strict=True)
  ]

  def mapped(linear):
    return Linear(*(jax.vmap(f, in_axes=(list(axes[:count]), 0)) for f in linear))

  found = linear_p.bind(
    *values[:count], *arguments, this=mapped(this), transpose=mapped(transpose), count=count
  )
  return found, [0] * len(found)


ad.primitive_transposes[linear_p] = _linear_transpose
ad.primitive_jvps[linear_p] = _linear_jvp
batching.primitive_batchers[linear_p] = _linear_batch
mlir.register_lowering(linear_p, mlir.lower_fun(_linear, multiple_results=True))
