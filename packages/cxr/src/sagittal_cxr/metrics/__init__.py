"""Measures, each with its interval over patients."""
