"""Writes a trained model as a zip that runs where rnnlab is not installed."""

import io
import json
import os
import pathlib
import zipfile
from typing import Any

import jax
import jax.export
import jax.numpy as jnp

from rnnlab.data import batching, text, units
from rnnlab.machine import disk
from rnnlab.models import decoding
from rnnlab.predict import forward, generate, sampling
from rnnlab.predict.language import TextModel
from rnnlab.predict.predictor import (
  Ensemble,
  Predictor,
  check,
  features,
  how_read,
  is_text,
  reads_texts,
)
from rnnlab.predict.translator import Translator

PLATFORMS = 'cpu', 'cuda', 'rocm', 'tpu'
READ = 'max_len', 'padding', 'truncation', 'mask'  # of data: how an example is cut to a batch


def export(
  predictor: Predictor | Ensemble | TextModel | Translator, path: str | os.PathLike
) -> None:
  """Writes a model, or the mean of an ensemble, as a zip that needs only jax and flatbuffers,
  and tokenizers if the model reads its texts by a tokeniser of Hugging Face.

  `python PATH "text"` runs it: `exported.py`, which is in the zip, says how, also from Python. The
  function is StableHLO of ids int32 `[B, max_len]`, or of scaled series float32 `[B, T, D]` and
  their lengths, for any B and T, on CPUs, GPUs of NVIDIA and AMD, and TPUs. For a language model or
  a translation model, it is one step, from a token and a carry to the next token's logits and the
  next carry, as `exported_text.py` and `exported_pairs.py` describe. Raises ValueError if the
  members of an ensemble read texts in different ways, and for a model that answers at each step.

  >>> rnnlab.export(rnnlab.load_ensembles('runs/imdb')['lstm'], 'lstm.zip')
  """
  if isinstance(predictor, TextModel):
    return _export_text(predictor, path)
  if isinstance(predictor, Translator):
    return _export_pairs(predictor, path)
  members = predictor.members
  check(members)
  if len({how_read(member)[1:] for member in members}) > 1:
    raise ValueError('these runs have different vocabularies: export one of them')
  if len({tuple(member.config.data.get(field) for field in READ) for member in members}) > 1:
    raise ValueError(f'these runs differ in {", ".join(READ)}: export one of them')
  member = members[0]
  outputs, data = member.outputs, member.config.data
  if outputs.steps:
    raise ValueError('a model that answers at each step cannot be exported here')
  texts = is_text(member)
  if texts and not reads_texts(member):
    raise ValueError('a model that reads lists of tokens cannot be exported here')
  # Under a trace a NumPy array cannot be indexed.
  both = [(member, jax.tree.map(jnp.asarray, member.params)) for member in members]

  @jax.jit
  def function(*given):
    inputs = given[0] if texts else dict(zip(('xs', 'lengths'), given, strict=True))
    found = [forward.answers(member.model, outputs, params, inputs) for member, params in both]
    return sum(found) / len(found)

  (batch,) = jax.export.symbolic_shape('batch')
  says: dict[str, Any] = {'kind': outputs.kind, 'names': outputs.names}
  if texts:
    shapes = [jax.ShapeDtypeStruct((batch, data.max_len), jnp.int32)]
    fields = {field: data[field] for field in ('max_len', 'padding', 'truncation')}
    how = {'words': member.vocabulary, 'tokens': member.encoding.get('tokens', 'words')}
    says['texts'] = fields | how
  else:
    batch, steps = jax.export.symbolic_shape('batch, steps')
    channels = features(member)
    shapes = [
      jax.ShapeDtypeStruct((batch, steps, channels), jnp.float32),
      jax.ShapeDtypeStruct((batch,), jnp.int32),
    ]
    scale = {name: member.encoding.get(name, rest) for name, rest in (('mean', 0.0), ('std', 1.0))}
    fields = {'max_len': data.max_len, 'truncation': data.truncation}
    says['series'] = {'features': channels} | scale | fields
  exported = jax.export.export(function, platforms=PLATFORMS)(*shapes)
  says['scalar'] = len(exported.out_avals[0].shape) == 1
  _write(path, 'exported.py', (text, batching), says, {'function': exported})


