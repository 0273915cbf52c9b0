"""Locates the installed kernels and builds those of a checkout."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from sagittal_core.ops._library import ABI_VERSION

log = logging.getLogger(__name__)

_MARKER = re.compile(rb"sagittal_kernels_abi=(\d+);")


class Unavailable(Exception):
    """Why one way of getting compiled kernels does not work here."""


def find_installed(module: str = "_C_cpu") -> str:
    """Path of the installed ``sagittal_kernels._C_cpu`` or ``_C_cuda``.

    Raises:
        Unavailable: It is not installed, or was built for other schemas.
    """
    try:
        spec = importlib.util.find_spec(f"sagittal_kernels.{module}")
    except ModuleNotFoundError:
        raise Unavailable("sagittal_kernels is not installed") from None
    if spec is None or spec.origin is None:
        raise Unavailable(f"sagittal_kernels is installed without {module}")
    return _check_abi(Path(spec.origin))


def _check_abi(path: Path) -> str:
    # Read from the file: once it is loaded, its kernels are registered and can't be taken back.
    found = _MARKER.search(path.read_bytes())
    number = found.group(1).decode() if found else "none"
    if number != str(ABI_VERSION):
        raise Unavailable(
            f"{path} has ABI number {number}, sagittal_core expects {ABI_VERSION}; reinstall it"
        )
    return str(path)


@lru_cache(maxsize=1)
def compiler() -> str | None:
    """First line of ``c++ --version``, None if there is no compiler."""
    command = os.environ.get("CXX", "c++").split()
    if shutil.which(command[0]) is None:
        return None
    run = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    return run.stdout.splitlines()[0] if run.stdout else None


def _csrc() -> Path:
    for parent in Path(__file__).resolve().parents:
        if (parent / "csrc" / "build_config.py").is_file():
            return parent / "csrc"
    raise Unavailable("no checkout with csrc/ around sagittal_core")


def _build_config(csrc: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "_sagittal_build_config", csrc / "build_config.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def find_or_build() -> str:
    """Path of a library built from the checkout, cached by its sources, flags and torch version.

    Raises:
        Unavailable: There is no checkout, no compiler, no ninja, or the build failed.
    """
    csrc = _csrc()
    config = _build_config(csrc)
    made_by = (config.CXX_FLAGS, torch.__version__, compiler())
    library = _cached(csrc, made_by, (".cpp", ".h", ".py"), "sagittal_cpu.so")
    if not library.exists():
        if compiler() is None:
            raise Unavailable("no C++ compiler")
        _build_locked(csrc, library, lambda work: _compile(csrc.parent, config, work))
    return _check_abi(library)


def find_or_build_cuda() -> str:
    """The same of the CUDA kernels, for the GPUs here unless TORCH_CUDA_ARCH_LIST names others.

    Raises:
        Unavailable: No GPU and no SAGITTAL_CUDA=1, no checkout, no nvcc, or the build failed.
    """
    csrc = _csrc()
    config = _build_config(csrc)
    if not torch.cuda.is_available() and os.environ.get("SAGITTAL_CUDA") != "1":
        raise Unavailable("no CUDA device to compile for")
    if config.nvcc() is None:
        raise Unavailable("nvcc is neither in CUDA_HOME nor on PATH")
    here = [torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())]
    found = ";".join(f"{major}.{minor}" for major, minor in sorted(set(here)))
    codes = os.environ.get("TORCH_CUDA_ARCH_LIST", found or config.CUDA_ARCHITECTURES)
    made_by = (config.CUDA_FLAGS, torch.__version__, config.nvcc(), codes)
    library = _cached(csrc, made_by, (".cpp", ".cu", ".cuh", ".h", ".py"), "sagittal_cuda.so")

    def build(work: Path) -> Path:
        try:
            config.build_cuda(csrc.parent, work / library.name, Path(torch.__file__).parent, codes)
        except (RuntimeError, ValueError, OSError) as error:
            raise Unavailable(f"the build failed: {str(error)[-2000:]}") from error
        return work / library.name

    if not library.exists():
        _build_locked(csrc, library, build)
    return _check_abi(library)


def _cached(csrc: Path, made_by: tuple[Any, ...], suffixes: tuple[str, ...], name: str) -> Path:
    """Where a library of these sources and flags stands once it is built."""
    digest = hashlib.sha256(repr(made_by).encode())
    for path in sorted(csrc.rglob("*")):
        if path.suffix in suffixes:
            digest.update(path.read_bytes())
    return _cache_root() / f"sagittal_kernels_{digest.hexdigest()[:16]}" / name


def _cache_root() -> Path:
    root = os.environ.get("TORCH_EXTENSIONS_DIR")
    if root:
        return Path(root)
    cache = os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")
    python = f"py{sys.version_info.major}{sys.version_info.minor}"
    return Path(cache) / "torch_extensions" / f"{python}_sagittal"


def _build_locked(csrc: Path, library: Path, compile_in: Callable[[Path], Path]) -> None:
    import fcntl

    library.parent.mkdir(parents=True, exist_ok=True)
    # The kernel drops this lock when its holder dies, unlike the lock file of cpp_extension.
    with (library.parent / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if library.exists():
            return
        log.warning("compiling %s from %s, once (about a minute)", library.stem, csrc)
        with tempfile.TemporaryDirectory(dir=library.parent) as work:
            built = compile_in(Path(work))
            built.replace(library)  # atomic: nobody loads half a library


def _compile(root: Path, config: ModuleType, work: Path) -> Path:
    from torch.utils import cpp_extension

    # ninja's console script may stand in a venv that is not activated.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    try:
        cpp_extension.load(
            name="sagittal_cpu",
            sources=[str(root / source) for source in config.CPU_SOURCES],
            extra_cflags=config.CXX_FLAGS,
            extra_ldflags=config.LINK_FLAGS,
            build_directory=str(work),
            is_python_module=False,
            is_standalone=False,
            verbose=False,
        )
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
        raise Unavailable(f"the build failed: {str(error)[-2000:]}") from error
    return work / "sagittal_cpu.so"
