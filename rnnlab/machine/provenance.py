"""Where a number comes from: the device, the versions of packages and the commit that made it."""

import functools
import importlib.metadata
import os
import pathlib
import platform
import subprocess


def cores() -> list[int]:
  """The numbers of the cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return sorted(os.sched_getaffinity(0))
  return list(range(os.cpu_count() or 1))


def device() -> str:
  """The device that computes here, in words; for a CPU, with how many cores this process has."""
  import jax  # here, since `cores` is also called by code that must not load JAX

  kind = jax.devices()[0].device_kind
  if jax.default_backend() != 'cpu':
    return f'{jax.device_count()} x {kind}'
  count = len(cores())
  words = f'{platform.processor() or platform.machine()} {kind}, {count} core{"s" * (count > 1)}'
  words += f' of {os.cpu_count()}' if count < (os.cpu_count() or 1) else ''  # others have the rest
  return words + (f' in each of {jax.process_count()} processes' if jax.process_count() > 1 else '')


@functools.cache
def versions() -> dict[str, str]:
  """{name: version} of Python and of the packages on which the numbers depend."""
  packages = ('jax', 'jaxlib', 'flax', 'optax', 'numpy')
  return {'python': platform.python_version()} | {
    name: importlib.metadata.version(name) for name in packages
  }


@functools.cache
def commit() -> str | None:
  """The git commit of this code, followed by '-dirty' if files differ from it or are not in it.

  None outside git, and where the package is installed inside another repository.
  """
  file = pathlib.Path(__file__)

  def git(*words):
    command = ['git', *words]
    done = subprocess.run(
      command, cwd=file.parent, capture_output=True, text=True, timeout=10, check=True
    )
    return done.stdout.strip()

  try:
    git('ls-files', '--error-unmatch', file.name)
    described = git('describe', '--always', '--dirty', '--abbrev=40', '--exclude=*')
    if git('ls-files', '--others', '--exclude-standard', '..'):  # such as a new cell
      described = described.removesuffix('-dirty') + '-dirty'
  except (OSError, subprocess.SubprocessError):
    return None
  return described or None
