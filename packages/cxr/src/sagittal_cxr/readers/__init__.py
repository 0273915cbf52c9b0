"""Readers of public chest X-ray data sets: files as published to records."""
