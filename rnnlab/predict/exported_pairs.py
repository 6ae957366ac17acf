"""A model that translates, in a zip written by `rnnlab.export`: it needs jax and flatbuffers.

    python MODEL.zip "Ein Mann schläft."

It prints the translation of each text, or of each line of standard input; --help says how.

In Python: `model = runpy.run_path('MODEL.zip')['load']('MODEL.zip')`. Then
`model.translate(texts, beam=5)` is the best translation of each, and `model.start(source)` and
`model.step(ids, carry)` are its programs.

For use elsewhere, `start.stablehlo` and `step.stablehlo` are what `jax.export.deserialize` takes.
start: source, int32 `[B, S]`, ids with an end, then 0 -> arrays `[B, ...]`, first those that no
step changes, `memory` of them, then the carry. step: ids int32 `[B]`, the last tokens, and all
these arrays -> logits of the next tokens, float32 `[B, V]`, the arrays of the next carry and, if
the model `attends`, how much it attended to each place of the source, float32 `[B, S]`. The first
token is 1, the end 2. `model.json` has the 'encoding' of both sides, as in `units.py`, each with
its 'vocabulary' in the order of ids, and `memory` and `attends`.
"""

import argparse
import functools
import io
import json
import os
import pathlib
import sys
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.export
import numpy as np

if __package__:
  from rnnlab.data import units
  from rnnlab.models import decoding
else:  # in the zip, beside this file
  import decoding  # type: ignore[no-redef]
  import units  # type: ignore[no-redef]

BOS, EOS, UNK, FIRST = range(1, 5)
ROWS = 64  # hypotheses computed at once


class Model(NamedTuple):
  """A model that translates.

  start, program: the two programs described above. encoding: how both sides are read. memory: how
  many arrays no step changes. attends: whether a step returns what it attended to.
  """

  start: jax.export.Exported
  program: jax.export.Exported
  encoding: Mapping[str, Any]
  memory: int
  attends: bool

  def step(self, ids: Any, given: Sequence[Any]) -> tuple[Any, list[Any], Any]:
    """Reads a token in each row, int `[B]`: logits of the next, the arrays, and the attention.

    given: the arrays from `start`, or from the previous step.
    """
    logits, *after = self.program.call(ids, *given)
    attention = after.pop() if self.attends else None
    return logits, [*given[: self.memory], *after], attention

  def translate(
    self, texts: Sequence[str], beam: int = 5, length: float = 0.6, coverage: float = 0.0
  ) -> list[str]:
    """The best translation of each text, as by rnnlab's `Translator.translate`."""
    if isinstance(texts, str):
      raise TypeError('texts must be a list of texts, not one text')
    side = self.encoding['source']
    id_of = {token: i for i, token in enumerate(side['vocabulary'][FIRST:], FIRST)}
    tokens = [units.split(' '.join(text.split()), side) for text in texts]
    source = np.zeros((len(texts), max(map(len, tokens), default=0) + 1), np.int32)
    for row, of_text in zip(source, tokens, strict=True):
      row[: len(of_text) + 1] = [*(id_of.get(token, UNK) for token in of_text), EOS]
    search = decoding.check(decoding.Search(BOS, EOS, (0, BOS, UNK), beam, length, coverage))
    of_batch = jax.jit(functools.partial(_found, self, search=search))
    found = decoding.in_batches(of_batch, source, max(1, ROWS // beam))
    return [self._text(ids.tolist()) for ids in found.ids[:, 0]]

  def _text(self, ids):
    side = self.encoding['target']
    known = [i for i in ids[: ids.index(EOS)] if i >= UNK]
    return units.decode(known, side, side['vocabulary'])


def _found(model, source, search):
  given = model.start.call(source)

  def next(memory, carry, ids):
    logits, both, attention = model.step(ids, [*memory, *carry])
    return logits, both[model.memory :], attention

  parts = next, given[: model.memory], given[model.memory :], *decoding.limits(source), search
  if search.size == 1:
    return decoding.greedy(*parts)
  return decoding.beam(*parts, source != 0)


def load(path: str | os.PathLike) -> Model:
  """The model of a zip. Raises ValueError for a file that is damaged or of another kind."""
  content = io.BytesIO(pathlib.Path(path).read_bytes())
  try:
    with zipfile.ZipFile(content) as archive:
      start, step = (
        jax.export.deserialize(bytearray(archive.read(f'{name}.stablehlo')))
        for name in ('start', 'step')
      )
      says = json.loads(archive.read('model.json'))
    return Model(start, step, says['encoding'], says['memory'], says['attends'])
  except Exception as error:  # zipfile, zlib and flatbuffers raise a dozen kinds on damaged bytes
    raise ValueError(f'{path} is damaged, or not an exported translation model: {error}') from error


def main() -> None:
  """Translates the arguments of the command line or, if there are none, standard input."""
  parser = argparse.ArgumentParser(description='Translates each text, one per line.')
  add = parser.add_argument
  add('texts', metavar='TEXT', nargs='*', help='default: the lines of standard input')
  add('--beam', type=int, metavar='K', default=5, help='hypotheses to keep; default: 5')
  add('--length-penalty', type=float, metavar='A', default=0.6, help='default: 0.6')
  add('--coverage-penalty', type=float, metavar='B', default=0.0, help='default: 0')
  given = parser.parse_intermixed_args()
  try:
    model = load(pathlib.Path(__file__).parent)
    texts = given.texts or [line.rstrip('\r\n') for line in sys.stdin]
    options = given.beam, given.length_penalty, given.coverage_penalty
    for text in model.translate(texts, *options):
      print(' '.join(text.split()))
    sys.stdout.flush()
  except BrokenPipeError:  # of `| head`
    os._exit(0)
  except (ValueError, OSError) as error:
    print(f'{sys.argv[0]}: {error}', file=sys.stderr)
    sys.exit(2)
  except KeyboardInterrupt:
    sys.exit(130)


if __name__ == '__main__':
  main()
