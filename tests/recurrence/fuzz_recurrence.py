"""Random calls of the recurrence, right and wrong.

    python tests/recurrence/fuzz_recurrence.py COUNT [SEED]

Half are right. Each of these is one of a few templates of shapes and options, with fresh values, so
that its programs are compiled once: the scan and the choice of `backend='auto'`, eager, compiled
and differentiated, must agree. In the other half one argument is wrong: each way must raise the
same kind of ValueError or TypeError, with that argument's name. Arrays end at protected memory, so
that a kernel that leaves its arrays crashes. With glibc, new memory is full of NaN, which shows in
the results of a kernel that reads what it has not written. The suite makes a few hundred calls in a
process of its own.
"""

import collections
import ctypes
import functools
import mmap
import random
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import rnnlab
from rnnlab import recurrence
from rnnlab.cells.base import Lookup

PAGE = mmap.PAGESIZE
LIBC = ctypes.CDLL(None, use_errno=True)
M_PERTURB = -6  # of glibc's malloc.h
BATCHES, STEPS, WIDTHS = (0, 1, 2, 3, 5), (0, 1, 2, 4), (1, 3, 17)
HIDDEN = 4, 15, 16, 32  # whole vectors of a kernel, and parts of one
CELLS = 'lstm', 'gru', 'gru-before', 'elman'


class Odd(NamedTuple):
  """A carry of no cell."""

  h: np.ndarray
  c: np.ndarray


class Guarded:
  """A ring of room for arrays, each of which ends at a page that can't be touched."""

  def __init__(self, count=192, pages=4):
    self.size = (pages + 1) * PAGE
    self.map = mmap.mmap(-1, count * self.size)
    self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
    self.count, self.pages, self.next = count, pages, 0
    for i in range(count):
      end = ctypes.c_void_p(self.base + i * self.size + pages * PAGE)
      if LIBC.mprotect(end, ctypes.c_size_t(PAGE), 0):
        raise OSError(ctypes.get_errno(), 'mprotect')

  def place(self, a):
    """A copy of `a` there, aligned to 64 bytes, so that JAX takes it without another copy."""
    if not 0 < a.nbytes <= self.pages * PAGE:
      return a
    start = self.next * self.size + (self.pages * PAGE - a.nbytes) // 64 * 64
    self.next = (self.next + 1) % self.count
    out = np.frombuffer(self.map, a.dtype, a.size, start).reshape(a.shape)
    out[...] = a
    return out


class Case(NamedTuple):
  """A call: `run(**arguments)`; `wrong` is what was done to it, and words of the error."""

  run: str
  cell: object
  arguments: dict
  wrong: str = ''
  words: tuple = ()
  template: int = -1


def cell_of(name, hidden, made={}):  # noqa: B006
  if (name, hidden) not in made:
    options = {'reset': 'before'} if name == 'gru-before' else {}
    made[name, hidden] = getattr(rnnlab, name.partition('-')[0])(hidden, **options)
  return made[name, hidden]


