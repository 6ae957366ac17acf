"""How far gradients reach in the course of a run, measured at the end of each epoch."""

import numpy as np

from rnnlab.machine import hosts
from rnnlab.runs import configs
from rnnlab.runs.configs import RunSpec
from rnnlab.runs.program import Shared, begin
from rnnlab.training import flow, train


def rows(spec: RunSpec, shared: Shared, state: train.TrainState, epoch: int) -> list[dict]:
  """The rows to add to gradient_flow.jsonl at an epoch's end, as in `Result`.

  At the end of the first epoch, those of the initial parameters, as epoch 0, come first. The batch
  has the dataset's targets, without the run's own arrays.
  """
  values = configs.split(spec.config)[1]
  task, dataset = shared.task, shared.dataset
  steps = task.outputs is not None and task.outputs(dataset.encoding).steps
  # Drawn batches are drawn within the program, as in training, by all hosts together.
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
