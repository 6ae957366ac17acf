"""rnnlab, through its public interface."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import rnnlab
from experiments.benchmarks import peers
from experiments.benchmarks.peers import pairs
from rnnlab.machine import devices
from rnnlab.models import LanguageModel, Seq2Seq, decoding
from rnnlab.tasks import classification, language_model, translation
from rnnlab.training import train, windows
from rnnlab.training.optim import Optimizer

CELLS = {'lstm': rnnlab.lstm, 'gru': functools.partial(rnnlab.gru, reset='after')}
rnnlab.use_cores()


def build(case):
  """See `experiments.benchmarks.peers`."""
  mesh = rnnlab.mesh()
  with jax.set_mesh(mesh):
    kinds = {'training': _training, 'text': _text, 'pairs': _pairs, 'greedy': _greedy}
    made = kinds.get(case.what, _layer)(case, mesh)

  call, repeats = made

  def on_all_cores():
    with jax.set_mesh(mesh):
      return call()

  return on_all_cores, repeats


def _layer(case, mesh):
  rows = NamedSharding(mesh, P() if case.batch % mesh.shape['batch'] else P('batch'))
  xs, weights, _, _, lengths = jax.device_put(peers.data(case), rows)
  cell = CELLS[case.cell](case.hidden)
  params = [cell.init(jax.random.key(i), case.inputs) for i in range(1 + case.bidirectional)]
  # Whole on each device, as `devices.place` puts the recurrent layers of a model.
  params = jax.device_put(params, NamedSharding(mesh, P()))

  def masks(key, params):
    if case.dropout == 'none':
      return None
    return rnnlab.dropout_masks(
      key,
      cell,
      params,
      case.batch,
      case.inputs,
      rate=peers.RATE,
      recurrent_rate=peers.RATE,
      per_gate=case.dropout == 'per gate',
    )

  def forward(params, xs, lengths, key):
    dropout = tuple(masks(k, p) for k, p in zip(jax.random.split(key), params, strict=False))
    if case.bidirectional:
      return rnnlab.bidirectional(cell, tuple(params), xs, lengths=lengths, dropout=dropout)[1]
    return rnnlab.unroll(cell, params[0], xs, lengths=lengths, dropout=dropout[0])[1]

  def loss(params, xs, weights, lengths, key):
    return jnp.sum(forward(params, xs, lengths, key) * weights)

  key = jax.random.key(2)
  if case.what == 'forward':
    run = functools.partial(jax.jit(forward), params, xs, lengths, key)
  else:
    run = functools.partial(
      jax.jit(jax.grad(loss, argnums=(0, 1))), params, xs, weights, lengths, key
    )
  return lambda: jax.block_until_ready(run()), 1


def _training(case, mesh):
  _, _, ids, labels, _ = devices.place(peers.data(case))
  rate = 0.0 if case.dropout == 'none' else peers.RATE
  model = rnnlab.SequenceClassifier(
    CELLS[case.cell](case.hidden),
    peers.VOCABULARY,
    case.inputs,
    mask=case.lengths,
    dropout=rate,
    recurrent_dropout=rate,
    dropout_per_gate=case.dropout == 'per gate',
  )
  tx = Optimizer(*optax.adam(1e-3))
  task = classification.task
  program = train.Program(lambda _: (model, tx), task.loss, task.metrics, case.batch)
  return _steps(case, program, {'inputs': ids, 'labels': labels}, ids[:1])


def _text(case, mesh):
  _, _, ids, labels, _ = peers.data(case)
  stream = {
    'inputs': ids.ravel(),
    'targets': labels.ravel(),
    'characters': np.ones_like(ids.ravel()),
  }
  stream = devices.place(stream)
  text = peers.TEXTS[case.text]
  cell = CELLS[case.cell](case.hidden)
  model = LanguageModel((cell,) * text.layers, text.vocab_size, case.inputs)
  tx = Optimizer(*optax.chain(optax.clip_by_global_norm(peers.CLIP), optax.sgd(1.0)))
  task, cut = language_model.task, windows.Windows(case.steps)
  program = train.Program(lambda _: (model, tx), task.loss, task.metrics, case.batch, windows=cut)
  return _steps(case, program, stream, windows.example(stream))


def _translator(case):
  cells, sizes = (CELLS[case.cell](case.hidden),), pairs.PAIRS[case.text]
  model = Seq2Seq(
    cells,
    cells,
    sizes.source_size,
    sizes.target_size,
    case.inputs,
    True,
    attention_size=case.hidden,
  )
  return model, devices.place(pairs.weights(sizes, case.cell))


def _pairs(case, mesh):
  model, params = _translator(case)
  given = pairs.batches(pairs.PAIRS[case.text])
  sides = {name: [getattr(of, name) for of in given] for name in ('source', 'target')}
  inputs = {name: np.concatenate(of).astype(np.int32) for name, of in sides.items()}
  split = devices.place({'inputs': inputs})
  tx, task = Optimizer(*optax.adam(1e-3)), translation.task
  program = train.Program(lambda _: (model, tx), task.loss, task.metrics, case.batch)
  example = {name: ids[:1] for name, ids in split['inputs'].items()}
  state = train.init_state(program, {}, jax.random.key(0), example)
  # For the first batch as it is: an epoch's batches are drawn.
  first = {name: ids[: case.batch] for name, ids in split['inputs'].items()}
  nll, tokens = model.apply({'params': params}, first).sum(axis=0)
  run, repeats = _running(case, program, split, devices.place(state._replace(params=params)))

  def call():
    run()
    return float(nll / tokens)

  return call, repeats


def _greedy(case, mesh):
  model, params = _translator(case)
  search = decoding.Search(pairs.BEGIN, pairs.END, (0, pairs.BEGIN), size=1)
  given = [
    devices.place((batch.source.astype(np.int32), batch.source_lengths.astype(np.int32) - 1))
    for batch in pairs.sentences(pairs.PAIRS[case.text])
  ]

  @jax.jit
  def translated(params, source, limits):
    asked = decoding.of_models((model,), (params,), source)
    return decoding.greedy(*asked, limits, source.shape[1] - 1, search)

  def call():
    found = [translated(params, *batch) for batch in given]
    return float(sum(np.asarray(batch.log_probs).sum() for batch in found))

  return call, 1


def _steps(case, program, split, example):
  key = jax.random.key(0)
  return _running(case, program, split, devices.place(train.init_state(program, {}, key, example)))


def _running(case, program, split, state):
  key = jax.random.key(0)

  def call():
    nonlocal state
    # Like `fit`, advances by a chunk and then checks the loss.
    state = train.train_steps(program, state, {}, key, split, case.repeats)
    int(state.bad_step)

  return call, case.repeats
