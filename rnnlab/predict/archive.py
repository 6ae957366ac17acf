"""Writes a trained model as a zip that runs where rnnlab is not installed."""

import io
import json
import os
import pathlib
import zipfile

import jax
import jax.export
import jax.numpy as jnp

from rnnlab.data import batching, text
from rnnlab.machine import disk
from rnnlab.predict import forward
from rnnlab.predict.predictor import Ensemble, Predictor, check, reading

PLATFORMS = 'cpu', 'cuda', 'rocm', 'tpu'


def export(predictor: Predictor | Ensemble, path: str | os.PathLike) -> None:
  """Writes a model, or the mean of an ensemble, as a zip that needs jax and flatbuffers alone.

  `python PATH "text"` runs it: `exported.py`, which is in the zip, says how, also from Python. The
  function is StableHLO of ids int32 `[B, max_len]`, for any B, for CPUs, for GPUs of NVIDIA and
  AMD, and for TPUs. Raises ValueError where the members of an ensemble read texts by different
  vocabularies, and for a model of several classes.

  >>> rnnlab.export(rnnlab.load_ensembles('runs/imdb')['lstm'], 'lstm.zip')
  """
  members = predictor.members
  check(members)
  if len({reading(member)[1:] for member in members}) > 1:
    raise ValueError('these runs have different vocabularies: export one of them')
  member = members[0]
  outputs, data = member.outputs, member.config.data
  if outputs.steps:
    raise ValueError('a model that answers at each step cannot be exported here')
  # Under a trace a NumPy array cannot be indexed.
  both = [(member, jax.tree.map(jnp.asarray, member.params)) for member in members]

  @jax.jit
  def function(ids):
    found = [forward.answers(member.model, outputs, params, ids) for member, params in both]
    return sum(found) / len(found)

  (batch,) = jax.export.symbolic_shape('batch')
  shape = jax.ShapeDtypeStruct((batch, data.max_len), jnp.int32)
  exported = jax.export.export(function, platforms=PLATFORMS)(shape).serialize()
  encoding = {field: data[field] for field in ('max_len', 'padding', 'truncation')}
  encoding |= {'words': member.vocabulary, 'kind': outputs.kind, 'names': outputs.names}
  here = pathlib.Path(__file__).parent
  with io.BytesIO() as buffer:
    with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED) as archive:
      archive.writestr('__main__.py', (here / 'exported.py').read_bytes())
      for module in (text, batching):
        source = pathlib.Path(str(module.__file__))
        archive.writestr(source.name, source.read_bytes())
      archive.writestr('text.json', json.dumps(encoding))
      archive.writestr('function.stablehlo', bytes(exported))
    disk.write_atomic(path, buffer.getvalue())
