"""Shared core of Sagittal: operators, command line, resumable runs, statistics and reports.

Importing this package is cheap and touches no network: nothing but the version is loaded. Import
the submodule you need, for example ``from sagittal_core import stats``.
"""

from __future__ import annotations

from importlib import metadata

__all__ = ["__version__"]


def _version() -> str:
    """Return the installed version, or ``0+unknown`` when run from a bare source tree."""
    try:
        return metadata.version("sagittal-core")
    except metadata.PackageNotFoundError:
        return "0+unknown"


__version__ = _version()
