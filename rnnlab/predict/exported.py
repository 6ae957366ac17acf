"""A model in a zip, as written by `rnnlab.export`: it needs only jax and flatbuffers.

A model that reads its texts by a tokeniser of Hugging Face needs tokenizers too.

    python MODEL.zip "text" ...

For each text, or each line of standard input, it prints a line with tabs between the fields: for
two classes the label and the probability of the second, for more the label and its probability, for
several labels those with a probability above one half and the probability of each, and otherwise
the values. A model of series takes the paths of files: `python MODEL.zip FILE.npz`, with the series
in an array x `[N, T, D]` and perhaps their lengths `[N]`, or x `[sum T, D]`, their steps one after
another.

In Python: `predict = runpy.run_path('MODEL.zip')['load']('MODEL.zip')`.

`function.stablehlo` is what `jax.export.deserialize` takes: ids int32 `[B, max_len]`, or series
float32 `[B, T, D]` with their lengths int32 `[B]`, -> probabilities or values float32 `[B, ...]`.
`model.json` says how an example is turned into these inputs, and what the numbers mean.
"""

import io
import json
import os
import pathlib
import sys
import zipfile
from collections.abc import Callable, Iterable
from typing import Any

import jax.export
import numpy as np

if __package__:
  from rnnlab.data import batching, text
else:  # in the zip, beside this file
  import batching  # type: ignore[no-redef]
  import text  # type: ignore[no-redef]

BATCH = 64


def load(path: str | os.PathLike) -> Callable[[Iterable[Any]], np.ndarray]:
  """Loads the model of a zip, as a function from N examples to its answers.

  The function takes texts, or series as arrays `[T, D]`, and returns what `Predictor.predict` does:
  probabilities of the second of two classes, float32 `[N]`, or of each class, `[N, C]`; or values.
  Its attributes kind and names say what these are. It raises TypeError, with the position, for a
  text that is not a str, and ValueError for series with another D, no steps, or numbers that are
  not finite.

  Raises ValueError for a file that is damaged or of another kind.
  """
  content = io.BytesIO(pathlib.Path(path).read_bytes())
  try:
    with zipfile.ZipFile(content) as archive:
      function = jax.export.deserialize(bytearray(archive.read('function.stablehlo')))
      says = json.loads(archive.read('model.json'))
    kind, names, scalar = (says[name] for name in ('kind', 'names', 'scalar'))
    batches = _texts(says['texts']) if 'texts' in says else _series(**says['series'])
  except Exception as error:  # zipfile, zlib and flatbuffers raise a dozen kinds on damaged bytes
    raise ValueError(f'{path} is damaged, or no exported model: {error}') from error

  def predict(examples):
    empty = np.zeros((0,) if scalar else (0, len(names)), np.float32)
    return np.concatenate([empty, *(function.call(*inputs) for inputs in batches(examples))])

  answering: Any = predict
  answering.kind, answering.names, answering.of_texts = kind, names, 'texts' in says
  return answering


def _texts(encoding):
  """A function that cuts texts into the inputs of batches."""
  words, tokens = encoding.pop('words'), encoding.pop('tokens')
  text.tokenizer(tokens)  # raises if it needs a library that is not installed

  def batches(examples):
    ids = batching.pad(text.encode(text.listed(examples), words, tokens), **encoding)
    return ((ids[start : start + BATCH],) for start in range(0, len(ids), BATCH))

  return batches


def _series(features, mean, std, max_len, truncation):
  """A function that cuts series into the inputs of batches, scaled as the train split was."""

  def batches(examples):
    examples = [np.asarray(xs) for xs in examples]
    for i, xs in enumerate(examples):
      if xs.ndim != 2 or xs.shape[1] != features or not len(xs) or not np.isfinite(xs).all():
        raise ValueError(
          f'the series at position {i}, counted from 0, has the shape {list(xs.shape)}: each must'
          f' be [T, {features}], with at least one step and finite numbers'
        )
    for start in range(0, len(examples), BATCH):
      some = [
        xs[-max_len:] if truncation == 'pre' else xs[:max_len]
        for xs in examples[start : start + BATCH]
      ]
      lengths = np.array([len(xs) for xs in some], np.int32)
      filled = np.zeros((len(some), 1 << max(5, int(lengths.max() - 1).bit_length()), features))
      for row, xs in zip(filled, some, strict=True):
        row[: len(xs)] = (xs - np.array(mean)) / np.array(std)
      yield filled.astype(np.float32), lengths

  return batches


def series(path: str | os.PathLike) -> list[np.ndarray]:
  """The series in an .npz, arrays `[T, D]`. Raises OSError, and ValueError if it has none."""
  with np.load(path, allow_pickle=False) as file:
    if 'x' not in file:
      raise ValueError(f'{path} has no array x, but {", ".join(file)}')
    x, lengths = file['x'], file['lengths'] if 'lengths' in file else None
  if x.ndim == 2 and lengths is not None and lengths.sum() == len(x):
    return np.split(x, np.cumsum(lengths)[:-1])
  x = x[..., None] if x.ndim == 2 else x
  return [*x] if lengths is None else [xs[:n] for xs, n in zip(x, lengths, strict=True)]


def line(answer: np.ndarray, kind: str, names: list[str]) -> str:
  """An answer as tab-separated fields, as `python -m rnnlab.predict` writes them."""
  if kind == 'binary':
    return f'{names[int(answer > 0.5)]}\t{answer:.6f}'
  if kind == 'classes':
    return f'{names[int(answer.argmax())]}\t{answer.max():.6f}'
  values = np.atleast_1d(answer)
  likely = [', '.join(names[i] for i in np.flatnonzero(values > 0.5))] if kind == 'labels' else []
  form = '.7g' if kind == 'values' else '.6f'
  return '\t'.join([*likely, *(format(value, form) for value in values)])


def main() -> None:
  """Predicts for the arguments of the command line or, if there are none, for standard input."""
  try:
    predict: Any = load(pathlib.Path(__file__).parent)
    if predict.of_texts:
      given = map(os.fsencode, sys.argv[1:]) if sys.argv[1:] else sys.stdin.buffer
      examples: Any = map(text.decode, given)
    else:
      if not sys.argv[1:]:
        raise ValueError('this model reads series: give the path of an .npz')
      examples = [xs for path in sys.argv[1:] for xs in series(path)]
    for answer in predict(examples):
      print(line(answer, predict.kind, predict.names))
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
