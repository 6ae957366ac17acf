"""Set before any test imports them: Keras computes with JAX, and JAX on the CPU."""

import os

os.environ['KERAS_BACKEND'] = 'jax'
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
