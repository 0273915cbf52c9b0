"""Find a finished training run and load its model, whatever the domain."""

from __future__ import annotations

import importlib
from pathlib import Path
from pickle import UnpicklingError

import lightning
import torch
import yaml
from jsonargparse import ArgumentParser

from sagittal_core.errors import ConfigError, DataError
from sagittal_core.run_folder import RunFolder, folders_named


def find_run(prefix: Path) -> Path:
    """The run folder ``<prefix>-<hash>``, or ``prefix`` itself if it is one.

    Folders of runs that stopped before their first checkpoint do not count.

    Raises:
        ConfigError: none, or several, of which the user has to name one.
    """
    if (prefix / "config.yaml").exists():
        return prefix
    found = folders_named(prefix.parent, prefix.name)
    folders = [
        folder
        for folder in found
        if (folder / "config.yaml").exists() and RunFolder(folder).last.is_file()
    ]
    if len(folders) != 1:
        names = ", ".join(str(p) for p in folders) or "none"
        hint = "name one of them in full" if folders else "train it first"
        raise ConfigError(f"expected one run folder {prefix}-<hash>, found {names}; {hint}")
    if RunFolder(folders[0]).status() != "finished":
        raise ConfigError(f"{folders[0]} is not finished: run its `fit` command again to resume it")
    return folders[0]


def load_model(run: Path, register: str) -> lightning.LightningModule:
    """Instantiate the model of a run folder and load its last checkpoint, in evaluation mode.

    Args:
        run: Folder of a run, as :func:`find_run` returns it.
        register: Module that makes bare class names of the saved config known.

    Raises:
        DataError: the checkpoint is unreadable or belongs to another model.
    """
    importlib.import_module(register)
    config = yaml.safe_load((run / "config.yaml").read_text())
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(lightning.LightningModule, "model")
    parsed = parser.parse_object({"model": config["model"]})
    model: lightning.LightningModule = parser.instantiate_classes(parsed).model
    checkpoint = run / "checkpoints" / "last.ckpt"
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
        model.load_state_dict(state)
    except (OSError, RuntimeError, KeyError, EOFError, UnpicklingError) as error:
        raise DataError(
            checkpoint, key="state_dict", expected="weights of this run's model", found=str(error)
        ) from error
    return model.eval()
