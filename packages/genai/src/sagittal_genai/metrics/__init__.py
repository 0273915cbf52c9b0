"""Metrics of sparse autoencoders: plain functions and counters."""
