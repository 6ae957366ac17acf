"""The ceiling: one large matrix product in JAX."""

import jax
import jax.numpy as jnp

SIZE = 2048
FLOPS = 2 * SIZE**3


def build(case):
  """`[2048, 2048] @ [2048, 2048]` in float32, whatever the case."""
  a = jnp.ones((SIZE, SIZE))
  product = jax.jit(jnp.matmul)
  return lambda: product(a, a).block_until_ready(), 1
