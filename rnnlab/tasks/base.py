"""The contract of a task: what it is to learn, from which data, and how that is measured.

A task is to data and objective what a cell is to recurrence: a NamedTuple of pure functions.
Training, sweeps, searches and results know of a task only what is written here.

A batch is a dict of arrays whose first axis is the examples: those of a split of the task's
`Dataset` (see `rnnlab.data.base`), and 'weights', float32 `[B]`, which training adds: 0 for a row
that only fills the batch up, else 1. The model is called with batch['inputs'], an array or a tree
of arrays; the loss has the whole batch.

What a model puts out is kept for a whole split, as an array with a row an example. A model whose
scores are too large for that, as those of a vocabulary at each time step, takes the targets among
its inputs and puts out what the loss needs of them, as an example's log-likelihood.

Where `batches` is 'windows', a split is a stream, and its arrays `[N]` have a place of it in a row.
A batch is a window of T places of B streams, arrays `[B, T]`, with weights `[B, T]`, and with a
mask, bool `[B, T]`, where windows differ in length: the carry is that after the places where it is
True. The model is called as `module(batch, carry, deterministic=)`, without a carry at its start,
and returns `(outputs [B, T, ...], carry)`; `module.initial_carry(B)` is the carry before the first
window, and takes no parameters. The gradient does not pass from a window to the one before.

    task = Task(
      name='sines',
      load=load,
      model=lambda config, spec: Regressor(...),
      loss=loss,
      metrics=(Metric('error', 'V', 'lower', '.3f'), Metric('loss', '', 'lower', '.4f')),
    )

A task may leave out what follows `metrics`: it then has no fields of its own, nothing to check or
to settle before a launch, and the same data for every run; its runs cannot be asked for predictions
of new examples, and its report has the pages that every task has.
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

  It is a mean over the examples, by their weights, if the task's `loss` gives its sums, and any
  figure of a whole split, as the area under a curve, if the task's `score` gives it.

  name: as the columns of results have it after the split, as in `test_<name>`; an identifier.
  unit: the unit in which people read it, '' for none; '%' of what is a share from 0 to 1.
  better: 'higher' or 'lower'.
  format: Python's format specification of a value for people, as '.3f', or '.1%' of a share.
  link: 'exp' of what is e to the mean that is summed up, as perplexity is; '' of the mean itself.
  once: whether it is known of the test split alone, by the parameters that a run keeps: the task's
    `examine` gives it, a number under this name, as what costs too much for each epoch's end, or
    nothing of that name where it cannot be computed. None such is the primary one.
  """

  name: str
  unit: str = ''
  better: str = 'lower'
  format: str = '.4f'
  link: str = ''
  once: bool = False

  def of_mean(self, mean: float) -> float:
    """The metric, of the mean that its sums give; infinite where it is too great for a float."""
    if self.link != 'exp':
      return mean
    return math.exp(mean) if mean < 709 else math.inf if mean == mean else mean

  @property
  def sign(self) -> int:
    """1 where higher is better, -1 where lower is: times it, the best value is the greatest."""
    return 1 if self.better == 'higher' else -1

  @property
  def words(self) -> str:
    """The name for people."""
    return self.name.replace('_', ' ')

  @property
  def scale(self) -> int:
    """What a value is multiplied by to be read in the unit: 100 for a share."""
    return 100 if self.unit == '%' else 1

  @property
  def difference_unit(self) -> str:
    """The unit of a difference between two values, for people."""
    return 'points' if self.unit == '%' else self.unit

  def number(self, value: float, more: int = 0) -> str:
    """A value for people without its unit, with `more` digits than usual; '-' for NaN."""
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
  """A task; each function is pure, and the same arguments give the same result.

  name: as a config's task.name has it.
  load: `(data config) -> Dataset`. The config is the `data` part of a run's config, without its
    traced fields. Raises rnnlab.data.DataError where data are missing.
  model: `(model config, spec) -> a Flax linen module`, called as `module(inputs, deterministic=)`;
    spec is the dataset's. Within a compiled program the traced numbers of the config are traced.
    A result's recurrent_parameters are those of submodules whose names begin with 'Recurrent', as
    Flax calls those of rnnlab.models.layers.Recurrent.
  loss: `(outputs, batch) -> {metric's name: (sum, sum of the weights)}`, for each of `metrics` that
    is a mean, float32 scalars. Sums are added over a split and divided once; the gradient is of
    'loss' or, where it gives a sum of that name, of 'objective', which is no metric: a loss with
    what a model is penalised for.
  metrics: the primary metric first, by which epochs, trials and settings are chosen, and the one
    called 'loss' last; they may be the same one.
  fields: the config's fields beside those that every task has, by dotted name ('data.max_len').
    One called data.validation_fraction is 0 where the test split is to validate too.
  check: `(fields) -> None`, where fields are all values of a config by dotted name; raises
    ValueError, for people, where they don't go together.
  settle: `(data config) -> {field of it: value}`, what depends on this machine, as which of several
    sources of the data there is; asked once, before the first run of a launch.
  vary: `(train split, config, key) -> arrays of the train split`, those in which this run's are not
    the dataset's, as labels with noise. The key is the run's own.
  score: `(outputs, split) -> {metric's name: value}`, for each of `metrics` that is no mean:
    float32 scalars, from the outputs `[N, ...]` of a whole split and its arrays. It is traced, in
    the program that ends an epoch. The train split, which is never seen whole, has no such metric.
  encode: `(examples, data config, encoding, vocabulary) -> inputs`: new examples, a list of texts,
    of arrays `[T, D]` or of lists of tokens, as the model takes them. encoding and vocabulary are
    those of the dataset that the model was trained on. Of series the encoding has 'features', the
    number D, and, where they are scaled, 'mean' and 'std', D numbers each; of tokens it has
    'tokens', as `rnnlab.data.text.tokenizer` takes them, or 'given' where examples are lists.
    Where outputs are of 'tokens', it gives a stream for each text, with the end of a line after it:
    a dict of arrays as a split has them, and 'tokens', N str, the targets as the text has them. The
    encoding then has 'end' and 'unknown', the ids of the end of a line and of unknown tokens, or
    None. Where they are a 'sequence', it gives the ids of the sources, int32 `[N, S]`, as
    `rnnlab.data.pairs` has them, and the encoding is as there.
  decode: `(outputs, encoding) -> {column: N values}`: what a model's outputs `[N, ...]` mean for
    people; the answer itself in the first column.
  join: `(ids, encoding, vocabulary) -> text`: of outputs of 'tokens' or a 'sequence', in place of
    decode, the text of ids. Of a stream, what comes after an 'end' is joined as by itself; of a
    sequence there is nothing after its end.
  outputs: `(encoding) -> Outputs`: which kind of numbers a model's outputs are, by which predict
    averages models, explains and exports them.
  spec: `(data config, encoding, vocabulary) -> spec`: that of the dataset again, from what a run
    keeps. Predict needs it, as it does encode, outputs, and decode or join.
  examine: `(model, params, dataset) -> {name: array}`: what else is to be known of a trained model,
    kept beside its predictions, but for a figure of each metric that is known `once`. It is asked
    once, at the end of a run, of the parameters that the run keeps; the dataset's splits are on the
    device.
  panels: `(predictions, encoding) -> a list of Panels`: what a report draws of the test split
    beside the metrics. predictions holds, for each run of a setting, what its predictions.npz does,
    and so what `examine` gave.
  sums: `(predictions, outputs) -> {metric's name: (sums [N, K], score)}`: of metrics of the test
    split that are made of sums over its examples, as BLEU is, what each of the N examples adds, and
    what makes values `[M]` of such sums `[M, K]`. predictions is what a run's predictions.npz
    holds, outputs the model's among them. Intervals over examples are made of it.
  batches: 'rows' of examples, shuffled; or 'windows' of a stream, in order, see below.
  draw: `(data config) -> ((key, n) -> arrays of n examples)`, for a task of rows whose training
    examples are drawn for the step that takes them, in the compiled program: a step's key is drawn
    from the run's own, its epoch and its place there. The shapes of the arrays depend on n alone,
    and those of the inputs of one example are as in the test split. The train split of the dataset
    has 'inputs' alone, `[N, 0]`, and only N counts, the examples of an epoch.
  narrow: `(data config) -> {field of the task: value}`: what of the task depends on the config's
    data, as `metrics` where there are several problems, which are then some of the task's own.
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
  """What the numbers are that a model puts out for an example.

  kind: 'binary', the log-odds of the second of two classes, a scalar; 'classes', a logit for each
    class `[C]`; 'labels', the log-odds of each label `[C]`, any of which an example may have;
    'values', a standardised number, a scalar or `[V]`; 'tokens', for each token of a stream its
    negative log-likelihood in nats, of a model with a method `logits(ids [B, T], carry) -> (logits
    [B, T, V], carry)` of what comes next; 'sequence', how likely another text is, of a model with
    the methods of `rnnlab.models.decoding.of_models`, which write one.
  names: of the classes, the labels or the values, in order; of tokens and sequences none.
  steps: whether there is one of these for each time step, along a first axis `[T, ...]`.
  mean, std: of values, in the unit of the targets: a value is output * std + mean. A number, or one
    for each value.
  """

  kind: str
  names: tuple[str, ...]
  steps: bool = False
  mean: float | tuple[float, ...] = 0.0
  std: float | tuple[float, ...] = 1.0


class Panel(NamedTuple):
  """Something of the test split to be drawn, as data.

  kind: 'matrix', 'attention', 'curve', 'scatter' or 'tokens'. title: a line. caption: what is seen,
    in whole sentences.
  data: of a matrix 'labels' and 'counts' `[C, C]` (rows are true); of a curve 'x', 'y' and, where
    there are such, 'low' and 'high', the ends of a band, 'counts', of how many examples each point
    is, and 'counted', what to call these; of a scatter 'x' and 'y'; of both 'reference', a line to
    see them beside: 'diagonal', 'zero' or None. The x of a curve may have names, 'ticks', and
    'log' says which of its axes are logarithmic: 'x', 'y' or 'xy'. All these may have 'x_label' and
    'y_label'. Of attention it has 'each', a list of dicts with 'source' and 'target', S and T
    tokens, and 'weights' `[T, S]`. Of tokens it has 'ids', int `[n]`, of which the task's `join`
    makes the text, or the 'text' itself.
  """

  kind: str
  title: str
  caption: str
  data: Mapping[str, Any]


def check(task: Any) -> Task:
  """The task. Raises ValueError, for people, for what is none."""
  if not isinstance(task, Task):
    raise ValueError(f'a task is a rnnlab.tasks.Task, not a {type(task).__name__}')
  where = f'the task {task.name!r}'
  if not isinstance(task.name, str) or not task.name.isidentifier():
    raise ValueError(f'{where}: its name must be an identifier, as a file of Python has it')
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
      raise ValueError(f'{where}: {metric}: its format is none of a number: {error}') from None
    if (metric.unit == '%') != metric.format.endswith('%'):
      raise ValueError(
        f"{where}: {metric}: a share has the unit '%' and a format such as '.1%', and nothing else"
        ' has either'
      )
  if (at_once := [m.name for m in task.metrics if m.once]) and (
    task.metrics[0].once or task.metrics[-1].once or not task.examine
  ):
    raise ValueError(
      f'{where}: {", ".join(at_once)}: what is known once is given by examine, and is neither the'
      ' primary metric nor the loss'
    )
  if task.batches not in BATCHES:
    raise ValueError(f"{where}: its batches must be 'rows' or 'windows', not {task.batches!r}")
  if task.draw and task.batches != 'rows':
    raise ValueError(f"{where}: its batches must be 'rows', as they are drawn")
  for name in task.fields:
    if name.split('.')[0] not in ('model', 'data') or name.count('.') != 1:
      raise ValueError(f'{where}: a field of its own is called model.NAME or data.NAME, not {name}')
  return task