def _export_text(model, path):
  """`export` for a language model."""
  members = model.members
  encoding, vocabulary = members[0].encoding, members[0].vocabulary
  if encoding.get('unit') not in units.UNITS:
    raise ValueError('a language model whose task reads texts in its own way cannot be exported')
  models = tuple(member.model for member in members)
  # Under a trace a NumPy array cannot be indexed.
  params = jax.tree.map(jnp.asarray, tuple(member.params for member in members))
  tree = jax.tree.structure(generate.start(models, 1))

  @jax.jit
  def start(ids):
    return tuple(jax.tree.leaves(generate.start(models, ids.shape[0])))

  @jax.jit
  def step(ids, *carry):
    logits, after = generate.step(models, params, ids, jax.tree.unflatten(tree, carry))
    return logits, *jax.tree.leaves(after)

  (batch,) = jax.export.symbolic_shape('batch')
  ids = jax.ShapeDtypeStruct((batch,), jnp.int32)
  first = jax.export.export(start, platforms=PLATFORMS)(ids)
  carry = [jax.ShapeDtypeStruct((batch, *a.shape[1:]), a.dtype) for a in first.out_avals]
  exported = jax.export.export(step, platforms=PLATFORMS)(ids, *carry)
  says = {
    'vocabulary': vocabulary,
    'encoding': encoding,
    'carry': [[a.shape[1:], str(a.dtype)] for a in carry],
  }
  _write(path, 'exported_text.py', (units, sampling), says, {'start': first, 'step': exported})


def _export_pairs(model, path):
  """`export` for a model that translates."""
  models, params = model.parts()
  # Under a trace a NumPy array cannot be indexed.
  params = jax.tree.map(jnp.asarray, params)
  trees = []

  @jax.jit
  def start(source):
    _, *both = decoding.of_models(models, params, source)
    trees[:] = [jax.tree.structure(one) for one in both]
    return [leaf for one in both for leaf in jax.tree.leaves(one)]

  @jax.jit
  def step(ids, *given):
    count = trees[0].num_leaves
    parts = (given[:count], given[count:])
    memory, carry = (jax.tree.unflatten(*one) for one in zip(trees, parts, strict=True))
    logits, carry, attention = decoding.next_of(models, params)(memory, carry, ids)
    return logits, *jax.tree.leaves(carry), *([] if attention is None else [attention])

  batch, places = jax.export.symbolic_shape('batch, places')
  ids = jax.ShapeDtypeStruct((batch,), jnp.int32)
  source = jax.ShapeDtypeStruct((batch, places), jnp.int32)
  first = jax.export.export(start, platforms=PLATFORMS)(source)
  given = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in first.out_avals]
  exported = jax.export.export(step, platforms=PLATFORMS)(ids, *given)
  says = {
    'encoding': model.members[0].encoding,
    'memory': trees[0].num_leaves,
    'attends': len(exported.out_avals) > 1 + trees[1].num_leaves,
  }
  _write(path, 'exported_pairs.py', (units, decoding), says, {'start': first, 'step': exported})


def _write(path, main, modules, says, programs):
  """Writes the zip: the file to run, the modules that it imports, model.json, and the programs."""
  sources = [pathlib.Path(str(module.__file__)) for module in modules]
  with io.BytesIO() as buffer:
    with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED) as archive:
      archive.writestr('__main__.py', (pathlib.Path(__file__).parent / main).read_bytes())
      for source in sources:
        archive.writestr(source.name, source.read_bytes())
      archive.writestr('model.json', json.dumps(says))
      for name, program in programs.items():
        archive.writestr(f'{name}.stablehlo', bytes(program.serialize()))
    disk.write_atomic(path, buffer.getvalue())
