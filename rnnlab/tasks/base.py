"""The contract of a task: what is to be learnt, from which data, and how that is measured.

A task is to data and objective what a cell is to recurrence: a NamedTuple of pure functions.
Training, sweeps, searches and results know of a task only what is written here.

A batch is a dict of arrays whose first axis is the examples: the arrays of a split of the task's
`Dataset` (see `rnnlab.data.base`), and 'weights', float32 `[B]`, which training adds: 0 for a row
that only fills up the batch, else 1. The model is called with batch['inputs'], an array or a tree
of arrays; the loss gets the whole batch.

A model's outputs are kept for a whole split, as an array with a row per example. A model whose
scores are too large for that, such as those over a vocabulary at each time step, takes the targets
among its inputs, and its outputs are what the loss needs of them, such as log-likelihoods.

If `batches` is 'windows', a split is a stream, and each row of its arrays `[N]` one position in it.
A batch is a window of T positions of B streams: arrays `[B, T]`, weights `[B, T]` and, if windows
differ in length, a mask, bool `[B, T]`; positions where it is False leave the carry as it is. The
model is called as `module(batch, carry, deterministic=)`, at first without a carry, and returns
`(outputs [B, T, ...], carry)`; `module.initial_carry(B)` is the carry before the first window, and
needs no parameters. Gradients do not pass from a window to the one before it.

    task = Task(
      name='sines',
      load=load,
      model=lambda config, spec: Regressor(...),
      loss=loss,
      metrics=(Metric('error', 'V', 'lower', '.3f'), Metric('loss', '', 'lower', '.4f')),
    )

A task may leave out everything after `metrics`: it then has no fields of its own, nothing to check
or settle before a launch, and the same data for every run; its runs cannot predict new examples,
and its report has only the sections that every task has.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rnnlab.data.base import Dataset
from rnnlab.tasks.fields import Field

BETTER = ('higher', 'lower')
BATCHES = ('rows', 'windows')
LINKS = ('', 'exp')
SPLITS = ('train', 'validation', 'test')


class Metric(NamedTuple):
  """A number by which models are judged.

  If the task's `loss` gives its sums, it is a mean over the examples, by their weights. If the
  task's `score` gives it, it may be any figure of a whole split, such as the area under a curve.

  name: an identifier; columns of results are called `test_<name>` and so on.
  unit: the unit in which people read it, '' for none; '%' for a share, from 0 to 1.
  better: 'higher' or 'lower'.
  format: Python's format specification of a value for people, such as '.3f', or '.1%' for a share.
  link: 'exp' if it is the exponential of the mean that is summed up, like perplexity; '' if it is
    the mean itself.
  once: whether it is known only for the test split, with the parameters that a run keeps, because
    it costs too much to compute at the end of each epoch. The task's `examine` then returns it, as
    a number under this name, or omits it if it cannot be computed. It cannot be the primary metric.
  """

  name: str
  unit: str = ''
  better: str = 'lower'
  format: str = '.4f'
  link: str = ''
  once: bool = False

  def of_mean(self, mean: float) -> float:
    """The metric, from the mean that its sums give; infinite if it is too large for a float."""
    if self.link != 'exp':
      return mean
    return math.exp(mean) if mean < 709 else math.inf if mean == mean else mean

  @property
  def sign(self) -> int:
    """1 if higher is better, else -1: multiplied by it, the best value is the greatest."""
    return 1 if self.better == 'higher' else -1

  @property
  def words(self) -> str:
    """The name for people."""
    return self.name.replace('_', ' ')

  @property
  def scale(self) -> int:
    """The factor that converts a value to its unit: 100 for a share."""
    return 100 if self.unit == '%' else 1

  @property
  def difference_unit(self) -> str:
    """The unit of a difference between two values, for people."""
    return 'points' if self.unit == '%' else self.unit

  def number(self, value: float, more: int = 0) -> str:
    """A value for people without its unit, with `more` extra digits; '-' for NaN."""
    return '-' if _is_nan(value) else self._formatted(value, 'z', more)

  def shown(self, value: float) -> str:
    """A value for people, with its unit; 'unknown' for NaN."""
    if _is_nan(value):
      return 'unknown'
    return self.number(value) + (self.unit if self.unit == '%' else f' {self.unit}'.rstrip())

  def change(self, value: float, more: int = 0) -> str:
    """A difference of two values, with its sign, without its unit."""
    return self._formatted(value, '+z', more)

  def change_shown(self, value: float, more: int = 0) -> str:
    """A difference of two values, with its sign and its unit."""
    return f'{self.change(value, more)} {self.difference_unit}'.rstrip()

  def interval(self, low: float, high: float) -> str:
    """An interval without its unit; '-' for NaN."""
    return '-' if _is_nan(low) else f'[{self.number(low)}, {self.number(high)}]'

  def _formatted(self, value, sign, more):
    digits = re.fullmatch(r'(.*\.)(\d+)(\D*)', self.format)
    form = f'{digits[1]}{int(digits[2]) + more}{digits[3]}' if digits else self.format
    return format(value, sign + form).removesuffix('%')


def _is_nan(value):
  return value is None or value != value


class Task(NamedTuple):
  """A task. Each function is pure: the same arguments give the same result.

  name: the name by which a config's task.name chooses it.
  load: `(data config) -> Dataset`. The config is the `data` part of a run's config, without its
    traced fields. Raises rnnlab.data.DataError if data are missing.
  model: `(model config, spec) -> a Flax linen module`, called as `module(inputs, deterministic=)`;
    spec is the dataset's. Inside a compiled program, the traced numbers of the config are tracers.
    The parameters of submodules whose names begin with 'Recurrent', as Flax names instances of
    rnnlab.models.layers.Recurrent, count as a result's recurrent_parameters.
  loss: `(outputs, batch) -> {metric's name: (sum, sum of the weights)}`, float32 scalars, for each
    of `metrics` that is a mean. Sums are added up over a split and divided once. The gradient is
    that of 'loss', or of 'objective' if there is a sum of that name, which is not a metric: the
    loss with penalties.
  metrics: first the primary metric, by which epochs, trials and settings are chosen, and last, in a
    task's own file, the one called 'loss'; they may be the same.
  fields: the config's fields beyond those that every task has, by dotted name ('data.max_len').
    If one is called data.validation_fraction, 0 means that the test split serves as validation.
  check: `(fields) -> None`, where fields are all values of a config by dotted name; raises
    ValueError, for people, if they don't go together.
  settle: `(data config) -> {field of it: value}` for what depends on this machine, such as which of
    several sources of the data is there; called once, before the first run of a launch.
  vary: `(train split, config, key) -> arrays of the train split`: those that differ in this run
    from the dataset's, such as labels with noise. key: the run's own.
  score: `(outputs, split) -> {metric's name: value}`, float32 scalars, for each of `metrics` that
    is not a mean, from the outputs `[N, ...]` of a whole split and its arrays. It is traced, in the
    program that ends an epoch. The train split is never evaluated as a whole, so it has no such
    metric.
  encode: `(examples, data config, encoding, vocabulary) -> inputs`: turns new examples, a list of
    texts, of arrays `[T, D]` or of lists of tokens, into the model's inputs. encoding and
    vocabulary are those of the dataset that the model was trained on. For series, the encoding has
    'features', the number D, and, if they are scaled, 'mean' and 'std', D numbers each; for tokens
    it has 'tokens', as `rnnlab.data.text.tokenizer` takes them, or 'given' if examples are lists.
    If outputs are of kind 'tokens', it returns a stream for each text, ending with the end of a
    line: a dict of the arrays of a split, and 'tokens', N str, the targets as they are in the text.
    The encoding then has 'end' and 'unknown', the ids of the end of a line and of unknown tokens,
    or None. If they are of kind 'sequence', it returns the ids of the sources, int32 `[N, S]`; they
    and the encoding are those of `rnnlab.data.pairs`.
  decode: `(outputs, encoding) -> {column: N values}`: what a model's outputs `[N, ...]` mean for
    people; the first column is the answer itself.
  join: `(ids, encoding, vocabulary) -> text`: replaces decode for outputs of kind 'tokens' or
    'sequence'; returns the text of ids. In a stream, what follows an 'end' is joined as a text by
    itself; in a sequence, nothing follows its end.
  outputs: `(encoding) -> Outputs`: which kind of numbers a model's outputs are; it decides how
    predict averages models, explains and exports them.
  spec: `(data config, encoding, vocabulary) -> spec`: the dataset's spec, from what a run keeps.
    Predict needs it, and also encode, outputs, and decode or join.
  examine: `(model, params, dataset) -> {name: array}`: whatever else is to be measured of a trained
    model; it is kept beside the model's predictions, except for the figures of metrics that are
    known `once`. It is called once, at the end of a run, with the parameters that the run keeps;
    the dataset's splits are on the device.
  panels: `(predictions, encoding) -> a list of Panels`: what a report draws of the test split
    beside the metrics. predictions: for each run of a setting, the content of its predictions.npz,
    which includes what `examine` returned.
  sums: `(predictions, outputs) -> {metric's name: (sums [N, K], score)}`, for metrics of the test
    split that are computed from sums over its examples, such as BLEU: what each of the N examples
    adds, and the function that computes values `[M]` from such sums `[M, K]`. predictions: the
    content of a run's predictions.npz; outputs: the model's among them. Intervals over examples
    come from it.
  batches: 'rows' of examples, shuffled, or 'windows' of a stream, in order, as described above.
  draw: `(data config) -> ((key, n) -> arrays of n examples)`, for a task of rows whose training
    examples are drawn in the compiled program, for the step that uses them: a step's key is derived
    from the run's own, the epoch and the step's place in it. The shapes of the arrays depend only
    on n, and the inputs of one example have the same shape as in the test split. The train split of
    the dataset has only 'inputs', `[N, 0]`, where N is the number of examples in an epoch.
  narrow: `(data config) -> {field of the task: value}`: the parts of the task that depend on the
    config's data, such as which of its `metrics` apply to one of several problems.
  """

  name: str
  load: Callable[[Any], Dataset]
  model: Callable[[Any, Any], Any]
  loss: Callable[[Any, Mapping[str, Any]], dict[str, tuple[Any, Any]]]
  metrics: tuple[Metric, ...]
  fields: Mapping[str, Field] = {}
  check: Callable[[dict[str, Any]], None] | None = None
  settle: Callable[[Any], dict[str, Any]] | None = None
  vary: Callable[[Mapping[str, Any], Any, Any], dict[str, Any]] | None = None
  score: Callable[[Any, Mapping[str, Any]], dict[str, Any]] | None = None
  encode: Callable[[Sequence[Any], Any, Mapping[str, Any], tuple[str, ...]], Any] | None = None
  decode: Callable[[Any, Mapping[str, Any]], dict[str, Sequence[Any]]] | None = None
  join: Callable[[Iterable[int], Mapping[str, Any], Sequence[str]], str] | None = None
  examine: Callable[[Any, Any, Dataset], dict[str, Any]] | None = None
  panels: Callable[[Sequence[Mapping[str, Any]], Mapping[str, Any]], list['Panel']] | None = None
  sums: Callable[[Mapping[str, Any], Any], dict[str, tuple[Any, Callable]]] | None = None
  outputs: Callable[[Mapping[str, Any]], 'Outputs'] | None = None
  spec: Callable[[Any, Mapping[str, Any], tuple[str, ...]], Any] | None = None
  batches: str = 'rows'
  draw: Callable[[Any], Callable[[Any, int], dict[str, Any]]] | None = None
  narrow: Callable[[Any], dict[str, Any]] | None = None


class Outputs(NamedTuple):
  """The meaning of a model's outputs for an example.

  kind: 'binary', the log-odds of the second of two classes, a scalar; 'classes', a logit for each
    class `[C]`; 'labels', the log-odds of each label `[C]`, any of which an example may have;
    'values', a standardised number, a scalar or `[V]`; 'tokens', the negative log-likelihood in
    nats of each token of a stream, from a model that also has a method `logits(ids [B, T], carry)
    -> (logits [B, T, V], carry)` for the next token; 'sequence', how likely another text is, from a
    model that also has the methods that `rnnlab.models.decoding.of_models` needs to write one.
  names: of the classes, labels or values, in order; empty for tokens and sequences.
  steps: whether there is an output for each time step, along a first axis `[T, ...]`.
  mean, std: for values, in the unit of the targets: a value is output * std + mean. A number, or
    one for each value.
  """

  kind: str
  names: tuple[str, ...]
  steps: bool = False
  mean: float | tuple[float, ...] = 0.0
  std: float | tuple[float, ...] = 1.0


class Panel(NamedTuple):
  """A figure of the test split, as data.

  kind: 'matrix', 'attention', 'curve', 'scatter' or 'tokens'. title: a line. caption: what the
    figure shows, in whole sentences.
  data: for a matrix, 'labels' and 'counts' `[C, C]` (rows are the true classes). For a curve, 'x',
    'y' and, optionally, 'low' and 'high', the ends of a band, 'counts', the number of examples
    behind each point, and 'counted', the word for these examples. For a scatter, 'x' and 'y'. Both
    may have a 'reference' line to compare with: 'diagonal', 'zero' or None. A curve may have
    'ticks', names for its x, and 'log', its logarithmic axes: 'x', 'y' or 'xy'. All of these may
    have 'x_label' and 'y_label'. For attention, 'each', a list of dicts with 'source' and 'target',
    S and T tokens, and 'weights' `[T, S]`. For tokens, either 'ids', int `[n]`, which the task's
    `join` turns into a text, or the 'text' itself.
  """

  kind: str
  title: str
  caption: str
  data: Mapping[str, Any]


def check(task: Any) -> Task:
  """Returns the task. Raises ValueError, for people, if it is not a valid one."""
  if not isinstance(task, Task):
    raise ValueError(f'a task is a rnnlab.tasks.Task, not a {type(task).__name__}')
  where = f'the task {task.name!r}'
  if not isinstance(task.name, str) or not task.name.isidentifier():
    raise ValueError(f'{where}: its name must be an identifier, like the name of a Python file')
  names = [metric.name for metric in task.metrics]
  if not names or names[-1] != 'loss' or len({*names}) < len(names):
    raise ValueError(f"{where}: its metrics must be different, and the last called 'loss': {names}")
  for metric in task.metrics:
    if not metric.name.isidentifier() or metric.better not in BETTER or metric.link not in LINKS:
      raise ValueError(
        f"{where}: {metric}: its name must be an identifier, better 'higher' or 'lower', and link"
        " '' or 'exp'"
      )
    try:
      format(0.5, metric.format)
    except ValueError as error:
      raise ValueError(f'{where}: {metric}: its format cannot format a number: {error}') from None
    if (metric.unit == '%') != metric.format.endswith('%'):
      raise ValueError(
        f"{where}: {metric}: a share, and nothing else, has the unit '%' and a format such as '.1%'"
      )
  if (at_once := [m.name for m in task.metrics if m.once]) and (
    task.metrics[0].once or task.metrics[-1].once or not task.examine
  ):
    raise ValueError(
      f'{where}: {", ".join(at_once)}: a metric that is known once needs examine, and cannot be the'
      ' primary metric or the loss'
    )
  if task.batches not in BATCHES:
    raise ValueError(f"{where}: its batches must be 'rows' or 'windows', not {task.batches!r}")
  if task.draw and task.batches != 'rows':
    raise ValueError(f"{where}: its batches must be 'rows', as it draws its examples")
  for name in task.fields:
    if name.split('.')[0] not in ('model', 'data') or name.count('.') != 1:
      raise ValueError(f'{where}: its fields must be called model.NAME or data.NAME, not {name}')
  return task
