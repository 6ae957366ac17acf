"""Pairs that follow a rule: the counts of SCAN, another interpreter of commands, and the splits."""

import pytest
from ml_collections import ConfigDict
from programs import ROOT

from rnnlab.data import pairs, transductions
from rnnlab.runs import experiment_file
from rnnlab.sweeps import sweep
from rnnlab.tasks import translating


@pytest.fixture(scope='module')
def commands():
  return dict(transductions.commands())


def acted(command):
  """The actions of a command from its words, starting at the end, like SCAN's interpreter."""
  for word in (' and ', ' after '):
    if word in command:
      sides = [acted(side) for side in command.split(word)]
      return sum(sides if word == ' and ' else sides[::-1], [])
  words = command.split()
  for often, times in (('twice', 2), ('thrice', 3)):
    if words[-1] == often:
      return acted(' '.join(words[:-1])) * times
  does = [] if words[0] == 'turn' else [words[0].upper()]
  if len(words) == 1:
    return does
  turn = [words[-1].upper()]
  return {
    'opposite': turn * 2 + does,
    'around': (turn + does) * 4,
  }.get(words[1], turn + does)


def test_commands_are_as_many_and_as_long_as_those_of_scan(commands):
  """Lake and Baroni 2018: 20,910, of which 3,920 of 24 to 48 actions are the length split."""
  assert len(transductions.commands()) == len(commands) == 20_910
  counts = [len(actions.split()) for actions in commands.values()]
  longer = [count for count in counts if count > transductions.ACTIONS]
  assert (len(longer), min(longer), max(longer)) == (3_920, 24, 48)
  assert max(len(command.split()) for command in commands) == 9
  assert len({word for command in commands for word in command.split()}) == 13
  assert len({word for actions in commands.values() for word in actions.split()}) == 6


def test_commands_ask_for_what_another_reader_finds(commands):
  assert commands['jump twice and walk left'] == 'JUMP JUMP LEFT WALK'
  wrong = [text for text, actions in commands.items() if acted(text) != actions.split()]
  assert not wrong


@pytest.mark.parametrize(('rule', 'expected'), [('reverse', -1), ('copy', 1), ('sort', None)])
def test_letters_follow_their_rule_and_are_there_once(rule, expected):
  found = transductions.letters(rule, 500, 2, 5, seed=3)
  assert found == transductions.letters(rule, 500, 2, 5, seed=3)
  assert len(dict(found)) == 500
  assert {len(text.split()) for text, _ in found} == {2, 3, 4, 5}
  for text, target in found[:50]:
    letters = text.split()
    assert target.split() == (letters[::expected] if expected else sorted(letters))
  assert len(transductions.letters(rule, 500, 1, 1, seed=0)) == 26  # as there are no more


def loaded(**more):
  usual = {name.split('.')[1]: field.default for name, field in translating.DATA.items()}
  return pairs.load(ConfigDict(usual | {'source': 'drawn', 'examples': 400} | more))


def sources(dataset):
  return {
    name: {tuple(row[row > pairs.EOS].tolist()) for row in split['inputs']['source']}
    for name, split in dataset.splits.items()
  }


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


def test_no_string_is_in_two_splits_and_another_seed_draws_others():
  one = loaded(rule='sort')
  found = sources(one)
  assert [len(found[name]) for name in ('train', 'validation', 'test')] == [340, 20, 40]
  assert len(set.union(*found.values())) == 400
  assert one.title.startswith('to sort strings of 1 to 10 letters')
  assert one.fingerprint == loaded(rule='sort').fingerprint
  assert one.fingerprint != loaded(rule='sort', split_seed=1).fingerprint


@pytest.mark.parametrize('rule, bound', [('reverse', 10), ('commands', transductions.ACTIONS)])
def test_longer_ones_are_tested_on(rule, bound):
  found = loaded(rule=rule, longer=True)
  lengths = {
    name: (split['targets'] > pairs.EOS).sum(axis=1) for name, split in found.splits.items()
  }
  assert max(lengths['train'].max(), lengths['validation'].max()) == bound
  assert lengths['test'].min() > bound and len(lengths['test']) == (40 if bound == 10 else 3_920)
  limits = 2 * (found.splits['test']['inputs']['source'] > pairs.EOS).sum(axis=1) + 30
  assert (lengths['test'] <= limits).all()  # so that a model can output all of it


def test_the_experiment_describes_runs_of_each_rule():
  path = ROOT / 'experiments' / 'seq2seq_tasks.py'
  for preset in ('', *transductions.RULES, 'smoke'):
    made = experiment_file.read(path, preset)
    runs = sweep.expand(made.config, made.sweep)
    assert len(runs) == 6 and {run.config.model.cell for run in runs} == {'lstm', 'gru'}
    assert runs[0].config.data.source == 'drawn'
    assert runs[0].config.data.rule == (preset if preset in transductions.RULES else 'reverse')
  with pytest.raises(ValueError, match='no preset'):
    experiment_file.read(path, 'reversed')
