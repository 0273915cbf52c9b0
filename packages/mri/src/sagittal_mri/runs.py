"""Find a finished training run and load its model."""

from __future__ import annotations

from pathlib import Path

import lightning

from sagittal_core.runs import find_run
from sagittal_core.runs import load_model as load_registered

__all__ = ["find_run", "load_model"]


def load_model(run: Path) -> lightning.LightningModule:
    """The model of a run folder of this package, see :func:`sagittal_core.runs.load_model`."""
    return load_registered(run, "sagittal_mri.registry")
