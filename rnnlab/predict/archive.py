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

from rnnlab.data import batching, text
from rnnlab.machine import disk
from rnnlab.predict import forward
from rnnlab.predict.predictor import (
  Ensemble,
  Predictor,
  check,
  features,
  how_read,
  is_text,
  reads_texts,
)

PLATFORMS = 'cpu', 'cuda', 'rocm', 'tpu'


def export(predictor: Predictor | Ensemble, path: str | os.PathLike) -> None:
  """Writes a model, or the mean of an ensemble, as a zip that needs jax and flatbuffers alone.

  `python PATH "text"` runs it: `exported.py`, which is in the zip, says how, also from Python. The
  function is StableHLO of ids int32 `[B, max_len]`, or of scaled series float32 `[B, T, D]` and
  their lengths, for any B and T, for CPUs, for GPUs of NVIDIA and AMD, and for TPUs. Raises
  ValueError where the members of an ensemble read by different vocabularies, and for a model that
  answers at each step.

  >>> rnnlab.export(rnnlab.load_ensembles('runs/imdb')['lstm'], 'lstm.zip')
  """
  members = predictor.members
  check(members)
  if len({how_read(member)[1:] for member in members}) > 1:
    raise ValueError('these runs have different vocabularies: export one of them')
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
  here = pathlib.Path(__file__).parent
  with io.BytesIO() as buffer:
    with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED) as archive:
      archive.writestr('__main__.py', (here / 'exported.py').read_bytes())
      for module in (text, batching):
        source = pathlib.Path(str(module.__file__))
        archive.writestr(source.name, source.read_bytes())
      archive.writestr('model.json', json.dumps(says))
      archive.writestr('function.stablehlo', bytes(exported.serialize()))
    disk.write_atomic(path, buffer.getvalue())
