"""Cardiovascular risk: published equations, baselines and an evaluation of predicted risks."""

__version__ = "0.1.0"
