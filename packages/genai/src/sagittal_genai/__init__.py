"""Sparse autoencoders that make the features of a medical foundation model readable (SAIL)."""

__version__ = "0.1.0"
