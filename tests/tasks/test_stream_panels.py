"""Results on language models beyond perplexity, against plain loops and other programs."""

import jax
import numpy as np
import pytest
from reference import unroll

from rnnlab import cells, models
from rnnlab.models import contexts
from rnnlab.predict import generate
from rnnlab.predict.predictor import Predictor
from rnnlab.predict.sampling import Sampling
from rnnlab.runs import configs
from rnnlab.tasks import stream_panels
from rnnlab.training import windows

V, H = 7, 4
CELLS = {
  'lstm': cells.get('lstm', hidden_size=H, forget_bias=3.0),
  'gru-after': cells.get('gru', hidden_size=H),
}
WORDS = {'unit': 'word', 'words': 'spaces', 'lowercase': False, 'end': 0, 'unknown': 1}


def stream(size, seed=0):
  targets = np.random.default_rng(seed).integers(0, V, size).astype(np.int32)
  inputs = np.concatenate([[0], targets[:-1]]).astype(np.int32)
  return {'inputs': inputs, 'targets': targets}


def made(name):
  """A model with weights that make it use its context, and its parameters."""
  model = models.LanguageModel((CELLS[name],) * 2, V, 5, init_scale=1.5)
  return model, jax.jit(model.init)(jax.random.key(0), windows.example(stream(3)))['params']


def loop(name, params, inputs, targets, every):
  """The nll of each target if the carry is reset every `every` steps, in float64."""
  params = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
  xs = params['embedding'][inputs][None]
  anew = (np.arange(len(inputs)) % every == 0)[None]
  for layer in ('Recurrent_0', 'Recurrent_1'):
    zeros = np.zeros((1, H))
    carry = (zeros, zeros) if name == 'lstm' else (zeros,)
    _, xs = unroll(name, params[layer]['cell'], xs, carry, resets=anew)
  logits = xs[0] @ params['output'] + params['output_bias']
  log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
  return -log_p[np.arange(len(targets)), targets]


@pytest.mark.parametrize(
  ('size', 'most', 'starts'), [(63, 45, [0, 17, 35, 53]), (20, 100, [0, 10]), (7, 100, [0])]
)
@pytest.mark.parametrize('name', CELLS)
def test_context_is_cut_off_as_a_plain_loop_has_it(name, size, most, starts):
  split, (model, params) = stream(size), made(name)
  every = (1, 2, 5, 10)
  found = contexts.nll(model, params, split, np.array(every, np.int32), 10, most)
  parts = [[split[name][start : start + 10] for name in ('inputs', 'targets')] for start in starts]
  desired = [np.concatenate([loop(name, params, *part, n) for part in parts]).mean() for n in every]
  np.testing.assert_allclose(found, desired, rtol=1e-5)
  assert np.ptp(desired) > 0.01


@pytest.mark.parametrize('name', CELLS)
def test_a_sample_is_what_predict_goes_on_with(name):
  model, params = made(name)
  vocabulary = ('<eos>', '<unk>', *'abcde')
  member = Predictor(configs.default('language_model'), model, params, vocabulary, WORDS)
  rows = generate.tokens([member], np.zeros(1, np.int32), Sampling(), seed=0, samples=1)
  told = np.concatenate([next(rows)[0] for _ in range(4)])
  found = contexts.sample(model, params, 0, len(told))
  np.testing.assert_array_equal(found, told)
  assert len({*told.tolist()}) > 3


def runs(targets, count=2, **more):
  draw = np.random.default_rng(1)
  size = len(targets)
  return [
    {'targets': targets, 'final': draw.random(size), 'best': draw.random(size) + i} | more
    for i in range(count)
  ]


def test_panels_are_means_over_classes_of_tokens():
  draw = np.random.default_rng(0)
  targets = np.where(draw.random(3000) < 0.1, 0, draw.geometric(0.01, 3000)).clip(0, 149)
  steps = np.array([1, 10, 200])
  given = runs(targets, context_steps=steps, context_nll=np.array([3.0, 2.0, 1.0]))
  given[1]['context_nll'] = np.array([5.0, 4.0, 3.0])
  rank, place, context = stream_panels.panels(given, WORDS)
  classes, places, where = {}, {}, 0
  for i, token in enumerate(targets):
    where += 1
    edges = (3, 10, 30, 100, 150)
    classes.setdefault(sum(token + 1 > edge for edge in edges), []).append(i)
    places.setdefault(min(where, 30), []).append(i)
    where = 0 if token == 0 else where
  for panel, parts, ticks in (
    (rank, classes, ['1–3', '4–10', '11–30', '31–100', '101–150']),
    (place, places, [*map(str, range(1, 30)), '30+']),
  ):
    assert panel.data['ticks'] == ticks
    values = [
      [np.exp(of['best'][part].mean()) for of in given] for _, part in sorted(parts.items())
    ]
    np.testing.assert_allclose(panel.data['y'], np.mean(values, axis=1))
    np.testing.assert_allclose(panel.data['low'], np.min(values, axis=1))
    np.testing.assert_allclose(panel.data['high'], np.max(values, axis=1))
    assert panel.data['counts'].tolist() == [len(part) for _, part in sorted(parts.items())]
  np.testing.assert_allclose(context.data['y'], (np.exp([3.0, 2, 1]) + np.exp([5.0, 4, 3])) / 2)
  assert context.data['x'] is steps and context.data['log'] == 'x'


@pytest.mark.parametrize(
  ('unit', 'word'), [('character', 'Bits per character'), ('byte', 'Bits per byte')]
)
def test_small_tokens_are_told_in_bits_and_long_lines_in_classes_of_places(unit, word):
  targets = np.full(500, 3)
  targets[[99, 299, 499]] = 0
  (of,) = runs(targets, 1)
  rank, place = stream_panels.panels([of], WORDS | {'unit': unit})
  assert rank.title == f'{word} by frequency of the {unit}' and place.title.startswith(word)
  assert rank.data['ticks'] == ['1–3', '4'] and not rank.data['log']
  assert place.data['ticks'] == ['1–3', '4–10', '11–30', '31–100', '101–200']
  first = np.r_[0:3, 100:103, 300:303]
  assert place.data['y'][0] == pytest.approx(of['best'][first].mean() / np.log(2))


def test_a_stream_without_lines_has_no_places_and_older_runs_no_context():
  (of,) = runs(np.arange(1, 40), 1)
  assert [panel.title for panel in stream_panels.panels([of], WORDS)] == [
    'Perplexity by frequency of the word'
  ]
