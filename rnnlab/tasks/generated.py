"""Problems with random examples, chosen by data.problem: adding, copying, counting and others.

    ids ----> embedding -+-> recurrent layers -> the answer, after the last step or at each step
    numbers [T, D] ------+

Each training example is drawn for the step that uses it, and never again; an epoch has
data.examples of them. The validation and test splits are drawn once, from data.seed. A problem is a
file of `rnnlab.data.problems`, which says what the arrays of a split are. Here id 0 is padding, and
inputs that are numbers become {'xs': float32 `[N, T, D]`, 'lengths': int32 `[N]`}.
"""

import functools
import math
import types
from typing import Any

import numpy as np

from rnnlab.data import problems
from rnnlab.data.base import Dataset
from rnnlab.tasks import by_size, fields, sequences
from rnnlab.tasks.base import Metric, Task
from rnnlab.tasks.fields import Field, Kind

OWN = -1  # stands for the problem's own default
RIGHT = 0.04  # the error below which a value is right (Hochreiter & Schmidhuber 1997)
# Folded into data.seed for the keys of the fixed splits; runs fold 0 and 1 into their seed.
KEYS = {'validation': 1001, 'test': 1002}

ERROR = Metric('error', '', 'lower', '.4f')
ACCURACY = Metric('accuracy', '%', 'higher', '.1%')
SEQUENCE_ACCURACY = Metric('sequence_accuracy', '%', 'higher', '.1%')
RIGHT_UP_TO = Metric('right_up_to', '', 'higher', '.0f')  # the size of strings, see `by_size`
LOSS = Metric('loss', '', 'lower', '.4f')
METRICS = {  # by the kind of a problem
  'value': (ERROR, ACCURACY, LOSS),
  'class': (ACCURACY, LOSS),
  'classes': (ACCURACY, SEQUENCE_ACCURACY, LOSS),
  'sets': (ACCURACY, SEQUENCE_ACCURACY, RIGHT_UP_TO, LOSS),
}


def load(config) -> Dataset:
  """The dataset of the `data` part of a config: validation, test, and the size of an epoch."""
  import jax

  problem = problems.find(config.problem)
  splits: dict[str, dict[str, Any]] = {
    'train': {'inputs': np.zeros((config.examples, 0), np.float32)}
  }
  with jax.set_mesh(_host()):
    for name, number in KEYS.items():
      key = jax.random.fold_in(jax.random.key(config.seed), number)
      drawn = jax.jit(_drawing(problem, _difficulty(config, name)), static_argnums=1)
      splits[name] = jax.device_get(drawn(key, config[f'{name}_examples']))
  return Dataset(
    splits,
    title=title(config),
    line=(
      f'{config.examples:,} train examples per epoch, each drawn anew;'
      f' {config.validation_examples:,} validation and {config.test_examples:,} test examples'
    ),
    source='generated',
    fingerprint=sequences.digest(splits),
    spec=_spec(problem, _difficulty(config)),
    notes=tuple(reference['says'] for reference in references(config)),
  )


def _host():
  """A mesh of one CPU, so that a launch draws data without using an accelerator's memory.

  Under a run's own mesh, the processes of several hosts would have to draw together.
  """
  import jax

  try:
    device = jax.local_devices(backend='cpu')[0]
  except RuntimeError:  # where JAX_PLATFORMS leaves it out
    device = jax.local_devices()[0]
  return jax.sharding.Mesh(np.array([device]), ('batch',))


def title(config) -> str:
  """The problem of the `data` part of a config, in a line for people."""
  given = ', '.join(f'{name} {value}' for name, value in vars(_difficulty(config)).items())
  return f'{problems.find(config.problem).title}: {given}'


def references(config) -> list[dict[str, Any]]:
  """What a model without memory reaches, as references for an experiment with this `data` part."""
  told = problems.find(config.problem).baseline
  if told is None:
    return []
  metric, value, words = told(_difficulty(config))
  shown = {'accuracy': ACCURACY, 'loss': LOSS}[metric].shown(value)
  return [{'says': f'Without memory: {metric} {shown}, by {words}.', 'title': title(config)}]


def draw(config):
  """The function that draws training examples for the `data` part of a config; see `Task.draw`."""
  return _drawing(problems.find(config.problem), _difficulty(config))


def narrow(config) -> dict[str, Any]:
  """The metrics of a config's problem, and the function for those that are not means."""
  kind = problems.find(config.problem).kind
  return {'metrics': METRICS[kind], 'score': by_size.score if kind == 'sets' else None}


def _drawing(problem, difficulty):

  def drawn(key, n):
    arrays = problem.draw(key, n, difficulty)
    inputs, lengths = arrays.pop('inputs'), arrays.pop('lengths', None)
    if inputs.ndim == 3:
      lengths = np.full(n, inputs.shape[1], np.int32) if lengths is None else lengths
      inputs = {'xs': inputs, 'lengths': lengths}
    return {'inputs': inputs, **arrays}

  return drawn


def _difficulty(config, split: str = 'train') -> types.SimpleNamespace:
  """The numbers of a config's problem for a split, by the names that the problem gives them."""
  found = {}
  for name, number in problems.find(config['problem']).fields.items():
    given = config[name]
    found[name] = number.default if given == OWN else given
  own = {name: found.get(f'{split}_{name}') or value for name, value in found.items()}
  return types.SimpleNamespace(**own)


def _spec(problem, difficulty):
  symbols, outputs = problem.sizes(difficulty)
  at_each_step = problem.kind in ('classes', 'sets')
  return sequences.Spec(symbols + 1 if symbols else None, bool(symbols), outputs, at_each_step)


