"""A model in a zip, as `rnnlab.export` writes it: it needs nothing but jax and flatbuffers.

    python MODEL.zip "text" ...

For each text, or each line of standard input, it prints the label, a tab, and the probability that
the text is positive. In Python: `predict = runpy.run_path('MODEL.zip')['load']('MODEL.zip')`.

`function.stablehlo` is what `jax.export.deserialize` takes, ids int32 `[B, max_len]` ->
probabilities float32 `[B]`; `text.json` says how a text becomes ids, and `text.py` does it.
"""

import io
import json
import os
import pathlib
import sys
import zipfile
from collections.abc import Callable, Iterable

import jax.export
import numpy as np

if __package__:
  from rnnlab.data import batching, text
else:  # in the zip, beside this file
  import batching  # type: ignore[no-redef]
  import text  # type: ignore[no-redef]

BATCH = 64


def load(path: str | os.PathLike) -> Callable[[Iterable[str]], np.ndarray]:
  """Loads the model of a zip, as a function from N texts to their probabilities, float32 `[N]`.

  A probability is that of the text's being positive. Raises ValueError for a file that is damaged
  or of another kind. The function raises TypeError, naming the text, for one that is no str.
  """
  content = io.BytesIO(pathlib.Path(path).read_bytes())
  try:
    with zipfile.ZipFile(content) as archive:
      function = jax.export.deserialize(bytearray(archive.read('function.stablehlo')))
      encoding = json.loads(archive.read('text.json'))
    words, kind, names = (encoding.pop(name) for name in ('words', 'kind', 'names'))
  except Exception as error:  # zipfile, zlib and flatbuffers raise a dozen kinds on damaged bytes
    raise ValueError(f'{path} is damaged, or no exported model: {error}') from error

  def predict(texts):
    ids = batching.pad(text.encode(text.listed(texts), words), **encoding)
    found = [function.call(ids[start : start + BATCH]) for start in range(0, len(ids), BATCH)]
    empty = np.zeros(0, np.float32) if kind == 'binary' else np.zeros((0, len(names)), np.float32)
    return np.concatenate([empty, *found])

  predict.kind, predict.names = kind, names  # type: ignore[attr-defined]
  return predict


def line(answer: np.ndarray, kind: str, names: list[str]) -> str:
  """An answer as fields between tabs, as `python -m rnnlab.predict` writes them."""
  if kind == 'binary':
    return f'{names[int(answer > 0.5)]}\t{answer:.6f}'
  if kind == 'classes':
    return f'{names[int(answer.argmax())]}\t{answer.max():.6f}'
  if kind == 'labels':
    found = [f'{names[i]}:{answer[i]:.6f}' for i in np.flatnonzero(answer > 0.5)]
    return ' '.join(found)
  return '\t'.join(f'{value:.6f}' for value in np.atleast_1d(answer))


def main() -> None:
  """Predicts the texts of the command line or, without any, of standard input."""
  try:
    predict = load(pathlib.Path(__file__).parent)
    given = map(os.fsencode, sys.argv[1:]) if sys.argv[1:] else sys.stdin.buffer
    for answer in predict(map(text.decode, given)):
      print(line(answer, predict.kind, predict.names))  # type: ignore[attr-defined]
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
