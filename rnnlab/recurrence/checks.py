"""Checks of the arguments of the recurrence against the cell and the inputs, with readable errors.

Each function returns its argument as JAX arrays, or raises ValueError (TypeError for a wrong type)
that names the argument, what it is, and what it must be. They read only shapes and dtypes, so that
traced and concrete arrays are treated alike, unless the docstring says that values are read too.
`batch` is the shape of the batch: (B,), or () for a sequence without that axis.
"""

import contextlib
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnlab.cells.base import Array, Carry, Cell, Lookup, Params

_shapes = weakref.WeakKeyDictionary()  # by a cell's function: its results by the arguments


def said(a: Any) -> str:
  """An array as an error names it, such as float32[32, 64]."""
  return f'{a.dtype.name}{list(a.shape)}'


@contextlib.contextmanager
def within(where: str) -> Iterator[None]:
  """Puts `where` before the message of an error that is raised inside."""
  try:
    yield
  except (ValueError, TypeError) as error:
    error.args = (f'{where}: {error}', *error.args[1:])
    raise


def array(name: str, value: Any) -> Array:
  """`value` as a JAX array; TypeError for anything else, such as a list or a pandas table."""
  if isinstance(value, jax.Array):
    return value
  if isinstance(value, np.ndarray | np.generic) or hasattr(value, '__jax_array__'):
    with within(name):
      return jnp.asarray(value)
  raise TypeError(f'{name} must be an array, not {type(value).__name__}')


def cell(value: Any) -> Cell:
  """A cell, such as `rnnlab.lstm(64)`; not its factory, `rnnlab.lstm`."""
  if isinstance(value, Cell):
    return value
  raise TypeError(f'cell must be a Cell, such as rnnlab.lstm(64), not {value!r}')


def called(cell: Cell) -> str:
  """A cell as an error names it, such as `the cell lstm(hidden_size=64)`."""
  return f'the cell {cell}' if cell.name else 'this cell'


def each(name: str, values: Any, count: int, of_what: str) -> Sequence:
  """`values`, a list or tuple of `count` items; None stands for None `count` times."""
  if values is None:
    return [None] * count
  if not isinstance(values, list | tuple):
    raise TypeError(
      f'{name} must be a list with an item for each of {of_what}, not {_form(values)}'
    )
  if len(values) != count:
    raise ValueError(f'{name} must have {count} items, for {of_what}, not {len(values)}')
  return values


def xs(value: Array | Lookup, name: str = 'xs') -> Array | Lookup:
  """Floats `[B, T, D]` or `[T, D]`, or a `Lookup` of these."""
  if isinstance(value, Lookup):
    table, found = array(f'{name}.table', value.table), array(f'{name}.ids', value.ids)
    if table.ndim != 2 or not jnp.issubdtype(table.dtype, jnp.floating):
      raise ValueError(f'{name}.table must be floats [rows, features], not {said(table)}')
    if found.ndim not in (1, 2):
      raise ValueError(f'{name}.ids must be [batch, time] or [time], not {said(found)}')
    return Lookup(table, _integers(f'{name}.ids', found))
  found = array(name, value)
  if found.ndim not in (2, 3):
    raise ValueError(
      f'{name} must be [batch, time, features] or [time, features], not {said(found)}'
    )
  if not jnp.issubdtype(found.dtype, jnp.floating):
    raise ValueError(
      f'{name} must be floats, not {said(found)}: cast them, or look ids up in a table,'
      ' rnnlab.Lookup(table, ids)'
    )
  return found


def ids(value: Any, rows: int, name: str = 'ids', real: Array | None = None) -> Array:
  """Integers from 0 to rows - 1; their values are checked if they are known (not traced).

  real: bool, of the shape of ids, True at those that count; None for all.
  """
  value = _integers(name, array(name, value))
  if isinstance(value, jax.core.Tracer) or isinstance(real, jax.core.Tracer):
    return value
  known = np.asarray(value)
  wrong = (known < 0) | (known >= rows)
  if real is not None:
    wrong &= np.asarray(real)
  if wrong.any():
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    raise ValueError(
      f'{name}{list(at)} is {known[at]}, but there are {rows} rows: ids must be from 0 to'
      f' {rows - 1}'
    )
  return value


