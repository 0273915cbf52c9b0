"""Trained autoencoders by path."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sagittal_core.errors import ConfigError, DataError
from sagittal_core.run_folder import RunFolder
from sagittal_core.runs import find_run, load_model
from sagittal_genai.checkpoints import is_checkpoint, load_checkpoint
from sagittal_genai.nn.sae import SparseAutoencoder
from sagittal_genai.sail import SAIL


def load_autoencoder(path: str | Path) -> SparseAutoencoder:
    """The autoencoder of a finished ``fit`` or of a checkpoint, in evaluation mode.

    Args:
        path: A run folder, or its path without the ``-<hash>`` at the end; or a file or folder that
            :func:`~sagittal_genai.checkpoints.load_checkpoint` reads.

    Raises:
        ConfigError: There is no such run, several, or it is not finished.
        DataError: The run trained something else, or a checkpoint is damaged or not understood.
    """
    if is_checkpoint(Path(path)):
        return load_checkpoint(Path(path))
    run = find_run(Path(path))
    if RunFolder(run).status() != "finished":
        raise ConfigError(f"{run} is not finished: run its `fit` command again to resume it")
    model = load_model(run, "sagittal_genai.registry")
    if not isinstance(model, SAIL):
        raise DataError(
            run / "config.yaml", key="model", expected="SAIL", found=type(model).__name__
        )
    return model.network.eval()


def autoencoder_hash(network: SparseAutoencoder) -> str:
    """SHA-256 of what decides a code: weights, thresholds, kind of activation and its settings."""
    activation = network.activation
    settings = {
        name: value
        for name, value in sorted(vars(activation).items())
        if isinstance(value, (int, float)) and name != "training"
    }
    digest = hashlib.sha256(f"{type(activation).__name__} {settings}".encode())
    for name, tensor in sorted(network.state_dict().items()):
        if name != "idle":  # counts of training
            value = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.numpy().tobytes())
    return digest.hexdigest()
