"""Network weights: read from files without running code, hashed, or drawn anew by a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sagittal_core.errors import DataError
from sagittal_core.seeds import counter_seed

Network = TypeVar("Network", bound=nn.Module)


def weights_sha256(network: nn.Module) -> str:
    """Hash of names, types, shapes and values of all parameters and buffers.

    It does not depend on the file they came from, so it names random networks too.
    """
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return digest.hexdigest()


def drawn(build: Callable[[], Network], seed: int) -> Network:
    """Build a network under a seed of its own; the global generator is left as it was.

    Args:
        build: Makes the network, whose own initialisation draws from torch's CPU generator.
        seed: Of the draw.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(counter_seed(seed, "encoder weights"))
        return build()


def read_state(file: str | Path, prefix: str = "") -> dict[str, Tensor]:
    """Tensors by name from a safetensors file or from one that torch saved.

    Args:
        file: ``.safetensors``, or a torch file, read with ``weights_only``; there the tensors may
            lie under "state_dict" or "model".
        prefix: Only names that begin with this are kept, without it.

    Raises:
        DataError: If the file is not readable so, or holds no such tensor.
    """
    state: Any
    try:
        if Path(file).suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DataError(
            file,
            key="weights",
            expected="safetensors, or tensors saved by torch and readable with weights_only",
            found=repr(error)[:300],
        ) from None
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    tensors = state.items() if isinstance(state, dict) else ()
    found = {
        name[len(prefix) :]: value
        for name, value in tensors
        if isinstance(value, Tensor) and name.startswith(prefix)
    }
    if not found:
        raise DataError(
            file,
            key="weights",
            expected=f"tensors whose names begin with {prefix!r}" if prefix else "tensors by name",
            found=", ".join(list(map(str, state))[:5]) if isinstance(state, dict) else "none",
        )
    return found


def load_strictly(network: nn.Module, state: dict[str, Tensor], file: str | Path) -> None:
    """Copy tensors into a network; every one must be there and fit.

    Raises:
        DataError: If a tensor is missing, unknown or misshapen.
    """
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise DataError(
            file,
            key="weights",
            expected=f"all tensors of {type(network).__name__} and no others",
            found=str(error)[:600],
        ) from None
