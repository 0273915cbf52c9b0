"""Cardiovascular risk: published equations, baselines, a language model, and their evaluation."""

__version__ = "0.1.0"
