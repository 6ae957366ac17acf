"""Configs of runs: `rnnlab.configs.default('classification')` is what to begin one with."""

from rnnlab.runs.configs import check, default

__all__ = ['check', 'default']
