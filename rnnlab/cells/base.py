"""What a recurrent cell is: three pure functions over a plain dict of parameters.

Shapes: B batch, T time steps, D input features, H hidden units, G gates.
"""

import functools
import inspect
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
Params = dict[str, Array]
Carry = Any  # an array, or a NamedTuple of arrays
Dot = Callable[[Array, Array], Array]
Init = Callable[[Array, tuple[int, ...]], Array]  # draws an array from a key and its shape


class Made(NamedTuple):
  """How a cell was made: by which factory, with which options other than the defaults.

  options: pairs of a name and a value; None if a value has no hash.
  """

  factory: Callable[..., 'Cell']
  options: tuple[tuple[str, Any], ...] | None


class Cell(NamedTuple):
  """A recurrent cell: functions with the options in their closure, like an optax transformation.

  init: `(key, input_size) -> params`, a flat dict of named arrays of JAX's float dtype.
  initial_carry: `(batch_shape, dtype) -> carry`, an array `[*batch_shape, H]` or a NamedTuple.
  step: `(params, carry, x_t [B, D], dot) -> (carry, y_t [B, H])`, the paper's equations.

  fused: the name of these equations in `rnnlab.recurrence`, if there are kernels for them or a form
    for chunks of steps; None otherwise. Only cells with the step and the initial_carry of the
    factory that names them can use these.
  name: what error messages call the cell; a cell made by a factory has the factory's name.
  made: set by the factory.
  parallel: the recurrence as a `Linear`, if it is one and `step` is the step of that `Linear`, so
    that `recurrence.unroll` may compute all steps at once; else None.

  In `step` every product of the input or a state with a weight is written `dot(w, v)`, which means
  `v @ w`: `recurrence.unroll` uses this hook to apply dropout to every cell.

  Cells made by a factory with the same options are equal, and the same object within a process, so
  that a function of a cell is compiled only once for all of them. Such a cell can be pickled if its
  options can; the process that reads it makes it again with the factory.

  >>> cell = rnnlab.gru(hidden_size=4)
  >>> params, carry = cell.init(jax.random.key(0), 3), cell.initial_carry((2,), jnp.float32)
  >>> carry, y_t = cell.step(params, carry, jnp.ones((2, 3)), lambda w, v: v @ w)
  >>> y_t.shape, str(cell), cell == rnnlab.gru(4)
  ((2, 4), 'gru(hidden_size=4)', True)
  """

  init: Callable[[Array, int], Params]
  initial_carry: Callable[[tuple[int, ...], Any], Carry]
  step: Callable[[Params, Carry, Array, Dot], tuple[Carry, Array]]
  fused: str | None = None
  name: str = ''
  made: Made | None = None
  parallel: 'Linear | None' = None

  @property
  def options(self) -> dict[str, Any]:
    """The options that its factory was given and that are not its defaults."""
    return dict(self.made.options or ()) if self.made else {}

  def __str__(self) -> str:
    given = ', '.join(f'{k}={getattr(v, "__name__", repr(v))}' for k, v in self.options.items())
    return f'{self.name}({given})' if self.made else self.name or 'a cell without a name'

  def __reduce__(self):
    if self.made and self.made.options is not None:
      again = functools.partial(self.made.factory, **self.options)
      if again() == self:
        return again, ()
    return Cell, tuple(self)


def _elementwise(a, carry):
  return jax.tree.map(jnp.multiply, a, carry)


class Linear(NamedTuple):
  """A recurrence that is linear in its carry: carry_t = a_t * carry_{t-1} + b_t.

  coefficients: `(params, x_t [..., D], dot) -> (a_t, b_t)`, for the inputs of one step, `[B, D]`,
    or of all, `[T, B, D]`. b_t has the shape of the carry; a_t too, or one that broadcasts to it.
  output: `(params, carry_t, x_t, dot) -> y_t [..., H]`, for one step or for all.
  times: `(a, carry) -> a * carry`, also the product of two a's; associative, elementwise by
    default.
  one: numbers, the a that leaves a carry unchanged; all 1 if None.
  """

  coefficients: Callable[[Params, Array, Dot], tuple[Any, Carry]]
  output: Callable[[Params, Carry, Array, Dot], Array]
  times: Callable[[Any, Carry], Carry] = _elementwise
  one: Any = None

  def step(self, params: Params, carry: Carry, x_t: Array, dot: Dot) -> tuple[Carry, Array]:
    """The step of a `Cell`."""
    a, b = self.coefficients(params, x_t, dot)
    carry = jax.tree.map(jnp.add, self.times(a, carry), b)
    return carry, self.output(params, carry, x_t, dot)


def linear(cell: Cell) -> Linear | None:
  """The `Linear` that `cell` may be run as: `parallel`, unless its step was replaced.

  >>> rnnlab.cells.base.linear(rnnlab.lstm(4))
  """
  of, step = cell.parallel, cell.step
  if of is None or getattr(step, '__func__', None) is not Linear.step:
    return None
  # By value: Flax rebuilds the NamedTuples that a module is given, and the step then belongs to
  # another object.
  return of if step.__self__ == of else None  # type: ignore[attr-defined]


_own = weakref.WeakKeyDictionary()  # by the step of a factory's cell: the initial_carry with it


