"""Finds the compiled kernels, once, and says which ones run."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch.torch_version import TorchVersion

_MODES = ("auto", "aot", "jit", "reference")


@dataclass(frozen=True)
class BackendInfo:
    """What runs behind :mod:`sagittal_core.ops`.

    Attributes:
        mode: ``"aot"``, ``"jit"`` or ``"reference"``.
        reason: Why this one.
        path: The loaded library, None for the reference.
        isa: Instruction set in use: ``"portable"``, ``"avx2"`` or ``"avx512"``; None for the
            reference.
        compiler: First line of the compiler's version, None if there is none.
        cuda: Whether CUDA kernels are loaded.
        cuda_reason: Why, or why not.
    """

    mode: str
    reason: str
    path: str | None
    isa: str | None
    compiler: str | None
    cuda: bool
    cuda_reason: str


class NativeUnavailableError(RuntimeError):
    """Compiled kernels were required and there are none."""


_info: BackendInfo | None = None
_warned: set[str] = set()


def backend_info() -> BackendInfo:
    """Say which kernels run and why, loading (and compiling) them if that has not happened yet."""
    return load()


def load() -> BackendInfo:
    """Find the compiled kernels: installed ``sagittal_kernels``, else a build from the checkout.

    Environment: ``SAGITTAL_OPS`` = auto (default), aot, jit or reference; with
    ``SAGITTAL_REQUIRE_NATIVE=1`` the reference is an error. ``SAGITTAL_CUDA`` = auto (default):
    CUDA kernels are loaded where they are installed and compiled where there is a GPU; 1: an error
    when there are none; 0: none are loaded.

    Returns:
        What was found; later calls return the same object.

    Raises:
        ValueError: ``SAGITTAL_OPS`` or ``SAGITTAL_CUDA`` has another value.
        NativeUnavailableError: The mode that was asked for is not available.
    """
    global _info
    if _info is None:
        _info = _resolve()
    return _info


def native_call_count() -> int:
    """How many operator calls compiled CPU kernels have served in this process."""
    return 0 if load().mode == "reference" else int(torch.ops.sagittal._native_call_count())


def _resolve() -> BackendInfo:
    from sagittal_core.ops import _build

    wanted = os.environ.get("SAGITTAL_OPS", "auto")
    if wanted not in _MODES:
        raise ValueError(f"SAGITTAL_OPS must be one of {', '.join(_MODES)}; got {wanted!r}")
    failures: list[str] = []
    finders = {"aot": _build.find_installed, "jit": _build.find_or_build}
    for mode, find in finders.items():
        if wanted not in ("auto", mode):
            continue
        try:
            path = find()
        except _build.Unavailable as why:
            failures.append(f"{mode}: {why}")
            continue
        torch.ops.load_library(path)
        isa = ("portable", "avx2", "avx512")[int(torch.ops.sagittal._cpu_isa())]
        reason = "; ".join(failures) or f"SAGITTAL_OPS={wanted}"
        return BackendInfo(mode, reason, path, isa, _build.compiler(), *_load_cuda(mode))
    reason = "; ".join(failures) or "SAGITTAL_OPS=reference"
    required = os.environ.get("SAGITTAL_REQUIRE_NATIVE") == "1"
    fix = (
        "Install them from a checkout with `pip install --no-build-isolation --no-deps .`, "
        "or install g++ and ninja so that they are built on first use."
    )
    if required or wanted in ("aot", "jit"):
        raise NativeUnavailableError(f"no compiled kernels ({reason}). {fix}")
    if wanted == "auto":
        warnings.warn(
            f"sagittal_core.ops runs its slow plain-torch reference ({reason}). {fix} "
            "SAGITTAL_OPS=reference silences this.",
            RuntimeWarning,
            stacklevel=4,
        )
    no_cuda = "the reference runs"
    return BackendInfo("reference", reason, None, None, _build.compiler(), False, no_cuda)


def _load_cuda(mode: str) -> tuple[bool, str]:
    """Load the CUDA kernels that go with those of ``mode``; whether and why."""
    from sagittal_core.ops import _build

    wanted = os.environ.get("SAGITTAL_CUDA", "auto")
    if wanted not in ("auto", "0", "1"):
        raise ValueError(f"SAGITTAL_CUDA must be 0, 1 or auto; got {wanted!r}")
    if wanted == "0":
        return False, "SAGITTAL_CUDA=0"
    try:
        if TorchVersion(torch.__version__) < "2.13":
            raise _build.Unavailable(f"they need torch >= 2.13, found {torch.__version__}")
        path = _build.find_installed("_C_cuda") if mode == "aot" else _build.find_or_build_cuda()
        try:
            torch.ops.load_library(path)
        except OSError as error:
            raise _build.Unavailable(f"{path} does not load: {error}") from error
    except _build.Unavailable as why:
        if wanted == "1":
            raise NativeUnavailableError(f"no CUDA kernels: {why}") from why
        return False, str(why)
    return True, path


def note_reference_call(name: str, args: tuple[Any, ...]) -> None:
    """Called by every reference kernel: make a CUDA tensor on the reference visible.

    Raises:
        NativeUnavailableError: The tensors are on a device that has no compiled kernel and
            ``SAGITTAL_REQUIRE_NATIVE=1``.
    """
    device = next(a.device for a in args if isinstance(a, torch.Tensor))
    if device.type == "cpu" or name in _warned:
        return
    message = f"sagittal::{name} has no compiled {device.type} kernel here; it runs in plain torch"
    if os.environ.get("SAGITTAL_REQUIRE_NATIVE") == "1":
        raise NativeUnavailableError(message)
    _warned.add(name)
    warnings.warn(message, RuntimeWarning, stacklevel=2)