def _integers(name, value):
  if not jnp.issubdtype(value.dtype, jnp.integer):
    raise ValueError(f'{name} must be integers, not {said(value)}')
  return value


def params(cell: Cell, value: Params, input_size: int, name: str = 'params') -> Params:
  """Params with the names and shapes that `cell.init` makes for `input_size`; any float dtype."""
  if not isinstance(value, Mapping):
    raise TypeError(
      f'{name} must be a dict of arrays, as made by cell.init, not {type(value).__name__}'
    )

  def make():
    return _named(cell.init(jax.random.key(0), input_size))[0]

  wanted = _known(cell.init, input_size, make)
  found, tree = _named(dict(value))
  if found.keys() != wanted.keys():
    wrong = [f'lack {key}' for key in wanted.keys() - found.keys()]
    wrong += [f'have {key}, which is not one of them' for key in found.keys() - wanted.keys()]
    raise ValueError(
      f'{name} {" and ".join(sorted(wrong))}: the parameters of {called(cell)} are'
      f' {", ".join(wanted)}'
    )
  leaves = []
  for key, leaf in found.items():
    leaf, want = array(f'{name}{key}', leaf), wanted[key]
    if leaf.shape != want.shape:
      raise ValueError(
        f'{name}{key} is {said(leaf)}, but for inputs of {input_size} features {called(cell)} has'
        f' {list(want.shape)} there'
      )
    if jnp.issubdtype(want.dtype, jnp.floating) != jnp.issubdtype(leaf.dtype, jnp.floating):
      raise ValueError(
        f'{name}{key} is {said(leaf)}, but {called(cell)} has {want.dtype.name} there'
      )
    leaves.append(leaf)
  return tree.unflatten(leaves)


def kind(params: Params, xs: Array | Lookup) -> jnp.dtype:
  """The dtype of a carry used with these: the one that they are promoted to."""
  with within('params and xs'):
    return jnp.result_type(xs.dtype, *jax.tree.leaves(params))


def carry(
  cell: Cell, value: Carry, batch: tuple, kind: jnp.dtype, name: str = 'initial_carry'
) -> Carry:
  """A carry with the structure, shapes and dtypes of `cell.initial_carry(batch, kind)`."""
  given = batch, jnp.dtype(kind)
  wanted = _known(cell.initial_carry, given, lambda: cell.initial_carry(*given))
  if jax.tree.structure(value) != jax.tree.structure(wanted):  # type: ignore[operator]
    raise TypeError(
      f'{name} must be {_form(wanted)}, the carry of {called(cell)}, not {_form(value)}'
    )
  found, tree = _named(value)
  leaves = []
  for (key, leaf), want in zip(found.items(), jax.tree.leaves(wanted), strict=True):
    leaf = array(f'{name}{key}', leaf)
    if leaf.shape != want.shape:
      raise ValueError(
        f'{name}{key} is {said(leaf)}, but must be {said(want)} here{_hint(leaf, batch, name)}'
      )
    if leaf.dtype != want.dtype:
      raise ValueError(
        f'{name}{key} is {said(leaf)}, but with these xs and params it must be {said(want)}:'
        f' cast it, jax.tree.map(lambda a: a.astype({want.dtype.name!r}), {name})'
      )
    leaves.append(leaf)
  return tree.unflatten(leaves)


def _hint(leaf, batch, name):
  """A hint about the carry of another batch size."""
  if not batch or not leaf.ndim or leaf.shape[0] == batch[0]:
    return ''
  hint = f': it has {leaf.shape[0]} rows, and xs {batch[0]}'
  if leaf.shape[0] > batch[0] > 0:
    hint += (
      '. From the carry of a larger batch take the rows to continue with, as in'
      f' jax.tree.map(lambda a: a[:{batch[0]}], {name})'
    )
  return hint


