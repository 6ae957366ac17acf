"""Decoding against loops over lists in float64, and against all possible hypotheses."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rnnlab.models import decoding
from rnnlab.models.decoding import Search

BEGIN, END, H, S = 0, 1, 4, 3
SEARCH = Search(BEGIN, END, (BEGIN,))
THERE = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0]], bool)
LIMITS = np.array([4, 2, 0])
PENALTIES = [(0.0, 0.0), (1.0, 0.0), (0.6, 0.4), (0.0, 0.2), (5.0, 0.0)]


def weights_of(seed, symbols=3, scale=2.0):
  """A small model: its state is a function of the source and of all tokens so far."""
  draw = np.random.default_rng(seed)
  sizes = {'embed': (symbols + 2, H), 'state': (H, H), 'logits': (H, symbols + 2), 'ask': (H, S)}
  found = {name: scale * draw.normal(size=size) for name, size in sizes.items()}
  return found | {'memory': draw.normal(size=(len(THERE), H))}


def forward(xp, weights, memory, h, ids, there):
  """A step of this model, in NumPy or JAX: the state, logits and attention."""
  h = xp.tanh(h @ weights['state'] + weights['embed'][ids] + memory)
  found = xp.where(there, xp.exp(h @ weights['ask']), 0)
  return h, h @ weights['logits'], found / found.sum(axis=-1, keepdims=True)


def as_next(weights, attends=True):
  weights = jax.tree.map(jnp.float32, weights)

  def next(memory, h, ids):
    memory, there = memory
    h, logits, attention = forward(jnp, weights, memory, h, ids, there)
    return logits, h, attention if attends else None

  return next, (weights['memory'], jnp.asarray(THERE)), jnp.zeros((len(THERE), H))


@functools.partial(jax.jit, static_argnames=('search', 'kind'))
def searched(weights, search, kind='beam', limits=LIMITS):
  how = *as_next(weights), limits, 4, search
  return decoding.beam(*how, THERE) if kind == 'beam' else decoding.greedy(*how)


def step_of(weights, row, tokens):
  """log P of each next token after a prefix, and the attention of each step, including the last."""
  h, attention = np.zeros(H), []
  for token in [BEGIN, *tokens]:
    h, logits, one = forward(np, weights, weights['memory'][row], h, token, THERE[row])
    attention.append(one)
  return logits - np.logaddexp.reduce(logits), np.array(attention)


def score(search, log_prob, attention, row):
  found = log_prob / ((5 + len(attention)) / 6) ** search.length
  if search.coverage:
    sums = attention.sum(axis=0)[THERE[row]]
    found += search.coverage * np.log(np.minimum(sums, 1)).sum()
  return found


def all_of(weights, search, row, limit, symbols=3):
  """Every hypothesis, (score, log P, tokens), the best first."""
  found = []
  for count in range(limit + 1):
    for tokens in itertools.product(range(2, symbols + 2), repeat=count):
      log_prob, whole = 0.0, (*tokens, END)
      for i, token in enumerate(whole):
        log_probs, attention = step_of(weights, row, whole[:i])
        log_prob += log_probs[token]
      found.append((score(search, log_prob, attention, row), log_prob, whole))
  return sorted(found, reverse=True)


def said(ids):
  return tuple(ids[: list(ids).index(END) + 1].tolist())


@pytest.mark.parametrize('length, coverage', PENALTIES)
def test_a_beam_of_full_width_finds_all_hypotheses_in_their_order(length, coverage):
  search = SEARCH._replace(size=121, length=length, coverage=coverage)
  weights = weights_of(seed=0, scale=1.0)
  found = searched(weights, search)
  for row, limit in enumerate(LIMITS):
    right = all_of(weights, search, row, limit)
    count = len(right)
    assert [said(ids) for ids in np.asarray(found.ids[row, :count])] == [t for *_, t in right]
    np.testing.assert_allclose(found.scores[row, :count], [s for s, *_ in right], atol=1e-5)
    np.testing.assert_allclose(found.log_probs[row, :count], [p for _, p, _ in right], atol=1e-5)
    assert (found.scores[row, count:] == -np.inf).all()


def one_by_one(weights, row, limit):
  tokens = []
  while tokens[-1:] != [END]:
    log_probs, _ = step_of(weights, row, tokens)
    log_probs[BEGIN] = -np.inf
    tokens.append(END if len(tokens) == limit else int(log_probs.argmax()))
  return tuple(tokens)


def beam_of(weights, search, row, limit):
  """A beam as lists: (score, log P, tokens), the best first."""
  alive, over = [(0.0, ())], []
  for place in range(limit + 1):
    more = []
    for log_prob, tokens in alive:
      log_probs, attention = step_of(weights, row, tokens)
      for token in range(1, len(log_probs)):
        if place < limit or token == END:
          more.append((log_prob + log_probs[token], (*tokens, token), attention))
    more.sort(key=lambda one: -one[0])
    over += [
      (score(search, log_prob, attention, row), log_prob, tokens)
      for log_prob, tokens, attention in more[: search.size]
      if tokens[-1] == END
    ]
    over = sorted(over, reverse=True)[: search.size]
    if len(over) == search.size:
      break
    alive = [(p, tokens) for p, tokens, _ in more if tokens[-1] != END][: search.size]
  return over


@settings(max_examples=25, deadline=None)
@given(
  seed=st.integers(0, 10_000),
  scale=st.sampled_from([0.3, 1.0, 2.0]),
  size=st.integers(1, 3),
  penalties=st.sampled_from(PENALTIES[:3]),
  limits=st.lists(st.integers(0, 4), min_size=3, max_size=3),
)
def test_a_narrow_beam_keeps_what_a_loop_over_lists_does(seed, scale, size, penalties, limits):
  length, coverage = penalties
  search = SEARCH._replace(size=size, length=length, coverage=coverage)
  weights = weights_of(seed, scale=scale)
  found = searched(weights, search, limits=np.array(limits))
  greedy = searched(weights, SEARCH, 'greedy', np.array(limits))
  for row, limit in enumerate(limits):
    right = beam_of(weights, search, row, limit)
    count = len(right)
    np.testing.assert_allclose(found.scores[row, :count], [s for s, *_ in right], atol=1e-4)
    assert [said(ids) for ids in np.asarray(found.ids[row, :count])] == [t for *_, t in right]
    assert (found.scores[row, count:] == -np.inf).all()
    assert said(np.asarray(greedy.ids[row, 0])) == one_by_one(weights, row, limit)
    if size == 1:
      np.testing.assert_array_equal(found.ids[row], greedy.ids[row])
      np.testing.assert_allclose(found.log_probs[row], greedy.log_probs[row], atol=1e-5)


def test_no_row_depends_on_another():
  """A row that finishes early waits for the others, unchanged."""
  search = SEARCH._replace(size=2)
  weights = weights_of(3)
  for kind in ('beam', 'greedy'):
    together = searched(weights, search, kind)
    for row in range(len(LIMITS)):
      limits = np.zeros(3, int)
      limits[row] = LIMITS[row]
      alone = searched(weights, search, kind, limits)
      for a, b in zip(together, alone, strict=True):
        np.testing.assert_array_equal(a[row], b[row])


def test_parameters_may_be_on_several_devices():
  """As in a run that has all cores: XLA's compiler may end the process there."""
  weights = jax.tree.map(jnp.float32, weights_of(0))
  everywhere = NamedSharding(Mesh(jax.devices(), ('device',)), PartitionSpec())
  expected, found = (
    searched(of, SEARCH._replace(size=2)) for of in (weights, jax.device_put(weights, everywhere))
  )
  np.testing.assert_array_equal(found.ids, expected.ids)
  np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-6)


