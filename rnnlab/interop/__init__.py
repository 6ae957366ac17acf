"""Weights to and from other libraries, as plain arrays; none of these libraries is imported.

`keras`, `torch`, `flax` and `haiku` handle the library of that name, `files` handles safetensors
files. A module is loaded on first use.

    from rnnlab import interop
    layers = interop.torch.import_module('lstm', module.state_dict())

Used like this, the libraries' own names stay free.
"""

import importlib

__all__ = ['files', 'flax', 'haiku', 'keras', 'torch']


def __getattr__(name):
  if name not in __all__:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return importlib.import_module(f'{__name__}.{name}')


def __dir__():
  return sorted({*globals(), *__all__})
