"""What made the numbers of a report, and the commands that reproduce them."""

import pathlib
from typing import Any

import pandas as pd

from rnnlab import results


def made_by(
  workdir: pathlib.Path, runs: pd.DataFrame, sweep: dict[str, Any]
) -> dict[str, list[str]]:
  """What made the numbers of `runs`, as name -> lines."""
  configs = results.flatten(results.config_of(workdir / run) for run in runs['id'])
  distinct = lambda values: [str(value) for value in dict.fromkeys(values) if value]  # noqa: E731
  return {
    'Command': distinct([sweep['command'], *runs['command']]),
    'Commit': distinct(runs['commit'].fillna('')) or ['none: the code was not in a git checkout'],
    'Versions': distinct(runs['versions']),
    'Device of each run': distinct(runs['device']),
    'Data': distinct(
      f'{title}, fingerprint {str(fingerprint)[:16]}'
      for title, fingerprint in zip(runs['title'], runs['fingerprint'], strict=True)
    ),
    'Finished': distinct([runs['finished'].min(), runs['finished'].max()]),
    'Config': [f'{name} = {_values(configs[name].dropna())}' for name in configs],
    'Again': _again(runs),
  }


def _values(column):
  values = column.unique()
  words = list(map(results.value_words, values))
  if len(values) <= 12:
    return ' | '.join(words)
  if pd.api.types.is_numeric_dtype(column):
    return f'{len(values)} values from {min(values):g} to {max(values):g}'
  return ' | '.join([*words[:11], f'{len(values) - 11} more'])


def _again(runs):
  """The commands that reproduce the numbers, once for each commit and set of versions."""
  lines = []
  made = runs.assign(commit=runs['commit'].fillna(''), command=runs['command'].fillna(''))
  for (commit, versions), part in made.groupby(['commit', 'versions'], sort=False):
    python, *packages = (name.replace(' ', '==') for name in versions.split(', '))
    lines.append(f'# {len(part)} runs, with {python.replace("==", " ")}')
    if commit:
      clean = commit.removesuffix('-dirty')
      lines.append(f'git checkout {clean}' + '  # files differed from it' * (clean != commit))
    lines.append(f'python -m pip install {" ".join(packages)}')
    lines += filter(None, part['command'].unique())
  return lines