class Maker:
  """Draws cases, all from one seed."""

  def __init__(self, seed, templates):
    self.seed, self.templates = seed, templates
    self.random = random.Random(seed)
    self.numpy = np.random.default_rng(seed)
    self.guarded = Guarded()

  def floats(self, *shape, dtype=np.float32):
    return self.guarded.place(0.5 * self.numpy.normal(size=shape).astype(dtype))

  def flags(self, *shape):
    return self.guarded.place(self.numpy.random(shape) < 0.6)

  def params(self, cell, width, dtype):
    made = jax.eval_shape(lambda: cell.init(jax.random.key(0), width))
    return {name: self.floats(*w.shape, dtype=dtype) for name, w in made.items()}

  def carry(self, cell, batch, dtype):
    start = cell.initial_carry(batch, jnp.float32)
    return jax.tree.map(lambda a: self.floats(*a.shape, dtype=dtype), start)

  def right(self):
    """A correct call: a template's shapes and options, with fresh values."""
    template = self.random.randrange(self.templates)
    draw = random.Random(f'{self.seed} {template}')
    return self.draw(draw)._replace(template=template)

  def draw(self, draw):
    """A call whose shapes and options come from `draw`."""
    run = draw.choices(('unroll', 'bidirectional', 'stacked'), (6, 1, 1))[0]
    cell = cell_of(draw.choice(CELLS), draw.choice(HIDDEN))
    dtype = draw.choices((np.float32, jnp.bfloat16, np.float16), (8, 1, 1))[0]
    batch, steps, width = (draw.choice(sizes) for sizes in (BATCHES, STEPS, WIDTHS))
    of_batch = () if draw.random() < 0.1 else (batch,)
    arguments = {'xs': self.floats(*of_batch, steps, width, dtype=dtype)}
    if draw.random() < 0.2:
      rows = draw.choice((1, 3, 40))
      ids = self.numpy.integers(0, rows, (*of_batch, steps)).astype(np.int32)
      table = self.floats(rows, width, dtype=dtype)
      arguments['xs'] = Lookup(table, self.guarded.place(ids))
    kind = dtype
    if dtype == jnp.bfloat16 and draw.random() < 0.5:
      kind = np.float32  # promoted from it and these xs, like the carry
    arguments['params'] = self.params(cell, width, kind)
    where = draw.choice((None, None, 'mask', 'lengths'))
    if where == 'mask':
      arguments['mask'] = self.flags(*of_batch, steps)
    elif where == 'lengths':
      arguments['lengths'] = self.numpy.integers(0, steps + 1, of_batch).astype(np.int32)
      arguments['lengths'] = np.asarray(arguments['lengths'], np.int32)
    if draw.random() < 0.3:
      arguments['resets'] = self.flags(*of_batch, steps)
    if draw.random() < 0.5:
      arguments['initial_carry'] = self.carry(cell, of_batch, kind)
    if draw.random() < 0.3:
      products = recurrence.products(cell, arguments['params'], width)
      arguments['dropout'] = tuple(
        self.floats(*draw.choice(((), (p.gates,))), *of_batch, p.width, dtype=dtype)
        if draw.random() < 0.8
        else None
        for p in products
      )
    for name, value in (
      ('reverse', True), ('remat', True), ('truncate', (1, 2)), ('return_carries', True),
      ('dtype', jnp.bfloat16),
    ):  # fmt: skip
      if draw.random() < (0.3 if name == 'reverse' else 0.05):
        arguments[name] = value
    if run == 'unroll':
      return Case(run, cell, arguments)
    each = 'params', 'initial_carry', 'dropout'
    if run == 'bidirectional':
      arguments.pop('reverse', None)
      arguments |= {name: (arguments[name],) * 2 for name in each if name in arguments}
      return Case(run, cell, arguments)
    upper = cell_of(draw.choice(CELLS), draw.choice(HIDDEN))
    hidden = jax.tree.leaves(cell.initial_carry((), jnp.float32))[0].shape[-1]
    arguments['params'] = [arguments['params'], self.params(upper, hidden, kind)]
    for name in each[1:]:
      if name in arguments:
        arguments[name] = [arguments[name], None]
    return Case(run, (cell, upper), arguments)

  def wrong(self):
    """The same with one argument wrong."""
    while True:
      case = self.draw(self.random)
      spoilt = self.spoil(case)
      if spoilt is not None:
        return spoilt

  def spoil(self, case):
    draw, arguments = self.random, dict(case.arguments)
    kind = draw.choice(SPOILT)
    words = {'params': ('params',), 'carry': ('initial_carry',)}.get(kind, (kind,))
    first, again = arguments['params'], None
    if case.run != 'unroll':
      first, again = first[0], first[1]
    xs = arguments['xs']
    cell = case.cell if case.run != 'stacked' else case.cell[0]
    *of_batch, steps, width = xs.shape
    dtype = np.dtype(jnp.result_type(xs.dtype, *jax.tree.leaves(first)))

    def put(name, value, rest=None):
      arguments[name] = (
        value if case.run == 'unroll' else type(case.arguments['params'])((value, rest))
      )

    if kind == 'params':
      name = draw.choice(list(first))
      shape = first[name].shape
      if draw.random() < 0.2:
        changed = {k: w for k, w in first.items() if k != name}
      elif draw.random() < 0.2:
        changed = first | {'other': self.floats(3)}
      elif draw.random() < 0.2:
        changed = first | {name: np.zeros(shape, np.int32)}
      elif draw.random() < 0.1:
        changed = draw.choice((None, 3, 'params', np.zeros(3)))
      else:
        other = self.shape_unlike(shape)
        changed = first | {name: self.floats(*other, dtype=dtype)}
      put('params', changed, again)
    elif kind == 'carry':
      right = self.carry(cell, tuple(of_batch), dtype)
      which = draw.random()
      if which < 0.15:
        value = draw.choice((0.0, 'zero', {'h': right}, [right], Odd(1.0, right)))
      elif which < 0.3:
        value = jax.tree.map(lambda a: np.asarray(a, np.int32), right)
      elif which < 0.4:
        other = np.float16 if dtype != np.float16 else np.float32
        value = jax.tree.map(lambda a: np.asarray(a, other), right)
      else:
        other = self.shape_unlike(jax.tree.leaves(right)[0].shape)
        value = jax.tree.map(lambda a: self.floats(*other, dtype=dtype), right)
      put('initial_carry', value)
    elif kind == 'xs':
      words, dtype = ('xs', 'params'), xs.dtype
      if isinstance(xs, Lookup):
        changed = draw.choice((
          Lookup(self.floats(3, width + 1, dtype=dtype), np.zeros((*of_batch, steps), np.int32)),
          Lookup(xs.table, np.zeros((*of_batch, steps), np.float32)),
          Lookup(self.floats(3, dtype=dtype), xs.ids),
        ))  # fmt: skip
        words += ('xs.table',)
      else:
        changed = draw.choice((
          self.floats(*of_batch, steps, width + 1, dtype=dtype),
          self.floats(*of_batch, steps, 2 * width, dtype=dtype),
          np.zeros((*of_batch, steps, width), np.int32),
          np.zeros(steps, np.float32),
          np.zeros((1, 1, 1, 1), np.float32),
          xs.tolist(),
          None,
        ))  # fmt: skip
      arguments['xs'] = changed
    elif kind in ('mask', 'resets'):
      arguments.pop('lengths', None)
      shape = *of_batch, steps
      arguments[kind] = draw.choice((
        self.flags(*self.shape_unlike(shape)), np.ones(shape, np.int32), [[True]], 'mask',
      ))  # fmt: skip
    elif kind == 'lengths':
      arguments.pop('mask', None)
      arguments[kind] = draw.choice((
        np.zeros(self.shape_unlike(tuple(of_batch)), np.int32), np.zeros(of_batch, np.float32), 'a',
      ))  # fmt: skip
    elif kind == 'dropout':
      found = recurrence.products(cell, first, width)
      value = [self.floats(*of_batch, p.width, dtype=dtype) for p in found]
      which = draw.random()
      if which < 0.2:
        value = value[:-1]
      elif which < 0.3:
        value = draw.choice((0.5, np.ones(2, np.float32), 'half', {}))
      elif which < 0.5:
        value[0] = np.ones(value[0].shape, np.int32)
      else:
        value[0] = self.floats(*self.shape_unlike(value[0].shape), dtype=dtype)
        if value[0].shape == (found[0].gates, *of_batch, found[0].width):
          return None
      put('dropout', tuple(value) if isinstance(value, list) else value)
    elif kind == 'truncate':
      arguments[kind] = draw.choice(((2, 1), (0, 2), 3, (1, 2, 3), ('a', 'b'), (1.0, 2.0)))
    elif kind == 'backend':
      arguments[kind] = draw.choice(('kernal', 'gpu', 3))
    elif kind == 'dtype':
      arguments[kind] = draw.choice(('floaty', 'int8', 7, np.int32))
    if kind == 'xs' and arguments['xs'] is xs:
      return None
    return Case(case.run, case.cell, arguments, kind, words)

  def shape_unlike(self, shape):
    while True:
      other = list(shape)
      which = self.random.random()
      if which < 0.1 or not other:
        other = [*other, self.random.choice((1, 2))]
      elif which < 0.2:
        other = other[1:]
      else:
        at = self.random.randrange(len(other))
        other[at] = max(0, self.random.choice((0, 1, other[at] - 1, other[at] + 1, 8, 200)))
      if tuple(other) != tuple(shape) and np.prod(other, dtype=int) * 4 < PAGE * 64:
        return tuple(other)


