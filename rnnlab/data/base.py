"""What every source of data gives: named splits of arrays, and what is known of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class Dataset(NamedTuple):
  """The data of a task, on the host.

  splits: 'train', 'test' and, unless the test split is to validate too, 'validation'. Each is a
  dict of arrays whose first axis is the examples: 'inputs', what the model is given, and whatever
  else the loss needs, under names of the task's own ('weights' is taken, see `rnnlab.tasks.base`).
  title: what the data are and where they come from, a line for people.
  line: how many there are, a line for people.
  source: the same in a word, as 'package'; runs of different sources are never averaged.
  fingerprint: a digest of the arrays' content, hex.
  spec: what the model has to know of the data, as the number of features; anything with a hash.
  widths: for inputs of ids `[N, T]` whose padding, id 0, the model masks: the numbers of columns,
    ascending, that batches may be cut to. Empty for inputs that must stay as they are.
  vocabulary: the words that ids stand for, in id order; empty where there are none.
  encoding: what else is needed to read new examples and to say what outputs mean, as the names of
    classes or the mean of each feature; all of it JSON. Kept with each run, as encoding.json.
  notes: what was read, a line each for people, told before training begins: classes and their
    counts, lengths, duplicates, what was left out.
  shown: `(rows) -> texts`, the examples of the test split at these rows, int `[K]`, as the source
    has them; None: they are read back from their ids or values (see `rnnlab.data.shown`).
  """

  splits: dict[str, dict[str, np.ndarray]]
  title: str
  line: str
  source: str
  fingerprint: str
  spec: Any = None
  widths: tuple[int, ...] = ()
  vocabulary: tuple[str, ...] = ()
  encoding: Mapping[str, Any] = {}
  notes: tuple[str, ...] = ()
  shown: Callable[[np.ndarray], Sequence[str]] | None = None


class Examples(NamedTuple):
  """N examples as a source has them, before anything is encoded.

  inputs: N texts, N arrays `[T, D]` float32 of any lengths T, or N lists of tokens.
  targets: what is to be predicted, N of whatever the task takes: labels as they are written, sets
    of labels, numbers, arrays, lists of labels.
  rows: int `[N]`, where each is in its source, counted from 1 as an editor counts lines or rows.
  """

  inputs: Sequence[Any]
  targets: Sequence[Any]
  rows: np.ndarray
