"""The kernels of a CPU: `call` runs them from JAX."""
