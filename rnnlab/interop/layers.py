"""rnnlab's side of every conversion: the parameters of its cells, and checks on them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

Params = dict[str, np.ndarray]  # of a cell, by name
Layer = (
  Params | tuple[Params, Params]
)  # of a layer, or of one in both directions: forward, backward
AnyLayer = Mapping[str, Any] | Sequence[Mapping[str, Any]]  # the same, before conversion to NumPy
GATES = {'elman': 1, 'lstm': 4, 'gru': 3}  # how many blocks of H columns w_x, w_h and b have
RESETS = (
  'GRUs that reset before and after are different functions, and no weights make one compute'
  ' the other'
)


def check_cell(cell: str, reset: str, theirs: str, library: str) -> None:
  """Raises ValueError for a cell that is not in GATES, or a GRU whose `reset` is not theirs."""
  if cell not in GATES:
    raise ValueError(
      f'there is no conversion for the cell {cell!r}; there is for {", ".join(GATES)}'
    )
  if reset not in ('before', 'after'):
    raise ValueError(f"a gru's reset must be 'before' or 'after', not {reset!r}")
  if cell == 'gru' and reset != theirs:
    raise ValueError(
      f"{library}'s GRU applies the reset gate {theirs} the product of state and weights, a gru of"
      f' reset={reset!r} {reset} it: {RESETS}. Use a gru of reset={theirs!r}'
    )


def as_array(name: str, given: Any) -> np.ndarray:
  """`given` as a NumPy array; raises ValueError unless it is an array of floats."""
  try:
    array = np.asarray(given)
  except Exception as error:  # each library has its own for arrays that NumPy cannot convert
    reason = str(error).partition('\n')[0][:200].rstrip('.')
    raise ValueError(
      f'{name} cannot be made a NumPy array ({reason}): give arrays, or tensors on the CPU that'
      ' need no gradient and are float32, such as `tensor.detach().cpu().float()`'
    ) from None
  if array.dtype.kind != 'f' and array.dtype.name != 'bfloat16':
    found = f'of {array.dtype}' if array.ndim else f'{given!r:.60}'
    raise ValueError(f'{name} must be an array of floats, not {found}')
  return array


def check_dict(where: str, given: Any) -> None:
  """Raises ValueError if `given` is not a dict."""
  if not isinstance(given, Mapping):
    raise ValueError(f'{where} must be a dict of arrays by name, not a {type(given).__name__}')


def check_pair(where: str, given: Any) -> None:
  """Raises ValueError if `given` is not a pair."""
  two = isinstance(given, tuple | list)
  if not two or len(given) != 2:
    raise ValueError(
      f'{where} must be a dict of arrays by name, or a pair (forward, backward) of them, not a'
      f' {type(given).__name__}{f" of {len(given)}" if two else ""}'
    )


def check_names(where: str, given: Mapping, expected: Iterable[str]) -> None:
  """Raises ValueError, with the names, if any of `expected` are missing or others are given."""
  check_dict(where, given)
  expected = list(expected)
  missing = [name for name in expected if name not in given]
  unknown = [str(name) for name in given if name not in expected]
  found = [f'lacks {", ".join(missing)}'] if missing else []
  found += [f'has {", ".join(unknown)}, which is not known here'] if unknown else []
  if found:
    raise ValueError(f'{where} {" and ".join(found)}; the names must be {", ".join(expected)}')


def check_shape(name: str, array: np.ndarray, shape: tuple, why: str = '') -> None:
  """Raises ValueError unless `array` has `shape`, in which a letter stands for any size."""
  sizes = zip(shape, array.shape, strict=False)
  if array.ndim != len(shape) or any(s != n for s, n in sizes if not isinstance(s, str)):
    raise ValueError(
      f'{name} must be of shape [{", ".join(map(str, shape))}], not {list(array.shape)}{why}'
    )


def check_recurrent(name: str, cell: str, w_h: np.ndarray, axis: int) -> int:
  """The hidden size H of a recurrent weight with H entries along one axis and G * H along `axis`.

  Raises ValueError for any other shape, naming the cell whose weight it may be.
  """
  cells = [
    c for c, n in GATES.items() if w_h.ndim == 2 and w_h.shape[axis] == n * w_h.shape[1 - axis]
  ]
  if cell in cells:
    return w_h.shape[1 - axis]
  shape = ['H', 'H']
  shape[axis] = f'{GATES[cell]} * H'.removeprefix('1 * ')
  raise ValueError(
    f'{name} must be of shape [{", ".join(shape)}] for the cell {cell}, not {list(w_h.shape)}'
    + (f', which is of {cells[0]}' if cells else '')
  )


def read(cell: str, reset: str, layer: Mapping[str, Any], where: str = 'the layer') -> Params:
  """The parameters of one direction of a layer as NumPy arrays.

  Raises ValueError if their names and shapes are not those of `cell`.
  """
  check_dict(where, layer)
  names = ['w_x', 'w_h', 'b']
  if cell == 'gru' and reset == 'after':
    if 'b_hn' not in layer:
      raise ValueError(f"{where} has no b_hn, unlike one of a gru of reset='after': {RESETS}")
    names.append('b_hn')
  elif cell == 'gru' and 'b_hn' in layer:
    raise ValueError(f"{where} has a b_hn, so it is of a gru of reset='after': {RESETS}")
  check_names(where, layer, names)
  p = {name: as_array(f'{name} of {where}', layer[name]) for name in names}
  hidden = check_recurrent(f'w_h of {where}', cell, p['w_h'], axis=1)
  width = GATES[cell] * hidden
  shapes = {'w_x': ('D', width), 'w_h': (hidden, width), 'b': (width,), 'b_hn': (hidden,)}
  for name, array in p.items():
    check_shape(f'{name} of {where}', array, shapes[name], f', as H is {hidden}')
  return p
