"""A sweep as done without rnnlab: a loop over seeds and cells, with a Keras model for each.

    KERAS_BACKEND=jax python -m experiments.benchmarks.peers.loop JSON

JSON has `config` (one of experiments/imdb.py as nested JSON), `seeds` (how many) and `examples`,
how many of each split to take. The arrays are those that rnnlab trains on, the model and Adam are
the config's, and after each epoch the validation split is evaluated. It prints a line of JSON with
each run's metrics.
"""

import json
import sys

import keras
from ml_collections import ConfigDict

from experiments.benchmarks.peers.keras import LAYERS
from rnnlab.data import imdb
from rnnlab.machine import devices


def main(config, seeds, examples):
  devices.keep_programs()
  data = imdb.load(ConfigDict(config['data']))
  train, validation = ((s.ids[:examples], s.labels[:examples]) for s in (data.train, data.test))
  for seed in range(seeds):
    for cell in LAYERS:
      keras.backend.clear_session()
      keras.utils.set_random_seed(seed)
      history = build(cell, config).fit(
        *train,
        batch_size=config['train']['batch_size'],
        epochs=config['train']['epochs'],
        validation_data=validation,
        verbose=0,
      )
      last = {name: values[-1] for name, values in history.history.items()}
      print(json.dumps({'cell': cell, 'seed': seed, **last}), flush=True)


def build(cell: str, config: dict):
  """The tutorial's classifier, compiled."""
  model, optim = config['model'], config['optim']
  made = keras.Sequential(
    [
      keras.Input((config['data']['max_len'],), dtype='int32'),
      keras.layers.Embedding(config['data']['vocab_size'], model['embed_size']),
      LAYERS[cell](
        model['hidden_size'], dropout=model['dropout'], recurrent_dropout=model['recurrent_dropout']
      ),
      keras.layers.Dense(1, activation='sigmoid'),
    ]
  )
  adam = keras.optimizers.Adam(optim['learning_rate'], epsilon=optim['epsilon'])
  made.compile(optimizer=adam, loss='binary_crossentropy', metrics=['accuracy'])
  return made


if __name__ == '__main__':
  main(**json.loads(sys.argv[1]))
