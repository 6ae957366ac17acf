"""What every source of data provides: named splits of arrays, and facts about them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class Dataset(NamedTuple):
  """The data of a task, on the host.

  splits: 'train', 'test' and, unless the test split is also used to validate, 'validation'. Each is
  a dict of arrays whose first axis is the examples: 'inputs', for the model, and whatever else the
  loss needs, under names of the task's own ('weights' is reserved, see `rnnlab.tasks.base`).
  title: what the data are and where they come from, in a line for people.
  line: how many there are, in a line for people.
  source: the same in a word, such as 'package'; runs of different sources are never averaged.
  fingerprint: a digest of the arrays' content, hex.
  spec: what the model must know about the data, such as the number of features; anything hashable.
  widths: for inputs of ids `[N, T]`, or a dict of such, whose padding, id 0, the model masks: the
    numbers of columns, ascending, that batches may be cut to. Empty for inputs that must stay as
    they are.
  vocabulary: the words that ids stand for, in id order; empty if there are none.
  encoding: what else is needed to read new examples and to interpret outputs, such as the names of
    classes or the mean of each feature; all of it JSON. Kept with each run, as encoding.json.
  notes: lines for people on what was read, shown before training begins: classes and their counts,
    lengths, duplicates, what was left out.
  shown: `(rows) -> texts`, the examples of the test split at these rows, int `[K]`, as in the
    source; None: they are reconstructed from their ids or values (see `rnnlab.data.shown`).
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
  """N examples of a source, before anything is encoded.

  inputs: N texts, N arrays `[T, D]` float32 of any lengths T, or N lists of tokens.
  targets: what is to be predicted, N items of whatever kind the task takes: labels as they are
    written, sets of labels, numbers, arrays, lists of labels.
  rows: int `[N]`, the place of each in its source, counted from 1 as an editor counts lines or
    rows.
  """

  inputs: Sequence[Any]
  targets: Sequence[Any]
  rows: np.ndarray