def loss(outputs, batch) -> dict[str, tuple[Any, Any]]:
  """The sums of each of the problem's metrics, by its kind, which the shapes of its arrays show.

  outputs: for a value `[B]`; for a class, logits `[B, C]`; for classes, `[B, T, C]`; for sets, the
  log-odds of each symbol `[B, T, S]`. The loss, and the error, of a value is its squared error;
  otherwise the loss is a cross-entropy in nats, for sets summed over the symbols, where each step
  that counts has weight one. A sequence is right if each of its steps is.
  """
  import jax.numpy as jnp

  targets, weights = batch['targets'], batch['weights']
  count = jnp.sum(weights)
  if outputs.ndim == 1:
    errors = outputs - targets
    squared = (jnp.sum(weights * errors**2), count)
    right = jnp.abs(errors) < RIGHT
    return {'error': squared, 'accuracy': (jnp.sum(weights * right), count), 'loss': squared}
  losses, right = _judged(outputs, targets)
  if 'mask' not in batch:
    accuracy = (jnp.sum(weights * right), count)
    return {'accuracy': accuracy, 'loss': (jnp.sum(weights * losses), count)}
  mask = batch['mask']
  steps = weights[:, None] * mask
  marked = jnp.sum(steps)
  return {
    'accuracy': (jnp.sum(steps * right), marked),
    'sequence_accuracy': (jnp.sum(weights * jnp.all(right | ~mask, axis=1)), count),
    # The loss of a step that does not count may be NaN, so multiplying it by 0 is not enough.
    'loss': (jnp.sum(jnp.where(mask, losses, 0) * steps), marked),
  }


def _judged(outputs, targets):
  """The cross-entropy of each answer, and whether it is right."""
  import jax
  import jax.numpy as jnp

  if outputs.ndim == targets.ndim:  # sets
    odds = jnp.where(targets, outputs, -outputs)
    right = jnp.all((outputs > 0) == targets, axis=-1)
    return jnp.sum(jax.nn.softplus(-odds), axis=-1), right
  picked = jnp.take_along_axis(outputs, targets[..., None], axis=-1)[..., 0]
  return jax.nn.logsumexp(outputs, axis=-1) - picked, jnp.argmax(outputs, axis=-1) == targets


def check(given: dict[str, Any]) -> None:
  """Raises ValueError, for people, for numbers that the problem lacks, or may not have."""
  data = {name[5:]: value for name, value in given.items() if name.startswith('data.')}
  problem = problems.find(data['problem'])
  for name in problems.numbers():
    value, number = data[name], problem.fields.get(name)
    if value == OWN:
      continue
    if number is None:
      has = ', '.join(problem.fields)
      raise ValueError(
        f'--config.data.{name}={value}: the problem {data["problem"]} has no {name}; it has {has}'
      )
    if not _fits(value, number):
      raise ValueError(
        f'--config.data.{name}={value}: must be from {number.least} to {number.most} in the problem'
        f' {data["problem"]}'
      )
  difficulties = [_difficulty(data, name) for name in ('train', *KEYS)]
  for difficulty in difficulties:
    if problem.check:
      problem.check(difficulty)
  of_one = _numbers_of_one(data['problem'], tuple(vars(difficulties[-1]).values()))
  shown = given | {f'data.{name}': value for name, value in vars(difficulties[0]).items()}
  fields.check_room(
    shown,
    {
      'data.validation_examples data.test_examples data.problem': (
        (data['validation_examples'] + data['test_examples']) * of_one
      ),
      'train.batch_size data.problem model.hidden_size': (
        given['train.batch_size'] * (of_one + given['model.hidden_size'])
      ),
    },
  )


@functools.cache
def _numbers_of_one(name, difficulty):
  """How many numbers of 4 bytes an example holds."""
  import jax

  problem = problems.find(name)
  drawn = _drawing(
    problem, types.SimpleNamespace(**dict(zip(problem.fields, difficulty, strict=True)))
  )
  shapes = jax.eval_shape(lambda key: drawn(key, 1), jax.random.key(0))
  return sum(math.prod(shape.shape) for shape in jax.tree.leaves(shapes))


def _fits(value, number):
  return type(value) is type(number.default) and number.least <= value <= number.most


def _field(name, of):
  """The field for a number that these problems have."""
  defaults = {type(number.default) for number in of.values()}
  kind = Kind(
    lambda value: value == OWN or any(_fits(value, number) for number in of.values()),
    lambda: '; or '.join(
      f'in the problem {problem} a number from {number.least} to {number.most}'
      for problem, number in of.items()
    ),
  )
  uses = '; '.join(dict.fromkeys(number.help for number in of.values()))
  return Field(float(OWN) if float in defaults else OWN, kind, f"{uses}; {OWN}: the problem's own")


task = Task(
  name='generated',
  load=load,
  draw=draw,
  model=sequences.model,
  loss=loss,
  metrics=(ERROR, ACCURACY, SEQUENCE_ACCURACY, RIGHT_UP_TO, LOSS),
  narrow=narrow,
  score=by_size.score,
  panels=by_size.panels,
  fields={
    **sequences.MODEL,
    'model.embed_size': sequences.MODEL['model.embed_size']._replace(default=32),
    'data.problem': Field(
      'adding', fields.choice(problems.names), 'any file in rnnlab/data/problems/'
    ),
    'data.examples': Field(10_000, fields.whole(1), 'in an epoch, each drawn anew'),
    'data.validation_examples': Field(1_000, fields.whole(1), 'drawn once'),
    'data.test_examples': Field(2_000, fields.whole(1), 'drawn once'),
    'data.seed': Field(0, fields.whole(0, 2**32 - 1), 'of the validation and test splits'),
    **{f'data.{name}': _field(name, of) for name, of in problems.numbers().items()},
  },
  check=check,
)
