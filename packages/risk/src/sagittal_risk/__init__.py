"""Cardiovascular risk from whatever is known about a patient."""

__version__ = "0.1.0"
