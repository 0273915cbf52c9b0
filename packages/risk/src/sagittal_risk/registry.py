"""Importing this module makes the package's classes known by bare name in YAML."""

__all__: list[str] = []
