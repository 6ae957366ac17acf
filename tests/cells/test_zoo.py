"""Every further cell against its equations in NumPy, and what each of them starts from."""

import equations
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose

from rnnlab import cells
from rnnlab.recurrence import unroll

BATCH, STEPS, INPUTS, HIDDEN = 2, 5, 2, 4

CASES = {
  name: (name, {}, INPUTS) for name in cells.names() if name not in ('elman', 'gru', 'lstm')
} | {
  'mlstm-heads': ('mlstm', {'heads': 2}, INPUTS),
  'sru-square': ('sru', {}, HIDDEN),
  'rglru-square': ('rglru', {}, HIDDEN),
}


def drawn(cell, inputs, seed=0):
  """params, the states, xs, and what to multiply states and ys with; float64."""
  rng = np.random.default_rng(seed)
  params = jax.eval_shape(lambda key: cell.init(key, inputs), jax.random.key(0))
  params = {name: 0.8 * rng.normal(size=w.shape) for name, w in params.items()}
  states = [rng.normal(size=a.shape) for a in jax.tree.leaves(cell.initial_carry((BATCH,)))]
  weights = [rng.normal(size=a.shape) for a in states]
  xs = rng.normal(size=(BATCH, STEPS, inputs))
  return params, states, xs, weights, rng.normal(size=(BATCH, STEPS, HIDDEN))


def of_numpy(name, params, states, xs, d_states, d_ys):
  """The sum of the results times their weights, and its gradients, from the NumPy loop."""
  arrays = params | {f'state {k}': a for k, a in enumerate(states)} | {'xs': xs}

  def loss(arrays):
    p = {k: arrays[k][..., None, :] if v.ndim == 1 else arrays[k] for k, v in params.items()}
    start = tuple(arrays[f'state {k}'] for k in range(len(states)))
    end, ys = equations.unroll(name, p, start, arrays['xs'])

    def total(a, d):
      return (a * d).sum(tuple(range(-d.ndim, 0)))

    return total(ys, d_ys) + sum(total(a, d) for a, d in zip(end, d_states, strict=True))

  return loss(arrays), reference.gradients(loss, arrays)


@pytest.mark.parametrize('case', CASES)
def test_values_and_gradients_are_those_of_the_paper_s_equations(case):
  name, options, inputs = CASES[case]
  cell = cells.get(name, hidden_size=HIDDEN, **options)
  params, states, xs, d_states, d_ys = drawn(cell, inputs)
  value, gradients = of_numpy(name, params, states, xs, d_states, d_ys)
  tree = jax.tree.structure(cell.initial_carry((BATCH,)))

  def loss(params, states, xs):
    carry = jax.tree.unflatten(tree, states)
    end, ys = unroll(cell, params, xs, initial_carry=carry)
    ends = zip(jax.tree.leaves(end), d_states, strict=True)
    return (ys * d_ys).sum() + sum((a * d).sum() for a, d in ends)

  with jax.enable_x64():
    found, (of_params, of_states, of_xs) = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(
      params, list(map(jnp.asarray, states)), xs
    )
  assert_allclose(found, value, 1e-10)
  of_states = {f'state {k}': a for k, a in enumerate(of_states)}
  for key, gradient in (of_params | of_states | {'xs': of_xs}).items():
    assert_allclose(gradient, gradients[key], 1e-8, 1e-10, err_msg=key)
