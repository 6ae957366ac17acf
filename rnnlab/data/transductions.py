"""Pairs of strings to learn a rule from: reversing, copying and sorting letters, and commands.

Letters are distinct strings of 'a' to 'z', drawn with lengths between two bounds, equally likely if
there are enough strings. Commands are all those of a small language like that of SCAN (Lake and
Baroni 2018), with their actions:

    jump twice and walk left -> JUMP JUMP LEFT WALK

    command  = sentence | sentence and sentence | sentence after sentence
    sentence = phrase | phrase twice | phrase thrice
    phrase   = verb | verb side | verb opposite side | verb around side
             | turn side | turn opposite side | turn around side
    verb     = walk | look | run | jump
    side     = left | right

'x after y' does y first. To walk left is to turn and walk; to walk opposite left is to turn twice
and walk; to walk around left is to turn and walk four times.
"""

import itertools
import string
from collections.abc import Callable, Iterator

import numpy as np

LETTERS: dict[str, Callable[[list[str]], list[str]]] = {
  'reverse': lambda letters: letters[::-1],
  'copy': list,
  'sort': sorted,
}
RULES = *LETTERS, 'commands'
ACTIONS = 22  # of the longest train command if longer ones are the test split


def letters(rule: str, count: int, shortest: int, longest: int, seed: int) -> list[tuple[str, str]]:
  """Strings of letters, and the result of a rule for each.

  rule: one of LETTERS. count: how many; fewer if there are not that many strings. shortest,
  longest: the range of their lengths. No string occurs twice, and the same seed gives the same
  strings.
  """
  draw = np.random.default_rng([seed, shortest, longest])
  alphabet = np.array([*string.ascii_lowercase])
  there = sum(len(alphabet) ** length for length in range(shortest, longest + 1))
  found: dict[str, None] = {}
  while len(found) < min(count, there):
    length = int(draw.integers(shortest, longest + 1))
    found[' '.join(draw.choice(alphabet, length))] = None
  return [(text, ' '.join(LETTERS[rule](text.split()))) for text in found]


def commands() -> list[tuple[str, str]]:
  """All commands, each with its actions."""
  sentences = [
    (f'{words}{often}', actions * times)
    for words, actions in _phrases()
    for often, times in (('', 1), (' twice', 2), (' thrice', 3))
  ]
  found = sentences[:]
  for (one, first), (other, then) in itertools.product(sentences, repeat=2):
    found.append((f'{one} and {other}', first + then))
    found.append((f'{one} after {other}', then + first))
  return [(words, ' '.join(actions)) for words, actions in found]


def _phrases() -> Iterator[tuple[str, list[str]]]:
  for verb in ('walk', 'look', 'run', 'jump', 'turn'):
    does = [] if verb == 'turn' else [verb.upper()]
    if does:
      yield verb, does
    for side in ('left', 'right'):
      turn = [side.upper()]
      yield f'{verb} {side}', turn + does
      yield f'{verb} opposite {side}', turn * 2 + does
      yield f'{verb} around {side}', (turn + does) * 4
