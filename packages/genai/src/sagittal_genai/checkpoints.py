"""Autoencoders as files: written to safetensors and JSON, read back, and read from other projects.

A folder of ours holds::

    autoencoder.json         class, sizes, activation and its settings
    autoencoder.safetensors  the state of the module; W_d is left out where it is W_e
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from sagittal_core.errors import DataError
from sagittal_core.run_folder import write_atomically
from sagittal_genai import foreign
from sagittal_genai.nn.activations import BatchTopK, FixedThreshold, JumpReLU, TopK
from sagittal_genai.nn.sae import SparseAutoencoder
from sagittal_genai.nn.sail_compat import ReleasedThreshold, SAILCompat

DESCRIPTION, WEIGHTS = "autoencoder.json", "autoencoder.safetensors"
VERSION = 1
# Settings of an activation that its state does not hold.
_SETTINGS: dict[str, tuple[str, ...]] = {
    "TopK": ("k",),
    "BatchTopK": ("k", "decay"),
    "JumpReLU": ("k", "coefficient", "bandwidth"),
    "FixedThreshold": (),
    "ReleasedThreshold": ("k_values",),
}
_UNDERSTOOD = (
    f"a folder with {DESCRIPTION} (ours), with cfg.json and sae_weights.safetensors (SAELens) or"
    " sae.safetensors (sparsify), or with hparams.yaml (SAIL), or a .ckpt file of SAIL"
)


def is_checkpoint(path: Path) -> bool:
    """Whether :func:`load_checkpoint` knows the format of this file or folder."""
    return _reader(path) is not None


def load_checkpoint(path: Path) -> SparseAutoencoder:
    """An autoencoder of ours or of another project, in evaluation mode, float32.

    Args:
        path: A file or folder in one of the formats; none of them is unpickled.

    Raises:
        DataError: The format is unknown, damaged, or has an option that is not understood.
    """
    read = _reader(path)
    if read is None:
        found = "no such file" if not path.exists() else "another file or folder"
        raise DataError(path, key="format", expected=_UNDERSTOOD, found=found)
    return read(path).eval()


def _reader(path: Path) -> Any:
    if path.suffix == ".safetensors":
        path = path.parent
    if path.suffix == ".ckpt" or (path / "hparams.yaml").is_file():
        return foreign.read_sail
    if (path / DESCRIPTION).is_file():
        return read_autoencoder
    if (path / "cfg.json").is_file():
        if (path / "sae_weights.safetensors").is_file():
            return foreign.read_saelens
        if (path / "sae.safetensors").is_file():
            return foreign.read_sparsify
    return None


def save_autoencoder(network: SparseAutoencoder, folder: Path) -> None:
    """Write ``network`` to ``folder``; weights first, so that a folder with JSON is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    tied = network.W_d is network.W_e
    state = {name: value.detach().contiguous() for name, value in network.state_dict().items()}
    if tied:
        del state["W_d"]
    save_file(state, folder / WEIGHTS)
    name = type(network.activation).__name__
    description = {
        "version": VERSION,
        "class": type(network).__name__,
        "input_dim": network.W_d.shape[1],
        "n_features": network.W_d.shape[0],
        "prefixes": network.prefixes,
        "prefix_k": _prefix_k(network),
        "tied": tied,
        "activation": {"class": name}
        | {key: getattr(network.activation, key) for key in _SETTINGS[name]},
    }
    write_atomically(folder / DESCRIPTION, json.dumps(description, indent=1))


def _prefix_k(network: SparseAutoencoder) -> list[int] | None:
    if not network.smaller:
        return None
    return [int(one.k) for one in [*network.smaller, network.activation]]


def read_autoencoder(path: Path) -> SparseAutoencoder:
    """Read what :func:`save_autoencoder` wrote.

    Raises:
        DataError: The files are damaged or do not belong together.
    """
    folder = path.parent if path.suffix == ".safetensors" else path
    file = folder / DESCRIPTION
    described = foreign.read_json(file)
    if described.get("version") != VERSION:
        found = str(described.get("version"))
        raise DataError(file, key="version", expected=str(VERSION), found=found)
    try:
        network = _build(described)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            file,
            key="class, sizes, activation",
            expected="those of an autoencoder",
            found=f"{type(error).__name__}: {error}",
        ) from None
    state = foreign.read_tensors(folder / WEIGHTS)
    if network.W_d is network.W_e and "W_e" in state:
        state["W_d"] = state["W_e"]
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise DataError(
            folder / WEIGHTS, key="tensors", expected=f"those of {DESCRIPTION}", found=str(error)
        ) from None
    return network


def _build(described: dict[str, Any]) -> SparseAutoencoder:
    settings = dict(described["activation"])
    name, features = settings.pop("class"), int(described["n_features"])
    if sorted(settings) != sorted(_SETTINGS[name]):
        raise ValueError(f"{name} has the settings {_SETTINGS[name]}, not {tuple(settings)}")
    common = {key: described[key] for key in ("input_dim", "prefixes", "tied")}
    if described["class"] == "SAILCompat":
        return SAILCompat(**common, k_values=settings["k_values"])
    if described["class"] != "SparseAutoencoder":
        raise ValueError(f"no class {described['class']}")
    sized: dict[str, type] = {"JumpReLU": JumpReLU, "FixedThreshold": FixedThreshold}
    activation: nn.Module
    if name in sized:
        activation = sized[name](features, **settings)
    else:
        activation = {"TopK": TopK, "BatchTopK": BatchTopK}[name](**settings)
    return SparseAutoencoder(
        n_features=features, activation=activation, prefix_k=described["prefix_k"], **common
    )


def save_saelens(network: SparseAutoencoder, folder: Path) -> None:
    """Write the inference form that sae-lens loads; units and a soft threshold are folded in.

    ``W_enc = s W_e^T``, ``W_dec = W_d / s``, ``b_dec = b_d / s`` for the scale s of our units. A
    BatchTopK becomes a JumpReLU, as sae-lens itself saves it. Prefixes are left out.
    """
    scale, activation = float(network.scale), network.activation
    b_enc = network.b_e.detach()
    config: dict[str, Any] = {
        "d_in": network.W_d.shape[1],
        "d_sae": network.W_d.shape[0],
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.0.0"},  # of the layout
    }
    state: dict[str, Tensor] = {}
    if isinstance(activation, TopK):
        config |= {"architecture": "topk", "k": activation.k, "rescale_acts_by_decoder_norm": False}
    elif isinstance(activation, ReleasedThreshold):
        config["architecture"] = "standard"
        b_enc = b_enc - activation.threshold
    else:
        config["architecture"] = "jumprelu"
        theta = (
            activation.log_threshold.detach().exp()
            if isinstance(activation, JumpReLU)
            else activation.threshold
        )
        assert isinstance(theta, Tensor)
        state["threshold"] = theta.expand(len(b_enc)).clone()
    state |= {
        "W_enc": (scale * network.W_e.detach()).T.contiguous(),
        "W_dec": network.W_d.detach() / scale,
        "b_enc": b_enc.contiguous(),
        "b_dec": network.b_d.detach() / scale,
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.float() for name, value in state.items()}, folder / foreign.SAELENS)
    write_atomically(folder / "cfg.json", json.dumps(config, indent=1))