def kernel_name(cell: Cell) -> str | None:
  """The kernel that may run `cell`: `fused`, unless a function that it stands for was replaced.

  >>> rnnlab.cells.base.kernel_name(rnnlab.lstm(16)._replace(step=rnnlab.lstm(4).step))
  """
  if cell.fused is not None and cell.initial_carry in _own.get(cell.step, ()):
    return cell.fused
  return None


def factory(make: Callable[..., Cell]) -> Callable[..., Cell]:
  """Decorates a function `(hidden_size, **options) -> Cell`: its cells get a name and options.

  Calls with the same options, by position or by name, return one object.
  """

  @functools.wraps(make)
  def cell(*args, **options):
    return made(cell, *args, **options)

  return cell


def made(factory: Callable[..., Cell], /, *args: Any, **options: Any) -> Cell:
  """`factory(*args, **options)`, the same object for the same options, with its name and options.

  Raises ValueError if that is not a Cell, and whatever the factory raises.
  """
  signature = inspect.signature(factory)
  try:
    given = signature.bind(*args, **options).arguments
    hash(tuple(given.values()))
  except TypeError:  # a call that Python will refuse, or an option without a hash
    return _named(inspect.unwrap(factory)(*args, **options), factory, None)
  return _made(factory, **{k: v for k, v in given.items() if not _is_default(signature, k, v)})


@functools.lru_cache(maxsize=None, typed=True)  # else True is 1, and 4.0 is 4
def _made(factory, /, **options):
  return _named(inspect.unwrap(factory)(**options), factory, tuple(options.items()))


def _is_default(signature, name, value):
  default = signature.parameters[name].default
  return value is default or (type(value) is type(default) and value == default)


def _named(cell, factory, options):
  name = factory.__name__
  if not isinstance(cell, Cell):
    raise ValueError(f'the factory of the cell {name} must return a Cell, not {cell!r}')
  if cell.fused is not None and cell.made is None:
    _own.setdefault(cell.step, weakref.WeakSet()).add(cell.initial_carry)
  elif kernel_name(cell) is None:  # such as another factory's cell with a function replaced
    cell = cell._replace(fused=None)
  return cell._replace(name=name, made=Made(factory, options))


class Lookup(NamedTuple):
  """Inputs `[B, T, D]` that are rows of a table: `xs[b, t]` is `table[ids[b, t]]`.

  Anything computed from an input alone then needs computing only once for each row of the table.

  >>> xs = rnnlab.Lookup(table=jnp.eye(3), ids=jnp.array([[2, 0, 0, 1, 2]]))
  >>> cell = rnnlab.gru(hidden_size=4)
  >>> rnnlab.unroll(cell, cell.init(jax.random.key(0), 3), xs)[1].shape
  (1, 5, 4)
  """

  table: Array  # [V, D]
  ids: Array  # int [B, T], from 0 to V - 1

  @property
  def shape(self) -> tuple[int, ...]:
    return *self.ids.shape, self.table.shape[1]

  @property
  def dtype(self) -> jnp.dtype:
    return self.table.dtype

  def rows(self) -> Array:
    """The inputs themselves."""
    return jnp.asarray(self.table)[self.ids]  # a NumPy array can't be indexed by traced ids


def matmul(w: Array, v: Array) -> Array:
  """The plain `dot` of a step: `v [B, K] @ w [K, M] -> [B, M]`."""
  return v @ w


def gates(x: Array, count: int) -> list[Array]:
  """Cuts `x [B, count * H]` into `count` arrays `[B, H]`, in order."""
  return jnp.split(x, count, axis=-1)


def check_size(hidden_size: int) -> None:
  """Raises ValueError unless `hidden_size` is an int of at least 1."""
  if isinstance(hidden_size, bool) or not isinstance(hidden_size, int) or hidden_size < 1:
    raise ValueError(f'hidden_size must be an int of at least 1, not {hidden_size!r}')


# Keras's defaults, drawn like Keras's over the whole kernel of all gates together.
kernel_init = jax.nn.initializers.glorot_uniform()
recurrent_init = jax.nn.initializers.orthogonal()
bias_init = jax.nn.initializers.zeros


def weights(
  key: Array,
  input_size: int,
  hidden_size: int,
  gates: int,
  kernel_init: Init,
  recurrent_init: Init | None,
  bias_init: Init,
) -> tuple[Array, Array, Array, Array]:
  """Draws w_x `[D, G * H]`, w_h `[H, G * H]`, and a bias `[G * H]` for each of the two products.

  The three initialisers are functions (key, shape) that draw a whole array, all gates together. If
  recurrent_init is None, one matrix `[D + H, G * H]` drawn by kernel_init is cut into w_x and w_h.
  """
  columns = gates * hidden_size
  k_x, k_h = jax.random.split(key)
  if recurrent_init is None:
    w_x, w_h = jnp.split(kernel_init(k_x, (input_size + hidden_size, columns)), [input_size])
  else:
    w_x = kernel_init(k_x, (input_size, columns))
    w_h = recurrent_init(k_h, (hidden_size, columns))
  k_x, k_h = jax.random.split(jax.random.fold_in(key, 2))  # 0 and 1 are those above
  return w_x, w_h, bias_init(k_x, (columns,)), bias_init(k_h, (columns,))
