"""Times the GPU kernels of LSTM and GRU beside a plain scan and cuDNN.

    python -m experiments.benchmarks.gpu

One layer of the tutorial's shape (32 rows, 200 steps, 128 inputs, 64 units) is timed forward, and
forward with the gradients for parameters and inputs; 32 such layers are timed as one population.
cuDNN is called through `jax.experimental.rnn` (LSTM only), and through PyTorch if that is installed
with CUDA. If JAX finds no GPU, the program says so and ends with status 2.
"""

import statistics
import sys
import time

import jax
import jax.numpy as jnp

from rnnlab import cells
from rnnlab.recurrence.kernels import gpu

BATCH, STEPS, INPUTS, HIDDEN, RUNS = 32, 200, 128, 64, 32
CALLS, REPEATS = 20, 7
CELLS = {
  'LSTM': ('lstm', {}),
  'GRU': ('gru', {'reset': 'after'}),
  'GRU, reset before': ('gru', {'reset': 'before'}),
}


def main():
  if jax.default_backend() != 'gpu':
    sys.stderr.write('JAX finds no GPU, and the fused kernels are only measured on one.\n')
    return 2
  device = jax.devices()[0]
  print(f'{device.device_kind}; jax {jax.__version__}; {BATCH} rows, {STEPS} steps,')
  print(f'{INPUTS} inputs, {HIDDEN} units; ms per call, median of {REPEATS} times {CALLS} calls\n')
  print(f'{"":34}{"forward":>10}{"and back":>10}')
  for title, (name, options) in CELLS.items():
    cell = cells.get(name, hidden_size=HIDDEN, **options)
    row(f'{title}, scan', *jax_functions(scan, cell))
    row(f'{title}, fused', *jax_functions(gpu.unroll, cell))
    row(f'{title}, fused, {RUNS} runs', *jax_functions(gpu.unroll, cell, RUNS))
  row('LSTM, cuDNN by JAX', *cudnn_functions())
  try:
    import torch
  except ImportError:
    torch = None
  if torch is None or not torch.cuda.is_available():
    print('PyTorch with CUDA is not installed: its cuDNN is left out.')
    return 0
  row('LSTM, cuDNN by PyTorch', *torch_functions(torch, torch.nn.LSTM))
  row('GRU, cuDNN by PyTorch', *torch_functions(torch, torch.nn.GRU))
  return 0


def row(title, *functions):
  """A row of the table, with each of `functions` measured."""
  try:
    figures = [f'{measure(f):10.3f}' for f in functions]
  except Exception as error:  # so that one failure does not lose the other figures
    figures = [f'  {type(error).__name__}: {str(error).splitlines()[0][:60]}']
  print(f'{title:34}{"".join(figures)}', flush=True)


def measure(call):
  """Milliseconds of `call()`, which queues work and returns a function that waits for it."""
  for _ in range(3):
    call()()
  times = []
  for _ in range(REPEATS):
    start = time.perf_counter()
    for _ in range(CALLS):
      wait = call()
    wait()
    times.append((time.perf_counter() - start) / CALLS)
  return 1000 * statistics.median(times)


def scan(cell, params, xs):
  """A plain scan of the cell's step, with the product of the input inside the loop."""

  def step(carry, x_t):
    return cell.step(params, carry, x_t, lambda w, v: v @ w)

  carry = cell.initial_carry(xs.shape[:1], xs.dtype)
  carry, ys = jax.lax.scan(step, carry, jnp.swapaxes(xs, 0, 1))
  return carry, jnp.swapaxes(ys, 0, 1)


def jax_functions(unroll, cell, runs=None):
  """Calls of the forward pass, and of forward and backward, for one run or a population."""

  def forward(params, xs):
    return unroll(cell, params, xs)[1]

  shape = () if runs is None else (runs,)
  keys = jax.random.split(jax.random.key(0), shape)
  xs = jax.random.normal(jax.random.key(1), (*shape, BATCH, STEPS, INPUTS))
  init = cell.init if runs is None else jax.vmap(cell.init, (0, None))
  return compiled(forward, runs, init(keys, INPUTS), xs)


def compiled(forward, runs, params, xs):
  weights = jax.random.normal(jax.random.key(2), (BATCH, STEPS, HIDDEN))

  def both(params, xs):
    return jax.value_and_grad(lambda *a: (forward(*a) * weights).sum(), (0, 1))(params, xs)

  def queue(f):
    f = jax.jit(f if runs is None else jax.vmap(f))

    def call():
      out = f(params, xs)
      return lambda: jax.block_until_ready(out)

    return call

  return queue(forward), queue(both)


def cudnn_functions():
  from jax.experimental import rnn

  lengths = jnp.full(BATCH, STEPS, jnp.int32)
  zeros = jnp.zeros((1, BATCH, HIDDEN))

  def forward(weights, xs):
    return rnn.lstm(xs, zeros, zeros, weights, lengths, INPUTS, HIDDEN, 1, 0.0, False)[0]

  weights = rnn.init_lstm_weight(jax.random.key(0), INPUTS, HIDDEN, 1, False)
  xs = jax.random.normal(jax.random.key(1), (BATCH, STEPS, INPUTS))
  return compiled(forward, None, weights, xs)


def torch_functions(torch, layer):
  torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True  # as JAX does
  layer = layer(INPUTS, HIDDEN, batch_first=True).cuda()
  xs = torch.randn(BATCH, STEPS, INPUTS, device='cuda', requires_grad=True)
  weights = torch.randn(BATCH, STEPS, HIDDEN, device='cuda')

  def forward():
    with torch.no_grad():
      layer(xs)
    return torch.cuda.synchronize

  def both():
    (layer(xs)[0] * weights).sum().backward()
    return torch.cuda.synchronize

  return forward, both


if __name__ == '__main__':
  sys.exit(main())