def test_what_is_drawn_ends_at_its_end_and_at_its_limit():
  weights = weights_of(0)
  wanted = jnp.array([[2, END, 3, 3], [3, 3, 3, 3], [2, 2, 2, 2]])
  found = decoding.draw(
    *as_next(weights), jnp.array([4, 3, 0]), 4, SEARCH, lambda _, place: wanted[:, place]
  )
  right = [[2, END, 0, 0, 0], [3, 3, 3, END, 0], [END, 0, 0, 0, 0]]
  np.testing.assert_array_equal(found.ids[:, 0], right)
  for row, ids in enumerate(right):
    tokens = said(np.array(ids))
    log_prob = sum(step_of(weights, row, tokens[:i])[0][one] for i, one in enumerate(tokens))
    np.testing.assert_allclose(found.scores[row, 0], log_prob, rtol=1e-4)


def test_the_likeliest_is_the_first_of_equals_and_nothing_that_is_never_said():
  logits = jnp.array([[0.0, 2, 1, 2], [3, 0, 0, 0], [-jnp.inf] * 4, [0, jnp.nan, 0, 0]])
  choose = functools.partial(decoding.greedy, limits=jnp.full(4, 3), longest=3)
  found = choose(lambda *_: (logits, 0, None), 0, 0, search=Search(0, 3, (0,)))
  np.testing.assert_array_equal(found.ids[:2, 0], [[1, 1, 1, 3]] * 2)
  assert np.isfinite(found.log_probs[:2]).all() and np.isnan(found.log_probs[3]).all()