SPOILT = (
  'params', 'params', 'params', 'carry', 'carry', 'carry', 'xs', 'xs', 'mask', 'resets', 'lengths',
  'dropout', 'truncate', 'backend', 'dtype',
)  # fmt: skip


def split(arguments):
  """The arrays of arguments, and the function that puts them back."""
  leaves, structure = jax.tree.flatten(arguments)
  moving = [isinstance(leaf, np.ndarray) for leaf in leaves]

  def whole(arrays):
    arrays = iter(arrays)
    pairs = zip(moving, leaves, strict=True)
    return structure.unflatten([next(arrays) if m else leaf for m, leaf in pairs])

  return [leaf for m, leaf in zip(moving, leaves, strict=True) if m], whole


def attempt(f, *arguments):
  """The result of `f` as NumPy arrays, or the error that it raises."""
  try:
    return jax.tree.map(np.asarray, f(*arguments))
  except Exception as error:  # `fault` checks of which kind
    return error


def call(case, whole, backend, *arrays):
  return getattr(recurrence, case.run)(case.cell, **{'backend': backend} | whole(arrays))


def slopes(case, whole, backend, *arrays):
  """The gradients by all floats, of a loss of all results."""
  floats = [i for i, a in enumerate(arrays) if jnp.issubdtype(a.dtype, jnp.floating)]

  def loss(moved):
    given = list(arrays)
    for i, a in zip(floats, moved, strict=True):
      given[i] = a
    out = jax.tree.leaves(call(case, whole, backend, *given))
    return sum(jnp.sin(a.astype(jnp.float32)).sum() for a in out)

  return jax.grad(loss)([jnp.asarray(arrays[i]) for i in floats])


