"""How far gradients reach over a run's training, looked at where each epoch ends."""

import numpy as np

from rnnlab.machine import hosts
from rnnlab.runs import configs
from rnnlab.runs.configs import RunSpec
from rnnlab.runs.program import Shared, begin
from rnnlab.training import flow, train


def rows(spec: RunSpec, shared: Shared, state: train.TrainState, epoch: int) -> list[dict]:
  """The rows of gradient_flow.jsonl that are to come at an epoch's end, as `Result` has them.

  At the end of the first epoch those of the initial parameters, of epoch 0, come before. The batch
  has its targets as the dataset has them, without what is the run's own.
  """
  values = configs.split(spec.config)[1]
  task, dataset = shared.task, shared.dataset
  steps = task.outputs is not None and task.outputs(dataset.encoding).steps
  # What is drawn is so within the program, as in training: so several hosts do it together.
  drawn = shared.program.draw is not None
  batch = None if drawn else flow.batch_of(shared.program, dataset.splits['train'])
  states = {epoch: state}
  if epoch == 1:
    states = {0: begin(shared, spec.config).state} | states
  found = []
  for epoch, at in states.items():
    layers = flow.norms(shared.program, steps, at.params, at.opt_state, values, batch)
    for layer, (lags, norms) in enumerate(hosts.fetch(layers), 1):
      found += [
        {'epoch': epoch, 'layer': layer, 'lag': int(lag), 'norm': float(norm)}
        for lag, norm in zip(lags, norms, strict=True)
        if not np.isnan(norm)
      ]
  return found
