"""A language model in a zip, as written by `rnnlab.export`: it needs only jax and flatbuffers.

    python MODEL.zip "The film"

It continues the text; an empty one begins a line. --help says how.

In Python: `model = runpy.run_path('MODEL.zip')['load']('MODEL.zip')`. Then `model.generate(prompt)`
continues a text, and `logits, carry = model.step(ids, carry)` reads a token in each row.

For use elsewhere, `start.stablehlo` and `step.stablehlo` are what `jax.export.deserialize` takes.
start: ids int32 `[B]` -> the carry before the first token, arrays `[B, ...]`. step: ids int32
`[B]`, the last tokens, and the arrays of the carry -> logits of the next tokens, float32 `[B, V]`,
and the arrays of the next carry. The first token is the end of a line. `model.json` has the
'vocabulary', the tokens in the order of their ids; the 'encoding', where 'end' is the id of the end
of a line and `units.py` explains the rest; and 'carry', the shape without B and the type of each
array.
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
import jax.numpy as jnp

if __package__:
  from rnnlab.data import units
  from rnnlab.predict import sampling
else:  # in the zip, beside this file
  import sampling  # type: ignore[no-redef]
  import units  # type: ignore[no-redef]


class Model(NamedTuple):
  """A language model.

  start, program: the two programs described above. vocabulary: its tokens. encoding: how a text is
  read.
  """

  start: jax.export.Exported
  program: jax.export.Exported
  vocabulary: Sequence[str]
  encoding: Mapping[str, Any]

  def step(self, ids: Any, carry: Sequence[Any] | None = None) -> tuple[jax.Array, Sequence[Any]]:
    """Reads a token in each row, int `[B]`: the logits of the next, and the carry.

    carry: from the previous step, or None at the start, where the token is the end of a line.
    """
    ids = jnp.asarray(ids, jnp.int32)
    carry = self.start.call(ids) if carry is None else carry
    logits, *carry = self.program.call(ids, *carry)
    return logits, carry

  def generate(
    self,
    prompt: str = '',
    length: int = 100,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    stop: bool = False,
    unknown: bool = False,
  ) -> str:
    """A continuation of the prompt, as by rnnlab's `TextModel.generate`."""
    end, never = self.encoding['end'], self.encoding['unknown']
    left_out = () if unknown or never is None else (never,)
    how = sampling.check(sampling.Sampling(temperature, top_k, top_p, left_out))
    draw = jax.jit(functools.partial(sampling.next_token, sampling=how))
    given = [end, *units.encode(prompt, self.encoding, self.vocabulary).tolist()]
    ids, carry, keys = [*given], None, sampling.keys(seed, 1)
    for place in range(len(given) - 1 + length):
      logits, carry = self.step(ids[place : place + 1], carry)
      if place >= len(given) - 1:
        ids.append(int(draw(sampling.at(keys, place), logits)[0]))
        if stop and ids[-1] == end:
          ids.pop()
          break
    read, whole = (units.decode(of[1:], self.encoding, self.vocabulary) for of in (given, ids))
    spaced = prompt[-1:].isspace() and not read.endswith(prompt[-1])
    return whole[len(read) :].removeprefix(' ' * spaced)


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
    return Model(start, step, says['vocabulary'], says['encoding'])
  except Exception as error:  # zipfile, zlib and flatbuffers raise a dozen kinds on damaged bytes
    raise ValueError(f'{path} is damaged, or not an exported language model: {error}') from error


def main() -> None:
  """Continues the arguments of the command line, one text after another."""
  parser = argparse.ArgumentParser(description='A language model that continues each text.')
  add = parser.add_argument
  add('texts', metavar='TEXT', nargs='*', default=[''], help='default: begins a line')
  add('--length', type=int, metavar='N', default=100, help='tokens to write; default: 100')
  add('--temperature', type=float, metavar='T', default=1.0, help='0: most likely; default: 1')
  add('--top-k', type=int, metavar='K', default=0, help='draw from the K most likely tokens')
  add('--top-p', type=float, metavar='P', default=1.0, help='from the most likely, with sum P')
  add('--seed', type=int, metavar='N', default=0)
  add('--stop', action='store_true', help='stop where the line ends')
  add('--unknown', action='store_true', help='<unk> may be drawn too')
  given = vars(parser.parse_intermixed_args())
  try:
    model = load(pathlib.Path(__file__).parent)
    for prompt in given.pop('texts'):
      print(prompt + model.generate(prompt, **given))
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