def _may_have_a_kernel(case):
  cells = case.cell if case.run == 'stacked' else [case.cell]
  sizes = [c.initial_carry((), jnp.float32) for c in cells]
  sizes = [jax.tree.leaves(size)[0].shape[-1] for size in sizes]
  return all(c.fused and size % 16 == 0 for c, size in zip(cells, sizes, strict=True))


def ways(case, programs, eagerly):
  """The results of all ways in which this call can run, by name; `programs` holds compiled ones."""
  arrays, whole = split(case.arguments)
  found = {}
  if case.wrong or eagerly or _may_have_a_kernel(case):  # XLA compiles a scan at each eager call
    found['auto'] = attempt(call, case, whole, 'auto', *arrays)
  if case.wrong or eagerly:
    found['scan'] = attempt(call, case, whole, 'scan', *arrays)
  if case.wrong:
    traced = functools.partial(jax.eval_shape, functools.partial(call, case, whole, 'auto'))
    return found | {'traced': attempt(traced, *arrays)}
  if case.template not in programs:
    programs[case.template] = {
      f'{name} {backend}': jax.jit(functools.partial(f, case, whole, backend))
      for name, f in (('jit', call), ('grad', slopes))[: 1 + (case.template % 3 == 0)]
      for backend in ('auto', 'scan')
    }
  return found | {name: attempt(f, *arrays) for name, f in programs[case.template].items()}


def close(a, b, tolerance):
  leaves = jax.tree.leaves(a), jax.tree.leaves(b)
  return jax.tree.structure(a) == jax.tree.structure(b) and all(
    x.shape == y.shape
    and x.dtype == y.dtype
    and np.allclose(np.asarray(x, float), np.asarray(y, float), tolerance, tolerance)
    for x, y in zip(*leaves, strict=True)
  )


def fault(case, programs, eagerly):
  """What is wrong with the library's results for a case, or None; and how many ways were run."""
  found = ways(case, programs, eagerly)
  errors = {name: out for name, out in found.items() if isinstance(out, Exception)}
  if case.wrong:
    if len(errors) < len(found):
      return f'taken on the ways {sorted(found.keys() - errors.keys())}', len(found)
    for name, error in errors.items():
      if type(error) not in (ValueError, TypeError):
        return f'{name}: {type(error).__name__}: {error}', len(found)
      if not any(word in str(error) for word in case.words):
        return f'{name}: the argument is not named: {error}', len(found)
    if len({type(error) for error in errors.values()}) > 1:
      return f'errors of several kinds: {errors}', len(found)
    return None, len(found)
  if errors:
    return f'a right call is refused: {errors}', len(found)
  low = case.arguments['xs'].dtype != np.float32 or 'dtype' in case.arguments
  for name, out in found.items():
    other = 'grad scan' if name.startswith('grad') else 'jit scan'
    if not close(out, found[other], 0.1 if low else 2e-4):
      return f'{name} and {other} differ', len(found)
  return None, len(found)


def described(case):
  def said(a):
    return f'{a.dtype}{list(a.shape)}' if hasattr(a, 'dtype') and hasattr(a, 'shape') else repr(a)

  leaves = jax.tree_util.tree_leaves_with_path(case.arguments)
  return '\n  '.join(
    [f'{case.run}({case.cell}', *(f'{jax.tree_util.keystr(p)}={said(a)}' for p, a in leaves)]
  )


def main(count, seed=0):
  """Makes `count` calls, half of them wrong; returns the exit status."""
  getattr(LIBC, 'mallopt', print)(M_PERTURB, 256)  # fills with the byte 256 ^ 0xff
  maker, programs = Maker(seed, templates=max(12, count // 400)), {}
  counts = collections.Counter()
  for i in range(count):
    case = maker.wrong() if i % 2 else maker.right()
    problem, number = fault(case, programs, eagerly=i % 64 == 0)
    counts.update({'wrong' if case.wrong else 'right': 1, 'ways': number})
    if case.wrong:
      counts[f'wrong {case.wrong}'] += 1
    if problem:
      counts['faults'] += 1
      print(f'case {i} of seed {seed}: {problem}\n  {described(case)}', flush=True)
    if i % 1000 == 999:
      print(i + 1, dict(counts), flush=True)
  print(dict(counts), flush=True)
  return 1 if counts['faults'] else 0


if __name__ == '__main__':
  sys.exit(main(*map(int, sys.argv[1:])))
