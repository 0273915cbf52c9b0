"""Readers: a table of patients by a schema."""
