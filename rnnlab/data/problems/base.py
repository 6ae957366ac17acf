"""Generated problems: how examples are drawn, how hard they are, and what is trivially reached."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

KINDS = ('value', 'class', 'classes', 'sets')


class Number(NamedTuple):
  """A number that makes a problem harder or easier.

  default: the published value; its type, int or float, is that of the number. least, most: the
  range of valid values. help: what it is, for people.
  """

  default: int | float
  least: int | float
  most: int | float
  help: str


class Sizes(NamedTuple):
  """What the model has to know of examples.

  symbols: the greatest id if inputs are ids, 0 if they are numbers. outputs: how many classes or
  symbols there are to choose from; 1 for a value.
  """

  symbols: int
  outputs: int


class Baseline(NamedTuple):
  """What is reached without any memory, or by chance.

  metric: 'loss' or 'accuracy', as in `rnnlab.tasks.generated`. value: the expected one. words: how
  it is reached, for people, to end the sentence "Without memory: <metric> <value>, by ...".
  """

  metric: str
  value: float
  words: str


class Problem(NamedTuple):
  """A problem whose examples are drawn at random, as many as are wanted.

  title: a line for people, with the paper.
  kind: what the answer is. 'value': a number after the last step; 'class': a class after it;
    'classes': a class at each step that the mask marks; 'sets': at each such step the set of the
    symbols that may come next.
  draw: `(key, n, fields) -> arrays of n examples`. It is traced in the compiled epoch, so n and
    fields are Python numbers, and shapes depend only on them. fields has the numbers of `fields` as
    attributes. The arrays are
      inputs: float32 `[n, T, D]`; or ids, int32 `[n, T]`, from 1, padded at the end with 0;
      lengths: int32 `[n]`, only for float inputs, if they are padded beyond it;
      targets: float32 `[n]` for a value, int32 `[n]` from 0 for a class, int32 `[n, T]` for
        classes, bool `[n, T, S]` for sets;
      mask: bool `[n, T]`, for classes and sets: the steps that count;
      size: int32 `[n]`, for sets: the size of an example, by which right answers are reported.
  sizes: `(fields) -> Sizes`.
  fields: the numbers that the config sets as data.NAME, by name. One called test_NAME or
    validation_NAME is the NAME of that split, or 0 if it is as in training.
  baseline: `(fields) -> Baseline`, or None if nothing simple is known.
  check: `(fields) -> None`; raises ValueError, for people, if they don't go together.
  """

  title: str
  kind: str
  draw: Callable[[Any, int, Any], dict[str, Any]]
  sizes: Callable[[Any], Sizes]
  fields: Mapping[str, Number]
  baseline: Callable[[Any], Baseline] | None = None
  check: Callable[[Any], None] | None = None


def lengths(greatest: int) -> dict[str, Number]:
  """The numbers of a problem whose lengths are drawn uniformly, from 1 to `greatest`."""
  most = 1_000_000
  return {
    'length': Number(greatest, 1, most, 'steps, of the longest example'),
    'min_length': Number(1, 1, most, 'steps, of the shortest example'),
    'test_length': Number(0, 0, most, 'the longest in the test split; 0: as in training'),
    'test_min_length': Number(0, 0, most, 'the shortest in the test split; 0: as in training'),
  }


def check_lengths(fields: Any) -> None:
  """Raises ValueError, for people, if the shortest example is longer than the longest."""
  if fields.min_length > fields.length:
    raise ValueError(
      f'--config.data.min_length={fields.min_length}: must be at most the length, {fields.length},'
      ' in each split (see also the fields that begin with data.test_ or data.validation_)'
    )


def drawn_lengths(key: Any, n: int, fields: Any) -> Any:
  """n lengths, each from fields.min_length to fields.length, int32 `[n, 1]`."""
  import jax

  return jax.random.randint(key, (n, 1), fields.min_length, fields.length + 1)


def spread(key: Any, n: int, least: int, most: int) -> Any:
  """n whole numbers from `least` to `most`, all equally likely, int32 `[n]`, in random order.

  They are spread as evenly as possible: if n = most - least + 1, each occurs once. So each batch
  has easy and hard examples in the same proportion, and a test covers all sizes.
  """
  import jax
  import jax.numpy as jnp

  count = most - least + 1
  start_key, order_key = jax.random.split(key)
  start = jax.random.randint(start_key, (), 0, count)
  whole, rest = np.divmod(np.arange(n, dtype=np.int64) * count, n)  # on the host: n count is large
  numbers = least + jnp.asarray(whole) + (jnp.asarray(rest) + start) // n
  return jax.random.permutation(order_key, numbers.astype(jnp.int32))
