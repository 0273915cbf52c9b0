"""Trained image-text models by path, and as files that stand alone.

An exported folder holds::

    image_text.json           classes, sizes and settings
    image_text.safetensors    the state of the model
    vision/, text/            architecture of the encoders, preprocessing and tokenizer
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sagittal_core.encoders.preprocessing import Preprocessing
from sagittal_core.encoders.vision import VisionSpec
from sagittal_core.encoders.weights import load_strictly, read_state
from sagittal_core.errors import ConfigError, DataError
from sagittal_core.run_folder import RunFolder, write_atomically
from sagittal_core.runs import find_run, load_model
from sagittal_cxr import lineage, released
from sagittal_cxr.nn.image_text import ImageTextModel
from sagittal_cxr.nn.text import TextEncoder
from sagittal_cxr.nn.vision import ImageEncoder, preprocessor_config

DESCRIPTION, WEIGHTS = "image_text.json", "image_text.safetensors"
VERSION = 1


def load_image_text(path: str | Path) -> ImageTextModel:
    """The model of a finished ``fit`` or of an exported folder, in evaluation mode.

    Args:
        path: A run folder, or its path without the ``-<hash>`` at the end; what
            ``sagittal-cxr export`` wrote; or a folder with CheXficient's released
            ``pytorch_model.pth`` and ``text/`` (see :mod:`.released`). A run still needs the
            checkpoints that its configuration names, an exported folder nothing.

    Raises:
        ConfigError: There is no such run, several, or it is not finished.
        DataError: The run trained something else, or files are damaged.
    """
    if (Path(path) / DESCRIPTION).is_file():
        return read_exported(Path(path))
    if (Path(path) / released.WEIGHTS).is_file():
        return released.read_released(Path(path))
    run = find_run(Path(path))
    if RunFolder(run).status() != "finished":
        raise ConfigError(f"{run} is not finished: run its `fit` command again to resume it")
    model: Any = load_model(run, "sagittal_cxr.registry")
    network = getattr(model, "network", None)
    if not isinstance(network, ImageTextModel):
        found = type(model).__name__
        raise DataError(run / "config.yaml", key="model", expected="CheXficient", found=found)
    network.trained_on = lineage.recorded(run)
    return network.eval()


def save_image_text(network: ImageTextModel, folder: Path) -> None:
    """Write ``network`` to a folder; the JSON last, so that a folder with it is complete."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    network.text.save_architecture(folder / "text")
    spec = asdict(network.vision.spec)
    if spec["name"] == "transformers":
        config: Any = network.vision.network.config
        config.save_pretrained(folder / "vision")
        processor = json.dumps(preprocessor_config(network.preprocessing), indent=1)
        (folder / "vision" / "preprocessor_config.json").write_text(processor, encoding="utf-8")
        spec["image_size"] = None
    spec["weights"] = None
    state = {name: value.detach().contiguous() for name, value in network.state_dict().items()}
    save_file(state, folder / WEIGHTS)
    description = {
        "version": VERSION,
        "dim": network.dim,
        "bias": network.logit_bias is not None,
        "projection_bias": network.image_projection.bias is not None,
        "trained_on": network.trained_on,
        "preprocessing": network.preprocessing.described(),
        "vision": {"encoder": spec, "batch_norm": network.vision.batch_norm},
        "text": {"pooling": network.text.pooling, "max_length": network.text.max_length},
    }
    write_atomically(folder / DESCRIPTION, json.dumps(description, indent=1))


def read_exported(folder: Path) -> ImageTextModel:
    """Read what :func:`save_image_text` wrote.

    Raises:
        DataError: The files are damaged or do not belong together.
    """
    file = folder / DESCRIPTION
    try:
        described = json.loads(file.read_text(encoding="utf-8"))
        if described["version"] != VERSION:
            raise ValueError(f"version {described['version']}, not {VERSION}")
        spec = VisionSpec(**described["vision"]["encoder"])
        if spec.name == "transformers":
            spec.weights = str(folder / "vision")
        # The twin is the architecture with any weights; its own follow.
        norm = described["vision"]["batch_norm"]
        vision = ImageEncoder(spec, batch_norm=norm, twin_seed=0)
        given = described["preprocessing"].items()
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given}
        vision.preprocessing = Preprocessing(**values)
        text = TextEncoder(str(folder / "text"), **described["text"], twin_seed=0)
        bias = 0.0 if described["bias"] else None
        network = ImageTextModel(vision, text, described["dim"], logit_bias=bias)
        if described.get("projection_bias", False):  # older folders do not say
            network.add_projection_biases()
        network.trained_on = described.get("trained_on")
    except (OSError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, (ConfigError, DataError)):
            raise
        raise DataError(
            file,
            key="version, classes and settings",
            expected="what `sagittal-cxr export` writes",
            found=f"{type(error).__name__}: {error}",
        ) from None
    load_strictly(network, read_state(folder / WEIGHTS), folder / WEIGHTS)
    return network.eval()
