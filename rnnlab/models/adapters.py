"""Any cell as one of Flax's own, for nn.RNN, nn.Bidirectional and nn.scan, and their nnx versions.

Flax's scan runs the cell one step at a time; for the speed of `recurrence.unroll`, use
`models.Recurrent`.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from rnnlab.cells.base import Array, Carry, Cell, Params, matmul
from rnnlab.recurrence import checks


class LinenCell(nn.RNNCellBase):
  """A cell as a `flax.linen.RNNCellBase`, as in `nn.RNN(rnnlab.LinenCell(rnnlab.lstm(64)))`.

  `(carry, inputs [..., D]) -> (carry, y [..., H])`. The parameters are the cell's own, under its
  names: `variables['params']['cell']` of that nn.RNN is what `rnnlab.unroll` takes. The carry is
  the cell's own too: LSTM's is `LSTMCarry(h, c)`, where Flax's is `(c, h)`.
  param_dtype: of the parameters and the carry; None: JAX's default float. Inputs must not be of a
  wider dtype. carry_init: an initialiser for each array of the carry, instead of the cell's own
  initial carry.

  >>> import flax.linen as nn
  >>> layer = nn.RNN(rnnlab.LinenCell(rnnlab.gru(hidden_size=4)))
  >>> ys, variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 5, 3)))
  >>> ys.shape, variables['params']['cell']['w_h'].shape
  ((2, 5, 4), (4, 12))
  """

  cell: Cell
  param_dtype: jnp.dtype | None = None
  carry_init: nn.initializers.Initializer | None = None

  @nn.compact
  def __call__(self, carry: Carry, inputs: Array) -> tuple[Carry, Array]:
    inputs = checks.array('inputs', inputs)
    # One key for all parameters, since a cell draws them together.
    key = self.make_rng('params') if self.has_rng('params') else jax.random.key(0)

    def init(key):
      return _init(self.cell, key, inputs.shape[-1], self.param_dtype)

    params = {
      name: self.param(name, lambda _, name=name: init(key)[name])
      for name in jax.eval_shape(init, key)
    }
    return _step(self.cell, params, carry, inputs)

  @nn.nowrap
  def initialize_carry(self, rng: Array, input_shape: tuple[int, ...]) -> Carry:
    """The first carry for inputs of `input_shape [..., D]`."""
    return _carry(self.cell, input_shape, self.param_dtype, self.carry_init, rng)

  @property
  def num_feature_axes(self) -> int:
    return 1


class NNXCell(nnx.RNNCellBase):
  """A cell as one of nnx, as in `nnx.RNN(rnnlab.NNXCell(rnnlab.lstm(64), 128, rngs=rngs))`.

  Like `LinenCell`, with the number of input features given beforehand; each parameter is an
  nnx.Param under its name, so that `nnx.to_pure_dict(nnx.state(cell, nnx.Param))` is what
  `rnnlab.unroll` takes. Raises ValueError if nnx.Module already uses a parameter's name.

  >>> from flax import nnx
  >>> layer = nnx.RNN(rnnlab.NNXCell(rnnlab.gru(hidden_size=4), 3, rngs=nnx.Rngs(0)))
  >>> layer(jnp.ones((2, 5, 3))).shape
  (2, 5, 4)
  """

  def __init__(self, cell: Cell, in_features: int, *, param_dtype=None, rngs: nnx.Rngs):
    self.cell, self.in_features, self.param_dtype = cell, in_features, param_dtype
    params = _init(cell, rngs.params(), in_features, param_dtype)
    self.names = tuple(params)
    for name, value in params.items():
      if hasattr(self, name):
        raise ValueError(f'nnx.Module has {name!r}: the parameter must have another name')
      setattr(self, name, nnx.Param(value))

  def __call__(self, carry: Carry, inputs: Array) -> tuple[Carry, Array]:
    params = {name: getattr(self, name)[...] for name in self.names}
    return _step(self.cell, params, carry, inputs)

  def initialize_carry(
    self, input_shape: tuple[int, ...], rngs: Any = None, carry_init: Any = None
  ) -> Carry:
    """The first carry for inputs of `input_shape [..., D]`.

    carry_init: an initialiser for each array of it, instead of the cell's own initial carry; it
    needs rngs, and raises ValueError without.
    """
    key = None
    if carry_init is not None:
      if rngs is None:
        raise ValueError('a carry_init needs rngs: cell.initialize_carry(shape, rngs, carry_init)')
      key = (rngs.carry if isinstance(rngs, nnx.Rngs) else rngs)()
    return _carry(self.cell, input_shape, self.param_dtype, carry_init, key)

  @property
  def num_feature_axes(self) -> int:
    return 1


def _init(cell, key, input_size, dtype) -> Params:
  params = cell.init(key, input_size)
  return params if dtype is None else jax.tree.map(lambda w: w.astype(dtype), params)


def _carry(cell, input_shape, dtype, carry_init, key):
  carry = cell.initial_carry(input_shape[:-1], jnp.result_type(float) if dtype is None else dtype)
  if carry_init is None:
    return carry
  leaves, tree = jax.tree.flatten(carry)
  keys = jax.random.split(key, len(leaves))
  return tree.unflatten(
    [carry_init(k, a.shape, a.dtype) for k, a in zip(keys, leaves, strict=True)]
  )


def _step(cell, params, carry, inputs):
  """A step for any number of batch dimensions; a cell's own step takes one."""
  inputs = checks.array('inputs', inputs)
  if not inputs.ndim:
    raise ValueError(f'inputs must be [..., features], not {checks.said(inputs)}')
  batch = inputs.shape[:-1]
  params = checks.params(cell, params, inputs.shape[-1])
  carry = checks.carry(cell, carry, batch, checks.kind(params, inputs), 'carry')

  def flat(a):
    return a.reshape(math.prod(batch), *a.shape[len(batch) :])

  after = cell.step(params, *jax.tree.map(flat, (carry, inputs)), matmul)
  return jax.tree.map(lambda a: a.reshape(*batch, *a.shape[1:]), after)
