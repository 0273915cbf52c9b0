"""Slices through an encoder into an embedding store: which rows, which shards, which ranks."""