def test_following_gives_the_probability_and_the_attention_of_each_token():
  weights = weights_of(1)
  ids = jnp.array([[2, 4, 3, END], [3, 3, 2, END], [4, 2, 2, END]])
  log_probs, attention = decoding.follow(*as_next(weights), ids, BEGIN)
  for row, tokens in enumerate(ids.tolist()):
    right = [step_of(weights, row, tokens[:i])[0][token] for i, token in enumerate(tokens)]
    np.testing.assert_allclose(log_probs[row], right, atol=1e-5)
    np.testing.assert_allclose(attention[row], step_of(weights, row, tokens[:-1])[1], atol=1e-5)
  assert decoding.follow(*as_next(weights, attends=False), ids, BEGIN)[1] is None


def test_what_cannot_be_searched_is_told():
  with pytest.raises(ValueError, match='attends to its source'):
    search = SEARCH._replace(coverage=0.1)
    decoding.beam(*as_next(weights_of(0), attends=False), LIMITS, 4, search, THERE)
  for name, value in (('size', 0), ('length', -1.0), ('coverage', math.nan)):
    with pytest.raises(ValueError, match=str(value)):
      decoding.check(SEARCH._replace(**{name: value}))
  broken = weights_of(0) | {'logits': np.full((H, 5), np.nan)}
  for kind in ('beam', 'greedy'):
    assert not np.isfinite(searched(broken, SEARCH._replace(size=2), kind).scores[:2, 0]).any()


def test_batches_give_each_source_its_own_answer():
  draw = np.random.default_rng(0)
  source = np.zeros((40, 21), np.int32)
  for row, length in zip(source, draw.permutation(40) % 21 + 1, strict=True):
    row[:length] = draw.integers(2, 9, length)
  shapes = set()

  def of_batch(batch):
    shapes.add(batch.shape)
    ids = np.concatenate([batch, batch[:, :1]], axis=1)[:, None]
    return decoding.Found(ids, batch.sum(axis=1)[:, None], batch.max(axis=1)[:, None])

  found = decoding.in_batches(of_batch, source, rows=4)
  np.testing.assert_array_equal(found.ids[:, 0, :8], source[:, :8])
  np.testing.assert_array_equal(found.log_probs[:, 0], source.sum(axis=1))
  assert shapes == {(4, 8), (4, 16), (4, 32)}
  assert len(decoding.in_batches(of_batch, source[:0], rows=4).ids) == 0


def test_a_translation_is_bounded_by_its_source_and_that_of_none_is_empty():
  source = np.array([[4, 5, 2], [2, 0, 0], [0, 0, 0]])
  limits, longest = decoding.limits(source)
  assert limits.tolist() == [34, 0, 0] and longest >= 34