def mask(lengths: Any, value: Any, batch: tuple, steps: int) -> Array | None:
  """The bool mask `[B, T]` that `lengths` or `mask` describe, or None.

  Raises ValueError also for lengths outside 0..T, if they are known (not traced).
  """
  if lengths is not None and value is not None:
    raise ValueError('give lengths or mask, not both')
  if lengths is None:
    return None if value is None else flags('mask', value, batch, steps, 'at real steps')
  if isinstance(lengths, list | tuple | int):
    lengths = jnp.asarray(lengths)
  lengths = array('lengths', lengths)
  if lengths.shape != batch or not jnp.issubdtype(lengths.dtype, jnp.integer):
    count = f'{batch[0]} integers, one per row of xs' if batch else 'an integer'
    raise ValueError(f'lengths must be {count}, not {said(lengths)}')
  if not isinstance(lengths, jax.core.Tracer):
    known = np.asarray(lengths).reshape(-1)
    wrong = np.flatnonzero((known < 0) | (known > steps))
    if wrong.size:
      raise ValueError(
        f'row {wrong[0]} has length {known[wrong[0]]}, but xs has {steps} time steps:'
        f' lengths must be from 0 to {steps}'
      )
  return jnp.arange(steps) < lengths[..., None]


def flags(name: str, value: Any, batch: tuple, steps: int, where: str) -> Array:
  """bool `[B, T]`."""
  value = array(name, value)
  if value.shape != (*batch, steps) or value.dtype != bool:
    raise ValueError(f'{name} must be bool{[*batch, steps]}, True {where}, not {said(value)}')
  return value


def dropout(value: Any, products: Sequence, batch: tuple, kind: jnp.dtype) -> tuple:
  """A mask or None for each of a step's products: `[B, K]`, or `[G, B, K]` for one per gate."""
  if not isinstance(value, list | tuple):
    raise TypeError(f'dropout must be a tuple of masks, not {_form(value)}')
  if len(value) != len(products):
    raise ValueError(
      f'dropout must have a mask for each of the {len(products)} products of a step,'
      f' not {len(value)}'
    )
  masks = []
  for i, (found, product) in enumerate(zip(value, products, strict=True)):
    if found is not None:
      found = array(f'dropout[{i}]', found)
      shape = *batch, product.width
      if found.shape not in (shape, (product.gates, *shape)):
        raise ValueError(
          f'dropout[{i}] is {said(found)}, but must be of shape {list(shape)} or'
          f' {[product.gates, *shape]}'
        )
      floats = jnp.issubdtype(found.dtype, jnp.floating)
      if not floats or jnp.promote_types(found.dtype, kind) != kind:
        raise ValueError(
          f'dropout[{i}] is {said(found)}, but with these xs and params it must be'
          f' {jnp.dtype(kind).name}: cast it'
        )
    masks.append(found)
  return tuple(masks)


def step(before: Sequence, after: Sequence) -> None:
  """Raises ValueError unless a cell's step returns a carry like the one it was given."""
  was, now = ([said(a) for a in leaves] for leaves in (before, after))
  if was != now:
    raise ValueError(
      f"the cell's step was given a carry of {', '.join(was)}, and returns one of {', '.join(now)}:"
      ' it must keep the number, shapes and dtypes of its arrays'
    )


def float_dtype(value: Any) -> jnp.dtype | None:
  """`dtype` of `unroll`: a float dtype, or None."""
  if value is None:
    return None
  try:
    found = jnp.dtype(value)
  except TypeError:
    words = f'dtype must be a dtype, such as jnp.bfloat16, or None, not {value!r}'
    raise TypeError(words) from None
  if not jnp.issubdtype(found, jnp.floating):
    words = f'dtype must be a float dtype, such as jnp.bfloat16, or None, not {found.name}'
    raise ValueError(words)
  return found


def _known(function, arguments, make):
  """`jax.eval_shape(make)`, computed once for given arguments of a cell's function."""
  known = _shapes.setdefault(function, {})
  key = arguments, jax.config.jax_enable_x64  # which changes the integers of a carry
  if key not in known:
    known[key] = jax.eval_shape(make)
  return known[key]


def _named(tree):
  """The leaves of a tree by their paths, such as ['w_x'] or .h, and its structure."""
  leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
  return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}, structure


def _form(tree):
  """The structure of a carry, such as LSTMCarry(h, c), or a value that is no container."""
  if hasattr(tree, '_fields'):
    return f'{type(tree).__name__}({", ".join(tree._fields)})'
  if hasattr(tree, 'shape'):
    return 'an array'
  return repr(tree) if jax.tree_util.all_leaves([tree]) else f'a {type(tree).__name__}'
