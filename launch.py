"""Trains recurrent networks: `python launch.py --help` says how. The code is rnnlab/launch.py."""

from rnnlab import launch

if __name__ == '__main__':
  launch.run()
