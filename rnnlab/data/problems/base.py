"""What a generated problem is: how its examples are drawn, how hard they are, what is trivial."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

KINDS = ('value', 'class', 'classes', 'sets')


class Number(NamedTuple):
  """A number by which a problem is made harder or easier.

  default: the published one, an int or a float, which also says what the number is. least, most:
  what it may be. help: what it is, for people.
  """

  default: int | float
  least: int | float
  most: int | float
  help: str


class Sizes(NamedTuple):
  """What the model has to know of examples.

  symbols: the greatest id of inputs that are ids, 0 where they are numbers. outputs: how many
  classes or symbols there are to choose from; 1 of a value.
  """

  symbols: int
  outputs: int


class Baseline(NamedTuple):
  """What is reached without any memory, or by chance.

  metric: 'loss' or 'accuracy', as `rnnlab.tasks.generated` has it. value: the expected one. words:
  how it is reached, for people, to end the sentence "<metric> <value>: ".
  """

  metric: str
  value: float
  words: str


class Problem(NamedTuple):
  """A problem whose examples are drawn at random, as many as are wanted.

  title: what it is, with its paper, a line for people.
  kind: what is to be given. 'value': a number after the last step; 'class': a class after it;
    'classes': a class at each step that the mask marks; 'sets': at each such step the set of the
    symbols that may come next.
  draw: `(key, n, fields) -> arrays of n examples`, traced in the compiled epoch, so that n and
    fields are Python's and shapes depend on these alone. fields has the numbers of `fields` as
    attributes. The arrays are
      inputs: float32 `[n, T, D]`; or ids, int32 `[n, T]`, from 1, where 0 pads behind;
      lengths: int32 `[n]`, of float inputs alone, where their steps beyond it are padding;
      targets: of a value float32 `[n]`, of a class int32 `[n]` from 0, of classes int32 `[n, T]`,
        of sets bool `[n, T, S]`;
      mask: bool `[n, T]`, of classes and sets: the steps that count;
      size: int32 `[n]`, of sets: how large an example is, by which what is right is told.
  sizes: `(fields) -> Sizes`.
  fields: by name, what the config's data.NAME is. One called test_NAME or validation_NAME is what
    NAME is in that split, or 0 where it is as in training.
  baseline: `(fields) -> Baseline`, or None where nothing simple is known.
  check: `(fields) -> None`; raises ValueError, for people, where they don't go together.
  """

  title: str
  kind: str
  draw: Callable[[Any, int, Any], dict[str, Any]]
  sizes: Callable[[Any], Sizes]
  fields: Mapping[str, Number]
  baseline: Callable[[Any], Baseline] | None = None
  check: Callable[[Any], None] | None = None


def lengths(greatest: int) -> dict[str, Number]:
  """The numbers of a problem whose examples have lengths drawn evenly, 1 to `greatest`."""
  most = 1_000_000
  return {
    'length': Number(greatest, 1, most, 'steps, of the longest example'),
    'min_length': Number(1, 1, most, 'steps, of the shortest example'),
    'test_length': Number(0, 0, most, 'the longest in the test split; 0: as in training'),
    'test_min_length': Number(0, 0, most, 'the shortest in the test split; 0: as in training'),
  }


def check_lengths(fields: Any) -> None:
  """Raises ValueError, for people, where the shortest example is longer than the longest."""
  if fields.min_length > fields.length:
    raise ValueError(
      f'--config.data.min_length={fields.min_length}: at most the length, {fields.length}, in each'
      ' split (see data.test_length and data.test_min_length too)'
    )


def drawn_lengths(key: Any, n: int, fields: Any) -> Any:
  """n lengths, each from fields.min_length to fields.length, int32 `[n, 1]`."""
  import jax

  return jax.random.randint(key, (n, 1), fields.min_length, fields.length + 1)


def spread(key: Any, n: int, least: int, most: int) -> Any:
  """n whole numbers from `least` to `most`, each as likely as any, int32 `[n]`, in random order.

  They are spread as evenly as can be: of n = most - least + 1 each is there once. So a batch has
  easy and hard examples in the same proportion as all others, and a test covers all sizes.
  """
  import jax
  import jax.numpy as jnp

  count = most - least + 1
  start_key, order_key = jax.random.split(key)
  start = jax.random.randint(start_key, (), 0, count)
  whole, rest = np.divmod(np.arange(n, dtype=np.int64) * count, n)  # on the host: n count is large
  numbers = least + jnp.asarray(whole) + (jnp.asarray(rest) + start) // n
  return jax.random.permutation(order_key, numbers.astype(jnp.int32))
