"""The linear recurrent unit: complex states that rotate and decay, without gates."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnnlab.cells import base

TINY = 1e-6  # keeps a drawn number away from 0, as its logarithm is taken


class LRUCarry(NamedTuple):
  """The real and imaginary parts of the state s, `[B, H]` each, or of its factor a, `[H]` each."""

  real: Any
  imag: Any


def times(a: LRUCarry, s: LRUCarry) -> LRUCarry:
  """The product of complex numbers."""
  return LRUCarry(a.real * s.real - a.imag * s.imag, a.real * s.imag + a.imag * s.real)


@base.factory
def lru(
  hidden_size: int, *, r_min: float = 0.0, r_max: float = 1.0, max_phase: float = 2 * math.pi
) -> base.Cell:
  """The linear recurrent unit (LRU: Orvieto et al. 2023, section 3 and appendix A).

      a = exp(-exp(nu) + i exp(theta))
      s_t = a * s_{t-1} + exp(gamma) * (B x_t)         complex, H numbers
      y_t = real(C s_t) + W x_t

  |a| starts uniform over the ring from r_min to r_max, its phase uniform up to max_phase, and
  exp(gamma) is sqrt(1 - |a|^2). The layer is linear in x, so something nonlinear must come between
  layers.
  B is `w_x`, its real and imaginary parts; C is `w_real` and `w_imag`; W is `w_y`. The carry is
  `LRUCarry`. Raises ValueError for a hidden_size below 1, or unless 0 <= r_min < r_max <= 1 and
  max_phase > 0.
  """
  base.check_size(hidden_size)
  if not 0 <= r_min < r_max <= 1:
    raise ValueError(f'lru needs 0 <= r_min < r_max <= 1, not r_min={r_min} and r_max={r_max}')
  if not max_phase > 0:
    raise ValueError(f'lru needs max_phase > 0, not {max_phase}')

  def init(key, input_size):
    k_r, k_p, k_x, k_real, k_imag, k_y = jax.random.split(key, 6)
    size = hidden_size
    u = jax.random.uniform(k_r, (size,), minval=TINY, maxval=1 - TINY)
    squared = u * (r_max**2 - r_min**2) + r_min**2
    phase = max_phase * jax.random.uniform(k_p, (size,), minval=TINY)
    return {
      'nu': jnp.log(-0.5 * jnp.log(squared)),
      'theta': jnp.log(phase),
      'gamma': 0.5 * jnp.log1p(-squared),
      'w_x': jax.random.normal(k_x, (input_size, 2 * size)) / math.sqrt(2 * input_size),
      'w_real': jax.random.normal(k_real, (size, size)) / math.sqrt(size),
      'w_imag': jax.random.normal(k_imag, (size, size)) / math.sqrt(size),
      'w_y': jax.random.normal(k_y, (input_size, size)) / math.sqrt(input_size),
    }

  def initial_carry(batch_shape, dtype=jnp.float32):
    zeros = jnp.zeros((*batch_shape, hidden_size), dtype)
    return LRUCarry(zeros, zeros)

  def coefficients(params, x, dot):
    size, phase = jnp.exp(-jnp.exp(params['nu'])), jnp.exp(params['theta'])
    of_x = [jnp.exp(params['gamma']) * part for part in base.gates(dot(params['w_x'], x), 2)]
    return LRUCarry(size * jnp.cos(phase), size * jnp.sin(phase)), LRUCarry(*of_x)

  def output(params, s, x, dot):
    of_s = dot(params['w_real'], s.real) - dot(params['w_imag'], s.imag)
    return of_s + dot(params['w_y'], x)

  recurrence = base.Linear(coefficients, output, times, one=LRUCarry(1.0, 0.0))
  return base.Cell(init, initial_carry, recurrence.step, parallel=recurrence)
